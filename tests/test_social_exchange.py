"""Social sites and hotspot checks, with a real mitmdump."""

from __future__ import annotations

import contextlib
import itertools
import re
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest

from tests import bodies, camera, social
from tests.camera import Heard
from tests.mitmdump import Proxy, addon_script, eventually
from tests.smtp_servers import Mail, MailServer
from tests.social import MODEL, SocialCamera
from tests.test_delivery import UPLOAD_ID, outbox, read
from tests.upstream import web_server

ACCEPTED = '<Response Status="succ" />'
ANNOUNCED = re.compile(
    r'<Response HostAddr="snsgw\.samsungmobile\.com:80" ResourceID="upload/([\w-]+)" />'
)

USER = "camera@example.net"
PASSWORD = "correct horse&battery+stäple"
PHOTO = bodies.jpeg(50_000)

addresses = itertools.count(0x7F000201)  # 127.0.2.1


def new_address() -> str:
    """A loopback address that no camera has used yet."""
    return ".".join(str(byte) for byte in next(addresses).to_bytes(4, "big"))


def login_reply(key: str, name: str) -> str:
    return (
        f'<Response SessionKey="{key}">\n'
        '<PersistKey Value=""/>\n'
        f'<CryptSessionKey Value="{key}"/>\n'
        f'<LoginPeopleID="{name}"/>\n'
        '<OAuth URL="http://snsgw.samsungmobile.com/oauth"/>\n'
        "</Response>"
    )


# Hotspot checks

GLD = "gld.samsungosp.com"
CHECKS = {
    "www.yahoo.co.kr": ("http://yahoo.com", "YAHOO!", ".yahoo.co.kr"),
    "www.msn.com": ("http://msn.com", "MSN", ".msn.com"),
}


def kind(heard: Heard, host: str) -> str:
    """Which of its two replies a check of this host got. All details of it are checked."""
    location, text, domain = CHECKS[host]
    lines = heard.head.split("\r\n")
    if heard.status == 302:
        assert lines[0] == "HTTP/1.1 302 FOUND"
        assert f"Location: {location}" in lines
        assert "Set-Cookie" not in heard.headers
        assert heard.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "<" in heard.body
        assert len(heard.body) < 1000
        return "redirect"
    assert lines[0] == "HTTP/1.1 200 OK"
    assert f"Set-Cookie: samsung=hotspot; Domain={domain}; Path=/" in lines
    assert "Location" not in heard.headers
    assert heard.body == text
    return "cookie"


EMAIL = bodies.request(bodies.body([("MAILED.JPG", bodies.jpeg(5000))]))
GOES_ON = {"login": social.auth("facebook", social.login(USER, PASSWORD)), "email": EMAIL}


@pytest.mark.parametrize(
    ("host", "then"), [*zip(CHECKS, GOES_ON.values(), strict=True)], ids=GOES_ON
)
def test_an_answer_that_works_is_repeated(shared: Proxy, host: str, then: bytes) -> None:
    """A client that continues after its check gets the same reply the next time."""
    ours, theirs = (SocialCamera(shared.port, source=new_address()) for _ in range(2))

    assert kind(theirs.check(host), host) == "redirect"
    assert kind(ours.check(host), host) == "redirect"
    assert kind(ours.check(host), host) == "cookie"
    assert ours.send(then).status == 200
    assert kind(ours.check(host), host) == "cookie"
    assert ours.send(then).status == 200
    assert kind(ours.check(host), host) == "cookie"
    assert kind(ours.check(host), host) == "redirect"
    assert ours.send(then).status == 200
    assert kind(ours.check(host), host) == "redirect"
    assert kind(theirs.check(host), host) == "cookie"


def test_what_else_is_asked_of_these_hosts_passes(folder: Path) -> None:
    """Only GET / of www.msn.com and www.yahoo.co.kr is answered; other requests are passed on."""
    with web_server() as (port, received):
        script = addon_script(
            folder,
            "nx_addon.network.is_inside = lambda host: False",
            "class AllServersHere:",
            f"    def server_connect(self, data): data.server.address = ('127.0.0.1', {port})",
            "addons = [*addons, AllServersHere()]",
        )
        with Proxy(folder, script=script) as proxy:
            for host, (method, path) in itertools.product(
                CHECKS, [("GET", "/x"), ("GET", "/index.html"), ("POST", "/"), ("PUT", "/")]
            ):
                request = social.request(method, path, b"", host=host)
                assert camera.send(proxy.port, request).body == "secret"
                assert received.pop().startswith(f"{method} {path} HTTP/1.1\r\n".encode())


# Routes and mail

FRIEND = "me@example.org"
ROUTES = (f"facebook=mail:{FRIEND}", "facebook=save")


def photo(number: int) -> bytes:
    return bodies.jpeg(20_000 + number, number)


def options(server: MailServer) -> list[str]:
    settings = [
        f"nx_smtp=smtp://{server.host}:{server.port}",
        "nx_senders=*@example.net",
        *(f"nx_route={rule}" for rule in ROUTES),
    ]
    return [word for setting in settings for word in ("--set", setting)]


def photos_in(mail: Mail) -> list[tuple[str | None, bytes]]:
    return [
        (part.get_filename(), part.get_content()) for part in read(mail.content).iter_attachments()
    ]


def delivered(proxy: Proxy) -> bool:
    return outbox(proxy) == "no pending deliveries\n"


def test_a_whole_exchange(folder: Path) -> None:
    """A session survives a crash between two photos; each file is saved and mailed once."""
    files = {f"SAM_{i}.JPG": photo(i) for i in (1, 2, 3, 5)} | {"SAM_4.MP4": social.mp4(400_000)}
    with MailServer() as server:
        # No post is mailed before the test retries it.
        script = addon_script(folder, "import nxparse.store.spool; nxparse.store.spool.QUIET = 600")
        with Proxy(folder, *options(server), script=script) as proxy:
            client = SocialCamera(proxy.port, source=new_address())
            assert client.check(GLD).status == 200
            heard = client.login("facebook", USER, PASSWORD)
            assert heard.body == login_reply(client.key, USER)
            heard = client.photo("facebook", "SAM_1.JPG", "Beach", MODEL, files["SAM_1.JPG"])
            assert heard.body == ACCEPTED
            proxy.kill()
        with Proxy(folder, *options(server), script=script) as proxy:
            client.port = proxy.port
            for name in ("SAM_2.JPG", "SAM_3.JPG"):
                body = social.photo(client.key, name, "Beach")
                heard = client.send(social.announce("facebook", "photo", body))
                assert ANNOUNCED.fullmatch(heard.body)
                resource = social.resource_id(heard.body)
                assert client.put(resource, files[name]).body == ACCEPTED
                proxy.wait_for(f"saved as .*{name}")
            assert client.put(resource, files["SAM_3.JPG"]).body == ACCEPTED
            heard = client.video("facebook", "SAM_4.MP4", "Waves", "Travel", files["SAM_4.MP4"])
            assert heard.body == ACCEPTED
            client.photo("facebook", "SAM_5.JPG", "Beach", "NX500", files["SAM_5.JPG"])
            assert client.logout("facebook").body == "Logged out for real!"

            assert server.mails == []
            for id in {*re.findall(UPLOAD_ID, outbox(proxy))}:
                outbox(proxy, "retry", id)
            server.wait(3)
            eventually(partial(delivered, proxy), "all is delivered")
            assert proxy.saved() == files
            assert "Traceback" not in proxy.log
    groups = [["SAM_1.JPG", "SAM_2.JPG", "SAM_3.JPG"], ["SAM_4.MP4"], ["SAM_5.JPG"]]
    found = sorted(photos_in(mail) for mail in server.mails)
    assert found == [[(name, files[name]) for name in group] for group in groups]
    subjects = {photos_in(mail)[0][0]: read(mail.content)["Subject"] for mail in server.mails}
    assert subjects["SAM_1.JPG"] == "facebook: NX300"
    assert subjects["SAM_5.JPG"] == "facebook: NX500"
    mail = server.mails[0]
    assert (mail.sender, mail.recipients) == (USER, (FRIEND,))


# Secrets


def test_passwords_are_not_stored(folder: Path) -> None:
    """No log and no file contains the password of a login, in clear or encrypted."""
    clear, encrypted = social.login_qf30(USER, PASSWORD), social.login(USER, PASSWORD)
    key = social.base64_of(social.CRYPT_SESSION_KEY).encode()
    logins = {
        "aes": social.auth("facebook", encrypted),
        "qf30": social.auth("facebook", clear),
        "sender-not-allowed": social.auth("facebook", social.login_qf30("eve", PASSWORD)),
        "oauth-site": social.auth("flickr", clear),
        "malformed": social.auth("facebook", clear[:-20] + b"<<"),
        "unreadable": social.auth("facebook", encrypted.replace(key, b"AAAA")),
        "doctype": social.auth("facebook", b"<!DOCTYPE x>" + clear),
        "too-large": social.auth("facebook", clear.ljust(64 * 1024 + 1)),
        "unknown-site": social.auth("myspace", clear),
        "unknown-site-aes": social.auth("myspace", encrypted),
        "allshare": social.allshare(USER, PASSWORD),
    }
    cipher = social.base64_of(social.encrypt(PASSWORD.encode()))
    secrets = [
        PASSWORD,
        quote(PASSWORD),
        quote(PASSWORD, ""),
        "correct horse",
        "stäple",
        social.base64_of(PASSWORD.encode()),
        PASSWORD.encode().hex(),
        cipher,
        quote(cipher, ""),
    ]
    with Proxy(folder, "--set", "nx_senders=*@example.net") as proxy:
        client = SocialCamera(proxy.port)
        statuses = {name: client.send(request).status for name, request in logins.items()}
        client.login("facebook", USER, PASSWORD)
        client.photo("facebook", "SAM_1.JPG", "", MODEL, PHOTO)
        proxy.wait_for("saved as .*SAM_1.JPG")
        everything = [proxy.log.encode()]
        for path in folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                everything.append(path.read_bytes())

    assert statuses.pop("malformed") in {200, 400, 401}
    assert statuses.pop("doctype") in {400, 401}
    assert statuses.pop("too-large") in {400, 401, 413}
    assert statuses == {
        "aes": 200,
        "qf30": 200,
        "sender-not-allowed": 401,
        "oauth-site": 200,
        "unreadable": 401,
        "unknown-site": 404,
        "unknown-site-aes": 404,
        "allshare": 401,
    }
    assert any(PHOTO in one for one in everything)
    assert [one for one in secrets if one.encode() in b"".join(everything)] == []
    assert client.key.encode() not in everything[0]

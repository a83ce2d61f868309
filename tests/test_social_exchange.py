"""Social sites and hotspot checks, with a real mitmdump."""

from __future__ import annotations

import contextlib
import itertools
import re
from pathlib import Path
from urllib.parse import quote

import pytest

from tests import bodies, camera, social
from tests.camera import Reply
from tests.mitmdump import Proxy, addon_script, eventually
from tests.smtp_servers import MailServer
from tests.social import MODEL, SocialCamera
from tests.test_delivery import UPLOAD_ID, attached, is_idle, outbox, read
from tests.upstream import web_server

USER = "camera@example.net"
FRIEND = "me@example.org"
PASSWORD = "correct horse&battery+stäple"
PHOTO = bodies.jpeg(50_000)

addresses = itertools.count(0x7F000201)  # 127.0.2.1


def new_address() -> str:
    """A loopback address that no camera has used yet."""
    return ".".join(str(byte) for byte in next(addresses).to_bytes(4, "big"))


# Hotspot checks

GLD = "gld.samsungosp.com"
CHECKS = {
    "www.yahoo.co.kr": ("http://yahoo.com", "YAHOO!", ".yahoo.co.kr"),
    "www.msn.com": ("http://msn.com", "MSN", ".msn.com"),
}


def kind(reply: Reply, host: str) -> str:
    """Return which of its two replies a check of this host got, after checking all details."""
    location, text, domain = CHECKS[host]
    lines = reply.head.split("\r\n")
    if reply.status == 302:
        assert lines[0] == "HTTP/1.1 302 FOUND"
        assert f"Location: {location}" in lines
        assert "Set-Cookie" not in reply.headers
        assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "<" in reply.body
        assert len(reply.body) < 1000
        return "redirect"
    assert lines[0] == "HTTP/1.1 200 OK"
    assert f"Set-Cookie: samsung=hotspot; Domain={domain}; Path=/" in lines
    assert "Location" not in reply.headers
    assert reply.body == text
    return "cookie"


EMAIL = bodies.request(bodies.body([("MAILED.JPG", bodies.jpeg(5000))]))
NEXT_REQUESTS = {"login": social.auth("facebook", social.login(USER, PASSWORD)), "email": EMAIL}


@pytest.mark.parametrize(
    ("host", "then"), [*zip(CHECKS, NEXT_REQUESTS.values(), strict=True)], ids=NEXT_REQUESTS
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


def test_other_requests_to_these_hosts_pass(folder: Path) -> None:
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
                head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n"
                assert received.pop().startswith(head.encode())


# Whole uploads


def test_a_whole_exchange(folder: Path) -> None:
    """A session survives a crash between two photos; each file is saved and mailed once."""
    files = {f"SAM_{i}.JPG": bodies.jpeg(20_000 + i, i) for i in (1, 2, 3, 5)}
    files["SAM_4.MP4"] = social.mp4(400_000)
    with MailServer() as server:
        rules = (f"nx_route=facebook=mail:{FRIEND}", "nx_route=facebook=save")
        sending = (f"nx_smtp=smtp://{server.host}:{server.port}", "nx_senders=*@example.net")
        options = [f"--set={one}" for one in (*rules, *sending)]
        # No post is mailed before the test retries it.
        script = addon_script(folder, "import nxparse.store.spool; nxparse.store.spool.QUIET = 600")
        with Proxy(folder, *options, script=script) as proxy:
            client = SocialCamera(proxy.port, source=new_address())
            assert client.check(GLD).status == 200
            reply = client.login("facebook", USER, PASSWORD)
            assert social.people_id(reply.body) == USER
            reply = client.photo("facebook", "SAM_1.JPG", "Beach", MODEL, files["SAM_1.JPG"])
            assert reply.body == camera.ACCEPTED
            proxy.kill()
        with Proxy(folder, *options, script=script) as proxy:
            client.port = proxy.port
            for name in ("SAM_2.JPG", "SAM_3.JPG"):
                body = social.photo(client.key, name, "Beach")
                resource = client.announce("facebook", "photo", body)
                assert client.put(resource, files[name]).body == camera.ACCEPTED
                proxy.wait_for(f"saved as .*{name}")
            assert client.put(resource, files["SAM_3.JPG"]).body == camera.ACCEPTED
            reply = client.video("facebook", "SAM_4.MP4", "Waves", "Travel", files["SAM_4.MP4"])
            assert reply.body == camera.ACCEPTED
            client.photo("facebook", "SAM_5.JPG", "Beach", "NX500", files["SAM_5.JPG"])
            assert client.logout("facebook").body == "Logged out for real!"

            assert server.mails == []
            for id in {*re.findall(UPLOAD_ID, outbox(proxy))}:
                outbox(proxy, "retry", id)
            server.wait(3)
            eventually(lambda: is_idle(proxy), "all is delivered")
            assert proxy.saved() == files
            assert "Traceback" not in proxy.log
    found = {read(mail.content)["Subject"]: list(attached(mail.content)) for mail in server.mails}
    assert found == {
        "facebook: NX300": ["SAM_1.JPG", "SAM_2.JPG", "SAM_3.JPG"],
        "facebook": ["SAM_4.MP4"],
        "facebook: NX500": ["SAM_5.JPG"],
    }
    photos = [one for mail in server.mails for one in attached(mail.content).items()]
    assert sorted(photos) == sorted(files.items())
    assert {(mail.sender, mail.recipients) for mail in server.mails} == {(USER, (FRIEND,))}


# Secrets


def test_passwords_are_not_stored(folder: Path) -> None:
    """No log and no file contains the password of a login, in clear or encrypted, or its key."""
    clear, encrypted = social.login_qf30(USER, PASSWORD), social.login(USER, PASSWORD)
    key = social.base64_of(social.CRYPT_SESSION_KEY).encode()
    logins = {
        "aes": (social.auth("facebook", encrypted), 200),
        "qf30": (social.auth("facebook", clear), 200),
        "sender not allowed": (social.auth("facebook", social.login_qf30("eve", PASSWORD)), 401),
        "site with a login page": (social.auth("flickr", clear), 200),
        "malformed": (social.auth("facebook", clear[:-20] + b"<<"), 200),
        "unreadable": (social.auth("facebook", encrypted.replace(key, b"AAAA")), 401),
        "doctype": (social.auth("facebook", b"<!DOCTYPE x>" + clear), 400),
        "too large": (social.auth("facebook", clear.ljust(64 * 1024 + 1)), 413),
        "unknown site": (social.auth("myspace", clear), 404),
        "unknown site, aes": (social.auth("myspace", encrypted), 404),
        "allshare": (social.allshare(USER, PASSWORD), 401),
    }
    ciphers = [social.base64_of(social.encrypt(one.encode())) for one in (USER, PASSWORD)]
    secrets = [PASSWORD, quote(PASSWORD), quote(PASSWORD, ""), "correct horse", "stäple"]
    secrets += [social.base64_of(PASSWORD.encode()), PASSWORD.encode().hex(), key.decode()]
    secrets += [*ciphers, *(quote(one, "") for one in ciphers)]
    with Proxy(folder, "--set", "nx_senders=*@example.net") as proxy:
        client = SocialCamera(proxy.port)
        for name, (request, status) in logins.items():
            assert client.send(request).status == status, name
        client.login("facebook", USER, PASSWORD)
        client.photo("facebook", "SAM_1.JPG", "", MODEL, PHOTO)
        proxy.wait_for("saved as .*SAM_1.JPG")
        everything = [proxy.log.encode()]
        for path in folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                everything.append(path.read_bytes())
    assert any(PHOTO in one for one in everything)
    assert [one for one in secrets if one.encode() in b"".join(everything)] == []
    assert client.key.encode() not in everything[0]

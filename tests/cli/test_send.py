from __future__ import annotations

import argparse
import base64
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from urllib.parse import unquote

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from nxparse.cli import send
from nxparse.cli.send import ANSWER, Place, places
from nxparse.proxy.advice import UNUSED_ADDRESS, dnsmasq, rule
from nxparse.server import hotspot, social
from nxparse.server.reply import ACCEPTED, Reply, refusal
from tests import bodies
from tests.mitmdump import ROOT, Proxy, free_port
from tests.social import mp4
from tests.web_servers import Act, Script, WebServer

EMAIL = ("--to", "photos@example.org")
SITE = ("--site", "picasa")
PASSED = "hotspot check: passed"


def run(*arguments: object, timeout: float = ANSWER) -> tuple[int, list[str]]:
    """Return the exit status and the lines printed."""
    parser = argparse.ArgumentParser()
    send.add_arguments(parser)
    given = parser.parse_args([str(one) for one in arguments])
    with redirect_stdout(StringIO()) as printed:
        status = send.run(given, timeout)
    return status, printed.getvalue().splitlines()


def failure(*arguments: object, timeout: float = ANSWER) -> str:
    """Return the last line of a run that fails."""
    status, lines = run(*arguments, timeout=timeout)
    assert status == 1, lines
    return lines[-1]


def raw(reply: Reply) -> bytes:
    """Return a reply of nx_addon as bytes on the wire."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in reply.fields(0))
    return f"HTTP/1.1 {reply.status} {reply.reason}\r\n{fields}\r\n".encode() + reply.body


@pytest.fixture
def sam(tmp_path: Path) -> Path:
    path = tmp_path / "SAM_1.JPG"
    path.write_bytes(bodies.jpeg(300_000))
    return path


# With a running nx_addon


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that accepts two senders, and small uploads."""
    options = [f"--set=nx_senders={one}" for one in ("Camera@samsungcamera.com", "jo@b.org")]
    folder = tmp_path_factory.mktemp("proxy")
    with Proxy(folder, *options, "--set=nx_max_upload=400k") as proxy:
        yield proxy


def test_email(proxy: Proxy, sam: Path) -> None:
    """Each step prints a line, even when the same photo is sent again."""
    here = f"127.0.0.1:{proxy.port}"
    for _ in range(2):
        assert run(sam, *EMAIL, "--via", here) == (
            0,
            [
                f"DNS: not tested, everything goes to port {proxy.port} of 127.0.0.1",
                PASSED,
                "upload of SAM_1.JPG, 300.0 kB: accepted",
                f"delivery: see http://{here}/, or run .venv/bin/python -m nxparse outbox in the "
                "clone there",
            ],
        )
    proxy.wait_for("saved as .*SAM_1.JPG", times=2)
    assert proxy.saved()["SAM_1.JPG"] == sam.read_bytes()


def test_email_and_site(proxy: Proxy, tmp_path: Path) -> None:
    """A social site gets photos and videos one by one, after the e-mail."""
    files = {"SAM_5.JPG": bodies.jpeg(2000, 5), "A & <B>.MP4": mp4(3000)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    status, lines = run(
        *(tmp_path / name for name in files),
        *("--to", "a@b.org", "--to", "c@d.org", "--from", "jo@b.org", "--site", "Facebook"),
        *("--via", f"127.0.0.1:{proxy.port}"),
    )
    assert (status, lines[1:-1]) == (
        0,
        [
            PASSED,
            "upload of SAM_5.JPG, A & <B>.MP4, 5.0 kB: accepted",
            "login to facebook: accepted",
            "announcement of SAM_5.JPG: accepted",
            "upload of SAM_5.JPG, 2.0 kB: accepted",
            "announcement of A & <B>.MP4: accepted",
            "upload of A & <B>.MP4, 3.0 kB: accepted",
            "logout from facebook: accepted",
        ],
    )
    proxy.wait_for("to a@b.org, c@d.org: SAM_5.JPG, ")
    proxy.wait_for(r"saved as .*MP4", times=2)
    saved = proxy.saved()
    assert saved["SAM_5.JPG"] == files["SAM_5.JPG"]
    assert files["A & <B>.MP4"] in saved.values()


WITHOUT_PACKAGES = """
import sys
sys.modules.update(dict.fromkeys(("cryptography", "jinja2", "mitmproxy")))
from nxparse.cli.main import main
sys.exit(main())
"""


def test_without_packages(proxy: Proxy, sam: Path) -> None:
    """An upload by e-mail needs nothing but Python; for a site, the missing package is named."""
    options = ("send", str(sam), *EMAIL, "--site", "facebook", "--via", f"127.0.0.1:{proxy.port}")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGES, *options], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[2:] == [
        "upload of SAM_1.JPG, 300.0 kB: accepted",
        "login to facebook: it needs the package cryptography: use .venv/bin/python",
    ]


LOG = ": see the log of nx_addon"


@pytest.mark.parametrize(
    ("photos", "arguments", "expected"),
    [
        (
            *(1, (*EMAIL, "--from", "Eve <eve@example.org>")),
            "upload of SAM_1.JPG, 300.0 kB: refused (401, Sender not in whitelist)"
            f"{LOG}; the sender was Eve <eve@example.org>, choose another with --from",
        ),
        (
            *(1, (*SITE, "--from", "Eve")),
            f"login to picasa: refused (401, Login failed){LOG}; the sender was Eve, "
            "choose another with --from",
        ),
        (
            *(2, EMAIL),
            f"upload of SAM_1.JPG, SAM_1.JPG, 600.0 kB: refused (413, Larger than 409.6 kB){LOG}",
        ),
    ],
    ids=["sender", "login", "size"],
)
def test_refused(
    proxy: Proxy, sam: Path, photos: int, arguments: tuple[str, ...], expected: str
) -> None:
    """The reason is printed."""
    line = failure(*[sam] * photos, *arguments, "--via", f"127.0.0.1:{proxy.port}")
    assert line == expected


# Causes of failures


GLD = raw(hotspot.GLD)
NGINX = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.24.0\r\nContent-Length: 15\r\n"
    b'ETag: "6501c"\r\n\r\n<h1>Router</h1>'
)
LOGGED_IN = raw(social.logged_in("k" * 32, "Jo"))
UPLOAD_TO = raw(social.upload_to("t"))
SUCCESS = raw(ACCEPTED)

# Exchanges, and the beginning of the line that explains the last one.
CAUSES: dict[str, tuple[Sequence[Script], str]] = {
    "nginx": (
        [NGINX],
        "hotspot check: {} is another server (Server: nginx/1.24.0): if nx_addon should be there, "
        "start nx_addon there; if not, make --via point to nx_addon",
    ),
    "no Server": (
        [b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n"],
        "hotspot check: {} is another server (status 302, no Server): ",
    ),
    "another ETag": (
        [raw(Reply(200, b"200 OK\n", (("etag", '"deadbeef"'),)))],
        "hotspot check: {} is another server (status 200, no Server): ",
    ),
    "another status": (
        [raw(Reply(404, headers=(("ETag", '"deadbeef"'),)))],
        "hotspot check: {} is another server (status 404, no Server): ",
    ),
    "no HTTP": ([b"SSH-2.0-x\r\n"], "hotspot check: {} is another server (no HTTP): "),
    "silence": (
        [[Act.READ, Act.READ_ON]],
        "hotspot check: {} accepts the request but sends no reply for 0.3 s: see its log",
    ),
    "close": (
        [[Act.READ]],
        "hotspot check: {} closes the connection without a reply: see its log; mitmproxy does so "
        "without nx_addon or with connection_strategy=eager",
    ),
    "no reason": (
        [GLD, raw(Reply(500, b'<Response ErrCode="500" />'))],
        "login to picasa: refused (500, no reason given): see the log of nx_addon",
    ),
    "no LoginPeopleID": (
        [GLD, raw(Reply(200, b'<Response SessionKey="k"/>'))],
        "login to picasa: {} is another server (status 200, no Server): ",
    ),
}


@pytest.mark.parametrize(("scripts", "expected"), CAUSES.values(), ids=CAUSES)
def test_causes(sam: Path, scripts: Sequence[Script], expected: str) -> None:
    """Each cause of a failure is explained."""
    with WebServer(*scripts) as server:
        line = failure(sam, *SITE, "--via", f"127.0.0.1:{server.port}", timeout=0.3)
    assert line.startswith(expected.format(f"port {server.port} of 127.0.0.1"))


def test_refused_connection(sam: Path) -> None:
    port = free_port()
    assert failure(sam, *EMAIL, "--via", f"127.0.0.1:{port}") == (
        f"hotspot check: port {port} of 127.0.0.1 refuses connections: start nx_addon there"
    )


def test_mitmproxy_without_the_addon(folder: Path, sam: Path) -> None:
    """The error page of mitmproxy is recognised."""
    script = folder / "empty.py"
    script.touch()
    mode = f"reverse:http://127.0.0.1:{free_port()}@127.0.0.1:0"
    options = ("--mode", mode, "--set", "connection_strategy=lazy")
    proxy = Proxy(folder, *options, script=script)
    proxy.start()
    try:
        via = proxy.wait_for(r" listening at (127.0.0.1:\d+)")[1]
        line = failure(sam, *EMAIL, "--via", via)
    finally:
        proxy.kill()
    assert line.endswith(
        " of 127.0.0.1 is mitmproxy without nx_addon (502 Bad Gateway): start it with "
        "-s nx_addon.py"
    )


LAN, PUBLIC = "10.0.0.1", "3.3.3.3"
START = f"start nx_addon there with --mode regular@80, .*{re.escape(rule(LAN, 8080))}"
ADMITTED = "`tcp dport 8080 ct status dnat accept`"
INTERNET = "is on the Internet, so DNS does not point"


@pytest.mark.parametrize(
    ("cause", "place", "expected"),
    [
        ("refused", Place(PUBLIC), INTERNET),
        ("unreachable", Place(PUBLIC), INTERNET),
        ("closed", Place(PUBLIC), INTERNET),
        ("other server", Place(PUBLIC), INTERNET),
        ("refused", Place(LAN), f"refuses connections: {START}"),
        ("refused", Place(UNUSED_ADDRESS), "start nx_addon on the router .* transparent@8080$"),
        ("other server", Place(LAN), f"if nx_addon should be there, {START}; .* make DNS"),
        (
            *("unreachable", Place(PUBLIC, by_dns=False)),
            rf"cannot be reached \(no route\): .*{re.escape(rule(PUBLIC, 8080))}, .*{ADMITTED}",
        ),
    ],
)
def test_causes_by_address(cause: str, place: Place, expected: str) -> None:
    """A public address means that DNS points elsewhere, unless --via set it."""
    assert re.search(expected, place.explain(cause, reason="no route"))
    assert ADMITTED in (ROOT / "README.md").read_text()


# Replies


def test_reply_before_the_end_of_the_upload(sam: Path) -> None:
    """The reason is printed even if a server refuses an upload and disconnects before its end."""
    sam.write_bytes(bytes(20_000_000))
    refused = [Act.READ_HEAD, raw(refusal(413, "Larger than 1 byte"))]
    with WebServer(GLD, refused) as server:
        line = failure(sam, *EMAIL, "--via", f"127.0.0.1:{server.port}")
    assert "refused (413, Larger than 1 byte)" in line


@pytest.mark.parametrize("length", ["", "Content-Length: 9\r\n"], ids=["no length", "cut"])
def test_reply_without_end(sam: Path, length: str) -> None:
    """A reply is explained even if its body never ends."""
    head = f"HTTP/1.1 200 OK\r\nServer: slow\r\n{length}\r\nx"
    with WebServer([Act.READ, head.encode(), Act.READ_ON]) as server:
        line = failure(sam, *EMAIL, "--via", f"127.0.0.1:{server.port}", timeout=0.3)
    assert "(Server: slow)" in line


def test_secrets(sam: Path) -> None:
    """The password is random, sent only encrypted, and neither it nor the session is printed."""
    passwords = set()
    for _ in range(2):
        with WebServer(GLD, LOGGED_IN, UPLOAD_TO, SUCCESS, raw(social.LOGGED_OUT)) as server:
            status, lines = run(sam, *SITE, "--via", f"127.0.0.1:{server.port}")
        login = server.posts[1].body.decode()
        values = re.findall(r'(?:Password|CryptSessionKey) Value="([^"]+)"', login)
        ciphertext, key = (base64.b64decode(unquote(value)) for value in values)
        cipher = Cipher(algorithms.AES(key[:16]), modes.CBC(key[16:])).decryptor()
        password = cipher.update(ciphertext).rstrip(b"\0")
        passwords.add(password)
        assert status == 0
        assert len(password) >= 12
        assert not any(password in post.body for post in server.posts)
        assert password.decode() not in "\n".join(lines)
        assert "k" * 32 not in "\n".join(lines)
    assert len(passwords) == 2


# DNS


Resolver = Callable[[dict[str, str]], None]


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    """Set the addresses of all names."""

    def answer(names: dict[str, str]) -> None:
        def resolve(host: str, *_: object) -> list[object]:
            if host not in names:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (names[host], 0))]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)

    return answer


def test_names(dns: Resolver, capsys: pytest.CaptureFixture[str]) -> None:
    """Different addresses cause a warning."""
    dns({"a": "10.0.0.1", "b": "10.0.0.2"})
    assert places("ab", None) == {"a": Place("10.0.0.1"), "b": Place("10.0.0.2")}
    assert capsys.readouterr().out.splitlines() == [
        "DNS: a resolves to 10.0.0.1",
        "DNS: b resolves to 10.0.0.2",
        "warning: the addresses differ, but all should be that of nx_addon",
    ]
    places("a", None)
    assert capsys.readouterr().out == "DNS: a resolves to 10.0.0.1\n"


def test_names_without_address(dns: Resolver, sam: Path) -> None:
    """All names without an address are listed, with advice."""
    dns({"gld.samsungosp.com": "10.0.0.1"})
    status, (first, line) = run(sam, *EMAIL, *SITE)
    assert (status, first) == (1, "DNS: gld.samsungosp.com resolves to 10.0.0.1")
    assert line.startswith(
        "DNS: no address for www.ospserver.net and snsgw.samsungmobile.com (Name or service not "
        "known). This is right if only the camera uses nx_addon as its DNS server: then test the "
        "rest with --via ADDRESS"
    )
    assert f"in dnsmasq: {dnsmasq('ADDRESS')};" in line
    assert "--mode dns@53, with a firewall that admits UDP 53, " in line
    # Pi-hole answers 0.0.0.0 for a blocked host; clients connect to themselves then.
    dns({"gld.samsungosp.com": "0.0.0.0", "www.ospserver.net": "0.0.0.0"})
    assert "(0.0.0.0, as for a blocked host). This is right if only the" in failure(sam, *EMAIL)


# Arguments and files


def test_nothing_to_send(tmp_path: Path, sam: Path) -> None:
    """Photos that are missing, empty or folders are refused before anything is sent."""
    nowhere = ("--via", "127.0.0.1:9", *EMAIL)
    missing, empty = tmp_path / "gone.jpg", tmp_path / "empty.jpg"
    empty.touch()
    assert failure(*nowhere) == "there is nothing to send: name photos, before --to"
    assert failure(missing, *nowhere) == f"{missing} cannot be read: No such file or directory"
    assert failure(tmp_path, *nowhere) == f"{tmp_path} cannot be read: Is a directory"
    assert failure(empty, *nowhere) == f"there is nothing to send: {empty} is empty"
    assert failure(sam) == "there is no recipient: name one with --to, or a site with --site"


def test_usage(sam: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Photos come first: after --to they would be recipients. The site must be one of the menu."""
    with pytest.raises(SystemExit):
        run("--help")
    assert " PHOTO... --to ADDRESS... [--from ADDRESS] [" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(sam, "--site", "myspace", "--via", "127.0.0.1:9")
    assert "invalid choice: 'myspace'" in capsys.readouterr().err


@pytest.mark.parametrize("text", [":80", "h:", "h:x", "h:0", "h:70000", "h:-1", "h:²", "::1"])
def test_via_is_wrong(sam: Path, text: str) -> None:
    line = failure(sam, *EMAIL, "--via", text)
    assert line == f"--via {text}: give an address like 192.168.1.2 or 192.168.1.2:8080"


def test_via_without_address(sam: Path, dns: Resolver) -> None:
    line = failure(sam, *EMAIL, "--via", "a" * 70)
    assert line.endswith("a: no address found (not a host name)")
    dns({"pi": "10.0.0.1"})
    assert send.parse_via("pi") == Place("10.0.0.1", 80, by_dns=False)
    line = failure(sam, *EMAIL, "--via", "piano")
    assert line == "--via piano: no address found (Name or service not known)"


def test_odd_file_names(tmp_path: Path) -> None:
    """Characters that would end a header, or are not UTF-8, are replaced."""
    path = tmp_path / 'a"\r\nb.jpg'
    path.write_bytes(b"\xff\xd8\xff")
    assert send.read_photo(path).name == "a___b.jpg"
    odd = os.fsencode(tmp_path) + b"/\xff.jpg"
    with open(odd, "wb") as file:
        file.write(b"?")
    photo = send.read_photo(Path(os.fsdecode(odd)))
    assert (photo.name, photo.content_type) == ("?.jpg", "image/jpeg")

from __future__ import annotations

import argparse
import base64
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import unquote

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from nxparse.cli import send
from nxparse.cli.camera import Photo, Request
from nxparse.cli.send import ANSWER, Place, Received, Sender, SendError
from nxparse.proxy.advice import dnsmasq, rule
from nxparse.server import hotspot, page, social
from nxparse.server.reply import ACCEPTED, Reply, refusal
from tests import bodies
from tests.mitmdump import ROOT, Proxy
from tests.social import mp4

# `python -m nxparse send` in another process, which prints its peak memory in kB at the end.
PROGRAM = """
import argparse, resource, sys
from nxparse.cli import send
parser = argparse.ArgumentParser()
send.add_arguments(parser)
status = send.run(parser.parse_args())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(status)
"""
RECIPIENT = "photos@example.org"
EMAIL = ("--to", RECIPIENT)
MSN = (*EMAIL, "--check", "msn")
SITE = ("--site", "picasa")
PASSED = "hotspot check: passed (200, no body, ETag, nginx), 1 segment"
DELIVERY = "delivery: see the page of nx_addon, or run python -m nxparse outbox where it runs"
DNS = (
    "if only the camera uses the DNS of nx_addon, this is as it should be: test the rest with "
    "--via ADDRESS, the address of nx_addon; if not, make the DNS server of this network answer "
    f"with that address, in dnsmasq: {dnsmasq('ADDRESS')}; or start nx_addon with --mode dns@53 "
    "and enter its address as the DNS server on the camera"
)


def start(address: str) -> str:
    return (
        "start nx_addon there with --mode regular@80, or redirect the port to the one that it "
        f"listens on, for example 8080: {rule([address], 8080)}"
    )


def run(*arguments: object, timeout: float = ANSWER) -> tuple[int, list[str]]:
    """Return the exit status and the lines printed."""
    parser = argparse.ArgumentParser()
    send.add_arguments(parser)
    lines: list[str] = []
    given = parser.parse_args([str(one) for one in arguments])
    return send.run(given, lines.append, timeout), lines


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


def test_email(shared: Proxy, sam: Path) -> None:
    """Each step prints a line, also when the same photo is sent again."""
    for _ in range(2):
        assert run(sam, *EMAIL, "--via", f"127.0.0.1:{shared.port}") == (
            0,
            [
                f"DNS: not tested, everything goes to port {shared.port} of 127.0.0.1",
                PASSED,
                "upload of SAM_1.JPG, 300.0 kB: accepted, 1 segment",
                DELIVERY,
            ],
        )
    shared.wait_for("saved as .*SAM_1.JPG", times=2)
    assert shared.saved()["SAM_1.JPG"] == sam.read_bytes()
    shared.wait_for(
        f"from Camera@samsungcamera.com to {RECIPIENT}: SAM_1.JPG, 300.0 kB; tolerated: "
        "parameter-case, trailing-semicolon, multipart-label, close-delimiter-unmarked, "
        "surplus-newline; "
    )


def test_email_and_site(shared: Proxy, tmp_path: Path) -> None:
    """A social site gets photos and videos one by one, after the e-mail."""
    files = {"SAM_5.JPG": bodies.jpeg(2000, 5), "A & <B>.MP4": mp4(3000)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    status, lines = run(
        *(tmp_path / name for name in files),
        *("--to", "a@b.org", "--to", "c@d.org", "--from", "Jo <jo@b.org>", "--site", "Facebook"),
        *("--via", f"127.0.0.1:{shared.port}"),
    )
    assert (status, lines[1:]) == (
        0,
        [
            PASSED,
            "upload of SAM_5.JPG, A & <B>.MP4, 5.0 kB: accepted, 1 segment",
            "login to facebook: accepted, 1 segment",
            "announcement of SAM_5.JPG: accepted, 1 segment",
            "upload of SAM_5.JPG, 2.0 kB: accepted, 1 segment",
            "announcement of A & <B>.MP4: accepted, 1 segment",
            "upload of A & <B>.MP4, 3.0 kB: accepted, 1 segment",
            "logout from facebook: accepted, 1 segment",
            DELIVERY,
        ],
    )
    shared.wait_for("to a@b.org, c@d.org: SAM_5.JPG, ")
    shared.wait_for(r"saved as .*MP4", times=2)
    saved = shared.saved()
    assert saved["SAM_5.JPG"] == files["SAM_5.JPG"]
    assert files["A & <B>.MP4"] in saved.values()


@pytest.mark.parametrize("name", ["yahoo", "msn"])
def test_yahoo_and_msn(shared: Proxy, sam: Path, name: str) -> None:
    """Both answers to the hotspot check come, in every run."""
    domain = {"yahoo": "yahoo.co.kr", "msn": "msn.com"}[name]
    answers = {f"302 to http://{name}.com", f"200, cookie of .{domain}"}
    for _ in range(3):
        via = ("--via", f"127.0.0.1:{shared.port}")
        status, lines = run(sam, *EMAIL, "--check", name, *via)
        assert status == 0
        pattern = r"hotspot check, try \d: passed \((.*)\), 1 segment"
        assert set(re.findall(pattern, "\n".join(lines[1:3]))) == answers
        assert not any(line.startswith("warning") for line in lines)


# Refusals of a running nx_addon


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that accepts one sender, and small uploads."""
    options = ("--set", "nx_senders=friend@example.org", "--set", "nx_max_upload=100k")
    with Proxy(tmp_path_factory.mktemp("strict"), *options) as proxy:
        yield proxy


SENDERS = "; nx_senders is an option of nx_addon, and --from chooses another sender"
FRIEND = (*EMAIL, "--from", "friend@example.org")
REFUSED: dict[str, tuple[int, int, tuple[str, ...], str]] = {
    "sender": (
        *(500, 1, (*EMAIL, "--from", "Eve <eve@example.org>")),
        "upload of SAM_0.JPG, 500 bytes: refused (401, Sender not in whitelist): eve@example.org "
        f"may not send; to allow it, use --set nx_senders=eve@example.org{SENDERS}",
    ),
    "no sender": (
        *(500, 1, (*EMAIL, "--from", "")),
        "upload of SAM_0.JPG, 500 bytes: refused (401, Sender not in whitelist): (nobody) may not "
        f"send; it names no sender: set one on the camera{SENDERS}",
    ),
    "login": (
        *(500, 1, (*SITE, "--from", "Eve")),
        "login to picasa: refused (401, Login failed): Eve may not send; to allow it, use "
        f"--set nx_senders=Eve{SENDERS}",
    ),
    "size": (
        *(150_000, 2, FRIEND),
        "upload of SAM_0.JPG, SAM_1.JPG, 300.0 kB: refused (413, Larger than 102.4 kB): to allow "
        "it, use --set nx_max_upload=SIZE where nx_addon runs",
    ),
    "parts": (
        *(100, 64, FRIEND),
        "upload of SAM_0.JPG, SAM_1.JPG, SAM_2.JPG, SAM_3.JPG, SAM_4.JPG and 59 more, 6.4 kB: "
        "refused (413, the body has more than 64 parts): see the log of nx_addon",
    ),
}


@pytest.mark.parametrize(("size", "count", "arguments", "expected"), REFUSED.values(), ids=REFUSED)
def test_refused(
    strict: Proxy, tmp_path: Path, size: int, count: int, arguments: tuple[str, ...], expected: str
) -> None:
    """The reason is printed, and the option that allows the upload."""
    photos = [tmp_path / f"SAM_{number}.JPG" for number in range(count)]
    for number, path in enumerate(photos):
        path.write_bytes(bodies.jpeg(size, number))
    line = failure(*photos, *arguments, "--via", f"127.0.0.1:{strict.port}")
    assert re.sub(r" \(at byte \d+\)", "", line) == expected


# Replies of other servers


class Web:
    """A web server on loopback that plays nx_addon or another server.

    It takes one connection for each of `answers`, and then stops listening. An answer consists
    of pieces, each sent as a segment of its own, `pause` seconds apart; None waits until the
    client disconnects. `requests` has the requests received, without bodies if `discard`.
    """

    def __init__(
        self, *answers: tuple[bytes | None, ...], discard: bool = False, pause: float = 0
    ) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.requests: list[bytes] = []
        self._answers = answers
        self._discard = discard
        self._pause = pause
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive(), "there were fewer requests than answers"
        self._listener.close()

    def _run(self) -> None:
        for answer in self._answers:
            connection, _ = self._listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.requests.append(self._request(connection))
                with suppress(ConnectionError):  # the client may disconnect early
                    for piece in answer:
                        time.sleep(self._pause)
                        if piece is None:
                            connection.recv(1)
                        else:
                            connection.sendall(piece)
        self._listener.close()

    def _request(self, connection: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(1 << 16)
        length = re.search(rb"\r\nContent-Length: (\d+)\r\n", data)
        left = int(length[1]) - len(data.partition(b"\r\n\r\n")[2]) if length else 0
        while left:
            piece = connection.recv(1 << 18)
            left -= len(piece)
            data += b"" if self._discard else piece
        return data


GLD = (raw(hotspot.GLD),)
PAGE = (raw(page.render([], 0.0, gallery=False)),)
POOR = (raw(Reply(404, b"no", (("etag", '"deadbeef"'),))),)
NGINX = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.24.0\r\nContent-Length: 15\r\n"
    b'ETag: "6501c"\r\n\r\n<h1>Router</h1>',
)
LIGHTTPD = (b"HTTP/1.0 404 Not Found\r\nserver: lighttpd\x1b[31m\r\n\r\n",)
ANONYMOUS = (b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n",)
SSH = (b"SSH-2.0-OpenSSH_9.6\r\n",)
CLOSES = ()
SILENT = (None,)
ENDLESS = (b"HTTP/1.1 200 OK\r\nServer: Apache\r\n", None)
LOGGED_IN = (raw(social.logged_in("k" * 32, "Jo")),)
UPLOAD_TO = (raw(social.upload_to("t")),)
SUCCESS = (raw(ACCEPTED),)

UPLOAD = "upload of SAM_1.JPG, 300.0 kB: "
LOGIN = "login to picasa: "
NO_REPLY = "{place} accepts the request but sends no reply for 0.3 s: see its log"
CLOSED = "{place} closes the connection without a reply"
LOG = "see the log of nx_addon"
UPDATE = "update nx_addon, and let no other addon change its replies"


def other(server: str) -> str:
    return (
        f"{{place}} is answered by another server ({server}): if nx_addon should be there, start "
        "nx_addon there; if not, make --via lead to nx_addon"
    )


def without(text: str, server: str) -> str:
    return f"the reply does not contain {text}, which a camera searches for; {other(server)}"


Case = tuple[tuple[str, ...], Sequence[tuple[bytes | None, ...]], str]
CAUSES: dict[str, Case] = {
    "nginx": (EMAIL, [NGINX] * 2, "hotspot check: " + other("Server: nginx/1.24.0")),
    "escape": (EMAIL, [LIGHTTPD] * 2, "hotspot check: " + other("Server: lighttpd?[31m")),
    "no Server": (EMAIL, [ANONYMOUS] * 2, "hotspot check: " + other("status 302, no Server")),
    "no HTTP": (EMAIL, [SSH] * 2, "hotspot check: " + other("no HTTP")),
    "no page": (EMAIL, [NGINX], "hotspot check: " + other("Server: nginx/1.24.0")),
    "endless": (EMAIL, [ENDLESS, CLOSES], "hotspot check: " + other("Server: Apache")),
    "silent": (EMAIL, [SILENT], f"hotspot check: {NO_REPLY}"),
    "closed": (
        EMAIL,
        [CLOSES],
        f"hotspot check: {CLOSED}, as mitmproxy does without nx_addon or with "
        "connection_strategy=eager: start it with -s nx_addon.py, and keep the strategy lazy",
    ),
    "bad check": (
        EMAIL,
        [POOR, PAGE],
        "hotspot check: a camera would not accept this answer of nx_addon (its status is 404 "
        'instead of 200, it has a body of 2 bytes, it has no ETag "deadbeef", its Server is not '
        f"nginx): {UPDATE}",
    ),
    "bad check, twice": (
        MSN,
        [NGINX, NGINX, PAGE],
        "hotspot check, try 2: a camera would not accept this answer of nx_addon (its status is "
        f"200): {UPDATE}",
    ),
    "nginx, twice": (MSN, [NGINX] * 3, "hotspot check, try 2: " + other("Server: nginx/1.24.0")),
    "upload closed": (EMAIL, [GLD, CLOSES], f"{UPLOAD}{CLOSED}: {LOG}"),
    "upload silent": (EMAIL, [GLD, SILENT], f"{UPLOAD}{NO_REPLY}"),
    "upload to nginx": (
        EMAIL,
        [GLD, NGINX],
        UPLOAD + without('Status="succ"', "Server: nginx/1.24.0"),
    ),
    "disk full": (
        EMAIL,
        [GLD, (raw(refusal(507, "The disk is full")),)],
        f"{UPLOAD}refused (507, The disk is full): make room in its nx_dir; "
        "the log of nx_addon says where",
    ),
    "no reason": (
        EMAIL,
        [GLD, (raw(Reply(500, b'<Response ErrCode="500" />')),)],
        f"{UPLOAD}refused (500, no reason given): {LOG}",
    ),
    "no name": (
        SITE,
        [GLD, (raw(Reply(200, b'<Response SessionKey="k"/>')),)],
        LOGIN + without('LoginPeopleID="', "status 200, no Server"),
    ),
    "session expired": (
        SITE,
        [GLD, LOGGED_IN, (raw(social.SESSION_EXPIRED),)],
        f"announcement of SAM_1.JPG: refused (401, Session expired): {LOG}",
    ),
    "no resource": (
        SITE,
        [GLD, LOGGED_IN, (raw(Reply(200, b'<Response HostAddr="x:80" />')),)],
        "announcement of SAM_1.JPG: " + without('ResourceID="', "status 200, no Server"),
    ),
    "logout closed": (
        SITE,
        [GLD, LOGGED_IN, UPLOAD_TO, SUCCESS, CLOSES],
        f"logout from picasa: {CLOSED}: {LOG}",
    ),
}


@pytest.mark.parametrize("case", CAUSES.values(), ids=CAUSES)
def test_causes(sam: Path, case: Case) -> None:
    """Each cause of a failure has its sentence."""
    arguments, answers, expected = case
    with Web(*answers) as web:
        line = failure(sam, *arguments, "--via", web.address, timeout=0.3)
    assert line == expected.format(place=f"port {web.port} of 127.0.0.1")


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def test_refused_connection(sam: Path) -> None:
    port = free_port()
    assert failure(sam, *EMAIL, "--via", f"127.0.0.1:{port}") == (
        f"hotspot check: port {port} of 127.0.0.1 refuses connections: start nx_addon there"
    )


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("eager", r"closes the connection without a reply, as mitmproxy does without nx_addon "),
        (
            "lazy",
            r"is a mitmproxy without nx_addon \(HTTP/1.1 502 Bad Gateway\): start it with -s "
            r"nx_addon.py$",
        ),
    ],
)
def test_mitmproxy_without_the_addon(folder: Path, sam: Path, strategy: str, expected: str) -> None:
    """Both ways in which mitmproxy reports that the real server is gone are recognised."""
    script = folder / "empty.py"
    script.touch()
    mode = f"reverse:http://127.0.0.1:{free_port()}@127.0.0.1:0"
    options = ("--mode", mode, "--set", f"connection_strategy={strategy}")
    proxy = Proxy(folder, *options, script=script)
    proxy.start()
    try:
        via = proxy.wait_for(r" listening at (127.0.0.1:\d+)")[1]
        line = failure(sam, *EMAIL, "--via", via)
    finally:
        proxy.kill()
    assert re.match(rf"hotspot check: port \d+ of 127.0.0.1 {expected}", line)


def test_two_segments(sam: Path) -> None:
    """A reply in two segments is a warning, not a failure."""
    head, _, body = raw(ACCEPTED).partition(b"\r\n\r\n")
    with Web(GLD, (head + b"\r\n\r\n", body)) as web:
        status, lines = run(sam, *EMAIL, "--via", web.address)
    assert status == 0
    assert lines[2:4] == [
        "upload of SAM_1.JPG, 300.0 kB: accepted, 2 segments",
        "warning: some cameras read only the first TCP segment of a reply: look for a warning "
        "about segments in the log of nx_addon",
    ]


def test_segments_on_other_systems(sam: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system does not count segments, the upload works without."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with Web(GLD, SUCCESS) as web:
        status, lines = run(sam, *EMAIL, "--via", web.address)
    assert (status, lines[1]) == (0, PASSED.replace("1 segment", "segments unknown"))


@pytest.mark.parametrize("order", [1, -1], ids=["passed last", "passed first"])
def test_one_of_two_checks(sam: Path, order: int) -> None:
    """One good answer of two passes the check, with a warning."""
    answers = [NGINX, (raw(hotspot.YAHOO.redirect),)][::order]
    with Web(*answers, SUCCESS) as web:
        status, lines = run(sam, *EMAIL, "--check", "yahoo", "--via", web.address)
    assert status == 0
    results = [
        "try {}: not passed (200), 1 segment",
        "try {}: passed (302 to http://yahoo.com), 1 segment",
    ][::order]
    assert lines[1:4] == [
        *(f"hotspot check, {line.format(i)}" for i, line in enumerate(results, 1)),
        "warning: some of these cameras need a redirect, others a cookie, and only one of them "
        "came",
    ]


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        ("gld", Reply(200, b"200 OK\n")),
        ("yahoo", hotspot.MSN.redirect),
        ("yahoo", Reply(302, headers=(("Location", "https://yahoo.com"),))),
        ("msn", Reply(200, b"MSN", (("Set-Cookie", "a=b; Domain=msn.com"),))),
    ],
)
def test_bad_answers_to_hotspot_checks(name: str, reply: Reply) -> None:
    assert send.CHECKS[name].accepted(Received(raw(reply))) == ""


def test_reply_before_the_end_of_the_upload(sam: Path) -> None:
    """A server may refuse an upload and disconnect while it arrives; its reason is printed."""
    sam.write_bytes(bytes(20_000_000))
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for answer in (*GLD, raw(refusal(413, "Larger than 1 byte"))):
            connection, _ = listening.accept()
            connection.recv(1 << 16)
            connection.sendall(answer)
            connection.close()  # with unread data: the client gets an RST

    with listening:
        thread = threading.Thread(target=serve)
        thread.start()
        line = failure(sam, *EMAIL, "--via", f"127.0.0.1:{listening.getsockname()[1]}")
        thread.join()
    assert "refused (413, Larger than 1 byte)" in line


def test_end_of_a_reply() -> None:
    """A reply ends by its Content-Length, even if the server keeps the connection."""
    head = b"HTTP/1.1 200 OK\r\ncontent-length:2\r\n"
    for data in (b"", head, head + b"\r\nx", b"HTTP/1.1 200 OK\r\n\r\nxy"):
        assert not Received(data).is_whole
    assert Received(head + b"\r\nxy").is_whole


def test_slow_reply(sam: Path) -> None:
    """The timeout is for the whole reply, not for each byte."""
    dripping = (b"HTTP/1.1 200 OK\r\nServer: slow\r\n", *[b"x"] * 500)
    begin = time.monotonic()
    with Web(dripping, pause=0.02) as web:
        line = failure(sam, *EMAIL, "--via", web.address, timeout=0.3)
        assert time.monotonic() < begin + 5
    assert "(Server: slow)" in line


def test_header_names_have_one_spelling() -> None:
    """The firmware compares header names with case."""
    reply = Received(b'HTTP/1.1 200 OK\r\netag: "x"\r\nServer: nginx\r\n\r\nETag: "y"')
    assert [reply.header(name) for name in ("ETag", "etag", "Server")] == ["", '"x"', "nginx"]


def test_secrets(sam: Path) -> None:
    """The password is random, sent only encrypted, and neither it nor the session is printed."""
    passwords = set()
    for _ in range(2):
        logout = (raw(social.LOGGED_OUT),)
        with Web(GLD, LOGGED_IN, UPLOAD_TO, SUCCESS, logout) as web:
            status, lines = run(sam, *SITE, "--via", web.address)
        values = re.findall(r'(?:Password|CryptSessionKey) Value="([^"]+)"', str(web.requests[1]))
        ciphertext, key = (base64.b64decode(unquote(value)) for value in values)
        cipher = Cipher(algorithms.AES(key[:16]), modes.CBC(key[16:])).decryptor()
        password = cipher.update(ciphertext).rstrip(b"\0")
        passwords.add(password)
        assert status == 0
        assert social.read_announcement(web.requests[2].partition(b"\r\n\r\n")[2]).photos == 1
        assert len(password) >= 12
        assert not any(password in request for request in web.requests)
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


def resolved(*hosts: str) -> list[str]:
    lines: list[str] = []
    try:
        Sender(lines.append).resolve(hosts)
    except SendError as error:
        lines.append(str(error))
    return lines


def test_names(dns: Resolver) -> None:
    """Hosts with the same address share a line; different addresses are a warning."""
    dns({"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.1"})
    assert resolved("a", "c") == ["DNS: a and c resolve to 10.0.0.1"]
    assert resolved("a", "b", "c") == [
        "DNS: a and c resolve to 10.0.0.1",
        "DNS: b resolves to 10.0.0.2",
        "warning: the addresses differ, but all should be that of nx_addon",
    ]


def test_names_without_address(dns: Resolver) -> None:
    """The sentence names all of them, and the lines for dnsmasq and nx_hosts have them too."""
    dns({"gld.samsungosp.com": "10.0.0.1"})
    advice = DNS.replace("/ADDRESS", "/www.msn.com/ADDRESS")
    assert resolved("gld.samsungosp.com", "www.ospserver.net", "www.msn.com") == [
        "DNS: gld.samsungosp.com resolves to 10.0.0.1",
        "DNS: no address for www.ospserver.net and www.msn.com (Name or service not known): "
        + advice.replace("dns@53", "dns@53 --set nx_hosts=www.msn.com"),
    ]


def test_blocked_name(dns: Resolver) -> None:
    """Pi-hole answers 0.0.0.0 for a host that it blocks, which a client takes for itself."""
    dns({"gld.samsungosp.com": "0.0.0.0"})
    assert resolved("gld.samsungosp.com") == [
        f"DNS: no address for gld.samsungosp.com (0.0.0.0, as of a host that is blocked): {DNS}"
    ]


def test_host_of_the_file(dns: Resolver) -> None:
    """A file goes to the host and port in HostAddr, which is looked up if necessary."""
    dns({social.HOST: "10.0.0.1", "files.example": "10.0.0.2"})
    lines: list[str] = []
    sender = Sender(lines.append)
    sender.resolve([social.HOST])
    assert sender.place(f"{social.HOST}:80") == Place(social.HOST, "10.0.0.1")
    assert sender.place("files.example:8080") == Place("files.example", "10.0.0.2", 8080)
    assert sender.place("files.example:99999").port == 80
    assert lines == [
        f"DNS: {social.HOST} resolves to 10.0.0.1",
        "DNS: files.example resolves to 10.0.0.2",
    ]
    with pytest.raises(SendError, match=r"no address for gone\?;x .*nx_hosts='gone\?;x' "):
        sender.place("gone\n;x:80")


INTERNET = f"port 80 of 3.3.3.3 is on the Internet, so DNS does not lead to nx_addon: {DNS}"


@pytest.mark.parametrize(
    ("cause", "place", "expected"),
    [
        *(
            (cause, Place("gld.samsungosp.com", "3.3.3.3"), INTERNET)
            for cause in ("refused", "unreachable", "closed", "other server")
        ),
        (
            *("refused", Place("gld.samsungosp.com", "198.51.100.80")),
            f"port 80 of 198.51.100.80 refuses connections: {start('198.51.100.80')}",
        ),
        (
            *("unreachable", Place("gld.samsungosp.com", "3.3.3.3", by_dns=False)),
            "port 80 of 3.3.3.3 cannot be reached (timed out): nx_addon must run there, in the "
            "same network as this computer, with no firewall between them; if the address belongs "
            "to no machine, the router must redirect it to nx_addon, for example: "
            + rule(["3.3.3.3"], 8080),
        ),
        (
            *("other server", Place("gld.samsungosp.com", "10.0.0.1")),
            "port 80 of 10.0.0.1 is answered by another server (timed out): if nx_addon should be "
            f"there, {start('10.0.0.1')}; if not, make DNS lead to nx_addon",
        ),
    ],
)
def test_causes_by_address(cause: str, place: Place, expected: str) -> None:
    """A public address means that DNS leads elsewhere, unless --via gave it."""
    assert place.explain(cause, reason="timed out") == expected


# Names, addresses and ports of a real network


class House:
    """A network namespace with nothing but loopback, and its own resolver configuration."""

    def __init__(self) -> None:
        self.name = f"nx{os.getpid()}house"
        self.inside = ["ip", "netns", "exec", self.name]
        # `ip netns exec` mounts these over those in /etc.
        self._etc = Path("/etc/netns") / self.name

    def make(self) -> None:
        for command in (
            ["ip", "netns", "add", self.name],
            [*self.inside, "ip", "link", "set", "lo", "up"],
        ):
            subprocess.run(command, check=True, capture_output=True)
        self._etc.mkdir(parents=True)
        (self._etc / "resolv.conf").write_text("nameserver 127.0.0.1\n")

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], check=False, capture_output=True)
        shutil.rmtree(self._etc, ignore_errors=True)

    def run(self, hosts: str, *arguments: object) -> tuple[int, list[str]]:
        """Run `send` with this line in /etc/hosts."""
        (self._etc / "hosts").write_text(f"{hosts}\n")
        command = [*self.inside, sys.executable, "-c", PROGRAM, *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.stderr.strip().isdecimal(), done.stderr
        return done.returncode, done.stdout.splitlines()


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    house = House()
    try:
        house.make()
        yield house
    finally:
        house.remove()


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2"
)
class TestNetwork:
    def test_no_dns(self, house: House, sam: Path) -> None:
        """A DNS server that does not answer is not one that leads elsewhere."""
        assert house.run("", sam, *EMAIL) == (
            1,
            [
                "DNS: no address for gld.samsungosp.com and www.ospserver.net (Temporary failure "
                "in name resolution): the DNS server of this computer does not answer; if it is "
                "nx_addon, start that with --mode dns@53; --via ADDRESS tests the rest"
            ],
        )

    def test_dns_of_the_internet(self, house: House, sam: Path) -> None:
        """Public addresses are recognised as the cause."""
        assert house.run("3.3.3.3 gld.samsungosp.com www.ospserver.net", sam, *EMAIL) == (
            1,
            [
                "DNS: gld.samsungosp.com and www.ospserver.net resolve to 3.3.3.3",
                f"hotspot check: {INTERNET}",
            ],
        )

    def test_no_redirect(self, house: House, sam: Path) -> None:
        """If nothing serves port 80, the rule for it is printed."""
        _, lines = house.run("127.0.0.1 gld.samsungosp.com www.ospserver.net", sam, *EMAIL)
        assert lines[1:] == [
            f"hotspot check: port 80 of 127.0.0.1 refuses connections: {start('127.0.0.1')}"
        ]

    def test_address_of_no_machine(self, house: House, sam: Path) -> None:
        """An address that only the router redirects cannot be reached without it."""
        _, lines = house.run("198.51.100.80 gld.samsungosp.com www.ospserver.net", sam, *EMAIL)
        assert "198.51.100.80 cannot be reached (Network is unreachable): nx_addon" in lines[1]

    def test_everything_works(self, house: House, sam: Path, folder: Path) -> None:
        """DNS, port 80, check and upload work by name, through nx_addon's own DNS."""
        modes = ("--mode", "regular@80", "--mode", "dns@53")
        with Proxy(folder, *modes, before=house.inside) as proxy:
            status, lines = house.run("", sam, *EMAIL, *SITE, "--check", "yahoo")
            assert (status, lines[0], lines[-1]) == (
                0,
                "DNS: www.yahoo.co.kr and www.ospserver.net and snsgw.samsungmobile.com resolve "
                "to 127.0.0.1",
                DELIVERY,
            )
            proxy.wait_for(r"saved as .*SAM_1", times=2)

            status, lines = house.run("127.0.0.2 www.ospserver.net", sam, *EMAIL)
            assert status == 0
            assert lines[1:3] == [
                "DNS: www.ospserver.net resolves to 127.0.0.2",
                "warning: the addresses differ, but all should be that of nx_addon",
            ]


# Arguments and files


def test_nothing_to_send(tmp_path: Path, sam: Path) -> None:
    """Photos that are missing, empty or no files are refused before anything is sent."""
    nowhere = ("--via", "127.0.0.1:9", *EMAIL)
    missing, empty = tmp_path / "gone.jpg", tmp_path / "empty.jpg"
    empty.touch()
    assert failure(*nowhere) == "there is nothing to send: name photos, before --to"
    assert failure(missing, *nowhere) == f"{missing} cannot be read: No such file or directory"
    assert failure(tmp_path, *nowhere) == f"{tmp_path} cannot be sent: it is not a file"
    assert failure(empty, *nowhere) == f"there is nothing to send: {empty} is empty"
    assert failure(sam) == "there is no recipient: name one with --to, or a site with --site"


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """Photos come first: after --to they would be recipients."""
    with pytest.raises(SystemExit):
        run("--help")
    assert " PHOTO... --to ADDRESS... [--from ADDRESS] [" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("site", "name", "expected"),
    [
        ("myspace", "SAM.JPG", "photos to a site named myspace: choose one of cyworld, evernote"),
        ("picasa", "SAM.MP4", "SAM.MP4 to a site named picasa: choose one of facebook, youtube"),
    ],
)
def test_sites(tmp_path: Path, site: str, name: str, expected: str) -> None:
    """A site that the camera's menu does not offer is refused before anything is sent."""
    path = tmp_path / name
    path.write_bytes(mp4(100) if name.endswith("MP4") else bodies.jpeg(100))
    line = failure(path, "--site", site, "--via", "127.0.0.1:9")
    assert line.startswith(f"cameras cannot send {expected}")


@pytest.mark.parametrize("text", [":80", "h:", "h:x", "h:0", "h:70000", "h:-1", "h:²", "::1"])
def test_via_is_wrong(sam: Path, text: str) -> None:
    line = failure(sam, *EMAIL, "--via", text)
    assert line == f"--via {text}: give an address like 192.168.1.2 or 192.168.1.2:8080"


def test_via_without_address(sam: Path, dns: Resolver) -> None:
    line = failure(sam, *EMAIL, "--via", "a" * 70)
    assert line.endswith("a: no address found (not a host name)")
    dns({"pi": "10.0.0.1"})
    assert send.parse_via("pi") == ("10.0.0.1", 80)
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


def test_file_that_changes(tmp_path: Path) -> None:
    """A file that shrinks or disappears while it is sent is named."""
    path = tmp_path / "A.JPG"
    path.write_bytes(bodies.jpeg(1000))
    for photo, expected in (
        (Photo(path, "A.JPG", "image/jpeg", 1001), "^A.JPG, 1.0 kB became shorter"),
        (Photo(path / "x", "B.JPG", "image/jpeg", 1), "^B.JPG, 1 byte cannot be read: Not a dir"),
    ):
        ours, theirs = socket.socketpair()
        with ours, theirs, pytest.raises(SendError, match=expected):
            send.exchange(ours, Request("h", (b"x", photo)), 1)


def test_memory(tmp_path: Path) -> None:
    """A video of 200 MB needs no more memory than a small one."""
    peaks = []
    for size in (1000, 200_000_000):
        path = tmp_path / "SAM.MP4"
        with path.open("wb") as file:
            file.truncate(size)
        with Web(GLD, SUCCESS, discard=True) as web:
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, path, *EMAIL, "--via", web.address],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
        assert done.returncode == 0, (done.stdout, done.stderr)
        peaks.append(int(done.stderr) * 1024)
    assert peaks[1] - peaks[0] < 10_000_000

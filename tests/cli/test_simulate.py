from __future__ import annotations

import argparse
import base64
import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import unquote

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import nxparse
from nxparse.cli import simulate
from nxparse.cli.simulate import Camera, Deliveries, Heard, Photo, Place, RehearsalError
from nxparse.server import hotspot, page
from nxparse.server import social as gateway
from nxparse.server.reply import ACCEPTED, Reply, refusal
from nxparse.store.spool import Spool
from nxparse.upload import Upload
from tests import bodies, social
from tests.mitmdump import ROOT, Proxy
from tests.smtp_servers import MailServer, ScriptedServer

# `python -m nxparse send` in another process, which tells how much memory that took.
PROGRAM = """
import argparse, resource, sys
from nxparse.cli import simulate
parser = argparse.ArgumentParser()
simulate.add_arguments(parser)
status = simulate.run(parser.parse_args())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(status)
"""
SENDER = "Camera@samsungcamera.com"
RECIPIENT = "photos@example.org"
RULE = (
    "nft 'add table ip nx; add chain ip nx prerouting { type nat hook prerouting priority "
    "dstnat; }; add rule ip nx prerouting ip daddr 127.0.0.1 tcp dport 80 redirect to :8080'"
)
DNSMASQ = (
    "address=/gld.samsungosp.com/www.samsungimaging.com/samsungimaging.com/www.ospserver.net"
    "/snsgw.samsungmobile.com/www.yahoo.co.kr/ADDRESS"
)


def rehearsed(*arguments: object) -> tuple[int, list[str]]:
    """The exit status, and the lines."""
    parser = argparse.ArgumentParser()
    simulate.add_arguments(parser)
    lines: list[str] = []
    given = parser.parse_args([str(one) for one in arguments])
    return simulate.run(given, lines.append), lines


def failed(*arguments: object) -> str:
    """The sentence that a rehearsal ends with."""
    status, lines = rehearsed(*arguments)
    assert status == 1, lines
    assert not any("delivery" in line for line in lines[:-1])
    return lines[-1]


def raw(reply: Reply) -> bytes:
    """A reply of nx_addon as it is on the wire."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in reply.fields(0))
    return f"HTTP/1.1 {reply.status} {reply.reason}\r\n{fields}\r\n".encode() + reply.body


@pytest.fixture
def sam(tmp_path: Path) -> Path:
    path = tmp_path / "SAM_1.JPG"
    path.write_bytes(bodies.jpeg(300_000))
    return path


# The right set-up


def test_email(shared: Proxy, sam: Path) -> None:
    """Each step is a line, and the photo is delivered, byte for byte."""
    status, lines = rehearsed(
        sam, "--to", RECIPIENT, "--via", f"127.0.0.1:{shared.port}", "--dir", shared.uploads
    )
    assert (status, lines) == (
        0,
        [
            f"DNS: not tried, everything goes to port {shared.port} of 127.0.0.1",
            "hotspot check: passed (200, no body, ETag, nginx), in one segment",
            "upload of SAM_1.JPG, 300.0 kB: accepted, in one segment",
            f"delivery to {RECIPIENT} by save: done",
        ],
    )
    assert shared.saved()["SAM_1.JPG"] == sam.read_bytes()
    shared.wait_for(
        f"from {SENDER} to {RECIPIENT}: SAM_1.JPG, 300.0 kB; tolerated: parameter-case, "
        "trailing-semicolon, multipart-label, close-delimiter-unmarked, surplus-newline; "
    )


def test_again(shared: Proxy, sam: Path, tmp_path: Path) -> None:
    """The same photo once more is another upload, of which the delivery is told, too."""
    other = tmp_path / "SAM_2.JPG"
    other.write_bytes(bodies.jpeg(700, 2))
    for _ in range(2):
        status, lines = rehearsed(
            *(sam, other, "--from", "Me <me@example.org>", "--to", "a@example.org"),
            *("--to", "b@example.org", "--via", f"127.0.0.1:{shared.port}"),
            *("--dir", shared.uploads),
        )
        assert (status, lines[-2:]) == (
            0,
            [
                "upload of SAM_1.JPG, SAM_2.JPG, 300.7 kB: accepted, in one segment",
                "delivery to a@example.org, b@example.org by save: done",
            ],
        )


def test_site(shared: Proxy, tmp_path: Path) -> None:
    """A social site, with photos and videos; without --dir it says where to look."""
    files = {"SAM_5.JPG": bodies.jpeg(2000, 5), "A & <B>.MP4": social.mp4(3000)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    status, lines = rehearsed(
        *(tmp_path / name for name in files),
        *("--site", "Facebook", "--from", "Jo Doe", "--via", f"127.0.0.1:{shared.port}"),
    )
    assert (status, lines[1:]) == (
        0,
        [
            "hotspot check: passed (200, no body, ETag, nginx), in one segment",
            "login to facebook: accepted, in one segment",
            "announcement of SAM_5.JPG: accepted, in one segment",
            "upload of SAM_5.JPG, 2.0 kB: accepted, in one segment",
            "announcement of A & <B>.MP4: accepted, in one segment",
            "upload of A & <B>.MP4, 3.0 kB: accepted, in one segment",
            "logout from facebook: accepted, in one segment",
            "delivery: to be seen on the machine with nx_addon, "
            "python -m nxparse outbox --dir NX_DIR",
        ],
    )
    shared.wait_for(r"saved as .*MP4")
    saved = shared.saved()
    assert saved["SAM_5.JPG"] == files["SAM_5.JPG"]
    assert files["A & <B>.MP4"] in saved.values()
    shared.wait_for("Jo Doe has logged in to facebook")


def test_both(shared: Proxy, sam: Path) -> None:
    """E-mail and a site, one after the other."""
    status, lines = rehearsed(
        *(sam, "--to", RECIPIENT, "--site", "picasa"),
        *("--via", f"127.0.0.1:{shared.port}", "--dir", shared.uploads),
    )
    assert (status, lines[-2:]) == (
        0,
        [f"delivery to {RECIPIENT} by save: done", "delivery to picasa by save: done"],
    )


@pytest.mark.parametrize("name", ["yahoo", "msn"])
def test_other_checks(shared: Proxy, sam: Path, name: str) -> None:
    """Yahoo and MSN are asked twice, as those cameras do, and again another time."""
    domain = {"yahoo": "yahoo.co.kr", "msn": "msn.com"}[name]
    forms = {f"302 to http://{name}.com", f"200, cookie of .{domain}"}
    for _ in range(3):
        status, lines = rehearsed(
            sam, "--to", RECIPIENT, "--check", name, "--via", f"127.0.0.1:{shared.port}"
        )
        assert status == 0
        tries = [
            re.fullmatch(r"hotspot check, try \d: passed \((.*)\), in one segment", line)
            for line in lines[1:3]
        ]
        assert {found[1] for found in tries if found} == forms
        assert not any(line.startswith("warning") for line in lines)


def test_a_post_by_mail_does_not_wait_for_further_photos(folder: Path, sam: Path) -> None:
    """The caption speaks of as many photos as there are, so the mail goes out at once."""
    with MailServer() as server:
        options = (
            *("--set", f"nx_smtp=smtp://{server.host}:{server.port}"),
            *("--set", "nx_senders=me@example.org"),
            *("--set", "nx_route=facebook=mail:anna@example.org"),
        )
        with Proxy(folder, *options) as proxy:
            status, lines = rehearsed(
                *(sam, "--site", "facebook", "--from", "me@example.org"),
                *("--via", f"127.0.0.1:{proxy.port}", "--dir", proxy.uploads),
            )
        (mail,) = server.wait(1)
    assert (status, lines[-1]) == (0, "delivery to facebook by mail:anna@example.org: done")
    assert mail.recipients == ("anna@example.org",)


# What nx_addon refuses


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that lets one sender in, and small uploads."""
    options = ("--set", "nx_senders=friend@example.org", "--set", "nx_max_upload=100k")
    with Proxy(tmp_path_factory.mktemp("strict"), *options) as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("way", "step"),
    [
        (("--to", RECIPIENT), "upload of SAM_2.JPG, 500 bytes: refused (401, Sender not"),
        (("--site", "picasa"), "login to picasa: refused (401, Login failed"),
    ],
    ids=["email", "site"],
)
def test_sender_refused(strict: Proxy, tmp_path: Path, way: tuple[str, ...], step: str) -> None:
    """Who may not send is told the option that would let him."""
    path = tmp_path / "SAM_2.JPG"
    path.write_bytes(bodies.jpeg(500))
    told = failed(
        path, *way, "--from", "Eve <eve@example.org>", "--via", f"127.0.0.1:{strict.port}"
    )
    assert told.startswith(step)
    assert "may not send" in told
    if "--to" in way:
        assert told.endswith(
            "): eve@example.org may not send; to allow it, use "
            "--set nx_senders=eve@example.org where nx_addon is, or send with --from"
        )


def test_too_large(strict: Proxy, sam: Path) -> None:
    """An upload beyond nx_max_upload is told the option."""
    told = failed(
        *(sam, "--to", RECIPIENT, "--from", "friend@example.org"),
        *("--via", f"127.0.0.1:{strict.port}"),
    )
    assert told == (
        "upload of SAM_1.JPG, 300.0 kB: refused (413, Larger than 102.4 kB): "
        "to allow it, use --set nx_max_upload=SIZE where nx_addon is"
    )


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (
            refusal(507, "The disk is full"),
            "refused (507, The disk is full): make room in its nx_dir; "
            "the log of nx_addon says where",
        ),
        (
            refusal(400, "the body has no part named message"),
            "refused (400, the body has no part named message): see the log of nx_addon",
        ),
        (
            refusal(413, "more than 64 parts"),
            "refused (413, more than 64 parts): see the log of nx_addon",
        ),
        (
            Reply(500, b'<Response ErrCode="500" />'),
            "refused (500, no reason given): see the log of nx_addon",
        ),
        (
            refusal(401, "Session expired"),
            "refused (401, Session expired): see the log of nx_addon",
        ),
    ],
    ids=["disk", "body", "parts", "no reason", "session"],
)
def test_refusals(reply: Reply, told: str) -> None:
    """Each refusal has its reason, out of the comment."""
    assert simulate.refused(Place("h", "10.0.0.1"), Heard(raw(reply)), SENDER) == told


# What does not lead to nx_addon


class Web:
    """A web server on loopback that is no nx_addon: one answer for each connection.

    An answer is pieces, each of which is a segment of its own. With None it
    says nothing as long as the client waits. Without answers left it listens
    no more. `requests` has what came.
    """

    def __init__(self, *answers: tuple[bytes, ...] | None, discard: bool = False) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[bytes] = []
        self._answers = answers
        self._discard = discard
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive(), "not everything was asked for"
        self._listener.close()

    def _run(self) -> None:
        for answer in self._answers:
            connection, _ = self._listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.requests.append(self._request(connection))
                if answer is None:
                    connection.recv(1)
                    continue
                for piece in answer:
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
NGINX = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.24.0\r\nContent-Length: 15\r\n"
    b'ETag: "6501c"\r\n\r\n<h1>Router</h1>',
)


@contextmanager
def bare(folder: Path, *arguments: str) -> Iterator[str]:
    """A mitmdump without the addon; says where it listens."""
    script = folder / "nothing.py"
    script.write_text("")
    proxy = Proxy(folder, *arguments, script=script)
    proxy.start()
    try:
        yield proxy.wait_for(r" listening at (127.0.0.1:\d+)")[1]
    finally:
        proxy.kill()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def test_refused_connection(sam: Path) -> None:
    """Where nothing listens, that is told."""
    port = free_port()
    assert failed(sam, "--to", RECIPIENT, "--via", f"127.0.0.1:{port}") == (
        f"hotspot check: port {port} of 127.0.0.1 refuses connections: start nx_addon there"
    )


def test_mitmproxy_that_closes(folder: Path, sam: Path) -> None:
    """Without the addon mitmproxy connects to dead servers first, and hangs up."""
    with bare(folder, "--mode", f"reverse:http://127.0.0.1:{free_port()}@127.0.0.1:0") as address:
        told = failed(sam, "--to", RECIPIENT, "--via", address)
    assert re.fullmatch(
        r"hotspot check: port \d+ of 127.0.0.1 closes the connection without an answer"
        r"( \(Connection reset by peer\))?, as mitmproxy does without nx_addon, or with "
        r"connection_strategy=eager: start it with -s nx_addon.py, and leave "
        r"connection_strategy alone",
        told,
    )


def test_mitmproxy_without_the_addon(folder: Path, sam: Path) -> None:
    """Its error page is recognised, and what it complains of is told."""
    mode = f"reverse:http://127.0.0.1:{free_port()}@127.0.0.1:0"
    with bare(folder, "--mode", mode, "--set", "connection_strategy=lazy") as address:
        told = failed(sam, "--to", RECIPIENT, "--via", address)
    port = address.partition(":")[2]
    assert told.startswith(
        f"hotspot check: port {port} of 127.0.0.1 is answered by a mitmproxy in which nx_addon "
        f"is not loaded (HTTP/1.1 502 Bad Gateway, "
    )
    assert "Connect call failed" in told
    assert told.endswith("): start it with -s nx_addon.py")


@pytest.mark.parametrize(
    ("answer", "who"),
    [
        (NGINX, "Server: nginx/1.24.0"),
        ((b"HTTP/1.0 404 Not Found\r\nserver: lighttpd\x1b[31m\r\n\r\n",), "Server: lighttpd?[31m"),
        ((b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n",), "status 302, no Server"),
        ((b"SSH-2.0-OpenSSH_9.6\r\n",), "no HTTP"),
    ],
    ids=["nginx", "lighttpd", "anonymous", "ssh"],
)
def test_another_web_server(sam: Path, answer: tuple[bytes, ...], who: str) -> None:
    """What answers in the place of nx_addon is named."""
    with Web(answer, answer) as web:
        told = failed(sam, "--to", RECIPIENT, "--via", web.address)
    assert told.startswith(
        f"hotspot check: port {web.address[10:]} of 127.0.0.1 is answered by something else "
        f"({who}): if nx_addon is to be there, start nx_addon there; if not, let --via lead to it"
    )
    assert [b"Host: gld" in web.requests[0], b"Host: www.samsungimaging.com" in web.requests[1]]


def test_another_web_server_that_goes(sam: Path) -> None:
    """When there is no page of ours to be seen, it is not nx_addon."""
    with Web(NGINX) as web:
        told = failed(sam, "--to", RECIPIENT, "--via", web.address)
    assert "is answered by something else (Server: nginx/1.24.0)" in told


def test_two_segments(sam: Path) -> None:
    """A reply in two segments is a warning, and no failure."""
    head, _, body = raw(ACCEPTED).partition(b"\r\n\r\n")
    with Web(GLD, (head + b"\r\n\r\n", body)) as web:
        status, lines = rehearsed(sam, "--to", RECIPIENT, "--via", web.address)
    assert (status, lines[1:4]) == (
        0,
        [
            "hotspot check: passed (200, no body, ETag, nginx), in one segment",
            "upload of SAM_1.JPG, 300.0 kB: accepted, in 2 segments",
            "warning: some cameras read only the first segment of a reply: look for a warning "
            "about that in the log of nx_addon",
        ],
    )


def test_check_not_good(sam: Path) -> None:
    """If nx_addon is there, what a camera would not like about its answer is told."""
    poor = Reply(404, b"no", (("etag", '"deadbeef"'),))
    with Web((raw(poor),), PAGE) as web:
        told = failed(sam, "--to", RECIPIENT, "--via", web.address)
    assert told == (
        "hotspot check: a camera would not accept the answer of nx_addon: its status is 404 "
        'instead of 200, it has a body, of 2 bytes, it has no ETag "deadbeef", its Server is not '
        "nginx; bring nx_addon up to date, and let no other addon change its replies"
    )


@pytest.mark.parametrize("order", [1, -1], ids=["good last", "good first"])
def test_one_of_two_checks(sam: Path, order: int) -> None:
    """A camera that is not content tries again; of one kind only, that is a warning."""
    answers = [NGINX, (raw(hotspot.YAHOO.redirect),)][::order]
    with Web(*answers, (raw(ACCEPTED),)) as web:
        status, lines = rehearsed(sam, "--to", RECIPIENT, "--check", "yahoo", "--via", web.address)
    assert status == 0
    told = [
        "try {}: not passed (200), in one segment",
        "try {}: passed (302 to http://yahoo.com), in one segment",
    ][::order]
    assert lines[1:4] == [
        *(f"hotspot check, {line.format(i)}" for i, line in enumerate(told, 1)),
        "warning: of these cameras some want a redirect, others a cookie, and only one of them "
        "has come",
    ]


@pytest.mark.parametrize("ours", [False, True])
def test_none_of_two_checks(sam: Path, ours: bool) -> None:
    """After two tries a camera gives up."""
    with Web(NGINX, NGINX, PAGE if ours else NGINX) as web:
        told = failed(sam, "--to", RECIPIENT, "--check", "msn", "--via", web.address)
    assert told.startswith("hotspot check, try 2: ")
    assert ("the answer of nx_addon: its status is 200;" in told) is ours
    assert ("something else (Server: nginx/1.24.0)" in told) is not ours


def test_another_server_takes_the_upload(sam: Path) -> None:
    """A 200 from somebody who does not know cameras is no success."""
    with Web(GLD, NGINX) as web:
        told = failed(sam, "--to", RECIPIENT, "--via", web.address)
    assert told.startswith("upload of SAM_1.JPG, 300.0 kB: port ")
    assert "is answered by something else (Server: nginx/1.24.0)" in told


def test_no_reply_in_time(sam: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence ends, before and behind the check."""
    monkeypatch.setattr(simulate, "ANSWER", 0.2)
    with Web(None) as web:
        told = failed(sam, "--to", RECIPIENT, "--via", web.address)
    port = web.address[10:]
    assert told == (
        f"hotspot check: port {port} of 127.0.0.1 takes the request and then is silent for 0 s, "
        f"and a camera gives up: see the log of whatever listens there"
    )
    with Web(GLD, None) as web:
        told = failed(sam, "--to", RECIPIENT, "--via", web.address)
    assert told.startswith("upload of SAM_1.JPG, 300.0 kB: port ")
    assert told.endswith("gives up: see the log of nx_addon")


def test_a_reply_that_does_not_end(sam: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has come of a reply is looked at nevertheless."""
    monkeypatch.setattr(simulate, "ANSWER", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        told: list[str] = []
        port = listening.getsockname()[1]
        thread = threading.Thread(
            target=lambda: told.append(failed(sam, "--to", RECIPIENT, "--via", f"127.0.0.1:{port}"))
        )
        thread.start()
        connection, _ = listening.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nServer: Apache\r\n")
            other, _ = listening.accept()
            other.close()
            thread.join(30)
    assert "something else (Server: Apache)" in told[0]


def test_a_connection_that_closes_later(sam: Path) -> None:
    """Who was nx_addon a moment ago has something in its log."""
    with Web(GLD, ()) as web:
        told = failed(sam, "--to", RECIPIENT, "--via", web.address)
    assert told.endswith("closes the connection without a reply: see the log of nx_addon")


def test_an_answer_before_the_end(sam: Path, tmp_path: Path) -> None:
    """An upload that is cut off with a reason has that reason told."""
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
        told = failed(sam, "--to", RECIPIENT, "--via", f"127.0.0.1:{listening.getsockname()[1]}")
        thread.join()
    assert "refused (413, Larger than 1 byte)" in told


# Answers of the gateway


def logged_in() -> tuple[bytes]:
    return (raw(gateway.logged_in("k" * 32, "Jo")),)


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([NGINX], "login to picasa: the reply has no SessionKey, which a camera looks for; port "),
        (
            [(raw(Reply(200, b'<Response SessionKey="k"/>')),)],
            "login to picasa: the reply has no LoginPeopleID, ",
        ),
        (
            [logged_in(), (raw(gateway.SESSION_EXPIRED),)],
            "announcement of SAM_1.JPG: refused (401, Session expired)",
        ),
        (
            [logged_in(), (raw(Reply(200, b'<Response HostAddr="x:80" />')),)],
            "announcement of SAM_1.JPG: the reply has no ResourceID, ",
        ),
        (
            [logged_in(), (raw(gateway.upload_to("t")),), (raw(refusal(507, "full")),)],
            "upload of SAM_1.JPG, 300.0 kB: refused (507, full)",
        ),
        (
            [logged_in(), (raw(gateway.upload_to("t")),), (raw(ACCEPTED),), ()],
            "logout from picasa: port ",
        ),
    ],
    ids=["stranger", "no name", "expired", "nowhere", "full", "closed"],
)
def test_gateway_refuses(sam: Path, answers: list[tuple[bytes, ...]], told: str) -> None:
    """Each step of the social gateway can fail."""
    with Web(GLD, *answers) as web:
        assert failed(sam, "--site", "picasa", "--via", web.address).startswith(told)


def test_no_secret_is_told(sam: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The password is made up, goes out encrypted only, and is in no line."""
    monkeypatch.setattr(simulate.secrets, "token_urlsafe", lambda _: "correcthorse")
    answers = (logged_in(), (raw(gateway.upload_to("t")),), (raw(ACCEPTED),))
    with Web(GLD, *answers, (raw(gateway.LOGGED_OUT),)) as web:
        status, lines = rehearsed(sam, "--site", "picasa", "--via", web.address)
    assert status == 0
    said = "\n".join(lines)
    assert "correcthorse" not in said
    assert "k" * 32 not in said
    assert not any(b"correcthorse" in request for request in web.requests)
    assert web.requests[1].startswith(b"POST /picasa/auth HTTP/1.1\r\n")
    assert web.requests[3].startswith(b"PUT /upload/t HTTP/1.1\r\nHost: snsgw.samsungmobile.com:80")
    assert web.requests[3].endswith(b"\r\n\r\n" + sam.read_bytes())


# DNS


Resolver = Callable[[dict[str, str]], None]


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    """Lets names have these addresses, and no others any."""

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
        Camera(lines.append, None).resolve(hosts)
    except RehearsalError as error:
        lines.append(str(error))
    return lines


def test_names(dns: Resolver) -> None:
    """Hosts with the same address share a line; different addresses are a warning."""
    dns({"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.1"})
    assert resolved("a", "c") == ["a is 10.0.0.1, as c"]
    assert resolved("a", "b", "c") == [
        "a is 10.0.0.1, as c",
        "b is 10.0.0.2",
        "warning: these are different addresses, and all should be that of nx_addon",
    ]


def test_names_without_address(dns: Resolver) -> None:
    """All that are missing are told, with the line for dnsmasq."""
    dns({"gld.samsungosp.com": "10.0.0.1"})
    assert resolved("gld.samsungosp.com", "www.ospserver.net", "www.msn.com") == [
        "gld.samsungosp.com is 10.0.0.1",
        "DNS: there is no address for www.ospserver.net and www.msn.com "
        "(Name or service not known): let the DNS server of this network lead to the ADDRESS of "
        f"nx_addon, in dnsmasq: {DNSMASQ.replace('/ADDRESS', '/www.msn.com/ADDRESS')}; "
        "or start nx_addon with --mode dns@53 --set nx_hosts=www.msn.com and let that be the "
        "DNS server of the camera",
    ]


def test_the_place_that_the_gateway_names(dns: Resolver) -> None:
    """A file goes to the host and port of HostAddr, which is looked up if need be."""
    dns({"snsgw.samsungmobile.com": "10.0.0.1", "files.example": "10.0.0.2"})
    lines: list[str] = []
    one = Camera(lines.append, None)
    one.resolve([gateway.HOST])
    assert one._place("snsgw.samsungmobile.com:80") == Place(gateway.HOST, "10.0.0.1")
    assert one._place("files.example:8080") == Place("files.example", "10.0.0.2", 8080)
    assert one._place("files.example:99999").port == 80
    assert lines == ["snsgw.samsungmobile.com is 10.0.0.1", "files.example is 10.0.0.2"]
    with pytest.raises(RehearsalError, match=r"no address for gone\?.example"):
        one._place("gone\n.example:80")


@pytest.mark.parametrize(
    "error",
    [ConnectionRefusedError(111, "Connection refused"), OSError(101, "Network is unreachable")],
)
@pytest.mark.parametrize("address", ["192.168.1.2", "198.51.100.80", "3.3.3.3"])
def test_unreachable(error: OSError, address: str) -> None:
    """A public address means that DNS is wrong, any other that port 80 is."""
    told = simulate.unreachable(Place("gld.samsungosp.com", address), error)
    refuses = isinstance(error, ConnectionRefusedError)
    how = "refuses connections" if refuses else "cannot be reached (Network is unreachable)"
    assert told.startswith(f"port 80 of {address} {how}: ")
    if address == "3.3.3.3":
        assert "public address, so DNS leads to the Internet instead of nx_addon" in told
        assert DNSMASQ in told
        assert "nft" not in told
    else:
        assert told.endswith(
            "start nx_addon there with --mode regular@80, or redirect the port to the one that "
            f"it listens on, say 8080: {RULE.replace('127.0.0.1', address)}"
        )


def test_unreachable_by_time() -> None:
    """Nobody answers at all; where the user has sent us, DNS is not to blame."""
    place = Place("gld.samsungosp.com", "3.3.3.3", by_dns=False)
    told = simulate.unreachable(place, TimeoutError("timed out"))
    assert told.startswith(
        "port 80 of 3.3.3.3 cannot be reached (no answer in 10 s): nx_addon must"
    )
    assert "DNS" not in told


def test_stranger_on_port_80() -> None:
    """The port is redirected, or DNS corrected."""
    assert simulate.stranger(Place("gld.samsungosp.com", "127.0.0.1"), Heard(*NGINX)) == (
        "port 80 of 127.0.0.1 is answered by something else (Server: nginx/1.24.0): if nx_addon "
        "is to be there, start nx_addon there with --mode regular@80, or redirect the port to the "
        f"one that it listens on, say 8080: {RULE}; if not, let DNS lead to it"
    )


def test_stranger_on_the_internet() -> None:
    """Somebody else's server at the end of somebody else's DNS."""
    told = simulate.stranger(Place("gld.samsungosp.com", "3.3.3.3"), Heard(*NGINX))
    assert told.startswith(
        "port 80 of 3.3.3.3 is answered by something else (Server: nginx/1.24.0): that is a "
        "public address, so DNS leads to the Internet instead of nx_addon; "
    )


# Names, addresses and ports as on a real network


NAMESPACES = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2"
)


class House:
    """A network namespace with nothing but loopback, and a resolver of its own."""

    def __init__(self) -> None:
        self.name = f"nx{os.getpid()}house"
        self.inside = ["ip", "netns", "exec", self.name]
        # `ip netns exec` lets these take the place of those in /etc.
        self._etc = Path("/etc/netns") / self.name

    def make(self) -> None:
        for command in (
            ["ip", "netns", "add", self.name],
            [*self.inside, "ip", "link", "set", "lo", "up"],
        ):
            subprocess.run(command, check=True, capture_output=True)
        self._etc.mkdir(parents=True)
        (self._etc / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        self.hosts("")

    def hosts(self, lines: str) -> None:
        """What /etc/hosts is, from the next command on."""
        (self._etc / "hosts").write_text(lines)

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], check=False, capture_output=True)
        shutil.rmtree(self._etc, ignore_errors=True)

    def rehearsed(self, *arguments: object) -> tuple[int, list[str]]:
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


@pytest.fixture
def empty(house: House) -> Iterator[House]:
    yield house
    house.hosts("")


@NAMESPACES
class TestNetwork:
    def test_no_dns(self, empty: House, sam: Path) -> None:
        """Without a DNS server the names lead nowhere."""
        status, lines = empty.rehearsed(sam, "--to", RECIPIENT)
        assert (status, len(lines)) == (1, 1)
        assert lines[0].startswith(
            "DNS: there is no address for gld.samsungosp.com and www.ospserver.net ("
        )
        assert f"in dnsmasq: {DNSMASQ}; or start nx_addon with --mode dns@53 and" in lines[0]

    def test_dns_of_the_internet(self, empty: House, sam: Path) -> None:
        """Addresses that are public are told as the cause."""
        empty.hosts("3.3.3.3 gld.samsungosp.com www.ospserver.net\n")
        status, lines = empty.rehearsed(sam, "--to", RECIPIENT)
        assert (status, lines[0]) == (1, "gld.samsungosp.com is 3.3.3.3, as www.ospserver.net")
        assert lines[1].startswith(
            "hotspot check: port 80 of 3.3.3.3 cannot be reached (Network is unreachable): that is "
            "a public address, so DNS leads to the Internet instead of nx_addon; let the DNS"
        )

    def test_no_redirect(self, empty: House, sam: Path) -> None:
        """The names are right, but nothing serves port 80: the rule for it is told."""
        empty.hosts("127.0.0.1 gld.samsungosp.com www.ospserver.net\n")
        status, lines = empty.rehearsed(sam, "--to", RECIPIENT)
        assert (status, lines[1:]) == (
            1,
            [
                "hotspot check: port 80 of 127.0.0.1 refuses connections: start nx_addon there "
                "with --mode regular@80, or redirect the port to the one that it listens on, say "
                f"8080: {RULE}"
            ],
        )

    def test_all_is_well(self, empty: House, sam: Path, folder: Path) -> None:
        """DNS, port 80, check, upload and delivery, with the names alone."""
        modes = ("--mode", "regular@80", "--mode", "dns@53")
        with Proxy(folder, *modes, before=empty.inside) as proxy:
            status, lines = empty.rehearsed(
                *(sam, "--to", RECIPIENT, "--site", "facebook", "--check", "yahoo"),
                *("--dir", proxy.uploads),
            )
            assert (status, lines[0]) == (
                0,
                "www.yahoo.co.kr is 127.0.0.1, as www.ospserver.net and snsgw.samsungmobile.com",
            )
            assert lines[-2:] == [
                f"delivery to {RECIPIENT} by save: done",
                "delivery to facebook by save: done",
            ]

            empty.hosts("127.0.0.2 www.ospserver.net\n")
            status, lines = empty.rehearsed(sam, "--to", RECIPIENT)
            assert (status, lines[:3]) == (
                0,
                [
                    "gld.samsungosp.com is 127.0.0.1",
                    "www.ospserver.net is 127.0.0.2",
                    "warning: these are different addresses, and all should be that of nx_addon",
                ],
            )


# Delivery


def test_a_delivery_that_waits(folder: Path, sam: Path) -> None:
    """Why the mail server does not take it is told."""
    options = ("--set", f"nx_smtp=smtp://127.0.0.1:{free_port()}", "--set", "nx_senders=*")
    with Proxy(folder, *options) as proxy:
        told = failed(
            *(sam, "--to", RECIPIENT, "--via", f"127.0.0.1:{proxy.port}"),
            *("--dir", proxy.uploads),
        )
    assert told.startswith(f"delivery to {RECIPIENT} by mail: waits, ")
    assert "Connection refused" in told
    assert told.endswith(f"; see python -m nxparse outbox --dir {proxy.uploads}")


def test_a_delivery_that_is_given_up(folder: Path, sam: Path) -> None:
    """A delivery that has failed for good is no success."""
    with ScriptedServer({"MAIL": "550 never"}) as server:
        smtp = f"nx_smtp=smtp://127.0.0.1:{server.port}"
        with Proxy(folder, "--set", smtp, "--set", "nx_senders=*") as proxy:
            told = failed(
                *(sam, "--to", RECIPIENT, "--via", f"127.0.0.1:{proxy.port}"),
                *("--dir", proxy.uploads),
            )
    assert told.startswith(
        f"delivery to {RECIPIENT} by mail: not done, 127.0.0.1:{server.port} refuses the sender: "
        f"550 never; "
    )
    assert told.endswith(f"what could be kept in {proxy.uploads / 'undelivered'}")


@pytest.fixture
def uploads(tmp_path: Path) -> Iterator[Path]:
    """An nx_dir with one upload that waits to be mailed."""
    directory = tmp_path / "uploads"
    with_state = Spool(directory / ".nx", lambda: 1000.0)
    incoming = with_state.begin()
    incoming.write(b"x")
    upload = Upload(SENDER, ("a@b.org", "c@b.org"), "", "", ())
    with_state.accept(incoming, "192.0.2.7", upload, {"mail": upload.recipients})
    yield directory
    with_state.close()


def followed(directory: Path, sender: str, since: float = 1000.0) -> list[str]:
    lines: list[str] = []
    outbox = Deliveries(directory)
    try:
        outbox.follow({sender}, since, lines.append)
    except RehearsalError as error:
        lines.append(str(error))
    finally:
        outbox.close()
    return lines


def test_a_delivery_that_is_not_tried(uploads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for without end."""
    monkeypatch.setattr(simulate, "DELIVERY", 0.3)
    assert followed(uploads, SENDER) == [
        "delivery to a@b.org, c@b.org by mail: waits, it has not been tried yet; "
        f"see python -m nxparse outbox --dir {uploads}"
    ]


def test_a_delivery_that_was_tried(uploads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once its reason is known there is nothing to wait for."""
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
    beside = Spool(uploads / ".nx", alone=False)
    beside.postpone(beside.waiting()[0], 15.0, "421 later\x1b", ["c@b.org"])
    beside.close()
    assert followed(uploads, SENDER) == [
        f"delivery to c@b.org by mail: waits, 421 later?; "
        f"see python -m nxparse outbox --dir {uploads}"
    ]


@pytest.mark.parametrize(
    ("reason", "told"),
    [("", ""), ("not delivered to a@b.org (550 no)", ", but not delivered to a@b.org (550 no)")],
    ids=["all", "some"],
)
def test_a_mail_to_several(uploads: Path, reason: str, told: str) -> None:
    """When some of several recipients were refused, that is told, though the mail is done."""
    beside = Spool(uploads / ".nx", alone=False)
    beside.done(beside.waiting()[0], reason)
    beside.close()
    assert followed(uploads, SENDER) == [f"delivery to a@b.org, c@b.org by mail: done{told}"]


@pytest.mark.parametrize(("sender", "since"), [("x@y.org", 1000.0), (SENDER, 1001.0)])
def test_somebody_elses_delivery(uploads: Path, sender: str, since: float) -> None:
    """The nx_dir of another nx_addon has no upload of ours."""
    (told,) = followed(uploads, sender, since)
    assert told == (
        f"delivery: {uploads} knows nothing of this upload, so it is not the nx_dir of the "
        f"nx_addon that has answered: choose that with --dir"
    )


def test_wrong_folder(sam: Path, tmp_path: Path) -> None:
    """That a folder is nobody's nx_dir is told before anything is sent, and nothing is made."""
    told = failed(sam, "--to", RECIPIENT, "--dir", tmp_path / "wrong")
    assert (
        told == f"{tmp_path / 'wrong'} is not the nx_dir of an nx_addon: choose another with --dir"
    )
    assert not (tmp_path / "wrong").exists()


def test_garbled_state(sam: Path, uploads: Path) -> None:
    """A state that cannot be read is told in a sentence."""
    state = uploads / ".nx" / "state.sqlite3"
    for path in uploads.glob(".nx/state.sqlite3?*"):
        path.unlink()
    state.write_bytes(b"garbage " * 1000)
    told = failed(sam, "--to", RECIPIENT, "--dir", uploads)
    assert told.startswith("cannot look into the outbox: file is not a database")


def test_state_that_fails_later(uploads: Path) -> None:
    """A disk that fails while we wait is told in a sentence."""
    outbox = Deliveries(uploads)
    outbox.close()
    with pytest.raises(RehearsalError, match="cannot look into the outbox"):
        outbox.follow({SENDER}, 0, print)


# What cannot be sent


def test_nothing_to_send(tmp_path: Path) -> None:
    """No photo, no file, an empty file."""
    nobody = ("--via", "127.0.0.1:9", "--to", RECIPIENT)
    assert failed(*nobody) == "there is nothing to send: name photos, before --to"
    gone, empty = tmp_path / "gone.jpg", tmp_path / "empty.jpg"
    empty.touch()
    assert failed(gone, *nobody) == f"{gone} cannot be read: No such file or directory"
    assert failed(tmp_path, *nobody) == f"{tmp_path} cannot be sent: it is not a file"
    assert failed(empty, *nobody) == f"there is nothing to send: {empty} is empty"


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """Photos come first: behind --to they would be recipients."""
    with pytest.raises(SystemExit):
        rehearsed("--help")
    assert " PHOTO... --to ADDRESS... [--from ADDRESS] [" in capsys.readouterr().out


def test_nobody_to_send_to(sam: Path) -> None:
    assert failed(sam).startswith("there is nobody to send to: name a recipient with --to")


@pytest.mark.parametrize(
    ("site", "name", "told"),
    [
        ("myspace", "SAM.JPG", "cameras cannot send photos to a site named myspace: choose one of"),
        ("flickr", "SAM.JPG", "flickr has a login page of its own, so cameras cannot send to it"),
        (
            "picasa",
            "SAM.MP4",
            "cameras cannot send SAM.MP4 to a site named picasa: choose one of facebook, youtube",
        ),
    ],
)
def test_sites(tmp_path: Path, site: str, name: str, told: str) -> None:
    """Which sites there are is known without asking."""
    path = tmp_path / name
    path.write_bytes(social.mp4(100) if name.endswith("MP4") else bodies.jpeg(100))
    assert failed(path, "--site", site, "--via", "127.0.0.1:9").startswith(told)


@pytest.mark.parametrize("text", [":80", "h:", "h:x", "h:0", "h:70000", "h:-1", "h:²", "::1"])
def test_via_is_wrong(sam: Path, text: str) -> None:
    told = failed(sam, "--to", RECIPIENT, "--via", text)
    assert told == f"--via {text}: this is not like 192.168.1.2 or 192.168.1.2:8080"


def test_via_has_no_address(sam: Path, dns: Resolver) -> None:
    """A name without an address, and one that is none."""
    assert simulate.via("127.0.0.1") == ("127.0.0.1", 80)
    with pytest.raises(RehearsalError, match=r"--via a{70}: this has no address \(no name of a"):
        simulate.via("a" * 70)
    dns({})
    with pytest.raises(RehearsalError, match=r"--via pi: this has no address \(Name or service"):
        simulate.via("pi")


def test_a_file_that_shrinks(tmp_path: Path) -> None:
    """A file that changes or goes while it is sent is told as such."""
    path = tmp_path / "A.JPG"
    path.write_bytes(bodies.jpeg(1000))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for one, told in (
            (Photo(path, "A.JPG", "image/jpeg", 1001), r"^A.JPG, 1.0 kB has become shorter"),
            (Photo(path / "x", "B.JPG", "image/jpeg", 1), r"^B.JPG, 1 byte cannot be read: "),
        ):
            with pytest.raises(RehearsalError, match=told):
                simulate.exchange(ours, simulate.Request("h", (b"x", one)))


# What is said, byte for byte


def whole(request: simulate.Request) -> bytes:
    return b"".join(
        piece.path.read_bytes() if isinstance(piece, Photo) else piece for piece in request.pieces
    )


def test_email_request(tmp_path: Path) -> None:
    """It is what the capture has, as the tests' own camera writes it."""
    files = [("SAM_1.JPG", bodies.jpeg(1000, 1)), ("SAM_2.JPG", bodies.jpeg(900, 2))]
    for name, data in files:
        (tmp_path / name).write_bytes(data)
    photos = [simulate.photo(tmp_path / name) for name, _ in files]
    recipients = ["a@b.org", "R&D <c@d.org>"]
    request = simulate.email(SENDER, recipients, photos, bodies.BOUNDARY.decode())
    message = bodies.message_xml(sender=SENDER, recipients=recipients)
    assert whole(request) == bodies.request(bodies.body(files, message=message))


def test_each_upload_has_a_boundary_of_its_own(sam: Path) -> None:
    """Otherwise the same photo again could be taken for a repeat."""
    found = set()
    for _ in range(2):
        with Web(GLD, (raw(ACCEPTED),)) as web:
            assert rehearsed(sam, "--to", RECIPIENT, "--via", web.address)[0] == 0
        boundary = re.search(rb"boundary=(-{27}[0-9a-f]{12})\r\n", web.requests[1])
        assert boundary
        found.add(boundary[1])
    assert len(found) == 2


def test_a_name_that_no_camera_gives(tmp_path: Path) -> None:
    """What would end a header is replaced, and so is what is no text."""
    path = tmp_path / 'a"\r\nb.jpg'
    path.write_bytes(b"\xff\xd8\xff")
    assert simulate.photo(path).name == "a___b.jpg"
    odd = os.fsencode(tmp_path) + b"/\xff.jpg"
    with open(odd, "wb") as file:
        file.write(b"?")
    photo = simulate.photo(Path(os.fsdecode(odd)))
    assert (photo.name, photo.content_type) == ("?.jpg", "image/jpeg")
    body = whole(simulate.email("\udcff", ["a@b.org"], [photo], "B"))
    upload = nxparse.read(body.partition(b"\r\n\r\n")[2], "multipart/form-data; boundary=B")
    assert upload.recipients == ("a@b.org",)


def test_login_request() -> None:
    """User and password are AES with the key beside them."""
    secret = bytes(range(32))
    body = whole(simulate.login("picasa", "Jö", "pass+/=word", secret)).partition(b"\r\n\r\n")[2]
    assert gateway.read_login(body).user == "Jö"
    found = re.search(rb'<Password Value="([^"]*)"', body)
    assert found
    cipher = Cipher(algorithms.AES(secret[:16]), modes.CBC(secret[16:])).decryptor()
    text = cipher.update(base64.b64decode(unquote(found[1].decode())))
    assert text.rstrip(b"\0") == b"pass+/=word"
    assert gateway.read_login(whole(simulate.logout("picasa", "k")).partition(b"\r\n\r\n")[2]).out


@pytest.mark.parametrize("content_type", ["image/jpeg", "video/mp4"])
def test_announcement_request(content_type: str) -> None:
    photo = Photo(Path("x"), "A & <B>.JPG", content_type, 7)
    request = simulate.announcement("facebook", "k", photo, "by <the> sea~gull")
    kind = content_type.replace("image/jpeg", "photo").partition("/")[0]
    data = whole(request)
    assert data.startswith(f"POST /facebook/{kind} HTTP/1.1\r\n".encode())
    found = gateway.read_announcement(data.partition(b"\r\n\r\n")[2])
    assert (found.session_key, found.name) == ("k", "A & <B>.JPG")
    assert (found.caption, found.photos) == ("by <the> sea~gull", 1)


# What is heard


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b"", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\nx", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\nxy", True),
        (b"HTTP/1.1 200 OK\r\n\r\nxy", False),
    ],
)
def test_the_end_of_a_reply(data: bytes, whole: bool) -> None:
    assert Heard(data).is_whole is whole


def test_a_reply_that_drips(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a reply has to come in time, not each byte."""
    clock = itertools.count(0, 25)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    left: list[float] = []

    class Drip:
        def settimeout(self, seconds: float) -> None:
            left.append(seconds)

        def recv(self, _: int) -> bytes:
            return b"x"

    received = simulate._received(Drip())  # type: ignore[arg-type]
    assert [next(received) for _ in range(3)] == [b"x"] * 3
    assert left == [35, 10, 0.001]


def test_header_names_are_searched_for_as_they_are_spelled() -> None:
    heard = Heard(b'HTTP/1.1 200 OK\r\netag: "x"\r\nServer: nginx\r\n\r\nETag: "y"')
    assert (heard.header("ETag"), heard.header("etag"), heard.header("Server")) == (
        *("", '"x"', "nginx"),
    )


@pytest.mark.parametrize(
    ("family", "reply", "good"),
    [
        ("gld", hotspot.GLD, "200, no body, ETag, nginx"),
        ("gld", Reply(200, b"200 OK\n"), ""),
        ("yahoo", hotspot.YAHOO.redirect, "302 to http://yahoo.com"),
        ("yahoo", hotspot.YAHOO.cookie, "200, cookie of .yahoo.co.kr"),
        ("yahoo", hotspot.MSN.redirect, ""),
        ("yahoo", Reply(302, headers=(("Location", "https://yahoo.com"),)), ""),
        ("msn", hotspot.MSN.redirect, "302 to http://msn.com"),
        ("msn", hotspot.MSN.cookie, "200, cookie of .msn.com"),
        ("msn", Reply(200, b"MSN", (("Set-Cookie", "a=b; Domain=msn.com"),)), ""),
        ("msn", Reply(200, b"MSN", (("Set-Cookie", "a=b; Domain=.msn.com"),)), "200, cookie of"),
    ],
)
def test_answers_to_the_checks(family: str, reply: Reply, good: str) -> None:
    found = simulate.FAMILIES[family].answer(Heard(raw(reply)))
    assert found.startswith(good)
    assert bool(found) is bool(good)


def test_segments_where_they_cannot_be_counted(sam: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another system, or an old Linux, does not count segments: that is said, and no failure."""

    class Old:
        def getsockopt(self, *_: int) -> bytes:
            return bytes(104)

    assert simulate._segments(Old()) is None  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "platform", "darwin")
    with Web(GLD, (raw(ACCEPTED),)) as web:
        status, lines = rehearsed(sam, "--to", RECIPIENT, "--via", web.address)
    assert (status, lines[1]) == (
        0,
        "hotspot check: passed (200, no body, ETag, nginx), "
        "in how many segments cannot be told on this system",
    )


def test_memory_does_not_grow(tmp_path: Path) -> None:
    """A video of 200 MB takes no more memory than a small photo."""
    peaks = []
    for size in (1000, 200_000_000):
        path = tmp_path / "SAM.MP4"
        with path.open("wb") as file:
            file.truncate(size)
        with Web(GLD, (raw(ACCEPTED),), discard=True) as web:
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, path, "--to", RECIPIENT, "--via", web.address],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
        assert done.returncode == 0, (done.stdout, done.stderr)
        peaks.append(int(done.stderr) * 1024)
    assert peaks[1] - peaks[0] < 10_000_000

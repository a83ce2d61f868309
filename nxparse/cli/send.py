"""`python -m nxparse send`: play the camera, to test a set-up from a computer in its network.

It takes each step of an upload, prints what the camera would see, and stops at the first step that
fails:

    photos   can be read
    DNS      each host has an IPv4 address (not with --via)
    check    GET / at the host of the hotspot check; Yahoo and MSN are asked twice, because each of
             their cameras accepts only one of two answers
    e-mail   one POST with all photos, with --to
    site     login, announcement and PUT for each photo, logout, with --site

Replies are read as the firmware reads them: by searching for strings, with header names in one
spelling. The number of TCP segments of a reply is the kernel's count (TCP_INFO, on Linux); some
cameras read only the first (ge0rg/samsung-nx-emailservice, commit dcc222a).

The cause of a failure is judged by what answers instead: nothing, mitmproxy without the addon (its
error pages name it), another web server, or nx_addon itself, whose refusals carry their reason.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import secrets
import shlex
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nxparse import filename
from nxparse.cli import camera
from nxparse.cli.camera import EMAIL_HOST, Photo, Request
from nxparse.deliver import routes
from nxparse.proxy import advice
from nxparse.server import social
from nxparse.server.endpoints import DNS_HOSTS
from nxparse.server.reply import Reply
from nxparse.text import describe_refused_sender, error_reason, format_list, format_size, printable

CONNECT = 10.0  # seconds
ANSWER = 60.0  # seconds; how long a camera waits is unknown
MAX_REPLY = 1 << 16  # bytes; replies to cameras have less than a thousand

SUCCESS = 'Status="succ"'  # in the reply to an upload
PAGE_HOST = "www.samsungimaging.com"
SENDER = "Camera@samsungcamera.com"  # the factory default

# struct tcp_info, linux/tcp.h: u32 tcpi_data_segs_in, since Linux 4.6
_DATA_SEGS_IN = 152

# What to do about each cause of a failure.
REMEDIES = {
    "refused": "{place} refuses connections: {start}",
    "internet": "{place} is on the Internet, so DNS does not lead to nx_addon: {dns}",
    "unreachable": (
        "{place} cannot be reached ({reason}): nx_addon must run there, in the same network as "
        "this computer, with no firewall between them; if the address belongs to no machine, the "
        "router must redirect it to nx_addon, for example: {redirect}"
    ),
    "silent": "{place} accepts the request but sends no reply for {seconds:g} s: see its log",
    "closed": (
        "{place} closes the connection without a reply, as mitmproxy does without nx_addon or "
        "with connection_strategy=eager: start it with -s nx_addon.py, and keep the strategy lazy"
    ),
    "closed by us": "{place} closes the connection without a reply: see the log of nx_addon",
    "no addon": (
        "{place} is a mitmproxy without nx_addon ({reason}): start it with -s nx_addon.py"
    ),
    "other server": (
        "{place} is answered by another server ({reason}): if nx_addon should be there, {start}; "
        "if not, make {way} lead to nx_addon"
    ),
    "not allowed": (
        "refused ({reason}): {sender}; nx_senders is an option of nx_addon, and --from chooses "
        "another sender"
    ),
    "too large": (
        "refused ({reason}): to allow it, use --set nx_max_upload=SIZE where nx_addon runs"
    ),
    "disk full": "refused ({reason}): make room in its nx_dir; the log of nx_addon says where",
    "other": "refused ({reason}): see the log of nx_addon",
    "bad check": (
        "a camera would not accept this answer of nx_addon ({reason}): update nx_addon, and let no "
        "other addon change its replies"
    ),
}


NO_DNS = (
    "the DNS server of this computer does not answer; if it is nx_addon, start that with "
    "--mode dns@53; --via ADDRESS tests the rest"
)


class SendError(Exception):
    """A step has failed. The text says which one, why, and what to do."""


@dataclass(frozen=True, slots=True)
class Received:
    """A reply, and the number of TCP segments it came in; None if that is unknown."""

    data: bytes
    segments: int | None = None

    @property
    def head(self) -> str:
        return self.data.partition(b"\r\n\r\n")[0].decode("latin-1")

    @property
    def body(self) -> bytes:
        return self.data.partition(b"\r\n\r\n")[2]

    @property
    def status(self) -> int:
        """The status; 0 if this is no HTTP reply."""
        found = re.match(r"HTTP/1\.[01] (\d{3})", self.head)
        return int(found[1]) if found else 0

    def header(self, name: str) -> str:
        """The value of a header in this very spelling, empty if there is none."""
        found = re.search(rf"\n{re.escape(name)}: *([^\r\n]*)", self.head)
        return found[1] if found else ""

    def value(self, name: str) -> str:
        """The quoted text after `name=` in the body, empty if there is none."""
        found = re.search(rf'{re.escape(name)}="([^"]*)"', self.body.decode("latin-1"))
        return found[1] if found else ""

    @property
    def is_refusal(self) -> bool:
        """Is this a refusal of nx_addon?"""
        return self.body.startswith(b"<Response Err")

    @property
    def is_whole(self) -> bool:
        """Is all of it here, by its Content-Length?"""
        length = re.search(r"\ncontent-length: *(\d{1,9})", self.head, re.IGNORECASE)
        return b"\r\n\r\n" in self.data and bool(length and len(self.body) >= int(length[1]))


@dataclass(frozen=True, slots=True)
class Check:
    """A hotspot check: its host, and the two answers that Yahoo and MSN cameras accept."""

    host: str
    redirect: str = ""
    domain: str = ""

    def accepted(self, reply: Received) -> str:
        """Return what makes this answer acceptable to a camera, empty if nothing does."""
        if not self.redirect:
            return "" if gld_faults(reply) else "200, no body, ETag, nginx"
        if reply.status == 302 and reply.header("Location") == self.redirect:
            return f"302 to {self.redirect}"
        if reply.status == 200 and f"Domain={self.domain};" in reply.header("Set-Cookie") + ";":
            return f"200, cookie of {self.domain}"
        return ""


CHECKS = {
    "gld": Check("gld.samsungosp.com"),
    "yahoo": Check("www.yahoo.co.kr", "http://yahoo.com", ".yahoo.co.kr"),
    "msn": Check("www.msn.com", "http://msn.com", ".msn.com"),
}


def gld_faults(reply: Received) -> list[str]:
    """What an NX mini, the strictest camera, would reject in a reply of gld.samsungosp.com."""
    tests = {
        f"its status is {reply.status} instead of 200": reply.status == 200,
        f"it has a body of {format_size(len(reply.body))}": not reply.body,
        'it has no ETag "deadbeef"': reply.header("ETag") == '"deadbeef"',
        "its Server is not nginx": reply.header("Server").startswith("nginx"),
    }
    return [fault for fault, passed in tests.items() if not passed]


@dataclass(frozen=True, slots=True)
class Place:
    """Where requests for `host` go; `by_dns` unless --via was given."""

    host: str
    address: str
    port: int = 80
    by_dns: bool = True

    def __str__(self) -> str:
        return f"port {self.port} of {self.address}"

    def explain(self, cause: str, **values: object) -> str:
        """Return the sentence for a cause in REMEDIES."""
        if self.by_dns and ipaddress.ip_address(self.address).is_global:
            elsewhere = ("refused", "unreachable", "closed", "other server")
            cause = "internet" if cause in elsewhere else cause
        redirect = advice.rule([self.address], 8080)
        start = "start nx_addon there"
        if self.port == 80:
            start += (
                " with --mode regular@80, or redirect the port to the one that it listens on, "
                f"for example 8080: {redirect}"
            )
        return REMEDIES[cause].format(
            place=self,
            start=start,
            redirect=redirect,
            dns=dns_advice([self.host]),
            way="DNS" if self.by_dns else "--via",
            **values,
        )


def dns_advice(hosts: Sequence[str]) -> str:
    """How to make DNS lead to nx_addon, for these hosts too."""
    hosts = [shlex.quote(printable(host)) for host in hosts]
    further = [f" --set nx_hosts={host}" for host in hosts if host not in DNS_HOSTS]
    return (
        "if only the camera uses the DNS of nx_addon, this is as it should be: test the rest with "
        "--via ADDRESS, the address of nx_addon; if not, make the DNS server of this network "
        f"answer with that address, in dnsmasq: {advice.dnsmasq('ADDRESS', hosts)}; or start "
        f"nx_addon with --mode dns@53{''.join(further)} and enter its address as the DNS server on "
        "the camera"
    )


def describe_stranger(place: Place, reply: Received) -> str:
    """What has answered instead of nx_addon, and what to do."""
    server = reply.header("Server") or reply.header("server")
    if server.startswith("mitmproxy"):
        return place.explain("no addon", reason=printable(reply.head.partition("\r\n")[0]))
    if not reply.status:
        return place.explain("other server", reason="no HTTP")
    reason = f"Server: {printable(server)}" if server else f"status {reply.status}, no Server"
    return place.explain("other server", reason=reason)


def describe_refusal(place: Place, reply: Received, sender: str) -> str:
    """Why a request was refused, and what to do."""
    if not reply.is_refusal:
        return describe_stranger(place, reply)
    remark = Reply(reply.status, reply.body).remark
    cause = "other"
    if reply.status == 401 and remark in ("Sender not in whitelist", social.LOGIN_FAILED.remark):
        cause = "not allowed"
    elif reply.status == 413 and remark.startswith("Larger than "):
        cause = "too large"
    elif reply.status == 507:
        cause = "disk full"
    reason = f"{reply.status}, {printable(remark, 200) or 'no reason given'}"
    return place.explain(cause, reason=reason, sender=describe_refused_sender(sender))


# The steps


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `run`."""
    # argparse would put the photos last, where --to swallows them.
    parser.usage = "%(prog)s PHOTO... --to ADDRESS... [--from ADDRESS] [further options]"
    add = parser.add_argument
    add("photos", nargs="*", type=Path, metavar="PHOTO", help="what to send")
    add("--to", nargs="+", action="extend", default=[], metavar="ADDRESS", help="send by e-mail")
    add("--from", default=SENDER, metavar="ADDRESS", dest="sender",
        help="the sender, or the name to log in with (%(default)s)")  # fmt: skip
    add("--site", metavar="NAME", help="send to a social site in the camera's menu")
    add("--via", metavar="HOST[:PORT]", help="where nx_addon is, instead of by DNS")
    add("--check", choices=CHECKS, default="gld",
        help="the hotspot check, gld for NX cameras (%(default)s)")  # fmt: skip


def run(
    given: argparse.Namespace, output: Callable[[str], None] = print, timeout: float = ANSWER
) -> int:
    """Send photos as a camera would, and print what it would see.

    `timeout` is the time to wait for each reply, in seconds.
    Returns the exit status: 0 if everything works, 1 if not; the last line then says why.
    """
    try:
        site = given.site.lower() if given.site else ""
        photos = [read_photo(path) for path in given.photos]
        _check_request(photos, given.to, site)
        check = CHECKS[given.check]
        sender = Sender(output, parse_via(given.via) if given.via else None, timeout)
        sender.resolve([check.host, EMAIL_HOST, *([social.HOST] if site else [])])
        sender.check(check)
        if given.to:
            sender.email(given.sender, given.to, photos)
        if site:
            sender.post(site, given.sender, photos)
        output("delivery: see the page of nx_addon, or run python -m nxparse outbox where it runs")
    except SendError as error:
        output(str(error))
        return 1
    return 0


def _check_request(photos: Sequence[Photo], recipients: Sequence[str], site: str) -> None:
    """Raise SendError if no camera could do this."""
    if not photos:
        raise SendError("there is nothing to send: name photos, before --to")
    if not recipients and not site:
        raise SendError("there is no recipient: name one with --to, or a site with --site")
    videos = [one for one in photos if one.is_video]
    offered = routes.VIDEO_SITES if videos else routes.PHOTO_SITES
    if site and site not in offered:
        what = f"{printable(videos[0].name)} to a site" if videos else "photos to a site"
        raise SendError(
            f"cameras cannot send {what} named {printable(site)}: "
            f"choose one of {', '.join(sorted(offered))}"
        )


def read_photo(path: Path) -> Photo:
    """Look at a file. Raises SendError if it cannot be sent."""
    shown = printable(str(path), 200)
    try:
        if path.exists() and not path.is_file():
            raise SendError(f"{shown} cannot be sent: it is not a file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(16)
    except OSError as error:
        raise SendError(f"{shown} cannot be read: {error.strerror}") from None
    if not size:
        raise SendError(f"there is nothing to send: {shown} is empty")
    # No camera writes a name that would end its header.
    name = re.sub(r'[\x00-\x1f\x7f"]', "_", path.name).encode("utf-8", "replace").decode()
    return Photo(path, name, filename.sniff(head, "image/jpeg"), size)


def parse_via(text: str) -> tuple[str, int]:
    """Return the IPv4 address and port of HOST[:PORT]. Raises SendError."""
    host, colon, port = text.partition(":")
    if not host or (colon and not _port(port)):
        raise SendError(f"--via {text}: give an address like 192.168.1.2 or 192.168.1.2:8080")
    try:
        return _address(host), _port(port) or 80
    except OSError as error:
        raise SendError(f"--via {text}: no address found ({error_reason(error)})") from None


def _port(text: str) -> int:
    """Return a port number, 0 if the text is none."""
    return int(text) if re.fullmatch(r"\d{1,5}", text, re.ASCII) and int(text) < 1 << 16 else 0


def _address(host: str) -> str:
    """Return the first IPv4 address of a host, which a camera uses. Raises OSError."""
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except UnicodeError:
        raise OSError("not a host name") from None
    address = str(found[0][4][0])
    if address == "0.0.0.0":
        raise OSError("0.0.0.0, as of a host that is blocked")
    return address


class Sender:
    """Takes the steps of an upload and prints the results. Raises SendError at the first failure.

    With `via`, an address and a port, everything goes there.
    """

    def __init__(
        self,
        output: Callable[[str], None],
        via: tuple[str, int] | None = None,
        timeout: float = ANSWER,
    ) -> None:
        self._output = output
        self._via = via
        self._timeout = timeout
        self._addresses: dict[str, str] = {}
        self._known: set[tuple[str, int]] = set()  # where nx_addon has answered

    def resolve(self, hosts: Sequence[str]) -> None:
        """Look up all hosts."""
        if self._via:
            address, port = self._via
            self._output(f"DNS: not tested, everything goes to port {port} of {address}")
            return
        by_address: dict[str, list[str]] = {}
        missing, reason, remedy = [], "", ""
        for host in hosts:
            try:
                self._addresses[host] = _address(host)
            except OSError as error:
                missing.append(host)
                reason = error_reason(error)
                remedy = NO_DNS if error.errno == socket.EAI_AGAIN else dns_advice(missing)
            else:
                by_address.setdefault(self._addresses[host], []).append(printable(host))
        for address, names in by_address.items():
            verb = "resolve" if len(names) > 1 else "resolves"
            self._output(f"DNS: {' and '.join(names)} {verb} to {address}")
        if missing:
            lost = " and ".join(printable(host) for host in missing)
            raise SendError(f"DNS: no address for {lost} ({reason}): {remedy}")
        if len(by_address) > 1:
            self._output("warning: the addresses differ, but all should be that of nx_addon")

    def check(self, check: Check) -> None:
        """Pass the hotspot check."""
        place = self.place(check.host)
        tries = 2 if check.redirect else 1
        passed = set()
        for attempt in range(1, tries + 1):
            what = "hotspot check" if tries == 1 else f"hotspot check, try {attempt}"
            reply = self._ask(what, camera.page(check.host), place)
            if good := check.accepted(reply):
                passed.add(good)
                self._known.add((place.address, place.port))
                self._report(f"{what}: passed ({good})", reply)
            elif attempt == tries and not passed:
                raise SendError(f"{what}: {self._not_passed(check, place, reply)}")
            else:
                self._report(f"{what}: not passed ({reply.status})", reply)
        if len(passed) < tries:
            self._output(
                "warning: some of these cameras need a redirect, others a cookie, and only one of "
                "them came"
            )

    def email(self, sender: str, recipients: Sequence[str], photos: Sequence[Photo]) -> None:
        """Send all photos in one e-mail."""
        # Random, so that no photo contains it.
        boundary = f"{'-' * 27}{secrets.token_hex(6)}"
        names = format_list([printable(photo.name) for photo in photos])
        what = f"upload of {names}, {format_size(sum(photo.size for photo in photos))}"
        address = re.search(r"<([^<>]+)>", sender)
        request = camera.email(sender, recipients, photos, boundary)
        self._call(what, request, address[1] if address else sender, SUCCESS)

    def post(self, site: str, user: str, photos: Sequence[Photo]) -> None:
        """Send photo by photo to a social site."""
        request = camera.login(site, user, secrets.token_urlsafe(12), secrets.token_bytes(32))
        wanted = ('SessionKey="', 'LoginPeopleID="')
        key = self._call(f"login to {site}", request, user, *wanted).value("SessionKey")
        # With as many descriptions as photos in its caption, a post is complete at once.
        caption = "~".join(["Sent from Samsung Camera.", *("a test" for _ in photos)])
        for photo in photos:
            what = f"announcement of {printable(photo.name)}"
            request = camera.announcement(site, key, photo, caption)
            reply = self._call(what, request, user, 'HostAddr="', 'ResourceID="')
            address = reply.value("HostAddr")
            request = camera.put(address, reply.value("ResourceID"), photo)
            self._call(f"upload of {photo}", request, user, SUCCESS, address=address)
        self._call(f"logout from {site}", camera.logout(site, key), user)

    def _call(
        self, what: str, request: Request, sender: str, *wanted: str, address: str = ""
    ) -> Received:
        """Make a request whose reply must contain these strings, at `address` if given."""
        place = self.place(address or request.host)
        reply = self._ask(what, request, place)
        if reply.status != 200 or reply.is_refusal:
            raise SendError(f"{what}: {describe_refusal(place, reply, sender)}")
        if missing := [text for text in wanted if text.encode() not in reply.body]:
            raise SendError(
                f"{what}: the reply does not contain {missing[0]}, which a camera searches for; "
                f"{describe_stranger(place, reply)}"
            )
        self._report(f"{what}: accepted", reply)
        return reply

    def place(self, address: str) -> Place:
        """Where HOST or HOST:PORT is."""
        host, _, port = address.partition(":")
        if self._via:
            return Place(host, *self._via, by_dns=False)
        if host not in self._addresses:
            self.resolve([host])
        return Place(host, self._addresses[host], _port(port) or 80)

    def _ask(self, what: str, request: Request, place: Place) -> Received:
        try:
            connection = socket.create_connection((place.address, place.port), CONNECT)
        except ConnectionRefusedError:
            raise SendError(f"{what}: {place.explain('refused')}") from None
        except OSError as error:
            sentence = place.explain("unreachable", reason=error_reason(error))
            raise SendError(f"{what}: {sentence}") from None
        cause = "closed by us" if (place.address, place.port) in self._known else "closed"
        with connection:
            try:
                reply = exchange(connection, request, self._timeout)
            except TimeoutError:
                reply, cause = Received(b""), "silent"
            except OSError:
                reply = Received(b"")
        if not reply.data:
            raise SendError(f"{what}: {place.explain(cause, seconds=self._timeout)}")
        return reply

    def _report(self, what: str, reply: Received) -> None:
        count = reply.segments
        segments = "segments unknown" if count is None else f"{count} segment{'s' * (count != 1)}"
        self._output(f"{what}, {segments}")
        if count and count > 1:
            self._output(
                "warning: some cameras read only the first TCP segment of a reply: look for a "
                "warning about segments in the log of nx_addon"
            )

    def _not_passed(self, check: Check, place: Place, reply: Received) -> str:
        """Why the hotspot check failed: is nx_addon there at all?"""
        try:
            ours = b"nx_addon" in self._ask("page", camera.page(PAGE_HOST), place).body
        except SendError:
            ours = False
        if not ours:
            return describe_stranger(place, reply)
        faults = [f"its status is {reply.status}"] if check.redirect else gld_faults(reply)
        return place.explain("bad check", reason=", ".join(faults))


def exchange(connection: socket.socket, request: Request, timeout: float) -> Received:
    """Send a request and read the reply, for at most `timeout` seconds. Raises OSError, SendError.

    A server that refuses an upload before its end may close the connection. The reply that it
    sent before that is still read.
    """
    connection.settimeout(timeout)
    try:
        for piece in request.pieces:
            if isinstance(piece, Photo):
                _send_file(connection, piece)
            else:
                connection.sendall(piece)
    except ConnectionError:
        pass
    reply = Received(b"")
    deadline = time.monotonic() + timeout
    try:
        while not reply.is_whole and len(reply.data) < MAX_REPLY:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            data = connection.recv(1 << 16)
            if not data:
                break
            reply = Received(reply.data + data)
    except OSError:
        if not reply.data:
            raise
    return Received(reply.data, _segments(connection))


def _send_file(connection: socket.socket, photo: Photo) -> None:
    """Send a file without reading it into memory."""
    try:
        file = photo.path.open("rb")
    except OSError as error:
        raise SendError(f"{photo} cannot be read: {error.strerror}") from None
    with file:
        if connection.sendfile(file, 0, photo.size) != photo.size:
            raise SendError(f"{photo} became shorter while it was sent: send it again")


def _segments(connection: socket.socket) -> int | None:
    """The number of TCP segments with data that were received."""
    if sys.platform != "linux":
        return None
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    # Older kernels return a shorter struct, which makes this 0.
    return int.from_bytes(info[_DATA_SEGS_IN : _DATA_SEGS_IN + 4], sys.byteorder) or None

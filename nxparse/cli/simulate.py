"""Plays the camera: from a laptop in the same Wi-Fi, does the way of an upload work?

    python -m nxparse send PHOTO... --to ADDRESS... [--from ADDRESS] [--site NAME] ...

A camera that cannot send says little more than that. This goes the same way and
tells at each step what the camera would see, up to the first one that fails:

    photos    can be read
    DNS       each host has an IPv4 address (with --via there is no DNS)
    check     GET / at the host of the hotspot check; the families of Yahoo and
              MSN are asked twice, since each of their cameras wants one of two answers
    e-mail    one POST with all photos, with --to
    site      login, announcement and PUT for each photo, logout, with --site
    delivery  what the outbox says of it, with --dir

What is said is what an NX300 was seen to say, oddities included: two blanks
before the version, User-Agent twice, no blank behind some colons, part headers
in lower case, `fileName`, a surplus line end behind each part, a last delimiter
without its `--` (wiki page "Email-service" of ge0rg/samsung-nx-hacks). Of the
social gateway no capture is public; see nxparse.server.social for what is known. The
boundary is another one each time, so that no upload looks like a repeat.

What is read is read as the firmware reads it: by searching for strings, header
names in one spelling only. How many TCP segments a reply came in is the
kernel's count (TCP_INFO, on Linux). More than one is a warning: some cameras
read only the first (ge0rg/samsung-nx-emailservice, commit dcc222a).

When a step fails, the likeliest cause is told by what answers instead:
nobody, something that hangs up, mitmproxy without the addon (its error pages
name it as the server), another web server, or nx_addon itself, whose refusals
have their reason in a comment.

The first half of this module builds requests and judges replies, and does no
IO; the second half goes the way.
"""

from __future__ import annotations

import argparse
import base64
import html
import ipaddress
import os
import re
import secrets
import socket
import sqlite3
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from nxparse import filename
from nxparse.deliver import routes
from nxparse.deliver.routes import target_label
from nxparse.proxy import advice
from nxparse.server import social
from nxparse.server.endpoints import DNS_HOSTS
from nxparse.server.reply import Reply
from nxparse.store.records import Delivery
from nxparse.store.spool import Spool
from nxparse.text import (
    describe_disk_error,
    describe_refused_sender,
    format_list,
    format_size,
    printable,
)

CONNECT = 10.0  # seconds until somebody must have taken the connection
ANSWER = 60.0  # seconds of silence; how long a camera waits is not known
DELIVERY = 15.0  # seconds until an upload should have been delivered
POLL = 0.1  # seconds between two looks into the outbox
MAX_REPLY = 1 << 16  # bytes; replies to cameras have less than a thousand

EMAIL_HOST = "www.ospserver.net"
PAGE_HOST = "www.samsungimaging.com"
SENDER = "Camera@samsungcamera.com"  # as cameras leave the factory
MODEL = "NX300"
OUTBOX = "python -m nxparse outbox"

# struct tcp_info, linux/tcp.h: u32 tcpi_data_segs_in, since Linux 4.6
_DATA_SEGS_IN = 152


class RehearsalError(Exception):
    """A step has failed. The text is a sentence: which one, why, and what to do."""


# What a camera says


@dataclass(frozen=True, slots=True)
class Photo:
    """A file to send: its name as a camera would have it, and its size in bytes."""

    path: Path
    name: str
    content_type: str
    size: int

    @property
    def is_video(self) -> bool:
        return self.content_type.startswith("video/")

    def __str__(self) -> str:
        return f"{printable(self.name)}, {format_size(self.size)}"


@dataclass(frozen=True, slots=True)
class Request:
    """A request for `host`, from its first byte on; a Photo stands for its content."""

    host: str
    pieces: tuple[bytes | Photo, ...]


def _request(host: str, head: Sequence[str], *body: bytes | Photo) -> Request:
    """`head` ends with what stands before the number of Content-Length."""
    length = sum(piece.size if isinstance(piece, Photo) else len(piece) for piece in body)
    lines = "".join(f"{line}\r\n" for line in (*head, f"Content-Length: {length}"))
    return Request(host, (f"{lines}\r\n".encode(), *body))


def page(host: str) -> Request:
    """A hotspot check is a plain GET, as is what the camera's browser wants."""
    return Request(host, (f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode(),))


def email(
    sender: str, recipients: Sequence[str], photos: Sequence[Photo], boundary: str
) -> Request:
    """An upload by e-mail, as the capture of an NX300 has it."""
    agent = "Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1; SV1"
    head = (
        "POST /social/columbus/email?DUID=123456789033  HTTP/1.0",
        'Authorization:OAuth oauth_consumer_key="censored",oauth_nonce="censored",'
        'oauth_signature="censored=",oauth_signature_method="HmacSHA1",'
        'oauth_timestamp="9717886885",oauth_version="1.0"',
        "x-osp-version:v1",
        "User-Agent: sdeClient",
        f"Content-Type: multipart/form-data; boundary={boundary}",
        "Accept: image/gif, image/x-xbitmap, image/jpeg, image/pjpeg, "
        "application/x-shockwave-flash, application/vnd.ms-excel, "
        "application/vnd.ms-powerpoint, application/msword, */*",
        "Pragma: no-cache",
        "Accept-Language: ko",
        f"User-Agent: {agent}; {agent}) ; .NET CLR 1.1.4322; InfoPath.2; .NET CLR 2.0.50727)",
        f"Host: {EMAIL_HOST}",
    )
    delimiter = f"--{boundary}"
    first = _part(delimiter, "message", "sample.txt", "multipart/form-data")
    pieces: list[bytes | Photo] = [first + _message(sender, recipients)]
    for photo in photos:
        part = _part(delimiter, "binary", photo.name, photo.content_type)
        pieces += [b"\r\n\r\n" + part, photo]
    return _request(EMAIL_HOST, head, *pieces, f"\r\n\r\n{delimiter}".encode())


def _part(delimiter: str, name: str, file_name: str, content_type: str) -> bytes:
    return (
        f"{delimiter}\r\n"
        f'content-disposition: form-data; name="{name}"; fileName="{file_name}"\r\n'
        f"content-Type: {content_type};\r\n\r\n"
    ).encode()


def _message(sender: str, recipients: Sequence[str]) -> bytes:
    receivers = "".join(f"<receiver>{html.escape(one, False)}</receiver>" for one in recipients)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<email><sender>{html.escape(sender, False)}</sender>"
        f"<receiverList>{receivers}</receiverList>"
        "<title><![CDATA[[Samsung Smart Camera] sent you files.]]></title>"
        "<body><![CDATA[Sent from Samsung Camera.\nlanguage_sh100_utf8]]></body></email>"
    ).encode(errors="replace")


def login(site: str, user: str, password: str, secret: bytes) -> Request:
    """A login to a social site. `secret` are the 32 bytes of key and IV, sent along."""
    key = base64.b64encode(secret).decode()
    return _social(
        f"{site}/auth",
        f'<Request Method="login"><UserName Value="{_encrypted(user, secret)}"/>'
        f'<Password Value="{_encrypted(password, secret)}"/>'
        f'<CryptSessionKey Value="{key}"/><ApplicationKey Value="{MODEL}"/></Request>',
    )


def announcement(site: str, key: str, photo: Photo, caption: str) -> Request:
    """What comes next in a session, `key`."""
    kind, about = (
        ("video", '<Category Name=""/>')
        if photo.is_video
        else ("photo", f'<Album Name="{MODEL}"/>')
    )
    return _social(
        f"{site}/{kind}",
        f'<Request SessionKey="{html.escape(key)}"><{kind.title()}>{about}'
        f'<File Name="{html.escape(photo.name)}"/><Content>{html.escape(caption)}</Content>'
        f"</{kind.title()}></Request>",
    )


def put(address: str, resource: str, photo: Photo) -> Request:
    """The file, to where the reply to its announcement said."""
    head = (
        f"PUT /{resource} HTTP/1.1",
        f"Host: {address}",
        f"User-Agent: {MODEL}",
        f"Content-Type: {photo.content_type}",
    )
    return _request(address.partition(":")[0], head, photo)


def logout(site: str, key: str) -> Request:
    """The end of a session."""
    xml = f'<Request Method="logout"><SessionKey Value="{html.escape(key)}"/></Request>'
    return _social(f"{site}/auth", xml)


def _social(path: str, xml: str) -> Request:
    head = (
        f"POST /{path} HTTP/1.1",
        f"Host: {social.HOST}",
        f"User-Agent: {MODEL}",
        "Content-Type: text/xml",
    )
    return _request(social.HOST, head, f'<?xml version="1.0" encoding="UTF-8"?>\n{xml}'.encode())


def _encrypted(text: str, secret: bytes) -> str:
    """AES-128-CBC, padded with zeros, as base64, percent-encoded."""
    data = text.encode(errors="replace")
    cipher = Cipher(algorithms.AES(secret[:16]), modes.CBC(secret[16:])).encryptor()
    data = cipher.update(data + bytes(-len(data) % 16)) + cipher.finalize()
    return quote(base64.b64encode(data), "")


# What a camera hears


@dataclass(frozen=True, slots=True)
class Heard:
    """A reply, and in how many TCP segments it came; None if that cannot be told."""

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
        """0 if this is no reply at all."""
        found = re.match(r"HTTP/1\.[01] (\d{3})", self.head)
        return int(found[1]) if found else 0

    def header(self, name: str) -> str:
        """A header spelled like this, empty if there is none."""
        found = re.search(rf"\n{re.escape(name)}: *([^\r\n]*)", self.head)
        return found[1] if found else ""

    def value(self, name: str) -> str:
        """What stands in quotes behind `name=` in the body, empty if nothing does."""
        found = re.search(rf'{re.escape(name)}="([^"]*)"', self.body.decode("latin-1"))
        return found[1] if found else ""

    @property
    def is_whole(self) -> bool:
        """Is all of it here, as far as it tells?"""
        if b"\r\n\r\n" not in self.data:
            return False
        length = re.search(r"\ncontent-length: *(\d{1,9})", self.head, re.IGNORECASE)
        return length is not None and len(self.body) >= int(length[1])

    @property
    def counted(self) -> str:
        """In how many segments."""
        match self.segments:
            case None:
                return "in how many segments cannot be told on this system"
            case 1:
                return "in one segment"
            case _:
                return f"in {self.segments} segments"


@dataclass(frozen=True, slots=True)
class Family:
    """A hotspot check: its host, and where the two answers of Yahoo and MSN lead."""

    host: str
    redirect: str = ""
    domain: str = ""

    @property
    def tries(self) -> int:
        return 2 if self.redirect else 1

    def answer(self, heard: Heard) -> str:
        """What is good about this answer, empty if a camera would not accept it."""
        if not self.redirect:
            return "" if faults(heard) else "200, no body, ETag, nginx"
        if heard.status == 302 and heard.header("Location") == self.redirect:
            return f"302 to {self.redirect}"
        if heard.status == 200 and f"Domain={self.domain};" in heard.header("Set-Cookie") + ";":
            return f"200, cookie of {self.domain}"
        return ""


FAMILIES = {
    "gld": Family("gld.samsungosp.com"),
    "yahoo": Family("www.yahoo.co.kr", "http://yahoo.com", ".yahoo.co.kr"),
    "msn": Family("www.msn.com", "http://msn.com", ".msn.com"),
}


def faults(heard: Heard) -> list[str]:
    """What an NX mini, which is strict, would not like about an answer from gld.samsungosp.com."""
    found = []
    if heard.status != 200:
        found.append(f"its status is {heard.status} instead of 200")
    if heard.body:
        found.append(f"it has a body, of {format_size(len(heard.body))}")
    if heard.header("ETag") != '"deadbeef"':
        found.append('it has no ETag "deadbeef"')
    if not heard.header("Server").startswith("nginx"):
        found.append("its Server is not nginx")
    return found


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request for `host` goes; `by_dns` unless the user has said so."""

    host: str
    address: str
    port: int = 80
    by_dns: bool = True

    def __str__(self) -> str:
        return f"port {self.port} of {self.address}"

    @property
    def is_outside(self) -> bool:
        """Does DNS lead to the Internet?"""
        return self.by_dns and ipaddress.ip_address(self.address).is_global

    @property
    def redirect(self) -> str:
        """How to bring to nx_addon what comes here."""
        if self.is_outside:
            return (
                f"that is a public address, so DNS leads to the Internet instead of nx_addon; "
                f"{leading([self.host])}"
            )
        if self.port != 80:
            return "start nx_addon there"
        return (
            f"start nx_addon there with --mode regular@80, or redirect the port to the one that "
            f"it listens on, say 8080: {advice.rule([self.address], 8080)}"
        )


def leading(names: Sequence[str]) -> str:
    """How to let DNS lead to nx_addon, also for these names."""
    further = "".join(f" --set nx_hosts={name}" for name in names if name not in DNS_HOSTS)
    return (
        f"let the DNS server of this network lead to the ADDRESS of nx_addon, in dnsmasq: "
        f"{advice.dnsmasq('ADDRESS', names)}; or start nx_addon with --mode dns@53{further} "
        f"and let that be the DNS server of the camera"
    )


def unreachable(place: Place, error: OSError) -> str:
    """Why nobody takes the connection."""
    if isinstance(error, ConnectionRefusedError):
        return f"{place} refuses connections: {place.redirect}"
    why = f"no answer in {CONNECT:.0f} s" if isinstance(error, TimeoutError) else _reason(error)
    if place.is_outside:
        return f"{place} cannot be reached ({why}): {place.redirect}"
    return (
        f"{place} cannot be reached ({why}): nx_addon must run there, this machine be in the same "
        f"network, and no firewall between them; an address that is nobody's must be redirected "
        f"on the router: {place.redirect}"
    )


def unanswered(place: Place, error: OSError | None, *, known: bool) -> str:
    """Why a request has no reply. `known`: nx_addon has been heard at this place before."""
    if isinstance(error, TimeoutError):
        return (
            f"{place} takes the request and then is silent for {ANSWER:.0f} s, and a camera gives "
            f"up: see the log of {'nx_addon' if known else 'whatever listens there'}"
        )
    how = f" ({_reason(error)})" if error else ""
    if known:
        return f"{place} closes the connection without a reply{how}: see the log of nx_addon"
    return (
        f"{place} closes the connection without an answer{how}, as mitmproxy does without "
        f"nx_addon, or with connection_strategy=eager: start it with -s nx_addon.py, and leave "
        f"connection_strategy alone"
    )


def stranger(place: Place, heard: Heard) -> str:
    """Who has answered in the place of nx_addon."""
    server = heard.header("Server") or heard.header("server")
    if server.startswith("mitmproxy"):
        line = heard.head.partition("\r\n")[0]
        text = re.search(r"<p>(.*?)</p>", heard.body.decode("utf-8", "replace"), re.DOTALL)
        more = f", {printable(html.unescape(text[1]), 200)}" if text else ""
        return (
            f"{place} is answered by a mitmproxy in which nx_addon is not loaded "
            f"({printable(line)}{more}): start it with -s nx_addon.py"
        )
    what = f"Server: {printable(server)}" if server else f"status {heard.status}, no Server"
    told = f"{place} is answered by something else ({what if heard.status else 'no HTTP'})"
    if place.is_outside:
        return f"{told}: {place.redirect}"
    way = "DNS" if place.by_dns else "--via"
    return f"{told}: if nx_addon is to be there, {place.redirect}; if not, let {way} lead to it"


def refused(place: Place, heard: Heard, sender: str) -> str:
    """Why something is not accepted."""
    if not heard.body.startswith(b"<Response Err"):
        return stranger(place, heard)
    remark = Reply(heard.status, heard.body).remark
    told = f"refused ({heard.status}, {printable(remark, 200) or 'no reason given'})"
    match heard.status:
        case 401 if remark in ("Sender not in whitelist", "Login failed"):
            return (
                f"{told}: {describe_refused_sender(sender)} where nx_addon is, or send with --from"
            )
        case 413 if remark.startswith("Larger than "):
            return f"{told}: to allow it, use --set nx_max_upload=SIZE where nx_addon is"
        case 507:
            return f"{told}: make room in its nx_dir; the log of nx_addon says where"
        case _:
            return f"{told}: see the log of nx_addon"


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


# The way of an upload


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `run` is given."""
    # argparse would put the photos last, where --to swallows them.
    parser.usage = "%(prog)s PHOTO... --to ADDRESS... [--from ADDRESS] [further options]"
    parser.add_argument("photos", nargs="*", type=Path, metavar="PHOTO", help="what to send")
    parser.add_argument(
        "--to", nargs="+", action="extend", default=[], metavar="ADDRESS", help="send by e-mail"
    )
    parser.add_argument(
        "--from",
        default=SENDER,
        metavar="ADDRESS",
        dest="sender",
        help="the sender, or the name to log in with (%(default)s)",
    )
    parser.add_argument("--site", metavar="NAME", help="send to a social site in the camera's menu")
    parser.add_argument("--via", metavar="HOST[:PORT]", help="where nx_addon is, instead of by DNS")
    parser.add_argument(
        "--check",
        choices=FAMILIES,
        default="gld",
        help="the hotspot check: of NX cameras, or of those that ask Yahoo or MSN (%(default)s)",
    )
    parser.add_argument(
        "--dir",
        type=Path,
        help="the option nx_dir, if nx_addon is on this machine: wait for the delivery",
    )


def run(given: argparse.Namespace, say: Callable[[str], None] = print) -> int:
    """Send photos as a camera would, and say what it would see.

    Returns the exit status: 0 if all works, 1 if something does not, which the
    last line then tells. Warnings do not count.
    """
    try:
        _run(given, say)
    except RehearsalError as error:
        say(str(error))
        return 1
    return 0


def _run(given: argparse.Namespace, say: Callable[[str], None]) -> None:
    site = given.site.lower() if given.site else ""
    photos = [photo(path) for path in given.photos]
    _check_wishes(photos, given.to, site)
    family = FAMILIES[given.check]
    with ExitStack() as opened:
        outbox = opened.enter_context(closing(Deliveries(given.dir))) if given.dir else None
        since = time.time()
        hosts = (family.host, EMAIL_HOST, *([social.HOST] if site else []))
        camera = Camera(say, via(given.via) if given.via else None)
        camera.resolve(hosts)
        camera.check(family)
        if given.to:
            camera.email(given.sender, given.to, photos)
        if site:
            camera.post(site, given.sender, photos)
        if outbox:
            outbox.follow({given.sender, bare(given.sender)}, since, say)
        else:
            say(f"delivery: to be seen on the machine with nx_addon, {OUTBOX} --dir NX_DIR")


def _check_wishes(photos: Sequence[Photo], recipients: Sequence[str], site: str) -> None:
    """Is this something that a camera could do?"""
    if not photos:
        raise RehearsalError("there is nothing to send: name photos, before --to")
    if not recipients and not site:
        raise RehearsalError(
            "there is nobody to send to: name a recipient with --to, or a site with --site"
        )
    if site in routes.OAUTH_SITES:
        raise RehearsalError(
            f"{site} has a login page of its own, so cameras cannot send to it any more: "
            f"choose another site"
        )
    videos = [one for one in photos if one.is_video]
    offered = routes.VIDEO_SITES if videos else routes.PHOTO_SITES
    if site and site not in offered:
        what = f"{printable(videos[0].name)} to a site" if videos else "photos to a site"
        raise RehearsalError(
            f"cameras cannot send {what} named {printable(site)}: "
            f"choose one of {', '.join(sorted(offered))}"
        )


def photo(path: Path) -> Photo:
    """Look at a file. Raises RehearsalError if it cannot be sent."""
    shown = printable(str(path), 200)
    try:
        if path.exists() and not path.is_file():
            raise RehearsalError(f"{shown} cannot be sent: it is not a file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(16)
    except OSError as error:
        raise RehearsalError(f"{shown} cannot be read: {_reason(error)}") from None
    if not size:
        raise RehearsalError(f"there is nothing to send: {shown} is empty")
    # A name that would end its header is none that a camera gives.
    name = re.sub(r'[\x00-\x1f\x7f"]', "_", path.name).encode("utf-8", "replace").decode()
    return Photo(path, name, filename.sniff(head, "image/jpeg"), size)


def via(text: str) -> tuple[str, int]:
    """The IPv4 address and port of HOST[:PORT]. Raises RehearsalError."""
    host, colon, port = text.partition(":")
    if not host or (colon and not _port(port)):
        raise RehearsalError(f"--via {text}: this is not like 192.168.1.2 or 192.168.1.2:8080")
    try:
        return _address(host), _port(port) or 80
    except OSError as error:
        raise RehearsalError(f"--via {text}: this has no address ({_reason(error)})") from None


def _port(text: str) -> int:
    """0 if this is none."""
    return int(text) if re.fullmatch(r"\d{1,5}", text, re.ASCII) and int(text) < 1 << 16 else 0


def _address(host: str) -> str:
    """The first IPv4 address of a host, which is the one that a camera takes. Raises OSError."""
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except UnicodeError:
        raise OSError("no name of a host") from None
    return str(found[0][4][0])


def bare(sender: str) -> str:
    """The address of a sender with a name."""
    found = re.search(r"<([^<>]+)>", sender)
    return found[1] if found else sender


class Camera:
    """Goes the way of an upload and says what it sees.

    RehearsalError at the first failure. With `via`, an address and a port,
    everything goes there.
    """

    def __init__(self, say: Callable[[str], None], via: tuple[str, int] | None) -> None:
        self._say = say
        self._via = via
        self._addresses: dict[str, str] = {}
        self._known: set[tuple[str, int]] = set()  # where nx_addon has been heard

    def resolve(self, hosts: Sequence[str]) -> None:
        """Find all hosts."""
        if self._via:
            self._say(f"DNS: not tried, everything goes to port {self._via[1]} of {self._via[0]}")
            return
        found: dict[str, list[str]] = {}  # hosts by their address
        lost, why = [], ""
        for host in hosts:
            try:
                self._addresses[host] = _address(host)
            except OSError as error:
                lost.append(printable(host))
                why = _reason(error)
            else:
                found.setdefault(self._addresses[host], []).append(printable(host))
        for address, (first, *others) in found.items():
            self._say(f"{first} is {address}{', as ' if others else ''}{' and '.join(others)}")
        if lost:
            raise RehearsalError(
                f"DNS: there is no address for {' and '.join(lost)} ({why}): {leading(lost)}"
            )
        if len(found) > 1:
            self._say("warning: these are different addresses, and all should be that of nx_addon")

    def check(self, family: Family) -> None:
        """Is this the Internet, or a hotspot that wants a login?"""
        place = self._place(family.host)
        found = []
        for attempt in range(1, family.tries + 1):
            what = "hotspot check" if family.tries == 1 else f"hotspot check, try {attempt}"
            heard = self._ask(what, page(family.host), place)
            if good := family.answer(heard):
                found.append(good)
                self._known.add((place.address, place.port))
                self._tell(f"{what}: passed ({good})", heard)
            elif attempt == family.tries and not found:
                raise RehearsalError(f"{what}: {self._not_passed(family, place, heard)}")
            else:
                self._tell(f"{what}: not passed ({heard.status})", heard)
        if len({*found}) < family.tries:
            self._say(
                "warning: of these cameras some want a redirect, others a cookie, and only one of "
                "them has come"
            )

    def email(self, sender: str, recipients: Sequence[str], photos: Sequence[Photo]) -> None:
        """Send all photos in one e-mail."""
        boundary = f"{'-' * 27}{secrets.token_hex(6)}"
        names = format_list([printable(photo.name) for photo in photos])
        what = f"upload of {names}, {format_size(sum(photo.size for photo in photos))}"
        self._upload(what, email(sender, recipients, photos, boundary), bare(sender))

    def post(self, site: str, user: str, photos: Sequence[Photo]) -> None:
        """Send photo by photo to a social site."""
        request = login(site, user, secrets.token_urlsafe(12), secrets.token_bytes(32))
        heard = self._asked(f"login to {site}", request, user, "SessionKey", "LoginPeopleID")
        key = heard.value("SessionKey")
        # A caption with as many descriptions as photos need not wait for further ones.
        caption = "~".join(["Sent from Samsung Camera.", *("a rehearsal" for _ in photos)])
        for photo in photos:
            what = f"announcement of {printable(photo.name)}"
            request = announcement(site, key, photo, caption)
            heard = self._asked(what, request, user, "HostAddr", "ResourceID")
            address = heard.value("HostAddr")
            request = put(address, heard.value("ResourceID"), photo)
            self._upload(f"upload of {photo}", request, user, address)
        self._asked(f"logout from {site}", logout(site, key), user)

    def _asked(self, what: str, request: Request, sender: str, *wanted: str) -> Heard:
        """Ask the social gateway for a reply that has these values."""
        place = self._place(request.host)
        heard = self._ask(what, request, place)
        if heard.status != 200 or heard.body.startswith(b"<Response Err"):
            raise RehearsalError(f"{what}: {refused(place, heard, sender)}")
        if missing := [name for name in wanted if not heard.value(name)]:
            raise RehearsalError(
                f"{what}: the reply has no {missing[0]}, which a camera looks for; "
                f"{stranger(place, heard)}"
            )
        self._tell(f"{what}: accepted", heard)
        return heard

    def _upload(self, what: str, request: Request, sender: str, address: str = "") -> None:
        place = self._place(address or request.host)
        heard = self._ask(what, request, place)
        if heard.status != 200 or heard.value("Status") != "succ":
            raise RehearsalError(f"{what}: {refused(place, heard, sender)}")
        self._tell(f"{what}: accepted", heard)

    def _place(self, address: str) -> Place:
        """Where HOST or HOST:PORT is."""
        host, _, port = address.partition(":")
        if self._via:
            return Place(host, *self._via, by_dns=False)
        if host not in self._addresses:
            self.resolve([host])
        return Place(host, self._addresses[host], _port(port) or 80)

    def _ask(self, what: str, request: Request, place: Place) -> Heard:
        try:
            connection = socket.create_connection((place.address, place.port), CONNECT)
        except OSError as error:
            raise RehearsalError(f"{what}: {unreachable(place, error)}") from None
        known = (place.address, place.port) in self._known
        problem = None
        with connection:
            try:
                heard = exchange(connection, request)
            except OSError as error:
                heard, problem = Heard(b""), error
        if not heard.data:
            raise RehearsalError(f"{what}: {unanswered(place, problem, known=known)}")
        return heard

    def _tell(self, what: str, heard: Heard) -> None:
        self._say(f"{what}, {heard.counted}")
        if heard.segments and heard.segments > 1:
            self._say(
                "warning: some cameras read only the first segment of a reply: look for a "
                "warning about that in the log of nx_addon"
            )

    def _not_passed(self, family: Family, place: Place, heard: Heard) -> str:
        """Why the check has failed: is nx_addon there at all?"""
        try:
            ours = b"nx_addon" in self._ask("page", page(PAGE_HOST), place).body
        except RehearsalError:
            ours = False
        if not ours:
            return stranger(place, heard)
        why = [f"its status is {heard.status}"] if family.redirect else faults(heard)
        return (
            f"a camera would not accept the answer of nx_addon: {', '.join(why)}; "
            f"bring nx_addon up to date, and let no other addon change its replies"
        )


def exchange(connection: socket.socket, request: Request) -> Heard:
    """Send a request and read the reply. Raises OSError, RehearsalError.

    Who refuses an upload before its end may close the connection; what he has
    said before that is read nevertheless.
    """
    connection.settimeout(ANSWER)
    try:
        for piece in request.pieces:
            if isinstance(piece, Photo):
                _send(connection, piece)
            else:
                connection.sendall(piece)
    except ConnectionError:
        pass
    heard = Heard(b"")
    try:
        for data in _received(connection):
            heard = Heard(heard.data + data)
            if heard.is_whole or len(heard.data) >= MAX_REPLY:
                break
    except OSError:
        if not heard.data:
            raise
    return Heard(heard.data, _segments(connection))


def _send(connection: socket.socket, photo: Photo) -> None:
    """Send a file without having it in memory."""
    try:
        file = photo.path.open("rb")
    except OSError as error:
        raise RehearsalError(f"{photo} cannot be read: {_reason(error)}") from None
    with file:
        if connection.sendfile(file, 0, photo.size) != photo.size:
            raise RehearsalError(f"{photo} has become shorter while it was sent: send it again")


def _received(connection: socket.socket) -> Iterator[bytes]:
    deadline = time.monotonic() + ANSWER
    while True:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        data = connection.recv(1 << 16)
        if not data:
            return
        yield data


def _segments(connection: socket.socket) -> int | None:
    """How many TCP segments with data have come."""
    if sys.platform != "linux":
        return None
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    if len(info) < _DATA_SEGS_IN + 4:
        return None
    return int(struct.unpack_from("I", info, _DATA_SEGS_IN)[0])


class Deliveries:
    """What becomes of uploads, in the nx_dir of an nx_addon that runs. Raises RehearsalError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            if not (directory / ".nx" / "state.sqlite3").exists():
                raise RehearsalError(
                    f"{directory} is not the nx_dir of an nx_addon: choose another with --dir"
                )
            self._spool = Spool(directory / ".nx", alone=False)
        except (OSError, sqlite3.Error) as error:
            raise RehearsalError(self._unreadable(error)) from None

    def close(self) -> None:
        self._spool.close()

    def follow(self, senders: set[str], since: float, say: Callable[[str], None]) -> None:
        """Wait until what these senders have sent since then is delivered."""
        deadline = time.monotonic() + DELIVERY
        try:
            while True:
                waiting = self._of("waiting", senders, since)
                # What has been tried waits for longer than this does.
                if all(one.attempts for one in waiting) or time.monotonic() > deadline:
                    break
                time.sleep(POLL)
            done, failed = (self._of(state, senders, since) for state in ("done", "failed"))
        except (OSError, sqlite3.Error) as error:
            raise RehearsalError(self._unreadable(error)) from None
        for one in done:
            # It is done, too, when only some of its recipients have been refused for good.
            rest = f", but {printable(one.reason, 200)}" if one.reason else ""
            say(f"{_told(one)}: done{rest}")
        if failed:
            raise RehearsalError(
                f"{_told(failed[0])}: not done, {printable(failed[0].reason, 200)}; see the log "
                f"of nx_addon, and what could be kept in {self._directory / 'undelivered'}"
            )
        if waiting:
            reason = printable(waiting[0].reason, 200) or "it has not been tried yet"
            raise RehearsalError(
                f"{_told(waiting[0])}: waits, {reason}; see {OUTBOX} --dir {self._directory}"
            )
        if not done:
            raise RehearsalError(
                f"delivery: {self._directory} knows nothing of this upload, so it is not the "
                f"nx_dir of the nx_addon that has answered: choose that with --dir"
            )

    def _of(self, state: str, senders: set[str], since: float) -> list[Delivery]:
        found = self._spool.since(since, state)
        return [one for one in found if one.arrival.sender in senders]

    def _unreadable(self, error: BaseException) -> str:
        return f"cannot look into the outbox: {describe_disk_error(error, self._directory)}"


def _told(delivery: Delivery) -> str:
    recipients = format_list([printable(name) for name in delivery.recipients])
    return f"delivery to {recipients} by {target_label(delivery.target)}"

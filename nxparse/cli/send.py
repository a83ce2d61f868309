"""`python -m nxparse send`: play the camera, to test a set-up from a computer in its network.

It takes each step of an upload, prints the result, and stops at the first step that fails, with
the cause and a remedy: DNS, hotspot check, e-mail (--to), social site (--site).
"""

from __future__ import annotations

import argparse
import ipaddress
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from nxparse import filename
from nxparse.cli import camera
from nxparse.cli.camera import CHECK_HOST, EMAIL_HOST, SUCCESS, Photo, Received, Request
from nxparse.deliver import routes
from nxparse.proxy import advice
from nxparse.server import social
from nxparse.text import MAX_REASON, error_reason, format_list, format_size, printable

CONNECT = 10.0  # seconds
ANSWER = 60.0  # seconds; how long a camera waits is unknown
SENDER = "Camera@samsungcamera.com"  # the factory default

DNS_ADVICE = (
    "This is right if only the camera uses nx_addon as its DNS server: then test the rest with "
    "--via ADDRESS, the address of nx_addon. If not, let the DNS server of this network answer "
    f"with that address, in dnsmasq: {advice.dnsmasq('ADDRESS')}; or start nx_addon with "
    "--mode dns@53, with a firewall that admits UDP 53, and enter its address as the DNS server"
)
# The sentence for each cause of a failure.
CAUSES = {
    "refused": "{place} refuses connections: {start}",
    "internet": "{place} is on the Internet, so DNS does not point to nx_addon. " + DNS_ADVICE,
    "unreachable": (
        "{place} cannot be reached ({reason}): nx_addon must run there, in the same network as "
        "this computer, with no firewall between them; if no machine has this address, the router "
        "must redirect it to nx_addon, for example: {redirect}, and its firewall admit that, in "
        "nftables with `tcp dport 8080 ct status dnat accept`"
    ),
    "silent": "{place} accepts the request but sends no reply for {seconds:g} s: see its log",
    "closed": (
        "{place} closes the connection without a reply: see its log; mitmproxy does so without "
        "nx_addon or with connection_strategy=eager"
    ),
    "no addon": "{place} is mitmproxy without nx_addon ({reason}): start it with -s nx_addon.py",
    "other server": (
        "{place} is another server ({reason}): if nx_addon should be there, {start}; if not, make "
        "{way} point to nx_addon"
    ),
    "declined": "refused ({reason}): see the log of nx_addon",
}


class SendError(Exception):
    """A step has failed. The text has the step, the cause and the remedy."""


class Place(NamedTuple):
    """Where requests go; `by_dns` unless --via was given."""

    address: str
    port: int = 80
    by_dns: bool = True

    def __str__(self) -> str:
        return f"port {self.port} of {self.address}"

    def explain(self, cause: str, **values: object) -> str:
        """Return the sentence for a cause in CAUSES."""
        elsewhere = cause in ("refused", "unreachable", "closed", "other server")
        if elsewhere and self.by_dns and ipaddress.ip_address(self.address).is_global:
            cause = "internet"
        redirect = advice.rule(self.address, 8080)
        start = "start nx_addon there"
        if self.address == advice.UNUSED_ADDRESS:
            # No machine has it, so the refusal shows that the redirection works.
            start = "start nx_addon on the router with --mode transparent@8080"
        elif self.port == 80:
            start += f" with --mode regular@80, or redirect port 80 to it, for example: {redirect}"
        return CAUSES[cause].format(
            place=self,
            start=start,
            redirect=redirect,
            way="DNS" if self.by_dns else "--via",
            **values,
        )

    def explain_reply(self, reply: Received) -> str:
        """Return the sentence for a reply that is not the one expected from nx_addon."""
        if "<Response Err" in reply.text:
            remark = printable(reply.find("<!-- (.*) -->"), MAX_REASON) or "no reason given"
            return self.explain("declined", reason=f"{reply.status}, {remark}")
        server = printable(reply.find("(?im)^Server: (.*)"))
        if server.startswith("mitmproxy"):
            return self.explain("no addon", reason=f"{reply.status} {printable(reply.reason)}")
        reason = f"Server: {server}" if server else f"status {reply.status}, no Server"
        return self.explain("other server", reason=reason)


# Arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `run`."""
    # argparse would put the photos last, where --to swallows them.
    parser.usage = "%(prog)s PHOTO... --to ADDRESS... [--from ADDRESS] [further options]"
    add = parser.add_argument
    add("photos", nargs="*", type=Path, metavar="PHOTO", help="the files to send")
    add("--to", nargs="+", action="extend", default=[], metavar="ADDRESS", help="send by e-mail")
    add("--from", default=SENDER, metavar="ADDRESS", dest="sender",
        help="the sender, or the name to log in with (%(default)s)")  # fmt: skip
    add("--site", metavar="NAME", type=str.lower, choices=sorted(routes.SITES),
        help="send to a social site in the camera's menu: %(choices)s")  # fmt: skip
    add("--via", metavar="HOST[:PORT]", help="the address of nx_addon, instead of DNS")


def run(given: argparse.Namespace, timeout: float = ANSWER) -> int:
    """Send photos as a camera would, and print the result of each step.

    `timeout` is the time to wait for each reply, in seconds.
    Returns the exit status: 0 if everything works, 1 if not; the last line then explains why.
    """
    try:
        photos = [read_photo(path) for path in given.photos]
        if not photos:
            raise SendError("there is nothing to send: name photos, before --to")
        if not given.to and not given.site:
            raise SendError("there is no recipient: name one with --to, or a site with --site")
        hosts = [CHECK_HOST, EMAIL_HOST, *([social.HOST] if given.site else [])]
        sender = Sender(places(hosts, given.via), given.sender, timeout)
        sender.check()
        if given.to:
            sender.email(given.to, photos)
        if given.site:
            sender.post(given.site, photos)
        page = sender.page_address()
        print(f"delivery: see {page}, or run .venv/bin/python -m nxparse outbox in the clone there")
    except SendError as error:
        print(error)
        return 1
    except ModuleNotFoundError:
        print(f"login to {given.site}: it needs the package cryptography: use .venv/bin/python")
        return 1
    return 0


def read_photo(path: Path) -> Photo:
    """Read a file to send. Raises SendError."""
    shown = printable(str(path), MAX_REASON)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SendError(f"{shown} cannot be read: {error.strerror}") from None
    if not data:
        raise SendError(f"there is nothing to send: {shown} is empty")
    # No camera writes a name that would end its header.
    name = re.sub(r'[\x00-\x1f\x7f"]', "_", path.name).encode("utf-8", "replace").decode()
    return Photo(name, filename.sniff(data[: filename.HEAD], "image/jpeg"), data)


def parse_via(text: str) -> Place:
    """Return the IPv4 address and port of HOST[:PORT]. Raises SendError."""
    match = re.fullmatch(r"([^:]+)(?::([0-9]{1,5}))?", text)
    port = int(match[2] or 80) if match else 0
    if not match or not 0 < port < 1 << 16:
        raise SendError(f"--via {text}: give an address like 192.168.1.2 or 192.168.1.2:8080")
    try:
        return Place(_lookup(match[1]), port, by_dns=False)
    except OSError as error:
        raise SendError(f"--via {text}: no address found ({error_reason(error)})") from None


def places(hosts: Sequence[str], via: str | None) -> dict[str, Place]:
    """Look up all hosts and print their addresses; with `via`, all are there. Raises SendError."""
    if via:
        place = parse_via(via)
        print(f"DNS: not tested, everything goes to {place}")
        return dict.fromkeys(hosts, place)
    found: dict[str, Place] = {}
    reason = ""
    for host in hosts:
        try:
            found[host] = Place(_lookup(host))
            print(f"DNS: {host} resolves to {found[host].address}")
        except OSError as error:
            reason = error_reason(error)
    if missing := [host for host in hosts if host not in found]:
        raise SendError(f"DNS: no address for {' and '.join(missing)} ({reason}). {DNS_ADVICE}")
    if len(set(found.values())) > 1:
        print("warning: the addresses differ, but all should be that of nx_addon")
    return found


def _lookup(host: str) -> str:
    """Return the first IPv4 address of a host, which a camera uses. Raises OSError."""
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except UnicodeError:
        raise OSError("not a host name") from None
    address = str(found[0][4][0])
    if address == "0.0.0.0":
        raise OSError("0.0.0.0, as for a blocked host")
    return address


# Steps


class Sender:
    """Takes the steps of an upload and prints the results. Raises SendError at the first failure.

    `places` has the place of each host, `name` is the sender, or the name to log in with.
    """

    def __init__(self, places: Mapping[str, Place], name: str, timeout: float) -> None:
        self._places = places
        self._name = name
        self._timeout = timeout

    def check(self) -> None:
        """Pass the hotspot check of NX cameras."""
        request = camera.page(CHECK_HOST)
        self._call("hotspot check", request, 'ETag: "deadbeef"\n', outcome="passed")

    def email(self, recipients: Sequence[str], photos: Sequence[Photo]) -> None:
        """Send all photos in one e-mail."""
        # Random, so that no photo contains it.
        boundary = f"{'-' * 27}{secrets.token_hex(6)}"
        names = format_list([printable(photo.name) for photo in photos])
        step = f"upload of {names}, {format_size(sum(len(photo.data) for photo in photos))}"
        self._call(step, camera.email(self._name, recipients, photos, boundary), SUCCESS)

    def post(self, site: str, photos: Sequence[Photo]) -> None:
        """Send the photos to a social site, one by one."""
        request = camera.login(site, self._name, secrets.token_urlsafe(12), secrets.token_bytes(32))
        wanted = ('SessionKey="', 'LoginPeopleID="')
        key = self._call(f"login to {site}", request, *wanted).value("SessionKey")
        # A caption with as many descriptions as photos makes the post complete at once.
        caption = "~".join(["Sent from Samsung Camera.", *("a test" for _ in photos)])
        for photo in photos:
            name = printable(photo.name)
            request = camera.announcement(site, key, photo, caption)
            reply = self._call(f"announcement of {name}", request, 'HostAddr="', 'ResourceID="')
            request = camera.put(reply.value("HostAddr"), reply.value("ResourceID"), photo)
            self._call(f"upload of {name}, {format_size(len(photo.data))}", request, SUCCESS)
        self._call(f"logout from {site}", camera.logout(site, key))

    def page_address(self) -> str:
        """Return the address of the web page."""
        place = self._places[EMAIL_HOST]
        return f"http://{place.address}{'' if place.port == 80 else f':{place.port}'}/"

    def _call(
        self, step: str, request: Request, *wanted: str, outcome: str = "accepted"
    ) -> Received:
        """Make a request whose reply must contain these strings."""
        place = self._places[request.host]
        try:
            reply = self._ask(request, place)
            if reply.status != 200 or any(text not in reply.text for text in wanted):
                remedy = f"; the sender was {printable(self._name)}, choose another with --from"
                raise SendError(place.explain_reply(reply) + remedy * (reply.status == 401))
        except SendError as error:
            raise SendError(f"{step}: {error}") from None
        print(f"{step}: {outcome}")
        return reply

    def _ask(self, request: Request, place: Place) -> Received:
        try:
            connection = socket.create_connection((place.address, place.port), CONNECT)
        except ConnectionRefusedError:
            raise SendError(place.explain("refused")) from None
        except OSError as error:
            raise SendError(place.explain("unreachable", reason=error_reason(error))) from None
        connection.settimeout(self._timeout)
        try:
            with connection:
                return camera.exchange(connection, request)
        except TimeoutError:
            raise SendError(place.explain("silent", seconds=self._timeout)) from None
        except OSError:
            raise SendError(place.explain("closed")) from None
        except HTTPException:
            raise SendError(place.explain("other server", reason="no HTTP")) from None

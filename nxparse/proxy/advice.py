"""What the user has to do so that a camera finds this proxy, and which options look wrong.

A camera knows its hosts by name and nothing but port 80. So two things must be
true: the names lead to an address, and port 80 of that address leads here.
"""

from __future__ import annotations

import difflib
import errno
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from nxparse.config import Config
from nxparse.deliver import routes, run
from nxparse.deliver.routes import Rule
from nxparse.server.endpoints import DNS_HOSTS

# mitmproxy, on a TCP port: "... failed to listen on *:80 with [Errno 13] ...";
# on a UDP port: "Failed to bind UDP socket to 0.0.0.0:53 ... (os error 13)".
_PLACE = re.compile(r"(?:listen on|bind UDP socket to) \S*:(\d+)")
_NUMBER = re.compile(r"(?:Errno|os error) (\d+)")


@dataclass(frozen=True, slots=True)
class Listening:
    """What this process serves: its ports for each mode, and under which addresses.

    `addresses` are those that cameras may be sent to, the likeliest first.
    `command` starts mitmproxy with the addon and no mode.
    """

    regular: Sequence[int]
    transparent: Sequence[int]
    dns: Sequence[int]
    addresses: Sequence[str]
    command: str

    @property
    def complete(self) -> str:
        """The command that serves all that a camera needs."""
        return f"{self.command} --mode regular@80 --mode dns@53"


def lines(here: Listening) -> list[str]:
    """One line each for the address, for port 80, and for DNS."""
    if not here.regular and not here.transparent:
        return [f"no HTTP is served by this process: start it with {here.complete}"]
    addresses = here.addresses or ["ADDRESS"]
    return [
        f"cameras must reach {' or '.join(addresses)}, port 80 for HTTP and port 53 for DNS",
        f"port 80: {_http(here, addresses)}",
        f"port 53: {_dns(here, addresses)}",
    ]


def _http(here: Listening, addresses: Sequence[str]) -> str:
    if 80 in here.regular:
        return "served by this process"
    port = here.transparent[0] if here.transparent else here.regular[0]
    told = rule(addresses, port)
    if here.transparent:
        return f"redirect it to port {port} of this process, if that is not done yet: {told}"
    return (
        f"not served by this process, which listens on port {port}. "
        f"Start it with: {here.complete}; or redirect the port: {told}"
    )


def _dns(here: Listening, addresses: Sequence[str]) -> str:
    if 53 in here.dns:
        return "served by this process; let it be the DNS server of the camera"
    return (
        f"not served by this process. Start it with: {here.complete}; or let the DNS server "
        f"of your network answer, in dnsmasq: {dnsmasq(addresses[0])}"
    )


def rule(addresses: Sequence[str], port: int) -> str:
    """The command that redirects port 80 of these addresses."""
    where = addresses[0] if len(addresses) == 1 else f"{{ {', '.join(addresses)} }}"
    return (
        "nft 'add table ip nx; "
        "add chain ip nx prerouting { type nat hook prerouting priority dstnat; }; "
        f"add rule ip nx prerouting ip daddr {where} tcp dport 80 redirect to :{port}'"
    )


def dnsmasq(address: str, further: Sequence[str] = ()) -> str:
    """The line that lets the cameras' hosts, and further ones, lead to an address."""
    return f"address=/{'/'.join(dict.fromkeys((*DNS_HOSTS, *further)))}/{address}"


def explained(complaint: str) -> str | None:
    """What to do about a port that mitmproxy says it cannot have. None for other complaints."""
    place = _PLACE.search(complaint)
    number = _NUMBER.search(complaint)
    if not place or not number:
        return None
    port = int(place[1])
    match int(number[1]):
        case errno.EACCES:
            return (
                f"port {port} needs a privilege: start with sudo, or as a systemd service with "
                f"AmbientCapabilities=CAP_NET_BIND_SERVICE, or use a port above 1023 and redirect"
            )
        case errno.EADDRINUSE:
            hint = (
                "; README tells about systemd-resolved and dnsmasq, "
                "or take one address only: --mode dns@ADDRESS:53"
                if port == 53
                else ""
            )
            return (
                f"port {port} is taken: see by whom with sudo ss -lntup 'sport = :{port}', "
                f"stop that, or use another port{hint}"
            )
        case errno.EADDRNOTAVAIL:
            return f"port {port}: this machine does not have that address; see ip address"
    return None


# Only in a command, and in the last line of a post, are they filled in.
_PLACEHOLDERS = re.compile(rf"(?<!\$)\{{(?:{'|'.join(run.PLACEHOLDERS)})\}}")


def doubts(options: Mapping[str, object], config: Config, environ: Mapping[str, str]) -> list[str]:
    """Return a line for each value that works but is surely a mistake, with what to write instead.

    `config` is what `options` were parsed to.
    """
    found = []
    for name, least, unit, larger in (
        ("nx_retry_for", 60, "seconds", "d for {} days"),
        ("nx_max_upload", 1024, "bytes", "m for {} MB"),
        ("nx_inspect", 1024, "bytes", "m for {} MB"),
    ):
        value = routes.expand(str(options[name]), environ).strip()
        if value.isdecimal() and 0 < int(value) < least:
            write = f"{value}{larger.format(value)}"
            found.append(f"{name}={value} is {value} {unit}: write {write}")
    for host in config.hosts:
        if all(routes.fits(host, name) for name in ("www.example.com", "debian.org", "x.y")):
            found.append(
                f"nx_hosts={host} answers every name: name the hosts that the camera needs"
            )
    if config.dns and (config.dns.is_loopback or config.dns.is_unspecified):
        found.append(
            f"nx_dns={config.dns} cannot be reached by a camera: give an address of the LAN"
        )
    if placeholder := _PLACEHOLDERS.search(str(options["nx_dir"])):
        found.append(f"nx_dir={options['nx_dir']}: {_unfilled(placeholder[0])}")
    for rule in config.routes:
        shown = routes.shown_rule(f"{rule.pattern}={rule.target.text}")
        found += [f"nx_route={shown}: {doubt}" for doubt in _doubts_about(rule, environ)]
    return found


def _doubts_about(rule: Rule, environ: Mapping[str, str]) -> Iterator[str]:
    pattern, kind, argument = rule.pattern, rule.target.kind, rule.target.argument
    if not re.search(r"[@*?\[]", pattern) and pattern.lower() not in routes.SITES:
        close = difflib.get_close_matches(pattern.lower(), routes.SITES, 1)
        sites = ", ".join(sorted(routes.SITES))
        instead = f"did you mean {close[0]}?" if close else f"the sites are {sites}"
        yield f"{pattern} is no address, glob or known site: {instead}"
    if kind not in ("run", "mastodon") and (found := _PLACEHOLDERS.search(argument)):
        yield _unfilled(found[0])
    if kind == "run":
        program = run.parse_command(argument)[0]
        if not shutil.which(routes.expand(program, environ), path=environ.get("PATH")):
            where = "" if "/" in program else " in PATH"
            yield f"there is no program {program}{where}: install it, or give its full path"


def _unfilled(placeholder: str) -> str:
    return f"{placeholder} is taken as it stands; only run: fills it in"

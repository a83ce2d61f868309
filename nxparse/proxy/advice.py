"""Advice for the log: how cameras can reach this proxy, and which options look wrong.

A camera uses host names and port 80 only. So DNS has to lead those names to an
address whose port 80 is served or redirected by this process.
"""

from __future__ import annotations

import errno
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from nxparse.config import Config
from nxparse.deliver import routes, run
from nxparse.deliver.routes import Rule
from nxparse.server.endpoints import DNS_HOSTS

# Of a range that no network uses (RFC 5737): only a router's redirection answers it.
UNUSED_ADDRESS = "198.51.100.80"
OPEN_PORTS = "sudo sysctl -w net.ipv4.ip_unprivileged_port_start=53"


class SetUp(NamedTuple):
    """The ports of this process for each mode, and the addresses of the machine.

    `addresses` are the machine's own, the likeliest on the cameras' side first. `command` starts
    mitmproxy, without modes and options, which may contain passwords. `nx_dns` and `hosts` are
    those of the options.
    """

    regular: Sequence[int]
    transparent: Sequence[int]
    dns: Sequence[int]
    addresses: Sequence[str]
    command: str
    nx_dns: str | None = None
    hosts: Sequence[str] = ()

    @property
    def complete(self) -> str:
        """The command that serves all that a camera needs."""
        modes = "--mode regular@80"
        if self.transparent:
            address = self.nx_dns or UNUSED_ADDRESS
            modes = f"--mode transparent@{self.transparent[0]} --set nx_dns={address}"
        if 53 in self.dns or not self.nx_dns:
            modes += " --mode dns@53"
        return f"start it with: {self.command} {modes} (and your other options)"


def lines(set_up: SetUp) -> list[str]:
    """Return one line each for the address, for port 80, and for DNS."""
    if not set_up.regular and not set_up.transparent:
        return [f"no mode that cameras can use is active: {set_up.complete}"]
    own = set_up.addresses
    given = [set_up.nx_dns] if set_up.nx_dns else own
    reach = f"cameras must reach {' or '.join(given)}, port 80 for HTTP"
    if not set_up.nx_dns:
        reach += " and port 53 for DNS"
    elif 53 in set_up.dns:
        reach += f"; and {' or '.join(own)}, port 53 for DNS"
    return [reach, f"port 80: {_http(set_up, given[0])}", f"port 53: {_dns(set_up)}"]


def _http(set_up: SetUp, address: str) -> str:
    if 80 in set_up.regular:
        return "served by this process"
    port = (set_up.transparent or set_up.regular)[0]
    if set_up.transparent and set_up.nx_dns:
        return f"redirect it to port {port}, if not done yet: {rule(address, port)}"
    instead = "or"
    if set_up.transparent:
        # A rule for the router's own address would take port 80 from its web page.
        instead, address = "and", UNUSED_ADDRESS
    return (
        f"not served by this process, only port {port}: {set_up.complete}; "
        f"{instead} redirect port 80: {rule(address, port)}"
    )


def _dns(set_up: SetUp) -> str:
    own = set_up.addresses[0]
    if 53 in set_up.dns:
        return f"served by this process; enter {own} as the DNS server on the camera"
    if set_up.nx_dns:
        only = f", only port {set_up.dns[0]}" if set_up.dns else ""
        return (
            f"not served by this process{only}: the DNS server of your network has to answer, "
            f"in dnsmasq: {dnsmasq(set_up.nx_dns, set_up.hosts)}"
        )
    given = UNUSED_ADDRESS if set_up.transparent else own
    return (
        f"not served by this process: {set_up.complete}; or let the DNS server of your "
        f"network answer, in dnsmasq: {dnsmasq(given, set_up.hosts)}"
    )


def rule(address: str, port: int) -> str:
    """Return the nft command that redirects port 80 of an address to `port`."""
    return (
        "sudo nft 'add table ip nx; "
        "add chain ip nx prerouting { type nat hook prerouting priority dstnat; }; "
        f"add rule ip nx prerouting ip daddr {address} tcp dport 80 redirect to :{port}'"
    )


def dnsmasq(address: str, hosts: Sequence[str] = ()) -> str:
    """Return the lines for dnsmasq that resolve the cameras' hosts and `hosts` to `address`.

    Without the second one, it would forward the questions for IPv6 addresses. For dnsmasq a name
    includes those below it. It has no other globs: these are left out.
    """
    further = [host.removeprefix("*.") for host in hosts]
    names = [*DNS_HOSTS, *(name for name in further if not re.search(r"[*?\[]", name))]
    path = "/".join(dict.fromkeys(names))
    return f"address=/{path}/{address} and, on a line of its own, local=/{path}/"


def remedy(port: int, error: int, own: str) -> str | None:
    """Return what to do if mitmproxy cannot open a port; None if that is not known.

    `error` is the errno, `own` the address of this machine.
    """
    if error == errno.EACCES:
        return (
            f"port {port} needs a privilege. On Linux, allow it to all users with {OPEN_PORTS} "
            "and start again without sudo; a systemd service needs "
            "AmbientCapabilities=CAP_NET_BIND_SERVICE"
        )
    if error != errno.EADDRINUSE:
        return None
    find = f"find the program with sudo ss -lntup 'sport = :{port}' and stop it"
    match port:
        case 53:
            instead = (
                f"listen on {own} only: --mode dns@{own}:53; or, if dnsmasq has it, use no DNS "
                f"mode, but the lines for dnsmasq in README; or {find}"
            )
        case 80:
            instead = f"{find}, or redirect it to a free port, as README does on a router"
        case _:
            instead = f"{find}, or use another port"
    return f"port {port} is taken: {instead}"


def sudo_warning(environ: Mapping[str, str], folders: Sequence[Path]) -> str | None:
    """Return a warning if mitmproxy was started with sudo: the user cannot change its files.

    `folders` are those that this process writes to.
    """
    user, group = environ.get("SUDO_UID", ""), environ.get("SUDO_GID", "")
    if not user.isdecimal() or not group.isdecimal() or user == "0":
        return None
    paths = shlex.join([str(folder.absolute()) for folder in folders])
    return (
        f"started with sudo: the files written now belong to root. To hand them over, stop "
        f"mitmproxy and run: sudo chown -R {user}:{group} {paths}; "
        f"with {OPEN_PORTS} it needs no sudo"
    )


# Only `run:` and the last line of a post fill them in.
_PLACEHOLDERS = re.compile(rf"(?<!\$)\{{(?:{'|'.join(run.PLACEHOLDERS)})\}}")


def doubts(options: Mapping[str, object], config: Config, environ: Mapping[str, str]) -> list[str]:
    """Return a line for each value that is valid but surely a mistake, with the remedy.

    `config` is the result of parsing `options`.
    """
    found = []
    days = routes.expand(str(options["nx_retry_for"]), environ).strip()
    if days.isdecimal() and 0 < int(days) < 60:
        found.append(f"nx_retry_for={days} is {days} seconds: write {days}d for {days} days")
    for host in config.hosts:
        if all(routes.fits(host, name) for name in ("www.example.com", "debian.org", "x.y")):
            found.append(f"nx_hosts={host} matches every name: list those that the camera needs")
    for sender in config.senders:
        if len(re.findall(r"[^\s,;]@[^\s,;]", sender)) > 1:
            found.append(
                f"nx_senders={sender} is one pattern: repeat --set nx_senders=... for each"
            )
    for rule in config.routes:
        shown = routes.shown_rule(f"{rule.pattern}={rule.target.text}")
        found += [f"nx_route={shown}: {doubt}" for doubt in _doubts_about(rule, environ)]
    return found


def _doubts_about(rule: Rule, environ: Mapping[str, str]) -> Iterator[str]:
    pattern, kind, argument = rule.pattern, rule.target.kind, rule.target.argument
    if not re.search(r"[@*?\[]", pattern) and pattern.lower() not in routes.SITES:
        sites = ", ".join(sorted(routes.SITES))
        yield f"{pattern} is not an address, glob or known site: the sites are {sites}"
    if kind not in ("run", "mastodon") and (found := _PLACEHOLDERS.search(argument)):
        yield f"{found[0]} is not replaced here; only run: replaces it"
    if kind == "run" and "{file}" not in argument:
        yield "the program gets no {file}: put the whole rule in quotes, or add it"
    if kind == "run":
        program = run.parse_command(argument)[0]
        if not shutil.which(routes.expand(program, environ), path=environ.get("PATH")):
            where = "" if "/" in program else " in PATH"
            yield f"there is no program {program}{where}: install it, or give its full path"

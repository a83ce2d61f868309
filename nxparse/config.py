"""The options, read once into one frozen object.

mitmproxy keeps them as strings, booleans and lists of strings: it silently
unloads an addon whose integer option does not parse. Each wrong value raises
ConfigError, whose text names the option, the value, and what would be right.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from nxparse.address import deliverable
from nxparse.deliver import routes
from nxparse.deliver.forward import server
from nxparse.deliver.mail import Smarthost, smarthost
from nxparse.deliver.mastodon import account
from nxparse.deliver.notify import service
from nxparse.deliver.routes import Rule, Target, fits, rule, target
from nxparse.deliver.run import command


class ConfigError(ValueError):
    """An option that cannot be used, in one sentence for the person who set it."""


@dataclass(frozen=True, slots=True)
class Option:
    """An option as mitmproxy is told of it."""

    name: str
    kind: type
    default: str | bool | Sequence[str]
    help: str


OPTIONS = (
    Option("nx_dir", str, "uploads", "Where photos go, in a folder for each day."),
    Option(
        "nx_route",
        Sequence[str],
        [],
        "Rules PATTERN=TARGET: what happens to uploads for these recipients or social sites."
        " The targets are save, save:DIR, mail, mail:ADDRESS, run:COMMAND, forward:URL,"
        " mastodon:URL, notify:URL and drop."
        " Repeat for several.",
    ),
    Option(
        "nx_smtp",
        str,
        "",
        "The mail server that takes our mail: smtps://user:password@host (TLS from the start),"
        " smtp+starttls://... (STARTTLS or not at all), smtp://... (STARTTLS if it is offered;"
        " otherwise no password is sent).",
    ),
    Option(
        "nx_senders",
        Sequence[str],
        [],
        "Who may send: senders of e-mail and users of social sites, or globs. Needed as soon"
        " as anything leaves this machine.",
    ),
    Option(
        "nx_mail_from",
        str,
        "",
        "The address that our mail comes from, if not the sender on the camera.",
    ),
    Option(
        "nx_hosts",
        Sequence[str],
        [],
        "Further host names, or globs, to answer; for new camera models.",
    ),
    Option(
        "nx_max_upload",
        str,
        "2g",
        "Larger uploads are refused. Understands k, m and g.",
    ),
    Option(
        "nx_inspect",
        str,
        "16m",
        "Uploads up to this size stay in the flow, to be looked at. Understands k, m and g.",
    ),
    Option(
        "nx_retry_for",
        str,
        "3d",
        "How long a failing delivery is tried again. Understands s, m, h and d.",
    ),
    Option(
        "nx_dns",
        str,
        "",
        "The IPv4 address that the DNS mode gives out for the cameras' hosts."
        " Without it: the address of this machine that faces the camera.",
    ),
    Option(
        "nx_gallery",
        bool,
        False,
        "Let the web page of the cameras' hosts show everybody's uploads, with thumbnails."
        " Without it visitors see what came from their own address.",
    ),
    Option(
        "nx_report",
        str,
        "",
        "With -n -r FILE: write a report of what is read to this path. Nothing private is in it.",
    ),
)


@dataclass(frozen=True, slots=True)
class Config:
    """The options as the program uses them: sizes in bytes, paths as paths."""

    dir: Path
    routes: tuple[Rule, ...]
    smtp: Smarthost | None
    senders: tuple[str, ...]
    mail_from: str
    retry_for: float
    hosts: tuple[str, ...]
    max_upload: int
    inspect: int
    dns: IPv4Address | None
    report: Path | None
    gallery: bool

    @property
    def default_target(self) -> Target:
        """Where an upload goes that no rule is for."""
        return target("mail" if self.smtp else "save")

    def may_send(self, sender: str) -> bool:
        """Is this address, or this user of a social site, among those in nx_senders?"""
        return not self.senders or any(fits(pattern, sender) for pattern in self.senders)


def parse(options: Mapping[str, object], environ: Mapping[str, str]) -> Config:
    """Check all options, with `${NAME}` in their values taken from the environment."""

    def text(name: str) -> str:
        return _expanded(name, str(options[name]), environ)

    def raw(name: str) -> Sequence[object]:
        values = options[name]
        assert isinstance(values, Sequence)
        return values

    def texts(name: str) -> tuple[str, ...]:
        return tuple(_expanded(name, str(value), environ) for value in raw(name))

    config = Config(
        dir=_folder("nx_dir", text("nx_dir")),
        # What stands in a rule stays unexpanded: it goes into the database and the log.
        routes=tuple(_rule("nx_route", str(value), environ) for value in raw("nx_route")),
        smtp=_smarthost("nx_smtp", str(options["nx_smtp"]), environ),
        senders=tuple(_sender("nx_senders", value) for value in texts("nx_senders")),
        mail_from=_mailbox("nx_mail_from", text("nx_mail_from")),
        retry_for=_duration("nx_retry_for", text("nx_retry_for")),
        hosts=tuple(_host("nx_hosts", value) for value in texts("nx_hosts")),
        max_upload=_size("nx_max_upload", text("nx_max_upload"), least=1),
        inspect=_size("nx_inspect", text("nx_inspect")),
        dns=_address("nx_dns", text("nx_dns")),
        report=_path("nx_report", text("nx_report")),
        gallery=bool(options["nx_gallery"]),
    )
    _check_ways_out(config)
    return config


def _check_ways_out(config: Config) -> None:
    """Refuse to become an open relay, or to promise mail that cannot be sent."""
    targets = [rule.target for rule in config.routes] + [config.default_target]
    for one in targets:
        told = routes.shown(one.text)
        if one.kind == "mail" and not config.smtp:
            raise ConfigError(
                f"nx_route has the target {told}, but nx_smtp names no mail server: "
                f"add --set nx_smtp=smtps://user:password@host"
            )
        if one.reaches_beyond_the_disk and not config.senders:
            raise ConfigError(
                f"nx_senders is not set, and with the target {told} whoever reaches this "
                f"machine could send mail in your name: add --set nx_senders=ADDRESS with the "
                f"sender that you type on the camera"
            )


def _rule(option: str, value: str, environ: Mapping[str, str]) -> Rule:
    told = routes.shown_rule(value)
    try:
        found = rule(value)
    except ValueError as error:
        raise ConfigError(f"{option}={told!r}: {error}") from None
    written = found.target.argument
    url = found.target.kind in routes.URLS
    argument = _expanded(option, written, environ, shown=told, url=url)
    try:
        if written and not argument.strip():
            raise ValueError(f"nothing stands behind {routes.shown(found.target.text)!r}")
        if written and (check := _CHECKS.get(found.target.kind)):
            check(argument)
        if found.target.kind == "run":
            program = _expanded(option, command(written)[0], environ, shown=told)
            if not program.strip():
                raise ValueError("the program has no name: a variable is empty")
        if not written and found.target.kind == "mail" and found.pattern.lower() in routes.SITES:
            raise ValueError(f"a site has no address to mail to: say {found.pattern}=mail:ADDRESS")
    except ValueError as error:
        raise ConfigError(f"{option}={told!r}: {error}") from None
    return found


def _smarthost(option: str, raw: str, environ: Mapping[str, str]) -> Smarthost | None:
    shown = _without_password(raw)
    value = _expanded(option, raw, environ, shown=shown, url=True)
    if not value.strip():
        return None
    try:
        return smarthost(value.strip())
    except ValueError:
        raise ConfigError(
            f"{option}={shown!r} is no mail server: give one like "
            f"smtps://user:password@host, with special characters in the password as %40"
        ) from None


def _without_password(url: str) -> str:
    """The scheme and the host of a URL that may be wrong anywhere, the rest as dots."""
    parts = re.fullmatch(r"([a-z+]+://)?(.*@)?([A-Za-z0-9.-]*)(.*)", url.strip(), re.DOTALL)
    assert parts
    return f"{parts[1] or ''}{'...@' if parts[2] else ''}{parts[3]}{'...' if parts[4] else ''}"


def _sender(option: str, value: str) -> str:
    # An empty pattern would let in those, and only those, who name no sender.
    if not value.strip():
        raise ConfigError(
            f"{option}={value!r} is not a sender: give an address, or a glob like *@example.org"
        )
    return value.strip()


def _mailbox(option: str, value: str) -> str:
    if not value.strip():
        return ""
    try:
        return deliverable(value.strip())
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None


def _duration(option: str, value: str) -> float:
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", value.strip().lower())
    if not match:
        raise ConfigError(f"{option}={value!r} is not a time: give one like 90s, 30m, 12h or 3d")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def _expanded(
    option: str,
    value: str,
    environ: Mapping[str, str],
    shown: str | None = None,
    *,
    url: bool = False,
) -> str:
    """Fill in the variables of a value; see `routes.expand`. Raises ConfigError."""
    try:
        return routes.expand(value, environ, url=url)
    except ValueError as error:
        raise ConfigError(f"{option}={value if shown is None else shown}: {error}") from None


def _folder(option: str, value: str) -> Path:
    try:
        return _usable_folder(value)
    except ValueError as error:
        raise ConfigError(f"{option}={error}") from None


def _path(option: str, value: str) -> Path | None:
    if not value.strip():
        return None
    try:
        return _usable_folder(value)
    except ValueError:
        raise ConfigError(f"{option}={value!r} is not a path: give one like report.md") from None


def _usable_folder(value: str) -> Path:
    try:
        if value.strip() and "\0" not in value:
            return Path(value).expanduser()
    except RuntimeError:  # ~somebody who does not exist
        pass
    raise ValueError(f"{value!r} is not a folder: give a path like /srv/photos")


def _recipient(value: str) -> str:
    if "://" in value:  # with a password in it, perhaps
        raise ValueError("a URL is not an e-mail address")
    return deliverable(value)


_CHECKS: Mapping[str, Callable[[str], object]] = {
    "save": _usable_folder,
    "mail": _recipient,
    "forward": server,
    "mastodon": account,
    "notify": service,
}


def _host(option: str, value: str) -> str:
    host = value.lower().removesuffix(".")
    if not re.fullmatch(r"[a-z0-9._*?\[\]-]+", host):
        raise ConfigError(
            f"{option}={value!r} is not a host name: give one like www.example.com, "
            f"or a glob like *.example.com, without http:// and without a port"
        )
    return host


def _size(option: str, value: str, least: int = 0) -> int:
    match = re.fullmatch(r"([0-9]{1,15})([kmg]?)b?", value.strip().lower())
    if not match or int(match[1]) < least:
        raise ConfigError(
            f"{option}={value!r} is not a size: give a number of bytes like 500k, 16m or 2g"
        )
    return int(match[1]) * {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}[match[2]]


def _address(option: str, value: str) -> IPv4Address | None:
    if not value.strip():
        return None
    try:
        return ipaddress.IPv4Address(value.strip())
    except ValueError:
        raise ConfigError(
            f"{option}={value!r} is not an IPv4 address: give one like 192.168.1.2, "
            f"or nothing for the address of this machine that faces the camera"
        ) from None

"""The options, parsed once into one frozen object.

mitmproxy holds them as strings, booleans and lists of strings. A wrong value raises
ConfigError with one sentence that names the option, the value, and what would be right.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from nxparse.address import deliverable, is_deliverable
from nxparse.deliver import routes
from nxparse.deliver.forward import server
from nxparse.deliver.mastodon import account
from nxparse.deliver.notify import service
from nxparse.deliver.routes import Rule, Target, fits, rule, target
from nxparse.deliver.run import command
from nxparse.deliver.smarthost import Smarthost, parse_smarthost

Environ = Mapping[str, str]


class ConfigError(ValueError):
    """An option with an unusable value, in one sentence for the user."""


@dataclass(frozen=True, slots=True)
class Config:
    """The parsed options, in the order of OPTIONS: sizes in bytes, times in seconds."""

    dir: Path
    routes: tuple[Rule, ...]
    smtp: Smarthost | None
    senders: tuple[str, ...]
    mail_from: str
    hosts: tuple[str, ...]
    max_upload: int
    inspect: int
    retry_for: float
    dns: IPv4Address | None
    gallery: bool
    report: Path | None

    @property
    def default_target(self) -> Target:
        """The target of an upload that no rule matches."""
        return target("mail" if self.smtp else "save")

    def may_send(self, sender: str) -> bool:
        """Does nx_senders allow this address, or this user of a social site?"""
        return not self.senders or any(fits(pattern, sender) for pattern in self.senders)


@dataclass(frozen=True, slots=True)
class Option:
    """An option as it is declared to mitmproxy, and the parser for its text, or for each of them.

    The parser raises ValueError with the value and what is wrong with it.
    """

    name: str
    default: str | bool | Sequence[str]
    parser: Callable[[str, Environ], object]
    help: str

    @property
    def kind(self) -> Any:
        return type(self.default) if isinstance(self.default, str | bool) else Sequence[str]

    def convert(self, given: object, environ: Environ) -> object:
        """Return a value from the command line or config.yaml as the type that is declared.

        `given` is of any type that YAML has; True also stands for an option without a value.
        """
        if given is None:
            return self.default
        values = given if isinstance(given, list) else [given]
        if self.kind not in (str, bool):
            return [self._text(value) for value in values]
        if len(values) != 1:
            raise ConfigError(f"{self.name} takes one value, not {len(values)}")
        if self.kind is bool and isinstance(values[0], bool):
            return values[0]
        text = self._text(values[0])
        return text if self.kind is str else self.parse(text, environ)

    def parse(self, value: object, environ: Environ) -> Any:
        """Parse a value of the declared type. Raises ConfigError."""
        if isinstance(value, bool):
            return value
        if isinstance(value, Sequence) and not isinstance(value, str):
            return tuple(self.parse(text, environ) for text in value)
        try:
            return self.parser(str(value), environ)
        except ValueError as error:
            raise ConfigError(f"{self.name}={error}") from None

    def _text(self, value: object) -> str:
        write = f"write --set {self.name}=VALUE, or {self.name}: VALUE in config.yaml"
        if isinstance(value, bool):
            raise ConfigError(f"{self.name} needs a value: {write}")
        if not isinstance(value, str | int | float | datetime.date):
            # Not the value itself: there may be a password in it.
            kind = (
                "nothing" if value is None else "a list" if isinstance(value, list) else "a mapping"
            )
            raise ConfigError(f"{self.name} takes text, not {kind}: {write}")
        return str(value)


def parse(options: Mapping[str, object], environ: Environ) -> Config:
    """Parse all options. `${NAME}` in a value is taken from `environ`. Raises ConfigError."""
    config = Config(*(option.parse(options[option.name], environ) for option in OPTIONS))
    if config.smtp and not config.mail_from and is_deliverable(config.smtp.user):
        # Providers refuse mail from a sender that is not the account.
        config = replace(config, mail_from=deliverable(config.smtp.user))
    _check_targets(config)
    return config


def _check_targets(config: Config) -> None:
    """Refuse to become an open relay, or to promise mail that cannot be sent."""
    targets = [rule.target for rule in config.routes] + [config.default_target]
    for one in targets:
        shown = routes.shown(one.text)
        if one.kind == "mail" and not config.smtp:
            raise ConfigError(
                f"nx_route has the target {shown}, but nx_smtp names no mail server: "
                f"add --set nx_smtp=smtps://user:password@host"
            )
        if one.reaches_beyond_the_disk and not config.senders:
            raise ConfigError(
                f"nx_senders is not set, and with the target {shown} whoever reaches this "
                f"machine could send mail in your name: add --set nx_senders=ADDRESS with the "
                f"sender that you type on the camera"
            )


def _expanded(value: str, environ: Environ, shown: str | None = None, *, url: bool = False) -> str:
    """Fill in the variables of a value; see `routes.expand`. `shown` is it without secrets."""
    try:
        return routes.expand(value, environ, url=url)
    except ValueError as error:
        raise ValueError(f"{value if shown is None else shown!r}: {error}") from None


def _expanding(parser: Callable[[str], object]) -> Callable[[str, Environ], object]:
    return lambda value, environ: parser(_expanded(value, environ))


def _rule(value: str, environ: Environ) -> Rule:
    """The rule keeps its variables unexpanded: it goes into the database and the log."""
    try:
        found = rule(value)
        _check_argument(found, environ)
    except ValueError as error:
        raise ValueError(f"{routes.shown_rule(value)!r}: {error}") from None
    return found


def _check_argument(found: Rule, environ: Environ) -> None:
    kind, written = found.target.kind, found.target.argument
    argument = routes.expand(written, environ, url=kind in routes.URLS)
    if written and not argument.strip():
        raise ValueError(f"nothing stands behind {routes.shown(found.target.text)!r}")
    if written and (check := _CHECKS.get(kind)):
        check(argument)
    if kind == "run" and not routes.expand(command(written)[0], environ).strip():
        raise ValueError("the program has no name: a variable is empty")
    if kind == "mail" and not written and found.pattern.lower() in routes.SITES:
        raise ValueError(f"a site has no address to mail to: say {found.pattern}=mail:ADDRESS")


def _recipient(value: str) -> str:
    if "://" in value:  # with a password in it, perhaps
        raise ValueError("a URL is not an e-mail address")
    return deliverable(value)


def _smarthost(value: str, environ: Environ) -> Smarthost | None:
    shown = _without_password(value)
    url = _expanded(value, environ, shown, url=True).strip()
    try:
        return parse_smarthost(url) if url else None
    except ValueError:
        raise ValueError(
            f"{shown!r} is no mail server: give one like "
            f"smtps://user:password@host, with special characters in the password as %40"
        ) from None


def _without_password(url: str) -> str:
    """Return scheme and host of a URL that may be wrong anywhere, and dots for the rest."""
    parts = re.fullmatch(r"([a-z+]+://)?(.*@)?([A-Za-z0-9.-]*)(.*)", url.strip(), re.DOTALL)
    assert parts
    return f"{parts[1] or ''}{'...@' if parts[2] else ''}{parts[3]}{'...' if parts[4] else ''}"


def _sender(value: str) -> str:
    # An empty pattern would match those, and only those, who name no sender.
    if not value.strip():
        raise ValueError(
            f"{value!r} is not a sender: give an address, or a glob like *@example.org"
        )
    return value.strip()


def _mailbox(value: str) -> str:
    return deliverable(value.strip()) if value.strip() else ""


def _host(value: str) -> str:
    host = value.lower().removesuffix(".")
    if not re.fullmatch(r"[a-z0-9._*?\[\]-]+", host):
        raise ValueError(
            f"{value!r} is not a host name: give one like www.example.com, "
            f"or a glob like *.example.com, without http:// and without a port"
        )
    return host


def _size(value: str, least: int = 0) -> int:
    match = re.fullmatch(r"([0-9]{1,15})([kmg]?)b?", value.strip().lower())
    if not match or int(match[1]) < least:
        raise ValueError(f"{value!r} is not a size: give a number of bytes like 500k, 16m or 2g")
    return int(match[1]) * {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}[match[2]]


def _duration(value: str) -> float:
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", value.strip().lower())
    if not match:
        raise ValueError(f"{value!r} is not a time: give one like 90s, 30m, 12h or 3d")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def _address(value: str) -> IPv4Address | None:
    try:
        return IPv4Address(value.strip()) if value.strip() else None
    except ValueError:
        raise ValueError(
            f"{value!r} is not an IPv4 address: give one like 192.168.1.2, "
            f"or nothing for the address of this machine that faces the camera"
        ) from None


def _truth(value: str) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True}
    words |= {"false": False, "no": False, "off": False, "0": False}
    if (found := words.get(value.strip().lower())) is None:
        raise ValueError(f"{value!r} is neither true nor false")
    return found


def _folder(value: str) -> Path:
    try:
        if value.strip() and "\0" not in value:
            return Path(value).expanduser()
    except RuntimeError:  # ~ of an unknown user
        pass
    raise ValueError(f"{value!r} is not a folder: give a path like /srv/photos")


def _report(value: str) -> Path | None:
    try:
        return _folder(value) if value.strip() else None
    except ValueError:
        raise ValueError(f"{value!r} is not a path: give one like report.md") from None


_CHECKS: Mapping[str, Callable[[str], object]] = {
    "save": _folder,
    "mail": _recipient,
    "forward": server,
    "mastodon": account,
    "notify": service,
}

OPTIONS = (
    Option("nx_dir", "uploads", _expanding(_folder), "Where photos go, in a folder for each day."),
    Option(
        "nx_route",
        [],
        _rule,
        "Rules PATTERN=TARGET: what happens to uploads for these recipients or social sites."
        " The targets are save, save:DIR, mail, mail:ADDRESS, run:COMMAND, forward:URL,"
        " mastodon:URL, notify:URL and drop."
        " Repeat for several.",
    ),
    Option(
        "nx_smtp",
        "",
        _smarthost,
        "The mail server that takes our mail: smtps://user:password@host (TLS from the start),"
        " smtp+starttls://... (STARTTLS or not at all), smtp://... (STARTTLS if it is offered;"
        " otherwise no password is sent).",
    ),
    Option(
        "nx_senders",
        [],
        _expanding(_sender),
        "Who may send: senders of e-mail and users of social sites, or globs. Needed as soon"
        " as anything leaves this machine.",
    ),
    Option(
        "nx_mail_from",
        "",
        _expanding(_mailbox),
        "The address that our mail comes from, if not the sender on the camera.",
    ),
    Option(
        "nx_hosts",
        [],
        _expanding(_host),
        "Further host names, or globs, to answer; for new camera models.",
    ),
    Option(
        "nx_max_upload",
        "2g",
        _expanding(partial(_size, least=1)),
        "Larger uploads are refused. Understands k, m and g.",
    ),
    Option(
        "nx_inspect",
        "16m",
        _expanding(_size),
        "Uploads up to this size stay in the flow, to be looked at. Understands k, m and g.",
    ),
    Option(
        "nx_retry_for",
        "3d",
        _expanding(_duration),
        "How long a failing delivery is retried. Understands s, m, h and d.",
    ),
    Option(
        "nx_dns",
        "",
        _expanding(_address),
        "The IPv4 address that the DNS mode gives out for the cameras' hosts."
        " Without it: the address of this machine that faces the camera.",
    ),
    Option(
        "nx_gallery",
        False,
        _expanding(_truth),
        "Let the web page of the cameras' hosts show everybody's uploads, with thumbnails."
        " Without it visitors see what came from their own address.",
    ),
    Option(
        "nx_report",
        "",
        _expanding(_report),
        "With -n -r FILE: write a report of what is read to this path. Nothing private is in it.",
    ),
)

"""The options, parsed once into one frozen object.

mitmproxy stores them as strings, booleans and lists of strings. A wrong value raises ConfigError
with one sentence that names the option, the value, and an example of a right one.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple

from nxparse.address import deliverable, is_deliverable
from nxparse.deliver import routes
from nxparse.deliver.routes import Rule, Target, expand, parse_rule, shown_rule, shown_url
from nxparse.deliver.save import parse_path
from nxparse.deliver.smarthost import Smarthost, parse_smarthost
from nxparse.deliver.targets import Environ, prepare


class ConfigError(ValueError):
    """An option with an unusable value, in one sentence for the user."""


class Option(NamedTuple):
    """An option as it is declared to mitmproxy, and how its text (or each of them) is parsed.

    `expand` replaces variables, and `parser` gets the result. Both raise ValueError. `shown`
    returns the text without secrets, for their errors.
    """

    name: str
    default: str | bool | Sequence[str]
    parser: Callable[[str], object]
    help: str
    expand: Callable[[str, Environ], str] = expand
    shown: Callable[[str], str] = str

    @property
    def kind(self) -> Any:
        return type(self.default) if isinstance(self.default, str | bool) else Sequence[str]

    def convert(self, given: object, environ: Environ) -> object:
        """Return a value from the command line or config.yaml as the declared type.

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
        if not isinstance(value, str):
            assert isinstance(value, Sequence)
            return tuple(self.parse(text, environ) for text in value)
        try:
            return self.parser(self.expand(value, environ))
        except ValueError as error:
            raise ConfigError(f"{self.name}={self.shown(value)!r}: {error}") from None

    def _text(self, value: object) -> str:
        usage = f"write --set {self.name}=VALUE, or {self.name}: VALUE in config.yaml"
        if isinstance(value, bool):
            raise ConfigError(f"{self.name} needs a value: {usage}")
        if not isinstance(value, str | int | float | datetime.date):
            # Not the value itself, which may contain a password.
            kinds = {type(None): "nothing", list: "a list"}
            kind = kinds.get(type(value), "a mapping")
            raise ConfigError(f"{self.name} takes text, not {kind}: {usage}")
        return str(value)


def _not_expanded(value: str, environ: Environ) -> str:
    """Rules go into the database and the log as they are written."""
    return value


def _parse_sender(value: str) -> str:
    # An empty pattern would match only uploads without a sender.
    if not value.strip():
        raise ValueError("not a sender; for example camera@example.org or *@example.org")
    return value.strip()


def _parse_host(value: str) -> str:
    host = value.lower().removesuffix(".")
    if not re.fullmatch(r"[a-z0-9._*?\[\]-]+", host):
        example = "www.example.com or *.example.com, without http:// and without a port"
        raise ValueError(f"not a host name; for example {example}")
    return host


def _parse_size(value: str, least: int = 0) -> int:
    match = re.fullmatch(r"([0-9]{1,15})([kmg]?)b?", value.strip().lower())
    if not match or int(match[1]) < least:
        raise ValueError("not a size; for example 500k, 16m or 2g")
    return int(match[1]) * {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}[match[2]]


def _parse_duration(value: str) -> float:
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", value.strip().lower())
    if not match:
        raise ValueError("not a time; for example 90s, 30m, 12h or 3d")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def _parse_address(value: str) -> IPv4Address:
    try:
        return IPv4Address(value)
    except ValueError:
        raise ValueError("not an IPv4 address; for example 192.168.1.2") from None


def _parse_truth(value: str) -> bool:
    words = {"true": True, "yes": True, "on": True, "1": True}
    words |= {"false": False, "no": False, "off": False, "0": False}
    if (found := words.get(value.strip().lower())) is None:
        raise ValueError("neither true nor false")
    return found


def _or_none(parser: Callable[[str], object]) -> Callable[[str], object]:
    """Return a parser that returns None for blanks."""
    return lambda value: parser(value.strip()) if value.strip() else None


def _option(
    default: str | bool | Sequence[str],
    parser: Callable[[str], object],
    help: str,
    **more: Callable[..., str],
) -> Any:
    return field(metadata={"default": default, "parser": parser, "help": help, **more})


@dataclass(frozen=True, slots=True)
class Config:
    """The parsed options, without their prefix nx_: sizes in bytes, times in seconds."""

    dir: Path = _option("uploads", parse_path, "Folder for photos, with a subfolder for each day.")
    routes: tuple[Rule, ...] = _option(
        [],
        parse_rule,
        "Rules PATTERN=TARGET: what to do with uploads for these recipients or social sites."
        " The targets are save, save:DIR, mail, mail:ADDRESS, run:COMMAND, forward:URL,"
        " mastodon:URL, notify:URL and drop. May be repeated.",
        expand=_not_expanded,
        shown=shown_rule,
    )
    smtp: Smarthost | None = _option(
        "",
        _or_none(parse_smarthost),
        "Mail server for outgoing mail: smtps://user:password@host (TLS from the start),"
        " smtp+starttls://... (STARTTLS required), smtp://... (STARTTLS if it is offered;"
        " without it, no password is sent).",
        expand=partial(expand, url=True),
        shown=shown_url,
    )
    senders: tuple[str, ...] = _option(
        [],
        _parse_sender,
        "Senders of e-mail and users of social sites (or globs) whose uploads are accepted."
        " Required if a target sends anything from this machine.",
    )
    mail_from: str | None = _option(
        "",
        _or_none(deliverable),
        "Sender address of outgoing mail. Default: the user in nx_smtp if it is an address,"
        " otherwise the sender entered on the camera.",
    )
    hosts: tuple[str, ...] = _option(
        [],
        _parse_host,
        "More host names (or globs) to answer, for new camera models.",
    )
    max_upload: int = _option(
        "2g",
        partial(_parse_size, least=1),
        "Maximum size of an upload; larger ones are refused. Units: k, m, g.",
    )
    inspect: int = _option(
        "16m",
        _parse_size,
        "Uploads up to this size can be inspected in mitmproxy. Units: k, m, g.",
    )
    retry_for: float = _option(
        "3d",
        _parse_duration,
        "How long a failed delivery is retried. Units: s, m, h, d.",
    )
    dns: IPv4Address | None = _option(
        "",
        _or_none(_parse_address),
        "IPv4 address returned by the DNS mode for the cameras' hosts."
        " Default: the address of this machine on the camera's network.",
    )
    gallery: bool = _option(
        False,
        _parse_truth,
        "Show all uploads, with thumbnails, to every visitor of the web page."
        " Otherwise visitors see only uploads from their own address.",
    )
    report: Path | None = _option(
        "",
        _or_none(parse_path),
        "With -n -r FILE: write a report about the recorded requests to this path."
        " It contains no private data.",
    )

    @property
    def default_target(self) -> Target:
        """The target of an upload that no rule matches."""
        return routes.parse_target("mail" if self.smtp else "save")

    def may_send(self, sender: str) -> bool:
        """Does nx_senders allow this address, or this user of a social site?"""
        return not self.senders or any(routes.fits(pattern, sender) for pattern in self.senders)


_NAMES = {"routes": "nx_route"}
OPTIONS = tuple(
    Option(_NAMES.get(one.name, f"nx_{one.name}"), **one.metadata) for one in fields(Config)
)


def parse(options: Mapping[str, object], environ: Environ) -> Config:
    """Parse all options. `${NAME}` in a value is taken from `environ`. Raises ConfigError."""
    config = Config(*(option.parse(options[option.name], environ) for option in OPTIONS))
    if config.smtp and not config.mail_from and is_deliverable(config.smtp.user):
        # Mail servers refuse the camera's address, which is not one of theirs.
        config = replace(config, mail_from=deliverable(config.smtp.user))
    for rule in config.routes:
        try:
            prepare(config, environ, rule.target)
            if rule.target.text == "mail" and rule.pattern.lower() in routes.SITES:
                raise ValueError(f"a site has no address: use {rule.pattern}=mail:ADDRESS")
        except ValueError as error:
            shown = shown_rule(f"{rule.pattern}={rule.target.text}")
            raise ConfigError(f"nx_route={shown!r}: {error}") from None
    for target in (*(rule.target for rule in config.routes), config.default_target):
        if target.reaches_beyond_the_disk and not config.senders:
            raise ConfigError(
                f"nx_senders is not set, so anyone who can reach this machine could use the "
                f"target {routes.shown(target.text)}: add --set nx_senders=ADDRESS with the "
                f"sender entered on the camera"
            )
    return config

"""The options, read once into one frozen object.

mitmproxy keeps them as strings, booleans and lists of strings: it silently
unloads an addon whose integer option does not parse. Each wrong value raises
ConfigError, whose text names the option, the value, and what would be right.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path


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
        "nx_dns",
        str,
        "",
        "The IPv4 address that the DNS mode gives out for the cameras' hosts."
        " Without it: the address of this machine that faces the camera.",
    ),
)


@dataclass(frozen=True, slots=True)
class Config:
    """The options as the program uses them: sizes in bytes, paths as paths."""

    dir: Path
    hosts: tuple[str, ...]
    max_upload: int
    inspect: int
    dns: IPv4Address | None


def parse(options: Mapping[str, object], environ: Mapping[str, str]) -> Config:
    """Check all options, with `${NAME}` in their values taken from the environment."""

    def text(name: str) -> str:
        return _expanded(name, str(options[name]), environ)

    def texts(name: str) -> tuple[str, ...]:
        values = options[name]
        assert isinstance(values, Sequence)
        return tuple(_expanded(name, str(value), environ) for value in values)

    return Config(
        dir=_folder("nx_dir", text("nx_dir")),
        hosts=tuple(_host("nx_hosts", value) for value in texts("nx_hosts")),
        max_upload=_size("nx_max_upload", text("nx_max_upload"), least=1),
        inspect=_size("nx_inspect", text("nx_inspect")),
        dns=_address("nx_dns", text("nx_dns")),
    )


def _expanded(option: str, value: str, environ: Mapping[str, str]) -> str:
    def variable(match: re.Match[str]) -> str:
        if match[1] not in environ:
            raise ConfigError(
                f"{option}={value}: the environment has no variable {match[1]}; "
                f"set it before you start mitmproxy"
            )
        return environ[match[1]]

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", variable, value)


def _folder(option: str, value: str) -> Path:
    try:
        if value.strip() and "\0" not in value:
            return Path(value).expanduser()
    except RuntimeError:  # ~somebody who does not exist
        pass
    raise ConfigError(f"{option}={value!r} is not a folder: give a path like /srv/photos")


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

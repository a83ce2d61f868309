from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from nxparse.config import OPTIONS, Config, ConfigError, parse

DEFAULTS: Mapping[str, object] = {option.name: option.default for option in OPTIONS}
DEFAULT = Config(dir=Path("uploads"), hosts=(), max_upload=2 << 30, inspect=16 << 20, dns=None)
ENVIRON = {"PHOTOS": "/srv/photos", "HOST": "cam.example.com", "SIZE": "7m", "EMPTY": ""}


def given(**options: object) -> Config:
    """What becomes of these options and the defaults of the others."""
    return parse({**DEFAULTS, **options}, ENVIRON)


class TestOptions:
    def test_defaults(self) -> None:
        """The defaults are the documented ones, and right."""
        assert given() == DEFAULT

    def test_kinds(self) -> None:
        """mitmproxy unloads an addon whose integer does not parse, so there are none."""
        assert {option.name: option.kind for option in OPTIONS} == {
            "nx_dir": str,
            "nx_hosts": Sequence[str],
            "nx_max_upload": str,
            "nx_inspect": str,
            "nx_dns": str,
        }

    def test_help(self) -> None:
        """Each option has a sentence about it."""
        assert [option.name for option in OPTIONS if not option.help.endswith(".")] == []

    def test_frozen(self) -> None:
        """Nobody can change what has been checked."""
        with pytest.raises(AttributeError):
            DEFAULT.max_upload = 1  # type: ignore[misc]


RIGHT: dict[str, tuple[str, object, str, object]] = {
    "folder": ("nx_dir", "/srv/photos", "dir", Path("/srv/photos")),
    "folder with blanks": ("nx_dir", "my photos", "dir", Path("my photos")),
    "folder in the home folder": ("nx_dir", "~/photos", "dir", Path("/home/me/photos")),
    "folder from the environment": ("nx_dir", "${PHOTOS}/nx", "dir", Path("/srv/photos/nx")),
    "no variable": ("nx_dir", "$PHOTOS/${1}{}", "dir", Path("$PHOTOS/${1}{}")),
    "no hosts": ("nx_hosts", [], "hosts", ()),
    "hosts": (
        "nx_hosts",
        ["WWW.Example.com", "*.example.org", "cam?.[a-c]_x"],
        "hosts",
        ("www.example.com", "*.example.org", "cam?.[a-c]_x"),
    ),
    "host with a final dot": ("nx_hosts", ["example.com."], "hosts", ("example.com",)),
    "host from the environment": ("nx_hosts", ["${HOST}"], "hosts", ("cam.example.com",)),
    "bytes": ("nx_max_upload", "1234567", "max_upload", 1234567),
    "kibibytes": ("nx_max_upload", "500k", "max_upload", 500 << 10),
    "mebibytes": ("nx_max_upload", "16m", "max_upload", 16 << 20),
    "gibibytes": ("nx_max_upload", "2g", "max_upload", 2 << 30),
    "upper case": ("nx_max_upload", "2G", "max_upload", 2 << 30),
    "with a B": ("nx_max_upload", "2GB", "max_upload", 2 << 30),
    "size with blanks": ("nx_max_upload", " 2g ", "max_upload", 2 << 30),
    "size from the environment": ("nx_inspect", "${SIZE}", "inspect", 7 << 20),
    "nothing to inspect": ("nx_inspect", "0", "inspect", 0),
    "address": ("nx_dns", "192.168.1.2", "dns", IPv4Address("192.168.1.2")),
    "address with blanks": ("nx_dns", " 192.168.1.2\t", "dns", IPv4Address("192.168.1.2")),
    "no address": ("nx_dns", "", "dns", None),
    "blank address": ("nx_dns", "  ", "dns", None),
    "no address from the environment": ("nx_dns", "${EMPTY}", "dns", None),
}


@pytest.mark.parametrize(("option", "value", "field", "expected"), RIGHT.values(), ids=RIGHT)
def test_right(
    monkeypatch: pytest.MonkeyPatch, option: str, value: object, field: str, expected: object
) -> None:
    """Right values become what the program uses."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    config = given(**{option: value})
    others = {name: getattr(config, name) for name in ("dir", "hosts", "max_upload", "inspect")}
    unchanged = {name: getattr(DEFAULT, name) for name in others}
    assert getattr(config, field) == expected
    assert {**others, field: None} == {**unchanged, field: None}


FOLDER = "is not a folder: give a path like /srv/photos"
HOST = (
    "is not a host name: give one like www.example.com, "
    "or a glob like *.example.com, without http:// and without a port"
)
SIZE = "is not a size: give a number of bytes like 500k, 16m or 2g"
ADDRESS = (
    "is not an IPv4 address: give one like 192.168.1.2, "
    "or nothing for the address of this machine that faces the camera"
)

WRONG: dict[str, tuple[str, object, str]] = {
    "no folder": ("nx_dir", "", f"nx_dir='' {FOLDER}"),
    "blank folder": ("nx_dir", "  ", f"nx_dir='  ' {FOLDER}"),
    "empty variable": ("nx_dir", "${EMPTY}", f"nx_dir='' {FOLDER}"),
    "NUL in a folder": ("nx_dir", "a\0b", rf"nx_dir='a\x00b' {FOLDER}"),
    "home of nobody": ("nx_dir", "~nobody-here/x", f"nx_dir='~nobody-here/x' {FOLDER}"),
    "empty host": ("nx_hosts", [""], f"nx_hosts='' {HOST}"),
    "dot only": ("nx_hosts", ["."], f"nx_hosts='.' {HOST}"),
    "URL": ("nx_hosts", ["http://example.com"], f"nx_hosts='http://example.com' {HOST}"),
    "port": ("nx_hosts", ["example.com:80"], f"nx_hosts='example.com:80' {HOST}"),
    "path": ("nx_hosts", ["example.com/x"], f"nx_hosts='example.com/x' {HOST}"),
    "hosts in a row": (
        "nx_hosts",
        ["a.example,b.example"],
        f"nx_hosts='a.example,b.example' {HOST}",
    ),
    "blank in a host": ("nx_hosts", ["example .com"], f"nx_hosts='example .com' {HOST}"),
    "line end in a host": ("nx_hosts", ["a.example\n"], rf"nx_hosts='a.example\n' {HOST}"),
    "umlaut in a host": ("nx_hosts", ["bücher.example"], f"nx_hosts='bücher.example' {HOST}"),
    "second host": ("nx_hosts", ["a.example", "b c"], f"nx_hosts='b c' {HOST}"),
    "no size": ("nx_max_upload", "", f"nx_max_upload='' {SIZE}"),
    "unit only": ("nx_max_upload", "g", f"nx_max_upload='g' {SIZE}"),
    "word": ("nx_inspect", "all", f"nx_inspect='all' {SIZE}"),
    "negative": ("nx_max_upload", "-1", f"nx_max_upload='-1' {SIZE}"),
    "fraction": ("nx_max_upload", "1.5g", f"nx_max_upload='1.5g' {SIZE}"),
    "blank in a size": ("nx_max_upload", "2 g", f"nx_max_upload='2 g' {SIZE}"),
    "nothing may come": ("nx_max_upload", "0", f"nx_max_upload='0' {SIZE}"),
    "unknown unit": ("nx_inspect", "1t", f"nx_inspect='1t' {SIZE}"),
    "hexadecimal": ("nx_inspect", "0x10", f"nx_inspect='0x10' {SIZE}"),
    "other digits": ("nx_inspect", "١٦", f"nx_inspect='١٦' {SIZE}"),
    "far too many digits": ("nx_inspect", "1" * 16, f"nx_inspect='1111111111111111' {SIZE}"),
    "host name for address": ("nx_dns", "router", f"nx_dns='router' {ADDRESS}"),
    "IPv6": ("nx_dns", "fe80::1", f"nx_dns='fe80::1' {ADDRESS}"),
    "number too large": ("nx_dns", "192.168.1.256", f"nx_dns='192.168.1.256' {ADDRESS}"),
    "leading zero": ("nx_dns", "192.168.01.2", f"nx_dns='192.168.01.2' {ADDRESS}"),
    "network": ("nx_dns", "192.168.1.0/24", f"nx_dns='192.168.1.0/24' {ADDRESS}"),
    "unset variable": (
        "nx_dir",
        "/srv/${NOWHERE}",
        "nx_dir=/srv/${NOWHERE}: the environment has no variable NOWHERE; "
        "set it before you start mitmproxy",
    ),
    "unset variable in a host": (
        "nx_hosts",
        ["${NOWHERE}"],
        "nx_hosts=${NOWHERE}: the environment has no variable NOWHERE; "
        "set it before you start mitmproxy",
    ),
}


@pytest.mark.parametrize(("option", "value", "message"), WRONG.values(), ids=WRONG)
def test_wrong(option: str, value: object, message: str) -> None:
    """A wrong value is told with its option, the value, and what would be right."""
    with pytest.raises(ConfigError) as caught:
        given(**{option: value})
    assert str(caught.value) == message

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from nxparse.config import OPTIONS, Config, ConfigError, parse
from nxparse.deliver import routes
from nxparse.deliver.mail import Security, Smarthost
from nxparse.deliver.routes import Rule, Target, expand_argument

DEFAULTS: Mapping[str, object] = {option.name: option.default for option in OPTIONS}
DEFAULT = Config(
    dir=Path("uploads"),
    routes=(),
    smtp=None,
    senders=(),
    mail_from="",
    retry_for=3 * 86400,
    hosts=(),
    max_upload=2 << 30,
    inspect=16 << 20,
    dns=None,
    report=None,
    gallery=False,
)
ENVIRON = {
    "PHOTOS": "/srv/photos",
    "HOST": "cam.example.com",
    "SIZE": "7m",
    "ADDRESS": "me@example.org",
    "TIME": "90s",
    "PASSWORD": "f9%2Fe1",
    "SMTP": "smtps://me:f9%2Fe1@mail.example.com",
    "BYTES": "f9\udcffe1",
    "ODD": "not an address",
    "EMPTY": "",
}


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
            "nx_route": Sequence[str],
            "nx_smtp": str,
            "nx_senders": Sequence[str],
            "nx_mail_from": str,
            "nx_hosts": Sequence[str],
            "nx_max_upload": str,
            "nx_inspect": str,
            "nx_retry_for": str,
            "nx_dns": str,
            "nx_report": str,
            "nx_gallery": bool,
        }

    def test_help(self) -> None:
        """Each option has a sentence about it."""
        assert [option.name for option in OPTIONS if not option.help.endswith(".")] == []

    def test_frozen(self) -> None:
        """Nobody can change what has been checked."""
        with pytest.raises(AttributeError):
            DEFAULT.max_upload = 1  # type: ignore[misc]


def rule(pattern: str, kind: str, argument: str = "") -> Rule:
    return Rule(pattern, Target(f"{kind}:{argument}" if argument else kind, kind, argument))


MINE = ("save", "my photos")
ABROAD = "me@xn--bcher-kva.example"

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
    "a rule": ("nx_route", ["*@example.org=save"], "routes", (rule("*@example.org", "save"),)),
    "rules, in their order": (
        "nx_route",
        ["b@example.org=drop", "a@example.org=save:/srv", "b@example.org=save"],
        "routes",
        (
            rule("b@example.org", "drop"),
            rule("a@example.org", "save", "/srv"),
            rule("b@example.org", "save"),
        ),
    ),
    "rule with blanks": ("nx_route", [" * = save:my photos "], "routes", (rule("*", *MINE),)),
    "rule with a second =": ("nx_route", ["*=save:a=b"], "routes", (rule("*", "save", "a=b"),)),
    "rule with a variable": (
        "nx_route",
        ["*=save:${PHOTOS}/x"],
        "routes",
        (rule("*", "save", "${PHOTOS}/x"),),
    ),
    "no variable in a pattern": ("nx_route", ["${X}=save"], "routes", (rule("${X}", "save"),)),
    "no mail server": ("nx_smtp", "", "smtp", None),
    "blank mail server": ("nx_smtp", " ", "smtp", None),
    "no mail server from the environment": ("nx_smtp", "${EMPTY}", "smtp", None),
    "senders": (
        "nx_senders",
        ["camera@example.com", " *@Example.ORG ", "${ADDRESS}"],
        "senders",
        ("camera@example.com", "*@Example.ORG", "me@example.org"),
    ),
    "mail from": ("nx_mail_from", " me@example.org ", "mail_from", "me@example.org"),
    "mail from abroad": ("nx_mail_from", "me@bücher.example", "mail_from", ABROAD),
    "mail from the environment": ("nx_mail_from", "${ADDRESS}", "mail_from", "me@example.org"),
    "mail from the sender": ("nx_mail_from", "  ", "mail_from", ""),
    "seconds": ("nx_retry_for", "45", "retry_for", 45.0),
    "seconds with a unit": ("nx_retry_for", "90s", "retry_for", 90.0),
    "minutes": ("nx_retry_for", "30m", "retry_for", 1800.0),
    "hours": ("nx_retry_for", "12h", "retry_for", 43200.0),
    "days": ("nx_retry_for", "14D", "retry_for", 1209600.0),
    "time with blanks": ("nx_retry_for", " 2d\t", "retry_for", 172800.0),
    "time from the environment": ("nx_retry_for", "${TIME}", "retry_for", 90.0),
    "no second try": ("nx_retry_for", "0", "retry_for", 0.0),
    "report": ("nx_report", "report.md", "report", Path("report.md")),
    "report in the home folder": ("nx_report", "~/r.md", "report", Path("/home/me/r.md")),
    "report from the environment": ("nx_report", "${PHOTOS}/x", "report", Path("/srv/photos/x")),
    "blank report": ("nx_report", " ", "report", None),
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
    changed: dict[str, Any] = {field: expected}
    assert given(**{option: value}) == replace(DEFAULT, **changed)


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

TIME = "is not a time: give one like 90s, 30m, 12h or 3d"
SENDER = "is not a sender: give an address, or a glob like *@example.org"
RULE = "a rule is PATTERN=TARGET, like *@example.org=save"
TARGETS = "the targets are save, mail, run, forward, mastodon, notify, drop"
UNSET = "the environment has no variable NOWHERE; set it before you start mitmproxy"

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
    "NUL in a report": (
        "nx_report",
        "a\0b",
        r"nx_report='a\x00b' is not a path: give one like report.md",
    ),
    "report in the home of nobody": (
        "nx_report",
        "~nobody-here/x",
        "nx_report='~nobody-here/x' is not a path: give one like report.md",
    ),
    "no rule": ("nx_route", [""], f"nx_route='': {RULE}"),
    "target only": ("nx_route", ["save"], f"nx_route='save': {RULE}"),
    "no pattern": ("nx_route", [" =save"], f"nx_route=' =save': {RULE}"),
    "no target": ("nx_route", ["*="], f"nx_route='*=': there is no target '': {TARGETS}"),
    "unknown target": (
        "nx_route",
        ["*=fax"],
        f"nx_route='*=fax': there is no target 'fax': {TARGETS}",
    ),
    "target in upper case": (
        "nx_route",
        ["*=Save"],
        f"nx_route='*=Save': there is no target 'Save': {TARGETS}",
    ),
    "nothing behind the colon": (
        "nx_route",
        ["*=save:"],
        "nx_route='*=save:': nothing stands behind 'save:'",
    ),
    "something behind drop": (
        "nx_route",
        ["*=drop:x"],
        "nx_route='*=drop:x': drop takes nothing behind it",
    ),
    "mail to nobody": (
        "nx_route",
        ["*=mail:me"],
        "nx_route='*=mail:me': 'me' is not an e-mail address",
    ),
    "mail to nobody, from the environment": (
        "nx_route",
        ["*=mail:${ODD}"],
        "nx_route='*=mail:${ODD}': 'not an address' is not an e-mail address",
    ),
    "mail to an empty variable": (
        "nx_route",
        ["*=mail:${EMPTY}"],
        "nx_route='*=mail:${EMPTY}': nothing stands behind 'mail:${EMPTY}'",
    ),
    "save to an empty variable": (
        "nx_route",
        ["*=save:${EMPTY}"],
        "nx_route='*=save:${EMPTY}': nothing stands behind 'save:${EMPTY}'",
    ),
    "save to the home of nobody": (
        "nx_route",
        ["*=save:~nobody-here/x"],
        f"nx_route='*=save:~nobody-here/x': '~nobody-here/x' {FOLDER}",
    ),
    "NUL in the folder of a rule": (
        "nx_route",
        ["*=save:a\0b"],
        rf"nx_route='*=save:a\x00b': 'a\x00b' {FOLDER}",
    ),
    "unset variable in a rule": (
        "nx_route",
        ["a@example.org=save:/srv/${NOWHERE}"],
        f"nx_route='a@example.org=save:/srv/${{NOWHERE}}': {UNSET}",
    ),
    "second rule": ("nx_route", ["*=save", "x"], f"nx_route='x': {RULE}"),
    "mail for a site": (
        "nx_route",
        ["facebook=mail"],
        "nx_route='facebook=mail': a site has no address to mail to: say facebook=mail:ADDRESS",
    ),
    "mail for a site, in upper case": (
        "nx_route",
        ["*=save", " Picasa = mail "],
        "nx_route=' Picasa = mail ': a site has no address to mail to: say Picasa=mail:ADDRESS",
    ),
    "mail for a site with a web page": (
        "nx_route",
        ["flickr=mail"],
        "nx_route='flickr=mail': a site has no address to mail to: say flickr=mail:ADDRESS",
    ),
    "blank sender": ("nx_senders", [" "], f"nx_senders=' ' {SENDER}"),
    "empty sender behind another": (
        "nx_senders",
        ["camera@example.com", ""],
        f"nx_senders='' {SENDER}",
    ),
    "sender from an empty variable": ("nx_senders", ["${EMPTY}"], f"nx_senders='' {SENDER}"),
    "unset variable in a sender": (
        "nx_senders",
        ["${NOWHERE}"],
        f"nx_senders='${{NOWHERE}}': {UNSET}",
    ),
    "mail from nobody": ("nx_mail_from", "me", "nx_mail_from='me' is not an e-mail address"),
    "mail from a name and address": (
        "nx_mail_from",
        "Me <me@example.org>",
        "nx_mail_from='Me <me@example.org>' is not an e-mail address",
    ),
    "mail from no host": (
        "nx_mail_from",
        "me@-.example",
        "nx_mail_from='me@-.example' has a domain that cannot exist",
    ),
    "no time": ("nx_retry_for", "", f"nx_retry_for='' {TIME}"),
    "unit of time only": ("nx_retry_for", "d", f"nx_retry_for='d' {TIME}"),
    "unknown unit of time": ("nx_retry_for", "2w", f"nx_retry_for='2w' {TIME}"),
    "negative time": ("nx_retry_for", "-1d", f"nx_retry_for='-1d' {TIME}"),
    "fraction of a time": ("nx_retry_for", "1.5h", f"nx_retry_for='1.5h' {TIME}"),
    "blank in a time": ("nx_retry_for", "3 d", f"nx_retry_for='3 d' {TIME}"),
    "time of other digits": ("nx_retry_for", "٣d", f"nx_retry_for='٣d' {TIME}"),
    "far too long": ("nx_retry_for", "1" * 10, f"nx_retry_for='1111111111' {TIME}"),
    "for ever": ("nx_retry_for", "inf", f"nx_retry_for='inf' {TIME}"),
    "unset variable": (
        "nx_dir",
        "/srv/${NOWHERE}",
        "nx_dir='/srv/${NOWHERE}': the environment has no variable NOWHERE; "
        "set it before you start mitmproxy",
    ),
    "unset variable in a host": (
        "nx_hosts",
        ["${NOWHERE}"],
        "nx_hosts='${NOWHERE}': the environment has no variable NOWHERE; "
        "set it before you start mitmproxy",
    ),
}


@pytest.mark.parametrize(("option", "value", "message"), WRONG.values(), ids=WRONG)
def test_wrong(option: str, value: object, message: str) -> None:
    """A wrong value is told with its option, the value, and what would be right."""
    with pytest.raises(ConfigError) as caught:
        given(**{option: value})
    assert str(caught.value) == message


def test_default_target() -> None:
    """Who fits no rule gets a file, or mail as soon as a mail server is named."""
    mail = given(nx_smtp="smtp://mail.example.com", nx_senders=["*"])
    assert given().default_target == Target("save", "save")
    assert mail.default_target == Target("mail", "mail")


def test_variables_of_a_rule() -> None:
    """What stands in a rule is expanded only where it is used, and from the environment then."""
    [found] = given(nx_route=["*=save:${PHOTOS}/nx"]).routes
    assert found.target.text == "save:${PHOTOS}/nx"
    assert expand_argument(found.target, ENVIRON) == "/srv/photos/nx"
    with pytest.raises(ValueError, match="the environment has no variable PHOTOS"):
        expand_argument(found.target, {})


SERVERS: dict[str, tuple[str, Smarthost]] = {
    "host": ("smtp://mail.example.com", Smarthost("mail.example.com", 25, Security.IF_OFFERED)),
    "blanks": (" smtps://mail.example.com\n", Smarthost("mail.example.com", 465, Security.TLS)),
    "all of it": (
        "smtp+starttls://me:f9e1@mail.example.com:2525",
        Smarthost("mail.example.com", 2525, Security.STARTTLS, "me", "f9e1"),
    ),
    "variables": (
        "smtp://me:${PASSWORD}@${HOST}",
        Smarthost("cam.example.com", 25, Security.IF_OFFERED, "me", "f9%2Fe1"),
    ),
    "variable for all of it": (
        " ${SMTP} ",
        Smarthost("mail.example.com", 465, Security.TLS, "me", "f9/e1"),
    ),
    "variable for the beginning": (
        "${SMTP}:2525",
        Smarthost("mail.example.com", 2525, Security.TLS, "me", "f9/e1"),
    ),
}


@pytest.mark.parametrize(("value", "expected"), SERVERS.values(), ids=SERVERS)
def test_mail_server(value: str, expected: Smarthost) -> None:
    """A mail server is read with its user and password, which stands in no repr."""
    config = given(nx_smtp=value, nx_senders=["camera@example.com"])
    assert config.smtp == expected
    assert "f9" not in repr(config)


NO_SERVER = (
    "is no mail server: give one like smtps://user:password@host, "
    "with special characters in the password as %40"
)

# Each password begins with f9 and ends with e1.
NO_SERVERS: dict[str, tuple[str, str]] = {
    "host only": ("mail.example.com", "mail.example.com"),
    "other scheme": ("http://mail.example.com", "http://mail.example.com"),
    "scheme only": ("smtp://", "smtp://"),
    "host and path": ("smtp://mail.example.com/x", "smtp://mail.example.com..."),
    "port no number": ("smtp://me:f9e1@mail.example.com:x", "smtp://...@mail.example.com..."),
    "port too large": ("smtp://me:f9e1@example.com:65536", "smtp://...@example.com..."),
    "other scheme with a password": ("ftp://me:f9e1@example.com", "ftp://...@example.com"),
    "@ in the password": ("smtp://me:f9@e1@example.com:x", "smtp://...@example.com..."),
    "@ in the user": ("smtp://me@home:f9@e1@example.com:x", "smtp://...@example.com..."),
    "slash in the password": ("smtp://me:f9/e1@example.com", "smtp://...@example.com"),
    "slashes in the password": ("smtp://me:f9://e1@example.com", "smtp://...@example.com"),
    "hash in the password": ("smtp://me:f9#e1@example.com", "smtp://...@example.com"),
    "question mark in the password": ("smtp://me:f9?e1@example.com", "smtp://...@example.com"),
    "bracket in the password": ("smtp://me:f9[e1@example.com", "smtp://...@example.com"),
    "line end in the password": ("smtp://me:f9\ne1@example.com:x", "smtp://...@example.com..."),
    "no slashes": ("smtp:me:f9e1@example.com", "...@example.com"),
    "one slash": ("smtp:/me:f9e1@example.com", "...@example.com"),
    "no scheme": ("me:f9e1@example.com", "...@example.com"),
    "no host": ("smtp://me:f9e1@", "smtp://...@"),
    "no host and no @": ("smtp://me:f9e1", "smtp://me..."),
    "no scheme, host and @": ("me:f9e1", "me..."),
    "password in a query": ("smtp://example.com/?password=f9e1", "smtp://example.com..."),
    "password in a fragment": ("smtp://example.com#f9e1", "smtp://example.com..."),
    "password from the environment": (
        "smtp://me:${PASSWORD}@example.com:x",
        "smtp://...@example.com...",
    ),
}


@pytest.mark.parametrize(("value", "shown"), NO_SERVERS.values(), ids=NO_SERVERS)
def test_no_mail_server(value: str, shown: str) -> None:
    """A wrong mail server is told as far as there can be no password in it."""
    with pytest.raises(ConfigError) as caught:
        given(nx_smtp=value, nx_senders=["*"])
    assert str(caught.value) == f"nx_smtp={shown!r} {NO_SERVER}"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_unset_variable_in_a_mail_server() -> None:
    """A variable that is missing does not let the password beside it be told."""
    with pytest.raises(ConfigError) as caught:
        given(nx_smtp="smtp://me:f9e1@${NOWHERE}", nx_senders=["*"])
    assert str(caught.value) == f"nx_smtp='smtp://...@...': {UNSET}"


@pytest.mark.parametrize(
    ("option", "value"),
    [("nx_smtp", "smtp://me:${BYTES}@h"), ("nx_route", ["*=forward:http://h/?${BYTES}"])],
    ids=["mail server", "rule"],
)
def test_bytes_in_a_url(option: str, value: object) -> None:
    """What is no text cannot be written in a URL, and is not told."""
    with pytest.raises(ConfigError) as caught:
        given(**{"nx_senders": ["*"], option: value})
    assert str(caught.value).startswith(f"{option}=")
    assert str(caught.value).endswith(": the variable BYTES is not UTF-8")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def no_server(target: str) -> str:
    return (
        f"nx_route has the target {target}, but nx_smtp names no mail server: "
        f"add --set nx_smtp=smtps://user:password@host"
    )


def no_senders(target: str) -> str:
    return (
        f"nx_senders is not set, and with the target {target} whoever reaches this machine "
        f"could send mail in your name: add --set nx_senders=ADDRESS with the sender that you "
        f"type on the camera"
    )


RUN = "run:cp --suffix=.${TIME} '{file}' /srv/${EMPTY}"
FORWARD = "forward:https://me:${PASSWORD}@${HOST}:8443/x?a=b"


def test_beyond_the_disk() -> None:
    """Rules with commands and servers are kept as they are written, without what is in them."""
    found = given(nx_route=[f"* = {RUN} ", f"facebook={FORWARD}"], nx_senders=["*"])
    assert found.routes == (
        rule("*", *RUN.split(":", 1)),
        rule("facebook", *FORWARD.split(":", 1)),
    )
    assert [value for value in ENVIRON.values() if value and value in repr(found.routes)] == []


NO_URL = "not a URL like https://host/path"
PLACEHOLDERS = "there are {file}, {sender}, {recipient}, {subject}, {text}, {camera}"
NEEDED = "needs something behind it: see the table of targets in README"

# What the environment holds stands in no message.
BEYOND: dict[str, tuple[str, str]] = {
    "no command": ("*=run", f"run {NEEDED}"),
    "nothing to run": ("*=run:", "nothing stands behind 'run:'"),
    "an empty variable to run": ("*=run:${EMPTY}", "nothing stands behind 'run:${EMPTY}'"),
    "empty variables to run": (
        "*=run:${EMPTY} ${EMPTY}",
        "nothing stands behind 'run:${EMPTY} ${EMPTY}'",
    ),
    "an open quote": ("*=run:x 'a ${PASSWORD}", "No closing quotation"),
    "an unknown placeholder": (
        "*=run:x ${PASSWORD} {path}",
        f"there is no placeholder {{path}}: {PLACEHOLDERS}",
    ),
    "a program that a stranger names": (
        "*=run:{text} ${PASSWORD}",
        "the program itself cannot come from a placeholder",
    ),
    "no server": ("*=forward", f"forward {NEEDED}"),
    "nowhere to forward to": ("*=forward:", "nothing stands behind 'forward:'"),
    "an empty variable to forward to": (
        "*=forward:${EMPTY}",
        "nothing stands behind 'forward:${EMPTY}'",
    ),
    "a URL of bytes": ("*=forward:${BYTES}", NO_URL),
    "a program without a name": ("*=run:'' {file}", "the program has no name"),
    "a program from an empty variable": (
        "*=run:'${EMPTY}' {file}",
        "the program has no name: a variable is empty",
    ),
    "a NUL in a command": ("*=run:x\0", "a command cannot hold a NUL"),
    "a command that is no text": ("*=run:x \ud800", "a target has to be written in UTF-8"),
    "a command in another encoding": ("*=run:\udce4", "a target has to be written in UTF-8"),
    "a folder in another encoding": ("*=save:/\udce4", "a target has to be written in UTF-8"),
}


@pytest.mark.parametrize(("value", "reason"), BEYOND.values(), ids=BEYOND)
def test_wrong_beyond_the_disk(value: str, reason: str) -> None:
    """A wrong command or server is told with its rule and the reason, and with no secret."""
    with pytest.raises(ConfigError) as caught:
        given(nx_route=["*=save", value], nx_senders=["*"])
    assert str(caught.value) == f"nx_route={value!r}: {reason}"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


# Each secret begins with f9 and ends with e1.
URLS: dict[str, tuple[str, str, str]] = {
    "no URL": ("*=forward:${HOST}/f9e1", "*=forward:${HOST}...", NO_URL),
    "no scheme": ("*=forward:me:f9e1@${HOST}/x", "*=forward:...", NO_URL),
    "another scheme": (
        "*=forward:ftp://me:f9e1@${HOST}/x",
        "*=forward:ftp://${HOST}/...",
        NO_URL,
    ),
    "no host": ("*=forward:https://me:f9e1@/x", "*=forward:https://...", NO_URL),
    "no host, from the environment": (
        "*=forward:https://${EMPTY}/",
        "*=forward:https://${EMPTY}/...",
        NO_URL,
    ),
    "a port that is none": (
        "*=forward:https://me:${PASSWORD}@${HOST}:x/",
        "*=forward:https://...",
        NO_URL,
    ),
    "a password with a slash": ("*=forward:https://me:f9/e1@h/", "*=forward:https://...", NO_URL),
    "a fragment": (
        "*=forward:https://${HOST}/#${PASSWORD}",
        "*=forward:https://${HOST}/...",
        NO_URL,
    ),
    "no target": (
        "*=https://me:f9e1@h/f9e1?x=f9e1",
        "*=https:...",
        f"there is no target 'https': {TARGETS}",
    ),
    "another target": (
        "*=frward:https://me:f9e1@h/f9e1",
        "*=frward:https://h/...",
        f"there is no target 'frward': {TARGETS}",
    ),
    "no pattern": ("forward:https://me:f9e1@h/?x=f9e1", "forward:https://h/...", RULE),
    "neither pattern nor target": ("https://me:f9e1@h/?x=f9e1", "https:...", RULE),
    "mail to a URL": (
        "*=mail:smtp://me:f9e1@h",
        "*=mail:smtp://h/...",
        "a URL is not an e-mail address",
    ),
    "mail to a URL from the environment": (
        "*=mail:${URL}",
        "*=mail:${URL}",
        "a URL is not an e-mail address",
    ),
    "a URL as a command": (
        "*=run:https://me:f9e1@h/f9e1 {file}",
        "*=run:...",
        "a URL is not a program: to post to one, say forward:URL",
    ),
    "a command with a URL": (
        "*=run:curl -u me:f9e1 https://h/f9e1 {path}",
        "*=run:curl ...",
        f"there is no placeholder {{path}}: {PLACEHOLDERS}",
    ),
}


@pytest.mark.parametrize(("value", "told", "reason"), URLS.values(), ids=URLS)
def test_wrong_url(value: str, told: str, reason: str) -> None:
    """Of a wrong rule with a URL no more is told than kind, scheme and host."""
    options = {**DEFAULTS, "nx_route": ["*=save", value], "nx_senders": ["*"]}
    with pytest.raises(ConfigError) as caught:
        parse(options, {**ENVIRON, "URL": "https://me:f9e1@h/"})
    assert str(caught.value) == f"nx_route={told!r}: {reason}"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("run:x ${NOWHERE}", "run:x ${NOWHERE}"),
        ("run:x ${NOWHERE} http://me:f9e1@h", "run:x ..."),
        ("run:${NOWHERE} {file}", "run:${NOWHERE} {file}"),
        ("forward:http://${NOWHERE}/${PASSWORD}", "forward:http://${NOWHERE}/..."),
        ("forward:http://me:f9e1@h/f9e1?x=${NOWHERE}", "forward:http://h/..."),
        ("forward:http://me:${NOWHERE}@h", "forward:http://h/..."),
        ("forward:${NOWHERE}", "forward:${NOWHERE}"),
        ("notify:tgram://f9e1/${NOWHERE}", "notify:tgram://..."),
    ],
)
def test_unset_variable_beyond_the_disk(target: str, told: str) -> None:
    """A variable that is missing stops the start, at once and when it is used; it is named."""
    with pytest.raises(ConfigError) as caught:
        given(nx_route=[f"*={target}"], nx_senders=["*"])
    assert str(caught.value) == f"nx_route='*={told}': {UNSET}"
    with pytest.raises(ValueError, match=f"^{re.escape(f'nx_route={told}: {UNSET}')}$"):
        expand_argument(routes.target(target), ENVIRON)


def test_variable_is_no_part_of_the_command_line() -> None:
    """What a variable holds is an argument, and need not make sense to a shell."""
    options = {**DEFAULTS, "nx_route": ["*=run:x ${QUOTE}"], "nx_senders": ["*"]}
    [found] = parse(options, {"QUOTE": "it's"}).routes
    assert found.target.argument == "x ${QUOTE}"


def test_braces_are_placeholders_only_in_a_command() -> None:
    """What looks like a placeholder means nothing to a folder, and a variable is none."""
    found = given(nx_route=["*=save:{path}", "*=run:x ${HOST}{file}"], nx_senders=["*"])
    assert [one.target.argument for one in found.routes] == ["{path}", "x ${HOST}{file}"]


SMTP = "smtp://mail.example.com"
WAYS_OUT: dict[str, tuple[Mapping[str, object], str]] = {
    "mail without a server": ({"nx_route": ["*=mail"]}, no_server("mail")),
    "mail to an address without a server": (
        {"nx_route": ["*=mail:${ADDRESS}"], "nx_senders": ["*"]},
        no_server("mail:${ADDRESS}"),
    ),
    "mail without a server, behind others": (
        {"nx_route": ["a=save", "b=drop", "c=mail", "d=mail:x@y.example"], "nx_senders": ["*"]},
        no_server("mail"),
    ),
    "a server, and everybody may send": ({"nx_smtp": SMTP}, no_senders("mail")),
    "a server that no rule leaves to others": (
        {"nx_smtp": SMTP, "nx_route": ["*=save"]},
        no_senders("mail"),
    ),
    "mail to an address, and everybody may send": (
        {"nx_smtp": SMTP, "nx_route": ["*=save", "*=mail:me@example.org"]},
        no_senders("mail:me@example.org"),
    ),
    "a command, and everybody may send": (
        {"nx_route": ["*=save", "facebook=run:x {file}"]},
        no_senders("run:x {file}"),
    ),
    "a server for uploads, and everybody may send": (
        {"nx_route": ["*=forward:https://${HOST}"]},
        no_senders("forward:https://${HOST}"),
    ),
    "a secret in a server, and everybody may send": (
        {"nx_route": ["*=forward:https://me:f9e1@h/f9e1"]},
        no_senders("forward:https://h/..."),
    ),
    "a secret in a command, and everybody may send": (
        {"nx_route": ["*=run:curl -u me:f9e1 https://h"]},
        no_senders("run:curl ..."),
    ),
}


@pytest.mark.parametrize(("options", "message"), WAYS_OUT.values(), ids=WAYS_OUT)
def test_ways_out(options: Mapping[str, object], message: str) -> None:
    """Mail needs a server, and what leaves this machine needs somebody who may send."""
    with pytest.raises(ConfigError) as caught:
        given(**options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "options",
    [
        {"nx_route": ["*=save", "*=save:/srv", "a=drop"]},
        {"nx_senders": ["camera@example.com"]},
        {"nx_mail_from": "me@example.org"},
        {"nx_smtp": SMTP, "nx_senders": ["*"]},
        {"nx_smtp": SMTP, "nx_senders": ["*"], "nx_route": ["a=mail", "*=mail:${ADDRESS}"]},
        {"nx_smtp": SMTP, "nx_senders": ["me"], "nx_route": ["facebook=mail:me@example.org"]},
        {"nx_smtp": SMTP, "nx_senders": ["me"], "nx_route": ["*=mail", "facebook=save"]},
        {"nx_route": ["facebook=drop", "picasa=save:/srv", "youtube=save"]},
        {"nx_route": ["*=run:x {file}", "facebook=forward:https://${HOST}/"], "nx_senders": ["me"]},
    ],
    ids=[
        "disk only",
        "senders only",
        "mail from only",
        "mail",
        "mail by rules",
        "mail for a site",
        "mail for everybody",
        "sites, disk only",
        "commands and servers without a mail server",
    ],
)
def test_right_together(options: Mapping[str, object]) -> None:
    """What stays on the disk needs nothing else; with a server and senders mail may go out."""
    assert isinstance(given(**options), Config)


@pytest.mark.parametrize(
    ("senders", "sender", "may"),
    [
        ([], "anybody", True),
        ([], "", True),
        (["me@example.org"], "me@example.org", True),
        (["me@example.org"], "ME@Example.ORG", True),
        (["ME@example.org"], "me@example.org", True),
        (["a@example.org", "*@example.net"], "b@example.net", True),
        (["*@EXAMPLE.net"], "b@example.net", True),
        (["Jörg"], "jÖRG", True),
        (["a[*]b"], "a*b", True),
        (["*"], "anybody", True),
        (["me@example.org"], "you@example.org", False),
        (["me@example.org"], "me@example.org.example", False),
        (["me@example.org"], "xme@example.org", False),
        (["me@example.org"], "*", False),
        (["me@example.org"], "", False),
        (["*@example.org"], "a@example.org\n", False),
        (["a[*]b"], "axb", False),
        (["me@example.org"], "me@ex\uff41mple.org", True),
        (["me@b\u00fccher.example"], "me@xn--bcher-kva.example", True),
    ],
    ids=[
        "not set",
        "not set, nobody",
        "name",
        "sender in upper case",
        "option in upper case",
        "second",
        "glob in upper case",
        "umlaut",
        "escaped",
        "everybody",
        "another",
        "longer",
        "longer in front",
        "glob as a sender",
        "nobody",
        "line end",
        "escaped, another",
        "full width",
        "punycode",
    ],
)
def test_may_send(senders: Sequence[str], sender: str, may: bool) -> None:
    """X15: senders and users are compared with nx_senders as a whole, without letter case."""
    assert given(nx_senders=senders).may_send(sender) is may

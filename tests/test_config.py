"""The options: valid values, invalid ones, and required combinations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from nxparse.config import OPTIONS, Config, ConfigError, parse
from nxparse.deliver.routes import Target, parse_rule
from nxparse.deliver.smarthost import Security, Smarthost

DEFAULTS: Mapping[str, object] = {option.name: option.default for option in OPTIONS}
DEFAULT = Config(
    dir=Path("uploads"),
    routes=(),
    smtp=None,
    senders=(),
    mail_from=None,
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
    "URL": "https://me:f9e1@h/",
    "BYTES": "f9\udcffe1",
    "QUOTE": "it's",
    "ODD": "not an address",
    "EMPTY": "",
}


def given(**options: object) -> Config:
    """Parse these options and the defaults of the others."""
    return parse({**DEFAULTS, **options}, ENVIRON)


def refused(**options: object) -> str:
    """Return the error for these options, which has no cause that could contain a secret."""
    with pytest.raises(ConfigError) as caught:
        given(**options)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


def test_defaults() -> None:
    """The defaults are the documented ones, and valid."""
    assert given() == DEFAULT


def test_kinds() -> None:
    """No option is an integer: mitmproxy unloads the addon if one cannot be parsed."""
    lists = {"nx_route", "nx_senders", "nx_hosts"}
    assert {one.name: one.kind for one in OPTIONS if one.kind is not str} == {
        **dict.fromkeys(lists, Sequence[str]),
        "nx_gallery": bool,
    }


def test_help() -> None:
    """Each option has a help text."""
    assert [option.name for option in OPTIONS if not option.help.endswith(".")] == []


RIGHT: list[tuple[str, object, object]] = [
    ("dir", "/srv/photos", Path("/srv/photos")),
    ("dir", "~/photos", Path("/home/me/photos")),
    ("dir", "${PHOTOS}/nx", Path("/srv/photos/nx")),
    ("dir", "$PHOTOS/${1}{}", Path("$PHOTOS/${1}{}")),
    ("hosts", ["WWW.Example.com.", "cam?.[a-c]_x"], ("www.example.com", "cam?.[a-c]_x")),
    ("max_upload", "500k", 500 << 10),
    ("max_upload", " 2GB ", 2 << 30),
    ("inspect", "${SIZE}", 7 << 20),
    ("inspect", "0", 0),
    ("dns", " 192.168.1.2\t", IPv4Address("192.168.1.2")),
    ("smtp", " ", None),
    ("senders", [" *@Example.ORG ", "${ADDRESS}"], ("*@Example.ORG", "me@example.org")),
    ("mail_from", " me@example.org ", "me@example.org"),
    ("mail_from", "me@bücher.example", "me@xn--bcher-kva.example"),
    ("retry_for", "45", 45.0),
    ("retry_for", "${TIME}", 90.0),
    ("retry_for", "30m", 1800.0),
    ("retry_for", " 14D\t", 1209600.0),
    ("report", "~/r.md", Path("/home/me/r.md")),
    ("report", " ", None),
    ("gallery", True, True),
]


@pytest.mark.parametrize(("field", "value", "expected"), RIGHT)
def test_right(
    monkeypatch: pytest.MonkeyPatch, field: str, value: object, expected: object
) -> None:
    """Valid values are parsed, with their variables expanded."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    changed: dict[str, Any] = {field: expected}
    assert given(**{f"nx_{field}": value}) == replace(DEFAULT, **changed)


@pytest.mark.parametrize(
    "texts",
    [
        ["b@example.org=drop", "a@example.org=save:/srv", "b@example.org=save"],
        ["*=save:my photos", "${X}=save:a=b", "*=save:${PHOTOS}/x", "a=save:{path}"],
        ["*=run:cp --suffix=.${TIME} '{file}' /srv/${EMPTY}", "*=run:x ${QUOTE}"],
        ["facebook=forward:https://me:${PASSWORD}@${HOST}:8443/x?a=b"],
    ],
)
def test_rules(texts: list[str]) -> None:
    """Rules are stored in order and as written; their variables are not expanded."""
    found = given(nx_route=[f" {text}" for text in texts], nx_senders=["*"]).routes
    assert found == tuple(parse_rule(text) for text in texts)
    assert [value for value in ENVIRON.values() if value and value in repr(found)] == []


PATH = "not a path; for example /srv/photos"
HOST = (
    "not a host name; for example www.example.com or *.example.com, "
    "without http:// and without a port"
)
SIZE = "not a size; for example 500k, 16m or 2g"
ADDRESS = "not an IPv4 address; for example 192.168.1.2"
TIME = "not a time; for example 90s, 30m, 12h or 3d"
SENDER = "not a sender; for example camera@example.org or *@example.org"
NO_ADDRESS = "is not an e-mail address"
UNSET = "the environment has no variable NOWHERE; set it before you start mitmproxy"

WRONG: list[tuple[str, list[str], str]] = [
    ("nx_dir", ["", "  ", "a\0b", "~nobody-here/x"], PATH),
    ("nx_hosts", ["", "http://example.com", "example.com:80", "example.com/x"], HOST),
    ("nx_hosts", ["a.example,b.example", "example .com", "a.example\n", "bücher.example"], HOST),
    ("nx_max_upload", ["", "g", "-1", "1.5g", "2 g", "0"], SIZE),
    ("nx_inspect", ["all", "1t", "0x10", "١٦", "1" * 16], SIZE),
    ("nx_dns", ["router", "fe80::1", "192.168.1.256", "192.168.01.2", "192.168.1.0/24"], ADDRESS),
    ("nx_report", ["a\0b", "~nobody-here/x"], PATH),
    ("nx_senders", ["", " "], SENDER),
    ("nx_mail_from", ["me"], f"'me' {NO_ADDRESS}"),
    ("nx_mail_from", ["me@-.example"], "'me@-.example' has a domain that cannot exist"),
    ("nx_gallery", ["", "maybe", "2"], "neither true nor false"),
    ("nx_retry_for", ["", "d", "2w", "-1d", "1.5h", "3 d", "٣d", "1" * 10, "inf"], TIME),
]


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [(option, value, reason) for option, values, reason in WRONG for value in values],
)
def test_wrong(option: str, value: str, reason: str) -> None:
    """The error names the option, the value, and an example of a right one."""
    listed = option in ("nx_hosts", "nx_senders")
    right = {"nx_hosts": "a.example", "nx_senders": "me"}
    found = refused(**{option: [right[option], value] if listed else value})
    assert found == f"{option}={value!r}: {reason}"


def test_variables() -> None:
    """A value is checked with its variables expanded, and they must exist."""
    assert refused(nx_senders=["${EMPTY}"]) == f"nx_senders='${{EMPTY}}': {SENDER}"
    assert refused(nx_dir="/srv/${NOWHERE}") == f"nx_dir='/srv/${{NOWHERE}}': {UNSET}"


def test_default_target() -> None:
    """Without a matching rule photos are saved, or mailed if there is a mail server."""
    mail = given(nx_smtp="smtp://mail.example.com", nx_senders=["*"])
    assert given().default_target == Target("save", "save")
    assert mail.default_target == Target("mail", "mail")


def server(host: str, port: int, security: Security, password: str = "") -> Smarthost:
    return Smarthost(host, port, security, "me" if password else "", password)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (" smtps://mail.example.com\n", server("mail.example.com", 465, Security.TLS)),
        (
            "smtp://me:${PASSWORD}@${HOST}",
            server("cam.example.com", 25, Security.IF_OFFERED, "f9%2Fe1"),
        ),
        (" ${SMTP} ", server("mail.example.com", 465, Security.TLS, "f9/e1")),
    ],
)
def test_mail_server(value: str, expected: Smarthost) -> None:
    """A mail server is parsed with its user and password, which is in no repr."""
    config = given(nx_smtp=value, nx_senders=["camera@example.com"])
    assert config.smtp == expected
    assert "f9" not in repr(config)


@pytest.mark.parametrize(
    ("user", "mail_from", "expected"),
    [
        ("me%40example.org", "", "me@example.org"),
        ("me%40b\u00fccher.example", "", "me@xn--bcher-kva.example"),
        ("me%40example.org", "you@example.org", "you@example.org"),
        ("me", "", None),
    ],
)
def test_mail_from(user: str, mail_from: str, expected: str | None) -> None:
    """By default mail is sent from the user in nx_smtp, if it is an address."""
    smtp = f"smtps://{user}:f9e1@mail.example.com"
    config = given(nx_smtp=smtp, nx_senders=["*"], nx_mail_from=mail_from)
    assert config.mail_from == expected


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("mail.example.com", "..."),
        ("http://mail.example.com", "http://mail.example.com"),
        ("smtp://me:f9e1@mail.example.com/x", "smtp://mail.example.com/..."),
        ("smtp://me:f9e1@mail.example.com:x", "smtp://..."),
    ],
)
def test_no_mail_server(value: str, shown: str) -> None:
    """Only scheme and host of a wrong mail server are shown."""
    assert refused(nx_smtp=value, nx_senders=["*"]) == (
        f"nx_smtp={shown!r}: not a mail server URL; for example smtps://user:password@host, "
        f"with special characters in the password as %40"
    )


RULE = "a rule is PATTERN=TARGET, for example *@example.org=save"
NO_URL = "not a URL like https://host/path"
PLACEHOLDERS = "there are {file}, {sender}, {recipient}, {subject}, {text}, {camera}"
EMPTY = "needs an argument: its variable is empty"

# The wrong rule, how it is shown if not as written, and the reason.
WRONG_RULES: list[tuple[str, str, str]] = [
    ("*=mail:${ODD}", "", f"'not an address' {NO_ADDRESS}"),
    ("*=mail:${EMPTY}", "", f"mail:${{EMPTY}} {EMPTY}"),
    ("*=mail:${URL}", "", "a URL is not an e-mail address"),
    ("*=mail:smtp://me:f9e1@h", "*=mail:smtp://h/...", "a URL is not an e-mail address"),
    ("*=save:~nobody-here/x", "", PATH),
    ("*=save:/srv/${NOWHERE}", "", UNSET),
    ("facebook=mail", "", "a site has no address: use facebook=mail:ADDRESS"),
    ("Flickr=mail", "", "a site has no address: use Flickr=mail:ADDRESS"),
    ("*=run:${EMPTY} ${EMPTY}", "", f"run:${{EMPTY}} ${{EMPTY}} {EMPTY}"),
    ("*=run:x ${PASSWORD} {path}", "", f"there is no placeholder {{path}}: {PLACEHOLDERS}"),
    (
        "*=run:https://me:f9e1@h/f9e1 {file}",
        "*=run:...",
        "a URL is not a program: to post to one, say forward:URL",
    ),
    (
        "*=run:curl -u me:f9e1 https://h/f9e1 {path}",
        "*=run:curl ...",
        f"there is no placeholder {{path}}: {PLACEHOLDERS}",
    ),
    ("*=forward:${BYTES}", "", NO_URL),
    ("*=forward:${HOST}/f9e1", "*=forward:...", NO_URL),
    ("*=forward:http://me:f9e1@h/f9e1?x=${NOWHERE}", "*=forward:http://h/...", UNSET),
    ("forward:https://me:f9e1@h/?x=f9e1", "forward:https://h/...", RULE),
]


@pytest.mark.parametrize(("value", "shown", "reason"), WRONG_RULES)
def test_wrong_rule(value: str, shown: str, reason: str) -> None:
    """A wrong rule is refused with the reason; only scheme and host of its URL are shown."""
    found = refused(nx_route=["*=save", value], nx_senders=["*"], nx_smtp="smtp://h")
    assert found == f"nx_route={shown or value!r}: {reason}"


SMTP = "smtp://mail.example.com"


def test_mail_needs_a_server() -> None:
    """A rule that mails needs nx_smtp."""
    assert refused(nx_route=["a=save", "b=mail"], nx_senders=["*"]) == (
        "nx_route='b=mail': nx_smtp is not set: add --set nx_smtp=smtps://user:password@host"
    )


@pytest.mark.parametrize(
    ("target", "rules", "smtp"),
    [
        ("mail", ["*=save"], SMTP),
        ("mail:me@example.org", ["*=save", "*=mail:me@example.org"], SMTP),
        ("run:x {file}", ["*=save", "facebook=run:x {file}"], ""),
        ("forward:https://h/...", ["*=forward:https://me:f9e1@h/f9e1"], ""),
    ],
)
def test_senders_must_be_set(target: str, rules: list[str], smtp: str) -> None:
    """Nothing may leave this machine unless nx_senders is set."""
    assert refused(nx_route=rules, nx_smtp=smtp) == (
        f"nx_senders is not set, so anyone who can reach this machine could use the target "
        f"{target}: add --set nx_senders=ADDRESS with the sender entered on the camera"
    )


@pytest.mark.parametrize(
    "options",
    [
        {"nx_route": ["*=save", "facebook=drop", "picasa=save:/srv"]},
        {"nx_senders": ["camera@example.com"]},
        {"nx_smtp": SMTP, "nx_senders": ["*"], "nx_route": ["a=mail", "*=mail:${ADDRESS}"]},
        {"nx_smtp": SMTP, "nx_senders": ["me"], "nx_route": ["facebook=mail:me@example.org"]},
        {"nx_smtp": SMTP, "nx_senders": ["me"], "nx_route": ["*=mail", "facebook=save"]},
        {"nx_route": ["*=run:x {file}", "facebook=forward:https://${HOST}/"], "nx_senders": ["me"]},
    ],
)
def test_valid_combinations(options: Mapping[str, object]) -> None:
    """Saving needs no option; commands and servers need nx_senders; mail also needs nx_smtp."""
    assert isinstance(given(**options), Config)


@pytest.mark.parametrize(
    ("senders", "sender", "may"),
    [
        ([], "anybody", True),
        (["ME@example.org"], "me@Example.ORG", True),
        (["a@example.org", "*@EXAMPLE.net"], "b@example.net", True),
        (["me@example.org"], "you@example.org", False),
        (["me@example.org"], "", False),
    ],
)
def test_may_send(senders: Sequence[str], sender: str, may: bool) -> None:
    """Senders and users are compared with nx_senders as a whole, without letter case."""
    assert given(nx_senders=senders).may_send(sender) is may

"""Which unknown hosts are logged, and with which option."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nxparse.config import OPTIONS, parse
from nxparse.proxy import unknown_hosts
from nxparse.proxy.unknown_hosts import UnknownHosts
from nxparse.server.endpoints import Hosts, bare_host
from nxparse.text import printable

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=30)

CAMERA, PHONE, OTHER = "192.168.1.7", "192.168.1.8", "192.168.1.9"
NAME = "www.example.com"
DEFAULTS: dict[str, object] = {one.name: one.default for one in OPTIONS}


def found(*cameras: str) -> UnknownHosts:
    """An object that has seen these cameras."""
    hosts = UnknownHosts()
    for camera in cameras:
        assert hosts.seen(camera) is None
    return hosts


@pytest.mark.parametrize(("how", "verb"), [("DNS", "looked up"), ("HTTP", "requested")])
def test_each_name_is_logged_once(how: str, verb: str) -> None:
    """Each name of a camera gets one line, with the option that answers it."""
    hosts = found(CAMERA)
    assert [hosts.asked(CAMERA, name, how) for name in (NAME, NAME, "b.example")] == [
        f"{CAMERA}: also {verb} {NAME}, which nx_addon does not answer; if its uploads fail, "
        f"try --set nx_hosts={NAME}",
        None,
        f"{CAMERA}: also {verb} b.example, which nx_addon does not answer; if its uploads "
        f"fail, try --set nx_hosts=b.example",
    ]
    assert hosts.seen(CAMERA) is None
    assert hosts.asked(CAMERA, NAME, how) is None
    assert hosts.asked(CAMERA, "", how) is None
    assert hosts.asked(PHONE, NAME, how) is None, "it never asked for one of our hosts"


def test_names_before() -> None:
    """The names that a camera asked for before it asked for ours are logged once."""
    hosts = UnknownHosts()
    earlier = ["a.example.com", NAME, "a.example.com", "evil\n.example.com"]
    assert [hosts.asked(CAMERA, name, "DNS") for name in earlier] == [None] * 4
    hosts.asked(PHONE, "phone.example.com", "DNS")
    assert hosts.seen(CAMERA) == (
        f"{CAMERA}: asked for {NAME}, a.example.com, evil?.example.com before, which nx_addon "
        f"does not answer; if its uploads fail, try --set nx_hosts=NAME with one of them"
    )
    assert hosts.seen(CAMERA) is None
    assert hosts.asked(CAMERA, NAME, "DNS") is None
    assert hosts.asked(CAMERA, "new.example.com", "HTTP")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [(NAME, f"; if its uploads fail, try --set nx_hosts={NAME}"), ("$(reboot)", "")],
)
def test_one_name_before(name: str, remedy: str) -> None:
    """If there was only one name, the option is complete, unless a shell would expand it."""
    hosts = UnknownHosts()
    hosts.asked(CAMERA, name, "DNS")
    line = f"{CAMERA}: asked for {name} before, which nx_addon does not answer{remedy}"
    assert hosts.seen(CAMERA) == line


def test_limits_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of clients that are not cameras, the last names of the last clients are remembered."""
    monkeypatch.setattr(unknown_hosts, "MAX_CLIENTS", 2)
    hosts = found(OTHER)
    for client, count in ((CAMERA, 1), (PHONE, 30), ("192.168.1.10", 1)):
        for n in range(count):
            hosts.asked(client, f"{n}.example.com", "DNS")
        hosts.asked(client, "x" * 256, "HTTP")
    assert hosts.asked(OTHER, NAME, "DNS"), "other clients do not displace a camera"
    assert hosts.seen(CAMERA) is None, "the first of three clients is forgotten"
    line = hosts.seen(PHONE)
    assert line
    assert "asked for 10.example.com, 11.example.com, " in line
    assert line.count(".example.com") == unknown_hosts.MAX_NAMES


def test_limits_of_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of a camera, and the cameras, are limited."""
    monkeypatch.setattr(unknown_hosts, "MAX_CLIENTS", 2)
    hosts = found(CAMERA)
    lines = [hosts.asked(CAMERA, f"{n}.example.com", "DNS") for n in range(30)]
    assert [bool(line) for line in lines] == [True] * unknown_hosts.MAX_NAMES + [False] * 10
    hosts.seen(PHONE)
    hosts.seen(OTHER)
    assert hosts.asked(CAMERA, NAME, "DNS") is None
    assert hosts.asked(PHONE, NAME, "DNS")


@pytest.mark.parametrize(
    "name", ["*", "*.com", "a[b].com", "$(reboot)", "a;reboot", "a b", "a\nb.com", "x" * 90]
)
def test_hostile_names(name: str) -> None:
    """A name that is not valid, or too long to be shown, is logged without an option."""
    line = found(CAMERA).asked(CAMERA, name, "HTTP")
    assert line
    assert line.endswith("which nx_addon does not answer")


@PROPERTY
@given(st.text("ab.*?[]$;'-_ 사", min_size=1, max_size=20) | st.text(min_size=1))
def test_any_name(name: str) -> None:
    """Any name stays in one line, and the option answers that host and no other."""
    line = found(CAMERA).asked(CAMERA, bare_host(name), "HTTP") or ""
    assert printable(line, len(line)) == line
    if "--set" in line:
        flag, option = shlex.split(line.partition("try ")[2])
        config = parse({**DEFAULTS, "nx_hosts": [option.partition("=")[2]]}, {})
        hosts = Hosts(config.hosts)
        assert (flag, name in hosts, f"{bare_host(name)}x" in hosts) == ("--set", True, False)

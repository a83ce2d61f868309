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

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=200)

CAMERA, PHONE = "192.168.1.7", "192.168.1.8"
NAME = "www.example.com"


def test_told_once() -> None:
    """A camera's other hosts are told once each, with the option that would answer them."""
    found = UnknownHosts()
    found.seen(CAMERA)
    told = [found.asked(CAMERA, name, "DNS") for name in (NAME, NAME, "b.example.com")]
    assert told == [
        f"{CAMERA}: also asks DNS for {NAME}, which is not answered here; if its uploads fail, "
        f"try --set nx_hosts={NAME}",
        None,
        f"{CAMERA}: also asks DNS for b.example.com, which is not answered here; if its uploads "
        f"fail, try --set nx_hosts=b.example.com",
    ]


def test_no_camera() -> None:
    """Who never asked for a Samsung host is nobody's business."""
    found = UnknownHosts()
    found.seen(CAMERA)
    assert found.asked(PHONE, NAME, "HTTP") is None


def test_asked_before() -> None:
    """What a camera asked for before it asked for one of ours is logged when it does, once."""
    found = UnknownHosts()
    earlier = ["a.example.com", NAME, "a.example.com", "evil\n.example.com"]
    assert [found.asked(CAMERA, name, "DNS") for name in earlier] == [None] * 4
    found.asked(PHONE, "phone.example.com", "DNS")
    assert found.names(CAMERA) == [NAME, "a.example.com", "evil\n.example.com"]
    assert found.seen(CAMERA) == (
        f"{CAMERA}: asked for {NAME}, a.example.com, evil?.example.com before, which nx_addon "
        f"does not answer; if its uploads fail, try --set nx_hosts=NAME with one of them"
    )
    assert found.seen(CAMERA) is None
    assert found.asked(CAMERA, NAME, "DNS") is None
    assert found.asked(CAMERA, "new.example.com", "HTTP")
    assert found.names(CAMERA)[-1] == "new.example.com"


def test_the_last_names_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what was asked before, the last names are kept, of the last clients."""
    monkeypatch.setattr(unknown_hosts, "MAX_CLIENTS", 2)
    found = UnknownHosts()
    for n in range(30):
        found.asked(CAMERA, f"{n}.example.com", "DNS")
    assert found.names(CAMERA) == [f"{n}.example.com" for n in range(10, 30)]
    found.asked(CAMERA, "x" * 256, "HTTP")
    assert len(found.names(CAMERA)) == 20
    # Those who only ask for others do not displace a camera.
    found.seen("192.168.1.9")
    for client in (PHONE, "192.168.1.10"):
        found.asked(client, NAME, "DNS")
    assert found.names(CAMERA) == []
    assert found.asked("192.168.1.9", NAME, "DNS")


def test_seen_again() -> None:
    """A camera that comes again is told nothing twice."""
    found = UnknownHosts()
    for expected in (True, False):
        found.seen(CAMERA)
        assert (found.asked(CAMERA, NAME, "HTTP") is not None) is expected


def test_no_name() -> None:
    """A request that names no host has none to tell."""
    found = UnknownHosts()
    found.seen(CAMERA)
    assert found.asked(CAMERA, "", "HTTP") is None


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a talkative client nor many of them fill log or memory."""
    monkeypatch.setattr(unknown_hosts, "MAX_CLIENTS", 2)
    found = UnknownHosts()
    found.seen(CAMERA)
    told = [found.asked(CAMERA, f"{n}.example.com", "DNS") for n in range(30)]
    assert [one is not None for one in told] == [True] * unknown_hosts.MAX_NAMES + [False] * 10
    found.seen(PHONE)
    found.seen("192.168.1.9")
    assert found.asked(CAMERA, NAME, "DNS") is None
    assert found.asked(PHONE, NAME, "DNS")


def test_hostile_name() -> None:
    """A name from the network adds no line to the log."""
    found = UnknownHosts()
    found.seen(CAMERA)
    assert "\n" not in (found.asked(CAMERA, "a\nb.example.com", "HTTP") or "\n")


@pytest.mark.parametrize(
    "name", ["*", "*.com", "a[b].com", "$(reboot)", "a;reboot", "a b", "x" * 90]
)
def test_no_host_name(name: str) -> None:
    """Of a name that is none, or too long to be shown, no command is made."""
    found = UnknownHosts()
    found.seen(CAMERA)
    told = found.asked(CAMERA, name, "HTTP")
    assert told
    assert told.endswith("which is not answered here")


@PROPERTY
@given(st.text("ab.*?[]$;'-_ 사", min_size=1, max_size=20) | st.text(min_size=1))
def test_any_name(name: str) -> None:
    """Whatever the name is, it stays in one line, and a command is for that host and no other."""
    found = UnknownHosts()
    found.seen(CAMERA)
    told = found.asked(CAMERA, bare_host(name), "HTTP") or ""
    assert printable(told, len(told)) == told
    if "--set" in told:
        flag, option = shlex.split(told.partition("try ")[2])
        config = parse(
            {**{one.name: one.default for one in OPTIONS}, "nx_hosts": [option.partition("=")[2]]},
            {},
        )
        hosts = Hosts(config.hosts)
        assert (flag, name in hosts, f"{name}x" in hosts) == ("--set", True, False)

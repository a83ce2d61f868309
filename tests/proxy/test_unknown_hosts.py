"""The unknown hosts that are logged, with an option for each."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from nxparse.proxy import unknown_hosts
from nxparse.proxy.unknown_hosts import UnknownHosts
from nxparse.server.endpoints import Hosts
from nxparse.text import printable
from tests.box import configured

CAMERA, PHONE, OTHER = "192.168.1.7", "192.168.1.8", "192.168.1.9"
NAME = "www.example.com"


class Logged:
    """Unknown hosts, and the lines that they log."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        self._caplog = caplog
        self._hosts = UnknownHosts()

    def seen(self, client: str) -> str:
        """The line when a client asks for one of our hosts; empty without one."""
        return self._line(lambda: self._hosts.seen(client))

    def asked(self, client: str, name: str, verb: str = "looked up") -> str:
        """The line when a client asks for another name."""
        return self._line(lambda: self._hosts.asked(client, name, verb))

    def _line(self, act: Callable[[], None]) -> str:
        self._caplog.clear()
        act()
        return "".join(self._caplog.messages)


@pytest.fixture
def hosts(caplog: pytest.LogCaptureFixture) -> Logged:
    return Logged(caplog)


@pytest.mark.parametrize("verb", ["looked up", "requested"])
def test_each_name_is_logged_once(hosts: Logged, verb: str) -> None:
    """Each name of a camera gets one line, with the option that answers it."""
    hosts.seen(CAMERA)
    line = f"{CAMERA}: also {verb} {NAME}, which nx_addon does not answer; if its uploads fail, "
    assert hosts.asked(CAMERA, NAME, verb) == f"{line}try --set nx_hosts={NAME}"
    assert hosts.seen(CAMERA) == ""
    assert hosts.asked(CAMERA, NAME, verb) == ""
    assert hosts.asked(CAMERA, "", verb) == ""
    assert hosts.asked(PHONE, NAME, verb) == "", "it never asked for one of our hosts"


def test_names_before(hosts: Logged) -> None:
    """The names that a camera asked for before it asked for ours are logged once."""
    earlier = ["a.example.com", NAME, "a.example.com", "evil\n.example.com"]
    assert [hosts.asked(CAMERA, name) for name in earlier] == [""] * 4
    hosts.asked(PHONE, "phone.example.com")
    assert hosts.seen(CAMERA) == (
        f"{CAMERA}: asked for {NAME}, a.example.com, evil?.example.com before, which nx_addon "
        f"does not answer; if its uploads fail, try --set nx_hosts=NAME with one of them"
    )
    assert hosts.seen(CAMERA) == ""
    assert hosts.asked(CAMERA, NAME) == ""
    assert hosts.asked(CAMERA, "new.example.com")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [(NAME, f"; if its uploads fail, try --set nx_hosts={NAME}"), ("$(reboot)", "")],
)
def test_one_name_before(hosts: Logged, name: str, remedy: str) -> None:
    """If there was only one name, the option is complete, unless a shell would expand it."""
    hosts.asked(CAMERA, name)
    line = f"{CAMERA}: asked for {name} before, which nx_addon does not answer{remedy}"
    assert hosts.seen(CAMERA) == line


def test_limits_before(monkeypatch: pytest.MonkeyPatch, hosts: Logged) -> None:
    """For clients that are not cameras, the latest names of the latest clients are remembered."""
    monkeypatch.setattr(unknown_hosts, "MAX_CLIENTS", 2)
    hosts.seen(OTHER)
    for client, count in ((CAMERA, 1), (PHONE, 30), ("192.168.1.10", 1)):
        for n in range(count):
            hosts.asked(client, f"{n}.example.com")
        hosts.asked(client, "x" * 256)
    assert hosts.asked(OTHER, NAME), "other clients do not displace a camera"
    assert hosts.seen(CAMERA) == "", "the first of three clients is forgotten"
    line = hosts.seen(PHONE)
    assert "asked for 10.example.com, 11.example.com, " in line
    assert line.count(".example.com") == unknown_hosts.MAX_NAMES


def test_limits_of_cameras(monkeypatch: pytest.MonkeyPatch, hosts: Logged) -> None:
    """The names of a camera, and the cameras, are limited."""
    monkeypatch.setattr(unknown_hosts, "MAX_CLIENTS", 2)
    hosts.seen(CAMERA)
    lines = [hosts.asked(CAMERA, f"{n}.example.com") for n in range(30)]
    assert [bool(line) for line in lines] == [True] * unknown_hosts.MAX_NAMES + [False] * 10
    hosts.seen(PHONE)
    hosts.seen(OTHER)
    assert hosts.asked(CAMERA, NAME) == ""
    assert hosts.asked(PHONE, NAME)


@pytest.mark.parametrize(
    "name",
    ["*", "*.com", "a[b].com", "$(reboot)", "a;reboot", "a b", "a\nb.com", "x" * 90, "'", "사.com"],
)
def test_hostile_names(hosts: Logged, name: str) -> None:
    """A name that is not valid, or too long to be shown, is logged without an option."""
    hosts.seen(CAMERA)
    line = hosts.asked(CAMERA, name)
    assert line.endswith("which nx_addon does not answer")
    assert printable(line, len(line)) == line


@pytest.mark.parametrize("name", [NAME, "a-b_c.example", "a.b", "printer", "xn--bcher-kva.example"])
def test_the_option(hosts: Logged, name: str) -> None:
    """The option matches that host and no other."""
    hosts.seen(CAMERA)
    flag, option = shlex.split(hosts.asked(CAMERA, name).partition("try ")[2])
    found = Hosts(configured(Path(), nx_hosts=[option.partition("=")[2]]).hosts)
    others = (f"{name}x", f"x{name}", f"x.{name}", name.replace(".", "x") + "y")
    assert (flag, name in found) == ("--set", True)
    assert [other for other in others if other in found] == []

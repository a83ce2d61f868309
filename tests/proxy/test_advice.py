"""The lines at start, remedies for ports that cannot be opened, and doubtful options."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nxparse.config import OPTIONS, parse
from nxparse.proxy import advice
from nxparse.proxy.advice import SetUp, dnsmasq, rule

START = "mitmdump -s nx_addon.py"
OTHERS = "(and your other options)"
ALL = f"start it with: {START} --mode regular@80 --mode dns@53 {OTHERS}"
PC, WLAN, ROUTER = "192.168.1.2", "10.0.0.1", "198.51.100.80"
REACH = f"cameras must reach {PC}, port 80 for HTTP and port 53 for DNS"


def lines(
    regular: int = 0, transparent: int = 0, dns: int = 0, own: str = PC, **more: object
) -> list[str]:
    """The advice for one port of each mode, 0 for none."""
    ports = [[port] if port else [] for port in (regular, transparent, dns)]
    return advice.lines(SetUp(*ports, own.split(), START, **more))  # type: ignore[arg-type]


def not_served(words: str, address: str = PC) -> str:
    return (
        f"port 53: not served by this process: {words}; or let the DNS server of your network "
        f"answer, in dnsmasq: {dnsmasq(address)}"
    )


def test_everything_is_served() -> None:
    """With both ports served, the lines contain the address to enter on the camera."""
    dns = f"port 53: served by this process; enter {PC} as the DNS server on the camera"
    assert lines(80, dns=53) == [REACH, "port 80: served by this process", dns]


def test_nothing_is_served() -> None:
    """The lines have the command that serves both ports, and the rules that replace it."""
    reach, http, dns = lines(8080, own=f"{PC} {WLAN}")
    assert reach == f"cameras must reach {PC} or {WLAN}, port 80 for HTTP and port 53 for DNS"
    assert http == (
        f"port 80: not served by this process, only port 8080: {ALL}; or redirect port 80: "
        f"{rule(PC, 8080)}"
    )
    assert dns == not_served(ALL)
    assert lines(dns=53) == [f"no mode that cameras can use is active: {ALL}"]


@pytest.mark.parametrize(
    ("ports", "only"),
    [({"regular": 80}, ""), ({"transparent": 8080, "dns": 5300}, ", only port 5300")],
)
def test_another_dns_server(ports: dict[str, int], only: str) -> None:
    """With nx_dns and no DNS on port 53, the line is for the DNS server of the network."""
    assert lines(**ports, nx_dns=ROUTER)[2] == (
        f"port 53: not served by this process{only}: the DNS server of your network has to "
        f"answer, in dnsmasq: {dnsmasq(ROUTER)}"
    )


def test_a_router() -> None:
    """In transparent mode the address in nx_dns is redirected, never the router's own."""
    reach, http, _ = lines(transparent=8080, nx_dns=ROUTER)
    assert reach == f"cameras must reach {ROUTER}, port 80 for HTTP"
    assert http == f"port 80: redirect it to port 8080, if not done yet: {rule(ROUTER, 8080)}"

    reach, http, dns = lines(8081, transparent=8080)
    start = f"{START} --mode transparent@8080 --set nx_dns={ROUTER} --mode dns@53 {OTHERS}"
    assert http == (
        f"port 80: not served by this process, only port 8080: start it with: {start}; "
        f"and redirect port 80: {rule(ROUTER, 8080)}"
    )
    assert dns == not_served(f"start it with: {start}", ROUTER)


def test_the_dns_server_of_a_router() -> None:
    """With the DNS mode, cameras reach nx_dns for HTTP and the router itself for DNS."""
    reach, _, dns = lines(transparent=8080, dns=53, nx_dns=ROUTER)
    assert reach == f"cameras must reach {ROUTER}, port 80 for HTTP; and {PC}, port 53 for DNS"
    assert dns == f"port 53: served by this process; enter {PC} as the DNS server on the camera"


def test_rules() -> None:
    """The commands for nft and dnsmasq."""
    assert rule(PC, 8080) == (
        "sudo nft 'add table ip nx; "
        "add chain ip nx prerouting { type nat hook prerouting priority dstnat; }; "
        f"add rule ip nx prerouting ip daddr {PC} tcp dport 80 redirect to :8080'"
    )
    ours = (
        "gld.samsungosp.com/www.samsungimaging.com/samsungimaging.com/www.ospserver.net/"
        "snsgw.samsungmobile.com/www.yahoo.co.kr/"
    )
    assert dnsmasq(PC) == f"address=/{ours}{PC} and, on a line of its own, local=/{ours}"
    hosts = ["www.msn.com", "*.example.org", "new*.example.net", "www.ospserver.net"]
    ours += "www.msn.com/example.org/"
    assert dnsmasq(PC, hosts) == f"address=/{ours}{PC} and, on a line of its own, local=/{ours}"


@pytest.mark.parametrize("ports", [{"regular": 80}, {"transparent": 8080, "nx_dns": ROUTER}])
def test_hosts_of_the_user(ports: dict[str, Any]) -> None:
    """The line for dnsmasq has the hosts in nx_hosts, too."""
    assert "/www.msn.com/" in lines(**ports, hosts=["www.msn.com"])[2]


@pytest.mark.parametrize(
    ("port", "error", "words"),
    [
        (80, errno.EACCES, ["port 80 needs a privilege", "port_start=53 and start", "sudo; a"]),
        (8080, errno.EADDRINUSE, ["port 8080 is taken", "'sport = :8080'", "or use another port"]),
        (80, errno.EADDRINUSE, ["port 80 is taken", "or redirect it to a free port", "README"]),
        (
            *(53, errno.EADDRINUSE),
            [f"taken: listen on {PC} only: --mode dns@{PC}:53", "README; or find the program"],
        ),
    ],
)
def test_remedy(port: int, error: int, words: list[str]) -> None:
    """The line names the port and a remedy. It suggests no other port for 53 and 80."""
    line = advice.remedy(port, error, PC)
    assert line
    assert [word for word in words if word not in line] == []
    assert port not in (53, 80) or "another port" not in line
    assert advice.remedy(port, errno.ENOMEM, PC) is None


def test_sudo(tmp_path: Path) -> None:
    """With sudo, the warning has the command that restores the owner, and a way without sudo."""
    folders = [tmp_path / "my uploads", tmp_path / "mitmproxy"]
    line = advice.sudo_warning({"SUDO_UID": "1000", "SUDO_GID": "100"}, folders)
    assert line
    assert f"sudo chown -R 1000:100 '{folders[0]}' {folders[1]};" in line
    assert advice.OPEN_PORTS in line


@pytest.mark.parametrize(
    "environ",
    [{}, {"SUDO_UID": "0", "SUDO_GID": "0"}, {"SUDO_UID": "1; rm", "SUDO_GID": "1"}],
    ids=["not sudo", "sudo by root", "not a number"],
)
def test_no_warning_about_sudo(environ: Mapping[str, str]) -> None:
    """Root itself, such as in a container, is not warned."""
    assert advice.sudo_warning(environ, [Path("uploads")]) is None


DEFAULTS: Mapping[str, object] = {option.name: option.default for option in OPTIONS}
ENVIRON = {"PHOTOS": "/srv/photos", "PATH": os.environ["PATH"]}

# Likely mistakes, and the beginning of the line about each.
DOUBTFUL: dict[str, tuple[Mapping[str, object], str]] = {
    "time without a unit": (
        {"nx_retry_for": "3"},
        "nx_retry_for=3 is 3 seconds: write 3d for 3 days",
    ),
    "time from the environment": ({"nx_retry_for": "${THREE}"}, "nx_retry_for=3 is 3 seconds"),
    "all hosts": (
        {"nx_hosts": ["x.example", "*"]},
        "nx_hosts=* matches every name: list",
    ),
    "all hosts with a dot": ({"nx_hosts": ["*.*"]}, "nx_hosts=*.* matches every name"),
    "two senders in one": (
        {"nx_senders": ["a@b.example, *@c.example"]},
        "nx_senders=a@b.example, *@c.example is one pattern: repeat --set nx_senders=... for each",
    ),
    "a misspelt site": (
        {"nx_route": ["Facebok=save"]},
        "nx_route=Facebok=save: Facebok is not an address, glob or known site: the sites are cyw",
    ),
    "a placeholder in a folder": (
        {"nx_route": ["*=save:photos/{camera}"]},
        "nx_route=*=save:photos/{camera}: {camera} is not replaced here; only run: replaces it",
    ),
    "a placeholder in a URL": (
        {"nx_route": ["*=forward:https://me:f9e1@h/{camera}"], "nx_senders": ["*"]},
        "nx_route=*=forward:https://h/...: {camera} is not replaced here; only run: replaces it",
    ),
    "a rule without quotes": (
        {"nx_route": ["*=run:true"], "nx_senders": ["*"]},
        "nx_route=*=run:true: the program gets no {file}: put the whole rule in quotes, or add it",
    ),
    "a missing program": (
        {"nx_route": ["*=run:nx-no-such-program {file}"], "nx_senders": ["*"]},
        "nx_route=*=run:nx-no-such-program {file}: there is no program nx-no-such-program in PATH",
    ),
    "a program from the environment": (
        {"nx_route": ["*=run:${PHOTOS}/x {file}"], "nx_senders": ["*"]},
        "nx_route=*=run:${PHOTOS}/x {file}: there is no program ${PHOTOS}/x",
    ),
}


@pytest.mark.parametrize(("options", "doubt"), DOUBTFUL.values(), ids=DOUBTFUL)
def test_doubtful(options: Mapping[str, object], doubt: str) -> None:
    """A likely mistake gets one line with the remedy, without secrets."""
    values = {**DEFAULTS, **options}
    environ = {**ENVIRON, "THREE": "3"}
    (found,) = advice.doubts(values, parse(values, environ), environ)
    assert found.startswith(doubt)
    assert "f9" not in found


def test_nothing_doubtful(tmp_path: Path) -> None:
    """Unusual but sensible values cause no line."""
    program = tmp_path / "my program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    values = {
        **DEFAULTS,
        "nx_retry_for": "0",
        "nx_max_upload": "1000000",
        "nx_inspect": "0",
        "nx_hosts": ["*.example.org", "cam*", "www.msn.com"],
        "nx_dns": "198.51.100.80",
        "nx_dir": "${PHOTOS}/{2024}",
        "nx_senders": ["*", "Jane Doe", "Doe, Jane <jane@example.org>"],
        "nx_route": [
            "Facebook=save",
            "f*=save",
            "me@example.org=save:${PHOTOS}",
            "*=run:sh -c 'echo {file}'",
            f"*=run:'{program}' {{file}}",
            "*=mastodon:https://t@example.social/?postscript={camera}",
        ],
    }
    assert advice.doubts(values, parse(values, ENVIRON), ENVIRON) == []

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from nxparse.config import OPTIONS, parse
from nxparse.proxy import advice
from nxparse.proxy.advice import Listening

COMMAND = "sudo mitmdump -s nx_addon.py"
ALL = f"{COMMAND} --mode regular@80 --mode dns@53"
HOSTS = (
    "gld.samsungosp.com/www.samsungimaging.com/samsungimaging.com/"
    "www.ospserver.net/snsgw.samsungmobile.com/www.yahoo.co.kr"
)


def rule(addresses: str, port: int) -> str:
    """The command that redirects port 80."""
    return (
        "nft 'add table ip nx; "
        "add chain ip nx prerouting { type nat hook prerouting priority dstnat; }; "
        f"add rule ip nx prerouting ip daddr {addresses} tcp dport 80 redirect to :{port}'"
    )


def dnsmasq(address: str) -> str:
    """What to do where there is no DNS mode."""
    return (
        f"port 53: not served by this process. Start it with: {ALL}; or let the DNS server "
        f"of your network answer, in dnsmasq: address=/{HOSTS}/{address}"
    )


ONE = ["192.168.1.2"]
REACH = "cameras must reach 192.168.1.2, port 80 for HTTP and port 53 for DNS"
SERVED = "port 53: served by this process; let it be the DNS server of the camera"


@pytest.mark.parametrize(
    ("here", "expected"),
    [
        (
            Listening([80], [], [53], ONE, COMMAND),
            [REACH, "port 80: served by this process", SERVED],
        ),
        (
            Listening([8080, 80], [], [5353], ONE, COMMAND),
            [REACH, "port 80: served by this process", dnsmasq("192.168.1.2")],
        ),
        (
            Listening([8080], [], [], ONE, COMMAND),
            [
                REACH,
                "port 80: not served by this process, which listens on port 8080. "
                f"Start it with: {ALL}; or redirect the port: {rule('192.168.1.2', 8080)}",
                dnsmasq("192.168.1.2"),
            ],
        ),
        (
            Listening([], [8081], [53], ONE, COMMAND),
            [
                REACH,
                "port 80: redirect it to port 8081 of this process, if that is not done yet: "
                f"{rule('192.168.1.2', 8081)}",
                SERVED,
            ],
        ),
        (
            Listening([8080], [8081], [53], ONE, COMMAND),
            [
                REACH,
                "port 80: redirect it to port 8081 of this process, if that is not done yet: "
                f"{rule('192.168.1.2', 8081)}",
                SERVED,
            ],
        ),
        (
            Listening([8080], [], [], ["192.168.1.2", "10.0.0.1"], COMMAND),
            [
                "cameras must reach 192.168.1.2 or 10.0.0.1, port 80 for HTTP and port 53 for DNS",
                "port 80: not served by this process, which listens on port 8080. "
                f"Start it with: {ALL}; or redirect the port: "
                f"{rule('{ 192.168.1.2, 10.0.0.1 }', 8080)}",
                dnsmasq("192.168.1.2"),
            ],
        ),
        (
            Listening([8080], [], [], [], COMMAND),
            [
                "cameras must reach ADDRESS, port 80 for HTTP and port 53 for DNS",
                "port 80: not served by this process, which listens on port 8080. "
                f"Start it with: {ALL}; or redirect the port: {rule('ADDRESS', 8080)}",
                dnsmasq("ADDRESS"),
            ],
        ),
        (
            Listening([], [], [53], ONE, COMMAND),
            [f"no HTTP is served by this process: start it with {ALL}"],
        ),
    ],
    ids=[
        "all",
        "HTTP only",
        "another port",
        "transparent",
        "regular and transparent",
        "two addresses",
        "no address",
        "DNS only",
    ],
)
def test_lines(here: Listening, expected: list[str]) -> None:
    """Who starts the proxy is told what is missing, and the very command that would do it."""
    assert advice.lines(here) == expected


def taken(port: int, hint: str = "") -> str:
    return (
        f"port {port} is taken: see by whom with sudo ss -lntup 'sport = :{port}', "
        f"stop that, or use another port{hint}"
    )


def privilege(port: int) -> str:
    return (
        f"port {port} needs a privilege: start with sudo, or as a systemd service with "
        "AmbientCapabilities=CAP_NET_BIND_SERVICE, or use a port above 1023 and redirect"
    )


DNS_HINT = (
    "; README tells about systemd-resolved and dnsmasq, "
    "or take one address only: --mode dns@ADDRESS:53"
)


def tcp(place: str, number: int) -> str:
    """What mitmproxy says of a TCP port it cannot have."""
    return (
        f"HTTP(S) proxy failed to listen on {place} with [Errno {number}] "
        f"error while attempting to bind on address: {os.strerror(number).lower()}"
    )


def udp(place: str, number: int) -> str:
    """What mitmproxy says of a UDP port it cannot have."""
    return f"Failed to bind UDP socket to {place}: {os.strerror(number)} (os error {number})"


@pytest.mark.parametrize(
    ("complaint", "expected"),
    [
        (tcp("*:80", errno.EACCES), privilege(80)),
        (tcp("127.0.0.1:80", errno.EACCES), privilege(80)),
        (tcp("*:8080", errno.EADDRINUSE), taken(8080)),
        (tcp("::1:8080", errno.EADDRINUSE), taken(8080)),
        (
            tcp("192.0.2.1:8080", errno.EADDRNOTAVAIL),
            "port 8080: this machine does not have that address; see ip address",
        ),
        (tcp("*:8080", errno.ENOMEM), None),
        (udp("0.0.0.0:53", errno.EACCES), privilege(53)),
        (udp("0.0.0.0:53", errno.EADDRINUSE), taken(53, DNS_HINT)),
        (tcp("*:53", errno.EADDRINUSE), taken(53, DNS_HINT)),
        (udp("0.0.0.0:5353", errno.EADDRINUSE), taken(5353)),
        ("failed to listen on *:80", None),
        ("the disk is full: [Errno 28]", None),
        ("", None),
    ],
)
def test_explained(complaint: str, expected: str | None) -> None:
    """A port that cannot be had is told with what to do; other complaints are left alone."""
    assert advice.explained(complaint) == expected


DEFAULTS: Mapping[str, object] = {option.name: option.default for option in OPTIONS}
ENVIRON = {"PHOTOS": "/srv/photos", "PATH": os.environ["PATH"]}

# Settings that are surely mistakes, and a part of the line that says so.
DOUBTFUL: dict[str, tuple[Mapping[str, object], str]] = {
    "time without a unit": (
        {"nx_retry_for": "3"},
        "nx_retry_for=3 is 3 seconds: write 3d for 3 days",
    ),
    "time from the environment": ({"nx_retry_for": "${THREE}"}, "nx_retry_for=3 is 3 seconds"),
    "limit without a unit": (
        {"nx_max_upload": "500"},
        "nx_max_upload=500 is 500 bytes: write 500m for 500 MB",
    ),
    "bodies without a unit": (
        {"nx_inspect": "16"},
        "nx_inspect=16 is 16 bytes: write 16m for 16 MB",
    ),
    "all hosts": ({"nx_hosts": ["x.example", "*"]}, "nx_hosts=* answers every name: name the host"),
    "all hosts with a dot": ({"nx_hosts": ["*.*"]}, "nx_hosts=*.* answers every name"),
    "loopback": ({"nx_dns": "127.0.0.1"}, "nx_dns=127.0.0.1 cannot be reached by a camera"),
    "no address": ({"nx_dns": "0.0.0.0"}, "nx_dns=0.0.0.0 cannot be reached by a camera"),
    "a misspelt site": (
        {"nx_route": ["Facebok=save"]},
        "nx_route=Facebok=save: Facebok is no address, glob or known site: did you mean facebook?",
    ),
    "a site that is none": (
        {"nx_route": ["tumblr=save"]},
        "nx_route=tumblr=save: tumblr is no address, glob or known site: the sites are cyworld, ",
    ),
    "a placeholder in a folder": (
        {"nx_route": ["*=save:photos/{camera}"]},
        "nx_route=*=save:photos/{camera}: {camera} is taken as it stands; only run: fills it in",
    ),
    "a placeholder in nx_dir": ({"nx_dir": "photos/{camera}"}, "nx_dir=photos/{camera}: {camera}"),
    "a placeholder in a URL": (
        {"nx_route": ["*=forward:https://me:f9e1@h/{camera}"], "nx_senders": ["*"]},
        "nx_route=*=forward:https://h/...: {camera} is taken as it stands; only run: fills it in",
    ),
    "a program that is not there": (
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
    """What is surely a mistake works, with one line that says what to write instead."""
    values = {**DEFAULTS, **options}
    environ = {**ENVIRON, "THREE": "3"}
    (found,) = advice.doubts(values, parse(values, environ), environ)
    assert found.startswith(doubt)
    assert "f9" not in found


def test_nothing_doubtful(tmp_path: Path) -> None:
    """Neither the defaults nor unusual but sensible values are warned about."""
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
        "nx_senders": ["*"],
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

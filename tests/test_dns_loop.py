"""A DNS mode that is its own name server, in a real mitmdump in a network namespace.

There port 53 is free, and /etc/resolv.conf can say what it has to.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import camera
from tests.mitmdump import ROOT, Proxy

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2"
)

MODES = ("--mode", "regular@80", "--mode", "dns@53")


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace with nothing but loopback, whose name server is itself."""
    name = f"nx{os.getpid()}dns"
    files = Path("/etc/netns") / name
    try:
        subprocess.run(["ip", "netns", "add", name], check=True)
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        files.mkdir(parents=True)
        (files / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False)
        shutil.rmtree(files, ignore_errors=True)


ASK = "import json, sys; from tests import camera; name, kind = sys.argv[1:]; "
ASK += "print(json.dumps(camera.resolve(name, ('127.0.0.1', 53), int(kind))))"
TXT = 16


def resolve(namespace: str, name: str, kind: int = camera.A) -> tuple[int, list[str]]:
    """What the DNS mode answers."""
    inside = ["ip", "netns", "exec", namespace, sys.executable, "-c", ASK, name, str(kind)]
    done = subprocess.run(inside, capture_output=True, check=True, cwd=ROOT)
    status, addresses = json.loads(done.stdout)
    return status, addresses


SERVFAIL = (2, [])
OURS = (0, ["127.0.0.1"])


def test_the_dns_mode_is_its_own_name_server(folder: Path, namespace: str) -> None:
    """It says so and what to set; foreign names fail at once, and ours are answered."""
    inside = ["ip", "netns", "exec", namespace]
    with Proxy(folder, *MODES, before=inside) as proxy:
        proxy.wait_for("the name server 127.0.0.1 is this process, .*--set dns_name_servers=")
        begun = time.monotonic()
        assert resolve(namespace, "www.example.com") == SERVFAIL
        assert resolve(namespace, "gld.samsungosp.com") == OURS
        assert resolve(namespace, "www.example.com", TXT) == SERVFAIL
        assert time.monotonic() - begun < 10
        assert len(proxy.descriptors()) < 60
        assert proxy.log.count("is this process") == 1


def test_a_loop_through_another_dns_server(folder: Path, namespace: str) -> None:
    """A loop that cannot be seen in the addresses ends by the number of queries in flight."""
    inside = ["ip", "netns", "exec", namespace]
    relay = subprocess.Popen([*inside, sys.executable, "-u", "-c", RELAY], stdout=subprocess.PIPE)
    servers = ("--set", "dns_name_servers=127.0.0.2")
    try:
        assert relay.stdout
        relay.stdout.readline()
        modes = (*MODES[:3], "dns@127.0.0.1:53")
        with Proxy(folder, *modes, *servers, before=inside) as proxy:
            # mitmproxy passes types other than A and AAAA on as they are.
            assert resolve(namespace, "www.example.com", TXT) == SERVFAIL
            assert resolve(namespace, "gld.samsungosp.com") == OURS
            proxy.wait_for("too many DNS queries wait")
            assert len(proxy.descriptors()) < 200
            assert len(re.findall("too many DNS queries", proxy.log)) == 1
    finally:
        relay.kill()
        relay.wait()


# As dnsmasq with server=127.0.0.1 would.
RELAY = """
import socket
listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listening.bind(("127.0.0.2", 53))
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.settimeout(0.0)
print("ready")
import select, struct
waiting, number = {}, 0
while True:
    for ready in select.select([listening, asking], [], [])[0]:
        if ready is listening:
            query, client = listening.recvfrom(4096)
            number = (number + 1) & 0xFFFF
            waiting[number] = client, query[:2]
            asking.sendto(struct.pack(">H", number) + query[2:], ("127.0.0.1", 53))
        else:
            reply = asking.recv(4096)
            client, id = waiting.pop(struct.unpack(">H", reply[:2])[0], (None, b""))
            if client:
                listening.sendto(id + reply[2:], client)
"""

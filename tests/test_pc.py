"""mitmdump on a PC, as README starts it, in a network namespace.

There ports 53 and 80 are free, and /etc/resolv.conf has the content that a test needs.
"""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import bodies, camera, readme
from tests.mitmdump import ROOT, Proxy, eventually
from tests.namespace import call_in, namespace, needs_namespace, run

MODES = ("--mode", "regular@80", "--mode", "dns@53")
# Root without its privileges, such as that for ports below 1024.
UNPRIVILEGED = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
ADDRESS = "10.42.0.1"  # as NetworkManager gives it to an access point


@pytest.fixture
def inside() -> Iterator[list[str]]:
    """The command that enters a namespace with loopback only, whose name server is itself."""
    with namespace("pc", f"ip address add {ADDRESS}/24 dev lo") as inside:
        files = Path("/etc/netns") / inside[-1]
        try:
            files.mkdir(parents=True)
            (files / "resolv.conf").write_text("nameserver 127.0.0.1\n")
            yield inside
        finally:
            shutil.rmtree(files, ignore_errors=True)


def look_up(inside: list[str], name: str, kind: int = camera.A) -> tuple[int, list[str]]:
    """The response code and addresses of the DNS server at loopback in the namespace."""
    return call_in(inside[-1], camera.resolve, name, ("127.0.0.1", 53), kind)


TXT = 16
SERVFAIL = (2, [])
OURS = (0, ["127.0.0.1"])


@needs_namespace
@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs util-linux")
def test_ports_without_root(folder: Path, inside: list[str]) -> None:
    """Without the sysctl of README the log has that command; with it, everything works."""
    (sysctl,) = readme.lines("sysctl -w")
    command = readme.lines("--mode regular@80 --mode dns@53")[0]
    user = [*inside, *UNPRIVILEGED]
    refused = Proxy(folder, *MODES, before=user)
    assert refused.run() == 1
    assert "port 53 needs a privilege" in refused.log
    assert sysctl in refused.log

    run(*inside, *shlex.split(sysctl)[1:])
    with Proxy(folder, *shlex.split(command)[3:], before=user) as proxy:
        assert look_up(inside, "gld.samsungosp.com") == OURS
        request = b"GET / HTTP/1.1\r\nHost: 10.42.0.1\r\n\r\n"
        page = call_in(inside[-1], camera.send, 80, request, host=ADDRESS)
        assert "It works" in page.body
        (folder / "photo.jpg").write_bytes(bodies.jpeg(2000))
        words = shlex.split(readme.lines("nxparse send")[0])[3:]
        del words[words.index("--via") :]
        words[words.index("photo.jpg")] = str(folder / "photo.jpg")
        run(*inside, sys.executable, "-m", "nxparse", *words)
        proxy.wait_for("saved as .*photo.jpg")
    photos = list(folder.glob("uploads/*/photo.jpg"))
    assert [photo.read_bytes() for photo in photos] == [bodies.jpeg(2000)]


@needs_namespace
@pytest.mark.skipif(not shutil.which("dnsmasq"), reason="needs dnsmasq")
def test_an_access_point(folder: Path, inside: list[str]) -> None:
    """NetworkManager's dnsmasq, with the file of README, resolves the cameras' hosts."""
    words = shlex.split(readme.lines("dnsmasq-shared.d")[0])
    assert words[words.index("|") + 1 :][:2] == ["sudo", "tee"]
    (folder / Path(words[-1]).name).write_text(f"{words[2]}\n{words[3]}\n")
    # As nm-dnsmasq-manager.c of NetworkManager starts it for a shared connection.
    command = f"""dnsmasq --conf-file=/dev/null --no-hosts --keep-in-foreground --bind-interfaces
        --except-interface=lo --clear-on-reload --strict-order --listen-address={ADDRESS}
        --dhcp-range=10.42.0.10,10.42.0.254,60m --dhcp-leasefile={folder}/leases
        --pid-file={folder}/pid --conf-dir={folder} --no-resolv --user=root"""
    with started([*inside, *command.split()]):
        for host in ("gld.samsungosp.com", "www.ospserver.net", "www.yahoo.co.kr"):
            eventually(lambda name=host: resolves(inside, name), f"{host} is resolved")


def resolves(inside: list[str], name: str) -> bool:
    try:
        found = call_in(inside[-1], camera.resolve, name, (ADDRESS, 53), timeout=1.0)
        return found == (0, [ADDRESS])
    except (ConnectionRefusedError, TimeoutError):  # it does not listen yet
        return False


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@needs_namespace
def test_the_dns_mode_is_its_own_name_server(folder: Path, inside: list[str]) -> None:
    """The log has the option to set; foreign names fail at once, and ours are answered."""
    with Proxy(folder, *MODES, before=inside) as proxy:
        proxy.wait_for("the name server 127.0.0.1 is this process, .*--set dns_name_servers=")
        assert look_up(inside, "www.example.com") == SERVFAIL
        assert look_up(inside, "gld.samsungosp.com") == OURS
        assert look_up(inside, "www.example.com", kind=TXT) == SERVFAIL
        assert len(proxy.descriptors()) < 60
        assert proxy.log.count("is this process") == 1
        assert "too many DNS queries" not in proxy.log


@needs_namespace
def test_a_loop_through_another_dns_server(folder: Path, inside: list[str]) -> None:
    """A loop that cannot be detected by addresses is ended by the limit of pending queries."""
    with started([*inside, sys.executable, "-u", "-c", RELAY]) as relay:
        assert relay.stdout
        relay.stdout.readline()
        modes = (*MODES[:3], "dns@127.0.0.1:53", "--set", "dns_name_servers=127.0.0.2")
        with Proxy(folder, *modes, before=inside) as proxy:
            # mitmproxy passes types other than A and AAAA on as they are.
            assert look_up(inside, "www.example.com", kind=TXT) == SERVFAIL
            assert look_up(inside, "gld.samsungosp.com") == OURS
            proxy.wait_for("too many DNS queries wait")
            assert len(proxy.descriptors()) < 200
            assert len(re.findall("too many DNS queries", proxy.log)) == 1


# As dnsmasq with server=127.0.0.1 would.
RELAY = """
import select, socket, struct
listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
listening.bind(("127.0.0.2", 53))
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("ready")
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


@pytest.mark.parametrize("cipher", ["AES128-SHA", "DHE-RSA-AES256-SHA", "ECDHE-RSA-AES128-SHA"])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1 is deprecated")
def test_tls_of_2013(old_tls: Proxy, cipher: str) -> None:
    """With the options of README, a client with TLS 1.0 and a cipher of its time can connect."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1
    client.set_ciphers(f"{cipher}:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", old_tls.port), camera.TIMEOUT) as plain,
        client.wrap_socket(plain) as encrypted,
    ):
        encrypted.sendall(b"GET / HTTP/1.1\r\nHost: snsgw.samsungmobile.com\r\n\r\n")
        assert (encrypted.version(), encrypted.recv(12)) == ("TLSv1", b"HTTP/1.1 200")


@pytest.fixture(scope="module")
def old_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy with the options for the HMX-QF30."""
    text = (ROOT / "README.md").read_text()
    settings = re.findall(r"--set ((?:tls|ciphers)\w+=\S+?)[`\s]", text)
    assert len(settings) == 2
    options = [f"--set={setting}" for setting in settings]
    with Proxy(tmp_path_factory.mktemp("tls"), *options) as proxy:
        yield proxy

"""Attacks by web pages and by machines in the same network, on a real mitmdump."""

from __future__ import annotations

import socket
from html import escape
from pathlib import Path

import pytest

from tests import bodies, camera, social
from tests.browser import browser, needs_browser, wait_for_text
from tests.mitmdump import Proxy, addon_script
from tests.upstream import web_server

# Other web pages

FORM = """<!DOCTYPE html><body>
<form id=f method=post enctype=multipart/form-data action="http://www.ospserver.net/social/columbus/email">
<textarea name=message>{message}</textarea><input type=file name=binary id=file></form>
<script>
const photo = new File([new Uint8Array([255, 216, 255, 217])], "EVIL.JPG", {{type: "image/jpeg"}});
const files = new DataTransfer();
files.items.add(photo);
document.getElementById("file").files = files.files;
if (location.pathname == "/form") document.getElementById("f").submit();
else fetch(document.getElementById("f").action,
    {{method: "POST", mode: "no-cors", body: new FormData(document.getElementById("f"))}})
    .then(() => document.body.append("sent"), () => document.body.append("failed"));
</script>"""


def assert_nothing_stored(proxy: Proxy) -> None:
    assert (proxy.saved(), proxy.quarantined()) == ({}, [])
    assert not list(proxy.uploads.glob(".nx/unknown/*"))


@needs_browser
def test_an_upload_by_another_web_page(folder: Path) -> None:
    """A page cannot upload by a form or a script; our own page can be opened."""
    page = FORM.format(message=escape(bodies.message_xml().decode()))
    reply = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n{page}".encode()
    refused = r"POST http://www\.ospserver\.net/social/columbus/email is refused: .*page"
    with web_server(reply) as (port, _), Proxy(folder) as proxy:
        rules = (
            f"MAP www.ospserver.net:80 127.0.0.1:{proxy.port}, MAP evil.test:80 127.0.0.1:{port}"
        )
        option = f"--host-resolver-rules={rules}"
        with browser(folder / "profile", 480, 320, option) as driver:
            driver.get("http://evil.test/form")
            proxy.wait_for(refused)
            driver.get("http://evil.test/fetch")
            proxy.wait_for(refused, times=2)
            wait_for_text(driver, "sent")
            driver.get("http://www.ospserver.net/")
            wait_for_text(driver, "It works")
        assert_nothing_stored(proxy)


PHOTO = bodies.jpeg(3000)
EMAIL = bodies.request(bodies.body([("EVIL.JPG", PHOTO)]))
SENT = {
    "email": EMAIL,
    "put": social.put(f"upload/{'0' * 32}", PHOTO),
    "login": social.auth("facebook", social.login("me", "secret")),
    "announcement": social.announce("facebook", "photo", b"<photo/>"),
    "unknown": social.request("POST", "/new/thing", b"x"),
    "at-our-address": EMAIL.replace(b"www.ospserver.net", b"127.0.0.1"),
}
HEADERS = [b"Origin: http://evil.test", b"Origin: null", b"sec-fetch-site: same-origin"]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("request_", SENT.values(), ids=SENT)
def test_a_browser_is_refused(shared: Proxy, request_: bytes, header: bytes) -> None:
    """A request from a web page gets 403 and one line in the log; nothing is stored."""
    before = shared.log.count("comes from a web page")

    reply = camera.send(shared.port, request_.replace(b"Host:", header + b"\r\nHost:", 1))

    assert reply.status == 403
    shared.wait_for("is refused: it comes from a web page", times=before + 1)
    assert_nothing_stored(shared)
    assert "secret" not in shared.log


def test_a_browser_reads_the_page(shared: Proxy) -> None:
    """A link on another site to our page works."""
    head = b"GET / HTTP/1.1\r\nHost: www.samsungimaging.com\r\nSec-Fetch-Site: cross-site\r\n"
    reply = camera.send(shared.port, head + b"Origin: http://evil.test\r\n\r\n")
    assert (reply.status, "It works" in reply.body) == (200, True)


# Other machines


WEBSOCKET = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
FORMS = {
    "absolute": "GET http://{0}/ HTTP/1.1\r\nHost: {0}\r\n\r\n",
    "origin": "GET / HTTP/1.1\r\nHost: {0}\r\n\r\n",
    "websocket": "GET http://{0}/ HTTP/1.1\r\nHost: {0}\r\n" + WEBSOCKET + "\r\n",
    "connect": "CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n",
    "post": "POST http://{0}/ HTTP/1.1\r\nHost: {0}\r\nContent-Length: 5\r\n\r\nhello",
    "old": "GET http://{0}/ HTTP/1.0\r\n\r\n",
}
HOSTS = ["localhost", "LocalHost.", "0.0.0.0", "127.1", "2130706433", "0x7f000001"]
HOSTS += ["017700000001", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", socket.gethostname()]
INSIDE = {form: (request, "127.0.0.1") for form, request in FORMS.items()}
INSIDE |= {f"absolute-{host}": (FORMS["absolute"], host) for host in HOSTS}
INSIDE |= {f"connect-{host}": (FORMS["connect"], host) for host in HOSTS}


@pytest.mark.parametrize(("form", "host"), INSIDE.values(), ids=INSIDE)
def test_local_servers_are_out_of_reach(shared: Proxy, form: str, host: str) -> None:
    """Servers of this machine are not reached through the proxy, in any spelling."""
    with web_server() as (port, received):
        before = shared.log.count("does not connect to")
        answer = camera.send(shared.port, form.format(f"{host}:{port}").encode())

        assert (answer.status, "secret" in answer.body) == (403, False)
        shared.wait_for("is refused: .*does not connect to", times=before + 1)
    assert received == []


def resolving(folder: Path, **names: tuple[str, ...]) -> Path:
    """A script: the addon, in a process where NAME.test has these addresses, one after another."""
    return addon_script(
        folder,
        "import socket",
        f"resolve, names = socket.getaddrinfo, { ({n: [*a] for n, a in names.items()}) }",
        "def resolving(host, *more, **options):",
        "    left = names.get(str(host).removesuffix('.test'))",
        "    host = left.pop(0) if left and len(left) > 1 else left[0] if left else host",
        "    return resolve(host, *more, **options)",
        "socket.getaddrinfo = resolving",
    )


def test_names_with_a_local_address(folder: Path) -> None:
    """A name that resolves to this machine is answered here, or its connection is aborted."""
    script = resolving(folder, rebind=("198.51.100.80", "127.0.0.1"), evil=("127.0.0.1",))
    with web_server() as (port, received), Proxy(folder, script=script) as proxy:
        for host in ("127.0.0.1", "localhost", socket.gethostname(), "evil.test"):
            place = f"{host}:{proxy.port}"
            request = f"GET http://{place}/robots.txt HTTP/1.1\r\nHost: {host}\r\n\r\n"
            assert camera.send(proxy.port, request.encode()).status == 404
        assert "server connect" not in proxy.log
        assert len(proxy.log.splitlines()) < 40

        request = f"GET http://rebind.test:{port}/ HTTP/1.1\r\nHost: rebind.test\r\n\r\n"
        answer = camera.send(proxy.port, request.encode())
        assert (answer.status, "secret" in answer.body) == (502, False)
        proxy.wait_for(rf"connection to port {port} aborted: rebind.test .127.0.0.1. is a ")
        assert "Traceback" not in proxy.log
    assert b"GET" not in b"".join(received)


def test_a_mode_may_name_this_machine(folder: Path) -> None:
    """The server that a reverse mode names is reached; other local servers are not."""
    with (
        web_server() as (port, received),
        web_server() as (other, unwanted),
        web_server(address="127.0.0.3") as (same, _),
    ):
        modes = ["regular@127.0.0.1:0", f"reverse:http://localhost:{port}@0"]
        modes += [f"reverse:http://127.0.0.3:{same}@127.0.0.2:{same}"]
        with Proxy(folder, *(word for mode in modes for word in ("--mode", mode))) as proxy:
            reverse = int(proxy.wait_for(r"localhost:\d+ listening at \*:(\d+)")[1])
            assert camera.send(reverse, b"GET / HTTP/1.0\r\n\r\n").body == "secret"
            inside = f"GET http://localhost:{other}/ HTTP/1.0\r\n\r\n".encode()
            assert camera.send(reverse, inside).body == "secret"
            assert camera.send(proxy.port, inside).status == 403
            answer = camera.send(same, b"GET / HTTP/1.0\r\n\r\n", host="127.0.0.2")
            assert answer.body == "secret"
    assert (len(received), unwanted) == (2, [])


def test_mitmweb_is_out_of_reach(folder: Path) -> None:
    """mitmweb's own API is not reached through the proxy, not even by a mode that names it."""
    address = "127.0.0.2"
    with socket.create_server((address, 0)) as free:
        port = free.getsockname()[1]
    modes = ("--mode", "regular@127.0.0.1:0", "--mode", f"reverse:http://{address}:{port}@0")
    web = ("--no-web-open-browser", "--web-host", address, "--web-port", str(port))
    with Proxy(folder, *modes, *web, program="mitmweb") as proxy:
        reverse = int(proxy.wait_for(rf"{address}:\d+ listening at \*:(\d+)")[1])
        request = f"GET http://{address}:{port}/flows HTTP/1.1\r\nHost: {address}:{port}\r\n\r\n"
        assert camera.send(proxy.port, request.encode()).status == 403
        assert camera.send(reverse, request.encode()).status == 502
        proxy.wait_for("killed before connect: .*does not connect to")

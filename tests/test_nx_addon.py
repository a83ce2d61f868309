"""The addon in a real mitmdump. Cameras are raw sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest
from mitmproxy import contentviews, dns, exceptions, http, optmanager
from mitmproxy import flow as flows
from mitmproxy.addons.next_layer import NextLayer
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.addons.save import Save
from mitmproxy.addons.savehar import SaveHar
from mitmproxy.addons.script import ScriptLoader
from mitmproxy.connection import Server
from mitmproxy.hooks import ConfigureHook, DoneHook, RunningHook
from mitmproxy.io import FlowReader
from mitmproxy.proxy.layers.dns import DnsErrorHook, DnsRequestHook, DnsResponseHook
from mitmproxy.proxy.layers.http import (
    HttpErrorHook,
    HttpRequestHeadersHook,
    HttpRequestHook,
    HttpResponseHook,
)
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from mitmproxy.test import taddons, tflow, tutils

import nx_addon
from nxparse import config
from nxparse.proxy import adapter, internals
from nxparse.proxy.clients import Clients
from nxparse.proxy.destination import Destinations
from nxparse.proxy.dns import MAX_SAME
from nxparse.proxy.exchange import Exchange
from nxparse.proxy.state import State
from nxparse.server import endpoints
from nxparse.server.endpoints import Endpoint, Service
from nxparse.server.files import open_unchanged, reply_with
from nxparse.server.receive import Receiver
from nxparse.store.records import LocalCopy, identity_of
from tests import arrivals, bodies, camera, social
from tests.mitmdump import ROOT, Proxy, addon_script, eventually
from tests.upstream import web_server

WIRE = ROOT / "tests" / "wire"
LARGE = bodies.jpeg(60_001) * 50


def upload(*names: str) -> tuple[bytes, dict[str, bytes]]:
    """A request with these photos, and the photos."""
    photos = {name: bodies.jpeg(20_000, i) for i, name in enumerate(names)}
    return bodies.request(bodies.body(list(photos.items()))), photos


# Replies


def test_the_recorded_request_becomes_a_file(shared: Proxy) -> None:
    """The capture of an NX300, byte for byte, is answered in one segment and saved."""
    reply = camera.send(shared.port, (WIRE / "nx300_email.http").read_bytes())

    date = reply.headers.pop("Date")
    assert date.endswith(" GMT")
    assert reply.head.startswith("HTTP/1.1 200 OK\r\n")
    expected = {"Content-Type": "text/html; charset=utf-8", "Content-Length": "26"}
    assert reply.headers.items() >= {**expected, "Connection": "close"}.items()
    assert (reply.body, reply.segments) == (camera.ACCEPTED, 1)
    shared.wait_for(r"saved as uploads/\d{4}-\d\d-\d\d/SAM_4371.JPG")
    assert shared.saved()["SAM_4371.JPG"] == (WIRE / "nx300_email.SAM_4371.JPG").read_bytes()
    assert not re.search("server (dis)?connect|Streaming", shared.log), "about our own server"


def test_other_records_of_mitmproxy() -> None:
    """Records about other heads and other servers are shown."""
    addon = nx_addon.Connections(State(nx_addon.Times()))
    head = "Client closed connection before completing request headers: b'GET'"
    for message in (head, "client connect", "server connect 127.0.0.1:80", "error: 100%"):
        assert addon.shows(logging.makeLogRecord({"msg": message, "client": ("192.0.2.7", 4000)}))


def test_connections_to_our_own_server_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """mitmproxy may have left one open when it reports the end of it."""
    closed: list[Any] = []
    monkeypatch.setattr(internals, "abort_connection", lambda _, *ends: closed.append(ends))
    state = State(nx_addon.Times())
    state.server.address = ("127.0.0.1", 4000)
    addon, client = nx_addon.Connections(state), tflow.tclient_conn()
    for port in (4000, 4001):
        server = Server(address=("127.0.0.1", port))
        with taddons.context(addon):
            addon.server_disconnected(ServerConnectionHookData(server, client))
    assert [(server.address, one) for one, server in closed] == [(("127.0.0.1", 4000), client)]


GET = "GET {} HTTP/1.{}\r\nHost: {}\r\n\r\n"

CHECK = GET.format("/", 1, "gld.samsungosp.com")
POST = "POST {} HTTP/1.{}\r\nHost: www.ospserver.net\r\n"
REQUESTS = {
    "gld-absolute": (GET.format("http://gld.samsungosp.com/", 0, "gld.samsungosp.com"), 200, ""),
    "page": (GET.format("/", 1, "www.samsungimaging.com"), 200, "<h1>It works</h1>"),
    "email-by-get": (GET.format("/social/columbus/email", 1, "www.ospserver.net"), 405, '"405"'),
    "unknown": (POST.format("/unknown", 1) + "Content-Length: 5\r\n\r\n12345", 404, '"404"'),
    "no-length": (POST.format("/social/columbus/email", 0) + "\r\n", 400, "The upload is empty"),
    "head": ("HEAD / HTTP/1.1\r\nHost: www.samsungimaging.com\r\n\r\n", 200, ""),
    "two-requests": (CHECK + CHECK, 200, ""),
}


@pytest.mark.parametrize(("request_", "status", "body"), REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize("half_close", [False, True], ids=["open", "half-closed"])
def test_requests_for_our_hosts(
    shared: Proxy, request_: str, status: int, body: str, half_close: bool
) -> None:
    """A request for a Samsung host is answered here, in one segment, and the connection ends."""
    reply = camera.send(shared.port, request_.encode(), half_close=half_close)

    assert (reply.status, reply.segments) == (status, 1)
    assert body in reply.body
    assert reply.headers["Connection"] == "close"
    if request_.startswith("HEAD"):
        assert int(reply.headers["Content-Length"]) > 100  # as in a reply to GET


# Requests in other spellings


def chunked(head: bytes, body: bytes) -> bytes:
    head = re.sub(rb"Content-Length: \d+", b"Transfer-Encoding: chunked", head)
    chunks = [body[start : start + 4096] for start in range(0, len(body), 4096)]
    coded = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head.replace(b"HTTP/1.0", b"HTTP/1.1") + coded + b"0\r\n\r\n"


def short_by(count: int, head: bytes, body: bytes) -> bytes:
    return head.replace(b": %d\r" % len(body), b": %d\r" % (len(body) - count)) + body


# By the name of the photo, a function that changes head and body.
SPELLINGS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "ABSOLUTE": lambda head, body: head.replace(b" /", b" http://www.ospserver.net/", 1) + body,
    "ODDHOST": lambda head, body: head.replace(b"ospserver.net", b"OSPserver.NET.:80") + body,
    "MISSES": partial(short_by, 20),  # the boundary at the end
    "CHUNKED": chunked,
    "AFTER": lambda head, body: head + body + b"\r\nGET / HTTP/1.1\r\n\r\n",
    "GZIP": lambda head, body: head.replace(b"Pragma: no-cache", b"Content-Encoding: gzip") + body,
    "TINY": bytes.__add__,  # in pieces of one byte
    "HALF": bytes.__add__,  # the client half-closes the connection
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_uploads_spelled_otherwise(shared: Proxy, name: str) -> None:
    """Uploads are accepted in every spelling that HTTP allows or a camera uses."""
    photo = LARGE if name == "HALF" else bodies.jpeg(3000 if name == "TINY" else 20_000)
    body = bodies.body([(f"{name}.JPG", photo)])
    request = SPELLINGS[name](bodies.request(body)[: -len(body)], body)
    pieces = camera.segmented(request, 1) if name == "TINY" else [request]

    reply = camera.send(shared.port, *pieces, half_close=name == "HALF")

    assert (reply.body, reply.segments) == (camera.ACCEPTED, 1)
    shared.wait_for(f"saved as .*{name}.JPG")
    assert shared.saved()[f"{name}.JPG"] == photo
    assert [other for other in shared.saved() if other.startswith(name)] == [f"{name}.JPG"]


def test_a_client_that_waits_for_100(shared: Proxy) -> None:
    """A client that expects 100 Continue gets it before its reply."""
    photo = bodies.jpeg(20_000)
    body = bodies.body([("WAITS.JPG", photo)])
    head = bodies.request(body)[: -len(body)]
    head = head.replace(b"HTTP/1.0", b"HTTP/1.1").replace(
        b"Pragma: no-cache", b"Expect: 100-continue"
    )
    connection = camera.connect(shared.port)
    connection.sendall(head)
    assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue")
    connection.sendall(body)

    assert camera.read_reply(connection).body == camera.ACCEPTED
    shared.wait_for("saved as .*WAITS.JPG")


# Clients that disconnect


def fin(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(1) == b""
    connection.close()


def stay_silent(connection: socket.socket) -> None:
    assert connection.recv(1) == b""
    connection.close()


CUTS = {"fin": fin, "close": socket.socket.close, "rst": camera.reset, "silence": stay_silent}


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that does not wait long for a silent client."""
    folder = tmp_path_factory.mktemp("impatient")
    script = addon_script(folder, "addons = nx_addon.make_addons(nx_addon.Times(idle=0.5))")
    with Proxy(folder, script=script) as proxy:
        yield proxy


@pytest.mark.parametrize("end", CUTS)
def test_a_cut_upload_goes_to_quarantine(impatient: Proxy, end: str) -> None:
    """However an upload is cut, exactly the bytes that were read are in quarantine."""
    body = bodies.body([("SAM_1.JPG", bodies.jpeg(150_000))])
    head = bodies.request(body)[: -len(body)]
    sent = 99_190
    logged = "nothing is delivered; the part that arrived is in quarantine: "
    descriptors, before = descriptors_at_rest(impatient), impatient.log.count(logged)
    for count in range(1, 3):
        connection = camera.connect(impatient.port)
        connection.sendall(head + body[:sent])
        if end == "rst":
            # A reset discards the bytes that the process has not read.
            eventually(partial(all_is_read, connection), "all is read")
        CUTS[end](connection)
        impatient.wait_for(logged, before + count)

    assert impatient.quarantined()[before:] == [body[:sent]] * 2
    assert impatient.saved() == {}
    assert f"upload cut after {sent} of {len(body)} bytes, the c" in impatient.log
    eventually(lambda: impatient.descriptors() == descriptors, "all descriptors are closed")


def descriptors_at_rest(proxy: Proxy) -> list[str]:
    """The open descriptors of a proxy between two requests, after its first request."""
    camera.send(proxy.port, UNKNOWN % 1 + b"x")
    eventually(lambda: "client disconnect" in proxy.log, "the first connection ends")
    seen = [proxy.descriptors()]

    def unchanged() -> bool:
        seen.append(proxy.descriptors())
        return len(seen) > 5 and all(one == seen[-1] for one in seen[-5:])

    eventually(unchanged, "nothing is opened or closed any more")
    return seen[-1]


def all_is_read(connection: socket.socket) -> bool:
    """Return whether the receiver has read all bytes that were sent, from /proc/net/tcp."""
    local = f":{connection.getsockname()[1]:04X} "
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if f"{fields[2]} ".endswith(local):
            return int(fields[4].split(":")[1], 16) == 0
    return False


def test_twenty_cameras_at_once(shared: Proxy) -> None:
    """Concurrent uploads are not mixed up."""
    photos = {f"MANY_{i}.JPG": bodies.jpeg(60_000, i) for i in range(20)}

    def send(name: str) -> camera.Reply:
        body = bodies.body([(name, photos[name])])
        return camera.send(shared.port, bodies.request(body))

    with ThreadPoolExecutor(20) as cameras:
        replies = list(cameras.map(send, photos))

    assert [(one.body, one.segments) for one in replies] == [(camera.ACCEPTED, 1)] * 20
    shared.wait_for("saved as .*MANY_", 20)
    assert photos.items() <= shared.saved().items()


# Limits


async def test_a_too_large_upload(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An upload beyond nx_max_upload is read and refused; far beyond, the connection is closed."""
    async with serving(folder, nx_max_upload="10k") as served:
        reply = await served.send(upload("SAM_1.JPG")[0])
        assert reply.status == 413
        assert 'ErrCode="413"' in reply.body
        refused = "is refused: it is larger than 10.2 kB; to allow it, use --set nx_max_upload=SIZE"
        assert refused in caplog.text

        endless = bodies.request(b"")[:-5] + b"9999999999\r\n\r\n" + bytes(20_000_000)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            await served.send(endless)
        assert "body exceeds 4 x nx_max_upload; connection closed" in caplog.text
        assert (saved(folder), os.listdir(folder / ".nx" / "quarantine")) == ({}, [])


# Other hosts


async def test_other_hosts_pass(folder: Path) -> None:
    """Requests for other hosts are passed on, and the responses are unchanged."""
    reply = b"HTTP/1.1 200 OK\r\nx-odd:1\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
    with web_server(reply) as (port, received):
        # Only a server that a mode names may be on loopback.
        async with serving(folder, f"reverse:http://127.0.0.1:{port}") as served:
            served.context.options.keep_host_header = True
            request = b"GET /x HTTP/1.1\r\nHost: www.example.org\r\n\r\n"
            answer = await served.send(request)

    assert (answer.status, answer.body) == (200, "hello")
    assert received == [request]


def fail(*_: object) -> NoReturn:
    raise RuntimeError("a fault for the test")


@pytest.mark.parametrize(
    ("place", "name"),
    [
        pytest.param(Destinations, "claim", id="in-claim"),
        pytest.param(endpoints, "find", id="in-requestheaders"),
        pytest.param(Exchange, "begin", id="in-streaming"),
        pytest.param(Receiver, "feed", id="in-a-chunk"),
        pytest.param(Receiver, "finish", id="at-the-end"),
        pytest.param(Clients, "watch_reply", id="in-the-reply"),
    ],
)
async def test_an_exception_in_a_handler_is_a_500(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    place: object,
    name: str,
) -> None:
    """If a handler raises an exception, the client gets 500, and the request is not passed on."""
    request, _ = upload("SAM_1.JPG")
    with web_server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as (port, received):
        request = request.replace(b"www.ospserver.net", b"localhost:%d" % port)
        async with serving(folder, nx_hosts=["localhost"]) as served:
            monkeypatch.setattr(place, name, fail)
            assert (await served.send(request)).status == 500
            monkeypatch.undo()
        assert "a fault for the test" in caplog.text
        assert received == []


async def test_the_reply_comes_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error when deliveries start does not affect the reply."""
    request, photos = upload("SAM_1.JPG")
    async with serving(folder) as served:
        assert served.state.backend
        with monkeypatch.context() as patch:
            patch.setattr(served.state.backend.outbox, "wake", fail)
            assert (await served.send(request)).body == camera.ACCEPTED
            await until(lambda: "a fault for the test" in caplog.text)
        served.state.backend.outbox.wake()
        await until(lambda: saved(folder) == photos)


async def test_connect_to_a_samsung_host_stays_here(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A CONNECT to a Samsung host opens no connection."""
    caplog.set_level("INFO")
    with web_server(b"") as (port, received):
        async with serving(folder, nx_hosts=["localhost"]) as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            writer.write(b"CONNECT localhost:%d HTTP/1.1\r\n\r\n" % port)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            writer.write(b"\x00not a known protocol\r\n")
            assert await reader.read() == b""
            writer.close()
        assert "never connected to" in caplog.text
    assert received == []


# Options and start


def test_a_wrong_value_stops_the_start(folder: Path) -> None:
    """A wrong value ends the start with one sentence, without a traceback."""
    proxy = Proxy(folder, "--set", "nx_max_upload=lots")
    assert proxy.run() == 1
    assert "nx_max_upload='lots': not a size; for example 500k" in proxy.log
    assert "Traceback" not in proxy.log


# A value of each shape in `--set` or config.yaml, and the result: the value of the
# option, or the beginning of the error that stops the start.
SHAPES: dict[str, tuple[str, object]] = {
    "--set nx_gallery=yes": ("nx_gallery", True),
    "--set nx_gallery=off": ("nx_gallery", False),
    "--set nx_gallery=${NX_TEST_WORD}": ("nx_gallery", True),
    "--set nx_gallery": ("nx_gallery", True),
    "--set nx_gallery=maybe": ("nx_gallery", "nx_gallery='maybe': neither true nor false"),
    "--set nx_gallery=1 --set nx_gallery=0": ("nx_gallery", "nx_gallery takes one value, not 2"),
    "--set nx_smtp": ("nx_smtp", "nx_smtp needs a value: write --set nx_smtp=VALUE"),
    "--set nx_route": ("nx_route", "nx_route needs a value: write --set nx_route=VALUE"),
    "--set nx_route=a@x=save --set nx_route=b@x=drop": ("nx_route", ["a@x=save", "b@x=drop"]),
    "--set nx_max_upload=1000000": ("nx_max_upload", "1000000"),
    "nx_gallery: yes": ("nx_gallery", True),
    "nx_gallery: 'no'": ("nx_gallery", False),
    "nx_gallery: [true]": ("nx_gallery", True),
    "nx_gallery:": ("nx_gallery", False),
    "nx_max_upload: 1000000": ("nx_max_upload", "1000000"),
    "nx_dir: 2024": ("nx_dir", "2024"),
    "nx_dir: 2024-05-01": ("nx_dir", "2024-05-01"),
    "nx_dir: [photos]": ("nx_dir", "photos"),
    "nx_dir: []": ("nx_dir", "nx_dir takes one value, not 0"),
    "nx_smtp: {user: me, password: s3cret}": ("nx_smtp", "nx_smtp takes text, not a mapping"),
    "nx_route: a@example.org=save": ("nx_route", ["a@example.org=save"]),
    "nx_route: [a@example.org=save, b@x=drop]": ("nx_route", ["a@example.org=save", "b@x=drop"]),
    "nx_route:": ("nx_route", []),
    "nx_route: [a@example.org: save]": ("nx_route", "nx_route takes text, not a mapping"),
    "nx_route: [[a@example.org=save]]": ("nx_route", "nx_route takes text, not a list"),
    "nx_senders: [null]": ("nx_senders", "nx_senders takes text, not nothing"),
    "nx_senders: 5551234": ("nx_senders", ["5551234"]),
}


@pytest.mark.parametrize("written", SHAPES)
def test_the_shape_of_a_value(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, written: str
) -> None:
    """A value works, or is refused with one sentence; the addon is loaded in either case."""
    monkeypatch.setenv("NX_TEST_WORD", "yes")
    name, expected = SHAPES[written]
    with taddons.context(Proxyserver()) as context:
        configured(context, written)
        errors = [record for record in caplog.records if record.levelname == "ERROR"]
        assert all(record.exc_info is None for record in errors)
        if isinstance(expected, str) and expected.startswith("nx_"):
            (message,) = [record.getMessage() for record in errors]
            assert message.startswith(expected)
            assert "s3cret" not in message
        else:
            assert (getattr(context.options, name), errors) == (expected, [])


def test_a_config_yaml(folder: Path) -> None:
    """Options from config.yaml and --set work in a real mitmdump."""
    (folder / "mitmproxy").mkdir()
    written = "nx_max_upload: 100000\nnx_route: anna@example.org=drop\nnx_hosts:\n"
    (folder / "mitmproxy" / "config.yaml").write_text(written)
    with Proxy(folder, "--set", "nx_gallery=yes") as proxy:
        message = bodies.message_xml(recipients=["anna@example.org"])
        body = bodies.body([("SAM_1.JPG", bodies.jpeg(1000))], message=message)
        assert camera.send(proxy.port, bodies.request(body)).status == 200
        proxy.wait_for("dropped by the rule for anna@example.org")


@pytest.fixture(autouse=True)
def _no_content_view() -> Iterator[None]:
    """Remove the content views of addons that have not ended: mitmproxy 11 refuses a second."""
    yield
    for view in list(getattr(contentviews, "views", [])):
        if type(view).__module__ == "nx_addon":
            contentviews.remove(view)


VALUES = ["x", "", "true", 0, -7, True, False, 1.5, None, [], ["x", "y"], [None], [["x"]], {"x": 1}]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_any_value_of_any_option(caplog: pytest.LogCaptureFixture, value: object) -> None:
    """Any value of an option in config.yaml causes at most one error, and no traceback."""
    names = [option.name for option in config.OPTIONS]
    with taddons.context(Proxyserver()) as context:
        state = configured(context, json.dumps(dict.fromkeys(names, value)))
        assert [name for name in names if name not in context.options] == []
        errors = [record for record in caplog.records if record.levelname == "ERROR"]
        assert [record for record in errors if record.exc_info] == []
        assert bool(errors) != bool(state.config)
        named = [record.getMessage().partition(" ")[0].partition("=")[0] for record in errors]
        assert [name for name in named if name not in names or named.count(name) > 1] == []


def configured(context: taddons.context, written: str) -> State:
    """Load the addons as mitmproxy does, with options from its command line or config.yaml."""
    if written.startswith("--set "):
        context.options.set(*re.split(" ?--set ", written)[1:], defer=True)
    else:
        optmanager.load(context.options, written)
    addons = nx_addon.make_addons()
    context.master.addons.add(*addons)
    context.master.addons.trigger(ConfigureHook(set(context.options.keys())))
    return state_of(addons)


def state_of(addons: list[Any]) -> State:
    """The state that the addons share."""
    state = addons[0].state
    assert isinstance(state, State)
    return state


@contextmanager
def loaded(folder: Path, **options: object) -> Iterator[tuple[State, taddons.context]]:
    """The addons in a mitmproxy that has not started."""
    addons = nx_addon.make_addons()
    others = Proxyserver(), NextLayer(), ScriptLoader(), Save(), SaveHar()
    with taddons.context(*others, *addons) as context:
        context.configure(addons[-1], nx_dir=str(folder), **options)
        yield state_of(addons), context


class Served(NamedTuple):
    """The addons in a mitmproxy of this process, and its port."""

    state: State
    context: taddons.context
    port: int

    async def send(self, request: bytes) -> camera.Reply:
        return await asyncio.to_thread(camera.send, self.port, request)


@asynccontextmanager
async def serving(folder: Path, mode: str = "regular", **options: object) -> AsyncIterator[Served]:
    """The addons in a mitmproxy that serves in this process."""
    with loaded(folder, **options) as (state, context):
        proxies = context.master.addons.get("proxyserver")
        context.options.update(mode=[f"{mode}@127.0.0.1:0"])
        assert await proxies.setup_servers()
        await context.master.addons.trigger_event(RunningHook())
        yield Served(state, context, proxies.listen_addrs()[0][1])
        await ended(context)
        await proxies.servers.update([])
        await until(lambda: not proxies.connections)


def saved(folder: Path) -> dict[str, bytes]:
    """The saved photos."""
    return {path.name: path.read_bytes() for path in folder.glob("[0-9]*/*")}


@pytest.mark.parametrize(
    ("setting", "gallery"),
    [("nx_gallery=true", True), ("nx_gallery=toggle", True), ("nx_gallery=false", False)],
)
async def test_an_option_at_run_time(folder: Path, setting: str, gallery: bool) -> None:
    """An option can be set while the proxy runs; a wrong value is refused in one sentence."""
    async with serving(folder) as (state, context, _):
        context.master.commands.execute(f"set {setting}")
        assert state.config
        assert state.config.gallery is gallery
        for wrong in ("nx_gallery=yes", "nx_max_upload=lots", "nx_smtp", "nx_dir=elsewhere"):
            with pytest.raises(exceptions.CommandError):
                context.master.commands.execute(f"set {wrong}")
        assert state.config.gallery is gallery


async def ended(context: taddons.context) -> None:
    """End the addons as mitmproxy does."""
    await context.master.addons.trigger_event(DoneHook())


async def test_options_at_run_time(folder: Path) -> None:
    """New values apply to the next query and the next request."""
    query = query_from("new.test", "127.0.0.1")
    async with serving(folder) as (state, context, _):
        context.options.update(nx_hosts=["new.test"], nx_dns="192.0.2.9", nx_senders=["me"])
        await context.master.addons.trigger_event(DnsRequestHook(query))
        assert [str(one) for one in query.response.answers] == ["192.0.2.9"]
        assert state.backend
        assert state.backend.config.senders == ("me",)


async def test_a_name_server_that_is_this_process(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries for other names are refused at once if they would loop; ours are answered."""
    monkeypatch.setattr(internals, "listening", lambda *_: [("0.0.0.0", 53)])
    with loaded(folder) as (_, context):
        for servers, name, code in (
            (["127.0.0.1"], "www.example.org", dns.response_codes.SERVFAIL),
            (["127.0.0.1"], "gld.samsungosp.com", dns.response_codes.NOERROR),
            (["198.51.100.53"], "www.example.org", None),
        ):
            monkeypatch.setattr(internals, "name_servers", lambda _, servers=servers: servers)
            query = query_from(name, "127.0.0.1")
            query.client_conn.proxy_mode = ProxyMode.parse("dns")
            await context.master.addons.trigger_event(DnsRequestHook(query))
            assert (query.response and query.response.response_code) == code
        await ended(context)


async def test_nx_retry_for_at_run_time(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A new nx_retry_for applies to pending deliveries."""
    caplog.set_level("INFO")
    rule = "*=run:sh -c 'exit 75'"
    async with serving(folder, nx_senders=["*"], nx_route=[rule]) as (state, context, _):
        assert state.backend
        data = bodies.body([("SAM_1.JPG", bodies.jpeg(1000))])
        target = {rule.removeprefix("*="): ["anna@example.org"]}
        id = arrivals.accept(state.backend.spool, data, target).id
        state.backend.outbox.wake()
        await until(lambda: "next try in" in caplog.text)
        context.options.nx_retry_for = "0"
        context.master.commands.execute(f"nx.retry {id}")
        await until(lambda: "undelivered" in caplog.text)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def test_hints_at_start(folder: Path) -> None:
    """The log has the address that cameras must reach, and the commands to set that up."""
    with Proxy(folder, "--set", "nx_hosts=new.example.org") as proxy:
        log, port = proxy.log, proxy.port
    assert "cameras must reach " in log
    command = r"start it with: \S*mitmdump -s \S*nx_addon.py --mode regular@80 --mode dns@53"
    assert re.search(f"port 80: not served by this process, only port {port}: {command}", log)
    assert f"tcp dport 80 redirect to :{port}" in log
    assert re.search(f"port 53: not served by this process: {command}", log)
    assert re.search("in dnsmasq: address=/gld.samsungosp.com/.*/new.example.org/", log)


def test_a_taken_port(folder: Path) -> None:
    """A port in use is logged with the command that finds the program using it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        proxy = Proxy(folder, "--mode", f"regular@127.0.0.1:{port}")
        assert proxy.run() == 1
        assert f"port {port} is taken: find the program with sudo ss -lntup" in proxy.log


# DNS


@pytest.fixture(scope="module")
def name_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """The address of a proxy's DNS mode; the name server that it queries is silent."""
    modes = ("--mode", "regular@127.0.0.1:0", "--mode", "dns@127.0.0.2:0")
    options = ("--set", "dns_name_servers=127.0.0.1", "--set", "nx_hosts=*.example.net")
    with Proxy(tmp_path_factory.mktemp("dns"), *modes, *options) as proxy:
        yield "127.0.0.2", int(proxy.wait_for(r"DNS server listening at 127\.0\.0\.2:(\d+)")[1])


@pytest.mark.parametrize("name", ["gld.samsungosp.com", "WWW.OspServer.net", "new.example.net"])
def test_dns(name_server: tuple[str, int], name: str) -> None:
    """Samsung's hosts resolve to the address that the client used; AAAA is empty."""
    assert camera.resolve(name, name_server) == (0, ["127.0.0.1"])
    for kind in (camera.AAAA, camera.HTTPS):
        assert camera.resolve(name, name_server, kind) == (0, [])


def test_dns_for_others_goes_on(name_server: tuple[str, int]) -> None:
    """Other names are resolved by mitmproxy, here from the hosts file."""
    assert camera.resolve("localhost", name_server) == (0, ["127.0.0.1"])


@pytest.mark.parametrize(
    ("class_", "op_code"),
    [(dns.classes.CH, dns.op_codes.QUERY), (dns.classes.IN, dns.op_codes.STATUS)],
    ids=["class CH", "STATUS"],
)
async def test_an_odd_query(folder: Path, class_: int, op_code: int) -> None:
    """No query for a camera's host is passed on to another name server."""
    flow = query_from("gld.samsungosp.com")
    flow.request.questions[0].class_ = class_
    flow.request.op_code = op_code
    with loaded(folder) as (_, context):
        await context.master.addons.trigger_event(DnsRequestHook(flow))
    assert flow.response
    assert flow.response.answers == []


@pytest.mark.parametrize("end", [DnsResponseHook, DnsErrorHook], ids=["response", "error"])
async def test_a_query_that_ended_does_not_count(folder: Path, end: Callable[..., Any]) -> None:
    """A query to another name server counts until it is answered or fails."""
    with loaded(folder) as (_, context):
        for _ in range(MAX_SAME + 1):
            flow = tflow.tdnsflow()
            await context.master.addons.trigger_event(DnsRequestHook(flow))
            assert flow.response is None
            await context.master.addons.trigger_event(end(flow))


# Flows


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of a hotspot check, a small and a large upload."""
    folder = tmp_path_factory.mktemp("capture")
    with Proxy(folder, "-w", str(folder / "capture.mitm"), "--set", "nx_inspect=25k") as proxy:
        camera.send(proxy.port, CHECK.encode())
        camera.send(proxy.port, upload("SAM_1.JPG")[0])
        camera.send(proxy.port, upload("SAM_2.JPG", "SAM_3.JPG")[0])
        proxy.wait_for(r"saved as .*SAM_3.JPG")
        proxy.stop()
    return folder / "capture.mitm"


def test_reading_a_capture(folder: Path, capture: Path) -> None:
    """mitmdump -nr describes the requests in a capture, and delivers nothing."""
    assert capture.stat().st_size < 40_000, "the body beyond nx_inspect is not in it"
    proxy = Proxy(folder, "-nr", str(capture))
    assert proxy.run() == 0
    assert "127.0.0.1: GET http://gld.samsungosp.com/: hotspot check, answered 200\n" in proxy.log
    assert (
        "127.0.0.1: POST http://www.ospserver.net/social/columbus/email?DUID=123456789033: "
        "an upload from Camera@samsungcamera.com to photos@example.org: SAM_1.JPG, 20.0 kB; "
    ) in proxy.log
    assert "an upload whose body is not in this flow" in proxy.log
    assert not proxy.uploads.exists()


def test_a_replay_is_answered_and_not_delivered(folder: Path, capture: Path) -> None:
    """An upload that is replayed is answered here, and nothing is stored."""
    proxy = Proxy(folder, "-C", str(capture), "--flow-detail", "2")
    assert proxy.run() == 0
    assert proxy.log.count("200 OK") == 2  # a flow without its body is not replayed
    assert list(proxy.uploads.rglob("*.JPG")) == []
    assert os.listdir(proxy.uploads / ".nx" / "spool") == []


def test_a_stop_in_the_middle_of_an_upload(folder: Path) -> None:
    """If mitmdump ends during an upload, the part that arrived is in quarantine."""
    request, _ = upload("SAM_1.JPG")
    with Proxy(folder) as proxy:
        connection = camera.connect(proxy.port)
        connection.sendall(request[:5000])
        spool = proxy.uploads / ".nx" / "spool"
        eventually(lambda: any(one.stat().st_size for one in spool.glob("[0-9]*")), "bytes arrive")
        proxy.stop()

        assert "mitmproxy ends; nothing is delivered" in proxy.log
        (part,) = proxy.quarantined()
        assert request[:5000].endswith(part)
        assert "Traceback" not in proxy.log


@pytest.mark.parametrize("end", [HttpResponseHook, HttpErrorHook], ids=["response", "error"])
async def test_a_request_that_never_reaches_the_server(
    folder: Path, end: type[HttpResponseHook | HttpErrorHook]
) -> None:
    """Nothing of a request is left if it ends before mitmproxy has reached the loopback server."""
    url = "http://www.ospserver.net/social/columbus/email"
    flow = tflow.tflow(req=http.Request.make("POST", url, b"x"))
    async with serving(folder) as (state, context, _):
        await context.master.addons.trigger_event(HttpRequestHeadersHook(flow))
        await context.master.addons.trigger_event(end(flow))
        assert (state.exchanges, state.server.restore(flow)) == ({}, False)
        assert flow.request.url == url


@pytest.mark.parametrize("end", ["flow", "all"])
async def test_a_file_that_is_never_requested(
    folder: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """A saved file is closed if mitmproxy, or its flow, ends before it is requested."""
    path = folder / "CLIP.MP4"
    path.write_bytes(b"\0\0\0\x18ftypmp42")
    file = open_unchanged([LocalCopy(path, identity_of(path.stat()))])
    assert file
    flow = tflow.tflow(req=http.Request.make("GET", "http://www.samsungimaging.com/file/x.1"))
    async with serving(folder) as (state, context, _):
        assert state.backend
        found = reply_with(file, "GET", (), download=False)
        monkeypatch.setattr(state.backend.services, "file", lambda *_: found)
        await context.master.addons.trigger_event(HttpRequestHeadersHook(flow))
        assert flow.request.host == "127.0.0.1"
        if end == "flow":
            await context.master.addons.trigger_event(HttpErrorHook(flow))
            assert flow.request.host == "www.samsungimaging.com"
            assert file._fd == -1
    assert file._fd == -1


async def test_a_request_after_the_end(folder: Path) -> None:
    """A request after the end gets 503 and starts no exchange."""
    request = http.Request.make("POST", "http://www.ospserver.net/social/columbus/email", b"x")
    flow = tflow.tflow(req=request)
    with loaded(folder) as (state, context):
        context.master.addons.trigger(RunningHook())
        await ended(context)
        await context.master.addons.trigger_event(HttpRequestHeadersHook(flow))
        await context.master.addons.trigger_event(HttpRequestHook(flow))
        assert (flow.response.status_code, state.exchanges) == (503, {})


# Commands


async def test_commands(folder: Path) -> None:
    """nx.outbox lists pending deliveries, nx.retry retries them; errors are readable."""
    smtp = "smtp://127.0.0.1:9"
    async with serving(folder, nx_smtp=smtp, nx_senders=["*"]) as (state, context, _):
        run = context.master.commands.execute
        assert state.backend
        assert run("nx.outbox") == "no pending deliveries"
        id = arrivals.accept(state.backend.spool, b"x", {"mail": ["you@example.org"]}).id
        state.backend.outbox.wake()
        await until(lambda: "tried once" in run("nx.outbox"))
        assert f"{id}: to you@example.org by mail, waiting for " in run("nx.outbox")
        run(f"nx.retry {id}")
        await until(lambda: "tried twice" in run("nx.outbox"))
        with pytest.raises(exceptions.CommandError, match="upload other has no pending"):
            run("nx.retry other")
    with pytest.raises(exceptions.CommandError, match="not received by this mitmproxy"):
        run("nx.outbox")


async def test_a_delivery_in_progress(folder: Path) -> None:
    """nx.outbox and the page show a delivery that is being tried."""
    rule = f"*=run:sh -c 'until [ -e {folder}/go ]; do sleep 0.05; done'"
    page = Endpoint(Service.PAGE)
    async with serving(folder, nx_route=[rule], nx_senders=["*"]) as (state, context, _):
        assert state.backend
        assert state.config
        target = rule.removeprefix("*=")
        data = bodies.body([("SAM_1.JPG", bodies.jpeg(1000))])
        arrival = arrivals.accept(state.backend.spool, data, {target: ["you@example.org"]})
        state.backend.outbox.wake()
        await until(lambda: "being tried now" in context.master.commands.execute("nx.outbox"))
        html = state.backend.services.answer(state.config, arrival.client, page, b"").body
        assert b"Being handed to sh now." in html
        (folder / "go").touch()


# Unknown requests, flows and reports


def flows_in(path: Path) -> list[http.HTTPFlow]:
    with path.open("rb") as file:
        return [flow for flow in FlowReader(file).stream() if isinstance(flow, http.HTTPFlow)]


UNKNOWN = b"POST /new/thing HTTP/1.1\r\nHost: snsgw.samsungmobile.com\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture(scope="module")
def with_new_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy with an additional host, whose cameras are unknown."""
    options = ("--set", "nx_hosts=new.example.net", "--set", "nx_inspect=1g")
    with Proxy(tmp_path_factory.mktemp("unknown"), *options) as proxy:
        yield proxy


def unknown(proxy: Proxy, request: bytes) -> tuple[camera.Reply, str, Path]:
    """Send an unknown request. Returns the reply, its line in the log, and the saved flow."""
    earlier = proxy.log.count("unknown request")
    reply = camera.send(proxy.port, request)
    line = proxy.wait_for(r"127.0.0.1: unknown request: (.*); saved to (\S+)\n", earlier + 1)
    return reply, line[1], proxy.folder / line[2]


@pytest.mark.parametrize(
    ("request_", "logged"),
    [
        (UNKNOWN % 5 + b"hello", "POST http://snsgw.samsungmobile.com/new/thing"),
        (GET.format("/", 1, "new.example.net").encode(), "GET http://new.example.net/"),
    ],
    ids=["path", "start-page-of-a-new-host"],
)
def test_unknown_requests(with_new_host: Proxy, request_: bytes, logged: str) -> None:
    """An unknown request is logged in one line and saved as a flow with body and reply."""
    reply, line, path = unknown(with_new_host, request_)
    assert line.startswith(logged)
    (flow,) = flows_in(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert flow.request.raw_content == request_.partition(b"\r\n\r\n")[2]
    assert flow.response
    assert flow.response.status_code == reply.status
    assert flow.marked == ":question:"
    assert flow.comment.startswith("unknown: ")


def test_only_the_beginning_of_an_unknown_body_is_saved(with_new_host: Proxy) -> None:
    """Only the first 64 KiB of a large body are saved, even if nx_inspect allows more."""
    reply, _, path = unknown(with_new_host, UNKNOWN % 1_000_000 + b"x" * 1_000_000)
    assert reply.status == 404
    (flow,) = flows_in(path)
    assert flow.request.raw_content == b"x" * 65536


async def test_unknown_requests_are_saved_in_a_thread(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Credentials are searched for in a thread, since that may be slow."""
    threads: list[threading.Thread] = []
    monkeypatch.setattr(
        adapter, "hide_credentials", lambda _: threads.append(threading.current_thread())
    )
    async with serving(folder) as served:
        assert (await served.send(UNKNOWN % 1 + b"x")).status == 404
        await until(lambda: "saved to" in caplog.text)
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


LEAKY = (
    b"POST /new?user=me@x.org&password=correct-1 HTTP/1.1\r\n"
    b"Host: snsgw.samsungmobile.com\r\n"
    b"Authorization: Basic Y29ycmVjdA==\r\n"
    b"Cookie: session=correct-2\r\n"
    b"X-Auth-Token: correct-3\r\n"
    b"Content-Length: 32\r\n\r\n"
    b"login=me@x.org&password=correct4"
)


def test_credentials_of_unknown_requests(with_new_host: Proxy) -> None:
    """Neither unknown/ nor the log contains a user, a password or a key."""
    login = social.auth("newsite", social.login_qf30("me@x.org", "correct horse"))
    for request in (login, social.allshare("me@x.org", "correct horse"), LEAKY):
        reply, line, path = unknown(with_new_host, request)
        assert reply.status in (401, 404)
        for secret in ("correct", "Y29ycmVjdA", "me@x.org", "me%40x.org"):
            assert secret.encode() not in path.read_bytes()
            assert secret not in line
    assert line == "POST http://snsgw.samsungmobile.com/new?user=(hidden)&password=(hidden)"


def test_logins_without_a_user_are_saved(with_new_host: Proxy) -> None:
    """Logins to sites with their own login page are saved, since their format is unknown."""
    reply, line, path = unknown(with_new_host, social.auth("flickr", social.login_oauth()))
    assert (reply.status, line.endswith("/flickr/auth")) == (401, True)
    count = with_new_host.log.count("unknown request")
    assert camera.send(with_new_host.port, social.auth("flickr", b"")).status == 400
    user = social.auth("flickr", social.login_qf30("me@x.org", "secret"))
    key = social.session_key(camera.send(with_new_host.port, user).body)
    assert key
    photo = social.announce("flickr", "photo", social.photo(key, "SAM_1.JPG"))
    assert camera.send(with_new_host.port, photo).status == 200
    icon = GET.format("/favicon.ico", 1, "samsungimaging.com").encode()
    assert camera.send(with_new_host.port, icon).status == 204
    assert with_new_host.log.count("unknown request") == count
    (flow,) = flows_in(path)
    assert flow.comment == "unknown: login to flickr, answered 401"
    assert flow.request.raw_content
    assert b"<OAuth Version=" in flow.request.raw_content
    assert social.base64_of(social.CRYPT_SESSION_KEY).encode() not in flow.request.raw_content


@pytest.mark.parametrize(
    "start",
    [
        b"\x1b]0;title\x07 /new",
        b"GET /\x1b]0;title\x07",
        b"G" * 50_000 + b" /new",
        b"GET /" + b"x" * 50_000,
        b"GET /\xe2\x80\xae\xc2\x9bnew",
    ],
    ids=["escape-in-method", "escape-in-path", "long-method", "long-path", "direction"],
)
async def test_log_lines_of_odd_requests(
    folder: Path, start: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Log lines are short and printable for any method and path."""
    flow = tflow.tflow(req=http.Request.make("GET", "http://snsgw.samsungmobile.com/"), resp=True)
    flow.request.data.method, _, flow.request.data.path = start.partition(b" ")
    flow.client_conn.peername = ("\x1b[2J", 1)
    async with serving(folder) as (_, context, _):
        trigger = context.master.addons.trigger_event
        caplog.clear()
        caplog.set_level("INFO")
        flow.live = False  # read from a file
        await trigger(HttpRequestHook(flow))
        flow.live, flow.response = True, None
        await trigger(HttpRequestHeadersHook(flow))
        await trigger(HttpRequestHook(flow))
        await trigger(HttpResponseHook(flow))
        lines = [one.getMessage() for one in caplog.records if one.name == "nx_addon"]
    assert len(lines) == 2
    assert all(len(line) < 400 and line.isprintable() for line in lines)
    assert flow.comment.isprintable()


async def test_log_line_of_a_malformed_request(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """mitmproxy's reason, which may contain the request, is logged short and printable."""
    flow = tflow.tflow(err=flows.Error("Invalid header: \x1b]0;title\x07" + "x" * 50_000))
    with loaded(folder) as (_, context):
        await context.master.addons.trigger_event(HttpRequestHeadersHook(flow))
    (line,) = [one.getMessage() for one in caplog.records if "malformed" in one.getMessage()]
    assert len(line) < 400
    assert line.isprintable()


class Recorder:
    """Records the flows that have ended."""

    def __init__(self) -> None:
        self.flows: list[http.HTTPFlow] = []

    def response(self, flow: http.HTTPFlow) -> None:
        self.flows.append(flow)

    error = response


async def test_marks_and_comments(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each flow has a mark and a comment with the outcome."""
    caplog.set_level("INFO")
    request = bodies.request(bodies.body([("SAM_1.JPG", LARGE)]))
    recorder = Recorder()

    def send_and_leave(data: bytes, leave: Callable[[socket.socket], None]) -> None:
        connection = camera.connect(served.port)
        connection.sendall(data)
        leave(connection)

    async with serving(folder, nx_senders=["*@samsungcamera.com"]) as served:
        served.context.master.addons.add(recorder)
        await served.send(CHECK.encode())
        await served.send(GET.format("/", 1, "www.msn.com").encode())
        await asyncio.to_thread(send_and_leave, request, socket.socket.close)
        await until(lambda: "was not acknowledged" in caplog.text)
        await served.send(request)
        await served.send(request.replace(b"Camera@samsung", b"Nobody@cinemas"))
        await asyncio.to_thread(send_and_leave, request[:5000], camera.reset)
        await until(lambda: len(recorder.flows) == 6)
    outcomes = [(flow.marked, flow.comment) for flow in recorder.flows]
    assert outcomes[:2] == [(":white_check_mark:", "answered: hotspot check")] * 2
    sent = "from Camera@samsungcamera.com to photos@example.org: SAM_1.JPG, 3.0 MB"
    assert outcomes[2] == (":camera:", f"received: {sent}")
    assert outcomes[3][0] == ":repeat:"
    assert re.fullmatch(r"repeated: upload \S+", outcomes[3][1])
    assert outcomes[4] == (":no_entry:", "refused: upload by e-mail: Sender not in whitelist")
    assert outcomes[5][0] == ":x:"
    assert outcomes[5][1].startswith("cut: after ")


def query_from(name: str, client: str = "192.0.2.7", live: bool = True) -> dns.DNSFlow:
    """A DNS query of a client."""
    questions = [dns.Question(name, dns.types.A, dns.classes.IN)]
    flow = tflow.tdnsflow(req=tutils.tdnsreq(questions=questions), live=live)
    flow.client_conn.peername = (client, 4000)
    return flow


def request_from(url: str, client: str = "192.0.2.7", live: bool = True) -> http.HTTPFlow:
    """A request of a client."""
    flow = tflow.tflow(req=http.Request.make("GET", url), live=live)
    flow.client_conn.peername = (client, 4000)
    return flow


async def test_other_hosts_of_a_camera(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Other hosts that a camera asks for are logged once each, earlier ones too."""
    caplog.set_level("INFO")
    with loaded(folder) as (_, context):
        for name in ("early.test", "gld.samsungosp.com", "early.test", "new.test", "new.test"):
            await context.master.addons.trigger_event(DnsRequestHook(query_from(name)))
        for _ in range(2):
            flow = request_from("http://192.0.2.80/")
            await context.master.addons.trigger_event(HttpRequestHeadersHook(flow))
    lines = [line for line in caplog.messages if "which nx_addon does not answer" in line]
    assert [line.partition(",")[0] for line in lines] == [
        "192.0.2.7: asked for early.test before",
        "192.0.2.7: also looked up new.test",
        "192.0.2.7: also requested 192.0.2.80",
    ]


async def test_a_report_of_a_recording(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A report has all requests and DNS questions of cameras, and none of other clients."""
    caplog.set_level("INFO")
    with loaded(folder, nx_report=str(folder / "report.md")) as (_, context):
        for path, client in (("photo", "192.0.2.7"), ("video", "192.0.2.8")):
            flow = request_from(f"http://192.0.2.80/{path}", client, live=False)
            await context.master.addons.trigger_event(HttpRequestHook(flow))
        ours = request_from("http://gld.samsungosp.com/", live=False)
        await context.master.addons.trigger_event(HttpRequestHook(ours))
        # From unknown/, for a host that was in nx_hosts.
        new = request_from("http://new.test/", "192.0.2.9", live=False)
        new.comment = "unknown: unknown"
        await context.master.addons.trigger_event(HttpRequestHook(new))
        for name, client in (("nas.test", "192.0.2.7"), ("other.test", "192.0.2.8")):
            query = query_from(name, client, live=False)
            await context.master.addons.trigger_event(DnsRequestHook(query))
        await ended(context)
    report = (folder / "report.md").read_text()
    assert "\n3 requests, made with" in report
    assert f"a report of 3 requests is in {folder}" in caplog.text
    assert "gld.samsungosp.com" in report
    assert ("/photo" in report, "/video" in report) == (True, False)
    assert report.partition("## DNS questions")[2].count(" A ") == 1


async def test_dns_questions_in_a_report(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A client that only looked up one of our hosts is a camera, too."""
    caplog.set_level("INFO")
    with loaded(folder, nx_report=str(folder / "report.md")) as (_, context):
        query = query_from("gld.samsungosp.com", live=False)
        await context.master.addons.trigger_event(DnsRequestHook(query))
        await ended(context)
    assert "; for those to other hosts, add --set nx_hosts=HOST\n" in caplog.text
    questions = (folder / "report.md").read_text().partition("## DNS questions")[2]
    assert "gld.samsungosp.com" in questions


async def test_a_report_that_cannot_be_written(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A path that cannot be written is logged in one sentence."""
    with loaded(folder, nx_report=str(folder)) as (_, context):
        await ended(context)
    (line,) = [record for record in caplog.records if record.levelname == "ERROR"]
    reason = f"the report cannot be written: Is a directory ({folder})"
    assert (line.getMessage(), line.exc_info) == (reason, None)

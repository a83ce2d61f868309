"""Brings the Wi-Fi upload of Samsung's cameras back to life, inside mitmproxy.

    mitmdump -s nx_addon.py

The cameras' hosts are answered here; nothing for them ever goes upstream. What
happens to a request for one of them, hook by hook:

    client_connected   the client's reader and writer are wrapped (nxparse.proxy.transport)
    requestheaders     endpoints.find says who answers; a body is streamed into a
                       receiver, with the sink in the place of the server
    request            the body is whole: the receiver decides, in a thread
    response           our reply takes the place of the sink's, in one segment
    error              the body was cut: what came of it goes into quarantine

mitmproxy forwards a request whose hook raises. So each hook for our hosts
catches everything and answers 500, and `server_connect` refuses connections to
our hosts, whatever made mitmproxy want them.

This is the only module that imports mitmproxy.
"""

import asyncio
import atexit
import io
import logging
import os
import shlex
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mitmproxy import command, contentviews, ctx, dns, exceptions, flow, http, types, version
from mitmproxy.addonmanager import Loader
from mitmproxy.addons.termlog import TermLogHandler
from mitmproxy.connection import Client
from mitmproxy.io import FlowWriter
from mitmproxy.log import ALERT
from mitmproxy.net.http import status_codes
from mitmproxy.proxy.layer import NextLayer
from mitmproxy.proxy.layers import HttpLayer
from mitmproxy.proxy.mode_specs import DnsMode, ReverseMode, UpstreamMode
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

import nxparse
from nxparse import config
from nxparse.deliver import run, targets
from nxparse.deliver.outbox import Deliver, Outbox, describe_waiting
from nxparse.deliver.routes import target_label
from nxparse.deliver.save import describe_saved, store
from nxparse.inspect import credentials, show
from nxparse.inspect.recorded import RecordedQuestion, RecordedRequest, RecordedResponse
from nxparse.proxy import advice, handover, network, upstream
from nxparse.proxy import dns as foreign_dns
from nxparse.proxy.file_server import FileServer
from nxparse.proxy.handover import Opened
from nxparse.proxy.limits import (
    AcceptErrors,
    ConnectionLimit,
    connections_allowed,
    raise_descriptor_limit,
)
from nxparse.proxy.log_filter import ProxyLogFilter
from nxparse.proxy.log_stream import LogStream
from nxparse.proxy.sink import Sink
from nxparse.proxy.transport import (
    HEAD_REFUSALS,
    HeldReader,
    OneSegmentWriter,
    Pending,
    Stage,
    Times,
)
from nxparse.proxy.unknown_hosts import UnknownHosts
from nxparse.server import endpoints
from nxparse.server.endpoints import Claim, Endpoint, Service
from nxparse.server.gateway import Gateway, simulated
from nxparse.server.hotspot import PortalState
from nxparse.server.receive import (
    HOPELESS,
    Announced,
    Collector,
    EmailReceiver,
    FileReceiver,
    Receiver,
    Result,
)
from nxparse.server.reply import Reply, refusal
from nxparse.server.sessions import Sessions
from nxparse.store.records import Delivery
from nxparse.store.spool import Spool
from nxparse.text import describe_disk_error, describe_upload, error_reason, format_list, printable
from nxparse.upload import File

FAILED = refusal(500, "nx_addon has failed, see its log")
FAILURE = endpoints.fixed(FAILED)
NOT_READY = refusal(503, "nx_addon is starting, or ending")
INSIDE = refusal(403, "The proxy does not connect to itself or to its own machine")
MAX_URL = 200  # characters of it in a line
MAX_METHOD = 20
# A photo that is sent to an unknown path is not stored: its beginning tells what it is.
MAX_UNKNOWN = 64 << 10  # bytes of a body
_AS_BYTES = ("utf-8", "surrogateescape")  # as mitmproxy reads headers
STORAGE_THREADS = 32  # uploads that may wait for the disk at the same moment
REPLY_WATCH = 30.0  # seconds until it must be known whether a reply has arrived
STOP_TIMEOUT = 10.0  # seconds that the delivery at hand may take to end
LAST_LINES = 1.0  # seconds to write the last lines of the log
ENDING = 0.2  # seconds that connections get to end
DNS_TTL = 60  # seconds; a camera that moves to another network should forget us
PROXY_LOGGER = "mitmproxy.proxy.server"
# Modes in which a client may begin with a request head.
HTTP_MODES = ("regular", "transparent", "upstream", "reverse")
# How a flow is marked, by what became of it.
MARKS = {
    "received": ":camera:",
    "repeated": ":repeat:",
    "answered": ":white_check_mark:",
    "refused": ":no_entry:",
    "unknown": ":question:",
    "cut": ":x:",
    "failed": ":x:",
}

logger = logging.getLogger("nx_addon")
T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Exchange:
    """A request for one of our hosts, until it is answered."""

    client: Client
    pending: Pending
    endpoint: Endpoint = FAILURE
    receiver: Receiver | Collector | None = None
    result: Result | None = None
    # Has mitmproxy streamed a body to the sink?
    streamed: bool = False
    # Chunks of this turn of the event loop: the receiver would be slow with tiny ones.
    gathered: list[bytes] = field(default_factory=list)
    # Where the camera wanted to go, while the request leads to the sink.
    destination: tuple[str, int, str] | None = None
    reply: Reply | None = None
    # Asked of a host of ours, but not in the map of the protocol.
    unknown: bool = False

    def feed(self) -> None:
        """Pass the gathered chunks to the receiver."""
        data = b"".join(self.gathered)
        self.gathered.clear()
        if data and self.receiver and self.reply is None:
            self.receiver.feed(data)


class NxAddon:
    """The addon: mitmproxy's hooks, in the order in which they are called."""

    def __init__(self, times: Times = Times()) -> None:  # noqa: B008
        self.times = times
        self.config: config.Config | None = None
        self.mistakes: list[str] = []  # in options, found before they were declared
        self.doubts: list[str] = []  # about options, as they were logged
        self.hosts = endpoints.Hosts()
        self.turns = PortalState()
        self.strangers = UnknownHosts()
        self.queries = foreign_dns.ForeignQueries()
        self.dns_loop: list[str] = []  # the name servers that are this process, as logged
        self.spool: Spool | None = None
        self.sessions: Sessions | None = None
        self.gateway: Gateway | None = None
        self.outbox: Outbox | None = None
        self.opened: Opened | None = None
        # Our own, so that a slow disk does not hold up name resolution in asyncio's.
        self.storage = ThreadPoolExecutor(STORAGE_THREADS, "storage")
        self.started = False
        self.ended = False
        self.read: list[http.HTTPFlow | dns.DNSFlow] = []  # from a file, to be reported
        self.port_advice = _PortAdvice()
        self.exchanges: dict[str, Exchange] = {}  # by the id of the flow
        self.wrapped: dict[str, tuple[HeldReader, OneSegmentWriter]] = {}  # by that of the client
        self.watched: set[Exchange] = set()  # whose replies are not yet acknowledged
        self.refused: set[object] = set()  # peers whose request head was refused
        self.sink = Sink()
        self.files = FileServer(self.storage)
        self.streams: dict[str, tuple[Client, Callable[[], None]]] = {}  # of files, by flow id
        self.log_filter = ProxyLogFilter(
            self.sink, self._streams, self.refused.__contains__, self.files
        )
        self.connections = ConnectionLimit()
        self.accept_errors: AcceptErrors | None = None

    # Start and stop

    def load(self, loader: Loader) -> None:
        _never_wait_for_stdout()
        for option in config.OPTIONS:
            self._convert_deferred(option)
            loader.add_option(option.name, option.kind, option.default, option.help)
        if hasattr(contentviews, "Contentview"):  # mitmproxy 11 has another interface
            contentviews.add(_camera_view(self))
        # The servers that cameras want are dead: to connect first is to fail.
        ctx.options.connection_strategy = "lazy"
        logging.getLogger().addHandler(self.port_advice)
        # mitmproxy opens its ports while it loads scripts: it may have complained already.
        if errors := ctx.master.addons.get("errorcheck"):
            for record in errors.logger.has_errored:
                self.port_advice.handle(record)

    def _convert_deferred(self, option: config.Option) -> None:
        """Bring a value into its declared type, or mitmproxy drops the addon without a word."""
        deferred = ctx.options.deferred
        if option.name in deferred:
            given = deferred.pop(option.name)
            if hasattr(given, "val"):  # from --set: a list of strings, empty without a value
                given = given.val or True
            try:
                deferred[option.name] = option.convert(given, os.environ)
            except config.ConfigError as error:
                self.mistakes.append(str(error))

    def configure(self, updated: set[str]) -> None:
        names = [option.name for option in config.OPTIONS]
        for mistake in self.mistakes:
            logger.error(mistake)
        if self.mistakes or (self.config and not updated.intersection(names)):
            return
        values = {name: getattr(ctx.options, name) for name in names}
        try:
            parsed = config.parse(values, os.environ)
        except config.ConfigError as error:
            if self.started:
                raise exceptions.OptionsError(str(error)) from error
            # An exception at start would print a traceback; an ERROR ends it too.
            logger.error(str(error))
            return
        if self.spool and self.config and parsed.dir != self.config.dir:
            raise exceptions.OptionsError("nx_dir cannot be changed while uploads arrive: restart")
        self.config = parsed
        known, self.doubts = self.doubts, advice.doubts(values, parsed, os.environ)
        for doubt in self.doubts:
            if doubt not in known:
                logger.warning(doubt)
        if self.outbox:
            self.outbox.retry_for = parsed.retry_for
        self.hosts = endpoints.Hosts(parsed.hosts)

    def running(self) -> None:
        self.started = True
        logging.getLogger().removeHandler(self.port_advice)
        _let_scripts_answer_dns_first()
        _show_comments()
        for name in sorted(ctx.options.deferred):
            if name.startswith("nx_"):
                known = ", ".join(option.name for option in config.OPTIONS)
                logger.warning(f"there is no option {name}: the options are {known}")
        if not self.config or not ctx.options.server:
            return
        self._prepare_connections()
        root = self.config.dir / ".nx"
        self.opened = handover.left.pop(root, None) or self._open(root)
        if not self.opened:
            return
        self.spool, self.sessions = self.opened.spool, self.opened.sessions
        self.outbox = self.opened.outbox
        self.outbox.deliver_to, self.outbox.keep = self._deliver_to, self._keep
        self.outbox.retry_for = self.config.retry_for
        self.gateway = Gateway(self.sessions, self.spool, attempted=self.outbox.attempted)
        self.outbox.start()
        for line in advice.lines(_listening(self.config)):
            logger.info(line)
        self._name_servers_here()

    def _open(self, root: Path) -> Opened | None:
        """Open everything that is stored in `root`, the folder `.nx`. None if that fails."""
        try:
            spool = Spool(root)
        except (OSError, sqlite3.Error) as error:
            logger.error(f"uploads cannot be stored: {describe_disk_error(error, root.parent)}")
            return None
        for path in spool.recovered:
            logger.warning(f"recovered a partial upload from the last run: {path}")
        path = root / "sessions.sqlite3"
        try:
            sessions = Sessions(path)
        except (OSError, sqlite3.Error) as error:
            reason = describe_disk_error(error, path)
            logger.error(f"logins to social sites cannot be stored: {reason}")
            spool.close()
            return None
        outbox = Outbox(spool, self._deliver_to, self._keep, retry_for=0, clock=time.time)
        return Opened(root, spool, sessions, outbox)

    def _deliver_to(self, target: str) -> Deliver:
        return targets.deliver_to(self._configured(), os.environ, target)

    def _keep(self, upload: nxparse.Upload, files: Sequence[File], delivery: Delivery) -> str:
        return targets.keep(self._configured().dir, upload, files, delivery)

    def done(self) -> asyncio.Future[None] | None:
        # Not async: mitmproxy drops a script whose async `done` it would have to await to
        # reload it. At its own end, it awaits the future that is returned.
        logging.getLogger().removeHandler(self.port_advice)
        if self.config and self.config.report:
            self._report_read(self.config.report)
        for exchange in self.exchanges.values():
            if exchange.receiver and not exchange.pending.complete:
                exchange.feed()
                exchange.receiver.abort("mitmproxy ends")
            if exchange.client.id in self.wrapped:
                reader, writer = self.wrapped[exchange.client.id]
                reader.pending = None
                writer.transport.abort()
        connected = bool(self.exchanges)
        # A camera that gets no reply sends its upload again.
        for exchange in (*self.exchanges.values(), *self.watched):
            if self.spool and exchange.result and exchange.result.accepted:
                self.spool.reply_lost(exchange.result.accepted)
        self.exchanges.clear()
        self.watched.clear()
        self._leave_connections()
        self.ended = True
        self.spool = None
        if self.opened:
            self.opened.outbox.stop(0)
            handover.left[self.opened.root] = self.opened
        # mitmproxy waits for this future; meanwhile the connections end.
        if connected or self.opened:
            return asyncio.ensure_future(self._end(ENDING if connected else 0))
        self.storage.shutdown(wait=False)
        return None

    async def _end(self, connections: float) -> None:
        """Let the last deliveries end and close the storage, unless a reload takes it over."""
        await asyncio.sleep(connections)
        opened, deadline = self.opened, time.monotonic() + STOP_TIMEOUT
        if not opened:
            self.storage.shutdown(wait=False)
            return
        interrupted, told = asyncio.Event(), False
        while handover.left.get(opened.root) is opened and not opened.outbox.stop(0):
            waiting = format_list(
                [f"upload {one.id} to {target_label(one.target)}" for one in opened.outbox.at_hand]
            )
            if waiting and not told:
                told = True
                _on_interrupt(interrupted.set)
                logger.info(
                    f"waiting up to {STOP_TIMEOUT:.0f} s for {waiting}; Ctrl-C again ends at once"
                )
            if interrupted.is_set() or time.monotonic() > deadline:
                if waiting:
                    logger.warning(
                        f"stopped during the delivery of {waiting}; the next start repeats it"
                    )
                run.end_running()
                return
            await asyncio.sleep(0.05)
        if handover.left.get(opened.root) is opened:
            del handover.left[opened.root]
            await self._in_storage(opened.close)
        self.storage.shutdown(wait=False)

    def _report_read(self, path: Path) -> None:
        # A client that has never asked for a host of ours is no camera.
        cameras = {_name(one.client_conn) for one in self.read if self._asks_for_us(one)}
        flows = [one for one in self.read if _name(one.client_conn) in cameras]
        try:
            _write_report(flows, path)
        except exceptions.CommandError as error:
            logger.error(f"the report cannot be written: {error}")

    # A connection

    def client_connected(self, client: Client) -> None:
        if client.transport_protocol != "tcp":
            return
        if not self.connections.opened(_name(client)):
            client.error = "too many connections"
            return
        io = _transport(client)
        if io and isinstance(io.reader, asyncio.StreamReader):
            writer = OneSegmentWriter(io.writer, times=self.times)
            refuse = partial(self._refuse_head, client)
            reader = HeldReader(io.reader, refuse, times=self.times)
            if client.proxy_mode.type_name not in HTTP_MODES:
                reader.enter(Stage.OPAQUE)
            io.reader, io.writer = reader, writer
            self.wrapped[client.id] = reader, writer

    def client_disconnected(self, client: Client) -> None:
        if client.transport_protocol == "tcp":
            self.connections.closed(_name(client))
        self.refused.discard(client.peername)
        if wrapped := self.wrapped.pop(client.id, None):
            wrapped[0].close()
            # mitmproxy forgets to, when the client still sends while it is answered.
            wrapped[1].close()

    def next_layer(self, data: NextLayer) -> None:
        # mitmproxy decides after this hook.
        asyncio.get_running_loop().call_soon(self._protocol_chosen, data)

    def server_connect(self, data: ServerConnectionHookData) -> None:
        assert data.server.address
        host, port = data.server.address[:2]
        if self._is_sink(data.client, data.server.address) or self._is_file_server(
            data.client, data.server.address
        ):
            data.server.sockname = None  # the option connect_addr is not for the sink
        elif (
            self._exchanges_of(data.client)
            or host in self.hosts
            or (host, port) == self.sink.address
        ):
            data.server.error = "a Samsung host is answered here and never connected to"
        elif self._is_refused(data.client, (host, port), host):
            data.server.error = upstream.describe_refused(host)

    def server_connected(self, data: ServerConnectionHookData) -> None:
        address, peer = data.server.address, data.server.peername
        if not address or not peer:
            return
        if self._is_sink(data.client, peer):
            if data.server.sockname:
                self.sink.announce(data.server.sockname[1])
                for exchange in self._exchanges_of(data.client):
                    exchange.pending.connected.set()
        # What a name resolves to is known only now, and may have changed since it was looked up.
        elif not self._is_file_server(data.client, peer) and self._is_refused(
            data.client, address, peer[0]
        ):
            reason = upstream.describe_refused(address[0], peer[0])
            logger.warning(f"{_name(data.client)}: connection to port {peer[1]} aborted: {reason}")
            _abort(data)

    def _is_sink(self, client: Client, address: tuple[Any, ...]) -> bool:
        """Is this the sink, and does a body of this client go there?"""
        return address[:2] == self.sink.address and bool(self._exchanges_of(client))

    def _is_file_server(self, client: Client, address: tuple[Any, ...]) -> bool:
        """Is this the file server, and does this client get a file from it?"""
        return address[:2] == self.files.address and any(
            one.id == client.id for one, _ in self.streams.values()
        )

    def _is_refused(self, client: Client, address: tuple[Any, ...], host: str) -> bool:
        """Must the proxy not connect to `host`, as it is asked to reach `address`?

        Names are not resolved. The servers that a mode names, and those of the DNS mode, may be
        on this machine, as long as they are not this process.
        """
        if not upstream.refuses_literal(endpoints.bare_host(host)):
            return False
        chosen_by_us = _mode_address(client) == address[:2] or _is_dns(client)
        return not chosen_by_us or network.is_served(host, address[1], _listening_on())

    # A request

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        self._enter(flow, Stage.BODY)
        if not flow.live or flow.response:
            return
        if flow.error:  # mitmproxy answers 400
            reason = printable(flow.error.msg, MAX_URL)
            logger.warning(f"{_name(flow.client_conn)}: malformed request refused: {reason}")
            return
        claim = await self._place(flow)
        if flow.is_replay:
            if claim and claim.refusal:
                flow.response = _response(claim.refusal, flow.request.method)
            return
        if claim is None:
            self._stranger(flow.client_conn, flow.request.pretty_host, "HTTP")
            return
        if self.ended or not self.sink.address:  # too late, or too early, to begin a stream
            flow.response = _response(NOT_READY, flow.request.method)
            return
        exchange = self.exchanges[flow.id] = Exchange(flow.client_conn, Pending())
        if flow.client_conn.id in self.wrapped:
            self.wrapped[flow.client_conn.id][0].pending = exchange.pending
        try:
            exchange.endpoint = self._refused(flow, claim) or self._endpoint(flow, claim)
            if _has_body(flow.request):
                await self._stream(flow.request, exchange)
            elif exchange.endpoint.is_file:
                await self._stream_file(flow, exchange)
        except Exception:
            logger.exception("cannot take a request")
            exchange.reply = FAILED

    async def http_connect(self, flow: http.HTTPFlow) -> None:
        self._enter(flow, Stage.OPAQUE)
        host, client = endpoints.bare_host(flow.request.host), flow.client_conn
        if host in self.hosts or _mode_address(client):
            return
        refused = _inside(flow.request.host, await upstream.resolve(host))
        if refused and refused.refusal:
            logger.warning(f"{_name(client)}: CONNECT is refused: {refused.reason}")
            flow.response = _response(refused.refusal, flow.request.method)

    async def request(self, flow: http.HTTPFlow) -> None:
        self._enter(flow, Stage.COMPLETE)
        exchange = self.exchanges.get(flow.id)
        if exchange is None:
            if flow.id not in self.streams:
                self._without_exchange(flow)
            return
        exchange.pending.complete = True
        try:
            exchange.reply = exchange.reply or await self._decide(flow.request, exchange)
        except Exception:
            logger.exception("cannot answer")
            exchange.reply = FAILED
        if exchange.reply is FAILED:
            await self._abandon(exchange, "by a fault in nx_addon")
        if exchange.endpoint.is_upload and exchange.reply.status >= 400 and self.gateway:
            self.gateway.failures.add(_name(exchange.client), f"Refused: {exchange.reply.remark}")
        exchange.unknown = exchange.unknown or exchange.reply.unsolved
        _restore(flow.request, exchange)
        _label(flow, exchange)
        if exchange.streamed:
            assert flow.server_conn.sockname
            self.sink.release(flow.server_conn.sockname[1])
        else:
            flow.response = _response(exchange.reply, flow.request.method)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        if stream := self.streams.get(flow.id):
            assert flow.response
            flow.response.stream = True
            stream[1]()
            _mark(flow, "answered", "saved file")

    async def response(self, flow: http.HTTPFlow) -> None:
        self.streams.pop(flow.id, None)
        switched = flow.response and flow.response.status_code == 101
        self._enter(flow, Stage.OPAQUE if switched else Stage.HEAD)
        exchange = self.exchanges.pop(flow.id, None)
        if exchange is None:
            return
        flow.response = _response(exchange.reply or FAILED, flow.request.method)
        if exchange.unknown:
            await self._keep_unknown(flow)
        if exchange.client.id in self.wrapped:
            writer = self.wrapped[exchange.client.id][1]
            writer.collecting = True
            if exchange.result and exchange.result.accepted:
                self.watched.add(exchange)
                writer.watch_reply(partial(self._reply_watched, exchange))
        else:
            self._reply_watched(exchange, True)
        exchange.pending.answered.set()
        # Not before: deliveries would compete with the reply.
        if self.outbox and exchange.receiver:
            self.outbox.wake()

    async def error(self, flow: http.HTTPFlow) -> None:
        self._enter(flow, Stage.HEAD)
        if stream := self.streams.pop(flow.id, None):
            stream[1]()
        exchange = self.exchanges.pop(flow.id, None)
        if exchange is None:
            return
        _restore(flow.request, exchange)
        if not exchange.pending.complete:
            reason = exchange.pending.end or (flow.error.msg if flow.error else "no reason given")
            flow.request.raw_content = await self._abandon(exchange, reason)
            _mark(flow, "cut", f"after {exchange.pending.received} bytes, {reason}")
            if exchange.endpoint.is_upload and self.gateway:
                cut = f"Incomplete, {exchange.pending.received} bytes: {reason}"
                self.gateway.failures.add(_name(exchange.client), cut)
        else:
            self._reply_watched(exchange, False)
        exchange.pending.answered.set()
        if self.outbox:
            self.outbox.wake()

    # DNS

    def dns_request(self, flow: dns.DNSFlow) -> None:
        if not flow.live and self.config and self.config.report:
            self.read.append(flow)
        if flow.live or (self.config and self.config.report):
            self._note_question(flow)
        if not flow.live or flow.response:
            return
        if (records := self._records(flow)) is not None:
            flow.response = flow.request.succeed(records)
        elif self._must_not_go_on(flow):
            flow.response = flow.request.fail(dns.response_codes.SERVFAIL)

    def _note_question(self, flow: dns.DNSFlow) -> None:
        question = flow.request.question
        if question and self.hosts.resolves(question.name):
            self._seen_camera(flow.client_conn)
        elif question and question.type == dns.types.A:
            self._stranger(flow.client_conn, question.name, "DNS")

    def _records(self, flow: dns.DNSFlow) -> list[dns.ResourceRecord] | None:
        """The answer to a question for one of our hosts; None for others."""
        question, peer = flow.request.question, flow.client_conn.peername
        if question is None or not self.hosts.resolves(question.name):
            return None
        if flow.request.op_code != dns.op_codes.QUERY or question.class_ != dns.classes.IN:
            return None
        # AAAA and HTTPS get an empty answer: the name exists, but not as that.
        if question.type != dns.types.A or not peer:
            return []
        given = self.config.dns if self.config else None
        address = given or network.facing(peer[0])
        return [dns.ResourceRecord.A(question.name, address, ttl=DNS_TTL)] if address else []

    def dns_response(self, flow: dns.DNSFlow) -> None:
        self.queries.end(flow.id)

    def dns_error(self, flow: dns.DNSFlow) -> None:
        self.queries.end(flow.id)

    def _must_not_go_on(self, flow: dns.DNSFlow) -> bool:
        """Is there no name server to ask but this process, or are there too many queries?"""
        if _is_dns(flow.client_conn) and self._name_servers_here():
            return True
        question = flow.request.question
        asked = (question.name, question.type) if question else ("", 0)
        if self.queries.begin(flow.id, *asked):
            return False
        if self.queries.worth_a_line():
            logger.warning(
                "too many DNS queries wait for a name server: further ones get SERVFAIL; if the "
                "name servers of this machine lead back to it, set dns_name_servers"
            )
        return True

    def _name_servers_here(self) -> bool:
        """Is a name server that the DNS mode asks this process? Logged when it changes."""
        resolver = ctx.master.addons.get("dnsresolver")
        servers = resolver.name_servers() if resolver else []
        found = foreign_dns.served_here(servers, _listening_on("dns"))
        if found and found != self.dns_loop:
            logger.warning(foreign_dns.describe_loop(found))
        self.dns_loop = found
        return bool(found)

    # Commands

    @command.command("nx.outbox")
    def show_outbox(self) -> str:
        """What waits to be delivered: since when, why, and when it is tried next."""
        waiting = self._spool().waiting()
        attempts = self.outbox.attempted() if self.outbox else ()
        text = describe_waiting(waiting, time.time(), attempts)
        logger.log(ALERT, text)
        return text

    @command.command("nx.retry")
    def retry(self, id: str) -> None:
        """Try the deliveries of an upload again now."""
        if not self._spool().retry_now(id):
            raise exceptions.CommandError(f"nothing of an upload {id} waits: see nx.outbox")
        assert self.outbox
        self.outbox.wake()

    @command.command("nx.save")
    def save(self, flows: Sequence[flow.Flow], path: types.Path) -> None:
        """Save the files of the chosen uploads to a folder."""
        saved = []
        for one in flows:
            if isinstance(one, http.HTTPFlow):
                try:
                    upload = show.upload_in(_seen(one))
                    files = upload.files if upload else ()
                    saved += store(files, Path(path).expanduser(), one.id)
                except (OSError, ValueError) as error:
                    raise exceptions.CommandError(error_reason(error)) from error
        logger.log(ALERT, describe_saved(saved))

    @command.command("nx.report")
    def report(self, flows: Sequence[flow.Flow], path: types.Path) -> None:
        """Write a report of the chosen flows that can be shared: without anything private."""
        _write_report(flows, Path(path).expanduser())

    def _spool(self) -> Spool:
        if not self.spool:
            raise exceptions.CommandError("uploads are not received by this mitmproxy")
        return self.spool

    # What the hooks above are made of

    def _prepare_connections(self) -> None:
        self.connections.most = connections_allowed(raise_descriptor_limit())
        loop = asyncio.get_running_loop()
        self.accept_errors = AcceptErrors(loop.get_exception_handler())
        loop.set_exception_handler(self.accept_errors)
        logging.getLogger(PROXY_LOGGER).addFilter(self.log_filter)
        try:
            self.sink.open()
        except OSError as error:
            logger.error(f"uploads cannot be received: {error_reason(error)}")

    def _leave_connections(self) -> None:
        self.sink.close()
        self.files.close()
        logging.getLogger(PROXY_LOGGER).removeFilter(self.log_filter)
        if self.accept_errors:
            loop = asyncio.get_running_loop()
            if loop.get_exception_handler() is self.accept_errors:
                loop.set_exception_handler(self.accept_errors.others)

    def _enter(self, flow: http.HTTPFlow, stage: Stage) -> None:
        """Tell the client's reader what the client sends from now on."""
        wrapped = self.wrapped.get(flow.client_conn.id)
        if wrapped:
            wrapped[0].noticed = True
            if not flow.request.is_http2:
                wrapped[0].enter(stage)

    def _protocol_chosen(self, data: NextLayer) -> None:
        """mitmproxy knows what a client speaks: limits of request heads are for HTTP/1 alone."""
        client = data.context.client
        wrapped = self.wrapped.get(client.id)
        if wrapped is None or data.layer is None:
            return
        wrapped[0].encrypted = client.tls
        is_http = isinstance(data.context.layers[-1], HttpLayer) and client.alpn != b"h2"
        wrapped[0].enter(Stage.HEAD if is_http else Stage.OPAQUE)

    def _refuse_head(self, client: Client, status: int, reason: str) -> None:
        reader, writer = self.wrapped[client.id]
        self.refused.add(client.peername)
        logger.warning(f"{_name(client)}: connection closed: {reason}")
        if not reader.encrypted:
            writer.write(HEAD_REFUSALS[status])

    def _exchanges_of(self, client: Client) -> list[Exchange]:
        return [one for one in self.exchanges.values() if one.client.id == client.id]

    def _streams(self, peername: object) -> bool:
        return any(one.client.peername == peername for one in self.exchanges.values())

    def _asks_for_us(self, flow: http.HTTPFlow | dns.DNSFlow) -> bool:
        if isinstance(flow, http.HTTPFlow):
            return self._is_ours(flow)
        return any(self.hosts.resolves(one.name) for one in flow.request.questions)

    def _claim(self, flow: http.HTTPFlow, *, at_us: bool = False) -> Claim | None:
        """Decide whether a request is answered here, without resolving names."""
        request = flow.request
        target = endpoints.bare_host(request.host)
        at_us = at_us or (
            _mode_address(flow.client_conn) != (request.host, request.port)
            and request.port in _arrival_ports(flow.client_conn)
            and self._is_local(target)
        )
        return endpoints.claim(
            request.method,
            request.path,
            target,
            request.host_header or "",
            hosts=self.hosts,
            at_us=at_us,
            is_local=self._is_local,
        )

    async def _place(self, flow: http.HTTPFlow) -> Claim | None:
        """Decide whether a request is answered here; None if it goes upstream."""
        request, client = flow.request, flow.client_conn
        try:
            claim = self._claim(flow)
            if claim or _mode_address(client):  # else the upstream server resolves the name
                return claim
            addresses = await upstream.resolve(endpoints.bare_host(request.host))
            at_us = any(self._is_local(str(address)) for address in addresses)
            if at_us and request.port in _arrival_ports(client):
                return self._claim(flow, at_us=True)
            return _inside(request.host, addresses)
        except Exception:
            logger.exception("cannot tell who a request is for")
            return Claim("", FAILED, "nx_addon has failed")

    def _is_local(self, host: str) -> bool:
        """Is this a name or an address of this machine, or the address in nx_dns?"""
        given = self.config.dns if self.config else None
        return network.is_local(host) or host == str(given)

    def _is_ours(self, flow: http.HTTPFlow) -> bool:
        return self._claim(flow) is not None

    def _is_unknown(self, host: str, endpoint: Endpoint) -> bool:
        """Is this something that a new model may want, and that gets no useful answer?"""
        if endpoint.service is Service.PAGE:
            return host in self.hosts and host not in endpoints.SAMSUNG_HOSTS
        return endpoint.is_unsolved

    async def _keep_unknown(self, flow: http.HTTPFlow) -> None:
        what = _describe_request(flow.request)
        try:
            path = await self._in_storage(_save_unknown, self._spool(), flow.copy())
        except Exception as error:
            saved = f"it cannot be saved: {error_reason(error)}"
        else:
            saved = f"saved to {path}"
        if not _somebody_looks():
            flow.request.raw_content = None
        logger.warning(f"{_name(flow.client_conn)}: unknown request: {what}; {saved}")

    def _stranger(self, client: Client, name: str, how: str) -> None:
        if told := self.strangers.asked(_name(client), endpoints.bare_host(name), how):
            logger.info(told)

    def _seen_camera(self, client: Client) -> None:
        if told := self.strangers.seen(_name(client)):
            logger.info(told)

    def _refused(self, flow: http.HTTPFlow, claim: Claim) -> Endpoint | None:
        """The refusal of a request that no camera makes; nothing of it is kept."""
        request = flow.request
        refused, reason = claim.refusal, claim.reason
        origin = endpoints.page_origin(request.method, _fields(request.headers))
        if not refused and origin is not None:
            page = printable(origin) or "(not named)"
            refused, reason = endpoints.FROM_A_PAGE, f"it comes from a web page, {page}"
        if refused:
            logger.warning(
                f"{_name(flow.client_conn)}: {_describe_request(request)} is refused: {reason}"
            )
        return endpoints.fixed(refused) if refused else None

    def _endpoint(self, flow: http.HTTPFlow, claim: Claim) -> Endpoint:
        """The answer to a camera, which may depend on what it has been told before."""
        request, client = flow.request, _name(flow.client_conn)
        found = claim.endpoint(request.method, request.path)
        self._seen_camera(flow.client_conn)
        if found.check:
            return replace(found, reply=self.turns.answer(client, found.check))
        if not found.reply and not found.is_page:
            self.turns.passed(client)
        self.exchanges[flow.id].unknown = self._is_unknown(claim.host, found)
        return found

    async def _stream(self, request: http.Request, exchange: Exchange) -> None:
        """Let the body of this request come in without being kept in memory."""
        assert self.sink.address
        exchange.destination = request.data.host, request.data.port, request.scheme
        request.data.host, request.data.port = self.sink.address
        request.scheme = "http"
        request.stream = partial(self._take, exchange)
        await self._begin(request, exchange)

    async def _stream_file(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """Redirect a request for a saved file to the file server, or answer it with a refusal."""
        if not self.gateway:
            exchange.reply = NOT_READY
            return
        request, client = flow.request, flow.client_conn
        given, fields = self._configured(), _fields(request.headers)
        address = await self.files.open()
        found = await self._in_storage(
            self.gateway.file, given, _name(client), exchange.endpoint, request.method, fields
        )
        if isinstance(found, Reply):
            exchange.endpoint = endpoints.fixed(found)
            return
        abandon: Callable[[], object] = bool  # there is nothing to end
        if client.id in self.wrapped:
            reader, writer = self.wrapped[client.id]
            reader.pending, writer.collecting = None, False
            abandon = writer.transport.abort
        exchange.destination = request.data.host, request.data.port, request.scheme
        path, request.path = request.path, self.files.offer(found, abandon)
        request.data.host, request.data.port = address
        request.scheme = "http"

        def restore() -> None:
            _restore(request, exchange)
            request.path = path

        self.streams[flow.id] = client, restore
        del self.exchanges[flow.id]

    async def _begin(self, request: http.Request, exchange: Exchange) -> None:
        """Get ready for the body of a request, even if it is none."""
        endpoint = exchange.endpoint
        if reply := endpoint.reply:
            if exchange.unknown:
                exchange.receiver = Collector(_name(exchange.client), lambda _: reply, MAX_UNKNOWN)
            return
        if not self.spool or not self.config or not self.gateway:
            exchange.reply = NOT_READY
            return
        spool, given, client = self.spool, self.config, _name(exchange.client)
        length = request.headers.get("content-length")
        announced = Announced(
            client=client,
            content_type=request.headers.get("content-type", ""),
            length=int(length) if length else None,
        )
        inspect = given.inspect if _somebody_looks() else 0
        if endpoint.is_upload and not spool.is_in_place():
            with suppress(OSError, sqlite3.Error):  # the receiver finds out
                await self._in_storage(spool.reopen)
        if endpoint.service is Service.EMAIL:
            # This creates a file, which is no slower than to write to it.
            exchange.receiver = EmailReceiver(spool, given, announced, inspect=inspect).open()
        elif endpoint.service is Service.FILE:
            search = partial(self.gateway.announced, given, client, endpoint.argument)
            file = await self._in_storage(search)
            if isinstance(file, Reply):
                exchange.reply = file
            else:
                receiver = FileReceiver(spool, given, announced, file, inspect=inspect)
                exchange.receiver = await self._in_storage(receiver.open)
        else:
            answer = partial(self.gateway.answer, given, client, endpoint)
            exchange.receiver = Collector(client, answer)

    def _take(self, exchange: Exchange, chunk: bytes) -> list[bytes]:
        """Take a chunk of a body. Must not raise: mitmproxy would let the client hang."""
        exchange.streamed = True
        exchange.pending.chunks += 1
        exchange.pending.received += len(chunk)
        if not chunk:  # the end
            self._feed(exchange)
            return []
        if not exchange.gathered:
            asyncio.get_running_loop().call_soon(self._feed, exchange)
        exchange.gathered.append(chunk)
        limit = HOPELESS * self.config.max_upload if self.config else 0
        if exchange.pending.received > limit and exchange.client.id in self.wrapped:
            reason = f"body exceeds {HOPELESS} x nx_max_upload; connection closed"
            logger.warning(f"{_name(exchange.client)}: {reason}")
            self.wrapped[exchange.client.id][1].transport.abort()
        return []

    def _feed(self, exchange: Exchange) -> None:
        """Pass on the chunks of this turn of the event loop. Must not raise."""
        try:
            exchange.feed()
        except Exception:
            logger.exception("cannot take a chunk of a body")
            exchange.reply = FAILED

    async def _decide(self, request: http.Request, exchange: Exchange) -> Reply:
        endpoint, receiver = exchange.endpoint, exchange.receiver
        if receiver is None and endpoint.reply:
            return endpoint.reply
        if receiver is None and endpoint.is_upload:
            logger.warning(f"{_name(exchange.client)}: an upload is refused: it is empty")
            return refusal(400, "The upload is empty")
        if receiver is None:
            await self._begin(request, exchange)
            receiver = exchange.receiver
        if receiver is None:
            return exchange.reply or FAILED
        result = await self._in_storage(receiver.finish)
        while result.waits_for:
            # Unlike wait_for, wait does not cancel the future.
            watched = asyncio.wrap_future(result.waits_for)
            await asyncio.wait([watched], timeout=REPLY_WATCH)
            if not watched.done() and self.spool and result.accepted:
                self.spool.reply_lost(result.accepted)
            result = await self._in_storage(receiver.finish)
        exchange.result = result
        if result.body is not None:
            request.raw_content = result.body
        return result.reply

    def _without_exchange(self, flow: http.HTTPFlow) -> None:
        """A request that is not a camera's: replayed, read from a file, or for somebody else."""
        if not flow.live and self.config and self.config.report:
            self.read.append(flow)
        claim = self._claim(flow)
        if claim is None:
            return
        if not flow.live:
            logger.info(f"{_name(flow.client_conn)}: {_describe_recorded(_seen(flow))}")
        elif not flow.response:
            endpoint = claim.endpoint(flow.request.method, flow.request.path)
            reply = simulated(endpoint, time.time())
            flow.response = _response(reply, flow.request.method)

    def _reply_watched(self, exchange: Exchange, arrived: bool) -> None:
        """It is known now whether the reply to an upload has arrived."""
        self.watched.discard(exchange)
        result = exchange.result
        if not result or not result.accepted or not self.spool:
            return
        if arrived:
            self.spool.reply_confirmed(result.accepted)
            return
        logger.info(
            f"{_name(exchange.client)}: disconnected before the reply to upload {result.upload}; "
            f"if it sends that again, it is delivered once"
        )
        self.spool.reply_lost(result.accepted)

    async def _abandon(self, exchange: Exchange, reason: str) -> bytes | None:
        """Abandon an upload. Returns the part that arrived, if it is to be inspected."""
        if exchange.receiver:
            try:
                exchange.feed()
                return await self._in_storage(exchange.receiver.abort, reason)
            except Exception:
                logger.exception("cannot store a partial upload")
        return None

    async def _in_storage(self, work: Callable[..., T], *values: Any) -> T:
        """Call what waits for the disk, in a thread of ours."""
        return await asyncio.get_running_loop().run_in_executor(self.storage, work, *values)

    def _configured(self) -> config.Config:
        assert self.config
        return self.config


def _inside(host: str, addresses: Sequence[network.Address]) -> Claim | None:
    """The refusal of a request to a host with these addresses, if one of them is this machine's."""
    for address in addresses:
        if upstream.refuses(address):
            return Claim(host, INSIDE, upstream.describe_refused(host, str(address)))
    return None


def _mode_address(client: Client) -> tuple[Any, ...] | None:
    """The server that a reverse or upstream mode names for all that this client asks for."""
    mode = client.proxy_mode
    return mode.address if isinstance(mode, ReverseMode | UpstreamMode) else None


def _is_dns(client: Client) -> bool:
    return isinstance(client.proxy_mode, DnsMode)


def _arrival_ports(client: Client) -> tuple[int, ...]:
    """The ports at which a request of this client may arrive here: redirected, or as it is."""
    return 80, 443, *(client.sockname[1:2] if client.sockname else ())


def _listening_on(mode: str = "") -> list[tuple[str, int]]:
    """The addresses and ports that this process listens on in a mode, or in all of them.

    mitmweb's own API is among all.
    """
    servers = ctx.master.addons.get("proxyserver").servers
    chosen = [server for server in servers if mode in ("", server.mode.type_name)]
    found = [address[:2] for server in chosen for address in server.listen_addrs]
    if not mode and "web_port" in ctx.options:
        found.append((ctx.options.web_host, ctx.options.web_port))
    return found


def _abort(data: ServerConnectionHookData) -> None:
    """Break a connection to a server off; an error that a hook sets then has no effect."""
    with suppress(AttributeError, KeyError):
        handler = ctx.master.addons.get("proxyserver").connections[data.client.id]
        writer = handler.transports[data.server].writer
        if isinstance(writer, asyncio.StreamWriter):
            writer.transport.abort()
        else:
            writer.close()  # UDP


def _name(client: Client) -> str:
    # Of a recorded flow the address is what its file says.
    return printable(client.peername[0]) if client.peername else "unknown client"


def _has_body(request: http.Request) -> bool:
    if "content-length" in request.headers:
        length: str = request.headers["content-length"]
        return length.strip() != "0"
    # HTTP/2 needs no header to announce a body.
    return "transfer-encoding" in request.headers or request.is_http2


def _save_unknown(spool: Spool, flow: http.HTTPFlow) -> Path:
    """Save a copy of a flow to unknown/, without credentials. Blocks."""
    request = flow.request
    fields = credentials.hide_in_headers(_fields(request.headers))
    request.headers = http.Headers(
        [(name.encode(*_AS_BYTES), value.encode(*_AS_BYTES)) for name, value in fields]
    )
    request.path = credentials.hide_in_url(request.path)
    request.raw_content = credentials.hide_in_body(request.raw_content or b"")
    written = io.BytesIO()
    FlowWriter(written).add(flow)
    return spool.keep_unknown(written.getvalue())


def _describe_request(request: http.Request) -> str:
    """The method and URL of a request for the log, without credentials."""
    url = credentials.hide_in_url(request.pretty_url[: 2 * MAX_URL])
    return f"{printable(request.method, MAX_METHOD)} {printable(url, MAX_URL)}"


def _restore(request: http.Request, exchange: Exchange) -> None:
    """Let the flow show where the camera wanted to go."""
    if exchange.destination:
        request.data.host, request.data.port, request.scheme = exchange.destination
        exchange.destination = None


def _response(reply: Reply, method: str) -> http.Response:
    now = time.time()
    return http.Response(
        http_version=b"HTTP/1.1",
        status_code=reply.status,
        reason=(reply.reason or status_codes.RESPONSES.get(reply.status, "")).encode(),
        headers=http.Headers([(k.encode(), v.encode()) for k, v in reply.fields(now)]),
        content=b"" if method == "HEAD" else reply.body,
        trailers=None,
        timestamp_start=now,
        timestamp_end=now,
    )


def _seen(flow: http.HTTPFlow) -> RecordedRequest:
    """A flow without mitmproxy."""
    request, response = flow.request, flow.response
    answered = None
    if response:
        headers = _fields(response.headers)
        answered = RecordedResponse(
            response.status_code, response.reason, headers, response.raw_content
        )
    return RecordedRequest(
        method=request.method,
        host=endpoints.bare_host(request.pretty_host),
        path=request.path,
        headers=_fields(request.headers),
        body=request.raw_content,
        version=request.http_version,
        client=_name(flow.client_conn),
        at=request.timestamp_start,
        answered=answered,
    )


def _fields(headers: http.Headers) -> tuple[tuple[str, str], ...]:
    """Headers as they were spelled, each time they were there."""
    return tuple((name, value) for name, value in headers.items(multi=True))


def _describe_recorded(seen: RecordedRequest) -> str:
    """A request that was read from a file, in one line."""
    url = credentials.hide_in_url(f"http://{seen.host}{seen.path}"[: 2 * MAX_URL])
    what = f"{printable(seen.method, MAX_METHOD)} {printable(url, MAX_URL)}"
    if show.title(seen) != show.EMAIL:
        status = f", answered {seen.answered.status}" if seen.answered else ""
        return f"{what}: {show.title(seen)}{status}"
    if not seen.body:
        return f"{what}: an upload whose body is not in this flow"
    try:
        upload = nxparse.read(seen.body, seen.header("content-type"))
    except ValueError as error:
        return f"{what}: an upload that cannot be read: {printable(str(error), MAX_URL)}"
    return f"{what}: an upload {describe_upload(upload)}"


def _outcome(exchange: Exchange, title: str) -> tuple[str, str]:
    """What became of a request, as in MARKS, and a few words more."""
    reply, result = exchange.reply or FAILED, exchange.result
    if reply is FAILED:
        return "failed", title
    if exchange.unknown:
        return "unknown", f"{title}, answered {reply.status}"
    if reply.status >= 400:
        return "refused", f"{title}: {reply.remark}"
    if result and result.accepted:
        return ("repeated" if result.is_duplicate else "received"), result.message
    return "answered", title


def _camera_view(addon: NxAddon) -> Any:
    """The content view for what cameras send, and for the replies to it."""

    class CameraView(contentviews.Contentview):
        """What cameras upload and ask for, and the replies, for people to read."""

        name = "Samsung camera"
        syntax_highlight = "none"

        def prettify(self, data: bytes, metadata: contentviews.Metadata) -> str:
            flow = metadata.flow
            assert isinstance(flow, http.HTTPFlow)
            seen = _seen(flow)
            is_reply = metadata.http_message is flow.response
            text = show.reply(seen) if is_reply else show.request(replace(seen, body=data))
            if text is None:
                raise ValueError("there is nothing of a Samsung camera in it")
            return text

        def render_priority(self, data: bytes, metadata: contentviews.Metadata) -> float:
            flow = metadata.flow
            if not data or not isinstance(flow, http.HTTPFlow) or not addon._is_ours(flow):
                return -1
            is_reply = metadata.http_message is flow.response
            known = show.has_secrets if is_reply else show.is_readable
            return 2 if known(_seen(flow)) else -1

    return CameraView()


def _label(flow: http.HTTPFlow, exchange: Exchange) -> None:
    """Mark and comment a flow for whoever looks at it. Never raises: the reply comes first."""
    try:
        _mark(flow, *_outcome(exchange, show.title(_seen(flow))))
    except Exception:
        logger.exception("cannot comment a flow")


def _mark(flow: http.HTTPFlow, outcome: str, words: str) -> None:
    flow.marked = MARKS[outcome]
    flow.comment = printable(f"{outcome}: {words}", MAX_URL)


def _write_report(flows: Sequence[flow.Flow], path: Path) -> None:
    # Few want a report, and everybody would wait for this at the start.
    from nxparse.inspect import report

    seen = [_seen(one) for one in flows if isinstance(one, http.HTTPFlow)]
    asked = [
        RecordedQuestion(
            question.name,
            dns.types.to_str(question.type),
            _name(one.client_conn),
            one.timestamp_created,
        )
        for one in flows
        if isinstance(one, dns.DNSFlow)
        for question in one.request.questions
    ]
    maker = f"nx_addon in mitmproxy {version.VERSION}"
    try:
        path.write_text(report.markdown(seen, asked, version=maker), "utf-8")
    except OSError as error:
        raise exceptions.CommandError(error_reason(error)) from error
    logger.log(ALERT, f"a report of {len(seen)} requests is in {path}; read it before you share it")


def _somebody_looks() -> bool:
    """Is there anybody who could see the body of a flow?"""
    options = ctx.options
    detail = options.flow_detail if "flow_detail" in options else 0
    interactive = ctx.master.addons.get("view") is not None
    return bool(interactive or options.save_stream_file or options.hardump or detail >= 3)


def _transport(client: Client) -> Any:
    """Reader and writer of a client, from where mitmproxy keeps them: no public interface."""
    try:
        return ctx.master.addons.get("proxyserver").connections[client.id].transports[client]
    except (AttributeError, KeyError):
        if client.transport_protocol == "tcp":
            logger.warning(
                "this mitmproxy keeps its connections where nx_addon does not find them: "
                "replies may leave in two segments, and cut uploads may lose their end"
            )
        return None


def _let_scripts_answer_dns_first() -> None:
    """In mitmproxy 11 the resolver comes before scripts, and waits for servers that are dead."""
    chain = ctx.master.addons.chain
    resolver = ctx.master.addons.get("dnsresolver")
    if resolver in chain:
        chain.remove(resolver)
        chain.append(resolver)


def _show_comments() -> None:
    """In mitmweb's list, unless somebody has chosen its columns."""
    options = ctx.options
    if "web_columns" in options and options.web_columns == options.default("web_columns"):
        options.web_columns = [*options.web_columns, "comment"]


def _never_wait_for_stdout() -> None:
    """Let a thread write what mitmdump and mitmweb print; see `LogStream`."""
    handlers = [one for one in logging.getLogger().handlers if isinstance(one, TermLogHandler)]
    own = [one for one in handlers if one.file is sys.stdout]
    if not own or (os.name == "nt" and sys.stdout.isatty()):  # a console there takes no bytes
        return
    with suppress(OSError):
        sys.stdout.flush()
    stream = LogStream(sys.stdout.fileno())
    atexit.register(stream.drain, LAST_LINES)
    for handler in own:
        handler.file = stream  # type: ignore[assignment]
    if dumper := ctx.master.addons.get("dumper"):
        dumper.outfp = stream


def _on_interrupt(act: Callable[[], None]) -> None:
    """Act on the next SIGINT or SIGTERM, if mitmproxy ends because of one."""
    loop = asyncio.get_running_loop()
    if ctx.master.should_exit.is_set():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(act))


class _PortAdvice(logging.Handler):
    """While mitmproxy starts: when it cannot have a port, tell what to do."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR and (told := advice.explained(record.getMessage())):
            logger.error(told)


def _listening(given: config.Config) -> advice.Listening:
    sudo = ["sudo"] if hasattr(os, "geteuid") and os.geteuid() else []
    ports: dict[str, list[int]] = {}
    for server in ctx.master.addons.get("proxyserver").servers:
        for address in server.listen_addrs:
            ports.setdefault(server.mode.type_name, []).append(address[1])
    return advice.Listening(
        regular=ports.get("regular", []),
        transparent=ports.get("transparent", []),
        dns=ports.get("dns", []),
        addresses=[str(one) for one in ([given.dns] if given.dns else network.addresses())],
        command=shlex.join([*sudo, sys.argv[0], "-s", *ctx.options.scripts[:1]]),
    )


addons = [NxAddon()]

"""Brings the Wi-Fi upload of Samsung's cameras back to life, inside mitmproxy.

    mitmdump -s nx_addon.py

The cameras' hosts are answered here; nothing for them ever goes upstream. What
happens to a request for one of them, hook by hook:

    client_connected   the client's reader and writer are wrapped (nxparse.proxy.transport)
    requestheaders     endpoints.find says who answers; a body is streamed into a
                       receiver, with a drain in the place of the server
    request            the body is whole: the receiver decides, in a thread
    response           our reply takes the place of the drain's, in one segment
    error              the body was cut: what came of it goes into quarantine

mitmproxy forwards a request whose hook raises. So each hook for our hosts
catches everything and answers 500, and `server_connect` refuses connections to
our hosts, whatever made mitmproxy want them.

This is the only module that imports mitmproxy.
"""

import asyncio
import io
import logging
import os
import shlex
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mitmproxy import command, contentviews, ctx, dns, exceptions, flow, http, types, version
from mitmproxy.addonmanager import Loader
from mitmproxy.connection import Client
from mitmproxy.io import FlowWriter
from mitmproxy.log import ALERT
from mitmproxy.net.http import status_codes
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

import nxparse
from nxparse import config
from nxparse.deliver import targets
from nxparse.deliver.outbox import Outbox, describe_waiting
from nxparse.deliver.save import describe_saved, store
from nxparse.inspect import show
from nxparse.inspect.recorded import RecordedRequest, RecordedResponse
from nxparse.proxy import advice, network
from nxparse.proxy.transport import Drain, HeldReader, OneSegmentWriter, Pending
from nxparse.proxy.unknown_hosts import UnknownHosts
from nxparse.server import endpoints, social
from nxparse.server.endpoints import Call, Service
from nxparse.server.gateway import Gateway, rehearsed
from nxparse.server.hotspot import Family, PortalState
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
from nxparse.store.spool import Spool
from nxparse.text import describe_disk_error, describe_upload, error_reason, printable

FAILED = refusal(500, "nx_addon has failed, see its log")
NOT_READY = refusal(503, "nx_addon is starting, or ending")
MAX_URL = 200  # characters of it in a line
STORAGE_THREADS = 32  # uploads that may wait for the disk at the same moment
REPLY_WATCH = 30.0  # seconds until it must be known whether a reply has arrived
STOP_TIMEOUT = 10.0  # seconds that the delivery at hand may take to end
ENDING = 0.2  # seconds that connections get to end
DNS_TTL = 60  # seconds; a camera that moves to another network should forget us
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
    answer: Reply | Call = FAILED
    receiver: Receiver | Collector | None = None
    result: Result | None = None
    drain: Drain | None = None
    # Where the camera wanted to go, while the request leads to the drain.
    destination: tuple[str, int, str] | None = None
    reply: Reply | None = None
    # Asked of a host of ours, but not in the map of the protocol.
    unknown: bool = False


class NxAddon:
    """The addon: mitmproxy's hooks, in the order in which they are called."""

    def __init__(self) -> None:
        self.config: config.Config | None = None
        self.hosts = endpoints.Hosts()
        self.turns = PortalState()
        self.strangers = UnknownHosts()
        self.spool: Spool | None = None
        self.sessions: Sessions | None = None
        self.gateway: Gateway | None = None
        self.outbox: Outbox | None = None
        # Our own, so that a slow disk does not hold up name resolution in asyncio's.
        self.storage = ThreadPoolExecutor(STORAGE_THREADS, "storage")
        self.started = False
        self.ended = False
        self.read: list[http.HTTPFlow] = []  # from a file, to be reported
        self.port_advice = _PortAdvice()
        self.exchanges: dict[str, Exchange] = {}  # by the id of the flow
        self.wrapped: dict[str, tuple[HeldReader, OneSegmentWriter]] = {}  # by that of the client

    # Start and stop

    def load(self, loader: Loader) -> None:
        for option in config.OPTIONS:
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

    def configure(self, updated: set[str]) -> None:
        names = [option.name for option in config.OPTIONS]
        if self.config and not updated.intersection(names):
            return
        try:
            parsed = config.parse({name: getattr(ctx.options, name) for name in names}, os.environ)
        except config.ConfigError as error:
            if self.started:
                raise exceptions.OptionsError(str(error)) from error
            # An exception at start would print a traceback; an ERROR ends it too.
            logger.error(str(error))
            return
        if self.spool and self.config and parsed.dir != self.config.dir:
            raise exceptions.OptionsError("nx_dir cannot be changed while uploads arrive: restart")
        self.config = parsed
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
        root = self.config.dir / ".nx"
        try:
            self.spool = Spool(root)
            self.sessions = Sessions(root / "sessions.sqlite3")
        except (OSError, sqlite3.Error) as error:
            logger.error(f"uploads cannot be kept: {describe_disk_error(error, self.config.dir)}")
            return
        for path in self.spool.recovered:
            logger.warning(
                f"an upload was cut when the last run ended: what came is kept as {path}"
            )
        self.gateway = Gateway(self.sessions, self.spool)
        self.outbox = Outbox(
            self.spool,
            lambda target: targets.deliver_to(self._configured(), os.environ, target),
            lambda *what: targets.keep(self._configured().dir, *what),
            retry_for=self.config.retry_for,
            clock=time.time,
        )
        self.outbox.start()
        for line in advice.lines(_listening(self.config)):
            logger.info(line)

    def done(self) -> asyncio.Future[None] | None:
        # Not async: mitmproxy does not wait for that when it reloads a script, and
        # then the spool must be free for the new one.
        logging.getLogger().removeHandler(self.port_advice)
        if self.config and self.config.report:
            self._report_read(self.config.report)
        for exchange in self.exchanges.values():
            if exchange.receiver and not exchange.pending.complete:
                exchange.receiver.abort("mitmproxy ends")
            if exchange.drain:
                exchange.drain.close()
            if exchange.client.id in self.wrapped:
                reader, writer = self.wrapped[exchange.client.id]
                reader.pending = None
                writer.transport.abort()
        # mitmproxy waits for what is returned here: meanwhile these connections end.
        ending = asyncio.ensure_future(asyncio.sleep(ENDING)) if self.exchanges else None
        self.exchanges.clear()
        self.ended = True
        spool, self.spool = self.spool, None
        # A delivery that does not end now is cut by the end of the process, and made again.
        if spool and self.outbox and self.outbox.stop(STOP_TIMEOUT):
            spool.close()
        self.storage.shutdown(wait=False)
        if self.sessions:
            self.sessions.close()
        return ending

    def _report_read(self, path: Path) -> None:
        # Whoever has never asked for a host of ours is no camera.
        cameras = {_name(one.client_conn) for one in self.read if self._is_ours(one)}
        flows = [one for one in self.read if _name(one.client_conn) in cameras]
        try:
            _write_report(flows, path)
        except exceptions.CommandError as error:
            logger.error(f"the report cannot be written: {error}")

    # A connection

    def client_connected(self, client: Client) -> None:
        io = _transport(client)
        if io and isinstance(io.reader, asyncio.StreamReader):
            io.reader, io.writer = HeldReader(io.reader), OneSegmentWriter(io.writer)
            self.wrapped[client.id] = io.reader, io.writer

    def client_disconnected(self, client: Client) -> None:
        self.wrapped.pop(client.id, None)

    def server_connect(self, data: ServerConnectionHookData) -> None:
        assert data.server.address
        host, port = data.server.address[:2]
        exchanges = [one for one in self.exchanges.values() if one.client.id == data.client.id]
        if any(one.drain and one.drain.address == (host, port) for one in exchanges):
            data.server.sockname = None  # the option connect_addr is not for the drain
        elif exchanges or host in self.hosts:
            data.server.error = "a Samsung host is answered here and never connected to"

    # A request

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        if not flow.live or flow.is_replay or flow.response:
            return
        if not self._is_ours(flow):
            self._stranger(flow.client_conn, flow.request.pretty_host, "HTTP")
            return
        if self.ended:  # to begin a stream is too late
            flow.response = _response(NOT_READY, flow.request.method)
            return
        self.strangers.seen(_name(flow.client_conn))
        exchange = self.exchanges[flow.id] = Exchange(flow.client_conn, Pending())
        if flow.client_conn.id in self.wrapped:
            self.wrapped[flow.client_conn.id][0].pending = exchange.pending
        try:
            exchange.answer = self._answer(flow.request, exchange.client)
            exchange.unknown = self._is_unknown(flow.request, exchange.answer)
            if _has_body(flow.request):
                await self._stream(flow.request, exchange)
        except Exception:
            logger.exception("cannot take a request")
            exchange.reply = FAILED

    async def request(self, flow: http.HTTPFlow) -> None:
        exchange = self.exchanges.get(flow.id)
        if exchange is None:
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
        _restore(flow.request, exchange)
        _label(flow, exchange)
        if exchange.drain:
            exchange.drain.release()
        else:
            flow.response = _response(exchange.reply, flow.request.method)

    async def response(self, flow: http.HTTPFlow) -> None:
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
                writer.watch_reply(partial(self._reply_watched, exchange))
        else:
            self._reply_watched(exchange, True)
        exchange.pending.answered.set()
        # Not before: deliveries would compete with the reply.
        if self.outbox and exchange.receiver:
            self.outbox.wake()

    async def error(self, flow: http.HTTPFlow) -> None:
        exchange = self.exchanges.pop(flow.id, None)
        if exchange is None:
            return
        _restore(flow.request, exchange)
        if exchange.drain:
            exchange.drain.close()
        if not exchange.pending.complete:
            reason = exchange.pending.end or (flow.error.msg if flow.error else "no reason given")
            flow.request.raw_content = await self._abandon(exchange, reason)
            _mark(flow, "cut", f"after {exchange.pending.received} bytes, {reason}")
        else:
            self._reply_watched(exchange, False)
        exchange.pending.answered.set()
        if self.outbox:
            self.outbox.wake()

    # DNS

    def dns_request(self, flow: dns.DNSFlow) -> None:
        question = flow.request.question
        if not flow.live or question is None:
            return
        if not self.hosts.resolves(question.name):
            if question.type == dns.types.A:
                self._stranger(flow.client_conn, question.name, "DNS")
            return
        self.strangers.seen(_name(flow.client_conn))
        if flow.request.op_code != dns.op_codes.QUERY or question.class_ != dns.classes.IN:
            return
        records = []
        if question.type == dns.types.A and flow.client_conn.peername:
            given = self.config.dns if self.config else None
            address = given or network.facing(flow.client_conn.peername[0])
            if address:
                records.append(dns.ResourceRecord.A(question.name, address, ttl=DNS_TTL))
        # AAAA and HTTPS get an empty answer: the name exists, but not as that.
        flow.response = flow.request.succeed(records)

    # Commands

    @command.command("nx.outbox")
    def show_outbox(self) -> str:
        """What waits to be delivered: since when, why, and when it is tried next."""
        text = describe_waiting(self._spool().waiting(), time.time())
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

    def _is_ours(self, flow: http.HTTPFlow) -> bool:
        request = flow.request
        for host in (request.host, request.host_header or ""):
            if host in self.hosts or endpoints.is_check(request.method, host, request.path):
                return True
        if not endpoints.known(request.method, request.path) or not flow.client_conn.sockname:
            return False
        # No name of ours, but a request to this machine that we know how to answer.
        ports = (80, flow.client_conn.sockname[1])
        return request.port in ports and network.is_local(endpoints.bare_host(request.pretty_host))

    def _found(self, request: http.Request) -> endpoints.Answer:
        names = [endpoints.bare_host(name) for name in (request.host, request.pretty_host)]
        ours = next((name for name in names if name in self.hosts), names[-1])
        return endpoints.find(request.method, ours, request.path)

    def _is_unknown(self, request: http.Request, answer: Reply | Call) -> bool:
        """Is this something that a new model may want, and that gets no useful answer?"""
        if isinstance(answer, Reply):
            return answer.status in (404, 405)
        if answer.service is Service.PAGE:
            host = endpoints.bare_host(request.pretty_host)
            return host in self.hosts and host not in endpoints.SAMSUNG_HOSTS
        return answer.service in endpoints.UNSOLVED

    async def _keep_unknown(self, flow: http.HTTPFlow) -> None:
        told = f"{flow.request.method} {printable(flow.request.pretty_url, MAX_URL)}"
        try:
            copy = flow.copy()
            copy.request.raw_content = social.without_secrets(flow.request.raw_content or b"")
            written = io.BytesIO()
            FlowWriter(written).add(copy)
            path = await self._in_storage(self._spool().keep_unknown, written.getvalue())
        except Exception as error:
            kept = f"it cannot be kept: {error_reason(error)}"
        else:
            kept = f"it is kept as {path}"
        if not _somebody_looks():
            flow.request.raw_content = None
        logger.warning(f"{_name(flow.client_conn)}: asks for what nobody knows: {told}; {kept}")

    def _stranger(self, client: Client, name: str, how: str) -> None:
        if told := self.strangers.asked(_name(client), endpoints.bare_host(name), how):
            logger.info(told)

    def _answer(self, request: http.Request, client: Client) -> Reply | Call:
        """The answer to a camera, which may depend on what it has been told before."""
        found = self._found(request)
        if isinstance(found, Family):
            return self.turns.answer(_name(client), found)
        if isinstance(found, Call) and found.service not in endpoints.PAGES:
            self.turns.passed(_name(client))
        return found

    async def _stream(self, request: http.Request, exchange: Exchange) -> None:
        """Let the body of this request come in without being kept in memory."""
        exchange.drain = Drain(exchange.pending)
        exchange.destination = request.data.host, request.data.port, request.scheme
        request.data.host, request.data.port = await exchange.drain.open()
        request.scheme = "http"
        request.stream = partial(self._take, exchange)
        await self._begin(request, exchange)

    async def _begin(self, request: http.Request, exchange: Exchange) -> None:
        """Get ready for the body of a request, even if it is none."""
        call = exchange.answer
        if isinstance(call, Reply):
            if exchange.unknown and self.config:
                exchange.receiver = Collector(
                    _name(exchange.client), lambda _: call, self.config.inspect
                )
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
        if call.service in endpoints.UPLOADS and not spool.is_in_place():
            with suppress(OSError, sqlite3.Error):  # the receiver finds out
                await self._in_storage(spool.reopen)
        if call.service is Service.EMAIL:
            # This creates a file, which is no slower than to write to it.
            exchange.receiver = EmailReceiver(spool, given, announced, inspect=inspect).open()
        elif call.service is Service.FILE:
            search = partial(self.gateway.announced, given, client, call.argument)
            file = await self._in_storage(search)
            if isinstance(file, Reply):
                exchange.reply = file
            else:
                receiver = FileReceiver(spool, given, announced, file, inspect=inspect)
                exchange.receiver = await self._in_storage(receiver.open)
        else:
            answer = partial(self.gateway.answer, given, client, call)
            exchange.receiver = Collector(client, answer)

    def _take(self, exchange: Exchange, chunk: bytes) -> list[bytes]:
        """Take a chunk of a body. Must not raise: mitmproxy would let the client hang."""
        exchange.pending.received += len(chunk)
        try:
            if chunk and exchange.receiver and exchange.reply is None:
                exchange.receiver.feed(chunk)
            limit = HOPELESS * self.config.max_upload if self.config else 0
            if exchange.pending.received > limit:
                logger.warning(f"{_name(exchange.client)}: sends without end, is cut off")
                self.wrapped[exchange.client.id][1].transport.abort()
        except Exception:
            logger.exception("cannot take a chunk of a body")
            exchange.reply = FAILED
        return []

    async def _decide(self, request: http.Request, exchange: Exchange) -> Reply:
        answer, receiver = exchange.answer, exchange.receiver
        if isinstance(answer, Reply) and receiver is None:
            return answer
        if receiver is None and isinstance(answer, Call) and answer.service in endpoints.UPLOADS:
            logger.warning(f"{_name(exchange.client)}: an upload is refused: it is empty")
            return refusal(400, "The upload is empty")
        if receiver is None:
            await self._begin(request, exchange)
            receiver = exchange.receiver
        if receiver is None:
            return exchange.reply or FAILED
        result = await self._in_storage(receiver.finish)
        while result.waits_for:
            # This does not cancel what is waited for, as wait_for would.
            watched = asyncio.wrap_future(result.waits_for)
            await asyncio.wait([watched], timeout=REPLY_WATCH)
            if not watched.done() and self.spool:
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
        if not self._is_ours(flow):
            return
        answer = self._found(flow.request)
        if not flow.live:
            logger.info(f"{_name(flow.client_conn)}: {_told(_seen(flow))}")
        elif not flow.response:
            match answer:
                case Reply():
                    reply = answer
                case Family():
                    reply = answer.redirect
                case Call():
                    reply = rehearsed(answer, time.time())
            flow.response = _response(reply, flow.request.method)

    def _reply_watched(self, exchange: Exchange, arrived: bool) -> None:
        """It is known now whether the reply to an upload has arrived."""
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
        """Give an upload up. Returns what has arrived of it, if it is to be inspected."""
        if exchange.receiver:
            try:
                return await self._in_storage(exchange.receiver.abort, reason)
            except Exception:
                logger.exception("cannot store what has arrived of an upload")
        return None

    async def _in_storage(self, work: Callable[..., T], *values: Any) -> T:
        """Call what waits for the disk, in a thread of ours."""
        return await asyncio.get_running_loop().run_in_executor(self.storage, work, *values)

    def _configured(self) -> config.Config:
        assert self.config
        return self.config


def _name(client: Client) -> str:
    return client.peername[0] if client.peername else "somebody"


def _has_body(request: http.Request) -> bool:
    length = request.headers.get("content-length")
    if length is not None:
        return length.strip() != "0"
    # HTTP/2 needs no header to announce a body.
    return "transfer-encoding" in request.headers or request.is_http2


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


def _told(seen: RecordedRequest) -> str:
    """A request that was read from a file, in one line."""
    what = f"{seen.method} {printable(f'http://{seen.host}{seen.path}', MAX_URL)}"
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
            seen = _seen(metadata.flow)
            is_reply = metadata.http_message is metadata.flow.response
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
    try:
        path.write_text(report.markdown(seen, version=f"mitmproxy {version.VERSION}"), "utf-8")
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

"""Brings the Wi-Fi upload of Samsung's cameras back to life: mitmdump -s nx_addon.py

The cameras' hosts are answered here; nothing for them ever goes upstream. This is the only
module that imports mitmproxy. Its addons are `Lifecycle` (options, start and stop),
`Connections`, `NameServer` (DNS), `Uploads` and `Inspection` (commands, view, report).
They share one `State`.
"""

import asyncio
import io
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http.client import responses
from pathlib import Path
from typing import Any

from mitmproxy import command, contentviews, ctx, dns, exceptions, flow, http, types, version
from mitmproxy.addonmanager import Loader
from mitmproxy.connection import Client
from mitmproxy.io import FlowWriter
from mitmproxy.log import ALERT
from mitmproxy.proxy.layer import NextLayer
from mitmproxy.proxy.layers import HttpLayer
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

import nxparse
from nxparse import config
from nxparse.deliver.outbox import describe_waiting
from nxparse.deliver.save import describe_saved, store
from nxparse.inspect import show
from nxparse.inspect.recorded import RecordedQuestion
from nxparse.inspect.show import describe_recorded, describe_request
from nxparse.proxy import adapter, internals, limits, network
from nxparse.proxy.destination import INSIDE, describe_refused, refuses_connection
from nxparse.proxy.dns import ForeignQueries
from nxparse.proxy.exchange import FAILED, Exchange
from nxparse.proxy.file_requests import send_file
from nxparse.proxy.state import State
from nxparse.proxy.transport import Stage, Times
from nxparse.server.backend import Backend, open_backend
from nxparse.server.endpoints import Endpoint
from nxparse.server.reply import Reply, refusal
from nxparse.server.services import simulated
from nxparse.text import error_reason, format_count, printable

NOT_READY = refusal(503, "nx_addon is starting or stopping")
DNS_TTL = 60  # seconds; short, because a camera may move to another network
END_PAUSE = 0.2  # seconds for connections to end
STOP_TIMEOUT = 10.0  # seconds for running deliveries to end
PROXY_LOGGER = logging.getLogger("mitmproxy.proxy.server")

IS_MITMPROXY_11 = not hasattr(contentviews, "Contentview")

logger = logging.getLogger("nx_addon")


class Addon:
    """The base of the addons below."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.name = f"nx_{type(self).__name__.lower()}"  # unique among mitmproxy's addons


class Lifecycle(Addon):
    """Parses the options, opens the backend, and closes it without losing an upload."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.started = False
        self.is_valid = True  # whether the values of all options are

    def load(self, loader: Loader) -> None:
        for option in config.OPTIONS:
            self.is_valid &= internals.convert_deferred(ctx.options, option)
            loader.add_option(option.name, option.kind, option.default, option.help)
        internals.write_stdout_in_thread(ctx.master)
        # With "eager", mitmproxy would first connect to servers that no longer exist.
        ctx.options.connection_strategy = "lazy"
        # Kept, because the signal of mitmproxy refers to it weakly.
        self.port_advice = internals.PortAdvice(ctx.master)

    def configure(self, updated: set[str]) -> None:
        if not self.is_valid or not any(name.startswith("nx_") for name in updated):
            return
        try:
            self.state.configure(ctx.options, os.environ)
        except config.ConfigError as error:
            if self.started:
                raise exceptions.OptionsError(str(error)) from error
            # An exception would print a traceback; mitmproxy also exits after an ERROR at startup.
            logger.error(str(error))

    def running(self) -> None:
        self.started = True
        internals.warn_about_unknown(ctx.options)
        state = self.state
        if not state.config or not ctx.options.server:  # -n
            return
        limits.limit_accept_errors()
        try:
            state.server.open()
        except OSError as error:  # without lo, for example
            logger.error(f"uploads cannot be received: {error_reason(error)}")
            return
        state.backend = open_backend(state.config)
        if state.backend:
            state.backend.outbox.start()
            state.backend.check_smarthost()
            logger.info(f"nx_addon {nxparse.__version__} in mitmproxy {version.VERSION}")
            internals.log_set_up(ctx.master, state.config)

    def done(self) -> asyncio.Future[None] | None:
        # Not async: on a reload, mitmproxy drops a script with an async `done`. When it
        # ends, it awaits the returned future.
        backend, self.state.backend = self.state.backend, None
        is_awaited = self.state.end_exchanges("mitmproxy ends")
        self.state.server.close()
        if not backend:
            return None
        backend.hand_over()
        on_interrupt = partial(internals.on_interrupt, ctx.master)
        pause = END_PAUSE if is_awaited else 0
        return asyncio.ensure_future(backend.end(on_interrupt, STOP_TIMEOUT, pause))


class Connections(Addon):
    """Wraps the connections of clients, and refuses connections to this machine."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.clients = state.clients
        self.limit = limits.ConnectionLimit()

    def running(self) -> None:
        self.limit.most = limits.connections_allowed(limits.raise_descriptor_limit())
        PROXY_LOGGER.addFilter(self.shows)

    def done(self) -> None:
        PROXY_LOGGER.removeFilter(self.shows)
        self.clients.abort_pending()

    def shows(self, record: logging.LogRecord) -> bool:
        """Return whether to log a record of mitmproxy.

        Records about our loopback server would confuse users. Of a request head that was
        refused, mitmproxy would log every byte.
        """
        message = record.getMessage()
        if message.startswith("Client closed connection before completing request headers: "):
            return not self.clients.has_refused_head(getattr(record, "client", None))
        host, port = self.state.server.address or ("", 0)
        return message not in (
            f"server connect {host}:{port}",
            f"server disconnect {host}:{port}",
            f"Streaming request to {host}.",
            f"Streaming response from {host}.",
        )

    def client_connected(self, client: Client) -> None:
        if client.transport_protocol != "tcp":
            return
        if self.limit.opened(adapter.address(client)):
            self.clients.wrap(client, internals.streams(ctx.master, client))
        else:
            client.error = "too many connections"

    def client_disconnected(self, client: Client) -> None:
        if client.transport_protocol == "tcp":
            self.limit.closed(adapter.address(client))
            self.clients.remove(client)

    def next_layer(self, data: NextLayer) -> None:
        # mitmproxy decides after this hook.
        asyncio.get_running_loop().call_soon(self._protocol_chosen, data)

    def _protocol_chosen(self, data: NextLayer) -> None:
        """Apply the limits of request heads only if mitmproxy has detected HTTP/1."""
        client = data.context.client
        if data.layer is not None:
            is_http = isinstance(data.context.layers[-1], HttpLayer) and client.alpn != b"h2"
            self.clients.enter(client, Stage.HEAD if is_http else Stage.CONTENT)

    async def http_connect(self, flow: http.HTTPFlow) -> None:
        self.state.clients.notice(flow, Stage.CONTENT)
        if reason := await self.state.destinations.refuse_tunnel(flow):
            logger.warning(f"{adapter.address(flow.client_conn)}: CONNECT is refused: {reason}")
            flow.response = _response(INSIDE, flow.request.method)

    def server_connect(self, data: ServerConnectionHookData) -> None:
        address = data.server.address
        assert address
        if address[:2] == self.state.server.address:
            data.server.sockname = None  # the option connect_addr is for other servers
        elif self.state.has_exchange(data.client) or address[0] in self.state.destinations.hosts:
            data.server.error = "one of our hosts is answered here and never connected to"
        elif self._refuses(data.client, address, address[0]):
            data.server.error = describe_refused(address[0])

    def server_connected(self, data: ServerConnectionHookData) -> None:
        client, address, peer = data.client, data.server.address, data.server.peername
        if not address or not peer or address[:2] == self.state.server.address:
            return
        # Only now is it certain which address the name resolved to.
        if self._refuses(client, address, peer[0]):
            reason = describe_refused(address[0], peer[0])
            logger.warning(
                f"{adapter.address(client)}: connection to port {peer[1]} aborted: {reason}"
            )
            internals.abort_connection(ctx.master, client, data.server)

    def server_disconnected(self, data: ServerConnectionHookData) -> None:
        # mitmproxy 12 leaves it open if it was cancelled inside an event (HTTP/2).
        if data.server.address and data.server.address[:2] == self.state.server.address:
            internals.abort_connection(ctx.master, data.client, data.server)

    def _refuses(self, client: Client, address: tuple[Any, ...], host: str) -> bool:
        """Return whether not to connect to a host, which is named in `address` or has resolved."""
        named = adapter.named_by_mode(client) == address[:2] or client.proxy_mode.type_name == "dns"
        listening = partial(internals.listening, ctx.master)
        return refuses_connection(host, address[1], named=named, listening=listening)


class NameServer(Addon):
    """Answers DNS queries for our hosts, and limits the number of others."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.queries = ForeignQueries()

    def running(self) -> None:
        internals.answer_dns_before_resolver(ctx.master)
        self._find_loop()

    def dns_request(self, flow: dns.DNSFlow) -> None:
        if self.state.wants_report and not flow.live:
            self.state.loaded.append(flow)
        if self.state.wants_report or flow.live:
            self.state.note_question(flow, dns.types.A)
        if not flow.live or flow.response:
            return
        if (records := self._records(flow)) is not None:
            flow.response = flow.request.succeed(records)
        elif self._refuse_query(flow):
            flow.response = flow.request.fail(dns.response_codes.SERVFAIL)

    def dns_response(self, flow: dns.DNSFlow) -> None:
        self.queries.end(flow.id)

    dns_error = dns_response

    def _records(self, flow: dns.DNSFlow) -> list[dns.ResourceRecord] | None:
        """Return the answer to a question for one of our hosts; None for others."""
        question, peer = flow.request.question, flow.client_conn.peername
        if question is None or not self.state.destinations.hosts.resolves(question.name):
            return None
        kind = flow.request.op_code, question.class_, question.type
        # AAAA and HTTPS get an empty answer: the name exists, without such a record.
        if kind != (dns.op_codes.QUERY, dns.classes.IN, dns.types.A) or not peer:
            return []
        given = self.state.config.dns if self.state.config else None
        address = given or network.facing(peer[0])
        return [dns.ResourceRecord.A(question.name, address, ttl=DNS_TTL)] if address else []

    def _refuse_query(self, flow: dns.DNSFlow) -> bool:
        """Count a query; return whether to refuse it: it would loop, or too many are in flight."""
        if flow.client_conn.proxy_mode.type_name == "dns" and self._find_loop():
            return True
        question = flow.request.question
        name, kind = (question.name, question.type) if question else ("", 0)
        return not self.queries.begin(flow.id, name, kind)

    def _find_loop(self) -> bool:
        listening = internals.listening(ctx.master, "dns")
        return self.queries.find_loop(internals.name_servers(ctx.master), listening)


class Uploads(Addon):
    """Answers the requests for our hosts.

    `requestheaders` chooses the endpoint. A body is streamed to a receiver, with our own
    server as the destination. In `request` it is complete: the receiver accepts or refuses
    it. `response` replaces that server's reply by ours; after `error`, the part that
    arrived goes to quarantine. mitmproxy forwards a request whose hook raises, so these
    hooks answer 500 if our code fails.
    """

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        self.state.clients.notice(flow, Stage.CONTENT)
        if not flow.live or flow.response:
            return
        if flow.error:  # mitmproxy answers 400
            address = adapter.address(flow.client_conn)
            reason = printable(flow.error.msg, adapter.MAX_COMMENT)
            logger.warning(f"{address}: malformed request refused: {reason}")
            return
        try:
            await self._begin(flow)
        except Exception:
            logger.exception("cannot handle a request")
            if flow.id in self.state.exchanges:
                self.state.exchanges[flow.id].reply = FAILED
            else:
                flow.response = _response(FAILED, flow.request.method)

    async def _begin(self, flow: http.HTTPFlow) -> None:
        """Choose the endpoint of a request, and stream its body to a receiver."""
        state, client, request = self.state, flow.client_conn, flow.request
        claim = await state.destinations.resolve(flow)
        if claim is None:
            state.note_foreign(flow)
            return
        if flow.is_replay:
            endpoint = claim.endpoint(request.method, request.path)
            flow.response = _response(simulated(endpoint, time.time()), request.method)
            return
        if not state.backend:  # starting or stopping
            flow.response = _response(NOT_READY, request.method)
            return
        endpoint, unknown = state.choose_endpoint(flow, claim)
        if endpoint.is_file and (request.is_http2 or not adapter.has_body(request)):
            await self._send_file(flow, state.backend, endpoint)
            return
        exchange = state.exchanges[flow.id] = Exchange(
            state.backend,
            client.id,
            adapter.body_info(flow),
            endpoint,
            unknown=unknown,
            inspect=state.backend.config.inspect if internals.is_inspected(ctx.master) else 0,
            too_long=partial(state.clients.abort, client),
        )
        state.clients.begin(client, exchange.pending)
        if adapter.has_body(request):
            state.server.redirect(flow, exchange.serve_loopback)
            request.stream = exchange.receive
            await exchange.begin()

    async def _send_file(self, flow: http.HTTPFlow, backend: Backend, endpoint: Endpoint) -> None:
        """Let our server send a saved file, or refuse the request."""
        request, address = flow.request, adapter.address(flow.client_conn)
        headers = adapter.fields(request.headers)
        reply = await backend.in_thread(
            backend.services.file, backend.config, address, endpoint, request.method, headers
        )
        if isinstance(reply, Reply):
            flow.response = _response(reply, request.method)
            return
        request.stream = lambda _: []  # discard a body, which HTTP/2 does not announce
        self.state.clients.begin(flow.client_conn, None)
        send = partial(send_file, reply, backend, self.state.clients, flow.client_conn)
        self.state.server.redirect(flow, send, unused=reply.file.close)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        if flow.id not in self.state.exchanges and self.state.server.restore(flow):
            assert flow.response
            flow.response.stream = True
            adapter.label(flow, "answered", "saved file")

    async def request(self, flow: http.HTTPFlow) -> None:
        self.state.clients.notice(flow, Stage.COMPLETE)
        exchange = self.state.exchanges.get(flow.id)
        if exchange is None:
            if not flow.live:
                self._note_loaded(flow)
            return
        reply = await exchange.finish()  # does not raise
        self.state.server.restore(flow)
        try:
            if exchange.result and exchange.result.body is not None:
                flow.request.raw_content = exchange.result.body
            adapter.label(flow, *exchange.outcome())
        except Exception:
            logger.exception("cannot label a flow")
        if not exchange.pending.chunks:  # it was not streamed
            flow.response = _response(reply, flow.request.method)

    async def response(self, flow: http.HTTPFlow) -> None:
        switched = flow.response and flow.response.status_code == 101
        self.state.clients.notice(flow, Stage.CONTENT if switched else Stage.HEAD)
        self.state.server.withdraw(flow)
        exchange = self.state.exchanges.pop(flow.id, None)
        if exchange is None:
            return
        try:
            await self._reply(flow, exchange)
        except Exception:
            logger.exception("cannot reply")
            flow.response = _response(FAILED, flow.request.method)
            self._settle_reply(exchange, False)
        exchange.pending.answered.set()
        # Only now: deliveries would delay the reply.
        if exchange.result:
            exchange.backend.outbox.wake()

    async def _reply(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """Replace the response of the loopback server by the reply, and watch its arrival."""
        flow.response = _response(exchange.reply or FAILED, flow.request.method)
        if exchange.unknown:
            await self._save_unknown(flow, exchange.backend)
        if exchange.result and exchange.result.accepted:
            self.state.unacknowledged.add(exchange)
            on_result = partial(self._settle_reply, exchange)
            self.state.clients.watch_reply(flow.client_conn, on_result)

    async def error(self, flow: http.HTTPFlow) -> None:
        self.state.clients.notice(flow, Stage.HEAD)
        self.state.server.withdraw(flow)
        exchange = self.state.exchanges.pop(flow.id, None)
        if exchange is None:
            return
        try:
            if exchange.pending.complete:
                exchange.settle_reply(False)
            else:
                given = flow.error.msg if flow.error else "the client disconnected"
                reason = exchange.pending.end_reason or given
                flow.request.raw_content = await exchange.cut(reason)
                adapter.label(flow, "cut", f"after {exchange.pending.received} bytes, {reason}")
        except Exception:
            logger.exception("cannot end a request")
        exchange.pending.answered.set()
        exchange.backend.outbox.wake()

    async def client_disconnected(self, client: Client) -> None:
        # mitmproxy forgets requests of HTTP/2 that wait for a connection to our server.
        for one in self.state.server.redirected(client):
            exchange = self.state.exchanges.get(one.id)
            if exchange is None or not exchange.pending.complete:
                await self.error(one)

    def _settle_reply(self, exchange: Exchange, arrived: bool) -> None:
        self.state.unacknowledged.discard(exchange)
        exchange.settle_reply(arrived)

    async def _save_unknown(self, flow: http.HTTPFlow, backend: Backend) -> None:
        request = flow.request
        try:
            path = await backend.in_thread(_save_flow, backend.spool.save_unknown, flow.copy())
            saved = f"saved to {path}"
        except Exception as error:
            saved = f"it cannot be saved: {error_reason(error)}"
        if not internals.is_inspected(ctx.master):
            request.raw_content = None  # to free the memory
        line = describe_request(request.method, request.pretty_url)
        logger.warning(f"{adapter.address(flow.client_conn)}: unknown request: {line}; {saved}")

    def _note_loaded(self, flow: http.HTTPFlow) -> None:
        """Keep a request from a file for the report; log it if it is for one of our hosts."""
        if self.state.wants_report:
            self.state.loaded.append(flow)
        if self.state.is_ours(flow):
            line = describe_recorded(adapter.recorded(flow))
            logger.info(f"{adapter.address(flow.client_conn)}: {line}")


class Inspection(Addon):
    """The commands, the content view, and the report."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.view: Any = CameraView(state)

    def load(self, loader: Loader) -> None:
        contentviews.add(self.view)

    def running(self) -> None:
        internals.show_comments(ctx.master)

    def done(self) -> None:
        if IS_MITMPROXY_11:  # it refuses a second view of this name
            contentviews.remove(self.view)
        if self.state.config and self.state.config.report:
            try:
                self.report(self.state.loaded_from_cameras(), str(self.state.config.report))
            except exceptions.CommandError as error:
                logger.error(f"the report cannot be written: {error}")

    @command.command("nx.outbox")
    def show_outbox(self) -> str:
        """List the pending deliveries: since when, why, and when the next try is."""
        backend = self._backend()
        in_progress = backend.outbox.in_progress()
        text = describe_waiting(backend.spool.waiting(), time.time(), in_progress)
        logger.log(ALERT, text)
        return text

    @command.command("nx.retry")
    def retry(self, id: str) -> None:
        """Retry the deliveries of an upload now."""
        backend = self._backend()
        if not backend.spool.retry_now(id):
            raise exceptions.CommandError(f"upload {id} has no pending deliveries: see nx.outbox")
        backend.outbox.wake()

    @command.command("nx.save")
    def save(self, flows: Sequence[flow.Flow], path: types.Path) -> None:
        """Save the files of the chosen uploads to a folder."""
        saved = []
        for one in flows:
            if isinstance(one, http.HTTPFlow):
                try:
                    upload = show.upload_in(adapter.recorded(one))
                    files = upload.files if upload else ()
                    saved += store(files, Path(path).expanduser(), one.id)
                except (OSError, ValueError) as error:
                    raise exceptions.CommandError(error_reason(error)) from error
        logger.log(ALERT, describe_saved(saved))

    @command.command("nx.report")
    def report(self, flows: Sequence[flow.Flow], path: types.Path) -> None:
        """Write a report of the chosen flows that can be shared: without private values."""
        # Not at the start: few users need a report, and the import is slow.
        from nxparse.inspect import report

        requests = [adapter.recorded(one) for one in flows if isinstance(one, http.HTTPFlow)]
        questions = [
            RecordedQuestion(
                question.name,
                dns.types.to_str(question.type),
                adapter.address(one.client_conn),
                one.timestamp_created,
            )
            for one in flows
            if isinstance(one, dns.DNSFlow)
            for question in one.request.questions
        ]
        text = report.markdown(requests, questions, version=f"mitmproxy {version.VERSION}")
        try:
            Path(path).expanduser().write_text(text, "utf-8")
        except OSError as error:
            raise exceptions.CommandError(error_reason(error)) from error
        count = format_count(len(requests), "request")
        hint = "" if requests else "; for those to other hosts, add --set nx_hosts=HOST"
        logger.log(ALERT, f"a report of {count} is in {path}; read it before you share it{hint}")

    def _backend(self) -> Backend:
        if not self.state.backend:
            raise exceptions.CommandError("uploads are not received by this mitmproxy")
        return self.state.backend


class CameraView(contentviews.View if IS_MITMPROXY_11 else contentviews.Contentview):  # type: ignore[misc]
    """A readable view of the cameras' requests and of the replies.

    mitmproxy 12 calls `prettify`, and mitmproxy 11 the object itself.
    """

    name = "Samsung camera"
    syntax_highlight = "none"

    def __init__(self, state: State) -> None:
        self.state = state

    def prettify(self, data: bytes, metadata: Any) -> str:
        return adapter.prettify(data, metadata.flow, metadata.http_message)

    def __call__(
        self, data: bytes, *, flow: Any = None, http_message: Any = None, **_: object
    ) -> tuple[str, Iterator[list[tuple[str, str]]]]:
        lines = adapter.prettify(data, flow, http_message).splitlines()
        return self.name, ([("text", line)] for line in lines)

    def render_priority(self, data: bytes, metadata: Any = None, **older: Any) -> float:
        flow = metadata.flow if metadata else older.get("flow")
        message = metadata.http_message if metadata else older.get("http_message")
        if not data or not isinstance(flow, http.HTTPFlow) or not self.state.is_ours(flow):
            return -1
        return 2 if adapter.is_readable(flow, message) else -1


def _response(reply: Reply, method: str) -> http.Response:
    """Return a reply as a response of mitmproxy. One to HEAD has all headers, but no body."""
    response = http.Response.make(reply.status)
    response.reason = reply.reason or responses.get(reply.status, "")
    fields = reply.fields(response.timestamp_start)
    response.headers = http.Headers([(name.encode(), value.encode()) for name, value in fields])
    response.raw_content = b"" if method == "HEAD" else reply.body
    return response


def _save_flow(save: Callable[[bytes], Path], flow: http.HTTPFlow) -> Path:
    """Save a copy of a flow, without credentials. Blocks."""
    adapter.hide_credentials(flow)
    written = io.BytesIO()
    FlowWriter(written).add(flow)
    return save(written.getvalue())


def make_addons(times: Times = Times()) -> list[Any]:
    """Return the addons in the order in which mitmproxy calls them."""
    state = State(times)
    # Lifecycle ends last: mitmproxy waits for its end before it calls the next one.
    return [kind(state) for kind in (Connections, NameServer, Uploads, Inspection, Lifecycle)]


addons = make_addons()

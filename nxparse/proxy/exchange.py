"""A request for one of our hosts, from its head to its reply.

The body goes to a receiver in chunks. When it is complete, the receiver accepts or
refuses it, in a thread because it waits for the disk. Once the reply to an upload is
written, its acknowledgement is watched: if the reply was lost, the camera sends the
upload again, and that is a duplicate.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from nxparse.proxy.transport import Pending
from nxparse.server.backend import Backend
from nxparse.server.endpoints import Endpoint, Service
from nxparse.server.receive import (
    ABORT_FACTOR,
    BodyInfo,
    EmailReceiver,
    FileReceiver,
    Receiver,
    Result,
)
from nxparse.server.reply import Reply, refusal
from nxparse.server.services import Collector

FAILED = refusal(500, "nx_addon has failed, see its log")
# The beginning of a photo sent to an unknown path is enough to recognise it.
MAX_UNKNOWN_BODY = 64 << 10  # bytes of a body that are saved to unknown/
# seconds that a repeated upload waits to learn whether the first reply arrived
REPLY_WATCH = 30.0
LOOPBACK_REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

logger = logging.getLogger(__name__)


class Exchange:
    """A request and its reply.

    `client_id` is that of the connection. `unknown` requests have no endpoint, or one
    with an unproven reply; they are saved to unknown/. A body of at most `inspect`
    bytes is read back to be shown in its flow. `too_long` is called when a body exceeds
    ABORT_FACTOR times nx_max_upload; it should end the connection.
    """

    def __init__(
        self,
        backend: Backend,
        client_id: str,
        info: BodyInfo,
        endpoint: Endpoint,
        *,
        unknown: bool = False,
        inspect: int = 0,
        too_long: Callable[[], None] = lambda: None,
    ) -> None:
        self.client_id = client_id
        self.pending = Pending()
        self.reply: Reply | None = None
        self.result: Result | None = None
        self.unknown = unknown
        self.backend = backend
        self._address = info.client
        self._info = info
        self._endpoint = endpoint
        self._inspect = inspect
        self._too_long = too_long
        self._receiver: Receiver | Collector | None = None
        self._ended = asyncio.Event()  # set when mitmproxy may get its answer
        # The chunks of one turn of the event loop, so that tiny ones cost the receiver little.
        self._gathered: list[bytes] = []

    async def begin(self) -> None:
        """Prepare to receive the body. Sets `reply` if the request is refused already."""
        endpoint, address = self._endpoint, self._address
        if reply := endpoint.reply:
            if self.unknown:
                self._receiver = Collector(address, lambda _: reply, MAX_UNKNOWN_BODY - 1)
            return
        backend, config = self.backend, self.backend.config
        if not endpoint.is_page and not backend.is_in_place():
            with suppress(OSError, sqlite3.Error):  # the receiver handles it
                await backend.in_thread(backend.reopen)
        if endpoint.service is Service.EMAIL:
            # On the event loop, like the writes: creating a file is no slower.
            self._receiver = EmailReceiver(
                backend.spool, config, self._info, inspect=self._inspect
            ).open()
        elif endpoint.service is Service.FILE:
            search = partial(backend.services.announced, config, address, endpoint.argument)
            file = await backend.in_thread(search)
            if isinstance(file, Reply):
                self.reply = file
                return
            receiver = FileReceiver(backend.spool, config, self._info, file, inspect=self._inspect)
            self._receiver = await backend.in_thread(receiver.open)
        else:
            self._receiver = Collector(
                address, partial(backend.services.answer, config, address, endpoint)
            )
        if self._ended.is_set():  # the client left meanwhile
            await self._abort("the client disconnected")

    def receive(self, chunk: bytes) -> list[bytes]:
        """Receive a chunk of the body; an empty one is its end. Returns no chunks to send on.

        Does not raise: after an exception, mitmproxy never answers the client.
        """
        self.pending.chunks += 1
        self.pending.received += len(chunk)
        if not chunk:
            self._flush()
            return []
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._flush)
        self._gathered.append(chunk)
        if self.pending.received > ABORT_FACTOR * self.backend.config.max_upload:
            reason = f"body exceeds {ABORT_FACTOR} x nx_max_upload; connection closed"
            logger.warning(f"{self._address}: {reason}")
            self._too_long()
        return []

    async def serve_loopback(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer mitmproxy as the loopback server, at the end; the reply replaces this."""
        self.pending.connected.set()
        await self._ended.wait()
        writer.write(LOOPBACK_REPLY)
        while await reader.read(1 << 16):
            pass  # the end of a chunked body

    async def finish(self) -> Reply:
        """Return the reply to the request, which is complete. Waits for the disk, never raises."""
        self.pending.complete = True
        try:
            self.reply = self.reply or await self._result()
        except Exception:
            logger.exception("cannot answer")
            self.reply = FAILED
            await self._abort("by a fault in nx_addon")
        if self.reply.unknown:
            self.unknown = True
        if self.reply.status >= 400:
            self._note_failure(f"Refused: {self.reply.remark}")
        self._ended.set()
        return self.reply

    async def cut(self, reason: str) -> bytes | None:
        """End a request whose client has gone. Returns the part that arrived, for its flow."""
        self._note_failure(f"Incomplete, {self.pending.received} bytes: {reason}")
        return await self._abort(reason)

    async def _abort(self, reason: str) -> bytes | None:
        """End a request that was cut or has failed. Returns the part that arrived, for its flow."""
        self._ended.set()
        try:
            self._feed_receiver()
            if self._receiver:
                return await self.backend.in_thread(self._receiver.abort, reason)
        except Exception:
            logger.exception("cannot store a partial upload")
        return None

    def end_now(self, reason: str) -> None:
        """Abort the request if it is not complete; its reply counts as lost. Blocks."""
        if self._receiver and not self.pending.complete:
            self._feed_receiver()
            self._receiver.abort(reason)
        self._reply_lost()

    def settle_reply(self, arrived: bool) -> None:
        """Record whether the reply has reached the client."""
        result = self.result
        if not result or not result.accepted:
            return
        if arrived:
            self.backend.spool.reply_confirmed(result.accepted)
            return
        logger.info(
            f"{self._address}: the reply to upload {result.upload} was not acknowledged; "
            "a duplicate will be ignored"
        )
        self._reply_lost()

    def outcome(self) -> tuple[str, str]:
        """Return the outcome, a key of `adapter.MARKS`, and a comment."""
        reply, result, title = self.reply or FAILED, self.result, self._endpoint.title
        if reply is FAILED:
            return "failed", title
        if self.unknown:
            return "unknown", f"{title}, answered {reply.status}"
        if reply.status >= 400:
            is_known = self._endpoint.service is not Service.FIXED
            return "refused", f"{title}: {reply.remark}" if is_known else reply.remark
        if result and result.accepted:
            return ("repeated" if result.is_duplicate else "received"), result.message
        return "answered", title

    async def _result(self) -> Reply:
        """Let the receiver accept or refuse the body."""
        if self._receiver is None:
            if self._endpoint.reply:
                return self._endpoint.reply
            if self._endpoint.is_upload:
                logger.warning(f"{self._address}: an upload is refused: it is empty")
                return refusal(400, "The upload is empty")
            await self.begin()
        assert self._receiver
        result = await self.backend.in_thread(self._receiver.finish)
        while result.waits_for:
            # Unlike wait_for, wait does not cancel the future.
            watched = asyncio.wrap_future(result.waits_for)
            await asyncio.wait([watched], timeout=REPLY_WATCH)
            if not watched.done() and result.accepted:
                self.backend.spool.reply_lost(result.accepted)
            result = await self.backend.in_thread(self._receiver.finish)
        self.result = result
        return result.reply

    def _note_failure(self, text: str) -> None:
        """List a refused or partial upload on the page."""
        if self._endpoint.is_upload:
            self.backend.services.note_failure(self._address, text)

    def _flush(self) -> None:
        try:
            self._feed_receiver()
        except Exception:
            logger.exception("cannot receive a chunk of a body")
            self.reply = FAILED

    def _feed_receiver(self) -> None:
        data = b"".join(self._gathered)
        self._gathered.clear()
        if data and self._receiver and self.reply is None:
            self._receiver.feed(data)

    def _reply_lost(self) -> None:
        if self.result and self.result.accepted:
            self.backend.spool.reply_lost(self.result.accepted)
            self.result = None  # a later result of the watch is ignored

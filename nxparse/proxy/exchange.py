"""A request for one of our hosts, from its head to its reply.

The body is passed on in chunks to a receiver. When it is complete, the receiver
decides in a thread, since it waits for the disk. From the moment that the reply to
an upload is written, its acknowledgement is watched: an upload whose reply was lost
is a duplicate when the camera sends it again.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from nxparse.proxy.transport import Pending
from nxparse.server.backend import Backend
from nxparse.server.endpoints import Endpoint, Service
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

FAILED = refusal(500, "nx_addon has failed, see its log")
# The beginning of a photo that is sent to an unknown path shows what it is.
MAX_UNKNOWN = 64 << 10  # bytes of a body that are saved to unknown/
REPLY_WATCH = 30.0  # seconds until it must be known whether a reply has arrived

logger = logging.getLogger(__name__)


class Exchange:
    """A request, and what becomes of it.

    `connection` is the client as mitmproxy has it. `unknown` is true if the request is
    for something that the map of the protocol does not have. A body of at most `inspect`
    bytes can be read back into its flow. `too_long` is called when a body is so far over
    nx_max_upload that its connection must end.
    """

    def __init__(
        self,
        backend: Backend,
        connection: Any,
        announced: Announced,
        endpoint: Endpoint,
        *,
        unknown: bool = False,
        inspect: int = 0,
        too_long: Callable[[], None] = lambda: None,
        reply_watch: float = REPLY_WATCH,
    ) -> None:
        self.connection = connection
        self.client = announced.client
        self.pending = Pending()
        self.reply: Reply | None = None
        self.result: Result | None = None
        self.unknown = unknown
        self.streamed = False  # has mitmproxy passed a body on?
        self.destination: tuple[str, int, str] | None = None  # while it leads to the sink
        self._backend = backend
        self._announced = announced
        self._endpoint = endpoint
        self._inspect = inspect
        self._too_long = too_long
        self._reply_watch = reply_watch
        self._receiver: Receiver | Collector | None = None
        # Chunks of one turn of the event loop: tiny ones would cost the receiver much time.
        self._gathered: list[bytes] = []

    @property
    def has_body(self) -> bool:
        """Was a receiver prepared for the body?"""
        return self._receiver is not None

    async def begin(self) -> None:
        """Prepare for the body. A reply that is certain already is in `reply` afterwards."""
        endpoint, client = self._endpoint, self.client
        if reply := endpoint.reply:
            if self.unknown:
                self._receiver = Collector(client, lambda _: reply, MAX_UNKNOWN)
            return
        backend, config = self._backend, self._backend.config
        if endpoint.is_upload and not backend.spool.is_in_place():
            with suppress(OSError, sqlite3.Error):  # the receiver finds out
                await backend.in_thread(backend.spool.reopen)
        if endpoint.service is Service.EMAIL:
            # This creates a file, which is no slower than writing to it.
            self._receiver = EmailReceiver(
                backend.spool, config, self._announced, inspect=self._inspect
            ).open()
        elif endpoint.service is Service.FILE:
            search = partial(backend.gateway.announced, config, client, endpoint.argument)
            file = await backend.in_thread(search)
            if isinstance(file, Reply):
                self.reply = file
                return
            receiver = FileReceiver(
                backend.spool, config, self._announced, file, inspect=self._inspect
            )
            self._receiver = await backend.in_thread(receiver.open)
        else:
            self._receiver = Collector(
                client, partial(backend.gateway.answer, config, client, endpoint)
            )

    def take(self, chunk: bytes) -> list[bytes]:
        """Take a chunk of the body; an empty one is its end. Returns what is passed on: nothing.

        Does not raise: mitmproxy would let the client hang.
        """
        self.streamed = True
        self.pending.chunks += 1
        self.pending.received += len(chunk)
        if not chunk:
            self._feed()
            return []
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._feed)
        self._gathered.append(chunk)
        if self.pending.received > HOPELESS * self._backend.config.max_upload:
            reason = f"body exceeds {HOPELESS} x nx_max_upload; connection closed"
            logger.warning(f"{self.client}: {reason}")
            self._too_long()
        return []

    async def finish(self) -> Reply:
        """The request is complete: decide its reply."""
        if self.reply:
            return self.reply
        if self._receiver is None:
            if self._endpoint.reply:
                return self._endpoint.reply
            if self._endpoint.is_upload:
                logger.warning(f"{self.client}: an upload is refused: it is empty")
                return refusal(400, "The upload is empty")
            await self.begin()
        if self._receiver is None:
            return self.reply or FAILED
        result = await self._backend.in_thread(self._receiver.finish)
        while result.waits_for:
            # Unlike wait_for, wait does not cancel the future.
            watched = asyncio.wrap_future(result.waits_for)
            await asyncio.wait([watched], timeout=self._reply_watch)
            if not watched.done() and result.accepted:
                self._backend.spool.reply_lost(result.accepted)
            result = await self._backend.in_thread(self._receiver.finish)
        self.result = result
        return result.reply

    def note_refusal(self) -> None:
        """List the upload on the page, if it was refused."""
        if self._endpoint.is_upload and self.reply and self.reply.status >= 400:
            self._backend.gateway.failures.add(self.client, f"Refused: {self.reply.remark}")

    def note_cut(self, reason: str) -> None:
        """List an upload that was cut on the page."""
        if self._endpoint.is_upload:
            text = f"Incomplete, {self.pending.received} bytes: {reason}"
            self._backend.gateway.failures.add(self.client, text)

    async def abandon(self, reason: str) -> bytes | None:
        """The request was cut, or has failed. Returns the part that arrived, to be inspected."""
        try:
            self._pass_on()
            if self._receiver:
                return await self._backend.in_thread(self._receiver.abort, reason)
        except Exception:
            logger.exception("cannot store a partial upload")
        return None

    def end(self, reason: str) -> None:
        """Abandon the request if it is not complete; its reply is lost. Blocks."""
        if self._receiver and not self.pending.complete:
            self._pass_on()
            self._receiver.abort(reason)
        self._reply_lost()

    def reply_watched(self, arrived: bool) -> None:
        """It is known now whether the reply has reached the client."""
        result = self.result
        if not result or not result.accepted:
            return
        if arrived:
            self._backend.spool.reply_confirmed(result.accepted)
            return
        logger.info(
            f"{self.client}: disconnected before the reply to upload {result.upload}; "
            f"if it sends that again, it is delivered once"
        )
        self._reply_lost()

    def wake_outbox(self) -> None:
        """Deliver what was accepted."""
        self._backend.outbox.wake()

    def outcome(self, title: str) -> tuple[str, str]:
        """What became of the request, as a word, and a few words more. `title` says what it was."""
        reply, result = self.reply or FAILED, self.result
        if reply is FAILED:
            return "failed", title
        if self.unknown:
            return "unknown", f"{title}, answered {reply.status}"
        if reply.status >= 400:
            return "refused", f"{title}: {reply.remark}"
        if result and result.accepted:
            return ("repeated" if result.is_duplicate else "received"), result.message
        return "answered", title

    def _feed(self) -> None:
        try:
            self._pass_on()
        except Exception:
            logger.exception("cannot take a chunk of a body")
            self.reply = FAILED

    def _pass_on(self) -> None:
        data = b"".join(self._gathered)
        self._gathered.clear()
        if data and self._receiver and self.reply is None:
            self._receiver.feed(data)

    def _reply_lost(self) -> None:
        if self.result and self.result.accepted:
            self._backend.spool.reply_lost(self.result.accepted)
            self.result = None  # what the watch finds afterwards comes too late

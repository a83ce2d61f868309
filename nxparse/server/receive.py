"""A request with a body, on its way in: from the first byte of that to the reply.

Each chunk of an upload goes into the spool. At the end of the body it is either
accepted, and then it is durable before the camera hears 200, or it is refused;
a refused body that could hold a photo goes into quarantine as it is. What
cannot be kept at all (too large, disk full) is still read to its end, in
constant memory: a camera that is sending does not hear an early answer.

There are uploads by e-mail, whose chunks also go through the scanner, files for
a social site, and small requests, which are only collected.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nxparse import markup, multipart
from nxparse.address import AddressError, deliverable
from nxparse.config import Config
from nxparse.deliver import routes
from nxparse.deliver.routes import target_label
from nxparse.deviation import BodyError
from nxparse.server.reply import ACCEPTED, Reply, refusal
from nxparse.server.sessions import Announced as AnnouncedFile
from nxparse.store.spool import MAX_WAIT, QUIET, Incoming, RepeatedError, Spool
from nxparse.text import (
    describe_contents,
    describe_disk_error,
    describe_refused_sender,
    format_deviations,
    format_list,
    format_size,
    printable,
)
from nxparse.upload import Upload, from_parts, preview, whole

# What must stay free beside one and a half times the upload, which is there
# twice for a moment: in the spool and where it is saved.
MIN_FREE = 64 << 20
# A sender that goes on beyond this many times the limit is cut off.
HOPELESS = 4
# Progress is told at each tenth, if the whole is at least this large or slow.
LARGE = 16 << 20  # bytes
SLOW = 2.0  # seconds since the last line

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Announced:
    """What the head of a request says. `length` in bytes, None if it is chunked."""

    client: str
    content_type: str
    length: int | None


class Receiver(ABC):
    """Receives one upload. `feed` never raises; `finish` and `abort` block.

    `body` is the body, once it is over, if it is at most `inspect` bytes long
    (0: never). `accepted` is the id of the body, once it is kept, or of the one
    that it repeats, and `upload` the id of the upload that it belongs to; `told`
    says in a few words what came.
    """

    def __init__(
        self, spool: Spool, config: Config, announced: Announced, *, inspect: int = 0
    ) -> None:
        self.received = 0
        self.body: bytes | None = None
        self.accepted: str | None = None
        self.upload = ""
        self.is_repeat = False
        self.told = ""
        self._spool = spool
        self._config = config
        self._announced = announced
        self._inspect = inspect
        self._refusal: Reply | None = None
        self._incoming: Incoming | None = None
        self._told = 0
        self._told_at = time.monotonic()
        self._begin()

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        self.received += len(chunk)
        if self._incoming is None:
            return
        self._tell_progress()
        if self.received > self._config.max_upload:
            self._too_large()
            return
        try:
            self._incoming.write(chunk)
        except OSError as error:
            self._not_kept(error)
            return
        self._look_at(chunk)

    def finish(self) -> Reply:
        """The body is whole: accept it, or refuse it."""
        if self._incoming is None:
            assert self._refusal, "finish and abort are called once, and one of them"
            return self._refusal
        incoming = self._incoming
        try:
            if not incoming.size:
                raise BodyError("it is empty")
            self._keep_for_inspection()
            return self._accept(incoming)
        except BodyError as error:
            return self._refused(error)
        except (OSError, sqlite3.Error) as error:
            return self._not_kept(error)

    def abort(self, reason: str) -> Path | None:
        """The body was cut: put into quarantine what has come of it, and tell where that is."""
        if self._incoming is None:
            return None
        of = f" of {self._announced.length}" if self._announced.length else ""
        what = f"upload cut after {self.received}{of} bytes, {printable(reason)}"
        try:
            with suppress(OSError):
                self._keep_for_inspection()
            path = self._spool.quarantine(self._incoming)
        except OSError as error:
            self._log(logging.ERROR, f"{what}: {describe_disk_error(error, self._config.dir)}")
            return None
        finally:
            self._incoming = None
        kept = f"what came is kept as {path}" if path else "nothing had come"
        self._log(logging.WARNING, f"{what}; nothing is delivered, {kept}")
        return path

    def _look_at(self, chunk: bytes) -> None:  # noqa: B027
        """Take note of a chunk that has been written."""

    @abstractmethod
    def _accept(self, incoming: Incoming) -> Reply:
        """Accept the body: make it durable. Raises BodyError if it is refused."""

    def _accepted(self, upload: str, told: str, targets: Sequence[str], noted: str = "") -> Reply:
        """The body is safe, as that of an upload or a part of it."""
        assert self._incoming
        self.accepted, self.upload, self.told = self._incoming.id, upload, told
        self._incoming = None
        then = f"next: {format_list([*map(target_label, targets)])} (upload {upload})"
        self._log(logging.INFO, "; ".join(filter(None, (told, noted, then))))
        return ACCEPTED

    def _repeat(self, id: str) -> Reply:
        assert self._incoming
        self._spool.discard(self._incoming)
        self._incoming = None
        self.upload = self._spool.upload_of(id)
        self.accepted, self.is_repeat, self.told = id, True, f"upload {self.upload}"
        self._log(logging.INFO, f"sends upload {self.upload} again: it is taken once")
        return ACCEPTED

    def _begin(self) -> None:
        length = self._announced.length or 0
        if length > self._config.max_upload:
            self._too_large()
            return
        try:
            free = self._spool.free()
            if free < 1.5 * length + MIN_FREE:
                self._refuse(
                    refusal(507, "The disk is full"),
                    f"an upload is refused: only {format_size(free)} are free in "
                    f"{self._config.dir}, too little for it; make room there",
                    logging.ERROR,
                )
            else:
                self._incoming = self._spool.begin()
        except OSError as error:
            self._not_kept(error)

    def _refuse(self, reply: Reply, told: str, level: int) -> Reply:
        """Refuse the upload and forget what has come of it."""
        if self._incoming:
            self._spool.discard(self._incoming)
            self._incoming = None
        self._refusal = reply
        self._log(level, told)
        return reply

    def _too_large(self) -> None:
        limit = format_size(self._config.max_upload)
        self._refuse(
            refusal(413, f"Larger than {limit}"),
            f"an upload is refused: it is larger than {limit}; "
            f"to allow it, use --set nx_max_upload=SIZE",
            logging.WARNING,
        )

    def _not_kept(self, error: BaseException) -> Reply:
        return self._refuse(
            refusal(507, "The upload could not be kept"),
            f"an upload is refused: {describe_disk_error(error, self._config.dir)}",
            logging.ERROR,
        )

    def _refused(self, error: BodyError) -> Reply:
        assert self._incoming
        reply = refusal(error.status, str(error))
        try:
            path = self._spool.quarantine(self._incoming)
        except OSError as disk_error:
            return self._not_kept(disk_error)
        self._incoming = None
        kept = f"; its body is kept as {path}" if path else ""
        self._log(logging.WARNING, f"an upload is refused: {printable(str(error), 200)}{kept}")
        return reply

    def _keep_for_inspection(self) -> None:
        assert self._incoming
        if 0 < self._incoming.size <= self._inspect:
            self.body = self._incoming.fetch(0, self._incoming.size)

    def _tell_progress(self) -> None:
        length = self._announced.length
        if not length:
            return
        tenth = 10 * self.received // length
        now = time.monotonic()
        if tenth <= self._told or tenth >= 10:
            return
        if length >= LARGE or now - self._told_at >= SLOW:
            self._log(
                logging.INFO, f"{format_size(self.received)} of {format_size(length)} received"
            )
            self._told, self._told_at = tenth, now

    def _log(self, level: int, message: str) -> None:
        logger.log(level, f"{self._announced.client}: {message}")


class EmailReceiver(Receiver):
    """Receives an upload by e-mail: the message and all photos in one body."""

    def __init__(
        self, spool: Spool, config: Config, announced: Announced, *, inspect: int = 0
    ) -> None:
        self._scanner = multipart.Scanner(multipart.boundary_of(announced.content_type))
        super().__init__(spool, config, announced, inspect=inspect)

    def _look_at(self, chunk: bytes) -> None:
        if self._scanner.error is None:
            # The error is raised again by `close`, when all of the body is here.
            with suppress(multipart.MultipartError):
                self._scanner.feed(chunk)

    def _accept(self, incoming: Incoming) -> Reply:
        upload = from_parts(self._scanner.close(), self._scanner.deviations, incoming.fetch)
        if not self._config.may_send(upload.sender):
            return self._refuse(
                refusal(401, "Sender not in whitelist"),
                f"an upload is refused: {describe_refused_sender(upload.sender)}",
                logging.WARNING,
            )
        deliveries = self._deliveries(upload)
        if repeated := self._spool.repeated(upload.sender, incoming.sha256):
            return self._repeat(repeated)
        announced = self._announced
        arrival = self._spool.accept(
            incoming,
            announced.client,
            upload.sender,
            announced.content_type,
            deliveries,
            [preview(file, thumbnail=self._config.gallery) for file in upload.files],
        )
        noted = f"tolerated: {format_deviations(upload.deviations)}"
        return self._accepted(arrival.id, describe_contents(upload), list(deliveries), noted)

    def _deliveries(self, upload: Upload) -> dict[str, tuple[str, ...]]:
        """The recipients for each target. BodyError if mail could not be delivered to one."""
        config = self._config
        decided = routes.decide(config.routes, config.default_target, upload.recipients)
        for target, recipients in decided.items():
            if target.kind != "mail":
                continue
            try:
                for recipient in () if target.argument else recipients:
                    deliverable(recipient)
                if not config.mail_from:
                    deliverable(upload.sender)
            except AddressError as error:
                raise BodyError(str(error)) from None
        return {target.text: recipients for target, recipients in decided.items()}


class FileReceiver(Receiver):
    """Receives a file that was announced for a social site."""

    def __init__(
        self,
        spool: Spool,
        config: Config,
        announced: Announced,
        file: AnnouncedFile,
        *,
        inspect: int = 0,
    ) -> None:
        self._file = file
        super().__init__(spool, config, announced, inspect=inspect)
        self._expect(MAX_WAIT)

    def finish(self) -> Reply:
        reply = super().finish()
        if not self.accepted:
            self._expect(QUIET)
        return reply

    def abort(self, reason: str) -> Path | None:
        try:
            return super().abort(reason)
        finally:
            self._expect(QUIET)

    def _accept(self, incoming: Incoming) -> Reply:
        post, name = self._file.post, self._file.name
        sha256 = incoming.sha256
        if repeated := self._spool.repeated(post.sender, sha256, self._file.id, post):
            self._expect(QUIET)
            return self._repeat(repeated)
        at_once, together = self._ways(post.site)
        content_type = self._announced.content_type
        file = whole(name, content_type, incoming.size, incoming.fetch)
        try:
            arrival = self._spool.append(
                incoming,
                post,
                name,
                content_type,
                self._file.id,
                at_once=at_once,
                together=together,
                preview=preview(file, thumbnail=self._config.gallery),
            )
        except RepeatedError as error:  # twice at the same moment
            return self._repeat(error.id)
        told = (
            f"from {printable(post.sender)} to {post.site}: "
            f"{printable(name or '(no name)')}, {format_size(incoming.size)}"
        )
        return self._accepted(arrival.id, told, [*at_once, *together])

    def _ways(self, site: str) -> tuple[list[str], list[str]]:
        """The targets that get each photo, and those that get the post as a whole."""
        save = routes.target("save")
        at_once, together = [], []
        for target in routes.decide(self._config.routes, save, [site]):
            if target.kind == "mail" and not target.argument:
                self._log(
                    logging.WARNING,
                    f"{site} has no address to mail to: it is saved instead; "
                    f"to mail it, use --set nx_route={site}=mail:ADDRESS",
                )
                target = save
            if target.reaches_beyond_the_disk:
                together.append(target.text)
            elif target.text not in at_once:
                at_once.append(target.text)
        return at_once, together

    def _expect(self, seconds: float) -> None:
        """Let the rest of the post wait for this file."""
        try:
            self._spool.expect(self._file.post, seconds)
        except (OSError, sqlite3.Error) as error:
            self._log(logging.ERROR, describe_disk_error(error, self._config.dir))


class Collector:
    """Collects the body of a small request, with a Receiver's methods.

    `answer` makes the reply, which may block. What is beyond `limit` bytes is
    counted as one more byte.
    """

    accepted = None

    def __init__(
        self, client: str, answer: Callable[[bytes], Reply], limit: int = markup.MAX_BYTES
    ) -> None:
        self.body: bytes | None = None
        self._client = client
        self._answer = answer
        self._room = limit + 1
        self._collected = bytearray()

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        self._collected += chunk[: self._room - len(self._collected)]

    def finish(self) -> Reply:
        """The body is whole: answer."""
        self.body = bytes(self._collected)
        return self._answer(self.body)

    def abort(self, reason: str) -> None:
        """The body was cut."""
        self.body = bytes(self._collected)
        logger.warning(f"{self._client}: a request was cut, {printable(reason)}")

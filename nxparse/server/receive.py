"""Receives an upload, from its first byte to the reply.

Each chunk is written to the spool. At the end the upload is accepted, and durable before the
camera gets 200, or it is refused. A refused body that may contain a photo goes to quarantine.
A body that cannot be stored (too large, disk full) is still read to its end, in constant
memory, because cameras read no reply while they send.
"""

from __future__ import annotations

import logging
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import NamedTuple, Self

from nxparse.address import AddressError, deliverable
from nxparse.config import Config
from nxparse.deliver import routes
from nxparse.deliver.routes import target_label
from nxparse.deviation import BodyError
from nxparse.framing import boundary_of
from nxparse.scanner import Scanner
from nxparse.server.reply import ACCEPTED, Reply, refusal
from nxparse.server.sessions import AnnouncedFile
from nxparse.store.body import Incoming
from nxparse.store.spool import RepeatedError, Spool
from nxparse.text import (
    MAX_REASON,
    describe_contents,
    describe_disk_error,
    describe_refused_sender,
    format_deviations,
    format_list,
    format_size,
    printable,
)
from nxparse.upload import Upload, from_parts, whole

ABORT_FACTOR = 4  # times nx_max_upload; the connection of a longer body is closed

logger = logging.getLogger(__name__)


class BodyInfo(NamedTuple):
    """A body, as the head of its request describes it. `length` is None if it is chunked."""

    client: str
    content_type: str
    length: int | None


class Result(NamedTuple):
    """The result of a request with a body.

    `accepted` is the id of the stored body, or of the one that it repeats, `upload` that of
    its upload, and `message` a short description. `body` is set if it is shown in the flow.
    If `waits_for` is set, there is no reply yet: call `finish` again when that is done.
    """

    reply: Reply
    accepted: str | None = None
    upload: str = ""
    is_duplicate: bool = False
    message: str = ""
    body: bytes | None = None
    waits_for: Future[bool] | None = None


class Receiver(ABC):
    """Receives one upload. `feed` never raises; `finish` and `abort` block.

    Bodies of at most `inspect` bytes are read back to be shown in their flows (0: none).
    """

    def __init__(self, spool: Spool, config: Config, info: BodyInfo, *, inspect: int = 0) -> None:
        self.received = 0
        self._spool = spool
        self._config = config
        self._info = info
        self._inspect = inspect
        self._refusal: Reply | None = None
        self._incoming: Incoming | None = None

    def open(self) -> Self:
        """Create the body in the spool, or refuse the upload."""
        if (self._info.length or 0) > self._config.max_upload:
            self._too_large()
            return self
        try:
            self._incoming = self._spool.begin(self._info.length)
        except OSError as error:
            self._not_stored(error)
        return self

    def feed(self, chunk: bytes) -> None:
        """Receive the next bytes of the body."""
        self.received += len(chunk)
        if self._incoming is None:
            return
        if self.received > self._config.max_upload:
            self._too_large()
            return
        try:
            self._incoming.write(chunk)
        except OSError as error:
            self._not_stored(error)

    def finish(self) -> Result:
        """Accept or refuse the body, which is complete."""
        incoming = self._incoming
        if incoming is None:
            assert self._refusal, "after finish only a result that waits allows another call"
            return Result(self._refusal)
        body = self._inspected()
        try:
            if not incoming.size:
                raise BodyError("it is empty")
            result = self._accept(incoming)
        except RepeatedError as repeated:
            result = self._repeated(repeated)
        except BodyError as error:
            result = Result(self._set_aside(error))
        except (OSError, sqlite3.Error) as error:
            result = Result(self._not_stored(error))
        return result._replace(body=body)

    def abort(self, reason: str) -> bytes | None:
        """Move the part of a cut body that arrived to quarantine.

        Returns that part if it is shown in the flow.
        """
        body, incoming = self._inspected(), self._incoming
        self._incoming = None
        if incoming is None:
            return None
        of = f" of {self._info.length}" if self._info.length else ""
        cut = f"upload cut after {self.received}{of} bytes, {printable(reason)}"
        try:
            path = self._spool.quarantine(incoming)
        except OSError as error:
            self._log(logging.ERROR, f"{cut}: {describe_disk_error(error, self._config.dir)}")
        else:
            where = f"; the part that arrived is in quarantine: {path}" if path else ""
            self._log(logging.WARNING, f"{cut}; nothing is delivered{where}")
        return body

    @abstractmethod
    def _accept(self, incoming: Incoming) -> Result:
        """Make the body durable. Raises BodyError if it is refused."""

    def _accepted(
        self, upload: str, message: str, targets: Sequence[str], noted: str = ""
    ) -> Result:
        """Log an accepted upload, or a file of it, and return the result."""
        assert self._incoming
        accepted, self._incoming = self._incoming.id, None
        then = f"next: {format_list([*map(target_label, targets)])} (upload {upload})"
        self._log(logging.INFO, "; ".join(filter(None, (message, noted, then))))
        return Result(ACCEPTED, accepted, upload, message=message)

    def _repeated(self, repeated: RepeatedError) -> Result:
        """Delete the body, unless it has to wait for the reply to the body that it repeats."""
        if repeated.reply:
            return Result(ACCEPTED, repeated.id, repeated.upload, waits_for=repeated.reply)
        self._discard()
        message = f"upload {repeated.upload}"
        self._log(logging.INFO, f"duplicate of {message} ignored")
        return Result(ACCEPTED, repeated.id, repeated.upload, True, message)

    def _refuse(self, reply: Reply, reason: str, level: int = logging.WARNING) -> Reply:
        """Refuse the upload and delete its body."""
        self._discard()
        self._refusal = reply
        self._log(level, f"an upload is refused: {reason}")
        return reply

    def _too_large(self) -> None:
        limit = format_size(self._config.max_upload)
        reason = f"it is larger than {limit}; to allow it, use --set nx_max_upload=SIZE"
        self._refuse(refusal(413, f"Larger than {limit}"), reason)

    def _not_stored(self, error: BaseException) -> Reply:
        reason = describe_disk_error(error, self._config.dir)
        return self._refuse(refusal(507, "The upload could not be stored"), reason, logging.ERROR)

    def _set_aside(self, error: BodyError) -> Reply:
        """Refuse the upload and move its body to quarantine."""
        assert self._incoming
        try:
            path = self._spool.quarantine(self._incoming)
        except OSError as disk_error:
            return self._not_stored(disk_error)
        self._incoming = None
        where = f"; its body is in quarantine: {path}" if path else ""
        return self._refuse(
            refusal(error.status, str(error)), f"{printable(str(error), MAX_REASON)}{where}"
        )

    def _discard(self) -> None:
        if self._incoming:
            self._incoming.discard()
            self._incoming = None

    def _inspected(self) -> bytes | None:
        """Return the body to be shown in its flow, if it is small enough."""
        with suppress(OSError):
            if self._incoming and 0 < self._incoming.size <= self._inspect:
                return self._incoming.fetch(0, self._incoming.size)
        return None

    def _log(self, level: int, message: str) -> None:
        logger.log(level, f"{self._info.client}: {message}")


class EmailReceiver(Receiver):
    """Receives an upload by e-mail: a message and all its photos in one body."""

    def __init__(self, spool: Spool, config: Config, info: BodyInfo, *, inspect: int = 0) -> None:
        super().__init__(spool, config, info, inspect=inspect)
        self._scanner = Scanner(boundary_of(info.content_type))
        self._parsed: Upload | None = None

    def feed(self, chunk: bytes) -> None:
        super().feed(chunk)
        if self._incoming:
            self._scanner.feed(chunk)

    def _accept(self, incoming: Incoming) -> Result:
        upload = self._parsed = self._parsed or from_parts(
            self._scanner.close(incoming.fetch), self._scanner.deviations, incoming.fetch
        )
        if not self._config.may_send(upload.sender):
            reason = describe_refused_sender(upload.sender)
            return Result(self._refuse(refusal(401, "Sender not in whitelist"), reason))
        deliveries = self._deliveries(upload)
        arrival = self._spool.accept(incoming, self._info.client, upload, deliveries)
        noted = f"tolerated: {format_deviations(upload.deviations)}"
        return self._accepted(arrival.id, describe_contents(upload), list(deliveries), noted)

    def _deliveries(self, upload: Upload) -> dict[str, tuple[str, ...]]:
        """Return the recipients for each target. Raises BodyError if an address is unusable."""
        config = self._config
        decided = routes.decide(config.routes, config.default_target, upload.recipients)
        for target, recipients in decided.items():
            if target.kind != "mail":
                continue
            try:
                if not target.argument:
                    for recipient in recipients:
                        deliverable(recipient)
                if not config.mail_from:
                    deliverable(upload.sender)
            except AddressError as error:
                raise BodyError(str(error)) from None
        return {target.text: recipients for target, recipients in decided.items()}


class FileReceiver(Receiver):
    """Receives a file that was announced for a social site."""

    def __init__(
        self, spool: Spool, config: Config, info: BodyInfo, file: AnnouncedFile, *, inspect: int = 0
    ) -> None:
        super().__init__(spool, config, info, inspect=inspect)
        self._file = file

    def _accept(self, incoming: Incoming) -> Result:
        post, name = self._file.post, self._file.name
        targets = self._targets(post.site)
        file = whole(name, self._info.content_type, incoming.size, incoming.fetch)
        arrival = self._spool.append(incoming, post, file, self._file.id, targets)
        message = (
            f"from {printable(post.sender)} to {post.site}: "
            f"{printable(name or '(no name)')}, {format_size(incoming.size)}"
        )
        return self._accepted(arrival.id, message, list(targets))

    def _targets(self, site: str) -> dict[str, bool]:
        """Return for each target whether it gets the whole post, or else each photo at once."""
        save = routes.parse_target("save")
        targets = {}
        for target in routes.decide(self._config.routes, save, [site]):
            if target.kind == "mail" and not target.argument:
                self._log(
                    logging.WARNING,
                    f"{site} has no address to mail to: it is saved instead; "
                    f"to mail it, use --set nx_route={site}=mail:ADDRESS",
                )
                target = save
            targets[target.text] = target.reaches_beyond_the_disk
        return targets

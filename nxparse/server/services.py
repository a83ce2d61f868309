"""Answers all requests except uploads: social sites, the page and its files, small services.

Bodies here are short; photos and videos are received by `receive`. The option nx_senders
decides who may log in. Passwords are ignored: there is nothing to compare them with. The
right replies to a login to AllShare and to the list of sites are unknown.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import closing

from nxparse import jpeg, markup
from nxparse.config import Config
from nxparse.deviation import BodyError
from nxparse.server import files, page, social
from nxparse.server.endpoints import NOT_FOUND, Endpoint, Service
from nxparse.server.files import FileReply, OpenFile, open_unchanged
from nxparse.server.page import Failure
from nxparse.server.receive import Result
from nxparse.server.reply import ACCEPTED, Reply, refusal
from nxparse.server.sessions import AnnouncedFile, Sessions
from nxparse.store.records import DeliveryKey
from nxparse.store.spool import Spool
from nxparse.text import MAX_REASON, describe_disk_error, describe_refused_sender, printable

FAILURES_KEPT = 3600.0  # seconds
MAX_FAILURES = 50

logger = logging.getLogger(__name__)


class Services:
    """Answers requests, in any thread. Blocks. Raises only if there is a bug."""

    def __init__(
        self,
        sessions: Sessions,
        spool: Spool,
        clock: Callable[[], float] = time.time,
        in_progress: Callable[[], Collection[DeliveryKey]] = frozenset,
    ) -> None:
        self._sessions = sessions
        self._spool = spool
        self._clock = clock
        self._in_progress = in_progress
        self._failures: deque[Failure] = deque(maxlen=MAX_FAILURES)

    def answer(self, config: Config, client: str, endpoint: Endpoint, body: bytes) -> Reply:
        """Return the reply to a request with this body."""
        try:
            match endpoint.service:
                case Service.LOGIN:
                    return self._login(config, client, endpoint.argument, body)
                case Service.PHOTO | Service.VIDEO:
                    return self._announce(config, client, endpoint.argument, body)
                case Service.TIME:
                    return time_reply(self._clock())
                case Service.PAGE:
                    return self._page(config, client, endpoint.argument)
                case Service.THUMBNAIL:
                    return self._thumbnail(config, client, endpoint.argument)
                case Service.README:
                    return page.readme() or NOT_FOUND
                case Service.ACCOUNT:
                    return social.LOGIN_FAILED
                case _:  # also LIST: the right reply is unknown
                    return NOT_FOUND
        except BodyError as error:
            reason = printable(str(error), MAX_REASON)
            logger.warning(f"{client}: a {endpoint.title} is refused: {reason}")
            return refusal(error.status, str(error), unknown=bool(body))
        except (OSError, sqlite3.Error) as error:
            return self._failed(config, client, error)

    def note_failure(self, client: str, reason: str) -> None:
        """List a refused or partial upload of this client on the page, for an hour."""
        reason = printable(reason, MAX_REASON)
        self._failures.append(Failure(self._clock(), client, reason))

    def announced(self, config: Config, client: str, token: str) -> AnnouncedFile | Reply:
        """Return the announced file that a client sends with a token, or a refusal."""
        try:
            found = self._sessions.announced(client, token)
        except (OSError, sqlite3.Error) as error:
            return self._failed(config, client, error)
        if found is None:
            logger.warning(f"{client}: a file is refused: it was not announced")
            return social.SESSION_EXPIRED
        is_allowed = _may_send(config, client, found.post.sender, "a file")
        return found if is_allowed else social.SESSION_EXPIRED

    def file(
        self,
        config: Config,
        client: str,
        endpoint: Endpoint,
        method: str,
        headers: Sequence[tuple[str, str]],
    ) -> FileReply | Reply:
        """Return the reply to a request for a saved file (`endpoint.is_file`), a GET or HEAD."""
        try:
            opened = self._open(config, client, endpoint.argument)
            if opened is None:
                return NOT_FOUND
            is_download = endpoint.service is Service.DOWNLOAD
            return files.reply_with(opened, method, headers, download=is_download)
        except (OSError, sqlite3.Error) as error:
            return self._failed(config, client, error)

    def _page(self, config: Config, client: str, before: str) -> Reply:
        of_client = None if config.gallery else client
        return page.render(
            # One more shows whether there are older ones.
            self._spool.recent(of_client, page.PER_PAGE + 1, before),
            self._clock(),
            gallery=config.gallery,
            in_progress=self._in_progress(),
            failures=() if before else self._recent_failures(of_client),
            is_first=not before,
        )

    def _recent_failures(self, client: str | None) -> list[Failure]:
        now, failures = self._clock(), tuple(self._failures)  # a copy: other threads may add
        return [
            one
            for one in failures
            if abs(now - one.at) <= FAILURES_KEPT and client in (None, one.client)
        ]

    def _thumbnail(self, config: Config, client: str, argument: str) -> Reply:
        opened = self._open(config, client, argument)
        if opened is None:
            return NOT_FOUND
        with closing(opened):
            return page.thumbnail(jpeg.thumbnail(opened.read(0, jpeg.HEAD)))

    def _open(self, config: Config, client: str, argument: str) -> OpenFile | None:
        """Open the saved file "UPLOAD.NUMBER", if it is there and this client may see it."""
        id, _, number = argument.rpartition(".")
        record = self._spool.record(id)
        if record and (config.gallery or record.arrival.client == client):
            for file in record.files:
                if str(file.number) == number:
                    return open_unchanged(file.saved)
        return None

    def _login(self, config: Config, client: str, site: str, body: bytes) -> Reply:
        user = social.parse_login(body)
        if user is None:
            return social.LOGGED_OUT
        if not _may_send(config, client, user, f"a login to {site}"):
            return social.LOGIN_FAILED
        key = self._sessions.begin(client, user)
        logger.info(f"{client}: {printable(user)} has logged in to {site}")
        return social.logged_in(key, user)

    def _announce(self, config: Config, client: str, site: str, body: bytes) -> Reply:
        announcement = social.parse_announcement(body)
        user = self._sessions.user(client, announcement.session_key)
        if user is None:
            logger.warning(f"{client}: has to log in to {site} again: its session has expired")
            return social.SESSION_EXPIRED
        if not _may_send(config, client, user, f"a file for {site}"):
            return social.SESSION_EXPIRED
        token, post = self._sessions.announce(client, user, site, announcement)
        self._spool.expect(post)
        return social.upload_to(token)

    def _failed(self, config: Config, client: str, error: Exception) -> Reply:
        reason = describe_disk_error(error, config.dir)
        logger.error(f"{client}: a request is refused: {reason}")
        return refusal(507, "The state cannot be read or stored")


def _may_send(config: Config, client: str, sender: str, what: str) -> bool:
    """Return whether nx_senders allows this sender. If not, log that `what` is refused."""
    if config.may_send(sender):
        return True
    logger.warning(f"{client}: {what} is refused: {describe_refused_sender(sender)}")
    return False


def time_reply(now: float) -> Reply:
    """Return a Unix time in milliseconds (samsung-nx-emailservice, commit 593f35b)."""
    return Reply(
        200,
        b'<?xml version="1.0" encoding="UTF-8" standalone="yes"?><initializeResult>'
        b"<currentServerTime>%d</currentServerTime></initializeResult>" % round(1000 * now),
    )


def simulated(endpoint: Endpoint, now: float) -> Reply:
    """Return the reply to a replayed request. Stores nothing and checks nothing."""
    match endpoint.service:
        case Service.FIXED | Service.CHECK:
            return endpoint.reply or NOT_FOUND
        case Service.TIME:
            return time_reply(now)
        case Service.LOGIN:
            return social.logged_in("0" * 32, "replay")
        case Service.PHOTO | Service.VIDEO:
            return social.upload_to("0" * 32)
        case Service.EMAIL | Service.FILE:
            return ACCEPTED
        case Service.ACCOUNT:
            return social.LOGIN_FAILED
        case Service.PAGE:
            return page.render([], now, gallery=False)
        case _:
            return NOT_FOUND


class Collector:
    """Collects the body of a small request; it has the methods of a Receiver.

    `answer` makes the reply and may block. A body longer than `limit` bytes is cut to
    `limit` + 1 bytes.
    """

    def __init__(
        self, client: str, answer: Callable[[bytes], Reply], limit: int = markup.MAX_BYTES
    ) -> None:
        self._client = client
        self._answer = answer
        self._room = limit + 1
        self._collected = bytearray()

    def feed(self, chunk: bytes) -> None:
        """Receive the next bytes of the body."""
        self._collected += chunk[: self._room - len(self._collected)]

    def finish(self) -> Result:
        """Return the reply to the body, which is complete."""
        body = bytes(self._collected)
        return Result(self._answer(body), body=body)

    def abort(self, reason: str) -> bytes:
        """Return the part of a cut body that arrived."""
        logger.warning(f"{self._client}: a request was cut, {printable(reason)}")
        return bytes(self._collected)

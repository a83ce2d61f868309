"""Deliver stored uploads to their targets, and retry.

A target with due deliveries has a worker thread, so that a slow server delays only its own
deliveries. A delivery that fails is retried after 15 seconds, then after as long as it has waited
so far, at most an hour. After `retry_for`, or after a permanent error, its files are saved in
`undelivered/`. All state is in the spool: a delivery whose result was not recorded is repeated
under the same id.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial

from nxparse.deliver.errors import (
    DeliveryError,
    Outcome,
    PermanentError,
    Refused,
    TooLargeError,
    UnreachableError,
)
from nxparse.deliver.routes import target_label
from nxparse.deviation import BodyError
from nxparse.store.deliveries import MAX_WAIT, is_ahead
from nxparse.store.records import Delivery, DeliveryKey
from nxparse.store.spool import Spool
from nxparse.text import (
    MAX_REASON,
    error_reason,
    format_duration,
    format_list,
    format_recipients,
    printable,
)
from nxparse.upload import File, Upload

MIN_WAIT = 15.0  # seconds
POLL = 2.0  # seconds between two checks for changes by the command line

logger = logging.getLogger(__name__)

Deliver = Callable[[Upload, Sequence[File], Delivery], Outcome]
"""Delivers these files of an upload. Raises a DeliveryError or OSError."""


class Outbox:
    """Delivers the uploads in a spool.

    `deliver_to` returns the function that delivers to a target. `save_undelivered` saves
    files that could not be delivered. `retry_for` is in seconds and may be changed at any time.
    """

    def __init__(
        self,
        spool: Spool,
        deliver_to: Callable[[str], Deliver],
        save_undelivered: Deliver,
        *,
        retry_for: float,
        clock: Callable[[], float],
    ) -> None:
        self._spool = spool
        self._deliver_to = deliver_to
        self._save_undelivered = save_undelivered
        self.retry_for = retry_for
        self._clock = clock
        self._changed = threading.Condition()
        self._changes = 0
        self._stopping = False
        self._dispatcher: threading.Thread | None = None
        self._workers: dict[str, threading.Thread] = {}  # by target
        self._current: dict[str, DeliveryKey] = {}  # by target
        # Targets that must not be contacted: until when (Unix time), and why.
        self._back_offs: dict[str, tuple[float, str]] = {}
        # Results that the database could not store.
        self._unrecorded: dict[DeliveryKey, Callable[[], None]] = {}

    def start(self) -> None:
        """Start the threads. A delivery from before a `stop` may still be in progress."""
        if self._dispatcher:
            self._dispatcher.join()
        self._stopping = False
        self._dispatcher = threading.Thread(target=self._dispatch, name="nx outbox", daemon=True)
        self._dispatcher.start()

    def stop(self, timeout: float) -> bool:
        """Stop after the current deliveries. Returns False if one takes longer than `timeout`."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            threads = [*self._workers.values()]
        if self._dispatcher:
            threads.append(self._dispatcher)
        deadline = time.monotonic() + timeout
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def wake(self) -> None:
        """Look for new deliveries now."""
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    def in_progress(self) -> set[DeliveryKey]:
        """Return the keys of the deliveries in progress."""
        return {*self._current.values()}

    def _dispatch(self) -> None:
        """Start a worker for each target with due deliveries."""
        while not self._stopping:
            changes = self._changes
            try:
                self._spool.notice_changes()
                for target in self._spool.due_targets():
                    self._start_worker(target)
            except Exception:
                logger.exception("cannot check for new deliveries")
            self._wait(POLL, changes)

    def _start_worker(self, target: str) -> None:
        with self._changed:
            if target in self._workers or self._stopping:
                return
            name = f"nx {target_label(target)}"
            worker = threading.Thread(target=self._work, args=(target,), name=name, daemon=True)
            worker.start()
            self._workers[target] = worker

    def _work(self, target: str) -> None:
        """Make deliveries to a target until none is due."""
        while True:
            changes = self._changes
            try:
                self.deliver_due(target)
            except Exception as error:
                message = f"deliveries to {target_label(target)} paused for {MIN_WAIT:.0f} s"
                if isinstance(error, OSError | sqlite3.Error):
                    reason = error_reason(error)
                    logger.error(f"{message}: cannot read or write their state: {reason}")
                else:
                    logger.exception(message)
                self._wait(MIN_WAIT, changes)
            with self._changed:
                if self._stopping or self._changes == changes:
                    del self._workers[target]
                    return

    def _wait(self, seconds: float, changes: int) -> None:
        """Wait, unless something has changed since the count was `changes`, or on `stop`."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._changes != changes, seconds)

    def deliver_due(self, target: str) -> None:
        """Make all deliveries that are due for a target."""
        self._continue_back_off(target)
        while not self._stopping:
            delivery = self._spool.first_due(target)
            if delivery is None:
                return
            self._current[target] = delivery.key
            try:
                if unrecorded := self._unrecorded.get(delivery.key):
                    # Already delivered; only the result is missing.
                    self._record(delivery, unrecorded)
                else:
                    self._deliver(delivery)
            finally:
                del self._current[target]

    def _deliver(self, delivery: Delivery) -> None:
        """Make a delivery and record the result."""
        files: Sequence[File] = ()
        try:
            with self._spool.read(delivery) as (upload, files):
                outcome = self._deliver_to(delivery.target)(upload, files, delivery)
        except sqlite3.Error:
            raise
        except BodyError as error:
            self._quarantine(delivery, error)
        except TooLargeError as error:
            if len(files) > 1:
                self._record(delivery, partial(self._spool.split, delivery, len(files)))
                logger.info(f"upload {delivery.id}: {error}; sending each file by itself")
            else:
                self._settle_error(delivery, error)
        except Exception as error:
            self._settle_error(delivery, error)
            if isinstance(error, UnreachableError):
                self._back_off(delivery, error)
        else:
            self._settle(delivery, outcome)

    def _settle_error(self, delivery: Delivery, error: Exception) -> None:
        """Settle a delivery that an error has kept from all its recipients."""
        reason = error_reason(error)
        if not isinstance(error, DeliveryError | OSError):  # a bug, which must not stop the others
            logger.exception(
                f"upload {delivery.id}: {target_label(delivery.target)}: unexpected error"
            )
            reason = repr(error)
        permanent = isinstance(error, PermanentError | TooLargeError)
        refused = tuple(Refused(one, permanent, reason) for one in delivery.recipients)
        self._settle(delivery, Outcome("", refused), error)

    def _settle(self, delivery: Delivery, outcome: Outcome, error: Exception | None = None) -> None:
        """Record the result for each recipient: reached, to be retried, or refused for good."""
        expired = self._is_expired(delivery)
        refused = {one.recipient for one in outcome.refused}
        final = [one for one in outcome.refused if one.permanent or expired]
        to_retry = [one for one in outcome.refused if one not in final]
        reached = tuple(one for one in delivery.recipients if one not in refused)
        missed = f"not delivered to {format_recipients([one.recipient for one in final])}"
        reason = _reason(final)
        if any(not one.permanent for one in final):
            reason = f"abandoned: {reason}"
        if reached:
            logger.info(f"upload {delivery.id}: {outcome.message}")
        saved = outcome.saved
        if final:
            try:
                with self._spool.read(delivery) as (upload, files):
                    undelivered = self._save_undelivered(upload, files, delivery)
            except sqlite3.Error:
                raise
            except Exception as obstacle:
                # Only the refused recipients are retried: the others have been reached.
                self._retry(delivery, f"{reason}; {error_reason(obstacle)}", outcome.refused)
                return
            logger.warning(f"upload {delivery.id} is {missed}: {reason}; {undelivered.message}")
            saved = saved or undelivered.saved
        if to_retry:
            self._retry(delivery, _reason(to_retry), to_retry, error)
        elif final and not reached:
            self._record(delivery, partial(self._spool.failed, delivery, reason, saved))
        else:
            done = delivery._replace(recipients=reached)
            partly = f"{missed}: {reason}" if final else ""
            self._record(delivery, partial(self._spool.done, done, partly, saved))

    def _record(self, delivery: Delivery, result: Callable[[], None]) -> None:
        """Store a result in the spool, or if that fails, when the delivery is next due."""
        self._unrecorded[delivery.key] = result
        result()
        del self._unrecorded[delivery.key]

    def _is_expired(self, delivery: Delivery) -> bool:
        # `waited` adds up the waits and depends on no clock, which may jump.
        return delivery.waited >= self.retry_for

    def _back_off(self, delivery: Delivery, error: UnreachableError) -> None:
        """Fail the expired deliveries to the target, and postpone all others that are due."""
        target = delivery.target
        for other in self._spool.due(target):
            if self._is_expired(other):
                self._settle_error(other, error)
        wait = self._wait_after(delivery, error.retry_after)
        self._postpone_others(target, wait, str(error), except_for=delivery)
        if error.retry_after:
            self._back_offs[target] = self._clock() + wait, str(error)

    def _continue_back_off(self, target: str) -> None:
        """Postpone new deliveries to a target that must not be contacted yet."""
        until, reason = self._back_offs.get(target, (0.0, ""))
        now = self._clock()
        if is_ahead(until, now):
            self._postpone_others(target, until - now, reason)
        else:
            self._back_offs.pop(target, None)

    def _postpone_others(
        self, target: str, wait: float, reason: str, *, except_for: Delivery | None = None
    ) -> None:
        if others := self._spool.back_off(target, wait, reason, except_for=except_for):
            logger.warning(f"{target_label(target)}: {reason}; other deliveries waiting: {others}")

    def _quarantine(self, delivery: Delivery, error: BodyError) -> None:
        try:
            paths = self._spool.quarantine_delivery(delivery)
        except OSError as obstacle:
            self._settle_error(
                delivery, OSError(f"{error}, and quarantine: {error_reason(obstacle)}")
            )
            return
        self._record(delivery, partial(self._spool.failed, delivery, str(error)))
        where = f"; its body is in quarantine: {format_list([*map(str, paths)])}" if paths else ""
        logger.warning(f"upload {delivery.id} cannot be delivered: {error}{where}")

    def _retry(
        self,
        delivery: Delivery,
        reason: str,
        refused: Sequence[Refused],
        error: Exception | None = None,
    ) -> None:
        wait = self._wait_after(delivery, getattr(error, "retry_after", 0.0))
        progress = getattr(error, "progress", ())
        left = [one.recipient for one in refused]
        result = partial(self._spool.postpone, delivery, wait, reason, left, progress)
        self._record(delivery, result)
        logger.warning(
            f"upload {delivery.id}: {target_label(delivery.target)}: {reason}; "
            f"it is safe, next try in {format_duration(wait)}"
        )

    def _wait_after(self, delivery: Delivery, least: float) -> float:
        return min(max(delivery.waited, MIN_WAIT, least), MAX_WAIT)


def describe_waiting(
    deliveries: Sequence[Delivery], now: float, in_progress: Collection[DeliveryKey] = ()
) -> str:
    """Return one line for each waiting delivery. `now` is a Unix time.

    `in_progress` are the keys of those being tried now, as far as the caller knows them.
    """
    lines = [_describe(one, now, one.key in in_progress) for one in deliveries]
    return "\n".join(lines) or "no pending deliveries"


def _describe(one: Delivery, now: float, is_in_progress: bool) -> str:
    file_number = f", file {one.file_number}" if one.file_number else ""
    facts = [
        f"to {format_recipients(one.recipients)} by {target_label(one.target)}",
        f"waiting for {format_duration(now - one.arrival.received)}",
    ]
    if one.attempts:
        times = {1: "once", 2: "twice"}.get(one.attempts, f"{one.attempts} times")
        facts.append(f"tried {times}")
    if is_in_progress:
        facts.append("being tried now")
    elif is_ahead(one.next_try, now):
        which = "next" if one.attempts else "first"
        facts.append(f"{which} try in {format_duration(one.next_try - now)}")
    else:
        facts.append("due now")
    reason = f": {printable(one.reason, MAX_REASON)}" if one.reason else ""
    return f"{one.arrival.id}{file_number}: {', '.join(facts)}{reason}"


def _reason(refused: Sequence[Refused]) -> str:
    """Return the reason of these refusals, with the recipients only if the reasons differ."""
    if len({one.reason for one in refused}) == 1:
        return refused[0].reason
    return format_list([f"{printable(one.recipient)} ({one.reason})" for one in refused])

"""Deliver stored uploads to their targets, and retry.

Each target has a worker thread, so that a slow server delays only its own deliveries. New and
retried deliveries take turns.

A delivery that fails is retried after 15 seconds, then after as long as it has waited so far, at
most an hour. After `retry_for`, or after a permanent error, it is abandoned: its files are saved
in `undelivered/`. If the target is unreachable, everything else that is due for it is postponed
as well. An upload that is too large is split into one delivery per file, and a body that cannot
be read goes to quarantine.

All state is in the spool. A delivery whose result was not recorded is repeated under the same id.
"""

from __future__ import annotations

import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial

from nxparse.deliver.errors import (
    Outcome,
    PermanentError,
    Refused,
    TemporaryError,
    TooLargeError,
    UnreachableError,
)
from nxparse.deliver.routes import target_label
from nxparse.deviation import BodyError
from nxparse.store.deliveries import MAX_WAIT, is_ahead
from nxparse.store.records import Delivery
from nxparse.store.spool import Spool
from nxparse.text import (
    error_reason,
    format_duration,
    format_list,
    format_recipients,
    printable,
)
from nxparse.upload import File, Upload

MIN_WAIT = 15.0  # seconds
JITTER = 0.1
POLL = 2.0  # seconds between two checks for changes by the command line

logger = logging.getLogger(__name__)

Deliver = Callable[[Upload, Sequence[File], Delivery], Outcome]
"""Delivers these files of an upload. Raises a DeliveryError or OSError."""

Attempted = tuple[str, str, int]
"""A delivery: the id of its upload, its target, and the number of the file (0: all files)."""


class Outbox:
    """Delivers the uploads in a spool.

    `deliver_to` returns the function that delivers to a target. `save_undelivered` saves
    files that could not be delivered, and returns a description of the place for the log.
    `retry_for` is in seconds. All three may be replaced at any time.
    """

    def __init__(
        self,
        spool: Spool,
        deliver_to: Callable[[str], Deliver],
        save_undelivered: Callable[[Sequence[File], Delivery], str],
        *,
        retry_for: float,
        clock: Callable[[], float],
        jitter: Callable[[], float] = lambda: random.uniform(1 - JITTER, 1 + JITTER),
    ) -> None:
        self._spool = spool
        self.deliver_to = deliver_to
        self.save_undelivered = save_undelivered
        self.retry_for = retry_for
        self._clock = clock
        self._jitter = jitter
        self._changed = threading.Condition()
        self._changes = 0
        self._stopping = False
        self._dispatcher: threading.Thread | None = None
        self._workers: dict[str, threading.Thread] = {}  # by target
        self._by_target: dict[str, Delivery] = {}  # by target
        # Targets that must not be contacted: until when (Unix time), and why.
        self._back_offs: dict[str, tuple[float, str]] = {}
        # Results that the database could not store.
        self._unrecorded: dict[Attempted, Callable[[], None]] = {}

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
        deadline = time.monotonic() + timeout
        # The dispatcher first: once it has ended there are no new workers.
        if self._dispatcher:
            self._dispatcher.join(timeout)
            if self._dispatcher.is_alive():
                return False
        for worker in self._workers.values():
            worker.join(max(0.0, deadline - time.monotonic()))
        return not any(worker.is_alive() for worker in self._workers.values())

    def wake(self) -> None:
        """Look for new deliveries now."""
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    @property
    def current(self) -> Sequence[Delivery]:
        """The deliveries in progress."""
        return [*self._by_target.values()]

    def attempted(self) -> set[Attempted]:
        """Return the keys of the deliveries in progress."""
        return {one.key for one in self.current}

    def deliver_due(self, target: str) -> None:
        """Make all deliveries that are due for a target."""
        self._continue_back_off(target)
        new = True
        while not self._stopping:
            delivery = self._spool.first_due(target, new=new)
            delivery = delivery or self._spool.first_due(target, new=not new)
            if delivery is None:
                return
            new = delivery.attempts > 0
            self._by_target[target] = delivery
            try:
                if unrecorded := self._unrecorded.get(delivery.key):
                    # It has been made: to repeat it would send a second mail.
                    self._record(delivery, unrecorded)
                else:
                    self._handle_errors(self._attempt, delivery)
            finally:
                del self._by_target[target]

    def _dispatch(self) -> None:
        """Start a worker for each target, and notice changes that other processes make."""
        version = -1
        while not self._stopping:
            changes = self._changes
            try:
                for target in self._spool.targets():
                    self._ensure_worker(target)
                if (found := self._spool.version()) != version:
                    version = found
                    self.wake()
            except Exception:
                logger.exception("cannot check for new deliveries")
            self._wait(POLL, changes)

    def _ensure_worker(self, target: str) -> None:
        old = self._workers.get(target)
        if not (old and old.is_alive()):
            name = f"nx {target_label(target)}"
            worker = threading.Thread(target=self._work, args=(target,), name=name, daemon=True)
            worker.start()
            self._workers[target] = worker

    def _work(self, target: str) -> None:
        while not self._stopping:
            changes = self._changes
            try:
                self.deliver_due(target)
                when = self._spool.next_try(target)
                wait = MAX_WAIT if when is None else min(max(0.0, when - self._clock()), MAX_WAIT)
            except Exception as error:
                wait = MIN_WAIT
                message = f"deliveries to {target_label(target)} paused for {wait:.0f} s"
                if isinstance(error, OSError | sqlite3.Error):
                    reason = error_reason(error)
                    logger.error(f"{message}: cannot read or write their state: {reason}")
                else:
                    logger.exception(message)
            self._wait(wait, changes)

    def _wait(self, seconds: float, changes: int) -> None:
        """Wait, unless something has changed since the count was `changes`, or on `stop`."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._changes != changes, seconds)

    def _handle_errors(self, action: Callable[[Delivery], None], delivery: Delivery) -> None:
        """Call `action` with a delivery, and handle the errors it raises."""
        try:
            action(delivery)
        except sqlite3.Error:
            raise
        except BodyError as error:
            self._quarantine(delivery, error)
        except OSError as error:
            self._retry(delivery, error_reason(error))
        except Exception as error:
            # A bug must not stop the other deliveries.
            logger.exception(
                f"upload {delivery.id}: {target_label(delivery.target)}: unexpected error"
            )
            self._retry(delivery, repr(error))

    def _attempt(self, delivery: Delivery) -> None:
        files: Sequence[File] = ()
        try:
            with self._spool.read(delivery) as (upload, files):
                outcome = self.deliver_to(delivery.target)(upload, files, delivery)
        except TooLargeError as error:
            if len(files) > 1:
                self._record(delivery, partial(self._spool.split, delivery, len(files)))
                logger.info(f"upload {delivery.id}: {error}; sending each file by itself")
            else:
                self._abandon(str(error), delivery)
        except PermanentError as error:
            self._abandon(str(error), delivery)
        except (TemporaryError, OSError) as error:
            reason = error_reason(error)
            least = getattr(error, "retry_after", None) or 0.0
            if self._expired(delivery):
                self._abandon(f"abandoned: {reason}", delivery)
            else:
                progress = getattr(error, "progress", ())
                self._retry(delivery, reason, least=least, progress=progress)
            if isinstance(error, UnreachableError):
                self._back_off(delivery, reason, least)
        else:
            self._settle(delivery, outcome)

    def _settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """Record the result for each recipient: reached, to be retried, or refused for good."""
        expired = self._expired(delivery)
        later = [one for one in outcome.refused if not one.permanent and not expired]
        never = [one for one in outcome.refused if one not in later]
        refused = {one.recipient for one in outcome.refused}
        reached = tuple(one for one in delivery.recipients if one not in refused)
        if never and not later and not reached:
            self._abandon(_common_reason(never), delivery)
            return
        if reached:
            logger.info(f"upload {delivery.id}: {outcome.message}")
        missed = f"not delivered to {_refusals(never)}" if never else ""
        if never:
            try:
                where = self._save_undelivered(delivery)
            except OSError as error:
                # Only the refused recipients are retried: the others have been reached.
                left = [one.recipient for one in outcome.refused]
                self._retry(delivery, f"{_refusals(never)}; {error_reason(error)}", left)
                return
            logger.warning(f"upload {delivery.id}: {missed}; {where}")
        if later:
            self._retry(delivery, _refusals(later), [one.recipient for one in later])
        else:
            done = delivery._replace(recipients=reached)
            self._record(delivery, partial(self._spool.done, done, missed, outcome.saved))

    def _record(self, delivery: Delivery, result: Callable[[], None]) -> None:
        """Store a result in the spool. If that fails, it is stored when the delivery is due."""
        self._unrecorded[delivery.key] = result
        result()
        del self._unrecorded[delivery.key]

    def _expired(self, delivery: Delivery) -> bool:
        # `waited` adds up the waits and depends on no clock, which may jump.
        return delivery.waited >= self.retry_for

    def _back_off(self, delivery: Delivery, reason: str, least: float) -> None:
        """Postpone what else is due for a target, as if it had failed together with `delivery`."""
        target = delivery.target
        for other in self._spool.due(target):
            if self._expired(other):
                self._handle_errors(partial(self._abandon, f"abandoned: {reason}"), other)
        wait = self._wait_after(delivery, least)
        self._postpone_others(target, wait, reason, except_for=delivery)
        if least:
            self._back_offs[target] = self._clock() + wait, reason

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

    def _abandon(self, reason: str, delivery: Delivery) -> None:
        where = self._save_undelivered(delivery)
        self._record(delivery, partial(self._spool.failed, delivery, reason))
        logger.warning(
            f"upload {delivery.id} is not delivered to {format_recipients(delivery.recipients)}: "
            f"{reason}; {where}"
        )

    def _save_undelivered(self, delivery: Delivery) -> str:
        with self._spool.read(delivery) as (_, files):
            return self.save_undelivered(files, delivery)

    def _quarantine(self, delivery: Delivery, error: BodyError) -> None:
        try:
            paths = self._spool.quarantine_delivery(delivery)
        except OSError as obstacle:
            self._retry(delivery, f"{error}, and quarantine: {error_reason(obstacle)}")
            return
        self._record(delivery, partial(self._spool.failed, delivery, str(error)))
        kept = f"; its body is in quarantine: {format_list([*map(str, paths)])}" if paths else ""
        logger.warning(f"upload {delivery.id} cannot be delivered: {error}{kept}")

    def _retry(
        self,
        delivery: Delivery,
        reason: str,
        recipients: Sequence[str] | None = None,
        least: float = 0.0,
        progress: Sequence[str] = (),
    ) -> None:
        """Postpone a delivery by at least `least` seconds, to `recipients` or all of its own."""
        wait = self._wait_after(delivery, least)
        left = delivery.recipients if recipients is None else recipients
        self._record(
            delivery, partial(self._spool.postpone, delivery, wait, reason, left, progress)
        )
        logger.warning(
            f"upload {delivery.id}: {target_label(delivery.target)}: {reason}; "
            f"it is safe, next try in {format_duration(wait)}"
        )

    def _wait_after(self, delivery: Delivery, least: float) -> float:
        wait = min(max(delivery.waited, MIN_WAIT, least), MAX_WAIT)
        return max(wait * self._jitter(), min(least, MAX_WAIT))


def describe_waiting(
    deliveries: Sequence[Delivery], now: float, attempts: Collection[Attempted] = ()
) -> str:
    """Return one line for each waiting delivery. `now` is a Unix time.

    `attempts` are the deliveries in progress, as far as the caller knows them.
    """
    lines = [_describe(one, now, one.key in attempts) for one in deliveries]
    return "\n".join(lines) or "no pending deliveries"


def _describe(one: Delivery, now: float, in_progress: bool) -> str:
    file_number = f", file {one.file_number}" if one.file_number else ""
    facts = [
        f"to {format_recipients(one.recipients)} by {target_label(one.target)}",
        f"waiting for {format_duration(now - one.arrival.received)}",
    ]
    if one.attempts:
        times = {1: "once", 2: "twice"}.get(one.attempts, f"{one.attempts} times")
        facts.append(f"tried {times}")
    if in_progress:
        facts.append("being tried now")
    elif is_ahead(one.next_try, now):
        which = "next" if one.attempts else "first"
        facts.append(f"{which} try in {format_duration(one.next_try - now)}")
    else:
        facts.append("due now")
    reason = f": {printable(one.reason, 200)}" if one.reason else ""
    return f"{one.arrival.id}{file_number}: {', '.join(facts)}{reason}"


def _refusals(refused: Sequence[Refused]) -> str:
    return format_list([f"{printable(one.recipient)} ({one.reason})" for one in refused])


def _common_reason(refused: Sequence[Refused]) -> str:
    """Return the reason of these refusals, with the recipients only if the reasons differ."""
    reasons = {one.reason for one in refused}
    return reasons.pop() if len(reasons) == 1 else _refusals(refused)

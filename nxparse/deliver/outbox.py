"""What is still to be delivered, to whom, and when again.

A delivery is an upload on its way to one target. Each target has a thread, so
that a server which does not answer holds up nobody else's mail. How a delivery
may end:

    it succeeds            it is done for good
    a recipient is refused the others are done; this one is retried or given up. If all
                           are refused for good, the delivery has failed
    it fails for now       it waits: 15 seconds, then as long as it has waited
                           already, at most an hour, each a little longer or
                           shorter than the last; after `retry_for` it is given up
    the target is unreachable  the same, and what else is due waits with it: after
                           an outage a server is asked once, not a thousand times;
                           if it asks for patience, what comes later waits, too
    it is too large        it becomes one delivery for each file
    it fails for good      it is given up
    its body is not to be read  it goes into quarantine

What is new and what has failed before are tried in turn: neither waits for the
end of a long queue of the other.

To give up is to put the files into `undelivered/`, and to warn. All of this
stands in the spool, so that a restart, or a crash, changes nothing: at worst a
delivery whose end was not noted is made twice, under the same id.

The time that a delivery has waited is added up from its waits, not read from a
clock: a clock that is set by ten years lets nothing expire.
"""

from __future__ import annotations

import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
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
POLL = 2.0  # seconds until somebody is noticed who has used the command line

logger = logging.getLogger(__name__)

Deliver = Callable[[Upload, Sequence[File], Delivery], Outcome]
"""Delivers these files of an upload. Raises a DeliveryError or OSError."""


Attempted = tuple[str, str, int]
"""A delivery: the id of its upload, its target, and the number of the file (0: all files)."""


class Outbox:
    """Delivers what is in a spool.

    `deliver_to` gives the function that delivers to a target, by its text.
    `keep` puts files that could not be delivered where a person finds them, and
    says where that is. `retry_for` is in seconds. All three may be replaced at any time.
    """

    def __init__(
        self,
        spool: Spool,
        deliver_to: Callable[[str], Deliver],
        keep: Callable[[Upload, Sequence[File], Delivery], str],
        *,
        retry_for: float,
        clock: Callable[[], float],
        jitter: Callable[[], float] = lambda: random.uniform(1 - JITTER, 1 + JITTER),
    ) -> None:
        self._spool = spool
        self.deliver_to = deliver_to
        self.keep = keep
        self.retry_for = retry_for
        self._clock = clock
        self._jitter = jitter
        self._changed = threading.Condition()
        self._changes = 0
        self._stopping = False
        self._workers: dict[str, threading.Thread] = {}
        # Targets that asked not to be contacted: until when (Unix time), and why.
        self._back_offs: dict[str, tuple[float, str]] = {}
        # What the database could not take: how deliveries have ended, by target and id.
        self._unnoted: dict[tuple[str, str], Callable[[], None]] = {}
        self._at_hand: dict[str, Delivery] = {}  # by target: what its worker delivers
        self._dispatcher: threading.Thread | None = None

    def start(self) -> None:
        """Deliver what is due. May follow a `stop` while a delivery is still at hand."""
        if self._dispatcher:
            self._dispatcher.join()
        self._stopping = False
        self._dispatcher = threading.Thread(target=self._dispatch, name="nx outbox", daemon=True)
        self._dispatcher.start()

    @property
    def at_hand(self) -> Sequence[Delivery]:
        """The deliveries that are being made now."""
        return [*self._at_hand.values()]

    def wake(self) -> None:
        """There is something new in the spool."""
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    def stop(self, timeout: float) -> bool:
        """End after the deliveries at hand. Tells whether they ended within `timeout` seconds."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        deadline = time.monotonic() + timeout
        # Once the dispatcher has ended there are no new workers.
        if self._dispatcher:
            self._dispatcher.join(timeout)
            if self._dispatcher.is_alive():
                return False
        for worker in self._workers.values():
            worker.join(max(0.0, deadline - time.monotonic()))
        return not any(worker.is_alive() for worker in self._workers.values())

    def attempted(self) -> set[Attempted]:
        """Return the deliveries that are being tried now, by their keys."""
        return {_attempted(one) for one in self.at_hand}

    def deliver_due(self, target: str) -> None:
        """Try everything that is due for a target."""
        self._continue_back_off(target)
        new = True
        while not self._stopping:
            delivery = self._spool.first_due(target, new=new)
            delivery = delivery or self._spool.first_due(target, new=not new)
            if delivery is None:
                return
            new = delivery.attempts > 0
            self._at_hand[target] = delivery
            try:
                self._deliver(delivery)
            finally:
                del self._at_hand[target]

    # Threads

    def _dispatch(self) -> None:
        """Give each target a thread, and notice what others have changed in the spool."""
        version = -1
        while not self._stopping:
            changes = self._changes
            try:
                for path in self._spool.tidy():
                    logger.warning(f"quarantine is full: deleted the oldest in it, {path}")
                for target in self._spool.targets():
                    old = self._workers.get(target)
                    if not (old and old.is_alive()):
                        name = f"nx {target_label(target)}"
                        worker = threading.Thread(
                            target=self._run, args=(target,), name=name, daemon=True
                        )
                        worker.start()
                        self._workers[target] = worker
                if (found := self._spool.version()) != version:
                    version = found
                    self.wake()
            except Exception:
                logger.exception("cannot look after the deliveries")
            self._wait(POLL, changes)

    def _run(self, target: str) -> None:
        while not self._stopping:
            changes = self._changes
            try:
                self.deliver_due(target)
                when = self._spool.next_try(target)
                wait = MAX_WAIT if when is None else min(max(0.0, when - self._clock()), MAX_WAIT)
            except (OSError, sqlite3.Error) as error:
                logger.error(
                    f"deliveries to {target_label(target)} stop for {MIN_WAIT:.0f} s: "
                    f"their state cannot be read or written: {error_reason(error)}"
                )
                wait = MIN_WAIT
            except Exception:
                # Whatever it is, it must not end the thread.
                logger.exception(f"deliveries to {target_label(target)} stop for {MIN_WAIT:.0f} s")
                wait = MIN_WAIT
            self._wait(wait, changes)

    def _wait(self, seconds: float, changes: int) -> None:
        """Wait, but not when something has changed since `changes`, or when all ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._changes != changes, seconds)

    # One delivery

    def _deliver(self, delivery: Delivery) -> None:
        if unnoted := self._unnoted.get((delivery.target, delivery.id)):
            # It has been made: to make it again would be to mail it twice.
            self._note(delivery, unnoted)
        else:
            self._read(delivery, self._attempt)

    def _read(
        self, delivery: Delivery, then: Callable[[Upload, Sequence[File], Delivery], None]
    ) -> None:
        """Do something with the files of a delivery."""
        try:
            with self._spool.read(delivery) as (upload, files):
                then(upload, files, delivery)
        except sqlite3.Error:
            raise
        except BodyError as error:
            self._quarantine(delivery, error)
        except OSError as error:
            self._retry(delivery, error_reason(error))
        except Exception as error:
            # A fault of ours must not stop the deliveries behind this one.
            logger.exception(f"upload {delivery.id}: {target_label(delivery.target)} has failed")
            self._retry(delivery, repr(error))

    def _attempt(self, upload: Upload, files: Sequence[File], delivery: Delivery) -> None:
        try:
            outcome = self.deliver_to(delivery.target)(upload, files, delivery)
        except TooLargeError as error:
            if len(files) > 1:
                self._note(delivery, partial(self._spool.split, delivery, len(files)))
                logger.info(f"upload {delivery.id}: {error}; sending each file by itself")
            else:
                self._give_up(upload, files, delivery, str(error))
        except PermanentError as error:
            self._give_up(upload, files, delivery, str(error))
        except (TemporaryError, OSError) as error:
            reason = error_reason(error)
            least = getattr(error, "retry_after", None) or 0.0
            progress = getattr(error, "progress", ())
            if delivery.waited >= self.retry_for:
                self._expire(reason, upload, files, delivery)
            else:
                self._retry(delivery, reason, least=least, progress=progress)
            if isinstance(error, UnreachableError):
                self._back_off(delivery, reason, least)
        else:
            self._settle(upload, files, delivery, outcome)

    def _settle(
        self, upload: Upload, files: Sequence[File], delivery: Delivery, outcome: Outcome
    ) -> None:
        """Note how a delivery has ended for each of its recipients.

        It is done if at least one was reached, and failed if all were refused for good.
        """
        expired = delivery.waited >= self.retry_for
        later = [one for one in outcome.refused if not one.permanent and not expired]
        never = [one for one in outcome.refused if one not in later]
        refused = {one.recipient for one in outcome.refused}
        reached = tuple(one for one in delivery.recipients if one not in refused)
        if never and not later and not reached:
            self._give_up(upload, files, delivery, _common_reason(never))
            return
        if reached:
            logger.info(f"upload {delivery.id}: {outcome.told}")
        missed = f"not delivered to {_refusals(never)}" if never else ""
        if never:
            try:
                where = self.keep(upload, files, delivery)
            except OSError as error:
                # Who has been reached must not be delivered to again for that.
                left = [one.recipient for one in outcome.refused]
                self._retry(delivery, f"{_refusals(never)}; {error_reason(error)}", left)
                return
            logger.warning(f"upload {delivery.id}: {missed}; {where}")
        if later:
            self._retry(delivery, _refusals(later), [one.recipient for one in later])
        else:
            done = replace(delivery, recipients=reached)
            self._note(delivery, partial(self._spool.done, done, missed, outcome.saved))

    def _note(self, delivery: Delivery, note: Callable[[], None]) -> None:
        """Note in the spool what has become of a delivery; if that fails, when it is due again."""
        key = (delivery.target, delivery.id)
        self._unnoted[key] = note
        note()
        del self._unnoted[key]

    def _back_off(self, delivery: Delivery, reason: str, least: float) -> None:
        """Postpone what else is due for a target, as if it had failed together with `delivery`."""
        target = delivery.target
        for other in self._spool.due(target):
            if other.waited >= self.retry_for:
                self._read(other, partial(self._expire, reason))
        wait = self._wait_after(delivery, least)
        others = self._spool.back_off(target, wait, reason, except_for=delivery)
        if others:
            logger.warning(
                f"{others} more for {target_label(target)} wait with upload {delivery.id}"
            )
        if least:
            self._back_offs[target] = self._clock() + wait, reason

    def _continue_back_off(self, target: str) -> None:
        """Postpone what has arrived meanwhile, too, but not what the user retries."""
        until, reason = self._back_offs.get(target, (0.0, ""))
        now = self._clock()
        wait = until - now
        if not is_ahead(until, now):
            self._back_offs.pop(target, None)
        elif others := self._spool.back_off(target, wait, reason):
            logger.warning(f"{others} more for {target_label(target)} wait: {reason}")

    def _expire(
        self, reason: str, upload: Upload, files: Sequence[File], delivery: Delivery
    ) -> None:
        self._give_up(upload, files, delivery, f"given up: {reason}")

    def _give_up(
        self, upload: Upload, files: Sequence[File], delivery: Delivery, reason: str
    ) -> None:
        where = self.keep(upload, files, delivery)
        self._note(delivery, partial(self._spool.failed, delivery, reason))
        logger.warning(
            f"upload {delivery.id} is not delivered to {format_recipients(delivery.recipients)}: "
            f"{reason}; {where}"
        )

    def _quarantine(self, delivery: Delivery, error: BodyError) -> None:
        try:
            paths = self._spool.give_up(delivery)
        except OSError as obstacle:
            self._retry(delivery, f"{error}, and quarantine: {error_reason(obstacle)}")
            return
        self._note(delivery, partial(self._spool.failed, delivery, str(error)))
        kept = f"; its body is kept as {format_list([*map(str, paths)])}" if paths else ""
        logger.warning(f"upload {delivery.id} cannot be delivered: {error}{kept}")

    def _retry(
        self,
        delivery: Delivery,
        reason: str,
        recipients: Sequence[str] | None = None,
        least: float = 0.0,
        progress: Sequence[str] = (),
    ) -> None:
        wait = self._wait_after(delivery, least)
        left = delivery.recipients if recipients is None else recipients
        self._note(delivery, partial(self._spool.postpone, delivery, wait, reason, left, progress))
        logger.warning(
            f"upload {delivery.id}: {target_label(delivery.target)}: {reason}; "
            f"it is safe, next try in {format_duration(wait)}"
        )

    def _wait_after(self, delivery: Delivery, least: float) -> float:
        wait = waiting_time(delivery.waited, least)
        return max(wait * self._jitter(), min(least, MAX_WAIT))


def waiting_time(waited: float, least: float = 0.0) -> float:
    """How long to wait until the next attempt when `waited` seconds have been waited so far."""
    return min(max(waited, MIN_WAIT, least), MAX_WAIT)


def _refusals(refused: Sequence[Refused]) -> str:
    return format_list([f"{printable(one.recipient)} ({one.reason})" for one in refused])


def _common_reason(refused: Sequence[Refused]) -> str:
    """The reason why all of these were refused, with their names only if the reasons differ."""
    reasons = {one.reason for one in refused}
    return reasons.pop() if len(reasons) == 1 else _refusals(refused)


def describe_waiting(
    deliveries: Sequence[Delivery], now: float, attempts: Collection[Attempted] = ()
) -> str:
    """Return one line for each waiting delivery. `now` is a Unix time.

    `attempts` are the deliveries that are being tried, as far as the caller can know.
    """
    return "\n".join(_describe(one, now, attempts) for one in deliveries) or "nothing waits"


def _describe(one: Delivery, now: float, attempts: Collection[Attempted]) -> str:
    file_number = f", file {one.file_number}" if one.file_number else ""
    recipients = format_recipients(one.recipients)
    facts = [
        f"to {recipients} by {target_label(one.target)}",
        f"waiting for {format_duration(now - one.arrival.received)}",
    ]
    if one.attempts:
        times = {1: "once", 2: "twice"}.get(one.attempts, f"{one.attempts} times")
        facts.append(f"tried {times}")
    if _attempted(one) in attempts:
        facts.append("being tried now")
    elif is_due(one.next_try, now):
        facts.append("due now")
    else:
        which = "next" if one.attempts else "first"
        facts.append(f"{which} try in {format_duration(one.next_try - now)}")
    reason = f": {printable(one.reason, 200)}" if one.reason else ""
    return f"{one.arrival.id}{file_number}: {', '.join(facts)}{reason}"


def _attempted(delivery: Delivery) -> Attempted:
    return delivery.arrival.id, delivery.target, delivery.file_number


def is_due(next_try: float, now: float) -> bool:
    """Is a delivery tried at once? Also if it would wait for too long: the clock was set back."""
    return not is_ahead(next_try, now)

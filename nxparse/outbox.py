"""What is still to be delivered, to whom, and when again.

One thread takes what is due from the spool and delivers it. What succeeds is
done for good. What fails for a reason that may pass (a full disk) waits and is
tried again, for the first time after 15 seconds, then after as long as it has
been waiting already, at most an hour. What can never succeed is given up, and
its body put where a person can look at it. All of that stands in the spool, so
that a restart, or a crash, changes nothing: at worst a delivery whose end was
not noted is made twice.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Mapping

from nxparse import report
from nxparse.deviation import BodyError
from nxparse.spool import MAX_WAIT, Arrival, Delivery, Spool
from nxparse.upload import Upload

MIN_WAIT = 15.0  # seconds

logger = logging.getLogger(__name__)

Deliver = Callable[[Upload, Arrival], str]
"""Delivers an upload to a target and tells what it did. Raises OSError if it cannot yet."""


class Outbox:
    """Delivers what is in a spool. `targets` has a function for each name of a target."""

    def __init__(
        self, spool: Spool, targets: Mapping[str, Deliver], clock: Callable[[], float]
    ) -> None:
        self._spool = spool
        self._targets = targets
        self._clock = clock
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="nx outbox", daemon=True)

    def start(self) -> None:
        """Begin with what is left from last time."""
        self._thread.start()

    def wake(self) -> None:
        """There is something new in the spool."""
        self._wake.set()

    def stop(self, timeout: float) -> bool:
        """End after the delivery at hand. Tells whether it ended within `timeout` seconds."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def deliver_due(self) -> float | None:
        """Try everything that is due. Returns the seconds until more is, None if nothing waits."""
        for delivery in self._spool.due():
            if self._stopping:
                break
            self._deliver(delivery)
        for path in self._spool.tidy():
            logger.warning(f"quarantine is full: deleted the oldest in it, {path}")
        when = self._spool.next_try()
        return None if when is None else max(0.0, when - self._clock())

    def _run(self) -> None:
        while True:
            self._wake.clear()
            if self._stopping:
                return
            try:
                wait = self.deliver_due()
            except Exception:
                # The database, most likely. Whatever it is, it must not end the thread.
                logger.exception(f"deliveries stop for {MIN_WAIT:.0f} s")
                wait = MIN_WAIT
            self._wake.wait(MAX_WAIT if wait is None else min(wait, MAX_WAIT))

    def _deliver(self, delivery: Delivery) -> None:
        arrival = delivery.arrival
        try:
            with self._spool.read(arrival) as upload:
                told = self._targets[delivery.target](upload, arrival)
        except BodyError as error:
            self._give_up(delivery, error)
        except sqlite3.Error:
            raise
        except OSError as error:
            self._retry(delivery, report.reason(error))
        except Exception as error:
            # A fault of ours must not stop the deliveries behind this one.
            logger.exception(f"upload {arrival.id}: {delivery.target} has failed")
            self._retry(delivery, repr(error))
        else:
            self._spool.done(delivery)
            logger.info(f"upload {arrival.id}: {told}")

    def _give_up(self, delivery: Delivery, error: BodyError) -> None:
        try:
            path = self._spool.give_up(delivery.arrival)
        except OSError as obstacle:
            self._retry(delivery, f"{error}, and quarantine: {report.reason(obstacle)}")
            return
        self._spool.failed(delivery, str(error))
        kept = f"; its body is kept as {path}" if path else ""
        logger.warning(f"upload {delivery.arrival.id} cannot be delivered: {error}{kept}")

    def _retry(self, delivery: Delivery, reason: str) -> None:
        now = self._clock()
        wait = min(max(now - delivery.arrival.received, MIN_WAIT), MAX_WAIT)
        self._spool.postpone(delivery, now + wait, reason)
        logger.warning(
            f"upload {delivery.arrival.id}: {delivery.target}: {reason}; "
            f"it is safe, trying again in {wait:.0f} s"
        )

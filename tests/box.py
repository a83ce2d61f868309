"""A spool and its outbox for one target, in the process of a test, with a clock of their own."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from nxparse.config import OPTIONS, Config, parse
from nxparse.deliver.outbox import Outbox
from nxparse.deliver.targets import deliver_to, save_undelivered
from nxparse.store.records import Delivery, StoredUpload
from nxparse.store.spool import Spool
from nxparse.upload import File
from tests import bodies
from tests.arrivals import accept
from tests.clock import Clock

NOON = 1767268800.0  # 2026-01-01 12:00 UTC
ID = "20260101T120000Z-0123abcd"
PHOTO = bodies.jpeg(500)


def configured(directory: Path, environ: Mapping[str, str] = {}, **options: object) -> Config:
    """Return a Config with these options, and the defaults of the others."""
    defaults = {option.name: option.default for option in OPTIONS}
    return parse({**defaults, "nx_dir": str(directory), **options}, environ)


def photo(data: bytes = PHOTO, name: str | None = "SAM_4371.JPG") -> File:
    """A photo in memory."""
    return File(name, "image/jpeg", len(data), 0, lambda start, end: data[start:end])


def delivery(
    target: str = "save",
    *,
    to: Sequence[str] = (bodies.RECIPIENT,),
    file_number: int = 0,
    site: str = "",
    progress: Sequence[str] = (),
) -> Delivery:
    """The first attempt to deliver an upload that was received at noon."""
    arrival = StoredUpload(ID, NOON, "192.0.2.7", bodies.SENDER, site)
    return Delivery(arrival, target, file_number, tuple(to), 0, 0.0, NOON, "", tuple(progress))


class Box:
    """A spool that contains an upload, and its outbox. `retry_for` is in seconds."""

    def __init__(
        self,
        directory: Path,
        target: str,
        environ: Mapping[str, str],
        body: bytes,
        to: Sequence[str] = (bodies.RECIPIENT,),
        retry_for: float = 3600.0,
        **options: object,
    ) -> None:
        usual: dict[str, object] = {"nx_senders": ["*"], "nx_route": [f"*={target}"]}
        given = configured(directory, environ, **usual | options)
        self.clock = Clock(NOON)
        self.target = target
        self.spool = Spool(directory / ".nx", self.clock)
        weakref.finalize(self, self.spool.close)
        self._to = to
        self.id = self.add(body)
        self.outbox = Outbox(
            self.spool,
            partial(deliver_to, given, environ),
            partial(save_undelivered, directory),
            retry_for=retry_for,
            clock=self.clock,
        )

    def add(self, body: bytes) -> str:
        """Accept another upload. Returns its id."""
        return accept(self.spool, body, {self.target: self._to}).id

    def deliver(self) -> None:
        """Make all deliveries that are due."""
        self.outbox.deliver_due(self.target)

    @property
    def waits(self) -> list[tuple[str, float]]:
        """The ids of pending deliveries, each with the seconds until its next try."""
        return [(one.id, one.next_try - self.clock.now) for one in self.spool.waiting()]

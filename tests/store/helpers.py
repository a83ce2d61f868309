"""Uploads and posts in a spool, for the tests of the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nxparse.store.body import Incoming
from nxparse.store.records import Delivery, Post, StoredUpload
from nxparse.store.spool import Spool
from tests import arrivals
from tests.arrivals import CLIENT, parsed
from tests.bodies import RECIPIENT, body, jpeg
from tests.clock import Clock
from tests.faults import contents

PHOTO = jpeg(500)
BODY = body([("SAM_4371.JPG", PHOTO)])
SAVE = {"save": [RECIPIENT]}
SITE = "facebook"
MAIL, OTHER = "mail:me@example.org", "mail:you@example.org"
POST = Post(CLIENT, "anna", "a session", SITE, "NX300", "At the sea")
YEARS = 10 * 365 * 86400.0

Reopen = Callable[[], Spool]


def receive(into: Spool, data: bytes = BODY) -> Incoming:
    """Receive a body in two chunks."""
    incoming = into.begin(len(data))
    incoming.write(data[:100])
    incoming.write(data[100:])
    return incoming


UPLOAD = parsed(BODY)


def accept(
    into: Spool, data: bytes = BODY, targets: tuple[str, ...] = ("save",), client: str = CLIENT
) -> StoredUpload:
    """Accept an upload and confirm its reply."""
    return arrivals.accept(into, data, {target: [RECIPIENT] for target in targets}, client)


def to(arrival: StoredUpload, target: str, file_number: int = 0) -> Delivery:
    """Return the delivery of an upload, or of one file of it."""
    return Delivery(arrival, target, file_number, (RECIPIENT,), 0, 0.0, arrival.received, "")


def photo(number: int) -> bytes:
    """Return a photo of a post."""
    return jpeg(300 + number, number)


NUMBERS = {photo(number): number for number in range(1, 81)}


def append(into: Spool, number: int, post: Post = POST, **options: Any) -> StoredUpload:
    """Accept a photo of a post: it is saved at once, and mailed with the others."""
    options = {"at_once": ("save",), "together": (MAIL,), **options}
    return arrivals.append(into, post, f"{number}.JPG", photo(number), **options)


def numbers(found: Spool, delivery: Delivery) -> list[int]:
    """Return the numbers of the photos in a delivery."""
    with found.read(delivery) as (_, files):
        return [NUMBERS[file.data] for file in files]


def posts(found: Spool, target: str = MAIL) -> list[list[int]]:
    """Return the photos of each waiting delivery to a target."""
    return sorted(numbers(found, one) for one in found.waiting() if one.target == target)


def waits(found: Spool, clock: Clock) -> list[tuple[str, int, float]]:
    """Return target, file number and remaining seconds of each waiting delivery."""
    return sorted(
        (one.target, one.file_number, one.next_try - clock.now) for one in found.waiting()
    )


def spooled(root: Path) -> list[int]:
    """Return the numbers of the photos in the spool."""
    return sorted(NUMBERS[data] for data in contents(root / "spool").values())


def bodies(root: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Return the bodies in `spool` and `quarantine`."""
    return contents(root / "spool"), contents(root / "quarantine")

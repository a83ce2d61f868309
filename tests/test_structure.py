"""Bodies with faults in their structure: each photo is delivered, or the body is quarantined.

The bodies are made at random, from fixed seeds. Their faults have in common that a parser
which trusts the framing loses bytes silently.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

import pytest

from nxparse import multipart
from nxparse.deviation import BodyError
from nxparse.server.receive import BodyInfo, EmailReceiver
from nxparse.store.spool import Spool
from nxparse.upload import Upload, read
from tests import bodies
from tests.bodies import Faulty
from tests.box import configured
from tests.clock import NEW_YEAR
from tests.faults import contents, make_lazy
from tests.scans import read_chunked

BATCHES = 8
SIZE = 200
"""The number of bodies in a batch."""
RECEIVED = 150
"""The number of bodies that are also received and delivered."""


def made(batch: int, count: int = SIZE) -> Iterator[Faulty]:
    random = Random(batch)
    for _ in range(count):
        yield bodies.faulty(partial(chosen, random, random.randrange(5)))


def chosen(random: Random, tame: int, count: int) -> int:
    """Choose any number, but often 0: most bodies have few faults."""
    return random.randrange(count) if random.randrange(5) >= tame else 0


def found(upload: Upload) -> list[tuple[str | None, bytes]]:
    return [(file.name, file.data) for file in upload.files]


@pytest.mark.parametrize("batch", range(BATCHES))
def test_every_photo_is_read_or_none(batch: int) -> None:
    """An accepted body has each photo, byte for byte. A readable body is accepted."""
    for number, one in enumerate(made(batch)):
        try:
            upload = read(one.body, bodies.CONTENT_TYPE)
        except BodyError:
            if one.readable:
                raise
            continue
        assert found(upload) == list(one.photos), (number, one.body)
        found_again = read_chunked(one.body, 1 + number, bodies.CONTENT_TYPE)
        assert found_again == upload, (number, one.body)


@pytest.mark.parametrize("batch", range(BATCHES))
def test_repair_loses_no_photo(batch: int) -> None:
    """A repaired body passes with `strict`, and has the same photos."""
    for number, one in enumerate(made(batch)):
        try:
            photos = found(read(one.body, bodies.CONTENT_TYPE))
        except BodyError:
            continue
        content_type, repaired = multipart.repair(one.body, bodies.CONTENT_TYPE)
        multipart.parse(repaired, content_type, strict=True)
        assert found(read(repaired, content_type)) == photos, (number, one.body)


def test_most_are_readable() -> None:
    """Most of the bodies are readable."""
    every = [one.readable for batch in range(BATCHES) for one in made(batch)]
    assert sum(every) > len(every) / 2


def test_saved_or_in_quarantine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 200 each photo is delivered, byte for byte; otherwise the body is quarantined."""
    make_lazy(monkeypatch)
    directory = tmp_path / "uploads"
    spool = Spool(directory / ".nx", lambda: NEW_YEAR)
    expected, refused = [], []
    for one in made(BATCHES, RECEIVED):
        receiver = EmailReceiver(
            spool, configured(directory), BodyInfo("192.0.2.7", bodies.CONTENT_TYPE, len(one.body))
        ).open()
        for start in range(0, len(one.body), 100):
            receiver.feed(one.body[start : start + 100])
        result = receiver.finish()
        if result.accepted:
            spool.reply_confirmed(result.accepted)
            expected.append(list(one.photos))
        else:
            refused.append(one.body)
    stored = []
    for delivery in spool.waiting():
        with spool.read(delivery) as (upload, _):
            stored.append(found(upload))
    spool.close()
    assert sorted(map(repr, stored)) == sorted(map(repr, expected))
    assert sorted(contents(directory / ".nx" / "quarantine").values()) == sorted(refused)
    assert expected
    assert refused

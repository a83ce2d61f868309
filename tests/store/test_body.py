"""The room that uploads need on the disk."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import pytest

from nxparse.store.body import MIN_FREE, STRIDE, Room


@dataclass
class Disk:
    """A disk with so many free bytes."""

    free: int

    def __call__(self) -> int:
        return self.free


def has_room(room: Room, id: str, size: int, length: int | None) -> bool:
    try:
        room.reserve(id, size, length)
    except OSError as error:
        return error.errno != errno.ENOSPC
    return True


@pytest.mark.parametrize(
    ("size", "length", "needed"),
    [
        pytest.param(0, 1000, 2000, id="not begun"),
        pytest.param(400, 1000, 1600, id="under way"),
        pytest.param(1000, 1000, 1000, id="still to be saved"),
        pytest.param(0, None, 2 * STRIDE, id="no length"),
        pytest.param(5 * STRIDE, None, 7 * STRIDE, id="no length, under way"),
    ],
)
def test_needed(size: int, length: int | None, needed: int) -> None:
    """What is not there yet, and what saving it will take, must be free beside the reserve."""
    assert has_room(Room(Disk(MIN_FREE + needed)), "a", size, length)
    assert not has_room(Room(Disk(MIN_FREE + needed - 1)), "a", size, length)


def test_others_count() -> None:
    """What others have reserved, and what accepted uploads still need, is not free."""
    disk = Disk(MIN_FREE + 5000)
    room = Room(disk)
    assert has_room(room, "a", 0, 1000)
    assert has_room(room, "b", 0, 1000)
    assert not has_room(room, "c", 0, 1000)
    disk.free -= 1000  # the body of a has come
    room.accepted("a", 1000)
    assert not has_room(room, "c", 0, 1000)
    disk.free -= 1000  # it is saved
    assert not has_room(room, "c", 0, 1000)
    disk.free += 1000  # and its body is deleted
    room.release("a")
    assert has_room(room, "c", 0, 1000)


def test_what_was_refused_reserves_nothing() -> None:
    """An upload that has no room takes none from the others."""
    room = Room(Disk(MIN_FREE + 2000))
    assert not has_room(room, "a", 0, 1001)
    assert has_room(room, "b", 0, 1000)


@pytest.mark.parametrize(("length", "fits"), [(1000, True), (None, False)])
def test_others_count_at_strides(length: int | None, fits: bool) -> None:
    """A body without length has reserved nothing, so the others count for it again and again."""
    room = Room(Disk(MIN_FREE + 4 * STRIDE))
    assert has_room(room, "other", 0, STRIDE)
    assert has_room(room, "a", 0, length)
    room = Room(Disk(MIN_FREE + 3 * STRIDE))
    room.needs["other"] = 2 * STRIDE
    assert has_room(room, "a", 1, length) is fits

"""A body that is being received, and the space that uploads need on the disk."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from stat import S_ISREG

import pytest

from nxparse.store import body
from nxparse.store.body import MIN_FREE, STRIDE, Incoming, Room
from nxparse.store.disk import Folder


@dataclass
class Disk:
    """A disk with this many free bytes."""

    free: int

    def __call__(self) -> int:
        return self.free


def has_room(room: Room, id: str, size: int, length: int | None) -> bool:
    """Reserve space, or release it if there is too little."""
    try:
        room.reserve(id, size, length)
    except OSError as error:
        room.release(id)
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True


@pytest.mark.parametrize(
    ("size", "length", "needed"),
    [
        pytest.param(0, 1000, 2000, id="not begun"),
        pytest.param(400, 1000, 1600, id="under way"),
        pytest.param(1000, 1000, 1000, id="complete"),
        pytest.param(1200, 1000, 1200, id="longer than announced"),
        pytest.param(0, None, 2 * STRIDE, id="no length"),
        pytest.param(5 * STRIDE, None, 7 * STRIDE, id="no length, under way"),
    ],
)
def test_needed(size: int, length: int | None, needed: int) -> None:
    """The rest of the body and a copy of it must fit, and the minimum must stay free."""
    assert has_room(Room(Disk(MIN_FREE + needed)), "a", size, length)
    assert not has_room(Room(Disk(MIN_FREE + needed - 1)), "a", size, length)


def test_others_count() -> None:
    """Space that other uploads have reserved, arriving or accepted, is not free."""
    disk = Disk(MIN_FREE + 5000)
    room = Room(disk)
    assert has_room(room, "a", 0, 1000)
    assert has_room(room, "b", 0, 1000)
    assert not has_room(room, "c", 0, 1000)
    disk.free -= 1000  # the body of a arrives
    room.needed["a"] = 1000  # it is accepted
    assert room.needed == {"a": 1000, "b": 2000}
    assert not has_room(room, "c", 0, 1000)
    disk.free -= 1000  # it is saved
    assert not has_room(room, "c", 0, 1000)
    disk.free += 1000  # and its body is deleted
    room.release("a")
    assert has_room(room, "c", 0, 1000)


@pytest.mark.parametrize(("length", "fits"), [(1000, True), (None, False)])
def test_others_count_at_strides(length: int | None, fits: bool) -> None:
    """For a body without a length, other uploads are counted again at each stride."""
    room = Room(Disk(MIN_FREE + 2 * STRIDE + 1000))
    room.needed["other"] = 2 * STRIDE
    assert has_room(room, "a", 1, length) is fits


class TestIncoming:
    @pytest.fixture
    def room(self) -> Room:
        return Room(Disk(MIN_FREE + 10_000))

    def test_written(self, tmp_path: Path, room: Room) -> None:
        """Written bytes can be read back, and need no more space."""
        with Folder(tmp_path) as folder:
            incoming = Incoming("a", folder, room, 10, lambda work: None)
            incoming.write(b"01234")
            seen = [incoming.fetch(1, 4), incoming.size, room.needed["a"]]
            incoming.write(b"56789")
            seen += [incoming.fetch(3, 10), incoming.size, room.needed["a"]]
            incoming.close()
            incoming.close()
        assert seen == [b"123", 5, 15, b"3456789", 10, 10]

    @pytest.mark.parametrize("length", [5001, None])
    def test_refused(self, tmp_path: Path, room: Room, length: int | None) -> None:
        """A body without space leaves no file, no descriptor and no reserved space."""
        with Folder(tmp_path) as folder:
            before = os.listdir("/proc/self/fd")
            with pytest.raises(OSError, match="too little for this upload"):
                Incoming("a", folder, room, length, lambda work: None)
            assert os.listdir("/proc/self/fd") == before
        assert (os.listdir(tmp_path), room.needed) == ([], {})

    def test_strides(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """At each stride the bytes so far are fsynced by the worker, and free space is checked."""
        synced: list[int] = []
        checked: list[int] = []
        fsync = os.fsync
        monkeypatch.setattr(body, "STRIDE", 1000)

        def note(fd: int) -> None:
            synced.append(os.fstat(fd).st_size if S_ISREG(os.fstat(fd).st_mode) else -1)
            fsync(fd)

        def free() -> int:
            checked.append(incoming.size if checked else 0)
            return MIN_FREE + 100_000

        monkeypatch.setattr(os, "fsync", note)
        with Folder(tmp_path) as folder:
            incoming = Incoming("a", folder, Room(free), 20_000, lambda work: work())
            for size in (999, 1, 999, 500, 501, 999, 5000, 1):
                incoming.write(bytes(size))
            incoming.sync()
            incoming.close()
        assert synced == [-1, 1000, 2499, 3999, 8999, 9000]
        assert checked == [0, 1000, 2499, 3999, 8999]

    @pytest.mark.parametrize("failing", [1, 2, 3], ids=["entry", "stride", "end"])
    def test_failed_fsync(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
    ) -> None:
        """A failed fsync is not retried, at any time: the body is lost."""
        calls = count(1)
        monkeypatch.setattr(body, "STRIDE", 10)

        def fsync(fd: int) -> None:
            if next(calls) == failing:
                raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "fsync", fsync)
        with Folder(tmp_path) as folder:
            before = len(os.listdir("/proc/self/fd"))
            incoming = Incoming("a", folder, Room(Disk(1 << 40)), 20, lambda work: work())
            incoming.write(bytes(15))
            for _ in range(2):
                with pytest.raises(OSError, match="Input/output error"):
                    incoming.sync()
            incoming.discard()
            assert len(os.listdir("/proc/self/fd")) == before

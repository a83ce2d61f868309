"""The cache of taken names. Its use is tested with `save`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from nxparse.deliver.taken import Memory, taken_names
from nxparse.filename import MAX_NAME
from nxparse.store.disk import Folder
from nxparse.upload import File

COUNT = 40


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two folders, each with files of one name and different contents."""
    found = [tmp_path / "first", tmp_path / "second"]
    for folder in found:
        folder.mkdir()
        for number in range(COUNT):
            (folder / (f"q-{number}.JPG" if number else "q.JPG")).write_bytes(bytes([number]))
    return found


def place(folder: Path, data: bytes, memory: Memory) -> tuple[str, bool]:
    """The name for a file called q.JPG, and whether it is saved already."""
    file = File("q.JPG", "image/jpeg", len(data), 0, lambda start, end: data[start:end])
    with Folder(folder) as opened, taken_names(opened, memory) as names:
        return names.place(file, MAX_NAME)


@pytest.fixture
def look_ups(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The paths that were looked up."""
    found: list[object] = []
    status = os.stat

    def counted(path: Any, **named: Any) -> os.stat_result:
        found.append(path)
        return status(path, **named)

    monkeypatch.setattr(os, "stat", counted)
    return found


@pytest.mark.parametrize(
    ("limit", "remembered"),
    [
        pytest.param(2 * COUNT, [True, True], id="both"),
        pytest.param(2 * COUNT - 1, [False, True], id="the latest"),
        pytest.param(COUNT - 1, [False, False], id="none"),
    ],
)
def test_memory_is_limited(
    folders: list[Path], look_ups: list[object], limit: int, remembered: list[bool]
) -> None:
    """The folders used last are cached. In others, names are looked up again."""
    memory = Memory(limit)
    expected = [(f"q-{COUNT}.JPG", False), ("q-7.JPG", True)]
    for folder in folders:
        assert [place(folder, data, memory) for data in (b"a new one", bytes([7]))] == expected
    for folder, known in zip(folders[::-1], remembered[::-1], strict=True):
        look_ups.clear()
        assert place(folder, b"a new one", memory) == expected[0]
        assert (len(look_ups) < COUNT) is known


def test_files_are_read_once(folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only files that have changed are read again."""
    folder, memory = folders[0], Memory()
    assert place(folder, b"x", memory) == (f"q-{COUNT}.JPG", False)
    (folder / "q-3.JPG").write_bytes(b"y")
    (folder / "q-30.JPG").unlink()
    later = folder.stat().st_mtime_ns + 2 * 10**9
    os.utime(folder, ns=(later, later))
    reads: list[bytes] = []
    read = os.read

    def counted(fd: int, size: int) -> bytes:
        reads.append(read(fd, size))
        return reads[-1]

    monkeypatch.setattr(os, "read", counted)
    assert place(folder, b"x", memory) == ("q-30.JPG", False)
    assert [data for data in reads if data] == [b"y"]

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from nxparse.deliver.copies import copies
from nxparse.upload import File
from tests.faults import Faults


def file(name: str, data: bytes) -> File:
    return File(name, "image/jpeg", len(data), 0, lambda start, end: data[start:end])


def test_there_as_long_as_needed(tmp_path: Path) -> None:
    """Copies have their names and bytes, are for nobody else, and are gone afterwards."""
    files = [file("A.JPG", b"1" * 600_000), file("../B.JPG", b"2"), file("A.JPG", b"3")]
    with copies(files, tmp_path) as paths:
        assert [(path.name, path.read_bytes()) for path in paths] == [
            ("A.JPG", b"1" * 600_000),
            ("B.JPG", b"2"),
            ("A-1.JPG", b"3"),
        ]
        assert {path.stat().st_mode & 0o777 for path in paths} == {0o600}
        assert all(path.is_absolute() and tmp_path in path.parents for path in paths)
    assert list(tmp_path.iterdir()) == []


def test_disk_full(tmp_path: Path) -> None:
    """K01: what there was no room for is an error, and leaves nothing behind."""
    with (
        Faults(("write",), errno.ENOSPC),
        pytest.raises(OSError, match="No space left"),
        copies([file("A.JPG", b"1")], tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []

"""Temporary copies of files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nxparse.deliver.copies import copies
from tests.box import photo
from tests.faults import Faults, ShortNames


def test_copies(tmp_path: Path) -> None:
    """Copies have the names and contents of the files, are private, and are deleted at the end."""
    files = [photo(b"1" * 600_000, "A.JPG"), photo(b"2", "../B.JPG"), photo(b"3", "A.JPG")]
    with copies(files, tmp_path) as paths:
        assert [(path.name, path.read_bytes()) for path in paths] == [
            ("A.JPG", b"1" * 600_000),
            ("B.JPG", b"2"),
            ("A.JPG", b"3"),
        ]
        [private] = tmp_path.iterdir()
        assert private.stat().st_mode & 0o777 == 0o700
        assert all(path.is_absolute() and private in path.parents for path in paths)
    assert list(tmp_path.iterdir()) == []


def test_short_names(tmp_path: Path) -> None:
    """Names that are too long for some file systems are shortened."""
    files = [photo(b"1", "a" * 251 + ".JPG"), photo(b"1", "사진" * 41 + ".JPG")]
    with ShortNames(143), copies(files, tmp_path) as paths:
        assert [path.name for path in paths] == ["a" * 139 + ".JPG", "사진" * 23 + ".JPG"]


def test_disk_full(tmp_path: Path) -> None:
    """A copy that does not fit raises an error and leaves nothing."""
    with (
        Faults(("write",), errno.ENOSPC),
        pytest.raises(OSError, match="No space left"),
        copies([photo(b"1", "A.JPG")], tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["unlink", "rmdir"])
def test_cannot_be_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A copy that cannot be deleted causes no error. Other copies are deleted."""
    real = getattr(os, name)

    def refuse(path: str, **options: int) -> None:
        if not str(path).endswith(("A.JPG", "C.JPG")):
            raise OSError(errno.EACCES, "not possible")
        real(path, **options)

    with monkeypatch.context() as patch, copies([photo(b"1", f"{n}.JPG") for n in "ABC"], tmp_path):
        patch.setattr(os, name, refuse)
    left = ["B.JPG"] if name == "unlink" else []
    assert [path.name for path in tmp_path.rglob("*.JPG")] == left

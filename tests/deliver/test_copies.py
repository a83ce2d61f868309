from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nxparse.deliver.copies import copies
from nxparse.upload import File
from tests.faults import Faults, ShortNames


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


def test_short_names(tmp_path: Path) -> None:
    """Names that the file system does not take are shortened."""
    names = ["a" * 251 + ".JPG", "a" * 250 + "b.JPG", "사진" * 41 + ".JPG", "C.JPG"]
    files = [file(name, name.encode()) for name in names]
    with ShortNames(143), copies(files, tmp_path) as paths:
        assert [path.name for path in paths] == [
            "a" * 139 + ".JPG",
            "a" * 137 + "-1.JPG",
            "사진" * 23 + ".JPG",
            "C.JPG",
        ]
        assert [path.read_bytes() for path in paths] == [name.encode() for name in names]


def test_disk_full(tmp_path: Path) -> None:
    """K01: what there was no room for is an error, and leaves nothing behind."""
    with (
        Faults(("write",), errno.ENOSPC),
        pytest.raises(OSError, match="No space left"),
        copies([file("A.JPG", b"1")], tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["unlink", "rmdir"])
@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES], ids=errno.errorcode.get)
def test_cannot_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: int
) -> None:
    """What was done with copies is done, also if they cannot be deleted."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(error, "it does not go")

    with monkeypatch.context() as patch, copies([file("A.JPG", b"1")], tmp_path):
        patch.setattr(os, name, refuse)
    assert len(list(tmp_path.iterdir())) == 1


def test_one_cannot_be_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One copy that cannot be deleted does not keep the others."""
    real = os.unlink

    def refuse(path: str, **options: int) -> None:
        if path.endswith("B.JPG"):
            raise OSError(errno.EIO, "it does not go")
        real(path, **options)

    files = [file(f"{name}.JPG", b"1") for name in "ABC"]
    with monkeypatch.context() as patch, copies(files, tmp_path):
        patch.setattr(os, "unlink", refuse)
    assert [path.name for path in tmp_path.rglob("*.JPG")] == ["B.JPG"]


def test_why_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What went wrong with copies is told, not what went wrong when they were deleted."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "it does not go")

    def use() -> None:
        with copies([file("A.JPG", b"1")], tmp_path):
            monkeypatch.setattr(os, "unlink", refuse)
            raise ValueError("the reason")

    with pytest.raises(ValueError, match="the reason"):
        use()

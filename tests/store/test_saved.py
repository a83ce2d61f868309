"""Saved files are opened only while they are what was saved."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nxparse.store.saved import LocalCopy, identity_of, open_unchanged

CONTENT = b"a photo"


def touch(path: Path) -> None:
    os.utime(path, ns=(0, 1))


def link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def link_folder(path: Path) -> None:
    other = path.parent.with_name("other")
    other.mkdir()
    (other / path.name).write_bytes(CONTENT)
    path.parent.rename(path.parent.with_name("old"))
    path.parent.symlink_to(other)


def replace(path: Path) -> None:
    state = path.stat()
    other = path.with_name("other")
    other.write_bytes(CONTENT)
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
    other.replace(path)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(Path.unlink, id="deleted"),
        pytest.param(lambda path: path.write_bytes(CONTENT + b"!"), id="longer"),
        pytest.param(touch, id="other-time"),
        pytest.param(replace, id="another-file-of-the-same-size-and-time"),
        pytest.param(link, id="link-to-itself"),
        pytest.param(link_folder, id="link-in-the-path"),
        pytest.param(fifo, id="fifo"),
        pytest.param(lambda path: path.rename(path.with_name("x")), id="renamed"),
    ],
)
def test_changed(tmp_path: Path, change: Callable[[Path], object]) -> None:
    """A file that was changed, moved or replaced is not opened, and no descriptor stays open."""
    path = tmp_path / "folder" / "SAM_1.JPG"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    saved = LocalCopy(path, identity_of(path.stat()))
    assert saved.is_unchanged()
    change(path)
    before = os.listdir("/proc/self/fd")
    assert not saved.is_unchanged()
    assert open_unchanged([saved]) is None
    assert os.listdir("/proc/self/fd") == before


def test_the_first_copy_that_is_there(tmp_path: Path) -> None:
    """One of several copies is enough; its ETag changes with the file."""
    path = tmp_path / "b.jpg"
    path.write_bytes(CONTENT)
    gone = LocalCopy(tmp_path / "a.jpg", "1 2 3 4")
    opened = open_unchanged([gone, LocalCopy(path, identity_of(path.stat()))])
    assert opened is not None
    assert (opened.name, opened.size, opened.read(2, 99)) == ("b.jpg", 7, b"photo")
    assert not os.get_inheritable(opened._fd)
    opened.close()
    opened.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        opened.read(0, 1)
    touch(path)
    changed = open_unchanged([LocalCopy(path, identity_of(path.stat()))])
    assert changed is not None
    changed.close()
    assert changed.etag != opened.etag


def test_an_empty_identity_matches_nothing(tmp_path: Path) -> None:
    """A folder or link that was there when files were saved is never opened."""
    assert open_unchanged([LocalCopy(tmp_path, identity_of(tmp_path.stat()))]) is None

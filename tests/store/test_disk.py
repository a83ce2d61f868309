from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from nxparse.framing import fetch_from
from nxparse.store import disk
from nxparse.store.disk import Folder
from nxparse.upload import File
from tests.faults import Faults, contents

BLOCK = 4096  # bytes; the least that a file occupies, on any common file system


@pytest.fixture(params=["by descriptor", "by path"])
def opened(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Folder]:
    """An empty folder, opened as on Unix and as on Windows."""
    if request.param == "by path":
        monkeypatch.setattr(disk, "_BY_DESCRIPTOR", False)
    path = tmp_path / "opened"
    path.mkdir()
    with Folder(path) as folder:
        yield folder


@pytest.fixture
def no_umask() -> Iterator[None]:
    """New files get exactly the mode that is passed."""
    before = os.umask(0)
    yield
    os.umask(before)


def _link(path: Path) -> None:
    (path.parent.parent / "elsewhere").write_bytes(b"secret")
    path.symlink_to(path.parent.parent / "elsewhere")


IN_THE_WAY: dict[str, Callable[[Path], None]] = {
    "file": lambda path: path.touch(),
    "folder": lambda path: path.mkdir(),
    "link": _link,
    "dangling link": lambda path: path.symlink_to(path.parent.parent / "nowhere"),
    "fifo": os.mkfifo,
}


class TestMake:
    def test_missing_folders(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Missing folders are created on all levels, and the parent of each is fsynced."""
        synced: list[Path] = []
        monkeypatch.setattr(Folder, "sync", lambda folder: synced.append(folder.path))
        with Folder.make(tmp_path / "a" / "b") as folder:
            os.close(folder.create("new"))
        assert contents(tmp_path / "a" / "b") == {"new": b""}
        assert synced == [tmp_path, tmp_path / "a"]

    @pytest.mark.usefixtures("no_umask")
    @pytest.mark.parametrize("mode", [0o700, 0o777], ids=oct)
    def test_mode(self, tmp_path: Path, mode: int) -> None:
        """A new folder has the requested mode."""
        Folder.make(tmp_path / "new", mode).close()
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == mode

    def test_made_by_another_process(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A folder that another process creates at the same time is opened."""
        mkdir = os.mkdir

        def twice(path: Path, mode: int = 0o777) -> None:
            mkdir(path, mode)
            mkdir(path, mode)

        monkeypatch.setattr(os, "mkdir", twice)
        with Folder.make(tmp_path / "new") as folder:
            assert folder.files() == []

    @pytest.mark.parametrize("target", ["target", "nowhere"])
    def test_link_is_refused(self, tmp_path: Path, target: str) -> None:
        """A link is not opened, and its target is not created."""
        (tmp_path / "target").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / target)
        with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
            Folder.make(tmp_path / "link")
        assert sorted(os.listdir(tmp_path)) == ["link", "target"]


class TestFolder:
    @pytest.mark.parametrize(
        "use",
        [
            pytest.param(lambda folder: folder.create("new"), id="create"),
            pytest.param(lambda folder: folder.publish("file", "new"), id="publish"),
            pytest.param(lambda folder: folder.move("file", folder, "new"), id="move"),
            pytest.param(lambda folder: folder.files(), id="files"),
            pytest.param(lambda folder: folder.lock(), id="lock"),
            pytest.param(lambda folder: folder.sync(), id="sync"),
        ],
    )
    def test_closed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[[Folder], object]
    ) -> None:
        """Using a closed folder is an error and does not touch another folder."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "file").write_bytes(b"data")
        folder = Folder(tmp_path)
        folder.close()
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            use(folder)
        assert caught.value.errno == errno.EBADF
        assert contents(tmp_path) == {"file": b"data"}

    def test_lock(self, tmp_path: Path) -> None:
        """A folder can be locked once, until it is closed."""
        with Folder(tmp_path) as one, Folder(tmp_path) as other:
            one.lock()
            with pytest.raises(BlockingIOError):
                other.lock()
            one.close()
            other.lock()

    @pytest.mark.usefixtures("no_umask")
    def test_create_with_mode(self, opened: Folder) -> None:
        """A new file has the mode that was passed, or else the umask decides."""
        os.close(opened.create("secret", 0o600))
        os.close(opened.create("photo"))
        modes = {name: stat.S_IMODE(state.st_mode) for name, state in opened.files()}
        assert modes == {"photo": 0o666, "secret": 0o600}

    def test_open(self, opened: Folder) -> None:
        """A link is not followed, and a FIFO without a writer is opened at once."""
        _link(opened.path / "link")
        with pytest.raises(OSError, match="symbolic links") as caught:
            opened.open("link")
        assert caught.value.errno == errno.ELOOP
        os.mkfifo(opened.path / "fifo")
        os.close(opened.open("fifo"))

    @pytest.mark.parametrize(
        "error",
        [0, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK],
        ids=lambda error: errno.errorcode.get(error, "hard links"),
    )
    def test_publish(self, opened: Folder, error: int) -> None:
        """A published file has only its new name, also where hard links are not possible."""
        (opened.path / ".new").write_bytes(b"data")
        with Faults(("link",) if error else (), error):
            opened.publish(".new", "photo.jpg")
        assert contents(opened.path) == {"photo.jpg": b"data"}

    @pytest.mark.parametrize("put", IN_THE_WAY.values(), ids=IN_THE_WAY)
    @pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
    def test_existing_name(self, opened: Folder, put: Callable[[Path], None], links: bool) -> None:
        """An existing entry is neither opened, followed nor replaced."""
        (opened.path / ".new").write_bytes(b"data")
        put(opened.path / "taken")
        before = sorted(os.listdir(opened.path)), (opened.path / "taken").lstat()
        with pytest.raises(FileExistsError):
            opened.create("taken")
        with Faults(("link",) if not links else (), errno.EPERM), pytest.raises(FileExistsError):
            opened.publish(".new", "taken")
        after = sorted(os.listdir(opened.path)), (opened.path / "taken").lstat()
        assert after == before

    @pytest.mark.parametrize("call", ["close", "replace"])
    def test_publish_without_hard_links_fails(self, opened: Folder, call: str) -> None:
        """If the last step fails, no empty file with the name is left."""
        (opened.path / ".new").write_bytes(b"data")
        with (
            Faults(("link",), errno.EPERM),
            Faults((call,), errno.EIO),
            pytest.raises(OSError, match="Input/output"),
        ):
            opened.publish(".new", "photo.jpg")
        assert contents(opened.path) == {".new": b"data"}

    def test_move(self, opened: Folder, tmp_path: Path) -> None:
        """A file is moved to another folder, and replaces a file with the new name."""
        (opened.path / "here").write_bytes(b"new")
        with Folder.make(tmp_path / "other") as other:
            (other.path / "there").write_bytes(b"old")
            opened.move("here", other, "there")
        assert contents(opened.path) == {}
        assert contents(tmp_path / "other") == {"there": b"new"}

    def test_files(self, opened: Folder) -> None:
        """Only regular files are listed, sorted by name."""
        for kind, put in IN_THE_WAY.items():
            put(opened.path / kind)
        (opened.path / ".hidden").write_bytes(b"12345")
        found = [(name, state.st_size) for name, state in opened.files()]
        assert found == [(".hidden", 5), ("file", 0)]

    @pytest.mark.parametrize(
        ("size", "count", "deleted"),
        [
            pytest.param(6, 9, "", id="fits"),
            pytest.param(5, 9, "a", id="too-large"),
            pytest.param(2, 9, "abc", id="far-too-large"),
            pytest.param(0, 9, "abcd", id="nothing-fits"),
            pytest.param(6, 4, "", id="not-too-many"),
            pytest.param(6, 3, "a", id="too-many"),
            pytest.param(6, 0, "abcd", id="limit-of-zero"),
            pytest.param(4, 3, "ab", id="too-large-and-too-many"),
        ],
    )
    def test_trim(self, opened: Folder, size: int, count: int, deleted: str) -> None:
        """Files are deleted in the order of their names until the rest fits."""
        blocks = {"d": 1, "c": 2, "b": 2, "a": 1}
        for name, length in blocks.items():
            (opened.path / name).write_bytes(bytes(length * BLOCK - BLOCK + 1))
        (opened.path / "0").mkdir()
        left = sorted({*blocks} - {*deleted})
        assert opened.trim(size * BLOCK, count) == list(deleted)
        assert [name for name, _ in opened.files()] == left
        with Faults(("unlink",), errno.EPERM):  # a file that cannot be deleted is skipped
            assert opened.trim(0, 0) == left[1:]

    def test_trim_others(self, opened: Folder) -> None:
        """Protected files are not deleted, even if they alone exceed the limit."""
        for name in "abcd":
            (opened.path / name).touch()
        assert opened.trim(0, 1, ["a", "c"]) == ["b", "d"]

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (lambda path: None, True),
            (lambda path: path.rmdir(), False),
            (lambda path: path.rename(path.parent / "moved"), False),
            (lambda path: (path.rmdir(), (path.parent / "new").mkdir(), path.mkdir()), False),
            (lambda path: path.rename(path.parent / "m").rename(path), True),
        ],
        ids=["unchanged", "removed", "renamed", "made again", "renamed back"],
    )
    def test_is_in_place(
        self, tmp_path: Path, change: Callable[[Path], object], expected: bool
    ) -> None:
        """A folder that was removed, renamed or replaced is not in place."""
        (tmp_path / "photos").mkdir()
        with Folder(tmp_path / "photos") as folder:
            change(tmp_path / "photos")
            assert folder.is_in_place() is expected


@pytest.mark.parametrize(
    ("error", "fails"),
    [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True), (errno.ENOSPC, True)],
)
def test_sync(tmp_path: Path, error: int, fails: bool) -> None:
    """A failed fsync is an error, except on file systems that cannot fsync folders."""
    expected = pytest.raises(OSError, match=os.strerror(error)) if fails else nullcontext()
    with Faults(("fsync",), error) as faults, Folder(tmp_path) as folder, expected:
        folder.sync()
    assert faults.failed == 1


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """A descriptor of a file that contains 0123456789."""
    with Folder(tmp_path) as folder:
        descriptor = folder.create("file")
        os.write(descriptor, b"0123456789")
        yield descriptor
        os.close(descriptor)


def test_short_reads_and_writes(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short reads and writes are continued."""
    write, pread = os.write, os.pread
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data[:3])))
    monkeypatch.setattr(os, "pread", lambda fd, size, start: pread(fd, min(size, 3), start))
    disk.write_all(fd, b"abcdefgh")
    assert disk.read_range(fd, 1, 18) == b"123456789abcdefgh"


@pytest.fixture(params=["pread", "seek"])
def any_pread(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without pread(), which Windows does not have."""
    if request.param == "seek":
        monkeypatch.delattr(os, "pread", raising=False)


@pytest.mark.usefixtures("any_pread")
@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, 10, b"0123456789"), (3, 5, b"34"), (10, 10, b""), (99, 99, b"")],
)
def test_read_range(fd: int, start: int, end: int, expected: bytes) -> None:
    """The bytes between two offsets are returned; a file that is too short is an error."""
    assert disk.read_range(fd, start, end) == expected
    last = max(start, 10)
    with pytest.raises(OSError, match=f"the file ends at byte {last} instead of 100") as caught:
        disk.read_range(fd, start, 100)
    assert caught.value.errno == errno.EIO


BODY = bytes(range(256)) * 3000  # almost three chunks


class TestCopyRange:
    """copy_range with copy_file_range, with its failures, and without it."""

    @pytest.fixture
    def source(self, tmp_path: Path) -> Iterator[int]:
        """A descriptor to read BODY from."""
        path = tmp_path / "body"
        path.write_bytes(BODY)
        fd = os.open(path, os.O_RDONLY)
        yield fd
        os.close(fd)

    def copied(self, source: int, offset: int, size: int, tmp_path: Path) -> bytes:
        """Return the bytes that copy_range appends to a file."""
        path = tmp_path / "copy"
        with path.open("xb", buffering=0) as file:
            file.write(b"head")
            disk.copy_range(source, offset, size, file.fileno())
            assert file.tell() == 4 + size
        data = path.read_bytes()
        assert data.startswith(b"head")
        return data[4:]

    @pytest.mark.parametrize(
        ("offset", "size"), [(0, len(BODY)), (0, 0), (4097, 300_000), (len(BODY) - 1, 1)], ids=str
    )
    @pytest.mark.parametrize("available", [True, False], ids=["available", "missing"])
    def test_exact(
        self,
        source: int,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        available: bool,
        offset: int,
        size: int,
    ) -> None:
        """The range is copied exactly; a source that is too short is an error."""
        if not available:
            monkeypatch.delattr(os, "copy_file_range", raising=False)
        copied = self.copied(source, offset, size, tmp_path)
        assert copied == BODY[offset : offset + size]
        (tmp_path / "copy").unlink()
        with pytest.raises(OSError, match=f"the file ends at byte {len(BODY)}"):
            self.copied(source, max(offset, 1), len(BODY), tmp_path)

    @pytest.mark.parametrize("good", [0, 2], ids="after {} calls".format)
    @pytest.mark.parametrize("error", [errno.EXDEV, errno.EIO, 0], ids=["EXDEV", "EIO", "zero"])
    def test_falls_back(
        self, source: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, good: int
    ) -> None:
        """If the kernel cannot copy (an error, or a count of zero), plain writes continue."""
        calls: list[int] = []

        def refuse(src: int, dst: int, count: int, offset_src: int | None = None) -> int:
            calls.append(count)
            if len(calls) > good:
                if error:
                    raise OSError(error, os.strerror(error))
                return 0
            return os.write(dst, os.pread(src, min(count, 100_001), offset_src or 0))

        monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
        copied = self.copied(source, 3, len(BODY) - 5, tmp_path)
        assert copied == BODY[3:-2]
        assert len(calls) == good + 1


@pytest.mark.parametrize("size", [0, 600_000])
def test_write_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """The content is written at the position of the descriptor, also by short writes."""
    photo = (bytes(range(256)) * 2400)[:size]
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, chunk: write(fd, bytes(chunk[:100_000])))
    file = File("a.jpg", "image/jpeg", size, 6, fetch_from(b"before" + photo + b"after"))
    path = tmp_path / "copy"
    with path.open("xb", buffering=0) as copy:
        copy.write(b"head")
        disk.write_file(file, copy.fileno())
    assert path.read_bytes() == b"head" + photo

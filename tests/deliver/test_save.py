"""Photos saved as files, with and without errors of the file system."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nxparse.deliver import taken
from nxparse.deliver.save import Saved, describe_saved, folder_for, parse_path, store
from nxparse.store import disk
from nxparse.upload import File
from tests.bodies import jpeg
from tests.box import ID, NOON, photo
from tests.faults import CALLS, Faults, Kills, ShortNames, contents, make_lazy

posix_only = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")

OLD, NEW = jpeg(200, seed=1), jpeg(200, seed=2)


def save(photos: Sequence[File], directory: Path, id: str = ID) -> list[Saved]:
    """Store photos received at noon in the folder of their day."""
    return store(photos, folder_for(directory, NOON), id)


def files(*photos: tuple[str | None, bytes]) -> list[File]:
    """Return the files of an upload with these names and bytes."""
    return [photo(data, name) for name, data in photos]


@pytest.fixture(autouse=True)
def _lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    make_lazy(monkeypatch)


@pytest.fixture
def day(tmp_path: Path) -> Path:
    """The folder for photos received at noon; it exists."""
    path = folder_for(tmp_path, NOON)
    path.mkdir()
    return path


def short(saved: list[Saved]) -> list[tuple[str, int, bool]]:
    """Return name, size and whether it is new for each saved file."""
    return [(file.path.name, file.size, file.new) for file in saved]


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="cannot choose the time zone")
@pytest.mark.parametrize(
    ("zone", "received", "expected"),
    [
        ("UTC", NOON + 43200, "2026-01-02"),
        ("KST-9", NOON + 3 * 3600, "2026-01-02"),
        ("PST8", NOON - 5 * 3600, "2025-12-31"),
    ],
)
def test_local_date(
    monkeypatch: pytest.MonkeyPatch, zone: str, received: float, expected: str
) -> None:
    """A folder is named after the local date."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        folder = folder_for(Path("uploads"), received)
    time.tzset()
    assert folder == Path("uploads", expected)


def test_parse_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is expanded, and unusable paths are refused."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    assert parse_path("~/my photos") == Path("/home/me/my photos")
    for text in ("", " ", "a\0b", "~nobody-here/x"):
        with pytest.raises(ValueError, match=r"^not a path; for example /srv/photos$"):
            parse_path(text)


class TestSave:
    def test_new_files(self, tmp_path: Path) -> None:
        """Photos are stored byte for byte, in a folder that is created if it is missing."""
        directory = tmp_path / "missing" / "uploads"
        large = jpeg(3 * disk.CHUNK + 1)
        photos = (("SAM_1.JPG", OLD), ("SAM_2.JPG", large), ("SAM_3.JPG", b""))
        saved = save(files(*photos), directory)
        folder = folder_for(directory, NOON)
        assert saved == [Saved(folder / name, len(data), new=True) for name, data in photos]
        assert contents(folder) == dict(photos)

    @posix_only
    @pytest.mark.parametrize(
        ("umask", "expected"), [(0o000, 0o666), (0o022, 0o644), (0o077, 0o600)]
    )
    def test_mode(self, tmp_path: Path, umask: int, expected: int) -> None:
        """Photos and their folder follow the umask."""
        before = os.umask(umask)
        try:
            [saved] = save(files(("SAM.JPG", NEW)), tmp_path)
        finally:
            os.umask(before)
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (saved.path, saved.path.parent)]
        assert modes == [expected, 0o777 & ~umask]


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        ([], "no files to save"),
        (
            [Saved(Path("a.jpg"), 1500, new=False), Saved(Path("b.jpg"), 20, new=True)],
            "saved as a.jpg (1.5 kB, already there), b.jpg (20 bytes)",
        ),
    ],
)
def test_describe_saved(saved: list[Saved], expected: str) -> None:
    """The description has the paths and sizes of the files."""
    assert describe_saved(saved) == expected


class TestTakenNames:
    def test_taken_by_something_else(self, tmp_path: Path, day: Path) -> None:
        """Nothing is overwritten; each file gets the next free number."""
        (day / "SAM.JPG").write_bytes(b"of another program")
        for data, name in ((OLD, "SAM-1.JPG"), (NEW, "SAM-2.JPG")):
            saved = save(files(("SAM.JPG", data)), tmp_path)
            assert short(saved) == [(name, 200, True)]
        assert contents(day) == {
            "SAM.JPG": b"of another program",
            "SAM-1.JPG": OLD,
            "SAM-2.JPG": NEW,
        }

    def test_twice_in_one_upload(self, tmp_path: Path, day: Path) -> None:
        """Two photos with one name are two files, and each is stored once."""
        saved = save(files(("SAM.JPG", OLD), ("SAM.JPG", NEW)), tmp_path)
        assert short(saved) == [("SAM.JPG", 200, True), ("SAM-1.JPG", 200, True)]
        saved = save(files(("SAM.JPG", NEW), ("SAM.JPG", OLD)), tmp_path, "other")
        assert short(saved) == [("SAM-1.JPG", 200, False), ("SAM.JPG", 200, False)]
        assert contents(day) == {"SAM.JPG": OLD, "SAM-1.JPG": NEW}

    def test_same_content_under_another_name(self, tmp_path: Path, day: Path) -> None:
        """The same bytes under two names are two files."""
        save(files(("A.JPG", NEW), ("B.JPG", NEW)), tmp_path)
        assert contents(day) == {"A.JPG": NEW, "B.JPG": NEW}

    @posix_only
    @pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
    @pytest.mark.parametrize("kind", ["folder", "link", "dangling link", "fifo"])
    def test_taken_by_a_non_file(self, tmp_path: Path, day: Path, kind: str, links: bool) -> None:
        """An entry that is not a regular file is neither followed nor touched."""
        (tmp_path / "target").write_bytes(NEW)
        put: dict[str, Callable[[Path], object]] = {
            "folder": Path.mkdir,
            "link": lambda path: path.symlink_to(tmp_path / "target"),
            "dangling link": lambda path: path.symlink_to(tmp_path / "nowhere"),
            "fifo": os.mkfifo,
        }
        put[kind](day / "SAM.JPG")
        before = (day / "SAM.JPG").lstat().st_ino
        with Faults(() if links else ("link",), errno.EPERM, persistent=True):
            saved = save(files(("SAM.JPG", NEW)), tmp_path)
        assert short(saved) == [("SAM-1.JPG", 200, True)]
        assert sorted(os.listdir(day)) == ["SAM-1.JPG", "SAM.JPG"]
        assert (day / "SAM.JPG").lstat().st_ino == before
        assert contents(tmp_path) == {"target": NEW}

    @posix_only
    def test_folder_replaced_meanwhile(self, tmp_path: Path, day: Path) -> None:
        """Nothing is written through a link that replaces the folder."""
        (tmp_path / "trap").mkdir()

        def swap(start: int, end: int) -> bytes:
            if not day.is_symlink():
                day.rename(tmp_path / "moved")
                day.symlink_to(tmp_path / "trap")
            return NEW[start:end]

        save([File("SAM.JPG", "image/jpeg", len(NEW), 0, swap)], tmp_path)
        assert contents(tmp_path / "moved") == {"SAM.JPG": NEW}
        assert contents(tmp_path / "trap") == {}

    @posix_only
    def test_folder_is_a_link(self, tmp_path: Path) -> None:
        """A link in the place of the day's folder is refused."""
        (tmp_path / "trap").mkdir()
        folder_for(tmp_path, NOON).symlink_to(tmp_path / "trap")
        with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
            save(files(("SAM.JPG", NEW)), tmp_path)
        assert contents(tmp_path / "trap") == {}

    @posix_only
    def test_directory_is_a_link(self, tmp_path: Path) -> None:
        """nx_dir itself may be a link."""
        (tmp_path / "disk").mkdir()
        (tmp_path / "uploads").symlink_to(tmp_path / "disk")
        save(files(("SAM.JPG", NEW)), tmp_path / "uploads")
        assert contents(folder_for(tmp_path / "disk", NOON)) == {"SAM.JPG": NEW}

    @pytest.mark.parametrize(
        ("other", "expected"),
        [(OLD, [("SAM-1.JPG", 200, True)]), (NEW, [("SAM.JPG", 200, False)])],
        ids=["something else", "the same"],
    )
    def test_taken_at_the_last_moment(
        self,
        tmp_path: Path,
        day: Path,
        monkeypatch: pytest.MonkeyPatch,
        other: bytes,
        expected: list[tuple[str, int, bool]],
    ) -> None:
        """A file that another program creates meanwhile is not overwritten."""
        publish = disk.Folder.publish

        def late(folder: disk.Folder, temporary: str, name: str) -> None:
            if not (day / "SAM.JPG").exists():
                (day / "SAM.JPG").write_bytes(other)
            publish(folder, temporary, name)

        monkeypatch.setattr(disk.Folder, "publish", late)
        assert short(save(files(("SAM.JPG", NEW)), tmp_path)) == expected
        assert contents(day) == {"SAM.JPG": other} | {expected[0][0]: NEW}


class Costs:
    """Counts the bytes read from files, and the names looked up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read = self.looked_up = 0
        read, status = os.read, os.stat

        def counted_read(fd: int, size: int) -> bytes:
            data = read(fd, size)
            self.read += len(data)
            return data

        def counted_stat(*positional: Any, **named: Any) -> os.stat_result:
            self.looked_up += 1
            return status(*positional, **named)

        monkeypatch.setattr(os, "read", counted_read)
        monkeypatch.setattr(os, "stat", counted_stat)

    def file(self, name: str, data: bytes) -> File:
        """Return a file whose reads are counted as well."""

        def fetch(start: int, end: int) -> bytes:
            self.read += end - start
            return data[start:end]

        return File(name, "image/jpeg", len(data), 0, fetch)


def different(number: int, size: int = 60) -> bytes:
    """Return a photo that differs from others of its size in its last bytes."""
    return jpeg(size)[:-4] + number.to_bytes(4, "big")


def elsewhere(day: Path) -> Path:
    """Copy a day's folder to another nx_dir, as a new process would find it."""
    directory = day.parent / "elsewhere"
    shutil.copytree(day, directory / day.name)
    return directory


def touch(folder: Path) -> None:
    """Advance the modification time of a folder, in case its clock is coarse."""
    later = folder.stat().st_mtime_ns + 2 * 10**9
    os.utime(folder, ns=(later, later))


class TestManyEqualNames:
    """Files with the same name and size."""

    COUNT = 40

    def save(self, directory: Path, *numbers: int) -> list[tuple[str, bool]]:
        photos = [("q.JPG", different(number)) for number in numbers]
        return [(name, new) for name, _, new in short(save(files(*photos), directory))]

    def test_different(self, tmp_path: Path, day: Path) -> None:
        """Different photos are different files, and none is stored twice, also after a restart."""
        self.save(tmp_path, *range(self.COUNT))
        expected = {
            f"q-{number}.JPG" if number else "q.JPG": different(number)
            for number in range(self.COUNT)
        }
        for directory in (tmp_path, elsewhere(day)):
            again = self.save(directory, *reversed(range(self.COUNT)))
            assert again == [(name, False) for name in reversed(expected)]
            assert contents(directory / day.name) == expected
            assert self.save(directory, 40, 40) == [("q-40.JPG", True), ("q-40.JPG", False)]

    @pytest.mark.parametrize("restart", [False, True], ids=["goes on", "restarted"])
    def test_bytes_read(
        self, tmp_path: Path, day: Path, monkeypatch: pytest.MonkeyPatch, restart: bool
    ) -> None:
        """Each file is read only a few times, even if there are many."""
        size = 10_000
        costs = Costs(monkeypatch)
        directory = tmp_path
        for number in range(self.COUNT):
            if restart and number == self.COUNT // 2:
                directory = elsewhere(day)
            save([costs.file("q.JPG", different(number, size))], directory)
        assert costs.read <= 4 * self.COUNT * size

    def test_sizes_differ(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Files of other sizes are not read for comparison."""
        costs, sizes = Costs(monkeypatch), range(1000, 1000 + self.COUNT)
        for size in sizes:
            save([costs.file("q.JPG", different(0, size))], tmp_path)
        assert costs.read == sum(sizes)

    def test_look_ups(self, tmp_path: Path, day: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Names that are known to be taken are not looked up again."""
        costs, count = Costs(monkeypatch), 150
        for number in range(count):
            save([costs.file("q.JPG", different(number))], tmp_path)
        assert costs.looked_up <= count * 30
        assert len(contents(day)) == count

    @pytest.mark.parametrize(("limit", "cached"), [(COUNT, True), (COUNT - 1, False)])
    def test_cache_is_limited(
        self, tmp_path: Path, day: Path, monkeypatch: pytest.MonkeyPatch, limit: int, cached: bool
    ) -> None:
        """With more names than the limit, they are looked up again."""
        monkeypatch.setattr(taken, "MAX_CACHED", 0)  # forget the folders of other tests
        self.save(tmp_path, *range(self.COUNT))
        monkeypatch.setattr(taken, "MAX_CACHED", limit)
        self.save(tmp_path, 0)
        costs = Costs(monkeypatch)
        self.save(tmp_path, 0)
        assert (costs.looked_up < self.COUNT) is cached

    @pytest.mark.parametrize("other", ["q.JPG", "q-20.JPG", "q-39.JPG"])
    def test_deleted_meanwhile(self, tmp_path: Path, day: Path, other: str) -> None:
        """A deleted file is stored again, under its old name."""
        self.save(tmp_path, *range(self.COUNT))
        data = (day / other).read_bytes()
        (day / other).unlink()
        touch(day)
        assert short(save(files(("q.JPG", data)), tmp_path)) == [(other, 60, True)]
        assert len(contents(day)) == self.COUNT

    @pytest.mark.parametrize("how", ["emptied", "moved away"])
    def test_all_gone_meanwhile(self, tmp_path: Path, day: Path, how: str) -> None:
        """In an emptied or new folder the numbers start again."""
        self.save(tmp_path, *range(self.COUNT))
        if how == "emptied":
            for path in day.iterdir():
                path.unlink()
            touch(day)
        else:
            day.rename(tmp_path / "moved")
        assert self.save(tmp_path, 1, 2) == [("q.JPG", True), ("q-1.JPG", True)]

    def test_added_meanwhile(self, tmp_path: Path, day: Path) -> None:
        """Files of other programs are not overwritten, and recognised if they are the same."""
        self.save(tmp_path, *range(self.COUNT))
        (day / "q-40.JPG").write_bytes(different(41))
        (day / "q-41.JPG").write_bytes(b"something else")
        assert self.save(tmp_path, 40, 41) == [("q-42.JPG", True), ("q-40.JPG", False)]
        assert (day / "q-41.JPG").read_bytes() == b"something else"

    @pytest.mark.parametrize("longer", [False, True])
    @pytest.mark.parametrize("number", [0, 20, 39])
    def test_changed_meanwhile(self, tmp_path: Path, day: Path, number: int, longer: bool) -> None:
        """A file that has changed is not mistaken for the photo that it was."""
        content = different(number) + b"!" if longer else different(1000)
        self.save(tmp_path, *range(self.COUNT))
        self.save(tmp_path, number)
        name = f"q-{number}.JPG" if number else "q.JPG"
        times = (day / name).stat()
        (day / name).write_bytes(content)
        os.utime(day / name, ns=(times.st_atime_ns, times.st_mtime_ns))
        before = os.listdir("/proc/self/fd")
        assert self.save(tmp_path, number, number) == [("q-40.JPG", True), ("q-40.JPG", False)]
        assert os.listdir("/proc/self/fd") == before
        assert (day / name).read_bytes() == content

    def test_unreadable_meanwhile(self, tmp_path: Path) -> None:
        """A file that has become unreadable does not count as the same photo."""
        self.save(tmp_path, *range(self.COUNT))
        self.save(tmp_path, 0)
        with Faults(("open",), errno.EACCES, 2):  # the first call opens the folder
            assert self.save(tmp_path, 0) == [("q-40.JPG", True)]

    def test_after_a_failure(self, tmp_path: Path, day: Path) -> None:
        """A photo that could not be stored is stored by the next attempt."""
        self.save(tmp_path, *range(self.COUNT))
        for call in ("open", "write", "link"):
            with (
                Faults((call,), errno.EIO, persistent=True),
                pytest.raises(OSError, match="Input/output"),
            ):
                self.save(tmp_path, 40)
        assert self.save(tmp_path, 40, 39) == [("q-40.JPG", True), ("q-39.JPG", False)]

    def test_threads(self, tmp_path: Path, day: Path) -> None:
        """Photos stored at the same time get different names."""

        def one(number: int) -> list[Saved]:
            return save(files(("q.JPG", different(number))), tmp_path, f"{ID}.{number}")

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(one, range(self.COUNT)))
        assert sorted(contents(day).values()) == sorted(map(different, range(self.COUNT)))


@posix_only
class TestShortNames:
    """A file system whose names are limited to 143 bytes: eCryptfs."""

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("a" * 251 + ".JPG", ["a" * 139 + ".JPG", "a" * 137 + "-1.JPG"]),
            ("사진" * 41 + ".JPG", ["사진" * 23 + ".JPG", "사진" * 22 + "사-1.JPG"]),
        ],
        ids=["latin", "korean"],
    )
    def test_shortened(self, tmp_path: Path, day: Path, name: str, expected: list[str]) -> None:
        """A name is cut between characters and keeps its number and extension."""
        with ShortNames(143):
            for data in (OLD, NEW, OLD, NEW):
                save(files((name, data)), tmp_path)
        assert contents(day) == dict(zip(expected, (OLD, NEW), strict=True))

    def test_no_name_fits(self, tmp_path: Path, day: Path) -> None:
        """If no name fits, the error is raised."""
        with ShortNames(4), pytest.raises(OSError, match="File name too long"):
            save(files(("A.JPG", NEW)), tmp_path / day.name)


def test_durable_before_it_has_a_name(
    tmp_path: Path, day: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photo is written and fsynced before it gets its name; the folder is fsynced last."""
    seen: list[tuple[str, list[str]]] = []

    def recorded(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*positional: object, **named: object) -> object:
            seen.append((name, sorted(os.listdir(day))))
            return call(*positional, **named)

        return wrapper

    for name in ("write", "fsync", "link", "unlink"):
        monkeypatch.setattr(os, name, recorded(name, getattr(os, name)))
    save(files(("SAM.JPG", NEW)), tmp_path)
    temporary = f".{ID}-0"
    assert seen == [
        ("unlink", []),  # removes what an earlier attempt may have left
        ("write", [temporary]),
        ("fsync", [temporary]),
        ("link", [temporary]),
        ("unlink", [temporary, "SAM.JPG"]),
        ("unlink", ["SAM.JPG"]),
        ("fsync", ["SAM.JPG"]),
    ]


EVERYTHING = tuple(name for name in CALLS if name != "close")
FAULTS = {
    "open: not ours": (("open",), errno.EACCES),
    "close": (("close",), errno.EIO),
    "unlink": (("unlink",), errno.EROFS),
    "mkdir": (("mkdir",), errno.EACCES),
    "everything": (EVERYTHING, errno.EIO),
}


class TestFailures:
    @pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
    @pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
    @pytest.mark.parametrize(("names", "error"), FAULTS.values(), ids=FAULTS)
    def test_failure_at_each_call(
        self, tmp_path: Path, names: tuple[str, ...], error: int, persistent: bool, links: bool
    ) -> None:
        """After a failure anywhere, a second attempt stores the missing files.

        In between there are only complete photos and hidden files; at the end there is
        each photo, once.
        """
        photos = files(("SAM.JPG", NEW), ("SAM_2.JPG", OLD))
        names = names if links else tuple({"link": "replace"}.get(name, name) for name in names)
        for first in itertools.count(1):
            directory = tmp_path / str(first)
            day = folder_for(directory, NOON)
            expected = {"SAM.JPG": NEW, "SAM_2.JPG": OLD}
            directory.mkdir()
            if "mkdir" not in names:
                day.mkdir()
                (day / "SAM.JPG").write_bytes(b"of another program")
                expected = {"SAM-1.JPG": NEW, "SAM_2.JPG": OLD, **contents(day)}
            with Faults(() if links else ("link",), errno.EPERM, persistent=True):
                with (
                    Faults(names, error, first, persistent=persistent) as faults,
                    contextlib.suppress(OSError),
                ):
                    save(photos, directory)
                between = contents(day)
                save(photos, directory)
            after = contents(day)
            seen = {name: data for name, data in between.items() if not name.startswith(".")}
            if not links and persistent and "unlink" in names:
                # No file can be deleted: the empty one that reserves the name may stay.
                assert sorted(filter(None, after.values())) == sorted(expected.values()), first
            else:
                assert seen.items() <= expected.items(), first
                assert after == expected, first
            if not faults.failed:
                break

    def test_error_is_raised(self, tmp_path: Path) -> None:
        """The error names the folder."""
        with Faults(("write",), errno.ENOSPC), pytest.raises(OSError, match="No space") as caught:
            save(files(("SAM.JPG", NEW)), tmp_path)
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(folder_for(tmp_path, NOON))

    def test_body_cannot_be_read(self, tmp_path: Path, day: Path) -> None:
        """A read error in the spool is raised, and leaves no file."""

        def broken(start: int, end: int) -> bytes:
            raise OSError("cannot read")

        photo = File("SAM.JPG", "image/jpeg", 200, 0, broken)
        with pytest.raises(OSError, match="cannot read") as caught:
            save([photo], tmp_path)
        assert (caught.value.strerror, caught.value.filename) == ("cannot read", str(day))
        assert contents(day) == {}

    @pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
    def test_kill_at_each_call(self, tmp_path: Path, links: bool) -> None:
        """After a kill at any step, the next attempt stores the photos, each once.

        Without hard links, an empty file may be left, but no photo under a wrong name.
        """
        photos = files(("SAM.JPG", NEW), ("SAM_2.JPG", OLD))
        directory = tmp_path / "uploads"
        directory.mkdir()
        with (
            Faults(() if links else ("link",), errno.EPERM, persistent=True),
            Kills(directory, tmp_path / "copies") as kills,
        ):
            save(photos, directory)
        for number, step in enumerate(kills.steps):
            saved = save(photos, kills.copy(number))
            left = contents(folder_for(kills.copy(number), NOON))
            names = [name for name, data in left.items() if data]
            assert {name: left[name] for name in names} == {
                saved[0].path.name: NEW,
                saved[1].path.name: OLD,
            }, step
            assert len(left) - len(names) <= (0 if links else 1), step
            assert not links or names == ["SAM.JPG", "SAM_2.JPG"], step

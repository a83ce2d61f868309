from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import stat
import time
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nxparse.deliver.save import Saved, folder_for, save
from nxparse.store import disk
from nxparse.store.disk import Folder
from nxparse.upload import File
from tests.bodies import jpeg
from tests.faults import CALLS, Faults, Kills, ShortNames, contents, make_lazy

posix_only = pytest.mark.skipif(os.name != "posix", reason="needs POSIX files")

NOON = 1767268800.0  # 2026-01-01 12:00 UTC: the same day from -12 to +11 hours
ID = "20260101T120000Z-0123abcd"
OLD, NEW = jpeg(200, seed=1), jpeg(200, seed=2)


def files(*photos: tuple[str | None, bytes]) -> list[File]:
    """The files of an upload, each a name and its bytes."""
    body = b"".join(data for _, data in photos)

    def fetch(start: int, end: int) -> bytes:
        return body[start:end]

    found = []
    start = 0
    for name, data in photos:
        found.append(File(name, "image/jpeg", len(data), start, fetch))
        start += len(data)
    return found


@pytest.fixture(autouse=True)
def _lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    make_lazy(monkeypatch)


@pytest.fixture
def day(tmp_path: Path) -> Path:
    """The folder for photos that came at noon; it exists."""
    path = folder_for(tmp_path, NOON)
    path.mkdir()
    return path


def told(saved: list[Saved]) -> list[tuple[str, int, bool]]:
    """What `save` told, without the folder."""
    return [(file.path.name, file.size, file.new) for file in saved]


class TestFolderFor:
    @pytest.mark.skipif(not hasattr(time, "tzset"), reason="cannot choose the time zone")
    @pytest.mark.parametrize(
        ("zone", "received", "expected"),
        [
            ("UTC", 0.0, "1970-01-01"),
            ("UTC", NOON, "2026-01-01"),
            ("UTC", NOON + 43199.9, "2026-01-01"),
            ("UTC", NOON + 43200, "2026-01-02"),
            ("KST-9", NOON + 3 * 3600, "2026-01-02"),
            ("PST8", NOON - 5 * 3600, "2025-12-31"),
        ],
    )
    def test_local_date(
        self, monkeypatch: pytest.MonkeyPatch, zone: str, received: float, expected: str
    ) -> None:
        """A folder is called after the local date."""
        with monkeypatch.context() as patch:
            patch.setenv("TZ", zone)
            time.tzset()
            folder = folder_for(Path("uploads"), received)
        time.tzset()
        assert folder == Path("uploads", expected)


class TestSave:
    def test_new_files(self, tmp_path: Path) -> None:
        """Photos are stored byte for byte, in a folder that is made if need be."""
        directory = tmp_path / "missing" / "uploads"
        saved = save(files(("SAM_1.JPG", OLD), ("SAM_2.JPG", NEW)), directory, NOON, ID)
        folder = folder_for(directory, NOON)
        assert saved == [
            Saved(folder / "SAM_1.JPG", 200, new=True),
            Saved(folder / "SAM_2.JPG", 200, new=True),
        ]
        assert contents(folder) == {"SAM_1.JPG": OLD, "SAM_2.JPG": NEW}

    def test_no_files(self, tmp_path: Path) -> None:
        """An upload without files leaves none."""
        assert save(files(), tmp_path, NOON, ID) == []

    def test_many_chunks(self, tmp_path: Path, day: Path) -> None:
        """A file larger than a chunk is stored whole."""
        large = jpeg(3 * disk.CHUNK + 1)
        save(files(("SAM.JPG", large)), tmp_path, NOON, ID)
        assert contents(day) == {"SAM.JPG": large}

    def test_empty_file(self, tmp_path: Path, day: Path) -> None:
        """A file without content is a file."""
        assert told(save(files(("SAM.JPG", b"")), tmp_path, NOON, ID)) == [("SAM.JPG", 0, True)]
        assert contents(day) == {"SAM.JPG": b""}

    @posix_only
    @pytest.mark.parametrize(
        ("umask", "expected"), [(0o000, 0o666), (0o022, 0o644), (0o077, 0o600)]
    )
    def test_mode(self, tmp_path: Path, umask: int, expected: int) -> None:
        """Photos and their folder follow the umask."""
        before = os.umask(umask)
        try:
            [saved] = save(files(("SAM.JPG", NEW)), tmp_path, NOON, ID)
        finally:
            os.umask(before)
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (saved.path, saved.path.parent)]
        assert modes == [expected, 0o777 & ~umask]

    def test_names_are_made_safe(self, tmp_path: Path) -> None:
        """N01: a name cannot lead out of the folder."""
        [saved] = save(files(("../../etc/passwd.jpg", NEW)), tmp_path, NOON, ID)
        assert saved.path.relative_to(folder_for(tmp_path, NOON)) == Path("passwd.jpg")


class TestTakenNames:
    def test_taken_by_something_else(self, tmp_path: Path, day: Path) -> None:
        """N07: nothing is overwritten, each file gets the next number that is free."""
        (day / "SAM.JPG").write_bytes(b"of another program")
        results = [told(save(files(("SAM.JPG", data)), tmp_path, NOON, ID)) for data in (OLD, NEW)]
        assert results == [[("SAM-1.JPG", 200, True)], [("SAM-2.JPG", 200, True)]]
        assert contents(day) == {
            "SAM.JPG": b"of another program",
            "SAM-1.JPG": OLD,
            "SAM-2.JPG": NEW,
        }

    def test_twice_in_one_upload(self, tmp_path: Path, day: Path) -> None:
        """N07: two photos of one name in one upload are two files."""
        saved = save(files(("SAM.JPG", OLD), ("SAM.JPG", NEW)), tmp_path, NOON, ID)
        assert told(saved) == [("SAM.JPG", 200, True), ("SAM-1.JPG", 200, True)]
        assert contents(day) == {"SAM.JPG": OLD, "SAM-1.JPG": NEW}

    def test_same_content(self, tmp_path: Path, day: Path) -> None:
        """The same bytes under the same name are not stored twice, whatever their number."""
        for data in (OLD, NEW):
            save(files(("SAM.JPG", data)), tmp_path, NOON, ID)
        saved = save(files(("SAM.JPG", NEW), ("SAM.JPG", OLD)), tmp_path, NOON, "other")
        assert told(saved) == [("SAM-1.JPG", 200, False), ("SAM.JPG", 200, False)]
        assert contents(day) == {"SAM.JPG": OLD, "SAM-1.JPG": NEW}

    def test_same_content_under_another_name(self, tmp_path: Path, day: Path) -> None:
        """The same bytes under two names are two files."""
        save(files(("A.JPG", NEW), ("B.JPG", NEW)), tmp_path, NOON, ID)
        assert contents(day) == {"A.JPG": NEW, "B.JPG": NEW}

    @pytest.mark.parametrize(
        "names",
        [
            ("a.jpg", "A.JPG"),
            (unicodedata.normalize("NFC", "é.jpg"), unicodedata.normalize("NFD", "é.jpg")),
        ],
        ids=["case", "Unicode form"],
    )
    def test_names_that_are_the_same_elsewhere(
        self, tmp_path: Path, day: Path, names: tuple[str, str]
    ) -> None:
        """N06: names that differ in case or Unicode form only are two files everywhere."""
        save(files((names[0], OLD), (names[1], NEW)), tmp_path, NOON, ID)
        assert sorted(contents(day).values()) == sorted([OLD, NEW])

    @posix_only
    @pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
    @pytest.mark.parametrize("kind", ["folder", "link", "dangling link", "fifo"])
    def test_taken_by_no_file(self, tmp_path: Path, day: Path, kind: str, links: bool) -> None:
        """N08: whatever stands under the name is neither followed nor touched."""
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
            saved = save(files(("SAM.JPG", NEW)), tmp_path, NOON, ID)
        assert told(saved) == [("SAM-1.JPG", 200, True)]
        assert sorted(os.listdir(day)) == ["SAM-1.JPG", "SAM.JPG"]
        assert (day / "SAM.JPG").lstat().st_ino == before
        assert contents(tmp_path) == {"target": NEW}

    @posix_only
    def test_folder_replaced_meanwhile(self, tmp_path: Path, day: Path) -> None:
        """N09: a link in the place of the folder gets nothing of what is being written."""
        (tmp_path / "trap").mkdir()
        [file] = files(("SAM.JPG", NEW))

        def swap(start: int, end: int) -> bytes:
            if not day.is_symlink():
                day.rename(tmp_path / "moved")
                day.symlink_to(tmp_path / "trap")
            return NEW[start:end]

        swapping = File(file.name, file.content_type, file.size, file.start, swap)
        save([swapping], tmp_path, NOON, ID)
        assert contents(tmp_path / "moved") == {"SAM.JPG": NEW}
        assert contents(tmp_path / "trap") == {}

    @posix_only
    def test_folder_is_a_link(self, tmp_path: Path) -> None:
        """N09: a link in the place of the folder is refused."""
        (tmp_path / "trap").mkdir()
        folder_for(tmp_path, NOON).symlink_to(tmp_path / "trap")
        with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
            save(files(("SAM.JPG", NEW)), tmp_path, NOON, ID)
        assert contents(tmp_path / "trap") == {}

    @posix_only
    def test_directory_is_a_link(self, tmp_path: Path) -> None:
        """The folder above may well be a link: it is the user who has put it there."""
        (tmp_path / "disk").mkdir()
        (tmp_path / "uploads").symlink_to(tmp_path / "disk")
        save(files(("SAM.JPG", NEW)), tmp_path / "uploads", NOON, ID)
        assert contents(folder_for(tmp_path / "disk", NOON)) == {"SAM.JPG": NEW}

    def test_full_folder(self, tmp_path: Path, day: Path) -> None:
        """N12: what else is in a folder does not matter."""
        for number in range(200):
            (day / f"SAM_{number}.JPG").touch()
        with Faults(("open",), errno.EMFILE, first=ENOUGH_OPENS + 1) as faults:
            save(files(("SAM.JPG", NEW)), tmp_path, NOON, ID)
        assert faults.failed == 0

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
        """Another program may take the name while the photo is being written."""
        publish = disk.Folder.publish

        def late(folder: disk.Folder, temporary: str, name: str) -> None:
            if not (day / "SAM.JPG").exists():
                (day / "SAM.JPG").write_bytes(other)
            publish(folder, temporary, name)

        monkeypatch.setattr(disk.Folder, "publish", late)
        assert told(save(files(("SAM.JPG", NEW)), tmp_path, NOON, ID)) == expected
        assert contents(day) == {"SAM.JPG": other} | {expected[0][0]: NEW}


class Costs:
    """What is done inside a with statement: bytes read from files, and names looked up."""

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
        """A file whose reading counts, too."""

        def fetch(start: int, end: int) -> bytes:
            self.read += end - start
            return data[start:end]

        return File(name, "image/jpeg", len(data), 0, fetch)


def different(number: int, size: int = 60) -> bytes:
    """A photo that differs from others of its size in its last bytes."""
    return jpeg(size)[:-4] + number.to_bytes(4, "big")


def elsewhere(day: Path) -> Path:
    """A copy of a day's folder below another nx_dir: what a new process would find."""
    directory = day.parent / "elsewhere"
    shutil.copytree(day, directory / day.name)
    return directory


class TestManyEqualNames:
    """Files that are all called the same, of the same size."""

    COUNT = 40

    def save(self, directory: Path, *numbers: int) -> list[tuple[str, bool]]:
        photos = [("q.JPG", different(number)) for number in numbers]
        return [(name, new) for name, _, new in told(save(files(*photos), directory, NOON, ID))]

    def test_different(self, tmp_path: Path, day: Path) -> None:
        """Each is a file of its own, and none is stored a second time."""
        for number in range(self.COUNT):
            self.save(tmp_path, number)
        expected = {
            f"q-{number}.JPG" if number else "q.JPG": different(number)
            for number in range(self.COUNT)
        }
        assert contents(day) == expected
        again = [self.save(tmp_path, number) for number in reversed(range(self.COUNT))]
        assert again == [[(name, False)] for name in reversed(expected)]
        assert contents(day) == expected

    def test_after_a_restart(self, tmp_path: Path, day: Path) -> None:
        """A process that has not stored them recognises them."""
        self.save(tmp_path, *range(self.COUNT))
        directory = elsewhere(day)
        assert self.save(directory, 0, 39, 40, 40) == [
            ("q.JPG", False),
            ("q-39.JPG", False),
            ("q-40.JPG", True),
            ("q-40.JPG", False),
        ]

    @pytest.mark.parametrize("restart", [False, True], ids=["goes on", "restarted"])
    def test_bytes_read(
        self, tmp_path: Path, day: Path, monkeypatch: pytest.MonkeyPatch, restart: bool
    ) -> None:
        """Each file is read a few times, however many there are."""
        size = 10_000
        costs = Costs(monkeypatch)
        directory = tmp_path
        for number in range(self.COUNT):
            if restart and number == self.COUNT // 2:
                directory = elsewhere(day)
            save([costs.file("q.JPG", different(number, size))], directory, NOON, ID)
        assert costs.read <= 4 * self.COUNT * size

    def test_look_ups(self, tmp_path: Path, day: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Names that are known to be taken are not looked up again."""
        costs = Costs(monkeypatch)
        for number in range(300):
            save([costs.file("q.JPG", different(number))], tmp_path, NOON, ID)
        assert costs.looked_up <= 300 * 30
        assert len(contents(day)) == 300

    @pytest.mark.parametrize("other", ["q.JPG", "q-20.JPG", "q-39.JPG"])
    def test_deleted_meanwhile(self, tmp_path: Path, day: Path, other: str) -> None:
        """What somebody has deleted leaves a name that is free, and is not there already."""
        self.save(tmp_path, *range(self.COUNT))
        data = (day / other).read_bytes()
        (day / other).unlink()
        touched(day)
        [saved] = save(files(("q.JPG", data)), tmp_path, NOON, ID)
        assert told([saved]) == [(other, 60, True)]
        assert len(contents(day)) == self.COUNT

    def test_all_deleted_meanwhile(self, tmp_path: Path, day: Path) -> None:
        """In an emptied folder numbers begin anew."""
        self.save(tmp_path, *range(self.COUNT))
        for path in day.iterdir():
            path.unlink()
        touched(day)
        assert self.save(tmp_path, 1, 2) == [("q.JPG", True), ("q-1.JPG", True)]

    def test_folder_replaced_meanwhile(self, tmp_path: Path, day: Path) -> None:
        """What is known of a folder is not believed of another one with its name."""
        self.save(tmp_path, *range(self.COUNT))
        day.rename(tmp_path / "moved")
        assert self.save(tmp_path, 1, 2) == [("q.JPG", True), ("q-1.JPG", True)]

    def test_added_meanwhile(self, tmp_path: Path, day: Path) -> None:
        """What somebody has added is not overwritten, and recognised if it is the same."""
        self.save(tmp_path, *range(self.COUNT))
        (day / "q-40.JPG").write_bytes(different(41))
        (day / "q-41.JPG").write_bytes(b"something else")
        assert self.save(tmp_path, 40, 41) == [("q-42.JPG", True), ("q-40.JPG", False)]
        assert (day / "q-41.JPG").read_bytes() == b"something else"

    @pytest.mark.parametrize("number", [0, 20, 39])
    def test_changed_meanwhile(self, tmp_path: Path, day: Path, number: int) -> None:
        """A file that somebody has changed is no longer taken for what it was."""
        self.save(tmp_path, *range(self.COUNT))
        self.save(tmp_path, number)
        name = f"q-{number}.JPG" if number else "q.JPG"
        times = (day / name).stat()
        (day / name).write_bytes(different(1000))
        os.utime(day / name, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert self.save(tmp_path, number, number) == [("q-40.JPG", True), ("q-40.JPG", False)]
        assert (day / name).read_bytes() == different(1000)

    def test_two_names(self, tmp_path: Path, day: Path) -> None:
        """What is known of one name is not believed of another."""
        self.save(tmp_path, *range(self.COUNT))
        photos = files(("q.JPG", different(40)), ("r.JPG", different(1)), ("q.JPG", different(1)))
        assert told(save(photos, tmp_path, NOON, ID)) == [
            ("q-40.JPG", 60, True),
            ("r.JPG", 60, True),
            ("q-1.JPG", 60, False),
        ]

    def test_sizes(self, tmp_path: Path, day: Path) -> None:
        """Files of other sizes in between are not read, and keep their numbers."""
        for number in range(self.COUNT):
            save(files(("q.JPG", different(number, 60 + number % 3))), tmp_path, NOON, ID)
        assert self.save(tmp_path, 39, 3, 4) == [
            ("q-39.JPG", False),
            ("q-3.JPG", False),
            ("q-40.JPG", True),
        ]

    def test_after_a_failure(self, tmp_path: Path, day: Path) -> None:
        """A photo that could not be stored is stored by the next try."""
        self.save(tmp_path, *range(self.COUNT))
        for call in ("open", "write", "link"):
            with (
                Faults((call,), errno.EIO, persistent=True),
                pytest.raises(OSError, match="Input/output"),
            ):
                self.save(tmp_path, 40)
        assert self.save(tmp_path, 40, 39) == [("q-40.JPG", True), ("q-39.JPG", False)]

    def test_two_threads(self, tmp_path: Path, day: Path) -> None:
        """Photos stored at the same time get names of their own."""
        with ThreadPoolExecutor(4) as threads:
            for one in [
                threads.submit(
                    save, files(("q.JPG", different(number))), tmp_path, NOON, f"{ID}.{number}"
                )
                for number in range(100)
            ]:
                one.result()
        assert sorted(contents(day).values()) == sorted(map(different, range(100)))


def touched(folder: Path) -> None:
    """Let a change of a folder show in its time, however coarse that is."""
    later = folder.stat().st_mtime_ns + 2 * 10**9
    os.utime(folder, ns=(later, later))


@posix_only
class TestShortNames:
    """File systems that take shorter names than others: eCryptfs 143 bytes, Minix 30 or 14."""

    LONG = "a" * 251 + ".JPG"
    KOREAN = "사진" * 41 + ".JPG"

    @pytest.mark.parametrize(
        ("limit", "name", "expected"),
        [
            pytest.param(255, LONG, ["a" * 251 + ".JPG", "a" * 249 + "-1.JPG"], id="255"),
            pytest.param(254, LONG, ["a" * 139 + ".JPG", "a" * 137 + "-1.JPG"], id="254"),
            pytest.param(143, LONG, ["a" * 139 + ".JPG", "a" * 137 + "-1.JPG"], id="143"),
            pytest.param(
                143,
                KOREAN,
                ["사진" * 23 + ".JPG", "사진" * 22 + "사-1.JPG"],
                id="143-of-korean",
            ),
            pytest.param(30, LONG, ["a" * 26 + ".JPG", "a" * 24 + "-1.JPG"], id="30"),
            pytest.param(14, LONG, ["a" * 10 + ".JPG", "a" * 8 + "-1.JPG"], id="14"),
            pytest.param(14, "SAM_4371.JPG", ["SAM_4371.JPG", "SAM_4371-1.JPG"], id="14-that-fits"),
        ],
    )
    def test_shortened(
        self, tmp_path: Path, day: Path, limit: int, name: str, expected: list[str]
    ) -> None:
        """A name is cut between characters and keeps its number and extension."""
        with ShortNames(limit):
            for _ in range(2):
                for data in (OLD, NEW):
                    save(files((name, data)), tmp_path, NOON, ID)
        assert contents(day) == dict(zip(expected, (OLD, NEW), strict=True))

    @pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
    def test_seen_when_it_is_named(
        self, tmp_path: Path, day: Path, monkeypatch: pytest.MonkeyPatch, links: bool
    ) -> None:
        """A file system may accept a look-up of a name that it does not take."""
        look_up = Folder.stat
        status = os.stat

        def stat(folder: Folder, name: str) -> os.stat_result:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, "stat", status)
                return look_up(folder, name)

        monkeypatch.setattr(Folder, "stat", stat)
        with ShortNames(143), Faults(() if links else ("link",), errno.EPERM, persistent=True):
            saved = save(files((self.LONG, NEW), ("SAM.JPG", OLD)), tmp_path, NOON, ID)
        assert told(saved) == [("a" * 139 + ".JPG", 200, True), ("SAM.JPG", 200, True)]
        assert contents(day) == {"a" * 139 + ".JPG": NEW, "SAM.JPG": OLD}

    def test_same_beginning(self, tmp_path: Path, day: Path) -> None:
        """Names that differ only in what is cut off get numbers."""
        long = "a" * 200
        photos = files((f"{long}1.JPG", OLD), (f"{long}2.JPG", NEW), (f"{long}.JPG", b"another"))
        with ShortNames(143):
            save(photos, tmp_path, NOON, ID)
            save(photos, tmp_path, NOON, ID)
        assert contents(day) == {
            "a" * 139 + ".JPG": OLD,
            "a" * 137 + "-1.JPG": NEW,
            "a" * 137 + "-2.JPG": b"another",
        }

    def test_too_short_for_anything(self, tmp_path: Path, day: Path) -> None:
        """Where no name fits, that is an error."""
        with ShortNames(4), pytest.raises(OSError, match="File name too long"):
            save(files((self.LONG, NEW)), tmp_path / day.name, NOON, ID)


# The folder, the look at the name, and the temporary file.
ENOUGH_OPENS = 3


class TestOrder:
    def test_durable_before_it_has_a_name(
        self, tmp_path: Path, day: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A photo is written, fsynced, and then gets its name; the folder is fsynced last."""
        seen: list[tuple[str, list[str]]] = []
        for name in ("write", "fsync", "link", "unlink"):
            monkeypatch.setattr(os, name, _recorded(name, getattr(os, name), day, seen))
        save(files(("SAM.JPG", NEW)), tmp_path, NOON, ID)
        temporary = f".{ID}-0"
        assert seen == [
            # What is discarded is what an earlier try may have left.
            ("unlink", []),
            ("write", [temporary]),
            ("fsync", [temporary]),
            ("link", [temporary]),
            ("unlink", [temporary, "SAM.JPG"]),
            ("unlink", ["SAM.JPG"]),
            ("fsync", ["SAM.JPG"]),
        ]


def _recorded(
    name: str, call: Callable[..., object], folder: Path, seen: list[tuple[str, list[str]]]
) -> Callable[..., object]:
    def wrapper(*positional: object, **named: object) -> object:
        seen.append((name, sorted(os.listdir(folder))))
        return call(*positional, **named)

    return wrapper


EVERYTHING = tuple(name for name in CALLS if name != "close")
FAULTS = {
    "open": (("open",), errno.ENOSPC),
    "open: not ours": (("open",), errno.EACCES),
    "write": (("write",), errno.ENOSPC),
    "fsync": (("fsync",), errno.EIO),
    "close": (("close",), errno.EIO),
    "link": (("link",), errno.EIO),
    "unlink": (("unlink",), errno.EROFS),
    "mkdir": (("mkdir",), errno.EACCES),
    "everything": (EVERYTHING, errno.EIO),
}


class TestFailures:
    @pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
    @pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
    @pytest.mark.parametrize(("names", "error"), FAULTS.values(), ids=FAULTS)
    def test_failure_at_each_call(
        self,
        tmp_path: Path,
        names: tuple[str, ...],
        error: int,
        persistent: bool,
        links: bool,
    ) -> None:
        """K01, K02, K09: after a failure anywhere, a second try stores what is missing.

        In between there is nothing but whole photos and hidden files; at the end
        there are the photos, each once.
        """
        photos = files(("SAM.JPG", NEW), ("SAM_2.JPG", OLD))
        names = names if links else tuple({"link": "replace"}.get(name, name) for name in names)
        for first in itertools.count(1):
            directory = tmp_path / str(first)
            day = folder_for(directory, NOON)
            if "mkdir" not in names:
                day.mkdir(parents=True)
                (day / "SAM.JPG").write_bytes(b"of another program")
            else:
                directory.mkdir()
            before = contents(day)
            with Faults(() if links else ("link",), errno.EPERM, persistent=True):
                with (
                    Faults(names, error, first, persistent=persistent) as faults,
                    contextlib.suppress(OSError),
                ):
                    save(photos, directory, NOON, ID)
                between = contents(day)
                save(photos, directory, NOON, ID)
            expected = {"SAM.JPG": NEW, "SAM_2.JPG": OLD}
            if before:
                expected = {**before, "SAM-1.JPG": NEW, "SAM_2.JPG": OLD}
            after = contents(day)
            seen = {name: data for name, data in between.items() if not name.startswith(".")}
            if not links and persistent and "unlink" in names:
                # Nothing works any more: the empty file that keeps a name free may stay.
                assert (first, sorted(filter(None, after.values()))) == (
                    first,
                    sorted(expected.values()),
                )
            else:
                assert (first, seen.items() <= expected.items()) == (first, True)
                assert (first, after) == (first, expected)
            if not faults.failed:
                break

    @pytest.mark.parametrize("call", ["mkdir", "open", "write", "link"])
    def test_error_is_raised(self, tmp_path: Path, call: str) -> None:
        """What has failed is told as it is, with the folder in which it has."""
        with Faults((call,), errno.ENOSPC), pytest.raises(OSError, match="No space") as caught:
            save(files(("SAM.JPG", NEW)), tmp_path, NOON, ID)
        assert (caught.value.errno, caught.value.strerror, caught.value.filename) == (
            errno.ENOSPC,
            "No space left on device",
            str(folder_for(tmp_path, NOON)),
        )

    def test_what_is_stored_stays(self, tmp_path: Path, day: Path) -> None:
        """A failure with the second photo leaves the first one."""
        photos = files(("SAM_1.JPG", OLD), ("SAM_2.JPG", NEW))
        with Faults(("write",), errno.ENOSPC, first=2), pytest.raises(OSError, match="No space"):
            save(photos, tmp_path, NOON, ID)
        assert contents(day) == {"SAM_1.JPG": OLD}
        assert told(save(photos, tmp_path, NOON, ID)) == [
            ("SAM_1.JPG", 200, False),
            ("SAM_2.JPG", 200, True),
        ]

    @pytest.mark.parametrize(
        "arguments",
        [(errno.EIO, "the body cannot be read"), ("the body cannot be read",)],
        ids=["number", "text"],
    )
    def test_body_cannot_be_read(
        self, tmp_path: Path, day: Path, arguments: tuple[object, ...]
    ) -> None:
        """K06: a read error in the spool is told, and leaves nothing behind."""

        def broken(start: int, end: int) -> bytes:
            raise OSError(*arguments)

        photo = File("SAM.JPG", "image/jpeg", 200, 0, broken)
        with pytest.raises(OSError, match="the body cannot be read") as caught:
            save([photo], tmp_path, NOON, ID)
        assert (caught.value.strerror, caught.value.filename) == (
            "the body cannot be read",
            str(day),
        )
        assert contents(day) == {}


def _killed(tmp_path: Path, *, links: bool) -> Iterator[tuple[str, Path]]:
    directory = tmp_path / "uploads"
    directory.mkdir()
    with (
        Faults(() if links else ("link",), errno.EPERM, persistent=True),
        Kills(directory, tmp_path / "copies") as kills,
    ):
        save(files(("SAM.JPG", NEW), ("SAM_2.JPG", OLD)), directory, NOON, ID)
    for number, step in enumerate(kills.steps):
        yield step, kills.copy(number)


class TestKills:
    def test_kill_at_each_call(self, tmp_path: Path) -> None:
        """After a kill at any step the next try leaves the photos, each once, and no other file."""
        for step, directory in _killed(tmp_path, links=True):
            save(files(("SAM.JPG", NEW), ("SAM_2.JPG", OLD)), directory, NOON, ID)
            left = contents(folder_for(directory, NOON))
            assert (step, left) == (step, {"SAM.JPG": NEW, "SAM_2.JPG": OLD})

    def test_kill_at_each_call_without_hard_links(self, tmp_path: Path) -> None:
        """Without hard links, a kill may leave an empty file, but no photo under a wrong name."""
        for step, directory in _killed(tmp_path, links=False):
            saved = save(files(("SAM.JPG", NEW), ("SAM_2.JPG", OLD)), directory, NOON, ID)
            left = contents(folder_for(directory, NOON))
            empty = [name for name, data in left.items() if not data]
            photos = {name: data for name, data in left.items() if data}
            assert (step, len(empty) <= 1) == (step, True)
            assert (step, photos) == (step, {saved[0].path.name: NEW, saved[1].path.name: OLD})

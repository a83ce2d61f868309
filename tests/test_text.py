from __future__ import annotations

import errno
import os
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nxparse.deviation import Deviation, Kind
from nxparse.markup import one_line
from nxparse.store.database import Database
from nxparse.text import (
    describe_disk_error,
    describe_refused_sender,
    describe_upload,
    error_reason,
    format_deviations,
    format_duration,
    format_list,
    format_recipients,
    format_size,
    printable,
)
from nxparse.upload import File, Upload
from tests.box import configured

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=50)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("사진 été 📷", "사진 été 📷"),
        ("a\r\nb\tc", "a??b?c"),
        ("\x1b[2Ja\x7f", "?[2Ja?"),
        ("a\u0085b\u2028c\u2029d", "a?b?c?d"),
        ("\u202egpj.exe", "?gpj.exe"),
        ("\ud800\udc80", "??"),
        ("x" * 80, "x" * 80),
        ("x" * 81, "x" * 79 + "…"),
    ],
)
def test_plain(text: str, expected: str) -> None:
    """Text from the network is printable and short, in any language."""
    assert printable(text) == expected


@pytest.mark.parametrize(
    ("formatted", "expected"),
    [
        (format_size(0), "0 bytes"),
        (format_size(1), "1 byte"),
        (format_size(1000), "1.0 kB"),
        (format_size(999_949), "999.9 kB"),
        (format_size(999_950), "1.0 MB"),
        (format_size(2 << 30), "2.1 GB"),
        (format_duration(-3600.0), "0 seconds"),
        (format_duration(0.6), "1 second"),
        (format_duration(119.0), "119 seconds"),
        (format_duration(120.0), "2 minutes"),
        (format_duration(7199.0), "120 minutes"),
        (format_duration(7200.0), "2 hours"),
        (format_duration(172800.0), "2 days"),
        (format_list([]), ""),
        (format_list(list("abcde")), "a, b, c, d, e"),
        (format_list(list("abcdef")), "a, b, c, d, e and 1 more"),
    ],
)
def test_formatted(formatted: str, expected: str) -> None:
    """A size has one decimal place; a duration is at least two of its unit; lists are short."""
    assert formatted == expected


def test_deviations() -> None:
    """Each deviation is named once, in order."""
    found = [
        Deviation(Kind.SURPLUS_NEWLINE, 1),
        Deviation(Kind.BARE_LF, 2, "of no interest"),
        Deviation(Kind.SURPLUS_NEWLINE, 3),
    ]
    assert format_deviations(found) == "surplus-newline, bare-lf"
    assert format_deviations([]) == "none"


def upload(
    *names: str | None,
    sender: str = "camera@x.org",
    recipients: tuple[str, ...] = ("me@x.org",),
    deviations: tuple[Deviation, ...] = (),
) -> Upload:
    """An upload of files of 1000 bytes each."""
    files = tuple(File(name, "image/jpeg", 1000, 0, lambda a, b: b"") for name in names)
    return Upload(sender, recipients, "a secret subject", "a secret text", files, deviations)


UPLOADS = {
    "photos": (upload("A.JPG", "B.JPG"), "camera@x.org to me@x.org: A.JPG, B.JPG, 2.0 kB", "none"),
    "names": (
        upload(None, "", deviations=(Deviation(Kind.BARE_LF, 0),)),
        "camera@x.org to me@x.org: (no name), (no name), 2.0 kB",
        "bare-lf",
    ),
    "files": (upload(sender=""), "(no sender) to me@x.org: no files, 0 bytes", "none"),
    "hostile": (
        upload("x\r\n.JPG", sender="a\x1bb", recipients=("c\u2028d",)),
        "a?b to c?d: x??.JPG, 1.0 kB",
        "none",
    ),
    "many": (
        upload(*map(str, range(20)), recipients=tuple(map(str, range(64)))),
        "camera@x.org to 0, 1, 2, 3, 4 and 59 more: 0, 1, 2, 3, 4 and 15 more, 20.0 kB",
        "none",
    ),
}


@pytest.mark.parametrize(("found", "shown", "tolerated"), UPLOADS.values(), ids=UPLOADS)
def test_upload(found: Upload, shown: str, tolerated: str) -> None:
    """An upload is described on one line, without subject and text."""
    assert describe_upload(found) == f"from {shown}; tolerated: {tolerated}"


@pytest.mark.parametrize(
    ("sender", "expected"),
    [
        ("", "the upload names no sender: set one on the camera"),
        (
            "me@example.org",
            "me@example.org may not send; to allow it, use --set nx_senders=me@example.org",
        ),
        ("a?[b]", "a?[b] may not send; to allow it, use --set 'nx_senders=a[?][[]b]'"),
        ("$(reboot)", "$(reboot) may not send; to allow it, use --set 'nx_senders=$(reboot)'"),
        ("it's", """it's may not send; to allow it, use --set 'nx_senders=it'"'"'s'"""),
        ("a\nb", "a?b may not send"),
        ("x" * 81, f"{'x' * 79}… may not send"),
    ],
)
def test_not_allowed(sender: str, expected: str) -> None:
    """The option that allows exactly this sender can be copied into a shell."""
    assert describe_refused_sender(sender) == expected


@PROPERTY
@given(st.text(max_size=100) | st.text("a*?[]!${}()'\"\\ =é", max_size=12))
@example("me@example.org")
@example("*")
@example("a?[b]")
@example("$(reboot)")
@example("it's")
def test_the_option_allows_it(sender: str) -> None:
    """The suggested option allows this sender only, and is one line."""
    sender = one_line(sender)
    text = describe_refused_sender(sender)
    assert printable(text, len(text)) == text
    if "use " not in text:
        assert printable(sender) != sender or not sender
        return
    flag, setting = shlex.split(text.partition("to allow it, use ")[2])
    name, _, value = setting.partition("=")
    config = configured(Path(), **{name: [value]})
    assert flag == "--set"
    assert config.may_send(sender)
    assert not config.may_send(f"{sender}x")
    assert not config.may_send("anybody")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left", "/srv/photos"), "No space left (/srv/photos)"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset"), "Connection reset"),
        (OSError("the file is too short"), "the file is too short"),
        (ValueError("it is odd"), "it is odd"),
        (TimeoutError(), "TimeoutError"),
    ],
    ids=["file", "no file", "text", "other error", "nothing"],
)
def test_reason(error: Exception, expected: str) -> None:
    """An error is shown with its reason and its file."""
    assert error_reason(error) == expected


FULL = ": make room there"
ELSEWHERE = ", or choose another folder with --set nx_dir=FOLDER"
NOT_WRITABLE = f": make it writable{ELSEWHERE}"
GARBLED = f": move that file away{ELSEWHERE}"


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, FULL),
        (errno.EDQUOT, FULL),
        (errno.EACCES, NOT_WRITABLE),
        (errno.EPERM, NOT_WRITABLE),
        (errno.EROFS, NOT_WRITABLE),
        (errno.EIO, f": the disk is failing, see dmesg{ELSEWHERE}"),
        (errno.ENOTDIR, f": a file with that name is in the way, move it away{ELSEWHERE}"),
        (errno.EAGAIN, f": another nx_addon is using it, stop that one{ELSEWHERE}"),
        (errno.EMFILE, ""),
    ],
)
def test_disk_error(number: int, remedy: str) -> None:
    """A failed write is shown with its reason, the path and a remedy."""
    error = OSError(number, os.strerror(number), "an unhelpful name")
    expected = f"{os.strerror(number)} (/srv/photos){remedy}"
    assert describe_disk_error(error, Path("/srv/photos")) == expected


class TestFailureOfSqlite:
    def test_garbled(self, tmp_path: Path) -> None:
        """The remedy for a damaged database names its file."""
        (tmp_path / "state").write_bytes(b"garbage " * 1000)
        with pytest.raises(sqlite3.DatabaseError) as caught:
            Database(tmp_path / "state", "")
        expected = f"file is not a database ({tmp_path / 'state'}){GARBLED}"
        assert describe_disk_error(caught.value, Path("/srv/photos")) == expected

    def test_full(self) -> None:
        """The remedy for a full disk does not mention the database."""
        with (
            closing(sqlite3.connect(":memory:")) as database,
            pytest.raises(sqlite3.Error) as caught,
        ):
            database.executescript(
                "PRAGMA max_page_count = 2; CREATE TABLE a (b); CREATE TABLE c (d)"
            )
        expected = f"database or disk is full (/srv/photos){FULL}"
        assert describe_disk_error(caught.value, Path("/srv/photos")) == expected


def test_recipients() -> None:
    """Recipients are printable, short, and at most five."""
    line = format_recipients(["a@x.org", "\u202eb\x1b]0;t\x07", "c" * 5000, *"defgh"])
    assert line == f"a@x.org, ?b?]0;t?, {'c' * 79}…, d, e and 3 more"

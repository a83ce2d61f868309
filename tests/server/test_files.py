"""Saved files: opened only while unchanged, and sent with types, names and ranges."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path

import pytest

from nxparse.server.files import (
    FileReply,
    OpenFile,
    disposition,
    open_unchanged,
    parse_range,
    reply_with,
)
from nxparse.server.reply import Reply
from nxparse.store.records import LocalCopy, identity_of

JPEG = b"\xff\xd8\xff\xe0" + bytes(96)
MP4 = b"\0\0\0\x18ftypmp42" + bytes(88)
Opener = Callable[..., OpenFile]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    """Opens a new file with this content."""
    files = []

    def opens(content: bytes) -> OpenFile:
        path = tmp_path / "SAM_1.JPG"
        path.write_bytes(content)
        found = open_unchanged([LocalCopy(path, identity_of(path.stat()))])
        assert found
        files.append(found)
        return found

    yield opens
    for file in files:
        file.close()


def is_closed(file: OpenFile) -> bool:
    try:
        file.read(0, 1)
    except OSError:
        return True
    return False


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-99", (0, 100)),
        ("bytes=10-", (10, 100)),
        ("bytes=10-999999999999999999999", (10, 100)),
        ("bytes=-1", (99, 100)),
        ("bytes=-101", (0, 100)),
        ("BYTES=0-0", (0, 1)),
        ("bytes= 0-0 ,", (0, 1)),
        ("bytes=100-", (100, 100)),
        ("bytes=-0", (100, 100)),
        # Other values are ignored.
        ("", None),
        ("bytes=-", None),
        ("bytes=9-8", None),
        ("bytes=a-b", None),
        ("items=0-1", None),
        ("bytes=0-1,3-4", None),
        ("bytes=٣-٤", None),
        ("bytes=0-" + "9" * 5000, None),
    ],
)  # fmt: skip
def test_parse_range(value: str, found: tuple[int, int] | None) -> None:
    """Single ranges, open ranges and suffixes of a file of 100 bytes are parsed."""
    assert parse_range(value, 100) == found
    start, end = parse_range(value, 0) or (0, 0)
    assert start >= end


@pytest.mark.parametrize(
    ("content", "media_type", "shown"),
    [
        (JPEG, "image/jpeg", True),
        (MP4, "video/mp4", True),
        (MP4.replace(b"mp42", b"qt  "), "video/mp4", True),
        (b"<!DOCTYPE html><script>", "", False),
        (b'<svg xmlns="http://www.w3.org/2000/svg">', "", False),
        (b"GIF89a<script>", "", False),
        (b"", "", False),
    ],
    ids=["jpeg", "mp4", "mov", "html", "svg", "gif", "empty"],
)
def test_types(opened: Opener, content: bytes, media_type: str, shown: bool) -> None:
    """The content decides the type; a browser shows only photos and videos."""
    for download in (False, True):
        reply = reply_with(opened(content), "GET", (), download=download)
        assert isinstance(reply, FileReply)
        fields = dict(reply.headers)
        assert fields["Content-Type"] == (media_type or "application/octet-stream")
        is_inline = fields["Content-Disposition"].startswith("inline;")
        assert is_inline is (shown and not download)
        assert "sandbox" in fields["Content-Security-Policy"]
        assert "allow-scripts" not in fields["Content-Security-Policy"]
        assert fields["X-Content-Type-Options"] == "nosniff"
        assert fields["Cross-Origin-Resource-Policy"] == "same-origin"
        assert fields["Cache-Control"] == "private, no-store"
        assert not [name for name in fields if name.startswith("Access-Control")]


@pytest.mark.parametrize(
    "name",
    [
        "SAM_1.JPG",
        'a"b\\c;d.jpg',
        "two\r\nSet-Cookie: x=y.jpg",
        "\u65e5\u672c\u8a9e.jpg",
        "50% off; filename=evil.html.jpg",
        "*=?'.jpg",
    ],
)  # fmt: skip
def test_names(name: str) -> None:
    """Any name is read back by a parser, and none adds a header."""
    value = disposition(name, inline=False)
    assert value.isascii()
    assert value.isprintable()
    message = Message()
    message["Content-Disposition"] = (
        value.partition("; filename=")[0] + "; filename*=" + (value.rpartition("; filename*=")[2])
    )
    assert message.get_filename() == name
    assert value.count('"') == 2


@pytest.mark.parametrize(
    ("method", "range_", "if_range", "status", "start", "length"),
    [
        ("GET", "", "", 200, 0, 100),
        ("HEAD", "", "", 200, 0, 0),
        ("HEAD", "bytes=0-9", "", 200, 0, 0),
        ("GET", "bytes=10-19", "", 206, 10, 10),
        ("GET", "bytes=-5", "", 206, 95, 5),
        ("GET", "bytes=0-", "", 206, 0, 100),
        ("GET", "bytes=0-1,5-6", "", 200, 0, 100),
        ("GET", "bytes=10-19", "ETAG", 206, 10, 10),
        ("GET", "bytes=10-19", '"other"', 200, 0, 100),
        ("GET", "bytes=10-19", "W/ETAG", 200, 0, 100),
        ("GET", "bytes=10-19", "Sun, 29 Nov 2026 00:00:00 GMT", 200, 0, 100),
        ("GET", "bytes=200-", '"other"', 200, 0, 100),
    ],
)
def test_ranges(
    opened: Opener, method: str, range_: str, if_range: str, status: int, start: int, length: int
) -> None:
    """The head and the bytes that are sent follow RFC 9110."""
    file = opened(JPEG)
    sent = [("Range", range_), ("if-range", if_range.replace("ETAG", file.etag))]
    reply = reply_with(file, method, [one for one in sent if one[1]], download=False)
    assert isinstance(reply, FileReply)
    fields = dict(reply.headers)
    assert (reply.status, reply.start, reply.length) == (status, start, length)
    size = str(length if method == "GET" else 100)
    assert (fields["Content-Length"], fields["Accept-Ranges"]) == (size, "bytes")
    content_range = f"bytes {start}-{start + length - 1}/100" if status == 206 else None
    assert fields.get("Content-Range") == content_range
    assert reply.head(0.0).startswith(f"HTTP/1.1 {status} ".encode())
    assert not is_closed(file)


def test_unsatisfiable(opened: Opener) -> None:
    """An unsatisfiable range is refused with the size, and the file is closed."""
    file = opened(JPEG)
    reply = reply_with(file, "GET", [("Range", "bytes=100-")], download=False)
    assert isinstance(reply, Reply)
    assert (reply.status, dict(reply.headers)["Content-Range"]) == (416, "bytes */100")
    assert is_closed(file)


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


def test_first_existing_copy(tmp_path: Path) -> None:
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


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that was cut after it was opened is closed again."""
    path = tmp_path / "a.jpg"
    path.write_bytes(CONTENT)
    before = os.listdir("/proc/self/fd")
    opened = open_unchanged([LocalCopy(path, identity_of(path.stat()))])
    assert opened is not None
    path.write_bytes(b"")
    with pytest.raises(OSError, match="the file ends at byte 0"):
        reply_with(opened, "GET", (), download=False)
    assert os.listdir("/proc/self/fd") == before


def test_an_empty_identity_matches_nothing(tmp_path: Path) -> None:
    """A copy that was not a regular file when it was saved is never opened."""
    assert open_unchanged([LocalCopy(tmp_path, identity_of(tmp_path.stat()))]) is None

"""Uploads parsed from the bodies of requests."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from email.parser import BytesHeaderParser
from pathlib import Path

import pytest

import nxparse
from nxparse import jpeg, markup, multipart
from nxparse.deviation import BodyError, Deviation, Kind, MultipartError
from nxparse.framing import CHUNK, boundary_of, fetch_from
from nxparse.inspect.show import as_json
from nxparse.scanner import Scanner
from nxparse.upload import File, Upload, camera, encoded, fingerprint, from_parts, posted, read
from nxparse.upload import whole as file_of
from tests import bodies, pictures
from tests.scans import CLOSE, FIELD, TYPE, read_chunked

WIRE = sorted((Path(__file__).parent / "wire").glob("*.http"))

XML = b"<email><sender>a@x.org</sender><receiver>b@x.org</receiver></email>"
MESSAGE = b'--B7x\r\nContent-Disposition: form-data; name="message"\r\n\r\n'
JPEG = bodies.jpeg(60, 1)


def part(content: bytes, headers: bytes = b"", name: bytes = b"binary") -> bytes:
    """A part with its delimiter and the line end before the next one."""
    disposition = b"--B7x\r\nContent-Disposition: form-data; name=" + name
    return disposition + headers + b"\r\n\r\n" + content + b"\r\n"


def whole(*parts: bytes) -> bytes:
    """A body of a message and these parts, without fault."""
    return MESSAGE + XML + b"\r\n" + b"".join(parts) + b"--B7x--\r\n"


class Recorder:
    """Reads a body, and records the ranges that are read."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.fetched: list[tuple[int, int]] = []

    def __call__(self, start: int, end: int) -> bytes:
        self.fetched.append((start, end))
        return self.body[start:end]


def kinds(upload: Upload) -> str:
    return " ".join(map(str, upload.deviations))


# Recordings


@pytest.mark.parametrize("path", WIRE, ids=lambda path: path.stem)
def test_recording(path: Path) -> None:
    """A recorded request is parsed as in the JSON file and the photos next to it."""
    head, _, body = path.read_bytes().partition(b"\r\n\r\n")
    _, _, fields = head.partition(b"\r\n")
    headers = BytesHeaderParser().parsebytes(fields)
    content_type = str(headers["Content-Type"])
    assert int(str(headers["Content-Length"])) == len(body)

    upload = read(body, content_type)
    assert as_json(upload) == json.loads(path.with_suffix(".json").read_text("utf-8"))
    for file in upload.files:
        assert path.with_name(f"{path.stem}.{file.name}").read_bytes() == file.data
    for size in (1, 1460):
        assert as_json(read_chunked(body, size, content_type)) == as_json(upload)


def test_requests_are_built_as_recorded() -> None:
    """The head that tests build equals the recorded one."""
    recorded, _, body = WIRE[0].read_bytes().partition(b"\r\n\r\n")
    built, _, _ = bodies.request(body).partition(b"\r\n\r\n")
    assert built == recorded


def test_bodies_are_built_as_recorded() -> None:
    """The body that tests build equals the recorded one."""
    _, _, recorded = WIRE[0].read_bytes().partition(b"\r\n\r\n")
    photo = WIRE[0].with_name("nx300_email.SAM_4371.JPG").read_bytes()
    hidden = "[email\u00a0protected]"
    xml = bodies.message_xml(sender=hidden, recipients=[hidden]).replace(b"\n", b"\r\n")
    assert bodies.body([("SAM_4371.JPG", photo)], message=xml) == recorded


# Uploads


def test_name_of_the_sender() -> None:
    """The sender has a name and an address. The size is that of all files."""
    xml = bodies.message_xml(sender="Me <a@x.org>")
    photos = [("a.jpg", JPEG), ("b.jpg", bodies.jpeg(5000, 2))]
    upload = nxparse.read(bodies.body(photos, message=xml), bodies.CONTENT_TYPE)
    assert (upload.sender_name, upload.sender, upload.size) == ("Me", "a@x.org", 5060)


@pytest.mark.parametrize("ending", bodies.ENDINGS)
def test_every_end_gives_the_same_upload(ending: str) -> None:
    """No whole photo is reported as cut, however the body ends."""
    body = bodies.body([("a.jpg", JPEG)], ending=bodies.ENDINGS[ending])
    upload = read(body, bodies.CONTENT_TYPE)
    assert [file.data for file in upload.files] == [JPEG]
    assert "photo-cut" not in kinds(upload)
    for size in (1, 1460):
        assert as_json(read_chunked(body, size, bodies.CONTENT_TYPE)) == as_json(upload)


FILES = {
    "file": ([part(JPEG, b"; filename=a.jpg")], [("a.jpg", "image/jpeg", JPEG)], ""),
    "no-file-name": ([part(JPEG)], [(None, "image/jpeg", JPEG)], ""),
    "pjpeg": ([part(JPEG, b"\r\nContent-Type: image/pjpeg")], [(None, "image/jpeg", JPEG)], ""),
    "real-html": ([part(b"<p>", b"\r\nContent-Type: text/html")],
        [(None, "application/octet-stream", b"<p>")], ""),
    "program": ([part(b"MZ\x90", b"; filename=a.exe\r\nContent-Type: image/jpeg")],
        [("a.exe", "application/octet-stream", b"MZ\x90")], ""),
    "injection": ([part(b"?", b"\r\nContent-Type: image/x\rBcc: y")],
        [(None, "application/octet-stream", b"?")], "header-malformed"),
    "zero-bytes": ([part(b"", b"; filename=a\r\nContent-Type: image/jpeg"), part(JPEG)],
        [("a", "image/jpeg", b""), (None, "image/jpeg", JPEG)], "empty-file"),
    "empty-field": ([part(b"", b'; filename=""'), part(JPEG)], [(None, "image/jpeg", JPEG)],
        "empty-field"),
    "empty-field-without-a-file-name": ([part(b""), part(JPEG)], [(None, "image/jpeg", JPEG)],
        "empty-field"),
    "photo-named-message": ([part(JPEG, b"; filename=a.jpg", name=b"message")],
        [("a.jpg", "image/jpeg", JPEG)], "file-named-message"),
    "nested": ([part(b"--i\r\n\r\nx\r\n--i--", b"\r\nContent-Type: multipart/mixed; boundary=i")],
        [(None, "application/octet-stream", b"--i\r\n\r\nx\r\n--i--")], ""),
}  # fmt: skip


@pytest.mark.parametrize(("parts", "files", "noticed"), FILES.values(), ids=FILES)
def test_files(
    parts: list[bytes], files: list[tuple[str | None, str, bytes]], noticed: str
) -> None:
    """Every part except the message is a file. Its type is that of its content."""
    upload = read(whole(*parts), TYPE)
    assert [(file.name, file.content_type, file.data) for file in upload.files] == files
    assert kinds(upload) == noticed
    assert as_json(read_chunked(whole(*parts), 1)) == as_json(upload)


@pytest.mark.parametrize("before", [True, False], ids=["photo-first", "message-first"])
def test_photo_named_message(before: bool) -> None:
    """A photo may be in a part named message, and keeps its own line end."""
    photo = part(JPEG + b"\r\n", b"; filename=a.jpg", name=b"message")
    text = part(XML, name=b"message")
    body = (photo + text if before else text + photo) + b"--B7x--\r\n"
    upload = read(body, TYPE)
    assert [(file.name, file.data) for file in upload.files] == [("a.jpg", JPEG + b"\r\n")]
    assert kinds(upload) == "file-named-message"
    content_type, repaired = multipart.repair(body, TYPE)
    assert [file.data for file in read(repaired, content_type).files] == [JPEG + b"\r\n"]
    handed_on = encoded(upload, upload.files, ID)
    parts = multipart.parse(b"".join(handed_on.chunks()), handed_on.content_type, strict=True)
    assert parts == multipart.parse(repaired, content_type)
    without = encoded(upload, [], ID)
    parts = multipart.parse(b"".join(without.chunks()), without.content_type)
    assert [one.data for one in parts] == [XML]


def test_second_message() -> None:
    """The first of two messages counts, and the second is not a file."""
    body = whole(part(JPEG), part(b"<email/>", name=b"message"))
    upload = read(body, TYPE)
    second = body.index(b"<email/>")
    assert (upload.recipients, len(upload.files)) == (("b@x.org",), 1)
    assert upload.deviations == (Deviation(Kind.MESSAGE_REPEATED, second),)


def test_offsets_in_the_message() -> None:
    """The offsets of the message's deviations count from the start of the body."""
    xml = b"<email><receiver>b@x.org</receiver><title>&</title></email>"
    upload = read(MESSAGE + xml + b"\r\n" + part(JPEG) + CLOSE, TYPE)
    assert [(deviation.kind, deviation.offset) for deviation in upload.deviations] == [
        (Kind.XML_MALFORMED, len(MESSAGE)),
        (Kind.NO_SENDER, len(MESSAGE)),
    ]


UNREADABLE = {
    "no-message": (part(JPEG) + b"--B7x--", BodyError, "the body has no part named message", 400),
    "no-file": (whole(), BodyError, "the upload has no file", 400),
    "empty-field": (whole(part(b"", b'; filename=""')), BodyError, "the upload has no file", 400),
    "whole-message": (MESSAGE + XML, BodyError, "the upload has no file", 400),
    "photo-before": (JPEG + b"\r\n" + whole(part(JPEG)), MultipartError, "could be a photo", 400),
    "photo-after": (whole(part(JPEG)) + JPEG, MultipartError, "could be a photo", 400),
    "64-kib": (MESSAGE + b"x" * markup.MAX_BYTES + b"x" + CLOSE, markup.TooLongError,
        "longer than 65536 bytes", 413),
    "malformed-and-nothing-after": (MESSAGE + XML.replace(b"</s", b" & </s"), BodyError,
        "the body ends inside the message", 400),
}  # fmt: skip


@pytest.mark.parametrize(("body", "error", "reason", "status"), UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable(body: bytes, error: type[BodyError], reason: str, status: int) -> None:
    """A body that is not an upload is refused with a reason and a status."""
    with pytest.raises(BodyError, match=reason) as caught:
        read(body, TYPE)
    assert (type(caught.value), caught.value.status) == (error, status)
    with pytest.raises(error, match=reason):
        read_chunked(body, 1000)


def test_long_message_is_not_fetched_whole() -> None:
    """Only the beginning of an endless message is read, enough to refuse it."""
    fetch = Recorder(MESSAGE + b"x" * 10 * markup.MAX_BYTES + CLOSE)
    scanner = Scanner(boundary_of(TYPE))
    scanner.feed(fetch.body)
    with pytest.raises(BodyError):
        from_parts(scanner.close(fetch), scanner.deviations, fetch)
    assert max(end - start for start, end in fetch.fetched) == markup.MAX_BYTES + 1


@pytest.mark.parametrize("rest", [b"\r\n--B", b"\r\n--B7x"])
def test_malformed_message_at_the_end(rest: bytes) -> None:
    """A message is complete if part of a delimiter follows it."""
    upload = read(part(JPEG) + MESSAGE + XML[:-5] + rest, TYPE)
    assert (upload.recipients, len(upload.files)) == (("b@x.org",), 1)
    assert kinds(upload).endswith("xml-malformed")


def test_cut_in_the_message() -> None:
    """A body that ends inside the message is refused."""
    xml = bodies.message_xml(recipients=["b@x.org", "c@x.org"])
    for end in range(len(xml)):
        with pytest.raises(BodyError, match=r"ends inside the message|names no receiver"):
            read(part(JPEG) + MESSAGE + xml[:end], TYPE)
    assert read(part(JPEG) + MESSAGE + xml, TYPE).recipients == ("b@x.org", "c@x.org")


# Posts

SOURCES = [("a.jpg", JPEG), ("", b""), (None, bodies.jpeg(500, 3)), ("../x", b"?"), ("z.jpg", b"")]


def single_file(name: str | None, data: bytes) -> File:
    return file_of(name, "image/jpeg", len(data), fetch_from(data))


MP4 = b"\0\0\0\x18ftypmp42" + bytes(30)

WHOLE = {
    "photo": (JPEG, "image/jpeg", "image/jpeg"),
    "video": (MP4, "application/x-www-form-urlencoded", "video/mp4"),
    "case": (b"?", "Video/3GPP", "video/3gpp"),
    "parameters": (b"?", " image/webp ; q=1; x", "image/webp"),
    "injection": (b"?", "image/x\rBcc: y", "application/octet-stream"),
}


@pytest.mark.parametrize(("content", "claimed", "expected"), WHOLE.values(), ids=WHOLE)
def test_whole_body(content: bytes, claimed: str, expected: str) -> None:
    """A whole body becomes a file. Its type is that of its content."""
    fetch = Recorder(content)
    file = file_of("a.jpg", claimed, len(content), fetch)
    assert fetch.fetched == [(0, min(16, len(content)))]
    assert (file.name, file.content_type, file.data) == ("a.jpg", expected, content)
    assert (file.start, file.size) == (0, len(content))


@pytest.mark.parametrize(("sender", "name"), [("me@example.org", ""), ("me", "me")])
def test_posted(sender: str, name: str) -> None:
    """A post is an upload to its site, with the caption as its text."""
    files = [single_file(name, data) for name, data in SOURCES]
    caption = "At the sea\r\nBcc: x <b>~a~b"
    upload = posted(sender, "facebook", "NX300", caption, files)
    assert (upload.sender, upload.sender_name) == (sender, name)
    assert (upload.recipients, upload.subject) == (("facebook",), "facebook: NX300")
    assert (upload.text, upload.files, upload.deviations) == (caption, tuple(files), ())


# Uploads handed on

ID = "an id that the sender does not know"
BOUNDARY = hashlib.sha256(ID.encode()).hexdigest()[:32]

TWO = [("a.jpg", JPEG), ("b.jpg", bodies.jpeg(5000, 2))]
ENCODED = {
    **{
        ending: (bodies.body(TWO, ending=bodies.ENDINGS[ending]), bodies.CONTENT_TYPE)
        for ending in ("complete", "unmarked", "boundary-cut-at-9", "nothing")
    },
    "empty-field": (whole(part(b""), part(JPEG)), TYPE),
    "two-messages": (whole(part(JPEG), part(b"<email/>", name=b"message")), TYPE),
    "message-last": (part(JPEG) + MESSAGE + XML + CLOSE, TYPE),
    "boundary-in-a-photo": (whole(part(b"a--B7x")), TYPE),
}


@pytest.mark.parametrize(("body", "content_type"), ENCODED.values(), ids=ENCODED)
def test_encoded_is_repaired(body: bytes, content_type: str) -> None:
    """An upload by e-mail is encoded as by `repair`."""
    expected = bodies.repaired(body, content_type, BOUNDARY)
    for upload in (read(body, content_type), read_chunked(body, 1460, content_type)):
        found = encoded(upload, upload.files, ID)
        assert (found.content_type, b"".join(found.chunks())) == expected
        assert found.size == len(expected[1])


@pytest.mark.parametrize("chosen", [[], [0], [1], [2], [0, 2]])
def test_encoded_files(chosen: list[int]) -> None:
    """Some files of an upload are encoded with the message."""
    photos = [("a.jpg", JPEG), ("b.jpg", b""), ("c.jpg", bodies.jpeg(500, 3))]
    upload = read(bodies.body(photos), bodies.CONTENT_TYPE)
    found = encoded(upload, [upload.files[index] for index in chosen], ID)
    expected = bodies.body([photos[index] for index in chosen])
    assert (found.content_type, b"".join(found.chunks())) == bodies.repaired(
        expected, bodies.CONTENT_TYPE, BOUNDARY
    )


@pytest.mark.parametrize("chosen", [[], [0], [1], [4], [2, 3], [1, 4], [0, 1, 2, 3, 4]])
def test_encoded_post(chosen: list[int]) -> None:
    """A post is encoded with a message, and parses as the same upload."""
    sources = [SOURCES[index] for index in chosen]
    files = [single_file(name, data) for name, data in sources]
    upload = posted("Änne <b>", "facebook", "NX300", "At the sea & beyond\n]]>", files)
    found = encoded(upload, files, ID)
    body = b"".join(found.chunks())
    assert found.size == len(body)
    parts = multipart.parse(body, found.content_type, strict=True)
    assert [(part.name, part.filename, part.content_type) for part in parts] == [
        ("message", "message.xml", "text/xml"),
        *(("binary", file.safe_name, file.content_type) for file in files),
    ]
    if not any(data for _, data in sources):
        return
    again = read(body, found.content_type)
    assert (again.recipients, again.subject) == (("facebook",), "facebook: NX300")
    assert (again.sender_name, again.sender) == ("Änne", "b")
    assert again.text == "At the sea & beyond\n]]>"
    assert [file.data for file in again.files] == [data for _, data in sources]


NX300 = pictures.photo()

CAMERAS = {
    "photo": ([NX300], "", "NX300"),
    "album-first": ([NX300], "WB850F", "WB850F"),
    "first-that-names-it": ([JPEG, b"", b"MZ", NX300, pictures.photo(model="NX1")], "", "NX300"),
    "large": ([NX300 + bytes(jpeg.HEAD)], "", "NX300"),
}


@pytest.mark.parametrize(("photos", "album", "expected"), CAMERAS.values(), ids=CAMERAS)
def test_camera(photos: list[bytes], album: str, expected: str) -> None:
    """The camera is the album of a post, or else the model in a photo."""
    fetches = [Recorder(photo) for photo in photos]
    files = [File("a.jpg", "", len(fetch.body), 0, fetch) for fetch in fetches]
    assert camera(Upload("a", ("b",), "", "", tuple(files), album=album)) == expected
    assert all(end <= jpeg.HEAD for fetch in fetches for _, end in fetch.fetched)


# Fingerprints

LARGE = bodies.jpeg(300_000, 7)
FIRST = bodies.body([("a.jpg", LARGE), ("b.jpg", JPEG)])


def other(position: int) -> bytes:
    """The body with another byte in its large photo."""
    position += FIRST.index(LARGE)
    return FIRST[:position] + bytes([FIRST[position] ^ 1]) + FIRST[position + 1 :]


WITH_TEXT = bodies.message_xml(text="Nx")
REPEATS = {
    "the-same": (FIRST, True),
    "first-byte": (other(0), False),
    "end-of-the-first-64-KiB": (other(65_535), False),
    "in-the-middle": (other(150_000), True),
    "begin-of-the-last-64-KiB": (other(300_000 - 65_536), False),
    "last-byte": (other(299_999), False),
    "message": (bodies.body([("a.jpg", LARGE), ("b.jpg", JPEG)], message=WITH_TEXT), False),
    "name": (bodies.body([("c.jpg", LARGE), ("b.jpg", JPEG)]), False),
}


@pytest.mark.parametrize(("body", "same"), REPEATS.values(), ids=REPEATS)
def test_fingerprint(body: bytes, same: bool) -> None:
    """The fingerprint changes with the sender, the message and both ends of the files."""
    first = fingerprint(read(FIRST, bodies.CONTENT_TYPE), len(FIRST))
    found = read(body, bodies.CONTENT_TYPE)
    assert (fingerprint(found, len(FIRST)) == first) is same
    assert fingerprint(found, len(FIRST) + 1) != first
    assert fingerprint(replace(found, sender="another"), len(FIRST)) != first


def test_fingerprint_of_large_files() -> None:
    """Only 64 KiB at each end of a large file are read."""
    fetch, size = Recorder(b""), 1 << 31
    fingerprint(posted("a", "facebook", "", "", [File("a.mp4", "", size, 0, fetch)]), size)
    assert fetch.fetched == [(0, 1 << 16), (size - (1 << 16), size)]


# Cut photos


CUT = {
    "last-byte": (JPEG[:-1], True),
    "after-crlf": (JPEG[:30] + b"\r\n", True),
    "half-a-marker": (b"\xff", True),
    "unmarked-delimiter": (JPEG[:30] + b"\r\n--B7x", False),
    "whole": (JPEG, False),
    "zeros": (JPEG + bytes(62), False),
    "more-zeros": (JPEG + bytes(63), True),
    "no-jpeg": (b"RIFF\0\0\0\0AVI ", False),
}


@pytest.mark.parametrize(("content", "is_cut"), CUT.values(), ids=CUT)
def test_cut_photo(content: bytes, is_cut: bool) -> None:
    """A JPEG without an end marker at the end of the body is reported as cut, no other one."""
    upload = read(MESSAGE + XML + b"\r\n" + part(JPEG[:-2]) + FIELD + content, TYPE)
    first, last = upload.files
    expected = [Deviation(Kind.PHOTO_CUT, last.start + last.size)] if is_cut else []
    assert list(upload.deviations[1:]) == expected
    assert first.data == JPEG[:-2]
    assert content.startswith(last.data)


def test_cut_at_each_byte_of_a_photo() -> None:
    """A cut is missed only after an end marker inside the photo."""
    body = whole(part(JPEG))
    start = body.index(JPEG)
    for size in range(2, len(JPEG)):
        is_noticed = "photo-cut" in kinds(read(body[: start + size], TYPE))
        assert is_noticed is not JPEG[:size].endswith(b"\xff\xd9")


# Files


def test_file_is_read_in_pieces() -> None:
    """The hash of a file is computed in pieces of CHUNK bytes."""
    photo = bodies.jpeg(2 * CHUNK + 1, 3)
    fetch = Recorder(b"in front" + photo)
    file = File("a.jpg", "", len(photo), 8, fetch)
    assert file.sha256 == hashlib.sha256(photo).hexdigest()
    ends = [8 + CHUNK, 8 + 2 * CHUNK, 9 + 2 * CHUNK]
    assert fetch.fetched == list(zip([8, *ends], ends, strict=False))
    assert file.data == photo


def test_empty_file() -> None:
    """An empty file is a file, and is reported with its offset."""
    upload = read(whole(part(b"", b"; filename=a.jpg"), part(JPEG)), TYPE)
    file, _ = upload.files
    assert upload.deviations == (Deviation(Kind.EMPTY_FILE, file.start),)
    assert (file.size, list(file.chunks()), file.data) == (0, [], b"")

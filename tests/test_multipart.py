"""Parts as `parse` returns them, and bodies as `repair` and `write` encode them."""

from __future__ import annotations

import tracemalloc
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import HTTP

import pytest

from nxparse.framing import CHUNK, PartSpan, boundary_of, fetch_from
from nxparse.multipart import Part, parse, repair, trimmed, write
from nxparse.scanner import Scanner
from tests import bodies
from tests.scans import CLOSE, FIELD, MESSAGE, SMALL, THREE, TYPE, XML, B, data, disposition, scan


def test_parsed_parts() -> None:
    """A part has its names as sent, lower-case header names, and its data."""
    body = bodies.body([("SAM_4371.JPG", b"JPEG")], message=XML)
    message, photo = parse(body, bodies.CONTENT_TYPE)
    assert message == Part(
        "message",
        "sample.txt",
        "multipart/form-data",
        {
            "content-disposition": 'form-data; name="message"; fileName="sample.txt"',
            "content-type": "multipart/form-data;",
        },
        XML,
    )
    assert (photo.filename, photo.content_type, photo.data) == (
        "SAM_4371.JPG",
        "image/jpeg",
        b"JPEG",
    )
    assert "JPEG" not in repr(photo)


def email_parts(content_type: str, body: bytes) -> list[tuple[str | None, bytes]]:
    """Names and data of the parts, as the standard library's parser for e-mail finds them."""
    whole = b"MIME-Version: 1.0\r\nContent-Type: " + content_type.encode() + b"\r\n\r\n" + body
    message = message_from_bytes(whole, EmailMessage, policy=HTTP)
    assert message.defects == []
    found = []
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        payload = part.get_payload(decode=True)
        assert part.defects == []
        assert part.keys() == ["Content-Disposition", "Content-Type"]
        assert isinstance(payload, bytes)
        assert name is None or isinstance(name, str)
        found.append((name, payload))
    return found


def assert_repaired(body: bytes, content_type: str, expected: list[tuple[str, bytes]]) -> None:
    repaired_type, repaired = repair(body, content_type)
    scanner = Scanner(boundary_of(repaired_type), strict=True)
    scanner.feed(repaired)
    found = [
        (part.name, repaired[part.start : part.end]) for part in scanner.close(fetch_from(repaired))
    ]
    assert found == expected
    assert email_parts(repaired_type, repaired) == expected


@pytest.mark.parametrize("surplus", [True, False], ids=["surplus", "exact"])
@pytest.mark.parametrize("ending", ["complete", "unmarked", "boundary-cut-at-9", "nothing"])
def test_strict_parsers_read_a_repaired_body(ending: str, surplus: bool) -> None:
    """Strict parsers find the parts of a repaired body, byte for byte."""
    body = bodies.body(THREE, surplus=surplus, ending=bodies.ENDINGS[ending])
    expected = [("message", bodies.message_xml()), *(("binary", photo) for _, photo in THREE)]
    assert_repaired(body, bodies.CONTENT_TYPE, expected)


def test_repaired_body_in_full() -> None:
    """Repair keeps the boundary and the names, and corrects the type of the message."""
    body = bodies.body([("SAM_4371.JPG", b"JPEG")], message=XML, boundary=B)
    assert repair(body, TYPE) == (
        TYPE,
        b"--B7x\r\n"
        b'Content-Disposition: form-data; name="message"; filename="sample.txt"\r\n'
        b"Content-Type: text/xml\r\n"
        b"\r\n"
        b"<email/>\r\n"
        b"--B7x\r\n"
        b'Content-Disposition: form-data; name="binary"; filename="SAM_4371.JPG"\r\n'
        b"Content-Type: image/jpeg\r\n"
        b"\r\n"
        b"JPEG\r\n"
        b"--B7x--\r\n",
    )


OCTETS = "application/octet-stream"
HEADERS = {
    "quote": (r'form-data; name="f"; filename="a\"b.jpg"', '"f"; filename="a%22b.jpg"', OCTETS),
    "cr": ('form-data; name="f"; filename="a\rb.jpg"', '"f"; filename="a%0Db.jpg"', OCTETS),
    "utf-8": ('form-data; name="é"', '"é"', OCTETS),
    "parameter": ("form-data; name=f\r\nContent-Type: x/y; z=1", '"f"', "x/y"),
    "nested": ("form-data; name=f\r\nContent-Type: multipart/mixed; boundary=i", '"f"', OCTETS),
    "no-name": ("form-data", '"unnamed"', OCTETS),
}


@pytest.mark.parametrize(("value", "name", "media_type"), HEADERS.values(), ids=HEADERS)
def test_repaired_headers(value: str, name: str, media_type: str) -> None:
    """Headers are escaped as in browsers, and every part has a name."""
    _, repaired = repair(disposition(value.encode()), TYPE)
    head = f"Content-Disposition: form-data; name={name}\r\nContent-Type: {media_type}\r\n\r\n"
    assert repaired == b"--B7x\r\n" + head.encode() + b"D" + CLOSE


NAMES = {
    "quote": ('a"b', "a%22b"),
    "backslash": ("a\\b", "a%5Cb"),
    "separators": ("a\u2028b\u2029", "a%E2%80%A8b%E2%80%A9"),
    "boundary": ("\r\n--B7x", "%0D%0A--B7x"),
    "tab": ("a\tb", "a\tb"),
    "signs": ("100% %00;'", "100% %00;'"),
    "surrogate": ("a\ud800b", "a?b"),
    **{f"{code:02X}": (chr(code), f"%{code:02X}") for code in (0, 8, 10, 0x1F, 0x7F)},
}


@pytest.mark.parametrize(("name", "written"), NAMES.values(), ids=NAMES)
def test_names(name: str, written: str) -> None:
    """Characters that other parsers refuse or misread are escaped in names."""
    part = PartSpan(name, name, None, (), 0, 1)
    found = write([(part, lambda start, end: b"D")], B)
    body = b"".join(found.chunks())
    line = f'Content-Disposition: form-data; name="{written}"; filename="{written}"\r\n'
    assert body.splitlines(keepends=True)[1] == line.encode()
    (read,) = parse(body, found.content_type, strict=True)
    assert (read.name, read.filename, read.data) == (written, written, b"D")


@pytest.mark.parametrize(
    "content_type", ["x; boundary=" + "B" * 71, 'x; boundary="a b"', "x; boundary=é"]
)
def test_repair_replaces_a_boundary_that_is_not_legal(content_type: str) -> None:
    """A boundary that other parsers would refuse is replaced."""
    boundary = boundary_of(content_type) or B
    body = bodies.body(SMALL, message=XML, boundary=boundary)
    expected = [("message", XML), ("binary", SMALL[0][1])]
    assert_repaired(body, content_type, expected)
    assert boundary_of(repair(body, content_type)[0]) != boundary


UNUSUAL = {
    "two-newlines": (MESSAGE + b"\r\n\r\n" + CLOSE, [("message", XML)]),
    "type": (disposition(b"form-data; name=f\r\nContent-Type: x/y\r\rsmuggled"), [("f", b"D")]),
    "backslash": (disposition(b'form-data; name="f"; filename="C:\\"'), [("f", b"D")]),
}


@pytest.mark.parametrize(("body", "expected"), UNUSUAL.values(), ids=UNUSUAL)
def test_repair_of_unusual_bodies(body: bytes, expected: list[tuple[str, bytes]]) -> None:
    """A repaired body has nothing that could mislead a parser."""
    assert_repaired(body, TYPE, expected)


@pytest.mark.parametrize("chosen", [[], [0], [0, 2], [2, 0], [0, 1, 2, 3]])
def test_write_some_parts(chosen: list[int]) -> None:
    """Parts are encoded in the given order, with the size that was announced."""
    body = bodies.body(THREE, message=XML, boundary=B)
    parts = scan([body]).parts
    some = [(parts[index], lambda start, end: body[start:end]) for index in chosen]
    found = write(some, b"C")
    written = b"".join(found.chunks())
    assert found.size == len(written)
    every = [XML, *(photo for _, photo in THREE)]
    assert data(written, scan([written], b"C")) == [every[index] for index in chosen]


TRIMMED = {
    "one": ("message", b"D\r\n", b"D"),
    "two": ("message", b"D\r\n\r\n", b"D"),
    "lf": ("message", b"D\n", b"D\n"),
    "cr": ("message", b"D\r", b"D\r"),
    "nothing-else": ("message", b"\r\n" * 3, b""),
    "photo": ("message", b"\xff\xd8\xff\r\n", b"\xff\xd8\xff\r\n"),
    "another-part": ("binary", b"\r\nD\r\n", b"\r\nD\r\n"),
}


@pytest.mark.parametrize(("name", "content", "expected"), TRIMMED.values(), ids=TRIMMED)
def test_trimmed(name: str, content: bytes, expected: bytes) -> None:
    """Line ends at the end of a message are removed, but not those of a photo."""
    body = b"\r\n" + content + b"\r\n"
    part = PartSpan(name, None, None, (), 2, 2 + len(content))
    found = trimmed(part, lambda start, end: body[start:end])
    assert body[found.start : found.end] == expected


def test_repair_avoids_a_boundary_in_a_part() -> None:
    """A boundary that is in a part is replaced by one that is not."""
    body = FIELD + b"\r\n--B7xy" + CLOSE
    replacement = boundary_of(repair(body, TYPE)[0])
    assert replacement not in (None, B)
    body = FIELD + b"\r\n--B7xy--" + (replacement or b"") + CLOSE
    assert boundary_of(repair(body, TYPE)[0]) not in (None, B, replacement)
    assert_repaired(body, TYPE, [("f", b"\r\n--B7xy--" + (replacement or b""))])


def test_pieces_are_small() -> None:
    """A part is read in pieces while it is encoded."""
    size = 40 * CHUNK + 1
    fetched: list[int] = []

    def fetch(start: int, end: int) -> bytes:
        fetched.append(end - start)
        return bytes(end - start)

    part = PartSpan("f", "a.jpg", "image/jpeg", (), 100, 100 + size)
    tracemalloc.start()
    try:
        found = write([(part, fetch)], B)
        fetched.clear()
        length = sum(len(chunk) for chunk in found.chunks())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (length, fetched) == (found.size, [CHUNK] * 40 + [1])
    assert peak < 4 * CHUNK

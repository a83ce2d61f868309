"""Headers of parts, and the boundary parameter of Content-Type."""

from __future__ import annotations

import pytest

from nxparse.framing import MAX_BOUNDARY, MAX_PEEK, PartSpan, boundary_of
from tests.scans import CLOSE, FIELD, FORM, disposition, headers, kinds, pieces, scan

NAMED = ("Content-Disposition", "form-data; name=f")

LINES = {
    "first-header-folded": (b" " + FORM, [NAMED], "header-malformed"),
    "second-line-folded": (b"Content-Disposition: form-data;\r\n\tname=f\r\n", [NAMED],
        "header-malformed"),
    "no-colon": (b"nonsense\r\n" + FORM, [NAMED], "header-malformed"),
    "empty-name": (b": x\r\n" + FORM, [("", "x"), NAMED], "header-malformed"),
    "blank-before-the-colon": (FORM.replace(b":", b" :"), [NAMED], "header-malformed"),
    "nul": (FORM + b"X: a\0b\r\n", [NAMED, ("X", "a\0b")], "header-malformed"),
    "tab": (FORM + b"X:\ta\tb\r\n", [NAMED, ("X", "a\tb")], ""),
    "nul-in-a-folded-line": (FORM + b"X: a\r\n b\0c\r\n", [NAMED, ("X", "a b\0c")],
        "header-malformed"),
    "utf-8": (FORM + "X: 사진\r\n".encode(), [NAMED, ("X", "사진")], ""),
    "korean": (FORM + "X: 사진\r\n".encode("cp949"), [NAMED, ("X", "사진")], "header-encoding"),
    "bare-lf": (FORM.replace(b"\r", b"") + b"X: y\r\n", [NAMED, ("X", "y")], "bare-lf"),
    "almost-a-delimiter": (b"--B7xy: z\r\n" + FORM, [("--B7xy", "z"), NAMED], ""),
    "two-dispositions": (FORM + FORM.replace(b"f\r", b"g\r"),
        [NAMED, ("Content-Disposition", "form-data; name=g")], "header-repeated"),
    "another-header-three-times": (FORM + b"X: 1\r\nx: 2\r\nX : 3\r\n",
        [NAMED, ("X", "1"), ("x", "2"), ("X", "3")],
        "header-repeated header-malformed header-repeated"),
}  # fmt: skip


@pytest.mark.parametrize(("block", "expected", "deviations"), LINES.values(), ids=LINES)
def test_header_lines(block: bytes, expected: list[tuple[str, str]], deviations: str) -> None:
    """Header lines are stored as received."""
    body = headers(block)
    found = scan([body])
    start = len(body) - len(CLOSE) - 1
    assert found.parts == [PartSpan("f", None, None, tuple(expected), start, start + 1)]
    assert kinds(found) == deviations
    assert scan(pieces(body, 1)) == found
    assert (scan([body], strict=True).error is None) == (not deviations)


NAMES = {
    "attachment": (b"Content-Disposition: attachment; name=f\r\n", "f", None, "disposition"),
    "empty-disposition": (b"Content-Disposition:\r\n", None, None, "disposition no-part-name"),
    "no-disposition": (b"Content-Type: Image/JPEG\r\n", None, "image/jpeg",
        "disposition no-part-name"),
    "type-with-parameter": (FORM + b"Content-Type: text/HTML; charset=x\r\n", "f", "text/html", ""),
    "message-as-captured": (FORM + b"Content-Type: Multipart/form-data;\r\n", "f",
        "multipart/form-data", "trailing-semicolon multipart-label"),
    "first-type-counts": (FORM + b"Content-Type: a/b\r\nContent-Type: c/d\r\n", "f", "a/b",
        "header-repeated"),
}  # fmt: skip


@pytest.mark.parametrize(("block", "name", "content_type", "deviations"), NAMES.values(), ids=NAMES)
def test_name_and_type(
    block: bytes, name: str | None, content_type: str | None, deviations: str
) -> None:
    """Name and type of a part are parsed, and faults are reported."""
    found = scan([headers(block)])
    assert [(part.name, part.content_type) for part in found.parts] == [(name, content_type)]
    assert kinds(found) == deviations


DISPOSITIONS = {
    "as-captured": (b'form-data; name="f"; fileName="a.jpg"', "f", "a.jpg", "parameter-case"),
    "plain": (b'form-data; name="f"; filename="a.jpg"', "f", "a.jpg", ""),
    "blanks": (b'form-data; name = "f" ; filename =\t"a.jpg" ', "f", "a.jpg", ""),
    "upper-case": (b'form-data; NAME="f"; FILENAME="a.jpg"', "f", "a.jpg",
        "parameter-case parameter-case"),
    "unquoted": (b"form-data; name=f; filename=a.jpg", "f", "a.jpg", ""),
    "single-quotes": (b"form-data; name='f'; filename='a.jpg'", "'f'", "'a.jpg'", ""),
    "empty": (b'form-data; name="f"; filename=""', "f", "", ""),
    "twice": (b'form-data; name="f"; filename="a.jpg"; filename="b.exe"', "f", "a.jpg",
        "parameter-malformed"),
    "extended-after": (b"form-data; name=\"f\"; filename=\"a.jpg\"; filename*=UTF-8''b.exe", "f",
        "a.jpg", "parameter-malformed"),
    "escaped-quote": (rb'form-data; name="f"; filename="a\"b.jpg"', "f", 'a"b.jpg', ""),
    "path": (rb'form-data; name="f"; filename="C:\DCIM\a.jpg"', "f", r"C:\DCIM\a.jpg", ""),
    "backslash-last": (b'form-data; name="f"; filename="C:\\"', "f", "C:\\", ""),
    "semicolon-inside": (b'form-data; name="f"; filename="a;b=c.jpg"', "f", "a;b=c.jpg", ""),
    "unterminated": (b'form-data; name="f"; filename="a.jpg', "f", "a.jpg", "parameter-malformed"),
    "quote-inside": (b'form-data; name="f"; filename="a"b.jpg"', "f", "a", "parameter-malformed"),
    "junk-after-the-quote": (b'form-data; name="f"g; filename="a.jpg"', "f", "a.jpg",
        "parameter-malformed"),
    "no-equals-sign": (b'form-data; x; name="f"; y', "f", None, ""),
    "all-in-an-open-quote": (b'form-data; x="y; name=f', None, None, "no-part-name"),
    "empty-name": (b'form-data; name=""', "", None, "no-part-name"),
    "no-name": (b"form-data", None, None, "no-part-name"),
    "name-twice": (b'form-data; name="f"; name="g"', "f", None, "parameter-malformed"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "name", "filename", "deviations"), DISPOSITIONS.values(), ids=DISPOSITIONS
)
def test_disposition(value: bytes, name: str | None, filename: str | None, deviations: str) -> None:
    """The first plain name counts, and paths are left unchanged."""
    found = scan([disposition(value)])
    assert [(part.name, part.filename) for part in found.parts] == [(name, filename)]
    assert kinds(found) == deviations
    assert (scan([disposition(value)], strict=True).error is None) == (not deviations)


def test_detail_of_a_long_header_is_short() -> None:
    """The detail of a header that is not UTF-8 is a short bytes literal."""
    body = disposition(b"form-data; name=f\r\n" + b"X: \xb0\xa1" + b"x" * 1000)
    (deviation,) = scan([body]).deviations
    assert deviation.detail == repr(b"X: \xb0\xa1" + b"x" * 75)


def test_part_without_headers() -> None:
    """Only the missing name of a part without headers is reported."""
    found = scan([headers(b"")])
    assert (len(found.parts), kinds(found)) == (1, "no-part-name")


BOUNDARIES = {
    "nothing": ("", None),
    "no-parameter": ("multipart/form-data", None),
    "empty": ("multipart/form-data; boundary=", None),
    "70": ("multipart/form-data; boundary=" + "B" * 70, b"B" * 70),
    "256": ("multipart/form-data; boundary=" + "B" * MAX_BOUNDARY, b"B" * MAX_BOUNDARY),
    "257": ("multipart/form-data; boundary=" + "B" * (MAX_BOUNDARY + 1), None),
    "regex": ('multipart/form-data; boundary=".*+?()[]{}"', b".*+?()[]{}"),
    "utf-8": ("multipart/form-data; boundary=bé", b"b\xc3\xa9"),
    "bytes": ("multipart/form-data; boundary=b\udcff", b"b\xff"),
    "surrogate": ("multipart/form-data; boundary=b\ud800", None),
    "line-end": ('multipart/form-data; boundary="a\r\nb"', None),
    "case-of-the-parameter": ("multipart/form-data; x=y; BOUNDARY=B", b"B"),
    "twice": ("multipart/form-data; boundary=B; boundary=C", b"B"),
    "blank-before-equals": ("multipart/form-data; boundary =B", b"B"),
    "semicolon-after": ("multipart/form-data;boundary=B ;", b"B"),
}  # fmt: skip


@pytest.mark.parametrize(("content_type", "boundary"), BOUNDARIES.values(), ids=BOUNDARIES)
def test_boundary_of(content_type: str, boundary: bytes | None) -> None:
    """The first boundary parameter counts, if it is usable."""
    assert boundary_of(content_type) == boundary


def test_peek_limit() -> None:
    """A delimiter inside a line counts if Content-Disposition follows within the limit."""
    start = FIELD + b"D--B7x\r\nX: "
    name = b"\r\nContent-Disposition:"
    longest = MAX_PEEK - len(b"X: " + name)
    for surplus, expected in ((0, 2), (1, 1)):
        value = b"y" * (longest + surplus)
        body = start + value + name + b" form-data; name=g\r\n\r\nE" + CLOSE
        found = scan([body])
        assert len(found.parts) == expected
        assert scan(pieces(body, 100)) == found


class Text(str):
    """A header value that counts the characters that `find` searches."""

    searched = 0

    def find(self, sub: str, start: object = None, end: object = None, /) -> int:
        begin = start if isinstance(start, int) else 0
        found = super().find(sub, begin)
        self.searched += (len(self) if found < 0 else found + 1) - begin
        return found


@pytest.mark.parametrize(
    ("repeated", "after"),
    [
        pytest.param(";", "", id="semicolons"),
        pytest.param("=", "", id="equals"),
        pytest.param('"', "", id="quotes"),
        pytest.param("\\", '"', id="backslashes"),
        pytest.param('\\"', "", id="escaped-quotes"),
        pytest.param(';a="', "", id="open-quotes"),
    ],
)
def test_parameters_are_linear(repeated: str, after: str) -> None:
    """The time to parse a header value is linear."""

    def searched(times: int) -> int:
        value = Text('x/y; !="' * (repeated[0] not in ";=") + "x;" + repeated * times + after)
        boundary_of(value)
        return value.searched

    assert searched(2000) <= 2.1 * searched(1000) + 100

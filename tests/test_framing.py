"""Headers of parts, and the boundary parameter of Content-Type."""

from __future__ import annotations

import pytest

from nxparse.deviation import Kind
from nxparse.framing import MAX_BOUNDARY, MAX_PEEK, PartSpan, boundary_of
from tests.scans import CLOSE, FIELD, FORM, disposition, headers, kinds, pieces, scan

NAMED = ("Content-Disposition", "form-data; name=f")


@pytest.mark.parametrize(
    ("block", "expected", "deviations"),
    [
        pytest.param(b" " + FORM, [NAMED], [Kind.HEADER_MALFORMED], id="first-header-folded"),
        pytest.param(b"Content-Disposition: form-data;\r\n\tname=f\r\n", [NAMED],
            [Kind.HEADER_MALFORMED], id="second-line-folded"),
        pytest.param(b"nonsense\r\n" + FORM, [NAMED], [Kind.HEADER_MALFORMED],
            id="no-colon"),
        pytest.param(b": x\r\n" + FORM, [("", "x"), NAMED], [Kind.HEADER_MALFORMED],
            id="empty-name"),
        pytest.param(FORM.replace(b":", b" :"), [NAMED], [Kind.HEADER_MALFORMED],
            id="blank-before-the-colon"),
        pytest.param(FORM + b"X: a\0b\r\n", [NAMED, ("X", "a\0b")], [Kind.HEADER_MALFORMED],
            id="nul"),
        pytest.param(FORM + b"X:\ta\tb\r\n", [NAMED, ("X", "a\tb")], [], id="tab"),
        pytest.param(FORM + b"X: a\r\n b\0c\r\n", [NAMED, ("X", "a b\0c")],
            [Kind.HEADER_MALFORMED], id="nul-in-a-folded-line"),
        pytest.param(FORM + "X: 사진\r\n".encode(), [NAMED, ("X", "사진")], [], id="utf-8"),
        pytest.param(FORM + "X: 사진\r\n".encode("cp949"), [NAMED, ("X", "사진")],
            [Kind.HEADER_ENCODING], id="korean"),
        pytest.param(FORM.replace(b"\r", b"") + b"X: y\r\n", [NAMED, ("X", "y")], [Kind.BARE_LF],
            id="bare-lf"),
        pytest.param(b"--B7xy: z\r\n" + FORM, [("--B7xy", "z"), NAMED], [],
            id="almost-a-delimiter"),
        pytest.param(FORM + FORM.replace(b"f\r", b"g\r"),
            [NAMED, ("Content-Disposition", "form-data; name=g")], [Kind.HEADER_REPEATED],
            id="two-dispositions"),
        pytest.param(FORM + b"X: 1\r\nx: 2\r\nX : 3\r\n",
            [NAMED, ("X", "1"), ("x", "2"), ("X", "3")],
            [Kind.HEADER_REPEATED, Kind.HEADER_MALFORMED, Kind.HEADER_REPEATED],
            id="another-header-three-times"),
    ],
)  # fmt: skip
def test_header_lines(
    block: bytes, expected: list[tuple[str, str]], deviations: list[Kind]
) -> None:
    """Header lines are kept as they are on the wire."""
    body = headers(block)
    found = scan([body])
    start = len(body) - len(CLOSE) - 1
    assert found.parts == [PartSpan("f", None, None, tuple(expected), start, start + 1)]
    assert kinds(found) == deviations
    assert scan(pieces(body, 1)) == found
    assert (scan([body], strict=True).error is None) == (not deviations)


@pytest.mark.parametrize(
    ("block", "name", "content_type", "deviations"),
    [
        pytest.param(b"Content-Disposition: attachment; name=f\r\n", "f", None,
            [Kind.DISPOSITION], id="attachment"),
        pytest.param(b"Content-Disposition:\r\n", None, None,
            [Kind.DISPOSITION, Kind.NO_PART_NAME], id="empty-disposition"),
        pytest.param(b"Content-Type: Image/JPEG\r\n", None, "image/jpeg",
            [Kind.DISPOSITION, Kind.NO_PART_NAME], id="no-disposition"),
        pytest.param(FORM + b"Content-Type: text/HTML; charset=x\r\n", "f", "text/html", [],
            id="type-with-parameter"),
        pytest.param(FORM + b"Content-Type: Multipart/form-data;\r\n", "f", "multipart/form-data",
            [Kind.TRAILING_SEMICOLON, Kind.MULTIPART_LABEL], id="message-as-captured"),
        pytest.param(FORM + b"Content-Type: a/b\r\nContent-Type: c/d\r\n", "f", "a/b",
            [Kind.HEADER_REPEATED], id="first-type-counts"),
    ],
)  # fmt: skip
def test_name_and_type(
    block: bytes, name: str | None, content_type: str | None, deviations: list[Kind]
) -> None:
    """Name and type of a part are read as far as they are clear."""
    found = scan([headers(block)])
    assert [(part.name, part.content_type) for part in found.parts] == [(name, content_type)]
    assert kinds(found) == deviations


@pytest.mark.parametrize(
    ("value", "name", "filename", "deviations"),
    [
        pytest.param(b'form-data; name="f"; fileName="a.jpg"', "f", "a.jpg", [Kind.PARAMETER_CASE],
            id="as-captured"),
        pytest.param(b'form-data; name="f"; filename="a.jpg"', "f", "a.jpg", [], id="plain"),
        pytest.param(b'form-data; name = "f" ; filename =\t"a.jpg" ', "f", "a.jpg", [],
            id="blanks"),
        pytest.param(b'form-data; NAME="f"; FILENAME="a.jpg"', "f", "a.jpg",
            [Kind.PARAMETER_CASE, Kind.PARAMETER_CASE], id="upper-case"),
        pytest.param(b"form-data; name=f; filename=a.jpg", "f", "a.jpg", [], id="unquoted"),
        pytest.param(b"form-data; name='f'; filename='a.jpg'", "'f'", "'a.jpg'", [],
            id="single-quotes"),
        pytest.param(b'form-data; name="f"; filename=""', "f", "", [], id="empty"),
        pytest.param(b'form-data; name="f"; filename="a.jpg"; filename="b.exe"', "f", "a.jpg",
            [Kind.PARAMETER_MALFORMED], id="twice"),
        pytest.param(b"form-data; name=\"f\"; filename=\"a.jpg\"; filename*=UTF-8''b.exe", "f",
            "a.jpg", [Kind.PARAMETER_MALFORMED], id="extended-behind"),
        pytest.param(rb'form-data; name="f"; filename="a\"b.jpg"', "f", 'a"b.jpg', [],
            id="escaped-quote"),
        pytest.param(rb'form-data; name="f"; filename="C:\DCIM\a.jpg"', "f", r"C:\DCIM\a.jpg", [],
            id="path"),
        pytest.param(b'form-data; name="f"; filename="C:\\"', "f", "C:\\", [],
            id="backslash-last"),
        pytest.param(b'form-data; name="f"; filename="a;b=c.jpg"', "f", "a;b=c.jpg", [],
            id="semicolon-inside"),
        pytest.param(b'form-data; name="f"; filename="a.jpg', "f", "a.jpg",
            [Kind.PARAMETER_MALFORMED], id="unterminated"),
        pytest.param(b'form-data; name="f"; filename="a"b.jpg"', "f", "a",
            [Kind.PARAMETER_MALFORMED], id="quote-inside"),
        pytest.param(b'form-data; name="f"g; filename="a.jpg"', "f", "a.jpg",
            [Kind.PARAMETER_MALFORMED], id="junk-behind-the-quote"),
        pytest.param(b'form-data; x; name="f"; y', "f", None, [], id="no-equals-sign"),
        pytest.param(b'form-data; x="y; name=f', None, None, [Kind.NO_PART_NAME],
            id="all-in-an-open-quote"),
        pytest.param(b'form-data; name=""', "", None, [Kind.NO_PART_NAME], id="empty-name"),
        pytest.param(b"form-data", None, None, [Kind.NO_PART_NAME], id="no-name"),
        pytest.param(b'form-data; name="f"; name="g"', "f", None, [Kind.PARAMETER_MALFORMED],
            id="name-twice"),
    ],
)  # fmt: skip
def test_disposition(
    value: bytes, name: str | None, filename: str | None, deviations: list[Kind]
) -> None:
    """The first plain name counts, and paths are left unchanged."""
    found = scan([disposition(value)])
    assert [(part.name, part.filename) for part in found.parts] == [(name, filename)]
    assert kinds(found) == deviations
    assert (scan([disposition(value)], strict=True).error is None) == (not deviations)


def test_detail_of_a_long_header_is_short() -> None:
    """The detail of a header that is no UTF-8 is a short bytes literal."""
    body = disposition(b"form-data; name=f\r\n" + b"X: \xb0\xa1" + b"x" * 1000)
    (deviation,) = scan([body]).deviations
    assert deviation.detail == repr(b"X: \xb0\xa1" + b"x" * 75)


def test_part_without_headers_has_no_disposition_to_miss() -> None:
    """Only the missing name of a part without headers is reported."""
    found = scan([headers(b"")])
    assert (len(found.parts), kinds(found)) == (1, [Kind.NO_PART_NAME])


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        pytest.param("", None, id="nothing"),
        pytest.param("multipart/form-data", None, id="no-parameter"),
        pytest.param("multipart/form-data; boundary=", None, id="empty"),
        pytest.param("multipart/form-data; boundary=" + "B" * 70, b"B" * 70, id="70"),
        pytest.param(
            "multipart/form-data; boundary=" + "B" * MAX_BOUNDARY, b"B" * MAX_BOUNDARY, id="256"
        ),
        pytest.param("multipart/form-data; boundary=" + "B" * (MAX_BOUNDARY + 1), None, id="257"),
        pytest.param('multipart/form-data; boundary=".*+?()[]{}"', b".*+?()[]{}", id="regex"),
        pytest.param("multipart/form-data; boundary=bé", b"b\xc3\xa9", id="utf-8"),
        pytest.param("multipart/form-data; boundary=b\udcff", b"b\xff", id="bytes"),
        pytest.param("multipart/form-data; boundary=b\ud800", None, id="surrogate"),
        pytest.param('multipart/form-data; boundary="a\r\nb"', None, id="line-end"),
        pytest.param("multipart/form-data; x=y; BOUNDARY=B", b"B", id="case-of-the-parameter"),
        pytest.param("multipart/form-data; boundary=B; boundary=C", b"B", id="twice"),
        pytest.param("multipart/form-data; boundary =B", b"B", id="blank-before-equals"),
        pytest.param("multipart/form-data;boundary=B ;", b"B", id="semicolon-behind"),
    ],
)
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

"""Bodies as cameras write them, damaged bodies, and hostile ones."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from sys import setprofile

import pytest

from nxparse.deviation import Deviation, Kind, LimitError, MultipartError
from nxparse.framing import MAX_BLANKS, MAX_BOUNDARY, MAX_HEADER_BYTES, MAX_HEADERS, boundary_of
from nxparse.multipart import parse
from nxparse.scanner import MAX_DELIMITERS, MAX_PARTS, Scanner
from tests import bodies
from tests.scans import (
    CLOSE,
    FIELD,
    FORM,
    MESSAGE,
    SMALL,
    THREE,
    TYPE,
    XML,
    B,
    data,
    disposition,
    halves,
    headers,
    kinds,
    noticed,
    pieces,
    scan,
)

# The deviation at each ending, with its offset from the end of the last part's data.
AT_THE_END: dict[str, tuple[Kind, int] | None] = {
    "complete": None,
    "complete-without-newline": None,
    "one-dash": (Kind.CLOSE_DELIMITER_CUT, 7),
    "unmarked": (Kind.CLOSE_DELIMITER_UNMARKED, 7),
    "unmarked-cr": (Kind.CLOSE_DELIMITER_UNMARKED, 7),
    "unmarked-newline": (Kind.CLOSE_DELIMITER_UNMARKED, 9),
    "unmarked-blank-newline": (Kind.CLOSE_DELIMITER_UNMARKED, 10),
    "unmarked-blank-line": (Kind.CLOSE_DELIMITER_UNMARKED, 11),
    "boundary-cut-at-2": (Kind.CLOSE_DELIMITER_CUT, 0),
    "boundary-cut-at-1": (Kind.CLOSE_DELIMITER_CUT, 0),
    "boundary-cut-at-0": (Kind.CLOSE_DELIMITER_CUT, 0),
    "dash": (Kind.CLOSE_DELIMITER_CUT, 0),
    "newline": (Kind.CLOSE_DELIMITER_CUT, 0),
    "cr": (Kind.CLOSE_DELIMITER_CUT, 0),
    "nothing": (Kind.CLOSE_DELIMITER_MISSING, 0),
}


@pytest.mark.parametrize("name", AT_THE_END)
@pytest.mark.parametrize("surplus", [True, False], ids=["surplus", "exact"])
@pytest.mark.parametrize("photos", [SMALL, THREE], ids=["one", "three"])
def test_photos_are_exact_at_each_ending(
    name: str, surplus: bool, photos: list[tuple[str, bytes]]
) -> None:
    """Photos, deviations and offsets are exact at each possible end of the body."""
    ending = bodies.endings(B)[name]
    body = bodies.body(photos, message=XML, surplus=surplus, ending=ending, boundary=B)
    found = scan([body])

    expected: list[tuple[Kind, int]] = []
    ends: list[int] = []
    for part in found.parts:
        head = body.rindex(b"--B7x\r\n", 0, part.start) + 7
        expected += [(Kind.PARAMETER_CASE, head), (Kind.TRAILING_SEMICOLON, head)]
        if part.name == "message":
            expected.append((Kind.MULTIPART_LABEL, head))
        ends.append(part.end)
    at_the_end = AT_THE_END[name]
    if surplus and name == "nothing":
        # The surplus line end cannot be distinguished from one that begins a delimiter.
        expected.append((Kind.CLOSE_DELIMITER_CUT, ends.pop()))
    elif at_the_end:
        expected.append((at_the_end[0], at_the_end[1] + len(body) - len(ending)))
    expected += [(Kind.SURPLUS_NEWLINE, end) for end in ends if surplus]

    assert data(body, found) == [XML, *(content for _, content in photos)]
    assert noticed(found) == expected
    assert scan(pieces(body, 1)) == found
    assert scan(pieces(body, 100)) == found
    if photos is SMALL:
        # Before the last photo, all these bodies are the same.
        start = 0 if name == "unmarked" else found.parts[-1].start
        assert [split for split in halves(body, start) if scan(split) != found] == []


# Bytes of a cut photo that may be mistaken for the beginning of a delimiter.
BEGINNINGS = {CLOSE[:length] for length in range(8)}
LEFT_OUT = {False: BEGINNINGS, True: BEGINNINGS | {b"\r\n" + begin for begin in BEGINNINGS}}


@pytest.mark.parametrize("surplus", [True, False], ids=["surplus", "exact"])
def test_cut_in_a_photo(surplus: bool) -> None:
    """Photos before the cut are exact, and the cut one begins correctly."""
    body = bodies.body(THREE, message=XML, surplus=surplus, boundary=B, ending=CLOSE)
    for number, (_, photo) in enumerate(THREE):
        start = body.index(photo)
        before = [XML, *(content for _, content in THREE[:number])]
        for end in range(start + 1, start + len(photo)):
            *whole, cut = data(body, scan([body[:end]]))
            assert whole == before
            assert photo.startswith(cut)
            # The end may be lost if it resembles a surplus line end and a delimiter.
            assert photo[len(cut) : end - start] in LEFT_OUT[surplus]


D = FIELD + b"D"
E = FIELD + b"E" + CLOSE
NESTED = b'--i\r\nContent-Disposition: file; filename="x"\r\n\r\nx\r\n--i--'
FRAMING = {
    "longer-boundary": (FIELD + b"\r\n--B7xy\r\n" + CLOSE, [b"\r\n--B7xy\r\n"], ""),
    "bare-lf-before": (FIELD + b"\n--B7x\r\n" + CLOSE, [b"\n--B7x\r\n"], ""),
    "in-a-line": (D + b"--B7x\r\n" + CLOSE, [b"D--B7x\r\n"], ""),
    "one-dash-after": (FIELD + b"\r\n--B7x-\r\n" + CLOSE, [b"\r\n--B7x-\r\n"], ""),
    "cr-after": (FIELD + b"\r\n--B7x \r" + CLOSE, [b"\r\n--B7x \r"], ""),
    "at-the-start-of-the-data": (FIELD + b"--B7xy" + CLOSE, [b"--B7xy"], ""),
    "delimiter-in-a-photo": (FIELD + b"\xff\xd8 one\r\n--B7x\r\n\r\ntwo \xff\xd9" + CLOSE,
        [b"\xff\xd8 one", b"two \xff\xd9"], "no-part-name"),
    "preamble-without-line-end": (b"Hello" + D + CLOSE, [b"D"], "preamble"),
    "preamble-and-other-headers": (b"Hello\r\n--B7x\r\nX: y\r\n\r\nD" + CLOSE, [b"D"],
        "preamble disposition no-part-name"),
    "zeros": (b"--B7x\r\n\0\0\0", [], "close-delimiter-unmarked"),
    "zeros-and-text": (D + b"\r\n--B7x\r\n\0end", [b"D"], "close-delimiter-unmarked epilogue"),
    "delimiter-and-one-dash": (D + b"\r\n--B7x\r\n--B7x-", [b"D"],
        "close-delimiter-cut empty-part"),
    "part-in-the-epilogue": (D + CLOSE + E, [b"D", b"E"], "close-delimiter-early"),
    "text-and-a-part-in-the-epilogue": (D + CLOSE + b"end\r\n" + E, [b"D", b"E"],
        "epilogue close-delimiter-early"),
    "longest-epilogue": (D + CLOSE + b"a" * 1024, [b"D"], "epilogue"),
    "blank-epilogue": (D + CLOSE + b"\r\n \t\0" * 1000, [b"D"], ""),
    "part-right-after-the-end": (D + b"\r\n--B7x--" + E, [b"D", b"E"], "close-delimiter-early"),
    "unmarked-and-zeros": (D + b"\r\n--B7x\0\0", [b"D"], "close-delimiter-unmarked"),
    "zeros-and-more": (D + b"\r\n--B7x\0\0E" + CLOSE, [b"D\r\n--B7x\0\0E"], ""),
    "headers-behind": (D + E, [b"D", b"E"], "newline-missing"),
    "no-disposition-after": (D + b"--B7x\r\nContent-Type: x/y\r\n\r\nE" + CLOSE,
        [b"D--B7x\r\nContent-Type: x/y\r\n\r\nE"], ""),
    "lf-before-and-headers-after": (D + b"\n" + E, [b"D", b"E"], "bare-lf"),
    "close-in-a-line": (D + b"--B7x--", [b"D"], "newline-missing"),
    "close-in-a-line-and-a-part": (D + b"--B7x--\r\n" + E, [b"D", b"E"],
        "newline-missing close-delimiter-early"),
    "close-in-a-line-and-more": (D + b"--B7x--\r\nE" + CLOSE, [b"D--B7x--\r\nE"], ""),
    "close-in-a-line-and-a-part-in-it": (D + b"--B7x-- " + E, [b"D", b"E"],
        "newline-missing close-delimiter-early"),
    "close-in-a-line-and-a-delimiter": (D + b"--B7x--\r\n--B7x\r\nX: y" + CLOSE, [b"D"],
        "newline-missing epilogue"),
    "unmarked-in-a-line": (D + b"--B7x \r", [b"D"], "close-delimiter-unmarked newline-missing"),
    "cut-in-a-line": (D + b"--B7", [b"D"], "newline-missing close-delimiter-cut"),
    "hyphens": (D + b"--", [b"D--"], "close-delimiter-missing"),
    "no-blank-line-before-a-photo": (FIELD[:-2] + b"\xff\xd8\n\r\n\xff" + CLOSE,
        [b"\xff\xd8\n\r\n\xff"], "blank-line-missing"),
    "no-blank-line-before-a-video": (FIELD[:-2] + b"RIFF\r\n\r\nAVI" + CLOSE, [b"RIFF\r\n\r\nAVI"],
        "blank-line-missing"),
    "no-blank-line-before-a-delimiter": (FIELD[:-2] + D + CLOSE, [b"", b"D"], "blank-line-missing"),
    "nothing-before-a-photo": (b"--B7x\r\n\xff\xd8" + CLOSE, [b"\xff\xd8"],
        "blank-line-missing no-part-name"),
    "no-headers-and-blanks": (D + b"\r\n--B7x\r\n\r\n \r\n\0\r\n" + E, [b"D", b"E"], "empty-part"),
    "boundary-without-hyphens": (MESSAGE + b"\r\n\r\n" + D + b"\r\n" + FIELD[2:] + b"E\r\n" + CLOSE,
        [XML, b"D\r\n" + FIELD[2:] + b"E"], "surplus-newline surplus-newline"),
    "surplus-shown-by-the-photos": (MESSAGE + D + b"\r\n\r\n" + FIELD + b"E\r\n" + CLOSE,
        [XML, b"D", b"E"], "newline-missing surplus-newline surplus-newline"),
    "no-surplus-shown-by-the-message": (MESSAGE + b"\r\n" + D + b"\r\n" + CLOSE, [XML, b"D\r\n"],
        ""),
    "surplus-not-shown-by-all-photos": (MESSAGE + D + b"\r\n\r\n" + E, [XML, b"D\r\n", b"E"],
        "newline-missing"),
    "lf-first-and-crlf-then": (D.replace(b"\r\n", b"\n") + b"\r\n" + E, [b"D", b"E"], "bare-lf"),
    "lf-first-and-crlf-at-the-end": (D.replace(b"\r\n", b"\n") + CLOSE + b"\r\n", [b"D"],
        "bare-lf"),
    "zero-bytes": (headers(b"Content-Disposition: form-data; name=f\r\n", b""), [b""], ""),
    "no-headers-and-bare-lf": (b"--B7x\r\n\nD" + CLOSE, [b"D"], "bare-lf no-part-name"),
    "no-headers-and-zero-bytes": (b"--B7x\r\n\r\n" + D + CLOSE, [b"D"], "empty-part"),
    "line-end-of-the-photo-itself": (MESSAGE + b"\r\n" + FIELD + b"\xff\xd8\r\n" + CLOSE,
        [XML, b"\xff\xd8\r\n"], ""),
    "bare-lf-after-the-message": (MESSAGE + b"\n\r\n" + FIELD + b"\xff\xd8\r\n" + CLOSE,
        [XML + b"\n", b"\xff\xd8\r\n"], ""),
    "surplus-and-message-last": (FIELD + b"\xff\xd8\r\n\r\n" + MESSAGE + b"\r\n" + CLOSE,
        [b"\xff\xd8", XML], "surplus-newline surplus-newline"),
    "only-lf": ((MESSAGE + b"\r\n\r\n" + D + b"\r\n" + CLOSE).replace(b"\r\n", b"\n"), [XML, b"D"],
        "bare-lf surplus-newline surplus-newline"),
    "only-lf-and-no-end": ((MESSAGE + b"\r\n" + D + b"\r\r\n--B7x").replace(b"\r\n", b"\n"),
        [XML, b"D\r"], "bare-lf close-delimiter-unmarked"),
    "lf-after-every-boundary": (
        (MESSAGE + b"\r\n" + D + b"\n" + CLOSE).replace(b"--B7x\r\nC", b"--B7x\nC"), [XML, b"D\n"],
        "bare-lf bare-lf"),
    "nested": (headers(FORM + b"Content-Type: multipart/mixed; boundary=i\r\n", NESTED), [NESTED],
        ""),
}  # fmt: skip


@pytest.mark.parametrize(("body", "contents", "expected"), FRAMING.values(), ids=FRAMING)
def test_framing(body: bytes, contents: list[bytes], expected: str) -> None:
    """Only delimiters separate parts, not similar bytes in the data."""
    found = scan([body])
    assert (found.error, data(body, found), kinds(found)) == (None, contents, expected)
    assert scan(pieces(body, 1)) == found
    assert [part.data for part in parse(body, TYPE)] == contents


@pytest.mark.parametrize("boundary", [b"--B7x", b"7x"])
def test_boundary_in_the_first_line(boundary: bytes) -> None:
    """The first line decides, even if its boundary resembles the one in Content-Type."""
    body = FIELD.replace(b"\r\n", b" \t\r\n", 1) + b"D" + CLOSE
    found = scan([body], boundary)
    assert (data(body, found), kinds(found)) == ([b"D"], "boundary-mismatch")


@pytest.mark.parametrize("ending", bodies.endings(B).items(), ids=lambda ending: ending[0])
def test_empty_part_before_any_end(ending: tuple[str, bytes]) -> None:
    """Two delimiters at the end lose no photo, even if the second one is cut."""
    body = FIELD + b"D\r\n--B7x" + ending[1]
    assert data(body, scan([body])) == [b"D"]


UNREADABLE = {
    "empty": (b"", "the boundary b'B7x' never appears in the body (at byte 0)"),
    "in-the-first-line": (b"D--B7x\r\n",
        "the boundary b'B7x' never appears in the body (at byte 8)"),
    "cut-in-a-header": (FIELD[:-10], "the body ends inside the headers of a part (at byte 59)"),
    "cut-after-a-near-miss": (b"--B7x\r\n--B7xy",
        "the body ends inside the headers of a part (at byte 13)"),
    "photo-in-a-header": (FIELD[:-2] + b"X: \xff\xd8\xff\r\n\r\nD" + CLOSE,
        "a photo begins inside the headers of a part (at byte 70)"),
    "binary-preamble": (b"\r\n\xff" + D + CLOSE,
        "there are bytes that belong to no part and could be a photo (at byte 2)"),
    "binary-epilogue": (D + CLOSE + b"\r\na\xff",
        "there are bytes that belong to no part and could be a photo (at byte 84)"),
    "long-epilogue": (D + CLOSE + b" " + b"a" * 1025,
        "there are bytes that belong to no part and could be a photo (at byte 82)"),
    "photo-after-an-empty-part": (D + b"\r\n--B7x\r\n--B7x--\xff\xd8",
        "there are bytes that belong to no part and could be a photo (at byte 86)"),
    "long-epilogue-and-a-photo": (D + CLOSE + b"a" * 1025 + b"\xff",
        "there are bytes that belong to no part and could be a photo (at byte 1106)"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable(body: bytes, message: str) -> None:
    """A body that cannot be parsed is refused with 400; the message has the offset."""
    with pytest.raises(MultipartError) as caught:
        parse(body, TYPE)
    assert (str(caught.value), caught.value.status) == (message, 400)
    assert scan(pieces(body, 1)).error == f"MultipartError: {message}"


@pytest.mark.parametrize(
    ("first", "offset"), [(b"D" * 400, 0), (b"--", 0), (b"\r\n--a\0b", 2)], ids=repr
)
def test_no_boundary(first: bytes, offset: int) -> None:
    """Without a boundary in Content-Type or in the first line, a body is refused."""
    body = first + b"\r\nContent-Type: a/b\r\n\r\nD"
    message = "Content-Type names no usable boundary, and the body does not begin with one"
    expected = f"MultipartError: {message} (at byte {offset})"
    assert scan([body], None).error == scan(pieces(body, 1), None).error == expected


NO_PARTS = {
    "boundary": (b"--B7x", [(Kind.CLOSE_DELIMITER_UNMARKED, 5)]),
    "one-dash": (b"--B7x-", [(Kind.CLOSE_DELIMITER_CUT, 5)]),
    "close-delimiter": (b"--B7x--", []),
    "line": (b"--B7x\r\n", [(Kind.CLOSE_DELIMITER_UNMARKED, 7)]),
    "line-cr": (b"--B7x\r\n\r", [(Kind.CLOSE_DELIMITER_UNMARKED, 7)]),
    "empty-line": (b"--B7x\r\n\r\n", [(Kind.CLOSE_DELIMITER_UNMARKED, 9)]),
    "nothing-between": (b"--B7x\r\n--B7x--", [(Kind.EMPTY_PART, 7)]),
    "empty-lines-between-three": (b"--B7x\r\n\r\n--B7x\r\n\r\n--B7x--",
        [(Kind.EMPTY_PART, 9), (Kind.EMPTY_PART, 18)]),
}  # fmt: skip


@pytest.mark.parametrize(("body", "expected"), NO_PARTS.values(), ids=NO_PARTS)
def test_no_parts(body: bytes, expected: list[tuple[Kind, int]]) -> None:
    """A body of delimiters alone has no parts."""
    found = scan([body])
    assert (found.error, found.parts, noticed(found)) == (None, [], expected)
    assert scan(pieces(body, 1)) == found
    assert (scan([body], strict=True).error is None) == (not expected)


BARE = {
    "first-boundary": (FIELD.replace(b"\r\n", b"\n", 1), 5),
    "second-boundary": (FIELD + b"D\r\n--B7x\n" + FIELD[7:], 77),
    "before-a-boundary": (FIELD + b"D\n" + FIELD, 70),
    "header": (FIELD.replace(b"\r\n\r\n", b"\n\r\n"), 65),
    "blank-line": (FIELD.replace(b"\r\n\r\n", b"\r\n\n"), 67),
}  # fmt: skip


@pytest.mark.parametrize(("body", "offset"), BARE.values(), ids=BARE)
def test_offset_of_a_bare_lf(body: bytes, offset: int) -> None:
    """The offset is that of the bare line feed."""
    body += b"E" + CLOSE
    found = scan([body])
    assert data(body, found)[-1] == b"E"
    assert noticed(found) == [(Kind.BARE_LF, offset)]
    assert (body[offset - 1 : offset] != b"\r", body[offset : offset + 1]) == (True, b"\n")
    assert [split for split in halves(body) if scan(split) != found] == []


# For each deviation: the value of Content-Type, a body, its data, the offset and the detail.
DEVIATIONS: dict[Kind, tuple[str, bytes, bytes, int, str]] = {
    Kind.CLOSE_DELIMITER_UNMARKED: (TYPE, D + b"\r\n--B7x", b"D", 77, ""),
    Kind.CLOSE_DELIMITER_CUT: (TYPE, D + b"\r\n--B", b"D", 70, ""),
    Kind.CLOSE_DELIMITER_MISSING: (TYPE, D, b"D", 70, ""),
    Kind.SURPLUS_NEWLINE: (TYPE, MESSAGE + b"\r\n" + CLOSE, XML, 65, ""),
    Kind.CLOSE_DELIMITER_EARLY: (TYPE, CLOSE[2:] + D + CLOSE, b"D", 9, ""),
    Kind.NEWLINE_MISSING: (TYPE, D + b"--B7x--\r\n", b"D", 70, ""),
    Kind.BLANK_LINE_MISSING: (TYPE, FIELD[:-2] + b"<" + CLOSE, b"<", 67, ""),
    Kind.PREAMBLE: (TYPE, b"\r\nHello, you\r\n" + D + CLOSE, b"D", 2, "9 bytes"),
    Kind.EPILOGUE: (TYPE, D + CLOSE + b"\r\nend\r\n", b"D", 83, "3 bytes"),
    Kind.BARE_LF: (TYPE, FIELD.replace(b"\r\n\r\n", b"\n\r\n") + b"D" + CLOSE, b"D", 65,
        "in the headers of a part"),
    Kind.BOUNDARY_MISSING: ("x", D + CLOSE, b"D", 0, "b'B7x'"),
    Kind.BOUNDARY_MISMATCH: ("x; boundary=C", D + CLOSE, b"D", 0, "b'B7x' for b'C'"),
    Kind.EMPTY_PART: (TYPE, b"--B7x\r\n" + D + CLOSE, b"D", 7, ""),
    Kind.NO_PART_NAME: (TYPE, disposition(b"form-data"), b"D", 41, ""),
    Kind.HEADER_MALFORMED: (TYPE, headers(FORM + b"X Y: z\r\n"), b"D", 7, "X Y: z"),
    Kind.HEADER_REPEATED: (TYPE, headers(FORM + b"X: y\r\nx: z\r\n"), b"D", 7, "x: z"),
    Kind.DISPOSITION: (TYPE, disposition(b"attachment; name=f"), b"D", 7, "attachment; name=f"),
    Kind.HEADER_ENCODING: (TYPE, headers(FORM + b"X: \xb0\xa1\r\n"), b"D", 7, repr(b"X: \xb0\xa1")),
    Kind.PARAMETER_CASE: (TYPE, disposition(b"form-data; Name=f"), b"D", 7, "Name"),
    Kind.PARAMETER_MALFORMED: (TYPE, disposition(b'form-data; name="f'), b"D", 7, "name"),
    Kind.TRAILING_SEMICOLON: (TYPE, headers(FORM + b"Content-Type: image/jpeg;\r\n"), b"D", 7,
        "image/jpeg;"),
    Kind.MULTIPART_LABEL: (TYPE, headers(FORM + b"Content-Type: multipart/mixed\r\n"), b"D", 7,
        "multipart/mixed"),
    Kind.TRANSFER_ENCODING: (TYPE, headers(FORM + b"Content-Transfer-Encoding: base64\r\n"), b"D",
        7, "base64"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DEVIATIONS)
def test_deviation_is_named_or_refused(kind: Kind) -> None:
    """Each deviation is reported under its name, or is an error with `strict`.

    The detail quotes the body.
    """
    content_type, body, expected, offset, detail = DEVIATIONS[kind]
    found = scan([body], boundary_of(content_type))
    assert data(body, found) == [expected]
    assert found.deviations == [Deviation(kind, offset, detail)]

    reason = f"{kind.value}: {detail}" if detail else kind.value
    with pytest.raises(MultipartError) as caught:
        parse(body, content_type, strict=True)
    assert (str(caught.value), caught.value.offset) == (f"{reason} (at byte {offset})", offset)
    assert scan(pieces(body, 1), boundary_of(content_type), strict=True).error == (
        f"MultipartError: {caught.value}"
    )


def test_clean_body_passes_strict() -> None:
    """A body as in RFC 7578 passes with `strict`."""
    body = MESSAGE + b"\r\n" + FIELD + b"D\r\n\r\n" + CLOSE
    found = scan([body], strict=True)
    assert (data(body, found), found.deviations) == ([XML, b"D\r\n\r\n"], [])


@pytest.mark.parametrize("boundary", [b"B", b"-", b".*+?()[]{}^$|\\", b"\xff", b"a b", b"-" * 256])
def test_any_usable_boundary(boundary: bytes) -> None:
    """A boundary may contain any bytes except control characters."""
    body = bodies.body(THREE, message=XML, boundary=boundary)
    found = scan([body], boundary)
    assert data(body, found) == [XML, *(content for _, content in THREE)]
    assert scan(pieces(body, 1), boundary) == found
    # The first line has the boundary, too.
    rescued = scan([body], None)
    assert (rescued.parts, kinds(rescued).split()[0]) == (found.parts, "boundary-missing")


@pytest.mark.parametrize("newline", [b"\r\n", b"\n"], ids=["crlf", "lf"])
def test_padding_limit(newline: bytes) -> None:
    """The limit on blanks after a boundary is exact."""
    body = FIELD + b"D\r\n--B7x" + b" " * MAX_BLANKS + newline + FIELD[7:] + b"E" + CLOSE
    longer = body.replace(b"\r\n--B7x ", b"\r\n--B7x  ")
    assert data(body, scan([body])) == [b"D", b"E"]
    assert data(longer, scan([longer])) == [longer[len(FIELD) : -len(CLOSE)]]
    assert scan(pieces(longer, 1)) == scan([longer])


def test_longest_first_line() -> None:
    """The longest boundary with the most blanks is found, also without Content-Type."""
    boundary = b"B" * MAX_BOUNDARY
    body = bodies.body(SMALL, message=XML, boundary=boundary, ending=b"\r\n--" + boundary + b"--")
    body = body.replace(boundary + b"\r\n", boundary + b" " * MAX_BLANKS + b"\r\n")
    for known in (boundary, None):
        found = scan([body], known)
        assert data(body, found) == [XML, SMALL[0][1]]
        assert scan(pieces(body, 1), known) == found


PARTS = b"\r\n".join([FIELD + b"D"] * MAX_PARTS)


@pytest.mark.parametrize("ending", bodies.endings(B).values(), ids=bodies.endings(B))
def test_most_parts(ending: bytes) -> None:
    """The maximum number of parts is accepted, however the body ends."""
    assert data(PARTS, scan([PARTS + ending])) == [b"D"] * MAX_PARTS


LONG = b"X: " + b"y" * (MAX_HEADER_BYTES - 7)
TOO_LONG = "the headers of a part are longer than 8192 bytes (at byte 7)"
TOO_MANY = "a part has more than 16 headers (at byte 7)"
# For each limit: a body within it, None or one beyond it, and the error.
LIMITS = {
    "one-empty": (PARTS + b"\r\n--B7x\r\n" + CLOSE, PARTS + (b"\r\n" + FIELD) * 2, "the body has"),
    "parts": (PARTS + CLOSE, PARTS + b"\r\n" + FIELD + b"D" + CLOSE, "the body has more than 64 "),
    "no-headers": (PARTS, PARTS + b"\r\n--B7x\r\n\r\nD" + CLOSE, "the body has more than 64 parts"),
    "part-flood": (None, (FIELD + b"\r\n") * 100_000, "the body has more than 64 parts"),
    "empty-flood": (None, b"--B7x\r\n" * 100_000, "the body has more than 64 parts (at byte 462)"),
    "header-bytes": (headers(LONG + b"\r\n"), headers(LONG + b"y\r\n"), TOO_LONG),
    "headers": (headers(b"X: y\r\n" * MAX_HEADERS), headers(b"X: y\r\n" * 17), TOO_MANY),
    "endless-header": (None, b"--B7x\r\n" + b"X" * MAX_HEADER_BYTES, TOO_LONG),
    "endless-headers": (None, b"--B7x\r\n" + b"X: y\r\n" * MAX_HEADER_BYTES, TOO_MANY),
    "no-colons": (None, b"--B7x\r\n" + b"x\n" * MAX_HEADER_BYTES, TOO_MANY),
    "folded": (None, b"--B7x\r\n" + b" x\r\n" * MAX_HEADER_BYTES, TOO_MANY),
    "delimiters": (None, FIELD + b"D--B7x\r\n" * (MAX_DELIMITERS + 1), "the boundary appears"),
    "closes": (None, FIELD + b"D--B7x--" * (MAX_DELIMITERS + 1), "the boundary appears"),
}  # fmt: skip


@pytest.mark.parametrize(("within", "beyond", "message"), LIMITS.values(), ids=LIMITS)
def test_limits(within: bytes | None, beyond: bytes, message: str) -> None:
    """Each limit is exact. A body beyond it is refused with status 413."""
    assert within is None or scan([within]).error is None
    with pytest.raises(LimitError, match=f"^{re.escape(message)}") as caught:
        parse(beyond, TYPE)
    assert caught.value.status == 413
    assert scan(pieces(beyond, 1000)).error == f"LimitError: {caught.value}"


def calls(work: Callable[[], object]) -> int:
    """Return the number of function calls in Python and C, a measure without a clock."""
    count = 0

    def profile(*_: object) -> None:
        nonlocal count
        count += 1

    setprofile(profile)
    try:
        work()
    finally:
        setprofile(None)
    return count


NASTY = {
    "cr": (FIELD, b"\r" * 8),
    "near-miss": (FIELD, b"\r\n--B7xy"),
    "blank-after": (FIELD, b"\r\n--B7x \r"),
    "no-line-end": (FIELD, b"D" * 8),
    "preamble": (b"", b"D" * 8),
    "preamble-of-near-misses": (b"", b"\r\n--B7xy"),
    "epilogue": (FIELD + b"D" + CLOSE, b"\r\n--B7x\r\n"),
    "hyphens": (FIELD, b"-" * 8),
    "close-in-a-line": (FIELD, b"D--B7x--"),
    "boundary-in-a-line": (FIELD, b"D--B7x\r\n"),
    "boundary-in-a-line-and-a-header": (FIELD, b"D--B7x\r\nX: y"),
    "blanks-after-a-close": (FIELD + b"D--B7x--", b"\r\n\0\0\0\0"),
    "zeros-after": (FIELD + b"D" + CLOSE, bytes(8)),
}


@pytest.mark.parametrize(("before", "repeated"), NASTY.values(), ids=NASTY)
def test_work_is_linear(before: bytes, repeated: bytes) -> None:
    """The work is linear in the size, in large chunks and in small ones."""

    def work(times: int, size: int) -> int:
        body = before + repeated * times
        return calls(lambda: scan(pieces(body, size)))

    work(1, 16)  # excludes one-time work, such as compiling expressions
    for size in (16, 1460):
        assert work(1000, size) <= 2.1 * work(500, size) + 100


@pytest.mark.parametrize(("before", "repeated"), NASTY.values(), ids=NASTY)
def test_memory_is_constant(before: bytes, repeated: bytes) -> None:
    """The memory does not grow with the body."""
    scanner = Scanner(B)
    scanner.feed(before)
    chunk = repeated * 1024
    tracemalloc.start()
    try:
        scanner.feed(chunk)
        scanner.feed(chunk)
        tracemalloc.reset_peak()
        size, _ = tracemalloc.get_traced_memory()
        for _ in range(32):
            scanner.feed(chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    offsets = 16 * MAX_DELIMITERS
    assert peak - size < 2 * len(chunk) + 4096 + offsets
    assert len(scanner.deviations) <= 1

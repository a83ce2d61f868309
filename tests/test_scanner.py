"""Bodies as cameras write them, damaged bodies, and hostile ones."""

from __future__ import annotations

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

# What is noticed at each end: its kind, and where, counted from the end of the last part's data.
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

# Of long boundaries, only the first and the last cuts are worth a name of their own.
ENDS = [
    pytest.param(name, surplus, photos, id=f"{name}-{gap}-{len(photos)}")
    for name in AT_THE_END
    for surplus, gap in ((True, "surplus"), (False, "exact"))
    for photos in (SMALL, THREE)
]


@pytest.mark.parametrize(("name", "surplus", "photos"), ENDS)
def test_photos_are_exact_wherever_the_body_ends(
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
        # Nobody can tell the surplus line end from the one that begins a delimiter.
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


def test_photo_is_exact_wherever_a_surplus_end_is_cut() -> None:
    """A body may end anywhere after the last photo, also inside the surplus line end."""
    photo = bodies.jpeg(50, 1)
    body = bodies.body([("a.jpg", photo)], message=XML, boundary=B, ending=CLOSE)
    behind = body.rindex(photo) + len(photo)
    cuts = [body[:end] for end in range(behind, len(body) + 1)]
    assert [data(cut, scan([cut]))[1:] for cut in cuts] == [[photo]] * len(cuts)


# What of a cut photo may pass for the beginning of a delimiter, with a surplus line end before it.
BEGINNINGS = {CLOSE[:length] for length in range(8)}

LEFT_OUT = {False: BEGINNINGS, True: BEGINNINGS | {b"\r\n" + begin for begin in BEGINNINGS}}


@pytest.mark.parametrize("surplus", [True, False], ids=["surplus", "exact"])
def test_cut_in_a_photo_keeps_what_there_is(surplus: bool) -> None:
    """Photos before the cut are exact, the one that is cut begins as it should."""
    body = bodies.body(THREE, message=XML, surplus=surplus, boundary=B, ending=CLOSE)
    for number, (_, photo) in enumerate(THREE):
        start = body.index(photo)
        before = [XML, *(content for _, content in THREE[:number])]
        for end in range(start + 1, start + len(photo)):
            *whole, cut = data(body, scan([body[:end]]))
            assert whole == before
            assert photo.startswith(cut)
            # What may be a surplus line end and the beginning of a delimiter does not count.
            assert photo[len(cut) : end - start] in LEFT_OUT[surplus]


@pytest.mark.parametrize(
    ("content_type", "body", "contents", "expected"),
    [
        pytest.param(
            "multipart/form-data", FIELD + b"D" + CLOSE, [b"D"], [Kind.BOUNDARY_MISSING],
            id="boundary-missing",
        ),
        pytest.param(
            "multipart/form-data; boundary=--B7x", FIELD + b"D" + CLOSE, [b"D"],
            [Kind.BOUNDARY_MISMATCH],
            id="two-dashes-too-many",
        ),
        pytest.param(
            "multipart/form-data; boundary=7x",
            FIELD.replace(b"\r\n", b" \t\r\n", 1) + b"D" + CLOSE, [b"D"], [Kind.BOUNDARY_MISMATCH],
            id="blanks-behind-the-first-line",
        ),
        pytest.param(TYPE, FIELD + b"\r\n--B7xy\r\n" + CLOSE, [b"\r\n--B7xy\r\n"], [],
            id="longer-boundary"),
        pytest.param(TYPE, FIELD + b"\n--B7x\r\n" + CLOSE, [b"\n--B7x\r\n"], [],
            id="bare-lf-before"),
        pytest.param(TYPE, FIELD + b"D--B7x\r\n" + CLOSE, [b"D--B7x\r\n"], [],
            id="in-a-line"),
        pytest.param(TYPE, FIELD + b"\r\n--B7x-\r\n" + CLOSE, [b"\r\n--B7x-\r\n"], [],
            id="one-dash-behind"),
        pytest.param(TYPE, FIELD + b"\r\n--B7x \r" + CLOSE, [b"\r\n--B7x \r"], [],
            id="cr-behind"),
        pytest.param(TYPE, FIELD + b"--B7xy" + CLOSE, [b"--B7xy"], [],
            id="at-the-start-of-the-data"),
        pytest.param(
            TYPE, FIELD + b"\xff\xd8 one\r\n--B7x\r\n\r\ntwo \xff\xd9" + CLOSE,
            [b"\xff\xd8 one", b"two \xff\xd9"], [Kind.NO_PART_NAME],
            id="delimiter-in-a-photo",
        ),
        pytest.param(TYPE, b"Hello\r\n--B7xy\r\n" + FIELD + b"D" + CLOSE, [b"D"], [Kind.PREAMBLE],
            id="preamble"),
        pytest.param(TYPE, b"Hello" + FIELD + b"D" + CLOSE, [b"D"], [Kind.PREAMBLE],
            id="preamble-without-line-end"),
        pytest.param(TYPE, b"Hello\r\n--B7x\r\nX: y\r\n\r\nD" + CLOSE, [b"D"],
            [Kind.PREAMBLE, Kind.DISPOSITION, Kind.NO_PART_NAME],
            id="preamble-and-other-headers"),
        pytest.param(TYPE, b"--B7x\r\n\0\0\0", [], [Kind.CLOSE_DELIMITER_UNMARKED],
            id="zeros"),
        pytest.param(TYPE, FIELD + b"D\r\n--B7x\r\n\0end", [b"D"],
            [Kind.CLOSE_DELIMITER_UNMARKED, Kind.EPILOGUE], id="zeros-and-text"),
        pytest.param(TYPE, FIELD + b"D\r\n--B7x\r\n--B7x-", [b"D"],
            [Kind.CLOSE_DELIMITER_CUT, Kind.EMPTY_PART], id="delimiter-and-one-dash"),
        pytest.param(TYPE, FIELD + b"D" + CLOSE + FIELD + b"E" + CLOSE, [b"D", b"E"],
            [Kind.CLOSE_DELIMITER_EARLY],
            id="part-in-the-epilogue"),
        pytest.param(TYPE, FIELD + b"D" + CLOSE + b"end\r\n" + FIELD + b"E" + CLOSE,
            [b"D", b"E"], [Kind.EPILOGUE, Kind.CLOSE_DELIMITER_EARLY],
            id="text-and-a-part-in-the-epilogue"),
        pytest.param(TYPE, FIELD + b"D" + CLOSE + b"end", [b"D"], [Kind.EPILOGUE],
            id="epilogue"),
        pytest.param(TYPE, FIELD + b"D" + CLOSE + b"a" * 1024, [b"D"], [Kind.EPILOGUE],
            id="longest-epilogue"),
        pytest.param(TYPE, FIELD + b"D" + CLOSE + b"\r\n \t\0" * 1000, [b"D"], [],
            id="blank-epilogue"),
        pytest.param(TYPE, FIELD + b"D\r\n--B7x--" + FIELD + b"E" + CLOSE, [b"D", b"E"],
            [Kind.CLOSE_DELIMITER_EARLY],
            id="part-right-behind-the-end"),
        pytest.param(TYPE, FIELD + b"D\r\n--B7x\0\0", [b"D"], [Kind.CLOSE_DELIMITER_UNMARKED],
            id="unmarked-and-zeros"),
        pytest.param(TYPE, FIELD + b"D\r\n--B7x\0\0E" + CLOSE, [b"D\r\n--B7x\0\0E"], [],
            id="zeros-and-more"),
        pytest.param(TYPE, FIELD + b"D" + FIELD + b"E" + CLOSE, [b"D", b"E"],
            [Kind.NEWLINE_MISSING], id="headers-behind"),
        pytest.param(TYPE, FIELD + b"D--B7x\r\nContent-Type: x/y\r\n\r\nE" + CLOSE,
            [b"D--B7x\r\nContent-Type: x/y\r\n\r\nE"], [], id="no-disposition-behind"),
        pytest.param(TYPE, FIELD + b"D\n" + FIELD + b"E" + CLOSE, [b"D", b"E"], [Kind.BARE_LF],
            id="lf-before-and-headers-behind"),
        pytest.param(TYPE, FIELD + b"D--B7x--", [b"D"], [Kind.NEWLINE_MISSING],
            id="close-in-a-line"),
        pytest.param(TYPE, FIELD + b"D--B7x--\r\n" + FIELD + b"E" + CLOSE, [b"D", b"E"],
            [Kind.NEWLINE_MISSING, Kind.CLOSE_DELIMITER_EARLY],
            id="close-in-a-line-and-a-part"),
        pytest.param(TYPE, FIELD + b"D--B7x--\r\nE" + CLOSE, [b"D--B7x--\r\nE"], [],
            id="close-in-a-line-and-more"),
        pytest.param(TYPE, FIELD + b"D--B7x-- " + FIELD + b"E" + CLOSE, [b"D", b"E"],
            [Kind.NEWLINE_MISSING, Kind.CLOSE_DELIMITER_EARLY],
            id="close-in-a-line-and-a-part-in-it"),
        pytest.param(TYPE, FIELD + b"D--B7x--\r\n--B7x\r\nX: y" + CLOSE, [b"D"],
            [Kind.NEWLINE_MISSING, Kind.EPILOGUE], id="close-in-a-line-and-a-delimiter"),
        pytest.param(TYPE, FIELD + b"D--B7x \r", [b"D"],
            [Kind.CLOSE_DELIMITER_UNMARKED, Kind.NEWLINE_MISSING], id="unmarked-in-a-line"),
        pytest.param(TYPE, FIELD + b"D--B7", [b"D"],
            [Kind.NEWLINE_MISSING, Kind.CLOSE_DELIMITER_CUT], id="cut-in-a-line"),
        pytest.param(TYPE, FIELD + b"D--", [b"D--"], [Kind.CLOSE_DELIMITER_MISSING],
            id="hyphens"),
        pytest.param(TYPE, FIELD[:-2] + b"\xff\xd8\n\r\n\xff" + CLOSE, [b"\xff\xd8\n\r\n\xff"],
            [Kind.BLANK_LINE_MISSING], id="no-blank-line-before-a-photo"),
        pytest.param(TYPE, FIELD[:-2] + b"RIFF\r\n\r\nAVI" + CLOSE, [b"RIFF\r\n\r\nAVI"],
            [Kind.BLANK_LINE_MISSING], id="no-blank-line-before-a-video"),
        pytest.param(TYPE, FIELD[:-2] + FIELD + b"D" + CLOSE, [b"", b"D"],
            [Kind.BLANK_LINE_MISSING], id="no-blank-line-before-a-delimiter"),
        pytest.param(TYPE, b"--B7x\r\n\xff\xd8" + CLOSE, [b"\xff\xd8"],
            [Kind.BLANK_LINE_MISSING, Kind.NO_PART_NAME], id="nothing-before-a-photo"),
        pytest.param(TYPE, FIELD + b"D\r\n--B7x\r\n\r\n \r\n\0\r\n" + FIELD + b"E" + CLOSE,
            [b"D", b"E"], [Kind.EMPTY_PART], id="no-headers-and-blanks"),
        pytest.param(TYPE, MESSAGE + b"\r\n\r\n" + FIELD + b"D\r\n" + FIELD[2:] + b"E\r\n" + CLOSE,
            [XML, b"D\r\n" + FIELD[2:] + b"E"], [Kind.SURPLUS_NEWLINE, Kind.SURPLUS_NEWLINE],
            id="boundary-without-hyphens"),
        pytest.param(TYPE, MESSAGE + FIELD + b"D\r\n\r\n" + FIELD + b"E\r\n" + CLOSE,
            [XML, b"D", b"E"],
            [Kind.NEWLINE_MISSING, Kind.SURPLUS_NEWLINE, Kind.SURPLUS_NEWLINE],
            id="surplus-told-by-the-photos"),
        pytest.param(TYPE, MESSAGE + b"\r\n" + FIELD + b"D\r\n" + CLOSE, [XML, b"D\r\n"], [],
            id="no-surplus-told-by-the-message"),
        pytest.param(TYPE, MESSAGE + FIELD + b"D\r\n\r\n" + FIELD + b"E" + CLOSE,
            [XML, b"D\r\n", b"E"], [Kind.NEWLINE_MISSING],
            id="surplus-not-told-by-all-photos"),
        pytest.param(TYPE, (FIELD + b"D").replace(b"\r\n", b"\n") + b"\r\n" + FIELD + b"E" + CLOSE,
            [b"D", b"E"], [Kind.BARE_LF], id="lf-first-and-crlf-then"),
        pytest.param(TYPE, (FIELD + b"D").replace(b"\r\n", b"\n") + CLOSE + b"\r\n", [b"D"],
            [Kind.BARE_LF], id="lf-first-and-crlf-at-the-end"),
        pytest.param(TYPE, b"--B7x--\r\n" + FIELD + b"D" + CLOSE, [b"D"],
            [Kind.CLOSE_DELIMITER_EARLY],
            id="closed-at-once"),
        pytest.param(TYPE, headers(b"Content-Disposition: form-data; name=f\r\n", b""), [b""], [],
            id="zero-bytes"),
        pytest.param(TYPE, b"--B7x\r\n\nD" + CLOSE, [b"D"], [Kind.BARE_LF, Kind.NO_PART_NAME],
            id="no-headers-and-bare-lf"),
        pytest.param(TYPE, FIELD + CLOSE[2:], [b""], [],
            id="zero-bytes-and-one-line-end"),
        pytest.param(TYPE, b"--B7x\r\n\r\n" + FIELD + b"D" + CLOSE, [b"D"], [Kind.EMPTY_PART],
            id="no-headers-and-zero-bytes"),
        pytest.param(TYPE, MESSAGE + b"\r\n" + FIELD + b"\xff\xd8\r\n" + CLOSE,
            [XML, b"\xff\xd8\r\n"], [],
            id="line-end-of-the-photo-itself"),
        pytest.param(TYPE, MESSAGE + b"\n\r\n" + FIELD + b"\xff\xd8\r\n" + CLOSE,
            [XML + b"\n", b"\xff\xd8\r\n"], [],
            id="bare-lf-behind-the-message"),
        pytest.param(TYPE, FIELD + b"\xff\xd8\r\n\r\n" + MESSAGE + b"\r\n" + CLOSE,
            [b"\xff\xd8", XML], [Kind.SURPLUS_NEWLINE, Kind.SURPLUS_NEWLINE],
            id="surplus-and-message-last"),
        pytest.param(
            TYPE, (MESSAGE + b"\r\n\r\n" + FIELD + b"D\r\n" + CLOSE).replace(b"\r\n", b"\n"),
            [XML, b"D"], [Kind.BARE_LF, Kind.SURPLUS_NEWLINE, Kind.SURPLUS_NEWLINE],
            id="only-lf",
        ),
        pytest.param(
            TYPE, (MESSAGE + b"\r\n" + FIELD + b"D\r\r\n--B7x").replace(b"\r\n", b"\n"),
            [XML, b"D\r"], [Kind.BARE_LF, Kind.CLOSE_DELIMITER_UNMARKED],
            id="only-lf-and-no-end",
        ),
        pytest.param(
            TYPE, (MESSAGE + b"\r\n" + FIELD + b"D\n" + CLOSE).replace(b"--B7x\r\nC", b"--B7x\nC"),
            [XML, b"D\n"], [Kind.BARE_LF, Kind.BARE_LF],
            id="lf-behind-every-boundary",
        ),
        pytest.param(
            TYPE,
            headers(
                b'Content-Disposition: form-data; name="f"\r\n'
                b"Content-Type: multipart/mixed; boundary=inner\r\n",
                b'--inner\r\nContent-Disposition: file; filename="x"\r\n\r\nx\r\n--inner--',
            ),
            [b'--inner\r\nContent-Disposition: file; filename="x"\r\n\r\nx\r\n--inner--'], [],
            id="nested",
        ),
    ],
)  # fmt: skip
def test_framing(
    content_type: str, body: bytes, contents: list[bytes], expected: list[Kind]
) -> None:
    """Only delimiters separate parts, not similar bytes in the data."""
    found = scan([body], boundary_of(content_type))
    assert (found.error, data(body, found), kinds(found)) == (None, contents, expected)
    assert scan(pieces(body, 1), boundary_of(content_type)) == found
    assert [part.data for part in parse(body, content_type)] == contents


@pytest.mark.parametrize("ending", bodies.endings(B).items(), ids=lambda ending: ending[0])
def test_empty_part_before_any_end(ending: tuple[str, bytes]) -> None:
    """Two delimiters at the end lose no photo, even if the second one is cut."""
    body = FIELD + b"D\r\n--B7x" + ending[1]
    assert data(body, scan([body])) == [b"D"]


@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        pytest.param(TYPE, b"", "the boundary b'B7x' never appears in the body (at byte 0)",
            id="empty"),
        pytest.param(TYPE, b"D--B7x\r\n",
            "the boundary b'B7x' never appears in the body (at byte 8)",
            id="in-the-first-line"),
        pytest.param(
            "multipart/form-data", b"D" * 400,
            "Content-Type names no usable boundary, and the body does not begin with one"
            " (at byte 0)",
            id="no-boundary-anywhere",
        ),
        pytest.param(
            "multipart/form-data", b"--\r\nContent-Type: a/b\r\n\r\nD",
            "Content-Type names no usable boundary, and the body does not begin with one"
            " (at byte 0)",
            id="empty-first-line",
        ),
        pytest.param(
            "multipart/form-data", b"\r\n--a\0b\r\nContent-Type: a/b\r\n\r\nD",
            "Content-Type names no usable boundary, and the body does not begin with one"
            " (at byte 2)",
            id="control-character-in-the-first-line",
        ),
        pytest.param(TYPE, FIELD[:-10], "the body ends inside the headers of a part (at byte 59)",
            id="cut-in-a-header"),
        pytest.param(TYPE, b"--B7x\r\n--B7xy",
            "the body ends inside the headers of a part (at byte 13)",
            id="cut-in-what-resembles-a-delimiter"),
        pytest.param(TYPE, FIELD[:-2] + b"X: \xff\xd8\xff\r\n\r\nD" + CLOSE,
            "a photo begins inside the headers of a part (at byte 70)",
            id="photo-in-a-header"),
        pytest.param(TYPE, b"\r\n\xff" + FIELD + b"D" + CLOSE,
            "there are bytes that belong to no part and could be a photo (at byte 2)",
            id="binary-preamble"),
        pytest.param(TYPE, FIELD + b"D" + CLOSE + b"\r\na\xff",
            "there are bytes that belong to no part and could be a photo (at byte 84)",
            id="binary-epilogue"),
        pytest.param(TYPE, FIELD + b"D" + CLOSE + b" " + b"a" * 1025,
            "there are bytes that belong to no part and could be a photo (at byte 82)",
            id="long-epilogue"),
        pytest.param(TYPE, FIELD + b"D\r\n--B7x\r\n--B7x--\xff\xd8",
            "there are bytes that belong to no part and could be a photo (at byte 86)",
            id="photo-after-an-empty-part"),
        pytest.param(TYPE, FIELD + b"D" + CLOSE + b"a" * 1025 + b"\xff",
            "there are bytes that belong to no part and could be a photo (at byte 1106)",
            id="long-epilogue-and-a-photo"),
    ],
)  # fmt: skip
def test_unreadable(content_type: str, body: bytes, message: str) -> None:
    """A body that cannot be parsed is a bad request; the message has the offset."""
    with pytest.raises(MultipartError) as caught:
        parse(body, content_type)
    assert (str(caught.value), caught.value.status) == (message, 400)
    assert scan(pieces(body, 1), boundary_of(content_type)).error == f"MultipartError: {message}"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b"--B7x", [(Kind.CLOSE_DELIMITER_UNMARKED, 5)], id="boundary"),
        pytest.param(b"--B7x-", [(Kind.CLOSE_DELIMITER_CUT, 5)], id="one-dash"),
        pytest.param(b"--B7x--", [], id="close-delimiter"),
        pytest.param(b"--B7x\r\n", [(Kind.CLOSE_DELIMITER_UNMARKED, 7)], id="line"),
        pytest.param(b"--B7x\r\n\r", [(Kind.CLOSE_DELIMITER_UNMARKED, 7)], id="line-cr"),
        pytest.param(b"--B7x\r\n\r\n", [(Kind.CLOSE_DELIMITER_UNMARKED, 9)], id="empty-line"),
        pytest.param(b"--B7x\r\n--B7x--", [(Kind.EMPTY_PART, 7)], id="nothing-between"),
        pytest.param(b"--B7x\r\n\r\n--B7x\r\n\r\n--B7x--",
            [(Kind.EMPTY_PART, 9), (Kind.EMPTY_PART, 18)],
            id="empty-lines-between-three"),
    ],
)  # fmt: skip
def test_no_parts(body: bytes, expected: list[tuple[Kind, int]]) -> None:
    """A body of delimiters alone has no parts."""
    found = scan([body])
    assert (found.error, found.parts, noticed(found)) == (None, [], expected)
    assert scan(pieces(body, 1)) == found
    assert (scan([body], strict=True).error is None) == (not expected)


@pytest.mark.parametrize(
    ("body", "offset"),
    [
        pytest.param(FIELD.replace(b"\r\n", b"\n", 1), 5, id="first-boundary"),
        pytest.param(FIELD + b"D\r\n--B7x\n" + FIELD[7:], 77, id="second-boundary"),
        pytest.param(FIELD + b"D\n" + FIELD, 70, id="before-a-boundary"),
        pytest.param(FIELD.replace(b"\r\n\r\n", b"\n\r\n"), 65, id="header"),
        pytest.param(FIELD.replace(b"\r\n\r\n", b"\r\n\n"), 67, id="blank-line"),
    ],
)
def test_bare_lf_is_noticed_where_it_stands(body: bytes, offset: int) -> None:
    """The offset is that of the bare line feed."""
    body += b"E" + CLOSE
    found = scan([body])
    assert data(body, found)[-1] == b"E"
    assert noticed(found) == [(Kind.BARE_LF, offset)]
    assert (body[offset - 1 : offset] != b"\r", body[offset : offset + 1]) == (True, b"\n")
    assert [split for split in halves(body) if scan(split) != found] == []


# For each deviation: the value of Content-Type, a body, its data, the offset and the detail.
DEVIATIONS: dict[Kind, tuple[str, bytes, bytes, int, str]] = {
    Kind.CLOSE_DELIMITER_UNMARKED: (TYPE, FIELD + b"D\r\n--B7x", b"D", 77, ""),
    Kind.CLOSE_DELIMITER_CUT: (TYPE, FIELD + b"D\r\n--B", b"D", 70, ""),
    Kind.CLOSE_DELIMITER_MISSING: (TYPE, FIELD + b"D", b"D", 70, ""),
    Kind.SURPLUS_NEWLINE: (TYPE, MESSAGE + b"\r\n" + CLOSE, XML, 65, ""),
    Kind.CLOSE_DELIMITER_EARLY: (TYPE, CLOSE[2:] + FIELD + b"D" + CLOSE, b"D", 9, ""),
    Kind.NEWLINE_MISSING: (TYPE, FIELD + b"D--B7x--\r\n", b"D", 70, ""),
    Kind.BLANK_LINE_MISSING: (TYPE, FIELD[:-2] + b"<" + CLOSE, b"<", 67, ""),
    Kind.PREAMBLE: (TYPE, b"\r\nHello, you\r\n" + FIELD + b"D" + CLOSE, b"D", 2, "9 bytes"),
    Kind.EPILOGUE: (TYPE, FIELD + b"D" + CLOSE + b"\r\nend\r\n", b"D", 83, "3 bytes"),
    Kind.BARE_LF: (TYPE, FIELD.replace(b"\r\n\r\n", b"\n\r\n") + b"D" + CLOSE, b"D", 65,
        "in the headers of a part"),
    Kind.BOUNDARY_MISSING: ("x", FIELD + b"D" + CLOSE, b"D", 0, "b'B7x'"),
    Kind.BOUNDARY_MISMATCH: ("x; boundary=C", FIELD + b"D" + CLOSE, b"D", 0, "b'B7x' for b'C'"),
    Kind.EMPTY_PART: (TYPE, b"--B7x\r\n" + FIELD + b"D" + CLOSE, b"D", 7, ""),
    Kind.NO_PART_NAME: (TYPE, disposition(b"form-data"), b"D", 41, ""),
    Kind.HEADER_MALFORMED: (TYPE, headers(FORM + b"X Y: z\r\n"), b"D", 7, "X Y: z"),
    Kind.HEADER_REPEATED: (TYPE, headers(FORM + b"X: y\r\nx: z\r\n"), b"D", 7, "x: z"),
    Kind.DISPOSITION: (TYPE, disposition(b"attachment; name=f"), b"D", 7, "attachment; name=f"),
    Kind.HEADER_ENCODING: (TYPE, headers(FORM + b"X: \xb0\xa1\r\n"), b"D", 7,
        repr(b"X: \xb0\xa1")),
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


@pytest.mark.parametrize(
    "boundary",
    [b"B", b"-", b".*+?()[]{}^$|\\", "é".encode(), b"\xff", b"a b", b"B" * 70, b"-" * MAX_BOUNDARY],
    ids=["1", "dash", "regex", "utf-8", "byte", "blank", "70", "256"],
)
def test_any_usable_boundary(boundary: bytes) -> None:
    """A boundary may contain any bytes that are no control characters."""
    body = bodies.body(THREE, message=XML, boundary=boundary)
    found = scan([body], boundary)
    assert data(body, found) == [XML, *(content for _, content in THREE)]
    assert scan(pieces(body, 1), boundary) == found
    # The first line tells it too.
    rescued = scan([body], None)
    assert (rescued.parts, kinds(rescued)[0]) == (found.parts, Kind.BOUNDARY_MISSING)


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


@pytest.mark.parametrize("ending", bodies.endings(B).items(), ids=lambda ending: ending[0])
def test_most_parts(ending: tuple[str, bytes]) -> None:
    """The maximum number of parts is accepted, however the body ends."""
    body = b"\r\n".join([FIELD + b"D"] * MAX_PARTS) + ending[1]
    assert data(body, scan([body])) == [b"D"] * MAX_PARTS


def test_most_parts_and_one_that_is_none() -> None:
    """An empty part does not count."""
    body = b"\r\n".join([FIELD + b"D"] * MAX_PARTS) + b"\r\n--B7x\r\n\r\n--B7x--"
    found = scan([body])
    assert (len(found.parts), kinds(found)) == (MAX_PARTS, [Kind.EMPTY_PART])


@pytest.mark.parametrize("last", [FIELD, b"--B7x\r\n\r\n"], ids=["plain", "without-headers"])
def test_one_part_too_many(last: bytes) -> None:
    """One more part is refused with status 413."""
    body = b"\r\n".join([FIELD + b"D"] * MAX_PARTS + [last + b"D"]) + CLOSE
    with pytest.raises(LimitError, match=r"^the body has more than 64 parts") as caught:
        parse(body, TYPE)
    assert caught.value.status == 413
    assert scan(pieces(body, 1)).error == f"LimitError: {caught.value}"


@pytest.mark.parametrize("part", [FIELD + b"\r\n", b"--B7x\r\n"], ids=["parts", "empty"])
def test_flood_of_parts(part: bytes) -> None:
    """A flood of parts is refused as soon as the limit is reached."""
    body = part * 100_000
    with pytest.raises(LimitError, match=r"^the body has more than 64 parts") as caught:
        parse(body, TYPE)
    assert caught.value.offset <= len(part) * (MAX_PARTS + 2)


def test_header_bytes_limit() -> None:
    """The limit on the bytes of a header block is exact."""
    for surplus, passes in ((0, True), (1, False)):
        block = b"X: " + b"y" * (MAX_HEADER_BYTES - 7 + surplus) + b"\r\n"
        assert len(block + b"\r\n") == MAX_HEADER_BYTES + surplus
        found = scan([headers(block)])
        assert found.error == (
            None
            if passes
            else "LimitError: the headers of a part are longer than 8192 bytes (at byte 7)"
        )
        assert scan(pieces(headers(block), 1)) == found


def test_header_lines_limit() -> None:
    """The limit on the lines of a header block is exact."""
    most = headers(b"X: y\r\n" * MAX_HEADERS)
    more = headers(b"X: y\r\n" * (MAX_HEADERS + 1))
    assert len(scan([most]).parts[0].headers) == MAX_HEADERS
    assert scan([more]).error == "LimitError: a part has more than 16 headers (at byte 7)"
    assert scan(pieces(more, 1)) == scan([more])


@pytest.mark.parametrize(
    ("flood", "message"),
    [
        pytest.param(b"X",
            "LimitError: the headers of a part are longer than 8192 bytes (at byte 7)",
            id="endless-header"),
        pytest.param(b"X: y\r\n", "LimitError: a part has more than 16 headers (at byte 7)",
            id="endless-headers"),
        pytest.param(b"x\n", "LimitError: a part has more than 16 headers (at byte 7)",
            id="lines-without-colon"),
        pytest.param(b" x\r\n", "LimitError: a part has more than 16 headers (at byte 7)",
            id="folded-without-end"),
    ],
)  # fmt: skip
def test_flood_of_headers(flood: bytes, message: str) -> None:
    """Endless headers are refused."""
    body = b"--B7x\r\n" + flood * MAX_HEADER_BYTES
    with pytest.raises(LimitError) as caught:
        parse(body, TYPE)
    assert (f"LimitError: {caught.value}", caught.value.status) == (message, 413)


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


NASTY = [
    pytest.param(FIELD, b"\r" * 8, id="cr"),
    pytest.param(FIELD, b"\r\n--B7xy", id="near-miss"),
    pytest.param(FIELD, b"\r\n--B7x \r", id="blank-behind"),
    pytest.param(FIELD, b"D" * 8, id="no-line-end"),
    pytest.param(b"", b"D" * 8, id="preamble"),
    pytest.param(b"", b"\r\n--B7xy", id="preamble-of-near-misses"),
    pytest.param(FIELD + b"D" + CLOSE, b"\r\n--B7x\r\n", id="epilogue"),
    pytest.param(FIELD, b"-" * 8, id="hyphens"),
    pytest.param(FIELD, b"D--B7x--", id="close-in-a-line"),
    pytest.param(FIELD, b"D--B7x\r\n", id="boundary-in-a-line"),
    pytest.param(FIELD, b"D--B7x\r\nX: y", id="boundary-in-a-line-and-a-header"),
    pytest.param(FIELD + b"D--B7x--", b"\r\n\0\0\0\0", id="blanks-behind-a-close"),
    pytest.param(FIELD + b"D" + CLOSE, bytes(8), id="zeros-behind"),
]


@pytest.mark.parametrize(("before", "repeated"), NASTY)
def test_work_is_linear(before: bytes, repeated: bytes) -> None:
    """The work is linear in the size, in large chunks and in small ones."""

    def work(times: int, size: int) -> int:
        body = before + repeated * times
        return calls(lambda: scan(pieces(body, size)))

    work(1, 16)  # what is computed once, such as expressions, does not count
    for size in (16, 1460):
        assert work(2000, size) <= 2.1 * work(1000, size) + 100


@pytest.mark.parametrize(("before", "repeated"), NASTY)
def test_memory_is_constant(before: bytes, repeated: bytes) -> None:
    """The memory does not grow with the body."""
    scanner = Scanner(B)
    scanner.feed(before)
    chunk = repeated * 4096
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


@pytest.mark.parametrize(
    "repeated", [b"D--B7x--", b"D--B7x\r\n"], ids=["close delimiter", "delimiter"]
)
def test_false_delimiters_are_limited(repeated: bytes) -> None:
    """The number of false delimiters is limited."""
    body = FIELD + repeated * (MAX_DELIMITERS + 1) + b"D" + CLOSE
    found = scan([body])
    assert str(found.error).startswith("LimitError: the boundary appears more than 10000 times")

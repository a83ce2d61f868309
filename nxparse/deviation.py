"""Names for what the cameras do that no RFC allows.

The wire modules accept a body that is wrong in ways seen in the field, but
they never do so silently: each deviation is reported under one name from
`Kind`, with the offset where it was noticed. The names appear in the log, in
`Upload.deviations` and on the command line, so they are part of the public
interface: do not rename them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """One tolerated deviation. The value is the name that people see."""

    # The end of the body, RFC 2046 section 5.1.1.
    CLOSE_DELIMITER_UNMARKED = "close-delimiter-unmarked"  # `--B`, perhaps CRLF, then the end
    CLOSE_DELIMITER_CUT = "close-delimiter-cut"  # the end comes inside the delimiter
    CLOSE_DELIMITER_MISSING = "close-delimiter-missing"  # the end comes right behind the data
    CLOSE_DELIMITER_EARLY = "close-delimiter-early"  # another part follows `--B--`
    # Line ends and boundaries.
    NEWLINE_MISSING = "newline-missing"  # no line end between data and delimiter
    BLANK_LINE_MISSING = "blank-line-missing"  # no blank line between headers and data
    PREAMBLE = "preamble"  # text before the first delimiter, left out
    EPILOGUE = "epilogue"  # text after `--B--`, left out
    SURPLUS_NEWLINE = "surplus-newline"  # one CRLF too many between data and delimiter
    BARE_LF = "bare-lf"  # LF where CRLF belongs
    BOUNDARY_MISSING = "boundary-missing"  # not in Content-Type, taken from the first line
    BOUNDARY_MISMATCH = "boundary-mismatch"  # Content-Type and first line differ, the line wins
    # The headers of a part, RFC 7578 and RFC 2045.
    EMPTY_PART = "empty-part"  # two delimiters with nothing between them
    NO_PART_NAME = "no-part-name"
    HEADER_FOLDED = "header-folded"
    HEADER_WITHOUT_COLON = "header-without-colon"
    HEADER_NAME = "header-name"  # empty, or with a blank or worse in it
    HEADER_CONTROL = "header-control"  # a control character in the value
    HEADER_REPEATED = "header-repeated"  # the first one counts
    DISPOSITION = "disposition"  # no `Content-Disposition: form-data`
    HEADER_ENCODING = "header-encoding"  # not UTF-8
    PARAMETER_CASE = "parameter-case"  # `fileName`, which case-sensitive parsers miss
    PARAMETER_REPEATED = "parameter-repeated"  # the first one counts
    PARAMETER_EXTENDED = "parameter-extended"  # `filename*`, forbidden by RFC 7578, ignored
    PARAMETER_MALFORMED = "parameter-malformed"  # a quote not closed, or something behind it
    TRAILING_SEMICOLON = "trailing-semicolon"  # `image/jpeg;`
    MULTIPART_LABEL = "multipart-label"  # a leaf part that calls itself multipart/...
    TRANSFER_ENCODING = "transfer-encoding"  # announced, but HTTP has none: data taken as they are
    # The message, XML 1.0.
    XML_ENCODING = "xml-encoding"  # bytes that are not in the encoding they claim
    XML_MALFORMED = "xml-malformed"  # read by searching for the elements
    NO_SENDER = "no-sender"
    MESSAGE_REPEATED = "message-repeated"  # the first one counts
    # The photos.
    FILE_NAMED_MESSAGE = "file-named-message"  # in a part of that name
    EMPTY_FIELD = "empty-field"  # neither a file name nor data: left out
    EMPTY_FILE = "empty-file"
    PHOTO_CUT = "photo-cut"  # the body ends inside a JPEG that has no end marker


@dataclass(frozen=True, slots=True)
class Deviation:
    """A deviation that was met: its kind, the offset in the body, and what was found there."""

    kind: Kind
    offset: int
    detail: str = ""

    def __str__(self) -> str:
        return self.kind.value


class BodyError(ValueError):
    """A body that cannot be accepted. `status` is the HTTP status that says why."""

    status = 400


class MultipartError(BodyError):
    """A multipart body that cannot be parsed. `offset` is where the error was detected."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(f"{message} (at byte {offset})")
        self.offset = offset


class LimitError(MultipartError):
    """A multipart body that exceeds a limit, such as that on its parts or headers."""

    status = 413

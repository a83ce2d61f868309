"""Names for deviations from the RFCs that the parsers accept, and the errors they raise.

Each accepted deviation is reported with a `Kind` and its offset. The names appear in the log, in
`Upload.deviations` and on the command line, so they are part of the public interface.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Kind(Enum):
    """An accepted deviation. The value is its public name."""

    # The end of the body, RFC 2046 section 5.1.1.
    CLOSE_DELIMITER_UNMARKED = "close-delimiter-unmarked"  # `--B`, perhaps CRLF, then the end
    CLOSE_DELIMITER_CUT = "close-delimiter-cut"  # the body ends inside the delimiter
    CLOSE_DELIMITER_MISSING = "close-delimiter-missing"  # the body ends right after the data
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
    HEADER_MALFORMED = "header-malformed"  # folded, no colon, no token, a control character
    HEADER_REPEATED = "header-repeated"  # the first one counts
    DISPOSITION = "disposition"  # no `Content-Disposition: form-data`
    HEADER_ENCODING = "header-encoding"  # not UTF-8
    PARAMETER_CASE = "parameter-case"  # `fileName`, which case-sensitive parsers miss
    PARAMETER_MALFORMED = "parameter-malformed"  # repeated, `filename*`, or an open quote
    TRAILING_SEMICOLON = "trailing-semicolon"  # `image/jpeg;`
    MULTIPART_LABEL = "multipart-label"  # a part with data whose type is multipart/...
    TRANSFER_ENCODING = "transfer-encoding"  # HTTP has none: the data is not decoded
    # The message, XML 1.0.
    XML_ENCODING = "xml-encoding"  # the bytes are not in the declared encoding
    XML_MALFORMED = "xml-malformed"  # parsed by searching for tags
    NO_SENDER = "no-sender"
    MESSAGE_REPEATED = "message-repeated"  # the first one counts
    # The photos.
    FILE_NAMED_MESSAGE = "file-named-message"  # a photo in a part named message
    EMPTY_FIELD = "empty-field"  # neither a file name nor data: left out
    EMPTY_FILE = "empty-file"
    PHOTO_CUT = "photo-cut"  # the body ends inside a JPEG that has no end marker


class Deviation(NamedTuple):
    """A deviation, its offset in the body, and a detail such as the text found there."""

    kind: Kind
    offset: int
    detail: str = ""

    def __str__(self) -> str:
        return self.kind.value


class BodyError(ValueError):
    """A body that cannot be accepted. `status` is the HTTP status of the reply."""

    status = 400


class MultipartError(BodyError):
    """A multipart body that cannot be parsed. `offset` is where the error was detected."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(f"{message} (at byte {offset})")
        self.offset = offset


class LimitError(MultipartError):
    """A multipart body that exceeds a limit, such as that on its parts or headers."""

    status = 413

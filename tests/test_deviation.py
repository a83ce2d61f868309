"""The names under which deviations appear in logs and on the command line."""

from __future__ import annotations

from nxparse.deviation import BodyError, Deviation, Kind


def test_names_are_public() -> None:
    """Somebody may search a log for each of these names: they stay as they are."""
    assert [kind.value for kind in Kind] == [
        "close-delimiter-unmarked",
        "close-delimiter-cut",
        "close-delimiter-missing",
        "close-delimiter-early",
        "newline-missing",
        "blank-line-missing",
        "preamble",
        "epilogue",
        "surplus-newline",
        "bare-lf",
        "boundary-missing",
        "boundary-mismatch",
        "empty-part",
        "no-part-name",
        "header-folded",
        "header-without-colon",
        "header-name",
        "header-control",
        "header-repeated",
        "disposition",
        "header-encoding",
        "parameter-case",
        "parameter-repeated",
        "parameter-extended",
        "parameter-malformed",
        "trailing-semicolon",
        "multipart-label",
        "transfer-encoding",
        "xml-encoding",
        "xml-malformed",
        "no-sender",
        "message-repeated",
        "file-named-message",
        "empty-field",
        "empty-file",
        "photo-cut",
    ]


def test_names_follow_the_members() -> None:
    """A name is its member's in lower case with dashes, so that one finds the other."""
    assert [kind.value for kind in Kind] == [kind.name.lower().replace("_", "-") for kind in Kind]


def test_deviation_as_text_is_its_name() -> None:
    """Printed, a deviation is the name of its kind and nothing from the wire."""
    assert str(Deviation(Kind.BARE_LF, 17, "\r\n\x1b[2J")) == "bare-lf"


def test_body_error_is_a_bad_request() -> None:
    """Whoever knows nothing of nxparse can catch ValueError, and answers 400."""
    assert (issubclass(BodyError, ValueError), BodyError.status) == (True, 400)

"""The names under which deviations appear in logs and on the command line."""

from __future__ import annotations

from nxparse.deviation import BodyError, Deviation, Kind


def test_names_follow_the_members() -> None:
    """A name is its member's in lower case with dashes, so that one finds the other."""
    assert [kind.value for kind in Kind] == [kind.name.lower().replace("_", "-") for kind in Kind]


def test_deviation_as_text_is_its_name() -> None:
    """Printed, a deviation is the name of its kind and nothing from the wire."""
    assert str(Deviation(Kind.BARE_LF, 17, "\r\n\x1b[2J")) == "bare-lf"


def test_body_error_is_a_bad_request() -> None:
    """Whoever knows nothing of nxparse can catch ValueError, and answers 400."""
    assert (issubclass(BodyError, ValueError), BodyError.status) == (True, 400)

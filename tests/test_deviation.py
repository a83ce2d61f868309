"""The names under which deviations appear in logs and on the command line."""

from __future__ import annotations

from nxparse.deviation import BodyError, Deviation, Kind


def test_names_follow_the_members() -> None:
    """The value of each member is its name in lower case with dashes."""
    assert [kind.value for kind in Kind] == [kind.name.lower().replace("_", "-") for kind in Kind]


def test_str_of_a_deviation() -> None:
    """The text of a deviation is the name of its kind, without received bytes."""
    assert str(Deviation(Kind.BARE_LF, 17, "\r\n\x1b[2J")) == "bare-lf"


def test_body_error_is_a_bad_request() -> None:
    """BodyError is a ValueError with the status 400."""
    assert (issubclass(BodyError, ValueError), BodyError.status) == (True, 400)

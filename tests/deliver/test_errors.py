"""Why a delivery failed."""

from __future__ import annotations

import pytest

from nxparse.deliver.errors import (
    MAX_TOLD,
    DeliveryError,
    PermanentError,
    TemporaryError,
    UnreachableError,
    one_line,
)


@pytest.mark.parametrize(
    ("error", "retry_after"),
    [
        pytest.param(TemporaryError("later"), None, id="any-time"),
        pytest.param(TemporaryError("later", 0.0), 0.0, id="at-once"),
        pytest.param(TemporaryError("later", retry_after=3600.0), 3600.0, id="in-an-hour"),
    ],
)
def test_temporary(error: TemporaryError, retry_after: float | None) -> None:
    """A temporary error tells a person why, and the outbox when."""
    assert (str(error), error.retry_after) == ("later", retry_after)


def test_permanent() -> None:
    """A permanent error tells a person why."""
    assert str(PermanentError("never")) == "never"


def test_one_family() -> None:
    """Both are caught as DeliveryError, neither as the other, and neither as an OSError."""
    assert TemporaryError.__bases__ == PermanentError.__bases__ == (DeliveryError,)
    assert DeliveryError.__bases__ == (Exception,)


@pytest.mark.parametrize("kind", [TemporaryError, UnreachableError])
def test_progress(kind: type[TemporaryError]) -> None:
    """Nothing is done unless it is said, and what one error says is not another's."""
    first, second = kind("later"), kind("later")
    first.progress = ("a", "b")
    assert (first.progress, second.progress, str(first)) == (("a", "b"), (), "later")


@pytest.mark.parametrize(
    ("text", "secrets", "expected"),
    [
        pytest.param("450 later", [], "450 later", id="as-it-is"),
        pytest.param("", [], "", id="empty"),
        pytest.param(" \r\n\t", [], "", id="blanks"),
        pytest.param("  a\r\nb\tc   d\n", [], "a b c d", id="one-line"),
        pytest.param("a\0b\x1b[31m\x9b\x07", [], "a b [31m", id="controls"),
        pytest.param("a\u202eb\u2028c\u200bd\ufeff", [], "a b c d", id="invisible"),
        pytest.param("a\ud800b", [], "a b", id="surrogate"),
        pytest.param("Grüße 안녕 📷", [], "Grüße 안녕 📷", id="letters"),
        pytest.param("x" * MAX_TOLD, [], "x" * MAX_TOLD, id="just-fits"),
        pytest.param("x" * (MAX_TOLD + 1), [], "x" * MAX_TOLD, id="too-long"),
        pytest.param("\n" * 500 + "x", [], "x", id="long-of-blanks"),
        pytest.param("s3cret and s3cret", ["s3cret"], "*** and ***", id="secret"),
        pytest.param("me, s3cret", ["me", "s3cret"], "***, ***", id="secrets"),
        pytest.param("x" * (MAX_TOLD - 4) + " s3cret", ["s3cret"], "x" * (MAX_TOLD - 4) + " ***",
            id="secret-that-would-be-cut"),
    ],
)  # fmt: skip
def test_one_line(text: str, secrets: list[str], expected: str) -> None:
    """What others say is made fit for a log."""
    assert one_line(text, secrets) == expected

"""Why a delivery failed."""

from __future__ import annotations

import pytest

from nxparse.deliver.errors import DeliveryError, PermanentError, TemporaryError


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

"""Why a delivery failed, as far as it decides what happens next."""

from __future__ import annotations


class DeliveryError(Exception):
    """A delivery that did not succeed. Its text is for a person, and holds no secret."""


class TemporaryError(DeliveryError):
    """It may succeed later, not before `retry_after` seconds if that is given."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(DeliveryError):
    """It will never succeed."""

"""Results of a delivery: an outcome, or an error whose type determines what happens next.

An OSError of a target counts as temporary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nxparse.store.records import LocalCopy
from nxparse.text import MAX_REASON


class DeliveryError(Exception):
    """A failed delivery. Its text is for the user and contains no secret."""


class TemporaryError(DeliveryError):
    """A retry may succeed.

    `progress` describes the steps already done, in terms of the target, for the next attempt.
    """

    progress: Sequence[str] = ()


class UnreachableError(TemporaryError):
    """No delivery to this target can succeed at present, nor for `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(DeliveryError):
    """A retry cannot succeed."""


class TooLargeError(DeliveryError):
    """The files are too large together. Each by itself may be small enough."""


class Refused(NamedTuple):
    """A recipient that was not reached, spelled as in the delivery, and the reason."""

    recipient: str
    permanent: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """A successful delivery to all recipients except those `refused`.

    Recipients are the addresses or the site chosen on the camera. A target that replaces
    them, such as mail:ADDRESS, succeeds or raises as a whole. `message` is for the log.
    """

    message: str
    refused: tuple[Refused, ...] = ()
    # One for each file, if they were saved on this machine.
    saved: tuple[LocalCopy, ...] = field(default=(), compare=False)


def clean_text(text: str, secrets: Iterable[str] = ()) -> str:
    """Text from another program, fit for a log: short, printable, without `secrets`."""
    for secret in secrets:
        text = text.replace(secret, "***")
    clean = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(clean.split())[:MAX_REASON]

"""How a delivery ends, as far as it decides what happens next.

Temporary or permanent is a type, not a flag: whoever raises knows which it is.
An OSError that nobody has judged is temporary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from nxparse.store.saved import SavedFile

MAX_TOLD = 200  # characters


class DeliveryError(Exception):
    """A delivery that did not succeed. Its text is for a person, and holds no secret."""


class TemporaryError(DeliveryError):
    """It may succeed later, not before `retry_after` seconds if that is given.

    `progress` is what is done already, for the next attempt; only the target knows what it means.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.progress: Sequence[str] = ()


class UnreachableError(TemporaryError):
    """The target cannot be used at all for now: whatever else is for it would fail as well."""


class PermanentError(DeliveryError):
    """It will never succeed."""


class TooLargeError(DeliveryError):
    """All files together are too much for the target; one at a time may do."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A recipient of a delivery that was not reached, and why.

    `recipient` is spelled as in the delivery.
    """

    recipient: str
    permanent: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """A delivery that has succeeded, for all recipients but those `refused`.

    The recipients of a delivery are the addresses (or the site) that were chosen on
    the camera. A target that reaches somebody else in their place, like mail:ADDRESS,
    refuses none of them: it succeeds or raises. `told` says what was done, for the log.
    """

    told: str
    refused: tuple[Refused, ...] = ()
    # One for each file, if they were saved on this machine.
    saved: tuple[SavedFile, ...] = field(default=(), compare=False)


def one_line(text: str, secrets: Iterable[str] = ()) -> str:
    """What others have said, as it may stand in a log: short, printable, without `secrets`."""
    for secret in secrets:
        text = text.replace(secret, "***")
    clean = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(clean.split())[:MAX_TOLD]

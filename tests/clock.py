"""A clock for tests that do not wait for real time."""

from __future__ import annotations

NEW_YEAR = 1767225600.0  # 2026-01-01 00:00 UTC


class Clock:
    """A clock that changes only when it is set."""

    def __init__(self, now: float = NEW_YEAR) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

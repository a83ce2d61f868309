"""Failures of deliveries, in a form that tests can compare."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, eq=False)
class Like:
    """Equal to every text that the pattern matches."""

    pattern: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and bool(re.fullmatch(self.pattern, other))


class Failure(NamedTuple):
    """An error, with SERVER for the server in its text."""

    kind: type[Exception]
    text: str | Like
    retry_after: float = 0.0


def failure_of(error: Exception, server: object, secrets: Sequence[str]) -> Failure:
    """Describe an error, after a check that it is printable and shows no secret."""
    everything = "".join(traceback.format_exception(error)) + repr(error)
    assert [one for one in secrets if one in everything] == []
    assert str(error).isprintable()
    text = str(error).replace(str(server), "SERVER")
    return Failure(type(error), text, getattr(error, "retry_after", 0.0))

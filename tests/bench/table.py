"""The results of a benchmark: tables of figures with their goals.

Each benchmark is a module with the function `main(short: bool) -> Iterable[Table]`. CI passes
`short` for the same rows with smaller sizes and fewer runs. Contenders are measured in turns
(`in_turns`), so that other load affects all of them, and shown as medians.

A missed goal is only shown, because seconds depend on the machine. A structural goal fails the
run: it holds on every machine, for example how time grows with size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from nxparse.inspect.show import aligned

T = TypeVar("T")
Value = float | str | None
"""A figure, a word in its place ("refused"), or no value."""


@dataclass(frozen=True)
class Goal:
    """The limits of a figure: a maximum, a minimum, or both."""

    name: str
    figure: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    structural: bool = False

    @property
    def met(self) -> bool:
        return (self.at_most is None or self.figure <= self.at_most) and (
            self.at_least is None or self.figure >= self.at_least
        )

    def __str__(self) -> str:
        limits = [("at least", self.at_least), ("at most", self.at_most)]
        limit = " and ".join(f"{word} {shown(one)}" for word, one in limits if one is not None)
        unit = f" {self.unit}" if self.unit else ""
        result = "met" if self.met else "MISSED"
        return f"{result}: {self.name} {shown(self.figure)}{unit} ({limit})"


@dataclass(frozen=True)
class Row:
    """A row of a table: its values by column (with unit, "nx_addon, MiB"), and its goals."""

    name: str
    values: Mapping[str, Value]
    goals: Sequence[Goal] = ()


@dataclass(frozen=True)
class Table:
    """A table with a title, the name of its first column ("upload"), and an optional note."""

    title: str
    subject: str
    rows: Sequence[Row]
    note: str = ""

    def __str__(self) -> str:
        columns = list(dict.fromkeys(column for row in self.rows for column in row.values))
        cells = [[self.subject, *columns, "goal"]]
        for row in self.rows:
            values = [shown(row.values.get(column)) for column in columns]
            cells.append([row.name, *values, "; ".join(map(str, row.goals))])
        lines = ["", self.title, "", *aligned(cells)]
        return "\n".join([*lines, "", self.note] if self.note else lines)


def shown(value: Value) -> str:
    """Return a value as text, figures with three significant digits."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def in_turns(runs: int, contenders: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Call all contenders in turn, `runs` times. Returns the results of each."""
    results: dict[str, list[T]] = {name: [] for name in contenders}
    for _ in range(runs):
        for name, contender in contenders.items():
            results[name].append(contender())
    return results


def failures(tables: Iterable[Table]) -> list[str]:
    """Return a line for each structural goal that was missed."""
    return [
        f"{table.title}: {row.name}: {goal}"
        for table in tables
        for row in table.rows
        for goal in row.goals
        if goal.structural and not goal.met
    ]

"""Each promise, tried with the same inputs in each run of the tests."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=80)
EACH = pytest.mark.parametrize("name", TARGETS)


@cache
def seeds_of(name: str) -> list[bytes]:
    return [*TARGETS[name].seeds()]


@EACH
def test_seeds(name: str) -> None:
    """The seeds keep all promises, whole and cut."""
    target = TARGETS[name]
    for seed in seeds_of(name):
        for end in [*range(0, len(seed), max(10, len(seed) // 20)), len(seed)]:
            target.check(seed[:end])


@EACH
@PROPERTY
@given(st.data())
def test_any_input(name: str, data: st.DataObject) -> None:
    """Words in any order keep all promises, and so do seeds with words in them."""
    target = TARGETS[name]
    word = st.sampled_from(target.words) | st.binary(max_size=4)
    seed = data.draw(st.sampled_from([b"", *seeds_of(name)]))
    made = [data.draw(st.binary(min_size=3, max_size=3))] if not seed else []
    for one in data.draw(st.lists(word, max_size=12 if not seed else 4)):
        at = data.draw(st.integers(0, len(seed))) if seed else 0
        made += [seed[:at], one]
        seed = seed[at:]
    target.check(b"".join([*made, seed])[: target.size])

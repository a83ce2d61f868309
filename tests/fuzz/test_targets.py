"""Each promise, tried with the same inputs in each run of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from tests.fuzz.targets import TARGETS, Target

INPUTS = 100
EACH = pytest.mark.parametrize("name", TARGETS)


@EACH
def test_seeds(name: str) -> None:
    """The seeds keep all promises, whole and cut."""
    target = TARGETS[name]
    for seed in target.seeds():
        for end in [*range(0, len(seed), max(10, len(seed) // 20)), len(seed)]:
            target.check(seed[:end])


@EACH
def test_any_input(name: str) -> None:
    """Words in any order keep all promises, and so do seeds with words in them."""
    target = TARGETS[name]
    for made in inputs(target, Random(name)):
        try:
            target.check(made)
        except Exception as error:
            error.add_note(f"the input is {made!r}")
            raise


def inputs(target: Target, random: Random) -> Iterator[bytes]:
    seeds = [b"", *target.seeds()]
    for _ in range(INPUTS):
        seed = random.choice(seeds)
        made = bytearray(seed or random.randbytes(3))
        for _ in range(random.randrange(5 if seed else 13)):
            is_word = random.randrange(3) > 0
            word = random.choice(target.words) if is_word else random.randbytes(random.randrange(5))
            at = random.randint(0, len(made)) if seed else len(made)
            made[at:at] = word
        yield bytes(made[: target.size])

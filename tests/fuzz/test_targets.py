"""Each promise, tried with the same inputs in each run of the tests."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import __main__ as fuzz
from tests.fuzz.targets import TARGETS, Target

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=80)
EACH = pytest.mark.parametrize(
    "target",
    [
        pytest.param(
            target,
            id=name,
            marks=pytest.mark.skipif(
                name == "peers" and fuzz.missing("multipart"),
                reason="pip install -r tests/requirements-fuzz.txt",
            ),
        )
        for name, target in TARGETS.items()
    ],
)


@EACH
def test_seeds(target: Target) -> None:
    """What a fuzzer begins with keeps all promises, whole and cut at every tenth byte."""
    for seed in target.seeds():
        for end in [*range(0, len(seed), max(10, len(seed) // 20)), len(seed)]:
            target.check(seed[:end])


@EACH
@PROPERTY
@given(st.data())
def test_any_input(target: Target, data: st.DataObject) -> None:
    """Words in any order keep all promises, and so does a seed with some words in it."""
    word = st.sampled_from(target.words) | st.binary(max_size=4)
    seed = data.draw(st.sampled_from([b"", *target.seeds()]))
    made = [data.draw(st.binary(min_size=3, max_size=3))] if not seed else []
    for one in data.draw(st.lists(word, max_size=12 if not seed else 4)):
        at = data.draw(st.integers(0, len(seed))) if seed else 0
        made += [seed[:at], one]
        seed = seed[at:]
    target.check(b"".join([*made, seed])[: target.size])


def test_atheris_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what it needs the fuzzer says where it comes from."""
    monkeypatch.setitem(sys.modules, "atheris", None)
    monkeypatch.setattr(sys, "argv", ["fuzz", "address", "--seconds", "1"])
    with pytest.raises(SystemExit, match=r"atheris is missing: pip install -r tests/requirements"):
        fuzz.main()


@pytest.mark.parametrize(
    ("inputs", "failed", "status"),
    [([], False, 0), ([b"\0a"], True, 1), ([], True, 1)],
    ids=["nothing", "a-find", "no-start"],
)
def test_find(
    inputs: list[bytes],
    failed: bool,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A find is printed as hex and base64, with what was said, and makes the exit status."""
    run = fuzz.Run(120, 60.0, 7, 3, inputs, failed, "AssertionError")
    monkeypatch.setattr(fuzz, "fuzz", lambda *_: run)
    monkeypatch.setattr(fuzz, "missing", lambda module: False)
    monkeypatch.setattr(sys, "argv", ["fuzz", "address", "--seconds", "60"])
    with pytest.raises(SystemExit) as caught:
        fuzz.main()
    assert int(caught.value.code or 0) == status
    out = capsys.readouterr().out
    assert out.splitlines()[1].split() == [
        "address",
        "120",
        "2",
        "7",
        "3",
        *(["1"] if inputs else ["none"]),
    ]
    assert ("AssertionError" in out) is failed
    assert ("base64: AGE=\nhex: 0061\n" in out) is bool(inputs)


def test_no_target(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A target that there is not is refused with those that there are."""
    monkeypatch.setattr(sys, "argv", ["fuzz", "nothing"])
    with pytest.raises(SystemExit):
        fuzz.main()
    assert "no target nothing: there are scanner, structure, repair" in capsys.readouterr().err

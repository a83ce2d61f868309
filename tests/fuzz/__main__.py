"""Look for inputs that break a promise: `python -m tests.fuzz [TARGET...]`, all without one.

Each target gets a process of its own for `--seconds`, one after another. With
`--corpus DIR` what was learnt is kept there and built upon the next time. With
`--runs N` instead, each tries N inputs, which are the same ones every time as long
as the code is the same: so it is in .ci/run. Ends with 1 if something is found,
and prints the input.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.util
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.targets import TARGETS, Target

GRACE = 60  # seconds to start and to end
PATIENCE = 3600  # seconds for a number of runs
SEED = 11
MEMORY = 2048  # MB
SLOW = 10  # seconds for one input
SHOWN = 40  # lines of what is said when something is found


@dataclass(frozen=True)
class Run:
    """The result of a run. `inputs` are those that broke a promise."""

    executions: int
    seconds: float
    coverage: int
    corpus: int
    inputs: Sequence[bytes]
    failed: bool
    said: str


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"targets: {', '.join(TARGETS)}",
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    bound = parser.add_mutually_exclusive_group()
    bound.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    bound.add_argument("--runs", type=int, metavar="N", help="inputs for each target, from a seed")
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="where inputs are kept")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no target {', '.join(unknown)}: there are {', '.join(TARGETS)}")
    if importlib.util.find_spec("atheris") is None:
        raise SystemExit(
            "atheris is missing: pip install -r tests/requirements-fuzz.txt. There is one for "
            f"CPython 3.11 to 3.14 on Linux; this is Python {platform.python_version()} on "
            f"{platform.system()}."
        )
    print(f"{'target':<10}{'executions':>12}{'per second':>12}{'edges':>8}{'corpus':>8}  finds")
    found = False
    for name in options.targets or TARGETS:
        with tempfile.TemporaryDirectory() as folder:
            run = fuzz(name, TARGETS[name], options, Path(folder))
        print(
            f"{name:<10}{run.executions:>12}{run.executions / run.seconds:>12.0f}"
            f"{run.coverage:>8}{run.corpus:>8}  {len(run.inputs) or 'none'}",
            flush=True,
        )
        if run.failed:
            found = True
            print(f"\n{run.said}")
        for one in run.inputs:
            print(f"\nbase64: {base64.b64encode(one).decode()}\nhex: {one.hex()}\n{one!r}\n")
    sys.exit(found)


def fuzz(name: str, target: Target, options: argparse.Namespace, folder: Path) -> Run:
    """Run a target in a process of its own, with its files in `folder`."""
    inputs = (options.corpus or folder) / name
    if options.runs:
        bound, patience = [f"-runs={options.runs}", f"-seed={SEED}"], PATIENCE
    else:
        bound, patience = [f"-max_total_time={options.seconds}"], options.seconds + GRACE
    finds = folder / "finds"
    for one in (inputs, finds):
        one.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (inputs / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    words = folder / "words"
    words.write_text("".join(f'"{escaped(word)}"\n' for word in dict.fromkeys(target.words)))
    command = [
        *(sys.executable, "-m", "tests.fuzz.worker", name, str(inputs)),
        *bound,
        f"-max_len={target.size}",
        f"-dict={words}",
        f"-artifact_prefix={finds}/",
        f"-rss_limit_mb={MEMORY}",
        f"-timeout={SLOW}",
        "-print_final_stats=1",
    ]
    started = time.monotonic()
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=patience,
            check=False,
        )
        said, status = done.stdout, done.returncode
    except subprocess.TimeoutExpired as error:
        said, status = error.stdout or b"", -1
    text = said.decode("utf-8", "replace")
    broken = [path.read_bytes() for path in sorted(finds.iterdir())]
    return Run(
        executions=last(r"number_of_executed_units: *(\d+)", text) or last(r"^#(\d+)", text),
        seconds=time.monotonic() - started,
        coverage=last(r" cov: (\d+)", text),
        corpus=last(r" corp: (\d+)", text),
        inputs=broken,
        failed=bool(status or broken),
        said="\n".join(text.splitlines()[-SHOWN:]),
    )


def escaped(word: bytes) -> str:
    """A word as libFuzzer's dictionaries have it."""
    return "".join(f"\\x{byte:02x}" for byte in word)


def last(pattern: str, text: str) -> int:
    numbers = re.findall(pattern, text, re.MULTILINE)
    return int(numbers[-1]) if numbers else 0


if __name__ == "__main__":
    main()

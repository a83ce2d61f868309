"""Look for inputs that break a promise: `python -m tests.fuzz [TARGET...]`, all without one.

Each target runs in a process of its own for `--seconds`, one after another. With `--runs N`
instead, each tries N inputs, which depend only on the code: CI does that. With `--corpus DIR`
the inputs that were found useful are stored there for the next time. Exit status 1 if a promise
is broken; libFuzzer's output, with the input in base64, is then printed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.targets import TARGETS, Target

GRACE = 60  # seconds to start and to end
PATIENCE = 3600  # seconds for a number of runs
SEED = 11
MEMORY = 2048  # MB
SLOW = 10  # seconds for one input
SHOWN = 40  # lines of libFuzzer's output


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
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="where inputs are stored")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no target {', '.join(unknown)}: there are {', '.join(TARGETS)}")
    if importlib.util.find_spec("atheris") is None:
        raise SystemExit(
            "atheris is missing: pip install -r tests/requirements-fuzz.txt. It supports "
            f"CPython 3.11 to 3.14 on Linux; this is Python {platform.python_version()} on "
            f"{platform.system()}."
        )
    passed = True
    for name in options.targets or TARGETS:
        with tempfile.TemporaryDirectory() as folder:
            status, lines = fuzz(name, TARGETS[name], options, Path(folder))
        print(f"{name}: {lines[-1]}" if status == 0 else "\n".join([name, *lines]), flush=True)
        passed &= status == 0
    sys.exit(not passed)


def fuzz(
    name: str, target: Target, options: argparse.Namespace, folder: Path
) -> tuple[int, list[str]]:
    """Run a target in a process of its own. Returns its exit status and its last lines."""
    inputs = (options.corpus or folder) / name
    inputs.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (inputs / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    words = folder / "words"
    words.write_text("".join(f'"{escaped(word)}"\n' for word in dict.fromkeys(target.words)))
    if options.runs:
        bound, patience = [f"-runs={options.runs}", f"-seed={SEED}"], PATIENCE
    else:
        bound, patience = [f"-max_total_time={options.seconds}"], options.seconds + GRACE
    command = [
        *(sys.executable, "-m", "tests.fuzz.worker", name, str(inputs)),
        *bound,
        f"-max_len={target.size}",
        f"-dict={words}",
        f"-artifact_prefix={folder}/",
        f"-rss_limit_mb={MEMORY}",
        f"-timeout={SLOW}",
    ]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=patience,
            check=False,
        )
        output, status = done.stdout, done.returncode
    except subprocess.TimeoutExpired as error:
        output, status = error.stdout or b"", -1
    return status, output.decode("utf-8", "replace").splitlines()[-SHOWN:]


def escaped(word: bytes) -> str:
    """A word in the syntax of libFuzzer's dictionaries."""
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main()

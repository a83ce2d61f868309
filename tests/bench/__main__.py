"""Run the benchmarks: `python -m tests.bench [NAME...] [--short] [--json FILE]`, by default all.

Exit status 1 if a goal is missed that does not depend on the machine's speed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from tests.bench.table import Table, failures

BENCHMARKS = ("memory", "mail", "scan", "receive", "start", "queue")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--short", action="store_true", help="smaller sizes and fewer runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(BENCHMARKS)):
        parser.error(f"unknown benchmark {', '.join(unknown)}: choose from {', '.join(BENCHMARKS)}")
    results: dict[str, list[Table]] = {}
    for name in options.names or BENCHMARKS:
        results[name] = []
        for table in tables(name, options.short):
            results[name].append(table)
            print(table, flush=True)
    if options.json:
        options.json.write_text(json.dumps(report(results, options.short), indent=2) + "\n")
    missed = [line for found in results.values() for line in failures(found)]
    for line in missed:
        print(line, file=sys.stderr)
    return 1 if missed else 0


def tables(name: str, short: bool) -> Iterable[Table]:
    # Imported only when it runs: some need packages that others do not.
    found: Iterable[Table] = import_module(f"tests.bench.{name}").main(short)
    return found


def report(results: dict[str, list[Table]], short: bool) -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "short": short,
        "benchmarks": {
            name: [table.as_json() for table in found] for name, found in results.items()
        },
    }


if __name__ == "__main__":
    sys.exit(main())

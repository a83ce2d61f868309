"""Run the benchmarks: `python -m tests.bench [NAME...] [--short]`, by default all.

Exit status 1 if a goal is missed that does not depend on the machine's speed.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from tests.bench.table import Table, failures

BENCHMARKS = ("memory", "mail", "scan", "receive", "start", "queue")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--short", action="store_true", help="smaller sizes and fewer runs")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(BENCHMARKS)):
        parser.error(f"unknown benchmark {', '.join(unknown)}: choose from {', '.join(BENCHMARKS)}")
    found: list[Table] = []
    for name in options.names or BENCHMARKS:
        # Imported only when it runs: some need packages that others do not.
        for table in import_module(f"tests.bench.{name}").main(options.short):
            found.append(table)
            print(table, flush=True)
    missed = failures(found)
    for line in missed:
        print(line, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

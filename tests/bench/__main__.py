"""Run the benchmarks: `python -m tests.bench [NAME...]`, all of them without a name."""

from __future__ import annotations

import sys

from tests.bench import mail, memory

BENCHMARKS = {"memory": memory.main, "mail": mail.main}


def main() -> None:
    names = sys.argv[1:] or list(BENCHMARKS)
    if unknown := set(names) - set(BENCHMARKS):
        raise SystemExit(f"no benchmark {', '.join(unknown)}: there are {', '.join(BENCHMARKS)}")
    for name in names:
        BENCHMARKS[name]()


main()

"""Fuzzes one target: `python -m tests.fuzz.worker TARGET [OPTION...]`.

The options are libFuzzer's (https://llvm.org/docs/LibFuzzer.html).
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["nxparse"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name, *options = sys.argv[1:]
    atheris.Setup([name, *options], TARGETS[name].check)
    atheris.Fuzz()


main()

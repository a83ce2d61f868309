"""The layout of the package: folders import only from those below them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.mitmdump import ROOT

# From the top down; the parsing modules are at the bottom.
FLOORS = ["cli", "proxy", "inspect", "server", "config", "deliver", "store", "text"]
MODULES = sorted((ROOT / "nxparse").rglob("*.py"))


def floor(module: str) -> int:
    """Return the number of the floor of a module, counted from the top."""
    first = module.removeprefix("nxparse.").split(".")[0]
    return FLOORS.index(first) if first in FLOORS else len(FLOORS)


@cache
def imports(path: Path) -> set[str]:
    """Return the modules that a file imports, also inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports(path: Path) -> None:
    """No module imports mitmproxy, or from a floor above its own."""
    own = ".".join(path.relative_to(ROOT / "nxparse").with_suffix("").parts)
    names = imports(path)
    assert [name for name in names if name.split(".")[0] == "mitmproxy"] == []
    if own not in ("__init__", "__main__"):
        ours = {name for name in names if name.startswith("nxparse.")}
        assert [name for name in ours if floor(name) < floor(own)] == []


def test_the_top_stays_small() -> None:
    """At most 14 modules are directly in nxparse."""
    assert len(list((ROOT / "nxparse").glob("*.py"))) <= 14

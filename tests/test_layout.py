"""The layout of the package: folders import only from those below them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mitmdump import ROOT

# From the top down. A module imports only from its own floor and those below it.
PARSING = ["upload", "message", "markup", "multipart", "scanner", "framing", "filename", "jpeg"]
PARSING += ["address", "deviation"]
FLOORS = ["cli", "proxy", "inspect", "server", "config", "deliver", "store", "text", *PARSING]
MODULES = sorted((ROOT / "nxparse").rglob("*.py"))


def floor(module: str) -> int:
    """The number of the floor that a module below nxparse is on; 0 is the top."""
    first = module.split(".")[0]
    return FLOORS.index(first) if first in FLOORS else len(FLOORS)


def imports(path: Path) -> set[str]:
    """The names that a file imports, with their modules."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    """No module imports from a floor above its own."""
    own = ".".join(path.relative_to(ROOT / "nxparse").with_suffix("").parts)
    if own in ("__init__", "__main__"):
        return
    ours = [name.removeprefix("nxparse.") for name in imports(path) if name.startswith("nxparse.")]
    assert [name for name in ours if floor(name) < floor(own)] == []


def test_only_the_addon_imports_mitmproxy() -> None:
    """The package can be used without mitmproxy."""
    for path in MODULES:
        assert [name for name in imports(path) if name.startswith("mitmproxy")] == [], path


def test_the_top_stays_small() -> None:
    """At most 14 modules are directly in nxparse."""
    assert len(list((ROOT / "nxparse").glob("*.py"))) <= 14

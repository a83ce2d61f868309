"""The commands and blocks in README, for the tests that run them."""

from __future__ import annotations

import re

from tests.mitmdump import ROOT


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    text = (ROOT / "README.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def lines(part: str = "") -> list[str]:
    """The lines of the shell blocks that contain `part`, in order."""
    return [line for block in blocks("sh") for line in block.splitlines() if part in line]

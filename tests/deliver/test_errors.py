"""Errors of deliveries, and the text of other programs in them."""

from __future__ import annotations

import pytest

from nxparse.deliver.errors import clean_text
from nxparse.text import MAX_REASON


@pytest.mark.parametrize(
    ("text", "secrets", "expected"),
    [
        pytest.param("450 later", [], "450 later", id="unchanged"),
        pytest.param(" \r\n\t", [], "", id="blanks"),
        pytest.param("  a\r\nb\tc   d\n", [], "a b c d", id="one-line"),
        pytest.param("a\0b\x1b[31m\x9b\x07", [], "a b [31m", id="controls"),
        pytest.param("a\u202eb\u2028c\u200bd\ufeff", [], "a b c d", id="invisible"),
        pytest.param("a\ud800b", [], "a b", id="surrogate"),
        pytest.param("Grüße 안녕 📷", [], "Grüße 안녕 📷", id="letters"),
        pytest.param("x" * (MAX_REASON + 1), [], "x" * MAX_REASON, id="too-long"),
        pytest.param("\n" * 500 + "x", [], "x", id="many-blanks"),
        pytest.param("me, s3cret, me", ["me", "s3cret"], "***, ***, ***", id="secrets"),
        pytest.param(
            "x" * (MAX_REASON - 4) + " s3cret",
            ["s3cret"],
            "x" * (MAX_REASON - 4) + " ***",
            id="secret-at-the-cut",
        ),
    ],
)
def test_one_line(text: str, secrets: list[str], expected: str) -> None:
    """The text is printable, short, on one line, and without secrets."""
    assert clean_text(text, secrets) == expected

"""Malformed XML. More of it, in messages of uploads, is in test_message."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest

from nxparse import markup
from nxparse.deviation import BodyError, Kind
from nxparse.markup import MAX_BYTES


def read(document: str, *texts: str) -> list[tuple[str, dict[str, str], str, bool]]:
    found, _ = markup.read(document.encode(), texts)
    return [(one.name, one.attributes, one.text, one.whole) for one in found]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ('<R A="1"><B c="&amp;&#65;"/></R>', [("r", {"a": "1"}), ("b", {"c": "&A"})]),
        ("<R A='1'/>", [("r", {"a": "1"})]),
    ],
    ids=["references", "single quotes"],
)
def test_well_formed(document: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    """Elements are in order, with their names and those of attributes in lower case."""
    found, deviations = markup.read(document.encode(), ())
    assert [(one.name, one.attributes) for one in found] == expected
    assert deviations == []


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param("<r a=1 b='2'><c", [("r", {"a": "1", "b": "2"})], id="unquoted"),
        pytest.param('<UserName="me"/>', [("username", {"value": "me"})], id="no-element-name"),
        pytest.param('<r a="1"/><r a="2"/>', [("r", {"a": "1"}), ("r", {"a": "2"})], id="2-roots"),
        pytest.param('<r a = "x y" ><b>', [("r", {"a": "x y"}), ("b", {})], id="blanks"),
        pytest.param('<r a="1" a="2">', [("r", {"a": "1"})], id="twice"),
        pytest.param('<r a="&amp;&b"/></x>', [("r", {"a": "&&b"})], id="bare-ampersand"),
        pytest.param("<r><![CDATA[<b x='1'/>]]><c>", [("r", {}), ("c", {})], id="in-cdata"),
        pytest.param("I <3 you, 1 < 2", [], id="no-tags"),
        pytest.param("<r 1a='1' -b='2' éc='3' d='4'><", [("r", {"d": "4"})], id="no-names"),
        pytest.param("<r a='1", [], id="cut"),
    ],
)
def test_malformed(document: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    """Malformed XML is searched for tags, and reported."""
    found, deviations = markup.read(document.encode(), ())
    assert [(one.name, one.attributes) for one in found] == expected
    assert [one.kind for one in deviations] == [Kind.XML_MALFORMED]


def test_text() -> None:
    """In malformed XML only the requested elements have text."""
    document = "<R><A>a & b</A><B>not wanted</B><A/><a>cut &amp;"
    assert read(document, "a") == [
        ("r", {}, "", True),
        ("a", {}, "a & b", True),
        ("b", {}, "", True),
        ("a", {}, "", True),
        ("a", {}, "cut &", False),
    ]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param("<a>x<a>y</a><a>z</a>", ["x<a>y", "z"], id="within-itself"),
        pytest.param("<a>x<A>y", ["x<A>y<c"], id="within-itself-without-end"),
        pytest.param("<a>x<b>y</b></a>", ["x<b>y</b>"], id="with-another-in-it"),
        pytest.param("<a>&gt;<![CDATA[<b>&lt;</a>]]>&lt;</A>", ["><b>&lt;</a><"], id="cdata"),
        pytest.param("<a>1<![CDATA[2", ["12<c"], id="cdata-cut"),
        pytest.param("<a>1\x082</a>", ["12"], id="control"),
    ],
)
def test_text_in_malformed_xml(document: str, expected: list[str]) -> None:
    """A text ends at the next end tag of its element, except inside CDATA."""
    found, _ = markup.read(f"{document}<c".encode(), ("a",))
    assert [one.text for one in found if one.name == "a"] == expected


def test_text_of_well_formed() -> None:
    """In well-formed XML every element has its own text."""
    assert read("<a>1<b>2</b>3</a>") == [("a", {}, "13", True), ("b", {}, "2", True)]


WORST = ("<a ", "<a>", "<a=", "<![CDATA[", "a='", "&#1", "<a x='", "</a", "<a.")
LONG_NAME = "a" * 65_000


@pytest.mark.parametrize(
    "document",
    [
        *(worst * (MAX_BYTES // len(worst)) for worst in WORST),
        f"<{LONG_NAME}",
        f"<a {LONG_NAME}>",
        f"<a {LONG_NAME}=",
    ],
    ids=lambda document: document[:9],
)
def test_worst_cases(document: str) -> None:
    """No document within the limit is slow to parse."""
    begun = time.process_time()
    with suppress(BodyError):
        read(document, "a")
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize(
    ("value", "expected"), [(" a\r\nBcc: b\t", "a Bcc: b"), ("a\u2028b\x85c", "a b c"), ("", "")]
)
def test_one_line(value: str, expected: str) -> None:
    """Line ends and control characters become blanks."""
    assert markup.one_line(value) == expected

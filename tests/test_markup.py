"""XML that is almost XML; the message of an e-mail upload has more of it in test_message."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nxparse import markup
from nxparse.deviation import Kind
from nxparse.markup import MAX_BYTES, MAX_DEPTH, MAX_ELEMENTS, Element, MarkupError

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=200)


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
    """Elements come in order, their names and those of their attributes in lower case."""
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
        pytest.param("<r a='1", [], id="cut"),
    ],
)
def test_almost(document: str, expected: list[tuple[str, dict[str, str]]]) -> None:
    """S05: what is not well-formed is read by searching, and that is reported."""
    found, deviations = markup.read(document.encode(), ())
    assert [(one.name, one.attributes) for one in found] == expected
    assert [one.kind for one in deviations] == [Kind.XML_MALFORMED]


def test_text() -> None:
    """Of almost XML only the texts that are wanted are there, from tag to tag."""
    document = "<R><A>a & b</A><B>not wanted</B><A/><a>cut &amp;"
    assert read(document, "a") == [
        ("r", {}, "", True),
        ("a", {}, "a & b", True),
        ("b", {}, "", True),
        ("a", {}, "", True),
        ("a", {}, "cut &", False),
    ]


@pytest.mark.parametrize("document", ["<e>" * 64, "<e>" * 64 + "</e>" * 64])
def test_depth(document: str) -> None:
    """X08: what is nested deeper than anything a camera writes is refused, or has no structure."""
    assert len(document) > MAX_DEPTH
    with pytest.raises(MarkupError):
        markup.read(document.encode(), ())


def test_many_elements() -> None:
    """X08: of almost XML no more elements are read than of XML are allowed."""
    assert len(read("<e/>" * (MAX_ELEMENTS + 1))) == MAX_ELEMENTS


def test_slow() -> None:
    """X08: the worst that fits into the limit takes no time worth speaking of."""
    begun = time.monotonic()
    for worst in ("<a ", "<a>", "<a=", "<![CDATA[", "a='", "&#1", "<a x='", "</a"):
        with suppress(MarkupError):
            read(worst * (MAX_BYTES // len(worst)), "a")
    assert time.monotonic() - begun < 5


@PROPERTY
@given(st.binary(max_size=400) | st.text("<>aA=\"'&;/ ![]CDAT-", max_size=100).map(str.encode))
def test_anything(data: bytes) -> None:
    """Whatever comes is read as elements, or refused as a whole."""
    try:
        found, _ = markup.read(data, ("a",))
    except MarkupError:
        return
    assert all(isinstance(one, Element) for one in found)


def test_first() -> None:
    """The first element of a name, or none."""
    elements, _ = markup.read(b"<r><a x='1'/><a x='2'/></r>", ())
    assert markup.first(elements, "a") is elements[1]
    assert markup.first(elements, "b") is None


@pytest.mark.parametrize(
    ("value", "expected"), [(" a\r\nBcc: b\t", "a Bcc: b"), ("a\u2028b\x85c", "a b c"), ("", "")]
)
def test_one_line(value: str, expected: str) -> None:
    """X13: nothing in a value begins a new line."""
    assert markup.one_line(value) == expected

"""XML as cameras write it, well-formed or almost.

Expat parses the document first. If it fails, the document is searched for tags: a bare `&`, a
missing quote or a cut end should not lose photos. That is reported as a deviation. DOCTYPE and
ENTITY are always refused: no camera sends them, and attacks with XML need them.

The result is a flat list of elements; cameras use each name once.
"""

from __future__ import annotations

import html
import re
from collections.abc import Collection
from dataclasses import dataclass
from xml.parsers import expat

from nxparse.deviation import BodyError, Deviation, Kind

# 64 receivers of 128 bytes (the NX500 stores 30) and a text typed with a camera's buttons stay
# far below these limits.
MAX_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_ELEMENTS = 1000

_DECLARED = re.compile(rb"""\A\s*<\?xml[^>]{0,100}?encoding\s*=\s*["']([A-Za-z0-9._-]{1,40})""")
# Korean software declares EUC-KR and uses the superset of Windows.
_ENCODINGS = {
    "utf-8": "utf-8",
    "utf-16": "utf-16",
    "euc-kr": "cp949",
    "cp949": "cp949",
}
_CDATA = re.compile(r"<!\[CDATA\[(.*?)(?:\]\]>|\Z)", re.DOTALL)
_WHOLE_CDATA = re.compile(r"<!\[CDATA\[.*?\]\]>", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"<([A-Za-z_][\w.-]*)((?:[\s=/][^<>]*)?)>", re.ASCII)
# Also `<Name="value"/>`, a tag without a name. The lookbehind keeps the time for a long name
# linear.
_ATTRIBUTE = re.compile(
    r"""((?<![\w.-])[A-Za-z_][\w.-]*|\A)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"']+?)(?=[\s"']|/?\Z))"""
)
_REFERENCE = re.compile(r"&(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|amp|lt|gt|quot|apos);")
# Characters that XML 1.0 does not allow.
FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


class TooLongError(BodyError):
    """XML that is too long."""

    status = 413


@dataclass(slots=True)
class Element:
    """An element. Its name and those of its attributes are in lower case.

    `text` is its own text, without that of child elements. `whole` is false without an end tag.
    """

    name: str
    attributes: dict[str, str]
    text: str = ""
    whole: bool = True


def read(data: bytes, texts: Collection[str]) -> tuple[list[Element], list[Deviation]]:
    """Return all elements in order, and the deviations from XML 1.0.

    `texts` has the names, in lower case, of the elements whose text is needed. Offsets count
    from the beginning of the data. Raises BodyError.
    """
    if len(data) > MAX_BYTES:
        raise TooLongError(f"the XML is longer than {MAX_BYTES} bytes")
    document, deviations = _decoded(data)
    document = document.strip("\ufeff \t\r\n")
    try:
        return _strict(document), deviations
    except expat.ExpatError as error:
        deviations.append(Deviation(Kind.XML_MALFORMED, 0, str(error)))
        return _lenient(document, texts), deviations


def one_line(value: str) -> str:
    """Return a value on one line, for places where a line break would have a meaning."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", value).strip()


def _decoded(data: bytes) -> tuple[str, list[Deviation]]:
    """Decode the document. Undecodable bytes are replaced."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        claimed = "utf-16"
    else:
        match = _DECLARED.match(data)
        claimed = match[1].decode("ascii").lower() if match else "utf-8"
    # A document whose first byte is `<` is not UTF-16.
    encoding = None if claimed == "utf-16" and data[:1] == b"<" else _ENCODINGS.get(claimed)
    for attempt in dict.fromkeys((encoding or "utf-8", "utf-8", "cp949")):
        try:
            text = data.decode(attempt)
        except UnicodeError:
            continue
        if attempt == encoding:
            return text, []
        return text, [Deviation(Kind.XML_ENCODING, 0, f"{claimed} is {attempt}")]
    found = [Deviation(Kind.XML_ENCODING, 0, f"neither {claimed} nor UTF-8")]
    return data.decode("utf-8", "replace"), found


def _strict(document: str) -> list[Element]:
    """Parse well-formed XML. Raises ExpatError, or BodyError beyond a limit."""
    elements: list[Element] = []
    path: list[Element] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        lowered = {key.lower(): value for key, value in attributes.items()}
        element = Element(name.lower(), lowered)
        elements.append(element)
        path.append(element)
        if len(path) > MAX_DEPTH or len(elements) > MAX_ELEMENTS:
            raise BodyError("the XML has more elements than any camera writes")

    def end(name: str) -> None:
        path.pop()

    def text(data: str) -> None:
        path[-1].text += data

    def doctype(*_: object) -> None:
        raise _no_doctype()

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = doctype
    parser.Parse(document, True)
    return elements


def _lenient(document: str, texts: Collection[str]) -> list[Element]:
    """Search for elements in XML that is not well-formed."""
    # Mask CDATA sections, with offsets unchanged. The search ends at the last `]]>`: after that
    # each `<![CDATA[` would be searched to the end of the document.
    last = document.rfind("]]>") + 3
    whole = _WHOLE_CDATA.sub(lambda match: " " * len(match[0]), document[:last])
    masked = whole + document[last:]
    if re.search(r"<!(?:DOCTYPE|ENTITY)", masked, re.IGNORECASE):
        raise _no_doctype()
    elements: list[Element] = []
    ends: dict[str, int] = {}  # the end of the last element of each name
    for tag in _TAG.finditer(masked):
        if len(elements) == MAX_ELEMENTS:
            break
        name = tag[1].lower()
        if tag.start() < ends.get(name, 0):
            continue
        element = Element(name, _attributes(document[tag.start(2) : tag.end(2)]))
        elements.append(element)
        if name in texts and not tag[2].endswith("/"):
            closing = re.compile(f"</{re.escape(name)}>", re.IGNORECASE | re.ASCII)
            end = closing.search(masked, tag.end())
            element.text = _unescaped(document[tag.end() : end.start() if end else None])
            element.whole = end is not None
            ends[name] = end.end() if end else len(document)
    return elements


def _attributes(raw: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for match in _ATTRIBUTE.finditer(raw):
        value = next((text for text in match.groups()[1:] if text is not None), "")
        found.setdefault(match[1].lower() or "value", _references(value))
    return found


def _unescaped(raw: str) -> str:
    pieces: list[str] = []
    position = 0
    for cdata in _CDATA.finditer(raw):
        pieces += [_references(raw[position : cdata.start()]), cdata[1]]
        position = cdata.end()
    pieces.append(_references(raw[position:]))
    return FORBIDDEN.sub("", "".join(pieces))


def _references(raw: str) -> str:
    return _REFERENCE.sub(lambda match: html.unescape(match[0]), raw)


def _no_doctype() -> BodyError:
    return BodyError("the XML has a DOCTYPE or an ENTITY, which no camera sends")

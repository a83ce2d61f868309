"""XML as cameras write it, or almost.

First the bytes become text, then the text is read strictly, by expat. What
expat refuses is read again by searching for tags, since a bare `&`, a missing
quote or a cut end is no reason to lose somebody's photos; that is reported as a
deviation. DOCTYPE and ENTITY are refused either way: no camera sends them, and
every attack with XML needs them.

Nothing of the structure is kept but the order: cameras write each name once.
"""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from xml.parsers import expat

from nxparse.deviation import BodyError, Deviation, Kind

# Limits: 64 receivers of 128 bytes (the NX500's settings have room for 30) and
# a text that somebody types with a camera's buttons stay far below them.
MAX_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_ELEMENTS = 1000

_DECLARED = re.compile(rb"""\A\s*<\?xml[^>]{0,100}?encoding\s*=\s*["']([A-Za-z0-9._-]{1,40})""")
# Korean software says EUC-KR and means the superset of it that Windows uses.
_ENCODINGS = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "us-ascii": "utf-8",
    "utf-16": "utf-16",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
    "cp949": "cp949",
    "windows-949": "cp949",
    "iso-8859-1": "cp1252",
    "windows-1252": "cp1252",
    "shift_jis": "cp932",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "big5": "cp950",
}
_CDATA = re.compile(r"<!\[CDATA\[(.*?)(?:\]\]>|\Z)", re.DOTALL)
_WHOLE_CDATA = re.compile(r"<!\[CDATA\[.*?\]\]>", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"<([A-Za-z_][\w.-]*)((?:[\s=/][^<>]*)?)>", re.ASCII)
# Also `<Name="value"/>`, a tag that has no name but that of its attribute. A name is
# looked for where it begins only: else a long one would take the square of its length.
_ATTRIBUTE = re.compile(
    r"""((?<![\w.-])[A-Za-z_][\w.-]*|\A)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"']+?)(?=[\s"']|/?\Z))"""
)
_REFERENCE = re.compile(r"&(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|amp|lt|gt|quot|apos);")
# What XML 1.0 cannot hold.
FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


class MarkupError(BodyError):
    """XML that no camera would write."""


class TooLongError(MarkupError):
    """XML that is longer than any camera writes."""

    status = 413


@dataclass(slots=True)
class Element:
    """An element: its name and those of its attributes are in lower case.

    `text` is what stands directly in it. `whole` tells whether its end is there.
    """

    name: str
    attributes: dict[str, str]
    text: str = ""
    whole: bool = True


def read(data: bytes, texts: Collection[str]) -> tuple[list[Element], list[Deviation]]:
    """All elements in order, and the deviations from XML 1.0.

    `texts` names, in lower case, the elements whose text matters: others need not
    have any. Offsets count from the beginning of the data. Raises MarkupError.
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
    """A value that goes where a new line would mean something."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", value).strip()


def _decoded(data: bytes) -> tuple[str, list[Deviation]]:
    """The text of the document. Never fails: what cannot be decoded is replaced."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        claimed = "utf-16"
    else:
        match = _DECLARED.match(data)
        claimed = match[1].decode("ascii").lower() if match else "utf-8"
    # What could be read as ASCII so far is no UTF-16.
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
    """Read well-formed XML. Raises ExpatError, or MarkupError beyond a limit."""
    elements: list[Element] = []
    path: list[Element] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        lowered = {key.lower(): value for key, value in attributes.items()}
        element = Element(name.lower(), lowered)
        elements.append(element)
        path.append(element)
        if len(path) > MAX_DEPTH or len(elements) > MAX_ELEMENTS:
            raise MarkupError("the XML has more elements than any camera writes")

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
    """Find the elements in something that is almost XML."""
    # What stands in CDATA is no tag. The offsets stay as they are.
    # Only up to the last end is there any: behind it each beginning would look for its own.
    last = document.rfind("]]>") + 3
    whole = _WHOLE_CDATA.sub(lambda match: " " * len(match[0]), document[:last])
    masked = whole + document[last:]
    if re.search(r"<!(?:DOCTYPE|ENTITY)", masked, re.IGNORECASE):
        raise _no_doctype()
    elements: list[Element] = []
    behind: dict[str, int] = {}  # where the last element of a name ends
    for tag in _TAG.finditer(masked):
        if len(elements) == MAX_ELEMENTS:
            break
        name = tag[1].lower()
        if tag.start() < behind.get(name, 0):
            continue
        element = Element(name, _attributes(document[tag.start(2) : tag.end(2)]))
        elements.append(element)
        if name in texts and not tag[2].endswith("/"):
            closing = re.compile(f"</{re.escape(name)}>", re.IGNORECASE | re.ASCII)
            end = closing.search(masked, tag.end())
            element.text = _unescaped(document[tag.end() : end.start() if end else None])
            element.whole = end is not None
            behind[name] = end.end() if end else len(document)
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


def _no_doctype() -> MarkupError:
    return MarkupError("the XML has a DOCTYPE or an ENTITY, which no camera sends")


def first(elements: Sequence[Element], name: str) -> Element | None:
    """The first element of a name, which is in lower case."""
    return next((element for element in elements if element.name == name), None)

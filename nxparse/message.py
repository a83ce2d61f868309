"""The message of an e-mail upload: a small XML document, part `message`.

As an NX300 writes it (wiki page "Email-service" of ge0rg/samsung-nx-hacks)::

    <?xml version="1.0" encoding="UTF-8"?>
    <email><sender>A</sender>
    <receiverList><receiver>B</receiver>...</receiverList>
    <title><![CDATA[...]]></title>
    <body><![CDATA[text
    language_sh100_utf8]]></body></email>

The last line of the text is a note from the camera to Samsung's server and no
part of what the user wrote. Sender and receivers are bare addresses or
`Name <address>`.

First the bytes become text, then the text is read strictly, by expat. What
expat refuses is read again by searching for the elements, since a bare `&` or
a cut end is no reason to lose somebody's photos; that is reported as a
deviation. DOCTYPE and ENTITY are refused either way: no camera sends them, and
every attack with XML needs them.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from xml.parsers import expat

from nxparse.deviation import BodyError, Deviation, Kind

# Limits: 64 receivers of 128 bytes (the NX500's settings have room for 30) and
# a text that somebody types with a camera's buttons stay far below them.
MAX_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_ELEMENTS = 1000
MAX_RECIPIENTS = 64

_MARKER = re.compile(r"(?:\A|\r?\n)language_sh100_utf8\s*\Z")
_CDATA = re.compile(r"<!\[CDATA\[(.*?)(?:\]\]>|\Z)", re.DOTALL)
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
_REFERENCE = re.compile(r"&(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|amp|lt|gt|quot|apos);")
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_FIELDS = ("sender", "receiver", "title", "body")


class MessageError(BodyError):
    """A message that names nobody to send to, or that no camera would write."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a camera's user filled in.

    `sender` and `recipients` are the bare addresses as they were typed, not
    checked; `sender_name` is what stood before the sender's address. Each
    recipient is there once. Offsets in `deviations` count from the beginning
    of the message.
    """

    sender: str
    sender_name: str
    recipients: tuple[str, ...]
    subject: str
    text: str
    deviations: tuple[Deviation, ...] = ()


def parse(data: bytes) -> Message:
    """Read the message part.

    Raises MessageError when there is nobody to send to, or beyond a limit.
    """
    if len(data) > MAX_BYTES:
        raise MessageError(f"the message is longer than {MAX_BYTES} bytes")
    deviations: list[Deviation] = []
    document = _decoded(data, deviations).strip("\ufeff \t\r\n")
    try:
        values = _strict(document)
    except expat.ExpatError as error:
        deviations.append(Deviation(Kind.XML_MALFORMED, 0, str(error)))
        values = _lenient(document)
    sender_name, sender = _mailbox(values["sender"][0] if values["sender"] else "")
    if not sender:
        deviations.append(Deviation(Kind.NO_SENDER, 0))
    return Message(
        sender=sender,
        sender_name=sender_name,
        recipients=_recipients(values["receiver"]),
        subject=_one_line(values["title"][0]) if values["title"] else "",
        text=_MARKER.sub("", values["body"][0]) if values["body"] else "",
        deviations=tuple(deviations),
    )


def _decoded(data: bytes, deviations: list[Deviation]) -> str:
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
        if attempt != encoding:
            deviations.append(Deviation(Kind.XML_ENCODING, 0, f"{claimed} is {attempt}"))
        return text
    deviations.append(Deviation(Kind.XML_ENCODING, 0, f"neither {claimed} nor UTF-8"))
    return data.decode("utf-8", "replace")


def _strict(document: str) -> dict[str, list[str]]:
    """Read well-formed XML. Raises ExpatError, or MessageError beyond a limit."""
    values: dict[str, list[str]] = {field: [] for field in _FIELDS}
    path: list[str] = []
    elements = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal elements
        elements += 1
        path.append(name.lower())
        if len(path) > MAX_DEPTH or elements > MAX_ELEMENTS:
            raise MessageError("the message has more elements than any camera writes")
        if path[-1] in values:
            values[path[-1]].append("")

    def end(name: str) -> None:
        path.pop()

    def text(data: str) -> None:
        if path[-1] in values:
            values[path[-1]][-1] += data

    def doctype(*_: object) -> None:
        raise _no_doctype()

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = doctype
    parser.Parse(document, True)
    return values


def _lenient(document: str) -> dict[str, list[str]]:
    """Find the elements in something that is almost XML."""
    if re.search(r"<!(?:DOCTYPE|ENTITY)", _CDATA.sub("", document), re.IGNORECASE):
        raise _no_doctype()
    return {field: list(_contents(document, field)) for field in _FIELDS}


def _contents(document: str, field: str) -> Iterable[str]:
    """The texts of all elements of this name, the last of them perhaps cut short."""
    # Not lower(): that makes some letters two, and moves what stands behind them.
    folded = document.translate(_LOWER)
    opening, closing = f"<{field}>", f"</{field}>"
    position = 0
    for _ in range(MAX_ELEMENTS):
        start = _outside_cdata(folded, opening, position)
        if start < 0:
            return
        start += len(opening)
        end = _outside_cdata(folded, closing, start)
        # A cut address is a wrong address; a cut text is still most of the text.
        if end < 0 and field in ("sender", "receiver"):
            return
        yield _unescaped(document[start : end if end >= 0 else None])
        if end < 0:
            return
        position = end + len(closing)


def _outside_cdata(folded: str, closing: str, position: int) -> int:
    """Where the closing tag is that does not stand inside CDATA, -1 if nowhere."""
    while True:
        end = folded.find(closing, position)
        cdata = folded.find("<![cdata[", position)
        if cdata < 0 or end < cdata:
            return end
        position = folded.find("]]>", cdata)
        if position < 0:
            return end


def _unescaped(raw: str) -> str:
    pieces: list[str] = []
    position = 0
    for cdata in _CDATA.finditer(raw):
        pieces += [_references(raw[position : cdata.start()]), cdata[1]]
        position = cdata.end()
    pieces.append(_references(raw[position:]))
    return _FORBIDDEN.sub("", "".join(pieces))


def _references(raw: str) -> str:
    return _REFERENCE.sub(lambda match: html.unescape(match[0]), raw)


def _no_doctype() -> MessageError:
    return MessageError("the message has a DOCTYPE or an ENTITY, which no camera sends")


def _one_line(value: str) -> str:
    return _CONTROLS.sub(" ", value).strip()


def _mailbox(value: str) -> tuple[str, str]:
    """Split `Name <address>` into name and address."""
    value = _one_line(value)
    if value.endswith(">") and "<" in value:
        name, _, address = value[:-1].rpartition("<")
        return name.strip().strip('"'), address.strip()
    return "", value


def _recipients(values: list[str]) -> tuple[str, ...]:
    """Every recipient once, in order, compared without case."""
    addresses: dict[str, str] = {}
    for value in values:
        for piece in _listed(value):
            address = _mailbox(piece)[1]
            if address:
                addresses.setdefault(address.lower(), address)
    if not addresses:
        raise MessageError("the message names no receiver")
    if len(addresses) > MAX_RECIPIENTS:
        raise MessageError(f"the message names more than {MAX_RECIPIENTS} receivers")
    return tuple(addresses.values())


def _listed(value: str) -> list[str]:
    """Several addresses in one element, if a comma or semicolon can be nothing else than that."""
    pieces = [piece for piece in re.split("[,;]", value) if piece.strip()]
    return pieces if all("@" in piece for piece in pieces) else [value]

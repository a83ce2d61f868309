"""Headers and texts from the wire, with stand-ins for what is private in them.

Each is taken apart as far as its form is known, and each value in it goes
through `Pseudonyms.value` or one of its kind; what is between the values, the
names, the spelling, is left as it came. XML need not be well-formed: it is
rewritten tag by tag.
"""

from __future__ import annotations

import re
from base64 import b64decode
from contextlib import suppress
from html import escape
from urllib.parse import unquote

from nxparse.inspect.pseudonyms import Keep, Pseudonyms, keep_for, unescaped

# Headers of which only that is private which is so wherever it stands.
_PLAIN_HEADERS = frozenset(
    re.findall(
        r"\S+",
        """
        accept accept-charset accept-encoding accept-language accept-ranges allow cache-control
        connection content-encoding content-language content-transfer-encoding date expect expires
        keep-alive last-modified pragma proxy-connection server te transfer-encoding upgrade
        user-agent vary x-osp-version
        """,
    )
)
_URL_HEADERS = frozenset({"content-location", "location", "origin", "referer"})
_SIZE = re.compile(r"(?:bytes[ =])?[0-9*/, -]{1,60}")
_SIZE_HEADERS = frozenset({"age", "content-length", "content-range", "range"})
_PAIR = re.compile(r'([A-Za-z_][A-Za-z0-9_-]{0,40})(\s{0,4}=\s{0,4})("[^"]*"|[^\s",]*)')
_PARAMETER = re.compile(
    r';\s{0,10}([^\s;="]{1,60})\s{0,4}=\s{0,4}("(?:[^"\\]|\\.)*"?[^;]*|[^;]*)', re.DOTALL
)
_FIELD_LINE = re.compile(r"""([{\["' \t]*)([A-Za-z_][\w.-]{0,40})(["']?\s{0,4}[:=]\s{0,4}["']?)""")
_BRACKETS = "{}[], \t\r"
_FORM = re.compile(r"[\w.%+-]{1,60}=[^&\s]*(?:&[\w.%+-]{1,60}=[^&\s]*)*\s{0,4}")

_MARKUP = re.compile(
    r"<!\[CDATA\[(?P<cdata>.*?)(?P<cdata_end>\]\]>|\Z)"
    r"|<!--(?P<comment>.*?)(?P<comment_end>-->|\Z)"
    r"|<(?P<tag>[^<>]*)(?P<tag_end>>?)"
    r"|(?P<text>[^<]+)",
    re.DOTALL,
)
_XML_DECLARATION = re.compile(r"\?xml[\w\s.\"'=-]{0,100}\?", re.ASCII)
_TAG_NAME = re.compile(r"([/?!]?)([A-Za-z_][\w.:-]{0,100})(?=[\s/?]|\Z)", re.ASCII)
_ATTRIBUTE = re.compile(
    r"""([\w.:-]{0,100})(\s{0,10}=\s{0,10})("[^"]*"?|'[^']*'?|[^\s"'/>]+)""", re.ASCII
)
_HEADER_LINE = re.compile(r"([^:\s]{1,100})(\s{0,10}:\s{0,10})")


# Headers


def field(names: Pseudonyms, name: str, value: str) -> str:
    """The value of a header, whose name is in lower case."""
    if name in _SIZE_HEADERS and _SIZE.fullmatch(value):
        return value
    if name in _PLAIN_HEADERS:
        return names.anywhere(value)
    if name == "host":
        return names.host(value)
    if name in _URL_HEADERS:
        return names.url(value)
    if name.endswith("authorization"):
        return _credentials(names, value)
    if name in ("cookie", "set-cookie"):
        return _cookies(names, value, attributes=name == "set-cookie")
    if name in ("content-type", "content-disposition"):
        return _parameters(names, value, is_type=name == "content-type")
    return names.value(value, keep_for(name))


def _credentials(names: Pseudonyms, value: str) -> str:
    scheme, blank, secret = value.partition(" ")
    if not blank or not re.fullmatch("[A-Za-z]{1,16}", scheme):
        return names.value(value, Keep.NOTHING)
    if scheme.lower() in ("oauth", "digest") and not _PAIR.sub("", secret).strip(" ,\t"):
        return f"{scheme} {_PAIR.sub(lambda match: _credential(names, match), secret)}"
    with suppress(ValueError):
        for half in b64decode(secret, validate=True).decode().split(":", 1):
            names.value(half, Keep.NOTHING)
    return f"{scheme} {names.value(secret, Keep.NOTHING)}"


def _credential(names: Pseudonyms, match: re.Match[str]) -> str:
    keep = keep_for(match[1])
    core = match[3].strip('"')
    value = names.value(unquote(core), keep if keep is Keep.WORDS else Keep.NOTHING)
    return match[1] + match[2] + match[3].replace(core, value)


def _cookies(names: Pseudonyms, value: str, *, attributes: bool) -> str:
    return ";".join(_cookie(names, piece, attributes) for piece in value.split(";"))


def _cookie(names: Pseudonyms, piece: str, attributes: bool) -> str:
    name, equals, value = piece.partition("=")
    if not equals:
        return names.value(piece, Keep.WORDS if attributes else Keep.CONSTANTS)
    match name.strip().lower():
        case "domain" if attributes:
            host = value.lstrip(" .")
            value = value[: len(value) - len(host)] + names.host(host)
        case "path" if attributes:
            value = names.url(value)
        case "expires" | "max-age" | "samesite" if attributes:
            value = names.anywhere(value)
        case _:
            value = names.value(value, Keep.CONSTANTS)
    return f"{names.anywhere(name)}={value}"


def _parameters(names: Pseudonyms, value: str, *, is_type: bool) -> str:
    """A Content-Type or Content-Disposition with its parameters. A boundary stays as it is."""
    pieces: list[str] = []
    position = 0
    for match in _PARAMETER.finditer(value):
        before = value[position : match.start()]
        core = match[2].strip()
        if len(core) >= 2 and core[0] == core[-1] == '"':
            core = core[1:-1]
        kept = _parameter(names, match[1].lower().rstrip("*"), core, is_type)
        start = match.start(2) + match[2].index(core)
        pieces += [_beside(names, before), value[match.start() : start], kept]
        position = start + len(core)
    return "".join([*pieces, _beside(names, value[position:])])


def _parameter(names: Pseudonyms, name: str, value: str, is_type: bool) -> str:
    match name:
        case "boundary" if is_type:
            return value
        case "name" if not is_type:
            return names.value(value, Keep.WORDS)
        case "name" | "filename":
            return names.file(value)
        case _:
            return names.value(value)


def _beside(names: Pseudonyms, text: str) -> str:
    """What stands between parameters: the type, semicolons, quotes, or worse."""
    core = text.strip('"; \t\r\n')
    return text.replace(core, names.value(core, Keep.WORDS), 1) if core else text


def head(names: Pseudonyms, data: bytes) -> str:
    """The head of a part, in its spelling."""
    lines: list[str] = []
    name = ""
    for line in re.split(r"(\r?\n)", _header_text(data)):
        match = _HEADER_LINE.match(line)
        if match:
            name = match[1].lower()
            start = names.anywhere(match[1]) + match[2]
            lines.append(start + field(names, name, line[match.end() :]))
        elif line[:1] in (" ", "\t") and name:
            lines.append(field(names, name, line))
        else:
            lines.append(names.value(line, Keep.CONSTANTS))
    return "".join(lines)


def _header_text(head: bytes) -> str:
    for encoding in ("utf-8", "cp949"):
        with suppress(UnicodeDecodeError):
            return head.decode(encoding)
    return head.decode("latin-1")


# Texts


def readable(names: Pseudonyms, text: str) -> str:
    """The text of a body: XML, a form, fields line by line, or words."""
    if is_markup(text):
        return xml(names, text)
    if _FORM.fullmatch(text):
        return names.query(text)
    lines = text.split("\n")
    written = [line for line in lines if line.strip(_BRACKETS)]
    if all(_FIELD_LINE.match(line) for line in written) and (len(written) > 1 or "=" in text):
        return "\n".join(_field_line(names, line) for line in lines)
    return "\n".join(names.value(line, Keep.CONSTANTS) for line in lines)


def _field_line(names: Pseudonyms, line: str) -> str:
    match = _FIELD_LINE.match(line)
    if not match:  # nothing but brackets
        return line
    value = line[match.end() :]
    core = value.rstrip(_BRACKETS + "\"'")
    return match[0] + names.value(core, keep_for(match[2])) + value[len(core) :]


def is_markup(text: str) -> bool:
    """Does this begin as XML?"""
    return text.lstrip("\ufeff \t\r\n").startswith("<")


def xml(names: Pseudonyms, text: str) -> str:
    """XML, or almost: its structure stays, and of its values what says nothing of anybody."""
    path: list[str] = []

    def one(match: re.Match[str]) -> str:
        if (tag := match["tag"]) is not None:
            rewritten, opens = _tag(names, tag)
            if opens:
                path.append(opens)
            elif tag.startswith("/") and path:
                path.pop()
            return f"<{rewritten}{match['tag_end']}"
        keep = keep_for(path[-1]) if path else Keep.DEFAULT
        if (comment := match["comment"]) is not None:
            return f"<!--{names.value(comment, Keep.CONSTANTS)}{match['comment_end']}"
        if (cdata := match["cdata"]) is not None:
            return f"<![CDATA[{names.value(cdata, keep)}{match['cdata_end']}"
        return _escaped(names, match["text"], keep)

    return _MARKUP.sub(one, text)


def _tag(names: Pseudonyms, tag: str) -> tuple[str, str]:
    """What stands between `<` and `>`, and the name of the element if one begins here."""
    if _XML_DECLARATION.fullmatch(tag):
        return tag, ""
    begin = _TAG_NAME.match(tag)
    name = begin[2] if begin else ""
    pieces = [begin[1] + names.anywhere(name)] if begin else []
    position = begin.end() if begin else 0
    for match in _ATTRIBUTE.finditer(tag, position):
        pieces += [_between(names, tag[position : match.start()]), _attribute(names, name, match)]
        position = match.end()
    pieces.append(_between(names, tag[position:]))
    opens = name if begin and not begin[1] and not tag.endswith("/") else ""
    return "".join(pieces), opens


def _attribute(names: Pseudonyms, element: str, match: re.Match[str]) -> str:
    name, equals, quoted = match[1], match[2], match[3]
    mark = quoted[0] if quoted[0] in "\"'" else ""
    end = mark if mark and len(quoted) > 1 and quoted.endswith(mark) else ""
    value = quoted[len(mark) : len(quoted) - len(end)]
    if name.lower() == "resourceid" and "/" in value:
        new = names.url(value)
    elif name.lower().startswith("xmlns"):
        new = names.anywhere(value)
    else:
        new = _escaped(names, value, _keep_of(element, name))
    return f"{names.anywhere(name)}{equals}{mark}{new}{end}"


def _keep_of(element: str, attribute: str) -> Keep:
    """What may be kept of an attribute: what both names allow, or the one that tells choices."""
    own, outer = keep_for(attribute), keep_for(element)
    if own is Keep.WORDS:
        return Keep.CONSTANTS if outer is Keep.NOTHING else own
    return min(own, outer)


def _between(names: Pseudonyms, text: str) -> str:
    """What in a tag is no attribute."""
    core = text.strip("/? \t\r\n")
    return text.replace(core, names.value(core, Keep.CONSTANTS), 1) if core else text


def _escaped(names: Pseudonyms, raw: str, keep: Keep) -> str:
    """A value as XML writes it, as it was if it stays."""
    if raw == "\ufeff":
        return raw
    text = unescaped(raw)
    value = names.value(text, keep)
    return raw if value == text else escape(value, quote=False)

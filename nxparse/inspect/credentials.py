"""Hides credentials in requests that are stored or logged.

The values of headers, parameters, form fields, and XML elements and attributes are hidden if
their name is one for a user, password, key, token or signature. All other bytes are unchanged.
"""

from __future__ import annotations

import re

from nxparse.inspect.recorded import Headers

HIDDEN = "(hidden)"

# Parts of the names of secrets, and whole names for the user who logs in.
_SECRET = (
    r"pass|pwd|pin(?:code)?(?![a-z])|secret|token|key|cookie|nonce|signature|resourceid"
    r"|oauth_(?!version|signature_method)"
)
_USER = (
    r"(?:login)?(?:user|login|account|owner|people)[_-]?(?:name|id)?|e[_-]?mail(?:id)?"
    r"|session(?:[_-]?id)?"
)
_NAME = rf"(?:[\w.:-]{{0,40}}?(?:{_SECRET})[\w.:-]{{0,40}}|{_USER})"
_NAMED = re.compile(_NAME, re.IGNORECASE | re.ASCII)

_QUERY = re.compile(rf"([?&;]|\A)({_NAME})=[^&;#\s]*", re.IGNORECASE | re.ASCII)
_USER_INFO = re.compile(r"(?<=://)[^/?#\s]*@")

_BYTES = re.IGNORECASE | re.ASCII | re.DOTALL
_NAME_BYTES = _NAME.encode()
# The tag of a named element, with any ">" in its quotes, and the values in it.
_TAG = re.compile(
    rb"""<(%b)(?=[\s/>=]|\Z)(?:"[^"]*(?:"|\Z)|'[^']*(?:'|\Z)|[^"'>])*(?:>|\Z)""" % _NAME_BYTES,
    _BYTES,
)
_TAG_VALUE = re.compile(rb"""(=\s*)("[^"]+|'[^']+|(?:[^\s"'>/=]|/(?!>))+)""")
_ATTRIBUTE = re.compile(
    rb"""(?<![\w.:-])(%b\s{0,10}=\s{0,10})("[^"]+|'[^']+|[^\s"'<>/&]+)""" % _NAME_BYTES, _BYTES
)
_FORM = re.compile(rb"(?<![\w.%%+-])(%b=)()[^&\s]+" % _NAME_BYTES, _BYTES)
_FIELD = re.compile(
    rb"""(?<![\w.<-])(["']?%b["']?[ \t]{0,4}:[ \t]{0,4})("(?:[^"\\]|\\.)*|'[^']*|[^\s,}]+)"""
    % _NAME_BYTES,
    _BYTES,
)
_PART = re.compile(
    rb"""(name=["']?%b["']?[^\r\n]{0,100}\r?\n(?:[^\r\n]{1,200}\r?\n){0,5}\r?\n)"""
    rb"""(.*?)(?=\r?\n--|\Z)""" % _NAME_BYTES,
    _BYTES,
)
_WIDE = re.compile(rb"(?:[!-~]\0){8}|(?:\0[!-~]){8}")
_MULTIPART = re.compile(rb"\s{0,10}--")


def hide_in_headers(headers: Headers) -> Headers:
    """Hide credentials in headers."""
    return tuple((name, _header(name, value)) for name, value in headers)


def _header(name: str, value: str) -> str:
    if name.lower().endswith("authorization"):
        scheme, blank, _ = value.strip().partition(" ")
        return f"{scheme} {HIDDEN}" if blank else HIDDEN
    return HIDDEN if _NAMED.fullmatch(name) else hide_in_url(value)


def hide_in_url(url: str) -> str:
    """Hide credentials in a URL, or in a path with a query."""
    return _QUERY.sub(rf"\1\2={HIDDEN}", _USER_INFO.sub(f"{HIDDEN}@", url))


def hide_in_body(body: bytes) -> bytes:
    """Hide credentials in XML, a form, JSON, lines of `name: value`, or multipart."""
    if _WIDE.search(body):  # UTF-16
        return HIDDEN.encode()
    if _MULTIPART.match(body):
        body = _PART.sub(rb"\1" + HIDDEN.encode(), body)
    body = _elements(body)
    if body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return _ATTRIBUTE.sub(_hidden, body)
    return _FIELD.sub(_hidden, _FORM.sub(_hidden, body))


def _elements(body: bytes) -> bytes:
    """Hide the attributes and texts of named elements. The time is linear."""
    lowered = body.lower()
    pieces: list[bytes] = []
    position = 0
    last: dict[bytes, int] = {}  # offset of the last closing tag of each name
    while tag := _TAG.search(body, position):
        pieces += [body[position : tag.start()], _TAG_VALUE.sub(_hidden, tag[0])]
        position = tag.end()
        if tag[0].endswith(b"/>"):
            continue
        closing = b"</" + tag[1].lower()
        # Without a closing tag the text ends at the next tag. No failing search is repeated.
        if closing not in last:
            last[closing] = lowered.rfind(closing)
        if position <= last[closing]:
            end = lowered.find(closing, position)
        else:
            end = lowered.find(b"<", position)
            end = len(body) if end < 0 else end
        pieces.append(HIDDEN.encode() if end > position else b"")
        position = end
    return b"".join([*pieces, body[position:]])


def _hidden(match: re.Match[bytes]) -> bytes:
    quote = match[2][:1] if match[2][:1] in (b'"', b"'") else b""
    return match[1] + quote + HIDDEN.encode()

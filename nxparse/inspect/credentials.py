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
_FLAGS = re.IGNORECASE | re.ASCII | re.DOTALL

_NAMED = re.compile(_NAME, _FLAGS)
_USER_INFO = re.compile(r"(?<=://)[^/?#\s]*@")
# A value in quotes, without the second one. A quote can also be the first letter of a password.
_QUOTED = r"""(?:"[^"]*+|'[^']*+)(?=["'](?:[\s&]|[/?]?>|\Z)|\Z)"""
# name=value in a query, form or tag, and name: value in JSON or a line.
_PARAMETER = re.compile(
    rf"""(?<![\w.:-])({_NAME}\s{{0,10}}=\s{{0,10}})({_QUOTED}|[^&\s]+)""", _FLAGS
)
_FIELD = re.compile(
    rf"""(?<![\w.<-])(["']?{_NAME}["']?[ \t]{{0,4}}:[ \t]{{0,4}})"""
    r"""("(?:[^"\\]|\\.)*|'[^']*|[^\s,}]+)""",
    _FLAGS,
)
# A named element with its attributes, where quotes may contain ">", and its text.
_ELEMENT = re.compile(
    rf"""(<({_NAME})(?=[\s/>=]|\Z))((?:"[^"]*(?:"|\Z)|'[^']*(?:'|\Z)|[^"'>])*)"""
    r"(>?)((?<=[^/]>).*?(?=</\2|\Z))?",
    _FLAGS,
)
_ATTRIBUTE = re.compile(r"""(=\s*)("[^"]+|'[^']+|(?:[^\s"'=/]|/(?!\Z))+)""")
# The content of a named part of multipart/form-data.
_PART = re.compile(
    rf"""(name=["']?{_NAME}["']?[^\r\n]{{0,100}}\r?\n(?:[^\r\n]{{1,200}}\r?\n){{0,5}}\r?\n)"""
    r".*?(?=\r?\n--|\Z)",
    _FLAGS,
)
_WIDE = re.compile(rb"(?:[!-~]\0){8}|(?:\0[!-~]){8}")


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
    return _PARAMETER.sub(_hidden, _USER_INFO.sub(f"{HIDDEN}@", url))


def hide_in_body(body: bytes) -> bytes:
    """Hide credentials in XML, a form, JSON, lines of `name: value`, or multipart."""
    if _WIDE.search(body):  # UTF-16
        return HIDDEN.encode()
    text = body.decode("latin-1")
    if text.lstrip().startswith("--"):
        text = _PART.sub(rf"\1{HIDDEN}", text)
    text = _PARAMETER.sub(_hidden, _ELEMENT.sub(_hidden_element, text))
    return _FIELD.sub(_hidden, text).encode("latin-1")


def _hidden(match: re.Match[str]) -> str:
    quote = match[2][:1] if match[2][:1] in ('"', "'") else ""
    return match[1] + quote + HIDDEN


def _hidden_element(match: re.Match[str]) -> str:
    attributes = _ATTRIBUTE.sub(_hidden, match[3])
    return match[1] + attributes + match[4] + (HIDDEN if match[5] else "")

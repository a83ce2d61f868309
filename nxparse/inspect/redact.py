"""Redaction by allow-list, for reports that are made public.

The structure of a request or reply is printed: the names of headers, parameters, elements and
attributes, and the punctuation between them. A value is printed only if the allow-list for its
place has it: `login` for `Method`, for example. Any other value becomes a token with its kind,
length in characters, and keyed digest: `<digits 12 #a1b2c3>`. Equal values have equal tokens.
Without the key the digest reveals nothing about the value.
"""

from __future__ import annotations

import hmac
import html
import re
import secrets
from urllib.parse import unquote

from nxparse import filename
from nxparse.server import endpoints

MAX_NAME = 40  # characters

# The allow-list

_MODEL = (
    r"(?:samsung[ -])?(?:nx ?mini|(?:hmx-|smx-|ek-)?"
    r"(?:nx|wb|st|sh|ex|dv|mv|qf|pl|es|tl|cl|hz|gc)[0-9]{1,4}[a-z]?)"
)
_FILE = r"(?:sam|sdc|dsc|img|mov)_?[0-9]{1,7}\.(?:jpg|mp4|mov|avi|srw|mpo)|sample\.txt"
_CHARSET = r"utf-?8|utf-?16|us-ascii|iso-8859-1|euc-kr|ks_c_5601-1987|cp949|shift_jis|gb2312"
_LANGUAGE = r"[a-z]{2}(?:[-_][a-z]{2})?"
_WORDS = (
    r"\*|multipart|form-data|mixed|related|image|p?jpeg|jpg|gif|png|x-xbitmap|video|mp4|mpeg"
    r"|x-msvideo|text|xml|plain|html|application|json|octet-stream|soap\+xml|x-www-form-urlencoded"
    r"|msword|x-shockwave-flash|vnd\.ms-excel|vnd\.ms-powerpoint|gzip|deflate|chunked|binary|base64"
    rf"|close|keep-alive|no-cache|100-continue|{_CHARSET}"
)
_HOST = (
    r"\.?(?:[a-z-]{1,20}\.)?(?:samsung(?:osp|imaging|mobile)?\.com|ospserver\.net"
    r"|yahoo\.com|yahoo\.co\.kr|msn\.com)(?::[0-9]{1,5})?"
)
_SEGMENTS = {
    segment
    for row in endpoints.TABLE
    for segment in (*row.path.split("/"), *(row.arguments or ()))
    if segment.strip("*")
}
_URL = "|".join(["https?:", _HOST, *map(re.escape, _SEGMENTS)])
_URL_PLACES = ("url", "location", "content-location", "origin", "referer", "path", "resourceid")
# Names of headers, parameters, elements and attributes, in lower case and without x-, with the
# values that are printed there.
_VALUES = {
    "method": "login|logout|upload|download|get|head|put|post|delete|options|connect|list",
    "type": "APIF|SHA1|camera|photo|video|image|jpeg",
    "status": "succ|fail|ok|error",
    "errcode errsubcode": "[0-9]{1,4}",
    "version ver fw firmware fwversion firmwareversion osp-version oauth_version": (
        r"(?:v|HTTP/)?[0-9]{1,3}(?:\.[0-9]{1,3}){0,2}"
    ),
    "lang language locale accept-language": _LANGUAGE,
    "model modelname model_name prd_mdl_name device album": _MODEL,
    "file filename": _FILE,
    "user-agent": f"sdeClient|samsung|{_MODEL}",
    "encoding charset accept accept-charset accept-encoding cache-control connection"
    " content-disposition content-encoding content-transfer-encoding content-type expect"
    " pragma proxy-connection transfer-encoding": _WORDS,
    "authorization proxy-authorization": "OAuth|Basic|Digest|Bearer",
    "host hostaddr domain": _HOST,
    " ".join(_URL_PLACES): _URL,
}
_NAME = re.compile(
    rf"(?=.{{1,{MAX_NAME}}}\Z)[?/!]?(?:[A-Z]?[a-z]{{1,20}}|[A-Z]{{1,12}})"
    r"(?:[-_:]?(?:[A-Z]?[a-z]{1,20}|[A-Z]{1,12})){0,4}[0-9]{0,2}\*?"
)
_KNOWN = {
    name: re.compile(f"(?:{pattern})", re.IGNORECASE | re.ASCII)
    for names, pattern in _VALUES.items()
    for name in names.split()
}
_KNOWN["part name"] = _NAME

# Syntax

_KINDS = {
    "digits": re.compile(r"[0-9]+"),
    "ip": re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}"),
    "hex": re.compile(r"(?:0x)?[0-9a-f]{8,}", re.IGNORECASE),
    "address": re.compile(r"[^\s@<>]+@[^\s@<>]+"),
    "letters": re.compile(r"[A-Za-z]+"),
    "base64": re.compile(r"(?:[A-Za-z0-9+/_-]{4}){3,}(?:[A-Za-z0-9+/_-]{2,3}={1,2})?"),
}
_GENERIC = ("", "name", "value", "url")
_VALUE = re.compile(r"\S(?:.*\S)?", re.DOTALL)  # without the white space around it
# `name=value`, `name="value"`, or a word.
_PIECE = re.compile(
    r"""(?P<name>[\w.:-]{0,40}\*?)(?P<equals>\s{0,10}=\s{0,10})"""
    r"""(?P<value>"[^"]*"?|'[^']*'?|[^\s,;&?#"'=<>][^\s,;&?#"'<>]*|(?=&))"""
    r"""|(?P<word>[^\s,;&?#/"'<>()]+)""",
    re.ASCII,
)
_MARKUP = re.compile(
    r"(?P<begin><!\[CDATA\[|<!--)(?P<inside>.*?)(?P<end>\]\]>|-->|\Z)"
    r"|<(?P<tag>(?:[?/!]?[\w.:-]{0,100}(?=[\s/?=<>]|\Z))?)(?P<attributes>[^<>]*)(?P<tag_end>>?)"
    r"|(?P<text>[^<]+)",
    re.DOTALL | re.ASCII,
)


class Redactor:
    """Redacts with a random key. The methods return text that is safe to publish."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def file(self, data: bytes) -> str:
        """Return the token of a file: its media type, size in bytes, and digest."""
        return self._token(filename.sniff(data[: filename.HEAD]), len(data), data)

    def token(self, text: str) -> str:
        """Return the token of a value. Its digest is independent of case and escapes."""
        text = unquote(html.unescape(text))
        kind = next((kind for kind, looks in _KINDS.items() if looks.fullmatch(text)), "text")
        plain = " ".join(text.casefold().split())
        return self._token(kind, len(text), plain.encode("utf-8", "surrogatepass"))

    def _token(self, kind: str, length: int, data: bytes) -> str:
        digest = hmac.new(self._key, data, "sha256").digest()[:3]
        # Letters and digits alternate, so that no word and no number can appear by chance.
        mark = "".join("abcdef"[byte % 6] + str(byte // 6 % 10) for byte in digest)
        return f"<{kind} {length} #{mark}>"

    def name(self, text: str) -> str:
        """Return the name of a header, parameter, part, element or attribute if it is plain."""
        return text if not text or _NAME.fullmatch(text) else self.token(text)

    def value(self, place: str, text: str) -> str:
        """Return a value if it is known in this place, else a token. White space is kept."""
        place = place.lower().removeprefix("x-")

        def redact(match: re.Match[str]) -> str:
            known = _KNOWN.get(place)
            if known and known.fullmatch(match[0]):
                return match[0]
            if place in ("path", "resourceid") or match[0].startswith(("http://", "https://")):
                return self.url(match[0])
            return self.token(match[0])

        return _VALUE.sub(redact, text)

    def url(self, text: str) -> str:
        """Redact a URL, or a path, with or without a query."""
        # Before a query, "name=value" is a word: it may be private.
        path, mark, query = text.partition("?")
        words = re.sub("[^/]+", lambda match: self.value("url", match[0]), path)
        return words + mark + self._pieces(query)

    def header(self, name: str, value: str) -> str:
        """Redact the value of a header, a known one word by word."""
        name = name.lower()
        if name in _URL_PLACES:
            return self.url(value)
        if name not in _KNOWN and name not in ("cookie", "set-cookie"):
            return self.value(name, value)
        return self._pieces(value, name, "part name" if name == "content-disposition" else "")

    def _pieces(self, text: str, place: str = "", owner: str = "") -> str:
        """Redact words and parameters; `owner` is the place of those in _GENERIC."""

        def redact(match: re.Match[str]) -> str:
            if match["word"]:
                return self.value(place, match["word"])
            name, value = match["name"], match["value"]
            core = value.strip("\"'")
            shown = self.value(owner if name.lower() in _GENERIC else name, core)
            return f"{self.name(name)}{match['equals']}{value.replace(core, shown, 1)}"

        return _PIECE.sub(redact, text)

    def text(self, text: str, content_type: str = "") -> str:
        """Redact XML, a form, or plain text line by line."""
        if text.lstrip("\ufeff \t\r\n").startswith("<"):
            return self._xml(text)
        if "urlencoded" in content_type.lower():
            return self._pieces(text)
        return "\n".join(self.value("text", line) for line in text.split("\n"))

    def _xml(self, text: str) -> str:
        """Redact XML, well-formed or not, tag by tag. The place of a text is the tag before it."""
        place = "text"

        def redact(match: re.Match[str]) -> str:
            nonlocal place
            if match["begin"]:
                return match["begin"] + self.value(place, match["inside"]) + match["end"]
            if match["text"]:
                return self.value(place, match["text"])
            # Most cameras write <Element Value="..."/>: then the element is the place.
            place = match["tag"]
            attributes = self._pieces(match["attributes"], owner=place)
            return f"<{self.name(place)}{attributes}{match['tag_end']}"

        return _MARKUP.sub(redact, text)

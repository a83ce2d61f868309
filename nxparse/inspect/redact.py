"""Redaction by allow-list, for reports that are made public.

The structure of a request or reply is printed: the names of headers, parameters, elements and
attributes, and the punctuation between them. A value is printed only if the allow-list for its
place has it: a firmware's user agent for `User-Agent`, `login` for `Method`. Any other value
becomes a token with its kind, length in characters, and keyed digest: `<digits 12 #a1b2c3>`.
Equal values have equal tokens. Without the key the digest reveals nothing about the value.
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
_FILE = (
    r"(?:sam|sdc|dsc|dscf|img|mvi|mov|pict|p|pano|photo)[_-]?[0-9]{1,7}"
    r"\.(?:jpe?g|mp4|m4v|avi|mov|srw|mpo|png|gif|bmp|wav)|sample\.txt"
)
_MEDIA = (
    r"multipart/(?:form-data|mixed|related)|image/(?:\*|jpeg|pjpeg|jpg|gif|png|bmp|x-xbitmap)"
    r"|video/(?:mp4|mpeg|quicktime|x-msvideo|avi)|audio/(?:mpeg|wav)|text/(?:xml|plain|html|css)"
    r"|application/(?:octet-stream|xml|json|soap\+xml|xhtml\+xml|x-www-form-urlencoded|msword"
    r"|x-shockwave-flash|vnd\.ms-excel|vnd\.ms-powerpoint)|\*/\*|form-data|attachment"
)
_CHARSET = r"utf-?8|utf-?16|us-ascii|iso-8859-1|euc-kr|ks_c_5601-1987|cp949|shift_jis|gbk|gb2312"
# Names of headers, parameters, elements and attributes, in lower case and without x-, with the
# values that are printed there. Words of lists, and of the request line, are in the place `word`.
_VALUES = {
    "method": "login|logout|upload|download|get|put|post|list|check|auth|register",
    "type": "APIF|SHA1|camera|photo|video|image|jpeg",
    "status": "succ|fail|ok|error",
    "errcode errsubcode": "[0-9]{1,4}",
    "version ver fw firmware fwversion firmwareversion osp-version oauth_version": (
        r"v?[0-9]{1,3}(?:\.[0-9]{1,3}){0,2}"
    ),
    "lang language locale": "[a-z]{2}(?:[-_][a-z]{2})?",
    "model modelname model_name prd_mdl_name device album": _MODEL,
    "make manufacturer vendor": r"samsung(?: techwin)?(?: co\., ?ltd\.?)?",
    "file filename": _FILE,
    "user-agent": f"sdeClient|{_MODEL}",
    "server": "nginx|Apache",
    "encoding charset": _CHARSET,
    "content-length": "[0-9]{1,9}",
    "word": rf"{_MEDIA}|{_CHARSET}|gzip|deflate|identity|chunked|binary|base64|8bit|7bit|close"
    r"|keep-alive|no-cache|no-store|100-continue|bytes|trailers|h2c|websocket|html"
    r"|[a-z]{2}(?:-[a-z]{2})?|GET|HEAD|POST|PUT|DELETE|OPTIONS|CONNECT|HTTP/[0-9](?:\.[0-9])?"
    r"|OAuth|Basic|Digest|Bearer",
}
_KNOWN = {
    name: re.compile(f"(?:{pattern})", re.IGNORECASE | re.ASCII)
    for names, pattern in _VALUES.items()
    for name in names.split()
}
# Headers that are lists of words and parameters, or URLs, and places of URLs and hosts.
_LISTS = re.compile(
    r"accept(?:-.*)?|cache-control|(?:proxy-)?connection|expect|keep-alive|pragma|te|upgrade|vary"
    r"|(?:content-)?(?:transfer-)?encoding|cookie|set-cookie|content-(?:type|disposition)"
)
_URL_HEADERS = ("location", "content-location", "origin", "referer")
_URLS = ("path", "resourceid")
_HOSTS = ("host", "hostaddr", "domain")
_NAME = re.compile(
    r"[?/!]?(?:[A-Z]?[a-z]{1,20}|[A-Z]{1,12})(?:[-_:]?(?:[A-Z]?[a-z]{1,20}|[A-Z]{1,12})){0,4}"
    r"[0-9]{0,2}\*?"
)
# Labels of hosts and segments of paths may consist of these words: downloadUrlList, cn-api.
_WORDS = frozenset().union(
    re.findall(
        r"\S+",
        """
        account accounts album albums ap api apis apis2 app apps asp aspx auth auth2 authorize
        callback camera captive cgi check chn cn common config connectivitycheck customer data
        device devices dms dn dn2 do download eu event events feed file files firmware fota
        friends gateway get gld google graph host hotspot html http id image images index info
        init jsp json key kr list login logout m me media message messages model na new notice
        oauth online openapi osp page phub photo photos php picasaweb picture ping place pool post
        profile provider proxy put register request rest resource save search send server service
        session set settings share sign signin sns snsgw snsgateway start static status support
        svc sync test text time token txt up up2 update upload uploads url us user users v v1 v2
        version video videos web www xml
        """,
    ),
    *(re.findall("[a-z]+", row.path) for row in endpoints.TABLE),
    *(row.arguments or () for row in endpoints.TABLE),
)
_DOMAINS = re.findall(
    r"\S+",
    """
    samsungosp.com samsungimaging.com ospserver.net samsungmobile.com samsung.com yahoo.co.kr
    yahoo.com msn.com naver.com daum.net google.com gstatic.com facebook.com youtube.com
    googleapis.com photobucket.com flickr.com live.com dropbox.com cyworld.com me2day.net
    weibo.com renren.com vk.com kakao.com evernote.com apple.com ntp.org microsoft.com
    msftncsi.com example.com upnp.org w3.org xmlsoap.org
    """,
)

# Syntax

_KINDS = {
    "digits": re.compile(r"[0-9]+"),
    "ip": re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}"),
    "hex": re.compile(r"(?:0x)?[0-9a-f]{8,}", re.IGNORECASE),
    "address": re.compile(r"[^\s@<>]+@[^\s@<>]+"),
    "letters": re.compile(r"[A-Za-z]+"),
    "base64": re.compile(r"(?:[A-Za-z0-9+/_-]{4}){3,}(?:[A-Za-z0-9+/_-]{2,3}={1,2})?"),
}
_VALUE = re.compile(r"\S(?:.*\S)?", re.DOTALL)  # without the white space around it
_HOST = re.compile(
    rf"(.*\.|)((?:{'|'.join(map(re.escape, _DOMAINS))})\.?(?::[0-9]{{1,5}})?)",
    re.IGNORECASE | re.DOTALL,
)
_TARGET = re.compile(
    r"(?:(https?|ftp)://([^/?#]*@)?([^/?#]*))?([^?#]*)(.*)", re.IGNORECASE | re.DOTALL
)
_MARKUP = re.compile(
    r"(?P<begin><!\[CDATA\[|<!--)(?P<inside>.*?)(?P<end>\]\]>|-->|\Z)"
    r"|<(?P<tag>[^<>]*)(?P<tag_end>>?)"
    r"|(?P<text>[^<]+)",
    re.DOTALL,
)
_TAG_NAME = re.compile(r"[/?!]?[A-Za-z_][\w.:-]{0,100}(?=[\s/?=]|\Z)", re.ASCII)
_IN_TAG = re.compile(
    r"""([\w.:-]{0,100})(\s{0,10}=\s{0,10})("[^"]*"?|'[^']*'?|[^\s"'/>]+)|[^\s/?]+""", re.ASCII
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
        text = unquote(text)
        kind = next((kind for kind, looks in _KINDS.items() if looks.fullmatch(text)), "text")
        plain = " ".join(text.casefold().split())
        return self._token(kind, len(text), plain.encode("utf-8", "surrogatepass"))

    def _token(self, kind: str, length: int, data: bytes) -> str:
        digest = hmac.new(self._key, data, "sha256").digest()[:3]
        # Letters and digits alternate, so that no word and no number can appear by chance.
        mark = "".join("abcdef"[byte % 6] + str(byte // 6 % 10) for byte in digest)
        return f"<{kind} {length} #{mark}>"

    def value(self, place: str, text: str) -> str:
        """Return a value if it is known in this place, else a token. White space is kept."""
        place = place.lower().removeprefix("x-")
        return _VALUE.sub(lambda match: self._value(place, match[0]), text)

    def _value(self, place: str, text: str) -> str:
        known = _KNOWN.get(place)
        if known and known.fullmatch(text):
            return text
        if place in _HOSTS:
            return self.host(text)
        if place in _URLS or text.startswith(("http://", "https://")):
            return self.target(text)
        return self.token(text)

    def name(self, text: str) -> str:
        """Return the name of a header, parameter, part, element or attribute if it is plain."""

        def redact(match: re.Match[str]) -> str:
            is_plain = len(match[0]) <= MAX_NAME and _NAME.fullmatch(match[0])
            return match[0] if is_plain else self.token(match[0])

        return _VALUE.sub(redact, text)

    def host(self, text: str) -> str:
        """Redact a host, with or without a port. Labels within known domains can be known."""
        match = _HOST.fullmatch(text)
        return self._words(match[1], ".") + match[2] if match else self.token(text)

    def target(self, text: str) -> str:
        """Redact a URL, or a path with or without a query."""
        match = _TARGET.fullmatch(text)
        assert match  # the empty text matches, too
        scheme, user, host, path, query = match.groups()
        server = ""
        if scheme:
            user = f"{self.token(user[:-1])}@" if user else ""
            server = f"{scheme}://{user}{self.host(host)}"
        return server + self._words(path, "/") + self.pairs(query, "?&#")

    def _words(self, text: str, separator: str) -> str:
        """Redact the labels of a host, or the segments of a path."""

        def redact(match: re.Match[str]) -> str:
            words = re.split(r"[-_.]|(?<=[a-z])(?=[A-Z])", match[0])
            is_known = all(word.lower() in _WORDS for word in words)
            return match[0] if is_known else self.token(match[0])

        return re.sub(f"[^{separator}]+", redact, text)

    def pairs(self, text: str, separators: str, place: str = "") -> str:
        """Redact words and parameters, as in a query, a form, a cookie or the header `place`."""

        def redact(match: re.Match[str]) -> str:
            name, equals, value = match[0].partition("=")
            if not equals:
                return self.value("word", name)
            plain, core = name.strip().rstrip("*"), value.strip().strip('"')
            is_name = (place, plain.lower()) == ("content-disposition", "name")
            shown = self.name(core) if is_name else self.value(plain, core)
            return f"{self.name(name)}={value.replace(core, shown, 1)}"

        return re.sub(f"[^{separators}]+", redact, text)

    def header(self, name: str, value: str) -> str:
        """Redact the value of a header."""
        name = name.lower()
        if name.endswith("authorization"):
            scheme, blank, secret = value.partition(" ")
            has_pairs = scheme.lower() in ("oauth", "digest")
            shown = self.pairs(secret, ",") if has_pairs else self.value("", secret)
            return self.value("word", scheme) + blank + shown
        if _LISTS.fullmatch(name):
            return self.pairs(value, ",;", name)
        return self.target(value) if name in _URL_HEADERS else self.value(name, value)

    def text(self, text: str, content_type: str = "") -> str:
        """Redact XML, a form, or plain text line by line."""
        if text.lstrip("\ufeff \t\r\n").startswith("<"):
            return self.xml(text)
        if "urlencoded" in content_type.lower():
            return self.pairs(text, "&")
        return "\n".join(self.value("text", line) for line in text.split("\n"))

    def xml(self, text: str) -> str:
        """Redact XML, well-formed or not, tag by tag. The place of a text is the tag before it."""
        place = "text"

        def redact(match: re.Match[str]) -> str:
            nonlocal place
            if match["begin"]:
                return match["begin"] + self.value(place, match["inside"]) + match["end"]
            if match["text"]:
                return self.value(place, html.unescape(match["text"].strip("\ufeff")))
            found = _TAG_NAME.match(match["tag"])
            place = found[0] if found else ""
            inside = self._tag(place, match["tag"][len(place) :])
            return f"<{self.name(place)}{inside}{match['tag_end']}"

        return _MARKUP.sub(redact, text)

    def _tag(self, element: str, inside: str) -> str:
        """Redact the attributes in a tag of `element`, which may be empty."""

        def redact(match: re.Match[str]) -> str:
            name, equals, quoted = match.groups()
            if not equals:
                return self.value("word", match[0])
            # Most cameras write <Element Value="..."/>: then the element is the place.
            place = element if name.lower() in ("", "value", "name", "url") else name
            core = quoted.strip("\"'")
            shown = self.value(place, html.unescape(core))
            return f"{self.name(name)}{equals}{quoted.replace(core, shown, 1)}"

        return _IN_TAG.sub(redact, inside)

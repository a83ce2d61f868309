"""Redaction by allow-list, for reports that are made public.

The structure of a request or reply is printed: names of headers, parameters, elements and
attributes, and the punctuation between them. A value is printed only if the allow-list for its
place contains it: a firmware's user agent for `User-Agent`, `login` for `Method`. Any other value
becomes a token with its kind, length in characters, and keyed digest: `<digits 12 #a1b2c3>`.
Equal values have equal tokens, regardless of case and escapes. Without the key, which is not
kept, the digest reveals nothing about the value.
"""

from __future__ import annotations

import hmac
import html
import ipaddress
import re
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from urllib.parse import unquote

from nxparse.server import endpoints

MAX_NAME = 40  # characters


# The allow-list


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", text))


_MODEL = (
    r"(?:samsung[ -])?(?:nx ?mini|(?:hmx-|smx-|ek-)?"
    r"(?:nx|wb|st|sh|ex|dv|mv|qf|pl|es|tl|cl|hz|gc)[0-9]{1,4}[a-z]?)"
)
_TEXT = (
    r"(?:\[Samsung Smart Camera\] sent you files[.!]|Sent from Samsung Camera\.)?"
    r"(?:\s*language_sh100_(?:utf8|euckr))?"
)
_FILE = r"(?:sam|sdc|dsc|dscf|img|mvi|mov|pict|p|pano|photo)[_-]?[0-9]{1,7}"
_EXTENSION = r"\.(?:jpe?g|mp4|m4v|avi|mov|srw|mpo|png|gif|bmp|wav|txt|xml)"
_MEDIA = (
    r"multipart/(?:form-data|mixed|related)|image/(?:\*|jpeg|pjpeg|jpg|gif|png|bmp|x-xbitmap)"
    r"|video/(?:mp4|mpeg|quicktime|x-msvideo|avi)|audio/(?:mpeg|wav)|text/(?:xml|plain|html|css)"
    r"|application/(?:octet-stream|xml|json|soap\+xml|xhtml\+xml|x-www-form-urlencoded|msword"
    r"|x-shockwave-flash|vnd\.ms-excel|vnd\.ms-powerpoint)|\*/\*|form-data|attachment"
)
_CHARSET = r"utf-?8|utf-?16|us-ascii|iso-8859-1|euc-kr|ks_c_5601-1987|cp949|shift_jis|gbk|gb2312"
_BROWSER = (
    r"Mozilla/4\.0 \(compatible; MSIE 6\.0; Windows NT 5\.1; SV1; Mozilla/4\.0 \(compatible; "
    r"MSIE 6\.0; Windows NT 5\.1; SV1\) ; \.NET CLR 1\.1\.4322; InfoPath\.2; "
    r"\.NET CLR 2\.0\.50727\)"
)
# Names of headers, parameters, elements and attributes, in lower case and without x-, with the
# values that are printed there.
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
    "file filename": rf"{_FILE}{_EXTENSION}|sample\.txt",
    "title subject body content": _TEXT,
    "text": rf"{_TEXT}|YAHOO!|MSN|200 OK|Logged out for real!",
    "comment": "Login failed|Session expired|Nobody knows this path|Sender not in whitelist",
    "oauth_signature_method": "HMAC-?SHA1|PLAINTEXT|RSA-SHA1",
    "tncaccepted use verbose reset logined": "y|n|yes|no|true|false",
    "user-agent": rf"sdeClient|{_BROWSER}|{_MODEL}",
    "server": "nginx(?:/notreally)?|Apache",
    "etag": '"deadbeef"',
    "encoding charset": _CHARSET,
    "content-length": "[0-9]{1,9}",
    "content-transfer-encoding content-encoding": "binary|base64|8bit|7bit|gzip|identity",
    "samsung": "hotspot",  # a cookie
    "q": r"[01](?:\.[0-9]{1,3})?",
    "standalone": "yes|no",
    "xmlns": r"http://(?:www\.w3\.org|schemas\.xmlsoap\.org)/[a-z]{0,9}/?[0-9]{0,4}"
    r"|urn:schemas-upnp-org:(?:device|service):(?:MediaServer|ContentDirectory|Basic):[0-9]",
    "word": rf"{_MEDIA}|{_CHARSET}|gzip|deflate|identity|chunked|close|keep-alive|no-cache"
    r"|no-store|100-continue|bytes|\*|trailers|h2c|websocket|[a-z]{2}(?:-[a-z]{2})?|HttpOnly"
    r"|Secure|html",
    "reason": "|".join(re.escape(status.phrase) for status in HTTPStatus),
    "verb": "GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|CONNECT|TRACE|PROPFIND",
    "protocol": r"HTTP/[0-9](?:\.[0-9])?",
    "scheme": "https?|ftp|OAuth|Basic|Digest|Bearer",
}
_KNOWN = {
    name: re.compile(f"(?:{pattern})", re.IGNORECASE | re.ASCII)
    for names, pattern in _VALUES.items()
    for name in names.split()
}
# Headers that are lists of words and parameters, or URLs.
_LISTS = re.compile(
    r"accept(?:-.*)?|cache-control|(?:proxy-)?connection|expect|keep-alive|pragma|te|upgrade|vary"
    r"|transfer-encoding|cookie|set-cookie|content-(?:type|disposition)"
)
_URLS = re.compile(r"(?:content-)?location|origin|referer")
_NAME = re.compile(
    r"[?/!]?(?:[A-Z]?[a-z]{1,20}|[A-Z]{1,12})(?:[-_:]?(?:[A-Z]?[a-z]{1,20}|[A-Z]{1,12})){0,4}"
    r"[0-9]{0,2}"
)
# A segment of a path may consist of several of these words: downloadUrlList.do.
_SEGMENTS = _words(" ".join(row.path for row in endpoints.TABLE)) | _words(
    """
    account accounts album albums api app apps asp aspx auth authorize callback camera cgi check
    common config customer data device devices do download event events feed file files firmware
    friends gateway get google host html http id image images index info init jsp json key list
    login logout me media message messages model new notice oauth online osp page photo photos php
    picture ping place post profile provider proxy put register request rest resource save search
    send server service session set settings share sign signin snsgateway start status support
    sync test text time token txt update upload uploads url user users v version video videos web
    xml
    """
)
_SITES = frozenset().union(*(row.arguments or () for row in endpoints.TABLE))
_DOMAINS = re.findall(
    r"\S+",
    """
    samsungosp.com samsungimaging.com ospserver.net samsungmobile.com samsung.com yahoo.co.kr
    yahoo.com msn.com naver.com daum.net google.com gstatic.com facebook.com youtube.com
    googleapis.com photobucket.com flickr.com live.com dropbox.com cyworld.com me2day.net
    weibo.com renren.com vk.com kakao.com evernote.com apple.com ntp.org microsoft.com
    msftncsi.com example.com
    """,
)
_LABELS = _words(
    """
    ap api apis api2 auth auth2 captive chn cn connectivitycheck dms dn dn2 eu fota gld graph
    hotspot id kr login m na openapi phub photo photos picasaweb pool sns snsgw static svc time up
    up2 upload us video www
    """
)

# Syntax

_KINDS = {
    "digits": re.compile(r"[0-9]+"),
    "mac": re.compile(r"[0-9a-f]{2}(?:[:._-][0-9a-f]{2}){5}", re.IGNORECASE),
    "hex": re.compile(r"(?:0x)?[0-9a-f]{8,}", re.IGNORECASE),
    "address": re.compile(r"[^\s@<>]+@[^\s@<>]+"),
    "letters": re.compile(r"[A-Za-z]+"),
    "base64": re.compile(r"(?:[A-Za-z0-9+/_-]{4}){3,}(?:[A-Za-z0-9+/_-]{2,3}={1,2})?"),
    "alnum": re.compile(r"[A-Za-z0-9]+"),
}
_URL = re.compile(r"(https?|ftp)://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(r"(\.?)(.*?)(\.?(?::[0-9]{1,5})?)", re.DOTALL)
_SEGMENT = re.compile(r"(?:[A-Za-z._-]+|v[0-9]{1,2})")
_PIECE = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_HEADER_LINE = re.compile(r"([^:\s]{1,100})(\s{0,10}:\s{0,10})(.*)", re.DOTALL)
_FORM = re.compile(r"[\w.%+-]{1,60}=[^&\s]*(?:&[\w.%+-]{1,60}=[^&\s]*)*\s{0,4}")
_MARKUP = re.compile(
    r"(?P<open><!\[CDATA\[)(?P<cdata>.*?)(?P<cdata_end>\]\]>|\Z)"
    r"|<!--(?P<comment>.*?)(?P<comment_end>-->|\Z)"
    r"|<(?P<tag>[^<>]*)(?P<tag_end>>?)"
    r"|(?P<text>[^<]+)",
    re.DOTALL,
)
_TAG_NAME = re.compile(r"[/?!]?[A-Za-z_][\w.:-]{0,100}(?=[\s/?=]|\Z)", re.ASCII)
_IN_TAG = re.compile(
    r"""([\w.:-]{0,100})(\s{0,10}=\s{0,10})("[^"]*"?|'[^']*'?|[^\s"'/>]+)|[^\s/?]+""", re.ASCII
)


class Redactor:
    """Redacts with one key. The methods return text that is safe to publish."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._special: dict[str, Callable[[str], str]] = {
            **dict.fromkeys(("host", "hostaddr", "domain"), self.host),
            **dict.fromkeys(("path", "resourceid"), self.target),
            **dict.fromkeys(("file", "filename"), self._file),
            "boundary": self._boundary,
        }

    def digest(self, data: bytes | memoryview) -> str:
        """The keyed digest of a file, 16 hexadecimal digits."""
        return hmac.new(self._key, data, "sha256").hexdigest()[:16]

    def token(self, text: str, kind: str = "") -> str:
        """Kind, length and digest of a value."""
        plain = unquote(text)
        data = " ".join(plain.casefold().split()).encode("utf-8", "surrogatepass")
        mark = hmac.new(self._key, data, "sha256").digest()[:3]
        # Letters and digits alternate, so that no word and no number can appear by chance.
        short = "".join("abcdef"[byte % 6] + str(byte // 6 % 10) for byte in mark)
        note = "" if plain == text else ", percent-encoded"
        return f"<{kind or _kind(plain)} {len(plain)} #{short}{note}>"

    def value(self, place: str, text: str) -> str:
        """Return a value if it is known in this place, else a token. White space is kept."""
        core = text.strip()
        if not core:
            return text if len(text) <= MAX_NAME else " "
        place = place.lower().removeprefix("x-")
        known = _KNOWN.get(place)
        if known and known.fullmatch(core):
            shown = core
        else:
            other = self.target if _URL.fullmatch(core) else self.token
            shown = self._special.get(place, other)(core)
        before, _, after = text.partition(core)
        return f"{before[:MAX_NAME]}{shown}{after[:MAX_NAME]}"

    def name(self, text: str) -> str:
        """Return the name of a header, parameter, part, element or attribute if it is plain."""
        plain = len(text) <= MAX_NAME and _NAME.fullmatch(text)
        return text if plain or not text.strip() else self.token(text)

    def host(self, text: str) -> str:
        """Redact a host, with or without a port. Labels within known domains can be known."""
        if _kind(text) == "ip":
            return self.token(text)
        match = _HOST.fullmatch(text)
        assert match
        dot, name, end = match.groups()
        domain = next((one for one in _DOMAINS if f".{name}".lower().endswith(f".{one}")), "")
        if _kind(name.strip("[]")) == "ip":
            shown = self.token(name, "ip")
        elif not domain:
            shown = self.token(name, f"host of {name.count('.') + 1} labels")
        else:
            labels = name.split(".")
            known = len(labels) - domain.count(".") - 1
            for i, label in enumerate(labels[:known]):
                if not _LABELS.issuperset(label.lower().split("-")):
                    labels[i] = self.token(label)
            shown = ".".join(labels)
        return f"{dot}{shown}{end}"

    def target(self, text: str) -> str:
        """Redact a URL, or a path with or without a query."""
        if url := _URL.fullmatch(text):
            user, at, host = url[2].rpartition("@")
            user = self.token(user) if at else ""
            return f"{url[1]}://{user}{at}{self.host(host) if host else ''}{self.target(url[3])}"
        rest, mark, fragment = text.partition("#")
        path, question, query = rest.partition("?")
        steps = "/".join(one if _is_known(one) else self.token(one) for one in path.split("/"))
        fragment = self.token(fragment) if fragment else ""
        return f"{steps}{question}{self.pairs(query, '&')}{mark}{fragment}"

    def _file(self, text: str) -> str:
        found = re.search(_EXTENSION + r"\Z", text, re.IGNORECASE)
        return self.token(text, "name") + (found[0].lower() if found else "")

    def _boundary(self, text: str) -> str:
        rest = text.lstrip("-")
        return text.removesuffix(rest)[:MAX_NAME] + (self.token(rest) if rest else "")

    def pairs(self, text: str, separators: str, place: str = "") -> str:
        """Redact words and parameters, as in a query, a form, a cookie or the header `place`."""
        pieces = re.split(rf"([{separators}]\s{{0,4}})", text)
        pieces[::2] = [self._pair(piece, place) for piece in pieces[::2]]
        return "".join(pieces)

    def _pair(self, piece: str, place: str) -> str:
        name, equals, value = piece.partition("=")
        if not equals:
            return self.value("word", piece)
        name, value = name.strip(), value.strip()
        quote = '"' if value[:1] == '"' else ""
        core, plain = value.strip('"'), name.rstrip("*")
        is_name = (place, plain.lower()) == ("content-disposition", "name")
        shown = self.name(core) if is_name else self.value(plain, core)
        return f"{self.name(plain)}{'*' * (plain != name)}={quote}{shown}{quote}"

    def header(self, name: str, value: str) -> str:
        """Redact the value of a header."""
        name = name.lower()
        if name.endswith("authorization"):
            scheme, blank, secret = value.partition(" ")
            if not blank or not _KNOWN["scheme"].fullmatch(scheme):
                return self.token(value)
            has_pairs = scheme.lower() in ("oauth", "digest")
            return f"{scheme} {self.pairs(secret, ',') if has_pairs else self.token(secret)}"
        if _LISTS.fullmatch(name):
            return self.pairs(value, ",;", name)
        return self.target(value) if _URLS.fullmatch(name) else self.value(name, value)

    def head(self, data: bytes) -> str:
        """Redact the head of a part, in its spelling."""
        lines: list[str] = []
        name = ""
        for line in re.split(r"(\r?\n)", data.decode("utf-8", "surrogateescape")):
            if match := _HEADER_LINE.match(line):
                name = match[1]
                lines.append(f"{self.name(name)}{match[2]}{self.header(name, match[3])}")
            elif line[:1] in (" ", "\t"):
                core = line.lstrip(" \t")
                lines.append(line.removesuffix(core)[:MAX_NAME] + self.header(name, core))
            else:
                lines.append(self.value("", line))
        return "".join(lines)

    def text(self, text: str) -> str:
        """Redact XML, a form, or plain text."""
        if is_markup(text):
            return self.xml(text)
        return self.pairs(text, "&") if _FORM.fullmatch(text) else self.lines(text)

    def lines(self, text: str) -> str:
        """Redact plain text, line by line."""
        return "\n".join(self.value("text", line) for line in text.split("\n"))

    def xml(self, text: str) -> str:
        """Redact XML, well-formed or not, tag by tag."""
        path: list[str] = []

        def redact(match: re.Match[str]) -> str:
            place = path[-1] if path else "text"
            if (tag := match["tag"]) is not None:
                name = found[0] if (found := _TAG_NAME.match(tag)) else ""
                if tag.startswith("/"):
                    del path[-1:]
                elif name and name[0] not in "?!" and not tag.endswith("/"):
                    path.append(name)
                return f"<{self._tag(name, tag)}{match['tag_end']}"
            if (comment := match["comment"]) is not None:
                return f"<!--{self.value('comment', comment)}{match['comment_end']}"
            if match["open"]:
                return f"{match['open']}{self.value(place, match['cdata'])}{match['cdata_end']}"
            return self.value(place, html.unescape(match["text"].strip("\ufeff")))

        return _MARKUP.sub(redact, text)

    def _tag(self, element: str, tag: str) -> str:
        """Redact the inside of a tag of `element`, which may be empty."""

        def redact(match: re.Match[str]) -> str:
            name, equals, quoted = match.groups()
            if not equals:
                return self.value("word", match[0])
            quote = quoted[0] if quoted[0] in "\"'" else ""
            end = quote if len(quoted) > 1 and quoted.endswith(quote) else ""
            core = html.unescape(quoted[len(quote) : len(quoted) - len(end)])
            # Most cameras write <Element Value="..."/>: then the element is the place.
            place = element if name.lower() in ("", "value", "name", "url") else name
            place = "xmlns" if name.lower().startswith("xmlns") else place
            return f"{self.name(name)}{equals}{quote}{self.value(place, core)}{end}"

        return self.name(element) + _IN_TAG.sub(redact, tag[len(element) :])


def is_markup(text: str) -> bool:
    """Does this begin as XML?"""
    return text.lstrip("\ufeff \t\r\n").startswith("<")


def _is_known(segment: str) -> bool:
    """Is this a segment of a path that says nothing about a user?"""
    if not segment or segment in _SITES:
        return True
    pieces = _PIECE.findall(segment)
    return bool(_SEGMENT.fullmatch(segment)) and all(one.lower() in _SEGMENTS for one in pieces)


def _kind(text: str) -> str:
    with suppress(ValueError):
        ipaddress.ip_address(text[:80])
        return "ip"
    return next((kind for kind, looks in _KINDS.items() if looks.fullmatch(text)), "text")

"""Redaction by allow-list, for reports that are made public.

The structure of a request or reply is printed: names of headers, parameters, elements and
attributes, and the marks between them. A value is printed only if the allow-list for its place
knows it: the user agent of a firmware for `User-Agent`, `login` for `Method`. Any other value
becomes a token with its kind, its length in characters, and a keyed digest:
`<digits 12 #a1b2c3>`. Equal values have equal tokens, however they are capitalized or escaped.
Without the key, which is not kept, the digest says nothing about the value.
"""

from __future__ import annotations

import hmac
import html
import ipaddress
import re
from contextlib import suppress
from http import HTTPStatus
from urllib.parse import unquote

from nxparse.server import endpoints

MAX_NAME = 40  # characters


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", text))


_NAME = re.compile(
    r"[?/!]?(?:[A-Z]?[a-z]{1,20}|[A-Z]{1,12})(?:[-_:]?(?:[A-Z]?[a-z]{1,20}|[A-Z]{1,12})){0,4}"
    r"[0-9]{0,2}"
)
_MODEL = (
    r"(?:samsung[ -])?(?:nx ?mini|(?:hmx-|smx-|ek-)?"
    r"(?:nx|wb|st|sh|ex|dv|mv|qf|pl|es|tl|cl|hz|gc)[0-9]{1,4}[a-z]?)"
)
_FACTORY = r"\[Samsung Smart Camera\] sent you files[.!]|Sent from Samsung Camera\."
_CAMERA_FILE = r"(?:sam|sdc|dsc|dscf|img|mvi|mov|pict|p|pano|photo)[_-]?[0-9]{1,7}"
_EXTENSION = r"\.(?:jpe?g|mp4|m4v|avi|mov|srw|mpo|png|gif|bmp|wav|txt|xml)"
_MEDIA = (
    r"(?:multipart/(?:form-data|mixed|related)|image/(?:\*|jpeg|pjpeg|jpg|gif|png|bmp|x-xbitmap)"
    r"|video/(?:mp4|mpeg|quicktime|x-msvideo|avi)|audio/(?:mpeg|wav)|text/(?:xml|plain|html|css)"
    r"|application/(?:octet-stream|xml|json|soap\+xml|xhtml\+xml|x-www-form-urlencoded|msword"
    r"|x-shockwave-flash|vnd\.ms-excel|vnd\.ms-powerpoint)|\*/\*|form-data|attachment)"
)
_CHARSET = r"utf-?8|utf-?16|us-ascii|iso-8859-1|euc-kr|ks_c_5601-1987|cp949|shift_jis|gbk|gb2312"
_VERSION = r"v?[0-9]{1,3}(?:\.[0-9]{1,3}){0,2}"
_BROWSER = (
    r"Mozilla/4\.0 \(compatible; MSIE 6\.0; Windows NT 5\.1; SV1; Mozilla/4\.0 \(compatible; "
    r"MSIE 6\.0; Windows NT 5\.1; SV1\) ; \.NET CLR 1\.1\.4322; InfoPath\.2; "
    r"\.NET CLR 2\.0\.50727\)"
)
# The names of places, in lower case and without x-, and what is printed there.
_PLACES = {
    "method": "login|logout|upload|download|get|put|post|list|check|auth|register",
    "type": "APIF|SHA1|camera|photo|video|image|jpeg",
    "status": "succ|fail|ok|error",
    "errcode errsubcode": "[0-9]{1,4}",
    "version ver fw firmware fwversion firmwareversion osp-version oauth_version": _VERSION,
    "lang language locale": "[a-z]{2}(?:[-_][a-z]{2})?",
    "model modelname model_name prd_mdl_name device album": _MODEL,
    "make manufacturer vendor": r"samsung(?: techwin)?(?: co\., ?ltd\.?)?",
    "file filename": rf"{_CAMERA_FILE}{_EXTENSION}|sample\.txt",
    "title subject body content": rf"(?:{_FACTORY})?(?:\s*language_sh100_(?:utf8|euckr))?",
    "oauth_signature_method": "HMAC-?SHA1|PLAINTEXT|RSA-SHA1",
    "tncaccepted use verbose reset logined": "y|n|yes|no|true|false",
    "user-agent": rf"sdeClient|{_BROWSER}|{_MODEL}",
    "server": "nginx(?:/notreally)?|Apache",
    "etag": '"deadbeef"',
    "encoding charset": _CHARSET,
    "content-length": "[0-9]{1,9}",
    "content-transfer-encoding content-encoding": "binary|base64|8bit|7bit|gzip|identity",
    "samsung": "hotspot",  # the cookie
    "word": rf"{_MEDIA}|{_CHARSET}|gzip|deflate|identity|chunked|close|keep-alive|no-cache"
    r"|no-store|100-continue|bytes|\*|trailers|h2c|websocket|[a-z]{2}(?:-[a-z]{2})?|HttpOnly"
    r"|Secure|html",
    "=number": r"[0-9]{1,5}|[01]\.[0-9]{1,3}",
    "standalone": "yes|no",
    "xmlns": r"http://(?:www\.w3\.org|schemas\.xmlsoap\.org)/[a-z]{0,9}/?[0-9]{0,4}"
    r"|urn:schemas-upnp-org:(?:device|service):(?:MediaServer|ContentDirectory|Basic):[0-9]",
    "text": r"YAHOO!|MSN|200 OK|Logged out for real!",
    "comment": "(?:Login failed|Session expired|Nobody knows this path|Sender not in whitelist)",
    "reason": "|".join(re.escape(status.phrase) for status in HTTPStatus),
    "verb": "GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|CONNECT|TRACE|PROPFIND",
    "protocol": r"HTTP/[0-9](?:\.[0-9])?",
    "scheme": "https?|ftp|OAuth|Basic|Digest|Bearer",
}
_KNOWN = {
    name: re.compile(pattern, re.IGNORECASE | re.ASCII)
    for names, pattern in _PLACES.items()
    for name in names.split()
}
# Headers that are lists of words and parameters.
_LISTS = re.compile(
    r"accept(?:-charset|-encoding|-language|-ranges)?|cache-control|(?:proxy-)?connection|expect"
    r"|keep-alive|pragma|te|transfer-encoding|upgrade|vary|cookie|set-cookie"
    r"|content-(?:type|disposition)"
)
# Steps of a path. A step may consist of several: downloadUrlList.do.
_STEPS = _words(" ".join(row.path for row in endpoints.TABLE)) | _words(
    """
    account accounts album albums api app apps asp aspx auth authorize callback camera cgi
    check common config customer data device devices do download event events feed file files
    firmware friends gateway get google host html http id image images index info init jsp
    json key list login logout me media message messages model new notice oauth online osp
    page photo photos php picture ping place post profile provider proxy put register request
    rest resource save search send server service session set settings share sign signin
    snsgateway start status support sync test text time token txt update upload uploads url
    user users v version video videos web xml
    """
)
_SITES = frozenset().union(*(row.arguments or () for row in endpoints.TABLE))
_PIECE = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+|[._-]")
_STEP = re.compile(r"(?:[A-Za-z._-]+|v[0-9]{1,2})")
_DOMAINS = (
    *("samsungosp.com", "samsungimaging.com", "ospserver.net", "samsungmobile.com", "samsung.com"),
    *("yahoo.co.kr", "yahoo.com", "msn.com", "naver.com", "daum.net", "google.com", "gstatic.com"),
    *("facebook.com", "youtube.com", "googleapis.com", "photobucket.com", "flickr.com", "live.com"),
    *("dropbox.com", "cyworld.com", "me2day.net", "weibo.com", "renren.com", "vk.com", "kakao.com"),
    *("evernote.com", "apple.com", "ntp.org", "microsoft.com", "msftncsi.com", "example.com"),
)
_LABELS = _words(
    """
    ap api apis api2 auth auth2 captive chn cn connectivitycheck dms dn dn2 eu fota gld graph
    hotspot id kr login m na openapi phub photo photos picasaweb pool sns snsgw static svc
    time up up2 upload us video www
    """
)
_URL = re.compile(r"(https?|ftp)://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)

_KINDS = {
    "digits": re.compile(r"[0-9]+"),
    "mac": re.compile(r"[0-9a-f]{2}(?:[:._-][0-9a-f]{2}){5}", re.IGNORECASE),
    "hex": re.compile(r"(?:0x)?[0-9a-f]{8,}", re.IGNORECASE),
    "address": re.compile(r"[^\s@<>]+@[^\s@<>]+"),
    "letters": re.compile(r"[A-Za-z]+"),
    "base64": re.compile(r"(?:[A-Za-z0-9+/_-]{4}){3,}(?:[A-Za-z0-9+/_-]{2,3}={1,2})?"),
    "alnum": re.compile(r"[A-Za-z0-9]+"),
}

_HEADER_LINE = re.compile(r"([^:\s]{1,100})(\s{0,10}:\s{0,10})(.*)", re.DOTALL)
_FORM = re.compile(r"[\w.%+-]{1,60}=[^&\s]*(?:&[\w.%+-]{1,60}=[^&\s]*)*\s{0,4}")
_JSON = re.compile(r'("(?:[^"\\]|\\.)*"?)(\s*:)?|[^\s{}\[\],:"]+', re.DOTALL)
_MARKUP = re.compile(
    r"<!\[CDATA\[(?P<cdata>.*?)(?P<cdata_end>\]\]>|\Z)"
    r"|<!--(?P<comment>.*?)(?P<comment_end>-->|\Z)"
    r"|<(?P<tag>[^<>]*)(?P<tag_end>>?)"
    r"|(?P<text>[^<]+)",
    re.DOTALL,
)
_TAG_NAME = re.compile(r"[/?!]?[A-Za-z_][\w.:-]{0,100}(?=[\s/?=]|\Z)", re.ASCII)
_ATTRIBUTE = re.compile(
    r"""([\w.:-]{0,100})(\s{0,10}=\s{0,10})("[^"]*"?|'[^']*'?|[^\s"'/>]+)""", re.ASCII
)


class Redactor:
    """Redacts with one key; methods return text that is safe to publish."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def digest(self, data: bytes | memoryview) -> str:
        """The keyed digest of a file, 16 hexadecimal digits."""
        return hmac.new(self._key, data, "sha256").hexdigest()[:16]

    def token(self, text: str, kind: str = "") -> str:
        """Kind, length and digest of a value."""
        plain = unquote(text)
        data = " ".join(plain.casefold().split()).encode("utf-8", "surrogatepass")
        mark = hmac.new(self._key, data, "sha256").digest()[:3]
        # Letters and digits in turn: no word and no number is ever spelled by chance.
        short = "".join("abcdef"[byte % 6] + str(byte // 6 % 10) for byte in mark)
        note = "" if plain == text else ", percent-encoded"
        return f"<{kind or _kind(plain)} {len(plain)} #{short}{note}>"

    def value(self, place: str, text: str) -> str:
        """A value, if it is known in the place of this name; white space around it is kept."""
        core = text.strip()
        if not core:
            return text if len(text) <= MAX_NAME else " "
        place = place.lower().removeprefix("x-")
        known = _KNOWN.get(place)
        if known and known.fullmatch(core):
            shown = core
        elif place in ("host", "hostaddr", "domain"):
            shown = self.host(core)
        elif place in ("path", "resourceid"):
            shown = self.target(core)
        elif place == "boundary":
            rest = core.lstrip("-")
            shown = core.removesuffix(rest)[:MAX_NAME] + (self.token(rest) if rest else "")
        elif place in ("file", "filename"):
            found = re.search(_EXTENSION + r"\Z", core, re.IGNORECASE)
            shown = self.token(core, "name") + (found[0].lower() if found else "")
        else:
            shown = self.target(core) if _URL.fullmatch(core) else self.token(core)
        start = text.index(core)
        before, after = text[:start], text[start + len(core) :]
        return f"{before[:MAX_NAME]}{shown}{after[:MAX_NAME]}"

    def name(self, text: str) -> str:
        """The name of a header, parameter, part, element or attribute, if it is a plain one."""
        plain = len(text) <= MAX_NAME and _NAME.fullmatch(text)
        return text if plain or not text.strip() else self.token(text)

    def host(self, text: str) -> str:
        """A host, perhaps with a port. Known are our own, and labels within known domains."""
        if _kind(text) == "ip":
            return self.token(text)
        match = re.fullmatch(r"(\.?)(.*?)(\.?(?::[0-9]{1,5})?)", text, re.DOTALL)
        assert match
        name = match[2].lower()
        if _kind(name.strip("[]")) == "ip":
            return f"{self.token(match[2], 'ip')}{match[3]}"
        domain = next((one for one in _DOMAINS if f".{name}".endswith(f".{one}")), "")
        if not domain:
            kind = f"host of {name.count('.') + 1} labels"
            return f"{match[1]}{self.token(match[2], kind)}{match[3]}"
        labels = match[2].split(".")[: -domain.count(".") - 1]
        shown = [
            one if _LABELS.issuperset(one.lower().split("-")) else self.token(one) for one in labels
        ]
        return f"{match[1]}{'.'.join([*shown, match[2][-len(domain) :]])}{match[3]}"

    def target(self, text: str) -> str:
        """A URL, or a path with what may follow it."""
        if url := _URL.fullmatch(text):
            user, at, host = url[2].rpartition("@")
            user = self.token(user) if at else ""
            return f"{url[1]}://{user}{at}{self.host(host) if host else ''}{self.target(url[3])}"
        rest, mark, fragment = text.partition("#")
        path, question, query = rest.partition("?")
        steps = "/".join(one if _is_step(one) else self.token(one) for one in path.split("/"))
        fragment = self.token(fragment) if fragment else ""
        return f"{steps}{question}{self.pairs(query, '&')}{mark}{fragment}"

    def pairs(self, text: str, separator: str, place: str = "") -> str:
        """Words and parameters, as in a query, a cookie or a header named `place`."""
        pieces = re.split(rf"([{separator}]\s{{0,4}})", text)
        pieces[::2] = [self._pair(piece, place) for piece in pieces[::2]]
        return "".join(pieces)

    def _pair(self, piece: str, place: str) -> str:
        name, equals, value = piece.partition("=")
        if not equals:
            return self.value("word", piece)
        name, value = name.strip(), value.strip()
        quote = '"' if value[:1] == '"' else ""
        core = value.strip('"')
        plain = name.lower().rstrip("*")
        if (place, plain) == ("content-disposition", "name"):
            shown = self.name(core)
        elif (place, plain) == ("content-type", "name"):
            shown = self.value("filename", core)
        elif place.startswith(("accept", "cache-", "keep-")):
            shown = self.value("=number", core)
        else:
            shown = self.value(plain, core)
        star = "*" if name.endswith("*") else ""
        return f"{self.name(name.rstrip('*'))}{star}={quote}{shown}{quote}"

    def header(self, name: str, value: str) -> str:
        """The value of a header of this name."""
        name = name.lower()
        if _LISTS.fullmatch(name):
            return self.pairs(value, ",;", name)
        if name.endswith("authorization"):
            scheme, blank, secret = value.partition(" ")
            if not blank or not _KNOWN["scheme"].fullmatch(scheme):
                return self.token(value)
            is_pairs = scheme.lower() in ("oauth", "digest")
            return f"{scheme} {self.pairs(secret, ',') if is_pairs else self.token(secret)}"
        if name in ("content-location", "location", "origin", "referer"):
            return self.target(value)
        return self.value(name, value)

    def head(self, data: bytes) -> str:
        """The head of a part, in its spelling."""
        text = data.decode("latin-1")
        for encoding in ("cp949", "utf-8"):
            with suppress(UnicodeDecodeError):
                text = data.decode(encoding)
        lines: list[str] = []
        name = ""
        for line in re.split(r"(\r?\n)", text):
            if match := _HEADER_LINE.match(line):
                name = match[1]
                lines.append(f"{self.name(name)}{match[2]}{self.header(name, match[3])}")
            elif line[:1] in (" ", "\t"):
                core = line.lstrip(" \t")
                lines.append(line[: len(line) - len(core)][:MAX_NAME] + self.header(name, core))
            else:
                lines.append(self.value("", line))
        return "".join(lines)

    def text(self, text: str) -> str:
        """The text of a body: XML, JSON, a form, or words."""
        if is_markup(text):
            return self.xml(text)
        if text.lstrip()[:1] in ("{", "["):
            return self._json(text)
        if _FORM.fullmatch(text):
            return self.pairs(text, "&")
        return "\n".join(self.value("text", line) for line in text.split("\n"))

    def _json(self, text: str) -> str:
        name = ""

        def one(match: re.Match[str]) -> str:
            nonlocal name
            core = (match[1] or match[0]).strip('"')
            quote = '"' if match[1] else ""
            if match[2]:
                name = core
                return f"{quote}{self.name(core)}{quote}:"
            return f"{quote}{self.value(name, core)}{quote}"

        return _JSON.sub(one, text)

    def xml(self, text: str) -> str:
        """XML, or almost, tag by tag."""
        path: list[str] = []

        def one(match: re.Match[str]) -> str:
            place = path[-1] if path else "text"
            if (tag := match["tag"]) is not None:
                opened, shown = self._tag(tag)
                if opened:
                    path.append(opened)
                elif tag.startswith("/") and path:
                    path.pop()
                return f"<{shown}{match['tag_end']}"
            if (comment := match["comment"]) is not None:
                return f"<!--{self.value('comment', comment)}{match['comment_end']}"
            if (cdata := match["cdata"]) is not None:
                return f"<![CDATA[{self.value(place, cdata)}{match['cdata_end']}"
            return self.value(place, html.unescape(match["text"].strip("\ufeff")))

        return _MARKUP.sub(one, text)

    def _tag(self, tag: str) -> tuple[str, str]:
        """The name of the element if one begins here, and the inside of the tag, redacted."""
        begin = _TAG_NAME.match(tag)
        name = begin[0] if begin else ""
        pieces = [self.name(name)]
        position = len(name)
        for match in _ATTRIBUTE.finditer(tag, position):
            attribute, equals, quoted = match.groups()
            quote = quoted[0] if quoted[0] in "\"'" else ""
            end = quote if len(quoted) > 1 and quoted.endswith(quote) else ""
            core = html.unescape(quoted[len(quote) : len(quoted) - len(end)])
            # Most cameras write <Element Value="..."/>: then the element names the place.
            place = name if attribute.lower() in ("", "value", "name", "url") else attribute
            place = "xmlns" if attribute.lower().startswith("xmlns") else place
            pieces += [
                self._between(tag[position : match.start()]),
                f"{self.name(attribute)}{equals}{quote}{self.value(place, core)}{end}",
            ]
            position = match.end()
        pieces.append(self._between(tag[position:]))
        opens = name if name[:1] not in "/?!" and not tag.endswith("/") else ""
        return opens, "".join(pieces)

    def _between(self, text: str) -> str:
        """What is in a tag beside its name and attributes."""
        core = text.strip("/? \t\r\n")
        return text.replace(core, self.value("word", core), 1) if core else text[:MAX_NAME]


def is_markup(text: str) -> bool:
    """Does this begin as XML?"""
    return text.lstrip("\ufeff \t\r\n").startswith("<")


def _is_step(text: str) -> bool:
    return (
        not text
        or text in _SITES
        or (
            bool(_STEP.fullmatch(text))
            and all(
                piece.lower() in _STEPS or piece in "._-" or piece.isdecimal()
                for piece in _PIECE.findall(text)
            )
        )
    )


def _kind(text: str) -> str:
    with suppress(ValueError):
        ipaddress.ip_address(text[:80])
        return "ip"
    return next((kind for kind, looks in _KINDS.items() if looks.fullmatch(text)), "text")

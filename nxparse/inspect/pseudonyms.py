"""Stand-ins for what is private in requests and replies.

What is private: who somebody is (addresses, names, logins), what he wrote, what
lets in (passwords, keys, tokens, cookies), and what tells one camera or network
from all others (ids, serial numbers, IP and MAC addresses, names of hosts at
home). A stand-in tells kind and length, since that is what helps with a camera
that nobody knows: `digits-12`, `hex-32`, `base64-44`, `alnum-10`,
`text-1 (34 characters)`, `address-1@example.org`, `ip-1`, `mac-1`, `host-1`,
`file-1.jpg`. The second one of the same kind and length is `hex-32-2`. One
value has one stand-in throughout, however it is encoded or capitalized.

It is found twice. First where it stands: the caller takes a message apart and
gives each value to `value`, which lets pass only what is known to say nothing
of anybody (`Keep`) and replaces the rest. What is kept has to be on a list, not
what is replaced: of an unknown camera nobody can list the secrets.

Then, when everything has been seen, `sweep` looks for what was replaced once in
all other places, too: a session key in a path, a user's name in a header that
nobody has heard of. It looks for each value and for its forms in base64 and in
hexadecimal digits, without regard to case, in the text as it is and in the text
with its escapes undone (percent, XML, backslash), once and twice. So it need
not know how somebody encodes a value.

The sweep takes a time that is linear in the text: it looks up pieces of at most
64 characters in a dictionary; a longer value counts as several such pieces. A
short one is found only as a word of its own, and words of the protocol never,
or a user called `image` would leave little to read.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import IntEnum, auto
from html.entities import html5
from urllib.parse import unquote

MAX_FORM = 64  # characters of one piece that the sweep looks for
SHORT = 6  # a piece of fewer characters has to be a word


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\S+", text))


# What a camera writes where its user wrote nothing.
FACTORY_TEXTS = frozenset(
    {
        "[Samsung Smart Camera] sent you files.",
        "[Samsung Smart Camera] sent you files!",
        "Sent from Samsung Camera.",
        "sample.txt",
    }
)
# Values that mean the same to everybody, in lower case.
_CONSTANTS = _words(
    """
    login logout upload download get put post delete list check auth register request response
    succ success fail failed failure error ok true false yes no y n on off none null unknown
    photo photos video videos image images album file files camera samsung email message binary
    jpg jpeg pjpeg png gif bmp mp4 avi mov srw raw mpo xml json html text utf8 utf-8 euc-kr utf-16
    facebook picasa youtube photobucket samsungimaging cyworld me2day poco weibo renren vkontakte
    odnoklassniki kakaostory evernote skydrive flickr dropbox twitter allshare
    apif sha1 md5 aes hmacsha1 hmac-sha1 hotspot deadbeef "deadbeef" yahoo! msn
    """
)
# Words of HTTP, of the formats and of the stand-ins, which the sweep leaves alone, too.
_VOCABULARY = _CONSTANTS | _words(
    """
    http https www com net org host date server content type length disposition encoding language
    accept connection close keep alive agent user cookie path domain expires cache control pragma
    location etag audio plain form data form-data multipart boundary charset application octet
    stream octet-stream filename name value method title body sender receiver receivers receiverlist
    status errcode errsubcode mozilla compatible msie windows sdeclient oauth version session
    sessionkey username password key category caption device model number code digits alnum mac
    hex base64 address addresses characters example example.org info mail mobile gmail social
    columbus snsgw the and from for with
    """
)

# Names of elements, attributes, parameters and headers, in lower case.
_SECRET_NAMES = re.compile(
    r"pass|pwd|pin\Z|user|login|account|key|token|secret|session|serial|\Asn\Z|imei|imsi|duid|u[ui]id"
    r"|guid|ssid|mac(?:addr|\Z)|sign|nonce|phone|mail|owner|nick|people|id\Z|cookie"
    r"|sender|receiver|recipient|\Afrom\Z|\Ato\Z"
)
_TYPED_NAMES = re.compile(
    r"name|title|body|content|caption|text|message|comment|desc|subject|album|tag|note|category"
)
_CHOICES = _words(
    """
    method type status format command cmd action encoding lang language locale
    version ver fw firmware fwversion firmwareversion fw_version firmware_version
    model modelname model_name prd_mdl_name make manufacturer vendor
    oauth_version oauth_signature_method
    """
)
# What stands behind one of these in a path says who somebody is, or what he may do.
_PARENTS = _words("upload uploads user users session sessions token people account accounts")
_STEP = re.compile(
    r"[A-Za-z][A-Za-z_-]{0,40}[0-9]{0,4}"
    r"(?:\.(?:do|jsp|asp|aspx|php|cgi|json|xml|html?|txt|js|css|ico|png|gif))?"
)

_WORD = re.compile(r"[A-Za-z][A-Za-z_-]{0,23}[0-9]{0,4}[A-Za-z]{0,2}")
_VERSION = re.compile(r"v?[0-9]{1,4}(?:\.[0-9]{1,4}){1,2}", re.IGNORECASE)
_NUMBER = re.compile(r"-?[0-9]{1,4}|v?[0-9]\.[0-9]")
_LOCALE = re.compile(r"[a-z]{2}[-_][A-Z]{2}")
_MEDIA_TYPE = re.compile(
    r"(?:image|video|audio|text|application|multipart)/[a-z.+-]{1,40}[0-9]?[a-z]{0,4}",
    re.IGNORECASE,
)
_URN = re.compile(
    r'"?urn:[a-z-]{1,30}(?::[A-Za-z-]{1,40}){1,4}(?::[0-9]{1,2})?(?:#[A-Za-z]{1,40})?"?'
)
_MODEL = re.compile(
    r"(?:SAMSUNG )?(?:NX ?mini"
    r"|(?:HMX-|SMX-|EK-)?(?:NX|WB|ST|SH|EX|DV|MV|QF|PL|ES|TL|CL|HZ|GC)[0-9]{1,4}[A-Z]?)",
    re.IGNORECASE,
)
_CAMERA_FILE = re.compile(
    r"(?:SAM|SDC|DSC|DSCF|DSCN|IMG|MVI|MOV|PICT|SNV|SNC|HDV|STA|P|PANO|PHOTO)[_-]?[0-9]{1,7}"
    r"\.(?:jpe?g|mp4|avi|mov|srw|mpo|png|wav)",
    re.IGNORECASE,
)
_FILE = re.compile(
    r"([^\r\n]{0,255})\.(jpe?g|jpe|mp4|m4v|avi|mov|srw|mpo|png|gif|bmp|tiff?|wav|txt|xml)",
    re.IGNORECASE,
)
_MARKER = re.compile(r"(?<!\S)language_[a-z0-9]{1,12}(?:_[a-z0-9]{1,12})?\Z")

_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.){1,10}[a-z]{2,18}", re.IGNORECASE)
_WELL_KNOWN_HOST = re.compile(
    r"[a-z0-9.-]+\.(?:com|net|org|info|kr|cn|jp|tw|ru|eu|de|fr|uk|it|es|nl|pl|br|in)(?::[0-9]{1,5})?"
)
_HOST_AT_HOME = re.compile(
    r"\.(?:local|localdomain|localhost|lan|home|home\.arpa|internal|intranet|private|corp|box)\Z",
    re.IGNORECASE,
)
_DASHED_IP = re.compile(r"[0-9]{1,3}(?:[-.][0-9]{1,3}){3}")
_PORT = re.compile(r":[0-9]{1,5}\Z")
_URL = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]{0,15}://)([^/?#]*)([^#]*)(#.*)?",
    re.DOTALL,
)

# What is private wherever it stands. Each takes a time linear in the text.
_ADDRESS_TEXT = r"""[^\s<>()\[\]{},;:"'@&=?/\\|]{1,64}(?:@|%40)[\w-]{1,63}(?:\.[\w-]{1,63}){0,8}"""
_MAC_TEXT = r"[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}"
_IP4_TEXT = r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}"
_IP6_TEXT = rf"(?:[0-9A-Fa-f]{{0,4}}:){{2,7}}(?:{_IP4_TEXT}|[0-9A-Fa-f]{{0,4}})"
_UUID_TEXT = r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_TOKEN_TEXT = (
    r"(?<![0-9A-Za-z])(?=(?:[A-Za-z]*[0-9]){3})[0-9A-Za-z]{8,}(?![0-9A-Za-z])"
    r"|(?<![0-9A-Za-z+/_-])(?=(?:[A-Za-z+/_-]*[0-9]){3})[0-9A-Za-z+/_-]{20,}={0,2}"
)
_ADDRESS = re.compile(_ADDRESS_TEXT)
_MAC = re.compile(_MAC_TEXT)
_TOKEN = re.compile(_TOKEN_TEXT)
_ANYWHERE = re.compile(
    r"(?P<url>(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{0,15}://[^\s\"'<>]+)"
    rf"|(?P<address>{_ADDRESS_TEXT})"
    rf"|(?<![0-9A-Za-z:-])(?P<mac>{_MAC_TEXT})(?![0-9A-Za-z:-])"
    rf"|(?<![0-9A-Za-z-])(?P<uuid>{_UUID_TEXT})(?![0-9A-Za-z-])"
    rf"|(?<![0-9.])(?P<ip4>{_IP4_TEXT})(?![0-9]|\.[0-9])"
    rf"|(?<![0-9A-Za-z:.])(?P<ip6>{_IP6_TEXT})(?![0-9A-Za-z:])"
    rf"|(?P<token>{_TOKEN_TEXT})"
)

# A value that is nothing but this, by what its stand-in is called.
_KINDS = {
    "digits": re.compile(r"[0-9]+"),
    "hex": re.compile(r"(?:0x)?[0-9A-Fa-f]{8,}"),
    "base64": re.compile(
        r"(?=.*[a-z])(?=.*[A-Z])(?:[A-Za-z0-9+/_-]{4}){3,}"
        r"(?:[A-Za-z0-9+/_-]{2}==|[A-Za-z0-9+/_-]{3}=|[A-Za-z0-9+/_-]{4})"
    ),
    "alnum": re.compile(r"(?=[A-Za-z]*[0-9])[A-Za-z0-9]{6,}"),
}

_SPACE = re.compile(r"[\s+\x00-\x1f]+")
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")
_ESCAPE = re.compile(
    r"(?P<bytes>(?:%[C-Fc-f][0-9A-Fa-f](?:%[89ABab][0-9A-Fa-f]){1,3})|%[0-9A-Fa-f]{2})"
    r"|&#(?P<decimal>[0-9]{1,7});|&#[xX](?P<hex>[0-9A-Fa-f]{1,6});|&(?P<name>[A-Za-z]{2,8});"
    r"|\\(?:u(?P<u>[0-9A-Fa-f]{4})|x(?P<x>[0-9A-Fa-f]{2}))"
)
_REFERENCE = re.compile(
    r"&#(?P<decimal>[0-9]{1,7});|&#[xX](?P<hex>[0-9A-Fa-f]{1,6});|&(?P<name>[A-Za-z]{2,8});"
)


class Keep(IntEnum):
    """What of a value need not be replaced: each one keeps what those above it keep, and more."""

    NOTHING = auto()  # a secret
    CONSTANTS = auto()  # what is typed: factory texts, models, names that cameras give to files
    DEFAULT = auto()  # numbers below five digits, media types, public hosts
    WORDS = auto()  # what is one of several choices: any single word, versions


def keep_for(name: str, otherwise: Keep = Keep.DEFAULT) -> Keep:
    """What may be kept of a value, by the name of its element, parameter or header."""
    lowered = name.lower()
    if lowered in _CHOICES:
        return Keep.WORDS
    if _SECRET_NAMES.search(lowered):
        return Keep.NOTHING
    return Keep.CONSTANTS if _TYPED_NAMES.search(lowered) else otherwise


class Pseudonyms:
    """Gives stand-ins, and finds later what it has given one for."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}  # by what they stand for, folded
        self._counts: Counter[tuple[str, str]] = Counter()
        self._forms: dict[str, str] = {}  # what the sweep looks for
        # Their lengths, the longest first, by their first two characters.
        self._lengths: dict[str, list[int]] = {}

    # What stands where something private may be

    def value(self, text: str, keep: Keep = Keep.DEFAULT) -> str:
        """A value, or what stands in for it or for what is private in it."""
        core = text.strip()
        if not core or _is_kept(core, keep):
            return text
        start = text.index(core)
        return text[:start] + self._replaced(core, keep) + text[start + len(core) :]

    def anywhere(self, text: str) -> str:
        """Text that may stay, but for what is private wherever it stands."""

        def one(match: re.Match[str]) -> str:
            found = match[0]
            match match.lastgroup:
                case "url":
                    return self.url(found)
                case "address":
                    return self._address(found)
                case "ip4" | "ip6":
                    return self.stand_in(found) if _is_ip(found) else found
                case _:
                    return self.stand_in(found)

        return _ANYWHERE.sub(one, text)

    def host(self, text: str) -> str:
        """A host, perhaps with a port, which stays if everybody may know its name."""
        name, port = _without_port(text)
        bare = name.strip("[]")
        if not bare or _is_public(name):
            return text
        kind = "ip" if _is_ip(bare) else "host"
        return name.replace(bare, self.stand_in(bare, kind)) + port

    def file(self, text: str) -> str:
        """The name of a file, which stays if a camera has given it."""
        return self.value(text, Keep.CONSTANTS)

    def url(self, text: str) -> str:
        """A URL, or a path with what may follow it."""
        match = _URL.fullmatch(text)
        if not match:
            return self._target(text)
        user, at, host = match[2].rpartition("@")
        user = self.value(unquote(user), Keep.NOTHING)
        return f"{match[1]}{user}{at}{self.host(host)}{self._target(match[3] + (match[4] or ''))}"

    def query(self, text: str) -> str:
        """Parameters as in a URL or a form: their names stay."""
        pieces = re.split("([&;])", text)
        pieces[::2] = [self._parameter(piece) for piece in pieces[::2]]
        return "".join(pieces)

    def stand_in(self, original: str, kind: str = "") -> str:
        """What stands in for a value as a whole. The value is looked for in the sweep."""
        folded = _folded(original)
        if folded not in self._names:
            self._names[folded] = self._new(original, kind or _kind(original))
            for form in _forms(original):
                self._look_for(form, self._names[folded])
        return self._names[folded]

    def _new(self, original: str, kind: str) -> str:
        # Those that tell their length need a number only to be told apart.
        length = str(len(original)) if kind in _KINDS else ""
        self._counts[kind, length] += 1
        number = self._counts[kind, length]
        if length:
            return f"{kind}-{length}" if number == 1 else f"{kind}-{length}-{number}"
        if kind == "text":
            return f"text-{number} ({len(original)} characters)"
        if kind == "file":
            return f"file-{number}.{original.rpartition('.')[2].lower()}"
        if kind == "address":
            return f"address-{number}@example.org"
        return f"{kind}-{number}"

    def _replaced(self, core: str, keep: Keep) -> str:
        marker = _MARKER.search(core)
        if marker and keep is not Keep.NOTHING:
            return self.value(core[: marker.start()], keep) + marker[0]
        if keep in (Keep.DEFAULT, Keep.WORDS) and _URL.fullmatch(core):
            return self.url(core)
        decoded = unquote(core) if _PERCENT.search(core) else core
        note = "" if decoded == core else " (percent-encoded)"
        if _ADDRESS.search(decoded):
            return self._addressed(decoded) + note
        if _is_ip(_without_port(decoded)[0].strip("[]")):
            return self.host(decoded) + note
        name = self.stand_in(decoded)
        for form in _forms(core) if note else ():
            self._look_for(form, name)
        return name + note

    def _addressed(self, text: str) -> str:
        """Text with addresses in it, each perhaps with a name in front of it."""
        pieces: list[str] = []
        position = 0
        for match in _ADDRESS.finditer(text):
            pieces += [self._beside(text[position : match.start()]), self._address(match[0])]
            position = match.end()
        return "".join([*pieces, self._beside(text[position:])])

    def _beside(self, text: str) -> str:
        core = text.strip("<>()[]\"',;: \t\r\n")
        if not core or _is_kept(core, Keep.CONSTANTS):
            return text
        return text.replace(core, self.stand_in(core), 1)

    def _address(self, address: str) -> str:
        address = unquote(address)
        name = self.stand_in(address, "address")
        self._look_for(address.partition("@")[0], name.partition("@")[0])
        return name

    def _target(self, text: str) -> str:
        rest, mark, fragment = text.partition("#")
        path, question, query = rest.partition("?")
        fragment = self.value(fragment, Keep.CONSTANTS)
        return f"{self._path(path)}{question}{self.query(query)}{mark}{fragment}"

    def _path(self, text: str) -> str:
        """A path. What follows `upload` is a token, or a name beneath one."""
        pieces: list[str] = []
        keep = Keep.WORDS
        for segment in text.split("/"):
            is_step = keep is Keep.WORDS and _STEP.fullmatch(segment)
            pieces.append(segment if is_step else self._encoded(segment, keep))
            if segment.lower() in _PARENTS:
                keep = Keep.CONSTANTS
        return "/".join(pieces)

    def _parameter(self, text: str) -> str:
        name, equals, value = text.partition("=")
        if not equals:
            return self._encoded(text, Keep.CONSTANTS)
        return f"{self.anywhere(name)}={self._encoded(value, keep_for(name, Keep.CONSTANTS))}"

    def _encoded(self, text: str, keep: Keep) -> str:
        """A percent-encoded value, encoded as it was if it stays. A URL does not."""
        decoded = unquote(text)
        if _is_kept(decoded, keep):
            return text
        value = self.value(decoded, min(keep, Keep.CONSTANTS))
        return text if value == decoded else value

    # What slipped through

    def sweep(self, text: str) -> str:
        """The text without anything that has a stand-in, in any form of it."""
        pieces: list[str] = []
        end, last = 0, ""
        for start, stop, name in self._found(text):
            # Two that overlap are both private, to the end of the second.
            if start >= end and not (pieces and start == end and name == last):
                pieces += [text[end:start], name]
                last = name
            end = max(end, stop)
        return "".join([*pieces, text[end:]])

    def _found(self, text: str) -> list[tuple[int, int, str]]:
        """Where what is private begins and ends, and what stands for it, in order."""
        found: set[tuple[int, int, str]] = set()
        for view, at in _views(text):
            for start, stop, name in self._matches(view):
                found.add((at[start], at[stop], name))
        return sorted(found, key=lambda one: (one[0], -one[1]))

    def _matches(self, view: str) -> Iterator[tuple[int, int, str]]:
        for start in range(len(view) - 1):
            for length in self._lengths.get(view[start : start + 2], ()):
                form = view[start : start + length]
                name = self._forms.get(form)
                if name is not None and (len(form) >= SHORT or _is_alone(view, start, form)):
                    yield start, start + len(form), name
                    break

    def _look_for(self, form: str, name: str) -> None:
        # What has escapes in it, meant as such or not, is compared with them undone, too.
        for view, _ in _views(form):
            for piece in filter(_tells, _pieces(view.strip())):
                self._forms.setdefault(piece, name)
                lengths = self._lengths.setdefault(piece[:2], [])
                if len(piece) not in lengths:
                    lengths.append(len(piece))
                    lengths.sort(reverse=True)


def unescaped(text: str) -> str:
    """The text with the references of XML in it resolved."""
    return _REFERENCE.sub(_character, text)


def _is_kept(core: str, keep: Keep) -> bool:
    """Does this value say nothing of anybody?"""
    if keep is Keep.NOTHING:
        return False
    if core in FACTORY_TEXTS or core.lower() in _CONSTANTS:
        return True
    if _MODEL.fullmatch(core) or _CAMERA_FILE.fullmatch(core):
        return True
    if keep is Keep.CONSTANTS:
        return False
    if _WELL_KNOWN_HOST.fullmatch(core):
        return _is_public(core.partition(":")[0])
    patterns = [_NUMBER, _LOCALE, _MEDIA_TYPE, _URN]
    if keep is Keep.WORDS:
        patterns += [_WORD, _VERSION]
    return any(pattern.fullmatch(core) for pattern in patterns)


def _is_public(host: str) -> bool:
    """Is this the name of a host that anybody on the Internet could know?"""
    name = host.removesuffix(".")
    if len(name) > 253 or not _HOST.fullmatch(name) or _HOST_AT_HOME.search(name):
        return False
    return not (_DASHED_IP.search(name) or _TOKEN.search(name))


def _without_port(host: str) -> tuple[str, str]:
    """A host, and its port with the colon before it."""
    port = None if _is_ip(host) else _PORT.search(host)
    return (host[: port.start()], port[0]) if port else (host, "")


def _is_ip(text: str) -> bool:
    if re.fullmatch(_IP4_TEXT, text):
        return all(int(number) <= 255 for number in text.split("."))
    try:
        return 2 < len(text) < 80 and bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False


def _kind(original: str) -> str:
    """What the stand-in of a value is called."""
    if _is_ip(original):
        return "ip"
    if _MAC.fullmatch(original):
        return "mac"
    if _FILE.fullmatch(original):
        return "file"
    return next((kind for kind, looks in _KINDS.items() if looks.fullmatch(original)), "text")


def _forms(original: str) -> Iterator[str]:
    """A value as it may be written without escapes."""
    yield original
    if file := _FILE.fullmatch(original):
        yield file[1]
    if re.fullmatch(f"{_MAC_TEXT}|{_UUID_TEXT}|[0-9A-Fa-f]{{12}}", original):
        digits = re.sub("[:-]", "", original)
        yield digits
        yield from (mark.join(re.findall("..", digits)) for mark in ":-")
    data = original.encode("utf-8", "surrogatepass")
    if len(data) >= 4:
        yield data.hex()
    for form in _base64_forms(data):
        yield form
        yield form.replace("+", "-").replace("/", "_")
    with suppress(ValueError):
        yield base64.b64decode(original, validate=True).decode("ascii")


def _base64_forms(data: bytes) -> Iterator[str]:
    """What base64 makes of data alone, or somewhere within others: whole characters only."""
    if len(data) < 5:
        yield base64.b64encode(data).decode("ascii").rstrip("=")
        return
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data).decode("ascii")
        yield encoded[(8 * before + 5) // 6 : 8 * (before + len(data)) // 6]


def _pieces(form: str) -> list[str]:
    """A form, or if it is long, pieces of it that together cover it."""
    if len(form) <= MAX_FORM:
        return [form]
    starts = [*range(0, len(form) - MAX_FORM, MAX_FORM), len(form) - MAX_FORM]
    return [form[start : start + MAX_FORM] for start in starts]


def _tells(form: str) -> bool:
    """Is it likely that this form, wherever it stands, means what it was found as?"""
    if form in _VOCABULARY or len(form) < 2 or (len(form) < 4 and form.isdecimal()):
        return False
    if len(form) == MAX_FORM:
        return sum(map(str.isalnum, form)) >= 8
    return any(map(str.isalnum, form)) and (len(form) > 2 or not form.isascii())


def _is_alone(view: str, start: int, form: str) -> bool:
    """Is this a word? Scripts that write no blanks have none: there, everything is."""
    before, behind = (
        view[max(start - 1, 0) : start],
        view[start + len(form) : start + len(form) + 1],
    )
    return not form.isascii() or not (
        (before.isalnum() and form[0].isalnum()) or (behind.isalnum() and form[-1].isalnum())
    )


def _folded(text: str) -> str:
    """A text as it is compared: without regard to case, and to how blanks are written."""
    return _lowered(_SPACE.sub(" ", text))


def _lowered(text: str) -> str:
    """Lower case, character for character."""
    if text.isascii():
        return text.lower()
    return "".join(char.lower() if len(char.lower()) == 1 else char for char in text)


def _views(text: str) -> Iterator[tuple[str, Sequence[int]]]:
    """The text, folded, with its escapes undone not at all, once, and twice.

    With each view: where its characters begin in the text, and its end.
    """
    at: Sequence[int] = range(len(text) + 1)
    for _ in range(3):
        view, places = _shortened(text, at, _SPACE)
        yield _lowered(view), places
        if not _ESCAPE.search(text):
            return
        text, at = _shortened(text, at, _ESCAPE)


def _shortened(text: str, at: Sequence[int], pattern: re.Pattern[str]) -> tuple[str, Sequence[int]]:
    """The text with one character for each match, and where each stood before."""
    pieces: list[str] = []
    places: list[int] = []
    position = 0
    for match in pattern.finditer(text):
        pieces += [text[position : match.start()], _character(match)]
        places += at[position : match.start() + 1]
        position = match.end()
    pieces.append(text[position:])
    places += at[position:]
    return "".join(pieces), places


def _character(match: re.Match[str]) -> str:
    """The one character that an escape means, or a blank."""
    fields = match.groupdict()
    if encoded := fields.get("bytes"):
        data = bytes.fromhex(encoded.replace("%", ""))
        decoded = data.decode("utf-8" if len(data) > 1 else "latin-1", "replace")
    elif name := fields.get("name"):
        decoded = html5.get(f"{name};", "?")
    elif digits := fields.get("decimal"):
        decoded = chr(min(int(digits), 0x10FFFF))
    elif digits := fields.get("hex") or fields.get("u") or fields.get("x"):
        decoded = chr(min(int(digits, 16), 0x10FFFF))
    else:
        decoded = " "
    return decoded if len(decoded) == 1 else "?"

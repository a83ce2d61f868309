"""The promises that the parsers make, as functions on bytes, and the table of them.

A function raises an exception when a promise is broken. The first bytes of its input are choices,
such as the boundary and the size of chunks; the rest is parsed. So any bytes are valid
input, and a small change of them is a small change of the case.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from nxparse import config, filename, framing, jpeg, markup, message, multipart, upload
from nxparse.address import AddressError, deliverable
from nxparse.deliver import forward, routes, smarthost
from nxparse.deviation import BodyError, Kind, MultipartError
from nxparse.inspect import credentials, report, show
from nxparse.inspect import recorded as requests
from nxparse.inspect.recorded import RecordedRequest, RecordedResponse
from nxparse.scanner import MAX_PARTS
from nxparse.server import endpoints, social
from nxparse.server.social import Announcement, CredentialsError
from nxparse.text import describe_upload
from tests import bodies, pictures, scans
from tests import social as sites
from tests.scans import TYPE, B, pieces, read_chunked, scan

WIRE = Path(__file__).parents[1] / "wire"

LINE_ENDS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def choices(data: bytes, count: int) -> tuple[list[int], bytes]:
    """The first bytes as numbers, and the rest."""
    return [*data[:count].ljust(count, b"\0")], data[count:]


def text_of(data: bytes) -> str:
    """Decode bytes; those that are not UTF-8 become lone surrogates."""
    return data.decode("utf-8", "surrogateescape")


def recorded() -> Iterator[tuple[bytes, bytes]]:
    """The recorded requests, whole, and their bodies with the boundary `B`."""
    for path in sorted(WIRE.glob("*.http")):
        request = path.read_bytes()
        head, _, body = request.partition(b"\r\n\r\n")
        found = re.search(rb"boundary=([^\r\n]+)", head)
        boundary = found[1] if found else B
        yield request, body.replace(boundary, B)


# multipart

JPEG = b"\xff\xd8\xff"


def scanner(data: bytes) -> None:
    """Any bytes yield parts or a MultipartError, the same in chunks of any size."""
    (which, size), body = choices(data, 2)
    boundary = (B, None, b"C", b"-")[which % 4]
    tolerant, strict = scan([body], boundary), scan([body], boundary, strict=True)
    for wanted, found in ((False, tolerant), (True, strict)):
        assert scan(pieces(body, 1 + size % 32), boundary, strict=wanted) == found
        edges = [edge for part in found.parts for edge in (part.start, part.end)]
        assert edges == sorted(edges)
        assert all(0 <= edge <= len(body) for edge in edges)
        assert all(0 <= one.offset <= len(body) for one in found.deviations)
        assert len(found.parts) <= MAX_PARTS
    if tolerant.deviations:
        first = tolerant.deviations[0]
        detail = f": {first.detail}" if first.detail else ""
        refused = f"MultipartError: {first}{detail} (at byte {first.offset})"
        assert strict.error == refused
    else:
        assert strict == tolerant
    if tolerant.error is None:
        assert tolerant.boundary
        if JPEG not in tolerant.boundary:
            no_photo_lost(body, [(part.start, part.end) for part in tolerant.parts])


def no_photo_lost(body: bytes, ranges: Sequence[tuple[int, int]]) -> None:
    """Assert that each photo in a body begins in one of these ranges."""
    for photo in re.finditer(JPEG, body):
        assert any(start <= photo.start() and photo.end() <= end for start, end in ranges), photo


def structure(data: bytes) -> None:
    """Photos in a body with faulty framing are read, unless the body is refused."""
    choices = iter(data)
    made = bodies.faulty(lambda count: next(choices, 0) % count, B)
    try:
        found = upload.read(made.body, TYPE)
    except BodyError:
        assert not made.readable
        return
    assert [(file.name, file.data) for file in found.files] == list(made.photos)


def repaired(data: bytes) -> None:
    """A readable body can be repaired, and passes with `strict` then."""
    try:
        parts = multipart.parse(data, TYPE)
    except MultipartError:
        return
    content_type, written = multipart.repair(data, TYPE)
    again = multipart.parse(written, content_type, strict=True)
    assert [content(part) for part in again] == [content(part) for part in parts]
    assert [part.filename is None for part in again] == [part.filename is None for part in parts]
    assert multipart.repair(written, content_type) == (content_type, written)


def content(part: multipart.Part) -> bytes:
    """The data of a part, without the line ends that `repair` takes away."""
    data = part.data
    while part.name == "message" and data.endswith(b"\r\n"):
        data = data[:-2]
    return data


def camera(data: bytes) -> None:
    """Photos with any content are read unchanged, wherever the body ends."""
    (which, surplus, size), rest = choices(data, 3)
    ending = ENDINGS[which % len(ENDINGS)]
    rest = rest.replace(b"--B7x", b"--B8x")
    photos = [b"\xff\xd8" + photo + b"\xff\xd9" for photo in rest.split(b"|")][:9]
    named = [(f"{number}.jpg", photo) for number, photo in enumerate(photos)]
    body = bodies.body(named, surplus=bool(surplus % 2), ending=ending, boundary=B)
    found = scan(pieces(body, size + 1))
    assert scans.data(body, found) == [bodies.message_xml(), *photos]


ENDINGS = list(bodies.endings(B).values())


def read(data: bytes) -> None:
    """Any body yields an Upload or a BodyError, the same in chunks of any size."""
    (size,), body = choices(data, 1)
    try:
        found = upload.read(body, TYPE)
    except BodyError:
        return
    assert read_chunked(body, size + 1) == found
    no_photo_lost(body, [(file.start, file.start + file.size) for file in found.files])
    assert sum(file.size for file in found.files) <= len(body)
    assert visible(describe_upload(found))
    assert visible(show.upload(found), "\n")
    written = upload.encoded(found, found.files, "an id")
    assert sum(map(len, written.chunks())) == written.size


# XML


def almost(data: bytes) -> None:
    """Any bytes yield elements of limited number and length, or are refused."""
    wanted = ("sender", "receiver", "title", "body", "content")
    try:
        elements, deviations = markup.read(data, wanted)
    except BodyError:
        return
    assert len(elements) <= markup.MAX_ELEMENTS
    assert sum(len(one.text) for one in elements) <= len(wanted) * len(data)
    for one in elements:
        assert one.name == one.name.lower()
        assert not markup.FORBIDDEN.search(one.text)
        assert one.whole or deviations
        assert not re.search("<!(?:DOCTYPE|ENTITY)", "".join(one.attributes.values())) or deviations


def message_xml(data: bytes) -> None:
    """Any bytes yield a Message with recipients, or a BodyError."""
    try:
        found = message.parse(data)
    except BodyError:
        return
    assert 0 < len(found.recipients) <= message.MAX_RECIPIENTS
    assert all(found.recipients)
    for line in (found.sender, found.sender_name, found.subject, *found.recipients):
        assert not LINE_ENDS.search(line)
    no_sender = any(one.kind is Kind.NO_SENDER for one in found.deviations)
    assert no_sender is (not found.sender)
    written = message.compose(found)
    # A recipient with several addresses is not deliverable, and may be changed.
    if not re.search("[,;]", "".join(found.recipients)):
        clean = message.parse(written)
        assert (clean.sender, clean.recipients) == (found.sender, found.recipients)
        assert clean.subject == found.subject


def typed(data: bytes) -> None:
    """Title and text are unchanged, also with a fault elsewhere in the XML."""
    title, _, text = typable(data).partition("|")
    document = bodies.message_xml(title=title, text=text)
    found = message.parse(document)
    assert not found.deviations
    assert (found.sender, found.recipients) == (bodies.SENDER, (bodies.RECIPIENT,))
    assert (found.subject, found.text) == (markup.one_line(title), text)
    broken = message.parse(damaged(document))
    assert broken._replace(deviations=()) == found
    assert [one.kind for one in broken.deviations] == [Kind.XML_MALFORMED]


def damaged(document: bytes) -> bytes:
    """Return an XML document with a fault at its end, where no value is lost."""
    before, end, after = document.rpartition(b"</")
    return before + b"<x>&</x>" + end + after


def typable(data: bytes) -> str:
    """Decode bytes to text that XML can contain, with line feeds as line ends."""
    text = re.sub(r"\r\n?", "\n", data.decode("utf-8", "replace"))
    return markup.FORBIDDEN.sub("", text)[:1000]


def gateway(data: bytes) -> None:
    """Any request to the social gateway is a login, an announcement, or a BodyError."""
    with suppress(BodyError):
        user = social.parse_login(data)
        assert user is None or 0 < len(user) <= social.MAX_NAME
        assert not LINE_ENDS.search(user or "")
        reply = social.logged_in("k", user or "").body
        assert reply.count(b'"') == 10
        assert reply.count(b"\n") == 5
    with suppress(BodyError):
        found = social.parse_announcement(data)
        assert found.name != ""
        assert len(found.name or "") <= social.MAX_NAME
        assert len(found.album) <= social.MAX_NAME
        assert not LINE_ENDS.search(found.album)


def logged_in(data: bytes) -> None:
    """User, album and caption are parsed, even with a fault elsewhere; passwords are hidden."""
    fields = (typable(data) + "|" * 3).split("|")
    user, password, album, caption = fields[:4]
    album = re.sub(r"\s", " ", album)  # in an attribute they are all blanks
    try:
        expected: str | None = login_of(user)
    except CredentialsError:
        expected = None
    for body in (sites.login_qf30(user, password), sites.login(user, password)):
        assert outcome(social.parse_login, body) == expected
        assert outcome(social.parse_login, damaged(body)) == expected
    body = sites.photo("k", "a.jpg", caption, album)
    announced = Announcement("k", "a.jpg", markup.one_line(album)[: social.MAX_NAME], caption)
    assert social.parse_announcement(body) == announced
    assert social.parse_announcement(damaged(body)) == announced
    password = f"geheim{escape(password)}s3cret"
    for login in (
        f'<Password Value="{password}"/>',
        f"<R><PASSWORD a='' Value = '{password}' >{password}</PASSWORD></R>",
        f"<a><password>{password}</password></a>",
    ):
        hidden = credentials.hide_in_body(login.encode())
        assert password.encode() not in hidden
        assert b"(hidden)" in hidden
        sent = RecordedRequest("POST", sites.HOST, "/facebook/auth", (), login.encode())
        assert password not in f"{show.request(sent)}{report.markdown([sent], [], 'mitmproxy')}"


def login_of(user: str) -> str:
    name = markup.one_line(user.rstrip("\0"))[: social.MAX_NAME]
    if not name:
        raise CredentialsError
    return name


def outcome(reads: Callable[[bytes], str | None], body: bytes) -> str | None:
    try:
        return reads(body)
    except CredentialsError:
        return None


# Requests


def visible(text: str, *besides: str) -> bool:
    """Return whether a text has no control characters besides the allowed ones."""
    return all(
        char in besides or not re.match("C|Zl|Zp", unicodedata.category(char)) for char in text
    )


def shown(data: bytes) -> None:
    """Any request can be shown and reported, without its secrets."""
    (which,), rest = choices(data, 1)
    found = requests.parse(rest)
    if found is None:
        host, path = "snsgw.samsungmobile.com", PATHS[which % len(PATHS)]
        found = RecordedRequest("POST", host, path, (("Content-Type", TYPE),), rest)
    secret = RecordedRequest(
        "POST", found.host, f"{found.path}?to={SECRET}", (("X-User", SECRET), *found.headers),
        rest, answered=RecordedResponse(200, (), rest + SECRET.encode() + rest),
    )  # fmt: skip
    assert visible(secret.endpoint.title)
    assert visible(show.request(secret) or "", "\n")
    show.is_readable(secret)
    show.reply(secret)
    credentials.hide_in_body(rest)
    with suppress(BodyError):
        show.upload_in(secret)
    text = report.markdown([secret], [], "mitmproxy")
    assert text.encode().decode() == text
    assert "someone@secret" not in text


SECRET = "someone@secret.example"
PATHS = (
    "/social/columbus/email",
    "/facebook/auth",
    "/facebook/photo",
    "/youtube/video",
    "/security/sso/userprofiles/authentication/emailid",
    "/upload/0f",
    "/x",
)


def answered(data: bytes) -> None:
    """Any method, host and path has an endpoint."""
    method, host, path = (text_of(data) + "||").split("|")[:3]
    endpoint = endpoints.find(method, endpoints.bare_host(host), path)
    assert "/" not in endpoint.argument
    if endpoint.reply:
        assert all(visible(value) for field in endpoint.reply.fields(0.0) for value in field)
    hosts = endpoints.Hosts((path,))
    assert not (host in hosts and endpoints.bare_host(host) in endpoints.SHARED_HOSTS)
    hosts.resolves(host)


# Names


def names(data: bytes) -> None:
    """Any name becomes a safe one, which is not changed again."""
    (number, which), rest = choices(data, 2)
    media_type = ("image/jpeg", "video/mp4", "", "x/y")[which % 4]
    made = filename.safe(text_of(rest), media_type)
    for one in (made, filename.numbered(made, number), filename.numbered(made, number * 1000)):
        assert filename.safe(one, media_type) == one
        assert 0 < len(one.encode()) <= filename.MAX_NAME
        assert not set(one) & set('/\\\0<>:"|?*$`')
        assert visible(one)
        assert unicodedata.is_normalized("NFC", one)
        assert one.strip(". ") == one
        assert one[0] not in "-~"
        assert one.partition(".")[0].rstrip().upper() not in DEVICES
    assert filename.sniff(rest, text_of(rest).lower()).isascii()


DEVICES = frozenset(
    ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"]
    + [f"{port}{number}" for port in ("COM", "LPT") for number in "0123456789¹²³"]
)


def addresses(data: bytes) -> None:
    """Any text is refused, or becomes an address of ASCII that stays the same from then on."""
    text = text_of(data)
    try:
        made = deliverable(text)
    except AddressError as error:
        made = str(error)
    else:
        assert re.fullmatch(r"[!-~]{1,64}@[A-Za-z0-9.-]{1,253}", made)
        assert deliverable(made) == made
    assert visible(made)


def options(data: bytes) -> None:
    """Any rule and option is accepted or refused; no message contains the password."""
    text = text_of(data)
    with suppress(ValueError):
        rule = routes.parse_rule(text)
        assert routes.parse_rule(f"{rule.pattern}={rule.target.text}") == rule
        assert routes.parse_target(rule.target.text) == rule.target
    defaults = {one.name: one.default for one in config.OPTIONS} | {"nx_senders": ["me"]}
    for one in config.OPTIONS:
        value = text if one.kind is str else [text]
        with suppress(config.ConfigError):
            config.parse({**defaults, one.name: value}, {"NAME": "value"})
    password = f"geheim{quote(text.encode('utf-8', 'surrogateescape'), '')}s3cret"
    for reads, url in (
        (forward.parse_server, f"http://me:{password}@h/x"),
        (forward.parse_server, f"https://h/{password}?{password}"),
        (smarthost.parse_smarthost, f"smtp://me:{password}@h"),
        (routes.shown, f"forward:http://me:{password}@h/x"),
        (routes.shown, f"forward:https://h/{password}?{password}"),
        (routes.shown, f"notify:mastodon://{password}@h/{password}"),
    ):
        assert password not in text_or_error(reads, url)


def text_or_error(reads: Callable[..., object], *given: object) -> str:
    """Return the text and repr of the result, or the error."""
    try:
        made = reads(*given)
    except ValueError as error:
        return str(error)
    return f"{made} {made!r}"


# Photos


def picture(data: bytes) -> None:
    """The beginning of any file has the same metadata as the whole file, or less."""
    (size, more), rest = choices(data, 2)
    for file in (rest, JPEG + rest, EXIF + rest):
        model, thumbnail = jpeg.model(file), jpeg.thumbnail(file)
        assert file.startswith(JPEG) or (model, thumbnail) == ("", b"")
        assert re.fullmatch(r"[ -~]*", model)
        assert len(model) <= jpeg.MAX_MODEL
        assert model == model.strip()
        assert not thumbnail or thumbnail.startswith(JPEG)
        for end in (3 + size, 3 + size + more):
            assert jpeg.model(file[:end]) in ("", model)
            assert thumbnail.endswith(jpeg.thumbnail(file[:end])[2:])


EXIF = b"\xff\xd8\xff\xe1\x02\0Exif\0\0"


# The table


@dataclass(frozen=True)
class Target:
    """`check` takes inputs of at most `size` bytes; `seeds` are some, `words` make others."""

    check: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    words: Sequence[bytes]
    size: int = 1024


FRAMING = (
    b"--B7x", b"\r\n--B7x", b"\r\n--B7x\r\n", b"\r\n--B7x--", b"\r\n--B7x--\r\n", b"\n--B7x\n",
    b"--B7x\r\n", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" " * framing.MAX_BLANKS, b"B7x",
    b'Content-Disposition: form-data; name="message"\r\n\r\n', b'; name="', b'; filename="',
    b'content-disposition: form-data; name="f"; fileName="a.jpg"\r\n', b"filename*=", b'\\"', b";",
    b"Content-Type: ", b"image/jpeg;", b"multipart/mixed", b"\xff\xd8\xff", b"\xff\xd9",
    b"\xb0\xa1", b"Content-Transfer-Encoding: base64\r\n", b"--C\r\ncontent-", b"X: y\r\n", b"|",
)  # fmt: skip
TAGS = (
    b"<email>", b"</email>", b"<sender>", b"</sender>", b"<receiver>", b"</receiver>", b"<title>",
    b"</title>", b"<body>", b"</body>", b"<![CDATA[", b"]]>", b"<!--", b"-->", b"<!DOCTYPE",
    b"<!ENTITY", b"&amp;", b"&#13;", b"&#0;", b"&#xD800;", b"&lt;", b"&", b"a@x.org", b"<a@x.org>",
    b"language_sh100_utf8", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xb0\xa1", b'="', b'"/>',
    b'<?xml version="1.0" encoding="', b"utf-16", b"euc-kr", b"|", b"\xc4\xb0", b"\xe2\x80\xa8",
)  # fmt: skip
GATEWAY = (
    b"<Request Method=", b"login", b"logout", b"<UserName Value=", b"<CryptSessionKey", b"Value=",
    b"<Password", b"</Password>", b"SessionKey=", b"<Album Name=", b"<Category Name=",
    b"<File Name=", b"<Content>", b"</Content>", b"</Request>", b"%00", b"%FF", b"%41", b"~",
    *TAGS,
)  # fmt: skip
REQUESTS = (
    b"POST ", b"GET ", b"PUT ", b" HTTP/1.0\r\n", b" HTTP/1.1\r\n\r\n", b"Host: ", b"\r\n\r\n",
    b"Content-Type: multipart/form-data; boundary=B7x\r\n", b"Authorization: ", b"Cookie: ",
    b"http://", b"?a=b&c=", SECRET.encode(), b"`" * 3, b"Basic ", b"OAuth ",
    *(path.encode() for path in PATHS), *FRAMING, *GATEWAY,
)  # fmt: skip
PATH_WORDS = (
    b"GET", b"HEAD", b"POST", b"PUT", b"|", b"/", b"?", b"*", b"[", b"]", b"::1", b":80", b".",
    *(path.encode() for path in PATHS), *(host.encode() for host in endpoints.DNS_HOSTS),
    b"www.msn.com", b"/upload/", b"/auth", b"/favicon.ico",
)  # fmt: skip
NAMES = (
    b"/", b"\\", b"..", b".", b" ", b"-", b"~", b"$", b"CON", b"com1", b"nul", b".jpg", b".JPG",
    b".exe", "e\u0301".encode(), "\u200d".encode(), "\u202e".encode(), b"\0", b"\n", b"\xff",
    "가".encode() * 60, b"a" * 120, "LPT¹".encode(), "ﬀ".encode(), "\u037e".encode(),
)  # fmt: skip
OPTIONS = (
    b"*@", b"=", b":", b"save", b"mail", b"run", b"forward", b"notify", b"drop", b"http://", b"@",
    b"smtp://", b"smtps://", b"smtp+starttls://", b":587", b"${NAME}", b"${", b"}", b"{file}", b"~",
    b"{", b"'", b'"', b"\\", b"\0", b"[", b"]", b"://", b"%40", b"127.0.0.1", b"1k", b"3d", b"?",
    b"#", "é".encode(), b".example.org", b"me", b"\xff", "ß".encode(), b"xn--",
)  # fmt: skip
MARKERS = (
    b"\xff\xd8\xff", b"\xff\xe1", b"Exif\0\0", b"II*\0", b"MM\0*", b"\xff\xc0", b"\xff\xda",
    b"\x0f\x01", b"\x10\x01", b"\x12\x01", b"\x01\x02", b"\x02\x02", b"\x69\x87", b"\x03\x90",
    b"\x08\0\0\0", b"\0\0\0\x08", b"\x02\0", b"\x04\0", b"\x01\0\0\0", b"2013:05:04 12:34:56\0",
    b"\xff\xff\xff\xff",
)  # fmt: skip


def photo() -> bytes:
    """A small file with all metadata."""
    return pictures.photo(b"\xff\xd8\xff\xda\xff\xd9", orientation=6)[:240]


def _bodies() -> Iterator[bytes]:
    for surplus in (True, False):
        for ending in ENDINGS:
            yield bodies.body(
                [("a.jpg", b"\xff\xd8\r\n\xff\xd9")],
                message=b"<email/>",
                surplus=surplus,
                ending=ending,
                boundary=B,
            )
    yield from (body for _, body in recorded())
    field = b"--B7x\r\nContent-Disposition: form-data; name="
    yield b"--B7x\r\nA: b\r\n\r\n\r\n--B7x\r\n\r\n--B7x\r\n--B7x\n\n--B7x--\r\nend"
    yield b"--B7x\r\nA: b\r\n\r\n\r\n--B7x\r\n\r\n--B7x\r\n--B7x\n--B7x--\r\nend"
    yield field + b'"a\\"b;\\"; filename="\\"c\\""\r\n\r\nd\r\n' + field + b"'e'\r\n\r\n\r\n--B7x--"
    yield field + b'"f"\r\n\r\n\r\n' + field + b'"message"\r\n\r\n<a/>\r\n\r\n\r\n\r\n--B7x--\r\n'
    yield (
        b"preamble\r\n" + field + b"\xb0\xa1\r\n folded\r\n\r\n\xff\r\n--B7x \t\r\n\r\n1\n--B7x\r\n"
    )


def _choices() -> Iterator[bytes]:
    yield b""
    yield from (bytes([number]) * 64 for number in range(1, 60))


def _uploads() -> Iterator[bytes]:
    yield bodies.body([("a.jpg", bodies.jpeg(60))], boundary=B)
    yield from _bodies()


def _messages() -> Iterator[bytes]:
    yield bodies.message_xml()
    yield from (
        match for _, body in recorded() for match in re.findall(rb"<\?xml.*</email>", body, re.S)
    )
    yield b"<email><sender>a@x.org<receiver>B <b@x.org></receiver><title>a & b</title><body>c"
    yield (
        b"<email><sender>a&#13;&#10;Bcc: b &lt;a@x.org></sender><receiver>\xe2\x80\xa8b@x.org, C "
        b"&lt;c&#9;@x.org></receiver><title>a\r\n&#133;b</title></email>"
    )


def _gateway() -> Iterator[bytes]:
    yield sites.login("me", "secret")
    yield sites.login_qf30("me", "secret")
    yield sites.logout("k")
    yield sites.photo("k", "SAM_1.JPG", "a~b", "NX300")
    yield sites.video("k", "SAM_1.MP4", "a & b")
    yield b'<Request Method="login"><UserName="me"/><CryptSessionKey Value=""/>'
    yield b'<Request><UserName Value="a%0A%22%3C%00&quot;"/><CryptSessionKey/></Request>'
    yield b'<R><Album Name="a&#10;\xc2\x85b"/><File Name="\x1b[2J&"/><Content>\x1b</Content></R>'


def _requests() -> Iterator[bytes]:
    yield from (request for request, _ in recorded())
    yield sites.auth("facebook", sites.login("me", "secret"))
    yield sites.announce("facebook", "photo", sites.photo("k", "SAM_1.JPG", "a~b"))
    yield sites.put("upload/0f", photo())
    yield sites.allshare("me@x.org", "secret")
    yield sites.hotspot("www.msn.com")
    yield from (sites.announce("facebook", "photo", body) for body in _gateway())


def _names() -> Iterator[bytes]:
    yield b"\1\0SAM_4371.JPG"
    yield b"\2\1..\\CON.txt"
    yield b"\3\2" + "e\u0301".encode() + b"a" * 240 + b" .b.jpg"
    yield b"\0\3" + b"a" * 247 + " 가.jpeg".encode()


def _photos() -> Iterator[bytes]:
    yield b"\x90\x10" + bodies.jpeg(100)
    yield from (bytes([end, 3]) + photo() for end in range(0, len(photo()), 6))


def prefixed(prefix: bytes, seeds: Callable[[], Iterable[bytes]]) -> Callable[[], Iterable[bytes]]:
    return lambda: (prefix + seed for seed in seeds())


def each(*seeds: str | bytes) -> Callable[[], Iterable[bytes]]:
    return lambda: [one if isinstance(one, bytes) else one.encode() for one in seeds]


TARGETS = {
    "scanner": Target(scanner, prefixed(b"\0\5", _bodies), FRAMING),
    "structure": Target(structure, _choices, (b"\0\0\0", b"\x09\x0b"), 64),
    "repair": Target(repaired, _bodies, FRAMING),
    "camera": Target(camera, each(b"\0\0\7a|b\r\n|\r\n--B", b"\5\1\0\r\n|\xff\xd9"), FRAMING),
    "upload": Target(read, prefixed(b"\7", _uploads), (*FRAMING, *TAGS)),
    "markup": Target(almost, lambda: [*_messages(), *_gateway()], GATEWAY),
    "message": Target(message_xml, _messages, TAGS),
    "typed": Target(typed, each("title|text\nlanguage_sh100_utf8", "a]]>b|<&>"), TAGS),
    "gateway": Target(gateway, _gateway, GATEWAY),
    "logins": Target(logged_in, each("me|secret|NX300|a~b", "사진|\"|'<>&|%41+"), GATEWAY, 400),
    "requests": Target(shown, prefixed(b"\0", _requests), REQUESTS, 2048),
    "service": Target(answered, each("GET|gld.samsungosp.com|/", "PUT||/upload/a/b"), PATH_WORDS),
    "filename": Target(names, _names, NAMES, 600),
    "address": Target(addresses, each("me@example.org", "a@bücher.example"), (*TAGS, *OPTIONS)),
    "options": Target(options, each("*@x=mail:a@x.org", "save:~/x", "smtp://a@h:25"), OPTIONS, 300),
    "jpeg": Target(picture, _photos, MARKERS),
}  # fmt: skip

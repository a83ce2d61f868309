"""The report for a public bug report: useful, without private values, and valid Markdown."""

from __future__ import annotations

import hashlib
import hmac
import html
import re
import time
import tracemalloc
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from random import Random
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nxparse import __version__
from nxparse.inspect import recorded
from nxparse.inspect.recorded import RecordedQuestion, RecordedRequest, RecordedResponse
from nxparse.inspect.report import MAX_HEADERS, MAX_READ, MAX_SHOWN, markdown
from nxparse.server import social
from nxparse.server.hotspot import GLD, YAHOO
from nxparse.server.page import render
from nxparse.server.reply import ACCEPTED, Reply, refusal
from tests import bodies
from tests import social as camera
from tests.mitmdump import ROOT

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=60)
KEY = bytes(range(32))

RECORDED = (ROOT / "tests" / "wire" / "nx300_email.http").read_bytes()
CLIENT = "192.168.178.23"
USER = "jane.doe@home.example"
NAME = "Jane Doe"
PASSWORD = "correct horse"
SESSION_KEY = "0123456789abcdef0123456789abcdef"
TOKEN = "fedcba9876543210fedcba9876543210"
TITLE = "Our week in Rome & Naples"
TEXT = "Dear all,\nthis is <us> in Rome.\n```\nJane"
CAPTION = "At the Trevi fountain"
ALBUM = "Rome 2013"
PHOTO = "Jane and Bob.jpg"
SERIAL = "A2Z9QQ44512"
MAC = "00:16:6C:AA:BB:CC"
IMEI = "490154203237518"
HOST = "nas.fritz.box"
COOKIE = "s3cr3tcookie"

PRIVATE = {
    "client": CLIENT,
    "user": USER,
    "name": NAME,
    "password": PASSWORD,
    "session": SESSION_KEY,
    "token": TOKEN,
    "title": TITLE,
    "text": TEXT,
    "caption": CAPTION,
    "album": ALBUM,
    "photo": PHOTO,
    "serial": SERIAL,
    "mac": MAC,
    "imei": IMEI,
    "host": HOST,
    "cookie": COOKIE,
    "duid": "123456789033",
    "timestamp": "9717886885",
    "recipient": "grandma@elsewhere.example",
    "key": camera.base64_of(camera.CRYPT_SESSION_KEY),
    "application": camera.APPLICATION_KEY,
    "encrypted user": camera.base64_of(camera.encrypt(USER.encode())),
    "encrypted password": camera.base64_of(camera.encrypt(PASSWORD.encode())),
}


def _within_base64(text: str) -> str:
    """The characters of base64 that do not depend on the bytes around the text."""
    ends = (b"\0\0", b"\xff\xff")
    encoded = [b64encode(end + text.encode() + end).decode() for end in ends]
    return "".join(one for one, other in zip(*encoded, strict=True) if one == other)


def _every_byte(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "upper": str.upper,
    "lower": str.lower,
    "percent": lambda text: quote(text, ""),
    "percent-plus": quote_plus,
    "every-byte": _every_byte,
    "percent-twice": lambda text: quote(quote(text, ""), ""),
    "xml": lambda text: html.escape(text, quote=True),
    "xml-numbers": lambda text: "".join(f"&#{ord(char)};" for char in text),
    "xml-hex": lambda text: "".join(f"&#x{ord(char):X};" for char in text),
    "backslash": lambda text: "".join(f"\\u{ord(char):04x}" for char in text),
    "hex": lambda text: text.encode().hex(),
    "base64": lambda text: b64encode(text.encode()).decode(),
    "base64-url": lambda text: urlsafe_b64encode(text.encode()).decode(),
    "base64-inner": _within_base64,
    "base64-percent": lambda text: quote(b64encode(text.encode()).decode(), ""),
    "spread": lambda text: text.replace(" ", "\r\n  "),
}

UNKNOWN_XML = (
    '<?xml version="1.0" encoding="UTF-8"?>\r\n'
    f'<Device xmlns="urn:schemas-upnp-org:device:Basic:1" Type="camera" Serial="{SERIAL}">\r\n'
    f"  <Mac>{MAC}</Mac><Fw>1.04</Fw><Model>NX99</Model><Imei>{IMEI}</Imei>\r\n"
    f'  <Owner Name=\'{NAME}\'/><Shots Count="1234" Max="99999"/>\r\n'
    f"  <Server>http://{HOST}:8080/v1/register?sn={SERIAL}</Server>\r\n"
    "</Device>\r\n"
)


def sent(data: bytes, reply: Reply | None = None, *, at: float = 0.0) -> RecordedRequest:
    """A request as a camera writes it, with our reply."""
    found = recorded.parse(data)
    assert found
    answered = reply and RecordedResponse(reply.status, "OK", tuple(reply.fields(0)), reply.body)
    return found._replace(client=CLIENT, at=at, answered=answered)


def post(
    body: bytes | None, content_type: str = "text/xml", *headers: tuple[str, str], path: str = "/x"
) -> RecordedRequest:
    """An unknown request."""
    fields = (("Host", "h.example.com"), ("Content-Type", content_type), *headers)
    return RecordedRequest("POST", "h.example.com", path, fields, body)


def conversation() -> list[RecordedRequest]:
    """All requests of a camera, with every private value in them."""
    message = bodies.message_xml(
        sender=f"{NAME} <{USER}>",
        recipients=[PRIVATE["recipient"], USER.upper()],
        title=TITLE,
        text=TEXT,
    )
    body = bodies.body([("SAM_4371.JPG", bodies.jpeg(900)), (PHOTO, bodies.jpeg(700))])
    body = body.replace(bodies.message_xml(), message)
    logged_in = social.logged_in(SESSION_KEY, USER)
    announced = camera.announce(
        "facebook", "photo", camera.photo(SESSION_KEY, PHOTO, CAPTION, ALBUM)
    )
    cookies = (
        ("Cookie", f"id={COOKIE}; x=1"),
        ("X-Serial", SERIAL),
        ("Proxy-Authorization", COOKIE),
    )
    basic = b64encode(f"{NAME}:{PASSWORD}".encode()).decode()
    return [
        sent(camera.hotspot("gld.samsungosp.com"), GLD, at=1000.0),
        sent(bodies.request(body), ACCEPTED, at=1002.5),
        sent(camera.auth("facebook", camera.login(USER, PASSWORD)), logged_in),
        sent(announced, social.upload_to(TOKEN)),
        sent(camera.put(f"upload/{TOKEN}", bodies.jpeg(700)), ACCEPTED),
        sent(camera.auth("facebook", camera.logout(SESSION_KEY)), social.LOGGED_OUT),
        sent(camera.auth("youtube", camera.login_qf30(NAME, PASSWORD)), social.LOGIN_FAILED),
        sent(camera.allshare(USER, PASSWORD), social.LOGIN_FAILED),
        sent(camera.request("POST", f"/v1/register?sn={SERIAL}", UNKNOWN_XML.encode(), host=HOST)),
        post(b"", "text/plain", *cookies, ("Authorization", f"Basic {basic}")),
        post(f"user={quote(USER)}&pass={quote(PASSWORD)}&mode=1".encode(), "text/plain"),
    ]


def outside(report: str) -> list[str]:
    """The lines of a report outside of code blocks (CommonMark 0.31, section 4.5)."""
    lines: list[str] = []
    fence = ""
    for line in report.splitlines():
        marks = re.match("(`{3,})([^`]*)$", line)
        if fence:
            closing = re.match("(`+) *$", line)
            if closing and len(closing[1]) >= len(fence):
                fence = ""
        elif marks:
            assert not marks[2], "an info string would be from the wire"
            fence = marks[1]
        else:
            lines.append(line)
    assert not fence, "the last block is not closed"
    return lines


def sections(report: str) -> list[str]:
    return [line for line in outside(report) if line.startswith("#")]


def untagged(report: str) -> str:
    """A report without the digests of its tokens."""
    return re.sub(" #(?:[a-f][0-9]){3}", "", report)


# Privacy


@pytest.fixture(scope="module")
def whole_report() -> str:
    return markdown(conversation())


@pytest.mark.parametrize("form", FORMS)
def test_private(whole_report: str, form: str) -> None:
    """No private value is in the report, in any encoding and in any case."""
    report = whole_report.lower()
    assert [what for what in PRIVATE if FORMS[form](PRIVATE[what]).lower() in report] == []


@pytest.mark.parametrize("each", [form(one) for form in FORMS.values() for one in PRIVATE.values()])
def test_private_elsewhere(each: str) -> None:
    """No private value is printed in any other place, even if it occurs only once."""
    odd = RecordedRequest(
        each,
        each,
        f"/firmware/{each}/x?{each}=1&a={each}#{each}",
        (
            ("User-Agent", f"Camera ({each}) x"),
            (f"X-{each}", "1"),
            ("Accept", f"text/{each}, {each};q={each}"),
            ("Content-Type", f"image/{each}; {each}=1; charset={each}; boundary={each}"),
            ("Date", each),
            ("Content-Length", each),
        ),
        f"<{each}><a {each}='1' {each} Type='{each}'>{each}<!-- {each} --></a>".encode(),
        each,
        answered=RecordedResponse(200, each, (("Server", each),), each.encode()),
    )
    part = f'--B\r\nContent-Disposition: {each}; name="{each}"\r\n{each}: 1\r\n\r\n{each}\r\n--B--'
    body = post(part.encode(), f'multipart/form-data; boundary="B"; x="{each}"')
    asked = RecordedQuestion(f"{each}.example.com", each)
    report = markdown([odd, body, *(odd._replace(body=f"{each}={each}".encode()),)], [asked])
    assert each.lower() not in report.lower()


FAULTS = {
    "mac in a word": "NX300-00:16:32:AA:BB:CC",
    "dotted mac": "0016.32aa.bbcc",
    "underscored mac": "00_16_32_AA_BB_CC",
    "dashed ip": "192-168-17-33",
    "phone": "+49 171 1234567",
    "plain phone": "01711234567",
    "serial": "SN:AJKC90D",
    "pin": "4711",
    "coordinates": "50 56' 33\" N 6 57' 32\" E",
    "decimal coordinates": "50.9425, 6.9589",
    "domain": "cam.mueller-home.de",
    "user": "jdoe",
}


@pytest.mark.parametrize("private", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize(
    "place",
    [
        "GET /~{}/photos HTTP/1.1\r\n\r\n",
        "GET /users/{}/photos HTTP/1.1\r\n\r\n",
        "GET /x?version={0}&lang={0}&model={0}&{0} HTTP/1.1\r\n\r\n",
        "GET http://{}/ HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nUser-Agent: {}\r\nAccept-Language: {}\r\nX-Model: {}\r\n\r\n",
        "GET / HTTP/1.1\r\nUser-Agent: NX300 ({})\r\nServer: nginx/{}\r\nCookie: {}\r\n\r\n",
        "POST / HTTP/1.1\r\n\r\n<PinCode>{}</PinCode>",
        "POST / HTTP/1.1\r\n\r\n<Device Type='{0}' {0}>{0}</Device>",
        "POST / HTTP/1.1\r\n\r\nmode: {0}\nplace: {0}",
        "POST / HTTP/1.1\r\n\r\nmode={0}&{0}",
        'POST / HTTP/1.1\r\n\r\n{{"pin": {0}, "a": ["{0}"]}}',
        "POST / HTTP/1.1\r\n\r\nat {}",
    ],
)
def test_private_in_odd_spelling(place: str, private: str) -> None:
    """Values are not printed unless they are on an allow-list, so none must be recognised."""
    written = quote(private, "") if place.startswith("GET /") else private
    for text in {written, private}:
        found = recorded.parse(place.format(*[text] * 3).encode())
        if found:
            assert private not in markdown([found], key=KEY)
            assert written not in markdown([found], key=KEY)


def test_stable() -> None:
    """Equal values have equal tokens throughout a report."""
    report = markdown(conversation())
    key = re.search(r'<Response SessionKey="(<hex 32 #\w+>)">', report)
    token = re.search(r'ResourceID="upload/(<hex 32 #\w+>)"', report)
    assert key
    assert token
    assert f'<CryptSessionKey Value="{key[1]}"/>' in report
    assert f'<Request SessionKey="{key[1]}"><Photo>' in report
    assert f'<SessionKey Value="{key[1]}"/>' in report
    assert f"PUT /upload/{token[1]} HTTP/1.1" in report
    assert key[1] != token[1]
    assert len(set(re.findall(r"<ip \d+ #\w+>", report))) == 1
    users = re.findall(r"<address 21 (#\w+)", report)
    assert len(users) == 4  # a receiver, the name in a reply, AllShare and a form
    assert len(set(users)) == 1


def test_reports_differ() -> None:
    """Digests are equal within a report, and differ from those in the next."""
    photo = bodies.jpeg(700)
    requests = [post(photo, "image/jpeg"), post(photo, "image/jpeg"), post(b"\xff\xd8\xff", "")]
    first, again = markdown(requests), markdown(requests)
    digests = re.findall("keyed digest +([0-9a-f]{16})", first)
    assert digests[0] == digests[1] != digests[2]
    assert digests[0] not in again
    assert hashlib.sha256(photo).hexdigest()[:16] not in first
    assert hmac.new(KEY, photo, "sha256").hexdigest()[:16] in markdown(requests, key=KEY)
    named = [post(b"", "", ("X-Name", NAME))]
    assert re.findall("#[a-f0-9]+", markdown(named)) != re.findall("#[a-f0-9]+", markdown(named))


# Use


def test_recorded() -> None:
    """The oddities of an NX300 are visible."""
    report = markdown([sent(RECORDED, ACCEPTED)], version="mitmproxy 1.2", key=KEY)
    head, _, body = RECORDED.decode("utf-8", "replace").partition("\r\n\r\n")
    for line in head.split("\r\n")[2:]:
        name, _, value = line.partition(":")
        if name != "Content-Type":
            assert f"\n{name}: {value.strip()}\n" in report
    plain = untagged(report)
    assert f"\nContent-Type: multipart/form-data; boundary={'-' * 27}<hex 12>\n" in plain
    assert (
        "\nPOST /social/columbus/email?DUID=<digits 12> HTTP/1.0\nAuthorization: OAuth oauth"
        in plain
    )
    assert (
        'oauth_signature_method="HmacSHA1",oauth_timestamp="<digits 10>",oauth_version="1.0"'
        in plain
    )
    heads = re.findall(r"content-disposition.*\r\ncontent-Type.*", body)
    assert len(heads) == 2
    for each in heads:
        assert (
            f"```\n{each.strip()}\n```\n\n(Its lines end with CRLF.)".replace("\r\n", "\n")
            in report
        )
    xml = body[body.index("<?xml") : body.index("</email>")].replace("\r\n", "\n")
    hidden = re.search("<sender>(.*?)</sender>", xml)
    assert hidden
    assert xml.replace(hidden[1], "<text 17>") in plain
    assert re.search("parameter-case +at 43\n", report)
    assert re.search("close-delimiter-unmarked +at 1239\n", report)
    digest = hmac.new(KEY, (ROOT / "tests/wire/nx300_email.SAM_4371.JPG").read_bytes(), "sha256")
    row = f"binary +SAM_4371.JPG +image/jpeg; +600 +594 +{digest.hexdigest()[:16]}"
    assert re.search(f"\n2 +{row}\n", report)
    assert "\n200 OK\n" in report
    assert f"\n1 request, made with nx_addon {__version__} in mitmproxy 1.2.\n" in report


def test_unknown_camera() -> None:
    """The structure of unknown XML is printed, with versions, models and known namespaces."""
    report = markdown([sent(camera.request("POST", "/v1/register", UNKNOWN_XML.encode()))])
    expected = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        '<Device xmlns="urn:schemas-upnp-org:device:Basic:1" Type="camera" Serial="<alnum 11>">\n'
        "  <Mac><mac 17></Mac><Fw>1.04</Fw><Model>NX99</Model><Imei><digits 15></Imei>\n"
        '  <Owner Name=\'<text 8>\'/><Shots Count="<digits 4>" Max="<digits 5>"/>\n'
        "  <Server>http://<host of 3 labels 13>:8080/v1/register?sn=<alnum 11></Server>\n"
        "</Device>\n"
    )
    assert "\nPOST /v1/register HTTP/1.1\n" in report
    assert f"```\n{expected}```\n\n(Its lines end with CRLF.)" in untagged(report)


def test_questions() -> None:
    """Known names that were looked up are printed; of others the number of labels."""
    asked = [
        RecordedQuestion("gld.samsungosp.com", "A", CLIENT, 1000.0),
        RecordedQuestion("jane.nas.example.org", "AAAA", CLIENT, 1001.5),
    ]
    report = untagged(markdown([post(None)._replace(at=1000.5)], asked))
    assert sections(report)[-1] == "## DNS questions"
    assert re.search(r"\n<ip 14> +0.0 s +A +gld.samsungosp.com\n", report)
    assert re.search(r"\n<ip 14> +1.5 s +AAAA +<host of 4 labels 20>\n", report)


def test_times() -> None:
    """Times are relative to the first request."""
    requests = [post(None)._replace(at=at) for at in (0.0, 1e9, 1e9 + 2.25, float("nan"))]
    lines = [line for line in outside(markdown(requests)) if line.startswith("From ")]
    assert lines[:3] == [
        "From an unknown address.",
        "From an unknown address, 0.0 s after the first.",
        "From an unknown address, 2.2 s after the first.",
    ]


def test_our_replies() -> None:
    """Our own replies are recognisable, and quotes in them are redacted."""
    for reply, expected in (
        (render([], 0.0, gallery=False), "The body is the start page of nx_addon."),
        (YAHOO.cookie, "Set-Cookie: samsung=hotspot; Domain=.yahoo.co.kr; Path=/\n"),
        (YAHOO.cookie, "\nYAHOO!\n"),
        (YAHOO.redirect, "\nLocation: http://yahoo.com\n"),
        (social.SESSION_EXPIRED, '\n<Response ErrCode="401" ErrSubCode="0" /><!-- Session expired'),
        (refusal(400, f"not {USER}"), '\n<Response ErrCode="400" ErrSubCode="0" /><!-- <text 25>'),
    ):
        report = markdown([sent(camera.hotspot("www.samsungimaging.com"), reply)])
        assert expected in untagged(report)


def test_headers_in_order() -> None:
    """Headers are printed in their order and case, repeated ones too, up to a limit."""
    headers = tuple((f"x-{'Ab'[n % 2]}", str(n)) for n in range(MAX_HEADERS + 3))
    report = markdown([RecordedRequest("GET", "a.example.com", "/", headers, None)])
    lines = re.findall("\n(x-Ab?|x-b): <digits [0-9] #[a-f0-9]+>(?=\n)", report)
    assert lines == ["x-A", "x-b"] * (MAX_HEADERS // 2)
    assert "\n(and 3 more)\n" in report
    assert "```\n<letters 1>.example.com\n```" in untagged(report)


# Bodies of all kinds


def exif(model: bytes) -> bytes:
    """A JPEG that names its camera."""
    entries = b"\x01\0\x10\x01\x02\0" + len(model).to_bytes(4, "little") + b"\x1a\0\0\0\0\0\0\0"
    tiff = b"Exif\0\0II*\0\x08\0\0\0" + entries + model
    frame = b"\xff\xc0\0\x11\x08\x0e\x10\x15\x60\x03" + bytes(9)
    return b"\xff\xd8\xff\xe1" + (len(tiff) + 2).to_bytes(2, "big") + tiff + frame


JPEG = exif(b"NX300\0") + b"Jane was here" * 40
ONE_FIELD = b'--B\r\nContent-Disposition: form-data; name="a"\r\n%s\r\n1\r\n--B--\r\n'
FORM = "multipart/form-data; boundary=B"
HEADS = [
    "that cannot be parsed as multipart:",
    'content-disposition: form-data; name="message"; fileName="sample.txt"',
    'name="binary"; fileName="<name 16>.jpg"',
]
XML = "<a><title>김민수</title><w>640</w></a>"
REDACTED_XML = r"\n<a><title><text \d></title><w><digits 3></w></a>\n```"


def with_message(message: bytes) -> RecordedRequest:
    body = bodies.body([("SAM_1.JPG", bodies.jpeg(100))], message=message)
    return post(body, bodies.CONTENT_TYPE)


PRINTED: dict[str, tuple[RecordedRequest, list[str]]] = {
    "not recorded": (post(None), ["\nThe body was not recorded.\n"]),
    "no body": (post(b""), ["\nNo body.\n"]),
    "picture": (post(JPEG, "image/jpeg"), [f"bytes +{len(JPEG)}\n", "model +NX300"]),
    "binary": (
        post(b"\0\1secret", ""),
        ["bytes +8\n", hmac.new(KEY, b"\0\1secret", "sha256").hexdigest()[:16]],
    ),
    "long text": (
        post(b"<a>x</a>" * 20000, ""),
        ["Body, 160000 bytes:", r"\(It is longer; the rest is left out.\)"],
    ),
    "UTF-8": (post(XML.encode()), [REDACTED_XML]),
    "CP949": (post(XML.encode("cp949")), [REDACTED_XML]),
    "cut in a head": (
        post(bodies.body([(PHOTO, b"")]).partition(b"image/jpeg")[0], bodies.CONTENT_TYPE),
        HEADS,
    ),
    "many parts": (post(bodies.body([(PHOTO, b"x")] * 70), bodies.CONTENT_TYPE), HEADS),
    "other boundary": (
        post(b"GARBAGE\n" + bodies.body([(PHOTO, bodies.jpeg(300))]), f"{FORM}other"),
        HEADS,
    ),
    "not multipart": (
        post(b"<a>12</a>", FORM),
        ["the boundary <text 4> never appears", "```\n<a><digits 2></a>\n```"],
    ),
    "unknown encoding": (
        post(ONE_FIELD % b"X-\xff: 7\r\n", FORM),
        ['name="a"\n<text 3>: <digits 1>\n```'],
    ),
    "deviation in XML": (
        with_message(bodies.message_xml().replace(b"<title>", b"& <title>")),
        ["multipart-label .*\nxml-malformed +at 152\n"],
    ),
    "no recipients": (
        with_message(b"<email></email>"),
        ["the message names no receiver", "trailing-semicolon +at"],
    ),
}


@pytest.mark.parametrize(("request_", "patterns"), PRINTED.values(), ids=PRINTED)
def test_body(request_: RecordedRequest, patterns: list[str]) -> None:
    """What is printed of each kind of body."""
    report = untagged(markdown([request_], key=KEY))
    for pattern in patterns:
        assert re.search(pattern, report), report
    assert "Jane" not in report
    assert "secret" not in report


def test_cut_lines() -> None:
    """Lines of heads and cells of tables are limited, too."""
    boundary = "b" * 200
    body = bodies.body([("SAM_1.JPG", b"")]).replace(
        b"image/jpeg;", f"image/x; boundary={boundary}".encode()
    )
    report = markdown([post(body, bodies.CONTENT_TYPE, ("Accept", "a/b, " * 5000))])
    assert "Accept: <text 3>, <text 3>" in untagged(report)
    assert max(map(len, report.splitlines())) <= MAX_SHOWN
    assert "content-Type: <text 7>; boundary=<hex 200>\n" in untagged(report)


def test_cut_in_value() -> None:
    """Where a long text is cut, in a body or a part, no piece of a value is printed."""
    for size in range(MAX_READ - 56, MAX_READ - 14):
        xml = f"<a><t>{'x' * size}</t><c>{IMEI}</c><d>é{'é' * 9}</d></a>".encode()
        body = bodies.body([], message=xml)
        report = markdown([post(xml), post(body, bodies.CONTENT_TYPE)])
        assert report.count("<letters 163") == 2
        assert "<c>4" not in report
        cut = 2 if len(xml) > MAX_READ else 0
        assert report.count("(It is longer; the rest is left out.)") == cut


def test_form_fields() -> None:
    """Text in the parts of an unknown upload may be typed by the user; pictures are not text."""
    head = b'--B\r\nContent-Disposition: form-data; name="%s"\r\n%s\r\n'
    body = (
        (head % (b"comment", b"")) + b"Jane\r\nsays: hi\r\n"
        + (head % (b"size", b"")) + b"2\r\n"
        + (head % (b"pin", b"")) + b"12\r\n"
        + (head % (b"meta", b"Content-Type: text/xml\r\n")) + b"<m><w>640</w></m>\r\n"
        + (head % (b"pic", b"Content-Type: image/x-text\r\nX-Who: Jane\r\n folded\r\nno colon\r\n"))
        + b"P3 Jane\r\n"
        + (head % (b"end", "accept: a\r\n b, c\r\nX-김: 7\r\n".encode("cp949")))
        + b"\r\n--B--"
    )  # fmt: skip
    report = untagged(markdown([post(body, "multipart/form-data; boundary=B")]))
    assert "Jane" not in report
    assert "hi" not in report.split("Part 1:")[1].split("Part 2")[0]
    assert "```\n<m><w><digits 3></w></m>\n```" in report
    assert "\nX-Who: <letters 4>\n <letters 6>\n<text 8>\n" in report
    assert "Part 3:\n\n```\n<digits 2>\n```" in report
    assert "Part 5:" not in report
    assert "\naccept: <letters 1>\n <letters 1>, <letters 1>\n<text 4>: <digits 1>\n" in report
    assert re.search("header-malformed +at [0-9]+\n", report)


# Markdown


@pytest.mark.parametrize("ticks", [2, 3, 6])
def test_fences(ticks: int) -> None:
    """Backticks in a text cannot end its code block."""
    fence = "`" * ticks
    text = f"<{fence}>\n{fence}\n## 9. forged\n<img src=x>\n{fence}{fence}\n<script>\n  {fence}\n"
    for each in (post(text.encode()), post(b"", text, (text, text), path=f"/{text}")):
        report = markdown([each, each])
        assert sections(report) == [
            "# Report of a camera",
            *("## 1. unknown", "### Reply to 1", "## 2. unknown", "### Reply to 2"),
        ]
        assert not [
            line
            for line in outside(report)
            if ("<" in line and "#a1b2c3" not in line) or "forged" in line
        ]


def test_no_line_is_forged() -> None:
    """Line ends in values, names and separators do not become lines of the report."""
    evil = "x\r\nHost: evil.example.com\n\n```\n\u2028\x85\x0b"
    headers = (
        *((name, evil) for name in ("User-Agent", "Accept", "Cookie", "Content-Type", "Host")),
        ("Content-Type", "image/jpeg;\n\n name=a;\u2028 b=c"),
        ("Accept", "*/*,\n\n*/*"),
        ("Cookie", "a=b;\n\nc=d"),
        (evil, "1"),
    )
    body = b'--B\r\nContent-Disposition: form-data; name="a\x0b\x85b"\r\n\r\n1\r\n--B--'
    one = RecordedRequest(evil, evil, evil, headers, None, evil, evil)
    report = markdown(
        [one, one._replace(answered=RecordedResponse(200, evil, headers, evil.encode()))],
        [RecordedQuestion(evil, evil, evil)],
    )
    assert len(sections(report)) == 6
    assert "evil" not in report
    assert report.count("\nHost: ") == 3
    assert "image/jpeg;\\n\\n name=" in report
    assert len(sections(markdown([post(body, "multipart/form-data; boundary=B")]))) == 3


def test_invisible() -> None:
    """Control characters, direction marks and surrogates are made visible."""
    text = "<a\x00\x1b[31m\u202e\u200b\ufeff\x7f\ud800\udcff>".encode("utf-8", "surrogatepass")
    report = markdown(
        [
            post(text, "text/xml", ("Server", "a\x00\x1b\u202e\u200b\x7f\ud800\udcff\xa0")),
            post(b"<a>\n\r\n<b>\r<c>\t"),
        ],
        version="`<b>\n# x",
    )
    assert report.isascii() or not re.search(r"[^\x20-\x7e\n\t…]", report)
    assert "Server: <text 8>\\xa0\n" in untagged(report)
    assert "<a>\n\\r\n<b>\\r<c>\t\n" in report
    assert " in ??b??? x." in report


# Anything


@PROPERTY
@given(st.binary(max_size=400), st.sampled_from(["", "text/xml", FORM, "image/x"]))
def test_any_body(data: bytes, content_type: str) -> None:
    """A report of any body has all sections."""
    for body in (data, b"<" + data, b"--B\r\nA: b\r\n\r\n" + data):
        assert len(sections(markdown([post(body, content_type)]))) == 3


TEXTS = st.text(max_size=40) | st.text("`<>#\r\n a1:/?=&;%\"'\\@.\ud800", max_size=40)


HEADERS = st.lists(
    st.tuples(
        TEXTS | st.sampled_from(["Authorization", "Cookie", "Set-Cookie", "Content-Type", "Host"]),
        TEXTS,
    ),
    max_size=4,
).map(tuple)
BYTES = TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass"))
REPLIES = st.builds(RecordedResponse, st.just(-1), TEXTS, HEADERS, BYTES)
REQUESTS = st.builds(
    RecordedRequest, *(TEXTS, TEXTS, TEXTS, HEADERS, BYTES, TEXTS, TEXTS), st.floats(), REPLIES
)


@PROPERTY
@given(REQUESTS)
def test_any_request(one: RecordedRequest) -> None:
    """A report of any request has all sections."""
    login = one._replace(path=f"/facebook/auth{one.path}", method="POST")
    report = markdown([one, login], version=one.version)
    assert len(sections(report)) == 5
    assert report.encode().decode() == report


SIZE = 4 << 20


@pytest.mark.parametrize("content_type", ["text/xml", bodies.CONTENT_TYPE], ids=["xml", "parts"])
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(Random(0).randbytes(SIZE), id="random"),
        *(
            pytest.param(unit * (SIZE // len(unit)), id=repr(unit))
            for unit in (b"<a b='", b"<!-- ", b"a=%41&", b"\n--B\nA: b", b"a@b.c ", b"`", b"\0")
        ),
    ],
)
def test_large(body: bytes, content_type: str) -> None:
    """A large body takes linear time, and little more memory than itself."""
    request = post(body, content_type)
    begin = time.process_time()
    report = markdown([request._replace(answered=RecordedResponse(400, "", (), body))])
    assert time.process_time() - begin < 10
    assert len(report) < 300_000
    if body.startswith(b"\n"):
        return  # tracemalloc would take long
    tracemalloc.start()
    try:
        markdown([request])
        assert tracemalloc.get_traced_memory()[1] < SIZE + (4 << 20)
    finally:
        tracemalloc.stop()

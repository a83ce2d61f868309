"""The report for a public bug report: useful, without private values, and valid Markdown."""

from __future__ import annotations

import html
import re
import time
from base64 import b64encode
from collections.abc import Callable, Sequence
from random import Random
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nxparse import __version__
from nxparse.inspect import recorded
from nxparse.inspect.recorded import RecordedQuestion, RecordedRequest, RecordedResponse
from nxparse.inspect.report import MAX_LINE, MAX_QUESTIONS, MAX_READ, markdown
from nxparse.server import social
from nxparse.server.hotspot import GLD
from nxparse.server.reply import ACCEPTED, Reply
from tests import bodies
from tests import social as camera
from tests.mitmdump import ROOT
from tests.pictures import photo

VERSION = "mitmproxy 1.2"

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
DUID = "123456789033"
TIMESTAMP = "9717886885"
RECIPIENT = "grandma@elsewhere.example"
ENCRYPTED = [
    camera.base64_of(camera.CRYPT_SESSION_KEY),
    camera.APPLICATION_KEY,
    *(camera.base64_of(camera.encrypt(value.encode())) for value in (USER, PASSWORD)),
]

PRIVATE = [
    *(CLIENT, USER, NAME, PASSWORD, SESSION_KEY, TOKEN, TITLE, TEXT, CAPTION, ALBUM, PHOTO, SERIAL),
    *(MAC, IMEI, HOST, COOKIE, DUID, TIMESTAMP, RECIPIENT, *ENCRYPTED),
    # Not in the conversation.
    "NX300-00:16:32:AA:BB:CC",
    "0016.32aa.bbcc",
    "00_16_32_AA_BB_CC",
    "192-168-17-33",
    "+49 171 1234567",
    "SN:AJKC90D",
    "4711",
    "50 56' 33\" N 6 57' 32\" E",
    "50.9425, 6.9589",
    "cam.mueller-home.de",
    "j.doe7",
]

FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "percent": lambda text: quote(text, ""),
    "every byte": lambda text: "".join(f"%{byte:02x}" for byte in text.encode()),
    "xml": lambda text: html.escape(text, quote=True),
    "xml numbers": lambda text: "".join(f"&#{ord(char)};" for char in text),
    "backslash": lambda text: "".join(f"\\u{ord(char):04x}" for char in text),
    "hex": lambda text: text.encode().hex(),
    "base64": lambda text: b64encode(text.encode()).decode(),
    "base64 percent": lambda text: quote(b64encode(text.encode()).decode(), ""),
}

UNKNOWN_XML = (
    f"<Device Serial=\"{SERIAL}\"><Mac>{MAC}</Mac><Imei>{IMEI}</Imei><Owner Name='{NAME}'/>"
    f"<Server>http://{HOST}:8080/v1/register?sn={SERIAL}</Server></Device>"
)


def sent(data: bytes, reply: Reply | None = None, *, at: float = 0.0) -> RecordedRequest:
    """A request as a camera writes it, with our reply."""
    found = recorded.parse(data)
    assert found
    answered = reply and RecordedResponse(reply.status, tuple(reply.fields(0)), reply.body)
    return found._replace(client=CLIENT, at=at, answered=answered)


def post(
    body: bytes | None, content_type: str = "text/xml", *headers: tuple[str, str], path: str = "/x"
) -> RecordedRequest:
    """An unknown request."""
    fields = (("Host", "h.example.com"), ("Content-Type", content_type), *headers)
    return RecordedRequest("POST", "h.example.com", path, fields, body)


def report_of(*requests: RecordedRequest, questions: Sequence[RecordedQuestion] = ()) -> str:
    return markdown(requests, questions, VERSION)


def conversation() -> list[RecordedRequest]:
    """All requests of a camera, with every private value in them."""
    message = bodies.message_xml(
        sender=f"{NAME} <{USER}>", recipients=[RECIPIENT, USER.upper()], title=TITLE, text=TEXT
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
    form = f"user={quote(USER)}&pass={quote(PASSWORD)}&mode=1".encode()
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
        post(form, "application/x-www-form-urlencoded"),
        post(form, "text/plain"),
    ]


def outside(report: str) -> list[str]:
    """The lines of a report outside of code blocks, which contain no backtick."""
    pieces = re.split("^```$", report, flags=re.MULTILINE)
    assert len(pieces) % 2 == 1, "the last block is not closed"
    assert "`" not in "".join(pieces[1::2])
    return "".join(pieces[::2]).splitlines()


def sections(report: str) -> list[str]:
    return [line for line in outside(report) if line.startswith("#")]


def untagged(report: str) -> str:
    """A report without the digests of its tokens."""
    return re.sub(" #(?:[a-f][0-9]){3}", "", report)


# Privacy


@pytest.fixture(scope="module")
def whole_report() -> str:
    return report_of(*conversation())


@pytest.mark.parametrize("private", PRIVATE)
def test_private(whole_report: str, private: str) -> None:
    """No private value is in the report, in any encoding, letter case or place."""
    written = [form(private) for form in FORMS.values()]
    requests = [request for each in written for request in everywhere(each)]
    questions = [RecordedQuestion(f"{each}.samsungosp.com", each) for each in written]
    report = report_of(*requests, questions=questions)
    for each in written:
        assert each.lower() not in whole_report.lower()
        assert each.lower() not in report.lower()


def everywhere(each: str) -> list[RecordedRequest]:
    """Requests with a value in every place."""
    headers = (
        ("User-Agent", f"NX300 ({each})"),
        (f"X-{each}", "1"),
        ("Accept", f"text/{each}, {each};q={each}"),
        ("Content-Type", f"image/{each}; {each}=1; charset={each}; boundary={each}"),
        ("Authorization", f"Basic {each}"),
        ("Location", f"http://{each}/{each}?{each}"),
        ("Content-Length", f"1 {each}"),
        *((name, each) for name in ("Date", "Server", "Cookie", "X-Model")),
    )
    xml = f"<{each}><a {each}='1' {each} Type='{each}'>{each}<!-- {each} --></a><Pin>{each}</Pin>"
    odd = RecordedRequest(
        each,
        each,
        f"/users/~{each}/x?{each}=1&version={each}&lang={each}&{each}#{each}",
        headers,
        xml.encode(),
        each,
        answered=RecordedResponse(200, (("Server", each),), f"pin: {each}\n{each}".encode()),
    )
    disposition = f'Content-Disposition: {each}; name="{each}"'
    part = f"--B\r\n{disposition}\r\n{each}: 1\r\n\r\n{each}\r\n--B--".encode()
    form_type = "application/x-www-form-urlencoded"
    return [
        odd,
        post(part, f'multipart/form-data; boundary="B"; x="{each}"'),
        post(f"{each}={each}&mode={each}&{each}".encode(), form_type),
        post(f'{{"pin": {each}, "a": ["{each}"]}}'.encode(), path=f"http://{each}/"),
    ]


def test_stable(whole_report: str) -> None:
    """Equal values have equal tokens throughout a report."""
    key = re.search(r'<Response SessionKey="(<hex 32 #\w+>)">', whole_report)
    token = re.search(r'ResourceID="upload/(<hex 32 #\w+>)"', whole_report)
    assert key
    assert token
    assert f'<CryptSessionKey Value="{key[1]}"/>' in whole_report
    assert f'<Request SessionKey="{key[1]}"><Photo>' in whole_report
    assert f'<SessionKey Value="{key[1]}"/>' in whole_report
    assert f"PUT /upload/{token[1]} HTTP/1.1" in whole_report
    assert key[1] != token[1]
    assert len(set(re.findall(r"<ip \d+ #\w+>", whole_report))) == 1
    users = re.findall(r"<address 21 (#\w+)", whole_report)
    assert len(users) == 4  # a receiver, the name in a reply, AllShare and a form
    assert len(set(users)) == 1


def test_reports_differ() -> None:
    """Digests are equal within a report, and differ from those in the next."""
    photo = bodies.jpeg(700)
    requests = [post(photo, "image/jpeg"), post(photo), post(b"", "", ("X-Name", "Doe"))]
    first, again = (report_of(*requests) for _ in range(2))
    for kind in ("image/jpeg 700", "letters 3"):
        [digest] = set(re.findall(f"<{kind} #(.{{6}})>", first))
        assert f"<{kind} #{digest}>" not in again


# Contents


def test_recorded() -> None:
    """The report shows the oddities of an NX300."""
    report = report_of(sent(RECORDED, ACCEPTED))
    head, _, body = RECORDED.decode("utf-8", "replace").partition("\r\n\r\n")
    for line in head.split("\r\n")[2:]:
        name, _, value = line.partition(":")
        if name not in ("Content-Type", "Content-Length") and "Mozilla" not in value:
            assert f"\n{name}: {value.strip()}\n" in report
    plain = untagged(report)
    assert "\nContent-Type: multipart/form-data; boundary=<text 39>\n" in plain
    assert (
        "\nPOST /social/columbus/email?DUID=<digits 12> HTTP/1.0\nAuthorization: OAuth oauth"
        in plain
    )
    assert ',oauth_timestamp="<digits 10>",oauth_version="1.0"' in plain
    heads = re.findall(r"content-disposition.*\r\ncontent-Type.*", body)
    assert len(heads) == 2
    for each in heads:
        assert f"```\n{each.strip()}\n\n".replace("\r\n", "\n") in report
    assert "<email><sender><text 17></sender><receiverList><receiver><text 17></receiver>" in plain
    assert "\nparameter-case at 43\n" in report
    assert "\nclose-delimiter-unmarked at 1239\n" in report
    assert "\nPart 2, 600 bytes at 594:\n" in report
    assert "\n<image/jpeg 600>\n" in plain
    assert "\n200\n" in report
    assert f"\n1 request, made with nx_addon {__version__} in mitmproxy 1.2.\n" in report


def test_origin() -> None:
    """Each request has its host, and a time relative to the first one."""
    requests = [post(None)._replace(at=at) for at in (0.0, 1e9, 1e9 + 2.25, float("nan"))]
    questions = [
        RecordedQuestion("gld.samsungosp.com", "A", CLIENT, 1e9 - 1.0),
        RecordedQuestion("jane.nas.example.org", "AAAA", CLIENT, 1e9 + 0.5),
    ]
    report = untagged(report_of(*requests, questions=questions * MAX_QUESTIONS))
    lines = re.findall("\n(.*)  from <text 0>  to <text 13>\n", report)
    assert lines[:3] == ["-", "1.0 s", "3.2 s"]
    assert sections(report)[-1] == "## DNS questions"
    first, second, *more = report.partition("## DNS questions\n\n```\n")[2].splitlines()
    assert re.fullmatch(r"0.0 s  from <ip 14>  A  gld.samsungosp.com", first)
    assert re.fullmatch(r"1.5 s  from <ip 14>  AAAA  <text 20>", second)
    assert len(more) == MAX_QUESTIONS - 1


# Bodies of all kinds


PNG = b"\x89PNG\r\n\x1a\n"
JPEG = photo(model="NX300") + b"Jane was here" * 40
ONE_FIELD = b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--B--\r\n'
FORM = "multipart/form-data; boundary=B"


def with_message(message: bytes) -> RecordedRequest:
    body = bodies.body([("SAM_1.JPG", bodies.jpeg(100))], message=message)
    return post(body, bodies.CONTENT_TYPE)


PRINTED: dict[str, tuple[RecordedRequest, list[str]]] = {
    "not recorded": (post(None), ["\nThe body was not recorded.\n"]),
    "no body": (post(b""), ["\nNo body.\n"]),
    "picture": (post(JPEG, "image/jpeg"), [f"\n<image/jpeg {len(JPEG)}>\nNX300\n"]),
    "unknown model": (post(photo(model="Jane 7")), ["\n<text 6>\n"]),
    "binary": (post(b"\0\1secret", ""), ["\n<application/octet-stream 8>\n"]),
    "web page": (post(b"<!DOCTYPE html><p>Jane"), ["\n<application/octet-stream 22>\n"]),
    "recorded in part": (
        post(bodies.body([("A.JPG", b"x" * 9000)])[:2000], FORM, ("Content-Length", "9305")),
        ["Body, the first 2000 of 9305 bytes, with 2 parts:", "parameter-case at"],
    ),
    "CP949": (post("<a><w>김</w>1".encode("cp949")), [r"\n<a><w><text \d></w><digits 1>\n```"]),
    "cut in a head": (
        post(bodies.body([(PHOTO, b"")]).partition(b"image/jpeg")[0], bodies.CONTENT_TYPE),
        ['name="message"; fileName="sample.txt"', "cannot be parsed as an upload by e-mail:"],
    ),
    "not multipart": (
        post(b"<a>12</a>", FORM),
        ["```\n<a><digits 2></a>\n```", "the boundary <text 4> never appears"],
    ),
    "no message": (post(ONE_FIELD, FORM), ["the body has no part named message"]),
    "deviation in XML": (
        with_message(bodies.message_xml().replace(b"<title>", b"& <title>")),
        ["multipart-label at .*\nxml-malformed at 152\n"],
    ),
    "no recipients": (
        with_message(b"<email></email>"),
        ["the message names no receiver", "trailing-semicolon at"],
    ),
}


@pytest.mark.parametrize(("request_", "patterns"), PRINTED.values(), ids=PRINTED)
def test_body(request_: RecordedRequest, patterns: list[str]) -> None:
    """Each kind of body is printed or described, without private values."""
    report = untagged(report_of(request_))
    for pattern in patterns:
        assert re.search(pattern, report), report
    assert "Jane" not in report
    assert "secret" not in report


def test_cut_in_value() -> None:
    """Where a long text is cut, in a body or a part, no piece of a value is printed."""
    for size in range(MAX_READ - 56, MAX_READ - 14):
        xml = f"<a><t>{'x' * size}</t><c>{IMEI}</c><d>é{'é' * 9}</d></a>".encode()
        body = bodies.body([], message=xml)
        report = report_of(post(xml), post(body, bodies.CONTENT_TYPE))
        assert report.count("<letters 163") == 2
        assert "<c>4" not in report
        assert report.count("(The rest is left out.)") == 2 * (len(xml) > MAX_READ)


def test_form_fields() -> None:
    """Text in the parts of an unknown upload is redacted; pictures are described."""
    head = b'--B\r\nContent-Disposition: form-data; name="%s"\r\n%s\r\n'
    body = (
        (head % (b"comment", b"")) + b"Jane\r\nsays: hi=Jane\r\n"
        + (head % (b"size", b"")) + b"2\r\n"
        + (head % (b"meta", b"Content-Type: text/xml\r\n")) + b"<m><w>640</w></m>\r\n"
        + (head % (b"pic", b"X-Who: Jane\r\n folded\r\nno colon\r\n")) + PNG + b"Jane\r\n"
        + (head % (b"end", "accept: a\r\nX-김: 7\r\n".encode("cp949")))
        + b"\r\n--B--"
    )  # fmt: skip
    report = untagged(report_of(post(body, FORM)))
    assert "Jane" not in report
    assert "hi" not in report.split("Part 1,")[1].split("Part 2,")[0]
    assert "\n\n<m><w><digits 3></w></m>\n```" in report
    assert "\nX-Who: <text 11>\n" in report
    assert '; name="size"\n\n<digits 1>\n```' in report
    assert "\n<image/png 12>\n" in report
    assert "\naccept: <letters 1>\n<text 3>: <digits 1>\n" in report
    assert re.search("header-malformed at [0-9]+\n", report)


# Markdown


EVIL = "x\r\nHost: evil\n```\n## 9. forged\n<img src=x>\n``````\n\u2028\x85\x0b\x1b\u202e\ud800"


def test_forged() -> None:
    """No text ends its code block, starts a line or contains invisible characters."""
    headers = (
        *((name, EVIL) for name in ("User-Agent", "Accept", "Cookie", "Content-Type", "Host")),
        ("Content-Type", "image/jpeg;\n\n name=a;\u2028 b=c"),
        ("Accept", "*/*,\n\n*/*"),
        ("Server", "a\xa0"),
        (EVIL, EVIL),
    )
    body = EVIL.encode("utf-8", "surrogatepass")
    one = RecordedRequest(EVIL, EVIL, f"/{EVIL}", headers, body, EVIL, EVIL)
    part = b'--B\r\nContent-Disposition: form-data; name="a\x0b\x85b"\r\n\r\n1\r\n--B--'
    report = report_of(
        one,
        one._replace(answered=RecordedResponse(200, headers, b"<%b>" % body)),
        post(part, FORM),
        post(b"<a>\n\r\n<b>\r<c>\t", "", ("Accept", "a/b, " * 5000)),
        questions=[RecordedQuestion(EVIL, EVIL, EVIL)],
    )
    assert sections(report) == [
        "# Report of a camera",
        *("## 1. unknown", "### Reply to 1", "## 2. unknown", "### Reply to 2"),
        *("## 3. unknown", "### Reply to 3", "## 4. unknown", "### Reply to 4"),
        "## DNS questions",
    ]
    assert not re.search(r"evil|forged|[^\x20-\x7e\n\xa0…]", report)
    assert not [line for line in outside(report) if "<" in line and "#a1b2c3" not in line]
    assert report.count("\nHost: ") == 5
    assert "image/jpeg;?? name=" in report
    assert "<a>\n\n<b>?<c>?\n" in report
    assert max(map(len, report.splitlines())) == MAX_LINE


# Any input


@settings(derandomize=True, database=None, deadline=None, max_examples=60)
@given(
    st.text("abcdefgh 0123456789é한&<>'%+", min_size=8, max_size=40).filter(
        lambda text: text == text.strip() and sum(map(str.isalnum, text)) >= 6
    ),
    st.sampled_from(sorted(FORMS)),
)
def test_any_caption(caption: str, form: str) -> None:
    """A caption is not in the report, in any form."""
    written = FORMS[form](caption)
    photo = camera.photo(SESSION_KEY, "SAM_1.JPG", caption)
    report = report_of(
        post(b"", "", ("User-Agent", f"Camera {written}")),
        sent(camera.announce("facebook", "photo", photo)),
    )
    assert caption.lower() not in report.lower()
    assert written.lower() not in report.lower()


@pytest.mark.parametrize("content_type", ["text/xml", bodies.CONTENT_TYPE], ids=["xml", "parts"])
@pytest.mark.parametrize(
    "unit",
    [b"<a b='", b"<!-- ", b"\n--B\nA: b", b"a@b.c ", b"\0", Random(0).randbytes(99)],
    ids=lambda unit: repr(unit[:9]),
)
def test_large(unit: bytes, content_type: str) -> None:
    """A large body takes linear time, and is cut."""
    body = unit * ((4 << 20) // len(unit))
    request = post(body, content_type)
    begin = time.process_time()
    report = report_of(request._replace(answered=RecordedResponse(400, (), body)))
    assert time.process_time() - begin < 10
    assert len(report) < 300_000

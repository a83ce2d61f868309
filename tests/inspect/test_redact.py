"""Redaction of single headers and texts; `test_report` has whole requests."""

from __future__ import annotations

import re
import time

import pytest

from nxparse.inspect.redact import MAX_NAME, Redactor


@pytest.fixture(scope="module")
def redactor() -> Redactor:
    return Redactor()


def untagged(text: str) -> str:
    """A text without the digests of its tokens."""
    return re.sub(" #(?:[a-f][0-9]){3}", "", text)


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        ("123456789033", "<digits 12>"),
        ("00112233445566778899aabbccddeeff", "<hex 32>"),
        ("q83vASNFZ4mrze8BI0VniavN7wEjRWeJq83vASNFZ4k=", "<base64 44>"),
        ("A2Z9QQ44512", "<text 11>"),
        ("rosebud", "<letters 7>"),
        ("jane@home.example", "<address 17>"),
        ("jane%40home.example", "<address 17>"),
        ("192.168.1.23", "<ip 12>"),
        ("정민수", "<text 3>"),
    ],
)
def test_token(redactor: Redactor, original: str, expected: str) -> None:
    """A token has the kind and length of a value."""
    assert untagged(redactor.token(original)) == expected


def test_equal_values(redactor: Redactor) -> None:
    """Equal values have equal tokens, regardless of case and escapes."""
    redacted = (
        redactor.value("user", "jane@home.example"),
        redactor.value("x", "JANE@home.example"),
        redactor.xml("<a>jane&#64;home.example</a>"),
        redactor.target("/?a=jane%40home.example"),
    )
    tokens = [re.findall(r"#\w+", one) for one in redacted]
    assert tokens == [tokens[0]] * 4
    assert redactor.token("a") != redactor.token("b")
    assert redactor.token("a") != Redactor().token("a")


def test_names(redactor: Redactor) -> None:
    """Short identifiers are printed; other names are values, too."""
    for name in ("DUID", "x-osp-version", "LoginPeopleID", "soap:Envelope", "md5"):
        assert redactor.name(name) == name
    for name in (
        "A2Z9QQ44512",
        "jane@home.example",
        "X-00:16:32",
        "Jane Doe",
        "é",
        "a" * (MAX_NAME + 1),
        "`",
    ):
        assert redactor.name(name).startswith("<")


# In these tables None means that everything is printed.


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("www.ospserver.net", None),
        ("GLD.SamsungOSP.com:80", None),
        ("samsung.com.", None),
        ("cn-api.samsungosp.com", None),
        ("graph.facebook.com", None),
        ("jane.samsung.com", "<letters 4>.samsung.com"),
        ("notsamsung.com", "<text 14>"),
        ("cam.fritz.box:8080", "<text 18>"),
        ("10.0.0.1:80", "<text 11>"),
        ("::1", "<text 3>"),
    ],
)
def test_host(redactor: Redactor, host: str, expected: str | None) -> None:
    """The cameras' hosts and well-known domains are printed."""
    assert untagged(redactor.host(host)) == (host if expected is None else expected)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/social/columbus/email?DUID=1234", "/social/columbus/email?DUID=<digits 4>"),
        ("/common/support/firmware/downloadList.do", None),
        ("/v2/facebook/photo?lang=ko&c#top", "/v2/facebook/photo?lang=ko&<letters 1>#<letters 3>"),
        ("/me2day/auth", None),
        ("/upload/cafe0123cafe0123/SAM_1.JPG", "/upload/<hex 16>/<text 9>"),
        ("/~jane/photos", "/<text 5>/photos"),
        ("/photo/12/jane_photo", "/photo/<digits 2>/<text 10>"),
        ("http://jane:x@nas.lan:81/x", "http://<text 6>@<text 10>/<letters 1>"),
        ("", None),
        ("/?q=4711&max=12", "/?q=<digits 4>&max=<digits 2>"),
        ("/?a=http%3A%2F%2Fa.com", "/?a=<text 12>"),
    ],
)
def test_target(redactor: Redactor, target: str, expected: str | None) -> None:
    """Common segments of paths are printed, and the names of parameters."""
    assert untagged(redactor.target(target)) == (target if expected is None else expected)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("User-Agent: sdeClient", None),
        ("User-Agent: SAMSUNG NX500", None),
        ("User-Agent: NX300 (Jane)", "<text 12>"),
        ("Accept: q=jane;q=4711711", "q=<letters 4>;q=<digits 7>"),
        ("Accept: image/gif, */*", None),
        ("Accept: text/jane,*/*", "<text 9>,*/*"),
        ("Content-Length: 1321295", None),
        ("Content-Length: 12 my secret", "<text 12>"),
        ("x-osp-version: v1", None),
        ("X-Model: NX300", None),
        ("X-Owner: jane=1; doe", "<text 11>"),
        ("Date: Thu, 05 Nov 2026 10:20:30 GMT", "<text 29>"),
        ("Host: 192.168.1.7", "<ip 11>"),
        (
            "Referer: http://me:pw@www.samsung.com/x?id=7",
            "http://<text 5>@www.samsung.com/<letters 1>?id=<digits 1>",
        ),
        ("Location: /upload/0123456789abcdef", "/upload/<hex 16>"),
        ("Authorization: Basic bWU6c2VjcmV0MTE=", "Basic <base64 16>"),
        ("Authorization: 1234", "<digits 4>"),
        ("Authorization: s3cret words", "<text 6> <letters 5>"),
        (
            'Proxy-Authorization: Digest username="anna", realm=login, opaque=""',
            'Digest username="<letters 4>", realm=<letters 5>, opaque=""',
        ),
        (
            'Authorization: OAuth oauth_version="1.0",oauth_token=abcd1234, oauth_nonce="x"',
            'OAuth oauth_version="1.0",oauth_token=<hex 8>, oauth_nonce="<letters 1>"',
        ),
        (
            "Cookie: sid=0123456789abcdef; on=1; anna",
            "sid=<hex 16>; on=<digits 1>; <letters 4>",
        ),
        (
            "Set-Cookie: sid=anna7; Domain=.msn.com; Path=/user/anna; Max-Age=60",
            "sid=<text 5>; Domain=.msn.com; Path=/user/<letters 4>; Max-Age=<digits 2>",
        ),
        ("Content-Type: image/jpeg;", None),
        (
            'Content-Type: multipart/form-data; boundary=---anna7; charset=utf-8; name="Anna.jpg"',
            'multipart/form-data; boundary=<text 8>; charset=utf-8; name="<text 8>"',
        ),
        ('content-disposition: form-data; name="binary"; fileName="SAM_1.JPG"', None),
        (
            "Content-Disposition: attachment; name=A2Z9QQ44512; filename*=UTF-8''Jane%20.jpg",
            "attachment; name=<text 11>; filename*=<text 16>",
        ),
        (
            'Content-Disposition: my secret; name="x" ; y',
            '<text 9>; name="x" ; <letters 1>',
        ),
    ],
)
def test_header(redactor: Redactor, line: str, expected: str | None) -> None:
    """The values in a header that are known in their place are printed."""
    name, value = line.split(": ", 1)
    assert untagged(redactor.header(name, value)) == (value if expected is None else expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '<Request Method="login"><UserName Value="anna"/></Request>',
            '<Request Method="login"><UserName Value="<letters 4>"/></Request>',
        ),
        ("<?xml version='1.0' encoding='ks_c_5601-1987'?>\n<a/>", None),
        ("<a b='1'>me@x.org</a", "<a b='<digits 1>'><address 8></a"),
        (
            "<Method>PIN</Method><pin>4711</pin>",
            "<Method><letters 3></Method><pin><digits 4></pin>",
        ),
        ("<Fw>1.04</Fw><Model>NX99</Model><Status>succ</Status>", None),
        ("<title><![CDATA[[x] y.]]></title>", "<title><![CDATA[<text 6>]]></title>"),
        ("<body>Sent from\nhome</body>", "<body><text 14></body>"),
        (
            "<m><!-- anna --><user><![CDATA[1234]]></user><a><![CDATA[1 <b>]]>",
            "<m><!-- <letters 4> --><user><![CDATA[<digits 4>]]></user><a><![CDATA[<text 5>]]>",
        ),
        ("<a><!-- me@x.org", "<a><!-- <address 8>"),
        ("<e><![CDATA[cut", "<e><![CDATA[<letters 3>"),
        ("<e a='cut", "<e a='<letters 3>"),
        ('<UserName="bob"/>', '<UserName="<letters 3>"/>'),
        (
            "<File Name='SAM_1.JPG'/><Owner Name='SAM_1.JPG'/>",
            "<File Name='SAM_1.JPG'/><Owner Name='<text 9>'/>",
        ),
        (
            "<Photo ResourceID='upload/0123456789abcdef'/>",
            "<Photo ResourceID='upload/<hex 16>'/>",
        ),
        (
            "<R><!DOCTYPE anna>< b c><1 a=b/><d secret e='1\"' more",
            "<R><!DOCTYPE <letters 4>>< <letters 1> <letters 1>><<digits 1> a=<letters 1>/>"
            "<d <letters 6> e='<digits 1>\"' <letters 4>",
        ),
        ("<Location>Rome?jane=1</Location>", "<Location><text 11></Location>"),
        ("serial: X1Y2\r\nmethod: list\r\n", "<text 12>\r\n<text 12>\r\n"),
        ('{"name": "anna"}', "<text 16>"),
    ],
)
def test_text(redactor: Redactor, text: str, expected: str | None) -> None:
    """The structure of XML is printed; other text line by line."""
    assert untagged(redactor.text(text)) == (text if expected is None else expected)


def test_form(redactor: Redactor) -> None:
    """A form, by its Content-Type, is printed as pairs."""
    form = redactor.text("id=X1Y2&method=list", "application/x-www-form-urlencoded")
    assert untagged(form) == "id=<text 4>&method=list"


def test_time_is_linear(redactor: Redactor) -> None:
    begin = time.process_time()
    for unit in ("a", "a@", "1.", "::", "%25", "a1", "&#1;", "http://", " ", "/", "<a b='", '{"'):
        text = unit * ((1 << 13) // len(unit))
        for redact in (redactor.text, redactor.xml, redactor.target, redactor.host, redactor.token):
            redact(text)
        for name in ("cookie", "content-type", "accept", "user-agent"):
            redactor.header(name, text)
    assert time.process_time() - begin < 15

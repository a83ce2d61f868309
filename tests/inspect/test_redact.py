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
        redactor.header("x", "JANE@home.example"),
        redactor.text("<a>jane&#64;home.example</a>"),
        redactor.url("/?a=jane%40home.example"),
    )
    tokens = [re.findall(r"#\w+", one) for one in redacted]
    assert tokens == [tokens[0]] * 4
    assert redactor.token("a") != redactor.token("b")
    assert redactor.token("a") != Redactor().token("a")


def test_names(redactor: Redactor) -> None:
    """Short identifiers are printed; other names are redacted like values."""
    for name in ("DUID", "x-osp-version", "LoginPeopleID", "soap:Envelope", "md5", ""):
        assert redactor.name(name) == name
    for name in (
        *("A2Z9QQ44512", "jane@home.example", "X-00:16:32", "Jane Doe", "é", "`"),
        "a" * (MAX_NAME + 1),
    ):
        assert redactor.name(name).startswith("<")


# In these tables None means that everything is printed.


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("host: www.ospserver.net", None),
        ("host: GLD.SamsungOSP.com:80", None),
        ("host: cn-api.samsungosp.com", None),
        ("host: jane.doe.samsung.com", "<text 20>"),
        ("host: notsamsung.com", "<text 14>"),
        ("host: ::1", "<text 3>"),
        ("album: NX300", None),
        ("album: Rome 2013", "<text 9>"),
        ("file: SAM_4371.JPG", None),
        ("caption: SAM_4371.JPG", "<text 12>"),
        ("X-Model:  SAMSUNG NX500 ", None),
        ("owner: https://www.samsung.com/auth?q=1", "https://www.samsung.com/auth?q=<digits 1>"),
        ("resourceid: upload/0123456789abcdef", "upload/<hex 16>"),
    ],
)
def test_value(redactor: Redactor, line: str, expected: str | None) -> None:
    """Values that are known for their field are printed."""
    place, text = line.split(": ", 1)
    assert untagged(redactor.value(place, text)) == (text if expected is None else expected)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/social/columbus/email?DUID=1234", "/social/columbus/email?DUID=<digits 4>"),
        ("/me2day/auth", None),
        ("/facebook/photo?lang=ko&c#top", "/facebook/photo?lang=ko&<letters 1>#<letters 3>"),
        ("/upload/cafe0123cafe0123/SAM_1.JPG", "/upload/<hex 16>/<text 9>"),
        ("/~jane/photo", "/<text 5>/photo"),
        ("/jane/12/jane_photo", "/<letters 4>/<digits 2>/<text 10>"),
        ("http://jane:x@nas.lan:81/x", "http://<address 17>/<letters 1>"),
        ("http://gld.samsungosp.com:80/", None),
        ("", None),
        ("/?a=http%3A%2F%2Fa.com", "/?a=<text 12>"),
        ("/?pin=&AbCdEf=", "/?pin=&<text 7>"),
        ("/jane=1/x;jane=1?id=a", "/<text 6>/<text 8>?id=<letters 1>"),
    ],
)
def test_url(redactor: Redactor, url: str, expected: str | None) -> None:
    """Segments of known paths are printed, and the names of parameters."""
    assert untagged(redactor.url(url)) == (url if expected is None else expected)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("User-Agent: SAMSUNG NX500", None),
        ("User-Agent: NX300 (Jane)", "NX300 (<letters 4>)"),
        ("Accept: q=jane;q=4711711", "q=<letters 4>;q=<digits 7>"),
        ("Accept: text/jane, image/gif, */*", "text/<letters 4>, image/gif, */*"),
        ("Content-Length: 12 my secret", "<text 12>"),
        ("x-osp-version: v1", None),
        ("X-Owner: jane doe, jane=1", "<text 16>"),
        ('ETag: "jane="', "<text 7>"),
        ("Host: 192.168.1.7", "<ip 11>"),
        ("Referer: http://me:pw@h.com/x?id=7", "http://<address 11>/<letters 1>?id=<digits 1>"),
        ("Location: /upload/0123456789abcdef", "/upload/<hex 16>"),
        ("Location: /jane=1/upload", "/<text 6>/upload"),
        ("Authorization: Basic bWU6c2VjcmV0MTE=", "Basic <base64 16>"),
        ("Authorization: s3cret words", "<text 6> <letters 5>"),
        ("Authorization: YWJj=", "<text 5>"),
        (
            'Authorization: Digest user="an na", realm=login',
            'Digest user="<text 5>", realm=<letters 5>',
        ),
        ('Authorization: OAuth a="",oauth_version="1.0"', None),
        ("Cookie: sid=cafe0123; anna; name=anna", "sid=<hex 8>; <letters 4>; name=<letters 4>"),
        (
            "Set-Cookie: Domain=.msn.com; Path=/upload/anna",
            "Domain=.msn.com; Path=/upload/<letters 4>",
        ),
        ("Content-Type: image/jpeg;", None),
        ("Content-Type: multipart/mixed; boundary=-a7", "multipart/mixed; boundary=<text 3>"),
        (
            'Content-Type: text/xml; charset=utf-8; name="Anna"',
            'text/xml; charset=utf-8; name="<letters 4>"',
        ),
        ('content-disposition: form-data; name="binary"; fileName="SAM_1.JPG"', None),
        ("Content-Disposition: my; name=A2Z9", "<letters 2>; name=<text 4>"),
        (
            "Content-Disposition: form-data; filename*=UTF-8''J%20",
            "form-data; filename*=<text 5>''<text 2>",
        ),
    ],
)
def test_header(redactor: Redactor, line: str, expected: str | None) -> None:
    """Words and parameters that are known for their header are printed."""
    name, value = line.split(": ", 1)
    assert untagged(redactor.header(name, value)) == (value if expected is None else expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '<R Method="login"><User Value="a"/></R>',
            '<R Method="login"><User Value="<letters 1>"/></R>',
        ),
        ("<?xml version='1.0' encoding='ks_c_5601-1987'?>\n<a/>", None),
        ("<a b='1'>me@x.org</a", "<a b='<digits 1>'><address 8></a"),
        ("<Method>PIN</Method><pin>4711</p>", "<Method><letters 3></Method><pin><digits 4></p>"),
        ("<Fw>1.04</Fw><Model>NX99</Model><Status>succ</Status>", None),
        ("<title><![CDATA[[x] <y>.]]></title>", "<title><![CDATA[<text 8>]]></title>"),
        ("<body>Sent from\nhome > x</body>", "<body><text 18></body>"),
        ("<m><!-- anna --><e><![CDATA[cut", "<m><!-- <letters 4> --><e><![CDATA[<letters 3>"),
        ("<e a='cut", "<e a='<letters 3>"),
        ("<D Type='camera' Serial='A2Z9'>", "<D Type='camera' Serial='<text 4>'>"),
        ("<Server>http://a.b/auth</Server>", "<Server>http://<text 3>/auth</Server>"),
        ('<UserName="bob"/>', '<UserName="<letters 3>"/>'),
        ("<File Name='SAM_1.JPG'/>", None),
        ("<Owner Name='SAM_1.JPG'/>", "<Owner Name='<text 9>'/>"),
        ("<sender>Jane <jane@home.example></a<b>", "<sender><letters 4> <<address 17>></a<b>"),
        ("<!DOCTYPE anna>< b>", "<!DOCTYPE <letters 4>>< <letters 1>>"),
        ("<1 a=b d>", "<<digits 1> a=<letters 1> <letters 1>>"),
        ("<Location>Rome?jane=1</Location>", "<Location><text 11></Location>"),
        ("serial: X1Y2\r\nmethod: list\r\n", "<text 12>\r\n<text 12>\r\n"),
        ('{"name": "anna"}', "<text 16>"),
    ],
)
def test_text(redactor: Redactor, text: str, expected: str | None) -> None:
    """The structure of XML is printed; other text line by line."""
    assert untagged(redactor.text(text)) == (text if expected is None else expected)


def test_form(redactor: Redactor) -> None:
    """A body with the Content-Type of a form is printed as pairs."""
    form = redactor.text("id=X1Y2&method=list", "application/x-www-form-urlencoded")
    assert untagged(form) == "id=<text 4>&method=list"


def test_time_is_linear(redactor: Redactor) -> None:
    begin = time.process_time()
    units = ["a", "a@", "1.", "::", "%25", "a1", "&#1;", "http://", " ", "/", "<a b='", '{"', "= "]
    units.append("?u=http://a")
    for unit in units:
        text = unit * ((1 << 13) // len(unit))
        for redact in (redactor.text, redactor.url, redactor.token):
            redact(text)
        for name in ("cookie", "user-agent"):
            redactor.header(name, text)
    redactor.text("<" + "= " * 4096)
    assert time.process_time() - begin < 10

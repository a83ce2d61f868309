"""What is left of headers and texts; `test_shareable` has whole requests."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nxparse.inspect import redact
from nxparse.inspect.pseudonyms import Pseudonyms

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=200)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        pytest.param("user-agent", "sdeClient", "sdeClient", id="plain"),
        pytest.param("user-agent", "me@x.org", "address-1@example.org", id="address"),
        pytest.param("content-length", "1321295", "1321295", id="size"),
        pytest.param("range", "bytes=0-499", "bytes=0-499", id="sizes"),
        pytest.param("content-length", "12 my secret", "text-1 (12 characters)", id="no-size"),
        pytest.param("host", "www.ospserver.net", "www.ospserver.net", id="host"),
        pytest.param("host", "192.168.1.7:8080", "ip-1:8080", id="host-at-home"),
        pytest.param(
            "referer",
            "http://me:pw@h.example.com/a?id=77123",
            "http://text-1 (5 characters)@h.example.com/a?id=digits-5",
            id="url",
        ),
        pytest.param(
            "location", "/upload/0123456789abcdef", "/upload/hex-16", id="url-without-host"
        ),
        pytest.param("x-serial", "X1Y2Z3X4Y5", "alnum-10", id="unknown"),
        # Credentials.
        pytest.param("authorization", "Basic bWU6c2VjcmV0", "Basic alnum-12", id="basic"),
        pytest.param("authorization", "Bearer a.b-c", "Bearer text-1 (5 characters)", id="bearer"),
        pytest.param("authorization", "1234", "digits-4", id="no-scheme"),
        pytest.param(
            "authorization", "s3cret words", "text-1 (12 characters)", id="what-is-no-scheme"
        ),
        pytest.param(
            "proxy-authorization",
            'Digest username="anna", realm=login, opaque=""',
            'Digest username="text-1 (4 characters)", realm=text-2 (5 characters), opaque=""',
            id="digest",
        ),
        pytest.param(
            "authorization",
            'OAuth oauth_version="1.0", oauth_token=abcd1234, oauth_signature_method="HMAC-SHA1"',
            'OAuth oauth_version="1.0", oauth_token=hex-8, oauth_signature_method="HMAC-SHA1"',
            id="oauth",
        ),
        pytest.param(
            "authorization", 'OAuth a="b" more', "OAuth text-1 (10 characters)", id="no-pairs"
        ),
        # Cookies.
        pytest.param(
            "cookie",
            "sid=0123456789abcdef; on=1; anna",
            "sid=hex-16; on=digits-1; text-1 (4 characters)",
            id="cookie",
        ),
        pytest.param(
            "cookie",
            "path=/user/anna; domain=anna.example",
            "path=text-1 (10 characters); domain=text-2 (12 characters)",
            id="cookie-that-looks-like-an-attribute",
        ),
        pytest.param(
            "set-cookie",
            "sid=0123456789abcdef; Domain=.home.lan; Path=/user/anna; Max-Age=60; HttpOnly",
            "sid=hex-16; Domain=.host-1; Path=/user/text-1 (4 characters); Max-Age=60; HttpOnly",
            id="set-cookie",
        ),
        pytest.param(
            "set-cookie",
            "a=b c; Max-Age=me@x.org",
            "a=text-1 (3 characters); Max-Age=address-1@example.org",
            id="set-cookie-with-something-else",
        ),
        # Parameters.
        pytest.param(
            "content-type",
            "image/jpeg; name=Anna",
            "image/jpeg; name=text-1 (4 characters)",
            id="file-name",
        ),
        pytest.param(
            "content-type",
            'multipart/form-data; boundary=anna7; charset=utf-8; name="Anna in Rome.jpg"',
            'multipart/form-data; boundary=anna7; charset=utf-8; name="file-1.jpg"',
            id="content-type",
        ),
        pytest.param(
            "content-disposition",
            'form-data; name="binary"; fileName="SAM_1.JPG"; x=anna',
            'form-data; name="binary"; fileName="SAM_1.JPG"; x=text-1 (4 characters)',
            id="content-disposition",
        ),
        pytest.param(
            "content-disposition",
            "form-data; boundary=anna7; name=my secret",
            "form-data; boundary=text-1 (5 characters); name=text-2 (9 characters)",
            id="no-boundary-here",
        ),
        pytest.param(
            "content-disposition",
            'my secret; name=x "; y',
            "text-2 (9 characters); name=text-1 (3 characters); y",
            id="misspelled",
        ),
    ],
)
def test_field(name: str, value: str, expected: str) -> None:
    """Of a header stays what says nothing of anybody."""
    assert redact.field(Pseudonyms(), name, value) == expected


def test_basic_is_two_secrets() -> None:
    """A user and a password that were seen in base64 are known in clear, too."""
    names = Pseudonyms()
    redact.field(names, "authorization", "Basic YW5uYWJlbGxlOmNvcnJlY3QgaG9yc2U=")
    told = names.sweep("X-Test: annabelle and correct horse")
    assert told == "X-Test: text-1 (9 characters) and text-2 (13 characters)"


HEAD = 'content-Disposition: form-data; name="binary"; fileName="SAM_1.JPG"\r\n'


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(
            (HEAD + "A:me@x.org\r\n").encode(),
            HEAD + "A:address-1@example.org\r\n",
            id="spelling",
        ),
        pytest.param(
            b"X-User: anna\n\tsmith\n next\n",
            "X-User: text-1 (4 characters)\n\ttext-2 (5 characters)\n text-3 (4 characters)\n",
            id="folded",
        ),
        pytest.param(b" 1234\r\n", " digits-4\r\n", id="folded-behind-nothing"),
        pytest.param(
            b"Content-Type: text/plain\r\nsecret\r\n",
            "Content-Type: text/plain\r\ntext-1 (6 characters)\r\n",
            id="without-colon",
        ),
        pytest.param(
            "X-User: 안나\r\n".encode("cp949"), "X-User: text-1 (2 characters)\r\n", id="korean"
        ),
        pytest.param(b"X-User: \xff\xff\xff", "X-User: text-1 (3 characters)", id="not-a-text"),
    ],
)
def test_head(data: bytes, expected: str) -> None:
    """The head of a part keeps its spelling, and a name that a camera gave to a file."""
    assert redact.head(Pseudonyms(), data) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            '<Request Method="login"><UserName Value="anna"/></Request>',
            '<Request Method="login"><UserName Value="text-1 (4 characters)"/></Request>',
            id="xml",
        ),
        pytest.param(
            "\ufeff<?xml version='1.0' encoding='ks_c_5601-1987'?><a/>", None, id="nothing-private"
        ),
        pytest.param("<a b='1'>me@x.org</a", "<a b='1'>address-1@example.org</a", id="almost-xml"),
        pytest.param(
            "<method><!-- anna --><user><![CDATA[1234]]></user><a><![CDATA[1 <b>]]>",
            "<method><!-- text-1 (4 characters) --><user><![CDATA[digits-4]]></user>"
            "<a><![CDATA[text-2 (5 characters)]]>",
            id="comment-and-cdata",
        ),
        pytest.param(
            "<a><!-- me@x.org",
            "<a><!-- address-1@example.org",
            id="comment-cut",
        ),
        pytest.param(
            "<method>x<user>login</user>y</method>login<method/>z</x></y>login",
            "<method>x<user>text-1 (5 characters)</user>y</method>login<method/>"
            "text-2 (1 characters)</x></y>login",
            id="what-an-element-tells-of-its-text",
        ),
        pytest.param(
            "<Photo ResourceID='upload/0123456789abcdef' xmlns='http://www.w3.org/x/abc?y'/>",
            "<Photo ResourceID='upload/hex-16' xmlns='http://www.w3.org/x/abc?y'/>",
            id="what-an-attribute-is-for",
        ),
        pytest.param(
            "<a ResourceID='0123456789abcdef'>", "<a ResourceID='hex-16'>", id="id-without-path"
        ),
        pytest.param(
            "<name type='anna' n='12'/><user type='eve'/><a n='12' user='12'/>",
            "<name type='anna' n='digits-2'/><user type='text-1 (3 characters)'/>"
            "<a n='12' user='digits-2'/>",
            id="what-two-names-tell-of-a-value",
        ),
        pytest.param(
            "<R><!DOCTYPE anna>< b c><1 a=b/><d secret e='1\"' more",
            "<R><!DOCTYPE text-1 (4 characters)>< text-2 (3 characters)>"
            "<digits-1 a=text-3 (1 characters)/><d text-4 (6 characters) e='text-5 (2 characters)'"
            " text-6 (4 characters)",
            id="what-is-no-attribute",
        ),
        pytest.param(
            "<a>list &amp; 1</a><b>login</b><c>&#108;ogin</c><d>a &lt; &lt;b@x.org&gt;</d>",
            "<a>text-1 (8 characters)</a><b>login</b><c>&#108;ogin</c>"
            "<d>text-2 (1 characters) &lt; &lt;address-1@example.org&gt;</d>",
            id="references",
        ),
        pytest.param("id=X1Y2Z3X4Y5&method=list", "id=alnum-10&method=list", id="form"),
        pytest.param(
            "serial: X1Y2Z3X4Y5\nmethod: list", "serial: alnum-10\nmethod: list", id="fields"
        ),
        pytest.param(
            "{\n  'name': 'anna',\n  'method': 'list'\n}\n",
            "{\n  'name': 'text-1 (4 characters)',\n  'method': 'list'\n}\n",
            id="fields-in-brackets",
        ),
        pytest.param("name=anna smith", "name=text-1 (10 characters)", id="one-field"),
        pytest.param("Dear: Anna", "text-1 (10 characters)", id="one-line-with-a-colon"),
        pytest.param("Dear Anna,\nlogin\n", "text-1 (10 characters)\nlogin\n", id="lines-of-words"),
    ],
)
def test_readable(text: str, expected: str | None) -> None:
    """A text keeps its structure, whatever that is."""
    assert redact.readable(Pseudonyms(), text) == (text if expected is None else expected)


@PROPERTY
@given(st.text("<>&;/'\"= \n\tabAB01@.:", max_size=80))
def test_anything(text: str) -> None:
    """Whatever it is, it can be told, and an address in it never is."""
    told = redact.readable(Pseudonyms(), f"{text} someone@secret.example {text}")
    assert "someone@secret" not in told

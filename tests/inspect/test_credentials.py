"""Credentials are hidden in requests that are stored or logged; the rest stays as it was."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nxparse.inspect.credentials import hide_in_body, hide_in_headers, hide_in_url
from tests import social

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=200)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        pytest.param("Authorization", "Basic bWU6c2VjcmV0", "Basic (hidden)", id="basic"),
        pytest.param("authorization", "Bearer a.b-c", "Bearer (hidden)", id="bearer"),
        pytest.param("Proxy-Authorization", "1234", "(hidden)", id="no-scheme"),
        pytest.param(
            "Authorization",
            'OAuth oauth_nonce="1a",oauth_signature="x/y=",oauth_signature_method="HmacSHA1"',
            'OAuth oauth_nonce="(hidden)",oauth_signature="(hidden)",'
            'oauth_signature_method="HmacSHA1"',
            id="oauth",
        ),
        pytest.param("Cookie", "sid=0123; on=1", "sid=(hidden); on=(hidden)", id="cookie"),
        pytest.param("Cookie", "anna", "(hidden)", id="cookie-without-name"),
        pytest.param("Set-Cookie", "sid=0123", "sid=(hidden)", id="set-cookie"),
        pytest.param("X-Auth-Token", "0123", "(hidden)", id="token"),
        pytest.param("Referer", "http://h/?pw=1&password=a", "http://h/?pw=1&password=(hidden)",
            id="url"),
        pytest.param("User-Agent", "sdeClient", "sdeClient", id="other"),
        pytest.param("x-osp-version", "v1", "v1", id="osp"),
    ],
)  # fmt: skip
def test_headers(name: str, value: str, expected: str) -> None:
    """Authorization, cookies, and headers whose names are those of credentials."""
    assert hide_in_headers(((name, value),)) == ((name, expected),)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/x?user=me&mode=1", "/x?user=(hidden)&mode=1"),
        ("http://h/x?a=1;PASSWORD=s%20x#top", "http://h/x?a=1;PASSWORD=(hidden)#top"),
        ("http://me:secret@h/x", "http://(hidden)@h/x"),
        ("/x?oauth_token=1&oauth_version=1.0", "/x?oauth_token=(hidden)&oauth_version=1.0"),
        ("/social/columbus/email?DUID=1", "/social/columbus/email?DUID=1"),
    ],
)
def test_url(url: str, expected: str) -> None:
    """User and password before the host, and parameters."""
    assert hide_in_url(url) == expected


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        pytest.param(b'<Password Value="a%20b"/>', b'<Password Value="(hidden)"/>', id="clear"),
        pytest.param(b"<Password Value='a'/>", b"<Password Value='(hidden)'/>", id="single-quotes"),
        pytest.param(b'<PASSWORD VALUE="a"/>', b'<PASSWORD VALUE="(hidden)"/>', id="upper-case"),
        pytest.param(b'<Password\n Use="" Value = "a">', b'<Password\n Use="" Value = "(hidden)">',
            id="white-space"),
        pytest.param(b'<CryptSessionKey Value="a+/="/>', b'<CryptSessionKey Value="(hidden)"/>',
            id="key"),
        pytest.param(b"<password>a&lt;b</password>", b"<password>(hidden)</password>",
            id="allshare"),
        pytest.param(b'<Password Value="a', b'<Password Value="(hidden)', id="cut"),
        pytest.param(b'<UserName Value="a"/>', b'<UserName Value="(hidden)"/>', id="user"),
        pytest.param(b"<CryptSessionKey/><a>", b"<CryptSessionKey/><a>", id="no-value"),
        pytest.param(b"<loginID>a@x.org</loginID>", b"<loginID>(hidden)</loginID>",
            id="allshare-user"),
        pytest.param(b"\xff\0", b"\xff\0", id="no-text"),
        pytest.param(b"", b"", id="empty"),
        pytest.param(b"""<Password Value="it's me"/>""", b'<Password Value="(hidden)"/>',
            id="other-quote"),
        pytest.param(b"""<Password Value='a"b'/>""", b"<Password Value='(hidden)'/>",
            id="other-quote-in-single-ones"),
        pytest.param(b'<Password Value="a>b<c"/>', b'<Password Value="(hidden)"/>',
            id="angle-brackets"),
        pytest.param(b'<Password="secret"/>', b'<Password="(hidden)"/>', id="no-element-name"),
        pytest.param(b"<Password Value=a/b/><x/>", b"<Password Value=(hidden)/><x/>",
            id="unquoted"),
        pytest.param(b"<password >x</password>", b"<password >(hidden)</password>", id="blank"),
        pytest.param(b"<password><![CDATA[x]]></password>", b"<password>(hidden)</password>",
            id="cdata"),
        pytest.param(b"<Password Value=a'b/><x/>", b"<Password Value=(hidden)'b/><x/>",
            id="quote-behind-unquoted"),
        pytest.param(b"""<Password a=b="c" d=e=='f'>""",
            b"""<Password a=(hidden)="(hidden)" d=(hidden)=='(hidden)'>""", id="several-equals"),
        pytest.param(b"<password></password>a<password>b</Password>",
            b"<password></password>a<password>(hidden)</Password>", id="empty-text"),
        pytest.param(b"<password>a</cryptsessionkey>b</password>c<password>d</x>",
            b"<password>(hidden)</password>c<password>(hidden)</x>", id="other-closing-tag"),
        pytest.param("<password>x</password>".encode("utf-16"), b"(hidden)", id="utf-16"),
        pytest.param(b"<a b='x><Pin>4711</Pin>", b"<a b='x><Pin>(hidden)</Pin>", id="open-quote"),
        pytest.param(b"<ns:Password>x</ns:Password>", b"<ns:Password>(hidden)</ns:Password>",
            id="namespace"),
        pytest.param(b'<R SessionKey="k" Method="login"><File Name="n"/></R>',
            b'<R SessionKey="(hidden)" Method="login"><File Name="n"/></R>', id="attribute"),
        pytest.param(b"user=me&mode=1&Pass=a%20b", b"user=(hidden)&mode=1&Pass=(hidden)",
            id="form"),
        pytest.param(b"""{"password": "a\\"b", "n": 1, 'pin': 4711}""",
            b"""{"password": "(hidden)", "n": 1, 'pin': (hidden)}""", id="json"),
        pytest.param(b"Password: x y\r\nmode: 1", b"Password: (hidden) y\r\nmode: 1", id="field"),
        pytest.param(
            b'--B\r\nContent-Disposition: form-data; name="password"\r\n\r\nx\r\ny\r\n--B\r\n'
            b'Content-Disposition: form-data; name="mode"\r\n\r\n1\r\n--B--',
            b'--B\r\nContent-Disposition: form-data; name="password"\r\n\r\n(hidden)\r\n--B\r\n'
            b'Content-Disposition: form-data; name="mode"\r\n\r\n1\r\n--B--', id="multipart"),
        pytest.param(b"<userAuthRequest><a>1</a></userAuthRequest>",
            b"<userAuthRequest><a>1</a></userAuthRequest>", id="element-with-children"),
    ],
)  # fmt: skip
def test_body(body: bytes, shown: bytes) -> None:
    """Passwords, and the keys to them, are taken out of a body; the rest is as it was."""
    assert hide_in_body(body) == shown


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"<password>" * 6_000, id="no-closing-tag"),
        pytest.param(b"</password>" + b"<password>x" * 6_000, id="closing-tag-first"),
        pytest.param(b"<password>x" * 6_000 + b"</cryptsessionkey>", id="other-closing-tag"),
        pytest.param(b"<password></password>" * 6_000, id="empty"),
        pytest.param(b"<password " * 6_000, id="cut"),
        pytest.param(b"<password a='" * 6_000, id="quotes"),
        pytest.param(b"=" * 60_000, id="no-tag"),
        pytest.param(b"<password " + b"=a" * 30_000 + b"'", id="no-value"),
        pytest.param(b"<password =" + b" " * 60_000, id="white-space"),
    ],
)
def test_secrets_are_hidden_quickly(body: bytes) -> None:
    """However many tags there are, and however they are left open, it takes no time to speak of."""
    begun = time.process_time()
    hide_in_body(body)
    assert time.process_time() - begun < 2


@pytest.mark.parametrize(
    "request_",
    [
        social.login("me@x.org", "geheim"),
        social.login_qf30("me@x.org", "geheim"),
        social.allshare("me@x.org", "geheim"),
    ],
    ids=["encrypted", "clear", "allshare"],
)
def test_logins(request_: bytes) -> None:
    """Of a login of a camera neither user nor password is left, nor the key to them."""
    hidden = hide_in_body(request_)
    for secret in (b"geheim", b"me@x.org", b"me%40x.org"):
        assert secret not in hidden
    for value in (b"me@x.org", b"geheim"):
        assert social.base64_of(social.encrypt(value)).encode() not in hidden
    assert social.base64_of(social.CRYPT_SESSION_KEY).encode() not in hidden
    assert hidden.count(b"(hidden)") >= 2


@PROPERTY
@given(st.binary(max_size=60), st.text("abc123%", min_size=1, max_size=20))
def test_anything(data: bytes, password: str) -> None:
    """Any bytes are taken, and a body without credentials is not changed."""
    hide_in_body(data)
    secret = f"s3cret{password}"
    for body in (f"<password>{secret}</password>", f"a=1&password={secret}&b=2"):
        assert secret.encode() not in hide_in_body(body.encode())
    plain = b"<a>" + data.replace(b"=", b"").replace(b"<", b"")
    assert hide_in_body(plain) in (plain, b"(hidden)")

from __future__ import annotations

import time

import pytest

from nxparse.inspect.credentials import hide_in_body, hide_in_headers, hide_in_url


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Authorization: Basic bWU6c2VjcmV0", "Basic (hidden)"),
        ("authorization: Bearer a.b-c", "Bearer (hidden)"),
        ("Proxy-Authorization: 1234", "(hidden)"),
        (
            'Authorization: OAuth oauth_nonce="1a",oauth_signature="x/y=",oauth_version="1.0"',
            "OAuth (hidden)",
        ),
        ("Cookie: sid=0123; on=1", "(hidden)"),
        ("Set-Cookie: sid=0123", "(hidden)"),
        ("X-Auth-Token: 0123", "(hidden)"),
        ("Referer: http://h/?pw=1&password=a", "http://h/?pw=1&password=(hidden)"),
        ("User-Agent: sdeClient", "sdeClient"),
        ("x-osp-version: v1", "v1"),
    ],
)
def test_headers(line: str, expected: str) -> None:
    """Authorization, cookies, and headers with the names of credentials are hidden."""
    name, value = line.split(": ", 1)
    assert hide_in_headers(((name, value),)) == ((name, expected),)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/x?user=me&mode=1", "/x?user=(hidden)&mode=1"),
        ("http://h/x?a=1;PASSWORD=s%20x#top", "http://h/x?a=1;PASSWORD=(hidden)"),
        ("http://me:secret@h/x", "http://(hidden)@h/x"),
        ("/x?oauth_token=1&oauth_version=1.0", "/x?oauth_token=(hidden)&oauth_version=1.0"),
        ("/social/columbus/email?DUID=1", "/social/columbus/email?DUID=1"),
        ("/x?a=1%26token=2&b=3+key=4", "/x?a=1%26token=(hidden)&b=3+key=(hidden)"),
        ("/x?pin=''ab&password='a'b&x=1", "/x?pin='(hidden)&password='(hidden)&x=1"),
    ],
)
def test_url(url: str, expected: str) -> None:
    """User and password before the host, and values of secret parameters, are hidden."""
    assert hide_in_url(url) == expected


def part(name: str, value: str) -> str:
    return f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'


# In this table, # stands for "(hidden)".
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('<Password Value="a%20b"/>', '<Password Value="#"/>'),
        ("<Password Value='a'/>", "<Password Value='#'/>"),
        ('<PASSWORD VALUE="a"/>', '<PASSWORD VALUE="#"/>'),
        ('<Password\n Use="" Value = "a">', '<Password\n Use="" Value = "#">'),
        ('<CryptSessionKey Value="a+/="/>', '<CryptSessionKey Value="#"/>'),
        ("<password>a&lt;b</password>", "<password>#</password>"),
        ("<password>a<b</password>", "<password>#</password>"),
        ('<Password Value="a', '<Password Value="#'),
        ('<UserName Value="a"/>', '<UserName Value="#"/>'),
        ("<CryptSessionKey/><a>", "<CryptSessionKey/><a>"),
        ("<loginID>a@x.org</loginID>", "<loginID>#</loginID>"),
        ("\0", "\0"),
        ("", ""),
        ("""<Password Value="it's me"/>""", '<Password Value="#"/>'),
        ("""<Password Value='a"b'/>""", "<Password Value='#'/>"),
        ('<Password Value="a>b<c"/>', '<Password Value="#"/>'),
        ('<Password="secret"/>', '<Password="#"/>'),
        ("<Password Value=a/b/><x/>", "<Password Value=#/><x/>"),
        ("<password >x</password>", "<password >#</password>"),
        ("<password><![CDATA[x]]></password>", "<password>#</password>"),
        ("<Password Value=a'b/><x/>", "<Password Value=#'b/><x/>"),
        ("""<Password a=b="c" d=e=='f'>""", """<Password a=#="#" d=#=='#'>"""),
        ("<key></key>a<key>b</Key>", "<key></key>a<key>#</Key>"),
        ("<password>a</key>b</password>c<password>d</x>", "<password>#</password>c<password>#"),
        ("<a b='x><Pin>4711</Pin>", "<a b='x><Pin>#</Pin>"),
        ("<ns:Password>x</ns:Password>", "<ns:Password>#</ns:Password>"),
        ('<R SessionKey="k" Method="login"/>', '<R SessionKey="#" Method="login"/>'),
        ("user=me&mode=1&Pass=a%20b", "user=#&mode=1&Pass=#"),
        ("""pass=a"b,c;d<e>'f/>&pin="1 2"&x=1""", 'pass=#&pin="#"&x=1'),
        ("pass=''ab&pin='a'b&key=''&x=1", "pass='#&pin='#&key='#'&x=1"),
        ("""{"password": "a\\"b", "n": 1, 'pin': 47}""", """{"password": "#", "n": 1, 'pin': #}"""),
        ("Password: x y\r\nmode: 1", "Password: # y\r\nmode: 1"),
        (part("password", "x\r\ny") + part("mode", "1"), part("password", "#") + part("mode", "1")),
        ("<userAuthRequest><a>1</a></userAuthRequest>",) * 2,
    ],
)
def test_body(body: str, expected: str) -> None:
    """Credentials in a body are hidden; everything else is unchanged."""
    assert hide_in_body(body.encode()).decode() == expected.replace("#", "(hidden)")


def test_other_encodings() -> None:
    """UTF-16 is hidden as a whole, and undecodable bytes are unchanged."""
    assert hide_in_body("<password>x</password>".encode("utf-16")) == b"(hidden)"
    assert hide_in_body(b"\xff\0\x85<Pin>\xe9</Pin>") == b"\xff\0\x85<Pin>(hidden)</Pin>"


def test_time_is_linear() -> None:
    """Many or unclosed tags take little time."""
    begin = time.process_time()
    for unit in (
        *(b"<password>", b"<password>x", b"<password></password>", b"<password ", b"<password a='"),
        *(b"=", b"<password =a", b"<password = "),
    ):
        for end in (b"", b"</cryptsessionkey>", b"'"):
            hide_in_body(b"</password>" + unit * 2_000 + end)
    hide_in_body(b"<password =" + b" " * 20_000)
    assert time.process_time() - begin < 5

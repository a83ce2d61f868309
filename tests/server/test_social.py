"""Requests to the social gateway, and its replies."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nxparse.deviation import BodyError
from nxparse.markup import MAX_BYTES, MAX_ELEMENTS
from nxparse.server import social
from nxparse.server.reply import Reply
from nxparse.server.social import MAX_CAPTION, MAX_NAME, CredentialsError
from tests.social import CRYPT_SESSION_KEY as KEY
from tests.social import base64_of, encrypt, login_of

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=50)

CLEAR = "<CryptSessionKey/>"


def key_element(key: bytes = KEY) -> str:
    return f'<CryptSessionKey Value="{base64_of(key)}"/>'


def login(user: str, key: str = CLEAR) -> bytes:
    """A login with this value for its user, and this element for the key."""
    return login_of(user, "secret", key)


def aes(data: bytes) -> bytes:
    """A login whose user is these bytes, encrypted."""
    return login(quote(base64_of(encrypt(data, KEY)), ""), key_element())


def photo(inside: str, key: str = "k") -> bytes:
    """An announcement with these elements inside Photo."""
    return f'<Request SessionKey="{key}"><Photo>{inside}</Photo></Request>'.encode()


@pytest.mark.parametrize(
    ("value", "user"),
    [
        pytest.param("camera@example.net", "camera@example.net", id="as-it-is"),
        pytest.param("camera%40example.net", "camera@example.net", id="quoted"),
        pytest.param("a%2Bb%2b", "a+b+", id="quoted-plus"),
        pytest.param("a+b", "a+b", id="plus"),
        pytest.param("100%", "100%", id="percent-at-the-end"),
        pytest.param("a&b<c>\"d'", "a&b<c>\"d'", id="escaped"),
        pytest.param(" a%0D%0Ab%09%00c%7F%C2%85%E2%80%A8d ", "a b c d", id="controls"),
        pytest.param("x" * (MAX_NAME + 1), "x" * MAX_NAME, id="beyond-the-limit"),
    ],
)
def test_a_user_in_clear(value: str, user: str) -> None:
    """A user without a key, as from an HMX-QF30, is unquoted to one line."""
    assert social.parse_login(login(value)) == user


@pytest.mark.parametrize(
    ("data", "user"),
    [
        pytest.param(b"sixteen-bytes---", "sixteen-bytes---", id="16"),
        pytest.param(b"seventeen-bytes--", "seventeen-bytes--", id="17"),
        pytest.param(b"a%41+b", "a%41+b", id="not-quoted-inside"),
        pytest.param("사진".encode(), "사진", id="hangul"),
    ],
)
def test_an_encrypted_user(data: bytes, user: str) -> None:
    """A user encrypted with AES, padded or not, is read with the key in the same request."""
    assert social.parse_login(aes(data)) == user


WITH_PLUS = next(name for name in map(str, range(999)) if "+" in base64_of(encrypt(name.encode())))
PLUS = base64_of(encrypt(WITH_PLUS.encode()))


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (PLUS, base64_of(KEY)),
        (quote(PLUS, ""), base64_of(KEY)),
        (PLUS, quote(base64_of(KEY), "")),
    ],
    ids=["not-quoted", "quoted", "key-quoted"],
)
def test_quoted_base64(value: str, key: str) -> None:
    """Base64 may be quoted or not, and a plus sign in it is unchanged."""
    found = social.parse_login(login(value, f'<CryptSessionKey Value="{key}"/>'))
    assert found == WITH_PLUS


NO_USER = "it names no user"
NO_BASE64 = "the name of its user is not base64"
NO_UTF8 = "the name of its user is not UTF-8"


def sizes(key: int, name: int) -> str:
    return f"its key has {key} bytes instead of 32, or the name of its user, {name} bytes, is cut"


def encrypted(size: int) -> bytes:
    """A login whose encrypted user has this many bytes."""
    return login(quote(base64_of(bytes(size)), ""), key_element())


GOOD = base64_of(encrypt(b"camera"))

NO_USERS = {
    "nothing": (b"<Request/>", NO_USER),
    "empty": (login(""), NO_USER),
    "zeros-encrypted": (aes(bytes(16)), NO_USER),
    "no-utf-8": (login("%FF"), NO_UTF8),
    "utf-8-cut": (aes("사진".encode()[:-1]), NO_UTF8),
    "key": (login(GOOD, '<CryptSessionKey Value="!"/>'), NO_BASE64),
    "user": (login("camera@example.net", key_element()), NO_BASE64),
    **{
        f"key-of-{size}": (login(GOOD, key_element(bytes(size))), sizes(size, 16))
        for size in (31, 33)
    },
    **{f"user-of-{size}": (encrypted(size), sizes(32, size)) for size in (1, 15, 17)},
}


@pytest.mark.parametrize(("body", "reason"), NO_USERS.values(), ids=NO_USERS)
def test_no_user(body: bytes, reason: str) -> None:
    """A login whose user cannot be read is refused with 401 and a reason."""
    with pytest.raises(CredentialsError) as caught:
        social.parse_login(body)
    assert isinstance(caught.value, BodyError)
    assert (str(caught.value), caught.value.status) == (reason, 401)


@pytest.mark.parametrize(
    "body",
    [
        b'<Request Method="logout"/>',
        b'<Request Method="LogOut" Timeout="3000"><SessionKey Value="k"/></Request>',
        b"<Request Method=logout>",
        b'<Request><Method Value="logout"/></Request>',
        b'<Method="logout"/>',
        '<?xml version="1.0" encoding="UTF-16"?><Request Method="logout"/>'.encode("utf-16"),
    ],
)
def test_logout(body: bytes) -> None:
    """A logout needs no user."""
    assert social.parse_login(body) is None


@pytest.mark.parametrize(
    "body",
    [
        '<REQUEST METHOD="LOGIN"><USERNAME VALUE="me"/><CRYPTSESSIONKEY/></REQUEST>',
        "<Request Method='login'><UserName Value='me'/></Request>",
        "<Request Method=login><UserName Value=me /><CryptSessionKey/></Request>",
        '<Request Method="login"><UserName="me"/><CryptSessionKey/></Request>',
        '<Request Method="login"><UserName Value="me"><CryptSessionKey></Request>',
        '<Request Method="login"><UserName Value = "me"/><Password Value="a&b"/></Request>',
        '<UserName Value="me"/><CryptSessionKey Value=""/><Password Value="x"/>',
        '\ufeff \r\n<Request><UserName Value="me"/></Request>\0\0',
        '<!-- <UserName> --><Request><UserName Value="me"/></Request>',
        '<Request Method="login"><UserName Value="me"/><UserName Value="you"/></Request>',
    ],
)
def test_a_login_spelled_otherwise(body: str) -> None:
    """Letter case and broken XML do not matter."""
    assert social.parse_login(body.encode()) == "me"


ANNOUNCEMENTS = {
    "no-names": ("<R><Photo><Album/><File/><Content/></Photo></R>", ("", None, "", "")),
    "key-element": ('<R><SessionKey Value="k"/><File Name="f"/></R>', ("k", "f", "", "")),
    "upper-case": (
        '<R SESSIONKEY="K"><ALBUM NAME="A"/><FILE NAME="F"/><CONTENT>C</CONTENT></R>',
        ("K", "F", "A", "C"),
    ),
    "unquoted": (
        "<R SessionKey=k><Album Name=a/><File Name=f.jpg /><Content>c</Content></R>",
        ("k", "f.jpg", "a", "c"),
    ),
    "no-element": ('<SessionKey="k"/><File Name="f"/><Content>c', ("k", "f", "", "c")),
    "category-of-a-video": ('<R SessionKey="k"><Category Name="b"/></R>', ("k", None, "", "")),
}


@pytest.mark.parametrize(("body", "expected"), ANNOUNCEMENTS.values(), ids=ANNOUNCEMENTS)
def test_an_announcement_spelled_otherwise(body: str, expected: object) -> None:
    """Missing values are empty, others are found."""
    assert social.parse_announcement(body.encode()) == expected


@pytest.mark.parametrize(
    ("name", "album"),
    [
        ("a&#13;&#10;b&#9;c", "a b c"),
        (" a\x85b\u2028c\x7f ", "a b c"),
        ("x" * (MAX_NAME + 1), "x" * MAX_NAME),
    ],
    ids=["references", "unicode-line-ends", "beyond-the-limit"],
)
def test_album(name: str, album: str) -> None:
    """An album becomes one line of limited length."""
    assert social.parse_announcement(photo(f'<Album Name="{name}"/>')).album == album


@pytest.mark.parametrize(
    ("content", "caption"),
    [
        (" two\nlines \n", " two\nlines \n"),
        ("I <3 you", "I <3 you"),
        ("<![CDATA[<b> &amp; ~]]>", "<b> &amp; ~"),
        ("&<![CDATA[</Content>]]>", "&</Content>"),
        ("a+b%20c 사진 🌊", "a+b%20c 사진 🌊"),
        ("x" * 2000, "x" * MAX_CAPTION),
    ],
)
def test_caption(content: str, caption: str) -> None:
    """A caption is returned exactly as the user wrote it, up to a limit."""
    found = social.parse_announcement(photo(f"<Content>{content}</Content>"))
    assert found.caption == caption


READERS: dict[str, Callable[[bytes], object]] = {
    "login": social.parse_login,
    "announcement": social.parse_announcement,
}
both = pytest.mark.parametrize("read", READERS.values(), ids=READERS)


@both
@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"", 400, "it has no XML"),
        (b" \r\n", 400, "it has no XML"),
        (b"\xff\xfe", 400, "it has no XML"),
        (b'{"a": 1}', 400, "it has no XML"),
        (b'<!DOCTYPE r><r Method="login"/>', 400, "a DOCTYPE or an ENTITY"),
        (b'<!ENTITY x "y"><r>&x;</r>', 400, "a DOCTYPE or an ENTITY"),
        (b"<a>" * 100 + b"</a>" * 100, 400, "the XML "),
        (b"<r>" + b"<a/>" * MAX_ELEMENTS + b"</r>", 400, "the XML "),
        (b"<r>" + b" " * (MAX_BYTES - 6) + b"</r>", 413, "the XML "),
    ],
)  # fmt: skip
def test_refused(read: Callable[[bytes], object], body: bytes, status: int, reason: str) -> None:
    """A body that is not XML, declares entities, or is too large or deep, is refused."""
    with pytest.raises(BodyError, match=reason) as caught:
        read(body)
    assert caught.value.status == status


def test_maximum_size() -> None:
    """A message of the maximum size is parsed."""
    room = MAX_BYTES - len(photo(" "))
    assert social.parse_announcement(photo(f" {' ' * room}")).session_key == "k"


@pytest.mark.parametrize(
    ("user", "shown"),
    [('a"/><b>&c', "a?/??b??c"), ("Zoë 사진", "Zo? ??"), ("x" * 64, "x" * 63), ("", "")],
)
def test_people_id(user: str, shown: str) -> None:
    """A name in the reply is short, and has no character that ends it for the firmware."""
    lines = social.logged_in("k", user).body.split(b"\n")
    assert lines[3] == f'<LoginPeopleID="{shown}"/>'.encode("ascii")


def test_other_replies() -> None:
    """An announcement gets one line with the port, a logout a text, a refusal its reason."""
    address = b'<Response HostAddr="snsgw.samsungmobile.com:80" ResourceID="upload/0f" />'
    error = b'<Response ErrCode="401" ErrSubCode="0" />'
    assert social.upload_to("0f") == Reply(200, address)
    assert Reply(200, b"Logged out for real!") == social.LOGGED_OUT
    refusals = social.LOGIN_FAILED, social.SESSION_EXPIRED
    assert [one.status for one in refusals] == [401, 401]
    assert [one.body.removeprefix(error) for one in refusals] == [
        b"<!-- Login failed -->",
        b"<!-- Session expired -->",
    ]


@PROPERTY
@given(st.text(max_size=100))
def test_any_user(user: str) -> None:
    """No name changes the shape of the reply to a login."""
    reply = social.logged_in("k", user).body
    assert re.fullmatch(
        rb'<Response SessionKey="k">\n<PersistKey Value=""/>\n<CryptSessionKey Value="k"/>\n'
        rb"<LoginPeopleID=\"[ !#-%'-;=?-~]{0,63}\"/>\n"
        rb'<OAuth URL="http://snsgw.samsungmobile.com/oauth"/>\n</Response>',
        reply,
    )

"""What is left of headers and texts; `test_shareable` has whole requests."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nxparse import redact
from nxparse.pseudonyms import Pseudonyms

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=200)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("user-agent", "sdeClient", "sdeClient"),
        ("user-agent", "me@x.org", "address-1@example.org"),
        ("content-length", "1321295", "1321295"),
        ("content-length", "12 34 my secret", "text-1 (15 characters)"),
        ("host", "www.ospserver.net", "www.ospserver.net"),
        ("host", "192.168.1.7:8080", "ip-1:8080"),
        ("authorization", "Basic bWU6c2VjcmV0", "Basic text-1 (12 characters)"),
        ("cookie", "sid=0123456789abcdef", "sid=hex-16"),
        ("content-type", "multipart/form-data; boundary=B7x", "multipart/form-data; boundary=B7x"),
        ("x-serial", "X1Y2Z3X4Y5", "alnum-10"),
        ("referer", "http://me:pw@h.example.com/a?id=77123", None),
    ],
    ids=lambda value: value if isinstance(value, str) and value.islower() else "",
)
def test_field(name: str, value: str, expected: str | None) -> None:
    """Of a header stays what says nothing of anybody."""
    told = redact.field(Pseudonyms(), name, value)
    if expected is None:
        assert not any(secret in told for secret in ("me:", "pw", "77123"))
    elif "text-1" in expected:
        assert value.split()[-1] not in told
    else:
        assert told == expected


def test_head() -> None:
    """The head of a part keeps its spelling, and a name that a camera gave to a file."""
    data = b'content-Disposition: form-data; name="binary"; fileName="SAM_1.JPG"\r\nA:me@x.org\r\n'
    assert redact.head(Pseudonyms(), data) == data.decode().replace(
        "me@x.org", "address-1@example.org"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '<Request Method="login"><UserName Value="anna"/></Request>',
            '<Request Method="login"><UserName Value="text-1 (4 characters)"/></Request>',
        ),
        ("<a b='1'>me@x.org</a", "<a b='1'>address-1@example.org</a"),
        ("id=X1Y2Z3X4Y5&method=list", "id=alnum-10&method=list"),
        ("serial: X1Y2Z3X4Y5\nmethod: list", "serial: alnum-10\nmethod: list"),
    ],
    ids=["xml", "almost xml", "form", "fields"],
)
def test_readable(text: str, expected: str) -> None:
    """A text keeps its structure, whatever that is."""
    assert redact.readable(Pseudonyms(), text) == expected


@PROPERTY
@given(st.text("<>&;/'\"= \n\tabAB01@.:", max_size=80))
def test_anything(text: str) -> None:
    """Whatever it is, it can be told, and an address in it never is."""
    told = redact.readable(Pseudonyms(), f"{text} someone@secret.example {text}")
    assert "someone@secret" not in told

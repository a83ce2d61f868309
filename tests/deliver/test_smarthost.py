"""The URL of a mail server."""

from __future__ import annotations

import pytest

from nxparse.deliver.smarthost import Security, Smarthost, parse_smarthost

PLAIN, STARTTLS, TLS = Security


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://mail.example", Smarthost("mail.example", 25, PLAIN)),
        ("smtp+starttls://mail.example/", Smarthost("mail.example", 587, STARTTLS)),
        ("smtps://mail.example", Smarthost("mail.example", 465, TLS)),
        ("SMTPS://Mail.Example:2525", Smarthost("mail.example", 2525, TLS)),
        ("smtps://a%40b:p%3Aw%2F%40%23%25@h", Smarthost("h", 465, TLS, "a@b", "p:w/@#%")),
        ("smtps://me:p:w@x@mail.example", Smarthost("mail.example", 465, TLS, "me", "p:w@x")),
        ("smtps://me:pässwort%C3%9F@h", Smarthost("h", 465, TLS, "me", "pässwortß")),
        ("smtp://bücher.example", Smarthost("bücher.example", 25, PLAIN)),
        ("smtp://[::1]:25", Smarthost("::1", 25, PLAIN)),
    ],
)
def test_url(url: str, expected: Smarthost) -> None:
    """The scheme determines the default port. User and password are percent-decoded."""
    assert parse_smarthost(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://mail.example",
        "smtp://me:secret@mail.example:port",
        "smtp://me:secret@mail.example:0",
        "smtp://me:secret@[::1",
        "smtp://me:se/cret@mail.example",
        "smtp://me:secret@mail..example",
        "smtp://me:secret\udcff@mail.example",
        "smtp://me:secret@mail\0.example",
        "smtp://me:secret@",
        "smtp://me:secret@mail.example?secret",
        "smtp://me:#secret@mail.example",
    ],
)
def test_wrong_url(url: str) -> None:
    """The error contains nothing of the URL, which may have a password anywhere."""
    with pytest.raises(
        ValueError,
        match=r"^not a mail server URL; for example smtps://user:password@host, with .* %40$",
    ):
        parse_smarthost(url)


def test_text() -> None:
    """The password is in neither str nor repr. An IPv6 address has brackets."""
    server = parse_smarthost("smtps://me:secret@[::1]")
    assert str(server) == "[::1]:465"
    assert repr(server) == (
        "Smarthost(host='::1', port=465, security=<Security.TLS: 'smtps'>, user='me')"
    )

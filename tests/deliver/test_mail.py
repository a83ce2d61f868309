"""E-mail: what is written, and what happens when a server takes it, or does not."""

from __future__ import annotations

import base64
import email
import email.policy
import email.utils
import errno
import functools
import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from email.header import decode_header, make_header
from email.message import EmailMessage
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import nxparse
import nxparse.upload
from nxparse.address import AddressError
from nxparse.deliver import mail
from nxparse.deliver.errors import (
    PermanentError,
    Refused,
    TemporaryError,
    TooLargeError,
    UnreachableError,
)
from nxparse.deliver.mail import (
    OutgoingMessage,
    compose,
    means_size,
    send,
)
from nxparse.deliver.save import folder_for
from nxparse.deliver.smarthost import Security, Smarthost
from nxparse.deliver.smarthost import parse_smarthost as smarthost
from nxparse.server import page
from nxparse.upload import File, Upload
from tests import bodies
from tests.box import Box
from tests.far import appear_far
from tests.faults import contents
from tests.smtp_servers import (
    HOST,
    Act,
    Authority,
    Mail,
    MailServer,
    Script,
    ScriptedServer,
    ehlo,
)

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=60)

ID = "20260101T120000Z-0123abcd"
NOON = 1767268800.0  # 2026-01-01 12:00 UTC
SENDER, RECIPIENT = "camera@example.com", "me@example.org"
PHOTO = bodies.jpeg(500)


def photo(
    data: bytes = PHOTO, name: str | None = "SAM_4371.JPG", content_type: str = "image/jpeg"
) -> File:
    return File(name, content_type, len(data), 0, lambda start, end: data[start:end])


def upload(
    *files: File,
    sender: str = SENDER,
    name: str = "",
    subject: str = "My photos",
    text: str = "Hello",
) -> Upload:
    return Upload(sender, (RECIPIENT,), subject, text, files, sender_name=name)


def composed(
    given: Upload, recipients: Sequence[str] = (RECIPIENT,), *, mail_from: str = ""
) -> OutgoingMessage:
    return compose(given, given.files, recipients, id=ID, date=NOON, mail_from=mail_from)


@dataclass(frozen=True, slots=True)
class ReadBack:
    """A message as a stranger reads it. Attachments are name, type and content."""

    headers: dict[str, str]
    text: str
    attachments: list[tuple[str | None, str, bytes]]


HEADERS = ["From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type"]
WITH_REPLY_TO = [HEADERS[0], "Reply-To", *HEADERS[1:]]
TEXT_HEADERS = ["Content-Type", "Content-Transfer-Encoding"]
FILE_HEADERS = ["Content-Type", "Content-Disposition", "Content-Transfer-Encoding"]


def content(letter: OutgoingMessage) -> bytes:
    """The message, after a look at its bytes."""
    data = b"".join(letter.chunks())
    assert len(data) == letter.size
    assert data.isascii()
    assert data.endswith(b"\r\n")
    lines = data.split(b"\r\n")
    assert max(map(len, lines)) <= 998
    assert not [line for line in lines if re.search(rb"[\r\n\0]", line)]
    assert not [line for line in lines if line.startswith(b".")]
    return data


def parsed(data: bytes) -> EmailMessage:
    """A message read by the standard library, which finds nothing wrong with it.

    Encoded words in the name of a file are against RFC 2047, but mail programs write
    them all the same, for those that do not know RFC 2231.
    """
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    for part in message.walk():
        assert part.defects == []
        defects = [
            (name, str(defect))
            for name, value in part.items()
            for defect in value.defects
            if name != "Content-Type" or not re.search("encoded.word", str(defect))
        ]
        assert defects == []
    return message


def read_back(letter: OutgoingMessage) -> ReadBack:
    message = parsed(content(letter))
    assert message.keys() == (WITH_REPLY_TO if "Reply-To" in message else HEADERS)
    text, *files = message.iter_parts()
    assert isinstance(text, EmailMessage)
    assert text.keys() == TEXT_HEADERS
    assert text.get_content_type() == "text/plain"
    assert [file.keys() for file in files] == [FILE_HEADERS] * len(files)
    assert [file.get_content_disposition() for file in files] == ["attachment"] * len(files)
    return ReadBack(
        {name: str(value) for name, value in message.items()},
        text.get_content(),
        [(file.get_filename(), file.get_content_type(), file.get_content()) for file in files],
    )


def name_for_old_programs(letter: OutgoingMessage) -> str:
    """The name of the only attachment for a program that knows nothing of RFC 2231.

    It takes `filename` of Content-Disposition, or `name` of Content-Type, and decodes it.
    """
    _, file = email.message_from_bytes(content(letter)).get_payload()
    name = file.get_param("filename", header="Content-Disposition")
    if not isinstance(name, str):
        name = file.get_param("name")
    return str(make_header(decode_header(name)))


def mailboxes(letter: OutgoingMessage, header: str) -> list[tuple[str, str]]:
    """The names and addresses in a header.

    They are read by the older parser of the standard library: the newer one
    puts blanks between encoded words in some versions of Python.
    """
    value = email.message_from_bytes(content(letter))[header]
    found = email.utils.getaddresses([value.replace("\r\n", "")])
    return [(words(str(make_header(decode_header(name)))), address) for name, address in found]


def words(text: str) -> str:
    """Text without what cannot be seen, and with one blank between words."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", " ", text).split())


class TestSmarthost:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            pytest.param(
                "smtp://mail.example", Smarthost("mail.example", 25, Security.IF_OFFERED), id="25"
            ),
            pytest.param(
                "smtp+starttls://mail.example/",
                Smarthost("mail.example", 587, Security.STARTTLS),
                id="587",
            ),
            pytest.param(
                "smtps://mail.example", Smarthost("mail.example", 465, Security.TLS), id="465"
            ),
            pytest.param(
                "SMTPS://Mail.Example:2525",
                Smarthost("mail.example", 2525, Security.TLS),
                id="case",
            ),
            pytest.param(
                "smtp://me@mail.example",
                Smarthost("mail.example", 25, Security.IF_OFFERED, "me"),
                id="user",
            ),
            pytest.param(
                "smtps://me%40example.org:p%3Aw%2F%40%23%25@mail.example",
                Smarthost("mail.example", 465, Security.TLS, "me@example.org", "p:w/@#%"),
                id="quoted",
            ),
            pytest.param(
                "smtps://me:p:w@x@mail.example",
                Smarthost("mail.example", 465, Security.TLS, "me", "p:w@x"),
                id="not-quoted",
            ),
            pytest.param(
                "smtps://me:pässwort%C3%9F@mail.example",
                Smarthost("mail.example", 465, Security.TLS, "me", "pässwortß"),
                id="T18-not-ascii",
            ),
            pytest.param(
                "smtp://bücher.example",
                Smarthost("bücher.example", 25, Security.IF_OFFERED),
                id="international",
            ),
            pytest.param("smtp://[::1]:25", Smarthost("::1", 25, Security.IF_OFFERED), id="ipv6"),
        ],
    )
    def test_url(self, url: str, expected: Smarthost) -> None:
        """A smarthost is a URL; each scheme has a port of its own."""
        assert smarthost(url) == expected

    def test_shown(self) -> None:
        """The brackets of an IPv6 address are told, the password is not."""
        assert str(smarthost("smtp://me:secret@[::1]:25")) == "[::1]:25"

    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            *(
                pytest.param(
                    url, "no smtp://, smtp+starttls:// or smtps:// with a host", id=url or "empty"
                )
                for url in (
                    "",
                    "mail.example",
                    "mail.example:25",
                    "http://mail.example",
                    "smtp+tls://mail.example",
                    "smtp://me:secret@mail.example:port",
                    "smtp://me:secret@mail.example:65536",
                    "smtp://me:secret@mail.example:0",
                    "smtp://me:secret@[::1",
                    "smtp://me:se/cret@mail.example",
                    "smtp://me:secret@mail..example",
                    "smtp://me:secret@.example",
                    f"smtp://me:secret@{'a' * 64}.example",
                    "smtp://me:secret\udcff@mail.example",
                    "smtp://me:secret@mail\0.example",
                    "smtp://me:secret@mail .example",
                )
            ),
            *(
                pytest.param(url, "not like smtps://user:password@host", id=url)
                for url in (
                    "smtp:",
                    "smtp://",
                    "smtp:mail.example",
                    "smtp://me:secret@",
                    "smtp://:25",
                    "smtp://me:secret@mail.example/secret",
                    "smtp://me:secret@mail.example?secret",
                    "smtp://me:secret@mail.example#secret",
                    "smtp://me:#secret@mail.example",
                    "smtp://me:1?secret@mail.example",
                )
            ),
        ],
    )
    def test_wrong_url(self, url: str, reason: str) -> None:
        """What is no smarthost is refused, and nothing of the URL is repeated."""
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            smarthost(url)
        assert str(caught.value) == reason
        assert "secret" not in "".join(traceback.format_exception(caught.value)[-1:])

    def test_text(self) -> None:
        """The password is in no text that a smarthost gives of itself."""
        server = smarthost("smtps://me:secret@mail.example")
        assert str(server) == "mail.example:465"
        assert repr(server) == (
            "Smarthost(host='mail.example', port=465, security=<Security.TLS: 'smtps'>, user='me')"
        )


class TestCompose:
    @pytest.mark.skipif(not hasattr(time, "tzset"), reason="cannot choose the time zone")
    def test_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A message is this, byte for byte."""
        with monkeypatch.context() as patch:
            patch.setenv("TZ", "KST-9")
            time.tzset()
            letter = composed(
                upload(photo(b"\xff\xd8\xff" * 20), photo(b"", name="빈.jpg"), name='The "NX"'),
                ("me@example.org", "you@bücher.example"),
            )
        time.tzset()
        assert content(letter).decode("ascii").split("\r\n") == [
            r'From: "The \"NX\"" <camera@example.com>',
            "To: me@example.org,",
            " you@xn--bcher-kva.example",
            "Subject: My photos",
            "Date: Thu, 01 Jan 2026 21:00:00 +0900",
            f"Message-ID: <{ID}@example.com>",
            "MIME-Version: 1.0",
            f'Content-Type: multipart/mixed; boundary="nx-{ID}"',
            "",
            f"--nx-{ID}",
            "Content-Type: text/plain; charset=utf-8",
            "Content-Transfer-Encoding: base64",
            "",
            "SGVsbG8=",
            f"--nx-{ID}",
            "Content-Type: image/jpeg",
            "Content-Disposition: attachment;",
            ' filename="SAM_4371.JPG"',
            "Content-Transfer-Encoding: base64",
            "",
            "/9j/" * 19,
            "/9j/",
            f"--nx-{ID}",
            "Content-Type: image/jpeg;",
            ' name="=?utf-8?b?67mILmpwZw==?="',
            "Content-Disposition: attachment;",
            " filename*=utf-8''%EB%B9%88.jpg",
            "Content-Transfer-Encoding: base64",
            "",
            f"--nx-{ID}--",
            "",
        ]
        assert (letter.sender, letter.recipients) == (
            "camera@example.com",
            ("me@example.org", "you@xn--bcher-kva.example"),
        )

    def test_read_back(self) -> None:
        """The upload of a camera reads as what it was."""
        photos = [("SAM_1.JPG", bodies.jpeg(5000)), ("SAM_2.JPG", bodies.jpeg(70_000, seed=1))]
        given = nxparse.read(bodies.body(photos), bodies.CONTENT_TYPE)
        found = read_back(compose(given, given.files, given.recipients, id=ID, date=NOON))
        assert found.headers.pop("Date").startswith("Thu, 01 Jan 2026 ")
        assert found == ReadBack(
            {
                "From": bodies.SENDER,
                "To": bodies.RECIPIENT,
                "Subject": bodies.TITLE,
                "Message-ID": f"<{ID}@samsungcamera.com>",
                "MIME-Version": "1.0",
                "Content-Type": f'multipart/mixed; boundary="nx-{ID}"',
            },
            bodies.TEXT,
            [(name, "image/jpeg", data) for name, data in photos],
        )

    def test_some_files(self) -> None:
        """The files are those that were asked for, which may be none."""
        one, two = photo(b"1", name="1.jpg"), photo(b"2", name="2.jpg")
        letter = compose(upload(one, two), [two], [RECIPIENT], id=ID, date=NOON)
        assert read_back(letter).attachments == [("2.jpg", "image/jpeg", b"2")]
        letter = compose(upload(one, two), [], [RECIPIENT], id=ID, date=NOON)
        assert read_back(letter).attachments == []

    def test_again(self) -> None:
        """The same message composed again is the same, byte for byte."""
        given = upload(photo())
        assert content(composed(given)) == content(composed(given))

    @pytest.mark.parametrize(
        ("date", "expected"),
        [(0.0, 1970), (NOON, 2026), (NOON + 315_360_000, 2035), (2.0**32, 2106)],
    )
    def test_date(self, date: float, expected: int) -> None:
        """R07: the date is that of the upload, whatever the clock says now."""
        letter = compose(upload(), [], [RECIPIENT], id=ID, date=date)
        found = parsed(content(letter))["Date"].datetime
        assert (found.timestamp(), found.year) == (date // 1, expected)

    @pytest.mark.parametrize(
        ("sender", "name", "mail_from", "expected"),
        [
            pytest.param("a@b", "", "", ("a@b", "a@b", None), id="camera"),
            pytest.param("a@b", "Jo", "", ("a@b", "Jo <a@b>", None), id="name"),
            pytest.param("a@b", "J. Doe", "", ("a@b", '"J. Doe" <a@b>', None), id="name-quoted"),
            pytest.param("a@b", "요", "", ("a@b", "요 <a@b>", None), id="name-korean"),
            pytest.param("a@b", "", "c@d", ("c@d", "c@d", "a@b"), id="mail-from"),
            pytest.param("a@b", "Jo", "c@d", ("c@d", "Jo <c@d>", "Jo <a@b>"), id="both"),
            pytest.param("", "", "c@d", ("c@d", "c@d", None), id="no-sender"),
            pytest.param("", "Jo", "c@d", ("c@d", "Jo <c@d>", None), id="only-a-name"),
            pytest.param(
                "a@bücher.example",
                "",
                "",
                ("a@xn--bcher-kva.example", "a@xn--bcher-kva.example", None),
                id="X12-international",
            ),
            pytest.param(
                "a@b",
                "",
                "c@bücher.example",
                ("c@xn--bcher-kva.example", "c@xn--bcher-kva.example", "a@b"),
                id="X12-mail-from-international",
            ),
        ],
    )
    def test_sender(
        self, sender: str, name: str, mail_from: str, expected: tuple[str, str, str | None]
    ) -> None:
        """Mail comes from the camera's sender, or from nx_mail_from with a Reply-To."""
        letter = composed(upload(sender=sender, name=name), mail_from=mail_from)
        headers = read_back(letter).headers
        assert (letter.sender, headers["From"], headers.get("Reply-To")) == expected
        domain = expected[0].partition("@")[2]
        assert headers["Message-ID"] == f"<{ID}@{domain}>"

    def test_no_reply_to(self) -> None:
        """A sender that nobody could reply to is no reason not to send, if From is another one."""
        message = parsed(content(composed(upload(sender="me"), mail_from="c@d")))
        assert (message["From"], message["Reply-To"]) == ("c@d", None)

    @pytest.mark.parametrize(
        ("sender", "recipients", "mail_from", "wrong"),
        [
            pytest.param("", [RECIPIENT], "", "", id="X09-no-sender"),
            pytest.param("me", [RECIPIENT], "", "me", id="sender"),
            pytest.param("a@b\r\nBcc: x@y", [RECIPIENT], "", "a@b\r\nBcc: x@y", id="X13-sender"),
            pytest.param("a@b", ["c@d, x@y"], "", "c@d, x@y", id="X11-list"),
            pytest.param("a@b", ["Jo <c@d>"], "", "Jo <c@d>", id="X11-name"),
            pytest.param("a@b", ["c@d>\r\nRCPT TO:<x@y"], "", "c@d>\r\nRCPT TO:<x@y", id="X13-to"),
            pytest.param("a@b", [RECIPIENT, "gerät@d"], "", "gerät@d", id="X12-second"),
            pytest.param("a@b", [RECIPIENT], "c@d\r\nBcc: x@y", "c@d\r\nBcc: x@y", id="X13-from"),
            pytest.param("a@b", [RECIPIENT], "Jo <c@d>", "Jo <c@d>", id="X11-from"),
        ],
    )
    def test_wrong_address(
        self, sender: str, recipients: list[str], mail_from: str, wrong: str
    ) -> None:
        """No message is made with an address that cannot be sent to, or that is more than one."""
        with pytest.raises(AddressError) as caught:
            composed(upload(sender=sender), recipients, mail_from=mail_from)
        assert str(caught.value) == f"{wrong!r} is not an e-mail address"

    def test_many_recipients(self) -> None:
        """64 recipients, as many as an upload can have, each stand in a line of their own."""
        recipients = [f"{'a' * 62}{number:02}@example.org" for number in range(64)]
        letter = composed(upload(), recipients)
        assert read_back(letter).headers["To"] == ", ".join(recipients)
        assert letter.recipients == tuple(recipients)


LONG = "가" * 83 + ".jpg"

# What may stand between words, and is a blank afterwards.
BREAKS = {
    "cr": "\r",
    "lf": "\n",
    "crlf": "\r\n",
    "X13-folding": "\r\n ",
    "X13-vt": "\v",
    "X13-ff": "\f",
    "X13-nul": "\0",
    "esc": "\x1b",
    "del": "\x7f",
    "X13-nel": "\x85",
    "X13-line-separator": "\u2028",
    "X13-paragraph-separator": "\u2029",
    "X13-surrogate": "\ud800",
    "surrogates": "\udc0d\udc0a",
}

# What any text may be, and still be the same text afterwards.
NAUGHTY = {
    "empty": "",
    "word": "a",
    "captured": bodies.TITLE,
    "korean": "카메라에서 보낸 사진",
    "X13-encoded-newline": "a =?UTF-8?Q?=0A?=Bcc: x@y",
    "X13-encoded-crlf": "=?utf-8?b?DQpCY2M6IHhAeQ==?=",
    "encoded-word": "=?utf-8?q?caf=C3=A9?=",
    "half-an-encoded-word": "a =?utf-8?q?",
    "split-encoded-word": "=?utf-8?q?" + "b " * 60 + "?=",
    "X13-20-kB": "a" * 20_000,
    "X13-20-kB-of-korean": "가" * 7000,
    "20-kB-of-words": "word " * 3999 + "end",
    "70-letters": "a " + "b" * 69 + " " + "c" * 70,
    "double-blanks": "a  b",
    "1100-blanks": "a" + " " * 1100 + "b",
    "X13-emoji": "👨‍👩‍👧‍👦" * 20,
    "X13-right-to-left": "\u202eabc אבג \u2066def",
    "combining": "e\u0301" * 60,
    "no-break-blank": "a\u00a0b",
    "byte-order-mark": "\ufeffa",
    "last-character": "\U0010ffff",
    "colon": "Bcc: x@y",
    "dot": ". a",
    "from": "From a",
    "quotes": 'a "b\\" c',
    "backslash-last": "a\\",
    "brackets": "<x@y>, (a) [b]; c: d",
    "X18-format": "{0.__class__} %s %n ${HOME} $(id)",
    "html": "<script>alert(1)</script>&amp;",
}


class TestInjection:
    @pytest.mark.parametrize("text", NAUGHTY.values(), ids=NAUGHTY)
    def test_title(self, text: str) -> None:
        """X13, X18: a title is one header, and the same text when it is read."""
        found = read_back(composed(upload(subject=text)))
        assert found.headers["Subject"] == text

    @pytest.mark.parametrize("text", NAUGHTY.values(), ids=NAUGHTY)
    def test_name(self, text: str) -> None:
        """X13, X18: a sender's name is one name, with no address in it."""
        text = text[:2000]
        letter = composed(upload(name=text), mail_from="photos@example.net")
        assert mailboxes(letter, "From") == [(words(text), "photos@example.net")]
        assert mailboxes(letter, "Reply-To") == [(words(text), SENDER)]
        assert read_back(letter).text == "Hello"

    @pytest.mark.parametrize("text", NAUGHTY.values(), ids=NAUGHTY)
    def test_text(self, text: str) -> None:
        """X14: a text is the same text when it is read."""
        assert read_back(composed(upload(text=text))).text == text

    @pytest.mark.parametrize("text", NAUGHTY.values(), ids=NAUGHTY)
    def test_file_name(self, text: str) -> None:
        """N13: an attachment has the name that it has on disk."""
        found = read_back(composed(upload(photo(name=text))))
        assert found.attachments == [(photo(name=text).safe_name, "image/jpeg", PHOTO)]

    @pytest.mark.parametrize("between", BREAKS.values(), ids=BREAKS)
    def test_breaks(self, between: str) -> None:
        """X13: nothing that breaks a line somewhere gets into a header."""
        text = f"{between}a{between}Bcc: x@y{between}{between}é{between}"
        letter = composed(upload(photo(name=f"{text}.jpg"), subject=text, name=text))
        assert mailboxes(letter, "From") == [("a Bcc: x@y é", SENDER)]
        found = read_back(letter)
        assert words(found.headers["Subject"]) == "a Bcc: x@y é"
        assert found.attachments == [
            (photo(name=f"{text}.jpg").safe_name, "image/jpeg", PHOTO),
        ]

    @pytest.mark.parametrize("between", BREAKS.values(), ids=BREAKS)
    def test_nothing_but_breaks(self, between: str) -> None:
        """X13: a title or name of nothing that can be seen is none."""
        letter = composed(upload(subject=between, name=between))
        assert read_back(letter).headers["Subject"] == ""
        assert mailboxes(letter, "From") == [("", SENDER)]

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param("a\n.\nb\r\n.\r\nc\r.\rd", id="X14-dots"),
            pytest.param("\n.\n", id="X14-only-dots"),
            pytest.param("From a\n>From b\n", id="X14-from"),
            pytest.param("a" * 5000, id="X14-long-line"),
            pytest.param("a\0b", id="X14-nul"),
            pytest.param("\r\n\r\n a \t\r\n\r\n", id="blanks-at-the-ends"),
            pytest.param(f"a\r\n--nx-{ID}--\r\nb", id="boundary"),
            pytest.param("Bcc: x@y\r\n\r\na", id="headers"),
            pytest.param("a\u2028b\u2029c\x85d\ve\f", id="X13-odd-line-ends"),
        ],
    )
    def test_text_is_data(self, text: str) -> None:
        """X14: a text arrives as it was written, with nothing added and nothing removed."""
        assert read_back(composed(upload(text=text))).text == text

    def test_text_with_surrogates(self) -> None:
        """X14: what is no character is a question mark."""
        assert read_back(composed(upload(text="a\ud800b"))).text == "a?b"

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            pytest.param(None, "photo.jpg", id="missing"),
            pytest.param("사진 1.JPG", "사진 1.JPG", id="N13-korean"),
            pytest.param(LONG, LONG, id="N13-long-korean"),
            pytest.param("a" * 251 + ".jpg", "a" * 251 + ".jpg", id="N13-long"),
            pytest.param("é" * 125 + "a.jpg", "é" * 125 + "a.jpg", id="N13-long-not-ascii"),
            pytest.param('a"; x="b.jpg', "a_; x=_b.jpg", id="N13-quotes"),
            pytest.param("a;b=c'd''e.jpg", "a;b=c'd''e.jpg", id="N13-semicolon"),
            pytest.param("é;b=c'd''e%41.jpg", "é;b=c'd''e%41.jpg", id="N13-semicolon-not-ascii"),
            pytest.param("a%41.jpg", "a%41.jpg", id="N13-percent"),
            pytest.param("a\r\nBcc: x@y.jpg", "aBcc_ x@y.jpg", id="N13-crlf"),
            pytest.param("=?utf-8?q?=0a?=.jpg", "=_utf-8_q_=0a_=.jpg", id="N13-encoded-word"),
            pytest.param("a\ud800.jpg", "a.jpg", id="N13-surrogate"),
            pytest.param("a.jpg\\", "photo.jpg", id="N13-backslash-last"),
            pytest.param("../../etc/passwd", "passwd.jpg", id="N01"),
        ],
    )
    def test_attachment(self, name: str | None, expected: str) -> None:
        """N13: an attachment has the name that it has on disk, and its own bytes."""
        letter = composed(upload(photo(name=name)))
        assert read_back(letter).attachments == [(expected, "image/jpeg", PHOTO)]
        assert name_for_old_programs(letter) == expected

    @pytest.mark.parametrize(
        "claimed",
        [
            pytest.param("image/x-samsung-srw", id="raw"),
            pytest.param("image/" + "x" * 1500, id="long"),
            pytest.param("image/x\r\nBcc: x@y", id="X13"),
        ],
    )
    def test_claimed_type(self, claimed: str) -> None:
        """M28: no type that a part claims to have makes a header of its own, or too long a line."""
        body = bodies.body([("a.bin", b"raw")])
        body = body.replace(b"image/jpeg", claimed.encode())
        given = nxparse.read(body, bodies.CONTENT_TYPE)
        [(_, found, data)] = read_back(composed(given)).attachments
        assert (found, data) == (given.files[0].content_type, given.files[0].data)

    @PROPERTY
    @given(
        st.text(),
        st.text(),
        st.text(),
        st.text() | st.none(),
        st.sampled_from([SENDER, "a@bücher.example", ""]) | st.text(),
        st.sampled_from([RECIPIENT, "a@b"]) | st.text(),
        st.sampled_from(["", "photos@example.net"]) | st.text(),
    )
    @example("a" + " " * 998 + "b", "", "", "", SENDER, RECIPIENT, "")
    def test_any_text(
        self,
        subject: str,
        name: str,
        text: str,
        filename: str | None,
        sender: str,
        recipient: str,
        mail_from: str,
    ) -> None:
        """Any upload is a message with exactly its headers, or has a wrong address."""
        given = upload(photo(name=filename), sender=sender, name=name, subject=subject, text=text)
        try:
            letter = composed(given, [recipient], mail_from=mail_from)
        except AddressError:
            assert {sender, recipient, mail_from} - {SENDER, RECIPIENT, "photos@example.net"}
            return
        found = read_back(letter)
        assert words(found.headers["Subject"]) == words(subject)
        assert found.text == text.encode("utf-8", "replace").decode()
        assert found.attachments == [(given.files[0].safe_name, "image/jpeg", PHOTO)]
        assert found.headers["To"] == letter.recipients[0]
        assert mailboxes(letter, "From") == [(words(name), letter.sender)]


BLOCK = 57 * 1024
LINES = [*range(60), *range(112, 117), *range(169, 174)]
AROUND_BLOCKS = [size + more for size in (BLOCK, 2 * BLOCK) for more in (-1, 0, 1)]


class TestSize:
    @pytest.mark.parametrize(
        ("chunk", "sizes"),
        [
            *(pytest.param(chunk, LINES, id=str(chunk)) for chunk in (1, 56, 57, 58, 1000)),
            pytest.param(1000, [999, 1000, 1001, 1994, 1995, 1996], id="1000-and-more"),
            pytest.param(BLOCK - 1, AROUND_BLOCKS, id="block-1"),
            pytest.param(BLOCK, AROUND_BLOCKS, id="block"),
            pytest.param(2 * BLOCK + 5, [*AROUND_BLOCKS, 2 * BLOCK + 6], id="two-blocks"),
        ],
    )
    def test_sizes(self, chunk: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
        """The size is known before, and the bytes are right, however the file is cut."""
        monkeypatch.setattr(nxparse.upload, "CHUNK", chunk)
        data = bytes(range(256)) * 500
        for size in sizes:
            letter = composed(upload(photo(data[:size])))
            message = b"".join(letter.chunks())
            attachment = message.split(b'filename="SAM_4371.JPG"')[1]
            encoded = attachment.split(b"\r\n\r\n", 1)[1].split(b"--nx-")[0]
            assert encoded == base64.encodebytes(data[:size]).replace(b"\n", b"\r\n")
            assert len(message) == letter.size

    def test_real_chunks(self) -> None:
        """The size is right around the limits of the chunks that files are read in."""
        for size in (1 << 18) + 57, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, (1 << 19) + 2:
            data = bytes(range(256)) * (size // 256 + 1)
            [(_, _, found)] = read_back(composed(upload(photo(data[:size])))).attachments
            assert found == data[:size]

    def test_many_files(self) -> None:
        """63 files, as many as an upload can have, and their size."""
        files = [photo(bodies.jpeg(100 + number), name=f"{number}.jpg") for number in range(63)]
        found = read_back(composed(upload(*files)))
        assert found.attachments == [(file.name, "image/jpeg", file.data) for file in files]

    def test_memory(self) -> None:
        """Memory does not grow with the attachments."""
        size = 4 << 20
        file = File("a.jpg", "image/jpeg", size, 0, lambda start, end: bytes(end - start))
        tracemalloc.start()
        try:
            letter = composed(upload(file))
            length = sum(len(chunk) for chunk in letter.chunks())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert length == letter.size
        assert peak < 1 << 20


@dataclass(frozen=True, eq=False)
class Like:
    """Equal to every text that this pattern fits."""

    pattern: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and bool(re.fullmatch(self.pattern, other))


Failure = tuple[type[Exception], str | Like, float | None]

SECRET = "geheim-ß"
SECRETS = (SECRET, base64.b64encode(SECRET.encode()).decode())
USER = "me@example.org"
PLAIN = base64.b64encode(f"\0{USER}\0{SECRET}".encode()).decode()


def outcome(letter: OutgoingMessage, server: Smarthost) -> list[Refused] | Failure:
    """What `send` returned, or what it raised: with SERVER for the server, and no secret."""
    try:
        return send(letter, server)
    except (TemporaryError, PermanentError, TooLargeError) as error:
        everything = "".join(traceback.format_exception(error)) + repr(error)
        assert not [secret for secret in (*SECRETS, PLAIN) if secret in everything]
        told = str(error)
        assert told.isprintable()
        temporary = isinstance(error, TemporaryError)
        retry_after = error.retry_after if temporary else None
        kind = TemporaryError if temporary else type(error)
        return kind, told.replace(str(server), "SERVER"), retry_after


def temporary(text: str | Like, retry_after: float | None = None) -> Failure:
    return TemporaryError, text, retry_after


def permanent(text: str) -> Failure:
    return PermanentError, text, None


def too_large(text: str) -> Failure:
    return TooLargeError, text, None


DOUBT = "; it may have been taken all the same"
LOST = temporary(
    Like(
        r"SERVER: (Server not connected|Connection unexpectedly closed"
        rf"|(Connection unexpectedly closed: )?\[Errno \d+\] .+)({DOUBT})?"
    )
)
TIMED_OUT = temporary(
    Like(rf"SERVER: (Connection unexpectedly closed: )?(.* )?timed out({DOUBT})?")
)


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here should take long, and what does should not take minutes."""
    for name in ("CONNECT_TIMEOUT", "REPLY_TIMEOUT", "FINAL_TIMEOUT"):
        monkeypatch.setattr(mail, name, 5.0)


@pytest.fixture(autouse=True)
def _trusting_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine trusts no authority, which is also quicker than to read a hundred of them."""
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)
    monkeypatch.setenv("SSL_CERT_DIR", os.devnull)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """An authority that this machine trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    return authority


def at(
    server: MailServer | ScriptedServer,
    security: Security = Security.IF_OFFERED,
    user: str = "",
    password: str = "",
    host: str = HOST,
) -> Smarthost:
    return Smarthost(host, server.port, security, user, password)


LETTER = composed(upload(photo()))
CONTENT = b"".join(LETTER.chunks())
TO_THREE = composed(upload(photo()), ["a@example.org", "b@example.org", "c@example.org"])


def huge() -> OutgoingMessage:
    """A letter that does not fit into the buffers of a connection."""
    file = File("a.jpg", "image/jpeg", 64 << 20, 0, lambda start, end: bytes(end - start))
    return composed(upload(file))


class TestSend:
    """send(), to a server that is well."""

    @pytest.mark.parametrize(
        ("security", "offered", "login"),
        [
            pytest.param(Security.IF_OFFERED, False, False, id="smtp-in-clear"),
            pytest.param(Security.IF_OFFERED, True, False, id="smtp-over-tls"),
            pytest.param(Security.IF_OFFERED, False, True, id="smtp-in-clear-with-password"),
            pytest.param(Security.IF_OFFERED, True, True, id="smtp-over-tls-with-password"),
            pytest.param(Security.STARTTLS, True, False, id="starttls"),
            pytest.param(Security.STARTTLS, True, True, id="starttls-with-password"),
            pytest.param(Security.TLS, True, False, id="smtps"),
            pytest.param(Security.TLS, True, True, id="smtps-with-password"),
        ],
    )
    def test_security(
        self, security: Security, offered: bool, login: bool, trusted: Authority
    ) -> None:
        """Mail goes every way that a smarthost can be told to go."""
        account = (USER, SECRET) if login else None
        tls = trusted.context() if offered else None
        with MailServer(tls=tls, implicit=security is Security.TLS, login=account) as server:
            assert send(TO_THREE, at(server, security, *(account or ()))) == []
        size = f"SIZE={TO_THREE.size}"
        content = b"".join(TO_THREE.chunks())
        recipients = ("a@example.org", "b@example.org", "c@example.org")
        user = USER if login else ""
        assert server.mails == [Mail(SENDER, recipients, content, (size,), offered, user)]
        assert server.logins == ([("PLAIN", USER, SECRET)] if login else [])

    @pytest.mark.parametrize("host", [HOST, "localhost"])
    def test_verified_name(self, host: str, trusted: Authority) -> None:
        """A certificate may be for a name or for an address."""
        with MailServer(tls=trusted.context(host)) as server:
            assert send(LETTER, at(server, Security.STARTTLS, host=host)) == []

    def test_login(self) -> None:
        """T18: AUTH LOGIN is used where AUTH PLAIN is not offered."""
        with MailServer(login=(USER, SECRET), mechanisms=["LOGIN"]) as server:
            assert send(LETTER, at(server, user=USER, password=SECRET)) == []
        assert server.logins == [("LOGIN", USER, SECRET)]
        assert [found.user for found in server.mails] == [USER]

    @pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
    def test_wrong_password(self, mechanism: str) -> None:
        """T05: a wrong password is tried once, and the next time not before an hour."""
        with MailServer(login=(USER, "another"), mechanisms=[mechanism]) as server:
            found = outcome(LETTER, at(server, user=USER, password=SECRET))
        assert found == temporary(
            "SERVER does not let user 'me@example.org' in "
            "(535 5.7.8 Authentication credentials invalid): "
            "check the user and password in nx_smtp",
            3600.0,
        )
        assert (server.logins, server.mails) == ([(mechanism, USER, SECRET)], [])

    def test_no_password(self) -> None:
        """T05: a server that wants a password does not get better by trying."""
        with MailServer(login=(USER, SECRET)) as server:
            found = outcome(LETTER, at(server))
        assert found == temporary(
            "SERVER refuses the sender: 530 5.7.0 Authentication required", 3600.0
        )
        assert server.mails == []

    def test_size(self) -> None:
        """T06: a message larger than what the server takes is not sent."""
        with MailServer(size=LETTER.size - 1) as server:
            found = outcome(LETTER, at(server))
            assert found == too_large(f"SERVER takes at most {LETTER.size - 1} bytes")
            assert server.mails == []
        with MailServer(size=LETTER.size) as server:
            assert send(LETTER, at(server)) == []
            assert len(server.wait(1)) == 1

    def test_refused(self) -> None:
        """T07: who is refused is told, and the others get the message once."""
        replies = {
            "a@example.org": "550 5.1.1 no such user",
            "c@example.org": "450 4.2.0 greylisted",
        }
        with MailServer(replies=replies) as server:
            found = send(TO_THREE, at(server))
        assert found == [
            Refused("a@example.org", True, "550 5.1.1 no such user"),
            Refused("c@example.org", False, "450 4.2.0 greylisted"),
        ]
        assert [found.recipients for found in server.mails] == [("b@example.org",)]

    def test_large(self, trusted: Authority) -> None:
        """A large photo arrives whole over TLS."""
        data = bodies.jpeg(400_000)
        with MailServer(tls=trusted.context()) as server:
            assert send(composed(upload(photo(data))), at(server, Security.STARTTLS)) == []
        [found] = server.mails
        attached = [
            part.get_payload(decode=True) for part in parsed(found.content).iter_attachments()
        ]
        assert attached == [data]


class TestUnreachable:
    """A server that would take no other mail either."""

    @pytest.mark.parametrize(
        ("script", "login", "expected"),
        [
            pytest.param({"greeting": "421 busy"}, "", UnreachableError, id="greeting-421"),
            pytest.param({"greeting": "554 no"}, "", UnreachableError, id="greeting-554"),
            pytest.param({"greeting": Act.CLOSE}, "", UnreachableError, id="closed"),
            pytest.param(
                {"EHLO": ehlo("STARTTLS"), "STARTTLS": "454 not now"},
                "",
                UnreachableError,
                id="no-tls",
            ),
            pytest.param({"AUTH": "535 no"}, USER, UnreachableError, id="auth"),
            pytest.param({"MAIL": "530 who?"}, "", UnreachableError, id="mail-530"),
            pytest.param({"MAIL": "421 busy"}, "", UnreachableError, id="mail-421"),
            pytest.param({".": "421 busy"}, "", UnreachableError, id="end-421"),
            pytest.param({"MAIL": "451 later"}, "", TemporaryError, id="mail-451"),
            pytest.param({"DATA": "451 later"}, "", TemporaryError, id="data-451"),
            pytest.param({".": Act.CLOSE}, "", TemporaryError, id="end-closed"),
        ],
    )
    def test_kind(self, script: Script, login: str, expected: type[TemporaryError]) -> None:
        """What fails before a mail is told of, or because of who we are, fails for all mail."""
        with ScriptedServer(script) as server, pytest.raises(TemporaryError) as raised:
            send(LETTER, at(server, user=login, password=SECRET if login else ""))
        assert type(raised.value) is expected

    def test_refused(self) -> None:
        """So does what fails because nobody listens."""
        with ScriptedServer() as server:
            pass
        with pytest.raises(UnreachableError):
            send(LETTER, at(server))


class TestCertificates:
    """T04: who is at the other end."""

    @pytest.mark.parametrize(
        ("security", "login"),
        [
            pytest.param(Security.STARTTLS, False, id="starttls"),
            pytest.param(Security.STARTTLS, True, id="starttls-with-password"),
            pytest.param(Security.TLS, False, id="smtps"),
            pytest.param(Security.TLS, True, id="smtps-with-password"),
            pytest.param(Security.IF_OFFERED, True, id="smtp-with-password"),
        ],
    )
    @pytest.mark.parametrize(
        ("certificate", "reason"),
        [
            ("self-signed", "self-signed certificate"),
            ("unknown", "unable to get local issuer certificate"),
            ("expired", "certificate has expired"),
            ("another", r"IP address mismatch, certificate is not valid for '127\.0\.0\.1'\.?"),
        ],
        ids=["self-signed", "unknown", "expired", "another"],
    )
    def test_refused(
        self,
        security: Security,
        login: bool,
        certificate: str,
        reason: str,
        trusted: Authority,
        tmp_path: Path,
    ) -> None:
        """A server that cannot prove who it is gets neither mail nor password."""
        tls = {
            "self-signed": lambda: trusted.self_signed(),
            "unknown": lambda: Authority(tmp_path).context(),
            "expired": lambda: trusted.context(expired=True),
            "another": lambda: trusted.context("mail.example"),
        }[certificate]()
        greeting = (Act.TLS, "220 mail.example") if security is Security.TLS else "220 mail.example"
        script: Script = {"greeting": greeting, "EHLO": ehlo("STARTTLS", "AUTH PLAIN")}
        account = (USER, SECRET) if login else ()
        with ScriptedServer(script, tls=tls) as server:
            found = outcome(LETTER, at(server, security, *account))
        assert found == temporary(
            Like(
                r"SERVER: \[SSL: CERTIFICATE_VERIFY_FAILED\] certificate verify failed: "
                rf"{reason} \(_ssl\.c:\d+\)"
            )
        )
        heard = ["connect"] if security is Security.TLS else ["connect", "EHLO", "STARTTLS"]
        assert server.keys == heard

    @pytest.mark.parametrize("certificate", ["self-signed", "expired", "another"])
    def test_tolerated(self, certificate: str, trusted: Authority) -> None:
        """smtp:// without a password takes any certificate rather than none (RFC 7435)."""
        tls = {
            "self-signed": lambda: trusted.self_signed(),
            "expired": lambda: trusted.context(expired=True),
            "another": lambda: trusted.context("mail.example"),
        }[certificate]()
        with MailServer(tls=tls) as server:
            assert send(LETTER, at(server)) == []
        assert [found.secure for found in server.mails] == [True]


# What servers say to a message that is too large, from their sources and documentation.
TOO_LARGE = [
    "552 5.3.4 Message size exceeds fixed limit",  # Postfix, MAIL FROM
    "552 5.3.4 Error: message file too big",  # Postfix, after DATA
    "552 Message size exceeds maximum permitted",  # Exim
    "552 message too big",  # Exim
    "552 5.2.3 Message size exceeds fixed maximum message size (20000000)",  # Sendmail
    "552 5.3.4 Message is too large; 20000000 bytes max",  # Sendmail
    "550 5.3.4 ROUTING.SizeLimit; message size exceeds fixed maximum size for route",  # Exchange
    "550 5.2.3 RESOLVER.RST.RecipSizeLimit; message too large for this recipient",  # Exchange
    "550 5.2.3 RESOLVER.RST.SendSizeLimit.Sender; message too large for this sender",
    "554 5.2.3 MapiExceptionMessageSizeExceeded",  # Exchange Online
    "552-5.3.4 Your message exceeded Google's message size limits. To view our\r\n"
    "552-5.3.4 message size guidelines, go to\r\n"
    "552 5.3.4 https://support.google.com/mail/?p=MaxSizeError x17-20020a5d - gsmtp",
    "552-5.2.3 Your message exceeded Google's message size limits.\r\n552 5.2.3 x17 - gsmtp",
    "554 Message too large",  # Yahoo
    "552 5.3.4 Message size exceeds fixed maximum size",  # Yahoo
    "552-Requested mail action aborted: exceeded storage allocation\r\n"
    "552-Message size exceeds maximum permitted\r\n"
    "552 For explanation visit https://postmaster.gmx.net/en/case?c=r0601",  # GMX, web.de
    "552 Requested mail action aborted: exceeded storage allocation",  # GMX, web.de
    "554 Transaction failed: Message is too big",  # GMX, web.de
    "553 Message size exceeds the limit",  # Zoho
    "554 5.6.0 Message size is more than the allowed limit",  # Zoho
    "554 Transaction failed: Message too long.",  # Amazon SES
    "554 Message rejected: Stream is more than 6000 bytes long.",
    "554 Transaction failed: Message length is more than 10485760 bytes long: '10485761'.",
    "552 sorry, that message size exceeds my databytes limit (#5.3.4)",  # qmail
    "523 Message length (41000000 bytes) exceeds administrative limit.",  # Courier
    "552 #5.3.4 message size exceeds limit",  # IronPort
    "554 Maximum email size exceeded.",  # Mimecast
    "554 Rejected - Message size exceeds the maximum allowed size",  # hMailServer
    "550 Requested action not taken: email larger than 25 MB",
    "552",
]
# What they say for another reason.
NOT_TOO_LARGE = [
    "554 5.7.1 spam",
    "554 5.7.1 Message exceeded the spam threshold",
    "550 5.7.1 Message rejected due to content restrictions",
    "550 5.1.1 <me@example.org>: Recipient address rejected: User unknown",
    "550 No such user here",
    "552 5.2.2 mailbox full",
    "550 5.2.2 mailbox size limit exceeded",
    "554 5.2.2 <me@example.org> quota exceeded",
    "552-5.7.0 This message was blocked because its content presents a potential\r\n"
    "552 5.7.0 security issue. x17 - gsmtp",
    "550 5.4.5 Daily user sending limit exceeded.",
    "554 5.4.6 Too many hops",
    "550 5.6.0 Line too long",
    "554 header section too large",
    "550 5.7.1 client [85.3.4.17] blocked, see http://example.org/85.2.3",
    "554 5.5.1 no valid recipients",
    "550 Message rate limit exceeded",
    "550 5.6.1 Message contains a file that is not allowed",
]


def answered(lines: str) -> tuple[int, bytes]:
    """An answer as smtplib gives it: the code, and the texts of its lines."""
    return int(lines[:3]), b"\n".join(line[4:].encode() for line in lines.split("\r\n"))


@pytest.mark.parametrize("said", TOO_LARGE)
def test_means_size(said: str) -> None:
    """A refusal that may be for the size is known, whatever its code."""
    assert means_size(*answered(said))


@pytest.mark.parametrize("said", NOT_TOO_LARGE)
def test_does_not_mean_size(said: str) -> None:
    """Others are not taken for one."""
    assert not means_size(*answered(said))


SENT = ["connect", "EHLO", "MAIL", "RCPT", "DATA", ".", "QUIT"]
UP_TO_EHLO, UP_TO_MAIL, UP_TO_RCPT, UP_TO_DATA, UP_TO_DOT = (SENT[:end] for end in range(2, 7))
GARBAGE = b"\0\xff garbage\x1b[31m\r\n"
MEGABYTE = b"250 " + b"a" * 1_000_000 + b"\r\n"


class TestScripted:
    """T02-T12: send(), to a server that is not well. The message is sent once, or not at all."""

    @pytest.mark.parametrize(
        ("script", "expected", "keys"),
        [
            pytest.param({}, [], SENT, id="well"),
            # Greeting and EHLO
            pytest.param(
                {"greeting": "421 4.3.2 busy"},
                temporary("SERVER: greeting: 421 4.3.2 busy"),
                ["connect"],
                id="T03-greeting-421",
            ),
            pytest.param(
                {"greeting": "554 5.7.1 not you"},
                temporary("SERVER: greeting: 554 5.7.1 not you"),
                ["connect"],
                id="T03-greeting-554",
            ),
            pytest.param(
                {"greeting": GARBAGE},
                temporary("SERVER: greeting: -1 arbage [31m"),
                ["connect"],
                id="T03-greeting-garbage",
            ),
            pytest.param(
                {"greeting": MEGABYTE},
                temporary("SERVER: 500 Line too long."),
                ["connect"],
                id="T03-greeting-1-MB",
            ),
            pytest.param({"greeting": Act.CLOSE}, LOST, ["connect"], id="T03-greeting-closed"),
            pytest.param({"greeting": Act.RESET}, LOST, ["connect"], id="T03-greeting-reset"),
            pytest.param(
                {"greeting": "220-mail.example\r\n220-no spam\r\n220 please"},
                [],
                SENT,
                id="T12-greeting-of-three-lines",
            ),
            pytest.param(
                {"EHLO": "500 what?"},
                [],
                ["connect", "EHLO", "HELO", *SENT[2:]],
                id="T03-helo",
            ),
            pytest.param(
                {"EHLO": GARBAGE},
                [],
                ["connect", "EHLO", "HELO", *SENT[2:]],
                id="T03-ehlo-garbage",
            ),
            pytest.param(
                {"EHLO": "500 what?", "HELO": "502 5.5.1 what?"},
                temporary("SERVER: 502 5.5.1 what?"),
                ["connect", "EHLO", "HELO"],
                id="T03-no-helo",
            ),
            pytest.param({"EHLO": Act.CLOSE}, LOST, UP_TO_EHLO, id="T03-ehlo-closed"),
            pytest.param(
                {"EHLO": MEGABYTE},
                temporary("SERVER: 500 Line too long."),
                UP_TO_EHLO,
                id="T03-ehlo-1-MB",
            ),
            pytest.param({"EHLO": "250-\r\n250-??\r\n250 "}, [], SENT, id="T12-ehlo-odd-lines"),
            # SIZE
            pytest.param({"EHLO": ehlo("SIZE")}, [], SENT, id="T06-size-of-nothing"),
            pytest.param({"EHLO": ehlo("SIZE 0")}, [], SENT, id="T06-size-0"),
            pytest.param({"EHLO": ehlo("SIZE -1")}, [], SENT, id="T06-size-negative"),
            pytest.param({"EHLO": ehlo("SIZE x")}, [], SENT, id="T06-size-garbage"),
            pytest.param(
                {"EHLO": b"250-a\r\n250 SIZE \xb2\r\n"}, [], SENT, id="T06-size-superscript"
            ),
            pytest.param(
                {"EHLO": ehlo("SIZE " + "9" * 5000)}, [], SENT, id="T06-size-of-5000-digits"
            ),
            pytest.param(
                {"EHLO": ehlo("size 100")},
                too_large("SERVER takes at most 100 bytes"),
                ["connect", "EHLO", "QUIT"],
                id="T06-size-too-small",
            ),
            # MAIL
            pytest.param(
                {"MAIL": "451 4.3.0 later"},
                temporary("SERVER refuses the sender: 451 4.3.0 later"),
                [*UP_TO_MAIL, "QUIT"],
                id="T06-mail-451",
            ),
            pytest.param(
                {"MAIL": "550 5.7.1 not you"},
                permanent("SERVER refuses the sender: 550 5.7.1 not you"),
                [*UP_TO_MAIL, "QUIT"],
                id="T06-mail-550",
            ),
            pytest.param(
                {"MAIL": "552 5.3.4 too large"},
                too_large("SERVER refuses the sender: 552 5.3.4 too large"),
                [*UP_TO_MAIL, "QUIT"],
                id="T06-mail-552",
            ),
            pytest.param(
                {"MAIL": "530 5.7.0 Must issue a STARTTLS command first"},
                temporary(
                    "SERVER refuses the sender: 530 5.7.0 Must issue a STARTTLS command first",
                    3600.0,
                ),
                [*UP_TO_MAIL, "QUIT"],
                id="T05-mail-530",
            ),
            pytest.param(
                {"MAIL": "554 5.2.3 too much"},
                too_large("SERVER refuses the sender: 554 5.2.3 too much"),
                [*UP_TO_MAIL, "QUIT"],
                id="mail-554-size",
            ),
            pytest.param({"MAIL": Act.CLOSE}, LOST, UP_TO_MAIL, id="T06-mail-closed"),
            # RCPT
            pytest.param({"RCPT": "251 2.1.5 forwarded"}, [], SENT, id="T07-rcpt-251"),
            pytest.param({"RCPT": "252 2.1.5 perhaps"}, [], SENT, id="T07-rcpt-252"),
            pytest.param(
                {"RCPT": "550 5.1.1 no such user"},
                [Refused(RECIPIENT, True, "550 5.1.1 no such user")],
                [*UP_TO_RCPT, "QUIT"],
                id="T07-rcpt-550",
            ),
            pytest.param(
                {"RCPT": "450 4.2.0 later"},
                [Refused(RECIPIENT, False, "450 4.2.0 later")],
                [*UP_TO_RCPT, "QUIT"],
                id="T07-rcpt-450",
            ),
            pytest.param(
                {"RCPT": "299 odd"},
                [Refused(RECIPIENT, False, "299 odd")],
                [*UP_TO_RCPT, "QUIT"],
                id="T12-rcpt-299",
            ),
            pytest.param(
                {"RCPT": "550-5.1.1 no\r\n550-5.1.1  such\tuser\x07\r\n550 5.1.1 here"},
                [Refused(RECIPIENT, True, "550 5.1.1 no 5.1.1 such user 5.1.1 here")],
                [*UP_TO_RCPT, "QUIT"],
                id="T12-rcpt-three-lines",
            ),
            pytest.param({"RCPT": Act.CLOSE}, LOST, UP_TO_RCPT, id="T07-rcpt-closed"),
            # DATA
            pytest.param(
                {"DATA": "451 4.3.0 later"},
                temporary("SERVER refuses the message: 451 4.3.0 later"),
                [*UP_TO_DATA, "QUIT"],
                id="T08-data-451",
            ),
            pytest.param(
                {"DATA": "554 5.5.1 no valid recipients"},
                permanent("SERVER refuses the message: 554 5.5.1 no valid recipients"),
                [*UP_TO_DATA, "QUIT"],
                id="T08-data-554",
            ),
            pytest.param(
                {"DATA": "554 5.3.4 Message too big for system"},
                too_large("SERVER refuses the message: 554 5.3.4 Message too big for system"),
                [*UP_TO_DATA, "QUIT"],
                id="data-554-size",
            ),
            pytest.param(
                {"DATA": "250 2.0.0 what?"},
                temporary("SERVER answers DATA with 250"),
                [*UP_TO_DATA, "QUIT"],
                id="T12-data-250",
            ),
            pytest.param({"DATA": Act.CLOSE}, LOST, UP_TO_DATA, id="T08-data-closed"),
            # The message
            pytest.param({"content": Act.CLOSE}, LOST, UP_TO_DATA, id="T09-before-the-dot"),
            pytest.param({"content": Act.RESET}, LOST, UP_TO_DATA, id="T09-reset-before-the-dot"),
            pytest.param({"content": Act.SHUT}, LOST, UP_TO_DOT, id="T11-half-closed"),
            # Behind the dot
            pytest.param(
                {".": "451 4.7.1 greylisted"},
                temporary("SERVER refuses the message: 451 4.7.1 greylisted"),
                SENT,
                id="T08-dot-451",
            ),
            pytest.param(
                {".": "554 5.7.1 spam"},
                permanent("SERVER refuses the message: 554 5.7.1 spam"),
                SENT,
                id="T08-dot-554",
            ),
            pytest.param(
                {".": "552 5.3.4 too large"},
                too_large("SERVER refuses the message: 552 5.3.4 too large"),
                SENT,
                id="T06-dot-552",
            ),
            pytest.param(
                {".": "550 5.2.3 too much"},
                too_large("SERVER refuses the message: 550 5.2.3 too much"),
                SENT,
                id="dot-550-size",
            ),
            pytest.param(
                {".": "451 4.3.0 message too large for now"},
                temporary("SERVER refuses the message: 451 4.3.0 message too large for now"),
                SENT,
                id="dot-451-size",
            ),
            pytest.param({".": Act.CLOSE}, LOST, UP_TO_DOT, id="T09-behind-the-dot"),
            pytest.param({".": Act.RESET}, LOST, UP_TO_DOT, id="T09-reset-behind-the-dot"),
            pytest.param({".": "250-queued\r\n250-as\r\n250 1"}, [], SENT, id="T12-three-lines"),
            pytest.param({".": "250"}, [], SENT, id="T12-code-alone"),
            pytest.param({".": b"250 ok\n"}, [], SENT, id="T12-bare-newline"),
            pytest.param(
                {".": "299 odd"},
                temporary("SERVER refuses the message: 299 odd"),
                SENT,
                id="T12-dot-299",
            ),
            pytest.param(
                {".": "999 odd"},
                temporary("SERVER refuses the message: 999 odd"),
                SENT,
                id="T12-dot-999",
            ),
            pytest.param(
                {".": "abc odd"},
                temporary("SERVER refuses the message: -1 odd"),
                SENT,
                id="T12-dot-abc",
            ),
            pytest.param(
                {".": MEGABYTE},
                temporary(f"SERVER: 500 Line too long.{DOUBT}"),
                UP_TO_DOT,
                id="T03-dot-1-MB",
            ),
            pytest.param(
                {".": "554 " + "ab " * 1000},
                permanent("SERVER refuses the message: 554 " + ("ab " * 67)[:200].strip()),
                SENT,
                id="T12-long-reason",
            ),
            # Once the message is taken, it is taken.
            pytest.param({".": ("250 ok", Act.RESET)}, [], UP_TO_DOT, id="T10-reset"),
            pytest.param({".": ("250 ok", Act.CLOSE)}, [], UP_TO_DOT, id="T10-closed"),
            pytest.param({"QUIT": "500 what?"}, [], SENT, id="T10-quit-500"),
            pytest.param({"QUIT": Act.RESET}, [], SENT, id="T10-quit-reset"),
            pytest.param({"QUIT": MEGABYTE}, [], SENT, id="T10-quit-1-MB"),
        ],
    )
    def test_one_recipient(
        self, script: Script, expected: list[Refused] | Failure, keys: list[str]
    ) -> None:
        """Each answer means what it should, and nothing is said twice."""
        with ScriptedServer(script) as server:
            assert outcome(LETTER, at(server)) == expected
        assert server.keys == keys
        assert server.messages == ([CONTENT] if "." in keys else [])

    def test_commands(self) -> None:
        """The envelope is in the commands, and SIZE only where it is offered."""
        for extensions, options in ((), ""), (("SIZE 9999999",), f" SIZE={LETTER.size}"):
            with ScriptedServer({"EHLO": ehlo(*extensions)}) as server:
                assert send(LETTER, at(server)) == []
            [sender], [recipient] = server.lines("MAIL"), server.lines("RCPT")
            assert sender.lower() == f"mail from:<{SENDER}>{options.lower()}"
            assert recipient.lower() == f"rcpt to:<{RECIPIENT}>"

    @pytest.mark.parametrize(
        ("replies", "expected", "keys"),
        [
            pytest.param(
                ["550 5.1.1 no", "250 ok", "450 4.2.0 later"],
                [
                    Refused("a@example.org", True, "550 5.1.1 no"),
                    Refused("c@example.org", False, "450 4.2.0 later"),
                ],
                ["connect", "EHLO", "MAIL", "RCPT", "RCPT", "RCPT", "DATA", ".", "QUIT"],
                id="T07-one-taken",
            ),
            pytest.param(
                ["550 5.1.1 no", "450 4.2.0 later", "abc odd"],
                [
                    Refused("a@example.org", True, "550 5.1.1 no"),
                    Refused("b@example.org", False, "450 4.2.0 later"),
                    Refused("c@example.org", False, "-1 odd"),
                ],
                ["connect", "EHLO", "MAIL", "RCPT", "RCPT", "RCPT", "QUIT"],
                id="T07-none-taken",
            ),
            pytest.param(
                ["250 ok", ("421 4.3.2 shutting down", Act.CLOSE)],
                LOST,
                ["connect", "EHLO", "MAIL", "RCPT", "RCPT"],
                id="T07-closed-in-between",
            ),
        ],
    )
    def test_three_recipients(
        self, replies: list[str | tuple[str, Act]], expected: object, keys: list[str]
    ) -> None:
        """T07: who is taken gets the message once, who is not is told."""
        with ScriptedServer({"RCPT": list(replies)}) as server:
            assert outcome(TO_THREE, at(server)) == expected
        assert server.keys == keys
        assert len(server.messages) == keys.count(".")

    @pytest.mark.parametrize(
        ("stage", "keys"),
        [
            pytest.param("greeting", ["connect"], id="T02-greeting"),
            pytest.param("EHLO", UP_TO_EHLO, id="T02-ehlo"),
            pytest.param("MAIL", UP_TO_MAIL, id="T02-mail"),
            pytest.param("RCPT", UP_TO_RCPT, id="T02-rcpt"),
            pytest.param("DATA", UP_TO_DATA, id="T08-data"),
            pytest.param(".", UP_TO_DOT, id="T09-behind-the-dot"),
        ],
    )
    def test_silence(self, stage: str, keys: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """T02: a server that says nothing is left, at each stage."""
        monkeypatch.setattr(mail, "CONNECT_TIMEOUT", 0.15)
        monkeypatch.setattr(mail, "REPLY_TIMEOUT", 0.15)
        monkeypatch.setattr(mail, "FINAL_TIMEOUT", 0.15)
        with ScriptedServer({stage: Act.SILENCE}) as server:
            assert outcome(LETTER, at(server)) == TIMED_OUT
        assert server.keys == keys

    def test_answer_without_end(self) -> None:
        """T03: a server that never comes to the last line of its answer is left."""
        many = b"".join(b"220-%d\r\n" % number for number in range(20_000))
        with ScriptedServer({"greeting": (many, Act.SILENCE)}) as server:
            found = outcome(LETTER, at(server))
        assert found == temporary("SERVER: Connection unexpectedly closed: the answer is too long")
        assert server.keys == ["connect"]

    def test_answer_byte_by_byte(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """T02: a server that never comes to the end of a line is left, however busy it is."""
        monkeypatch.setattr(mail, "REPLY_TIMEOUT", 0.3)
        drip = (functools.partial(time.sleep, 0.05), b"2")
        begun = time.monotonic()
        with ScriptedServer({"greeting": drip * 400}) as server:
            assert outcome(LETTER, at(server)) == TIMED_OUT
            assert time.monotonic() - begun < 10  # of the 20 s that the server takes

    def test_answer_at_the_last_moment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """T02: when its time is over, an answer is not read on, even if more of it is there."""
        clock = itertools.count(step=mail.ANSWER)
        monkeypatch.setattr(mail, "time", SimpleNamespace(monotonic=lambda: next(clock)))
        with ScriptedServer({}) as server:
            assert outcome(LETTER, at(server)) == TIMED_OUT

    def test_silence_after_quit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """T10: a message that was taken is taken, though QUIT is never answered."""
        monkeypatch.setattr(mail, "CONNECT_TIMEOUT", 0.15)
        with ScriptedServer({"QUIT": Act.SILENCE}) as server:
            assert send(LETTER, at(server)) == []
        assert server.keys == SENT

    def test_window_stays_full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """T11: a server that reads nothing more is left."""
        monkeypatch.setattr(mail, "REPLY_TIMEOUT", 0.15)
        with ScriptedServer({"content": Act.STALL}) as server:
            assert outcome(huge(), at(server)) == LOST
        assert (server.keys, server.messages) == (UP_TO_DATA, [])

    @pytest.mark.parametrize("act", [Act.CLOSE, Act.RESET])
    def test_lost_in_the_middle(self, act: Act) -> None:
        """T09: a connection that breaks in the middle of a message is a reason to try again."""
        with ScriptedServer({"content": act}) as server:
            assert outcome(huge(), at(server)) == LOST
        assert (server.keys, server.messages) == (UP_TO_DATA, [])

    def test_slow_greeting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """T02: a server that lets its clients wait is waited for as for any other answer."""
        monkeypatch.setattr(mail, "CONNECT_TIMEOUT", 0.1)
        pause = functools.partial(time.sleep, 0.2)
        with ScriptedServer({"greeting": (pause, "220 mail.example")}) as server:
            assert outcome(LETTER, at(server)) == []
        assert server.keys == SENT

    def test_slow_verdict(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """T09: the answer behind the dot may take longer than any other."""
        monkeypatch.setattr(mail, "REPLY_TIMEOUT", 0.3)
        pause = functools.partial(time.sleep, 0.4)
        with ScriptedServer({".": (pause, "250 2.0.0 queued")}) as server:
            assert send(LETTER, at(server)) == []
        assert server.messages == [CONTENT]

    def test_again(self) -> None:
        """T09, T16: the same letter can be sent again, and then is the same message."""
        script: Script = {".": [Act.CLOSE, "451 4.7.1 greylisted", "250 2.0.0 queued"]}
        with ScriptedServer(script) as server:
            found = [outcome(LETTER, at(server)) for _ in range(3)]
        assert found == [
            temporary(Like(f"SERVER: .*{DOUBT}")),
            temporary("SERVER refuses the message: 451 4.7.1 greylisted"),
            [],
        ]
        assert server.messages == [CONTENT] * 3
        assert server.keys == [*UP_TO_DOT, *SENT, *SENT]

    def test_photo_cannot_be_read(self) -> None:
        """A message that breaks off for a reason of ours ends nowhere, and says nothing more."""

        def fetch(start: int, end: int) -> bytes:
            if start:
                raise OSError(errno.EIO, "Input/output error")
            return bytes(end - start)

        letter = composed(upload(File("a.jpg", "image/jpeg", 1 << 20, 0, fetch)))
        with ScriptedServer() as server:
            found = outcome(letter, at(server))
        assert found == temporary("SERVER: [Errno 5] Input/output error")
        assert (server.keys, server.messages) == (UP_TO_DATA, [])
        sent = b"".join(letter_chunks(letter))
        assert server.cut == [sent]

    def test_own_name_not_ascii(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """T13: a machine whose name is not ASCII can send mail."""
        monkeypatch.setattr(socket, "getfqdn", lambda name="": "küche.example")
        with ScriptedServer() as server:
            assert outcome(LETTER, at(server)) == []
        assert server.keys == SENT


def letter_chunks(letter: OutgoingMessage) -> Iterator[bytes]:
    """What can be read of a letter."""
    try:
        yield from letter.chunks()
    except OSError:
        return


class TestStartTls:
    """T04: between a connection in clear and one over TLS."""

    @pytest.mark.parametrize(
        ("script", "keys"),
        [
            pytest.param({"EHLO": ehlo("AUTH PLAIN")}, UP_TO_EHLO, id="T04-stripped"),
            pytest.param({"EHLO": "500 what?"}, ["connect", "EHLO", "HELO"], id="T04-no-ehlo"),
        ],
    )
    def test_not_offered(self, script: Script, keys: list[str]) -> None:
        """T04: where STARTTLS is demanded and not offered, nothing is sent."""
        with ScriptedServer(script) as server:
            found = outcome(LETTER, at(server, Security.STARTTLS, USER, SECRET))
        assert found == temporary("SERVER does not offer STARTTLS, which nx_smtp demands")
        assert server.keys == keys

    @pytest.mark.parametrize(
        ("script", "expected", "keys"),
        [
            pytest.param(
                {"STARTTLS": "454 4.7.0 not now"},
                temporary("SERVER: 454 4.7.0 not now"),
                [*UP_TO_EHLO, "STARTTLS"],
                id="T04-454",
            ),
            pytest.param(
                {"STARTTLS": "502 5.5.1 what?"},
                temporary("SERVER: 502 5.5.1 what?"),
                [*UP_TO_EHLO, "STARTTLS"],
                id="T04-502",
            ),
            pytest.param(
                {"STARTTLS": "250 ok"},
                temporary("SERVER: 250 ok"),
                [*UP_TO_EHLO, "STARTTLS"],
                id="T12-250",
            ),
            pytest.param({"STARTTLS": Act.CLOSE}, LOST, [*UP_TO_EHLO, "STARTTLS"], id="T04-closed"),
            pytest.param(
                {"STARTTLS": ("220 go ahead", Act.CLOSE)},
                temporary(Like(r"SERVER: (\[Errno \d+\] .+|.*EOF occurred in violation.*)")),
                [*UP_TO_EHLO, "STARTTLS"],
                id="T04-closed-before-tls",
            ),
            pytest.param(
                {"STARTTLS": ("220 go ahead", b"no TLS at all, but so many bytes\r\n", Act.SHUT)},
                temporary(Like(r"SERVER: \[SSL: [A-Z_]+\] .+")),
                [*UP_TO_EHLO, "STARTTLS"],
                id="T04-garbage",
            ),
            pytest.param(
                {"EHLO": [ehlo("STARTTLS"), "421 4.3.2 busy"], "HELO": "421 4.3.2 busy"},
                temporary("SERVER: 421 4.3.2 busy"),
                [*UP_TO_EHLO, "STARTTLS", "EHLO", "HELO"],
                id="T04-ehlo-over-tls-fails",
            ),
        ],
    )
    @pytest.mark.parametrize("security", [Security.STARTTLS, Security.IF_OFFERED])
    def test_failing(
        self,
        script: Script,
        expected: Failure,
        keys: list[str],
        security: Security,
        trusted: Authority,
    ) -> None:
        """T04: where TLS is offered or demanded and fails, nothing is sent without it."""
        offering: Script = {"EHLO": ehlo("STARTTLS", "AUTH PLAIN"), **script}
        with ScriptedServer(offering, tls=trusted.context()) as server:
            assert outcome(LETTER, at(server, security, USER, SECRET)) == expected
        assert server.keys == keys
        assert not {"AUTH", "response", "MAIL"} & set(server.in_clear)

    def test_silence(self, trusted: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
        """T04: a server that does not begin with TLS is left."""
        monkeypatch.setattr(mail, "REPLY_TIMEOUT", 0.15)
        script: Script = {"EHLO": ehlo("STARTTLS"), "STARTTLS": ("220 go ahead", Act.SILENCE)}
        with ScriptedServer(script) as server:
            assert outcome(LETTER, at(server, Security.STARTTLS)) == TIMED_OUT
        assert server.keys == [*UP_TO_EHLO, "STARTTLS"]

    def test_injection(self, trusted: Authority) -> None:
        """T04: what is said before TLS begins is not believed afterwards."""
        script: Script = {
            "EHLO": [ehlo("STARTTLS", "AUTH PLAIN"), ehlo("SIZE")],
            "STARTTLS": (b"220 go ahead\r\n250-evil.example\r\n250 AUTH PLAIN\r\n", Act.TLS),
        }
        with ScriptedServer(script, tls=trusted.context()) as server:
            found = outcome(LETTER, at(server, Security.STARTTLS, USER, SECRET))
        assert found == no_login()
        assert server.keys == ["connect", "EHLO", "STARTTLS", "EHLO"]
        assert server.in_clear == ["connect", "EHLO", "STARTTLS"]

    def test_everything_over_tls(self, trusted: Authority) -> None:
        """Nothing but EHLO and STARTTLS is said in clear."""
        script: Script = {"EHLO": [ehlo("STARTTLS"), ehlo("AUTH PLAIN")]}
        with ScriptedServer(script, tls=trusted.context()) as server:
            assert send(LETTER, at(server, Security.STARTTLS, USER, SECRET)) == []
        assert server.in_clear == ["connect", "EHLO", "STARTTLS"]
        assert server.keys == ["connect", "EHLO", "STARTTLS", "EHLO", "AUTH", *SENT[2:]]


def not_let_in(said: str) -> Failure:
    return temporary(
        f"SERVER does not let user {USER!r} in ({said}): check the user and password in nx_smtp",
        3600.0,
    )


def no_login(offered: str = "none") -> Failure:
    return temporary(
        f"SERVER offers no way to log in that is supported (it offers: {offered}; "
        f"supported: PLAIN LOGIN CRAM-MD5): check host and port in nx_smtp",
        3600.0,
    )


AUTH_PLAIN = ehlo("AUTH PLAIN LOGIN")
AUTH_CRAM_MD5 = ehlo("AUTH SCRAM-SHA-256 CRAM-MD5")
AUTH_LOGIN = ehlo("AUTH CRAM-MD5 LOGIN")
UP_TO_AUTH = [*UP_TO_EHLO, "AUTH"]


class TestAuth:
    """T05, T18: one try, then a long wait; and the password stays between us."""

    @pytest.mark.parametrize(
        ("script", "expected", "keys"),
        [
            pytest.param({"EHLO": AUTH_PLAIN}, [], [*UP_TO_AUTH, *SENT[2:]], id="plain"),
            pytest.param({"EHLO": ehlo("auth plain")}, [], [*UP_TO_AUTH, *SENT[2:]], id="T12-case"),
            pytest.param(
                {"EHLO": ehlo("AUTH=LOGIN PLAIN")}, [], [*UP_TO_AUTH, *SENT[2:]], id="old-spelling"
            ),
            pytest.param(
                {
                    "EHLO": AUTH_LOGIN,
                    "AUTH": "334 VXNlcm5hbWU6",
                    "response": ["334 UA==", "235 ok"],
                },
                [],
                [*UP_TO_AUTH, "response", "response", *SENT[2:]],
                id="login",
            ),
            pytest.param(
                {"EHLO": AUTH_PLAIN, "AUTH": "503 5.5.1 already"},
                [],
                [*UP_TO_AUTH, *SENT[2:]],
                id="already-in",
            ),
            pytest.param(
                {"EHLO": AUTH_PLAIN, "AUTH": "535 5.7.8 no"},
                not_let_in("535 5.7.8 no"),
                UP_TO_AUTH,
                id="T05-535",
            ),
            pytest.param(
                {"EHLO": AUTH_PLAIN, "AUTH": "454 4.7.0 later"},
                not_let_in("454 4.7.0 later"),
                UP_TO_AUTH,
                id="T05-454",
            ),
            pytest.param(
                {"EHLO": AUTH_PLAIN, "AUTH": "250 ok"},
                not_let_in("250 ok"),
                UP_TO_AUTH,
                id="T12-250",
            ),
            pytest.param(
                {"EHLO": AUTH_PLAIN, "AUTH": "abc odd"},
                not_let_in("-1 odd"),
                UP_TO_AUTH,
                id="T12-abc",
            ),
            pytest.param(
                {"EHLO": AUTH_LOGIN, "AUTH": "535 5.7.8 no"},
                not_let_in("535 5.7.8 no"),
                UP_TO_AUTH,
                id="T05-login-535",
            ),
            pytest.param(
                {"EHLO": AUTH_LOGIN, "AUTH": "334 ", "response": "535 5.7.8 no"},
                not_let_in("535 5.7.8 no"),
                [*UP_TO_AUTH, "response"],
                id="T05-login-user-535",
            ),
            pytest.param(
                {"EHLO": AUTH_LOGIN, "AUTH": "334 ", "response": ["334 ", "535 5.7.8 no"]},
                not_let_in("535 5.7.8 no"),
                [*UP_TO_AUTH, "response", "response"],
                id="T05-login-password-535",
            ),
            pytest.param({}, no_login(), UP_TO_EHLO, id="T05-not-offered"),
            pytest.param({"EHLO": ehlo("AUTH")}, no_login(), UP_TO_EHLO, id="T05-none-offered"),
            pytest.param(
                {"EHLO": "500 what?"}, no_login(), ["connect", "EHLO", "HELO"], id="T05-no-ehlo"
            ),
            pytest.param(
                {"EHLO": ehlo("AUTH XOAUTH2 DIGEST-MD5")},
                no_login("XOAUTH2 DIGEST-MD5"),
                UP_TO_EHLO,
                id="T05-others-offered",
            ),
            pytest.param(
                {
                    "EHLO": AUTH_CRAM_MD5,
                    "AUTH": "334 PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+",
                },
                [],
                [*UP_TO_AUTH, "response", *SENT[2:]],
                id="cram-md5",
            ),
            pytest.param(
                {"EHLO": AUTH_CRAM_MD5, "AUTH": "334 PDE4", "response": "535 5.7.8 no"},
                not_let_in("535 5.7.8 no"),
                [*UP_TO_AUTH, "response"],
                id="cram-md5-535",
            ),
            pytest.param(
                {"EHLO": AUTH_CRAM_MD5, "AUTH": "535 5.7.8 no"},
                not_let_in("535 5.7.8 no"),
                UP_TO_AUTH,
                id="cram-md5-no-challenge",
            ),
            pytest.param(
                {"EHLO": AUTH_CRAM_MD5, "AUTH": "334 odd"},
                not_let_in("334 odd"),
                UP_TO_AUTH,
                id="cram-md5-odd-challenge",
            ),
            pytest.param(
                {"EHLO": AUTH_PLAIN, "AUTH": Act.CLOSE}, LOST, UP_TO_AUTH, id="T05-closed"
            ),
            pytest.param(
                {"EHLO": AUTH_PLAIN, "AUTH": f"535 no, {SECRET} is wrong"},
                not_let_in("535 no, *** is wrong"),
                UP_TO_AUTH,
                id="T18-told-again",
            ),
            pytest.param(
                {"EHLO": AUTH_PLAIN, "AUTH": f"500 what is AUTH PLAIN {PLAIN}?"},
                not_let_in("500 what is AUTH PLAIN ***?"),
                UP_TO_AUTH,
                id="T18-plain-told-again",
            ),
            pytest.param(
                {
                    "EHLO": AUTH_LOGIN,
                    "AUTH": "334 ",
                    "response": ["334 ", f"500 what is {SECRETS[1]}?"],
                },
                not_let_in("500 what is ***?"),
                [*UP_TO_AUTH, "response", "response"],
                id="T18-login-told-again",
            ),
            pytest.param(
                {"EHLO": AUTH_PLAIN, "AUTH": "535 " + "a" * 195 + SECRET},
                not_let_in("535 " + "a" * 195 + "***"),
                UP_TO_AUTH,
                id="T18-told-again-at-the-cut",
            ),
            pytest.param(
                {"EHLO": AUTH_PLAIN, "RCPT": f"550 {SECRET}"},
                [Refused(RECIPIENT, True, "550 ***")],
                [*UP_TO_AUTH, "MAIL", "RCPT", "QUIT"],
                id="T18-told-again-later",
            ),
        ],
    )
    def test_answers(
        self, script: Script, expected: list[Refused] | Failure, keys: list[str]
    ) -> None:
        """T05: every answer but yes is no, for an hour."""
        with ScriptedServer(script) as server:
            assert outcome(LETTER, at(server, user=USER, password=SECRET)) == expected
        assert server.keys == keys

    def test_words(self) -> None:
        """T18: user and password go in UTF-8, and in Base64."""
        script: Script = {
            "EHLO": [AUTH_PLAIN, AUTH_LOGIN],
            "AUTH": ["235 ok", "334 "],
            "response": ["334 ", "235 ok"],
        }
        with ScriptedServer(script) as server:
            for _ in range(2):
                assert send(LETTER, at(server, user=USER, password=SECRET)) == []
        assert server.lines("AUTH") == [f"AUTH PLAIN {PLAIN}", "AUTH LOGIN"]
        assert server.lines("response") == ["bWVAZXhhbXBsZS5vcmc=", SECRETS[1]]

    def test_challenge(self) -> None:
        """AUTH CRAM-MD5 answers the challenge as the example of RFC 2195 does."""
        challenge = base64.b64encode(b"<1896.697170952@postoffice.reston.mci.net>").decode()
        script: Script = {"EHLO": AUTH_CRAM_MD5, "AUTH": f"334 {challenge}"}
        with ScriptedServer(script) as server:
            assert send(LETTER, at(server, user="tim", password="tanstaaftanstaaf")) == []
        [answer] = server.lines("response")
        assert base64.b64decode(answer) == b"tim b913a602c7eda7a495b4e6e7334d3890"


class TestPasswordInClear:
    """User and password are sent over TLS, or to this machine, or not at all."""

    @pytest.mark.parametrize(
        ("script", "keys"),
        [
            pytest.param({"EHLO": ehlo("AUTH PLAIN")}, UP_TO_EHLO, id="plain"),
            pytest.param({"EHLO": ehlo("AUTH LOGIN")}, UP_TO_EHLO, id="login"),
            pytest.param({"EHLO": ehlo("AUTH CRAM-MD5")}, UP_TO_EHLO, id="cram-md5"),
            pytest.param({"EHLO": ehlo("SIZE 100000")}, UP_TO_EHLO, id="no-auth"),
            pytest.param({"EHLO": "500 what?"}, ["connect", "EHLO", "HELO"], id="no-ehlo"),
        ],
    )
    @pytest.mark.parametrize("host", [HOST, "localhost"])
    @pytest.mark.parametrize("password", [SECRET, ""], ids=["password", "user-only"])
    def test_stripped(
        self,
        script: Script,
        keys: list[str],
        host: str,
        password: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A server elsewhere that does not offer STARTTLS gets neither, whatever its name."""
        appear_far(monkeypatch)
        with ScriptedServer(script) as server:
            found = outcome(LETTER, at(server, user=USER, password=password, host=host))
        assert found == temporary(
            "SERVER does not offer STARTTLS, so user and password were not sent: "
            "set nx_smtp to smtps://, or to a port that offers STARTTLS"
        )
        assert server.keys == keys

    def test_unreachable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Other mail for that server waits as well."""
        appear_far(monkeypatch)
        script: Script = {"EHLO": ehlo("AUTH PLAIN")}
        with ScriptedServer(script) as server, pytest.raises(UnreachableError):
            send(LETTER, at(server, user=USER, password=SECRET))

    @pytest.mark.parametrize("security", Security)
    def test_over_tls(
        self, security: Security, trusted: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Over TLS they are sent to a server elsewhere."""
        appear_far(monkeypatch)
        implicit = security is Security.TLS
        with MailServer(tls=trusted.context(), implicit=implicit, login=(USER, SECRET)) as server:
            assert send(LETTER, at(server, security, USER, SECRET)) == []
        assert server.logins == [("PLAIN", USER, SECRET)]

    def test_without_password(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Mail without a login goes to a server elsewhere in clear, if it offers no TLS."""
        appear_far(monkeypatch)
        with ScriptedServer() as server:
            assert outcome(LETTER, at(server)) == []
        assert server.keys == SENT

    def test_certificate_of_a_user_without_password(
        self, trusted: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A user alone is verified for as well: an empty password is one."""
        script: Script = {"EHLO": ehlo("STARTTLS", "AUTH PLAIN")}
        with ScriptedServer(script, tls=trusted.self_signed()) as server:
            found = outcome(LETTER, at(server, user=USER))
        assert found == temporary(Like(r"SERVER: .*CERTIFICATE_VERIFY_FAILED.*"))
        assert "AUTH" not in server.keys

    @pytest.mark.skipif(
        not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("ip"),
        reason="needs root and the program ip",
    )
    def test_in_a_network(self) -> None:
        """The same with a real address that is not a loopback address."""
        code = (
            "import sys; from tests.deliver.test_mail import *\n"
            "server = ScriptedServer({'EHLO': ehlo('AUTH PLAIN')}, host='192.0.2.25')\n"
            "with server:\n"
            "    try: send(LETTER, at(server, user=USER, password=SECRET, host='192.0.2.25'))\n"
            "    except UnreachableError: print(*server.keys)"
        )
        name = f"nx-mail-{os.getpid()}"
        subprocess.run(["ip", "netns", "add", name], check=True)
        try:
            inside = ["ip", "netns", "exec", name]
            for command in ("link set lo up", "address add 192.0.2.25/32 dev lo"):
                subprocess.run([*inside, "ip", *command.split()], check=True)
            done = subprocess.run(
                [*inside, sys.executable, "-c", code], check=True, capture_output=True, text=True
            )
        finally:
            subprocess.run(["ip", "netns", "delete", name], check=True)
        assert done.stdout.split() == UP_TO_EHLO


class TestConnect:
    """T01: no connection at all."""

    def test_refused(self) -> None:
        """Where nobody listens, it is tried again."""
        with socket.create_server((HOST, 0)) as listener:
            port = listener.getsockname()[1]
        found = outcome(LETTER, Smarthost(HOST, port, Security.IF_OFFERED))
        assert found == temporary(Like(r"SERVER: \[Errno \d+\] Connection refused"))

    @pytest.mark.parametrize("security", Security)
    @pytest.mark.parametrize(
        ("error", "text"),
        [
            pytest.param(
                socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
                rf"SERVER: \[Errno {socket.EAI_NONAME}\] Name or service not known",
                id="no-name",
            ),
            pytest.param(
                socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
                rf"SERVER: \[Errno {socket.EAI_AGAIN}\] Temporary failure in name resolution",
                id="no-answer",
            ),
            pytest.param(
                OSError(errno.ENETUNREACH, "Network is unreachable"),
                rf"SERVER: \[Errno {errno.ENETUNREACH}\] Network is unreachable",
                id="no-network",
            ),
            pytest.param(TimeoutError("timed out"), "SERVER: timed out", id="no-connection"),
            pytest.param(TimeoutError(), "SERVER: TimeoutError", id="no-words"),
        ],
    )
    def test_unreachable(
        self,
        security: Security,
        error: OSError,
        text: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Where nobody is to be found, it is tried again."""

        def getaddrinfo(*arguments: object) -> None:
            raise error

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        found = outcome(LETTER, Smarthost("mail.example", 25, security, USER, SECRET))
        assert found == temporary(Like(text))


BAD, GOOD = "bad@example.org", "good@example.org"
NO_USER = "550 5.1.1 no such user"


class TestOutbox:
    """From the spool to a mail server, and to what the page says of it."""

    @pytest.fixture
    def boxed(self, tmp_path: Path) -> Iterator[Callable[..., Box]]:
        made: list[Box] = []

        def make(target: str, server: MailServer | ScriptedServer, to: Sequence[str]) -> Box:
            body = bodies.body([(f"SAM_{n}.JPG", bodies.jpeg(2000 + n, n)) for n in (1, 2, 3)])
            smtp = f"smtp://{server.host}:{server.port}"
            made.append(Box(tmp_path, target, {}, body, to, nx_smtp=smtp))
            return made[-1]

        yield make
        for one in made:
            one.spool.close()

    @staticmethod
    def page(box: Box) -> list[tuple[str, str]]:
        """What the page says of each delivery: the state that it shows, and the words."""
        html = page.render(box.spool.recent(None), NOON, gallery=False).body.decode()
        return re.findall('<p class="([a-z]+)">([^<]+)</p>', html)

    @pytest.mark.parametrize("to", [[BAD], [BAD, GOOD]], ids=["one-typed", "two-typed"])
    def test_other_address_refused(
        self, boxed: Callable[..., Box], tmp_path: Path, to: list[str]
    ) -> None:
        """If the address of `mail:ADDRESS` is refused, the mail is not delivered to anybody."""
        with MailServer(replies={"boss@example.org": NO_USER}) as server:
            box = boxed("mail:boss@example.org", server, to)
            box.deliver()
        assert self.page(box) == [
            (
                "failed",
                f"Could not be mailed to boss@example.org: {NO_USER}. The files are kept.",
            )
        ]
        assert len(contents(folder_for(tmp_path / "undelivered", NOON))) == 3
        assert box.waits == []

    def test_other_address_later(self, boxed: Callable[..., Box]) -> None:
        """If it is refused for now, the delivery waits, for the same recipients."""
        with MailServer(replies={"boss@example.org": "450 4.2.0 greylisted"}) as server:
            box = boxed("mail:boss@example.org", server, [BAD, GOOD])
            box.deliver()
        assert self.page(box) == [
            (
                "waiting",
                "Waits to be mailed to boss@example.org: 450 4.2.0 greylisted. "
                "Next try in 15 seconds.",
            )
        ]
        assert [one.recipients for one in box.spool.waiting()] == [(BAD, GOOD)]

    @pytest.mark.parametrize(
        ("replies", "expected"),
        [
            pytest.param(
                {BAD: NO_USER},
                ("partly", f"Mailed to {GOOD}; not delivered to {BAD} ({NO_USER})"),
                id="one-of-two",
            ),
            pytest.param(
                {BAD: NO_USER, GOOD: NO_USER},
                (
                    "failed",
                    f"Could not be mailed to {BAD}, {GOOD}: {NO_USER}. The files are kept.",
                ),
                id="both",
            ),
            pytest.param(
                {BAD: NO_USER, GOOD: "553 5.1.3 bad address"},
                (
                    "failed",
                    f"Could not be mailed to {BAD}, {GOOD}: "
                    f"{BAD} ({NO_USER}), {GOOD} (553 5.1.3 bad address). The files are kept.",
                ),
                id="both-for-different-reasons",
            ),
            pytest.param({}, ("done", f"Mailed to {BAD}, {GOOD}"), id="none"),
        ],
    )
    def test_refused(
        self,
        boxed: Callable[..., Box],
        tmp_path: Path,
        replies: dict[str, str],
        expected: tuple[str, str],
    ) -> None:
        """Each recipient is named once: as reached, or as refused."""
        with MailServer(replies=replies) as server:
            box = boxed("mail", server, [BAD, GOOD])
            box.deliver()
        assert self.page(box) == [expected]
        assert (tmp_path / "undelivered").exists() is bool(replies)

    @pytest.mark.parametrize(
        "said",
        [
            "554 Message rejected: Stream is more than 6000 bytes long.",
            "554 5.3.4 Message too big for system",
            "550 5.2.3 RESOLVER.RST.RecipSizeLimit; message too large for this recipient",
            "523 Message length exceeds administrative limit.",
            "552 5.3.4 Error: message file too big",
        ],
    )
    def test_too_large(self, boxed: Callable[..., Box], tmp_path: Path, said: str) -> None:
        """Photos that are too large together are mailed one by one."""
        with MailServer(largest=6000, too_large=said) as server:
            box = boxed("mail", server, [GOOD])
            box.deliver()
        assert [len(list(parsed(mail.content).iter_attachments())) for mail in server.mails] == [
            1,
            1,
            1,
        ]
        assert {state for state, _ in self.page(box)} == {"done"}
        assert not (tmp_path / "undelivered").exists()

    def test_spam(self, boxed: Callable[..., Box], tmp_path: Path) -> None:
        """Photos that are refused for another reason are not mailed again."""
        with MailServer(largest=6000, too_large="554 5.7.1 spam") as server:
            box = boxed("mail", server, [GOOD])
            box.deliver()
        assert (server.mails, server.refused) == ([], 1)
        assert len(contents(folder_for(tmp_path / "undelivered", NOON))) == 3

    def test_too_large_for_a_recipient(self, boxed: Callable[..., Box]) -> None:
        """A recipient for whom the announced size is too large gets the photos one by one."""
        said = "550 5.2.3 RESOLVER.RST.RecipSizeLimit; message too large for this recipient"
        script: Script = {
            "EHLO": ehlo("SIZE"),
            "RCPT": ["250 2.1.5 OK", said, "250 2.1.5 OK"],
        }
        with ScriptedServer(script) as server:
            box = boxed("mail", server, [GOOD, BAD])
            box.deliver()
        assert server.keys[:6] == ["connect", "EHLO", "MAIL", "RCPT", "RCPT", "QUIT"]
        assert len(server.messages) == 3
        assert {state for state, _ in self.page(box)} == {"done"}

    def test_one_photo_too_large_for_a_recipient(self, boxed: Callable[..., Box]) -> None:
        """A photo that is too large for one recipient still reaches the other."""
        said = "550 5.2.3 RESOLVER.RST.RecipSizeLimit; message too large for this recipient"
        with MailServer(replies={BAD: said}) as server:
            box = boxed("mail", server, [GOOD, BAD])
            box.deliver()
        assert [mail.recipients for mail in server.mails] == [(GOOD,)] * 3
        [(state, told)] = self.page(box)
        assert (state, told) == ("partly", f"Mailed to {GOOD}; not delivered to {BAD} ({said})")

    def test_international(self, boxed: Callable[..., Box]) -> None:
        """A recipient is named as typed, also if the server knows the address by another name."""
        typed = "bad@b\u00fccher.example"
        with MailServer(replies={"bad@xn--bcher-kva.example": NO_USER}) as server:
            box = boxed("mail", server, [typed, GOOD])
            box.deliver()
        assert self.page(box) == [
            ("partly", f"Mailed to {GOOD}; not delivered to {typed} ({NO_USER})")
        ]

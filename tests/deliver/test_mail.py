"""E-mail: the bytes of messages, and servers that accept or refuse them."""

from __future__ import annotations

import base64
import email
import email.policy
import email.utils
import errno
import re
import socket
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from email.header import decode_header, make_header
from email.message import EmailMessage
from functools import partial

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import nxparse
from nxparse.address import AddressError
from nxparse.deliver import mail
from nxparse.deliver.errors import (
    DeliveryError,
    PermanentError,
    Refused,
    TemporaryError,
    TooLargeError,
    UnreachableError,
)
from nxparse.deliver.mail import OutgoingMessage, check_smarthost, compose, means_size, send
from nxparse.deliver.smarthost import Security, Smarthost
from nxparse.upload import File, Upload
from tests import bodies
from tests.box import ID, NOON, PHOTO, photo
from tests.deliver.failures import Failure, Like, failure_of
from tests.far import appear_far
from tests.smtp_servers import HOST, Act, Authority, Mail, MailServer, Script, ScriptedServer, ehlo

pytestmark = pytest.mark.usefixtures("no_authorities")

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=10)

SENDER, RECIPIENT = "camera@example.com", "me@example.org"


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


def content(message: OutgoingMessage) -> bytes:
    """The bytes of a message, after a check that any mail server accepts them."""
    data = b"".join(message.chunks())
    assert len(data) == message.size
    assert data.isascii()
    assert data.endswith(b"\r\n")
    lines = data.split(b"\r\n")
    assert max(map(len, lines)) <= 998
    assert not [line for line in lines if re.search(rb"[\r\n\0]", line)]
    assert not [line for line in lines if line.startswith(b".")]
    return data


HEADERS = ["From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type"]
TEXT_HEADERS = ["Content-Type", "Content-Transfer-Encoding"]
FILE_HEADERS = ["Content-Type", "Content-Disposition", "Content-Transfer-Encoding"]


@dataclass(frozen=True, slots=True)
class ReadBack:
    """A parsed message. Attachments are name, type and content."""

    headers: dict[str, str]
    text: str
    attachments: list[tuple[str | None, str, bytes]]


def read_back(message: OutgoingMessage) -> ReadBack:
    """Parse a message, after a check that it has no defects and no header but those intended."""
    found = email.message_from_bytes(content(message), policy=email.policy.default)
    assert isinstance(found, EmailMessage)
    assert [part.defects for part in found.walk() if part.defects] == []
    assert [name for name in found if name != "Reply-To"] == HEADERS
    text, *files = found.iter_parts()
    assert isinstance(text, EmailMessage)
    assert text.keys() == TEXT_HEADERS
    assert text.get_content_type() == "text/plain"
    assert [file.keys() for file in files] == [FILE_HEADERS] * len(files)
    assert [file.get_content_disposition() for file in files] == ["attachment"] * len(files)
    return ReadBack(
        {name: str(value) for name, value in found.items()},
        text.get_content(),
        [(file.get_filename(), file.get_content_type(), file.get_content()) for file in files],
    )


def name_in_old_programs(message: OutgoingMessage) -> str:
    """The name of the only attachment for a program that does not support RFC 2231."""
    _, file = email.message_from_bytes(content(message)).get_payload()
    name = file.get_param("filename", header="Content-Disposition")
    if not isinstance(name, str):
        name = file.get_param("name")
    return str(make_header(decode_header(name)))


def mailboxes(message: OutgoingMessage, header: str) -> list[tuple[str, str]]:
    """The names and addresses in a header.

    The older parser of the standard library reads them: in some versions of Python the newer
    one inserts blanks between encoded words.
    """
    value = email.message_from_bytes(content(message))[header]
    found = email.utils.getaddresses([value.replace("\r\n", "")])
    return [(visible(str(make_header(decode_header(name)))), address) for name, address in found]


def visible(text: str) -> str:
    """Text without control characters, and with single blanks."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", " ", text).split())


class TestCompose:
    def test_captured_upload(self) -> None:
        """The upload of a camera becomes one message with its text and photos."""
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

    @pytest.mark.parametrize(
        ("sender", "name", "mail_from", "expected"),
        [
            pytest.param("a@b", "", "", ("a@b", "a@b", None), id="camera"),
            pytest.param("a@b", "J. Doe", "", ("a@b", '"J. Doe" <a@b>', None), id="quoted"),
            pytest.param("a@b", "", "c@d", ("c@d", "c@d", "a@b"), id="mail-from"),
            pytest.param("a@b", "Jo", "c@d", ("c@d", "Jo <c@d>", "Jo <a@b>"), id="both"),
            pytest.param("a@b", "", "a@b", ("a@b", "a@b", "a@b"), id="equal"),
            pytest.param("", "Jo", "c@d", ("c@d", "Jo <c@d>", None), id="no-sender"),
            pytest.param("a@bü.example", "", "", ("a@xn--b-eha.example",) * 2 + (None,), id="idna"),
        ],
    )
    def test_sender(
        self, sender: str, name: str, mail_from: str, expected: tuple[str, str, str | None]
    ) -> None:
        """Mail is sent from the camera's sender, or from nx_mail_from with a Reply-To."""
        message = composed(upload(sender=sender, name=name), mail_from=mail_from)
        headers = read_back(message).headers
        assert (message.sender, headers["From"], headers.get("Reply-To")) == expected
        domain = expected[0].partition("@")[2]
        assert headers["Message-ID"] == f"<{ID}@{domain}>"

    @pytest.mark.parametrize(
        ("sender", "recipient", "mail_from"),
        [("", RECIPIENT, ""), ("a@b", "c@d, x@y", ""), ("a@b", RECIPIENT, "c@d\r\nBcc: x@y")],
        ids=["no-sender", "list", "line-break"],
    )
    def test_wrong_address(self, sender: str, recipient: str, mail_from: str) -> None:
        """Each address of a message must be exactly one deliverable address."""
        with pytest.raises(AddressError, match="is not an e-mail address"):
            composed(upload(sender=sender), [RECIPIENT, recipient], mail_from=mail_from)

    def test_many_recipients(self) -> None:
        """64 recipients, the most that an upload can have, fit into To."""
        recipients = [f"{'a' * 62}{number:02}@example.org" for number in range(64)]
        message = composed(upload(), recipients)
        assert read_back(message).headers["To"] == ", ".join(recipients)
        assert list(message.recipients) == recipients


# Characters that end a line or a header in some program. In a header each becomes a blank.
BREAKS = "\rBcc: x@y\nBcc: x@y\r\nBcc: x@y\v \f \0 \x1b \x7f \x85 \u2028 \u2029 \ud800 \udc0d\udc0a"

# Texts that must be read back unchanged.
NAUGHTY = {
    "korean": "카메라에서 보낸 사진",
    "encoded-newline": "a =?UTF-8?Q?=0A?=Bcc: x@y",
    "split-encoded-word": "=?utf-8?q?" + "b " * 60 + "?=",
    "long-korean": "가" * 700,
    "double-blanks": "a  b",
    "1100-blanks": "a" + " " * 1100 + "b",
    "emoji": "👨‍👩‍👧‍👦" * 20,
    "quotes": 'a "b\\" c',
}

LONG = "가" * 46 + ".jpg"


class TestInjection:
    @pytest.mark.parametrize("text", NAUGHTY.values(), ids=NAUGHTY)
    def test_naughty(self, text: str) -> None:
        """Unusual text can be read back from each place in a message."""
        name = text[:2000]
        given = upload(photo(name=text), subject=text, name=name, text=text)
        message = composed(given, mail_from="photos@example.net")
        found = read_back(message)
        assert found.headers["Subject"] == text
        assert mailboxes(message, "From") == [(visible(name), "photos@example.net")]
        assert mailboxes(message, "Reply-To") == [(visible(name), SENDER)]
        assert found.text == text
        assert found.attachments == [(photo(name=text).safe_name, "image/jpeg", PHOTO)]

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            pytest.param(None, "photo.jpg", id="missing"),
            pytest.param(LONG, LONG, id="long-korean"),
            pytest.param('a"; x="b.jpg', "a_; x=_b.jpg", id="quotes"),
            pytest.param("é;b=c'd''e%41.jpg", "é;b=c'd''e%41.jpg", id="semicolon-not-ascii"),
            pytest.param("a\r\nBcc: x@y.jpg", "aBcc_ x@y.jpg", id="crlf"),
            pytest.param("=?utf-8?q?=0a?=.jpg", "=_utf-8_q_=0a_=.jpg", id="encoded-word"),
            pytest.param("a\ud800.jpg", "a.jpg", id="surrogate"),
            pytest.param("../../etc/passwd", "passwd.jpg", id="parent-folders"),
        ],
    )
    def test_attachment(self, name: str | None, expected: str) -> None:
        """An attachment has the same name as a saved file, in old mail programs too."""
        message = composed(upload(photo(name=name)))
        assert read_back(message).attachments == [(expected, "image/jpeg", PHOTO)]
        assert name_in_old_programs(message) == expected

    @PROPERTY
    @given(st.text(), st.text(), st.text() | st.none())
    @example(BREAKS, BREAKS, BREAKS)
    @example("\n", f"a\r\n.\r\nb\n.\n--nx-{ID}--\r\n", None)
    def test_any_text(self, header: str, text: str, filename: str | None) -> None:
        """Any upload becomes a message with exactly its headers."""
        given = upload(photo(name=filename), name=header, subject=header, text=text)
        message = composed(given)
        found = read_back(message)
        assert visible(found.headers["Subject"]) == visible(header)
        assert mailboxes(message, "From") == [(visible(header), SENDER)]
        assert found.text == text.encode("utf-8", "replace").decode()
        assert found.attachments == [(given.files[0].safe_name, "image/jpeg", PHOTO)]


BLOCK = 57 * 1024
SIZES = [*range(4), *range(55, 60), *range(112, 117)]
SIZES += [size + more for size in (BLOCK, 2 * BLOCK) for more in (-1, 0, 1)]


class TestSize:
    def test_sizes(self) -> None:
        """Base64 and the announced size are right for any size of file."""
        data = bytes(range(256)) * 500
        for size in SIZES:
            message = composed(upload(photo(data[:size])))
            sent = b"".join(message.chunks())
            attachment = sent.split(b'filename="SAM_4371.JPG"')[1]
            encoded = attachment.split(b"\r\n\r\n", 1)[1].split(b"--nx-")[0]
            assert encoded == base64.encodebytes(data[:size]).replace(b"\n", b"\r\n")
            assert len(sent) == message.size

    def test_memory(self) -> None:
        """Memory does not grow with the attachments."""
        file = File("a.jpg", "image/jpeg", 2 << 20, 0, lambda start, end: bytes(end - start))
        tracemalloc.start()
        try:
            message = composed(upload(file))
            length = sum(len(chunk) for chunk in message.chunks())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert length == message.size
        assert peak < 1 << 20


# Replies to a message that is too large, from the sources and documentation of servers.
TOO_LARGE = [
    "552 5.3.4 Message size exceeds fixed limit",  # Postfix
    "552 message too big",  # Exim
    "552 5.2.3 Message size exceeds fixed maximum message size (20000000)",  # Sendmail
    "550 5.3.4 ROUTING.SizeLimit; message size exceeds fixed maximum size for route",  # Exchange
    "554 5.2.3 MapiExceptionMessageSizeExceeded",  # Exchange Online
    "552-5.3.4 Your message exceeded Google's message size limits. To view our\r\n"
    "552-5.3.4 message size guidelines, go to\r\n"
    "552 5.3.4 https://support.google.com/mail/?p=MaxSizeError x17-20020a5d - gsmtp",
    "554 Message too large",  # Yahoo
    "552 Requested mail action aborted: exceeded storage allocation",  # GMX, web.de
    "554 Transaction failed: Message is too big",  # GMX, web.de
    "553 Message size exceeds the limit",  # Zoho
    "554 Transaction failed: Message too long.",  # Amazon SES
    "554 Message rejected: Stream is more than 6000 bytes long.",
    "523",  # Courier
    "550 Requested action not taken: email larger than 25 MB",
    "550 Message length exceeds administrative limit",
    "554 Message exceeds 25MB",
    "552",
]
# Replies to a message that is refused for another reason.
NOT_TOO_LARGE = [
    "554 5.7.1 spam",
    "554 5.7.1 Message exceeded the spam threshold",
    "550 5.1.1 <size@example.org>: Recipient address rejected: User unknown",
    "550 <big@example.org>: no such user",
    "552 5.2.2 mailbox full",
    "550 5.2.2 mailbox size limit exceeded",
    "552-5.7.0 This message was blocked because its content presents a potential\r\n"
    "552 5.7.0 security issue. x17 - gsmtp",
    "550 5.4.5 Daily user sending limit exceeded.",
    "550 5.7.1 client [85.3.4.17] blocked, see http://example.org/85.2.3",
    "550 Message rate limit exceeded",
    "550 5.6.1 Message contains a file that is not allowed",
    "451 4.3.0 message too large for now",
]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [*((reply, True) for reply in TOO_LARGE), *((reply, False) for reply in NOT_TOO_LARGE)],
)
def test_means_size(reply: str, expected: bool) -> None:
    """A refusal because of the size is recognised by code, status or text."""
    text = b"\n".join(line[4:].encode() for line in reply.split("\r\n"))
    assert means_size(int(reply[:3]), text) is expected


unreachable = partial(Failure, UnreachableError)
temporary = partial(Failure, TemporaryError)
permanent = partial(Failure, PermanentError)

SECRET = "geheim-ß"
SECRETS = (SECRET, base64.b64encode(SECRET.encode()).decode())
USER = "me@example.org"
PLAIN = base64.b64encode(f"\0{USER}\0{SECRET}".encode()).decode()


def outcome(message: OutgoingMessage, server: Smarthost) -> list[Refused] | Failure:
    """Return the result or the error of `send`, with SERVER for the server and without secrets."""
    try:
        return send(message, server)
    except DeliveryError as error:
        return failure_of(error, server, (*SECRETS, PLAIN))


DOUBT = "; it may have been accepted all the same"
LOST = Like(
    r"SERVER: (Server not connected|Connection unexpectedly closed"
    rf"|(Connection unexpectedly closed: )?\[Errno \d+\] .+)({DOUBT})?"
)
TIMED_OUT = Like(rf"SERVER: (Connection unexpectedly closed: )?(.* )?timed out({DOUBT})?")


@pytest.fixture(autouse=True)
def _short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let failing tests time out within seconds."""
    for name in ("CONNECT_TIMEOUT", "REPLY_TIMEOUT", "QUIT_TIMEOUT"):
        monkeypatch.setattr(mail, name, 5.0)


def at(
    server: MailServer | ScriptedServer,
    security: Security = Security.IF_OFFERED,
    user: str = "",
    password: str = "",
    host: str = HOST,
) -> Smarthost:
    return Smarthost(host, server.port, security, user, password)


ONE = composed(upload(photo()))
CONTENT = b"".join(ONE.chunks())
A, B, C = "a@example.org", "b@example.org", "c@example.org"
TO_THREE = composed(upload(photo()), [A, B, C])


def huge() -> OutgoingMessage:
    """A message that is larger than the buffers of a connection."""
    file = File("a.jpg", "image/jpeg", 64 << 20, 0, lambda start, end: bytes(end - start))
    return composed(upload(file))


class TestSend:
    """A server that accepts mail."""

    @pytest.mark.parametrize(
        ("security", "offered", "login"),
        [
            pytest.param(Security.IF_OFFERED, False, False, id="smtp-in-clear"),
            pytest.param(Security.IF_OFFERED, True, False, id="smtp-without-login"),
            pytest.param(Security.IF_OFFERED, True, True, id="smtp-over-tls"),
            pytest.param(Security.STARTTLS, True, True, id="starttls"),
            pytest.param(Security.TLS, True, True, id="smtps"),
        ],
    )
    def test_security(
        self,
        security: Security,
        offered: bool,
        login: bool,
        trusted: Authority,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """All recipients get one transaction, with each scheme."""
        appear_far(monkeypatch)
        account = (USER, SECRET) if login else None
        tls = trusted.context() if offered else None
        with MailServer(tls=tls, implicit=security is Security.TLS, login=account) as server:
            assert send(TO_THREE, at(server, security, *(account or ()))) == []
        data, user = b"".join(TO_THREE.chunks()), USER if login else ""
        assert server.mails == [Mail(SENDER, (A, B, C), data, offered, user)]
        assert server.logins == ([("PLAIN", USER, SECRET)] if login else [])

    def test_name_in_certificate(self, trusted: Authority) -> None:
        """A certificate for the host name in the URL is accepted."""
        with MailServer(tls=trusted.context("localhost")) as server:
            assert send(ONE, at(server, Security.STARTTLS, host="localhost")) == []


class TestCertificates:
    """A server needs a valid certificate, except with smtp:// and no user."""

    @pytest.mark.parametrize(
        ("security", "login"),
        [
            pytest.param(Security.STARTTLS, (), id="starttls"),
            pytest.param(Security.TLS, (USER, SECRET), id="smtps"),
            pytest.param(Security.IF_OFFERED, (USER,), id="smtp-with-user"),
        ],
    )
    @pytest.mark.parametrize("self_signed", [True, False], ids=["self-signed", "another"])
    def test_refused(
        self, security: Security, login: tuple[str, ...], self_signed: bool, trusted: Authority
    ) -> None:
        """A server with a wrong certificate gets neither mail nor password."""
        reason = "self-signed certificate" if self_signed else "IP address mismatch, .*"
        tls = trusted.self_signed() if self_signed else trusted.context("mail.example")
        greeting = (Act.TLS, "220 mail.example") if security is Security.TLS else "220 mail.example"
        script: Script = {"greeting": greeting, "EHLO": ehlo("STARTTLS", "AUTH PLAIN")}
        with ScriptedServer(script, tls=tls) as server:
            found = outcome(ONE, at(server, security, *login))
        assert found == unreachable(
            Like(rf"SERVER: .*failed: {reason} \(.*\); nx_smtp must contain the host name of .*")
        )
        expected = ["connect"] if security is Security.TLS else ["connect", "EHLO", "STARTTLS"]
        assert server.keys == expected

    def test_tolerated(self, trusted: Authority) -> None:
        """smtp:// without a user accepts any certificate (RFC 7435)."""
        with MailServer(tls=trusted.self_signed()) as server:
            assert send(ONE, at(server)) == []
        assert [found.secure for found in server.mails] == [True]


ALL = ["connect", "EHLO", "MAIL", "RCPT", "DATA", ".", "QUIT"]


def up_to(last: str, *more: str) -> list[str]:
    """The steps of a conversation up to and including `last`, and some more."""
    return [*ALL[: ALL.index(last) + 1], *more]


HELO = ["connect", "EHLO", "HELO"]
MEGABYTE = b"250 " + b"a" * 1_000_000 + b"\r\n"
REFUSED = "SERVER refuses the message: "

# The script of the server, the result, and the steps of the conversation.
CONVERSATIONS: dict[str, tuple[Script, list[Refused] | Failure, list[str]]] = {
    "greeting-421": ({"greeting": "421 busy"}, unreachable("SERVER: 421 busy"), ["connect"]),
    "greeting-closed": ({"greeting": Act.CLOSE}, unreachable(LOST), ["connect"]),
    "helo": ({"EHLO": "500 what?"}, [], [*HELO, *ALL[2:]]),
    "no-helo": ({"EHLO": "500", "HELO": "502 what?"}, unreachable("SERVER: 502 what?"), HELO),
    "rcpt-251": ({"RCPT": "251 2.1.5 forwarded"}, [], ALL),
    "data-250": (
        {"DATA": "250 2.0.0 what?"},
        temporary(f"{REFUSED}250 2.0.0 what?"),
        up_to("DATA", "QUIT"),
    ),
    "data-closed": ({"DATA": Act.CLOSE}, temporary(LOST), up_to("DATA")),
    "before-the-dot": ({"content": Act.CLOSE}, temporary(LOST), up_to("DATA")),
    "half-closed": ({"content": Act.SHUT}, temporary(LOST), up_to(".")),
    "after-the-dot": ({".": Act.CLOSE}, temporary(LOST), up_to(".")),
    "dot-1-MB": ({".": MEGABYTE}, temporary(f"SERVER: 500 Line too long.{DOUBT}"), up_to(".")),
    # An accepted message stays accepted.
    "quit-reset": ({"QUIT": Act.RESET}, [], ALL),
    "quit-silence": ({"QUIT": Act.READ_ON}, [], ALL),
}

# Replies that refuse the message.
REFUSALS = [
    ("MAIL", "451 later", TemporaryError),
    ("MAIL", "552 5.3.4 too large", TooLargeError),
    ("MAIL", "530 5.7.0 Authentication required", UnreachableError),
    ("MAIL", "421 4.3.2 busy", UnreachableError),
    ("DATA", "451 later", TemporaryError),
    ("DATA", "554 5.3.4 Message too big for system", TooLargeError),
    (".", "451 greylisted", TemporaryError),
    (".", "554 5.7.1 spam", PermanentError),
    (".", "299 odd", TemporaryError),
]


class TestConversation:
    """The message is sent at most once, whatever the server replies."""

    @pytest.mark.parametrize(
        ("script", "expected", "keys"), CONVERSATIONS.values(), ids=CONVERSATIONS
    )
    def test_one_recipient(
        self,
        monkeypatch: pytest.MonkeyPatch,
        script: Script,
        expected: list[Refused] | Failure,
        keys: list[str],
    ) -> None:
        """Each reply causes the expected result, and no step is repeated."""
        monkeypatch.setattr(mail, "QUIT_TIMEOUT", 0.15)
        with ScriptedServer(script) as server:
            assert outcome(ONE, at(server)) == expected
        assert server.keys == keys
        assert server.messages == ([CONTENT] if "." in keys else [])

    @pytest.mark.parametrize(("step", "reply", "kind"), REFUSALS)
    def test_refused(self, step: str, reply: str, kind: type[Exception]) -> None:
        """The reply decides whether a refused message is retried, abandoned or split."""
        with ScriptedServer({step: reply}) as server:
            found = outcome(ONE, at(server))
        subject = "sender" if step == "MAIL" else "message"
        retry_after = 3600.0 if reply.startswith("530") else 0.0
        assert found == Failure(kind, f"SERVER refuses the {subject}: {reply}", retry_after)
        assert server.keys == up_to(step, "QUIT")

    def test_commands(self) -> None:
        """The envelope is in the commands. SIZE is sent only if the server offers it."""
        for extensions, options in ((), ""), (("SIZE 9999999",), f" SIZE={ONE.size}"):
            with ScriptedServer({"EHLO": ehlo(*extensions)}) as server:
                assert send(ONE, at(server)) == []
            [sender], [recipient] = server.lines("MAIL"), server.lines("RCPT")
            assert sender.lower() == f"mail from:<{SENDER}>{options.lower()}"
            assert recipient.lower() == f"rcpt to:<{RECIPIENT}>"

    @pytest.mark.parametrize(
        ("replies", "expected", "after"),
        [
            pytest.param(
                ["550 5.1.1 no", "250 ok", "450 4.2.0 later"],
                [Refused(A, True, "550 5.1.1 no"), Refused(C, False, "450 4.2.0 later")],
                ["RCPT", "DATA", ".", "QUIT"],
                id="one-accepted",
            ),
            pytest.param(
                ["550-5.1.1 no\r\n550 5.1.1  such\tuser\x07", "450 4.2.0 later", "abc odd"],
                [
                    Refused(A, True, "550 5.1.1 no 5.1.1 such user"),
                    Refused(B, False, "450 4.2.0 later"),
                    Refused(C, False, "-1 odd"),
                ],
                ["RCPT", "QUIT"],
                id="none-accepted",
            ),
            pytest.param(
                ["250 ok", ("421 4.3.2 shutting down", Act.CLOSE)],
                temporary(LOST),
                [],
                id="closed-in-between",
            ),
        ],
    )
    def test_three_recipients(
        self, replies: list[str | tuple[str, Act]], expected: object, after: list[str]
    ) -> None:
        """Accepted recipients get the message once, the others are returned."""
        with ScriptedServer({"RCPT": list(replies)}) as server:
            assert outcome(TO_THREE, at(server)) == expected
        assert server.keys == [*up_to("RCPT"), "RCPT", *after]
        assert len(server.messages) == after.count(".")

    @pytest.mark.parametrize(
        ("limit", "fits"), [(0, True), (ONE.size, True), (ONE.size - 1, False)]
    )
    def test_announced_limit(self, limit: int, fits: bool) -> None:
        """A message beyond the announced size is not sent: some servers would hang up."""
        with ScriptedServer({"EHLO": ehlo(f"SIZE {limit}")}) as server:
            found = outcome(ONE, at(server))
        assert found == (
            [] if fits else Failure(TooLargeError, f"SERVER accepts at most {limit} bytes")
        )
        assert ("MAIL" in server.keys) is fits

    @pytest.mark.parametrize("stage", ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "."])
    def test_silence(self, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A silent server times out at each stage."""
        for name in ("CONNECT_TIMEOUT", "REPLY_TIMEOUT"):
            monkeypatch.setattr(mail, name, 0.15)
        with ScriptedServer({stage: Act.READ_ON}) as server:
            found = outcome(ONE, at(server))
        kind = UnreachableError if stage in ("greeting", "EHLO") else TemporaryError
        assert found == Failure(kind, TIMED_OUT)
        assert server.keys == up_to("connect" if stage == "greeting" else stage)

    def test_spelling(self) -> None:
        """A refused recipient is returned as spelled in the delivery."""
        with ScriptedServer({"RCPT": "550 no"}) as server:
            found = outcome(composed(upload(), ["me@bücher.example"]), at(server))
        assert "<me@xn--bcher-kva.example>" in server.lines("RCPT")[0]
        assert found == [Refused("me@bücher.example", True, "550 no")]

    def test_window_stays_full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server that stops reading causes a temporary error."""
        monkeypatch.setattr(mail, "REPLY_TIMEOUT", 0.15)
        with ScriptedServer({"content": Act.STALL}) as server:
            assert outcome(huge(), at(server)) == temporary(LOST)
        assert (server.keys, server.messages) == (up_to("DATA"), [])

    def test_photo_cannot_be_read(self) -> None:
        """A message that cannot be completed gets no final dot and no QUIT."""

        def fetch(start: int, end: int) -> bytes:
            if start:
                raise OSError(errno.EIO, "Input/output error")
            return bytes(end - start)

        message = composed(upload(File("a.jpg", "image/jpeg", 1 << 20, 0, fetch)))
        with ScriptedServer() as server:
            found = outcome(message, at(server))
        assert found == temporary("SERVER: [Errno 5] Input/output error")
        assert (server.keys, server.messages) == (up_to("DATA"), [])

    def test_own_name_not_ascii(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A machine whose name is not ASCII can send mail."""
        monkeypatch.setattr(socket, "getfqdn", lambda name="": "küche.example")
        with ScriptedServer() as server:
            assert outcome(ONE, at(server)) == []
        assert server.keys == ALL


UP_TO_STARTTLS = up_to("EHLO", "STARTTLS")
UP_TO_AUTH = up_to("EHLO", "AUTH")


class TestStartTls:
    """Switching from clear text to TLS."""

    def test_not_offered(self) -> None:
        """With smtp+starttls:// nothing is sent to a server without STARTTLS."""
        with ScriptedServer({"EHLO": ehlo("AUTH PLAIN")}) as server:
            found = outcome(ONE, at(server, Security.STARTTLS, USER, SECRET))
        assert found == unreachable(
            "SERVER does not offer STARTTLS, which nx_smtp demands: check its port, or use smtps://"
        )
        assert server.keys == up_to("EHLO")

    def test_injection(self, trusted: Authority) -> None:
        """Data that arrives before TLS is ignored afterwards."""
        script: Script = {
            "EHLO": [ehlo("STARTTLS", "AUTH PLAIN"), ehlo("SIZE")],
            "STARTTLS": (b"220 go ahead\r\n250-evil.example\r\n250 AUTH PLAIN\r\n", Act.TLS),
        }
        with ScriptedServer(script, tls=trusted.context()) as server:
            found = outcome(ONE, at(server, Security.STARTTLS, USER, SECRET))
        assert found == no_method()
        assert server.keys == [*UP_TO_STARTTLS, "EHLO"]
        assert server.in_clear == UP_TO_STARTTLS


def login_refused(reply: str) -> Failure:
    return Failure(
        UnreachableError,
        f"SERVER refuses the login of {USER!r} ({reply}): check the user and password in nx_smtp",
        3600.0,
    )


def no_method(offered: str = "none") -> Failure:
    return Failure(
        UnreachableError,
        f"SERVER offers no supported login method (offered: {offered}; "
        f"supported: PLAIN LOGIN): check host and port in nx_smtp",
        3600.0,
    )


AUTH_PLAIN = ehlo("AUTH PLAIN LOGIN")
AUTH_LOGIN = ehlo("AUTH CRAM-MD5 LOGIN")
TLS = ehlo("STARTTLS", "AUTH PLAIN")


# The script of the server, the result, and the steps of the conversation.
LOGINS: dict[str, tuple[Script, list[Refused] | Failure, list[str]]] = {
    "plain": ({"EHLO": AUTH_PLAIN}, [], [*UP_TO_AUTH, *ALL[2:]]),
    "login": (
        {"EHLO": AUTH_LOGIN, "AUTH": "334 VXNlcm5hbWU6", "response": ["334 UA==", "235 ok"]},
        [],
        [*UP_TO_AUTH, "response", "response", *ALL[2:]],
    ),
    "535": ({"EHLO": AUTH_PLAIN, "AUTH": "535 no"}, login_refused("535 no"), UP_TO_AUTH),
    "closed": ({"EHLO": AUTH_PLAIN, "AUTH": Act.CLOSE}, unreachable(LOST), UP_TO_AUTH),
    "not-offered": ({"EHLO": ehlo("SIZE")}, no_method("none"), up_to("EHLO")),
    "cram-md5": ({"EHLO": ehlo("AUTH CRAM-MD5 X")}, no_method("CRAM-MD5 X"), up_to("EHLO")),
    # The password is removed from each reply.
    "secret-plain": (
        {"EHLO": AUTH_PLAIN, "AUTH": f"500 AUTH {PLAIN}?"},
        login_refused("500 AUTH ***?"),
        UP_TO_AUTH,
    ),
    "secret-login": (
        {"EHLO": AUTH_LOGIN, "AUTH": "334 ", "response": ["334 ", f"500 what is {SECRETS[1]}?"]},
        login_refused("500 what is ***?"),
        [*UP_TO_AUTH, "response", "response"],
    ),
    "secret-later": (
        {"EHLO": AUTH_PLAIN, "RCPT": f"550 {SECRET}"},
        [Refused(RECIPIENT, True, "550 ***")],
        [*UP_TO_AUTH, "MAIL", "RCPT", "QUIT"],
    ),
    # If TLS is offered and fails, nothing is sent without it.
    "tls-454": (
        {"EHLO": TLS, "STARTTLS": "454 not now"},
        unreachable("SERVER: 454 not now"),
        UP_TO_STARTTLS,
    ),
    "tls-closed": (
        {"EHLO": TLS, "STARTTLS": ("220 go ahead", Act.CLOSE)},
        unreachable(Like(r"SERVER: (\[Errno \d+\] .+|.*EOF occurred in violation.*)")),
        UP_TO_STARTTLS,
    ),
    "tls-garbage": (
        {"EHLO": TLS, "STARTTLS": ("220", b"no TLS at all, but so many bytes\r\n", Act.SHUT)},
        unreachable(Like(r"SERVER: \[SSL: [A-Z_]+\] .+")),
        UP_TO_STARTTLS,
    ),
}


class TestLogin:
    """A refused login waits for an hour. No text contains the password."""

    @pytest.mark.parametrize(("script", "expected", "keys"), LOGINS.values(), ids=LOGINS)
    def test_replies(
        self, script: Script, expected: list[Refused] | Failure, keys: list[str], trusted: Authority
    ) -> None:
        """Each reply causes the expected result."""
        with ScriptedServer(script, tls=trusted.context()) as server:
            assert outcome(ONE, at(server, user=USER, password=SECRET)) == expected
        assert server.keys == keys
        if keys.count("response") == 2:
            assert server.lines("response") == ["bWVAZXhhbXBsZS5vcmc=", SECRETS[1]]


class TestPasswordInClear:
    """User and password are sent over TLS or to a loopback address, or not at all."""

    @pytest.mark.parametrize(
        ("method", "host", "password"),
        [
            pytest.param("PLAIN", HOST, SECRET, id="plain"),
            pytest.param("LOGIN", HOST, "", id="login-user-only"),
            pytest.param("PLAIN", "localhost", SECRET, id="name-of-this-machine"),
        ],
    )
    def test_stripped(
        self, method: str, host: str, password: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Neither is sent to another machine without STARTTLS, whatever its name."""
        appear_far(monkeypatch)
        with ScriptedServer({"EHLO": ehlo(f"AUTH {method}")}) as server:
            found = outcome(ONE, at(server, user=USER, password=password, host=host))
        assert found == Failure(
            UnreachableError,
            "SERVER does not offer STARTTLS, so user and password were not sent: "
            "set nx_smtp to smtps://, or to a port that offers STARTTLS",
        )
        assert server.keys == up_to("EHLO")


def test_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that cannot be resolved raises UnreachableError."""

    def getaddrinfo(*arguments: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    found = outcome(ONE, Smarthost("mail.example", 25, Security.TLS, USER, SECRET))
    assert found == unreachable(Like(r"SERVER: \[Errno -?\d+\] not known"))


class TestCheck:
    """The check of the mail server at the start."""

    def test_login(self, trusted: Authority) -> None:
        """With a user, the check logs in over TLS and sends no mail."""
        with MailServer(tls=trusted.context(), login=(USER, SECRET)) as server:
            found = check_smarthost(at(server, Security.STARTTLS, USER, SECRET))
        assert found == "127.0.0.1 accepts our login"
        assert (server.logins, server.mails) == ([("PLAIN", USER, SECRET)], [])

    def test_without_a_user(self) -> None:
        """Without a user, the check connects and quits."""
        with ScriptedServer() as server:
            assert check_smarthost(at(server)) == "127.0.0.1 accepts connections"
        assert server.keys == [*up_to("EHLO"), "QUIT"]

    def test_port_without_tls(self) -> None:
        """The warning names the scheme for a server that does not begin with TLS."""
        with ScriptedServer() as server:
            found = self.warning(at(server, Security.TLS, USER, SECRET))
        assert re.fullmatch(r"SERVER: \[SSL.*; if this port .* use smtp\+starttls://", found)

    def test_port_465_without_tls(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A time-out on port 465, where servers wait for TLS, causes a warning that suggests smtps://."""

        def refuse(*arguments: object) -> None:
            raise TimeoutError

        monkeypatch.setattr(socket, "create_connection", refuse)
        found = self.warning(Smarthost("mail.example", 465, Security.STARTTLS, USER, SECRET))
        assert found == "SERVER: TimeoutError; port 465 needs smtps:// in nx_smtp"

    def warning(self, server: Smarthost) -> str:
        """The reason why a check fails, with SERVER in the place of host and port."""
        with pytest.raises(UnreachableError) as caught:
            check_smarthost(server)
        return str(caught.value).replace(str(server), "SERVER")

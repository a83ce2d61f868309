"""Photos as e-mail, through a smarthost.

One upload is one message with the photos attached, and goes to all its
recipients in one transaction. Compose and send are apart: `compose` is pure
and makes a OutgoingMessage, whose bytes are made only while they are sent, so that
memory does not grow with the photos. Text and photos are base64, in which no
line can end the message (SMTP smuggling) or begin with a dot. No header is ever
parsed again: what the camera's user typed is either plain words or wholly
encoded, so it cannot become a header of its own.

What the answers of a mail server mean is decided in one place, `verdict`: 2xx
is done, 5xx is permanent, everything else is temporary. If a message may be too
large for the server (`means_size`), each photo is sent in a message of its own.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import email.utils
import hmac
import re
import smtplib
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from email.header import Header
from enum import Enum
from urllib.parse import quote, unquote, urlsplit

from nxparse.address import AddressError, deliverable
from nxparse.deliver.errors import (
    PermanentError,
    Refused,
    TemporaryError,
    TooLargeError,
    UnreachableError,
    one_line,
)
from nxparse.deliver.privacy import is_private
from nxparse.upload import File, Upload

# Postfix's own times: to connect, for each answer, and for the one behind the
# final dot, where to give up too early is to send twice (RFC 5321 section 4.5.3.2).
CONNECT = 30.0
ANSWER = 300.0
AFTER_DOT = 600.0
MAX_ANSWER = 1 << 16  # bytes of an answer, which may have many lines
# A wrong password does not become right by trying; some servers lock accounts.
AUTH_RETRY = 3600.0
MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5")  # the first that the server offers is used

_LINE = 57  # bytes in a line of 76 characters of base64
_BLOCK = _LINE * 1024


class Security(Enum):
    """How the way to the smarthost is protected; the value is the scheme in its URL."""

    IF_OFFERED = "smtp"
    STARTTLS = "smtp+starttls"
    TLS = "smtps"


_PORTS = {Security.IF_OFFERED: 25, Security.STARTTLS: 587, Security.TLS: 465}


@dataclass(frozen=True, slots=True)
class Smarthost:
    """The mail server that takes our mail. The password never appears in its repr."""

    host: str
    port: int
    security: Security
    user: str = ""
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def smarthost(url: str) -> Smarthost:
    """Read `smtp://user:password@host:port`. ValueError, without the password, if it is none."""
    try:
        parts = urlsplit(url)
        security = Security(parts.scheme)
        host, port = parts.hostname, parts.port
        # What can neither be looked up nor sent is better known now than at each upload.
        (host or "").encode("idna")
        url.encode()
        if re.search(r"[\s\0]", host or "") or port == 0:
            raise ValueError
    except ValueError:
        raise ValueError("no smtp://, smtp+starttls:// or smtps:// with a host") from None
    if not host or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("not like smtps://user:password@host")
    return Smarthost(
        host,
        port or _PORTS[security],
        security,
        unquote(parts.username or ""),
        unquote(parts.password or ""),
    )


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message: its envelope, and its bytes, which are made while they are read.

    `size` is how many bytes that will be.
    """

    sender: str
    recipients: tuple[str, ...]
    head: bytes
    attachments: tuple[tuple[bytes, File], ...]
    tail: bytes

    @property
    def size(self) -> int:
        attached = sum(len(head) + _encoded_size(file.size) for head, file in self.attachments)
        return len(self.head) + attached + len(self.tail)

    def chunks(self) -> Iterator[bytes]:
        yield self.head
        for head, file in self.attachments:
            yield head
            yield from _encoded(file.chunks())
        yield self.tail


def compose(
    upload: Upload,
    files: Sequence[File],
    recipients: Sequence[str],
    *,
    id: str,
    date: float,
    mail_from: str = "",
) -> OutgoingMessage:
    """Make a message of these files of an upload.

    `id` makes the Message-ID, so the same message sent again has the same one.
    `date` is a Unix time. With `mail_from`, mail comes from there and the
    camera's sender becomes Reply-To. Raises AddressError.
    """
    to = [deliverable(recipient) for recipient in recipients]
    try:
        camera = deliverable(upload.sender)
    except AddressError:
        if not mail_from:
            raise
        camera = ""
    sender = deliverable(mail_from) if mail_from else camera
    boundary = f"nx-{id}"
    headers = [
        ("From", _mailbox(upload.sender_name, sender)),
        ("To", ",\r\n ".join(to)),
        ("Subject", _words(upload.subject)),
        ("Date", email.utils.formatdate(date, localtime=True)),
        ("Message-ID", f"<{id}@{sender.rpartition('@')[2]}>"),
        ("MIME-Version", "1.0"),
        ("Content-Type", f'multipart/mixed; boundary="{boundary}"'),
    ]
    if mail_from and camera:
        headers.insert(1, ("Reply-To", _mailbox(upload.sender_name, camera)))
    text = base64.encodebytes(upload.text.encode("utf-8", "replace")).replace(b"\n", b"\r\n")
    head = [
        *(f"{name}: {value}" for name, value in headers),
        "",
        f"--{boundary}",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: base64",
        "",
        text.decode("ascii"),
    ]
    return OutgoingMessage(
        sender=sender,
        recipients=tuple(to),
        head="\r\n".join(head).encode("ascii"),
        attachments=tuple((_attachment_head(boundary, file), file) for file in files),
        tail=f"--{boundary}--\r\n".encode("ascii"),
    )


def _attachment_head(boundary: str, file: File) -> bytes:
    name = file.safe_name
    # A safe name has no quote and no backslash in it.
    if name.isascii():
        type_name, parameter = "", f'filename="{name}"'
    else:
        # Old Outlook does not know RFC 2231, and takes the name from here.
        words = Header(name, "utf-8", maxlinelen=75, header_name="name").encode(linesep="\r\n")
        type_name = f';\r\n name="{words}"'
        parameter = f"filename*=utf-8''{quote(name, safe='')}"
    lines = (
        f"--{boundary}",
        f"Content-Type: {file.content_type}{type_name}",
        f"Content-Disposition: attachment;\r\n {parameter}",
        "Content-Transfer-Encoding: base64",
        "",
        "",
    )
    return "\r\n".join(lines).encode("ascii")


def _words(text: str) -> str:
    """Text as the value of a header: as it is if that is safe, else in encoded words.

    Long words and long gaps between words are not: a line cannot be broken inside them.
    """
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+", " ", text).strip()
    plain = (
        text.isascii()
        and not re.search(r"=\?|  ", text)
        and all(len(word) < 70 for word in text.split())
    )
    header = Header(text, "us-ascii" if plain else "utf-8", maxlinelen=76, header_name="Subject")
    return header.encode(linesep="\r\n")


def _mailbox(name: str, address: str) -> str:
    if not name:
        return address
    words = _words(name)
    if words.isascii() and "=?" not in words:
        words = '"' + re.sub(r'(["\\])', r"\\\1", words) + '"'
    return f"{words} <{address}>"


def _encoded_size(size: int) -> int:
    return 4 * -(-size // 3) + 2 * -(-size // _LINE)


def _encoded(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Base64 in lines, however the data are cut into chunks."""
    rest = b""
    for chunk in chunks:
        data = rest + chunk
        whole = len(data) - len(data) % _LINE
        for start in range(0, whole, _BLOCK):
            yield _lines(data[start : min(start + _BLOCK, whole)])
        rest = data[whole:]
    if rest:
        yield _lines(rest)


def _lines(data: bytes) -> bytes:
    text = binascii.b2a_base64(data, newline=False)
    return b"".join([text[start : start + 76] + b"\r\n" for start in range(0, len(text), 76)])


class Verdict(Enum):
    DONE = "done"
    PERMANENT = "permanent"
    TEMPORARY = "temporary"


def verdict(code: int) -> Verdict:
    """What a reply code of a mail server means. What no RFC knows may mean anything: try again."""
    if code in (250, 251, 252):
        return Verdict.DONE
    return Verdict.PERMANENT if 500 <= code <= 599 else Verdict.TEMPORARY


# Enhanced status codes (RFC 3463): the message is too large for the system, or for the mailbox.
_SIZE_STATUS = re.compile(r"(?<![\d.])5\.(?:3\.4|2\.3)(?!\.?\d)")
# Codes whose usual meaning is the size, unless they are for a full mailbox or for the content.
_SIZE_CODES = (523, 552)
_OTHER_STATUS = re.compile(r"(?<![\d.])5\.(?:2\.2|7\.\d+)(?!\.?\d)")
_SIZE_WORDS = re.compile(
    r"\btoo (?:big|large)\b"
    r"|\b(?:message|mail|stream|data|content)(?: is)? too long\b"
    r"|\b(?:size|length|bytes)\b.{0,60}\b(?:exceed|limit|maximum|more than|larger|greater)"
    r"|\b(?:exceed|limit|maximum|more than|larger|greater).{0,60}"
    r"\b(?:size|length|bytes|\d+ ?[kMG]B)\b",
    re.IGNORECASE,
)
_OTHER_WORDS = re.compile(r"\b(?:mailbox|quota|header|line|subject|address)\b", re.IGNORECASE)


def means_size(code: int, text: bytes) -> bool:
    """Whether a permanent refusal may be for the size of the message.

    Many servers say so in the text only (`554 Message too large`).
    """
    if not 500 <= code <= 599:
        return False
    words = " ".join(text.decode("utf-8", "replace").split())
    if _SIZE_STATUS.search(words):
        return True
    if code in _SIZE_CODES and not _OTHER_STATUS.search(words):
        return True
    return bool(_SIZE_WORDS.search(words)) and not _OTHER_WORDS.search(words)


def send(letter: OutgoingMessage, server: Smarthost) -> list[Refused]:
    """Send a message; returns the recipients that were refused while others were taken.

    Raises TemporaryError (UnreachableError where the server takes no mail at all),
    PermanentError, or TooLargeError. After a TemporaryError the message may have
    been taken all the same, if the connection broke behind the final dot: a second
    one has the same Message-ID.
    """
    try:
        session = _Session(server)
    except (OSError, smtplib.SMTPException) as error:
        raise UnreachableError(f"{server}: {_said(error, server)}") from None
    try:
        return session.deliver(letter)
    except (OSError, smtplib.SMTPException) as error:
        doubt = "; it may have been taken all the same" if session.sent else ""
        raise TemporaryError(f"{server}: {_said(error, server)}{doubt}") from None
    finally:
        session.close()


def _said(error: Exception, server: Smarthost) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        said = error.smtp_error
        text = said if isinstance(said, bytes) else said.encode()
        return f"{error.smtp_code} {_reason(text, server)}"
    return str(error) or type(error).__name__


def _reason(text: bytes, server: Smarthost) -> str:
    """What a server said, for a log: one line, no control characters, no password."""
    return one_line(text.decode("utf-8", "replace"), _secrets(server))


def _secrets(server: Smarthost) -> list[str]:
    """The password in each form that it is sent in: some servers repeat what they do not know."""
    if not server.password:
        return []
    return [
        _base64(f"\0{server.user}\0{server.password}"),
        _base64(server.password),
        server.password,
    ]


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")


def _own_name() -> str | None:
    """The name for EHLO; None is for smtplib to find one. SMTP's commands are ASCII."""
    return None if socket.getfqdn().isascii() else "[127.0.0.1]"


class _Answers:
    """What a server says, as smtplib reads it: line by line, in place of a file.

    Each answer has a limit, in bytes and in time; smtplib knows none for those of
    many lines, nor for those that come byte by byte.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""
        self.begin()

    def begin(self) -> None:
        """Another answer is expected, within the timeout of the connection."""
        self._left = MAX_ANSWER
        self._deadline = time.monotonic() + (self._connection.gettimeout() or ANSWER)

    def readline(self, limit: int) -> bytes:
        while b"\n" not in self._buffer and len(self._buffer) < limit:
            remaining = self._deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError("timed out")
            self._connection.settimeout(remaining)
            data = self._connection.recv(4096)
            if not data:
                break
            self._buffer += data
        end = self._buffer.find(b"\n", 0, limit) + 1 or limit
        line, self._buffer = self._buffer[:end], self._buffer[end:]
        self._left -= len(line)
        if self._left < 0:
            raise OSError("the answer is too long")
        return line

    def close(self) -> None:
        """The connection is not closed here."""


class _Smtp(smtplib.SMTP):
    """smtplib's, but for the limits of an answer."""

    def getreply(self) -> tuple[int, bytes]:
        assert self.sock is not None  # else nothing could have been sent, which raises
        timeout = self.sock.gettimeout()
        if not isinstance(self.file, _Answers):
            self.file = _Answers(self.sock)
        self.file.begin()
        try:
            return super().getreply()
        finally:
            if self.sock is not None:
                self.sock.settimeout(timeout)


class _Session:
    """A connection to the smarthost, ready to take mail. `sent`: all of a mail is sent."""

    def __init__(self, server: Smarthost) -> None:
        self.sent = False
        self._server = server
        # Without a login, TLS with any certificate is better than none (RFC 7435).
        verified = server.security is not Security.IF_OFFERED or server.user
        context = ssl.create_default_context()
        if not verified:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self._smtp = _Smtp(local_hostname=_own_name())
        try:
            self._connect(context)
        except BaseException:
            self._smtp.close()
            raise

    def _connect(self, context: ssl.SSLContext) -> None:
        server, smtp = self._server, self._smtp
        smtp._host = server.host  # type: ignore[attr-defined]  # starttls checks the certificate for it
        # Not smtp.connect(), which waits for the greeting no longer than for the connection.
        smtp.sock = socket.create_connection((server.host, server.port), CONNECT)
        smtp.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if server.security is Security.TLS:
            smtp.sock = context.wrap_socket(smtp.sock, server_hostname=server.host)
        self._socket_timeout(ANSWER)
        self._expect("greeting", smtp.getreply(), 220)
        smtp.ehlo_or_helo_if_needed()
        if server.security is not Security.TLS and smtp.has_extn("starttls"):
            smtp.starttls(context=context)
            smtp.ehlo_or_helo_if_needed()
        elif server.security is Security.STARTTLS:
            raise UnreachableError(f"{server} does not offer STARTTLS, which nx_smtp demands")
        if server.user:
            if not is_private(smtp.sock):
                raise UnreachableError(
                    f"{server} does not offer STARTTLS, so user and password were not sent: "
                    f"set nx_smtp to smtps://, or to a port that offers STARTTLS"
                )
            self._login()

    def _login(self) -> None:
        """AUTH, in UTF-8 (RFC 4616): smtplib's own takes ASCII only."""
        server, smtp = self._server, self._smtp
        offered = smtp.esmtp_features.get("auth", "").upper().split()
        match next((one for one in MECHANISMS if one in offered), None):
            case "PLAIN":
                token = _base64(f"\0{server.user}\0{server.password}")
                code, text = smtp.docmd("AUTH", f"PLAIN {token}")
            case "LOGIN":
                code, text = smtp.docmd("AUTH", "LOGIN")
                for word in (server.user, server.password):
                    if code == 334:
                        code, text = smtp.docmd(_base64(word))
            case "CRAM-MD5":
                code, text = smtp.docmd("AUTH", "CRAM-MD5")
                # A challenge that is not base64, and Python without MD5, end the login.
                with contextlib.suppress(ValueError):
                    if code == 334:
                        challenge = base64.b64decode(text)
                        digest = hmac.new(server.password.encode(), challenge, "md5").hexdigest()
                        code, text = smtp.docmd(_base64(f"{server.user} {digest}"))
            case _:
                raise UnreachableError(
                    f"{server} offers no way to log in that is supported (it offers: "
                    f"{self._words(' '.join(offered).encode()) or 'none'}; supported: "
                    f"{' '.join(MECHANISMS)}): check host and port in nx_smtp",
                    AUTH_RETRY,
                )
        if code not in (235, 503):
            raise UnreachableError(
                f"{server} does not let user {server.user!r} in ({code} {self._words(text)}): "
                f"check the user and password in nx_smtp",
                AUTH_RETRY,
            )

    def deliver(self, letter: OutgoingMessage) -> list[Refused]:
        smtp = self._smtp
        limit = smtp.esmtp_features.get("size", "")
        options = []
        if smtp.has_extn("size"):
            if re.fullmatch("[0-9]{1,18}", limit) and 0 < int(limit) < letter.size:
                raise TooLargeError(f"{self._server} takes at most {limit} bytes")
            options = [f"SIZE={letter.size}"]
        several = len(letter.attachments) > 1
        self._judge("sender", *smtp.mail(letter.sender, options))
        refused = []
        for recipient in letter.recipients:
            code, text = smtp.rcpt(recipient)
            if (found := verdict(code)) is not Verdict.DONE:
                said = f"{code} {self._words(text)}"
                is_final = found is Verdict.PERMANENT
                # Here the bare code 552 means a full mailbox.
                if is_final and several and options and means_size(550, text):
                    raise TooLargeError(f"{self._server} refuses {recipient}: {said}")
                refused.append(Refused(recipient, is_final, said))
        if len(refused) == len(letter.recipients):
            return refused
        code, text = smtp.docmd("DATA")
        if code != 354:
            self._judge("message", code, text)
            raise TemporaryError(f"{self._server} answers DATA with {code}")
        try:
            for chunk in letter.chunks():
                smtp.send(chunk)
        except BaseException:
            smtp.close()  # else QUIT would become a part of the message, and wait for an answer
            raise
        self._socket_timeout(AFTER_DOT)
        smtp.send(b".\r\n")
        self.sent = True
        self._judge("message", *smtp.getreply())
        return refused

    def close(self) -> None:
        # Whatever happens from here on: the mail is where it is.
        with contextlib.suppress(OSError, smtplib.SMTPException):
            self._socket_timeout(CONNECT)
            self._smtp.quit()
        self._smtp.close()

    def _expect(self, what: str, reply: tuple[int, bytes], code: int) -> None:
        if reply[0] != code:
            raise UnreachableError(f"{self._server}: {what}: {reply[0]} {self._words(reply[1])}")

    def _judge(self, what: str, code: int, text: bytes) -> None:
        said = f"{self._server} refuses the {what}: {code} {self._words(text)}"
        if means_size(code, text):
            raise TooLargeError(said)
        if code == 530:  # It wants a password, or TLS: as lasting as a wrong one, and as curable.
            raise UnreachableError(said, AUTH_RETRY)
        if code == 421:  # It is about to close the connection, whatever comes.
            raise UnreachableError(said)
        match verdict(code):
            case Verdict.PERMANENT:
                raise PermanentError(said)
            case Verdict.TEMPORARY:
                raise TemporaryError(said)

    def _words(self, text: bytes) -> str:
        return _reason(text, self._server)

    def _socket_timeout(self, seconds: float) -> None:
        if self._smtp.sock:
            self._smtp.sock.settimeout(seconds)

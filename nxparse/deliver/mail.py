"""E-mail through a smarthost: one message for an upload, with the photos attached.

`compose` reads no photo: the bytes of a message are made while they are sent, so memory
does not grow with the photos. Text and photos are base64, in which no line can end the
message (SMTP smuggling) or begin with a dot. Text that was typed on the camera is written
to a header as plain words or as encoded words, so it cannot add a header of its own.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import re
import smtplib
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.header import Header
from email.policy import compat32
from functools import partial

from nxparse.address import AddressError, deliverable, is_deliverable
from nxparse.deliver.errors import (
    Outcome,
    PermanentError,
    Refused,
    TemporaryError,
    TooLargeError,
    UnreachableError,
    clean_text,
)
from nxparse.deliver.privacy import is_private
from nxparse.deliver.smarthost import Security, Smarthost, in_base64
from nxparse.store.records import Delivery
from nxparse.text import format_list
from nxparse.upload import File, Upload

# In seconds. An early timeout after the final dot would send a message twice (RFC 5321
# section 4.5.3.2).
CONNECT_TIMEOUT = 60.0  # for the connection, the greeting, and each reply up to the login
REPLY_TIMEOUT = 600.0
QUIT_TIMEOUT = 10.0
# A wrong password stays wrong, and some servers lock accounts after a few attempts.
LOGIN_RETRY = 3600.0
ACCEPTED = (250, 251, 252)
OWN_NAME = "[127.0.0.1]"  # for EHLO, like mail programs: the real name may not be ASCII

_LINE = 57  # bytes in a line of 76 characters of base64
_BLOCK = _LINE << 10  # bytes of a photo that are read at a time
_TEXT_HEAD = (
    b'Content-Type: text/plain; charset="utf-8"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
)
# Long encoded words break RFC 2047 section 2. The newer policies decode encoded words in a
# value before they write it.
_POLICY = compat32.clone(linesep="\r\n", max_line_length=76)


def deliver(
    server: Smarthost,
    mail_from: str | None,
    address: str,
    upload: Upload,
    files: Sequence[File],
    delivery: Delivery,
) -> Outcome:
    """Mail files of an upload to `address`, or to its recipients if that is empty.

    `mail_from`, if given, is the sender. Raises a DeliveryError.
    """
    if delivery.arrival.site and not is_deliverable(upload.sender):
        mail_from = mail_from or address  # the user name of a site need not be an address
    to = [address] if address else delivery.recipients
    date = delivery.arrival.received
    try:
        message = compose(upload, files, to, id=delivery.id, date=date, mail_from=mail_from)
    except AddressError as error:
        raise PermanentError(str(error)) from None
    refused = send(message, server)
    if address and refused:
        [one] = refused
        raise (PermanentError if one.permanent else TemporaryError)(one.reason)
    missed = {one.recipient for one in refused}
    reached = [sent for sent, as_given in message.recipients.items() if as_given not in missed]
    return Outcome(f"mailed to {format_list(reached)} through {server}", tuple(refused))


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message with its envelope. `size` is the number of bytes that `chunks` returns.

    `recipients` maps the addresses in the envelope to their spelling in the delivery.
    """

    sender: str
    recipients: Mapping[str, str]
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
            yield from _encoded(file)
        yield self.tail


def compose(
    upload: Upload,
    files: Sequence[File],
    recipients: Sequence[str],
    *,
    id: str,
    date: float,
    mail_from: str | None = None,
) -> OutgoingMessage:
    """Make a message with these files of an upload.

    `id` determines the Message-ID, so a retry has the same one. `date` is a Unix time.
    `mail_from`, if given, is the sender, and the camera's sender becomes Reply-To.
    Raises AddressError.
    """
    to = {deliverable(recipient): recipient for recipient in recipients}
    sender = deliverable(mail_from or upload.sender)
    boundary = f"nx-{id}"
    headers = {
        "From": _mailbox(upload.sender_name, sender),
        "To": ", ".join(to),
        "Subject": _header_value(upload.subject),
        "Date": email.utils.formatdate(date, localtime=True),
        "Message-ID": f"<{id}@{sender.rpartition('@')[2]}>",
        "MIME-Version": "1.0",
        "Content-Type": f'multipart/mixed; boundary="{boundary}"',
    }
    if mail_from and is_deliverable(upload.sender):
        headers["Reply-To"] = _mailbox(upload.sender_name, deliverable(upload.sender))
    head = b"".join(_POLICY.fold_binary(name, value) for name, value in headers.items())
    delimiter = f"--{boundary}\r\n".encode("ascii")
    text = _base64_lines(upload.text.encode("utf-8", "replace"))
    return OutgoingMessage(
        sender=sender,
        recipients=to,
        head=head + b"\r\n" + delimiter + _TEXT_HEAD + text,
        attachments=tuple((delimiter + _file_head(file), file) for file in files),
        tail=f"--{boundary}--\r\n".encode("ascii"),
    )


def _file_head(file: File) -> bytes:
    # Not folded: some programs show the line break in the name of a file.
    content_type, name = file.content_type, file.safe_name
    filename = f'filename="{name}"'  # there are no quotes in the name
    if not name.isascii():
        filename = f"filename*={email.utils.encode_rfc2231(name, 'utf-8')}"
        # Old mail programs do not support RFC 2231, and take the name from Content-Type.
        words = Header(name, "utf-8", maxlinelen=75, header_name="name").encode(linesep="")
        content_type += f'; name="{words}"'
    return (
        f"Content-Type: {content_type}\r\n"
        f"Content-Disposition: attachment; {filename}\r\n"
        f"Content-Transfer-Encoding: base64\r\n\r\n"
    ).encode("ascii")


def _header_value(text: str) -> str:
    """Text as the value of a header: unchanged if that is safe, else as encoded words.

    Long words and runs of blanks are encoded because a line cannot be folded inside them.
    """
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+", " ", text).strip()
    is_plain = (
        text.isascii()
        and not re.search(r"=\?|  ", text)
        and all(len(word) < 70 for word in text.split())
    )
    charset = "us-ascii" if is_plain else "utf-8"
    # The longest of the names, which takes room from the first line.
    return Header(text, charset, maxlinelen=76, header_name="Reply-To").encode(linesep="")


def _mailbox(name: str, address: str) -> str:
    return email.utils.formataddr((_header_value(name), address))


def _encoded_size(size: int) -> int:
    return 4 * -(-size // 3) + 2 * -(-size // _LINE)


def _encoded(file: File) -> Iterator[bytes]:
    for start in range(0, file.size, _BLOCK):
        yield _base64_lines(file.fetch(start, min(start + _BLOCK, file.size)))


def _base64_lines(data: bytes) -> bytes:
    return base64.encodebytes(data).replace(b"\n", b"\r\n")


_SIZE_CODES = (523, 552)
_SIZE = re.compile(
    r"\b5\.(?:3\.4|2\.3)\b|\btoo (?:big|large|long)\b|\b(?:size|length|larger|bytes)\b"
    r"|\d ?[kMG]B\b",
    re.IGNORECASE,
)
# The recipient is wrong, the mailbox is full, or the content is refused (RFC 3463).
_NOT_SIZE = re.compile(r"\b5\.(?:1\.\d+|2\.2|7\.\d+)\b")


def means_size(code: int, text: bytes, size_codes: Sequence[int] = _SIZE_CODES) -> bool:
    """Whether a permanent refusal may be caused by the size of the message.

    Many servers say so in the text only (`554 Message too large`). A wrong guess is harmless:
    the server gets each photo by itself, and refuses it again.
    """
    words = text.decode("utf-8", "replace")
    may_be_size = code in size_codes or _SIZE.search(words)
    return bool(_is_permanent(code) and may_be_size and not _NOT_SIZE.search(words))


def send(message: OutgoingMessage, server: Smarthost) -> list[Refused]:
    """Send a message. Returns the recipients that the server refused.

    If it refused all of them, nothing was sent. Raises UnreachableError if the server
    accepts no mail at all, else TemporaryError, PermanentError or TooLargeError. If the
    connection breaks after the final dot, the message may have been accepted all the same;
    the retry has the same Message-ID.
    """
    doubt = ""
    with _session(server) as smtp:
        try:
            refused = _send_envelope(smtp, message, server)
            if len(refused) < len(message.recipients):
                _send_content(smtp, message, server)
                doubt = "; it may have been accepted all the same"
                _check("message", smtp.getreply(), server)
            return refused
        except (OSError, smtplib.SMTPException) as error:
            raise TemporaryError(f"{server}: {_describe(error, server)}{doubt}") from None


def check_smarthost(server: Smarthost) -> str:
    """Connect to a mail server, start TLS, log in and quit. Returns a line for the log.

    Raises UnreachableError with the reason and the option to change.
    """
    with _session(server):
        return f"{server.host} accepts {'our login' if server.user else 'connections'}"


@contextlib.contextmanager
def _session(server: Smarthost) -> Iterator[smtplib.SMTP]:
    """Connect to a mail server, start TLS and log in; send QUIT at the end.

    Raises UnreachableError.
    """
    try:
        smtp = _connect(server)
    except (OSError, smtplib.SMTPException) as error:
        advice = ""
        if isinstance(error, ssl.SSLCertVerificationError):
            advice = "; nx_smtp must contain the host name of the server's certificate"
        elif isinstance(error, ssl.SSLError) and server.security is Security.TLS:
            advice = "; if this port does not use TLS from the start, use smtp+starttls://"
        elif server.port == 465 and server.security is not Security.TLS:
            advice = "; port 465 needs smtps:// in nx_smtp"
        raise UnreachableError(f"{server}: {_describe(error, server)}{advice}") from None
    try:
        yield smtp
    finally:
        with contextlib.suppress(OSError, smtplib.SMTPException):  # they change nothing
            _set_timeout(smtp, QUIT_TIMEOUT)
            smtp.quit()
        smtp.close()


def _connect(server: Smarthost) -> smtplib.SMTP:
    """Connect to a mail server, start TLS and log in. The password is never sent in clear."""
    context = ssl.create_default_context()
    if server.security is Security.IF_OFFERED and not server.user:
        # Without a login, TLS with any certificate is better than none (RFC 7435).
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    new: Callable[..., smtplib.SMTP] = smtplib.SMTP
    if server.security is Security.TLS:
        new = partial(smtplib.SMTP_SSL, context=context)
    smtp = new(server.host, server.port, OWN_NAME, timeout=CONNECT_TIMEOUT)
    try:
        assert smtp.sock
        smtp.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        smtp.ehlo_or_helo_if_needed()
        if server.security is not Security.TLS and smtp.has_extn("starttls"):
            smtp.starttls(context=context)
            smtp.ehlo_or_helo_if_needed()
        elif server.security is Security.STARTTLS:
            raise UnreachableError(
                f"{server} does not offer STARTTLS, which nx_smtp demands: check its port, or "
                f"use smtps://"
            )
        if server.user:
            if not is_private(smtp.sock):
                raise UnreachableError(
                    f"{server} does not offer STARTTLS, so user and password were not sent: "
                    f"set nx_smtp to smtps://, or to a port that offers STARTTLS"
                )
            _log_in(smtp, server)
        _set_timeout(smtp, REPLY_TIMEOUT)
    except BaseException:
        smtp.close()
        raise
    return smtp


def _set_timeout(smtp: smtplib.SMTP, seconds: float) -> None:
    if smtp.sock:  # the server may have closed the connection
        smtp.sock.settimeout(seconds)


def _log_in(smtp: smtplib.SMTP, server: Smarthost) -> None:
    """Authenticate in UTF-8 (RFC 4616). smtplib's own login is limited to ASCII."""
    offered = smtp.esmtp_features.get("auth", "").upper().split()
    if "PLAIN" in offered:
        code, text = smtp.docmd("AUTH", f"PLAIN {server.token}")
    elif "LOGIN" in offered:
        code, text = smtp.docmd("AUTH", "LOGIN")
        for word in (server.user, server.password):
            if code == 334:
                code, text = smtp.docmd(in_base64(word))
    else:
        shown = clean_text(" ".join(offered), server.secrets) or "none"
        raise UnreachableError(
            f"{server} offers no supported login method (offered: {shown}; "
            f"supported: PLAIN LOGIN): check host and port in nx_smtp",
            LOGIN_RETRY,
        )
    if code != 235:
        raise UnreachableError(
            f"{server} refuses the login of {server.user!r} ({_reply(code, text, server)}): "
            f"check the user and password in nx_smtp",
            LOGIN_RETRY,
        )


def _send_envelope(
    smtp: smtplib.SMTP, message: OutgoingMessage, server: Smarthost
) -> list[Refused]:
    """Send MAIL and RCPT. Returns the refused recipients."""
    limit = smtp.esmtp_features.get("size", "")
    if limit.isdecimal() and 0 < int(limit) < message.size:
        raise TooLargeError(f"{server} accepts at most {limit} bytes")
    options = [f"SIZE={message.size}"] if smtp.has_extn("size") else []
    _check("sender", smtp.mail(message.sender, options), server)
    refused = []
    for recipient, as_given in message.recipients.items():
        code, text = smtp.rcpt(recipient)
        if code not in ACCEPTED:
            reply = _reply(code, text, server)
            # Only by the text: 552 means a full mailbox here.
            if means_size(code, text, ()) and len(message.attachments) > 1:
                raise TooLargeError(f"{server} refuses {recipient}: {reply}")
            refused.append(Refused(as_given, _is_permanent(code), reply))
    return refused


def _send_content(smtp: smtplib.SMTP, message: OutgoingMessage, server: Smarthost) -> None:
    _check("message", smtp.docmd("DATA"), server, accepted=(354,))
    try:
        for chunk in message.chunks():
            smtp.send(chunk)
    except BaseException:
        smtp.close()  # a QUIT would become part of the message
        raise
    smtp.send(b".\r\n")


def _check(
    subject: str,
    reply: tuple[int, bytes],
    server: Smarthost,
    accepted: Sequence[int] = ACCEPTED,
) -> None:
    """Raise the error that a reply stands for. Codes that no RFC defines are temporary."""
    code, text = reply
    if code in accepted:
        return
    reason = f"{server} refuses the {subject}: {_reply(code, text, server)}"
    if means_size(code, text):
        raise TooLargeError(reason)
    if code == 530:  # it demands a login or TLS
        raise UnreachableError(reason, LOGIN_RETRY)
    if code == 421:  # it is about to close the connection
        raise UnreachableError(reason)
    raise (PermanentError if _is_permanent(code) else TemporaryError)(reason)


def _is_permanent(code: int) -> bool:
    return 500 <= code <= 599


def _describe(error: Exception, server: Smarthost) -> str:
    """Return an error as one line without the password, which a server may repeat."""
    if isinstance(error, smtplib.SMTPResponseException):
        return _reply(error.smtp_code, error.smtp_error, server)
    return clean_text(str(error) or type(error).__name__, server.secrets)


def _reply(code: int, text: bytes | str, server: Smarthost) -> str:
    said = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return clean_text(f"{code} {said}", server.secrets)

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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.header import Header
from email.message import Message
from email.policy import compat32

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
CHECK_TIMEOUT = 20.0
CONNECT_TIMEOUT = 60.0  # for the connection, the greeting, and each reply up to the login
REPLY_TIMEOUT = 300.0
FINAL_TIMEOUT = 600.0
QUIT_TIMEOUT = 10.0
# A wrong password stays wrong, and some servers lock accounts after a few attempts.
LOGIN_RETRY = 3600.0
ACCEPTED = (250, 251, 252)

_LINE = 57  # bytes in a line of 76 characters of base64
_BLOCK = _LINE << 10  # bytes of a photo that are read at a time
# Long encoded words break RFC 2047 section 2. The newer policies decode encoded words in a
# value before they write it.
_POLICY = compat32.clone(linesep="\r\n", max_line_length=76)
# Some programs show the line break in a file name that was folded.
_UNFOLDED = _POLICY.clone(max_line_length=None)


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
    if delivery.arrival.site and not mail_from and not is_deliverable(upload.sender):
        mail_from = address  # the user name of a site need not be an address
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
    summary = f"mailed to {format_list(reached)}" if reached else "not mailed"
    return Outcome(f"{summary} through {server}", tuple(refused))


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
    try:
        camera = deliverable(upload.sender)
    except AddressError:
        if not mail_from:
            raise
        camera = ""
    sender = deliverable(mail_from) if mail_from else camera
    boundary = f"nx-{id}"
    headers = Message(_POLICY)
    headers["From"] = _mailbox(upload.sender_name, sender)
    if mail_from and camera not in ("", sender):
        headers["Reply-To"] = _mailbox(upload.sender_name, camera)
    headers["To"] = ", ".join(to)
    headers["Subject"] = _header_value(upload.subject)
    headers["Date"] = email.utils.formatdate(date, localtime=True)
    headers["Message-ID"] = f"<{id}@{sender.rpartition('@')[2]}>"
    headers["MIME-Version"] = "1.0"
    headers.add_header("Content-Type", "multipart/mixed", boundary=boundary)
    text_headers = Message(_POLICY)
    text_headers.add_header("Content-Type", "text/plain", charset="utf-8")
    text_headers["Content-Transfer-Encoding"] = "base64"
    text = _base64_lines(upload.text.encode("utf-8", "replace"))
    delimiter = f"--{boundary}\r\n".encode("ascii")
    return OutgoingMessage(
        sender=sender,
        recipients=to,
        head=_folded(headers) + delimiter + _folded(text_headers) + text,
        attachments=tuple((delimiter + _folded(_file_headers(file)), file) for file in files),
        tail=f"--{boundary}--\r\n".encode("ascii"),
    )


def _file_headers(file: File) -> Message:
    headers = Message(_UNFOLDED)
    name = file.safe_name
    if name.isascii():
        headers["Content-Type"] = file.content_type
    else:
        # Old mail programs do not support RFC 2231, and take the name from here.
        words = Header(name, "utf-8", maxlinelen=75, header_name="name").encode(linesep="")
        headers.add_header("Content-Type", file.content_type, name=words)
    headers.add_header("Content-Disposition", "attachment", filename=name)
    headers["Content-Transfer-Encoding"] = "base64"
    return headers


def _folded(headers: Message) -> bytes:
    lines = [headers.policy.fold_binary(name, value) for name, value in headers.items()]
    return b"".join(lines) + b"\r\n"


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


# Enhanced status codes (RFC 3463): the message is too large for the system or the mailbox.
_SIZE_STATUS = re.compile(r"(?<![\d.])5\.(?:3\.4|2\.3)(?!\.?\d)")
_SIZE_CODES = (523, 552)
_SIZE_WORDS = re.compile(
    r"\btoo (?:big|large|long)\b|(?=.*\b(?:size|length|bytes|\d+ ?[kMG]B)\b)"
    r".*\b(?:exceed|limit|maximum|more than|larger|greater)",
    re.IGNORECASE,
)
# The mailbox is full, or the content is refused.
_OTHER_STATUS = re.compile(r"(?<![\d.])5\.(?:2\.2|7\.\d+)(?!\.?\d)")
_OTHER_WORDS = re.compile(r"\b(?:mailbox|quota|header|line|subject|address)\b", re.IGNORECASE)


def means_size(code: int, text: bytes) -> bool:
    """Whether a permanent refusal may be caused by the size of the message.

    Many servers say so in the text only (`554 Message too large`).
    """
    if not _is_permanent(code):
        return False
    words = " ".join(text.decode("utf-8", "replace").split())
    if _SIZE_STATUS.search(words):
        return True
    if code in _SIZE_CODES:
        return not _OTHER_STATUS.search(words)
    return bool(_SIZE_WORDS.search(words)) and not _OTHER_WORDS.search(words)


def send(message: OutgoingMessage, server: Smarthost) -> list[Refused]:
    """Send a message. Returns the recipients that the server refused.

    If it refused all of them, nothing was sent. Raises UnreachableError if the server
    accepts no mail at all, else TemporaryError, PermanentError or TooLargeError. If the
    connection breaks after the final dot, the message may have been accepted all the same;
    the retry has the same Message-ID.
    """
    smtp = _connect(server, CONNECT_TIMEOUT)
    is_complete = False
    try:
        if smtp.sock:
            smtp.sock.settimeout(REPLY_TIMEOUT)
        refused = _send_envelope(smtp, message, server)
        if len(refused) < len(message.recipients):
            _send_content(smtp, message, server)
            is_complete = True
            _check("message", *smtp.getreply(), server)
        return refused
    except (OSError, smtplib.SMTPException) as error:
        doubt = "; it may have been accepted all the same" if is_complete else ""
        raise TemporaryError(f"{server}: {_describe(error, server)}{doubt}") from None
    finally:
        _disconnect(smtp)


def check_smarthost(server: Smarthost, timeout: float = CHECK_TIMEOUT) -> str:
    """Connect to a mail server, start TLS, log in and quit. Returns a line for the log.

    Blocks for at most `timeout` seconds for the connection and for each of about seven replies.
    Raises UnreachableError with the reason and the option to change.
    """
    _disconnect(_connect(server, timeout))
    return f"{server.host} accepts {'our login' if server.user else 'connections'}"


def _connect(server: Smarthost, timeout: float) -> smtplib.SMTP:
    """Connect to a mail server, start TLS and log in. The password is never sent in clear.

    Waits at most `timeout` seconds for each reply. Raises UnreachableError.
    """
    try:
        return _logged_in(server, timeout)
    except (OSError, smtplib.SMTPException) as error:
        advice = ""
        if isinstance(error, ssl.SSLCertVerificationError):
            advice = "; nx_smtp must contain the host name of the server's certificate"
        elif isinstance(error, ssl.SSLError) and server.security is Security.TLS:
            advice = "; if this port does not use TLS from the start, use smtp+starttls://"
        elif server.port == 465 and server.security is not Security.TLS:
            advice = "; port 465 needs smtps:// in nx_smtp"
        raise UnreachableError(f"{server}: {_describe(error, server)}{advice}") from None


def _logged_in(server: Smarthost, timeout: float) -> smtplib.SMTP:
    context = ssl.create_default_context()
    if server.security is Security.IF_OFFERED and not server.user:
        # Without a login, TLS with any certificate is better than none (RFC 7435).
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    # SMTP commands are ASCII. With None, smtplib finds a name.
    own_name = None if socket.getfqdn().isascii() else "[127.0.0.1]"
    if server.security is Security.TLS:
        smtp: smtplib.SMTP = smtplib.SMTP_SSL(
            server.host, server.port, own_name, timeout=timeout, context=context
        )
    else:
        smtp = smtplib.SMTP(server.host, server.port, own_name, timeout)
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
    except BaseException:
        smtp.close()
        raise
    return smtp


def _disconnect(smtp: smtplib.SMTP) -> None:
    """Send QUIT and close the connection. Errors are ignored: they change nothing."""
    with contextlib.suppress(OSError, smtplib.SMTPException):
        if smtp.sock:
            smtp.sock.settimeout(QUIT_TIMEOUT)
        smtp.quit()
    smtp.close()


def _describe(error: Exception, server: Smarthost) -> str:
    """Return an error as one line without the password, which a server may repeat."""
    text = str(error) or type(error).__name__
    if isinstance(error, smtplib.SMTPResponseException):
        said = error.smtp_error
        reason = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        text = f"{error.smtp_code} {reason}"
    return clean_text(text, server.secrets)


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
    if code not in (235, 503):  # 503: already logged in
        raise UnreachableError(
            f"{server} refuses the login of {server.user!r} ({_reply(code, text, server)}): "
            f"check the user and password in nx_smtp",
            LOGIN_RETRY,
        )


def _send_envelope(
    smtp: smtplib.SMTP, message: OutgoingMessage, server: Smarthost
) -> list[Refused]:
    limit = smtp.esmtp_features.get("size", "")
    options = []
    if smtp.has_extn("size"):
        if re.fullmatch("[0-9]{1,18}", limit) and 0 < int(limit) < message.size:
            raise TooLargeError(f"{server} accepts at most {limit} bytes")
        options = [f"SIZE={message.size}"]
    _check("sender", *smtp.mail(message.sender, options), server)
    refused = []
    for recipient, as_given in message.recipients.items():
        code, text = smtp.rcpt(recipient)
        if code not in ACCEPTED:
            reply = _reply(code, text, server)
            can_split = options and len(message.attachments) > 1
            # The code is left out: 552 means a full mailbox here.
            if can_split and _is_permanent(code) and means_size(550, text):
                raise TooLargeError(f"{server} refuses {recipient}: {reply}")
            refused.append(Refused(as_given, _is_permanent(code), reply))
    return refused


def _send_content(smtp: smtplib.SMTP, message: OutgoingMessage, server: Smarthost) -> None:
    code, text = smtp.docmd("DATA")
    if code != 354:
        _check("message", code, text, server)
        raise TemporaryError(f"{server} replies to DATA with {code}")
    try:
        for chunk in message.chunks():
            smtp.send(chunk)
    except BaseException:
        smtp.close()  # a QUIT would become part of the message
        raise
    if smtp.sock:
        smtp.sock.settimeout(FINAL_TIMEOUT)
    smtp.send(b".\r\n")


def _check(subject: str, code: int, text: bytes, server: Smarthost) -> None:
    """Raise the error that a reply code stands for. Codes that no RFC defines are temporary."""
    if code in ACCEPTED:
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


def _reply(code: int, text: bytes, server: Smarthost) -> str:
    return f"{code} {clean_text(text.decode('utf-8', 'replace'), server.secrets)}"

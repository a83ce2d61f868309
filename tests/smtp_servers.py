"""Mail servers on loopback.

`MailServer` is aiosmtpd in a thread: it accepts mail. `ScriptedServer` follows a
script, which may be invalid SMTP, and records each line it receives. `Authority` issues
certificates for both. Use the servers in a with statement. Their records are complete when
it ends; `wait` is for clients in the background.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from mitmproxy import certs

from tests.loopback import HOST, TIMEOUT, Act, LoopbackServer


class Authority:
    """A certificate authority. `file` contains its certificate."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "authority.pem"
        self._folder = folder
        self._key, self._certificate = certs.create_ca("tests", "Authority of the tests", 2048)
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def context(self, *names: str) -> ssl.SSLContext:
        """A server's context with a certificate for these names, by default for loopback."""
        names = names or ("localhost", HOST)
        alternatives = [_general_name(name) for name in names]
        made = certs.dummy_cert(self._key, self._certificate, names[0], alternatives)
        return self._context(made.to_pem())

    def self_signed(self) -> ssl.SSLContext:
        """A server's context with a certificate of an authority that is not trusted."""
        other = Authority(Path(tempfile.mkdtemp(dir=self._folder)))
        return other._context(other.file.read_bytes())

    def _context(self, certificate: bytes) -> ssl.SSLContext:
        path = self._folder / "server.pem"
        key = self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path.write_bytes(key + certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass(frozen=True, slots=True)
class Mail:
    """A message that a MailServer has accepted: the envelope and all bytes of the content."""

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    secure: bool = False
    user: str = ""


class MailServer:
    """A server that accepts mail and stores it in `mails`.

    With `tls` it requires STARTTLS, or TLS from the first byte if `implicit`. With `login` (user
    and password) it requires a login; `logins` lists all attempts as mechanism, user and
    password. `replies` are its replies to RCPT for some recipients. With `port` it listens
    where another server did before, or on a port that a socket reserves (SO_REUSEPORT).
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        implicit: bool = False,
        login: tuple[str, str] | None = None,
        replies: Mapping[str, str] | None = None,
        port: int = 0,
    ) -> None:
        self.host = HOST
        self.mails: list[Mail] = []
        self.logins: list[tuple[str, str, str]] = []
        self._login = login
        self._replies = dict(replies or {})
        self._changed = threading.Condition()
        # Controller cannot find a free port. asyncio sets TCP_NODELAY only on TCP sockets.
        self._listener = socket.socket(proto=socket.IPPROTO_TCP)
        if port:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._listener.bind((HOST, port))
        self.port: int = self._listener.getsockname()[1]
        self._controller = _Controller(
            self,
            self._listener,
            hostname=HOST,
            port=self.port,
            ssl_context=tls if implicit else None,
            server_hostname="mail.example",
            tls_context=None if implicit else tls,
            require_starttls=tls is not None and not implicit,
            # aiosmtpd does not count implicit TLS as TLS.
            auth_require_tls=tls is not None and not implicit,
            auth_exclude_mechanism=set() if login else {"LOGIN", "PLAIN"},
            authenticator=self._authenticate,
            data_size_limit=1 << 30,
            enable_SMTPUTF8=False,
        )

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._controller.stop()
        self._listener.close()

    def wait(self, mails: int) -> list[Mail]:
        """Wait for this number of mails, and return all. Fails after some seconds."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.mails) >= mails, TIMEOUT)
            return list(self.mails)

    def _authenticate(
        self, server: SMTP, session: Any, envelope: Any, mechanism: str, data: LoginPassword
    ) -> AuthResult:
        user, password = data.login.decode(), data.password.decode()
        self.logins.append((mechanism, user, password))
        return AuthResult(success=(user, password) == self._login, handled=False, auth_data=data)

    async def handle_MAIL(  # noqa: N802
        self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        """aiosmtpd's hook for MAIL."""
        if self._login and not session.authenticated:
            return "530 5.7.0 Authentication required"
        envelope.mail_from = address
        return "250 2.1.0 OK"

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        """aiosmtpd's hook for RCPT."""
        reply = self._replies.get(address, "250 2.1.5 OK")
        if reply.startswith("250"):
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:  # noqa: N802
        """aiosmtpd's hook for the end of a message."""
        assert server.transport is not None
        mail = Mail(
            envelope.mail_from,
            tuple(envelope.rcpt_tos),
            envelope.original_content,
            server.transport.get_extra_info("ssl_object") is not None,
            session.auth_data.login.decode() if session.authenticated else "",
        )
        with self._changed:
            self.mails.append(mail)
            self._changed.notify_all()
        return "250 2.0.0 OK"


class _Controller(Controller):
    """A controller on an existing socket. `stop` closes open connections."""

    def __init__(self, handler: object, listener: socket.socket, **options: Any) -> None:
        super().__init__(handler, **options)
        self._listener = listener
        self._servers: list[SMTP] = []

    def factory(self) -> SMTP:
        server = SMTP(self.handler, **self.SMTP_kwargs)
        self._servers.append(server)
        return server

    def _create_server(self) -> Any:
        return self.loop.create_server(
            self._factory_invoker, sock=self._listener, ssl=self.ssl_context
        )

    def stop(self, no_assert: bool = False) -> None:
        self.loop.call_soon_threadsafe(self._hang_up)
        super().stop(no_assert)

    def _hang_up(self) -> None:
        for server in self._servers:
            if server.transport is not None:
                server.transport.close()


Step = str | bytes | Act | Callable[[], object]
"""A line to send (without its end), bytes to send unchanged, an action, or a function to call."""

Reply = Step | tuple[Step, ...]

Script = Mapping[str, Reply | list[Reply]]
"""The replies that differ from those of a working server.

A key is a command in capitals, `greeting`, `response` (a line after a 334 reply), `content`
(when the first bytes of a message arrive), or `.` (its end). The value is a Reply, or a list
of them: one for each time, over all connections. The last one is repeated.
"""

WORKING: dict[str, Reply] = {
    "greeting": "220 mail.example ESMTP",
    "EHLO": "250 mail.example",
    "HELO": "250 mail.example",
    "STARTTLS": ("220 2.0.0 go ahead", Act.TLS),
    "AUTH": "235 2.7.0 welcome",
    "response": "235 2.7.0 welcome",
    "MAIL": "250 2.1.0 OK",
    "RCPT": "250 2.1.5 OK",
    "DATA": "354 go ahead",
    "content": (),
    ".": "250 2.0.0 queued",
    "QUIT": ("221 2.0.0 bye", Act.CLOSE),
}
UNKNOWN = "502 5.5.1 what?"


def ehlo(*extensions: str) -> str:
    """The reply to EHLO of a server with these extensions."""
    *lines, last = ("mail.example", *extensions)
    return "".join(f"250-{line}\r\n" for line in lines) + f"250 {last}"


class ReceivedLine(NamedTuple):
    """A line from the client: its key in a Script, its text, and whether it was sent over TLS."""

    key: str
    line: str
    secure: bool


class ScriptedServer(LoopbackServer):
    """A server that follows a script.

    `received` lists the lines of all connections; each connection begins with a line
    `connect`. `messages` are the contents of complete messages. `tls` is for Act.TLS.
    """

    def __init__(self, script: Script | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls=tls)
        self.received: list[ReceivedLine] = []
        self.messages: list[bytes] = []
        self._replies: dict[str, list[Reply]] = {
            key: list(value) if isinstance(value, list) else [value]
            for key, value in {**WORKING, **(script or {})}.items()
        }
        self._changed = threading.Condition()
        self._buffer = bytearray()

    @property
    def keys(self) -> list[str]:
        """The keys of all lines."""
        return [line.key for line in self.received]

    @property
    def in_clear(self) -> list[str]:
        """The keys of the lines that were not encrypted."""
        return [line.key for line in self.received if not line.secure]

    def lines(self, key: str) -> list[str]:
        """The lines with this key."""
        return [one.line for one in self.received if one.key == key]

    def wait(self, key: str) -> None:
        """Wait for a line with this key. Fails after some seconds."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.lines(key), TIMEOUT)

    def serve(self) -> None:
        self._buffer.clear()
        self._note("connect", "connect")
        sent = self._reply("greeting")
        while True:
            line = self._until(b"\r\n").decode("utf-8", "surrogateescape")
            key = "response" if sent.startswith(b"334") else line.partition(" ")[0].upper()
            self._note(key, line)
            sent = self._reply(key)
            if key == "DATA" and sent.startswith(b"354"):
                sent = self._content()

    def _content(self) -> bytes:
        self._buffer[:0] = b"\r\n"  # the end of an empty message is found, too
        self._buffer += self.receive()
        self._reply("content")
        content = self._until(b"\r\n.\r\n")[2:]
        self.messages.append(content + b"\r\n" if content else b"")
        self._note(".", ".")
        return self._reply(".")

    def _note(self, key: str, line: str) -> None:
        with self._changed:
            self.received.append(ReceivedLine(key, line, isinstance(self.socket, ssl.SSLSocket)))
            self._changed.notify_all()

    def _reply(self, key: str) -> bytes:
        """Follow the script, and return the last reply."""
        replies = self._replies.get(key, [UNKNOWN])
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        sent = b""
        for step in reply if isinstance(reply, tuple) else (reply,):
            if step is Act.TLS:
                self._buffer.clear()  # ignore data from before TLS
                self.start_tls()
            elif isinstance(step, Act):
                self.act(step)
            elif callable(step):
                step()
            else:
                sent = step if isinstance(step, bytes) else f"{step}\r\n".encode()
                self.socket.sendall(sent)
        return sent

    def _until(self, end: bytes) -> bytes:
        """Receive and return the bytes before `end`."""
        start = 0
        while (found := self._buffer.find(end, start)) < 0:
            start = max(0, len(self._buffer) - len(end))
            self._buffer += self.receive()
        data = bytes(self._buffer[:found])
        del self._buffer[: found + len(end)]
        return data

"""The camera's side of the wire: the requests of an NX300, and its way of reading replies.

The e-mail upload follows the only public capture, oddities included: two spaces before the
version, User-Agent twice, no space after some colons, part headers in lower case, `fileName`, a
surplus line end after each part, a last delimiter without its `--` (wiki page "Email-service" of
ge0rg/samsung-nx-hacks). There is no public capture of the social gateway; nxparse.server.social
describes what is known. Replies are searched for strings, with header names in one spelling.
"""

from __future__ import annotations

import base64
import html
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from typing import NamedTuple
from urllib.parse import quote

from nxparse.server import social

CHECK_HOST = "gld.samsungosp.com"
EMAIL_HOST = "www.ospserver.net"
MODEL = "NX300"
SUCCESS = 'Status="succ"'  # in the reply to an upload
MAX_REPLY = 1 << 16  # bytes; real replies have less than a thousand
CHUNK = 1 << 16  # bytes


class Photo(NamedTuple):
    """A file to send, with its name as a camera would write it."""

    name: str
    content_type: str
    data: bytes


class Request(NamedTuple):
    """A request for `host`, in pieces: a large file in it is not copied."""

    host: str
    pieces: tuple[bytes, ...]


class Received(NamedTuple):
    """A reply. Its text has the headers, one per line, in their spelling, and the body."""

    status: int
    reason: str
    text: str

    def find(self, pattern: str) -> str:
        """Return the first group of a pattern in the text; empty if it does not match."""
        found = re.search(pattern, self.text)
        return found[1] if found else ""

    def value(self, name: str) -> str:
        """Return the quoted text after `name=`; empty if there is none."""
        return self.find(f'{name}="([^"]*)"')


def exchange(connection: socket.socket, request: Request) -> Received:
    """Send a request and read the reply. Raises OSError, HTTPException.

    A server that refuses an upload before its end may close the connection. The reply that it
    sent before that is still read.
    """
    with suppress(ConnectionError):
        for piece in request.pieces:
            for start in range(0, len(piece), CHUNK):  # the timeout is for each
                connection.sendall(piece[start : start + CHUNK])
    with HTTPResponse(connection) as response:
        response.begin()
        body = b""
        with suppress(OSError, HTTPException):  # the head may be enough to explain the reply
            body = response.read(MAX_REPLY)
    head = "".join(f"{name}: {value}\n" for name, value in response.headers.items())
    return Received(response.status, response.reason, f"{head}\n{body.decode('latin-1')}")


# Requests


def page(host: str) -> Request:
    """A hotspot check."""
    return Request(host, (f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode(),))


def email(
    sender: str, recipients: Sequence[str], photos: Sequence[Photo], boundary: str
) -> Request:
    """An upload by e-mail."""
    agent = "Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1; SV1"
    head = (
        "POST /social/columbus/email?DUID=123456789033  HTTP/1.0",
        'Authorization:OAuth oauth_consumer_key="censored",oauth_nonce="censored",'
        'oauth_signature="censored=",oauth_signature_method="HmacSHA1",'
        'oauth_timestamp="9717886885",oauth_version="1.0"',
        "x-osp-version:v1",
        "User-Agent: sdeClient",
        f"Content-Type: multipart/form-data; boundary={boundary}",
        "Accept: image/gif, image/x-xbitmap, image/jpeg, image/pjpeg, "
        "application/x-shockwave-flash, application/vnd.ms-excel, "
        "application/vnd.ms-powerpoint, application/msword, */*",
        "Pragma: no-cache",
        "Accept-Language: ko",
        f"User-Agent: {agent}; {agent}) ; .NET CLR 1.1.4322; InfoPath.2; .NET CLR 2.0.50727)",
        f"Host: {EMAIL_HOST}",
    )
    delimiter = f"--{boundary}"
    receivers = "".join(f"<receiver>{html.escape(one, False)}</receiver>" for one in recipients)
    message = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<email><sender>{html.escape(sender, False)}</sender>"
        f"<receiverList>{receivers}</receiverList>"
        "<title><![CDATA[[Samsung Smart Camera] sent you files.]]></title>"
        "<body><![CDATA[Sent from Samsung Camera.\nlanguage_sh100_utf8]]></body></email>"
    ).encode(errors="replace")
    parts = [("message", Photo("sample.txt", "multipart/form-data", message))]
    parts += [("binary", photo) for photo in photos]
    body: list[bytes] = []
    for name, file in parts:
        names = f'name="{name}"; fileName="{file.name}"'
        part = f"{delimiter}\r\ncontent-disposition: form-data; {names}\r\n"
        part += f"content-Type: {file.content_type};\r\n\r\n"
        body += [part.encode(), file.data, b"\r\n\r\n"]
    return _request(EMAIL_HOST, head, *body, delimiter.encode())


def login(site: str, user: str, password: str, secret: bytes) -> Request:
    """A login to a social site. `secret` is the 16-byte key and the IV; it is sent along."""
    key = base64.b64encode(secret).decode()
    return _social(
        f"{site}/auth",
        f'<Request Method="login"><UserName Value="{_encrypted(user, secret)}"/>'
        f'<Password Value="{_encrypted(password, secret)}"/>'
        f'<CryptSessionKey Value="{key}"/><ApplicationKey Value="{MODEL}"/></Request>',
    )


def announcement(site: str, key: str, photo: Photo, caption: str) -> Request:
    """The announcement of a file in the session `key`."""
    kind, about = "Photo", f'<Album Name="{MODEL}"/>'
    if photo.content_type.startswith("video/"):
        kind, about = "Video", '<Category Name=""/>'
    return _social(
        f"{site}/{kind.lower()}",
        f'<Request SessionKey="{html.escape(key)}"><{kind}>{about}'
        f'<File Name="{html.escape(photo.name)}"/><Content>{html.escape(caption)}</Content>'
        f"</{kind}></Request>",
    )


def logout(site: str, key: str) -> Request:
    """A logout from the session `key`."""
    xml = f'<Request Method="logout"><SessionKey Value="{html.escape(key)}"/></Request>'
    return _social(f"{site}/auth", xml)


def put(address: str, resource: str, photo: Photo) -> Request:
    """A file, for the HostAddr and ResourceID in the reply to its announcement."""
    return _request(social.HOST, _head("PUT", resource, address, photo.content_type), photo.data)


def _social(path: str, xml: str) -> Request:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n{xml}'.encode()
    return _request(social.HOST, _head("POST", path, social.HOST, "text/xml"), body)


def _head(method: str, path: str, host: str, content_type: str) -> tuple[str, ...]:
    return (
        f"{method} /{path} HTTP/1.1",
        f"Host: {host}",
        f"User-Agent: {MODEL}",
        f"Content-Type: {content_type}",
    )


def _request(host: str, head: Sequence[str], *body: bytes) -> Request:
    """Append Content-Length to the lines of `head`, then the pieces of the body."""
    length = f"Content-Length: {sum(map(len, body))}"
    lines = "".join(f"{line}\r\n" for line in (*head, length))
    return Request(host, (f"{lines}\r\n".encode(), *body))


def _encrypted(text: str, secret: bytes) -> str:
    """Encrypt with AES-128-CBC, padded with zeros, as base64, percent-encoded."""
    # Not at the start: an upload by e-mail needs nothing but Python.
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    data = text.encode(errors="replace")
    cipher = Cipher(algorithms.AES(secret[:16]), modes.CBC(secret[16:])).encryptor()
    data = cipher.update(data + bytes(-len(data) % 16)) + cipher.finalize()
    return quote(base64.b64encode(data), "")

"""The requests of an NX300. No I/O.

The e-mail upload follows the only public capture, oddities included: two spaces before the
version, User-Agent twice, no space after some colons, part headers in lower case, `fileName`, a
surplus line end after each part, a last delimiter without its `--` (wiki page "Email-service" of
ge0rg/samsung-nx-hacks). There is no public capture of the social gateway; nxparse.server.social
describes what is known.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from nxparse.server import social
from nxparse.text import format_size, printable

EMAIL_HOST = "www.ospserver.net"
MODEL = "NX300"


@dataclass(frozen=True, slots=True)
class Photo:
    """A file to send: its name as a camera would write it, and its size in bytes."""

    path: Path
    name: str
    content_type: str
    size: int

    @property
    def is_video(self) -> bool:
        return self.content_type.startswith("video/")

    def __str__(self) -> str:
        return f"{printable(self.name)}, {format_size(self.size)}"


@dataclass(frozen=True, slots=True)
class Request:
    """A request for `host`, as the pieces to send; a Photo stands for its content."""

    host: str
    pieces: tuple[bytes | Photo, ...]


def _request(host: str, head: Sequence[str], *body: bytes | Photo) -> Request:
    """Append Content-Length to the lines of `head`, then the body."""
    length = sum(piece.size if isinstance(piece, Photo) else len(piece) for piece in body)
    lines = "".join(f"{line}\r\n" for line in (*head, f"Content-Length: {length}"))
    return Request(host, (f"{lines}\r\n".encode(), *body))


def page(host: str) -> Request:
    """A plain GET: a hotspot check, or a page in the camera's browser."""
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
    first = _part(delimiter, "message", "sample.txt", "multipart/form-data")
    pieces: list[bytes | Photo] = [first + _message(sender, recipients)]
    for photo in photos:
        part = _part(delimiter, "binary", photo.name, photo.content_type)
        pieces += [b"\r\n\r\n" + part, photo]
    return _request(EMAIL_HOST, head, *pieces, f"\r\n\r\n{delimiter}".encode())


def _part(delimiter: str, name: str, file_name: str, content_type: str) -> bytes:
    return (
        f"{delimiter}\r\n"
        f'content-disposition: form-data; name="{name}"; fileName="{file_name}"\r\n'
        f"content-Type: {content_type};\r\n\r\n"
    ).encode()


def _message(sender: str, recipients: Sequence[str]) -> bytes:
    receivers = "".join(f"<receiver>{html.escape(one, False)}</receiver>" for one in recipients)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<email><sender>{html.escape(sender, False)}</sender>"
        f"<receiverList>{receivers}</receiverList>"
        "<title><![CDATA[[Samsung Smart Camera] sent you files.]]></title>"
        "<body><![CDATA[Sent from Samsung Camera.\nlanguage_sh100_utf8]]></body></email>"
    ).encode(errors="replace")


def login(site: str, user: str, password: str, secret: bytes) -> Request:
    """A login to a social site. `secret` is the 16-byte key and the IV, which are sent along."""
    key = base64.b64encode(secret).decode()
    return _social(
        f"{site}/auth",
        f'<Request Method="login"><UserName Value="{_encrypted(user, secret)}"/>'
        f'<Password Value="{_encrypted(password, secret)}"/>'
        f'<CryptSessionKey Value="{key}"/><ApplicationKey Value="{MODEL}"/></Request>',
    )


def announcement(site: str, key: str, photo: Photo, caption: str) -> Request:
    """The announcement of a file in the session `key`."""
    kind, about = (
        ("video", '<Category Name=""/>')
        if photo.is_video
        else ("photo", f'<Album Name="{MODEL}"/>')
    )
    return _social(
        f"{site}/{kind}",
        f'<Request SessionKey="{html.escape(key)}"><{kind.title()}>{about}'
        f'<File Name="{html.escape(photo.name)}"/><Content>{html.escape(caption)}</Content>'
        f"</{kind.title()}></Request>",
    )


def put(address: str, resource: str, photo: Photo) -> Request:
    """A file, to the place that the reply to its announcement named."""
    head = (
        f"PUT /{resource} HTTP/1.1",
        f"Host: {address}",
        f"User-Agent: {MODEL}",
        f"Content-Type: {photo.content_type}",
    )
    return _request(address.partition(":")[0], head, photo)


def logout(site: str, key: str) -> Request:
    """A logout from the session `key`."""
    xml = f'<Request Method="logout"><SessionKey Value="{html.escape(key)}"/></Request>'
    return _social(f"{site}/auth", xml)


def _social(path: str, xml: str) -> Request:
    head = (
        f"POST /{path} HTTP/1.1",
        f"Host: {social.HOST}",
        f"User-Agent: {MODEL}",
        "Content-Type: text/xml",
    )
    return _request(social.HOST, head, f'<?xml version="1.0" encoding="UTF-8"?>\n{xml}'.encode())


def _encrypted(text: str, secret: bytes) -> str:
    """AES-128-CBC, padded with zeros, as base64, percent-encoded."""
    data = text.encode(errors="replace")
    cipher = Cipher(algorithms.AES(secret[:16]), modes.CBC(secret[16:])).encryptor()
    data = cipher.update(data + bytes(-len(data) % 16)) + cipher.finalize()
    return quote(base64.b64encode(data), "")

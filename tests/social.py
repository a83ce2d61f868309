"""A camera that uploads to the social sites in its menu.

It has builders for requests, functions that search replies as the firmware does, and a client for
whole uploads. It does not use nxparse. No capture of this protocol is public. The sources are the
commits of ge0rg/samsung-nx-emailservice, the wiki of ge0rg/samsung-nx-hacks, and the articles
samsung_nx_mastodon, samsung_wifi_cameras and samsung_wb850f_firmware on op-co.de. The headers of
these requests are published nowhere.
"""

from __future__ import annotations

import base64
import socket
from html import escape
from random import Random
from urllib.parse import quote

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from tests import camera
from tests.camera import Reply

HOST = "snsgw.samsungmobile.com"
ACCOUNTS = "www.ospserver.net"
HOST_ADDR = f"{HOST}:80"

MODEL = "NX300"
APPLICATION_KEY = "6f41b2e63c5ed2a4"
CRYPT_SESSION_KEY = bytes(range(0xB0, 0xD0))


# Requests


def request(
    method: str, target: str, body: bytes, *, host: str = HOST, content_type: str = "text/xml"
) -> bytes:
    return (
        f"{method} {target} HTTP/1.1\r\n"
        f"Host: {host}\r\n"
        f"User-Agent: {MODEL}\r\n"
        f"Content-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n"
        "\r\n"
    ).encode() + body


def hotspot(host: str) -> bytes:
    """A hotspot check."""
    return f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


def auth(site: str, body: bytes) -> bytes:
    """A request for login or logout."""
    return request("POST", f"/{site}/auth", body)


def announce(site: str, kind: str, body: bytes) -> bytes:
    """The announcement of a file; `kind` is photo or video."""
    return request("POST", f"/{site}/{kind}", body)


def put(resource: str, data: bytes, *, content_type: str = "image/jpeg") -> bytes:
    """A file, for the HostAddr and ResourceID in the reply to its announcement."""
    return request("PUT", f"/{resource}", data, host=HOST_ADDR, content_type=content_type)


# Bodies


def encrypt(data: bytes, key: bytes = CRYPT_SESSION_KEY) -> bytes:
    """Encrypt with AES-128-CBC, padded with zeros. The halves of `key` are key and IV."""
    encryptor = Cipher(algorithms.AES(key[:16]), modes.CBC(key[16:])).encryptor()
    return encryptor.update(data + bytes(-len(data) % 16)) + encryptor.finalize()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def login(user: str, password: str, key: bytes = CRYPT_SESSION_KEY) -> bytes:
    """A login of most cameras: encrypted, with the key in the same request."""
    return login_of(
        quote(base64_of(encrypt(user.encode(), key)), ""),
        quote(base64_of(encrypt(password.encode(), key)), ""),
        f'<CryptSessionKey Value="{base64_of(key)}"/>',
    )


def login_qf30(user: str, password: str) -> bytes:
    """A login of an HMX-QF30, without a key, which relies on TLS."""
    return login_of(quote(user, ""), quote(password, ""), "<CryptSessionKey/>")


def login_of(user: str, password: str, key: str) -> bytes:
    """A login with these attribute values and this element for the key."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<Request Method="login"><UserName Value="{escape(user)}"/>'
        f'<Password Value="{escape(password)}"/>{key}'
        f'<ApplicationKey Value="{APPLICATION_KEY}"/></Request>'
    ).encode()


def login_oauth() -> bytes:
    """A login to a site with its own web page for passwords."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<Request Method="login"><OAuth Version="1.0"/>'
        f'<CryptSessionKey Value="{base64_of(CRYPT_SESSION_KEY)}"/>'
        f'<ApplicationKey Value="{APPLICATION_KEY}"/></Request>'
    ).encode()


def logout(key: str) -> bytes:
    return f'<Request Method="logout"><SessionKey Value="{escape(key)}"/></Request>'.encode()


def photo(key: str, name: str, caption: str = "", album: str = MODEL) -> bytes:
    return (
        f'<Request SessionKey="{escape(key)}"><Photo><Album Name="{escape(album)}"/>'
        f'<File Name="{escape(name)}"/><Content>{escape(caption)}</Content></Photo></Request>'
    ).encode()


def video(key: str, name: str, caption: str = "", category: str = "Travel") -> bytes:
    return (
        f'<Request SessionKey="{escape(key)}"><Video>'
        f'<Category Name="{escape(category)}" OwnerID="19"/>'
        f'<File Name="{escape(name)}"/><Content>{escape(caption)}</Content></Video></Request>'
    ).encode()


def allshare(user: str, password: str) -> bytes:
    """A login to a Samsung account, with the password in clear."""
    body = (
        f"<userAuthRequest><loginID>{escape(user)}</loginID>"
        f"<password>{escape(password)}</password><duid></duid>"
        "<mobileCountryCode></mobileCountryCode><tncAccepted>Y</tncAccepted></userAuthRequest>"
    ).encode()
    return request("POST", "/security/sso/userprofiles/authentication/emailid", body, host=ACCOUNTS)


def mp4(size: int) -> bytes:
    """Bytes that start like a video, always the same."""
    head = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"
    mdat = (size - len(head)).to_bytes(4, "big") + b"mdat"
    return head + mdat + Random(0).randbytes(size - len(head) - len(mdat))


# Replies: the firmware does not parse XML, it uses strstr()


def found(reply: str, mark: str) -> str:
    """Return the text between `mark` and the next quotation mark; empty without both."""
    _, _, rest = reply.partition(mark)
    value, quotation_mark, _ = rest.partition('"')
    return value if quotation_mark else ""


def session_key(reply: str) -> str:
    return found(reply, 'SessionKey="')


def people_id(reply: str) -> str:
    return found(reply, 'LoginPeopleID="')


def host_addr(reply: str) -> str:
    return found(reply, 'HostAddr="')


def resource_id(reply: str) -> str:
    return found(reply, 'ResourceID="')


def checked(reply: Reply) -> Reply:
    """Return a reply, after checking that a camera's HTTP client accepts it."""
    assert reply.head.startswith("HTTP/1.1 "), reply
    assert reply.segments == 1, reply
    assert reply.headers.get("Connection") == "close", reply
    assert reply.headers.get("Content-Length") == str(len(reply.body.encode())), reply
    assert "Transfer-Encoding" not in reply.headers, reply
    usual = [name for name in reply.headers if name == name.title() or name == "ETag"]
    assert usual == list(reply.headers), reply
    return reply


class SocialCamera:
    """A camera with the address `source`. It stores its session key.

    Each method asserts that the reply is one after which a camera continues.
    """

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self.port = port
        self.source = source
        self.key = ""

    def connect(self) -> socket.socket:
        return camera.connect(self.port, source=self.source)

    def send(self, request: bytes) -> Reply:
        """Send a request and check the form of the reply."""
        connection = self.connect()
        connection.sendall(request)
        return checked(camera.read_reply(connection))

    def check(self, host: str) -> Reply:
        """Make a hotspot check."""
        return self.send(hotspot(host))

    def login(self, site: str, user: str, password: str) -> Reply:
        reply = self._succeed(auth(site, login(user, password)))
        self.key = session_key(reply.body)
        assert 0 < len(self.key) < 64, reply
        assert 0 < len(people_id(reply.body)) < 64, reply
        return reply

    def announce(self, site: str, kind: str, body: bytes) -> str:
        """Announce a file. Returns the ResourceID."""
        reply = self._succeed(announce(site, kind, body))
        assert host_addr(reply.body) == HOST_ADDR, reply
        assert resource_id(reply.body), reply
        return resource_id(reply.body)

    def put(self, resource: str, data: bytes, content_type: str = "image/jpeg") -> Reply:
        return self._succeed(put(resource, data, content_type=content_type))

    def photo(self, site: str, name: str, caption: str, album: str, data: bytes) -> Reply:
        return self.put(self.announce(site, "photo", photo(self.key, name, caption, album)), data)

    def video(self, site: str, name: str, caption: str, category: str, data: bytes) -> Reply:
        body = video(self.key, name, caption, category)
        return self.put(self.announce(site, "video", body), data, "video/mp4")

    def logout(self, site: str) -> Reply:
        return self._succeed(auth(site, logout(self.key)))

    def _succeed(self, request: bytes) -> Reply:
        reply = self.send(request)
        assert reply.status == 200, reply
        return reply

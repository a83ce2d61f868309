"""The messages of the social gateway, snsgw.samsungmobile.com.

A camera shows a menu of sites. It takes these steps, each on a connection of its own::

    POST /SITE/auth    <Request Method="login">, once; the reply has a SessionKey
    POST /SITE/photo   name, album and caption of a photo; the reply has a ResourceID
    PUT /RESOURCE      the bytes of the file
                       ... the last two for each photo, with the same key
    POST /SITE/auth    <Request Method="logout">

(ge0rg/samsung-nx-emailservice, commits a388a20, 632ff92, d5999fe; the article "Bringing the
Samsung NX cameras to Mastodon" on op-co.de.) The number of photos is not announced; the
caption is repeated with each.

The firmware does not parse replies, it searches them for strings like `LoginPeopleID="`.
They are sent byte for byte as they are known to work, even where that is not XML.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote, unquote_to_bytes

from nxparse import markup
from nxparse.deviation import BodyError
from nxparse.markup import Element, one_line
from nxparse.server.reply import Reply, refusal

HOST = "snsgw.samsungmobile.com"
# Bytes of a value in a reply: an NX500 stores at most 64 (Prefman_tool.md of
# ottokiksmaler/nx500_nx1_modding).
MAX_VALUE = 63
MAX_NAME = 256  # characters of a user's name, an album, a file name
MAX_CAPTION = 1000  # characters; a camera's caption has at most 64 bytes

LOGGED_OUT = Reply(200, b"Logged out for real!")
LOGIN_FAILED = refusal(401, "Login failed")
SESSION_EXPIRED = refusal(401, "Session expired")


class CredentialsError(BodyError):
    """A login whose user cannot be read."""

    status = 401


class Announcement(NamedTuple):
    """The announcement of a file. Missing values are None or empty."""

    session_key: str
    name: str | None
    album: str
    caption: str


def parse_login(body: bytes) -> str | None:
    """Return the user in the body of a request to `auth`; None if it is a logout.

    Credentials are encrypted with a key that is sent with them, or in clear over TLS with an
    empty key (HMX-QF30, commit 2ea84c0). The password cannot be checked: the sites are gone.
    Raises BodyError; CredentialsError without a user.
    """
    elements = _read(body)
    if _value(elements, "method").lower() == "logout":
        return None
    name, key = _attribute(elements, "username"), _attribute(elements, "cryptsessionkey")
    decoded = _decrypted(name, key) if key else _text(unquote_to_bytes(name))
    user = one_line(decoded)[:MAX_NAME]
    if not user:
        raise CredentialsError("it names no user")
    return user


def parse_announcement(body: bytes) -> Announcement:
    """Read the body of a request to `photo` or `video`. Raises BodyError."""
    elements = _read(body, "content")
    # A video has a Category instead, which is the site's and does not name the camera.
    album = _attribute(elements, "album", "name")
    content = _first(elements, "content")
    return Announcement(
        session_key=_value(elements, "sessionkey"),
        name=_attribute(elements, "file", "name")[:MAX_NAME] or None,
        album=one_line(album)[:MAX_NAME],
        caption=content.text[:MAX_CAPTION] if content else "",
    )


def logged_in(key: str, user: str) -> Reply:
    """Return the reply to a login (commit 3a60ed6). The fourth line is not XML, on purpose."""
    name = re.sub(r"[^ -~]|[\"<>&]", "?", user)[:MAX_VALUE]
    return _reply(
        f'<Response SessionKey="{key}">',
        '<PersistKey Value=""/>',
        f'<CryptSessionKey Value="{key}"/>',
        f'<LoginPeopleID="{name}"/>',
        f'<OAuth URL="http://{HOST}/oauth"/>',
        "</Response>",
    )


def upload_to(token: str) -> Reply:
    """Return the reply to an announcement (commit 632ff92). The file is sent with `token`."""
    return _reply(f'<Response HostAddr="{HOST}:80" ResourceID="upload/{token}" />')


def _reply(*lines: str) -> Reply:
    return Reply(200, "\n".join(lines).encode("ascii"))


def _read(body: bytes, *texts: str) -> list[Element]:
    elements, _ = markup.read(body, texts)
    if not elements:
        raise BodyError("it has no XML")
    return elements


def _first(elements: Sequence[Element], name: str) -> Element | None:
    return next((element for element in elements if element.name == name), None)


def _attribute(elements: Sequence[Element], name: str, attribute: str = "value") -> str:
    """Return an attribute of the first element of this name, or ""."""
    element = _first(elements, name)
    return element.attributes.get(attribute, "") if element else ""


def _value(elements: Sequence[Element], name: str) -> str:
    """Return the first attribute of this name, or else the value of an element."""
    for element in elements:
        if name in element.attributes:
            return element.attributes[name]
    return _attribute(elements, name)


def _decrypted(value: str, key: str) -> str:
    """Undo AES-128-CBC with zero padding, base64 and percent-encoding (commit a388a20)."""
    try:
        secret = base64.b64decode(unquote(key), validate=True)
        ciphertext = base64.b64decode(unquote(value), validate=True)
    except ValueError:
        raise CredentialsError("the name of its user is not base64") from None
    if len(secret) != 32 or len(ciphertext) % 16:
        raise CredentialsError(
            f"its key has {len(secret)} bytes instead of 32, or the name of its user, "
            f"{len(ciphertext)} bytes, is cut"
        )
    # Not at the start: the command line needs nothing but Python.
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    cipher = Cipher(algorithms.AES(secret[:16]), modes.CBC(secret[16:])).decryptor()
    return _text((cipher.update(ciphertext) + cipher.finalize()).rstrip(b"\0"))


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise CredentialsError("the name of its user is not UTF-8") from None

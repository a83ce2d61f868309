from __future__ import annotations

import base64
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

import nxparse
from nxparse.cli import camera
from nxparse.cli.camera import Photo, Request
from nxparse.server import social
from tests import bodies


def whole(request: Request) -> bytes:
    return b"".join(
        piece.path.read_bytes() if isinstance(piece, Photo) else piece for piece in request.pieces
    )


def body(request: Request) -> bytes:
    head, _, body = whole(request).partition(b"\r\n\r\n")
    assert head.endswith(f"Content-Length: {len(body)}".encode())
    return body


@pytest.fixture
def photos(tmp_path: Path) -> list[Photo]:
    found = []
    for number in (1, 2):
        path = tmp_path / f"SAM_{number}.JPG"
        path.write_bytes(bodies.jpeg(900 + number, number))
        found.append(Photo(path, path.name, "image/jpeg", 900 + number))
    return found


def test_email(photos: list[Photo]) -> None:
    """The upload equals the one that the tests' own camera builds from the capture."""
    recipients = ["a@b.org", "R&D <c@d.org>"]
    request = camera.email(bodies.SENDER, recipients, photos, bodies.BOUNDARY.decode())
    files = [(photo.name, photo.path.read_bytes()) for photo in photos]
    message = bodies.message_xml(recipients=recipients)
    assert whole(request) == bodies.request(bodies.body(files, message=message))
    assert request.host == "www.ospserver.net"


def test_surrogates_in_an_address(photos: list[Photo]) -> None:
    """An argument that is not UTF-8 does not end in a traceback."""
    data = body(camera.email("\udcff", ["a@b.org"], photos, "B"))
    upload = nxparse.read(data, "multipart/form-data; boundary=B")
    assert (upload.sender, upload.recipients) == ("?", ("a@b.org",))


def test_login() -> None:
    """User and password are encrypted with AES; the key is sent along."""
    secret = bytes(range(32))
    data = body(camera.login("picasa", "Jö", "pass+/=word", secret))
    assert social.read_login(data).user == "Jö"
    found = re.search(rb'<Password Value="([^"]*)"', data)
    assert found
    cipher = Cipher(algorithms.AES(secret[:16]), modes.CBC(secret[16:])).decryptor()
    text = cipher.update(base64.b64decode(unquote(found[1].decode())))
    assert text.rstrip(b"\0") == b"pass+/=word"


def test_logout() -> None:
    request = camera.logout("picasa", "k")
    assert whole(request).startswith(b"POST /picasa/auth HTTP/1.1\r\n")
    assert social.read_login(body(request)).out


@pytest.mark.parametrize(
    ("content_type", "kind"), [("image/jpeg", "photo"), ("video/mp4", "video")]
)
def test_announcement(content_type: str, kind: str) -> None:
    photo = Photo(Path("x"), "A & <B>.JPG", content_type, 7)
    request = camera.announcement("facebook", "k", photo, "by <the> sea~gull")
    assert whole(request).startswith(f"POST /facebook/{kind} HTTP/1.1\r\n".encode())
    found = social.read_announcement(body(request))
    assert (found.session_key, found.name) == ("k", "A & <B>.JPG")
    assert (found.caption, found.photos) == ("by <the> sea~gull", 1)


def test_put(photos: list[Photo]) -> None:
    """The Host header is the HostAddr in the reply."""
    request = camera.put("files.example:8080", "upload/t", photos[0])
    assert whole(request).startswith(b"PUT /upload/t HTTP/1.1\r\nHost: files.example:8080\r\n")
    assert body(request) == photos[0].path.read_bytes()

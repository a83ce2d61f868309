from __future__ import annotations

from pathlib import Path

import pytest

import nxparse
from nxparse.cli import camera
from nxparse.cli.camera import Photo, Request
from tests import bodies


def sent(request: Request) -> bytes:
    return b"".join(
        piece.path.read_bytes() if isinstance(piece, Photo) else piece for piece in request.pieces
    )


@pytest.fixture
def photos(tmp_path: Path) -> list[Photo]:
    found = []
    for number in (1, 2):
        path = tmp_path / f"SAM_{number}.JPG"
        path.write_bytes(bodies.jpeg(900 + number, number))
        found.append(Photo(path, path.name, "image/jpeg", 900 + number))
    return found


def test_email(photos: list[Photo]) -> None:
    """The upload equals the one that the tests build from the capture."""
    recipients = ["a@b.org", "R&D <c@d.org>"]
    request = camera.email(bodies.SENDER, recipients, photos, bodies.BOUNDARY.decode())
    files = [(photo.name, photo.path.read_bytes()) for photo in photos]
    message = bodies.message_xml(recipients=recipients)
    assert sent(request) == bodies.request(bodies.body(files, message=message))
    assert request.host == "www.ospserver.net"


def test_surrogates_in_an_address(photos: list[Photo]) -> None:
    """An argument that is not UTF-8 causes no traceback."""
    data = sent(camera.email("\udcff", ["a@b.org"], photos, "B")).partition(b"\r\n\r\n")[2]
    upload = nxparse.read(data, "multipart/form-data; boundary=B")
    assert (upload.sender, upload.recipients) == ("?", ("a@b.org",))

from __future__ import annotations

import nxparse
from nxparse.cli import camera
from nxparse.cli.camera import Photo
from tests import bodies

PHOTOS = [
    Photo(f"SAM_{number}.JPG", "image/jpeg", bodies.jpeg(900 + number, number)) for number in (1, 2)
]


def test_email() -> None:
    """The upload equals the one that the tests build from the capture."""
    recipients = ["a@b.org", "R&D <c@d.org>"]
    request = camera.email(bodies.SENDER, recipients, PHOTOS, bodies.BOUNDARY.decode())
    files = [(photo.name, photo.data) for photo in PHOTOS]
    message = bodies.message_xml(recipients=recipients)
    assert b"".join(request.pieces) == bodies.request(bodies.body(files, message=message))
    assert request.host == "www.ospserver.net"


def test_surrogates_in_an_address() -> None:
    """An argument that is not UTF-8 causes no traceback."""
    data = b"".join(camera.email("\udcff", ["a@b.org"], PHOTOS, "B").pieces[1:])
    upload = nxparse.read(data, "multipart/form-data; boundary=B")
    assert (upload.sender, upload.recipients) == ("?", ("a@b.org",))

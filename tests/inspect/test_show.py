from __future__ import annotations

import re

import pytest

from nxparse.inspect import recorded, show
from nxparse.inspect.recorded import RecordedRequest, RecordedResponse
from tests import bodies, pictures, social

PASSWORD = "correct horse"


def request(data: bytes) -> RecordedRequest:
    found = recorded.parse(data)
    assert found
    return found


def test_upload() -> None:
    """An upload is shown with its fields, parts, and deviations in the order of their offsets."""
    photos = [("SAM_1.JPG", bodies.jpeg(2000, 1)), ("SAM_2.JPG", bodies.jpeg(3000, 2))]
    message = bodies.message_xml(sender="Me <me@example.org>", text="two\nlines")
    found = request(bodies.request(bodies.body(photos, message=message)))
    text = show.request(found)
    assert text
    assert found.endpoint.title == "upload by e-mail"
    lines = text.splitlines()
    assert lines[:6] == [
        "camera      (not named in its photos)",
        "sender      Me <me@example.org>",
        "recipients  photos@example.org",
        "subject     [Samsung Smart Camera] sent you files.",
        "text        two",
        "            lines",
    ]
    table = [line.split() for line in lines[lines.index("parts") + 1 : lines.index("tolerated")]]
    assert table[0] == ["name", "file", "type", "bytes", "at"]
    assert [row[:5] for row in table[1:4]] == [
        ["1", "message", "sample.txt", "multipart/form-data", str(len(message))],
        ["2", "binary", "SAM_1.JPG", "image/jpeg", "2000"],
        ["3", "binary", "SAM_2.JPG", "image/jpeg", "3000"],
    ]
    offsets = [int(line.split()[2]) for line in lines[lines.index("tolerated") + 1 :]]
    assert offsets == sorted(offsets)
    assert len(offsets) == 11


def test_recorded_in_part() -> None:
    """The end of a cut recording is not a deviation of the camera."""
    data = bodies.request(
        bodies.body([("A.JPG", bodies.jpeg(3000))], ending=bodies.ENDINGS["complete"])
    )
    for size in (4000, *range(len(data) - 50, len(data))):
        text = show.request(request(data[:size])) or ""
        assert re.search(r"^recorded +the first \d+ of \d+ bytes\n", text)
        assert "parameter-case" in text
        assert "close-delimiter" not in text
        assert "photo-cut" not in text


def test_camera() -> None:
    """The camera is that of the first photo that names one."""
    photos = [("A.JPG", bodies.jpeg(100)), ("B.JPG", pictures.photo(model="NX300"))]
    body = bodies.body(photos)
    text = show.request(request(bodies.request(body))) or ""
    assert text.startswith("camera      NX300\n")
    assert " NX300\n" in text


def form(disposition: bytes, data: bytes) -> bytes:
    """An unknown request with one part."""
    part = b"--B\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n--B--\r\n"
    head = b"POST /x HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=B\r\n\r\n"
    return head + part % (disposition, data)


PHOTO = social.photo("k" * 32, "SAM_1.JPG", "by the sea")
REQUESTS: dict[str, tuple[bytes, str | None]] = {
    "login": (social.auth("facebook", social.login("me", PASSWORD)), 'Method="login"'),
    "login in clear": (social.auth("youtube", social.login_qf30("me", PASSWORD)), "(hidden)"),
    "AllShare": (social.allshare("me", PASSWORD), "(hidden)"),
    "photo": (social.announce("facebook", "photo", PHOTO), "by the sea"),
    "broken video": (social.announce("youtube", "video", b"<x" * 40_000), "<x<x"),
    "file": (social.put("upload/" + "t" * 32, bodies.jpeg(2000)), "file  image/jpeg, 2.0 kB"),
    "page": (b"GET / HTTP/1.1\r\nHost: www.samsungimaging.com\r\n\r\n?", None),
    "unknown upload": (
        form(b'name="x"; filename="A.JPG"', b"\xff\xd8\xff"),
        " x     A.JPG  -     3",
    ),
}


@pytest.mark.parametrize(("data", "expected"), REQUESTS.values(), ids=REQUESTS)
def test_request(data: bytes, expected: str | None) -> None:
    """Known requests with a body are shown, without secrets."""
    found = request(data)
    text = show.request(found)
    assert show.is_readable(found) == (text is not None) == (expected is not None)
    assert (expected or "") in (text or "")
    assert not any(secret in (text or "") for secret in (PASSWORD, "k" * 32))


def test_reply() -> None:
    """A reply is shown without the keys in it."""
    key, token = "1f" * 16, "2e" * 16
    login = request(social.auth("facebook", social.login("me", PASSWORD)))
    text = (
        f'<Response SessionKey="{key}">\n<PersistKey Value=""/>\n'
        f'<CryptSessionKey Value="{key}"/>\n<LoginPeopleID="me"/>'
    )
    photo = request(social.announce("facebook", "photo", social.photo(key, "A.JPG", "")))
    upload = f'<Response HostAddr="{social.HOST}:80" ResourceID="upload/{token}" />'
    shown = [
        show.reply(RecordedRequest("POST", one.host, one.path, (), b"", answered=answered(body)))
        for one, body in ((login, text), (photo, upload), (login, ""))
    ]
    assert shown == [
        text.replace(key, "(hidden)").replace('ID="me"', 'ID="(hidden)"') + "\n",
        f'<Response HostAddr="{social.HOST}:80" ResourceID="(hidden)" />\n',
        None,
    ]
    assert show.reply(request(bodies.request(b"x"))) is None


def answered(body: str) -> RecordedResponse:
    return RecordedResponse(200, (), body.encode())


def test_upload_in() -> None:
    """The files of an upload, a single file, or none are found in a request."""
    photo = bodies.jpeg(500)
    upload = bodies.request(bodies.body([("A.JPG", photo)]))
    for data in (
        *(upload, upload.replace(b"columbus", b"x")),
        *(social.put("upload/x", photo), form(b"name=x", photo)),
    ):
        found = show.upload_in(request(data))
        assert found
        assert [file.data for file in found.files] == [photo]
    text = show.upload_in(request(form(b"name=x", b"text")))
    assert text
    assert text.files == ()
    assert show.upload_in(request(b"GET / HTTP/1.1\r\n\r\n")) is None

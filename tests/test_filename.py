"""Safe file names and media types."""

from __future__ import annotations

import pytest

from nxparse.filename import MAX_NAME, numbered, safe, sniff


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("SAM_4371.JPG", "SAM_4371.JPG", id="as-captured"),
        pytest.param("../../etc/passwd", "passwd.jpg", id="up"),
        pytest.param("C:\\DCIM\\a.jpg", "a.jpg", id="drive"),
        pytest.param("C:a.jpg", "C_a.jpg", id="drive-relative"),
        pytest.param(None, "photo.jpg", id="missing"),
        pytest.param(".....", "photo.jpg", id="only-dots"),
        pytest.param("  \t ", "photo.jpg", id="blanks"),
        pytest.param(". . .jpg", "jpg.jpg", id="extension-alone"),
        pytest.param("a\0b.jpg", "ab.jpg", id="zero-byte"),
        pytest.param("a\u202egpj.exe", "agpj.exe.jpg", id="right-to-left"),
        pytest.param("a\u200bb\ufeff.jpg", "ab.jpg", id="invisible"),
        pytest.param("a\ud800\udc80b.jpg", "ab.jpg", id="surrogates"),
        pytest.param("a\u2028b\u00a0 c.jpg", "a b c.jpg", id="odd-blanks"),
        pytest.param("a" * 139 + ".jpg", "a" * 139 + ".jpg", id="143"),
        pytest.param("a" * 140 + ".jpg", "a" * 139 + ".jpg", id="144"),
        pytest.param("가" * 85 + ".jpg", "가" * 46 + ".jpg", id="85-of-korean"),
        pytest.param("a" * 138 + " b.jpg", "a" * 138 + ".jpg", id="blank-at-the-cut"),
        pytest.param("COM1 .jpg", "_COM1.jpg", id="com1"),
        pytest.param("LPT¹", "_LPT¹.jpg", id="lpt1"),
        pytest.param("CONOUT$.jpg", "CONOUT_.jpg", id="conout"),
        pytest.param("COM10.jpg", "COM10.jpg", id="com10"),
        pytest.param("a.", "a.jpg", id="dot-last"),
        pytest.param('a<>:"|?*.jpg', "a_______.jpg", id="characters"),
        pytest.param("e\u0301.jpg", "\u00e9.jpg", id="nfd"),
        pytest.param("e\u200d\u0301.jpg", "\u00e9.jpg", id="nfd-with-a-joiner"),
        pytest.param(".htaccess", "htaccess.jpg", id="hidden"),
        pytest.param("-rf", "_rf.jpg", id="option"),
        pytest.param("~", "_.jpg", id="home"),
        pytest.param("~root/a.jpg", "a.jpg", id="home-of-another-user"),
        pytest.param("$(x)", "_(x).jpg", id="command"),
        pytest.param("SAM_4371.JPG.exe", "SAM_4371.JPG.exe.jpg", id="program"),
        pytest.param("SAM_4371.exe.JPG", "SAM_4371.exe.JPG", id="picture"),
    ],
)
def test_safe(name: str | None, expected: str) -> None:
    """A safe name works on every system, and is not changed again."""
    assert safe(name, "image/jpeg") == expected
    assert safe(expected, "image/jpeg") == expected


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        ("image/jpeg", "a.jpg"),
        ("image/tiff", "a.tif"),
        ("image/x-samsung-srw", "a.srw"),
        ("video/mp4", "a.mp4"),
        ("image/x-unheard-of", "a.bin"),
        ("", "a.bin"),
    ],
)
def test_extension_fits_the_content(media_type: str, expected: str) -> None:
    """A name without an extension gets that of its content."""
    assert safe("a", media_type) == expected
    assert safe(expected, media_type) == expected


MEDIA = "jpg jpeg jpe mpo png gif bmp tif tiff heic srw dng mp4 m4v mov avi 3gp wav JPG Srw"


@pytest.mark.parametrize("extension", MEDIA.split())
def test_extension_of_a_picture_or_video_stays(extension: str) -> None:
    """The extension of a picture, video or sound is not changed, whatever the content."""
    assert safe(f"a.{extension}", "image/heic") == f"a.{extension}"


NUMBERED = {
    "first": ("SAM_4371.JPG", 0, "SAM_4371.JPG"),
    "second": ("SAM_4371.JPG", 1, "SAM_4371-1.JPG"),
    "longest": ("a" * (MAX_NAME - 4) + ".jpg", 10, "a" * (MAX_NAME - 7) + "-10.jpg"),
    "fits-with-a-number": ("가" * 45 + "ab.jpg", 1, "가" * 45 + "ab-1.jpg"),
    "cut-between-characters": ("가" * 46 + ".jpg", 1, "가" * 45 + "-1.jpg"),
}


@pytest.mark.parametrize(("name", "number", "expected"), NUMBERED.values(), ids=NUMBERED)
def test_numbered(name: str, number: int, expected: str) -> None:
    """A number goes before the extension, within the limit."""
    assert numbered(name, number) == expected


JPEG = b"\xff\xd8\xff\xe1\0\x18Exif\0\0"


@pytest.mark.parametrize(
    ("head", "claimed", "expected"),
    [
        pytest.param(JPEG, "image/jpeg", "image/jpeg", id="jpeg"),
        pytest.param(JPEG, "image/pjpeg", "image/jpeg", id="pjpeg"),
        pytest.param(JPEG, "text/html", "image/jpeg", id="jpeg-as-html"),
        pytest.param(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "image/jpeg", "image/png", id="png"),
        pytest.param(b"II*\0\x08\0\0\0", "image/jpeg", "image/tiff", id="tiff"),
        pytest.param(b"II*\0\x08\0\0\0", "image/x-samsung-srw", "image/x-samsung-srw", id="srw"),
        pytest.param(b"\0\0\0\x18ftypmp42\0\0\0\0", None, "video/mp4", id="mp4"),
        pytest.param(b"\0\0\0\x18ftypheic\0\0\0\0", "video/mp4", "image/heic", id="heic"),
        pytest.param(b"\0\0\0\x18ftypmif1\0\0\0\0", None, "image/heic", id="mif1"),
        pytest.param(b"RIFF\0\0\0\0AVI LIST", None, "video/x-msvideo", id="avi"),
        pytest.param(b"RIFF\0\0\0\0WAVEfmt ", None, "application/octet-stream", id="wav"),
        pytest.param(b"MZ\x90\0", "image/jpeg", "application/octet-stream", id="program"),
        pytest.param(b"?", "image/pjpeg", "image/jpeg", id="believed-pjpeg"),
        pytest.param(b"?", "image/x-unheard-of", "image/x-unheard-of", id="believed-image"),
        pytest.param(b"<svg", "image/svg+xml", "application/octet-stream", id="svg"),
        pytest.param(b"?", "image/x\rbcc: y", "application/octet-stream", id="injection"),
    ],
)
def test_sniff(head: bytes, claimed: str | None, expected: str) -> None:
    """The content decides the type; the claimed type counts only if it is harmless."""
    assert sniff(head, claimed) == expected

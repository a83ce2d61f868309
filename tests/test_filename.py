"""Safe file names and media types."""

from __future__ import annotations

import pytest

from nxparse.filename import numbered, safe, sniff


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("SAM_4371.JPG", "SAM_4371.JPG", id="as-captured"),
        pytest.param("../../etc/passwd", "passwd.jpg", id="N01-up"),
        pytest.param("/abs", "abs.jpg", id="N01-absolute"),
        pytest.param("C:\\DCIM\\a.jpg", "a.jpg", id="N01-drive"),
        pytest.param("C:a.jpg", "C_a.jpg", id="N01-drive-relative"),
        pytest.param("\\\\srv\\share\\a.jpg", "a.jpg", id="N01-unc"),
        pytest.param("a/", "photo.jpg", id="N01-slash-last"),
        pytest.param(None, "photo.jpg", id="N02-missing"),
        pytest.param("", "photo.jpg", id="N02-empty"),
        pytest.param(".....", "photo.jpg", id="N02-only-dots"),
        pytest.param("  \t ", "photo.jpg", id="N02-blanks"),
        pytest.param(". . .jpg", "jpg.jpg", id="N02-extension-alone"),
        pytest.param("a\0b.jpg", "ab.jpg", id="N03-nul"),
        pytest.param("a\tb\x1bc\x7fd.jpg", "abcd.jpg", id="N03-controls"),
        pytest.param("a\u202egpj.exe", "agpj.exe.jpg", id="N03-right-to-left"),
        pytest.param("a\u200bb\ufeff.jpg", "ab.jpg", id="N03-invisible"),
        pytest.param("a\ud800\udc80b.jpg", "ab.jpg", id="N03-surrogates"),
        pytest.param("a\u2028b\u00a0 c.jpg", "a b c.jpg", id="N03-odd-blanks"),
        pytest.param("a" * 251 + ".jpg", "a" * 251 + ".jpg", id="N04-255"),
        pytest.param("a" * 252 + ".jpg", "a" * 251 + ".jpg", id="N04-256"),
        pytest.param("가" * 83 + ".jpg", "가" * 83 + ".jpg", id="N04-253-of-korean"),
        pytest.param("가" * 85 + ".jpg", "가" * 83 + ".jpg", id="N04-85-of-korean"),
        pytest.param("a" * 250 + " b.jpg", "a" * 250 + ".jpg", id="N04-blank-at-the-cut"),
        pytest.param("nul.jpg", "_nul.jpg", id="N05-nul"),
        pytest.param("COM1 .jpg", "_COM1.jpg", id="N05-com1"),
        pytest.param("LPT¹", "_LPT¹.jpg", id="N05-lpt1"),
        pytest.param("CONOUT$.jpg", "CONOUT_.jpg", id="N05-conout"),
        pytest.param("COM10.jpg", "COM10.jpg", id="N05-com10"),
        pytest.param("a.", "a.jpg", id="N05-dot-last"),
        pytest.param('a<>:"|?*.jpg', "a_______.jpg", id="N05-characters"),
        pytest.param("e\u0301.jpg", "\u00e9.jpg", id="N06-nfd"),
        pytest.param("e\u200d\u0301.jpg", "\u00e9.jpg", id="N06-nfd-with-a-joiner"),
        pytest.param(".htaccess", "htaccess.jpg", id="N10-hidden"),
        pytest.param("-rf", "_rf.jpg", id="N10-option"),
        pytest.param("~", "_.jpg", id="N10-home"),
        pytest.param("~root/a.jpg", "a.jpg", id="N10-somebodys-home"),
        pytest.param("$(x)", "_(x).jpg", id="N10-command"),
        pytest.param("SAM_4371.JPG.exe", "SAM_4371.JPG.exe.jpg", id="N11-program"),
        pytest.param("SAM_4371.exe.JPG", "SAM_4371.exe.JPG", id="N11-picture"),
        pytest.param("SAM_4371", "SAM_4371.jpg", id="N11-no-extension"),
    ],
)
def test_safe(name: str | None, expected: str) -> None:
    """A safe name works on every system, and is safe itself."""
    assert safe(name, "image/jpeg") == expected
    assert safe(expected, "image/jpeg") == expected


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        ("image/jpeg", "a.jpg"),
        ("image/png", "a.png"),
        ("image/gif", "a.gif"),
        ("image/bmp", "a.bmp"),
        ("image/tiff", "a.tif"),
        ("image/heic", "a.heic"),
        ("image/x-samsung-srw", "a.srw"),
        ("image/x-adobe-dng", "a.dng"),
        ("video/mp4", "a.mp4"),
        ("video/quicktime", "a.mov"),
        ("video/x-msvideo", "a.avi"),
        ("video/3gpp", "a.3gp"),
        ("audio/x-wav", "a.wav"),
        ("application/octet-stream", "a.bin"),
        ("image/x-unheard-of", "a.bin"),
        ("", "a.bin"),
    ],
)
def test_extension_fits_the_content(media_type: str, expected: str) -> None:
    """N11: a name without an extension gets that of its content."""
    assert safe("a", media_type) == expected
    assert safe(expected, media_type) == expected


MEDIA = "jpg jpeg jpe mpo png gif bmp tif tiff heic srw dng mp4 m4v mov avi 3gp wav JPG Srw"


@pytest.mark.parametrize("extension", MEDIA.split())
def test_extension_of_a_picture_or_video_stays(extension: str) -> None:
    """N11: the extension of a picture, video or sound stays, whatever the content."""
    assert safe(f"a.{extension}", "image/heic") == f"a.{extension}"


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [
        pytest.param("SAM_4371.JPG", 0, "SAM_4371.JPG", id="first"),
        pytest.param("SAM_4371.JPG", 1, "SAM_4371-1.JPG", id="second"),
        pytest.param("a" * 251 + ".jpg", 10, "a" * 248 + "-10.jpg", id="N04-255"),
        pytest.param("가" * 83 + ".jpg", 1, "가" * 83 + "-1.jpg", id="N04-255-of-korean"),
        pytest.param("가" * 83 + ".jpg", 10, "가" * 82 + "-10.jpg", id="N04-256-of-korean"),
    ],
)
def test_numbered(name: str, number: int, expected: str) -> None:
    """N07: a number goes before the extension, within the limit."""
    assert numbered(name, number) == expected


@pytest.mark.parametrize(
    ("name", "number", "limit", "expected"),
    [
        pytest.param("SAM_4371.JPG", 1, 14, "SAM_4371-1.JPG", id="fits-with-a-number"),
        pytest.param("SAM_4371.JPG", 10, 14, "SAM_437-10.JPG", id="cut-for-the-number"),
        pytest.param("사진" * 41 + ".jpg", 1, 143, "사진" * 22 + "사-1.jpg", id="143-of-korean"),
    ],
)
def test_numbered_within_a_limit(name: str, number: int, limit: int, expected: str) -> None:
    """A name is cut to a smaller limit, and keeps number and extension."""
    assert numbered(name, number, limit) == expected


JPEG = b"\xff\xd8\xff\xe1\0\x18Exif\0\0"


@pytest.mark.parametrize(
    ("head", "claimed", "expected"),
    [
        pytest.param(JPEG, "image/jpeg", "image/jpeg", id="jpeg"),
        pytest.param(JPEG, "image/pjpeg", "image/jpeg", id="M28-pjpeg"),
        pytest.param(JPEG, "text/html", "image/jpeg", id="M28-jpeg-as-html"),
        pytest.param(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "image/jpeg", "image/png", id="png"),
        pytest.param(b"II*\0\x08\0\0\0", "image/jpeg", "image/tiff", id="tiff"),
        pytest.param(b"II*\0\x08\0\0\0", "image/x-samsung-srw", "image/x-samsung-srw", id="srw"),
        pytest.param(b"\0\0\0\x18ftypmp42\0\0\0\0", None, "video/mp4", id="M31-mp4"),
        pytest.param(b"\0\0\0\x18ftypheic\0\0\0\0", "video/mp4", "image/heic", id="heic"),
        pytest.param(b"\0\0\0\x18ftypmif1\0\0\0\0", None, "image/heic", id="mif1"),
        pytest.param(b"RIFF\0\0\0\0AVI LIST", None, "video/x-msvideo", id="avi"),
        pytest.param(b"RIFF\0\0\0\0WAVEfmt ", None, "application/octet-stream", id="wav"),
        pytest.param(b"MZ\x90\0", "image/jpeg", "application/octet-stream", id="M28-program"),
        pytest.param(b"?", "image/pjpeg", "image/jpeg", id="M28-believed-pjpeg"),
        pytest.param(b"?", "image/x-unheard-of", "image/x-unheard-of", id="M28-believed-image"),
        pytest.param(b"<svg", "image/svg+xml", "application/octet-stream", id="M28-svg"),
        pytest.param(b"?", "image/x\rbcc: y", "application/octet-stream", id="M28-injection"),
    ],
)
def test_sniff(head: bytes, claimed: str | None, expected: str) -> None:
    """M28: the content decides about the type; a claim counts only if it is harmless."""
    assert sniff(head, claimed) == expected

"""The answers that make a camera believe in the Internet."""

from __future__ import annotations

from nxparse.hotspot import GLD


def test_gld() -> None:
    """An NX mini wants no body, an ETag and nginx; each header is there once."""
    assert (GLD.status, GLD.body) == (200, b"")
    assert GLD.fields(0) == [
        ("Date", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("Server", "nginx/notreally"),
        ("ETag", '"deadbeef"'),
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Length", "0"),
        ("Connection", "close"),
    ]

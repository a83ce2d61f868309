"""The page for people, on a camera or elsewhere."""

from __future__ import annotations

from html.parser import HTMLParser

from nxparse.page import PAGE

SEGMENT = 1460
"""What fits into one TCP segment on Ethernet."""


class Outline(HTMLParser):
    """Which elements are open, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_page_is_html() -> None:
    """Each element is closed in its place, and what is to be read is in there."""
    outline = Outline()
    outline.feed(PAGE.body.decode("utf-8"))
    outline.close()
    assert outline.open == []
    assert outline.text == [
        "nx_addon",
        "It works",
        "This network answers for Samsung's camera services.",
        "On the camera: choose photos, Share, E-mail, Send.",
    ]


def test_page_fits_into_one_segment() -> None:
    """A camera's TCP stack gets the page, with its head, in one piece."""
    head = "".join(f"{name}: {value}\r\n" for name, value in PAGE.fields(0))
    assert PAGE.status == 200
    assert len(f"HTTP/1.0 200 OK\r\n{head}\r\n") + len(PAGE.body) <= SEGMENT

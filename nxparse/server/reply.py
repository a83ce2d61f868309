"""HTTP replies that the cameras' firmware accepts.

The firmware searches replies for substrings, and expects head and body in one TCP segment
(ge0rg/samsung-nx-emailservice, commits de1c332, dcc222a). So replies are short, spell their
header names the usual way, have a Content-Length if their status allows content, are never
chunked, and end the connection.
"""

from __future__ import annotations

import re
from email.utils import formatdate
from typing import NamedTuple


class Reply(NamedTuple):
    """A reply: `headers` are those beyond Date, Content-Type, Content-Length and Connection.

    `reason` replaces the usual phrase after the status. `unknown` marks a reply that a new
    model may not accept: the request is saved to unknown/. `remark` is why a request is refused.
    """

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "text/html; charset=utf-8"
    reason: str = ""
    unknown: bool = False
    remark: str = ""

    def fields(self, now: float) -> list[tuple[str, str]]:
        """Return all headers in order. `now` is the Unix time for Date."""
        has_content = self.status >= 200 and self.status not in (204, 304)
        content = [
            ("Content-Type", self.content_type),
            ("Content-Length", str(len(self.body))),
        ]
        return [
            ("Date", formatdate(now, usegmt=True)),
            *self.headers,
            *(content if has_content else ()),
            ("Connection", "close"),
        ]


PRIVATE = (
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "private, no-store"),
)
"""Headers of all replies with uploaded content."""

ACCEPTED = Reply(200, b'<Response Status="succ" />')
"""The reply that confirms an upload (samsung-nx-emailservice, commit de1c332)."""


def refusal(
    status: int,
    reason: str,
    headers: tuple[tuple[str, str], ...] = (),
    *,
    unknown: bool = False,
) -> Reply:
    """Return an error in XML (samsung-nx-emailservice, commit 1cfa725), `reason` as a comment."""
    # The reason must not end the comment or the line.
    comment = re.sub(r"[^ -~]|[<>&]|-(?=-|\Z)", "?", reason)[:200]
    xml = f'<Response ErrCode="{status}" ErrSubCode="0" /><!-- {comment} -->'
    return Reply(status, xml.encode("ascii"), headers, unknown=unknown, remark=reason[:200])

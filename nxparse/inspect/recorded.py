"""Requests as they were seen: from a flow, or from a file that holds the bytes.

`parse` reads the bytes of a request as leniently as cameras write them: two
blanks in the request line, no blank behind a colon, lines that end with LF.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nxparse.server.endpoints import bare_host

Headers = tuple[tuple[str, str], ...]

_REQUEST_LINE = re.compile(rb"([A-Z]{3,10})[ \t]+(\S+)[ \t]+HTTP/\d\.\d[ \t]*\r?\n")
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
MAX_HEAD = 1 << 16


@dataclass(frozen=True, slots=True)
class RecordedResponse:
    """The reply to a request. `body` is None if it was not kept."""

    status: int
    reason: str
    headers: Headers
    body: bytes | None


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """A request, and the reply if there was one. `body` is None if it was not kept.

    `path` may have a query. `client` is an address, `at` a Unix time; both may
    be unknown: empty, and 0.
    """

    method: str
    host: str
    path: str
    headers: Headers
    body: bytes | None
    version: str = "HTTP/1.1"
    client: str = ""
    at: float = 0.0
    answered: RecordedResponse | None = None

    def header(self, name: str) -> str:
        """The value of the first header of this name, whatever its case; empty if there is none."""
        return header(self.headers, name)


@dataclass(frozen=True, slots=True)
class RecordedQuestion:
    """A DNS question: `type` as A or AAAA, `client` and `at` as of a request."""

    name: str
    type: str
    client: str = ""
    at: float = 0.0


def header(headers: Headers, name: str) -> str:
    """The value of the first header of this name, whatever its case; empty if there is none."""
    lowered = name.lower()
    return next((value for other, value in headers if other.lower() == lowered), "")


def parse(data: bytes) -> RecordedRequest | None:
    """Read the bytes of a request. None if they do not begin as one."""
    line = _REQUEST_LINE.match(data)
    if not line:
        return None
    end = _BLANK_LINE.search(data, line.end() - 2, MAX_HEAD)
    head = data[line.end() : end.start() if end else MAX_HEAD].decode("utf-8", "replace")
    headers = []
    for field in head.splitlines():
        name, colon, value = field.partition(":")
        if colon:
            headers.append((name.strip(), value.strip()))
    host, path = "", line[2].decode("utf-8", "replace")
    if absolute := re.match(r"https?://([^/?#]*)(.*)", path, re.IGNORECASE):
        host, path = absolute[1], absolute[2] or "/"
    host = bare_host(host or header(tuple(headers), "host"))
    body = data[end.end() :] if end else b""
    version = line[0].split()[-1].decode("ascii")
    return RecordedRequest(line[1].decode("ascii"), host, path, tuple(headers), body, version)

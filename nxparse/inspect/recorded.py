"""Recorded requests, replies and DNS questions: from a flow, or from a file with their bytes."""

from __future__ import annotations

import re
from typing import NamedTuple

from nxparse.server import endpoints
from nxparse.server.endpoints import Endpoint, bare_host

Headers = tuple[tuple[str, str], ...]

MAX_HEAD = 1 << 16  # bytes
_REQUEST_LINE = re.compile(rb"([A-Z]{3,10})[ \t]+(\S+)[ \t]+(HTTP/\d\.\d)[ \t]*\r?\n")
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_URL = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE)


class RecordedResponse(NamedTuple):
    """The reply to a request. `body` is None if it was not recorded."""

    status: int
    headers: Headers
    body: bytes | None


class RecordedRequest(NamedTuple):
    """A request with its reply. `body` is None if it was not recorded.

    `path` includes the query. `client` is an address, empty if unknown; `at` a Unix time, or 0.
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

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint that answers this request."""
        return endpoints.find(self.method, self.host, self.path)

    def header(self, name: str) -> str:
        """The value of the first header with this name; see `header`."""
        return header(self.headers, name)


class RecordedQuestion(NamedTuple):
    """A DNS question. `type` is A or AAAA, for example; `client` and `at` as in a request."""

    name: str
    type: str
    client: str = ""
    at: float = 0.0


def header(headers: Headers, name: str) -> str:
    """The value of the first header with this name, regardless of case; empty if none has it."""
    lowered = name.lower()
    return next((value for other, value in headers if other.lower() == lowered), "")


def length(headers: Headers) -> int:
    """The value of Content-Length; 0 without a usable one."""
    value = header(headers, "content-length")
    return int(value) if re.fullmatch("[0-9]{1,15}", value) else 0


def parse(data: bytes) -> RecordedRequest | None:
    """Parse the bytes of a request. None if they do not start with a request line.

    Accepts what cameras write: two spaces in the request line, no space after a colon, and also
    lines that end with LF only.
    """
    line = _REQUEST_LINE.match(data)
    if not line:
        return None
    method, target, version = (word.decode("utf-8", "replace") for word in line.groups())
    end = _BLANK_LINE.search(data, line.end() - 2, MAX_HEAD)
    head = data[line.end() : end.start() if end else MAX_HEAD].decode("utf-8", "replace")
    fields = [field.partition(":") for field in head.splitlines()]
    headers = tuple((name.strip(), value.strip()) for name, colon, value in fields if colon)
    host, path = header(headers, "host"), target
    if url := _URL.match(target):
        host, path = url[1], url[2] or "/"
    body = data[end.end() :] if end else b""
    return RecordedRequest(method, bare_host(host), path, headers, body, version)

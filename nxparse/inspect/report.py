"""A report of recorded requests, for a public bug report about an unknown camera.

It contains what helps to support a new model: request lines, headers in their order, the parts of
multipart bodies, the structure of XML, replies, sizes, times, and deviations from the RFCs.
`redact` decides which values are printed. All of it is in code blocks, so no value can become
Markdown syntax or start a line of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from nxparse import __version__, filename
from nxparse.inspect import recorded, show
from nxparse.inspect.recorded import Headers, RecordedQuestion, RecordedRequest, header
from nxparse.inspect.redact import Redactor
from nxparse.text import format_count, printable

MAX_READ = 16 * 1024  # bytes of a text that are redacted
MAX_LINE = 8 * 1024  # characters
MAX_QUESTIONS = 500

# Text that is not printed: web pages, and data with control characters.
_OPAQUE = re.compile(rb"\A\s*<(?:!doctype )?html|[\x00-\x08\x0b\x0c\x0e-\x1f]", re.IGNORECASE)
_ABOUT = """\
This is what a camera sent and what it was answered. It is meant to be attached to a public bug
report.

Only values that are the same for everybody are printed. Any other value is replaced by a token such
as `<digits 12 #a1b2c3>`: its kind, its length, and a digest (HMAC-SHA256). Equal values have equal
tokens. The key of the digests is not kept, so they reveal nothing about a value or a file. Please
add the model of the camera, and the host names and paths that have become tokens, to the issue:
they are needed to support the camera."""


def markdown(
    requests: Sequence[RecordedRequest], questions: Sequence[RecordedQuestion], version: str
) -> str:
    """Report requests with their replies, and DNS questions, in Markdown. Never raises.

    `version` is the name and version of the proxy.
    """
    report = _Report([*(one.at for one in requests), *(one.at for one in questions)])
    blocks = [
        "# Report of a camera",
        _ABOUT,
        f"{format_count(len(requests), 'request')}, made with nx_addon {__version__} in {version}.",
    ]
    for number, request in enumerate(requests, 1):
        blocks += report.exchange(number, request)
    if questions:
        asked = [report.question(one) for one in questions[:MAX_QUESTIONS]]
        blocks += ["## DNS questions", _block(asked)]
    return "\n\n".join(blocks) + "\n"


class _Report:
    """The blocks of a report. `times` are Unix times, 0 if unknown; the earliest becomes 0 s."""

    def __init__(self, times: Iterable[float]) -> None:
        self._redact = Redactor()
        self._began = min(filter(None, times), default=0.0)

    def exchange(self, number: int, request: RecordedRequest) -> Iterator[str]:
        """Yield the blocks for a request and its reply."""
        redact = self._redact
        yield f"## {number}. {request.endpoint.title}"
        yield _block([f"{self._origin(request)}  to {redact.value('host', request.host)}"])
        line = (
            redact.value("method", request.method),
            redact.url(request.path),
            redact.value("version", request.version),
        )
        yield _block([" ".join(line), *self._headers(request.headers)])
        yield from self._body(request.headers, request.body)
        yield f"### Reply to {number}"
        if reply := request.answered:
            yield _block([str(reply.status), *self._headers(reply.headers)])
            yield from self._body(reply.headers, reply.body)
        else:
            yield "No reply was recorded."

    def question(self, one: RecordedQuestion) -> str:
        """Return a line with a name that was looked up."""
        name = self._redact.value("host", one.name)
        return f"{self._origin(one)}  {self._redact.name(one.type)}  {name}"

    def _origin(self, one: RecordedRequest | RecordedQuestion) -> str:
        time = f"{one.at - self._began:.1f} s" if one.at else "-"
        return f"{time}  from {self._redact.token(one.client)}"

    def _headers(self, headers: Headers) -> list[str]:
        redact = self._redact
        return [f"{redact.name(name)}: {redact.header(name, value)}" for name, value in headers]

    def _body(self, headers: Headers, body: bytes | None) -> Iterator[str]:
        content_type, length = header(headers, "content-type"), recorded.length(headers)
        if body is None:
            yield "The body was not recorded."
        elif not body:
            yield "No body."
        elif content_type.strip().lower().startswith("multipart/") or body.startswith(b"--"):
            yield from self._multipart(body, content_type, length)
        else:
            yield f"Body, {show.body_size(body, length)}:"
            yield _block(self._content(body, content_type))

    def _content(self, data: bytes, content_type: str) -> list[str]:
        """Return the lines of a text, or the token of a file, with the camera in a photo."""
        head = data[:MAX_READ]
        if filename.is_media(data[: filename.HEAD]) or _OPAQUE.search(head):
            return [self._redact.file(data), self._redact.value("model", show.model(data))]
        # Whatever the encoding is, the structure is ASCII, and other characters are not printed.
        text = self._redact.text(head.decode("utf-8", "surrogateescape"), content_type)
        lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
        return lines if len(data) <= MAX_READ else [*lines, "(The rest is left out.)"]

    def _multipart(self, body: bytes, content_type: str, length: int) -> Iterator[str]:
        found = show.parse_parts(body, content_type, length)
        count = format_count(len(found.parts), "part")
        yield f"Body, {show.body_size(body, length)}, with {count}:"
        for number, part in enumerate(found.parts, 1):
            yield f"Part {number}, {format_count(part.end - part.start, 'byte')} at {part.start}:"
            content = self._content(body[part.start : part.end], part.content_type or "")
            yield _block([*self._headers(part.headers), "", *content])
        if not found.parts:
            yield _block(self._content(body, ""))
        if found.error:
            # Without what it quotes from the body.
            error = re.sub(r"""b?(['"]).*\1""", lambda it: self._redact.token(it[0]), found.error)
            yield "It cannot be parsed as an upload by e-mail:"
            yield _block([error])
        if found.deviations:
            yield "Deviations from the RFCs:"
            yield _block([f"{one} at {one.offset}" for one in found.deviations])


def _block(lines: Iterable[str]) -> str:
    """A code block. No redacted line has backticks."""
    return "\n".join(["```", *(printable(line, MAX_LINE) for line in lines), "```"])

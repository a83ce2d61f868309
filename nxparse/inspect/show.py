"""Requests and replies as text for people: for the content view and `python -m nxparse show`.

An upload is shown with its parts and deviations, a request to the social gateway as its XML.
Passwords, keys and tokens are hidden, because users share screenshots.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from nxparse import jpeg
from nxparse.deviation import BodyError, Deviation, Kind
from nxparse.framing import PartSpan, boundary_of, fetch_from
from nxparse.inspect import recorded
from nxparse.inspect.recorded import RecordedRequest
from nxparse.scanner import Scanner
from nxparse.server.endpoints import Service
from nxparse.text import describe_upload, format_size, printable
from nxparse.upload import File, Upload, camera, file_in, from_parts, read, whole

MAX_LINE = 200  # characters of a field, a URL, a reason
MAX_METHOD = 20
MAX_XML = 4096  # bytes of XML that are shown

# Requests and replies in XML, with keys and tokens.
_SOCIAL = (Service.LOGIN, Service.PHOTO, Service.VIDEO)

# A flow in a recording is a dictionary as a tnetstring; its first key follows at once.
_FLOWS = re.compile(rb"[0-9]{1,10}:[0-9]{1,2}:[a-z_]+[;,]")


def describe_request(method: str, url: str) -> str:
    """Return the method and URL of a request, for a line of the log."""
    # Rarely needed, and slow to import: its regular expressions are large.
    from nxparse.inspect import credentials

    url = credentials.hide_in_url(url[: 2 * MAX_LINE])
    return f"{printable(method, MAX_METHOD)} {printable(url, MAX_LINE)}"


def describe_recorded(seen: RecordedRequest) -> str:
    """Return a request from a file and its reply in one line of the log."""
    line = f"{describe_request(seen.method, f'http://{seen.host}{seen.path}')}: "
    if seen.endpoint.service is not Service.EMAIL:
        status = f", answered {seen.answered.status}" if seen.answered else ""
        return f"{line}{seen.endpoint.title}{status}"
    if not seen.body:
        return f"{line}an upload whose body is not in this flow"
    try:
        return f"{line}an upload {describe_upload(read(seen.body, seen.header('content-type')))}"
    except BodyError as error:
        return f"{line}an upload that cannot be parsed: {printable(str(error), MAX_LINE)}"


def is_readable(seen: RecordedRequest) -> bool:
    """Does `request` return a text for this request, if it has a body?"""
    known = (*_SOCIAL, Service.EMAIL, Service.FILE, Service.ACCOUNT)
    return seen.endpoint.service in known or _is_unknown_upload(seen)


def has_secrets(seen: RecordedRequest) -> bool:
    """Does the reply to this request contain what `reply` hides?"""
    return seen.endpoint.service in _SOCIAL


def request(seen: RecordedRequest) -> str | None:
    """The contents of a request. None if it is unknown, or has no body."""
    if not seen.body or not is_readable(seen):
        return None
    match seen.endpoint.service:
        case Service.EMAIL | Service.FIXED:
            return email(seen.body, seen.header("content-type"), recorded.length(seen.headers))
        case Service.FILE:
            return _lines(("file", _describe_file(_whole(seen))))
        case _:
            return _xml(seen.body)


def reply(seen: RecordedRequest) -> str | None:
    """The body of a reply without its secrets. None if it has none."""
    if not has_secrets(seen) or not seen.answered or not seen.answered.body:
        return None
    return _xml(seen.answered.body)


def upload_in(seen: RecordedRequest) -> Upload | None:
    """The upload in a request, or None. Raises BodyError.

    Of an unknown request, these are the photos and videos in its parts.
    """
    match seen.endpoint.service:
        case Service.EMAIL:
            return read(seen.body or b"", seen.header("content-type"))
        case Service.FILE:
            # Sender and recipients are in other requests.
            return Upload("", (), "", "", (_whole(seen),))
        case _ if _is_unknown_upload(seen):
            body = seen.body or b""
            found = parse_parts(body, seen.header("content-type"))
            files = [file_in(part, fetch_from(body)) for part in found.parts]
            photos = [one for one in files if one.content_type.startswith(("image/", "video/"))]
            return found.upload or Upload("", (), "", "", tuple(photos))
        case _:
            return None


def _is_unknown_upload(seen: RecordedRequest) -> bool:
    is_multipart = seen.header("content-type").strip().lower().startswith("multipart/")
    return is_multipart and seen.endpoint.service is Service.FIXED


def is_recording(data: bytes) -> bool:
    """Is this a recording of mitmproxy?"""
    return bool(_FLOWS.match(data))


class Parts(NamedTuple):
    """The parts of a multipart body, as far as it can be parsed, and its deviations in order.

    `upload` is None, and `error` the reason, if it is no upload by e-mail.
    """

    parts: Sequence[PartSpan]
    deviations: Sequence[Deviation]
    upload: Upload | None
    error: str = ""


_AT_THE_END = {Kind.CLOSE_DELIMITER_UNMARKED, Kind.CLOSE_DELIMITER_CUT, Kind.PHOTO_CUT}


def parse_parts(body: bytes, content_type: str, length: int = 0) -> Parts:
    """Parse a multipart body for people, who want to see also one that is refused.

    If only the beginning of `length` bytes was recorded, its end is no deviation.
    """
    scanner, fetch = Scanner(boundary_of(content_type)), fetch_from(body)
    scanner.feed(body)
    found, error = None, ""
    try:
        found = from_parts(scanner.close(fetch), scanner.deviations, fetch)
    except BodyError as failure:
        error = str(failure)
    deviations = sorted(found.deviations if found else scanner.deviations, key=lambda it: it.offset)
    if len(body) < length:
        deviations = [
            one for one in deviations if one.offset < len(body) and one.kind not in _AT_THE_END
        ]
    return Parts(scanner.parts, deviations, found, error)


def body_size(body: bytes, length: int) -> str:
    """The size of a body, of whose `length` bytes perhaps only the beginning was recorded."""
    if len(body) < length:
        return f"the first {len(body)} of {length} bytes"
    return f"{len(body)} bytes"


def email(body: bytes, content_type: str, length: int = 0) -> str:
    """The fields, parts and deviations of an upload by e-mail, as far as it can be parsed."""
    parts, deviations, found, error = parse_parts(body, content_type, length)
    head = upload(found) if found else _lines(("upload", f"cannot be parsed: {error}"))
    if len(body) < length:
        head = _lines(("recorded", body_size(body, length))) + head
    if not found and not parts and not deviations:
        return head
    rows: list[tuple[str, ...]] = [("", "name", "file", "type", "bytes", "at", "")]
    for number, part in enumerate(parts, 1):
        names = (part.name, part.filename, part.content_type)
        size = str(part.end - part.start)
        shown = model(body[part.start : part.end])
        rows.append(
            (str(number), *(printable(one or "-") for one in names), size, str(part.start), shown)
        )
    noted = [(str(one), f"at {one.offset}", printable(one.detail)) for one in deviations]
    tolerated = f"tolerated\n{_table(noted)}" if noted else "no deviations\n"
    return f"{head}\nparts\n{_table(rows)}\n{tolerated}"


def upload(found: Upload) -> str:
    """The fields of an upload."""
    name, address = found.sender_name, found.sender
    return _lines(
        ("camera", camera(found) or "(not named in its photos)"),
        ("sender", (f"{name} <{address}>" if name else address) or "(none)"),
        ("recipients", ", ".join(found.recipients)),
        ("subject", found.subject),
        ("text", found.text),
    )


def model(data: bytes) -> str:
    """The model of the camera in a JPEG; empty if there is none."""
    return jpeg.model(data[: jpeg.HEAD])


def as_json(upload: Upload) -> dict[str, Any]:
    """An upload as an object for JSON."""
    return {
        "sender": upload.sender,
        "recipients": list(upload.recipients),
        "subject": upload.subject,
        "text": upload.text,
        "deviations": [str(one) for one in upload.deviations],
        "files": [
            {
                "name": file.name,
                "content_type": file.content_type,
                "size": file.size,
                "sha256": file.sha256,
            }
            for file in upload.files
        ],
    }


def _xml(body: bytes) -> str:
    """The beginning of XML without its secrets."""
    from nxparse.inspect import credentials

    text = credentials.hide_in_body(body[:MAX_XML]).decode("utf-8", "replace")
    return "".join(f"{printable(line, MAX_XML)}\n" for line in text.splitlines())


def _whole(seen: RecordedRequest) -> File:
    body = seen.body or b""
    content_type = seen.header("content-type")
    return whole(None, content_type, len(body), fetch_from(body))


def _describe_file(file: File) -> str:
    words = (file.content_type, format_size(file.size), model(file.head(jpeg.HEAD)))
    return ", ".join(word for word in words if word)


def _lines(*fields: tuple[str, str]) -> str:
    """Names and values, one per line; further lines of a value are indented."""
    width = max(len(name) for name, _ in fields) + 2
    lines = []
    for name, value in fields:
        first, *more = [printable(line, MAX_LINE) for line in value.split("\n")]
        lines += [f"{name:{width}}{first}", *(" " * width + line for line in more)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"  {line}\n" for line in aligned(rows))


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table whose rows have the same number of cells."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]

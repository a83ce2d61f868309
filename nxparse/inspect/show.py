"""A request, or a reply, shown to a person: what the content view and `show` print.

An upload is shown with its parts and with each deviation and where it was met,
a request to the social gateway with what stands in it. Passwords, keys and
tokens are hidden: what is on a screen is soon in a screenshot.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nxparse import filename, jpeg, multipart
from nxparse.deviation import BodyError
from nxparse.inspect.recorded import RecordedRequest
from nxparse.multipart import Fetch
from nxparse.server import endpoints, social
from nxparse.server.endpoints import Service
from nxparse.text import format_size, printable
from nxparse.upload import JPEG_HEAD, File, Upload, camera, from_parts, read, whole

MAX_LINE = 200  # characters

EMAIL = "upload by e-mail"
# What is answered with keys and tokens.
_ANSWERED = (Service.LOGIN, Service.PHOTO, Service.VIDEO)

# A flow: a dictionary as a tnetstring, whose first key comes at once.
_FLOWS = re.compile(rb"[0-9]{1,10}:[0-9]{1,2}:[a-z_]+[;,]")
_SECRET = re.compile(r'((?:SessionKey|CryptSessionKey Value|ResourceID)=")[^"]*')


def is_readable(seen: RecordedRequest) -> bool:
    """Is this a request of which `request` can tell something, if it has a body?"""
    return _called(seen) in (*_ANSWERED, Service.EMAIL, Service.FILE, Service.ACCOUNT)


def has_secrets(seen: RecordedRequest) -> bool:
    """Does the reply to this request hold what `reply` hides?"""
    return _called(seen) in _ANSWERED


def request(seen: RecordedRequest) -> str | None:
    """What somebody asks for, for a person. None if nobody knows, or there is no body."""
    endpoint = endpoints.find(seen.method, seen.host, seen.path)
    if not seen.body:
        return None
    body = seen.body
    match endpoint.service:
        case Service.EMAIL:
            return email(body, seen.header("content-type"))
        case Service.FILE:
            return _lines(("file", _file(_whole(body, seen.header("content-type")))))
        case Service.LOGIN:
            return _login(endpoint.argument, body)
        case Service.PHOTO | Service.VIDEO:
            return _announcement(endpoint.argument, endpoint.service.name.lower(), body)
        case Service.ACCOUNT:
            return _lines(("login to", "AllShare"), ("password", "(hidden)"))
        case _:
            return None


def reply(seen: RecordedRequest) -> str | None:
    """The reply to a camera, for a person. None if there is nothing to hide in it."""
    if not has_secrets(seen) or not seen.answered or not seen.answered.body:
        return None
    return _SECRET.sub(r"\1(hidden)", seen.answered.body.decode("utf-8", "replace"))


def upload_in(seen: RecordedRequest) -> Upload | None:
    """The upload that a request is, None if it is none. Raises BodyError."""
    body, content_type = seen.body or b"", seen.header("content-type")
    match _called(seen):
        case Service.EMAIL:
            return read(body, content_type)
        case Service.FILE:
            # Who sent it, and where to, was said in other requests.
            return Upload("", (), "", "", (_whole(body, content_type),))
        case _:
            return None


def title(seen: RecordedRequest) -> str:
    """What a request is, in a few words."""
    endpoint = endpoints.find(seen.method, seen.host, seen.path)
    match endpoint.service:
        case Service.EMAIL:
            return EMAIL
        case Service.FILE:
            return "file for a social site"
        case Service.LOGIN:
            return f"login to {endpoint.argument}"
        case Service.PHOTO | Service.VIDEO as announced:
            return f"{announced.name.lower()} announced to {endpoint.argument}"
        case Service.ACCOUNT:
            return "login to AllShare"
        case Service.LIST:
            return "list of sites"
        case Service.OPEN | Service.DOWNLOAD:
            return "saved file"
        case Service.TIME | Service.PAGE | Service.THUMBNAIL | Service.README as other:
            return other.name.lower()
        case Service.CHECK:
            return "hotspot check"
        case _:
            return "unknown"


def describe_other(data: bytes, path: Path) -> str | None:
    """What a file is, and how to open it, if it is no request and no body of one."""
    if _FLOWS.match(data):
        file = shlex.quote(str(path))
        return (
            f"{path} is a recording of mitmproxy, open it with: "
            f"mitmdump -nr {file} -s nx_addon.py, or mitmweb -r {file} -s nx_addon.py"
        )
    media_type = filename.sniff(data[: filename.HEAD])
    if filename.is_media(data[: filename.HEAD]):
        return f"{path} is a photo or video ({media_type}), not an upload"
    return None


def email(body: bytes, content_type: str) -> str:
    """An upload by e-mail, or why it cannot be read, with as many parts as there are."""
    scanner = multipart.Scanner(multipart.boundary_of(content_type))

    def fetch(start: int, end: int) -> bytes:
        return body[start:end]

    try:
        scanner.feed(body)
        parts = scanner.close()
        found = from_parts(parts, scanner.deviations, fetch)
    except BodyError as error:
        head = _lines(("upload", f"cannot be read: {error}"))
        # As far as it could be read.
        parts, deviations = scanner.parts, scanner.deviations
        if not parts and not deviations:
            return head
    else:
        head = upload(found)
        deviations = list(found.deviations)
    rows = [("", "name", "file", "type", "bytes", "at", "")]
    for number, part in enumerate(parts, 1):
        rows.append(
            (
                str(number),
                printable(part.name or "-"),
                printable(part.filename or "-"),
                printable(part.content_type or "-"),
                str(part.end - part.start),
                str(part.start),
                picture(fetch, part.start, part.end),
            )
        )
    noted = [
        (str(one), f"at {one.offset}", printable(one.detail))
        for one in sorted(deviations, key=lambda one: one.offset)
    ]
    tolerated = f"\ntolerated\n{_table(noted)}" if noted else "\nnothing had to be tolerated\n"
    return f"{head}\nparts\n{_table(rows)}{tolerated}"


def upload(found: Upload) -> str:
    """Who sends what to whom."""
    sender = f"{found.sender_name} <{found.sender}>" if found.sender_name else found.sender
    return _lines(
        ("camera", camera(found) or "(its photos do not tell)"),
        ("sender", sender or "(nobody)"),
        ("recipients", ", ".join(found.recipients)),
        ("subject", found.subject),
        ("text", found.text),
    )


def picture(fetch: Fetch, start: int, end: int) -> str:
    """What a file tells of itself, as far as it is a JPEG."""
    told = jpeg.describe(fetch(start, min(end, start + JPEG_HEAD)))
    if told is None:
        return ""
    size = f"{told.width} x {told.height}" if told.width else "JPEG"
    return ", ".join(word for word in (size, told.model, told.taken) if word)


def as_json(found: Upload) -> dict[str, Any]:
    """An upload for programs, as one object that JSON can hold."""
    return {
        "sender": found.sender,
        "recipients": list(found.recipients),
        "subject": found.subject,
        "text": found.text,
        "deviations": [str(one) for one in found.deviations],
        "files": [
            {
                "name": file.name,
                "content_type": file.content_type,
                "size": file.size,
                "sha256": file.sha256,
            }
            for file in found.files
        ],
    }


def _called(seen: RecordedRequest) -> Service:
    return endpoints.find(seen.method, seen.host, seen.path).service


def _login(site: str, body: bytes) -> str:
    try:
        login = social.read_login(body)
    except BodyError as error:
        return _lines(("login to", site), ("cannot be read", str(error)))
    if login.out:
        return _lines(("logout from", site))
    return _lines(("login to", site), ("user", login.user), ("password", "(hidden)"))


def _announcement(site: str, kind: str, body: bytes) -> str:
    try:
        found = social.read_announcement(body)
    except BodyError as error:
        return _lines((f"{kind} for", site), ("cannot be read", str(error)))
    return _lines(
        (f"{kind} for", site),
        ("file", found.name or "-"),
        ("album", found.album or "-"),
        ("caption", found.caption or "-"),
        ("session", "(hidden)" if found.session_key else "-"),
    )


def _whole(body: bytes, content_type: str) -> File:
    return whole(None, content_type, len(body), lambda start, end: body[start:end])


def _file(file: File) -> str:
    told = picture(lambda start, end: file.head(end), 0, file.size)
    return ", ".join(word for word in (file.content_type, format_size(file.size), told) if word)


def _lines(*fields: tuple[str, str]) -> str:
    """Names and values, a line for each; what has several lines is indented."""
    width = max(len(name) for name, _ in fields) + 2
    lines = []
    for name, value in fields:
        texts = [printable(line, MAX_LINE) for line in value.split("\n")] or [""]
        lines += [f"{name:{width}}{texts[0]}", *(" " * width + text for text in texts[1:])]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join(
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        + "\n"
        for row in rows
    )

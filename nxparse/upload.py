"""The parsed upload, shared by storage and delivery.

An Upload has no photo data, only the position of each file in the body. The body stays where it
is stored, and `Fetch` reads a range of it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nxparse import filename, jpeg, markup, message, multipart
from nxparse.address import is_deliverable
from nxparse.deviation import BodyError, Deviation, Kind
from nxparse.framing import Fetch, PartSpan, boundary_of, fetch_from
from nxparse.multipart import CHUNK
from nxparse.scanner import Scanner

Copy = Callable[[int, int, int], None]
"""Copies a range of a body (offset, size) to a file descriptor."""

EDGE = 1 << 16  # bytes at each end of a file that are part of its fingerprint
XML_HEAD = 256  # bytes in which a document begins after blanks


@dataclass(frozen=True, slots=True)
class File:
    """A photo or video in an upload.

    `name` is as on the wire, None where absent; `safe_name` can be used for a file.
    `content_type` is derived from the content. `size` is in bytes.
    """

    name: str | None
    content_type: str
    size: int
    start: int
    _fetch: Fetch = field(repr=False, compare=False)
    _copy: Copy | None = field(default=None, repr=False, compare=False)

    def copy_to(self, fd: int) -> None:
        """Write the content to a file descriptor. Raises OSError."""
        if self._copy:
            self._copy(self.start, self.size, fd)
            return
        for chunk in self.chunks():
            view = memoryview(chunk)
            while view:
                view = view[os.write(fd, view) :]

    def chunks(self) -> Iterator[bytes]:
        """Yield the content in pieces of at most 256 KiB."""
        end = self.start + self.size
        for start in range(self.start, end, CHUNK):
            yield self._fetch(start, min(start + CHUNK, end))

    def fetch(self, start: int, end: int) -> bytes:
        """Return a range of the content."""
        return self._fetch(self.start + start, self.start + end)

    def head(self, size: int) -> bytes:
        """Return the first `size` bytes of the content, or all of it."""
        return self.fetch(0, min(size, self.size))

    @property
    def data(self) -> bytes:
        """The whole content."""
        return b"".join(self.chunks())

    @property
    def sha256(self) -> str:
        """The SHA-256 of the content in hexadecimal digits. It is computed at each access."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()

    @property
    def safe_name(self) -> str:
        """A name that is safe for a file on any system."""
        return filename.safe(self.name, self.content_type)


class Source(NamedTuple):
    """The multipart body of an upload: its parts, and a function to read them."""

    parts: Sequence[PartSpan]
    fetch: Fetch


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload. `sender` and `recipients` are bare addresses.

    `source` is None if the upload has no multipart body.
    """

    sender: str
    recipients: tuple[str, ...]
    subject: str
    text: str
    files: tuple[File, ...]
    deviations: tuple[Deviation, ...] = ()
    sender_name: str = ""
    album: str = ""
    source: Source | None = field(default=None, repr=False, compare=False)

    @property
    def size(self) -> int:
        """The size of all files in bytes."""
        return sum(file.size for file in self.files)


def read(body: bytes, content_type: str) -> Upload:
    """Parse the body of an e-mail upload. `content_type` is the value of the header.

    Raises BodyError, a ValueError.
    """

    body = bytes(body)
    scanner, fetch = Scanner(boundary_of(content_type)), fetch_from(body)
    scanner.feed(body)
    return from_parts(scanner.close(fetch), scanner.deviations, fetch)


def whole(name: str | None, content_type: str, size: int, fetch: Fetch) -> File:
    """Return a whole body as a file. `name` and `content_type` are as on the wire."""
    claimed = content_type.partition(";")[0].strip().lower()
    return File(name, filename.sniff(fetch(0, min(size, 16)), claimed or None), size, 0, fetch)


def posted(sender: str, site: str, album: str, caption: str, files: Sequence[File]) -> Upload:
    """Return an upload to a social site. Its subject is the site and the album."""
    return Upload(
        sender=sender,
        sender_name="" if is_deliverable(sender) else sender,
        recipients=(site,),
        subject=f"{site}: {album}" if album else site,
        text=caption,
        files=tuple(files),
        album=album,
    )


def camera(upload: Upload) -> str:
    """Return the model of the camera: the album name or the model in a photo, else ""."""
    if upload.album:
        return upload.album
    models = (jpeg.model(file.head(jpeg.HEAD)) for file in upload.files)
    return next(filter(None, models), "")


def fingerprint(upload: Upload, size: int) -> str:
    """Return a digest by which a duplicate of an upload with a body of `size` bytes is found.

    It covers the sender, the message, and the name, size and both ends of each file. On a small
    computer, reading whole files would take longer than receiving them.
    """
    known = f"{upload.sender}\n{size}\n".encode("utf-8", "replace")
    digest = hashlib.blake2b(known, digest_size=16)
    source = upload.source
    # A message is shorter than the part of it that is read here.
    messages = (
        [
            File(None, "", part.end - part.start, part.start, source.fetch)
            for part in source.parts
            if part.name == "message"
        ]
        if source
        else []
    )
    for one in [*messages, *upload.files]:
        digest.update(f"{one.name}\n{one.size}\n".encode("utf-8", "replace"))
        digest.update(one.head(EDGE))
        digest.update(one.fetch(max(min(EDGE, one.size), one.size - EDGE), one.size))
    return digest.hexdigest()


def from_parts(
    parts: Sequence[PartSpan],
    deviations: Sequence[Deviation],
    fetch: Fetch,
) -> Upload:
    """Return the Upload with these parts, found by a Scanner in a body that `fetch` reads.

    Raises BodyError without a usable message or without a file.
    """
    messages = [part for part in parts if multipart.is_message(part, fetch)]
    if not messages:
        raise BodyError("the body has no part named message")
    first = next((part for part in messages if _is_xml(part, fetch)), messages[0])
    found = message.parse(_text(first, fetch))
    malformed = any(each.kind is Kind.XML_MALFORMED for each in found.deviations)
    if malformed and not first.complete:
        raise BodyError("the body ends inside the message")
    noted = [
        *deviations,
        *(each._replace(offset=first.start + each.offset) for each in found.deviations),
    ]
    files: list[File] = []
    # Any other part may be a photo, whatever its name and type.
    for part in parts:
        is_empty = part.start == part.end
        if part is first:
            continue
        if part in messages and (is_empty or _is_xml(part, fetch)):
            _text(part, fetch)
            noted.append(Deviation(Kind.MESSAGE_REPEATED, part.start))
            continue
        if is_empty and not part.filename:
            noted.append(Deviation(Kind.EMPTY_FIELD, part.start))
            continue
        if is_empty:
            noted.append(Deviation(Kind.EMPTY_FILE, part.start))
        elif not part.complete and _is_cut(part, fetch):
            noted.append(Deviation(Kind.PHOTO_CUT, part.end))
        if part.name == "message":
            noted.append(Deviation(Kind.FILE_NAMED_MESSAGE, part.start))
        files.append(file_in(part, fetch))
    if not any(file.size for file in files):
        raise BodyError("the upload has no file")
    return Upload(
        sender=found.sender,
        sender_name=found.sender_name,
        recipients=found.recipients,
        subject=found.subject,
        text=found.text,
        files=tuple(files),
        deviations=tuple(noted),
        source=Source([multipart.trimmed(part, fetch) for part in parts], fetch),
    )


def _text(part: PartSpan, fetch: Fetch) -> bytes:
    """Return the data of a message. Raises BodyError if they are too long or contain a photo."""
    text = fetch(part.start, min(part.end, part.start + markup.MAX_BYTES + 1))
    if len(text) > markup.MAX_BYTES:
        raise markup.TooLongError(f"the message is longer than {markup.MAX_BYTES} bytes")
    if jpeg.START in text:
        raise BodyError("there is a photo in the message")
    return text


def _is_xml(part: PartSpan, fetch: Fetch) -> bool:
    """Return whether a part begins with `<`, after blanks and a byte order mark."""
    head = fetch(part.start, min(part.end, part.start + XML_HEAD))
    return head.lstrip(b"\xef\xbb\xbf\xff\xfe\0\t\n\r ").startswith(b"<")


def file_in(part: PartSpan, fetch: Fetch) -> File:
    """Return the data of a part as a file."""
    head = fetch(part.start, min(part.end, part.start + filename.HEAD))
    return File(
        name=part.filename,
        content_type=filename.sniff(head, part.content_type),
        size=part.end - part.start,
        start=part.start,
        _fetch=fetch,
    )


def _is_cut(part: PartSpan, fetch: Fetch) -> bool:
    """Return whether a part is a JPEG without an end marker."""
    head = fetch(part.start, min(part.end, part.start + 2))
    if not b"\xff\xd8".startswith(head):
        return False
    tail = fetch(max(part.start, part.end - 64), part.end)
    return not tail.rstrip(b"\0\r\n").endswith(b"\xff\xd9")


def encoded(upload: Upload, files: Sequence[File], id: str) -> multipart.Encoded:
    """Encode the message of an upload and these files of it as RFC 7578 requires.

    With all files of an upload by e-mail, the result is the same as that of `multipart.repair`,
    except for the boundary. That is derived from `id`, which the sender must not know: a part
    could contain it otherwise.
    """
    boundary = hashlib.sha256(id.encode()).hexdigest()[:32].encode()
    source = upload.source
    if source is None:
        return multipart.write(_composed(upload, files), boundary)
    unwanted = {file.start for file in upload.files} - {file.start for file in files}
    return multipart.write(
        [(part, source.fetch) for part in source.parts if part.start not in unwanted], boundary
    )


def _composed(upload: Upload, files: Sequence[File]) -> list[tuple[PartSpan, Fetch]]:
    """Return the parts of an upload without a body: a message as in an e-mail, and the files."""
    head = message.compose(
        message.Message(upload.sender, "", upload.recipients, upload.subject, upload.text)
    )
    first = PartSpan("message", "message.xml", "text/xml", (), 0, len(head))
    parts: list[tuple[PartSpan, Fetch]] = [(first, lambda start, end: head[start:end])]
    for file in files:
        part = PartSpan("binary", file.safe_name, file.content_type, (), 0, file.size)
        parts.append((part, file.fetch))
    return parts

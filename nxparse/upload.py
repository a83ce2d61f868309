"""An upload: who sent what to whom. What everything behind the wire works with.

An Upload is computed from a body; it holds no photo, only where each one is.
The body stays where it was kept, and `Fetch` reads a piece of it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from nxparse import filename, jpeg, markup, message, multipart
from nxparse.address import is_deliverable
from nxparse.deviation import BodyError, Deviation, Kind
from nxparse.multipart import CHUNK, Fetch

Copy = Callable[[int, int, int], None]
"""Copies bytes of a body, from an offset on, so many, to a file descriptor."""

EDGE = 1 << 16  # bytes at each end of a file that a fingerprint covers
JPEG_HEAD = 1 << 17  # bytes of a photo that are enough for what it tells of itself
XML_HEAD = 256  # bytes in which a document begins, whatever blanks precede it
_TURNS = {3: 180, 6: 90, 8: 270}  # by orientation (Exif); cameras make no mirror images


@dataclass(frozen=True, slots=True)
class File:
    """A photo or video in an upload.

    `name` is as on the wire, None where absent: make it safe with
    `filename.safe` before you use it. `content_type` is told by the content.
    `size` is in bytes.
    """

    name: str | None
    content_type: str
    size: int
    start: int
    _fetch: Fetch = field(repr=False, compare=False)
    _copy: Copy | None = field(default=None, repr=False, compare=False)

    def with_copy(self, copy: Copy) -> File:
        """Return the same file, whose body can also be copied without reading it."""
        return replace(self, _copy=copy)

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
        """The content, in pieces of at most 256 KiB."""
        end = self.start + self.size
        for start in range(self.start, end, CHUNK):
            yield self._fetch(start, min(start + CHUNK, end))

    def fetch(self, start: int, end: int) -> bytes:
        """The content between two offsets in it."""
        return self._fetch(self.start + start, self.start + end)

    def head(self, size: int) -> bytes:
        """The beginning of the content, at most `size` bytes."""
        return self.fetch(0, min(size, self.size))

    @property
    def data(self) -> bytes:
        """The content, whole."""
        return b"".join(self.chunks())

    @property
    def sha256(self) -> str:
        """The SHA-256 of the content in hexadecimal digits, computed each time."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()

    @property
    def safe_name(self) -> str:
        """A name that can be used for a file anywhere."""
        return filename.safe(self.name, self.content_type)


@dataclass(frozen=True, slots=True)
class Source:
    """The body that an upload was read from: its parts, and how to read them."""

    parts: Sequence[multipart.PartSpan]
    fetch: Fetch


@dataclass(frozen=True, slots=True)
class Upload:
    """What a camera's user sent. `sender` and `recipients` are bare addresses.

    `source` is None where there is no multipart body.
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
        """The bytes of all files together."""
        return sum(file.size for file in self.files)


def read(body: bytes, content_type: str) -> Upload:
    """Read the body of an e-mail upload. `content_type` is the header's value.

    Raises BodyError, a ValueError.
    """

    def fetch(start: int, end: int) -> bytes:
        return bytes(body[start:end])

    scanner = multipart.Scanner(multipart.boundary_of(content_type))
    scanner.feed(bytes(body))
    return from_parts(scanner.close(), scanner.deviations, fetch)


def whole(name: str | None, content_type: str, size: int, fetch: Fetch) -> File:
    """The file that a body is as a whole, called `name` and, on the wire, `content_type`."""
    claimed = content_type.partition(";")[0].strip().lower()
    return File(name, filename.sniff(fetch(0, min(size, 16)), claimed or None), size, 0, fetch)


def posted(sender: str, site: str, album: str, caption: str, files: Sequence[File]) -> Upload:
    """An upload to a social site. It has no subject: that becomes the site and the album."""
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
    """The model of the camera: the album that it names, or what a photo tells, or nothing."""
    if upload.album:
        return upload.album
    told = (jpeg.describe(file.head(JPEG_HEAD)) for file in upload.files)
    return next((picture.model for picture in told if picture and picture.model), "")


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """The small JPEG that a camera has put into a photo.

    `turn` is by how many degrees, clockwise, it has to be turned to stand upright.
    """

    data: bytes
    turn: int = 0


def thumbnail(file: File) -> Thumbnail | None:
    """Return the thumbnail in a photo, if there is one."""
    head = file.head(JPEG_HEAD)
    picture = jpeg.describe(head)
    if picture is None or picture.thumbnail is None:
        return None
    start, end = picture.thumbnail
    return Thumbnail(head[start:end], _TURNS.get(picture.orientation, 0))


def fingerprint(upload: Upload, size: int) -> str:
    """Return what tells whether a camera repeats a body of `size` bytes.

    It covers the sender, the message, and the name, size and both ends of each file. To
    read the whole files would take longer than to receive them on a small computer.
    """
    known = f"{upload.sender}\n{size}\n".encode("utf-8", "replace")
    digest = hashlib.blake2b(known, digest_size=16)
    source = upload.source
    # A message is no longer than what is read of it here.
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
    parts: Sequence[multipart.PartSpan],
    deviations: Sequence[Deviation],
    fetch: Fetch,
) -> Upload:
    """Make an Upload of what a scanner found.

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
        *(replace(each, offset=first.start + each.offset) for each in found.deviations),
    ]
    files: list[File] = []
    # Whatever else there is may be a photo, however it calls itself.
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
        files.append(_file(part, fetch))
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


def _text(part: multipart.PartSpan, fetch: Fetch) -> bytes:
    """The data of a message. BodyError if they are too long for one, or hold a photo."""
    # One byte beyond the limit is enough to be refused for it.
    text = fetch(part.start, min(part.end, part.start + markup.MAX_BYTES + 1))
    if len(text) > markup.MAX_BYTES:
        raise markup.TooLongError(f"the message is longer than {markup.MAX_BYTES} bytes")
    if jpeg.START in text:
        raise BodyError("there is a photo in the message")
    return text


def _is_xml(part: multipart.PartSpan, fetch: Fetch) -> bool:
    """Does this part begin as XML, perhaps after blanks and a byte order mark?"""
    head = fetch(part.start, min(part.end, part.start + XML_HEAD))
    return head.lstrip(b"\xef\xbb\xbf\xff\xfe\0\t\n\r ").startswith(b"<")


def _file(part: multipart.PartSpan, fetch: Fetch) -> File:
    head = fetch(part.start, min(part.end, part.start + filename.HEAD))
    return File(
        name=part.filename,
        content_type=filename.sniff(head, part.content_type),
        size=part.end - part.start,
        start=part.start,
        _fetch=fetch,
    )


def _is_cut(part: multipart.PartSpan, fetch: Fetch) -> bool:
    """Is this a JPEG that does not end as one?"""
    head = fetch(part.start, min(part.end, part.start + 2))
    if not b"\xff\xd8".startswith(head):
        return False
    tail = fetch(max(part.start, part.end - 64), part.end)
    return not tail.rstrip(b"\0\r\n").endswith(b"\xff\xd9")


def encoded(upload: Upload, files: Sequence[File], id: str) -> multipart.Encoded:
    """These files of an upload and its message as multipart/form-data that any parser takes.

    All files of an upload by e-mail become what `multipart.repair` makes of its body,
    but with a boundary made of `id`. To be in no part, that must be unknown to the sender.
    """
    source = upload.source or _made_up(upload, files)
    unwanted: set[int] = set()
    if upload.source:
        unwanted = {file.start for file in upload.files} - {file.start for file in files}
    parts = [part for part in source.parts if part.start not in unwanted]
    boundary = hashlib.sha256(id.encode()).hexdigest()[:32].encode()
    return multipart.write(parts, source.fetch, boundary)


def _made_up(upload: Upload, files: Sequence[File]) -> Source:
    """A body that nobody has sent: a message as in an e-mail, and the files behind it."""
    head = message.compose(
        message.Message(upload.sender, "", upload.recipients, upload.subject, upload.text)
    )
    pieces: list[tuple[int, Fetch]] = [(0, lambda start, end: head[start:end])]
    parts = [multipart.PartSpan("message", "message.xml", "text/xml", (), 0, len(head))]
    end = len(head)
    for file in files:
        parts.append(
            multipart.PartSpan(
                "binary", file.safe_name, file.content_type, (), end, end + file.size
            )
        )
        pieces.append((end, file.fetch))
        end += file.size

    def fetch(start: int, stop: int) -> bytes:
        # What is fetched lies within one part.
        begin, piece = next(one for one in reversed(pieces) if one[0] <= start)
        return piece(start - begin, stop - begin)

    return Source(parts, fetch)

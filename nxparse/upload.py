"""The parsed upload, shared by storage and delivery.

An Upload has no photo data, only the position of each file in the body. The body stays where it
is stored, and `Fetch` reads a range of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nxparse import filename, jpeg, markup, message, multipart
from nxparse.address import is_deliverable
from nxparse.deviation import BodyError, Deviation, Kind
from nxparse.framing import Fetch, PartSpan, boundary_of, fetch_from, is_message, read_pieces
from nxparse.scanner import Scanner

Copy = Callable[[int, int, int], None]
"""Copies a range of a body (offset, size) to a file descriptor."""

EDGE = 1 << 16  # bytes at each end of a file that are part of its fingerprint
XML_HEAD = 256  # bytes in which a document begins after blanks


@dataclass(frozen=True, slots=True)
class File:
    """A photo or video in an upload.

    `name` is as on the wire, None where absent; `safe_name` can be used for a file.
    `content_type` is derived from the content. `size` is in bytes. `copy`, if given, copies ranges
    of the body faster than by reading them.
    """

    name: str | None
    content_type: str
    size: int
    start: int
    _fetch: Fetch = field(repr=False, compare=False)
    copy: Copy | None = field(default=None, repr=False, compare=False)

    def chunks(self) -> Iterator[bytes]:
        """Return the content in pieces of at most 256 KiB."""
        return read_pieces(self._fetch, self.start, self.start + self.size)

    def fetch(self, start: int, end: int) -> bytes:
        """Return a range of the content."""
        return self._fetch(self.start + start, self.start + end)

    def head(self, size: int) -> bytes:
        """Return the first `size` bytes of the content, or all of it."""
        return self.fetch(0, min(size, self.size))

    def tail(self, size: int) -> bytes:
        """Return the last `size` bytes of the content, or all of it."""
        return self.fetch(max(self.size - size, 0), self.size)

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
    head = fetch(0, min(size, filename.HEAD))
    return File(name, filename.sniff(head, claimed or None), size, 0, fetch)


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
    messages: list[File] = []
    if source := upload.source:
        messages = [file_in(part, source.fetch) for part in source.parts if part.name == "message"]
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{upload.sender}\n{size}\n".encode("utf-8", "replace"))
    for file in (*messages, *upload.files):
        digest.update(f"{file.name}\n{file.size}\n".encode("utf-8", "replace"))
        digest.update(file.head(EDGE))
        digest.update(file.tail(EDGE))
    return digest.hexdigest()


def from_parts(
    parts: Sequence[PartSpan],
    deviations: Sequence[Deviation],
    fetch: Fetch,
) -> Upload:
    """Return the Upload with these parts, found by a Scanner in a body that `fetch` reads.

    Raises BodyError without a usable message or without a file.
    """
    messages = [part for part in parts if is_message(part, fetch)]
    if not messages:
        raise BodyError("the body has no part named message")
    first = next((part for part in messages if _is_xml(file_in(part, fetch))), messages[0])
    found = message.parse(_text(file_in(first, fetch)))
    if not first.complete and any(one.kind is Kind.XML_MALFORMED for one in found.deviations):
        raise BodyError("the body ends inside the message")
    in_message = [one._replace(offset=first.start + one.offset) for one in found.deviations]
    files, in_files = _find_files([part for part in parts if part is not first], fetch)
    if not any(file.size for file in files):
        raise BodyError("the upload has no file")
    return Upload(
        sender=found.sender,
        sender_name=found.sender_name,
        recipients=found.recipients,
        subject=found.subject,
        text=found.text,
        files=tuple(files),
        deviations=(*deviations, *in_message, *in_files),
        source=Source([multipart.trimmed(part, fetch) for part in parts], fetch),
    )


def _find_files(parts: Sequence[PartSpan], fetch: Fetch) -> tuple[list[File], list[Deviation]]:
    """Return the files in these parts, whatever their names and types, and the deviations."""
    files: list[File] = []
    noted: list[Deviation] = []
    for part in parts:
        file = file_in(part, fetch)
        if is_message(part, fetch) and (not file.size or _is_xml(file)):
            _text(file)
            noted.append(Deviation(Kind.MESSAGE_REPEATED, part.start))
            continue
        if not file.size and not file.name:
            noted.append(Deviation(Kind.EMPTY_FIELD, part.start))
            continue
        if not file.size:
            noted.append(Deviation(Kind.EMPTY_FILE, part.start))
        elif not part.complete and _is_cut(file):
            noted.append(Deviation(Kind.PHOTO_CUT, part.end))
        if part.name == "message":
            noted.append(Deviation(Kind.FILE_NAMED_MESSAGE, part.start))
        files.append(file)
    return files, noted


def file_in(part: PartSpan, fetch: Fetch) -> File:
    """Return the data of a part as a file."""
    size = part.end - part.start
    head = fetch(part.start, part.start + min(size, filename.HEAD))
    return File(part.filename, filename.sniff(head, part.content_type), size, part.start, fetch)


def _text(file: File) -> bytes:
    """Return the data of a message. Raises BodyError if they are too long or contain a photo."""
    text = file.head(markup.MAX_BYTES + 1)
    if len(text) > markup.MAX_BYTES:
        raise markup.TooLongError(f"the message is longer than {markup.MAX_BYTES} bytes")
    if jpeg.START in text:
        raise BodyError("there is a photo in the message")
    return text


def _is_xml(file: File) -> bool:
    """Return whether a file begins with `<`, after blanks and a byte order mark."""
    return file.head(XML_HEAD).lstrip(b"\xef\xbb\xbf\xff\xfe\0\t\n\r ").startswith(b"<")


def _is_cut(file: File) -> bool:
    """Return whether a file is a JPEG without an end marker."""
    if not b"\xff\xd8".startswith(file.head(2)):
        return False
    return not file.tail(64).rstrip(b"\0\r\n").endswith(b"\xff\xd9")


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
    parts: list[tuple[PartSpan, Fetch]] = [(first, fetch_from(head))]
    for file in files:
        part = PartSpan("binary", file.safe_name, file.content_type, (), 0, file.size)
        parts.append((part, file.fetch))
    return parts

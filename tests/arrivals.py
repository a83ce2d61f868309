"""Uploads that have been accepted into a spool, and whose replies have arrived."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from nxparse import upload
from nxparse.deviation import BodyError
from nxparse.store.records import Post, StoredUpload
from nxparse.store.spool import Spool
from nxparse.upload import Upload
from tests.bodies import CONTENT_TYPE, RECIPIENT, SENDER

CLIENT = "192.0.2.7"


def parsed(data: bytes, sender: str = SENDER) -> Upload:
    """Return an upload by e-mail, as far as its body can be parsed."""
    try:
        return replace(upload.read(data, CONTENT_TYPE), sender=sender)
    except BodyError:
        return Upload(sender, (RECIPIENT,), "", "", ())


def accept(
    into: Spool, data: bytes, deliveries: Mapping[str, Sequence[str]], client: str = CLIENT
) -> StoredUpload:
    """Accept an upload by e-mail and confirm its reply."""
    incoming = into.begin(len(data))
    incoming.write(data)
    arrival = into.accept(incoming, client, parsed(data), deliveries)
    into.reply_confirmed(incoming.id)
    return arrival


def append(
    into: Spool,
    post: Post,
    name: str | None,
    data: bytes,
    *,
    at_once: Sequence[str],
    together: Sequence[str],
    announcement: str = "",
    confirmed: bool = True,
) -> StoredUpload:
    """Accept a photo of a post, and by default confirm its reply."""
    incoming = into.begin(len(data))
    incoming.write(data)
    file = upload.whole(name, "image/jpeg", incoming.size, incoming.fetch)
    targets = {**dict.fromkeys(at_once, False), **dict.fromkeys(together, True)}
    arrival = into.append(incoming, post, file, announcement, targets)
    if confirmed:
        into.reply_confirmed(incoming.id)
    return arrival

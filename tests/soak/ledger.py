"""A ledger of uploads, their replies and deliveries, which finds lost and mixed-up photos.

Each photo is unique, so its SHA-256 identifies its upload; the text of each upload is a unique
token. After a 200, each photo must be delivered to each recipient by its rule, or be in
`undelivered`: byte for byte, and with the sender, name and text of its own upload.
"""

from __future__ import annotations

import re
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

ALBUM, SCRIPT = "album@example.org", "script@example.org"
RECIPIENTS = (ALBUM, SCRIPT, "mum@example.org", "dad@example.org")
SITES = ("facebook", "evernote", "picasa")
CUT, UNREAD, HUNG = "cut", "reply not read", "no reply for 30 s"


@dataclass
class Upload:
    """An upload by e-mail, or one photo of a post; `photos` are names and SHA-256.

    `replies` has the status of each attempt, or CUT if it was cut in the middle, UNREAD if the
    reply was not read or the proxy ended, or HUNG.
    """

    token: str
    sender: str
    recipients: Sequence[str]
    photos: Sequence[tuple[str, str]]
    replies: list[int | str] = field(default_factory=list)

    @property
    def accepted(self) -> bool:
        return 200 in self.replies


@dataclass(frozen=True)
class Found:
    """A delivered photo. Fields that are unknown there are empty.

    `id` is a Message-ID. `epoch` changes when the proxy or the mail server restarts. `confirmed`
    means that the mail server has accepted the mail.
    """

    way: str
    recipient: str
    name: str
    sha256: str
    sender: str = ""
    token: str = ""
    id: str = ""
    epoch: tuple[int, int] = (0, 0)
    confirmed: bool = True


class Ledger:
    """Uploads and deliveries, noted by any thread."""

    def __init__(self) -> None:
        self.uploads: list[Upload] = []
        self.found: list[Found] = []
        self._lock = threading.Lock()

    def upload(self, upload: Upload) -> Upload:
        with self._lock:
            self.uploads.append(upload)
        return upload

    def note(self, found: Found) -> None:
        with self._lock:
            self.found.append(found)

    def problems(self) -> Iterator[str]:
        """Yield a line for each violation."""
        owners = {sha256: (one, name) for one in self.uploads for name, sha256 in one.photos}
        places = defaultdict(set)
        for one in self.found:
            upload, name = owners.get(one.sha256, (None, ""))
            places[one.sha256].add(one.recipient or one.way)
            if upload is None:
                yield f"of unknown origin: {one}"
            elif not {200, UNREAD, HUNG}.intersection(upload.replies):
                yield f"delivered, but never accepted: {one} of {upload}"
            elif (
                re.sub(r"-\d+\.JPG$", ".JPG", one.name) != name
                or one.sender not in ("", upload.sender)
                or one.token not in ("", upload.token)
                or one.recipient not in ("", *upload.recipients)
            ):
                yield f"mixed up: {one} of {upload}"
        for upload in self.uploads:
            if any(isinstance(reply, int) and 400 <= reply < 500 for reply in upload.replies):
                yield f"refused without a reason: {upload}"
            if HUNG in upload.replies:
                yield f"{HUNG}: {upload}"
            for recipient in upload.recipients if upload.accepted else ():
                for name, sha256 in upload.photos:
                    if not places[sha256] & {recipient, "undelivered"}:
                        yield f"LOST: {name} ({sha256}) for {recipient} of {upload}"
        for (sha256, recipient), copies in self._mails().items():
            if owners[sha256][0].replies == [200] and len({one.id for one in copies}) > 1:
                yield f"several Message-IDs for {recipient}: {copies}"
            for one, other in pairwise(copies):
                if (one.id, one.epoch, one.confirmed) == (other.id, other.epoch, True):
                    yield f"mailed again to {recipient} without a reason: {one}, {other}"

    def summary(self) -> Iterator[str]:
        """Yield the lines of a summary."""
        replies = Counter(str(reply) for upload in self.uploads for reply in upload.replies)
        accepted = [upload for upload in self.uploads if upload.accepted]
        ways = Counter(one.way for one in self.found)
        again = [copies for copies in self._mails().values() if len(copies) > 1]
        same = sum(len({one.id for one in copies}) == 1 for copies in again)
        yield f"uploads     {len(self.uploads)}, {len(accepted)} accepted"
        yield f"attempts    {', '.join(f'{n} x {reply}' for reply, n in sorted(replies.items()))}"
        yield f"photos      {sum(len(upload.photos) for upload in accepted)} to deliver"
        yield f"delivered   {', '.join(f'{n} x {way}' for way, n in sorted(ways.items()))}"
        yield f"mailed      once {len(self._mails()) - len(again)}, again {len(again)}: " + (
            f"{same} under one Message-ID, {len(again) - same} because they were uploaded again"
        )

    def _mails(self) -> dict[tuple[str, str], list[Found]]:
        """Mailed photos by SHA-256 and recipient, in order."""
        mails = defaultdict(list)
        for one in self.found:
            if one.way == "mailed":
                mails[one.sha256, one.recipient].append(one)
        return mails

"""Who sent what, what he heard, and what has come out: whether nothing is lost or mixed up.

Each photo is unique, so its SHA-256 tells whose it is. The text of each upload
is a token of its own; wherever photos come out together with a text or a sender,
these must belong to each other.

How sure it is that nothing is lost: for each photo whose upload was answered 200,
and for each recipient of it, the photo must be where that recipient's rule leads
to, or in `undelivered`, byte for byte.
"""

from __future__ import annotations

import re
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

# The rule for each recipient, and each site, in the options of the proxy (`faults.World`).
RECIPIENTS = {
    "album@example.org": "saved",
    "mum@example.org": "mailed",
    "dad@example.org": "mailed",
    "script@example.org": "run",
}
SITES = {"facebook": "saved", "picasa": "mailed", "evernote": "run"}
WAYS = RECIPIENTS | SITES
TOKEN = r"soak-\d+-\d+"
SITE_ADDRESS = "site@example.org"  # what is posted to picasa is mailed there


@dataclass
class Upload:
    """An upload by e-mail, or one photo of a post, that a camera tries to get rid of.

    `photos` are names and SHA-256. `replies` has the status that was heard at each
    attempt, None if none was. Attempts that were broken off in the middle are `cut`.
    """

    token: str
    sender: str
    recipients: Sequence[str]
    photos: Sequence[tuple[str, str]]
    replies: list[int | None] = field(default_factory=list)
    cut: int = 0

    @property
    def accepted(self) -> bool:
        return 200 in self.replies

    @property
    def may_come_out(self) -> bool:
        return self.accepted or None in self.replies


@dataclass(frozen=True)
class Found:
    """A photo that has come out. What nobody can tell from the place is empty.

    `id` is a Message-ID. `epoch` is new whenever somebody may have forgotten what
    was before. `confirmed`: whoever brought it has been told that it is here.
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
    """What everybody notes, in any thread, and the sum of it."""

    def __init__(self) -> None:
        self.uploads: list[Upload] = []
        self.found: list[Found] = []
        self.garbage = 0
        self._lock = threading.Lock()

    def upload(self, upload: Upload) -> Upload:
        with self._lock:
            self.uploads.append(upload)
        return upload

    def note(self, found: Found) -> None:
        with self._lock:
            self.found.append(found)

    def problems(self) -> Iterator[str]:
        """What must not be."""
        owners = {
            sha256: (upload, name) for upload in self.uploads for name, sha256 in upload.photos
        }
        places: dict[str, set[str]] = defaultdict(set)
        for one in self.found:
            if one.sha256 not in owners:
                yield f"nobody has sent this: {one}"
                continue
            upload, name = owners[one.sha256]
            places[one.sha256].add(one.recipient or one.way)
            if not upload.may_come_out:
                yield f"never accepted, but delivered: {upload} as {one}"
            if (
                re.sub(r"-\d+(?=\.JPG$)", "", one.name) != name
                or one.sender not in ("", upload.sender)
                or one.token not in ("", upload.token)
                or one.recipient not in ("", *upload.recipients)
            ):
                yield f"mixed up: {upload} is delivered as {one}"
        for upload in self.uploads:
            for recipient in upload.recipients if upload.accepted else ():
                for name, sha256 in upload.photos:
                    if not places[sha256] & {recipient, "undelivered"}:
                        yield f"LOST: {name} ({sha256}) for {recipient}: {upload}"
        sent_once = {upload.photos[0][1] for upload in self.uploads if upload.replies == [200]}
        for (sha256, recipient), copies in self._mails().items():
            if sha256 in sent_once and len({one.id for one in copies}) > 1:
                yield f"mailed to {recipient} under several Message-IDs: {copies}"
            for one, next_one in pairwise(copies):
                if one.id == next_one.id and one.epoch == next_one.epoch and one.confirmed:
                    yield f"mailed to {recipient} again without a reason: {one}, {next_one}"

    def summary(self) -> Iterator[str]:
        """The ledger for people to read."""
        attempts = sum(len(upload.replies) + upload.cut for upload in self.uploads)
        replies = Counter(reply for upload in self.uploads for reply in upload.replies)
        refused = ", ".join(
            f"{n} x {code}"
            for code, n in sorted(
                (code, n) for code, n in replies.items() if code not in (200, None)
            )
        )
        yield f"uploads      {len(self.uploads)} in {attempts} attempts, and {self.garbage} x garbage"
        yield f"  heard 200  {sum(upload.accepted for upload in self.uploads)}"
        yield f"  refused    {refused or 'none'}"
        yield f"  cut        {sum(upload.cut for upload in self.uploads)}"
        yield f"  not heard  {replies[None]}"
        ways = Counter(one.way for one in self.found)
        mails = self._mails().values()
        again = [copies for copies in mails if len(copies) > 1]
        one_id = sum(len({one.id for one in copies}) == 1 for copies in again)
        yield f"photos       {sum(len(one.photos) for one in self.uploads if one.accepted)} accepted"
        yield f"  saved      {ways['saved']}"
        yield f"  mailed     {len(mails)}, to each recipient: {len(mails) - len(again)} once"
        yield f"    again    {one_id} with the same Message-ID, {len(again) - one_id} uploaded again"
        yield f"  run        {ways['run']}"
        yield f"  undelivered {ways['undelivered']}"

    def _mails(self) -> dict[tuple[str, str], list[Found]]:
        mails = defaultdict(list)
        for one in self.found:
            if one.way == "mailed":
                mails[one.sha256, one.recipient].append(one)
        return mails

"""Kills and failing calls at every step of an upload, from its first byte to its delivery.

After a restart without further faults, each upload that got 200 must be delivered to each
recipient, byte for byte.
"""

from __future__ import annotations

import contextlib
import email
import errno
import itertools
import os
import secrets
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from nxparse.config import Config
from nxparse.deliver import mail, save, targets
from nxparse.deliver.errors import PermanentError, Refused, TooLargeError
from nxparse.deliver.mail import OutgoingMessage, Smarthost
from nxparse.deliver.outbox import Outbox
from nxparse.server.receive import BodyInfo, EmailReceiver, FileReceiver, Receiver, Result
from nxparse.server.reply import ACCEPTED
from nxparse.server.sessions import AnnouncedFile
from nxparse.store.deliveries import MAX_WAIT
from nxparse.store.records import Post as SocialPost
from nxparse.store.spool import QUIET, Spool
from tests import bodies, faults
from tests.box import configured
from tests.clock import Clock
from tests.faults import CALLS, Database, Faults, contents, make_lazy

LEAST_POINTS = 6069
PIECES = 3  # chunks of a body
ROUNDS = 4  # of deliveries, enough for all retries
WRITES = (
    *("write", "copy_file_range", "fsync", "link", "replace", "unlink", "mkdir"),
    *("INSERT", "UPDATE", "DELETE"),
)
EVERYTHING = (*CALLS, "BEGIN", "SELECT", "INSERT", "UPDATE", "DELETE", "COMMIT")

ANNA, BEN, CLARA, GONE, BUSY, US = (
    f"{name}@example.org" for name in ("anna", "ben", "clara", "gone", "busy", "us")
)

Way = frozenset[str]
"""The places of which at least one must have the photos for a recipient in the end."""

MAIL = frozenset({"mail"})
FOLDER = frozenset({"folder"})
UNDELIVERED = frozenset({"undelivered"})


@dataclass(frozen=True, slots=True)
class Sent:
    """An upload: its photos, and for each recipient all places that must have them.

    With a caption it is one photo of a post to a social site.
    """

    photos: Mapping[str, bytes]
    ways: Mapping[str, tuple[Way, ...]]
    readable: bool = True
    caption: str = ""

    @property
    def body(self) -> bytes:
        if self.caption:
            return b"".join(self.photos.values())
        message = bodies.message_xml(recipients=list(self.ways)) if self.readable else b"<email>"
        return bodies.body(list(self.photos.items()), message=message)


def photos(number: int, seed: int = 0) -> dict[str, bytes]:
    """Return some small photos of different sizes."""
    return {
        f"SAM_{index}.JPG": bodies.jpeg(200 + 60 * index, 100 * seed + index)
        for index in range(1, number + 1)
    }


def posted(number: int, caption: str = "At the sea") -> tuple[Sent, ...]:
    """Return the photos of a post, which are to be saved and mailed to `US`."""
    ways = {US: (FOLDER, MAIL)}
    seed = len(caption)
    return tuple(
        Sent({name: data}, ways, caption=caption) for name, data in photos(number, seed).items()
    )


@dataclass(frozen=True, slots=True)
class Scenario:
    """Uploads, their rules, and the behaviour of the mail server.

    Due deliveries are made in the `pause` (seconds) between two photos of a post. The mail
    server refuses the recipient `gone` always, `BUSY` once, and mails larger than `limit`,
    or all mails if it is `broken`. After a restart it accepts `BUSY`, and everything if it
    is `mended`. `replies_lost` replies to each upload are lost, and the upload is repeated.
    """

    uploads: tuple[Sent, ...]
    routes: tuple[str, ...] = ()
    gone: str = ""
    limit: int = 1 << 30
    broken: bool = False
    mended: bool = False
    pause: float = 1.0
    replies_lost: int = 0

    def together(self, sent: Sent) -> list[Sent]:
        """Return the uploads that one mail may have together with this one."""
        return [one for one in self.uploads if one is sent or one.caption == sent.caption != ""]


POSTED = ("facebook=save", f"facebook=mail:{US}")
SCENARIOS = {
    "one photo saved": Scenario((Sent(photos(1), {ANNA: (FOLDER,)}),), ("*=save",)),
    "three photos saved": Scenario((Sent(photos(3), {ANNA: (FOLDER,)}),), ("*=save",)),
    "three photos saved and mailed": Scenario(
        (Sent(photos(3), {ANNA: (FOLDER, MAIL)}),), ("*=save", "*=mail")
    ),
    "mail": Scenario((Sent(photos(2), {ANNA: (MAIL,), BEN: (MAIL,)}),)),
    "mail and save": Scenario(
        (Sent(photos(2), {ANNA: (MAIL, FOLDER), CLARA: (MAIL,)}),), ("anna@*=mail", "anna@*=save")
    ),
    "mail, an address of ours, and save": Scenario(
        (Sent(photos(1), {ANNA: (FOLDER,), BEN: (MAIL,), CLARA: ()}),),
        ("anna@*=save", "ben@*=mail", "clara@*=mail:us@example.net"),
    ),
    "one refused permanently, one temporarily": Scenario(
        (Sent(photos(2), {ANNA: (MAIL,), GONE: (UNDELIVERED,), BUSY: (MAIL,)}),), gone=GONE
    ),
    "all refused temporarily": Scenario((Sent(photos(1), {BUSY: (MAIL,)}),)),
    "all refused permanently": Scenario((Sent(photos(1), {GONE: (UNDELIVERED,)}),), gone=GONE),
    "refused permanently, but not after the kill": Scenario(
        (Sent(photos(2), {ANNA: (MAIL,), GONE: (MAIL | UNDELIVERED,)}),), gone=GONE, mended=True
    ),
    "too large, in one mail": Scenario(
        (Sent(photos(3), {ANNA: (MAIL,), BUSY: (MAIL,)}),), limit=1500
    ),
    "too large, each": Scenario((Sent(photos(2), {ANNA: (UNDELIVERED,)}),), limit=900),
    "too large, but not after the kill": Scenario(
        (Sent(photos(2), {ANNA: (MAIL | UNDELIVERED,)}),), limit=900, mended=True
    ),
    "never to be delivered": Scenario(
        (Sent(photos(2), {ANNA: (UNDELIVERED, FOLDER)}),), ("*=mail", "*=save"), broken=True
    ),
    "two one after another": Scenario(
        (
            Sent(photos(2, 1), {ANNA: (FOLDER, MAIL)}),
            Sent(photos(1, 2), {ANNA: (FOLDER, MAIL), BUSY: (MAIL,)}),
        ),
        ("anna@*=save", "anna@*=mail"),
    ),
    "unreadable": Scenario((Sent(photos(1), {ANNA: ()}, readable=False),)),
    "unreadable, and then one that is not": Scenario(
        (Sent(photos(1, 1), {ANNA: ()}, readable=False), Sent(photos(1, 2), {ANNA: (FOLDER,)})),
        ("*=save",),
    ),
    "two replies lost": Scenario(
        (Sent(photos(1), {ANNA: (FOLDER, MAIL)}),), ("*=save", "*=mail"), replies_lost=2
    ),
    "mail, a reply lost": Scenario(
        (Sent(photos(2), {ANNA: (MAIL,), BEN: (MAIL,)}),), replies_lost=1
    ),
    "a post": Scenario(posted(3), POSTED),
    "a post whose replies are lost": Scenario(posted(2), POSTED, replies_lost=1),
    "a post of an announced number": Scenario(posted(2, "At the sea ~a ~b"), POSTED, pause=0),
    "a post with a pause": Scenario(posted(2), POSTED, pause=QUIET),
    "a post, too large in one mail": Scenario(posted(2), POSTED, limit=1100),
}
POSTS = [name for name, scenario in SCENARIOS.items() if scenario.uploads[0].caption]


class Mailed(NamedTuple):
    """A message that the mail server has accepted."""

    recipients: tuple[str, ...]
    content: bytes


class World(NamedTuple):
    """The state that a kill does not change: replies received, and mails accepted."""

    statuses: tuple[int, ...]
    mails: tuple[Mailed, ...]


class FakeMailServer:
    """A mail server without a socket, which calls `note` at each step of the dialogue."""

    def __init__(
        self, scenario: Scenario, mails: Sequence[Mailed], note: Callable[[str], None], well: bool
    ) -> None:
        self.mails = list(mails)
        self._note = note
        mended = well and scenario.mended
        self._broken = scenario.broken and not mended
        self._limit = 1 << 30 if mended else scenario.limit
        self._gone = "" if mended else scenario.gone
        self._busy = not well

    def send(self, message: OutgoingMessage, server: Smarthost) -> list[Refused]:
        """Replaces mail.send."""
        self._note("before MAIL")
        if message.size > self._limit:
            raise TooLargeError(f"{server} takes at most {self._limit} bytes")
        if self._broken:
            raise PermanentError(f"{server} refuses the sender: 550 no")
        self._note("after MAIL")
        refused = []
        for recipient in message.recipients:
            if recipient == self._gone:
                refused.append(Refused(recipient, True, "550 no such user"))
            elif recipient == BUSY and self._busy:
                refused.append(Refused(recipient, False, "450 later"))
                self._busy = False
            self._note("after RCPT")
        reached = [
            name for name in message.recipients if name not in {one.recipient for one in refused}
        ]
        if not reached:
            return refused
        self._note("after DATA")
        content = b""
        for chunk in message.chunks():
            content += chunk
            self._note("in the middle of the message")
        self.mails.append(Mailed(tuple(reached), content))
        self._note("after the final dot")
        self._note("after the reply")
        return refused


class Run:
    """A run of the program in the folder `place`."""

    def __init__(
        self,
        scenario: Scenario,
        place: Path,
        mails: Sequence[Mailed] = (),
        note: Callable[[str], None] = lambda step: None,
        *,
        well: bool = False,
    ) -> None:
        uploads = place / "uploads"
        clock = Clock()
        self.statuses: list[int] = []
        self.mail_server = FakeMailServer(scenario, mails, note, well)
        self._scenario = scenario
        self._config = _config(uploads, scenario.routes)
        self._clock = clock
        self._note = note
        self.spool = Spool(uploads / ".nx", clock)
        self.outbox = Outbox(
            self.spool,
            lambda target: targets.deliver_to(self._config, {}, target),
            partial(targets.save_undelivered, uploads),
            retry_for=7 * 86400.0,
            clock=clock,
        )

    @property
    def world(self) -> World:
        return World(tuple(self.statuses), tuple(self.mail_server.mails))

    def receive(self, skip: Sequence[int] = ()) -> None:
        """Receive all uploads except those with the numbers in `skip`, and try to deliver each."""
        sent = [one for number, one in enumerate(self._scenario.uploads) if number not in skip]
        for one, following in itertools.zip_longest(sent, sent[1:]):
            for _ in range(self._scenario.replies_lost):
                lost = self._receive(one)
                if lost.accepted:
                    self.spool.reply_lost(lost.accepted)
                self._note("after a reply was lost")
            result = self._receive(one)
            self.statuses.append(result.reply.status)
            self._note("after the camera has its reply")
            if result.accepted:
                self.spool.reply_confirmed(result.accepted)
            if following and following in self._scenario.together(one):
                self._clock.now += self._scenario.pause
                self._deliver()
            else:
                self.drain()

    def drain(self) -> None:
        """Deliver everything, over some hours."""
        for _ in range(ROUNDS):
            self._deliver()
            self._clock.now += 2 * MAX_WAIT

    def _receive(self, sent: Sent) -> Result:
        body = sent.body
        receiver: Receiver
        if sent.caption:
            session = ("192.0.2.7", "anna", "a session", "facebook")
            post = SocialPost(*session, "NX300", sent.caption)
            [name] = sent.photos
            file = AnnouncedFile(f"announcement of {name}", post, name)
            with contextlib.suppress(sqlite3.Error):
                self.spool.expect(post)
            info = BodyInfo("192.0.2.7", "image/jpeg", len(body))
            receiver = FileReceiver(self.spool, self._config, info, file).open()
        else:
            info = BodyInfo("192.0.2.7", bodies.CONTENT_TYPE, len(body))
            receiver = EmailReceiver(self.spool, self._config, info).open()
        size = -(-len(body) // PIECES)
        for start in range(0, len(body), size):
            receiver.feed(body[start : start + size])
        result = receiver.finish()
        assert (result.reply.status == 200) == (result.reply is ACCEPTED)
        return result

    def _deliver(self) -> None:
        """Make the due deliveries."""
        # The workers of an outbox continue after errors of the database.
        for target in self._targets():
            try:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(mail, "send", self.mail_server.send)
                    self.outbox.deliver_due(target)
            except sqlite3.Error:
                continue

    def _targets(self) -> list[str]:
        try:
            return self.spool.due_targets()
        except sqlite3.Error:
            return []


@cache
def _config(uploads: Path, routes: tuple[str, ...]) -> Config:
    smtp = "smtp://mail.example"
    return configured(uploads, nx_route=routes, nx_smtp=smtp, nx_senders=["*"])


def restarted(scenario: Scenario, place: Path, world: World, *, again: bool = False) -> World:
    """Restart in the folder of a run, without faults, and deliver everything.

    If `again`, the camera first repeats the uploads that did not get 200.
    """
    run = Run(scenario, place, world.mails, well=True)
    statuses = world.statuses
    if again:
        run.receive(skip=[number for number, status in enumerate(statuses) if status == 200])
        statuses = (200,) * len(scenario.uploads)
        assert set(run.statuses) <= {200}
    run.drain()
    waiting = run.spool.waiting()
    run.spool.close()
    assert waiting == []
    return World(statuses, tuple(run.mail_server.mails))


# The oracle


@cache
def attached(content: bytes) -> tuple[str, tuple[bytes, ...]]:
    """Return the Message-ID and the photos of a mail."""
    message = email.message_from_bytes(content)
    attachments = tuple(
        bytes(part.get_payload(decode=True))
        for part in message.walk()
        if part.get_content_disposition() == "attachment"
    )
    return str(message["Message-ID"]), attachments


def complaints(
    scenario: Scenario, world: World, place: Path, copies: int, *, again: bool = False
) -> Iterator[str]:
    """Yield everything that is wrong after a restart.

    A recipient may have the same mail `copies` times. Uploads that were sent `again` may be
    in quarantine, too.
    """
    uploads = place / "uploads"
    stored = {
        "folder": [path.read_bytes() for path in uploads.glob("[0-9]*/*")],
        "undelivered": [path.read_bytes() for path in uploads.glob("undelivered/*/*")],
    }
    received: dict[tuple[str, bytes], list[str]] = {}
    for recipients, content in world.mails:
        id, attachments = attached(content)
        if not any(
            set(attachments)
            <= {photo for one in scenario.together(sent) for photo in one.photos.values()}
            for sent in scenario.uploads
        ):
            yield "a mail is mixed, or has half a photo"
        if len(set(attachments)) < len(attachments):
            yield "a mail has a photo twice"
        for recipient, photo in itertools.product(recipients, attachments):
            received.setdefault((recipient, photo), []).append(id)
    for (recipient, _), ids in received.items():
        if len(set(ids)) > 1:
            yield f"{recipient} has a photo under several Message-IDs: {ids}"
        if len(ids) > copies:
            yield f"{recipient} has a photo {len(ids)} times: {ids}"

    known = [photo for sent in scenario.uploads for photo in sent.photos.values()]
    for where, found in stored.items():
        if set(found) - set(known):
            yield f"{where}: half a photo"
        if len(set(found)) < len(found):
            yield f"{where}: a photo is there twice"
    for path in uploads.rglob(".*"):
        if path != uploads / ".nx":
            yield f"{path.relative_to(uploads)} is left over"
    if left := contents(uploads / ".nx" / "spool"):
        yield f"the spool is not empty: {list(left)}"

    quarantine = list(contents(uploads / ".nx" / "quarantine").values())
    for body in quarantine:
        if not body or not any(sent.body.startswith(body) for sent in scenario.uploads):
            yield "quarantine: a body that was not sent"
    for sent, status in itertools.zip_longest(scenario.uploads, world.statuses, fillvalue=0):
        assert isinstance(sent, Sent)
        photos = sent.photos.values()
        lost, somewhere = [], []
        for recipient, ways in sent.ways.items():
            places = {
                photo: {name for name, found in stored.items() if photo in found}
                | ({"mail"} if (recipient, photo) in received else set())
                for photo in photos
            }
            somewhere += [found for found in places.values() if found]
            lost += [recipient for way in ways if not all(way & places[photo] for photo in photos)]
        allowed = {place for ways in sent.ways.values() for way in ways for place in way}
        for name, found in stored.items():
            if name not in allowed and set(found) & set(photos):
                yield f"{name}: this photo does not belong there"
        if not sent.readable:
            if somewhere:
                yield "a photo of an upload that was refused is delivered"
            if 400 <= status < 500 and quarantine.count(sent.body) != 1:
                yield "an upload that was refused is not in quarantine, once"
        elif status == 200 and lost:
            yield f"LOST for {lost}"
        elif status != 200 and lost and somewhere:
            yield f"only some of it is delivered, and not to {lost}"
        elif not (lost or again or scenario.replies_lost) and any(
            sent.body.startswith(body) for body in quarantine
        ):
            yield "it is delivered, and in quarantine too"


def after(scenario: Scenario, place: Path, world: World, *, again: bool = False) -> list[str]:
    """Return everything that is wrong after a restart in the folder of a run."""
    try:
        ended = restarted(scenario, place, world, again=again)
        return list(complaints(scenario, ended, place, 2, again=again))
    except Exception as error:
        return [repr(error)]


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log lines with a traceback since the last call."""
    found = [record.getMessage() for record in caplog.records if record.exc_info]
    caplog.clear()
    return found


# Kills


class Point(NamedTuple):
    """A step at which the program may be killed, and the state it leaves.

    `copy` is the number of the copy of the folder. Steps with the same state share one.
    """

    step: str
    world: World
    copy: int


class Kills(faults.Kills):
    """Adds the steps before each call, after each statement, and those of the mail server."""

    def __init__(self, root: Path, copies: Path) -> None:
        super().__init__(root, copies)
        self.points: list[Point] = []
        self.run: Run | None = None
        self._seen: object = None

    def note(self, step: str) -> None:
        """Note a step of the program."""
        self._copy(step)

    def __enter__(self) -> Kills:
        Database.after.append(self._executed)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        Database.after.remove(self._executed)
        super().__exit__(*error)

    def _executed(self, statement: str) -> None:
        self.note(f"after {statement}")

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        wrapped_after = super()._wrapped(name, call)

        def wrapper(*positional: Any, **named: Any) -> Any:
            self._copy(f"before {name}")
            return wrapped_after(*positional, **named)

        return wrapper

    def _copy(self, step: str) -> None:
        if self._copying:
            return
        world = self.run.world if self.run else World((), ())
        state = (world, files(self._root))
        if state != self._seen:
            super()._copy(step)
            self._seen = state
        self.points.append(Point(step, world, len(self.steps) - 1))


def files(folder: Path) -> frozenset[tuple[str, bytes | None]]:
    """Return all files below a folder, except the -shm files, which SQLite rebuilds."""
    return frozenset(_files(str(folder)))


def _files(folder: str) -> Iterator[tuple[str, bytes | None]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield entry.path, None
                yield from _files(entry.path)
            elif not entry.name.endswith("-shm"):
                with open(entry.path, "rb", buffering=0) as file:
                    yield entry.path, file.read()


@pytest.fixture
def _lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    make_lazy(monkeypatch)
    monkeypatch.setattr(Database, "alone", True)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """An empty folder, in memory if possible."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def points() -> Counter[str]:
    """Return the number of kills of each scenario."""
    return Counter()


@pytest.mark.usefixtures("_lazy")
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_anywhere(
    place: Path, caplog: pytest.LogCaptureFixture, points: Counter[str], name: str
) -> None:
    """After a kill at any step, no accepted upload is lost, mixed or partial."""
    scenario = SCENARIOS[name]
    original = place / "original"
    original.mkdir()
    with Kills(original, place / "copies") as kills:
        run = Run(scenario, original, note=kills.note)
        kills.run = run
        run.receive()
        run.spool.close()
    assert [status < 400 for status in run.statuses] == [sent.readable for sent in scenario.uploads]
    wrong = [f"without a kill: {text}" for text in complaints(scenario, run.world, original, 1)]

    for number, same in itertools.groupby(kills.points, key=lambda point: point.copy):
        steps = list(same)
        copy, world = kills.copy(number), steps[0].world
        where = f"{number}, {' = '.join(point.step for point in steps)}"
        if name in POSTS:
            same_copy = place / "the same copy"
            shutil.copytree(copy, same_copy)
            found = after(scenario, same_copy, world, again=True)
            wrong += [f"{where}, sent again: {text}" for text in found]
            shutil.rmtree(same_copy)
        found = after(scenario, copy, world)
        wrong += [f"{where}: {text}" for text in found + tracebacks(caplog)]
        shutil.rmtree(copy)
    points[name] = len(kills.points)
    assert wrong == []


@pytest.mark.usefixtures("_lazy")
@pytest.mark.parametrize(
    ("name", "expected"), list(zip(POSTS, ([3], [2], [2], [1, 1], [1, 1]), strict=True)), ids=POSTS
)
def test_posts_without_a_kill(tmp_path: Path, name: str, expected: list[int]) -> None:
    """The photos of a post are in one mail if there is no pause, and if it is small enough."""
    run = Run(SCENARIOS[name], tmp_path)
    run.receive()
    run.spool.close()
    assert [len(attached(content)[1]) for _, content in run.mail_server.mails] == expected


def test_enough_kills(points: Counter[str]) -> None:
    """The sweep covers enough points."""
    if set(points) != set(SCENARIOS):
        pytest.skip("not all scenarios have run")
    print(dict(points))
    assert points.total() >= LEAST_POINTS


# Faults


@pytest.mark.usefixtures("_lazy")
@pytest.mark.parametrize(
    ("names", "error", "persistent"),
    [
        pytest.param(EVERYTHING, errno.EIO, False, id="EIO once"),
        pytest.param(EVERYTHING, errno.EIO, True, id="EIO from then on"),
        pytest.param(EVERYTHING, errno.ENOSPC, False, id="ENOSPC once"),
        # A full or read-only disk can still be read.
        pytest.param(WRITES, errno.ENOSPC, True, id="ENOSPC from then on"),
    ],
)
@pytest.mark.parametrize(
    "name",
    [
        "one refused permanently, one temporarily",
        "too large, in one mail",
        "never to be delivered",
        "unreadable, and then one that is not",
        "a post",
    ],
)
def test_any_call_fails(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    names: tuple[str, ...],
    error: int,
    persistent: bool,
) -> None:
    """Whichever call fails, the reply is 200 or 5xx, and 200 means delivered."""
    # The same calls leave the same bytes.
    ids = itertools.count()
    monkeypatch.setattr(secrets, "token_hex", lambda size: f"{next(ids):0{2 * size}x}")
    monkeypatch.setattr(save, "identity_of", lambda state: "")
    scenario = SCENARIOS[name]
    wrong = []
    start, step = 1, 1
    if name in POSTS and not persistent:  # half of its many calls fail with each error
        start, step = 1 if error == errno.EIO else 2, 2
    seen = set()  # many failing calls leave the same state
    for first in itertools.count(start, step):
        ids = itertools.count()
        run = Run(scenario, place)
        with Faults(names, error, first, persistent=persistent) as failing:
            run.receive()
        run.spool.close()
        found = tracebacks(caplog)
        for sent, status in zip(scenario.uploads, run.statuses, strict=True):
            if not (status >= 500 or status == (200 if sent.readable else 400)):
                found.append(f"the reply is {status}")
        state = (run.world, files(place))
        if state not in seen:
            seen.add(state)
            found += after(scenario, place, run.world, again=name in POSTS)
        wrong += [f"call {first}: {text}" for text in found + tracebacks(caplog)]
        shutil.rmtree(place / "uploads")
        if not failing.failed:
            break
    assert wrong == []

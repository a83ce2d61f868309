"""R01: an upload is killed, or has a call fail, at every step from its first byte to its delivery.

The oracle: what the camera heard 200 for is, after a restart and with
everything well again, where it belongs: byte for byte, for each recipient.
"""

from __future__ import annotations

import contextlib
import email
import errno
import itertools
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest

from nxparse.config import OPTIONS, parse
from nxparse.deliver import mail, targets
from nxparse.deliver.errors import PermanentError, Refused, TooLargeError
from nxparse.deliver.mail import OutgoingMessage, Smarthost
from nxparse.deliver.outbox import Outbox
from nxparse.server.receive import (
    Announced,
    EmailReceiver,
    FileReceiver,
    Receiver,
    Result,
)
from nxparse.server.reply import ACCEPTED
from nxparse.server.sessions import AnnouncedFile
from nxparse.store.deliveries import MAX_WAIT
from nxparse.store.records import Post as SocialPost
from nxparse.store.spool import QUIET, Spool
from tests import bodies, camera, faults
from tests.clock import Clock
from tests.faults import CALLS, Database, Faults, contents, make_lazy
from tests.mitmdump import Proxy, eventually

LEAST_POINTS = 6069
PIECES = 3  # in which a body comes in
ROUNDS = 4  # enough for whatever is refused for now
WRITES = (
    *("write", "copy_file_range", "fsync", "link", "replace", "unlink", "mkdir"),
    *("INSERT", "UPDATE", "DELETE"),
)
EVERYTHING = (*CALLS, "BEGIN", "SELECT", "INSERT", "UPDATE", "DELETE", "COMMIT")

ANNA, BEN, CLARA, GONE, BUSY, US = (
    f"{name}@example.org" for name in ("anna", "ben", "clara", "gone", "busy", "us")
)

Way = frozenset[str]
"""Where photos for a recipient have to be in the end: in one of these places."""

MAIL = frozenset({"mail"})
FOLDER = frozenset({"folder"})
UNDELIVERED = frozenset({"undelivered"})


@dataclass(frozen=True, slots=True)
class Sent:
    """What a camera sends: photos, and for each recipient all the ways that they have to take.

    With a caption it is one photo, of a post to a social site.
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
    """Some small photos, not all of one size."""
    return {
        f"SAM_{index}.JPG": bodies.jpeg(200 + 60 * index, 100 * seed + index)
        for index in range(1, number + 1)
    }


def posted(number: int, caption: str = "At the sea") -> tuple[Sent, ...]:
    """A post of some photos, one after another, which are all to be saved and mailed to us."""
    ways = {US: (FOLDER, MAIL)}
    seed = len(caption)
    return tuple(
        Sent({name: data}, ways, caption=caption) for name, data in photos(number, seed).items()
    )


@dataclass(frozen=True, slots=True)
class Scenario:
    """Uploads, one after another, the rules for them, and the mood of the mail server.

    Between the photos of a post `pause` seconds pass, and what is due is delivered.
    It refuses `gone` for good, `BUSY` the first time, and what is larger than
    `limit`; it takes nothing at all if it is `broken`. When all is well again
    it still does so, except for `BUSY`, unless it is `mended`. So many replies to each
    upload get lost, after each of which the camera sends it again.
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
        """What may come in one mail with this."""
        return [one for one in self.uploads if one is sent or one.caption == sent.caption != ""]


POSTED = ("facebook=save", f"facebook=mail:{US}")
SCENARIOS = {
    "one photo saved": Scenario((Sent(photos(1), {ANNA: (FOLDER,)}),), ("*=save",)),
    "three photos saved": Scenario((Sent(photos(3), {ANNA: (FOLDER,)}),), ("*=save",)),
    "mail": Scenario((Sent(photos(2), {ANNA: (MAIL,), BEN: (MAIL,)}),)),
    "mail and save": Scenario(
        (Sent(photos(2), {ANNA: (MAIL, FOLDER), CLARA: (MAIL,)}),), ("anna@*=mail", "anna@*=save")
    ),
    "mail, an address of ours, and save": Scenario(
        (Sent(photos(1), {ANNA: (FOLDER,), BEN: (MAIL,), CLARA: ()}),),
        ("anna@*=save", "ben@*=mail", "clara@*=mail:us@example.net"),
    ),
    "one refused for good, one for now": Scenario(
        (Sent(photos(2), {ANNA: (MAIL,), GONE: (UNDELIVERED,), BUSY: (MAIL,)}),), gone=GONE
    ),
    "all refused for now": Scenario((Sent(photos(1), {BUSY: (MAIL,)}),)),
    "all refused for good": Scenario((Sent(photos(1), {GONE: (UNDELIVERED,)}),), gone=GONE),
    "refused for good, but not after the kill": Scenario(
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
        (
            Sent(photos(1, 1), {ANNA: ()}, readable=False),
            Sent(photos(1, 2), {ANNA: (FOLDER,)}),
        ),
        ("*=save",),
    ),
    "two replies lost": Scenario(
        (Sent(photos(1), {ANNA: (FOLDER, MAIL)}),), ("*=save", "*=mail"), replies_lost=2
    ),
    "a post": Scenario(posted(3), POSTED),
    "a post whose replies are lost": Scenario(posted(2), POSTED, replies_lost=1),
    "a post that tells how many": Scenario(posted(2, "At the sea ~a ~b"), POSTED, pause=0),
    "a post with a pause": Scenario(posted(2), POSTED, pause=QUIET),
    "a post, too large in one mail": Scenario(posted(2), POSTED, limit=1100),
}
POSTS = [name for name, scenario in SCENARIOS.items() if scenario.uploads[0].caption]


class Mailed(NamedTuple):
    """A message that the mail server has taken."""

    recipients: tuple[str, ...]
    content: bytes


class World(NamedTuple):
    """What a kill does not change: the replies that were heard, and the mails that are away."""

    heard: tuple[int, ...]
    mails: tuple[Mailed, ...]


class Post:
    """A mail server without a socket. It calls `tell` at each step of the conversation."""

    def __init__(
        self, scenario: Scenario, mails: Sequence[Mailed], tell: Callable[[str], None], well: bool
    ) -> None:
        self.mails = list(mails)
        self._tell = tell
        mended = well and scenario.mended
        self._broken = scenario.broken and not mended
        self._limit = 1 << 30 if mended else scenario.limit
        self._gone = "" if mended else scenario.gone
        self._busy = not well

    def send(self, letter: OutgoingMessage, server: Smarthost) -> list[Refused]:
        """What stands in for mail.send."""
        self._tell("before MAIL")
        if letter.size > self._limit:
            raise TooLargeError(f"{server} takes at most {self._limit} bytes")
        if self._broken:
            raise PermanentError(f"{server} refuses the sender: 550 no")
        self._tell("after MAIL")
        refused = []
        for recipient in letter.recipients:
            if recipient == self._gone:
                refused.append(Refused(recipient, True, "550 no such user"))
            elif recipient == BUSY and self._busy:
                refused.append(Refused(recipient, False, "450 later"))
                self._busy = False
            self._tell("after RCPT")
        reached = [
            name for name in letter.recipients if name not in {one.recipient for one in refused}
        ]
        if not reached:
            return refused
        self._tell("after DATA")
        content = b""
        for chunk in letter.chunks():
            content += chunk
            self._tell("in the middle of the message")
        self.mails.append(Mailed(tuple(reached), content))
        self._tell("after the final dot")
        self._tell("after the reply")
        return refused


class Run:
    """The program, from its start in the folder `place` to its end."""

    def __init__(
        self,
        scenario: Scenario,
        place: Path,
        mails: Sequence[Mailed] = (),
        tell: Callable[[str], None] = lambda step: None,
        *,
        well: bool = False,
    ) -> None:
        uploads = place / "uploads"
        clock = Clock()
        options: dict[str, object] = {option.name: option.default for option in OPTIONS}
        options |= {"nx_dir": str(uploads), "nx_route": scenario.routes}
        options |= {"nx_smtp": "smtp://mail.example", "nx_senders": ["*"]}
        self.heard: list[int] = []
        self.post = Post(scenario, mails, tell, well)
        self._scenario = scenario
        self._config = parse(options, {})
        self._clock = clock
        self._tell = tell
        self.spool = Spool(uploads / ".nx", clock)
        self.outbox = Outbox(
            self.spool,
            lambda target: targets.deliver_to(self._config, {}, target),
            partial(targets.keep, uploads),
            retry_for=7 * 86400.0,
            clock=clock,
            jitter=lambda: 1.0,
        )

    @property
    def world(self) -> World:
        return World(tuple(self.heard), tuple(self.post.mails))

    def receive(self, but: Sequence[int] = ()) -> None:
        """Let all uploads come in, but those with these numbers, and try to deliver each."""
        sent = [one for number, one in enumerate(self._scenario.uploads) if number not in but]
        for one, following in itertools.zip_longest(sent, sent[1:]):
            for _ in range(self._scenario.replies_lost):
                lost = self._receive(one)
                if lost.accepted:
                    self.spool.reply_lost(lost.accepted)
                self._tell("after a reply was lost")
            result = self._receive(one)
            self.heard.append(result.reply.status)
            self._tell("after the camera has its reply")
            if result.accepted:
                self.spool.reply_confirmed(result.accepted)
            if following and following in self._scenario.together(one):
                self._clock.now += self._scenario.pause
                self._deliver()
            else:
                self.drain()

    def drain(self) -> None:
        """Deliver, over some hours, what waits."""
        for _ in range(ROUNDS):
            self._deliver()
            self._clock.now += 2 * MAX_WAIT

    def _receive(self, sent: Sent) -> Result:
        body = sent.body
        receiver: Receiver
        if sent.caption:
            post = SocialPost(
                "192.0.2.7",
                "anna",
                "a session",
                "facebook",
                "NX300",
                sent.caption,
                sent.caption.count("~"),
            )
            [name] = sent.photos
            file = AnnouncedFile(f"announcement of {name}", post, name)
            announced = Announced("192.0.2.7", "image/jpeg", len(body))
            receiver = FileReceiver(self.spool, self._config, announced, file).open()
        else:
            announced = Announced("192.0.2.7", bodies.CONTENT_TYPE, len(body))
            receiver = EmailReceiver(self.spool, self._config, announced).open()
        size = -(-len(body) // PIECES)
        for start in range(0, len(body), size):
            receiver.feed(body[start : start + size])
        result = receiver.finish()
        assert (result.reply.status == 200) == (result.reply is ACCEPTED)
        return result

    def _deliver(self) -> None:
        """Deliver what is due."""
        # The threads of an outbox survive errors of the database, and go on later.
        for target in self._targets():
            try:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(mail, "send", self.post.send)
                    self.outbox.deliver_due(target)
            except sqlite3.Error:
                continue

    def _targets(self) -> list[str]:
        try:
            return self.spool.targets()
        except sqlite3.Error:
            return []


def restarted(scenario: Scenario, place: Path, world: World, *, again: bool = False) -> World:
    """Start again where a run has ended, with everything well, and deliver what waits.

    If `again`, the camera first sends what it has not heard 200 for.
    """
    run = Run(scenario, place, world.mails, well=True)
    heard = world.heard
    if again:
        run.receive(but=[number for number, status in enumerate(heard) if status == 200])
        heard = (200,) * len(scenario.uploads)
        assert set(run.heard) <= {200}
    run.drain()
    waiting = run.spool.waiting()
    run.spool.close()
    assert waiting == []
    return World(heard, tuple(run.post.mails))


# The oracle


@cache
def attached(content: bytes) -> tuple[str, tuple[bytes, ...]]:
    """The Message-ID and the photos of a mail."""
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
    """What is wrong after a restart, if nobody may have the same mail more than `copies` times.

    What was sent `again` may be in quarantine, too.
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
    for kept in quarantine:
        if not kept or not any(sent.body.startswith(kept) for sent in scenario.uploads):
            yield "quarantine: not what came"
    for sent, heard in itertools.zip_longest(scenario.uploads, world.heard, fillvalue=0):
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
                yield f"{name}: nobody wanted this photo there"
        if not sent.readable:
            if somewhere:
                yield "a photo of an upload that was refused is delivered"
            if 400 <= heard < 500 and quarantine.count(sent.body) != 1:
                yield "an upload that was refused is not in quarantine, once"
        elif heard == 200 and lost:
            yield f"LOST for {lost}"
        elif heard != 200 and lost and somewhere:
            yield f"only some of it is delivered, and not to {lost}"
        elif not (lost or again or scenario.replies_lost) and any(
            sent.body.startswith(kept) for kept in quarantine
        ):
            yield "it is delivered, and in quarantine too"


def after(scenario: Scenario, place: Path, world: World, *, again: bool = False) -> list[str]:
    """What is wrong after a restart where a run has ended."""
    try:
        ended = restarted(scenario, place, world, again=again)
        return list(complaints(scenario, ended, place, 2, again=again))
    except Exception as error:
        return [repr(error)]


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged with a traceback since the last call."""
    found = [record.getMessage() for record in caplog.records if record.exc_info]
    caplog.clear()
    return found


# Kills


class Told(Database):
    """A connection to SQLite that also tells `after` when a statement has been executed."""

    after: ClassVar[list[Callable[[str], None]]] = []

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return self._executed(sql, super().execute(sql, *parameters))

    def executemany(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        return self._executed(sql, super().executemany(sql, *parameters))

    def executescript(self, sql: str) -> sqlite3.Cursor:
        return self._executed("the schema", super().executescript(sql))

    def _executed(self, sql: str, cursor: sqlite3.Cursor) -> sqlite3.Cursor:
        for tell in list(self.after):
            tell(f"after {sql.split()[0]}")
        return cursor


class Point(NamedTuple):
    """A step at which the program may be killed, and what is left: on the disk, and of the world.

    `copy` is the number of the copy. Steps that leave the same share one.
    """

    step: str
    world: World
    copy: int


class Kills(faults.Kills):
    """Knows also the steps before each call and after each statement, and those it is told."""

    def __init__(self, root: Path, copies: Path) -> None:
        super().__init__(root, copies)
        self.points: list[Point] = []
        self.run: Run | None = None
        self._seen: object = None

    def tell(self, step: str) -> None:
        """The program is at this step."""
        self._copy(step)

    def __enter__(self) -> Kills:
        Told.after.append(self.tell)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        Told.after.remove(self.tell)
        super().__exit__(*error)

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        told_after = super()._wrapped(name, call)

        def wrapper(*positional: Any, **named: Any) -> Any:
            self._copy(f"before {name}")
            return told_after(*positional, **named)

        return wrapper

    def _copy(self, step: str) -> None:
        if self._copying:
            return
        world = self.run.world if self.run else World((), ())
        state = (world, dict(_files(str(self._root))))
        if state != self._seen:
            super()._copy(step)
            self._seen = state
        self.points.append(Point(step, world, len(self.steps) - 1))


def _files(folder: str) -> Iterator[tuple[str, bytes | None]]:
    """All that is in a folder, but for what SQLite computes anew: its -shm."""
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
    monkeypatch.setattr(sqlite3, "connect", Told)


@pytest.fixture(scope="module")
def points() -> Counter[str]:
    """How many kills each scenario has survived."""
    return Counter()


@pytest.mark.usefixtures("_lazy")
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_anywhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, points: Counter[str], name: str
) -> None:
    """R01, R10: after a kill at any step, nothing that was accepted is lost, mixed or half."""
    scenario = SCENARIOS[name]
    place = tmp_path / "place"
    place.mkdir()
    with Kills(place, tmp_path / "copies") as kills:
        run = Run(scenario, place, tell=kills.tell)
        kills.run = run
        run.receive()
        run.spool.close()
    assert [heard < 400 for heard in run.heard] == [sent.readable for sent in scenario.uploads]
    wrong = [f"without a kill: {text}" for text in complaints(scenario, run.world, place, 1)]

    for number, same in itertools.groupby(kills.points, key=lambda point: point.copy):
        steps = list(same)
        copy, world = kills.copy(number), steps[0].world
        where = f"{number}, {' = '.join(point.step for point in steps)}"
        if name in POSTS:
            same_copy = tmp_path / "the same copy"
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
    """The photos of a post come in one mail, if there is no pause between them, and if it fits."""
    run = Run(SCENARIOS[name], tmp_path)
    run.receive()
    run.spool.close()
    assert [len(attached(content)[1]) for _, content in run.post.mails] == expected


def test_enough_kills(points: Counter[str]) -> None:
    """R01: together these were enough kills."""
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
        # A disk that is full, or read-only after an error, can still be read.
        pytest.param(WRITES, errno.ENOSPC, True, id="ENOSPC from then on"),
    ],
)
@pytest.mark.parametrize(
    "name",
    [
        "one refused for good, one for now",
        "too large, in one mail",
        "never to be delivered",
        "unreadable, and then one that is not",
        "a post",
    ],
)
def test_any_call_fails(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    names: tuple[str, ...],
    error: int,
    persistent: bool,
) -> None:
    """K01, K02: whichever call fails, a camera hears 200 or 5xx, and 200 is true in the end."""
    scenario = SCENARIOS[name]
    wrong = []
    numbers = itertools.count(1)
    if name in POSTS and not persistent:  # of its many calls one half fails with each error
        numbers = itertools.count(1 if error == errno.EIO else 2, 2)
    for first in numbers:
        place = tmp_path / str(first)
        place.mkdir()
        run = Run(scenario, place)
        with Faults(names, error, first, persistent=persistent) as failing:
            run.receive()
        run.spool.close()
        found = tracebacks(caplog)
        for sent, heard in zip(scenario.uploads, run.heard, strict=True):
            if not (heard >= 500 or heard == (200 if sent.readable else 400)):
                found.append(f"the camera hears {heard}")
        found += after(scenario, place, run.world, again=name in POSTS)
        wrong += [f"call {first}: {text}" for text in found + tracebacks(caplog)]
        shutil.rmtree(place)
        if not failing.failed:
            break
    assert wrong == []


# The same with a real process


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_process_killed_before_its_reply(folder: Path) -> None:
    """A real kill at each wait before the reply: no 200, and what had come is there, once."""
    proxy = Proxy(folder)
    sent: dict[str, bytes] = {}

    def found() -> list[bytes]:
        saved = [bodies.body([photo]) for photo in proxy.saved().items()]
        return sorted(proxy.quarantined() + saved)

    def is_all_found() -> bool:
        # At the fsync of the directory the body is still arriving.
        return all(body in found() or kill == "fsync" for kill, body in sent.items())

    for call, number in (("fsync", 1), ("fdatasync", 1), ("", 0)):
        with proxy:
            eventually(is_all_found, "all is found")
            assert len(found()) <= len(sent)
            assert all(any(body.startswith(one) for body in sent.values()) for one in found())
            assert "Traceback" not in proxy.log
            if not call:
                break
            photo = f"SAM_{len(sent)}.JPG", bodies.jpeg(20_000, len(sent))
            sent[call] = bodies.body([photo])
            with _killing(proxy, call, number):
                connection = camera.connect(proxy.port)
                connection.sendall(bodies.request(sent[call]))
                assert _rest(connection) == b""
                assert proxy.ended() == -signal.SIGKILL


@contextmanager
def _killing(proxy: Proxy, call: str, number: int) -> Iterator[None]:
    """Kill the process when one of its threads makes this call for the `number`-th time now."""
    command = ["strace", "-f", "-p", str(proxy.process.pid), "-o", str(proxy.folder / "trace")]
    command += ["-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr
        try:
            line = strace.stderr.readline()
            if "attached" not in line:
                pytest.skip(f"strace cannot attach: {line}")
            yield
        finally:
            strace.terminate()


def _rest(connection: socket.socket) -> bytes:
    with connection, contextlib.suppress(ConnectionResetError):
        return connection.recv(1 << 16)
    return b""

from __future__ import annotations

import errno
import itertools
import logging
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from nxparse import markup
from nxparse.config import OPTIONS, Config, parse
from nxparse.server import receive
from nxparse.server.receive import (
    Announced,
    Collector,
    EmailReceiver,
    FileReceiver,
    Receiver,
    Result,
)
from nxparse.server.reply import ACCEPTED, Reply
from nxparse.server.sessions import AnnouncedFile
from nxparse.store.body import MIN_FREE, STRIDE
from nxparse.store.deliveries import MAX_WAIT
from nxparse.store.records import GAP, FileRecord, Post
from nxparse.store.spool import QUIET, Spool
from nxparse.text import describe_disk_error, printable
from tests import pictures
from tests.bodies import BOUNDARY, CONTENT_TYPE, SENDER, body, jpeg, message_xml, part_head
from tests.clock import NEW_YEAR, Clock
from tests.faults import CALLS, STATEMENTS, Faults, contents, make_lazy

PHOTO = jpeg(500)
BODY = body([("SAM_4371.JPG", PHOTO)])
CLIENT = "192.0.2.7"
TOLERATED = (
    "parameter-case, trailing-semicolon, multipart-label, close-delimiter-unmarked, surplus-newline"
)
FAILING = ": the disk is failing, see dmesg, or choose another folder with --set nx_dir=FOLDER"
TOO_LARGE = (
    "WARNING",
    "192.0.2.7: an upload is refused: it is larger than 100.0 kB; "
    "to allow it, use --set nx_max_upload=SIZE",
)


@pytest.fixture(autouse=True)
def _prepared(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    make_lazy(monkeypatch)
    caplog.set_level(logging.INFO)


def configured(directory: Path, **options: object) -> Config:
    """These options, uploads of up to 100 kB, and the defaults of the others."""
    defaults = {option.name: option.default for option in OPTIONS}
    ours = {"nx_dir": str(directory), "nx_max_upload": "100000"}
    return parse({**defaults, **ours, **options}, {"EMPTY": "", "ADDRESS": "me@example.org"})


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where photos go."""
    return tmp_path / "uploads"


@pytest.fixture
def spool(directory: Path) -> Iterator[Spool]:
    found = Spool(directory / ".nx", lambda: NEW_YEAR)
    yield found
    found.close()


@pytest.fixture
def config(directory: Path) -> Config:
    """Uploads of up to 100 kB, from everybody, into files."""
    return configured(directory)


@pytest.fixture
def begin(spool: Spool, config: Config) -> Callable[..., Receiver]:
    """Begins to receive an upload, if need be with other options than `config`."""

    def begun(
        length: int | None = len(BODY),
        content_type: str = CONTENT_TYPE,
        inspect: int = 0,
        **options: object,
    ) -> Receiver:
        used = configured(config.dir, **options) if options else config
        announced = Announced(CLIENT, content_type, length)
        return EmailReceiver(spool, used, announced, inspect=inspect).open()

    return begun


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[str, str]]]:
    """The log lines so far, each with its level; ids are replaced by ID."""

    def lines() -> list[tuple[str, str]]:
        return [
            (record.levelname, re.sub(r"2026\w+-[0-9a-f]{8}", "ID", record.getMessage()))
            for record in caplog.records
        ]

    return lines


def feed(receiver: Receiver, data: bytes, size: int = 100) -> None:
    for start in range(0, len(data), size):
        receiver.feed(data[start : start + size])


def received(receiver: Receiver, data: bytes = BODY) -> Result:
    feed(receiver, data)
    return receiver.finish()


def send(receiver: Receiver, data: bytes = BODY) -> Reply:
    return received(receiver, data).reply


def kept(spool: Spool, directory: Path) -> tuple[list[bytes], list[bytes]]:
    """The bodies that wait to be delivered, and those in quarantine. Nothing else may be there."""
    waiting = {delivery.arrival.id for delivery in spool.waiting()}
    spooled = contents(directory / ".nx" / "spool")
    assert sorted(spooled) == sorted(waiting)
    return list(spooled.values()), list(contents(directory / ".nx" / "quarantine").values())


class TestPreviews:
    """What is kept for the page of the files of an upload."""

    @pytest.mark.parametrize("gallery", [False, True])
    def test_email(self, begin: Callable[..., Receiver], spool: Spool, gallery: bool) -> None:
        """Names and sizes; thumbnails only where they are shown."""
        small = pictures.picture(16, 8)
        photo = pictures.photo(small, orientation=6)
        send(begin(nx_gallery=gallery), body([("a.jpg", photo), ("b/c.jpg", PHOTO)]))
        [found] = spool.recent()
        assert found.files == (
            FileRecord(1, "a.jpg", len(photo), gallery, 90 if gallery else 0),
            FileRecord(2, "c.jpg", len(PHOTO), False, 0),
        )
        assert spool.thumbnail(found.arrival.id, 1) == (small if gallery else None)

    @pytest.mark.parametrize("gallery", [False, True])
    def test_post(self, spool: Spool, directory: Path, gallery: bool) -> None:
        """Each photo of a post, as it comes."""
        small = pictures.picture(16, 8)
        photo = pictures.photo(small)
        for number in (1, 2):
            file = AnnouncedFile(f"{number}", POST, f"{number}.jpg")
            used = configured(directory, nx_gallery=gallery)
            announced = Announced(CLIENT, "image/jpeg", len(photo))
            send(FileReceiver(spool, used, announced, file).open(), photo + bytes([number]))
        [found] = spool.recent()
        assert [(one.number, one.name) for one in found.files] == [(1, "1.jpg"), (2, "2.jpg")]
        assert {one.has_thumbnail for one in found.files} == {gallery}


class TestAccepted:
    def test_accepted(
        self,
        begin: Callable[..., Receiver],
        spool: Spool,
        directory: Path,
        told: Callable[[], list[tuple[str, str]]],
    ) -> None:
        """An upload is kept as it came, and told in one line."""
        assert send(begin()) is ACCEPTED
        assert kept(spool, directory) == ([BODY], [])
        assert told() == [
            (
                "INFO",
                f"192.0.2.7: from Camera@samsungcamera.com to photos@example.org: "
                f"SAM_4371.JPG, 500 bytes; tolerated: {TOLERATED}; next: save (upload ID)",
            )
        ]

    def test_result(self, begin: Callable[..., Receiver], spool: Spool) -> None:
        """What came is also told in fewer words, and under which id it is known."""
        result = received(begin())
        [id] = [delivery.arrival.id for delivery in spool.waiting()]
        words = "from Camera@samsungcamera.com to photos@example.org: SAM_4371.JPG, 500 bytes"
        assert result == Result(ACCEPTED, id, id, message=words)

    def test_arrival(self, begin: Callable[..., Receiver], spool: Spool) -> None:
        """What is needed to read the upload again is kept with it."""
        send(begin())
        [delivery] = spool.waiting()
        arrival = delivery.arrival
        assert (arrival.client, arrival.sender, arrival.received) == (CLIENT, SENDER, NEW_YEAR)
        with spool.read(delivery) as (_, files):
            assert [file.data for file in files] == [PHOTO]

    @pytest.mark.parametrize("size", [1, 7, 100, 10**6])
    def test_chunks(
        self, begin: Callable[..., Receiver], spool: Spool, directory: Path, size: int
    ) -> None:
        """H28: it does not matter how a body is cut into chunks."""
        receiver = begin()
        feed(receiver, BODY, size)
        assert receiver.received == len(BODY)
        assert receiver.finish().reply is ACCEPTED
        assert kept(spool, directory) == ([BODY], [])

    def test_without_length(
        self, begin: Callable[..., Receiver], spool: Spool, directory: Path
    ) -> None:
        """H16: a chunked upload does not announce its length."""
        assert send(begin(length=None)) is ACCEPTED
        assert kept(spool, directory) == ([BODY], [])

    def test_two_at_once(
        self, begin: Callable[..., Receiver], spool: Spool, directory: Path
    ) -> None:
        """C01: two uploads at the same time do not mix."""
        data = [body([("A.JPG", jpeg(3000, seed=1))]), body([("B.JPG", jpeg(3000, seed=2))])]
        receivers = [begin(), begin()]
        for start in range(0, len(data[0]), 100):
            for receiver, one in zip(receivers, data, strict=True):
                receiver.feed(one[start : start + 100])
        assert [receiver.finish().reply for receiver in receivers] == [ACCEPTED] * 2
        waiting, quarantined = kept(spool, directory)
        assert (sorted(waiting), quarantined) == (sorted(data), [])

    def test_nothing_of_the_sender_stands_raw_in_the_log(
        self, begin: Callable[..., Receiver], told: Callable[[], list[tuple[str, str]]]
    ) -> None:
        """Line ends, escapes and invisible characters from the wire do not get into a line."""
        xml = message_xml(sender="a\x1b[2J\u202eb@example.com", recipients=["c\u2028d@example.com"])
        hostile = body([("x\x1b]0;\x07\u200b.JPG", PHOTO)], message=xml)
        assert send(begin(), hostile) is ACCEPTED
        [(_, line)] = told()
        assert line.isprintable()


SMTP: dict[str, object] = {"nx_smtp": "smtp://me:secret@mail.example.com", "nx_senders": ["*"]}
RECIPIENTS = ("A@Example.org", "b@example.org", "c@example.com")
ROUTES: dict[str, tuple[dict[str, object], list[tuple[str, tuple[str, ...]]]]] = {
    "no rules": ({}, [("save", RECIPIENTS)]),
    "no rules, but a mail server": (SMTP, [("mail", RECIPIENTS)]),
    "a rule for all": ({"nx_route": ["*=drop"]}, [("drop", RECIPIENTS)]),
    "a rule for one, without case": (
        {"nx_route": ["a@example.ORG=save:/srv/a"]},
        [("save", RECIPIENTS[1:]), ("save:/srv/a", RECIPIENTS[:1])],
    ),
    "the first rule that fits": (
        {"nx_route": ["[ab]@*=save:/srv/ab", "*.org=drop", "*=save:/srv/rest"]},
        [("save:/srv/ab", RECIPIENTS[:2]), ("save:/srv/rest", RECIPIENTS[2:])],
    ),
    "several targets": (
        {"nx_route": ["*=save", "b@*=drop", "*=mail:${ADDRESS}", "*=save"], **SMTP},
        [("mail:${ADDRESS}", RECIPIENTS), ("save", RECIPIENTS)],
    ),
    "a rule for an address in other letters": (
        {"nx_route": ["*@ex\uff41mple\u3002org=drop"], **SMTP},
        [("drop", RECIPIENTS[:2]), ("mail", RECIPIENTS[2:])],
    ),
    "for one by file, for the others by mail": (
        {"nx_route": ["c@example.com=save"], **SMTP},
        [("mail", RECIPIENTS[:2]), ("save", RECIPIENTS[2:])],
    ),
}


class TestRoutes:
    @pytest.mark.parametrize(("options", "expected"), ROUTES.values(), ids=ROUTES)
    def test_deliveries(
        self,
        begin: Callable[..., Receiver],
        spool: Spool,
        told: Callable[[], list[tuple[str, str]]],
        options: dict[str, object],
        expected: list[tuple[str, tuple[str, ...]]],
    ) -> None:
        """The rules decide for each recipient; those with the same target share a delivery."""
        data = body([("SAM.JPG", PHOTO)], message=message_xml(recipients=RECIPIENTS))
        assert send(begin(**options), data) is ACCEPTED
        found = [(delivery.target, delivery.recipients) for delivery in spool.waiting()]
        assert found == expected
        [(_, line)] = told()
        match = re.search(r"; next: (.*) \(upload ID\)$", line)
        assert match
        assert sorted(match[1].split(", ")) == [target for target, _ in expected]

    def test_no_secrets(
        self, begin: Callable[..., Receiver], told: Callable[[], list[tuple[str, str]]]
    ) -> None:
        """What stands behind a variable does not get into the log."""
        send(begin(nx_route=["*=mail:${ADDRESS}"], **SMTP))
        [(_, line)] = told()
        assert "mail:${ADDRESS}" in line
        assert "me@example.org" not in line


MAIL_TO_ME: dict[str, object] = {"nx_route": ["*=mail:${ADDRESS}"], **SMTP}
FROM_ME: dict[str, object] = {"nx_mail_from": "me@example.org", **SMTP}
ODD = "photos at home"
UNDELIVERABLE: dict[str, tuple[dict[str, object], str, tuple[str, ...], str | None]] = {
    "recipient": (SMTP, "a@b.example", (ODD,), f"{ODD!r} is not an e-mail address"),
    "one recipient of several": (
        SMTP,
        "a@b.example",
        ("c@example.org", "d@-x.example"),
        "'d@-x.example' has a domain that cannot exist",
    ),
    "quoted recipient": (
        SMTP,
        "a@b.example",
        ('"c d"@example.org',),
        "'\"c d\"@example.org' is not an e-mail address",
    ),
    "recipient beyond a good one": (
        SMTP,
        "a@b.example",
        ("a@good.example)evil@x.example",),
        "'a@good.example)evil@x.example' is not an e-mail address",
    ),
    "long recipient": (
        SMTP,
        "a@b.example",
        ("x" * 65 + "@example.org",),
        f"{'x' * 65 + '@example.org'!r} is not an e-mail address",
    ),
    "long domain": (
        SMTP,
        "a@b.example",
        ("a@" + "x." * 125 + "example",),
        f"{('a@' + 'x.' * 125 + 'example')[:100]!r} has too long a domain",
    ),
    "sender": (SMTP, ODD, ("c@example.org",), f"{ODD!r} is not an e-mail address"),
    "no sender": (SMTP, "", ("c@example.org",), "'' is not an e-mail address"),
    "sender, mail to one address": (
        MAIL_TO_ME,
        ODD,
        ("c@example.org",),
        f"{ODD!r} is not an e-mail address",
    ),
    "recipient of mail among files": (
        {"nx_route": ["c@*=save"], **SMTP},
        "a@b.example",
        ("c@example.org", ODD),
        f"{ODD!r} is not an e-mail address",
    ),
    "recipient of mail and a file": (
        {"nx_route": ["*=save", "*=mail"], **SMTP},
        "a@b.example",
        (ODD,),
        f"{ODD!r} is not an e-mail address",
    ),
    "good ones": (SMTP, "a@b.example", ("c@example.org", "d@bücher.example"), None),
    "sender replaced": (FROM_ME, ODD, ("c@example.org",), None),
    "no sender, replaced": (FROM_ME, "", ("c@example.org",), None),
    "recipient replaced": (MAIL_TO_ME, "a@b.example", (ODD,), None),
    "files only": ({}, ODD, (ODD, "d@-x.example"), None),
    "recipient of a file among mail": (
        {"nx_route": ["photos*=save"], **SMTP},
        "a@b.example",
        (ODD, "c@example.org"),
        None,
    ),
    "sender of a file, mail for nobody": ({"nx_route": ["*=save"], **SMTP}, ODD, (ODD,), None),
    "dropped": ({"nx_route": ["*=drop"], **SMTP}, ODD, (ODD,), None),
}


class TestUndeliverable:
    @pytest.mark.parametrize(
        ("options", "sender", "recipients", "reason"), UNDELIVERABLE.values(), ids=UNDELIVERABLE
    )
    def test_addresses(
        self,
        begin: Callable[..., Receiver],
        spool: Spool,
        directory: Path,
        told: Callable[[], list[tuple[str, str]]],
        options: dict[str, object],
        sender: str,
        recipients: tuple[str, ...],
        reason: str | None,
    ) -> None:
        """X11, X12, X16: what mail cannot reach is refused as a whole; files take any text."""
        xml = message_xml(sender=sender, recipients=recipients)
        data = body([("SAM.JPG", PHOTO)], message=xml)
        result = received(begin(**options), data)
        reply = result.reply
        if reason is None:
            assert reply is ACCEPTED
            assert kept(spool, directory) == ([data], [])
            return
        assert reply.status == 400
        assert reply.body.startswith(b'<Response ErrCode="400" ErrSubCode="0" /><!-- ')
        assert result.accepted is None
        assert kept(spool, directory) == ([], [data])
        shown = printable(reason, 200)
        where = directory / ".nx" / "quarantine" / "ID"
        assert told() == [
            ("WARNING", f"192.0.2.7: an upload is refused: {shown}; its body is kept as {where}")
        ]


ALLOWED: dict[str, tuple[list[str], str, bool]] = {
    "address": (["camera@example.com"], "camera@example.com", True),
    "another one": (["camera@example.com"], "camera@example.org", False),
    "case": (["Camera@EXAMPLE.com"], "cAMERA@example.COM", True),
    "second one": (["a@example.com", "camera@example.com"], "camera@example.com", True),
    "domain": (["*@example.com"], "camera@example.com", True),
    "another domain": (["*@example.com"], "camera@www.example.com", False),
    "longer domain": (["*@example.com"], "camera@example.com.invalid", False),
    "longer address": (["camera@example.com"], "a.camera@example.com", False),
    "one character": (["camera?@example.com"], "camera7@example.com", True),
    "set": (["camera[12]@example.com"], "camera3@example.com", False),
    "dot is a dot": (["camera@example.com"], "camera@exampleXcom", False),
    "pattern as a sender": (["camera@example.com"], "*@example.com", False),
    "everybody": (["*"], "who knows", True),
    "nobody among everybody": (["*"], "", True),
    "nobody": (["*@*"], "", False),
    "look-alike": (["camera@example.com"], "c\u0430mera@example.com", False),
    "name and address": (["camera@example.com"], "Camera <camera@example.com>", True),
    "address as a name": (["camera@example.com"], "camera@example.com <x@example.org>", False),
    "two addresses": (["camera@example.com"], "camera@example.com, x@example.org", False),
    "line end": (["camera@example.com"], "camera@example.com\nx", False),
}
NOT_ALLOWED = b'<Response ErrCode="401" ErrSubCode="0" /><!-- Sender not in whitelist -->'


class TestSenders:
    @pytest.mark.parametrize(("senders", "sender", "allowed"), ALLOWED.values(), ids=ALLOWED)
    def test_allowed(
        self,
        begin: Callable[..., Receiver],
        spool: Spool,
        directory: Path,
        senders: list[str],
        sender: str,
        allowed: bool,
    ) -> None:
        """X15: who may send is a matter of globs without case; of others nothing is kept."""
        data = body([("SAM.JPG", PHOTO)], message=message_xml(sender=sender))
        result = received(begin(nx_senders=senders), data)
        reply = result.reply
        if allowed:
            assert reply is ACCEPTED
            assert kept(spool, directory) == ([data], [])
        else:
            assert (reply.status, reply.body) == (401, NOT_ALLOWED)
            assert result.accepted is None
            assert kept(spool, directory) == ([], [])

    @pytest.mark.parametrize(
        ("sender", "shown", "remedy"),
        [
            ("a@b.example", "a@b.example", "; to allow it, use --set nx_senders=a@b.example"),
            ("Me <A@b.example>", "A@b.example", "; to allow it, use --set nx_senders=A@b.example"),
            ("a b", "a b", "; to allow it, use --set 'nx_senders=a b'"),
            ("*@b.example", "*@b.example", "; to allow it, use --set 'nx_senders=[*]@b.example'"),
            (
                "$(x)@b.example",
                "$(x)@b.example",
                "; to allow it, use --set 'nx_senders=$(x)@b.example'",
            ),
            ("", "(nobody)", "; it names no sender: set one on the camera"),
            ("a\u202eb@b.example", "a?b@b.example", ""),
            ("x" * 90 + "@b.example", "x" * 79 + "…", ""),
        ],
        ids=["address", "name", "blank", "glob", "command", "nobody", "invisible", "long"],
    )
    def test_told(
        self,
        begin: Callable[..., Receiver],
        told: Callable[[], list[tuple[str, str]]],
        sender: str,
        shown: str,
        remedy: str,
    ) -> None:
        """X15: the log tells the option that lets in this sender, and nobody else."""
        data = body([("SAM.JPG", PHOTO)], message=message_xml(sender=sender))
        send(begin(nx_senders=["camera@example.com"]), data)
        assert told() == [
            ("WARNING", f"192.0.2.7: an upload is refused: {shown} may not send{remedy}")
        ]

    def test_before_anything_else(
        self, begin: Callable[..., Receiver], spool: Spool, directory: Path
    ) -> None:
        """Who may not send learns nothing more, and fills no quarantine."""
        data = body([("SAM.JPG", PHOTO)], message=message_xml(recipients=[ODD]))
        receiver = begin(nx_smtp="smtp://mail.example.com", nx_senders=["camera@example.com"])
        assert send(receiver, data).status == 401
        assert kept(spool, directory) == ([], [])

    def test_inspected(self, begin: Callable[..., Receiver]) -> None:
        """What was refused because of its sender can be looked at in the flow."""
        result = received(begin(nx_senders=["camera@example.com"], inspect=len(BODY)))
        assert (result.reply.status, result.body) == (401, BODY)


class TestRepeat:
    @pytest.fixture
    def id(self, begin: Callable[..., Receiver], spool: Spool) -> str:
        """An accepted upload whose reply was lost."""
        accepted = received(begin()).accepted
        assert accepted
        spool.reply_lost(accepted)
        return accepted

    def test_duplicate(
        self,
        begin: Callable[..., Receiver],
        spool: Spool,
        directory: Path,
        told: Callable[[], list[tuple[str, str]]],
        caplog: pytest.LogCaptureFixture,
        id: str,
    ) -> None:
        """H10: an upload whose reply was lost is taken once, however often it comes."""
        for _ in range(3):
            caplog.clear()
            receiver = begin()
            result = received(receiver)
            assert result == Result(ACCEPTED, id, id, True, f"upload {id}")
            assert [delivery.arrival.id for delivery in spool.waiting()] == [id]
            assert kept(spool, directory) == ([BODY], [])
            assert told() == [("INFO", "192.0.2.7: duplicate of upload ID ignored")]
            assert receiver.abort("too late") is None
            spool.reply_lost(id)

    @pytest.mark.parametrize("arrived", [True, False])
    def test_open(self, begin: Callable[..., Receiver], spool: Spool, arrived: bool) -> None:
        """A repeat waits until it is known whether the reply has arrived, and is parsed once."""
        first = received(begin()).accepted
        assert first
        receiver = begin()
        result = received(receiver)
        assert result.waits_for
        assert (result.accepted, len(spool.waiting())) == (first, 1)
        (spool.reply_confirmed if arrived else spool.reply_lost)(first)
        assert result.waits_for.result(0) is arrived
        result = receiver.finish()
        assert (result.reply, result.waits_for) == (ACCEPTED, None)
        assert (result.accepted == first, result.is_duplicate) == (not arrived, not arrived)
        assert len(spool.waiting()) == (2 if arrived else 1)

    @pytest.mark.parametrize("end", ["cut", "refused"])
    def test_open_and_then(
        self, begin: Callable[..., Receiver], spool: Spool, directory: Path, end: str
    ) -> None:
        """A repeat that is cut while it waits, or cannot be stored, leaves nothing behind."""
        first = received(begin()).accepted
        assert first
        receiver = begin()
        assert received(receiver).waits_for
        spool.reply_confirmed(first)
        if end == "cut":
            receiver.abort("the client closed the connection")
            assert kept(spool, directory) == ([BODY], [BODY])
        else:
            with Faults(("COMMIT",), errno.EIO):
                assert receiver.finish().reply.status == 507
            assert kept(spool, directory) == ([BODY], [])

    @pytest.mark.parametrize("done", [False, True], ids=["waiting", "delivered"])
    def test_deliberate(
        self, begin: Callable[..., Receiver], spool: Spool, id: str, done: bool
    ) -> None:
        """What is sent again after a reply that has arrived is delivered."""
        if done:
            [delivery] = spool.waiting()
            spool.done(delivery)
        assert received(begin()).accepted == id
        spool.reply_confirmed(id)
        again = received(begin())
        assert (again.reply, again.is_duplicate) == (ACCEPTED, False)
        assert again.accepted in [delivery.arrival.id for delivery in spool.waiting()]
        assert again.accepted != id

    @pytest.mark.parametrize(
        "data",
        [body([("SAM_4371.JPG", jpeg(500, seed=9))]), BODY + b"\r\n"],
        ids=["another photo", "a byte more"],
    )
    def test_something_else(
        self, begin: Callable[..., Receiver], spool: Spool, id: str, data: bytes
    ) -> None:
        """Other bytes are another upload."""
        assert send(begin(), data) is ACCEPTED
        assert len(spool.waiting()) == 2

    def test_not_allowed_any_more(
        self, begin: Callable[..., Receiver], spool: Spool, id: str
    ) -> None:
        """A repeat has to be allowed, too."""
        assert send(begin(nx_senders=["camera@example.com"])).status == 401
        assert len(spool.waiting()) == 1

    def test_failure(
        self,
        begin: Callable[..., Receiver],
        spool: Spool,
        directory: Path,
        id: str,
    ) -> None:
        """K02: a repeat that could not be recognised is refused, and is one the next time."""
        with Faults(("BEGIN",), errno.EIO):
            assert send(begin()).status == 507
        assert kept(spool, directory) == ([BODY], [])
        assert received(begin()).accepted == id


REFUSED = {
    "empty": (b"", 400, b"<!-- it is empty -->", "it is empty", False),
    "no multipart": (
        b"hello",
        400,
        b"the boundary",
        f"the boundary {BOUNDARY!r} never appears in the body (at byte 5)",
        True,
    ),
    "no message": (
        b"--" + BOUNDARY + b"\r\n" + part_head("binary", "SAM.JPG", "image/jpeg") + PHOTO,
        400,
        b"the body has no part named message",
        "the body has no part named message",
        True,
    ),
    "nobody to send it to": (
        body([("SAM.JPG", PHOTO)], message=message_xml(recipients=())),
        400,
        b"the message names no receiver",
        "the message names no receiver",
        True,
    ),
    "endless header": (
        b"--" + BOUNDARY + b"\r\nX: " + b"x" * 9000 + b"\r\n\r\n" + PHOTO,
        413,
        b"the headers of a part are longer than 8192 bytes",
        "the headers of a part are longer than 8192 bytes (at byte 43)",
        True,
    ),
}


class TestRefused:
    @pytest.mark.parametrize(
        ("data", "status", "comment", "reason", "quarantined"), REFUSED.values(), ids=REFUSED
    )
    def test_unreadable(
        self,
        begin: Callable[..., Receiver],
        spool: Spool,
        directory: Path,
        told: Callable[[], list[tuple[str, str]]],
        data: bytes,
        status: int,
        comment: bytes,
        reason: str,
        quarantined: bool,
    ) -> None:
        """An upload that cannot be read is refused with the reason, and kept as it came."""
        reply = send(begin(), data)
        assert reply.status == status
        assert comment in reply.body
        assert kept(spool, directory) == ([], [data] if quarantined else [])
        where = f"; its body is kept as {directory / '.nx' / 'quarantine' / 'ID'}"
        assert told() == [
            (
                "WARNING",
                f"192.0.2.7: an upload is refused: {reason}{where if quarantined else ''}",
            )
        ]

    def test_limit(self, begin: Callable[..., Receiver], spool: Spool, directory: Path) -> None:
        """H22: an upload may be as large as the limit."""
        largest = _of_size(100_000)
        assert send(begin(length=100_000), largest) is ACCEPTED
        assert kept(spool, directory) == ([largest], [])

    def test_too_large_by_announcement(
        self,
        begin: Callable[..., Receiver],
        spool: Spool,
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
        told: Callable[[], list[tuple[str, str]]],
    ) -> None:
        """H22: a larger upload is read to its end, not kept, and refused in one line."""
        monkeypatch.setattr(receive, "LARGE", 1)
        receiver = begin(length=100_001)
        assert kept(spool, directory) == ([], [])
        reply = send(receiver, _of_size(100_001))
        assert (reply.status, reply.body) == (
            413,
            b'<Response ErrCode="413" ErrSubCode="0" /><!-- Larger than 100.0 kB -->',
        )
        assert receiver.received == 100_001
        assert kept(spool, directory) == ([], [])
        assert told() == [TOO_LARGE]

    @pytest.mark.parametrize("length", [None, 99_999], ids=["chunked", "announced wrongly"])
    def test_too_large_by_counting(
        self,
        begin: Callable[..., Receiver],
        spool: Spool,
        directory: Path,
        told: Callable[[], list[tuple[str, str]]],
        length: int | None,
    ) -> None:
        """H22: an upload that becomes too large is forgotten at that moment."""
        receiver = begin(length=length)
        feed(receiver, _of_size(100_000), 50_000)
        assert len(_in_spool(directory)) == 1
        receiver.feed(b"x")
        assert _in_spool(directory) == {}
        feed(receiver, b"x" * 200_000)
        assert receiver.finish().reply.status == 413
        assert kept(spool, directory) == ([], [])
        assert [line for line in told() if line[0] != "INFO"] == [TOO_LARGE]

    def test_scanner_is_spared(
        self, begin: Callable[..., Receiver], spool: Spool, directory: Path
    ) -> None:
        """What follows an error is kept, but not looked at."""
        data = REFUSED["endless header"][0] + BODY
        assert send(begin(), data).status == 413
        assert kept(spool, directory) == ([], [data])

    def test_quarantine_fails(
        self,
        begin: Callable[..., Receiver],
        spool: Spool,
        directory: Path,
        told: Callable[[], list[tuple[str, str]]],
    ) -> None:
        """What can be neither accepted nor kept gets the reply for a broken disk."""
        receiver = begin()
        feed(receiver, b"not multipart")
        with Faults(("replace",), errno.EIO):
            assert receiver.finish().reply.status == 507
        assert kept(spool, directory) == ([], [])
        assert told() == [
            (
                "ERROR",
                f"192.0.2.7: an upload is refused: Input/output error ({directory}){FAILING}",
            )
        ]


def _of_size(size: int) -> bytes:
    return body([("SAM.JPG", jpeg(size - len(body([("SAM.JPG", b"")]))))])


def _in_spool(directory: Path) -> dict[str, bytes]:
    return contents(directory / ".nx" / "spool")


NOT_STORED = b'<Response ErrCode="507" ErrSubCode="0" /><!-- The upload could not be stored -->'
FULL = OSError(errno.ENOSPC, "No space left on device")
BROKEN = OSError(errno.EIO, "Input/output error")
NO_STATE = sqlite3.OperationalError("disk I/O error")


class TestDisk:
    @pytest.mark.parametrize(
        ("length", "spare", "status"),
        [(20_000, 0, 200), (20_000, -1, 507), (None, 0, 200), (None, -1, 507)],
    )
    def test_full_before(
        self,
        begin: Callable[..., Receiver],
        spool: Spool,
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
        length: int | None,
        spare: int,
        status: int,
    ) -> None:
        """K05: an upload is taken only if it fits twice, and 64 MiB beside it.

        Without a length, what may come until the next look at the disk counts.
        """
        free = 2 * (STRIDE if length is None else length) + MIN_FREE + spare
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
        reply = send(begin(length=length))
        assert reply.status == status
        assert kept(spool, directory) == ([BODY] if status == 200 else [], [])

    def test_full_before_is_told(
        self,
        begin: Callable[..., Receiver],
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
        told: Callable[[], list[tuple[str, str]]],
    ) -> None:
        """K05: who runs the proxy is told how much is free where."""
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_234_567))
        reply = send(begin(length=50_000))
        assert reply.body == NOT_STORED
        assert told() == [
            (
                "ERROR",
                f"192.0.2.7: an upload is refused: only 1.2 MB are free, too little for this "
                f"upload and what else is to be stored ({directory}): make room there",
            )
        ]

    @pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
    @pytest.mark.parametrize(
        ("names", "error", "reasons"),
        [
            (("open",), errno.ENOSPC, {FULL}),
            (("write",), errno.ENOSPC, {FULL}),
            (("fsync",), errno.EIO, {BROKEN}),
            (("close",), errno.EIO, {BROKEN}),
            (STATEMENTS, errno.EIO, {NO_STATE}),
            ((*CALLS, *STATEMENTS), errno.EIO, {BROKEN, NO_STATE}),
        ],
        ids=[
            "open",
            "write",
            "fsync",
            "close",
            "SQLite",
            "everything",
        ],
    )
    def test_failure_at_each_call(
        self,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        names: tuple[str, ...],
        error: int,
        reasons: set[Exception],
        persistent: bool,
    ) -> None:
        """K01, K02: whichever call fails, the reply tells the truth and the log the reason.

        What is answered 200 is there, what is not is nowhere (or in quarantine
        after a restart), and the next upload works.
        """
        following = body([("NEXT.JPG", PHOTO)])
        for first in itertools.count(1):
            directory = tmp_path / str(first)
            config = configured(directory)
            announced = Announced(CLIENT, CONTENT_TYPE, len(BODY))
            spool = Spool(directory / ".nx", lambda: NEW_YEAR)
            caplog.clear()
            with Faults(names, error, first, persistent=persistent) as faults:
                status = send(EmailReceiver(spool, config, announced).open()).status
            lines = [record.getMessage() for record in caplog.records]
            if status == 200:
                assert (first, [line[:16] for line in lines]) == (first, ["192.0.2.7: from "])
            else:
                told = [describe_disk_error(reason, directory) for reason in reasons]
                expected = [f"192.0.2.7: an upload is refused: {line}" for line in told]
                assert (first, len(lines), [*lines, None][0] in expected) == (first, 1, True)
            assert send(EmailReceiver(spool, config, announced).open(), following) is ACCEPTED
            spool.close()
            spool = Spool(directory / ".nx", lambda: NEW_YEAR)
            waiting, quarantined = kept(spool, directory)
            spool.close()
            accepted = [BODY, following] if status == 200 else [following]
            assert (first, status in (200, 507)) == (first, True)
            assert (first, sorted(waiting)) == (first, sorted(accepted))
            assert (first, len(quarantined) <= 1) == (first, True)
            assert (first, all(map(BODY.startswith, quarantined))) == (first, True)
            if not faults.failed:
                break
        assert status == 200

    def test_failure_of_an_early_fsync(
        self,
        directory: Path,
        config: Config,
        monkeypatch: pytest.MonkeyPatch,
        told: Callable[[], list[tuple[str, str]]],
    ) -> None:
        """K02: half of a body was lost on its way to the disk: it is refused, at its end."""
        monkeypatch.setattr("nxparse.store.body.STRIDE", len(BODY) // 2)
        spool = Spool(directory / ".nx", lambda: NEW_YEAR)
        receiver = EmailReceiver(spool, config, Announced(CLIENT, CONTENT_TYPE, len(BODY))).open()
        with Faults(("fsync",), errno.EIO) as faults:
            assert send(receiver).status == 507
        assert faults.calls == 1
        assert kept(spool, directory) == ([], [])
        reason = describe_disk_error(BROKEN, directory)
        assert told() == [("ERROR", f"192.0.2.7: an upload is refused: {reason}")]
        spool.close()

    def test_free_space_unknown(
        self,
        begin: Callable[..., Receiver],
        spool: Spool,
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """K08: a disk that has been pulled out is a disk that cannot be written to."""

        def pulled(path: Path) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(shutil, "disk_usage", pulled)
        assert send(begin()).status == 507
        assert kept(spool, directory) == ([], [])

    def test_cannot_be_read_back(
        self, begin: Callable[..., Receiver], spool: Spool, directory: Path
    ) -> None:
        """K06: what cannot be read back is not accepted."""
        receiver = begin()
        feed(receiver, BODY)
        [path] = (directory / ".nx" / "spool").iterdir()
        with path.open("r+b") as file:
            file.truncate(10)
        assert receiver.finish().reply.status == 507
        assert kept(spool, directory) == ([], [])


class TestAborted:
    @pytest.mark.parametrize(
        ("length", "size", "what"),
        [
            (5000, 300, "upload cut after 300 of 5000 bytes"),
            (None, 300, "upload cut after 300 bytes"),
            (len(BODY), len(BODY), f"upload cut after {len(BODY)} of {len(BODY)} bytes"),
        ],
        ids=["announced", "chunked", "whole"],
    )
    def test_cut(
        self,
        begin: Callable[..., Receiver],
        spool: Spool,
        directory: Path,
        told: Callable[[], list[tuple[str, str]]],
        length: int | None,
        size: int,
        what: str,
    ) -> None:
        """What came of a cut upload is kept as it is, and never delivered."""
        receiver = begin(length=length)
        feed(receiver, BODY[:size])
        assert receiver.abort("the client closed the connection") is None
        assert kept(spool, directory) == ([], [BODY[:size]])
        assert told() == [
            (
                "WARNING",
                f"192.0.2.7: {what}, the client closed the connection; nothing is delivered, "
                f"what came is kept as {directory / '.nx' / 'quarantine' / 'ID'}",
            )
        ]

    def test_nothing_came(
        self,
        begin: Callable[..., Receiver],
        spool: Spool,
        directory: Path,
        told: Callable[[], list[tuple[str, str]]],
    ) -> None:
        """Of an upload that never began there is nothing to keep."""
        assert begin(length=5000).abort("the client closed the connection") is None
        assert kept(spool, directory) == ([], [])
        assert told() == [
            (
                "WARNING",
                "192.0.2.7: upload cut after 0 of 5000 bytes, the client closed the connection; "
                "nothing is delivered, nothing had come",
            )
        ]

    @pytest.mark.parametrize(
        ("data", "left"),
        [
            (BODY, ([BODY], [])),
            (b"not multipart", ([], [b"not multipart"])),
            (b"x" * 100_001, ([], [])),
        ],
        ids=["accepted", "refused", "not kept"],
    )
    def test_too_late(
        self,
        begin: Callable[..., Receiver],
        spool: Spool,
        directory: Path,
        told: Callable[[], list[tuple[str, str]]],
        data: bytes,
        left: tuple[list[bytes], list[bytes]],
    ) -> None:
        """What has been decided stays so, and is told once."""
        receiver = begin(length=None)
        send(receiver, data)
        before = told()
        assert receiver.abort("the client closed the connection") is None
        assert (len(before), told()) == (1, before)
        assert kept(spool, directory) == left

    def test_twice(self, begin: Callable[..., Receiver], spool: Spool, directory: Path) -> None:
        """An upload can be cut only once."""
        receiver = begin()
        receiver.feed(BODY[:300])
        receiver.abort("the client closed the connection")
        assert receiver.abort("mitmproxy ends") is None
        assert kept(spool, directory) == ([], [BODY[:300]])

    def test_reason_is_made_plain(
        self, begin: Callable[..., Receiver], told: Callable[[], list[tuple[str, str]]]
    ) -> None:
        """A reason may come from the network: it cannot make a second line."""
        begin().abort("x\r\n" + "y" * 100)
        [(_, line)] = told()
        assert f"bytes, x??{'y' * 76}…; nothing" in line

    def test_failure(
        self,
        begin: Callable[..., Receiver],
        directory: Path,
        told: Callable[[], list[tuple[str, str]]],
    ) -> None:
        """K01: what cannot be kept is an error in the log, and nobody else's problem."""
        receiver = begin(length=5000)
        feed(receiver, BODY[:300])
        with Faults(("replace",), errno.EIO):
            assert receiver.abort("the client closed the connection") is None
        assert told() == [
            (
                "ERROR",
                f"192.0.2.7: upload cut after 300 of 5000 bytes, the client closed the "
                f"connection: Input/output error ({directory}){FAILING}",
            )
        ]

    def test_inspection_fails(
        self,
        begin: Callable[..., Receiver],
        spool: Spool,
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """What nobody can look at in the flow is kept all the same."""
        receiver = begin(inspect=5000)
        feed(receiver, BODY[:300])

        def broken(incoming: object, start: int, end: int) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr("nxparse.store.body.Incoming.fetch", broken)
        receiver.abort("the client closed the connection")
        assert kept(spool, directory) == ([], [BODY[:300]])


class TestInspection:
    @pytest.mark.parametrize(
        ("inspect", "expected"),
        [(0, None), (len(BODY) - 1, None), (len(BODY), BODY), (10**9, BODY)],
    )
    def test_accepted(
        self, begin: Callable[..., Receiver], inspect: int, expected: bytes | None
    ) -> None:
        """The body of an accepted upload can be looked at if it is small enough."""
        result = received(begin(inspect=inspect))
        assert (result.reply, result.body) == (ACCEPTED, expected)

    @pytest.mark.parametrize("end", ["refused", "cut"])
    def test_not_accepted(self, begin: Callable[..., Receiver], end: str) -> None:
        """What was refused or cut is what people want to look at most."""
        receiver = begin(inspect=1000)
        feed(receiver, b"not multipart")
        if end == "refused":
            body = receiver.finish().body
        else:
            body = receiver.abort("the client closed the connection")
        assert body == b"not multipart"

    def test_empty(self, begin: Callable[..., Receiver]) -> None:
        """Of nothing there is nothing to look at."""
        assert begin(inspect=1000).finish().body is None


class TestProgress:
    @pytest.fixture(autouse=True)
    def _clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def _tell(
        self,
        begin: Callable[..., Receiver],
        told: Callable[[], list[tuple[str, str]]],
        length: int | None,
        chunks: Sequence[int],
        seconds: float,
    ) -> list[str]:
        receiver = begin(length=length)
        for size in chunks:
            self.now += seconds
            receiver.feed(b"x" * size)
        return [line.removeprefix("192.0.2.7: ") for _, line in told()]

    @pytest.mark.parametrize(
        ("length", "chunks", "seconds", "expected"),
        [
            (50_000, [5_000] * 10, 0, [f"{n}.0 kB of 50.0 kB received" for n in range(5, 50, 5)]),
            (50_000, [2_500] * 20, 0, [f"{n}.0 kB of 50.0 kB received" for n in range(5, 50, 5)]),
            (50_000, [24_999, 25_001], 0, ["25.0 kB of 50.0 kB received"]),
            (50_000, [50_000], 0, []),
            (50_000, [4_999], 100, []),
            (20_000, [2_000] * 10, 0.1, []),
            (20_000, [2_000] * 10, 2, [f"{n}.0 kB of 20.0 kB received" for n in range(2, 20, 2)]),
            (20_000, [2_000] * 10, 1, [f"{n}.0 kB of 20.0 kB received" for n in (4, 8, 12, 16)]),
            (None, [5_000] * 10, 100, []),
            (0, [5_000] * 10, 100, []),
            (20_000, [30_000, 30_000], 100, []),
        ],
        ids=[
            "large",
            "large, in small chunks",
            "large, in halves",
            "large, at once",
            "large, no tenth",
            "small and fast",
            "small and slow",
            "small and not so slow",
            "chunked",
            "announced as empty",
            "more than announced",
        ],
    )
    def test_lines(
        self,
        begin: Callable[..., Receiver],
        told: Callable[[], list[tuple[str, str]]],
        monkeypatch: pytest.MonkeyPatch,
        length: int | None,
        chunks: Sequence[int],
        seconds: float,
        expected: list[str],
    ) -> None:
        """Progress is told at each tenth of an upload that is large or slow, but not its end."""
        monkeypatch.setattr(receive, "LARGE", 50_000)
        assert self._tell(begin, told, length, chunks, seconds) == expected

    def test_refused(
        self,
        begin: Callable[..., Receiver],
        directory: Path,
        told: Callable[[], list[tuple[str, str]]],
    ) -> None:
        """Of an upload that is not kept any more no progress is told."""
        with Faults(("write",), errno.EIO, first=2):
            assert self._tell(begin, told, 50_000, [5_000] * 10, 100) == [
                "5.0 kB of 50.0 kB received",
                "10.0 kB of 50.0 kB received",
                f"an upload is refused: Input/output error ({directory}){FAILING}",
            ]


POST = Post(CLIENT, "anna", "a session", "facebook", "NX300", "At the sea")
TO_ME = "facebook=mail:me@example.org"
NO_ADDRESS = (
    "WARNING",
    "192.0.2.7: facebook has no address to mail to: it is saved instead; "
    "to mail it, use --set nx_route=facebook=mail:ADDRESS",
)

Take = Callable[..., FileReceiver]
Told = Callable[[], list[tuple[str, str]]]


def posted(spool: Spool, directory: Path) -> dict[tuple[str, int], list[bytes]]:
    """The files of each delivery that waits: by target and part. No other body may be there."""
    found = {}
    for delivery in spool.waiting():
        with spool.read(delivery) as (_, files):
            found[delivery.target, delivery.file_number] = [file.data for file in files]
    known = {data for files in found.values() for data in files}
    assert set(_in_spool(directory).values()) == known
    return found


class TestFile:
    """A photo or video for a social site."""

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def spool(self, directory: Path, clock: Clock) -> Iterator[Spool]:
        found = Spool(directory / ".nx", clock)
        yield found
        found.close()

    @pytest.fixture
    def take(self, spool: Spool, directory: Path) -> Take:
        """Begins to receive a file, with these rules; its announcement is number `number`."""

        def begun(
            *rules: str,
            number: int = 1,
            post: Post = POST,
            name: str | None = "SAM_4371.JPG",
            length: int | None = len(PHOTO),
            content_type: str = "image/pjpeg",
            inspect: int = 0,
        ) -> FileReceiver:
            config = configured(directory, nx_route=list(rules), **SMTP)
            announced = Announced(CLIENT, content_type, length)
            file = AnnouncedFile(f"announcement {number}", post, name)
            return FileReceiver(spool, config, announced, file, inspect=inspect).open()

        return begun

    def _wait(self, spool: Spool, clock: Clock) -> list[float]:
        """For how long what is for me waits yet."""
        return [one.next_try - clock.now for one in spool.waiting() if one.file_number == 0]

    def test_accepted(self, take: Take, spool: Spool, directory: Path, told: Told) -> None:
        """A file is kept as it came, and told in one line."""
        result = received(take(TO_ME, "facebook=save"), PHOTO)
        [id] = _in_spool(directory)
        message = "from anna to facebook: SAM_4371.JPG, 500 bytes"
        assert result == Result(ACCEPTED, id, id, message=message)
        assert posted(spool, directory) == {
            ("save", 1): [PHOTO],
            ("mail:me@example.org", 0): [PHOTO],
        }
        assert told() == [
            (
                "INFO",
                "192.0.2.7: from anna to facebook: SAM_4371.JPG, 500 bytes; "
                "next: save, mail:me@example.org (upload ID)",
            )
        ]

    def test_upload(self, take: Take, spool: Spool) -> None:
        """What was announced of a file is kept with it."""
        send(take(), PHOTO)
        [delivery] = spool.waiting()
        with spool.read(delivery) as (upload, (file,)):
            assert (upload.sender, upload.recipients) == ("anna", ("facebook",))
            assert (upload.subject, upload.text) == ("facebook: NX300", "At the sea")
            assert (file.name, file.content_type, file.data) == (
                "SAM_4371.JPG",
                "image/jpeg",
                PHOTO,
            )
        assert delivery.arrival.client == CLIENT

    def test_video(self, take: Take, spool: Spool) -> None:
        """A file that its content does not tell is what the request says it is."""
        send(take(name=None, content_type="video/mpeg"), b"a video" * 20)
        [delivery] = spool.waiting()
        with spool.read(delivery) as (_, (file,)):
            assert (file.name, file.content_type) == (None, "video/mpeg")

    def test_second(self, take: Take, spool: Spool, directory: Path, told: Told) -> None:
        """A file has an id of its own; the line names the upload that it belongs to."""
        receivers = [take(TO_ME, number=number) for number in (1, 2)]
        data = [jpeg(500, 1), jpeg(600, 2)]
        results = [received(*each) for each in zip(receivers, data, strict=True)]
        first, second = (result.accepted for result in results)
        assert [result.upload for result in results] == [first] * 2
        assert posted(spool, directory) == {("mail:me@example.org", 0): data}
        assert [(one.arrival.id, first != second) for one in spool.waiting()] == [(first, True)]
        assert told()[1][1].endswith("600 bytes; next: mail:me@example.org (upload ID)")

    def test_line_names_the_post(
        self, take: Take, spool: Spool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The id in the line is the one that the command line knows."""
        for number in (1, 2):
            send(take(number=number), jpeg(500, number))
        [id] = {one.arrival.id for one in spool.waiting()}
        lines = [record.getMessage() for record in caplog.records]
        assert [line.endswith(f"; next: save (upload {id})") for line in lines] == [True, True]

    @pytest.mark.parametrize(
        ("name", "user", "shown"),
        [
            (None, "anna", "from anna to facebook: (no name), 500 bytes"),
            ("", "anna", "from anna to facebook: (no name), 500 bytes"),
            ("a\x1b[2J\n.JPG", "x\u202ey", "from x?y to facebook: a?[2J?.JPG, 500 bytes"),
            ("x" * 99, "anna", f"from anna to facebook: {'x' * 79}…, 500 bytes"),
        ],
        ids=["no name", "empty name", "control characters", "long name"],
    )
    def test_line(self, take: Take, told: Told, name: str | None, user: str, shown: str) -> None:
        """Whatever a camera says, the line is one, and printable."""
        send(take(name=name, post=replace(POST, sender=user)), PHOTO)
        assert told() == [("INFO", f"192.0.2.7: {shown}; next: save (upload ID)")]

    @pytest.mark.parametrize(
        ("rules", "expected", "warned"),
        [
            ([], [("save", 1)], False),
            (["*@*=drop"], [("save", 1)], False),
            (["facebook=drop"], [("drop", 1)], False),
            (["FACE*=save:/srv/x"], [("save:/srv/x", 1)], False),
            (["picasa=drop", "*=save:/srv/x"], [("save:/srv/x", 1)], False),
            ([TO_ME], [("mail:me@example.org", 0)], False),
            (["*=mail:${ADDRESS}"], [("mail:${ADDRESS}", 0)], False),
            (["*=mail"], [("save", 1)], True),
            (["*=mail", "*=save"], [("save", 1)], True),
            (["*=save", "*=mail"], [("save", 1)], True),
            (
                ["*=mail", "*=mail:you@example.org"],
                [("mail:you@example.org", 0), ("save", 1)],
                True,
            ),
            (
                ["f*=mail:you@example.org", "f*=save", "f*=save:/srv/x", "f*=drop", "*=mail"],
                [("drop", 1), ("mail:you@example.org", 0), ("save", 1), ("save:/srv/x", 1)],
                False,
            ),
        ],
        ids=[
            "no rules",
            "no rule for it",
            "drop",
            "folder, without case",
            "first that fits",
            "address",
            "address in a variable",
            "mail",
            "mail and save",
            "save and mail",
            "mail and an address",
            "several",
        ],
    )
    def test_ways(
        self,
        take: Take,
        spool: Spool,
        told: Told,
        rules: list[str],
        expected: list[tuple[str, int]],
        warned: bool,
    ) -> None:
        """Rules decide by the site's name; what cannot be mailed is saved, and that is told once.

        Without a rule it is saved: to `mail` a site means nobody.
        """
        assert send(take(*rules), PHOTO) is ACCEPTED
        found = [(one.target, one.file_number, one.recipients) for one in spool.waiting()]
        assert found == [(target, part, ("facebook",)) for target, part in expected]
        *before, (_, line) = told()
        assert before == [NO_ADDRESS] * warned
        match = re.search(r"; next: (.*) \(upload ID\)$", line)
        assert match
        assert sorted(match[1].split(", ")) == [target for target, _ in expected]

    def test_empty(self, take: Take, spool: Spool, directory: Path, told: Told) -> None:
        """S08: a file without a byte is refused, and leaves nothing."""
        result = take(TO_ME).finish()
        assert (result.reply.status, result.accepted) == (400, None)
        assert kept(spool, directory) == ([], [])
        assert told() == [("WARNING", "192.0.2.7: an upload is refused: it is empty")]

    def test_limit(self, take: Take, spool: Spool, directory: Path) -> None:
        """H22: a file may be as large as the limit."""
        largest = jpeg(100_000)
        assert send(take(length=100_000), largest) is ACCEPTED
        assert posted(spool, directory) == {("save", 1): [largest]}

    @pytest.mark.parametrize("length", [100_001, None, 5], ids=["announced", "chunked", "wrongly"])
    def test_too_large(
        self, take: Take, spool: Spool, directory: Path, told: Told, length: int | None
    ) -> None:
        """H22, S08: a larger file is read to its end, not kept, and refused in one line."""
        receiver = take(length=length)
        result = received(receiver, jpeg(100_001))
        assert (result.reply.status, result.accepted) == (413, None)
        assert receiver.received == 100_001
        assert kept(spool, directory) == ([], [])
        assert [line for line in told() if line[0] != "INFO"] == [TOO_LARGE]

    def test_disk_full_before(
        self,
        take: Take,
        spool: Spool,
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
        told: Told,
    ) -> None:
        """K05: a file that has no room is refused before it comes."""
        monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=MIN_FREE))
        reply = send(take(), PHOTO)
        assert reply.body == NOT_STORED
        assert kept(spool, directory) == ([], [])
        assert [level for level, _ in told()] == ["ERROR"]

    def test_cut(self, take: Take, spool: Spool, directory: Path, told: Told) -> None:
        """S08: what came of a cut file is kept as it is, and never delivered."""
        receiver = take()
        feed(receiver, PHOTO[:300])
        assert receiver.abort("the client closed the connection") is None
        assert kept(spool, directory) == ([], [PHOTO[:300]])
        assert told() == [
            (
                "WARNING",
                f"192.0.2.7: upload cut after 300 of 500 bytes, the client closed the connection; "
                f"nothing is delivered, what came is kept as "
                f"{directory / '.nx' / 'quarantine' / 'ID'}",
            )
        ]

    def test_inspected(self, take: Take) -> None:
        """A file can be looked at in the flow if it is small enough."""
        data = [jpeg(500, number) for number in (0, 1)]
        results = [
            received(take(number=number, inspect=499 + number), data[number]) for number in (0, 1)
        ]
        assert [result.body for result in results] == [None, data[1]]

    @pytest.mark.parametrize("end", ["accepted", "empty", "too large", "cut", "nothing", "repeat"])
    def test_rest_of_the_post_waits(self, take: Take, spool: Spool, clock: Clock, end: str) -> None:
        """While a file comes its post waits, and then, whatever became of it, for a minute."""
        send(take(TO_ME), PHOTO)
        clock.now += 30
        receiver = take(TO_ME, number=1 if end == "repeat" else 2, length=None)
        held = self._wait(spool, clock)
        clock.now += GAP - 30
        match end:
            case "accepted":
                send(receiver, jpeg(600))
            case "empty":
                receiver.finish()
            case "too large":
                send(receiver, jpeg(100_001))
            case "cut":
                feed(receiver, jpeg(600)[:300])
                receiver.abort("the client closed the connection")
            case "nothing":
                receiver.abort("the client closed the connection")
            case "repeat":
                send(receiver, PHOTO)
        assert (held, self._wait(spool, clock)) == ([MAX_WAIT], [QUIET])

    def test_refused_at_its_begin(self, take: Take, spool: Spool, clock: Clock) -> None:
        """While a file comes that is not kept its post waits, too: the camera is still busy."""
        send(take(TO_ME), PHOTO)
        receiver = take(TO_ME, number=2, length=100_001)
        held = self._wait(spool, clock)
        send(receiver, jpeg(100_001))
        assert (held, self._wait(spool, clock)) == ([MAX_WAIT], [QUIET])

    def test_same_announcement(self, take: Take, spool: Spool, directory: Path, told: Told) -> None:
        """S08: the same file for the same announcement is taken once, however often it comes."""
        receivers = [take(TO_ME, "facebook=save") for _ in range(3)]
        results = [received(receiver, PHOTO) for receiver in receivers]
        assert [result.reply for result in results] == [ACCEPTED] * 3
        assert len({result.accepted for result in results}) == 1
        assert [result.is_duplicate for result in results] == [False, True, True]
        assert posted(spool, directory) == {
            ("save", 1): [PHOTO],
            ("mail:me@example.org", 0): [PHOTO],
        }
        again = ("INFO", "192.0.2.7: duplicate of upload ID ignored")
        assert told()[1:] == [again] * 2
        assert receivers[2].abort("too late") is None

    def test_same_announcement_at_the_same_moment(
        self, take: Take, spool: Spool, directory: Path
    ) -> None:
        """C03: what comes twice at once is a duplicate, though neither had been there yet."""
        receivers = [take(TO_ME), take(TO_ME)]
        for receiver in receivers:
            feed(receiver, PHOTO)
        with ThreadPoolExecutor() as threads:
            results = list(threads.map(lambda receiver: receiver.finish(), receivers))
        assert {result.reply for result in results} == {ACCEPTED}
        assert sorted(result.is_duplicate for result in results) == [False, True]
        assert len({result.accepted for result in results}) == 1
        assert posted(spool, directory) == {("mail:me@example.org", 0): [PHOTO]}

    def test_another_announcement(self, take: Take, spool: Spool, directory: Path) -> None:
        """What is announced again, after a reply that was heard, is meant."""
        for number in (1, 2):
            result = received(take(TO_ME, number=number), PHOTO)
            assert (result.reply, result.is_duplicate) == (ACCEPTED, False)
            assert result.accepted
            spool.reply_confirmed(result.accepted)
        assert posted(spool, directory) == {("mail:me@example.org", 0): [PHOTO, PHOTO]}

    def test_something_else(self, take: Take, spool: Spool, directory: Path) -> None:
        """Other bytes for the same announcement are another file."""
        for data in (PHOTO, jpeg(600)):
            assert send(take(TO_ME), data) is ACCEPTED
        assert posted(spool, directory) == {("mail:me@example.org", 0): [PHOTO, jpeg(600)]}

    def test_reply_lost(self, take: Take, spool: Spool, directory: Path) -> None:
        """H10: a camera that missed the reply announces its photo anew: it is taken once."""
        accepted = []
        for number, settle in enumerate((spool.reply_lost, spool.reply_confirmed, None), 1):
            id = received(take(TO_ME, number=number), PHOTO).accepted
            assert id
            accepted.append(id)
            if settle:
                settle(id)
        first, second, third = accepted
        assert first == second != third
        assert posted(spool, directory) == {("mail:me@example.org", 0): [PHOTO, PHOTO]}

    @pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
    @pytest.mark.parametrize(
        ("names", "error"),
        [
            (("open", "write", "fsync", "close"), errno.ENOSPC),
            ((*STATEMENTS, "SELECT", "UPDATE"), errno.EIO),
            ((*CALLS, *STATEMENTS, "SELECT", "UPDATE"), errno.EIO),
        ],
        ids=["disk", "SQLite", "everything"],
    )
    def test_failure_at_each_call(
        self,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
        names: tuple[str, ...],
        error: int,
        persistent: bool,
    ) -> None:
        """K01, K02: whichever call fails, the reply tells the truth, and each line the reason.

        The photos before it and behind it are delivered in any case, with it or
        without it; a camera that sends it once more has it taken once.
        """
        before, data, behind = (jpeg(400 + number, number) for number in (1, 2, 3))
        for first in itertools.count(1):
            directory = tmp_path / str(first)
            config = configured(directory, nx_route=[TO_ME, "facebook=save"], **SMTP)
            spool = Spool(directory / ".nx", lambda: NEW_YEAR)

            def taken(
                number: int, data: bytes, spool: Spool = spool, config: Config = config
            ) -> int:
                file = AnnouncedFile(f"announcement {number}", POST, None)
                announced = Announced(CLIENT, "image/jpeg", len(data))
                return send(FileReceiver(spool, config, announced, file).open(), data).status

            assert taken(1, before) == 200
            caplog.clear()
            with Faults(names, error, first, persistent=persistent) as faults:
                status = taken(2, data)
            lines = {record.getMessage() for record in caplog.records if record.levelno > 20}
            reasons = [describe_disk_error(OSError(error, os.strerror(error)), directory)]
            reasons.append(describe_disk_error(NO_STATE, directory))
            assert (first, status in (200, 507)) == (first, True)
            assert (first, bool(lines) or status == 200) == (first, True)
            assert (first, [one for one in lines if not one.endswith(tuple(reasons))]) == (
                first,
                [],
            )
            assert (first, taken(3, behind)) == (first, 200)
            accepted = [before, data, behind] if status == 200 else [before, behind]
            spool.close()
            spool = Spool(directory / ".nx", lambda: NEW_YEAR)
            assert (first, taken(2, data, spool)) == (first, 200)
            accepted += [data] if status != 200 else []
            waiting = posted(spool, directory)
            spool.close()
            assert (first, waiting) == (
                first,
                {
                    ("mail:me@example.org", 0): accepted,
                    **{("save", part): [one] for part, one in enumerate(accepted, 1)},
                },
            )
            if not faults.failed:
                break
        assert status == 200

    def test_expectation_fails(self, take: Take, spool: Spool, directory: Path, told: Told) -> None:
        """What cannot be noted of a file that begins is told, and the file is taken."""
        with Faults(("BEGIN",), errno.EIO):
            receiver = take(TO_ME)
        assert send(receiver, PHOTO) is ACCEPTED
        assert posted(spool, directory) == {("mail:me@example.org", 0): [PHOTO]}
        assert told()[0] == ("ERROR", f"192.0.2.7: disk I/O error ({directory})")


class TestCollector:
    """A small request, which is only collected."""

    @pytest.fixture
    def asked(self) -> list[bytes]:
        """What was to be answered."""
        return []

    @pytest.fixture
    def collect(self, asked: list[bytes]) -> Callable[..., Collector]:
        def answer(data: bytes) -> Reply:
            asked.append(data)
            return ACCEPTED

        return partial(Collector, CLIENT, answer)

    @pytest.mark.parametrize("size", [1, 7, 10**6])
    @pytest.mark.parametrize("data", [b"", BODY], ids=["empty", "some"])
    def test_answered(
        self,
        collect: Callable[..., Collector],
        asked: list[bytes],
        told: Told,
        data: bytes,
        size: int,
    ) -> None:
        """S01: what has come is answered as a whole, however it is cut into chunks."""
        collector = collect()
        for start in range(0, len(data), size):
            collector.feed(data[start : start + size])
        assert asked == []
        assert collector.finish() == Result(ACCEPTED, body=data)
        assert (asked, told()) == ([data], [])

    @pytest.mark.parametrize(
        ("given", "limit"), [({}, markup.MAX_BYTES), ({"limit": 10}, 10)], ids=["default", "given"]
    )
    @pytest.mark.parametrize("surplus", [-1, 0, 1, 2, 10**6])
    @pytest.mark.parametrize("size", [3000, 10**7])
    def test_limit(
        self,
        collect: Callable[..., Collector],
        asked: list[bytes],
        given: dict[str, int],
        limit: int,
        surplus: int,
        size: int,
    ) -> None:
        """S12: of a request that is too large so much is kept that it can be seen to be."""
        data = bytes(limit) + b"x" * surplus if surplus > 0 else bytes(limit + surplus)
        collector = collect(**given)
        for start in range(0, len(data), size):
            collector.feed(data[start : start + size])
        assert collector.finish().body == data[: limit + 1]
        assert asked == [data[: limit + 1]]

    def test_cut(self, collect: Callable[..., Collector], asked: list[bytes], told: Told) -> None:
        """What was cut is not answered, but can be looked at; the reason cannot make a line."""
        collector = collect()
        collector.feed(b"<Request")
        assert collector.abort("gone\r\nx") == b"<Request"
        assert asked == []
        assert told() == [("WARNING", "192.0.2.7: a request was cut, gone??x")]

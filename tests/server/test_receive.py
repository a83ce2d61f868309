"""Receiving uploads: stored bodies, log lines and replies."""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nxparse.server.receive import BodyInfo, EmailReceiver, FileReceiver, Receiver, Result
from nxparse.server.reply import ACCEPTED, Reply
from nxparse.server.sessions import AnnouncedFile
from nxparse.store.records import Post
from nxparse.store.spool import Spool
from nxparse.text import format_size
from tests.bodies import BOUNDARY, CONTENT_TYPE, SENDER, body, jpeg, message_xml, part_head
from tests.box import configured
from tests.clock import NEW_YEAR, Clock
from tests.faults import Faults, contents, make_lazy

PHOTO = jpeg(500)
BODY = body([("SAM_4371.JPG", PHOTO)])
CLIENT = "192.0.2.7"
ENVIRON = {"ADDRESS": "me@example.org"}
POST = Post(CLIENT, "anna", "a session", "facebook", "NX300", "At the sea")
TO_ME = "facebook=mail:me@example.org"
SMTP: dict[str, object] = {"nx_smtp": "smtp://me:secret@mail.example.com", "nx_senders": ["*"]}
TOLERATED = (
    "parameter-case, trailing-semicolon, multipart-label, close-delimiter-unmarked, surplus-newline"
)
FAILING = ": the disk is failing, see dmesg, or choose another folder with --set nx_dir=FOLDER"
REFUSED = "an upload is refused: "
TOO_LARGE = (
    "WARNING",
    f"{REFUSED}it is larger than 100.0 kB; to allow it, use --set nx_max_upload=SIZE",
)
DUPLICATE = ("INFO", "duplicate of upload ID ignored")
GONE = "the client closed the connection"


class Place:
    """A spool, the receivers of uploads into it, and the log."""

    def __init__(self, directory: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.directory = directory
        self.spool = Spool(directory / ".nx", Clock())
        self.quarantine = directory / ".nx" / "quarantine" / "ID"
        self._caplog = caplog

    def begin(
        self, length: int | None = len(BODY), inspect: int = 0, **options: object
    ) -> EmailReceiver:
        """Begin to receive an upload by e-mail."""
        config = configured(self.directory, ENVIRON, nx_max_upload="100000", **options)
        info = BodyInfo(CLIENT, CONTENT_TYPE, length)
        return EmailReceiver(self.spool, config, info, inspect=inspect).open()

    def file(self, *rules: str, number: int = 1) -> FileReceiver:
        """Begin to receive a photo for a social site, with this number of its announcement."""
        config = configured(self.directory, ENVIRON, nx_route=list(rules), **SMTP)
        info = BodyInfo(CLIENT, "image/pjpeg", len(PHOTO))
        file = AnnouncedFile(f"announcement {number}", POST, "SAM_4371.JPG")
        return FileReceiver(self.spool, config, info, file).open()

    def log(self) -> list[tuple[str, str]]:
        """Level and text of the log lines since the last call, with ids replaced by ID."""
        lines = [
            (record.levelname, re.sub(r"2026\w+-[0-9a-f]{8}", "ID", record.getMessage()))
            for record in self._caplog.records
        ]
        self._caplog.clear()
        assert all(text.startswith(f"{CLIENT}: ") for _, text in lines)
        return [(level, text.removeprefix(f"{CLIENT}: ")) for level, text in lines]

    def spooled(self) -> dict[str, bytes]:
        return contents(self.directory / ".nx" / "spool")

    def stored(self) -> tuple[list[bytes], list[bytes]]:
        """The bodies that wait for delivery, and those in quarantine. Fails if there are others."""
        waiting = {delivery.arrival.id for delivery in self.spool.waiting()}
        assert sorted(self.spooled()) == sorted(waiting)
        return list(self.spooled().values()), list(contents(self.quarantine.parent).values())

    def posted(self) -> dict[tuple[str, int], list[bytes]]:
        """The files of waiting deliveries by target and number. Fails if there are others."""
        found = {}
        for delivery in self.spool.waiting():
            with self.spool.read(delivery) as (_, files):
                found[delivery.target, delivery.file_number] = [file.data for file in files]
        known = {data for files in found.values() for data in files}
        assert set(self.spooled().values()) == known
        return found


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Place]:
    make_lazy(monkeypatch)
    caplog.set_level(logging.INFO)
    found = Place(tmp_path / "uploads", caplog)
    yield found
    found.spool.close()


def feed(receiver: Receiver, data: bytes, size: int = 100) -> None:
    for start in range(0, len(data), size):
        receiver.feed(data[start : start + size])


def received(receiver: Receiver, data: bytes = BODY) -> Result:
    feed(receiver, data)
    return receiver.finish()


def send(receiver: Receiver, data: bytes = BODY) -> Reply:
    return received(receiver, data).reply


def of_size(size: int) -> bytes:
    return body([("SAM.JPG", jpeg(size - len(body([("SAM.JPG", b"")]))))])


class TestAccepted:
    @pytest.mark.parametrize("length", [100_000, None], ids=["length", "chunked"])
    def test_largest(self, place: Place, length: int | None) -> None:
        """An upload of exactly nx_max_upload bytes is accepted."""
        assert send(place.begin(length=length), of_size(100_000)) is ACCEPTED

    @pytest.mark.parametrize("length", [len(BODY), None], ids=["length", "chunked"])
    @pytest.mark.parametrize("size", [1, 7, 100, 10**6])
    def test_accepted(self, place: Place, length: int | None, size: int) -> None:
        """An upload is stored as received, with chunks of any size, and logged in one line."""
        receiver = place.begin(length)
        feed(receiver, BODY, size)
        assert receiver.received == len(BODY)
        result = receiver.finish()
        assert receiver.abort(GONE) is None  # too late
        assert place.stored() == ([BODY], [])
        [delivery] = place.spool.waiting()
        arrival = delivery.arrival
        assert (arrival.client, arrival.sender, arrival.received) == (CLIENT, SENDER, NEW_YEAR)
        message = "from Camera@samsungcamera.com to photos@example.org: SAM_4371.JPG, 500 bytes"
        assert result == Result(ACCEPTED, arrival.id, arrival.id, message=message)
        line = f"{message}; tolerated: {TOLERATED}; next: save (upload ID)"
        assert place.log() == [("INFO", line)]

    def test_line_is_printable(self, place: Place) -> None:
        """Line ends, escapes and invisible characters are replaced in the log."""
        xml = message_xml(sender="a\x1b[2J\u202eb@example.com", recipients=["c\u2028d@example.com"])
        hostile = body([("x\x1b]0;\x07\u200b.JPG", PHOTO)], message=xml)
        assert send(place.begin(), hostile) is ACCEPTED
        [(_, line)] = place.log()
        assert line.isprintable()


RECIPIENTS = ("A@Example.org", "b@example.org", "c@example.com")


def test_routes(place: Place) -> None:
    """Recipients with the same target share a delivery; the log shows targets as configured."""
    rules = ["*=mail:${ADDRESS}", "c@example.com=save", "*=save"]
    data = body([("SAM.JPG", PHOTO)], message=message_xml(recipients=RECIPIENTS))
    assert send(place.begin(nx_route=rules, **SMTP), data) is ACCEPTED
    assert [(one.target, one.recipients) for one in place.spool.waiting()] == [
        ("mail:${ADDRESS}", RECIPIENTS),
        ("save", RECIPIENTS),
    ]
    [(_, line)] = place.log()
    assert line.endswith("; next: mail:${ADDRESS}, save (upload ID)")


ODD = "photos at home"
SOME_SENDERS: dict[str, object] = {**SMTP, "nx_senders": ["camera@example.com"]}


def addressed(sender: str, *recipients: str) -> bytes:
    return body([("SAM.JPG", PHOTO)], message=message_xml(sender=sender, recipients=recipients))


@pytest.mark.parametrize(
    ("options", "sender", "recipients"),
    [
        ({}, "a@b.example", ["c@example.org", "d@bücher.example"]),
        ({"nx_route": ["photos*=save"]}, "a@b.example", [ODD, "c@example.org"]),
        ({"nx_route": ["*=mail:me@example.org"]}, "a@b.example", [ODD]),
        ({"nx_mail_from": "me@example.org"}, "", ["c@example.org"]),
        (SOME_SENDERS, "Me <camera@example.com>", ["c@example.org"]),
    ],
    ids=[
        "valid",
        "recipient of a file among mail",
        "recipient replaced",
        "sender replaced",
        "sender with a name",
    ],
)
def test_addresses(
    place: Place, options: dict[str, object], sender: str, recipients: list[str]
) -> None:
    """Mail addresses are checked only where mail is sent; senders are compared without names."""
    data = addressed(sender, *recipients)
    assert send(place.begin(**{**SMTP, **options}), data) is ACCEPTED
    assert place.stored() == ([data], [])


class TestRepeat:
    @pytest.fixture
    def first(self, place: Place) -> str:
        """The id of an accepted upload whose reply is open."""
        accepted = received(place.begin()).accepted
        assert accepted
        place.log()
        return accepted

    def test_duplicate(self, place: Place, first: str) -> None:
        """An upload whose reply was lost is accepted once, and that is logged."""
        place.spool.reply_lost(first)
        receiver = place.begin()
        assert received(receiver) == Result(ACCEPTED, first, first, True, f"upload {first}")
        assert place.log() == [DUPLICATE]
        assert receiver.abort("too late") is None
        assert place.stored() == ([BODY], [])

    @pytest.mark.parametrize("arrived", [True, False])
    def test_open(self, place: Place, first: str, arrived: bool) -> None:
        """A repeat waits until it is known whether the reply has arrived."""
        receiver = place.begin()
        result = received(receiver)
        assert result.waits_for
        assert (result.accepted, len(place.spool.waiting())) == (first, 1)
        (place.spool.reply_confirmed if arrived else place.spool.reply_lost)(first)
        assert result.waits_for.result(0) is arrived
        result = receiver.finish()
        assert (result.reply, result.waits_for) == (ACCEPTED, None)
        assert (result.accepted == first, result.is_duplicate) == (not arrived, not arrived)
        assert len(place.spool.waiting()) == (2 if arrived else 1)

    @pytest.mark.parametrize("end", ["cut", "refused"])
    def test_end_while_waiting(self, place: Place, first: str, end: str) -> None:
        """A repeat that is cut while it waits goes to quarantine; a refused one is deleted."""
        receiver = place.begin()
        assert received(receiver).waits_for
        place.spool.reply_confirmed(first)
        if end == "cut":
            receiver.abort(GONE)
            assert place.stored() == ([BODY], [BODY])
        else:
            with Faults(("COMMIT",), errno.EIO):
                assert receiver.finish().reply.status == 507
            assert place.stored() == ([BODY], [])


START = b"--" + BOUNDARY + b"\r\n"
UNREADABLE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty"),
    "no multipart": (b"hello", f"the boundary {BOUNDARY!r} never appears in the body (at byte 5)"),
    "no message": (
        START + part_head("binary", "SAM.JPG", "image/jpeg") + PHOTO,
        "the body has no part named message",
    ),
    "no recipient": (addressed(SENDER), "the message names no receiver"),
    "endless header": (
        START + b"X: " + b"x" * 9000 + b"\r\n\r\n" + PHOTO + BODY,
        "the headers of a part are longer than 8192 bytes (at byte 43)",
    ),
    "mail to no address": (addressed(SENDER, ODD), f"{ODD!r} is not an e-mail address"),
    "mail without a sender": (addressed("", "c@example.org"), "'' is not an e-mail address"),
}


class TestRefused:
    @pytest.mark.parametrize(("data", "reason"), UNREADABLE.values(), ids=UNREADABLE)
    def test_unreadable(self, place: Place, data: bytes, reason: str) -> None:
        """An upload that cannot be parsed or delivered is refused and goes to quarantine."""
        receiver = place.begin(inspect=10**6, **SMTP)
        result = received(receiver, data)
        assert receiver.abort(GONE) is None  # too late
        status = 413 if "longer" in reason else 400
        assert (result.reply.status, result.accepted) == (status, None)
        assert result.body == (data or None)
        assert reason[:12].encode() in result.reply.body
        assert place.stored() == ([], [data] if data else [])
        where = f"; its body is in quarantine: {place.quarantine}" if data else ""
        assert place.log() == [("WARNING", f"{REFUSED}{reason}{where}")]

    def test_sender_of_mail_to_one_address(self, place: Place) -> None:
        """The sender must be an address even if the recipients are replaced."""
        receiver = place.begin(nx_route=["*=mail:${ADDRESS}"], **SMTP)
        assert send(receiver, addressed(ODD, "c@example.org")).status == 400

    @pytest.mark.parametrize(
        ("sender", "line"),
        [
            ("a@b.x", "a@b.x may not send; to allow it, use --set nx_senders=a@b.x"),
            ("", "the upload names no sender: set one on the camera"),
        ],
    )
    def test_senders(self, place: Place, sender: str, line: str) -> None:
        """Uploads of other senders are refused and not stored."""
        data = addressed(sender, ODD)
        result = received(place.begin(inspect=10**6, **SOME_SENDERS), data)
        assert (result.reply.status, result.accepted, result.body) == (401, None, data)
        assert b"Sender not in whitelist" in result.reply.body
        assert place.stored() == ([], [])
        assert place.log() == [("WARNING", f"{REFUSED}{line}")]

    @pytest.mark.parametrize(
        "length", [100_001, None, 99_999], ids=["announced", "chunked", "wrong"]
    )
    def test_too_large(self, place: Place, length: int | None) -> None:
        """A larger upload is read to its end, not stored, and refused in one line."""
        receiver = place.begin(length=length)
        feed(receiver, of_size(100_000), 50_000)
        assert len(place.spooled()) == (length != 100_001)
        receiver.feed(b"x")
        assert place.spooled() == {}
        feed(receiver, b"x" * 200_000, 50_000)
        assert receiver.finish().reply.status == 413
        assert receiver.abort(GONE) is None  # too late
        assert (receiver.received, place.stored()) == (300_001, ([], []))
        assert place.log() == [TOO_LARGE]


class TestDisk:
    @pytest.mark.parametrize("call", ["open", "write"])
    def test_cannot_be_written(self, place: Place, call: str) -> None:
        """After a disk error the upload is refused with advice in the log; the next is accepted."""
        with Faults((call,), errno.EIO):
            reply = send(place.begin())
        assert reply.status == 507
        assert b"The upload could not be stored" in reply.body
        line = f"{REFUSED}Input/output error ({place.directory}){FAILING}"
        assert (place.log(), place.stored()) == ([("ERROR", line)], ([], []))
        assert send(place.begin()) is ACCEPTED

    def test_cannot_be_moved_to_quarantine(self, place: Place) -> None:
        """A refused upload that cannot be moved to quarantine gets the status of a disk error."""
        with Faults(("replace",), errno.EIO):
            assert send(place.begin(), b"hello").status == 507
        assert place.log() == [
            ("ERROR", f"{REFUSED}Input/output error ({place.directory}){FAILING}")
        ]
        assert place.stored() == ([], [])

    def test_cannot_be_read_back(self, place: Place) -> None:
        """A body that cannot be read back is not accepted."""
        receiver = place.begin()
        feed(receiver, BODY)
        [path] = (place.directory / ".nx" / "spool").iterdir()
        os.truncate(path, 10)
        assert receiver.finish().reply.status == 507
        assert place.stored() == ([], [])


class TestAborted:
    @pytest.mark.parametrize(
        ("length", "size", "amount"),
        [
            (5000, 300, "300 of 5000 bytes"),
            (None, 300, "300 bytes"),
            (len(BODY), len(BODY), f"{len(BODY)} of {len(BODY)} bytes"),
            (5000, 0, "0 of 5000 bytes"),
        ],
        ids=["announced", "chunked", "whole", "nothing arrived"],
    )
    def test_cut(self, place: Place, length: int | None, size: int, amount: str) -> None:
        """The part of a cut upload that arrived goes to quarantine, once."""
        receiver = place.begin(length=length, inspect=10**6)
        feed(receiver, BODY[:size])
        assert receiver.abort(GONE) == (BODY[:size] or None)
        assert receiver.abort("mitmproxy ends") is None
        assert place.stored() == ([], [BODY[:size]] if size else [])
        where = f"; the part that arrived is in quarantine: {place.quarantine}" if size else ""
        line = f"upload cut after {amount}, {GONE}; nothing is delivered{where}"
        assert place.log() == [("WARNING", line)]

    def test_failure(self, place: Place) -> None:
        """A failure to move the part to quarantine is logged."""
        receiver = place.begin(length=5000)
        feed(receiver, BODY[:300])
        with Faults(("replace",), errno.EIO):
            assert receiver.abort(GONE) is None
        line = f"upload cut after 300 of 5000 bytes, {GONE}: Input/output error"
        assert place.log() == [("ERROR", f"{line} ({place.directory}){FAILING}")]


@pytest.mark.parametrize(
    ("inspect", "expected"),
    [(0, None), (len(BODY) - 1, None), (len(BODY), BODY), (10**9, BODY)],
)
def test_inspected(place: Place, inspect: int, expected: bytes | None) -> None:
    """A body is returned for inspection if it is small enough."""
    result = received(place.begin(inspect=inspect))
    assert (result.reply, result.body) == (ACCEPTED, expected)


class TestFile:
    """A photo or video for a social site."""

    def test_accepted(self, place: Place) -> None:
        """The photos of a post are stored as received, each logged with the id of the post."""
        data = [jpeg(500), jpeg(500, 9)]
        receivers = [place.file(TO_ME, "facebook=save", number=number) for number in (1, 2)]
        first, second = map(received, receivers, data)
        message = f"from anna to facebook: SAM_4371.JPG, {format_size(len(PHOTO))}"
        id = first.upload
        assert first == Result(ACCEPTED, id, id, message=message)
        assert (second.upload, second.accepted != id) == (id, True)
        assert place.posted() == {
            ("save", 1): [data[0]],
            ("save", 2): [data[1]],
            ("mail:me@example.org", 0): data,
        }
        line = f"{message}; next: mail:me@example.org, save (upload ID)"
        assert place.log() == [("INFO", line)] * 2

    def test_upload(self, place: Place) -> None:
        """The announcement is stored with the file."""
        send(place.file(), PHOTO)
        [delivery] = place.spool.waiting()
        assert delivery.arrival.client == CLIENT
        with place.spool.read(delivery) as (upload, (file,)):
            assert (upload.sender, upload.recipients) == ("anna", ("facebook",))
            assert (upload.subject, upload.text) == ("facebook: NX300", "At the sea")
            assert (file.name, file.content_type) == ("SAM_4371.JPG", "image/jpeg")

    @pytest.mark.parametrize(
        ("rules", "expected", "warned"),
        [
            pytest.param(["*@*=drop"], [("save", 1)], False, id="no rule for it"),
            pytest.param(["*=mail:${ADDRESS}"], [("mail:${ADDRESS}", 0)], False, id="address"),
            pytest.param(["*=mail", "*=save"], [("save", 1)], True, id="mail and save"),
            pytest.param(
                ["f*=mail:you@example.org", "f*=save", "f*=save:/srv/x", "f*=drop", "*=mail"],
                [("drop", 1), ("mail:you@example.org", 0), ("save", 1), ("save:/srv/x", 1)],
                False,
                id="several",
            ),
        ],
    )
    def test_targets(
        self, place: Place, rules: list[str], expected: list[tuple[str, int]], warned: bool
    ) -> None:
        """Rules match the name of the site; `mail` without an address becomes `save`."""
        assert send(place.file(*rules), PHOTO) is ACCEPTED
        found = [(one.target, one.file_number, one.recipients) for one in place.spool.waiting()]
        assert found == [(target, number, ("facebook",)) for target, number in expected]
        *before, (_, line) = place.log()
        warning = (
            "facebook has no address to mail to: it is saved instead; "
            "to mail it, use --set nx_route=facebook=mail:ADDRESS"
        )
        assert before == [("WARNING", warning)] * warned
        match = re.search(r"; next: (.*) \(upload ID\)$", line)
        assert match
        assert sorted(match[1].split(", ")) == [target for target, _ in expected]

    def test_cut(self, place: Place) -> None:
        """A file that was cut can be sent again."""
        receiver = place.file(TO_ME)
        feed(receiver, PHOTO[:300])
        receiver.abort(GONE)
        assert place.stored() == ([], [PHOTO[:300]])
        assert send(place.file(TO_ME), PHOTO) is ACCEPTED
        assert place.posted() == {("mail:me@example.org", 0): [PHOTO]}

    def test_same_announcement(self, place: Place) -> None:
        """If two equal files end at the same time, one is a duplicate."""
        receivers = [place.file(TO_ME), place.file(TO_ME)]
        for receiver in receivers:
            feed(receiver, PHOTO)
        with ThreadPoolExecutor() as threads:
            results = list(threads.map(lambda receiver: receiver.finish(), receivers))
        assert {result.reply for result in results} == {ACCEPTED}
        assert len({result.accepted for result in results}) == 1
        assert sorted(result.is_duplicate for result in results) == [False, True]
        assert place.posted() == {("mail:me@example.org", 0): [PHOTO]}
        assert DUPLICATE in place.log()

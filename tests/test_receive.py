from __future__ import annotations

import errno
import itertools
import logging
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from nxparse import receive, report
from nxparse.config import OPTIONS, Config, parse
from nxparse.receive import MIN_FREE, Announced, Receiver
from nxparse.reply import ACCEPTED, Reply
from nxparse.spool import Spool
from tests.bodies import BOUNDARY, CONTENT_TYPE, SENDER, body, jpeg, message_xml, part_head
from tests.faults import CALLS, STATEMENTS, Faults, contents, make_lazy

NEW_YEAR = 1767225600.0  # 2026-01-01 00:00 UTC
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
        return Receiver(spool, used, Announced(CLIENT, content_type, length), inspect=inspect)

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


def send(receiver: Receiver, data: bytes = BODY) -> Reply:
    feed(receiver, data)
    return receiver.finish()


def kept(spool: Spool, directory: Path) -> tuple[list[bytes], list[bytes]]:
    """The bodies that wait to be delivered, and those in quarantine. Nothing else may be there."""
    waiting = {delivery.arrival.id for delivery in spool.waiting()}
    spooled = contents(directory / ".nx" / "spool")
    assert sorted(spooled) == sorted(waiting)
    return list(spooled.values()), list(contents(directory / ".nx" / "quarantine").values())


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

    def test_id(self, begin: Callable[..., Receiver], spool: Spool) -> None:
        """Once an upload is accepted it is known under which id."""
        receiver = begin()
        feed(receiver, BODY)
        assert receiver.accepted is None
        receiver.finish()
        assert [delivery.arrival.id for delivery in spool.waiting()] == [receiver.accepted]

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
        assert receiver.finish() is ACCEPTED
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
        assert [receiver.finish() for receiver in receivers] == [ACCEPTED] * 2
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
        receiver = begin(**options)
        reply = send(receiver, data)
        if reason is None:
            assert reply is ACCEPTED
            assert kept(spool, directory) == ([data], [])
            return
        assert reply.status == 400
        assert reply.body.startswith(b'<Response ErrCode="400" ErrSubCode="0" /><!-- ')
        assert receiver.accepted is None
        assert kept(spool, directory) == ([], [data])
        shown = report.plain(reason, 200)
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
        receiver = begin(nx_senders=senders)
        reply = send(receiver, data)
        if allowed:
            assert reply is ACCEPTED
            assert kept(spool, directory) == ([data], [])
        else:
            assert (reply.status, reply.body) == (401, NOT_ALLOWED)
            assert receiver.accepted is None
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
        receiver = begin(nx_senders=["camera@example.com"], inspect=len(BODY))
        assert send(receiver).status == 401
        assert receiver.body == BODY


class TestRepeat:
    @pytest.fixture
    def id(self, begin: Callable[..., Receiver], spool: Spool) -> str:
        """An accepted upload whose reply was not heard."""
        receiver = begin()
        send(receiver)
        assert receiver.accepted
        spool.unheard(receiver.accepted)
        return receiver.accepted

    def test_repeat(
        self,
        begin: Callable[..., Receiver],
        spool: Spool,
        directory: Path,
        told: Callable[[], list[tuple[str, str]]],
        id: str,
    ) -> None:
        """H10: an upload whose reply was not heard is taken once, however often it comes."""
        receiver = begin()
        assert send(receiver) is ACCEPTED
        assert receiver.accepted == id
        assert [delivery.arrival.id for delivery in spool.waiting()] == [id]
        assert kept(spool, directory) == ([BODY], [])
        assert told() == [
            (
                "INFO",
                "192.0.2.7: sends upload ID again, whose reply it had not heard; taken once",
            )
        ]
        assert receiver.abort("too late") is None

    def test_not_heard_again(self, begin: Callable[..., Receiver], spool: Spool, id: str) -> None:
        """H10: the reply to a repeat may not be heard, either."""
        for _ in range(3):
            receiver = begin()
            assert send(receiver) is ACCEPTED
            assert receiver.accepted == id
            spool.unheard(id)
        assert len(spool.waiting()) == 1

    @pytest.mark.parametrize("done", [False, True], ids=["waiting", "delivered"])
    def test_deliberate(
        self, begin: Callable[..., Receiver], spool: Spool, id: str, done: bool
    ) -> None:
        """What is sent again after a reply that was heard is meant, and delivered."""
        if done:
            [delivery] = spool.waiting()
            spool.done(delivery)
        receivers = [begin(), begin()]
        assert [send(receiver) for receiver in receivers] == [ACCEPTED] * 2
        accepted = [receiver.accepted for receiver in receivers]
        assert accepted[0] == id
        assert accepted[1] in [delivery.arrival.id for delivery in spool.waiting()]
        assert accepted[1] != id

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
        for statement in ("BEGIN", "COMMIT"):
            with Faults((statement,), errno.EIO):
                assert send(begin()).status == 507
            assert kept(spool, directory) == ([BODY], [])
        receiver = begin()
        assert send(receiver) is ACCEPTED
        assert receiver.accepted == id


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
        assert receiver.finish().status == 413
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
            assert receiver.finish().status == 507
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
        """K05: an upload is taken only if it fits one and a half times, and 64 MiB beside it."""
        free = 3 * (length or 0) // 2 + MIN_FREE + spare
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
        assert reply.body == b'<Response ErrCode="507" ErrSubCode="0" /><!-- The disk is full -->'
        assert told() == [
            (
                "ERROR",
                f"192.0.2.7: an upload is refused: only 1.2 MB are free in {directory}, "
                f"too little for it; make room there",
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
            (("replace",), errno.EROFS, {OSError(errno.EROFS, "Read-only file system")}),
            (STATEMENTS, errno.EIO, {NO_STATE}),
            ((*CALLS, *STATEMENTS), errno.EIO, {BROKEN, NO_STATE}),
        ],
        ids=[
            "open",
            "write",
            "fsync",
            "close",
            "rename",
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
                status = send(Receiver(spool, config, announced)).status
            lines = [record.getMessage() for record in caplog.records]
            if status == 200:
                assert (first, [line[:16] for line in lines]) == (first, ["192.0.2.7: from "])
            else:
                told = [report.disk_error(reason, directory) for reason in reasons]
                expected = [f"192.0.2.7: an upload is refused: {line}" for line in told]
                assert (first, len(lines), [*lines, None][0] in expected) == (first, 1, True)
            assert send(Receiver(spool, config, announced), following) is ACCEPTED
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
        assert receiver.finish().status == 507
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
        path = receiver.abort("the client closed the connection")
        assert path
        assert path.read_bytes() == BODY[:size]
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

        monkeypatch.setattr("nxparse.spool.Incoming.fetch", broken)
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
        receiver = begin(inspect=inspect)
        assert send(receiver) is ACCEPTED
        assert receiver.body == expected

    @pytest.mark.parametrize("end", ["refused", "cut"])
    def test_not_accepted(self, begin: Callable[..., Receiver], end: str) -> None:
        """What was refused or cut is what people want to look at most."""
        receiver = begin(inspect=1000)
        feed(receiver, b"not multipart")
        before = receiver.body
        if end == "refused":
            receiver.finish()
        else:
            receiver.abort("the client closed the connection")
        assert (before, receiver.body) == (None, b"not multipart")

    def test_empty(self, begin: Callable[..., Receiver]) -> None:
        """Of nothing there is nothing to look at."""
        receiver = begin(inspect=1000)
        receiver.finish()
        assert receiver.body is None


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

from __future__ import annotations

import base64
import email
import email.policy
import errno
import json
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from email.message import EmailMessage
from email.utils import formatdate
from functools import partial
from pathlib import Path

import pytest

from nxparse import config, upload
from nxparse.config import Config
from nxparse.deliver import mail
from nxparse.deliver.errors import (
    Outcome,
    PermanentError,
    Refused,
    TemporaryError,
    TooLargeError,
    UnreachableError,
)
from nxparse.deliver.mail import OutgoingMessage, Smarthost
from nxparse.deliver.save import folder_for
from nxparse.deliver.targets import deliver_to, keep
from nxparse.store.records import Delivery, StoredUpload
from nxparse.upload import File, Upload
from tests import bodies
from tests.bodies import CONTENT_TYPE, RECIPIENT, SENDER, TEXT, TITLE, body, jpeg, message_xml
from tests.faults import Faults, contents
from tests.mastodon_server import TOKEN, MastodonServer
from tests.web_servers import HOST, WebServer

NEW_YEAR = 1767225600.0  # 2026-01-01 00:00 UTC
ID = "20260101T000000Z-00000000"
PHOTOS = {"A.JPG": jpeg(500), "B.JPG": jpeg(600)}


def configured(directory: Path, **options: object) -> Config:
    """Options of which only these are set."""
    values = {option.name: option.default for option in config.OPTIONS}
    values["nx_dir"] = str(directory)
    return config.parse({**values, **options}, {})


def mailing(directory: Path, **options: object) -> Config:
    return configured(
        directory, nx_smtp="smtp://u:secret@mail.example:25", nx_senders=["*"], **options
    )


def uploaded(sender: str = SENDER) -> Upload:
    return upload.read(body(list(PHOTOS.items()), message=message_xml(sender=sender)), CONTENT_TYPE)


def delivery(target: str, recipients: Sequence[str] = (RECIPIENT,), part: int = 0) -> Delivery:
    arrival = StoredUpload(ID, NEW_YEAR, "192.0.2.7", SENDER)
    return Delivery(arrival, target, part, tuple(recipients), 0, 0.0, NEW_YEAR, "")


def files_of(found: Upload, part: int) -> Sequence[File]:
    return found.files[part - 1 : part] if part else found.files


def deliver(
    given: Config, target: str, environ: Mapping[str, str] | None = None, part: int = 0
) -> Outcome:
    found, one = uploaded(), delivery(target, part=part)
    return deliver_to(given, environ or {}, target)(found, files_of(found, part), one)


class TestSave:
    @pytest.mark.parametrize(
        ("target", "environ", "folder"),
        [
            ("save", {}, "uploads"),
            ("save:{dir}/archive", {}, "archive"),
            ("save:{dir}/a b:c", {}, "a b:c"),
            ("save:{dir}/${NAME}/x", {"NAME": "n"}, "n/x"),
            ("save:${NAME}", {"NAME": "{dir}/whole"}, "whole"),
            ("save:~/photos", {}, "home/photos"),
        ],
        ids=["nx_dir", "folder", "colon", "variable", "all variable", "home"],
    )
    def test_where(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        target: str,
        environ: dict[str, str],
        folder: str,
    ) -> None:
        """Files go below nx_dir, or where the target says, into a folder for the day."""
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        text = target.replace("{dir}", str(tmp_path))
        known = {key: value.replace("{dir}", str(tmp_path)) for key, value in environ.items()}
        outcome = deliver(configured(tmp_path / "uploads"), text, known)
        day = folder_for(tmp_path / folder, NEW_YEAR)
        assert contents(day) == PHOTOS
        shown = f"saved as {day / 'A.JPG'} (500 bytes), {day / 'B.JPG'} (600 bytes)"
        assert outcome == Outcome(shown)

    def test_one_file(self, tmp_path: Path) -> None:
        """A delivery of one file saves that one."""
        deliver(configured(tmp_path), "save", part=2)
        assert contents(folder_for(tmp_path, NEW_YEAR)) == {"B.JPG": PHOTOS["B.JPG"]}

    def test_failure(self, tmp_path: Path) -> None:
        """What fails on the disk is for the outbox to judge."""
        with (
            Faults(("write", "copy_file_range"), errno.ENOSPC, persistent=True),
            pytest.raises(OSError, match="No space left"),
        ):
            deliver(configured(tmp_path), "save")


def test_drop(tmp_path: Path) -> None:
    """What is to be dropped goes nowhere, and that is told."""
    outcome = deliver(configured(tmp_path), "drop")
    assert outcome == Outcome(f"dropped, as the rule for {RECIPIENT} says")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "environ", "told"),
    [
        (
            "pigeon:home",
            {},
            "there is no target 'pigeon': "
            "the targets are save, mail, run, forward, mastodon, notify, drop",
        ),
        ("save:", {}, "nothing stands behind 'save:'"),
        (
            "save:/x/${NAME}",
            {},
            "nx_route=save:/x/${NAME}: the environment has no variable NAME; "
            "set it before you start mitmproxy",
        ),
        ("mail", {}, "nx_smtp names no mail server any more"),
        ("mail:b@example.org", {}, "nx_smtp names no mail server any more"),
        (
            "run:x {path}",
            {},
            "there is no placeholder {path}: "
            "there are {file}, {sender}, {recipient}, {subject}, {text}, {camera}",
        ),
        ("run:x '", {}, "No closing quotation"),
        (
            "run:x ${NAME}",
            {},
            "nx_route=run:x ${NAME}: the environment has no variable NAME; "
            "set it before you start mitmproxy",
        ),
        (
            "forward:https://me:s3cret@h/s3cret/${NAME}",
            {},
            "nx_route=forward:https://h/...: the environment has no variable NAME; "
            "set it before you start mitmproxy",
        ),
        ("run:${NAME}", {"NAME": " "}, "nothing stands behind run:${NAME}: a variable is empty"),
        ("forward:mail.example", {}, "not a URL like https://host/path"),
        (
            "forward:http://me:${NAME}@h:port/",
            {"NAME": "secret"},
            "not a URL like https://host/path",
        ),
        (
            "forward:${NAME}",
            {"NAME": ""},
            "nothing stands behind forward:${NAME}: a variable is empty",
        ),
    ],
    ids=[
        "unknown",
        "empty",
        "no variable",
        "no server",
        "no server for an address",
        "no placeholder",
        "no command",
        "no variable for a command",
        "no variable beside a secret",
        "empty command",
        "no URL",
        "no URL with a secret",
        "empty URL",
    ],
)
def test_cannot_be_used_now(
    tmp_path: Path, target: str, environ: dict[str, str], told: str
) -> None:
    """A target of an earlier day that the options do not know any more waits for them."""
    with pytest.raises(TemporaryError) as caught:
        deliver(configured(tmp_path), target, environ)
    assert str(caught.value) == told
    assert not caught.value.retry_after


@pytest.mark.parametrize("target", ["save:${EMPTY}", "mail:${EMPTY}", "save:~nobody-has-this/x"])
def test_says_nothing_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """What turns out to be empty, or no folder, waits; it is not another target."""
    monkeypatch.setattr(mail, "send", lambda letter, server: [])
    with pytest.raises(TemporaryError):
        deliver(mailing(tmp_path), target, {"EMPTY": ""})
    assert list(tmp_path.iterdir()) == []


class TestMail:
    @pytest.fixture
    def sent(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[OutgoingMessage, Smarthost]]:
        """What was sent. Recipients whose name begins with `no` are refused."""
        letters: list[tuple[OutgoingMessage, Smarthost]] = []

        def send(letter: OutgoingMessage, server: Smarthost) -> list[Refused]:
            letters.append((letter, server))
            return [
                Refused(one, True, "550 no") for one in letter.recipients if one.startswith("no")
            ]

        monkeypatch.setattr(mail, "send", send)
        return letters

    @pytest.mark.parametrize(
        ("target", "recipients", "reached", "refused", "told"),
        [
            ("mail", ["a@b.org"], ["a@b.org"], [], "mailed to a@b.org"),
            (
                "mail",
                ["a@b.org", "c@b.org"],
                ["a@b.org", "c@b.org"],
                [],
                "mailed to a@b.org, c@b.org",
            ),
            ("mail", ["a@b.org", "no@b.org"], ["a@b.org"], ["no@b.org"], "mailed to a@b.org"),
            ("mail", ["no@b.org"], [], ["no@b.org"], "not mailed"),
            ("mail:x@y.org", ["a@b.org", "c@b.org"], ["x@y.org"], [], "mailed to x@y.org"),
            ("mail:${WHO}@y.org", ["a@b.org"], ["me@y.org"], [], "mailed to me@y.org"),
            ("mail", ["a@b\u00fc.org"], ["a@xn--b-eha.org"], [], "mailed to a@xn--b-eha.org"),
            ("mail", ["no@b\u00fc.org"], [], ["no@b\u00fc.org"], "not mailed"),
        ],
        ids=["one", "two", "mixed", "refused", "address", "variable", "IDN", "IDN refused"],
    )
    def test_recipients(
        self,
        tmp_path: Path,
        sent: list[tuple[OutgoingMessage, Smarthost]],
        target: str,
        recipients: list[str],
        reached: list[str],
        refused: list[str],
        told: str,
    ) -> None:
        """One mail for the recipients, or to the address that the target names."""
        found, one = uploaded(), delivery(target, recipients)
        given = mailing(tmp_path)
        outcome = deliver_to(given, {"WHO": "me"}, target)(found, found.files, one)
        assert outcome == Outcome(
            f"{told} through mail.example:25",
            tuple(Refused(name, True, "550 no") for name in refused),
        )
        [(letter, server)] = sent
        spelled = [name.replace("b\u00fc", "xn--b-eha") for name in refused]
        assert sorted(letter.recipients) == sorted(reached + spelled)
        assert server is given.smtp

    def test_other_address_refused(
        self, tmp_path: Path, sent: list[tuple[OutgoingMessage, Smarthost]]
    ) -> None:
        """Without its only address a mail has failed, however many were typed."""
        target = "mail:nobody@y.org"
        found, one = uploaded(), delivery(target, ["a@b.org", "c@b.org"])
        with pytest.raises(PermanentError, match=r"^550 no$"):
            deliver_to(mailing(tmp_path), {}, target)(found, found.files, one)

    @pytest.mark.parametrize("part", [0, 2])
    def test_letter(
        self, tmp_path: Path, sent: list[tuple[OutgoingMessage, Smarthost]], part: int
    ) -> None:
        """A letter has the id and the files of its delivery, and the date of the upload."""
        deliver(mailing(tmp_path, nx_mail_from="box@example.org"), "mail", part=part)
        [(letter, _)] = sent
        id = f"{ID}.{part}" if part else ID
        assert f"Message-ID: <{id}@example.org>".encode() in letter.head
        assert b"Date: " in letter.head
        assert letter.sender == "box@example.org"
        names = [file.name for _, file in letter.attachments]
        assert names == (["B.JPG"] if part else ["A.JPG", "B.JPG"])

    def test_no_address(
        self, tmp_path: Path, sent: list[tuple[OutgoingMessage, Smarthost]]
    ) -> None:
        """What can never be mailed is told at once."""
        one = delivery("mail", ["nobody"])
        found = uploaded()
        with pytest.raises(PermanentError, match="'nobody' is not an e-mail address"):
            deliver_to(mailing(tmp_path), {}, "mail")(found, found.files, one)
        assert sent == []


def piece(data: bytes, start: int, end: int) -> bytes:
    return data[start:end]


class TestPost:
    """Mail of what was posted to a social site."""

    ADDRESS = "box@example.net"

    @pytest.fixture
    def sent(self, monkeypatch: pytest.MonkeyPatch) -> list[OutgoingMessage]:
        letters: list[OutgoingMessage] = []

        def send(letter: OutgoingMessage, server: Smarthost) -> list[Refused]:
            letters.append(letter)
            return []

        monkeypatch.setattr(mail, "send", send)
        return letters

    def deliver(self, given: Config, login: str, album: str = "NX300", part: int = 0) -> Outcome:
        files = [
            upload.whole(name, "", len(data), partial(piece, data)) for name, data in PHOTOS.items()
        ]
        found = upload.posted(login, "facebook", album, "At the sea\n~Anna's boat", files)
        target = f"mail:{self.ADDRESS}"
        arrival = StoredUpload(ID, NEW_YEAR, "192.0.2.7", login, "facebook")
        one = Delivery(arrival, target, part, ("facebook",), 0, 0.0, NEW_YEAR, "")
        return deliver_to(given, {}, target)(found, files_of(found, part), one)

    @staticmethod
    def read(letter: OutgoingMessage) -> EmailMessage:
        message = email.message_from_bytes(b"".join(letter.chunks()), policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        return message

    @pytest.mark.parametrize(
        ("login", "mail_from", "envelope", "shown", "reply_to"),
        [
            ("anna@example.org", "", "anna@example.org", "anna@example.org", None),
            ("anna", "", ADDRESS, f"anna <{ADDRESS}>", None),
            ("Anna B.", "", ADDRESS, f'"Anna B." <{ADDRESS}>', None),
            ('A "x" <y>, z', "", ADDRESS, f'"A \\"x\\" <y>, z" <{ADDRESS}>', None),
            ("Änne 안나", "", ADDRESS, f"Änne 안나 <{ADDRESS}>", None),
            (
                "anna@example.org",
                "nx@example.com",
                "nx@example.com",
                "nx@example.com",
                "anna@example.org",
            ),
            ("anna", "nx@example.com", "nx@example.com", "anna <nx@example.com>", None),
            ("anna@bücher.example", "", "anna@xn--bcher-kva.example",
                "anna@xn--bcher-kva.example", None),
        ],
        ids=[
            "address",
            "name",
            "name of several words",
            "hostile name",
            "name in all letters",
            "address, and nx_mail_from",
            "name, and nx_mail_from",
            "IDN",
        ],
    )  # fmt: skip
    def test_from(
        self,
        tmp_path: Path,
        sent: list[OutgoingMessage],
        login: str,
        mail_from: str,
        envelope: str,
        shown: str,
        reply_to: str | None,
    ) -> None:
        """It comes from who has logged in, if that is an address, else from where it goes."""
        self.deliver(mailing(tmp_path, nx_mail_from=mail_from), login)
        [letter] = sent
        message = self.read(letter)
        assert (letter.sender, letter.recipients) == (envelope, (self.ADDRESS,))
        assert (str(message["From"]), message["Reply-To"]) == (shown, reply_to)
        assert message["To"] == self.ADDRESS

    @pytest.mark.parametrize(
        ("album", "subject"),
        [("NX300", "facebook: NX300"), ("", "facebook")],
        ids=["album", "none"],
    )
    def test_subject(
        self, tmp_path: Path, sent: list[OutgoingMessage], album: str, subject: str
    ) -> None:
        """The subject is the site and the album, the text what its user wrote."""
        outcome = self.deliver(mailing(tmp_path), "anna", album)
        message = self.read(sent[0])
        text = message.get_body()
        assert text is not None
        assert (message["Subject"], text.get_content()) == (subject, "At the sea\n~Anna's boat")
        assert outcome == Outcome(f"mailed to {self.ADDRESS} through mail.example:25")

    @pytest.mark.parametrize("part", [0, 2])
    def test_photos(self, tmp_path: Path, sent: list[OutgoingMessage], part: int) -> None:
        """The photos are attached; the id and the date are those of the post."""
        self.deliver(mailing(tmp_path), "anna", part=part)
        message = self.read(sent[0])
        attached = {one.get_filename(): one.get_content() for one in message.iter_attachments()}
        assert attached == ({"B.JPG": PHOTOS["B.JPG"]} if part else PHOTOS)
        assert message["Message-ID"] == f"<{ID}{'.2' if part else ''}@example.net>"
        assert message["Date"].datetime.timestamp() == NEW_YEAR

    @pytest.mark.parametrize("site", ["", "facebook"], ids=["e-mail", "post"])
    def test_not_for_mail(self, tmp_path: Path, sent: list[OutgoingMessage], site: str) -> None:
        """Only a post may come from where it goes: what was sent as mail names its sender."""
        found = uploaded("nobody")
        target = f"mail:{self.ADDRESS}"
        arrival = StoredUpload(ID, NEW_YEAR, "192.0.2.7", "nobody", site)
        one = Delivery(arrival, target, 0, ("x@example.org",), 0, 0.0, NEW_YEAR, "")
        deliver = deliver_to(mailing(tmp_path), {}, target)
        if site:
            deliver(found, found.files, one)
            return
        with pytest.raises(PermanentError, match="'nobody' is not an e-mail address"):
            deliver(found, found.files, one)
        assert sent == []


def posted(text: str = "At the sea") -> Upload:
    """What was posted to a social site."""
    files = [
        upload.whole(name, "", len(data), partial(piece, data)) for name, data in PHOTOS.items()
    ]
    return upload.posted("anna", "facebook", "NX300", text, files)


@pytest.mark.skipif(os.name != "posix", reason="needs commands as POSIX has them")
class TestRun:
    NAME = Path(sys.executable).name

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        (tmp_path / "uploads" / ".nx").mkdir(parents=True)

    @staticmethod
    def target(tmp_path: Path, *arguments: str) -> str:
        """A target that writes down its arguments, and keeps the file in the first of them."""
        code = (
            "import os, sys; out, path, *more = sys.argv[1:]\n"
            "print(*more, sep='|', file=open(os.path.join(out, 'arguments'), 'a'))\n"
            "os.link(path, os.path.join(out, os.path.basename(path)))"
        )
        words = shlex.join([sys.executable, "-I", "-S", "-c", code, str(tmp_path)])
        return f"run:{words} {{file}} {' '.join(arguments)}"

    def run(
        self,
        tmp_path: Path,
        found: Upload,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        part: int = 1,
        recipients: Sequence[str] = (RECIPIENT,),
    ) -> Outcome:
        target = self.target(tmp_path, *arguments)
        given = configured(tmp_path / "uploads")
        one = delivery(target, recipients, part=part)
        return deliver_to(given, environ or {}, target)(found, files_of(found, part), one)

    @pytest.mark.parametrize("part", [1, 2])
    def test_one_file(self, tmp_path: Path, part: int) -> None:
        """A command gets a file, and what was written on the camera."""
        outcome = self.run(
            tmp_path,
            uploaded(),
            *("{sender}", "{recipient}", "{subject}", "{text}", "{camera}"),
            part=part,
            recipients=("a@b.org", "c@b.org"),
        )
        assert outcome == Outcome(f"{self.NAME} has done it")
        found = contents(tmp_path)
        told = f"{SENDER}|a@b.org,c@b.org|{TITLE}|{TEXT}|\n"
        assert found.pop("arguments") == told.encode()
        assert found == dict([list(PHOTOS.items())[part - 1]])

    def test_place(self, tmp_path: Path) -> None:
        """The file is in the folder that is ours alone, as long as the command runs."""
        place = tmp_path / "uploads" / ".nx"
        self.run(tmp_path, uploaded(), "{file}")
        path = Path(contents(tmp_path)["arguments"].decode().strip())
        assert (path.parent.parent, path.name) == (place, "A.JPG")
        assert list(place.iterdir()) == []

    def test_post(self, tmp_path: Path) -> None:
        """Of a post the camera is its album."""
        self.run(tmp_path, posted(), "{sender}", "{camera}", "{text}")
        assert contents(tmp_path)["arguments"] == b"anna|NX300|At the sea\n"

    def test_several_files(self, tmp_path: Path) -> None:
        """Several files are too many for one command."""
        with pytest.raises(TooLargeError, match="a command gets one file at a time"):
            self.run(tmp_path, uploaded(), part=0)
        assert contents(tmp_path) == {}

    def test_no_file(self, tmp_path: Path) -> None:
        """Where there is no file there is nothing to do."""
        found = upload.posted("me", "facebook", "", "", [])
        assert self.run(tmp_path, found, part=0) == Outcome("has no file for a command")
        assert contents(tmp_path) == {}

    def test_variables(self, tmp_path: Path) -> None:
        """A variable of the rule is one argument, and none that a stranger names is looked up."""
        environ = {"TOKEN": "a 'b' $(c) ${TOKEN}", "SMTP_PASSWORD": "secret"}
        text = "${SMTP_PASSWORD} {file} {sender} $SMTP_PASSWORD"
        self.run(tmp_path, posted(text), "-${TOKEN}-", "{text}", environ=environ)
        assert contents(tmp_path)["arguments"].decode() == f"-{environ['TOKEN']}-|{text}\n"

    def test_braces(self, tmp_path: Path) -> None:
        """What looks like a placeholder is none where a variable or a stranger has brought it."""
        environ = {"TOKEN": "{word} {file} {text}"}
        self.run(tmp_path, posted("{word} {file}"), "${TOKEN}", "{text}", environ=environ)
        assert contents(tmp_path)["arguments"] == b"{word} {file} {text}|{word} {file}\n"

    def test_program_from_a_variable(self, tmp_path: Path) -> None:
        """A program that a variable names is told as it is written."""
        found = uploaded()
        given = configured(tmp_path / "uploads")
        deliver = deliver_to(given, {"PROGRAM": "true"}, "run:${PROGRAM} {file}")
        outcome = deliver(found, found.files[:1], delivery("run:${PROGRAM}", part=1))
        assert outcome == Outcome("${PROGRAM} has done it")

    def test_no_program(self, tmp_path: Path) -> None:
        """Where there is no program nothing else goes either."""
        found = uploaded()
        deliver = deliver_to(configured(tmp_path / "uploads"), {}, "run:no-such-program-here")
        with pytest.raises(UnreachableError, match="there is no program no-such-program-here"):
            deliver(found, found.files[:1], delivery("run:no-such-program-here", part=1))

    def test_failure(self, tmp_path: Path) -> None:
        """What the command says is for the outbox to judge."""
        found = uploaded()
        for status, expected in ((1, PermanentError), (75, TemporaryError)):
            target = f"run:sh -c 'exit {status}'"
            deliver = deliver_to(configured(tmp_path / "uploads"), {}, target)
            with pytest.raises(expected, match=f"sh ended with status {status}"):
                deliver(found, found.files[:1], delivery(target, part=1))


class TestForward:
    @pytest.mark.parametrize("part", [0, 1, 2])
    def test_upload(self, tmp_path: Path, part: int) -> None:
        """An upload is posted as `repair` would write it, or with the one file of a part."""
        with WebServer() as server:
            target = f"forward:http://me:${{PASSWORD}}@{HOST}:{server.port}/${{HOOK}}?x=1"
            environ = {"PASSWORD": "secret", "HOOK": "hook"}
            outcome = deliver(configured(tmp_path), target, environ, part)
        photos = list(PHOTOS.items())
        sent = body(photos[part - 1 : part] if part else photos, message=message_xml())
        post = server.post
        boundary = post.header("Content-Type").rpartition("=")[2]
        expected = bodies.repaired(sent, CONTENT_TYPE, boundary)
        assert (post.header("Content-Type"), post.body) == expected
        assert post.line == "POST /hook?x=1 HTTP/1.1"
        assert post.header("Authorization") == "Basic bWU6c2VjcmV0"
        assert post.header("Idempotency-Key") == (f'"{ID}.{part}"' if part else f'"{ID}"')
        assert outcome == Outcome(f"forwarded to {HOST}:{server.port}, which says 200")

    @pytest.mark.parametrize("part", [0, 2])
    def test_post(self, tmp_path: Path, part: int) -> None:
        """A post is a form like any other, of which an upload can be read."""
        found = posted("<At the sea>")
        with WebServer() as server:
            target = f"forward:http://{HOST}:{server.port}"
            one = delivery(target, ["facebook"], part=part)
            deliver_to(configured(tmp_path), {}, target)(found, files_of(found, part), one)
        again = upload.read(server.post.body, server.post.header("Content-Type"))
        assert (again.sender, again.recipients) == ("anna", ("facebook",))
        assert (again.subject, again.text) == ("facebook: NX300", "<At the sea>")
        assert {file.name: file.data for file in again.files} == (
            {"B.JPG": PHOTOS["B.JPG"]} if part else PHOTOS
        )

    @pytest.mark.parametrize(
        "target",
        [
            "forward:http://{host}/in${{SLASH}}it?x=${{ODD}}",
            "forward:${{BASE}}/in${{SLASH}}it?x=${{ODD}}",
        ],
        ids=["parts", "the beginning"],
    )
    def test_variables_in_the_path(self, tmp_path: Path, target: str) -> None:
        """In a query a variable may hold anything; in a path it is a part of that."""
        with WebServer() as server:
            host = f"{HOST}:{server.port}"
            environ = {"BASE": f"http://{host}", "ODD": "/?#@:%&=+ ü", "SLASH": "/"}
            deliver(configured(tmp_path), target.format(host=host), environ)
        odd = "%2F%3F%23%40%3A%25%26%3D%2B%20%C3%BC"
        assert server.post.line == f"POST /in/it?x={odd} HTTP/1.1"

    @pytest.mark.parametrize("odd", ["/", "?", "#", "@", ":", "%41", "[", " ", "/?#@:%[] ü\r\n"])
    def test_variables_in_the_login(self, tmp_path: Path, odd: str) -> None:
        """A password may be any; none of it becomes the host."""
        with WebServer() as server:
            target = f"forward:http://${{USER}}:${{PASSWORD}}@{HOST}:{server.port}/"
            environ = {"USER": odd.replace(":", ""), "PASSWORD": f"mail.example{odd}x"}
            deliver(configured(tmp_path), target, environ)
        login = base64.b64decode(server.post.header("Authorization").removeprefix("Basic "))
        assert login.decode() == f"{environ['USER']}:{environ['PASSWORD']}"

    def test_whole_url_from_a_variable(self, tmp_path: Path) -> None:
        """A variable may hold all of a URL."""
        with WebServer() as server:
            environ = {"URL": f"http://me:secret@{HOST}:{server.port}/hook"}
            deliver(configured(tmp_path), "forward:${URL}", environ)
        assert server.post.line == "POST /hook HTTP/1.1"

    def test_later(self, tmp_path: Path) -> None:
        """A server that names a time is asked again at that time."""
        when = formatdate(time.time() + 600, usegmt=True)
        busy = f"HTTP/1.1 503 Busy\r\nRetry-After: {when}\r\n\r\n".encode()
        with WebServer(busy) as server, pytest.raises(TemporaryError) as caught:
            deliver(configured(tmp_path), f"forward:http://{HOST}:{server.port}/")
        assert caught.value.retry_after == pytest.approx(600, abs=30)

    def test_nobody_listens(self, tmp_path: Path) -> None:
        """Where nobody listens nothing else goes either."""
        with WebServer() as server:
            pass
        with pytest.raises(UnreachableError):
            deliver(configured(tmp_path), f"forward:http://{HOST}:{server.port}/")


def test_notify(tmp_path: Path) -> None:
    """A service that Apprise knows gets the title, the text and the files."""
    pytest.importorskip("apprise")
    (tmp_path / ".nx").mkdir()
    with WebServer() as server:
        target = f"notify:json://me:${{PASSWORD}}@{HOST}:{server.port}/hook"
        outcome = deliver(configured(tmp_path), target, {"PASSWORD": "secret"}, part=2)
    told = json.loads(server.post.body)
    assert (told["title"], told["message"]) == (TITLE, TEXT)
    assert [one["filename"] for one in told["attachments"]] == ["B.JPG"]
    assert server.post.header("Authorization") == "Basic bWU6c2VjcmV0"
    assert outcome == Outcome("sent by Apprise")


class TestMastodon:
    @pytest.mark.parametrize(
        ("site", "subject", "text", "part", "expected"),
        [
            pytest.param("", "From me", "At the sea", 0, "At the sea", id="text"),
            pytest.param("", "From me", "", 0, "From me", id="subject"),
            pytest.param("facebook", "facebook: NX300", "", 0, "", id="no-caption"),
            pytest.param("facebook", "", "Sea~A boat~Anna", 0, "Sea", id="descriptions"),
            pytest.param("facebook", "", "Sea~A boat~Anna", 1, "Sea", id="first-file"),
            pytest.param("facebook", "", "Sea~A boat~Anna", 2, "Sea", id="second-file"),
            pytest.param("facebook", "", "Sea~A boat", 2, "Sea", id="second-file-undescribed"),
        ],
    )
    def test_status(
        self, tmp_path: Path, site: str, subject: str, text: str, part: int, expected: str
    ) -> None:
        """What was typed is posted, and each photo has the description that is meant for it."""
        found = replace(posted(), subject=subject, text=text)
        with MastodonServer() as server:
            target = f"mastodon:http://${{TOKEN}}@{HOST}:{server.port}"
            arrival = StoredUpload(ID, NEW_YEAR, "192.0.2.7", "anna", site)
            one = Delivery(arrival, target, part, ("facebook",), 0, 0.0, NEW_YEAR, "")
            deliver_to(configured(tmp_path), {"TOKEN": TOKEN}, target)(
                found, files_of(found, part), one
            )
        [status] = server.statuses
        descriptions = [*text.split("~")[1:], None, None][:2]
        assert status.text.removesuffix("📷 NX300").rstrip() == expected
        assert [media.description for media in status.media] == (
            descriptions[part - 1 : part] if part else descriptions
        )

    def test_key(self, tmp_path: Path) -> None:
        """A post has one key, however often it is tried, and in each target another."""
        keys = []
        with MastodonServer() as server:
            url = f"mastodon:http://{TOKEN}@{HOST}:{server.port}"
            for target in (url, url, f"{url}?visibility=private"):
                deliver(configured(tmp_path), target)
                keys.append(server.statuses[-1].idempotency_key)
        assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("part", [0, 1])
def test_keep(tmp_path: Path, part: int) -> None:
    """Files of a failed delivery stand in `undelivered`, once however often they are kept."""
    found, one = uploaded(), delivery("mail", part=part)
    files = files_of(found, part)
    told = [keep(tmp_path, found, files, one) for _ in range(2)]
    day = folder_for(tmp_path / "undelivered", NEW_YEAR)
    assert contents(day) == ({"A.JPG": PHOTOS["A.JPG"]} if part else PHOTOS)
    assert told[0].startswith(f"saved as {day / 'A.JPG'} (500 bytes)")
    assert told[1].startswith(f"saved as {day / 'A.JPG'} (500 bytes, there already)")

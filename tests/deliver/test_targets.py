"""Each kind of target delivers an upload, with the current options and variables."""

from __future__ import annotations

import email
import email.policy
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from email.message import EmailMessage
from pathlib import Path

import pytest

from nxparse import upload
from nxparse.config import Config
from nxparse.deliver import mail
from nxparse.deliver.errors import Outcome, PermanentError, Refused, UnreachableError
from nxparse.deliver.mail import OutgoingMessage, Smarthost
from nxparse.deliver.routes import Target
from nxparse.deliver.save import folder_for
from nxparse.deliver.targets import deliver_to, prepare, save_undelivered
from nxparse.framing import fetch_from
from nxparse.upload import Upload
from tests.bodies import CONTENT_TYPE, RECIPIENT, SENDER, TEXT, TITLE, body, jpeg, message_xml
from tests.box import ID, NOON, configured, delivery
from tests.faults import contents
from tests.mastodon_server import TOKEN, MastodonServer
from tests.mitmdump import ROOT
from tests.web_servers import HOST, WebServer

PHOTOS = {"A.JPG": jpeg(500), "B.JPG": jpeg(600)}


def mailing(directory: Path, **options: object) -> Config:
    server = "smtp://u:secret@mail.example:25"
    return configured(directory, nx_smtp=server, nx_senders=["*"], **options)


def uploaded(sender: str = SENDER) -> Upload:
    """Return an upload by e-mail."""
    return upload.read(body(list(PHOTOS.items()), message=message_xml(sender=sender)), CONTENT_TYPE)


def posted(text: str = "At the sea", login: str = "anna", album: str = "NX300") -> Upload:
    """Return a post to a social site."""
    files = [upload.whole(name, "", len(data), fetch_from(data)) for name, data in PHOTOS.items()]
    return upload.posted(login, "facebook", album, text, files)


def deliver(
    given: Config,
    target: str,
    environ: Mapping[str, str] | None = None,
    *,
    found: Upload | None = None,
    file_number: int = 0,
    to: Sequence[str] = (RECIPIENT,),
    site: str = "",
) -> Outcome:
    """Deliver an upload, by default an e-mail with both photos."""
    found = found or uploaded()
    files = found.files[file_number - 1 : file_number] if file_number else found.files
    one = delivery(target, to=to, file_number=file_number, site=site)
    return deliver_to(given, environ or {}, target)(found, files, one)


def test_unknown_kind(tmp_path: Path) -> None:
    """A kind that `prepare` does not know is an error: its photos must not be dropped."""
    with pytest.raises(ValueError, match="unknown target 'fax'"):
        prepare(mailing(tmp_path), {}, Target("fax", "fax"))


def test_targets_are_imported_lazily() -> None:
    """The options can be parsed without the module of any target, which takes time."""
    code = "import sys, nxparse.config; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=-1, text=True, check=True)
    kinds = ("mail", "run", "forward", "mastodon", "notify", "http_client")
    assert {f"nxparse.deliver.{kind}" for kind in kinds} & {*done.stdout.split()} == set()


class TestSave:
    @pytest.mark.parametrize(
        ("target", "environ", "folder"),
        [
            ("save", {}, "uploads"),
            ("save:{dir}/a b:c", {}, "a b:c"),
            ("save:{dir}/${NAME}/x", {"NAME": "n"}, "n/x"),
            ("save:~/photos", {}, "home/photos"),
        ],
    )
    def test_where(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        target: str,
        environ: dict[str, str],
        folder: str,
    ) -> None:
        """Photos are saved in nx_dir or the folder of the target, in a subfolder for the day."""
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        text = target.replace("{dir}", str(tmp_path))
        outcome = deliver(configured(tmp_path / "uploads"), text, environ)
        day = folder_for(tmp_path / folder, NOON)
        assert contents(day) == PHOTOS
        shown = f"saved as {day / 'A.JPG'} (500 bytes), {day / 'B.JPG'} (600 bytes)"
        assert outcome == Outcome(shown)


def test_drop(tmp_path: Path) -> None:
    """A dropped upload is saved nowhere, and logged."""
    assert deliver(configured(tmp_path), "drop") == Outcome(f"dropped by the rule for {RECIPIENT}")
    assert list(tmp_path.iterdir()) == []


def test_save_undelivered(tmp_path: Path) -> None:
    """Files of a failed delivery are saved in `undelivered`, once even if that is repeated."""
    found = uploaded()
    first, again = (
        save_undelivered(tmp_path, found, found.files[:1], delivery("mail")).message
        for _ in range(2)
    )
    path = folder_for(tmp_path / "undelivered", NOON) / "A.JPG"
    assert contents(path.parent) == {"A.JPG": PHOTOS["A.JPG"]}
    assert (first, again) == (
        f"saved as {path} (500 bytes)",
        f"saved as {path} (500 bytes, already there)",
    )


UNSET = "the environment has no variable NAME; set it before you start mitmproxy"


@pytest.mark.parametrize(
    ("target", "environ", "reason"),
    [
        ("pigeon:home", {}, "unknown target 'pigeon': "),
        ("mail", {}, "nx_smtp is not set"),
        ("mail:${NAME}", {"NAME": ""}, "mail:${NAME} needs an argument: its variable is empty"),
        ("forward:https://me:s3cret@h/s3cret/${NAME}", {}, UNSET),
    ],
)
def test_cannot_be_used_now(
    tmp_path: Path, target: str, environ: dict[str, str], reason: str
) -> None:
    """A target that the options no longer allow is retried, in case they are corrected."""
    with pytest.raises(UnreachableError) as caught:
        deliver(configured(tmp_path), target, environ)
    assert str(caught.value).startswith(reason)
    assert not caught.value.retry_after
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[OutgoingMessage, Smarthost]]:
    """The messages that were sent. Recipients whose address begins with `no` are refused."""
    messages: list[tuple[OutgoingMessage, Smarthost]] = []

    def send(message: OutgoingMessage, server: Smarthost) -> list[Refused]:
        messages.append((message, server))
        recipients = message.recipients.values()
        return [Refused(one, True, "550 no") for one in recipients if one.startswith("no")]

    monkeypatch.setattr(mail, "send", send)
    return messages


def read(sent: list[tuple[OutgoingMessage, Smarthost]]) -> EmailMessage:
    [(message, _)] = sent
    found = email.message_from_bytes(b"".join(message.chunks()), policy=email.policy.default)
    assert isinstance(found, EmailMessage)
    return found


class TestMail:
    @pytest.mark.parametrize(
        ("target", "recipients", "reached", "refused"),
        [
            ("mail", ["a@b.org", "no@b.org"], ["a@b.org"], ["no@b.org"]),
            ("mail:x@y.org", ["a@b.org", "c@b.org"], ["x@y.org"], []),
            ("mail:${WHO}@y.org", ["a@b.org"], ["me@y.org"], []),
            ("mail", ["no@b\u00fc.org"], [], ["no@b\u00fc.org"]),
        ],
    )
    def test_recipients(
        self,
        tmp_path: Path,
        sent: list[tuple[OutgoingMessage, Smarthost]],
        target: str,
        recipients: list[str],
        reached: list[str],
        refused: list[str],
    ) -> None:
        """One message goes to all recipients, or to the address of the target."""
        given = mailing(tmp_path)
        outcome = deliver(given, target, {"WHO": "me"}, to=recipients)
        assert outcome == Outcome(
            f"mailed to {', '.join(reached)} through mail.example:25",
            tuple(Refused(name, True, "550 no") for name in refused),
        )
        [(message, server)] = sent
        normalized = [name.replace("b\u00fc", "xn--b-eha") for name in refused]
        assert sorted(message.recipients) == sorted(reached + normalized)
        assert server is given.smtp

    @pytest.mark.parametrize(
        ("site", "number", "subject"), [("", 0, TITLE), ("facebook", 2, "facebook: NX300")]
    )
    def test_message(
        self,
        tmp_path: Path,
        sent: list[tuple[OutgoingMessage, Smarthost]],
        site: str,
        number: int,
        subject: str,
    ) -> None:
        """A message has the id, the files, the text and the date of its delivery."""
        given = mailing(tmp_path, nx_mail_from="box@example.org")
        found = posted(TEXT) if site else uploaded()
        deliver(given, "mail:a@b.org", found=found, file_number=number, site=site)
        message = read(sent)
        id = f"{ID}.{number}" if number else ID
        assert message["Message-ID"] == f"<{id}@example.org>"
        assert message["Date"].datetime.timestamp() == NOON
        assert message["Subject"] == subject
        attached = {one.get_filename(): one.get_content() for one in message.iter_attachments()}
        assert attached == ({"B.JPG": PHOTOS["B.JPG"]} if number else PHOTOS)
        content = message.get_body()
        assert content
        assert content.get_content().replace("\r", "").startswith(TEXT)

    ADDRESS = "box@example.net"

    @pytest.mark.parametrize(
        ("login", "mail_from", "envelope", "shown", "reply_to"),
        [
            ("anna@example.org", "", "anna@example.org", "anna@example.org", None),
            ("anna", "", ADDRESS, f"anna <{ADDRESS}>", None),
            ("a@b.org", "nx@c.org", "nx@c.org", "nx@c.org", "a@b.org"),
        ],
    )
    def test_sender_of_a_post(
        self,
        tmp_path: Path,
        sent: list[tuple[OutgoingMessage, Smarthost]],
        login: str,
        mail_from: str,
        envelope: str,
        shown: str,
        reply_to: str | None,
    ) -> None:
        """Mail of a post is from nx_mail_from, the user if that is an address, or the target."""
        given = mailing(tmp_path, nx_mail_from=mail_from)
        deliver(given, f"mail:{self.ADDRESS}", found=posted(login=login), site="facebook")
        message = read(sent)
        assert sent[0][0].sender == envelope
        assert (str(message["From"]), message["Reply-To"]) == (shown, reply_to)
        assert message["To"] == self.ADDRESS

    def test_no_address(
        self, tmp_path: Path, sent: list[tuple[OutgoingMessage, Smarthost]]
    ) -> None:
        """An upload by e-mail needs addresses, and fails at once without them."""
        with pytest.raises(PermanentError, match="'nobody' is not an e-mail address"):
            deliver(mailing(tmp_path), "mail:a@b.org", found=uploaded("nobody"))
        assert sent == []


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX commands")
class TestRun:
    @pytest.fixture
    def given(self, tmp_path: Path) -> Config:
        (tmp_path / "uploads" / ".nx").mkdir(parents=True)
        return configured(tmp_path / "uploads")

    def test_post(self, tmp_path: Path, given: Config) -> None:
        """The file is in the private folder while the command runs; the album replaces {camera}."""
        out = tmp_path / "out"
        code = shlex.quote('printf "%s|" "$@" >"$0"')
        target = f"run:sh -c {code} {shlex.quote(str(out))} {{sender}} {{camera}} {{text}} {{file}}"
        deliver(given, target, found=posted(), file_number=1)
        *fields, path, _ = out.read_text().split("|")
        assert fields == ["anna", "NX300", "At the sea"]
        private = tmp_path / "uploads" / ".nx"
        assert (Path(path).is_relative_to(private), Path(path).name) == (True, "A.JPG")
        assert list(private.iterdir()) == []


class TestForward:
    def test_upload(self, tmp_path: Path) -> None:
        """An upload is posted to the URL with its variables replaced."""
        with WebServer() as server:
            target = f"forward:http://me:${{PASSWORD}}@{HOST}:{server.port}/${{HOOK}}?x=1"
            environ = {"PASSWORD": "secret", "HOOK": "hook"}
            outcome = deliver(configured(tmp_path), target, environ, file_number=2)
        assert server.post.line == "POST /hook?x=1 HTTP/1.1"
        assert server.post.header("Authorization") == "Basic bWU6c2VjcmV0"
        assert server.post.header("Idempotency-Key") == f'"{ID}.2"'
        assert outcome == Outcome(f"forwarded to {HOST}:{server.port}, status 200")


class TestMastodon:
    @pytest.mark.parametrize(
        ("site", "subject", "text", "number", "expected"),
        [
            ("", "From me", "", 0, "From me"),
            ("facebook", "facebook: NX300", "", 0, ""),
            ("facebook", "", "Sea~A boat~Anna", 0, "Sea"),
            ("facebook", "", "Sea~A boat~Anna", 2, "Sea"),
            ("facebook", "", "Sea~A boat", 2, "Sea"),
        ],
    )
    def test_status(
        self, tmp_path: Path, site: str, subject: str, text: str, number: int, expected: str
    ) -> None:
        """The text is posted, and each photo has its own description."""
        found = replace(posted(), subject=subject, text=text)
        with MastodonServer() as server:
            target = f"mastodon:http://${{TOKEN}}@{HOST}:{server.port}"
            given, environ = configured(tmp_path), {"TOKEN": TOKEN}
            deliver(given, target, environ, found=found, file_number=number, site=site)
        [status] = server.statuses
        descriptions = [*text.split("~")[1:], None, None][:2]
        assert status.text.removesuffix("📷 NX300").rstrip() == expected
        assert [media.description for media in status.media] == (
            descriptions[number - 1 : number] if number else descriptions
        )

    def test_key(self, tmp_path: Path) -> None:
        """A post keeps its key when it is retried, and has another one for another target."""
        keys = []
        with MastodonServer() as server:
            url = f"mastodon:http://{TOKEN}@{HOST}:{server.port}"
            for target in (url, url, f"{url}?visibility=private"):
                deliver(configured(tmp_path), target)
                keys.append(server.statuses[-1].idempotency_key)
        assert keys[0] == keys[1] != keys[2]

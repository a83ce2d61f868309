"""From the camera to an inbox: a real mitmdump or outbox, and real mail servers."""

from __future__ import annotations

import base64
import email
import email.policy
import io
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from email.message import EmailMessage
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest

from nxparse.cli.main import main
from nxparse.deliver.save import folder_for
from nxparse.store import disk
from tests import bodies, camera
from tests.box import NOON, Box
from tests.faults import contents
from tests.mastodon_server import TOKEN as ACCESS
from tests.mastodon_server import Call, MastodonServer
from tests.mitmdump import Proxy, eventually, free_port
from tests.pictures import photo
from tests.smtp_servers import Act, Authority, MailServer, Script, ScriptedServer, ehlo
from tests.web_servers import HOST, WebServer

PASSWORD = "correct horse/battery@stäple"
PHOTOS = {"SAM_1.JPG": bodies.jpeg(300_000, 1), "SAM_2.JPG": bodies.jpeg(50_000, 2)}
ANNA, BEN, _ = FRIENDS = ("anna@example.org", "ben@example.org", "clara@example.net")
UPLOAD_ID = r"\d{8}T\d{6}Z-[0-9a-f]{8}"


def body(*recipients: str, text: str = bodies.TEXT) -> bytes:
    message = bodies.message_xml(recipients=recipients or FRIENDS, text=text)
    return bodies.body(list(PHOTOS.items()), message=message)


def request(*recipients: str, text: str = bodies.TEXT) -> bytes:
    return bodies.request(body(*recipients, text=text))


def read(content: bytes) -> EmailMessage:
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def text_of(content: bytes) -> str:
    text = read(content).get_body()
    assert text is not None
    return str(text.get_content())


def attached(content: bytes) -> dict[str, bytes]:
    return {
        str(part.get_filename()): part.get_payload(decode=True)
        for part in read(content).iter_attachments()
    }


def outbox(proxy: Proxy, *arguments: str) -> str:
    """Return the output of the command `outbox`."""
    output, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(output), redirect_stderr(errors):
        status = main(["outbox", "--dir", str(proxy.uploads), *arguments])
    assert (status, errors.getvalue()) == (0, "")
    return output.getvalue()


def is_idle(proxy: Proxy) -> bool:
    """Return whether no delivery is pending."""
    return not re.search(UPLOAD_ID, outbox(proxy))


def undelivered(proxy: Proxy) -> dict[str, bytes]:
    """The photos whose delivery was abandoned."""
    return {path.name: path.read_bytes() for path in proxy.uploads.glob("undelivered/*/*")}


def test_login(folder: Path) -> None:
    """An upload becomes one mail over TLS, from the account, with Reply-To for the camera."""
    authority = Authority(folder)
    user = "me@example.com"
    server = MailServer(tls=authority.context(), login=(user, PASSWORD))
    environ = {"SSL_CERT_FILE": str(authority.file), "MAIL_PASSWORD": PASSWORD}
    with server:
        account = "me%40example.com:${MAIL_PASSWORD}"
        smtp = f"nx_smtp=smtp+starttls://{account}@{server.host}:{server.port}"
        options = ("--set", smtp, "--set", "nx_senders=*@samsungcamera.com")
        with Proxy(folder, *options, environ=environ) as proxy:
            reply = camera.send(proxy.port, request(text="Grüße\nvom Meer"))
            assert reply.body == camera.ACCEPTED
            (mail,) = server.wait(1)
            proxy.wait_for(f"mailed to {', '.join(FRIENDS)} through")
            log = proxy.log
    assert (mail.user, mail.secure) == (user, True)
    assert (mail.sender, mail.recipients) == (user, FRIENDS)
    message = read(mail.content)
    assert (message["From"], message["Reply-To"]) == (user, bodies.SENDER)
    assert (message["To"], message["Subject"]) == (", ".join(FRIENDS), bodies.TITLE)
    assert text_of(mail.content) == "Grüße\nvom Meer"
    assert attached(mail.content) == PHOTOS
    token = base64.b64encode(f"\0{user}\0{PASSWORD}".encode()).decode()
    secrets = [PASSWORD, quote(PASSWORD), quote(PASSWORD, ""), "correct", "stäple", token]
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    everything = b"".join([log.encode(), *files])
    assert [secret for secret in secrets if secret.encode() in everything] == []


EXIM = """
primary_hostname = mail.example
local_interfaces = 127.0.0.1
daemon_smtp_ports = {port}
spool_directory = {folder}/spool
log_file_path = {folder}/%slog
acl_smtp_rcpt = accept
qualify_domain = mail.example
message_size_limit = 50M
keep_environment =
begin routers
all:
  driver = accept
  transport = mailbox
begin transports
mailbox:
  driver = appendfile
  file = {folder}/mailbox
  user = Debian-exim
  mode = 0600
  batch_max = 100
  envelope_to_add
"""


@contextmanager
def exim() -> Iterator[tuple[int, Path]]:
    """Debian's mail server with a configuration of its own. Yields its port and mailbox."""
    port = free_port()
    # Its delivery processes may end after the daemon, and write to its log until then.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.chown(folder, "Debian-exim")  # Exim changes to this user
        (folder / "conf").write_text(EXIM.format(port=port, folder=folder))
        with (folder / "output").open("wb") as output:
            server = subprocess.Popen(
                ["exim4", "-C", str(folder / "conf"), "-bdf", "-q1m"], stdout=output, stderr=output
            )
        try:
            eventually(lambda: listens(port) or server.poll() is not None, "exim listens")
            assert server.poll() is None, (folder / "output").read_text()
            yield port, folder / "mailbox"
        finally:
            server.terminate()
            server.wait()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif(
    shutil.which("exim4") is None or os.geteuid() != 0, reason="needs exim4, and root to run it"
)
def test_exim(folder: Path) -> None:
    """Exim accepts the mail, and the photos in the mailbox are unchanged."""
    text = ".\nFrom here\n..\n" + "x" * 2000
    with exim() as (port, mailbox):
        smtp, sender = f"smtp://127.0.0.1:{port}", "camera@mail.example"
        box = Box(folder, "mail", {}, body(text=text), FRIENDS, nx_smtp=smtp, nx_mail_from=sender)
        box.deliver()
        assert box.waits == []

        def complete() -> bool:
            return mailbox.exists() and mailbox.read_bytes().endswith(b"--\n\n")

        eventually(complete, "exim delivers")
        envelope, _, content = mailbox.read_bytes().partition(b"\n")
    assert envelope.startswith(b"From camera@mail.example ")
    message = read(content)
    assert sorted(str(message["Envelope-to"]).replace("\n", "").split(", ")) == list(FRIENDS)
    assert (message["From"], message["Reply-To"]) == ("camera@mail.example", bodies.SENDER)
    assert text_of(content) == text
    assert attached(content) == PHOTOS


SECRET = "s3cret"
ME = f"me:{SECRET}@"
AUTH = ehlo("AUTH PLAIN LOGIN")
NO_USER = "550 5.1.1 no such user"
TOO_LARGE_FOR_BEN = "550 5.2.3 RESOLVER.RST.RecipSizeLimit; message too large for this recipient"


class Outcome(NamedTuple):
    """The script of a mail server, and the result.

    `ends` is the number of messages whose final dot was sent. `state` is the state of the
    deliveries in the end. `wait` is the time until the next attempt in seconds.
    """

    script: Script
    ends: int
    state: str
    reason: str = ""
    login: str = ""
    wait: float = 15.0


OUTCOMES = {
    "535": Outcome({"EHLO": AUTH, "AUTH": "535 no"}, 0, "waiting", "check the user", ME, wait=3600),
    "mail-550": Outcome({"MAIL": "550 never"}, 0, "failed", "550 never"),
    "mail-552": Outcome({"MAIL": ["552 large", "250 OK"]}, 2, "done"),
    "rcpt-550": Outcome({"RCPT": NO_USER}, 0, "failed", NO_USER),
    "end-554-size": Outcome({".": ["554 Message too large", "250 OK"]}, 3, "done"),
    "lost-after-the-dot": Outcome({".": Act.CLOSE}, 1, "waiting", "may have been accepted"),
    "reset-after-250": Outcome({".": ("250 queued", Act.RESET)}, 1, "done"),
}


class TestOutbox:
    """The outbox without mitmdump, and a mail server."""

    @pytest.mark.parametrize("row", OUTCOMES.values(), ids=OUTCOMES)
    def test_outcome(self, tmp_path: Path, row: Outcome) -> None:
        """Whatever the server replies, each photo is mailed, pending or saved."""
        with ScriptedServer(row.script) as server:
            box = mailing(tmp_path, server, [ANNA], login=row.login)
            box.deliver()
            states = statuses(box)
        assert {state for state, _ in states} == {row.state}
        assert all(row.reason in reason for _, reason in states)
        saved = contents(folder_for(tmp_path / "undelivered", NOON))
        assert saved == (PHOTOS if row.state == "failed" else {})
        assert [wait for _, wait in box.waits] == ([row.wait] if row.state == "waiting" else [])
        assert len(list((tmp_path / ".nx" / "spool").iterdir())) == (row.state == "waiting")
        assert len(server.messages) == row.ends
        arrived = [one for mail in server.messages[-2:] for one in attached(mail).items()]
        assert arrived == (list(PHOTOS.items()) if row.ends else [])

    def test_greylisting(self, tmp_path: Path) -> None:
        """Retries send the same message, byte for byte, until one is accepted."""
        script: Script = {"RCPT": ["450 grey", "450 grey", "250 OK"], ".": [Act.CLOSE, "250 OK"]}
        with ScriptedServer(script) as server:
            box = mailing(tmp_path, server, [ANNA])
            for _ in range(4):
                box.deliver()
                box.clock.now += 900
        first, second = server.messages
        assert first == second
        assert f"\r\nMessage-ID: <{box.id}@samsungcamera.com>\r\n".encode() in first
        assert (box.waits, statuses(box)) == ([], [("done", "")])

    def test_unreachable(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Attempts to reach an unavailable server do not read the upload's body."""
        with ScriptedServer() as server:
            box = mailing(tmp_path, server, [ANNA])
        read: list[tuple[int, int]] = []
        monkeypatch.setattr(disk, "read_range", lambda _, *span: read.append(span))
        for attempt in range(3):
            box.deliver()
            assert [one.attempts for one in box.spool.waiting()] == [attempt + 1]
            box.clock.now += 900
        assert read == []

    @pytest.mark.parametrize("to", [[BEN], [BEN, ANNA]], ids=["one", "two"])
    @pytest.mark.parametrize(
        ("reply", "state"), [(NO_USER, "failed"), ("450 4.2.0 greylisted", "waiting")]
    )
    def test_other_address(self, tmp_path: Path, to: list[str], reply: str, state: str) -> None:
        """If the server refuses the address of `mail:ADDRESS`, no recipient was reached."""
        with MailServer(replies={"boss@example.org": reply}) as server:
            box = mailing(tmp_path, server, to, target="mail:boss@example.org")
            box.deliver()
        assert statuses(box) == [(state, reply)]
        assert [one.recipients for one in box.spool.waiting()] == [tuple(to)] * bool(box.waits)
        saved = contents(folder_for(tmp_path / "undelivered", NOON))
        assert saved == (PHOTOS if state == "failed" else {})

    def test_too_large_for_a_recipient(self, tmp_path: Path) -> None:
        """If the announced size is too large for one recipient, each photo is sent by itself."""
        script: Script = {
            "EHLO": ehlo("SIZE"),
            "RCPT": ["250 2.1.5 OK", TOO_LARGE_FOR_BEN, "250 2.1.5 OK"],
        }
        with ScriptedServer(script) as server:
            box = mailing(tmp_path, server, [ANNA, BEN])
            box.deliver()
        assert server.keys[:6] == ["connect", "EHLO", "MAIL", "RCPT", "RCPT", "QUIT"]
        assert len(server.messages) == 2
        assert {state for state, _ in statuses(box)} == {"done"}


def mailing(
    directory: Path,
    server: MailServer | ScriptedServer,
    to: Sequence[str],
    *,
    login: str = "",
    target: str = "mail",
) -> Box:
    """An outbox with an upload to be mailed."""
    smtp = f"smtp://{login}{server.host}:{server.port}"
    return Box(directory, target, {}, body(), to, nx_smtp=smtp)


def statuses(box: Box) -> list[tuple[str, str]]:
    """State and reason of each delivery, the latest upload first."""
    records = box.spool.recent(None)
    return [(one.state, one.reason) for record in records for one in record.deliveries]


def test_secrets_in_rules(folder: Path) -> None:
    """A secret that is written into a rule appears in no log and no output."""
    pytest.importorskip("apprise")
    with WebServer(b"HTTP/1.1 503 Busy\r\n\r\n") as server:
        routes = [
            f"forward:http://me:{SECRET}@{HOST}:{server.port}/{SECRET}",
            f"forward:http://me:{SECRET}@{HOST}:{server.port}/${{TOKEN}}",
            f"notify:json://me:{SECRET}@{HOST}:9/{SECRET}",
            f"run:false http://me:{SECRET}@h/ {{file}}",
            f"run:no-such-program -u me:{SECRET} http://h/ {{file}}",
        ]
        options = [word for route in routes for word in ("--set", f"nx_route=*={route}")]
        with Proxy(folder, "--set", "nx_senders=*", *options, environ={"TOKEN": SECRET}) as proxy:
            camera.send(proxy.port, request())
            id = proxy.wait_for(r"\(upload (\S+)\)")[1]
            proxy.wait_for(
                rf"forward:http://{HOST}:{server.port}/...: .* 503 Service Unavailable", 2
            )
            proxy.wait_for(r"notify:json://...: .*; it is safe")
            proxy.wait_for(r"run:no-such-program ...: .*; it is safe")
            proxy.wait_for(r"is not delivered to .*: false .*; saved as", 2)
            output = [outbox(proxy), outbox(proxy, "retry", id)]
            proxy.wait_for("503 Service", 3)
            output.append(proxy.log)
            proxy.kill()
        with Proxy(folder) as proxy:
            proxy.wait_for(r"forward:http://\S+/...: .*variable TOKEN")
            camera.send(proxy.port, request(ANNA))
            (path,) = (proxy.uploads / ".nx" / "spool").glob(id)
            path.write_bytes(b"something else")
            output.append(outbox(proxy, "retry", id))
            proxy.wait_for(r"cannot be delivered: ")
            output += [outbox(proxy), proxy.log]
    # The database has to contain the rules.
    files = [path for path in folder.rglob("*") if path.is_file() and "sqlite3" not in path.name]
    everything = "".join([*output, *(path.read_text("latin-1") for path in files)])
    assert undelivered(proxy) == PHOTOS
    assert SECRET not in everything


def test_post_survives_a_crash(folder: Path) -> None:
    """After a kill -9 between a post and its reply, there is only one post."""
    proxies: list[Proxy] = []
    picture = photo(model="NX300")
    message = bodies.message_xml(text="Am Meer~Ein Boot")
    data = bodies.body([("SAM_1.JPG", picture)], message=message)
    with MastodonServer(script={Call.POST: [lambda: proxies[0].kill()]}) as server:
        route = f"nx_route=*=mastodon:http://${{TOKEN}}@{HOST}:{server.port}/?visibility=unlisted"
        options = ["--set", route, "--set", "nx_senders=*@samsungcamera.com"]
        with Proxy(folder, *options, environ={"TOKEN": ACCESS}) as proxy:
            proxies.append(proxy)
            assert camera.send(proxy.port, bodies.request(data)).body == camera.ACCEPTED
            assert proxy.ended() != 0
            log = proxy.log
        eventually(lambda: len(server.statuses) == 1, "the server posts it")
        with Proxy(folder, *options, environ={"TOKEN": ACCESS}) as proxy:
            proxy.wait_for(f"posted to {HOST}:{server.port}")
            eventually(lambda: is_idle(proxy), "it is posted")
            log += proxy.log
        [status] = server.statuses
        [media] = status.media
        assert (status.text, status.visibility) == ("Am Meer\n\n📷 NX300", "unlisted")
        assert (media.file.filename, media.file.data) == ("SAM_1.JPG", picture)
        assert media.description == "Ein Boot"
        assert len(server.calls(Call.POST)) == 2
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert ACCESS.encode() not in b"".join([log.encode(), *files])

"""From the camera to somebody's inbox: a real mitmdump, and real mail servers."""

from __future__ import annotations

import base64
import email
import email.policy
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import quote

import pytest

from tests import bodies, camera
from tests.mastodon_server import TOKEN as ACCESS
from tests.mastodon_server import Call, MastodonServer, Step
from tests.mitmdump import ROOT, Proxy, eventually
from tests.pictures import photo
from tests.smtp_servers import Act, Authority, Mail, MailServer, Script, ScriptedServer, ehlo
from tests.web_servers import HOST, WebServer

ACCEPTED = '<Response Status="succ" />'
PASSWORD = "correct horse/battery@stäple"
PHOTOS = {"SAM_1.JPG": bodies.jpeg(300_000, 1), "SAM_2.JPG": bodies.jpeg(50_000, 2)}
FRIENDS = ("anna@example.org", "ben@example.org", "clara@example.net")


def request(
    *recipients: str,
    sender: str = bodies.SENDER,
    title: str = bodies.TITLE,
    text: str = bodies.TEXT,
) -> bytes:
    message = bodies.message_xml(
        sender=sender, recipients=recipients or FRIENDS, title=title, text=text
    )
    return bodies.request(bodies.body(list(PHOTOS.items()), message=message))


def through(
    server: MailServer | ScriptedServer, scheme: str = "smtp", login: str = ""
) -> list[str]:
    """The options for mail through a server."""
    url = f"{scheme}://{login}{server.host}:{server.port}"
    return ["--set", f"nx_smtp={url}", "--set", "nx_senders=*@samsungcamera.com"]


def read(mail: Mail) -> EmailMessage:
    message = email.message_from_bytes(mail.content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def attached(mail: Mail) -> dict[str, bytes]:
    return {
        str(part.get_filename()): part.get_payload(decode=True)
        for part in read(mail).iter_attachments()
    }


def outbox(proxy: Proxy, *arguments: str) -> str:
    """What the command line says."""
    command = [sys.executable, "-m", "nxparse", "outbox", "--dir", str(proxy.uploads), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def undelivered(proxy: Proxy) -> dict[str, bytes]:
    """The photos that were given up."""
    return {path.name: path.read_bytes() for path in proxy.uploads.glob("undelivered/*/*")}


def test_a_mail_to_everybody(folder: Path) -> None:
    """One upload is one mail to all recipients, with photos, subject and text as the camera's."""
    with MailServer() as server, Proxy(folder, *through(server)) as proxy:
        assert camera.send(proxy.port, request(text="Grüße\nvom Meer")).body == ACCEPTED
        (mail,) = server.wait(1)
        proxy.wait_for(r"mailed to anna@example.org, ben@example.org, clara@example.net through")
    message = read(mail)
    assert (mail.sender, mail.recipients) == (bodies.SENDER, FRIENDS)
    assert (message["From"], message["To"]) == (bodies.SENDER, ", ".join(FRIENDS))
    assert message["Subject"] == bodies.TITLE
    body = message.get_body()
    assert body is not None
    assert body.get_content() == "Grüße\nvom Meer"
    assert attached(mail) == PHOTOS
    assert {part.get_content_type() for part in message.iter_attachments()} == {"image/jpeg"}


@pytest.mark.parametrize("scheme", ["smtp", "smtp+starttls", "smtps"])
def test_with_tls_and_password(folder: Path, scheme: str) -> None:
    """STARTTLS or TLS from the start, with a certificate that is checked, and with a password."""
    authority = Authority(folder)
    server = MailServer(tls=authority.context(), implicit=scheme == "smtps", login=("me", PASSWORD))
    environ = {"SSL_CERT_FILE": str(authority.file), "MAIL_PASSWORD": PASSWORD}
    with server:
        options = through(server, scheme, "me:${MAIL_PASSWORD}@")
        with Proxy(folder, *options, environ=environ) as proxy:
            camera.send(proxy.port, request())
            (mail,) = server.wait(1)
            proxy.wait_for("mailed to")
            log = proxy.log
    assert attached(mail) == PHOTOS
    assert (mail.user, mail.secure) == ("me", True)
    token = base64.b64encode(f"\0me\0{PASSWORD}".encode()).decode()
    secrets = [PASSWORD, quote(PASSWORD), quote(PASSWORD, ""), "correct", "stäple", token]
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    everything = b"".join([log.encode(), *files])
    assert [secret for secret in secrets if secret.encode() in everything] == []


def test_mail_survives_a_crash(folder: Path) -> None:
    """Server down, upload accepted, kill -9, server up, start: the mail comes, once."""
    with MailServer() as gone:
        options = through(gone)
        port = gone.port
    with Proxy(folder, *options) as proxy:
        assert camera.send(proxy.port, request()).body == ACCEPTED
        proxy.wait_for(r"mail: .*refused; it is safe, next try in 1\d seconds")
        assert re.match(
            r"\S+: to anna@example.org, .* by mail, waiting for \d+ seconds?, tried once, ",
            outbox(proxy),
        )
        proxy.kill()
    with ScriptedServer() as server:
        options[1] = options[1].replace(str(port), str(server.port))
        with Proxy(folder, *options) as proxy:
            proxy.wait_for("mailed to")
            assert outbox(proxy) == "nothing waits\n"
    assert len(server.messages) == 1


def test_retry_and_drop_by_hand(folder: Path) -> None:
    """What waits can be hurried or given up beside the running proxy; the photos are kept."""
    script: Script = {"MAIL": "451 later"}
    with ScriptedServer(script) as server, Proxy(folder, *through(server)) as proxy:
        camera.send(proxy.port, request("anna@example.org"))
        id = proxy.wait_for(r"upload (\S+): mail: .*451 later; it is safe")[1]
        said = outbox(proxy, "retry", id)
        assert said == f"upload {id} is tried again as soon as mitmproxy runs\n"
        proxy.wait_for("451 later; it is safe", 2)
        outbox(proxy, "drop", id)
        assert outbox(proxy) == "nothing waits\n"
        assert undelivered(proxy) == PHOTOS
        assert list((proxy.uploads / ".nx" / "spool").iterdir()) == []


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
everybody:
  driver = accept
  transport = keep
begin transports
keep:
  driver = appendfile
  file = {folder}/mailbox
  user = Debian-exim
  mode = 0600
  batch_max = 100
  envelope_to_add
"""


@contextmanager
def exim() -> Iterator[tuple[int, Path]]:
    """Debian's mail server with a configuration of its own: its port, and where its mail goes."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        shutil.chown(folder, "Debian-exim")  # which is who exim becomes
        (folder / "conf").write_text(EXIM.format(port=port, folder=folder))
        with (folder / "output").open("wb") as output:
            server = subprocess.Popen(
                ["exim4", "-C", str(folder / "conf"), "-bdf", "-q1m"], stdout=output, stderr=output
            )
        try:
            eventually(lambda: answers(port) or server.poll() is not None, "exim answers")
            assert server.poll() is None, (folder / "output").read_text()
            yield port, folder / "mailbox"
        finally:
            server.terminate()
            server.wait()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif(
    shutil.which("exim4") is None or os.geteuid() != 0, reason="needs exim4, and root to run it"
)
def test_a_real_mail_server(folder: Path) -> None:
    """Exim takes the mail, and what it has put into the mailbox has the photos unchanged."""
    settings = ("--set", "nx_senders=*", "--set", "nx_mail_from=camera@mail.example")
    with exim() as (port, mailbox):
        server = ("--set", f"nx_smtp=smtp://127.0.0.1:{port}")
        with Proxy(folder, *server, *settings) as proxy:
            camera.send(proxy.port, request(text=".\nFrom here\n..\n" + "x" * 2000))
            proxy.wait_for("mailed to")

        def complete() -> bool:
            return mailbox.exists() and mailbox.read_bytes().endswith(b"--\n\n")

        eventually(complete, "exim delivers")
        envelope, _, content = mailbox.read_bytes().partition(b"\n")
    assert envelope.startswith(b"From camera@mail.example ")
    mail = Mail("", (), content)
    message = read(mail)
    assert sorted(str(message["Envelope-to"]).replace("\n", "").split(", ")) == list(FRIENDS)
    assert (message["From"], message["Reply-To"]) == ("camera@mail.example", bodies.SENDER)
    body = message.get_body()
    assert body is not None
    assert body.get_content() == ".\nFrom here\n..\n" + "x" * 2000
    assert attached(mail) == PHOTOS


def test_one_recipient_of_three(folder: Path) -> None:
    """Who is refused is told and his photos kept; who is put off gets his alone; the rest once."""
    script: Script = {"RCPT": ["250 OK", "550 unknown", "450 later", "250 OK"]}
    with ScriptedServer(script) as server, Proxy(folder, *through(server)) as proxy:
        camera.send(proxy.port, request())
        id = proxy.wait_for(r"upload (\S+): mailed to anna@example.org through")[1]
        proxy.wait_for(r"not delivered to ben@example.org \(550 unknown\); saved as .*undelivered")
        proxy.wait_for(r"clara@example.net \(450 later\); it is safe")
        outbox(proxy, "retry", id)
        proxy.wait_for("mailed to clara@example.net through")
        assert undelivered(proxy) == PHOTOS
    recipients = [re.search("<(.*)>", line)[1] for line in server.lines("RCPT")]  # type: ignore[index]
    assert recipients == [*FRIENDS, "clara@example.net"]
    assert len(server.messages) == 2


def test_too_large_for_the_server(folder: Path) -> None:
    """A mail that is too large becomes one for each photo; a photo that is too large is kept."""
    with MailServer(size=200_000) as server, Proxy(folder, *through(server)) as proxy:
        camera.send(proxy.port, request("anna@example.org"))
        (mail,) = server.wait(1)
        proxy.wait_for("sending each file by itself")
        proxy.wait_for(r"is not delivered to anna@example.org: .* takes at most 200000 bytes")
        assert attached(mail) == {"SAM_2.JPG": PHOTOS["SAM_2.JPG"]}
        assert undelivered(proxy) == {"SAM_1.JPG": PHOTOS["SAM_1.JPG"]}


SECRET = "s3cret"
ME = f"me:{SECRET}@"
TOKEN = base64.b64encode(f"\0me\0{SECRET}".encode()).decode()


def test_secrets_in_rules(folder: Path) -> None:
    """What is written out in a rule is told by no log and no command, whatever goes wrong."""
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
            proxy.wait_for(rf"forward:http://{HOST}:{server.port}/...: .* 503 Busy; it is safe", 2)
            proxy.wait_for(r"notify:json://...: Apprise could not send it.*; it is safe")
            proxy.wait_for(r"run:no-such-program ...: there is no program .*; it is safe")
            proxy.wait_for(r"is not delivered to .*: false ended with status 1; saved as", 2)
            said = [outbox(proxy), outbox(proxy, "retry", id)]
            proxy.wait_for(r"503 Busy; it is safe", 3)
            said.append(proxy.log)
            proxy.kill()
        with Proxy(folder) as proxy:
            proxy.wait_for(r"forward:http://\S+/...: the environment has no variable TOKEN")
            camera.send(proxy.port, request("anna@example.org"))
            (body,) = (proxy.uploads / ".nx" / "spool").glob(id)
            body.write_bytes(b"something else")
            said.append(outbox(proxy, "retry", id))
            proxy.wait_for(r"cannot be delivered: .*; its body is kept as")
            said += [outbox(proxy), proxy.log]
    # Where they have to stand: in the database.
    files = [path for path in folder.rglob("*") if path.is_file() and "sqlite3" not in path.name]
    everything = "".join([*said, *(path.read_text("latin-1") for path in files)])
    assert undelivered(proxy) == PHOTOS
    assert SECRET not in everything


Certificate = Callable[[Authority], ssl.SSLContext]


@dataclass(frozen=True)
class Row:
    """What a mail server does, and what comes of it.

    `ends` says how often the final dot of a message came. The photos are at the end in the
    `mailbox`, `waiting`, or `undelivered`; and if they wait, `again` says for how long. `told` is
    in the log. `tls` makes the server's certificate; the authority is one that is trusted.
    """

    script: Script
    ends: int
    where: str
    told: str = ""
    scheme: str = "smtp"
    login: str = ""
    tls: Certificate | None = None
    again: str = r"\d+ seconds"
    wait: float = 15.0  # seconds before the second attempt


def demanded(script: Script, told: str, tls: Certificate = Authority.context) -> Row:
    """A way that must be safe, and is not."""
    return Row(script, 0, "waiting", told, "smtp+starttls", ME, tls)


def locked(script: Script, told: str = "check the user and password in nx_smtp") -> Row:
    """A server that lets nobody in: who tries too often may be locked out for good."""
    return Row(script, 0, "waiting", told, login=ME, again="[56]. minutes")


def expired(authority: Authority) -> ssl.SSLContext:
    return authority.context(expired=True)


def another(authority: Authority) -> ssl.SSLContext:
    return authority.context("mail.example")


AUTH = ehlo("AUTH PLAIN LOGIN")
TLS: Script = {"EHLO": [ehlo("STARTTLS"), AUTH]}
NO_TLS: Script = {**TLS, "STARTTLS": "454 not now"}
INJECTED: Script = {**TLS, "STARTTLS": (b"220 go\r\n250-evil\r\n250 SIZE 9\r\n", Act.TLS)}

# The numbers are those of a list of what mail servers do.
BEHAVIOUR = {
    "T02-no-greeting": Row({"greeting": Act.SILENCE}, 0, "waiting", "timed out"),
    "T03-421": Row({"greeting": ("421 busy", Act.CLOSE)}, 0, "waiting", "421 busy"),
    "T03-554": Row({"greeting": ("554 no", Act.CLOSE)}, 0, "waiting", "554 no"),
    "T03-helo": Row({"EHLO": "500 what?"}, 1, "mailbox"),
    "T03-garbage": Row({"greeting": b"\x16\x03\x01garbage\xff\r\n"}, 0, "waiting", "garbage"),
    "T03-long-line": Row({"greeting": b"220 " + b"x" * 1_000_000}, 0, "waiting", "too long"),
    "T04-fails": Row(NO_TLS, 0, "waiting", "454 not now", login=ME),
    "T04-demanded-and-fails": demanded(NO_TLS, "454 not now"),
    "T04-stripped": demanded({"EHLO": AUTH}, "does not offer STARTTLS"),
    "T04-expired": demanded(TLS, "certificate has expired", expired),
    "T04-another-name": demanded(TLS, "certificate is not valid for '127.0.0.1'", another),
    "T04-self-signed": demanded(TLS, "self.signed certificate", Authority.self_signed),
    "T04-injected": Row(INJECTED, 1, "mailbox", "", "smtp+starttls", ME, Authority.context),
    "T05-535": locked({"EHLO": AUTH, "AUTH": f"535 who is {TOKEN}?"}),
    "T05-454": locked({"EHLO": AUTH, "AUTH": "454 later"}),
    "T05-not-offered": locked({"EHLO": ehlo("SIZE")}, "check host and port in nx_smtp"),
    "T05-mail-530": locked({"EHLO": AUTH, "MAIL": "530 who?"}, "530 who"),
    "T06-mail-451": Row({"MAIL": "451 later"}, 0, "waiting", "451 later"),
    "T06-mail-452": Row({"MAIL": "452 full"}, 0, "waiting", "452 full"),
    "T06-mail-550": Row({"MAIL": "550 never"}, 0, "undelivered", "550 never"),
    "T06-mail-552": Row({"MAIL": ["552 large", "250 OK"]}, 2, "mailbox", "each file by itself"),
    "T06-size": Row({"EHLO": ehlo("SIZE 1000")}, 0, "undelivered", "at most 1000 bytes"),
    "T07-rcpt-450": Row({"RCPT": "450 later"}, 0, "waiting", "450 later"),
    "T07-rcpt-550": Row({"RCPT": "550 unknown"}, 0, "undelivered", "550 unknown"),
    "T08-data-silence": Row({"DATA": Act.SILENCE}, 0, "waiting", "timed out"),
    "T08-data-451": Row({"DATA": "451 later"}, 0, "waiting", "451 later"),
    "T08-data-554": Row({"DATA": "554 never"}, 0, "undelivered", "554 never"),
    "T08-end-451": Row({".": "451 later"}, 1, "waiting", "451 later"),
    "T08-end-554": Row({".": "554 spam"}, 1, "undelivered", "554 spam"),
    "T09-lost-before-the-dot": Row({"content": Act.RESET}, 0, "waiting"),
    "T09-lost-behind-the-dot": Row({".": Act.CLOSE}, 1, "waiting"),
    "T09-silence-behind-the-dot": Row({".": Act.SILENCE}, 1, "waiting", "timed out"),
    "T10-reset-behind-250": Row({".": ("250 taken", Act.RESET)}, 1, "mailbox"),
    "T11-half-closed": Row({"content": Act.SHUT}, 1, "waiting"),
    "T11-no-window": Row({"content": Act.STALL}, 0, "waiting", "timed out"),
    "T12-299": Row({".": "299 hm"}, 1, "waiting", "299 hm"),
    "T12-999": Row({".": "999 hm"}, 1, "waiting", "999 hm"),
    "T12-abc": Row({".": "abc"}, 1, "waiting"),
    "T12-lower-case-lines": Row({".": "250-queued\r\n250 as 1"}, 1, "mailbox"),
    "T16-greylisted": Row({"RCPT": [*["450 grey"] * 3, "250"]}, 1, "mailbox", "450 grey", wait=0.2),
}


def impatient(folder: Path, wait: float = 15.0) -> Path:
    """The addon with short times, in a proxy that logs the level of each line."""
    script = folder / "impatient.py"
    script.write_text(
        f"import logging, sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from mitmproxy.log import MitmFormatter\n"
        "from nxparse.deliver import outbox\n"
        "from nxparse.deliver import mail\n"
        "from nx_addon import addons\n"
        "MitmFormatter.format = logging.Formatter('%(levelname)s: %(message)s').format\n"
        "mail.ANSWER = mail.AFTER_DOT = mail.CONNECT = 1.0\n"
        f"outbox.POLL, outbox.MIN_WAIT = 0.1, {wait}\n"
    )
    return script


def spooled(proxy: Proxy) -> list[Path]:
    """The bodies that are kept until they are delivered."""
    return list((proxy.uploads / ".nx" / "spool").iterdir())


@pytest.mark.parametrize("row", BEHAVIOUR.values(), ids=BEHAVIOUR)
def test_mail_servers(folder: Path, row: Row) -> None:
    """Whatever a mail server does: no photo is lost, and none is sent more often than needed."""
    told = {
        "waiting": "WARNING: .*it is safe, next try in",
        "undelivered": "WARNING: .*undelivered/",
        "mailbox": "INFO: .*mailed",
    }
    waits = row.where == "waiting"
    authority = Authority(folder)
    environ = {"SSL_CERT_FILE": str(authority.file)}
    script = impatient(folder, row.wait)
    with (
        ScriptedServer(row.script, tls=row.tls and row.tls(authority)) as server,
        Proxy(
            folder, *through(server, row.scheme, row.login), script=script, environ=environ
        ) as proxy,
    ):
        assert camera.send(proxy.port, request("anna@example.org")).body == ACCEPTED
        proxy.wait_for(told[row.where])
        eventually(lambda: waits or "nothing waits" in outbox(proxy), "it ends")
        said = outbox(proxy)
        assert bool(re.search(f"by mail, waiting for .*, next try in {row.again}: ", said)) == waits
        assert undelivered(proxy) == (PHOTOS if row.where == "undelivered" else {})
        assert len(spooled(proxy)) == waits
        proxy.kill()
    assert re.search(row.told, proxy.log)
    assert not re.search(f"Traceback|{SECRET}|{TOKEN}", proxy.log + said)
    assert server.keys.count(".") == row.ends
    assert server.keys.count("AUTH") <= 1
    arrived = [one for mail in server.messages for one in attached(Mail("", (), mail)).items()]
    assert arrived == (list(PHOTOS.items()) if row.ends else [])
    if row.scheme != "smtp" or "STARTTLS" in server.keys:
        assert set(server.in_clear) <= {"connect", "EHLO", "STARTTLS"}


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        pytest.param("127.0.0.1:{}", "refused", id="T01-refused"),
        pytest.param("255.255.255.255", "unreachable", id="T01-unreachable"),
        pytest.param("mail.invalid", r"\[Errno -\d+\]", id="T01-no-such-name"),
    ],
)
def test_no_mail_server(folder: Path, host: str, reason: str) -> None:
    """T01: where no mail server is to be found, the photos wait."""
    environ = {"RES_OPTIONS": "timeout:1 attempts:1"}
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        options = [f"nx_smtp=smtp://{host.format(deaf.getsockname()[1])}", "nx_senders=*"]
        settings = [word for option in options for word in ("--set", option)]
        with Proxy(folder, *settings, environ=environ) as proxy:
            assert camera.send(proxy.port, request()).body == ACCEPTED
            proxy.wait_for(f"mail: {host.partition(':')[0]}:.*{reason}.*it is safe, next try in")
            assert "tried once, next try in" in outbox(proxy)
            assert len(spooled(proxy)) == 1


def test_a_wrong_password_is_tried_once(folder: Path) -> None:
    """T05: what comes after a wrong password waits with the rest, lest the account be locked."""
    script = BEHAVIOUR["T05-535"].script
    with ScriptedServer(script) as server, Proxy(folder, *through(server, login=ME)) as proxy:

        def waiting() -> int:
            return len(re.findall("next try in [56]. minutes: .*check the user", outbox(proxy)))

        camera.send(proxy.port, request())
        eventually(lambda: waiting() == 1, "the first waits")
        camera.send(proxy.port, request())
        eventually(lambda: waiting() == 2, "the second waits")
    assert server.keys.count("AUTH") == 1


def test_after_an_outage(folder: Path) -> None:
    """T17: what has piled up is mailed once each, and what comes meanwhile need not wait for it."""
    with MailServer() as gone:
        options = through(gone)
    names = [f"SAM_{number}.JPG" for number in range(60)]
    with Proxy(folder, *options) as proxy:
        for name in names:
            body = bodies.body([(name, bodies.jpeg(1000))])
            assert camera.send(proxy.port, bodies.request(body)).body == ACCEPTED
        proxy.kill()
    with MailServer() as server:
        with Proxy(folder, *through(server)) as proxy:
            server.wait(10)
            body = bodies.body([("LATE.JPG", bodies.jpeg(1000))])
            camera.send(proxy.port, bodies.request(body))
            server.wait(61, 60)
            eventually(lambda: outbox(proxy) == "nothing waits\n", "all is mailed")
        mailed = [name for mail in server.mails for name in attached(mail)]
    assert sorted(mailed) == sorted([*names, "LATE.JPG"])
    assert mailed[-1] != "LATE.JPG"


def test_silence_holds_up_mail_only(folder: Path) -> None:
    """T02: while a mail server says nothing, photos with another way go it."""
    with (
        ScriptedServer({"greeting": Act.SILENCE}) as server,
        Proxy(folder, *through(server), "--set", "nx_route=ben@*=save") as proxy,
    ):
        camera.send(proxy.port, request("anna@example.org"))
        server.wait("connect")
        camera.send(proxy.port, request("ben@example.org"))
        proxy.wait_for("saved as ")
        assert {Path(path).name: photo for path, photo in proxy.saved().items()} == PHOTOS
        assert re.match(
            r"\S+: to anna@example.org by mail, waiting for \d+ seconds?, due now\n$", outbox(proxy)
        )


def test_sent_again(folder: Path) -> None:
    """T09: what may have been taken is sent again as the same message, byte for byte."""
    script: Script = {".": [Act.CLOSE, "250 taken"]}
    with (
        ScriptedServer(script) as server,
        Proxy(folder, *through(server), script=impatient(folder, 0.2)) as proxy,
    ):
        camera.send(proxy.port, request())
        id = proxy.wait_for(r"upload (\S+): mailed to ")[1]
    first, second = server.messages
    assert first == second
    assert f"\r\nMessage-ID: <{id}@samsungcamera.com>\r\n".encode() in first


def test_a_server_that_knows_ascii_only(folder: Path) -> None:
    """T13: title and text in all letters reach a server that knows ASCII only, as one mail."""
    title, text = "Grüße vom Meer 🌊 바다에서 인사 " * 4, "Größe: «ñ»\n사진 🌊\n" * 9
    with ScriptedServer() as server, Proxy(folder, *through(server)) as proxy:
        camera.send(proxy.port, request(title=title, text=text))
        proxy.wait_for("mailed to")
    (content,) = server.messages
    assert content.isascii()
    assert [heard.line for heard in server.heard if not heard.line.isascii()] == []
    mail = Mail("", (), content)
    body = read(mail).get_body()
    assert body is not None
    assert (read(mail)["Subject"], body.get_content()) == (title.strip(), text)
    assert attached(mail) == PHOTOS


def test_given_up(folder: Path) -> None:
    """T14: what could not be mailed within nx_retry_for is kept as files, and a warning says so."""
    script = impatient(folder, wait=1.5)
    with (
        ScriptedServer({"MAIL": "451 later"}) as server,
        Proxy(folder, *through(server), "--set", "nx_retry_for=1s", script=script) as proxy,
    ):
        camera.send(proxy.port, request("anna@example.org"))
        id = proxy.wait_for(r"upload (\S+): mail: .*451 later; it is safe")[1]
        assert undelivered(proxy) == {}
        proxy.wait_for(
            rf"WARNING: upload {id} is not delivered to anna@example.org: "
            r"given up: .*451 later; saved as .*/undelivered/"
        )
        assert (outbox(proxy), undelivered(proxy)) == ("nothing waits\n", PHOTOS)
    assert len(server.lines("MAIL")) == 2


def test_poison(folder: Path) -> None:
    """T15: a body that was cut on the disk goes into quarantine, and the others past it."""
    script: Script = {"MAIL": ["451 later", "451 later", "250 OK"]}
    with (
        ScriptedServer(script) as server,
        Proxy(folder, *through(server), script=impatient(folder)) as proxy,
    ):
        ids = []
        for times in (1, 2):
            camera.send(proxy.port, request("anna@example.org"))
            ids.append(proxy.wait_for(r"upload (\S+): mail: .*451 later; it is safe", times)[1])
        path = proxy.uploads / ".nx" / "spool" / ids[0]
        poison = path.read_bytes()[:-1000]
        path.write_bytes(poison)
        for id in ids:
            outbox(proxy, "retry", id)
        proxy.wait_for(rf"upload {ids[1]}: mailed to anna@example.org")
        camera.send(proxy.port, request("ben@example.org"))
        proxy.wait_for("mailed to ben@example.org")
        eventually(lambda: outbox(proxy) == "nothing waits\n", "the poison is out of the way")
        assert proxy.quarantined() == [poison]
        told = f"upload {ids[0]} cannot be delivered: its body has another size .*quarantine"
        assert len(re.findall(f"WARNING: {told}", proxy.log)) == 1
        assert proxy.log.count("cannot be delivered") == 1
        assert undelivered(proxy) == {}
    assert len(server.messages) == 2


def test_routes(folder: Path) -> None:
    """Rules decide for each recipient; several rules for one pattern are all followed."""
    elsewhere = folder / "else where"
    rules = {
        "*@EXAMPLE.org": ["mail:all@example.org", f"save:{elsewhere}"],
        "clara@*": ["drop"],
    }
    options = [f"nx_route={pattern}={one}" for pattern, ways in rules.items() for one in ways]
    with MailServer() as server:
        settings = [word for option in options for word in ("--set", option)]
        with Proxy(folder, *through(server), *settings) as proxy:
            camera.send(proxy.port, request())
            (mail,) = server.wait(1)
            proxy.wait_for("saved as ")
            proxy.wait_for("dropped, as the rule for clara@example.net says")
            eventually(lambda: outbox(proxy) == "nothing waits\n", "all is delivered")
            assert len(server.mails) == 1
            assert proxy.saved() == {}
    assert mail.recipients == ("all@example.org",)
    assert {path.name: path.read_bytes() for path in elsewhere.glob("*/*")} == PHOTOS


def test_who_may_send(folder: Path) -> None:
    """A sender who is not allowed gets 401 and the XML, and the log names the option."""
    with MailServer() as server, Proxy(folder, *through(server)) as proxy:
        heard = camera.send(proxy.port, request(sender="eve@example.com"))

        assert (heard.status, heard.segments) == (401, 1)
        assert heard.body == (
            '<Response ErrCode="401" ErrSubCode="0" /><!-- Sender not in whitelist -->'
        )
        proxy.wait_for("eve@example.com may not send; to allow it, use --set nx_senders=eve@exa")
        assert outbox(proxy) == "nothing waits\n"
    assert server.mails == []


@pytest.mark.parametrize(
    "wrong", ["nobody", "a@b@c", '"x y"@example.org', "a@-.org", "ä@example.org"]
)
def test_nobody_to_send_to(folder: Path, wrong: str) -> None:
    """An address that no mail can be sent to is refused before the camera hears 200."""
    with MailServer() as server, Proxy(folder, *through(server)) as proxy:
        assert camera.send(proxy.port, request("anna@example.org", wrong)).status == 400
        proxy.wait_for("an upload is refused: .* its body is in quarantine: ")
        assert len(proxy.quarantined()) == 1
    assert server.mails == []


def test_an_upload_that_is_repeated(folder: Path) -> None:
    """A camera that had gone before its reply sends again: one mail. Sent on purpose: another."""
    with MailServer() as server, Proxy(folder, *through(server)) as proxy:
        connection = camera.connect(proxy.port)
        connection.sendall(request())
        connection.close()
        proxy.wait_for("disconnected before the reply to upload")
        server.wait(1)

        assert camera.send(proxy.port, request()).body == ACCEPTED
        proxy.wait_for("duplicate of upload .* ignored")
        assert len(server.mails) == 1

        assert camera.send(proxy.port, request()).body == ACCEPTED
        assert len(server.wait(2)) == 2


def test_two_proxies_on_one_folder(folder: Path) -> None:
    """The second proxy on the same nx_dir says so and does not start; reading goes on."""
    with Proxy(folder) as first:
        second = Proxy(folder)
        second.start()

        assert second.ended() == 1
        assert "another nx_addon is working there, end that, or choose another" in second.log
        assert camera.send(first.port, request()).body == ACCEPTED


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["nx_smtp=smtp://mail.example.org"], "nx_senders is not set, and with the target mail "),
        (["nx_route=*=mail"], "nx_route has the target mail, but nx_smtp names no mail server"),
        (["nx_route=*"], "nx_route='*': a rule is PATTERN=TARGET, like *@example.org=save"),
        (["nx_route=*=fax:1"], "nx_route='*=fax:...': there is no target 'fax': the targets are"),
        (["nx_smtp=smtp://me:secret@"], "nx_smtp='smtp://...@' is no mail server: give one like"),
        (
            ["nx_route=*=forward:ftp://me:secret@h/secret", "nx_senders=*"],
            "nx_route='*=forward:ftp://h/...': not a URL like https://host/path",
        ),
        (
            ["nx_route=*=forward:https://me:secret@h/${NOWHERE}", "nx_senders=*"],
            "nx_route='*=forward:https://h/...': the environment has no variable NOWHERE; ",
        ),
        (
            ["nx_route=*=notify:jsons://me:secret@h/secret"],
            "nx_senders is not set, and with the target notify:jsons://... whoever reaches ",
        ),
        (["nx_route=*=run:''"], "nx_route=\"*=run:''\": the program has no name"),
        (["nx_retry_for=soon"], "nx_retry_for='soon' is not a time: give one like 90s, 30m, 12h"),
    ],
    ids=lambda value: value[0].partition("=")[0] if isinstance(value, list) else "",
)
def test_wrong_options(folder: Path, settings: list[str], sentence: str) -> None:
    """Options that would lose mail, or let everybody send, stop the start with a sentence."""
    proxy = Proxy(folder, *[word for setting in settings for word in ("--set", setting)])
    proxy.start()

    assert proxy.ended() == 1
    assert sentence in proxy.log
    assert "Traceback" not in proxy.log
    assert "secret" not in proxy.log


PICTURE = photo(model="NX300")


def posting(server: MastodonServer) -> list[str]:
    """The options for posts on a server."""
    route = f"nx_route=*=mastodon:http://${{TOKEN}}@{HOST}:{server.port}/?visibility=unlisted"
    return ["--set", route, "--set", "nx_senders=*@samsungcamera.com"]


def picture() -> bytes:
    """A request with one photo that says which camera it is of."""
    message = bodies.message_xml(text="Am Meer~Ein Boot")
    return bodies.request(bodies.body([("SAM_1.JPG", PICTURE)], message=message))


def posts(server: MastodonServer) -> list[tuple[str, str, list[tuple[str, bytes, str | None]]]]:
    """The posts on a server: text, visibility, and the files with what is to be seen on them."""
    return [
        (
            status.text,
            status.visibility,
            [(one.file.filename, one.file.data, one.description) for one in status.media],
        )
        for status in server.statuses
    ]


POST = ("Am Meer\n\n📷 NX300", "unlisted", [("SAM_1.JPG", PICTURE, "Ein Boot")])


def test_a_post(folder: Path) -> None:
    """One upload is one post with photo, description, text and camera; the token stays secret."""
    environ = {"TOKEN": ACCESS}
    with (
        MastodonServer() as server,
        Proxy(folder, *posting(server), environ=environ) as proxy,
    ):
        assert camera.send(proxy.port, picture()).body == ACCEPTED
        proxy.wait_for(f"posted to {HOST}:{server.port}")
        assert outbox(proxy) == "nothing waits\n"
        log = proxy.log
    assert posts(server) == [POST]
    files = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert ACCESS.encode() not in b"".join([log.encode(), *files])


@pytest.mark.parametrize(
    "moment",
    ["before the photo is there", "before the post is there", "before that is heard"],
)
def test_post_survives_a_crash(folder: Path, moment: str) -> None:
    """However far it has come at kill -9, there is one post in the end."""
    proxies: list[Proxy] = []

    def kill() -> None:
        proxies[0].kill()

    def kill_and_forget() -> None:
        kill()
        raise ConnectionAbortedError  # so that what was asked is not done

    call = Call.UPLOAD if moment == "before the photo is there" else Call.POST
    step: Step = kill if moment == "before that is heard" else kill_and_forget
    with MastodonServer(script={call: [step]}) as server:
        options = posting(server)
        with Proxy(folder, *options, environ={"TOKEN": ACCESS}) as proxy:
            proxies.append(proxy)
            assert camera.send(proxy.port, picture()).body == ACCEPTED
            assert proxy.ended() != 0
            assert "posted to" not in proxy.log
        eventually(lambda: (len(server.media), len(server.statuses)) == LEFT[moment], moment)
        with Proxy(folder, *options, environ={"TOKEN": ACCESS}) as proxy:
            proxy.wait_for(f"posted to {HOST}:{server.port}")
            assert outbox(proxy) == "nothing waits\n"
        assert posts(server) == [POST]
        assert len(server.calls(Call.POST)) == (2 if moment == "before that is heard" else 1)


LEFT = {
    "before the photo is there": (0, 0),
    "before the post is there": (1, 0),
    "before that is heard": (1, 1),
}
"""How many photos and posts a server has when its client is killed."""

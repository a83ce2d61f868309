"""The world around the cameras: a proxy, a mail server, a disk; and what happens to them.

Each kind of fault recurs in a thread of its own, at times from its own random
generator; so they also meet each other. A fault is a context manager: when all
is over, all is well again.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import hashlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

from aiosmtpd.smtp import SMTP

from tests.proxy import Proxy
from tests.smtp_servers import HOST, Mail, MailServer
from tests.soak.ledger import SITE_ADDRESS, TOKEN, Found, Ledger

DISK = 512  # MB
TICK = 0.25  # seconds between two looks at the proxy

Fault = Callable[[Random], AbstractContextManager[None]]

# Notes what a command has been given: fields, and the end of a line, are NUL.
COMMAND = """
[ -e later ] && exit 75
[ -e never ] && exit 1
sum=$(sha256sum <"$4") || exit 75
printf '%s\\0%s\\0%s\\0%s\\0%s\\0' "$1" "$2" "$3" "${4##*/}" "${sum%% *}" >>runs
"""


# Of what a mail server does while there are faults, in thousandths; well is the rest.
TO_RECIPIENT = {"451 4.2.1 Not now": 20, "550 5.1.1 Not known": 10, "silence": 4, "close": 4}
TO_MAIL = {
    "451 4.3.0 Not now": 15,
    "554 5.6.0 Not this": 8,
    "552 5.3.4 Too much": 8,
    "421 4.3.2 Going down": 4,
    "silence": 4,
    "close": 8,
    "take and close": 12,
}


@dataclass
class Life:
    """A process of the proxy: when it had how much memory (bytes), and how many descriptors."""

    pid: int
    samples: list[tuple[float, int, int]] = field(default_factory=list)
    end: str = ""


class World:
    """Everything that the cameras do not know of. Use it in a with statement."""

    def __init__(self, folder: Path, seed: int, ledger: Ledger) -> None:
        self.folder = folder
        self.uploads = folder / "uploads"
        self.has_own_disk = os.geteuid() == 0
        self.port = 0
        self.lives: list[Life] = []
        self.logs: list[str] = []
        self.counts: dict[str, int] = {}
        self.faulty = True
        self._seed = seed
        self._ledger = ledger
        self._mail_servers = 0
        self._mail_server: MailServer | None = None

    def __enter__(self) -> World:
        with ExitStack() as stack:
            self.uploads.mkdir()
            if self.has_own_disk:
                stack.enter_context(_tmpfs(self.uploads))
            # Keeps the port while no server has it.
            place = stack.enter_context(socket.socket())
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            place.bind((HOST, 0))
            self._mail_port = place.getsockname()[1]
            self._mail_up()
            stack.callback(self._mail_down)
            (self.folder / "command").write_text(COMMAND)
            run = "run:sh command {sender} {recipient} {text} {file}"
            rules = (
                f"album@*=save:{self.folder / 'album'}",
                f"script@*={run}",
                f"evernote={run}",
                f"picasa=mail:{SITE_ADDRESS}",
            )
            options = [
                "nx_senders=*@example.org",
                "nx_retry_for=1m",
                f"nx_smtp=smtp://{HOST}:{self._mail_port}",
                *(f"nx_route={rule}" for rule in rules),
            ]
            self._proxy = Proxy(self.folder, *(f"--set={option}" for option in options))
            self.start()
            stack.callback(self._proxy.kill)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # The proxy

    def start(self) -> None:
        """Start it, as often as it takes: it ends at once while the disk is full."""
        while True:
            self._proxy.start()
            try:
                self._proxy.wait_for("port 53: ")
                break
            except AssertionError:
                self.logs.append(self._proxy.log)
                if "uploads cannot be kept: " not in self._proxy.log:
                    raise
                time.sleep(TICK)
        self.port = self._proxy.port
        self.lives.append(Life(self._proxy.process.pid))

    def stop(self) -> int:
        """Ask the proxy to end. Returns its exit status."""
        self._proxy.process.terminate()
        status = self._proxy.ended()
        self.lives[-1].end = f"stopped with {status}"
        self.logs.append(self._proxy.log)
        return status

    def watch(self, over: Event) -> None:
        """Sample memory and descriptors of the proxy."""
        while not over.wait(TICK):
            life = self.lives[-1]
            with suppress(OSError):
                process = Path(f"/proc/{life.pid}")
                pages = int((process / "statm").read_text().split()[1])
                descriptors = len(os.listdir(process / "fd"))
                memory = pages * os.sysconf("SC_PAGE_SIZE")
                life.samples.append((time.monotonic(), memory, descriptors))

    # Faults

    def recur(
        self, fault: Fault, every: float, shortest: float, longest: float, over: Event
    ) -> None:
        """Let a fault happen again and again, about each `every` seconds, until it is over."""
        name = fault.__name__
        random = Random(f"{self._seed} {name}")
        while not over.wait(every * random.uniform(0.5, 1.5)):
            self.counts[name] = self.counts.get(name, 0) + 1
            with fault(random):
                over.wait(random.uniform(shortest, longest))

    @contextmanager
    def restart(self, random: Random) -> Iterator[None]:
        if random.random() < 0.25:
            self.stop()
        else:
            self._proxy.kill()
            self.lives[-1].end = "killed"
            self.logs.append(self._proxy.log)
        yield
        self.start()

    @contextmanager
    def full_disk(self, random: Random) -> Iterator[None]:
        """Nothing is free, or too little for an upload."""
        left = random.choice((0, 0, random.randrange(80 << 20)))
        filler = self.uploads / "filler"
        with filler.open("wb") as file:
            with suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(self.uploads).free - left)
            yield
        filler.unlink()

    @contextmanager
    def mail_outage(self, random: Random) -> Iterator[None]:
        self._mail_down()
        yield
        self._mail_up()

    @contextmanager
    def failing_command(self, random: Random) -> Iterator[None]:
        flag = self.folder / random.choice(("later", "later", "never"))
        flag.touch()
        yield
        flag.unlink()

    def _mail_up(self) -> None:
        self._mail_servers += 1
        self._mail_server = _MoodyServer(
            self, self._mail_port, Random(f"{self._seed} mail server {self._mail_servers}")
        )
        self._mail_server.__enter__()

    def _mail_down(self) -> None:
        if self._mail_server:
            self._mail_server.__exit__()
        self._mail_server = None

    # What has come out

    def descriptors(self) -> list[str]:
        """What the proxy has open."""
        return self._proxy.descriptors()

    def leftovers(self) -> list[Path]:
        """What should not be there when nothing waits and nothing runs."""
        places = ("uploads/.nx/spool/*", "uploads/.nx/run-*", "**/.[0-9]*")
        return [path for place in places for path in self.folder.glob(place)]

    def collect(self) -> None:
        """Note what has come out into folders, and to the command."""
        day = "[0-9]*"
        for way, recipient, pattern in (
            ("saved", "album@example.org", f"album/{day}/*"),
            ("saved", "facebook", f"uploads/{day}/*"),
            ("undelivered", "", f"uploads/undelivered/{day}/*"),
        ):
            for path in self.folder.glob(pattern):
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                self._ledger.note(Found(way, recipient, path.name, digest))
        runs = self.folder / "runs"
        fields = runs.read_text().split("\0") if runs.exists() else []
        for sender, recipient, text, name, digest in zip(*[iter(fields)] * 5, strict=False):
            self._ledger.note(Found("run", recipient, name, digest, sender, _token(text)))

    def take(self, mail: Mail, *, confirmed: bool) -> None:
        """Note the photos in a mail."""
        message = email.message_from_bytes(mail.content, policy=email.policy.SMTP)
        body = message.get_body(("plain",))
        text = body.get_content() if body else ""
        [sender] = message["From"].addresses
        for attachment in message.iter_attachments():
            data = attachment.get_payload(decode=True)
            for recipient in mail.recipients:
                self._ledger.note(
                    Found(
                        "mailed",
                        "picasa" if recipient == SITE_ADDRESS else recipient,
                        attachment.get_filename(""),
                        hashlib.sha256(data).hexdigest(),
                        sender.addr_spec,
                        _token(text),
                        message["Message-ID"],
                        (len(self.lives), self._mail_servers),
                        confirmed,
                    )
                )


class _MoodyServer(MailServer):
    """A mail server that is well most of the time."""

    def __init__(self, world: World, port: int, random: Random) -> None:
        super().__init__(port=port)
        self._world = world
        self._random = random

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if mood := await self._mood(TO_RECIPIENT, server):
            return mood
        return await super().handle_RCPT(server, session, envelope, address, options)

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:  # noqa: N802
        mood = await self._mood(TO_MAIL, server)
        if mood in ("", "take and close"):
            mail = Mail(envelope.mail_from, tuple(envelope.rcpt_tos), envelope.original_content)
            self._world.take(mail, confirmed=not mood)
        return mood or "250 2.0.0 OK"

    async def _mood(self, moods: Mapping[str, int], server: SMTP) -> str:
        """What to answer, if anybody is still there to hear it; empty when it is well."""
        number = self._random.randrange(1000)
        mood = next((one for one in moods if (number := number - moods[one]) < 0), "")
        if not mood or not self._world.faulty:
            return ""
        if mood == "silence":
            await asyncio.sleep(self._random.uniform(1, 5))
        if not mood[0].isdigit() and server.transport:
            server.transport.close()
        return mood


def _token(text: str) -> str:
    found = re.search(TOKEN, text)
    return found[0] if found else ""


@contextmanager
def _tmpfs(folder: Path) -> Iterator[None]:
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}m", "tmpfs", str(folder)]
    subprocess.run(command, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)

"""The world around the cameras: a proxy, a mail server, a disk, and their faults.

Each kind of fault recurs in its own thread with its own random generator, so faults overlap. A
fault is a context manager that undoes the fault at its end.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import hashlib
import logging
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

from aiosmtpd.smtp import SMTP

from tests.faults import small_disk
from tests.mitmdump import Proxy
from tests.smtp_servers import HOST, Mail, MailServer
from tests.soak.ledger import ALBUM, Found, Ledger

DISK = 512  # MB
# Writes its arguments and the digest of the file, in fields that end with a NUL.
COMMAND = """
[ -e later ] && exit 75
[ -e never ] && exit 1
sum=$(sha256sum <"$4") || exit 75
printf '%s\\0%s\\0%s\\0%s\\0%s\\0' "$1" "$2" "$3" "${4##*/}" "${sum%% *}" >>runs
"""
RUN = "run:sh command {sender} {recipient} {text} {file}"
SITE_ADDRESS = "site@example.org"
# Faults of the mail server, in thousandths of all commands.
TO_RECIPIENT = {"451 4.2.1 Not now": 20, "550 5.1.1 Not known": 10, "silence": 4, "close": 4}
TO_MAIL = {
    "421 4.3.2 Going down": 4,
    "451 4.3.0 Not now": 15,
    "552 5.3.4 Too much": 8,
    "554 5.6.0 Not this": 8,
    "silence": 4,
    "close": 8,
    "accept and close": 12,
}

# When aiosmtpd is stopped in the middle of a session, asyncio logs its open tasks and connections.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)
sys.unraisablehook = lambda _: None

Fault = Callable[[Random], AbstractContextManager[None]]


class World:
    """Everything but the cameras. Use it in a with statement.

    `lives` has, for each process of the proxy, its end and its samples: time, memory in bytes,
    number of descriptors.
    """

    def __init__(self, folder: Path, seed: int, ledger: Ledger) -> None:
        self.folder = folder
        self.uploads = folder / "uploads"
        self.has_own_disk = os.geteuid() == 0
        self.faulty = True
        self.counts: dict[str, int] = {}
        self.logs: list[str] = []
        self.lives: list[tuple[str, list[tuple[float, int, int]]]] = []
        self._seed = seed
        self._ledger = ledger
        self._samples: list[tuple[float, int, int]] = []
        self._mail_servers = 0

    def __enter__(self) -> World:
        with ExitStack() as opened:
            self.uploads.mkdir()
            if self.has_own_disk:
                opened.enter_context(small_disk(self.uploads, DISK))
            # Reserves the port during outages.
            place = opened.enter_context(socket.socket())
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            place.bind((HOST, 0))
            self._mail_port = place.getsockname()[1]
            self._mail_up()
            opened.callback(self._mail_down)
            (self.folder / "command").write_text(COMMAND)
            options = (
                "nx_senders=*@example.org",
                "nx_retry_for=1m",
                f"nx_smtp=smtp://{HOST}:{self._mail_port}",
                f"nx_route={ALBUM}=save:{self.folder / 'album'}",
                f"nx_route=script@*={RUN}",
                f"nx_route=evernote={RUN}",
                f"nx_route=picasa=mail:{SITE_ADDRESS}",
            )
            self.proxy = Proxy(self.folder, *(f"--set={option}" for option in options))
            self.start()
            opened.callback(self.proxy.kill)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def start(self) -> None:
        """Start the proxy. With a full disk it ends at once, so this is repeated."""
        while True:
            self._samples = []
            self.proxy.start()
            try:
                self.proxy.wait_for("port 53: ")
                break
            except AssertionError:
                self.logs.append(self.proxy.log)
                if "uploads cannot be stored: " not in self.proxy.log:
                    raise
                time.sleep(0.2)
        self.port = self.proxy.port

    def end(self, how: Callable[[], None]) -> None:
        """End the proxy with `proxy.stop` or `proxy.kill`."""
        samples, self._samples = self._samples, []
        how()
        self.lives.append((f"{how.__name__}: {self.proxy.process.returncode}", samples))
        self.logs.append(self.proxy.log)

    def watch(self, over: Event) -> None:
        """Sample the proxy until `over` is set."""
        while not over.wait(0.25):
            process, samples = Path(f"/proc/{self.proxy.process.pid}"), self._samples
            with suppress(OSError):
                resident = int((process / "statm").read_text().split()[1])
                memory = resident * os.sysconf("SC_PAGE_SIZE")
                samples.append((time.monotonic(), memory, len(os.listdir(process / "fd"))))

    # Faults

    def recur(
        self, fault: Fault, every: float, shortest: float, longest: float, over: Event
    ) -> None:
        """Cause a fault about every `every` seconds, for a random time, until `over` is set."""
        random = Random(f"{self._seed} {fault.__name__}")
        while not over.wait(every * random.uniform(0.5, 1.5)):
            self.counts[fault.__name__] = self.counts.get(fault.__name__, 0) + 1
            with fault(random):
                over.wait(random.uniform(shortest, longest))

    @contextmanager
    def restart(self, random: Random) -> Iterator[None]:
        self.end(self.proxy.stop if random.random() < 0.25 else self.proxy.kill)
        yield
        self.start()

    @contextmanager
    def full_disk(self, random: Random) -> Iterator[None]:
        """Leave no space on the disk, or too little for an upload."""
        left = random.choice((0, 0, random.randrange(80 << 20)))
        filler = self.uploads / "filler"
        with filler.open("wb") as file, suppress(OSError):
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
        random = Random(f"{self._seed} mail server {self._mail_servers}")
        self._mail_server = _UnreliableServer(self, random, self._mail_port).__enter__()

    def _mail_down(self) -> None:
        self._mail_server.__exit__()

    # Deliveries

    @property
    def epoch(self) -> tuple[int, int]:
        """Changes with each process of the proxy and each mail server."""
        return len(self.lives), self._mail_servers

    def note_mail(self, mail: Mail, epoch: tuple[int, int], *, confirmed: bool) -> None:
        """Note the photos in a mail."""
        message = email.message_from_bytes(mail.content, policy=email.policy.SMTP)
        text = message.get_body(("plain",)).get_content()
        sender = message["From"].addresses[0].addr_spec
        for attachment in message.iter_attachments():
            digest = hashlib.sha256(attachment.get_payload(decode=True)).hexdigest()
            photo = attachment.get_filename(), digest, sender, _token(text), message["Message-ID"]
            for recipient in mail.recipients:
                recipient = "picasa" if recipient == SITE_ADDRESS else recipient
                self._ledger.note(Found("mailed", recipient, *photo, epoch, confirmed))

    def collect(self) -> None:
        """Note the deliveries to folders and to the command."""
        for way, recipient, place in (
            ("saved", ALBUM, "album"),
            ("saved", "facebook", "uploads"),
            ("undelivered", "", "uploads/undelivered"),
        ):
            for path in self.folder.glob(f"{place}/[0-9]*/*"):
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                self._ledger.note(Found(way, recipient, path.name, digest))
        runs = self.folder / "runs"
        fields = runs.read_text().split("\0") if runs.exists() else []
        for sender, recipient, text, name, digest in zip(*[iter(fields)] * 5, strict=False):
            self._ledger.note(Found("run", recipient, name, digest, sender, _token(text)))

    def left_behind(self) -> list[str]:
        """Return files that must not exist when nothing is pending and nothing runs."""
        places = ("uploads/.nx/spool/*", "uploads/.nx/run-*", "album/*/.*", "uploads/*/*/.*")
        return [str(path) for place in places for path in self.folder.glob(place)]


class _UnreliableServer(MailServer):
    """A mail server that fails sometimes."""

    def __init__(self, world: World, random: Random, port: int) -> None:
        super().__init__(port=port)
        self._world = world
        self._random = random

    async def handle_RCPT(  # noqa: N802
        self, server: SMTP, session: Any, envelope: Any, *more: Any
    ) -> str:
        # Not in DATA: this client waits for the reply here, but may be killed before DATA.
        envelope.epoch = self._world.epoch
        if fault := await self._choose_fault(TO_RECIPIENT, server):
            return fault
        return await super().handle_RCPT(server, session, envelope, *more)

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:  # noqa: N802
        fault = await self._choose_fault(TO_MAIL, server)
        if fault in ("", "accept and close"):
            mail = Mail(envelope.mail_from, tuple(envelope.rcpt_tos), envelope.original_content)
            self._world.note_mail(mail, envelope.epoch, confirmed=not fault)
        return fault or "250 2.0.0 OK"

    async def _choose_fault(self, faults: dict[str, int], server: SMTP) -> str:
        """Return a reply, a fault that closes the connection, or "" to proceed."""
        weights = [*faults.values(), 1000 - sum(faults.values())]
        [fault] = self._random.choices([*faults, ""], weights)
        if not self._world.faulty:
            return ""
        if fault == "silence":
            await asyncio.sleep(self._random.uniform(1, 5))
        if fault and not fault[0].isdigit() and server.transport:
            server.transport.close()
        return fault


def _token(text: str) -> str:
    found = re.search(r"soak-\d+-\d+", text)
    return found[0] if found else ""

"""The open resources while uploads are received: spool, sessions, outbox, threads.

When mitmproxy reloads nx_addon.py, it ends the old instance and starts the new one at
once, while a delivery may still be running. The old instance stores its backend here
(`Backend.hand_over`), and the new one takes it over (`open_backend`). mitmproxy does not
reload this module.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from nxparse.config import Config
from nxparse.deliver import run, targets
from nxparse.deliver.errors import DeliveryError
from nxparse.deliver.outbox import Outbox
from nxparse.deliver.routes import target_label
from nxparse.deliver.smarthost import Smarthost
from nxparse.server.services import Services
from nxparse.server.sessions import Sessions
from nxparse.store.spool import Spool
from nxparse.text import describe_disk_error, format_list

STORAGE_THREADS = 32  # uploads that may wait for the disk at the same time

logger = logging.getLogger(__name__)
T = TypeVar("T")

_handed_over: dict[Path, Backend] = {}  # by the folder `.nx`


class Backend:
    """The state in the folder `.nx` of nx_dir. `config` may be replaced at any time."""

    def __init__(
        self, config: Config, spool: Spool, sessions: Sessions, threads: ThreadPoolExecutor
    ) -> None:
        self.config = config
        self.spool = spool
        self.sessions = sessions
        self.outbox = Outbox(
            spool,
            lambda target: targets.deliver_to(self.config, os.environ, target),
            lambda *failed: targets.save_undelivered(self.config.dir, *failed),
            retry_for=config.retry_for,
            clock=time.time,
        )
        self.services = Services(sessions, spool, in_progress=self.outbox.in_progress)
        self._threads = threads
        self._is_stale = False  # the sessions of another folder are open

    def configure(self, config: Config) -> None:
        """Use these options from now on."""
        smtp, self.config = self.config.smtp, config
        self.outbox.retry_for = config.retry_for
        if config.smtp != smtp:
            self.check_smarthost()

    def check_smarthost(self) -> None:
        """Log in to the mail server, if there is one, and log the result. Does not block."""
        if self.config.smtp:
            check = partial(_check_smarthost, self.config.smtp)
            threading.Thread(target=check, name="nx smarthost", daemon=True).start()

    async def in_thread(self, work: Callable[..., T], *values: Any) -> T:
        """Call a function that waits for the disk in a thread, and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *values)

    def hand_over(self) -> None:
        """Stop new deliveries, and let the next `open_backend` take this backend over."""
        self.outbox.stop(0)
        _handed_over[_root(self.config)] = self

    async def end(
        self,
        on_interrupt: Callable[[Callable[[], None]], None],
        timeout: float,
        pause: float = 0.0,
    ) -> None:
        """After a pause and the running deliveries, close this backend, if it is not taken over.

        After `timeout` seconds, or on Ctrl-C, the deliveries are cut off and their programs
        are killed; the next start repeats them. `on_interrupt(act)` arranges for `act` to
        be called on Ctrl-C.
        """
        await asyncio.sleep(pause)
        root, deadline = _root(self.config), time.monotonic() + timeout
        interrupted, logged = asyncio.Event(), False
        while _handed_over.get(root) is self:
            if self.outbox.stop(0):
                del _handed_over[root]
                await self.in_thread(self.close)
                self._threads.shutdown(wait=False)
                return
            running = sorted(self.outbox.in_progress())
            waiting = format_list([f"upload {id} to {target_label(to)}" for id, to, _ in running])
            if waiting and not logged:
                logged = True
                on_interrupt(interrupted.set)
                logger.info(
                    f"waiting up to {timeout:.0f} s for {waiting}; Ctrl-C again ends at once"
                )
            if interrupted.is_set() or time.monotonic() > deadline:
                if waiting:
                    logger.warning(
                        f"stopped during the delivery of {waiting}; the next start repeats it"
                    )
                run.end_running()
                return
            await asyncio.sleep(0.05)

    def is_in_place(self) -> bool:
        """Return whether the open folder is still the one at its path."""
        return not self._is_stale and self.spool.is_in_place()

    def reopen(self) -> None:
        """If the folder has been replaced, open the new one. Blocks.

        Raises OSError and sqlite3.Error.
        """
        self._is_stale |= self.spool.reopen()
        if self._is_stale:
            self.sessions.reopen()
            self._is_stale = False

    def close(self) -> None:
        """Close the databases."""
        self.spool.close()
        self.sessions.close()


def open_backend(config: Config) -> Backend | None:
    """Open the backend in nx_dir, or take over an open one. On failure, log it; return None."""
    root = _root(config)
    if left := _handed_over.pop(root, None):
        left.configure(config)
        return left
    # Not asyncio's own executor: a slow disk must not delay name resolution.
    threads = ThreadPoolExecutor(STORAGE_THREADS, "storage")
    try:
        spool = Spool(root, background=threads.submit)
    except (OSError, sqlite3.Error) as error:
        logger.error(f"uploads cannot be stored: {describe_disk_error(error, config.dir)}")
        return None
    for path in spool.recovered:
        logger.warning(f"recovered a partial upload from the last run: {path}")
    path = root / "sessions.sqlite3"
    try:
        sessions = Sessions(path)
    except (OSError, sqlite3.Error) as error:
        reason = describe_disk_error(error, path)
        logger.error(f"logins to social sites cannot be stored: {reason}")
        spool.close()
        return None
    return Backend(config, spool, sessions, threads)


def _check_smarthost(server: Smarthost) -> None:
    from nxparse.deliver.mail import check_smarthost  # slow to import

    try:
        logger.info(check_smarthost(server))
    except DeliveryError as error:
        logger.warning(f"nx_smtp does not work now: {error}")


def _root(config: Config) -> Path:
    return config.dir / ".nx"

"""The backend: opened, taken over by a reloaded addon, and ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from nxparse.config import Config
from nxparse.server.backend import Backend, open_backend
from tests import arrivals, bodies
from tests.box import configured
from tests.mitmdump import eventually, free_port


def parsed(folder: Path, **options: object) -> Config:
    return configured(folder, nx_senders=["*"], **options)


def opened(folder: Path, **options: object) -> Backend:
    backend = open_backend(parsed(folder, **options))
    assert backend
    return backend


def no_interrupt(act: Callable[[], None]) -> None:
    """Ignore the action for Ctrl-C."""


async def test_taken_over(folder: Path) -> None:
    """A reloaded addon takes over the spool with its new options."""
    first = opened(folder)
    first.hand_over()
    second = opened(folder, nx_retry_for="7s")
    await first.end(no_interrupt, timeout=60.0)

    assert second is first
    assert second.outbox.retry_for == 7
    assert second.spool.waiting() == []
    second.hand_over()
    await second.end(no_interrupt, timeout=60.0)


def test_a_new_mail_server_is_checked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mail server is checked when nx_smtp changes, but not when other options do."""
    checked: list[object] = []
    monkeypatch.setattr(Backend, "check_smarthost", lambda self: checked.append(self.config.smtp))
    one = opened(folder, nx_smtp="smtps://old.example")
    for host, retry_for in (("old", "1d"), ("new", "1d"), ("new", "2d")):
        changed = parsed(folder, nx_smtp=f"smtps://{host}.example", nx_retry_for=retry_for)
        one.configure(changed)
    assert checked == [changed.smtp]
    one.close()


def test_a_replaced_folder(folder: Path) -> None:
    """The uploads and the logins are stored in the folder that is there now."""
    one = opened(folder)
    one.reopen()
    folder.rename(folder.with_name("old"))
    folder.mkdir()
    obstacle = folder / ".nx" / "sessions.sqlite3"
    obstacle.mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        one.reopen()
    obstacle.rmdir()
    assert not one.is_in_place()
    one.reopen()
    assert one.is_in_place()
    key = one.sessions.begin("192.0.2.7", "anna")
    one.close()
    again = opened(folder)
    assert again.sessions.user("192.0.2.7", key) == "anna"
    again.close()


async def test_two_processes_in_one_folder(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A second process gets no backend, and logs the reason, until the first has ended."""
    first = opened(folder)
    assert open_backend(parsed(folder)) is None
    assert "uploads cannot be stored: " in caplog.text
    assert "another nx_addon is using it" in caplog.text
    first.hand_over()
    await first.end(no_interrupt, timeout=60.0)
    second = opened(folder)
    assert second is not first
    second.close()


def test_mail_server_out_of_reach(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A failed check of the mail server is logged with the option and the reason."""
    backend = opened(folder, nx_smtp=f"smtp://127.0.0.1:{free_port()}")
    backend.check_smarthost()
    eventually(lambda: caplog.text, "the result is logged")
    assert "nx_smtp does not work now: 127.0.0.1" in caplog.text
    assert "Connection refused" in caplog.text
    backend.close()


@pytest.mark.parametrize("way", ["time-out", "Ctrl-C"])
async def test_a_program_at_the_end(
    folder: Path, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    """A running program is killed when the backend ends, and its delivery stays pending."""
    caplog.set_level(logging.INFO)
    target = "run:sh -c 'touch \"$1\".begun; sleep 1000' sh {file}"
    backend = opened(folder)
    id = arrivals.accept(
        backend.spool, bodies.body([("SAM_1.JPG", b"x")]), {target: ["a@example.org"]}
    ).id
    backend.outbox.start()
    eventually(lambda: list((folder / ".nx").rglob("*.begun")), "the program runs")
    backend.hand_over()
    if way == "time-out":
        await backend.end(no_interrupt, timeout=0.1)
    else:
        await backend.end(lambda act: act(), timeout=60.0)

    assert f"waiting up to {'0' if way == 'time-out' else '60'} s for upload {id} to run" in (
        caplog.text
    )
    assert f"stopped during the delivery of upload {id} to run" in caplog.text
    async with asyncio.timeout(30):
        while [one.reason for one in backend.spool.waiting()] != ["sh was ended by signal 9"]:
            await asyncio.sleep(0.01)
    second = opened(folder)  # the delivery has ended meanwhile
    second.hand_over()
    await second.end(no_interrupt, timeout=60.0)

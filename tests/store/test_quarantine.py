from __future__ import annotations

import errno
import itertools
import os
import re
from contextlib import suppress
from pathlib import Path

import pytest

from nxparse.store import spool
from nxparse.store.disk import Folder
from nxparse.store.spool import Spool
from tests.clock import Clock
from tests.faults import CALLS, Faults, contents
from tests.store.helpers import BODY, CLIENT, SAVE, UPLOAD, Reopen, bodies, receive, to


class TestQuarantine:
    @pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
    def test_any_call_fails(self, tmp_path: Path, clock: Clock, persistent: bool) -> None:
        """Whichever call fails, a cut body is in quarantine after a restart at the latest."""
        for first in itertools.count(1):
            root = tmp_path / str(first) / ".nx"
            opened = Spool(root, clock)
            incoming = receive(opened)
            faults = Faults(CALLS, errno.EIO, first, persistent=persistent)
            with faults, suppress(OSError):
                assert opened.quarantine(incoming) == root / "quarantine" / incoming.id
            opened.close()
            Spool(root, clock).close()
            assert (first, bodies(root)) == (first, ({}, {incoming.id: BODY}))
            if not faults.failed:
                break

    @pytest.mark.parametrize("accepted", [False, True])
    def test_durable(self, opened: Spool, monkeypatch: pytest.MonkeyPatch, accepted: bool) -> None:
        """The body is fsynced before it is moved, and both folders after that."""
        seen: list[str] = []
        replace = os.replace
        body = receive(opened)
        if accepted:
            delivery = to(opened.accept(body, CLIENT, UPLOAD, SAVE), "save")

        def fsync(fd: int) -> None:
            seen.append(Path(f"/proc/self/fd/{fd}").readlink().name)

        def move(*names: str, **folders: int) -> None:
            seen.append("move")
            replace(*names, **folders)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "replace", move)
        if accepted:
            opened.quarantine_delivery(delivery)
        else:
            opened.quarantine(body)
        before = [] if accepted else [body.id, "spool"]
        assert seen == [*before, "move", "quarantine", "spool"]

    def test_tidy_lists_no_folder(
        self,
        opened: Spool,
        root: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """The folder is listed after a twentieth of the limit was moved to it.

        It never has more bodies than the limit, and each deleted one is logged.
        """
        monkeypatch.setattr(spool, "MAX_QUARANTINE_FILES", 40)
        listed: list[Path] = []
        files = Folder.files
        monkeypatch.setattr(
            Folder, "files", lambda folder: listed.append(folder.path) or files(folder)
        )
        for _ in range(90):
            opened.quarantine(receive(opened))
            assert len(bodies(root)[1]) <= 40
        assert len(listed) == 90 // 3
        assert len(caplog.messages) == 90 - len(bodies(root)[1])

    @pytest.mark.parametrize(
        ("limit", "room", "deleted"),
        [
            ("MAX_QUARANTINE_BYTES", 4 * 4096, 0),
            ("MAX_QUARANTINE_BYTES", 3 * 4096, 1),
            ("MAX_QUARANTINE_BYTES", 9102, 2),  # nine tenths of it are less than two blocks
            ("MAX_QUARANTINE_BYTES", 4096, 3),
            ("MAX_QUARANTINE_FILES", 0, 3),
            *[("MAX_QUARANTINE_FILES", count, 4 - count) for count in range(1, 5)],
        ],
    )
    def test_tidy(
        self,
        opened: Spool,
        root: Path,
        clock: Clock,
        reopen: Reopen,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        limit: str,
        room: int,
        deleted: int,
    ) -> None:
        """At the start, the oldest bodies are deleted until a tenth of the limit is free.

        A file of one byte takes a block of 4 KiB.
        """
        paths = []
        for _ in range(3):
            paths.append(opened.quarantine(receive(opened, b"x")))
            clock.now += 1
        monkeypatch.setattr(spool, limit, room)
        reopen()
        assert sorted((root / "quarantine").iterdir()) == paths[deleted:]
        line = "quarantine is full: deleted the oldest in it, {}"
        assert caplog.messages == [line.format(path) for path in paths[:deleted]]

    @pytest.mark.parametrize("limit", ["MAX_QUARANTINE_BYTES", "MAX_QUARANTINE_FILES"])
    @pytest.mark.parametrize("accepted", [False, True], ids=["refused", "accepted"])
    def test_newest(
        self,
        opened: Spool,
        root: Path,
        clock: Clock,
        monkeypatch: pytest.MonkeyPatch,
        limit: str,
        accepted: bool,
    ) -> None:
        """A body stays in quarantine even if it alone exceeds the limit, or the clock is wrong."""
        opened.quarantine(receive(opened))
        monkeypatch.setattr(spool, limit, 0)
        clock.now = 0  # its name is that of the oldest
        body = receive(opened)
        if accepted:
            opened.quarantine_delivery(to(opened.accept(body, CLIENT, UPLOAD, SAVE), "save"))
        else:
            opened.quarantine(body)
        assert contents(root / "quarantine") == {body.id: BODY}


class TestUnknown:
    """Unknown requests."""

    def test_stored(self, opened: Spool, root: Path) -> None:
        """A flow is stored unaltered."""
        paths = [opened.save_unknown(flow) for flow in (b"one", b"two")]
        assert sorted(paths) == sorted((root / "unknown").iterdir())
        assert [path.read_bytes() for path in paths] == [b"one", b"two"]
        assert all(re.fullmatch(r"20260101T000000Z-[0-9a-f]{8}\.mitm", path.name) for path in paths)

    @pytest.mark.parametrize(
        ("name", "limit", "left"),
        [("MAX_UNKNOWN_FILES", 2, [3, 4]), ("MAX_UNKNOWN_BYTES", 12288, [2, 3, 4])],
    )
    def test_limits(
        self,
        opened: Spool,
        root: Path,
        clock: Clock,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        limit: int,
        left: list[int],
    ) -> None:
        """The oldest flows are deleted when their number or size exceeds the limit."""
        monkeypatch.setattr(spool, name, limit)
        for number in (1, 2, 3, 4):
            opened.save_unknown(b"%10d" % number)
            clock.now += 1
        assert [int(flow) for flow in contents(root / "unknown").values()] == left

    def test_newest(self, opened: Spool, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A flow is stored even if it alone exceeds the limit."""
        monkeypatch.setattr(spool, "MAX_UNKNOWN_BYTES", 0)
        opened.save_unknown(b"one")
        opened.save_unknown(b"two")
        assert [*contents(root / "unknown").values()] == [b"two"]

    @pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
    def test_failure(self, opened: Spool, root: Path, persistent: bool) -> None:
        """Whichever call fails, no partial flow is left, and the next one is stored."""
        calls = ("open", "write", "replace")
        for first in itertools.count(1):
            faults = Faults(calls, errno.ENOSPC, first, persistent=persistent)
            raised = 0
            try:
                with faults:
                    opened.save_unknown(b"a flow")
            except OSError:
                raised = 1
            assert raised == min(faults.failed, 1)
            opened.save_unknown(b"a flow")
            assert set(contents(root / "unknown").values()) == {b"a flow"}
            assert not list((root / "unknown").glob(".*"))
            if not faults.failed:
                break

from __future__ import annotations

import errno
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mitmproxy.io import FlowWriter
from mitmproxy.test.tflow import tflow

import nxparse
from nxparse import multipart
from nxparse.cli.main import main
from nxparse.deliver.outbox import describe_waiting
from nxparse.deliver.save import folder_for
from nxparse.inspect import show
from nxparse.store.records import Post, StoredUpload
from nxparse.store.spool import Spool
from tests import arrivals
from tests.bodies import CONTENT_TYPE, body, jpeg, request
from tests.faults import Faults, contents, make_lazy
from tests.mitmdump import ROOT

NOW = 1767225600.0  # 2026-01-01 00:00 UTC
PHOTOS = {"A.JPG": jpeg(500), "B.JPG": jpeg(600)}
UPLOAD = body(list(PHOTOS.items()))
NO_MESSAGE = b"--B\r\ncontent-disposition: form-data; name=x\r\n\r\nabc\r\n--B--"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line. Returns its exit status, stdout and stderr."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(word) for word in words])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def no_permission(tmp_path: Path) -> Iterator[Path]:
    """A folder that this process has no permission to enter."""
    folder = tmp_path / "private"
    (folder / ".nx").mkdir(parents=True)
    (folder / "upload").write_bytes(UPLOAD)
    folder.chmod(0)
    privileged = os.geteuid() == 0
    if privileged:
        os.seteuid(65534)
    yield folder
    if privileged:
        os.seteuid(0)
    folder.chmod(0o700)


class TestFiles:
    """The commands show and repair."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "my upload"
        path.write_bytes(UPLOAD)
        return path

    @pytest.mark.parametrize("data", [UPLOAD, request(UPLOAD)], ids=["body", "request"])
    def test_show(self, path: Path, run: Run, data: bytes) -> None:
        """stdout has the text, or one JSON object and nothing else."""
        path.write_bytes(data)
        content_type = CONTENT_TYPE if data != UPLOAD else ""
        assert run("show", path) == (0, show.email(UPLOAD, content_type), "")
        status, out, err = run("show", "--json", path)
        assert (status, err) == (0, "")
        assert json.loads(out) == show.as_json(nxparse.read(UPLOAD, content_type))

    def test_extract(self, path: Path, tmp_path: Path, run: Run) -> None:
        """The folder is created. Files in it are not overwritten, and equal ones not duplicated."""
        folder = tmp_path / "new" / "folder"
        for _ in range(2):
            assert run("show", "--json", "--extract", folder, path)[0] == 0
        (folder / "A.JPG").write_bytes(b"mine")
        status, _, err = run("show", "--extract", folder, path)
        assert status == 0
        assert str(folder / "A-1.JPG") in err
        assert contents(folder) == {
            "A.JPG": b"mine",
            "A-1.JPG": PHOTOS["A.JPG"],
            "B.JPG": PHOTOS["B.JPG"],
        }

    def test_login(self, path: Path, run: Run) -> None:
        """A request that is known but not an upload is shown, without secrets."""
        path.write_bytes(
            b"POST /facebook/auth HTTP/1.1\r\n\r\n"
            b'<Request><UserName Value="me"/><Password Value="secret"/></Request>'
        )
        shown = '<Request><UserName Value="(hidden)"/><Password Value="(hidden)"/></Request>\n'
        assert run("show", path) == (0, shown, "")

    @pytest.mark.parametrize(
        ("data", "shown", "sentence"),
        [
            (b"nothing", "upload  cannot be", "cannot be parsed: Content-Type names no usable"),
            (b"", "", "cannot be parsed: Content-Type names no usable boundary"),
            (PHOTOS["A.JPG"], "", "cannot be parsed: it is a photo, not an upload"),
            (b"\0\0\0\x18ftypmp42", "", "cannot be parsed: it is a video, not an upload"),
            (b"GET /x HTTP/1.1\r\n\r\n", "", "is not an upload, but: unknown, GET /x"),
            (
                NO_MESSAGE,
                "(?s)  1  x     -.* boundary-missing  at 0",
                "cannot be parsed: the body has no part named message",
            ),
        ],
        ids=["garbage", "empty", "photo", "video", "other request", "no message"],
    )
    def test_not_an_upload(
        self, path: Path, run: Run, data: bytes, shown: str, sentence: str
    ) -> None:
        """The reason is printed, after the parts that could be parsed."""
        path.write_bytes(data)
        status, out, err = run("show", path)
        assert (status, bool(re.search(shown, out))) == (1, True)
        assert err.startswith(f"{path} {sentence}")
        assert run("show", "--json", path)[:2] == (1, "")

    def test_recording(self, path: Path, run: Run) -> None:
        """A recording is recognised, with the command that opens it."""
        with path.open("wb") as file:
            FlowWriter(file).add(tflow())
        sentence = f"it is a recording; open it with: .venv/bin/mitmweb -s nx_addon.py -nr '{path}'"
        assert run("show", path) == (1, "", f"{path} cannot be parsed: {sentence}\n")

    @pytest.mark.parametrize("command", ["show", "repair"])
    def test_file_cannot_be_read(self, no_permission: Path, run: Run, command: str) -> None:
        for path, reason in (
            (no_permission / "upload", "Permission denied"),
            (Path("/nowhere/upload"), "No such file or directory"),
            (Path(os.sep), "Is a directory"),
        ):
            assert run(command, path) == (1, "", f"{reason} ({path})\n")

    def test_repair(self, path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        """stdout has the repaired body, stderr its Content-Type."""
        assert main(["repair", str(path)]) == 0
        out, err = capfdbinary.readouterr()
        content_type = err.decode().removeprefix("Content-Type: ").strip()
        assert (content_type, out) == multipart.repair(UPLOAD, "")

    def test_repair_fails(self, path: Path, run: Run) -> None:
        path.write_bytes(b"nothing")
        status, out, err = run("repair", path)
        assert (status, out) == (1, "")
        assert err.startswith(f"{path} cannot be repaired: Content-Type names")

    @pytest.mark.parametrize("words", ["repair {} | head -c 10", "show --json {} | true"])
    def test_reader_closes_the_pipe(self, path: Path, words: str) -> None:
        """A reader that closes the pipe early causes no error message."""
        path.write_bytes(body([("A.JPG", jpeg(300_000))]))
        words = words.format(shlex.quote(str(path)))
        line = f"set -o pipefail; {shlex.quote(sys.executable)} -m nxparse {words}"
        done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, check=False)
        assert done.returncode == 0
        assert b"Error" not in done.stderr


class TestOutbox:
    @pytest.fixture(autouse=True)
    def _prepared(self, monkeypatch: pytest.MonkeyPatch) -> None:
        make_lazy(monkeypatch)
        monkeypatch.setattr(time, "time", lambda: NOW)

    @pytest.fixture
    def uploads(self, tmp_path: Path) -> Path:
        return tmp_path / "uploads"

    @pytest.fixture
    def spool(self, uploads: Path) -> Iterator[Spool]:
        """The spool of a running mitmproxy."""
        spool = Spool(uploads / ".nx", lambda: NOW)
        yield spool
        spool.close()

    @pytest.fixture
    def outbox(self, uploads: Path, run: Run) -> Run:
        return lambda *words: run("outbox", "--dir", uploads, *words)

    def test_list(self, spool: Spool, outbox: Run) -> None:
        """`outbox` and `outbox list` print the same list, with and without a running mitmproxy."""
        assert outbox() == (0, describe_waiting([], NOW) + "\n", "")
        accept(spool, "mail", "save")
        postpone(spool, 90, "421 later\x1b[31m")
        expected = describe_waiting(spool.waiting(), NOW) + "\n"
        assert outbox("list") == outbox() == (0, expected, "")
        spool.close()
        assert outbox() == (0, expected, "")
        assert "421 later?[31m" in expected

    @pytest.mark.parametrize(
        "target", ["forward:https://me:s3cret@h/s3cret", "run:curl -u me:s3cret https://h/ {file}"]
    )
    @pytest.mark.parametrize("data", [UPLOAD, b"not multipart"], ids=["whole", "garbled"])
    def test_secrets_in_targets(self, spool: Spool, outbox: Run, target: str, data: bytes) -> None:
        id = accept(spool, target, data=data).id
        printed = [outbox(), outbox("retry", id), outbox("drop", id), outbox("drop", id)]
        assert [status for status, *_ in printed] == [0, 0, 0, 1]
        assert "s3cret" not in str(printed)

    def test_retry(self, spool: Spool, outbox: Run) -> None:
        """All deliveries of the upload become due, and the running process notices."""
        id = accept(spool, "mail", "save").id
        postpone(spool, 3600, "421 later")
        spool.notice_changes()
        printed = f"upload {id} is retried now if mitmproxy runs, else when it starts\n"
        assert outbox("retry", id) == (0, printed, "")
        assert [len(spool.due(target)) for target in ("mail", "save")] == [1, 1]
        assert spool.notice_changes()

    @pytest.mark.parametrize("action", ["retry", "drop"])
    def test_unknown_id(self, spool: Spool, outbox: Run, action: str) -> None:
        delivered = accept(spool)
        spool.done(spool.waiting()[0])
        for id in ("unknown", delivered.id, ""):
            sentence = f"upload {id} has no pending deliveries: see the list\n"
            assert outbox(action, id) == (1, "", sentence)

    def test_drop(self, spool: Spool, outbox: Run, uploads: Path) -> None:
        """The files are saved for each delivery of the upload; other uploads are not touched."""
        dropped = accept(spool, "mail", "save")
        other = accept(spool)
        status, out, err = outbox("drop", dropped.id)
        assert (status, len(out.splitlines()), err) == (0, 2, "")
        assert contents(folder_for(uploads / "undelivered", dropped.received)) == PHOTOS
        assert [one.arrival.id for one in spool.waiting()] == [other.id]
        assert list(contents(uploads / ".nx" / "spool")) == [other.id]

    def test_drop_after_partial_delivery(self, spool: Spool, outbox: Run, uploads: Path) -> None:
        """Only files that are still pending are saved."""
        upload = accept(spool)
        spool.split(spool.waiting()[0], 2)
        spool.done(spool.waiting()[0])
        assert outbox("drop", upload.id)[0] == 0
        day = folder_for(uploads / "undelivered", upload.received)
        assert contents(day) == {"B.JPG": PHOTOS["B.JPG"]}
        assert spool.waiting() == []

    @pytest.mark.parametrize("left", [UPLOAD[:-1], None], ids=["cut", "gone"])
    def test_drop_of_a_damaged_upload(
        self, spool: Spool, outbox: Run, uploads: Path, left: bytes | None
    ) -> None:
        """A body that cannot be parsed is moved to quarantine; one that is gone can be dropped."""
        id = accept(spool).id
        path, quarantine = uploads / ".nx" / "spool" / id, uploads / ".nx" / "quarantine"
        path.unlink()
        if left:
            path.write_bytes(left)
        status, out, err = outbox("drop", id)
        assert (status, out, spool.waiting()) == (0, "", [])
        assert err.startswith("its files cannot be saved: its body ")
        assert (f"; its body is saved as {quarantine / id}\n" in err) == bool(left)
        assert contents(quarantine) == ({id: left} if left else {})

    def test_drop_with_full_disk(self, spool: Spool, outbox: Run, uploads: Path) -> None:
        """An upload that cannot be saved is not dropped."""
        id = accept(spool).id
        with Faults(("write", "copy_file_range"), errno.ENOSPC, persistent=True):
            status, out, err = outbox("drop", id)
        assert (status, out) == (1, "")
        assert "No space left on device" in err
        assert [one.arrival.id for one in spool.waiting()] == [id]
        assert list(contents(uploads / ".nx" / "spool")) == [id]

    def test_post(self, spool: Spool, outbox: Run, uploads: Path) -> None:
        """The photos of a post to a social site are retried and dropped together."""
        post = Post("192.0.2.7", "anna", "a session", "facebook", "NX300", "At the sea")
        to_me = "mail:me@example.org"
        for name, data in PHOTOS.items():
            upload = arrivals.append(spool, post, name, data, at_once=["save"], together=[to_me])
        assert spool.due(to_me) == []
        assert outbox("retry", upload.id)[0] == 0
        assert len(spool.due(to_me)) == 1
        status, out, _ = outbox("drop", upload.id)
        assert (status, len(out.splitlines())) == (0, 3)
        assert contents(folder_for(uploads / "undelivered", upload.received)) == PHOTOS
        assert (spool.waiting(), contents(uploads / ".nx" / "spool")) == ([], {})

    @pytest.mark.parametrize("words", [[], ["retry", "x"], ["drop", "x"]], ids=str)
    def test_wrong_folder(self, uploads: Path, outbox: Run, words: list[str]) -> None:
        """A folder that is not an nx_dir is refused and left alone."""
        sentence = f"{uploads} is not the nx_dir of nx_addon: choose it with --dir\n"
        assert outbox(*words) == (1, "", sentence)
        assert not uploads.exists()
        uploads.mkdir()
        assert outbox(*words) == (1, "", sentence)
        assert list(uploads.iterdir()) == []

    def test_garbled_database(self, spool: Spool, outbox: Run, uploads: Path) -> None:
        spool.close()
        for path in (uploads / ".nx").glob("state.sqlite3*"):
            path.write_bytes(b"garbage " * 1000)
        status, out, err = outbox()
        assert (status, out) == (1, "")
        assert err.startswith("the outbox cannot be opened: file is not a database (")

    def test_no_permission(self, no_permission: Path, run: Run) -> None:
        """Another user's outbox is refused with the reason."""
        assert run("outbox", "--dir", no_permission) == (
            1,
            "",
            f"no permission to open the outbox in {no_permission}: run this command as the user "
            "who runs nx_addon\n",
        )


@pytest.mark.parametrize(
    ("words", "status", "printed"),
    [
        ([], 2, "usage: python -m nxparse "),
        (["nonsense"], 2, "usage: python -m nxparse "),
        (["outbox", "nonsense"], 2, "usage: python -m nxparse outbox "),
        (["outbox", "retry"], 2, "usage: python -m nxparse outbox retry "),
        (["--version"], 0, f"nxparse {nxparse.__version__}\n"),
        (["--help"], 0, "play the camera, to test"),
        (["outbox", "--dir", "nowhere"], 1, "nowhere is not the nx_dir of nx_addon"),
    ],
    ids=str,
)
def test_exit_status(
    words: list[str],
    status: int,
    printed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With exit status 0 the output is on stdout, otherwise on stderr."""
    monkeypatch.setattr(sys, "argv", ["nxparse", *words])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("nxparse", run_name="__main__")
    assert caught.value.code == status
    out, err = capsys.readouterr()
    assert printed in (err if status else out)
    assert (out == "") == (status != 0)


def accept(spool: Spool, *targets: str, data: bytes = UPLOAD) -> StoredUpload:
    deliveries = dict.fromkeys(targets or ("mail",), ("a@b.org", "c@b.org"))
    return arrivals.accept(spool, data, deliveries)


def postpone(spool: Spool, seconds: float, reason: str) -> None:
    for one in spool.waiting():
        spool.postpone(one, seconds, reason, one.recipients)

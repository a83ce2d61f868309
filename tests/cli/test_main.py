from __future__ import annotations

import errno
import json
import os
import re
import runpy
import shlex
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mitmproxy.io import FlowWriter
from mitmproxy.test.tflow import tflow

from nxparse import multipart
from nxparse.cli.main import main
from nxparse.deliver.save import folder_for
from nxparse.store.records import Post, StoredUpload
from nxparse.store.spool import QUIET, Spool
from tests import arrivals
from tests.bodies import SENDER, body, jpeg, request
from tests.faults import Faults, contents, make_lazy
from tests.mitmdump import ROOT

NOW = 1767225600.0  # 2026-01-01 00:00 UTC
PHOTOS = {"A.JPG": jpeg(500), "B.JPG": jpeg(600)}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    make_lazy(monkeypatch)
    monkeypatch.setattr(time, "time", lambda: NOW)


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    return tmp_path / "uploads"


@pytest.fixture
def running(uploads: Path) -> Iterator[Spool]:
    """The spool of a mitmproxy that runs."""
    found = Spool(uploads / ".nx", lambda: NOW)
    yield found
    found.close()


@pytest.fixture
def run(uploads: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the outbox command. Returns its status, and what it printed, and to stderr."""

    def found(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["outbox", "--dir", str(uploads), *words])
        return status, *capsys.readouterr()

    return found


def accept(into: Spool, *targets: str, data: bytes | None = None) -> StoredUpload:
    deliveries = dict.fromkeys(targets or ("mail",), ("a@b.org", "c@b.org"))
    return arrivals.accept(into, body(list(PHOTOS.items())) if data is None else data, deliveries)


def postpone(found: Spool, seconds: float, reason: str) -> None:
    for one in found.waiting():
        found.postpone(one, seconds, reason, one.recipients)


class TestList:
    @pytest.mark.parametrize("words", [[], ["list"]], ids=["nothing", "list"])
    def test_nothing_waits(self, running: Spool, run: Run, words: list[str]) -> None:
        """Without an action it lists, and says so if nothing waits."""
        assert run(*words) == (0, "no pending deliveries\n", "")

    def test_waiting(self, running: Spool, run: Run) -> None:
        """What waits: a line for each delivery, with the id that retry and drop take."""
        arrival = accept(running, "mail")
        postpone(running, 90, "421 later\x1b[31m")
        [one] = running.waiting()
        running.split(one, 2)
        save = accept(running, "save")
        [other] = running.due("save")
        running.postpone(other, 7200, "No space left on device", ["c@b.org"])
        status, out, err = run("list")
        assert (status, err) == (0, "")
        lines = [
            f"{arrival.id}, file 1: to a@b.org, c@b.org by mail, waiting for 0 seconds, due now",
            f"{arrival.id}, file 2: to a@b.org, c@b.org by mail, waiting for 0 seconds, due now",
            f"{save.id}: to c@b.org by save, waiting for 0 seconds, tried once, "
            f"next try in 2 hours: No space left on device",
        ]
        assert sorted(out.splitlines()) == sorted(lines)

    def test_printable(self, running: Spool, run: Run) -> None:
        """What a server said cannot do anything to the terminal."""
        accept(running)
        postpone(running, 90, "421 later\x1b[31m")
        assert "421 later?[31m" in run()[1]

    @pytest.mark.parametrize(
        ("target", "shown"),
        [
            ("forward:https://me:s3cret@h:8443/s3cret?x=s3cret", "forward:https://h:8443/..."),
            ("notify:tgram://s3cret/1", "notify:tgram://..."),
            ("run:curl -u me:s3cret https://h/ {file}", "run:curl ..."),
            ("pigeon:s3cret", "pigeon:..."),
        ],
        ids=["forward", "notify", "run", "another version's"],
    )
    @pytest.mark.parametrize("data", [None, b"not multipart"], ids=["whole", "garbled"])
    def test_secrets(
        self, running: Spool, run: Run, target: str, shown: str, data: bytes | None
    ) -> None:
        """A secret that is written out in a target is not shown, nor told by retry and drop."""
        id = accept(running, target, data=data).id
        listed = run()
        assert f" by {shown}, waiting for " in listed[1]
        said = [listed, run("retry", id), run("drop", id), run("drop", id)]
        assert [status for status, *_ in said] == [0, 0, 0, 1]
        assert "s3cret" not in str(said)

    def test_nothing_running(self, running: Spool, run: Run) -> None:
        """It works when no mitmproxy runs."""
        arrival = accept(running)
        running.close()
        assert run()[1].startswith(f"{arrival.id}: ")


class TestRetry:
    def test_upload(self, running: Spool, run: Run) -> None:
        """All that waits of an upload is due, and the one who runs can see that."""
        arrival = accept(running, "mail", "save")
        postpone(running, 3600, "421 later")
        version = running.version()
        assert run("retry", arrival.id) == (
            0,
            f"upload {arrival.id} is tried again as soon as mitmproxy runs\n",
            "",
        )
        assert [len(running.due(target)) for target in ("mail", "save")] == [1, 1]
        assert running.version() != version

    @pytest.mark.parametrize("action", ["retry", "drop"])
    def test_unknown(self, running: Spool, run: Run, action: str) -> None:
        """An id that nothing waits for is told, and changes nothing."""
        done = accept(running)
        [one] = running.waiting()
        running.done(one)
        for id in ("nobody", done.id, ""):
            assert run(action, id) == (
                1,
                "",
                f"nothing of an upload {id} waits: see the list\n",
            )


class TestDrop:
    def test_upload(self, running: Spool, run: Run, uploads: Path) -> None:
        """The files of a dropped upload are kept as files, and nothing of it waits."""
        arrival = accept(running, "mail", "save")
        other = accept(running)
        day = folder_for(uploads / "undelivered", arrival.received)
        first = f"saved as {day / 'A.JPG'} (500 bytes), {day / 'B.JPG'} (600 bytes)\n"
        again = first.replace(" bytes)", " bytes, already there)")
        assert run("drop", arrival.id) == (0, first + again, "")
        assert contents(day) == PHOTOS
        assert [one.arrival.id for one in running.waiting()] == [other.id]
        assert list(contents(uploads / ".nx" / "spool")) == [other.id]
        with sqlite3.connect(uploads / ".nx" / "state.sqlite3") as database:
            rows = database.execute("SELECT DISTINCT state, reason FROM delivery").fetchall()
        database.close()
        assert sorted(rows) == [("failed", "dropped by hand"), ("waiting", "")]

    def test_split_upload(self, running: Spool, run: Run, uploads: Path) -> None:
        """The id of the upload is for each of its files that waits."""
        arrival = accept(running)
        [one] = running.waiting()
        running.split(one, 2)
        running.done(running.waiting()[0])
        assert run("drop", arrival.id)[0] == 0
        day = folder_for(uploads / "undelivered", arrival.received)
        assert contents(day) == {"B.JPG": PHOTOS["B.JPG"]}
        assert running.waiting() == []

    def test_cannot_be_read(self, running: Spool, run: Run, uploads: Path) -> None:
        """A body that cannot be read is not lost: it is put into quarantine."""
        arrival = accept(running)
        path = uploads / ".nx" / "spool" / arrival.id
        cut = path.read_bytes()[:-1]
        path.write_bytes(cut)
        status, out, err = run("drop", arrival.id)
        assert err.startswith("its files cannot be kept: its body has another size ")
        assert err.endswith(
            f"; its body is kept as {uploads / '.nx' / 'quarantine' / arrival.id}\n"
        )
        assert (status, out, running.waiting()) == (0, "", [])
        assert contents(uploads / ".nx" / "quarantine") == {arrival.id: cut}

    def test_gone(self, running: Spool, run: Run, uploads: Path) -> None:
        """An upload whose body somebody has deleted can be dropped."""
        arrival = accept(running)
        (uploads / ".nx" / "spool" / arrival.id).unlink()
        assert run("drop", arrival.id) == (0, "", "its files cannot be kept: its body is gone\n")
        assert running.waiting() == []

    def test_disk_full(self, running: Spool, run: Run, uploads: Path) -> None:
        """What cannot be kept is not dropped."""
        arrival = accept(running)
        with Faults(("write", "copy_file_range"), errno.ENOSPC, persistent=True):
            status, out, err = run("drop", arrival.id)
        assert (status, out) == (1, "")
        assert "No space left on device" in err
        assert "make room there" in err
        assert [one.arrival.id for one in running.waiting()] == [arrival.id]
        assert list(contents(uploads / ".nx" / "spool")) == [arrival.id]


class TestPost:
    """Photos that were posted to a social site one by one."""

    MAIL = "mail:me@example.org"

    def post(self, into: Spool, name: str, session: str = "a session") -> StoredUpload:
        post = Post("192.0.2.7", "anna", session, "facebook", "NX300", "At the sea")
        return arrivals.append(
            into, post, name, PHOTOS[name], at_once=["save"], together=[self.MAIL]
        )

    def test_list(self, running: Spool, run: Run) -> None:
        """A line for each photo that goes by itself, and one for all that go together."""
        [id, other] = [self.post(running, name).id for name in PHOTOS]
        waiting = "waiting for 0 seconds"
        assert run() == (
            0,
            f"{id}: to facebook by mail:me@example.org, {waiting}, "
            f"first try in {QUIET:.0f} seconds\n"
            f"{id}, file 1: to facebook by save, {waiting}, due now\n"
            f"{id}, file 2: to facebook by save, {waiting}, due now\n",
            "",
        )
        assert id == other

    def test_retry(self, running: Spool, run: Run) -> None:
        """All that waits of a post is due, also what waits for more photos, and another is not."""
        arrival, another = (self.post(running, "A.JPG", session) for session in ("1", "2"))
        assert run("retry", arrival.id)[0] == 0
        due = [one.arrival.id for one in running.due(self.MAIL)]
        assert (due, len(running.due("save"))) == ([arrival.id], 2)
        assert another.id in {one.arrival.id for one in running.waiting()}

    def test_drop(self, running: Spool, run: Run, uploads: Path) -> None:
        """The photos of a dropped post are kept as files; what comes later is another one."""
        _, arrival = [self.post(running, name) for name in PHOTOS]
        status, out, err = run("drop", arrival.id)
        day = folder_for(uploads / "undelivered", arrival.received)
        assert (status, len(out.splitlines()), err) == (0, 3, "")
        assert contents(day) == PHOTOS
        assert (running.waiting(), contents(uploads / ".nx" / "spool")) == ([], {})
        later = self.post(running, "A.JPG")
        assert later.id != arrival.id
        assert [one.arrival.id for one in running.waiting()] == [later.id] * 2

    def test_drop_the_rest(self, running: Spool, run: Run, uploads: Path) -> None:
        """What has been delivered of a post is not kept once more."""
        _, arrival = [self.post(running, name) for name in PHOTOS]
        for one in running.waiting():
            if (one.target, one.file_number) != ("save", 2):
                running.done(one)
        assert run("drop", arrival.id)[0] == 0
        day = folder_for(uploads / "undelivered", arrival.received)
        assert contents(day) == {"B.JPG": PHOTOS["B.JPG"]}

    def test_gone(self, running: Spool, run: Run, uploads: Path) -> None:
        """Of a post that cannot be read, what is there is put into quarantine."""
        arrival, _ = [self.post(running, name) for name in PHOTOS]
        (uploads / ".nx" / "spool" / arrival.id).unlink()
        status, out, err = run("drop", arrival.id)
        quarantine = contents(uploads / ".nx" / "quarantine")
        assert (status, running.waiting()) == (0, [])
        assert list(quarantine.values()) == [PHOTOS["B.JPG"]]
        [kept] = [uploads / ".nx" / "quarantine" / name for name in quarantine]
        gone = "its files cannot be kept: its body is gone"
        assert (out, err) == ("", f"{gone}; its body is kept as {kept}\n{gone}\n{gone}\n")


class TestNotPossible:
    @pytest.mark.parametrize("there", [False, True], ids=["no folder", "another folder"])
    @pytest.mark.parametrize("words", [[], ["retry", "x"], ["drop", "x"]], ids=str)
    def test_wrong_folder(self, uploads: Path, run: Run, words: list[str], there: bool) -> None:
        """A folder that is nobody's nx_dir is told, and left as it is."""
        if there:
            uploads.mkdir()
        assert run(*words) == (
            1,
            "",
            f"{uploads} is not the nx_dir of an nx_addon: choose one with --dir\n",
        )
        assert uploads.exists() is there
        assert not there or list(uploads.iterdir()) == []

    def test_default_folder(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Without --dir it is the default of nx_dir."""
        monkeypatch.chdir(tmp_path)
        assert main(["outbox"]) == 1
        assert capsys.readouterr().err.startswith("uploads is not the nx_dir of an nx_addon")

    def test_garbled(self, running: Spool, run: Run, uploads: Path) -> None:
        """A state that cannot be read is told in a sentence."""
        running.close()
        for path in (uploads / ".nx").glob("state.sqlite3*"):
            path.write_bytes(b"garbage " * 1000)
        status, out, err = run()
        assert (status, out) == (1, "")
        assert re.fullmatch(r"cannot look into the outbox: file is not a database .*\n", err)


class TestUsage:
    @pytest.mark.parametrize(
        "words",
        [[], ["nonsense"], ["outbox", "nonsense"], ["outbox", "retry"], ["outbox", "drop"]],
        ids=str,
    )
    def test_wrong(self, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        """What makes no sense ends with status 2 and the usage."""
        with pytest.raises(SystemExit) as caught:
            main(words)
        out, err = capsys.readouterr()
        assert (caught.value.code, out) == (2, "")
        assert err.startswith("usage: python -m nxparse ")

    def test_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        """It tells what it is for."""
        with pytest.raises(SystemExit) as caught:
            main(["--help"])
        assert caught.value.code == 0
        assert "play the camera, to try a set-up" in capsys.readouterr().out

    @pytest.mark.filterwarnings("ignore::RuntimeWarning")
    def test_as_a_program(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """`python -m nxparse` ends with the status."""
        monkeypatch.setattr(sys, "argv", ["nxparse", "outbox", "--dir", str(tmp_path)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_module("nxparse", run_name="__main__")
        assert caught.value.code == 1


class TestShow:
    """show and repair, on files."""

    @pytest.fixture
    def upload(self, tmp_path: Path) -> Path:
        path = tmp_path / "upload"
        path.write_bytes(body(list(PHOTOS.items())))
        return path

    @pytest.mark.parametrize("head", [False, True], ids=["body", "request"])
    def test_json(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], head: bool) -> None:
        """A body, or a whole request, is told as one object and nothing else."""
        path = tmp_path / "upload"
        data = body(list(PHOTOS.items()))
        path.write_bytes(request(data) if head else data)
        assert main(["show", "--json", str(path)]) == 0
        out, err = capsys.readouterr()
        told = json.loads(out)
        assert [(file["name"], file["size"]) for file in told["files"]] == [
            ("A.JPG", 500),
            ("B.JPG", 600),
        ]
        assert ("boundary-missing" in told["deviations"]) is not head
        assert err == ""

    def test_text(self, upload: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """For people it is told as in mitmproxy."""
        assert main(["show", str(upload)]) == 0
        out, _ = capsys.readouterr()
        assert f"sender      {SENDER}\n" in out
        assert "  3  binary   B.JPG" in out

    def test_extract(
        self, upload: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The files are saved to a folder that is made, and nothing there is overwritten."""
        folder = tmp_path / "new" / "folder"
        for _ in range(2):
            assert main(["show", "--json", "--extract", str(folder), str(upload)]) == 0
        (folder / "A.JPG").write_bytes(b"mine")
        assert main(["show", "--extract", str(folder), str(upload)]) == 0
        assert contents(folder) == {
            "A.JPG": b"mine",
            "A-1.JPG": PHOTOS["A.JPG"],
            "B.JPG": PHOTOS["B.JPG"],
        }
        out, err = capsys.readouterr()
        assert json.loads(out[: out.index("\n}\n") + 2])
        assert f"saved as {folder / 'A-1.JPG'} (500 bytes)" in err

    def test_a_file_for_a_site(self, tmp_path: Path) -> None:
        """The request that brings a file for a social site holds that file."""
        path = tmp_path / "put"
        path.write_bytes(
            b"PUT /upload/x HTTP/1.1\r\nContent-Type: image/jpeg\r\n\r\n" + PHOTOS["A.JPG"]
        )
        assert main(["show", "--extract", str(tmp_path / "out"), str(path)]) == 0
        assert list(contents(tmp_path / "out").values()) == [PHOTOS["A.JPG"]]

    @pytest.mark.parametrize(
        ("data", "shown", "sentence"),
        [
            (b"nothing", "upload  cannot be read", "cannot be read: Content-Type names no usable"),
            (b"", "", "cannot be read: Content-Type names no usable boundary"),
            (b"GET /x HTTP/1.1\r\n\r\n", "", "is no upload, but: unknown, GET /x"),
            (
                b"--B\r\ncontent-disposition: form-data; name=x\r\n\r\nabc\r\n--B--",
                "  1  x     -     -     3",
                "cannot be read: the body has no part named message",
            ),
        ],
        ids=["garbage", "empty", "another request", "no message"],
    )
    def test_no_upload(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        data: bytes,
        shown: str,
        sentence: str,
    ) -> None:
        """What is no upload is told in a sentence; what there is of it is shown all the same."""
        path = tmp_path / "file"
        path.write_bytes(data)
        assert main(["show", str(path)]) == 1
        out, err = capsys.readouterr()
        assert shown in out
        assert err.startswith(f"{path} {sentence}")
        assert main(["show", "--json", str(path)]) == 1
        assert capsys.readouterr()[0] == ""

    @pytest.mark.parametrize("command", ["show", "repair"])
    def test_recording(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
    ) -> None:
        """A recording of mitmproxy is called one, with the way to open it."""
        path = tmp_path / "my flows.mitm"
        with path.open("wb") as file:
            FlowWriter(file).add(tflow())
        assert main([command, str(path)]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err == (
            f"{path} is a recording of mitmproxy, open it with: "
            f"mitmdump -nr '{path}' -s nx_addon.py, or mitmweb -r '{path}' -s nx_addon.py\n"
        )

    @pytest.mark.parametrize("command", ["show", "repair"])
    @pytest.mark.parametrize(
        ("data", "kind"), [(PHOTOS["A.JPG"], "image/jpeg"), (b"\0\0\0\x18ftypmp42", "video/mp4")]
    )
    def test_bare_photo(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        command: str,
        data: bytes,
        kind: str,
    ) -> None:
        """A photo is called one."""
        path = tmp_path / "A.JPG"
        path.write_bytes(data)
        assert main([command, str(path)]) == 1
        out, err = capsys.readouterr()
        assert (out, err) == ("", f"{path} is a photo or video ({kind}), not an upload\n")

    def test_login(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """What is no upload but known is shown, without its secrets."""
        path = tmp_path / "login"
        path.write_bytes(
            b"POST /facebook/auth HTTP/1.1\r\n\r\n"
            b'<Request><UserName Value="me"/><Password Value="secret"/></Request>'
        )
        assert main(["show", str(path)]) == 0
        assert capsys.readouterr()[0] == ("login to  facebook\nuser      me\npassword  (hidden)\n")

    @pytest.mark.parametrize("command", ["show", "repair"])
    def test_no_file(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
    ) -> None:
        """A file that is not there is told in a sentence."""
        assert main([command, str(tmp_path / "nothing")]) == 1
        assert "No such file or directory" in capsys.readouterr()[1]

    def test_repair(self, upload: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        """What is repaired comes out whole, and its Content-Type beside it."""
        assert main(["repair", str(upload)]) == 0
        out, err = capfdbinary.readouterr()
        content_type = err.decode().removeprefix("Content-Type: ").strip()
        parts = multipart.parse(out, content_type, strict=True)
        assert [part.data for part in parts[1:]] == list(PHOTOS.values())
        assert (content_type, out) == multipart.repair(upload.read_bytes(), "")

    def test_nothing_to_repair(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """What cannot be read cannot be repaired."""
        path = tmp_path / "file"
        path.write_bytes(b"nothing")
        assert main(["repair", str(path)]) == 1
        assert capsys.readouterr()[1].startswith(f"{path} cannot be repaired: Content-Type names")

    def test_whoever_reads_it_has_seen_enough(self, tmp_path: Path) -> None:
        """A pipe that is closed early is no reason to complain."""
        path = tmp_path / "upload"
        path.write_bytes(body([("A.JPG", jpeg(3_000_000))]))
        command = f"{shlex.quote(sys.executable)} -m nxparse repair {path} | head -c 10"
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, check=False
        )
        assert (done.returncode, len(done.stdout)) == (0, 10)
        assert b"Traceback" not in done.stderr
        assert b"BrokenPipe" not in done.stderr

    def test_nobody_reads_it(self, upload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where nobody reads at all there is nothing left to fail when the output is closed."""
        read, write = os.pipe()
        os.close(read)
        with open(write, "w") as output:
            monkeypatch.setattr(sys, "stdout", output)
            assert main(["repair", str(upload)]) == 0
            output.write("more")

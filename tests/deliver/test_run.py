"""A command for each file: what it is given, and what becomes of how it ends."""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nxparse.deliver import run as module
from nxparse.deliver.errors import (
    DeliveryError,
    PermanentError,
    TemporaryError,
    UnreachableError,
)
from nxparse.deliver.outbox import MIN_WAIT
from nxparse.deliver.run import PLACEHOLDERS, command, run
from nxparse.deliver.save import folder_for
from nxparse.upload import File
from tests import bodies
from tests.box import NOON, Box
from tests.faults import Faults, contents, make_lazy

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs processes as POSIX has them")

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=20)

SOON = 10.0  # seconds; only a test that fails waits that long
PHOTO = bodies.jpeg(500)
VALUES = {
    "sender": "camera@example.com",
    "recipient": "a@example.org,b@example.org",
    "subject": "My photos",
    "text": "Hello",
    "camera": "NX300",
}
KNOWN = "there are {file}, {sender}, {recipient}, {subject}, {text}, {camera}"


def photo(data: bytes = PHOTO, name: str | None = "SAM_4371.JPG") -> File:
    return File(name, "image/jpeg", len(data), 0, lambda start, end: data[start:end])


def python(code: str, *arguments: str) -> str:
    """A command: Python with this program and these arguments."""
    return f"{shlex.join([sys.executable, '-I', '-S', '-c', code])} {' '.join(arguments)}"


def call(
    text: str,
    folder: Path,
    file: File | None = None,
    values: Mapping[str, str] = VALUES,
    environ: Mapping[str, str] | None = None,
) -> None:
    """Run a command, and look that nothing is left of it."""
    try:
        run(command(text), file or photo(), values, environ or {}, folder)
    finally:
        assert list(folder.glob("run-*")) == []


def failure(
    text: str, folder: Path, environ: Mapping[str, str] | None = None
) -> tuple[type[DeliveryError], str]:
    """Why a command has failed: with PYTHON for the name of the program."""
    with pytest.raises(DeliveryError) as caught:
        call(text, folder, environ=environ)
    assert str(caught.value).isprintable()
    return type(caught.value), str(caught.value).replace(Path(sys.executable).name, "PYTHON", 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the copies of files are made."""
    path = tmp_path / "place"
    path.mkdir()
    return path


class Life:
    """A place where processes report: from then on it is seen when they end."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(SOON)
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> Life:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def begun(self) -> socket.socket:
        """The connection of a process that has reported."""
        connection, _ = self._listener.accept()
        connection.settimeout(SOON)
        return connection


def ended(connection: socket.socket) -> bool:
    """Wait for the end of a process that has reported."""
    with connection:
        return connection.recv(1) == b""


REPORT = "import os, socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1])));"
WAIT = "s.recv(1);"


class TestCommand:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("true", ("true",)),
            (" cp  {file}\t/srv ", ("cp", "{file}", "/srv")),
            ("x 'a b' \"c d\" e\\ f", ("x", "a b", "c d", "e f")),
            ("x ''", ("x", "")),
            ("x --title={subject} 'by {sender} with {camera}'",
                ("x", "--title={subject}", "by {sender} with {camera}")),
            ("x {recipient}{text}", ("x", "{recipient}{text}")),
            ("x ${file} ${NAME}", ("x", "${file}", "${NAME}")),
            ("${PROGRAM} {file}", ("${PROGRAM}", "{file}")),
            ("x {} {a-b} { {file {{file}}", ("x", "{}", "{a-b}", "{", "{file", "{{file}}")),
            ("x | y && z > a; b & `c` $(d) *", (
                "x", "|", "y", "&&", "z", ">", "a;", "b", "&", "`c`", "$(d)", "*")),
            ("x # y", ("x", "#", "y")),
            ("x ä\u00a0b", ("x", "ä\u00a0b")),
        ],
        ids=[
            "program",
            "blanks",
            "quotes",
            "nothing",
            "parts",
            "side by side",
            "variables",
            "program from a variable",
            "no placeholders",
            "no shell",
            "no comment",
            "no blank",
        ],
    )  # fmt: skip
    def test_right(self, text: str, expected: tuple[str, ...]) -> None:
        """A command is words as a shell would find them, and nothing else of a shell."""
        assert command(text) == expected

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "there is no command"),
            (" \t\n", "there is no command"),
            ("x 'a", "No closing quotation"),
            ("x \\", "No escaped character"),
            ("x {path}", f"there is no placeholder {{path}}: {KNOWN}"),
            ("x {File}", f"there is no placeholder {{File}}: {KNOWN}"),
            ("x {file} a{1}b", f"there is no placeholder {{1}}: {KNOWN}"),
            ("x '{ä}'", f"there is no placeholder {{ä}}: {KNOWN}"),
            ("{file}", "the program itself cannot come from a placeholder"),
            ("/bin/{text} x", "the program itself cannot come from a placeholder"),
            ("x ${X}{X}", f"there is no placeholder {{X}}: {KNOWN}"),
            ("x {'path'}", f"there is no placeholder {{path}}: {KNOWN}"),
            ("{'file'}", "the program itself cannot come from a placeholder"),
            ("''", "the program has no name"),
            ("' ' {file}", "the program has no name"),
            ("\"\"'' x", "the program has no name"),
            ("http://h {file}", "a URL is not a program: to post to one, say forward:URL"),
            ("x\0", "a command cannot hold a NUL"),
            ("x {file} 'a\0b'", "a command cannot hold a NUL"),
        ],
        ids=[
            "empty",
            "blank",
            "open quote",
            "last backslash",
            "unknown",
            "case",
            "number",
            "umlaut",
            "program",
            "part of the program",
            "behind a variable",
            "quoted",
            "quoted program",
            "no name",
            "blank name",
            "no name in quotes",
            "URL",
            "NUL in the program",
            "NUL",
        ],
    )
    def test_wrong(self, text: str, reason: str) -> None:
        """What is no command is refused, with what would be one."""
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            command(text)
        assert str(caught.value) == reason

    def test_placeholders(self) -> None:
        """The placeholders are the documented ones."""
        assert PLACEHOLDERS == ("file", "sender", "recipient", "subject", "text", "camera")


ECHO = (
    "import json, os, sys\n"
    "json.dump([list(os.fsencode(one)) for one in sys.argv[2:]], open(sys.argv[1], 'w'))"
)


def echoed(
    folder: Path,
    arguments: str,
    values: Mapping[str, str],
    environ: Mapping[str, str] | None = None,
) -> list[str]:
    """The arguments that a command gets where these are written."""
    path = folder / "arguments"
    known = {**VALUES, **values}
    call(python(ECHO, str(path), arguments), folder, values=known, environ=environ)
    return [os.fsdecode(bytes(one)) for one in json.loads(path.read_text())]


PIECES = st.lists(st.sampled_from(["{file}", "{text}", "${X}", "{", "}", "$", "X"])).map("".join)


class TestArguments:
    def test_all(self, folder: Path) -> None:
        """Each placeholder stands for what it is called after."""
        found = echoed(folder, "{sender} {recipient} {subject} {text} {camera}", {})
        assert found == list(VALUES.values())

    def test_parts(self, folder: Path) -> None:
        """A placeholder may be a part of an argument, and be there several times."""
        found = echoed(folder, "--by={sender} '{text} {text}, {camera}' {}", {})
        assert found == ["--by=camera@example.com", "Hello Hello, NX300", "{}"]

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            pytest.param("", "", id="nothing"),
            pytest.param("a b  c", "a b  c", id="blanks"),
            pytest.param("a\nb\r\n", "a\nb\r\n", id="line-ends"),
            pytest.param("\0a\0\0b\0", "ab", id="NUL"),
            pytest.param("\x1b[31m\x07", "\x1b[31m\x07", id="controls"),
            pytest.param("'", "'", id="quote"),
            pytest.param('"; rm -rf "', '"; rm -rf "', id="quotes"),
            pytest.param("$(touch x) `touch x`", "$(touch x) `touch x`", id="substitution"),
            pytest.param("| touch x; & > x", "| touch x; & > x", id="operators"),
            pytest.param("* ? ~ [a-z] %PATH%", "* ? ~ [a-z] %PATH%", id="globs"),
            pytest.param("$HOME ${HOME}", "$HOME ${HOME}", id="variables"),
            pytest.param("${SMTP_PASSWORD}", "${SMTP_PASSWORD}", id="secret"),
            pytest.param("-rf", "-rf", id="leading-dash"),
            pytest.param("--", "--", id="dashes"),
            pytest.param("{file}", "{file}", id="placeholder"),
            pytest.param("{text} {sender} {nothing} {}", "{text} {sender} {nothing} {}",
                id="placeholders"),
            pytest.param("{{file}} $${file}", "{{file}} $${file}", id="braces"),
            pytest.param("\\1 \\g<0> \\n", "\\1 \\g<0> \\n", id="backslashes"),
            pytest.param("사진 🖼 Ä", "사진 🖼 Ä", id="all-letters"),
            pytest.param("a\udcffb", "a\udcffb", id="not-utf-8"),
            pytest.param("x" * 60_000, "x" * 60_000, id="long"),
        ],
    )  # fmt: skip
    def test_hostile(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, value: str, expected: str
    ) -> None:
        """Whatever a stranger writes is one argument, and means nothing."""
        monkeypatch.setenv("SMTP_PASSWORD", "geheim")
        monkeypatch.chdir(folder)
        written = " ".join(f"{{{name}}}" for name in VALUES)
        found = echoed(folder, f"{written} '-{{text}} {{sender}}-'", dict.fromkeys(VALUES, value))
        assert found == [*[expected] * len(VALUES), f"-{expected} {expected}-"]
        assert sorted(contents(folder)) == ["arguments"]

    @PROPERTY
    @given(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from([*VALUES]))
    @example("{file}{text}", "text")
    @example("\0", "subject")
    def test_any_value(
        self, tmp_path_factory: pytest.TempPathFactory, value: str, name: str
    ) -> None:
        """Any text is one argument."""
        folder = tmp_path_factory.mktemp("any")
        assert echoed(folder, f"{{{name}}}", {name: value}) == [value.replace("\0", "")]

    @pytest.mark.parametrize(
        ("written", "value", "expected"),
        [
            pytest.param("${X}", "{word}", "{word}", id="no-placeholder"),
            pytest.param("${X}", "{file} {text}", "{file} {text}", id="placeholders"),
            pytest.param("${X}", "{", "{", id="brace"),
            pytest.param("${X}file}", "{", "{file}", id="made-of-pieces"),
            pytest.param("${X}{text}", "$", "$Hello", id="dollar-before-a-placeholder"),
            pytest.param("${X}", "${Y} ${X}", "${Y} ${X}", id="variables"),
            pytest.param("{text}${X}", "-", "Hello-", id="beside-a-placeholder"),
            pytest.param("${X}${X}", "a b'\"\\", "a b'\"\\a b'\"\\", id="twice"),
            pytest.param("'${X}'", "a' 'b", "a' 'b", id="quotes"),
            pytest.param("${X}", "", "", id="nothing"),
            pytest.param("${X}", "\0a\0", "a", id="NUL"),
            pytest.param("${X}", "\udcff", "\udcff", id="not-utf-8"),
            pytest.param("\\${X}$X", "a", "a$X", id="nothing-of-a-shell"),
            pytest.param("${1}${ä}", "a", "${1}${ä}", id="no-variables"),
            pytest.param("$${X}", "a", "$a", id="dollar-before-a-variable"),
        ],
    )  # fmt: skip
    def test_variables(self, folder: Path, written: str, value: str, expected: str) -> None:
        """What a variable holds is not looked at again, nor does it change what is beside it."""
        environ = {"X": value, "Y": "y", "1": "one", "ä": "ae"}
        assert echoed(folder, written, {}, environ) == [expected]

    @PROPERTY
    @given(PIECES, PIECES)
    def test_any_variable(
        self, tmp_path_factory: pytest.TempPathFactory, text: str, variable: str
    ) -> None:
        """Placeholders and variables are found where they are written, and nowhere else."""
        folder = tmp_path_factory.mktemp("any")
        found = echoed(folder, "{text} ${X} {text}${X}{text}", {"text": text}, {"X": variable})
        assert found == [text, variable, f"{text}{variable}{text}"]

    def test_no_input(self, folder: Path) -> None:
        """A command that asks something gets no answer, and does not wait for one."""
        call(python("import sys; sys.exit(len(sys.stdin.read()))"), folder)


LOOK = """
import os, sys
path, kept = sys.argv[1:]
state = os.stat(path)
with open(path, "rb") as file, open(kept, "wb") as copy:
    copy.write(file.read())
with open(kept + ".txt", "w") as told:
    told.write("\\n".join([path, oct(state.st_mode), *os.listdir(os.path.dirname(path))]))
"""


class TestFile:
    @pytest.mark.parametrize(
        ("name", "safe"),
        [
            ("SAM_4371.JPG", "SAM_4371.JPG"),
            (None, "photo.jpg"),
            ("", "photo.jpg"),
            ("../../etc/passwd", "passwd.jpg"),
            ("-rf.JPG", "_rf.JPG"),
            ("a b'\"$(x)`y`.JPG", "a b'__(x)_y_.JPG"),
            ("a\nb\0.JPG", "ab.JPG"),
            ("{text}.JPG", "{text}.JPG"),
            ("사진.JPG", "사진.JPG"),
            ("x" * 300 + ".JPG", "x" * 251 + ".JPG"),
        ],
        ids=[
            "as captured",
            "missing",
            "empty",
            "up",
            "dash",
            "shell",
            "line end",
            "placeholder",
            "letters",
            "long",
        ],
    )
    def test_there_while_it_runs(
        self, folder: Path, tmp_path: Path, name: str | None, safe: str
    ) -> None:
        """The file is alone in a folder, whole, under a safe name, and then it is gone."""
        kept = tmp_path / "kept"
        call(python(LOOK, "{file}", shlex.quote(str(kept))), folder, photo(name=name))
        path, mode, *others = (tmp_path / "kept.txt").read_text().split("\n")
        assert kept.read_bytes() == PHOTO
        assert Path(path).name == safe
        assert Path(path).parent.parent == folder
        assert others == [safe]
        assert stat.S_IMODE(int(mode, 8)) == 0o600
        assert not Path(path).exists()

    @pytest.mark.parametrize("data", [b"", bodies.jpeg(600_000)], ids=["empty", "large"])
    def test_content(self, folder: Path, tmp_path: Path, data: bytes) -> None:
        """A file is what the camera has sent, however large."""
        kept = tmp_path / "kept"
        call(f"cp {{file}} {shlex.quote(str(kept))}", folder, photo(data))
        assert kept.read_bytes() == data

    def test_absolute(self, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A folder that is told relative to this one does not make the path so."""
        monkeypatch.chdir(folder.parent)
        found = tmp_path / "arguments"
        path = Path(folder.name)
        call(python(ECHO, shlex.quote(str(found)), "{file}"), path)
        [argument] = json.loads(found.read_text())
        assert os.fsdecode(bytes(argument)).startswith(f"{folder}{os.sep}run-")

    @pytest.mark.parametrize(
        "text",
        [
            "true",
            "rm {file}",
            "mv {file} {folder}/mine",
            python("import os, sys; os.unlink(sys.argv[1]); os.rmdir(os.path.dirname(sys.argv[1]))",
                "{file}"),
            python("import os, sys; os.chmod(os.path.dirname(sys.argv[1]), 0)", "{file}"),
            python("import os, sys; d = os.path.dirname(sys.argv[1]); os.makedirs(d + '/a/b')",
                "{file}"),
            "ln -s {folder} {file}.link",
        ],
        ids=["nothing", "deletes", "moves", "deletes all", "locks", "leaves a folder", "links"],
    )  # fmt: skip
    def test_may_do_anything_with_it(self, folder: Path, text: str) -> None:
        """The copy is the command's own."""
        (folder / "other").write_bytes(b"")
        call(text.replace("{folder}", shlex.quote(str(folder))), folder)
        moved = {"mine": PHOTO} if "mine" in text else {}
        assert contents(folder) == {**moved, "other": b""}

    @pytest.mark.parametrize("name", ["unlink", "rmdir"])
    @pytest.mark.parametrize("error", [errno.EIO, errno.EACCES], ids=errno.errorcode.get)
    def test_cannot_be_deleted(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: int
    ) -> None:
        """What a command has done is done, whether or not the copy can be deleted."""

        def refuse(*_: object, **__: object) -> None:
            raise OSError(error, os.strerror(error))

        with monkeypatch.context() as patch:
            patch.setattr(os, name, refuse)
            run(command("true"), photo(), VALUES, {}, folder)
        assert len(list(folder.glob("run-*"))) == 1

    @pytest.mark.parametrize("call_", ["open", "write", "close", "mkdir"])
    def test_no_room(self, folder: Path, call_: str) -> None:
        """Where there is no room for the copy the command is not run."""
        made = folder / "made"
        with (
            Faults((call_,), errno.ENOSPC),
            pytest.raises(OSError, match="No space left on device"),
        ):
            call(f"touch {shlex.quote(str(made))}", folder)
        assert not made.exists()

    def test_no_folder(self, folder: Path) -> None:
        """A folder that is missing is a fault of the disk."""
        with pytest.raises(FileNotFoundError):
            call("true", folder / "missing")


class TestEnd:
    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            (1, PermanentError),
            (2, PermanentError),
            (64, PermanentError),
            (74, PermanentError),
            (75, TemporaryError),
            (76, PermanentError),
            (127, PermanentError),
            (137, PermanentError),
            (255, PermanentError),
        ],
    )
    def test_status(self, folder: Path, status: int, expected: type[DeliveryError]) -> None:
        """0 is a success, 75 means later, and all else never."""
        text = python("import sys; sys.exit(int(sys.argv[1]))")
        call(f"{text} 0", folder)
        told = f"PYTHON ended with status {status}"
        assert failure(f"{text} {status}", folder) == (expected, told)

    @pytest.mark.parametrize("signal", [1, 9, 11, 15])
    def test_signal(self, folder: Path, signal: int) -> None:
        """A command that is killed may fare better next time."""
        text = python("import os, sys; os.kill(os.getpid(), int(sys.argv[1]))", str(signal))
        assert failure(text, folder) == (TemporaryError, f"PYTHON was ended by signal {signal}")

    @pytest.mark.parametrize(
        ("code", "told"),
        [
            pytest.param("", "", id="nothing"),
            pytest.param("print('\\n \\n')", "", id="blank-lines"),
            pytest.param("print('a'); print('no such album')", ": no such album", id="last-line"),
            pytest.param("print('why\\n\\n  \\n')", ": why", id="blank-lines-behind"),
            pytest.param("sys.stderr.write('why')", ": why", id="stderr"),
            pytest.param("print('why', flush=True); sys.stderr.write('\\n')", ": why", id="both"),
            pytest.param("print('a  b\\tc\\r')", ": a b c", id="blanks"),
            pytest.param("print('\\x1b[31m\\x07x\\x00y\\x9b\\u202e')", ": [31m x y",
                id="X13-controls"),
            pytest.param("sys.stdout.buffer.write(b'f\\xfcr')", ": f\ufffdr", id="not-utf-8"),
            pytest.param("print('für 나')", ": für 나", id="letters"),
            pytest.param("print('a' * 150, 'b' * 150)", f": {'a' * 49} {'b' * 150}", id="long"),
            pytest.param("print('a' * 100_000)", f": {'a' * 200}", id="very-long"),
        ],
    )  # fmt: skip
    def test_last_words(self, folder: Path, code: str, told: str) -> None:
        """The last line that a command has written says why, and is fit for a log."""
        text = python(f"import sys; sys.stdout.reconfigure(encoding='utf-8'); {code}; sys.exit(1)")
        text = text.replace("; ; ", "; ")
        assert failure(text, folder) == (PermanentError, f"PYTHON ended with status 1{told}")

    @pytest.mark.parametrize("status", [0, 1])
    def test_flood(self, folder: Path, status: int) -> None:
        """50 MB of output neither stop a command nor stay in memory."""
        text = python(
            "import os, sys\n"
            "for _ in range(400): os.write(1, bytes(65536)); os.write(2, bytes(65536))\n"
            "print('\\nall of it'); sys.exit(int(sys.argv[1]))",
            str(status),
        )
        tracemalloc.start()
        try:
            if status:
                assert failure(text, folder)[1] == "PYTHON ended with status 1: all of it"
            else:
                call(text, folder)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 1 << 20

    def test_output_closed(self, folder: Path) -> None:
        """A command that closes its output is waited for all the same."""
        text = python("import os; os.close(1); os.close(2); os._exit(75)")
        assert failure(text, folder) == (TemporaryError, "PYTHON ended with status 75")

    def test_nothing_is_left_open(self, folder: Path) -> None:
        """Pipes are closed, and threads end."""
        descriptors = Path("/proc/self/fd")
        if not descriptors.exists():
            pytest.skip("needs /proc")
        call("true", folder)
        before = len(list(descriptors.iterdir())), threading.active_count()
        for _ in range(5):
            call("echo x", folder)
        assert (len(list(descriptors.iterdir())), threading.active_count()) == before

    def test_nothing_is_left_to_chance(self, folder: Path) -> None:
        """Pipes and processes are done with, not left to be found by the garbage collector."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call("echo x", folder)
            gc.collect()
        assert [one.message for one in caught if one.category is ResourceWarning] == []

    def test_last_words_are_waited_for(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What a command has written is read to its end, also if that is after the command's."""
        over = threading.Event()
        killpg, read = os.killpg, os.read

        def end(*arguments: int) -> None:
            over.set()
            killpg(*arguments)

        def late(*arguments: int) -> bytes:
            if threading.current_thread().name == "nx output":
                assert over.wait(SOON)
            return read(*arguments)

        monkeypatch.setattr(os, "killpg", end)
        monkeypatch.setattr(os, "read", late)
        assert failure("sh -c 'echo why; exit 1'", folder) == (
            PermanentError,
            "sh ended with status 1: why",
        )


def program(path: Path, content: bytes, mode: int = 0o700) -> str:
    """Make a program of this, and tell the command that starts it."""
    path.write_bytes(content)
    path.chmod(mode)
    return shlex.quote(str(path))


class TestStart:
    """Programs that cannot be started; somebody may mend that, and until then all others wait."""

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("no-such-program-here {file}", "there is no program no-such-program-here"),
            ("/no/such/program {file}", "there is no program /no/such/program"),
            ("'no such' {file}", "there is no program no such"),
            ("${TOOLS}/program {file}", "there is no program ${TOOLS}/program"),
            ("${TOOLS} {file}", "${TOOLS} cannot be started: Permission denied"),
            ("/dev/null/x {file}", "/dev/null/x cannot be started: Not a directory"),
        ],
        ids=["name", "path", "blank", "variable", "folder from a variable", "no folder"],
    )
    def test_not_found(self, folder: Path, text: str, told: str) -> None:
        """A program that is not there may be installed; what a variable holds is not told."""
        environ = {"TOOLS": str(folder)}
        assert failure(text, folder, environ) == (UnreachableError, told)

    def test_empty_variable(self, folder: Path) -> None:
        """A program whose name a variable holds has none if that is empty."""
        kind, told = failure("${EMPTY} {file}", folder, {"EMPTY": ""})
        assert (kind, told.partition(":")[0]) == (UnreachableError, "${EMPTY} cannot be started")

    def test_not_executable(self, folder: Path, tmp_path: Path) -> None:
        """A file that may not be executed is no program."""
        text = program(tmp_path / "tool", b"#!/bin/sh\n", 0o600)
        told = f"{tmp_path / 'tool'} cannot be started: Permission denied"
        assert failure(f"{text} {{file}}", folder) == (UnreachableError, told)

    def test_folder_as_program(self, folder: Path) -> None:
        """Nor is a folder."""
        told = f"{folder} cannot be started: Permission denied"
        assert failure(shlex.quote(str(folder)), folder) == (UnreachableError, told)

    @pytest.mark.parametrize(
        "content", [b"\x7fELF", b"echo\n", b""], ids=["cut", "script", "empty"]
    )
    def test_not_a_program(self, folder: Path, tmp_path: Path, content: bytes) -> None:
        """Nor is what the system cannot execute: most of the time, a script without its #!."""
        text = program(tmp_path / "tool", content)
        assert failure(text, folder) == (
            UnreachableError,
            f"{tmp_path / 'tool'} cannot be started: Exec format error; "
            f"a script needs a first line like #!/bin/sh",
        )

    @pytest.mark.parametrize("by_name", [False, True], ids=["path", "name"])
    def test_no_interpreter(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_name: bool
    ) -> None:
        """A script whose interpreter is missing is not said to be missing itself."""
        text = program(tmp_path / "tool", b"#!/no/such/interpreter\n")
        monkeypatch.setenv("PATH", str(tmp_path))
        told = "is there, but not the interpreter that it needs"
        if by_name:
            assert failure("tool {file}", folder) == (UnreachableError, f"tool {told}")
        else:
            assert failure(text, folder) == (UnreachableError, f"{tmp_path / 'tool'} {told}")

    def test_arguments_too_long(self, folder: Path) -> None:
        """What is too long to be an argument will never be short enough."""
        huge = {**VALUES, "text": "x" * (8 << 20)}  # more than Linux and macOS take
        with pytest.raises(PermanentError) as caught:
            call("true {text}", folder, values=huge)
        assert str(caught.value) == "true cannot be started: Argument list too long"

    def test_no_process(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A machine that is short of processes for a moment is no fault of the program."""
        error = OSError(errno.EAGAIN, "Resource temporarily unavailable")

        def refuse(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(subprocess, "Popen", refuse)
        with pytest.raises(OSError, match="temporarily unavailable") as caught:
            call("true", folder)
        assert caught.value is error


class TestTimeLimit:
    @pytest.fixture(autouse=True)
    def _limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "TIME_LIMIT", 2.0)

    @pytest.mark.parametrize("groups", [True, False], ids=["group", "single"])
    def test_hangs(self, folder: Path, monkeypatch: pytest.MonkeyPatch, groups: bool) -> None:
        """A command that hangs is ended, with or without process groups, and tried again."""
        if not groups:
            monkeypatch.delattr(os, "killpg")
        with Life() as life, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            text = python(REPORT + "print('x');" + WAIT, str(life.port))
            assert failure(text, folder) == (TemporaryError, "PYTHON has not ended within 2 s")
            assert ended(life.begun())
            gc.collect()
        assert [one.message for one in caught if "still running" in str(one.message)] == []

    def test_does_not_want_to_end(self, folder: Path) -> None:
        """A command that ignores signals is ended, and so is what it has started."""
        with Life() as life:
            code = f"import signal; signal.signal(15, signal.SIG_IGN); os.fork(); {REPORT}{WAIT}"
            text = python(f"import os; {code}", str(life.port))
            assert failure(text, folder) == (TemporaryError, "PYTHON has not ended within 2 s")
            assert [ended(life.begun()) for _ in range(2)] == [True, True]

    def test_writes_without_end(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A command that never stops writing is ended too."""
        monkeypatch.setattr(module, "TIME_LIMIT", 1.0)
        assert failure("yes", folder) == (TemporaryError, "yes has not ended within 1 s")

    def test_is_not_waited_for(self, folder: Path) -> None:
        """Nobody waits for the limit when a command has ended."""
        start = time.monotonic()
        call("true", folder)
        assert time.monotonic() - start < 2.0


class TestLeftRunning:
    """Commands that end before what they have started."""

    @pytest.mark.parametrize("status", [0, 1])
    def test_ended(self, folder: Path, status: int) -> None:
        """What is left of a command is ended with it, and does not hold anything up."""
        with Life() as life:
            code = f"{REPORT} print('busy', flush=True); os.fork() and os._exit({status}); {WAIT}"
            text = python(code, str(life.port))
            if status:
                told = "PYTHON ended with status 1: busy"
                assert failure(text, folder) == (PermanentError, told)
            else:
                call(text, folder)
            assert ended(life.begun())

    def test_in_a_session_of_its_own(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A demon is let live; it may hold the output open, and is not waited for."""
        monkeypatch.setattr(module, "DRAIN", 0.05)
        code = (
            f"{REPORT} print('busy', flush=True); r, w = os.pipe()\n"
            "if os.fork(): os.close(w); os.read(r, 1); os._exit(1)\n"
            f"os.setsid(); os.close(w); {WAIT}"
        )
        with Life() as life:
            told = "PYTHON ended with status 1: busy"
            assert failure(python(code, str(life.port)), folder) == (PermanentError, told)
            with life.begun() as connection:
                connection.setblocking(False)
                with pytest.raises(BlockingIOError):  # it lives
                    connection.recv(1)
                connection.setblocking(True)
                connection.sendall(b"x")  # now it may go
                assert connection.recv(1) == b""


def children() -> set[int]:
    """The processes that this one has started and that still run."""
    told = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())], capture_output=True, text=True
    ).stdout
    return {int(line.split()[0]) for line in told.splitlines() if "ps -o" not in line}


class TestStopped:
    """Programs that still run when a delivery is abandoned, or this process ends."""

    TWO = f"import os; os.fork(); {REPORT}{WAIT}"

    def test_end_running(self, tmp_path: Path) -> None:
        """All programs are ended, with what they have started, and are to be run again."""
        with ThreadPoolExecutor(2) as pool, ExitStack() as stack:
            life = stack.enter_context(Life())
            text = python(self.TWO, str(life.port))
            folders = [tmp_path / name for name in ("a", "b")]
            for folder in folders:
                folder.mkdir()
            found = [pool.submit(failure, text, folder) for folder in folders]
            begun = [stack.enter_context(life.begun()) for _ in range(4)]
            assert module.end_running() == 2
            assert [ended(one) for one in begun] == [True] * 4
            told = (TemporaryError, "PYTHON was ended by signal 9")
            assert [one.result(SOON) for one in found] == [told] * 2
        assert module.end_running() == 0

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
    def test_crash(self, folder: Path, number: int) -> None:
        """A program is ended when the process that has started it is killed."""
        code = (
            "import pathlib, sys; from tests.deliver.test_run import *\n"
            "call(sys.argv[1], pathlib.Path(sys.argv[2]))"
        )
        with Life() as life:
            text = python(self.TWO, str(life.port))
            process = subprocess.Popen([sys.executable, "-c", code, text, str(folder)])
            begun = [life.begun() for _ in range(2)]
            process.send_signal(number)
            process.wait()
            assert [ended(one) for one in begun] == [True] * 2

    def test_nothing_is_ended_later(self, folder: Path) -> None:
        """The process that watches over a program ends with it."""
        before = children()
        call("true", folder)
        assert children() <= before


PHOTOS = {"SAM_1.JPG": bodies.jpeg(500, 1), "SAM_2.JPG": bodies.jpeg(700, 2)}


@pytest.fixture
def boxed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Box]]:
    make_lazy(monkeypatch)
    made: list[Box] = []

    def make(
        target: str,
        environ: Mapping[str, str] | None = None,
        photos: Mapping[str, bytes] = PHOTOS,
    ) -> Box:
        body = bodies.body(list(photos.items()))
        made.append(Box(tmp_path, target, environ or {}, body, ["a@example.org", "b@example.org"]))
        return made[-1]

    yield make
    for one in made:
        one.spool.close()


class TestOutbox:
    """From the spool to a command."""

    NOTE = (
        "import os, sys; out, path, *more = sys.argv[1:]\n"
        "place = os.path.join(out, os.path.basename(path))\n"
        "with open(place, 'ab') as note: note.write(open(path, 'rb').read())\n"
        "with open(place + '.txt', 'a') as note: print(*more, sep='|', file=note)\n"
    )

    def test_each_file(
        self, boxed: Callable[..., Box], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A command is run once for each file, with what was written on the camera."""
        caplog.set_level(logging.INFO)
        out = tmp_path / "out"
        out.mkdir()
        rest = "{sender} {recipient} {subject} {text} {camera}"
        box = boxed(f"run:{python(self.NOTE, str(out), '{file}', rest)}")
        box.deliver()
        box.deliver()
        told = f"{bodies.SENDER}|a@example.org,b@example.org|{bodies.TITLE}|{bodies.TEXT}|\n"
        assert contents(out) == {
            **PHOTOS,
            **{f"{name}.txt": told.encode() for name in PHOTOS},
        }
        assert box.waits == []
        assert not (tmp_path / "undelivered").exists()
        name = Path(sys.executable).name
        assert [f"upload {box.id}.{part}: ran {name}" for part in (1, 2)] == [
            record.getMessage() for record in caplog.records[1:]
        ]

    @pytest.mark.parametrize(
        ("status", "left"), [(75, [MIN_WAIT]), (1, [])], ids=["later", "never"]
    )
    def test_one_of_two(
        self, boxed: Callable[..., Box], tmp_path: Path, status: int, left: list[float]
    ) -> None:
        """One file that fails does not make the other come twice."""
        out = tmp_path / "out"
        out.mkdir()
        code = f"{self.NOTE}if path.endswith('2.JPG') and len(more) == 1: sys.exit({status})"
        box = boxed(f"run:{python(code, str(out), '{file}', 'x')}")
        box.deliver()
        box.deliver()
        assert contents(out) == {
            **PHOTOS,
            **{f"{name}.txt": b"x\n" for name in PHOTOS},
        }
        assert box.waits == [(f"{box.id}.2", wait) for wait in left]
        kept = contents(folder_for(tmp_path / "undelivered", NOON))
        assert kept == ({} if left else {"SAM_2.JPG": PHOTOS["SAM_2.JPG"]})

    def test_no_file(self, boxed: Callable[..., Box], tmp_path: Path) -> None:
        """An upload without files runs nothing."""
        made = tmp_path / "made"
        box = boxed(f"run:touch {shlex.quote(str(made))}", photos={})
        box.deliver()
        assert (box.waits, made.exists()) == ([], False)

    def test_variables(self, boxed: Callable[..., Box], tmp_path: Path) -> None:
        """A variable in the rule is one argument, whatever is in it, and known to no log."""
        out = tmp_path / "out"
        out.mkdir()
        environ = {"TOKEN": "a 'b\" $(c) ${TOKEN} *", "SMTP_PASSWORD": "geheim"}
        box = boxed(f"run:{python(self.NOTE, str(out), '{file}', '--with=${TOKEN}')}", environ)
        box.deliver()
        told = f"--with={environ['TOKEN']}\n".encode()
        assert contents(out) == {**PHOTOS, **{f"{name}.txt": told for name in PHOTOS}}

    def test_secrets(
        self, boxed: Callable[..., Box], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What comes from a variable is in no log and no file, also when the command fails."""
        caplog.set_level(logging.DEBUG)
        text = "run:sh -c 'exit 75' ${TOKEN} {file}"
        box = boxed(text, {"TOKEN": "geheim"})
        box.deliver()
        assert box.waits == [(f"{box.id}.{part}", MIN_WAIT) for part in (1, 2)]
        box.spool.close()
        kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        everything = b"".join([caplog.text.encode(), *kept])
        assert b"ended with status 75" in everything
        assert b"geheim" not in everything

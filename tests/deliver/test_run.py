"""The target `run`: the arguments of a command, and the meaning of its exit status."""

from __future__ import annotations

import gc
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import tracemalloc
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from nxparse.deliver import run
from nxparse.deliver.errors import (
    DeliveryError,
    Outcome,
    PermanentError,
    TemporaryError,
    TooLargeError,
    UnreachableError,
)
from nxparse.deliver.run import deliver, parse_command
from nxparse.upload import Upload
from tests.box import PHOTO, delivery, photo
from tests.faults import contents
from tests.mitmdump import ROOT

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX processes")

LIMIT = 10.0  # seconds; reached only by tests that fail
VALUES = {
    "sender": "camera@example.com",
    "recipient": "a@example.org,b@example.org",
    "subject": "My photos",
    "text": "Hello",
    "camera": "NX300",
}
KNOWN = "there are {file}, {sender}, {recipient}, {subject}, {text}, {camera}"


def python(code: str, *arguments: str) -> str:
    """A command that runs a Python program with these arguments."""
    return f"{shlex.join([sys.executable, '-I', '-S', '-c', code])} {' '.join(arguments)}"


def call(
    command: str,
    folder: Path,
    values: Mapping[str, str] = VALUES,
    environ: Mapping[str, str] | None = None,
) -> Outcome:
    """Run a command, and check that no copy is left."""
    files = (photo(),)
    recipients = tuple(values["recipient"].split(","))
    sender, subject, text, album = (values[n] for n in ("sender", "subject", "text", "camera"))
    found = Upload(sender, recipients, subject, text, files, album=album)
    try:
        words = parse_command(command)
        return deliver(words, environ or {}, folder, found, files, delivery(to=recipients))
    finally:
        assert list(folder.glob("run-*")) == []


def failure(
    text: str, folder: Path, environ: Mapping[str, str] | None = None
) -> tuple[type[DeliveryError], str]:
    """Run a command that fails. Returns the error, with PYTHON for the name of the program."""
    with pytest.raises(DeliveryError) as caught:
        call(text, folder, environ=environ)
    assert str(caught.value).isprintable()
    return type(caught.value), str(caught.value).replace(Path(sys.executable).name, "PYTHON", 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder for copies of files."""
    path = tmp_path / "place"
    path.mkdir()
    return path


class Lifeline:
    """A server that processes connect to; each connection ends with its process."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(LIMIT)
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> Lifeline:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def next_process(self) -> socket.socket:
        """Return the connection of the next process."""
        connection, _ = self._listener.accept()
        connection.settimeout(LIMIT)
        return connection


def ended(connection: socket.socket) -> bool:
    """Wait for the end of a process."""
    with connection:
        return connection.recv(1) == b""


CONNECT = "import os, socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1])));"
WAIT = "s.recv(1);"
TWO = f"import os; os.fork(); {CONNECT}{WAIT}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" cp  {file}\t/srv ", ("cp", "{file}", "/srv")),
        ("x 'a b' \"c d\" e\\ f ''", ("x", "a b", "c d", "e f", "")),
        ("x --title={subject} 'by {sender} with {camera}'",
            ("x", "--title={subject}", "by {sender} with {camera}")),
        ("${PROGRAM} {file}", ("${PROGRAM}", "{file}")),
        ("x | y && z > a; b & `c` $(d) *", (
            "x", "|", "y", "&&", "z", ">", "a;", "b", "&", "`c`", "$(d)", "*")),
    ],
)  # fmt: skip
def test_command(text: str, expected: tuple[str, ...]) -> None:
    """A command is split into words like in a shell, and nothing else is special."""
    assert parse_command(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" \t\n", "the program has no name"),
        ("x 'a", "No closing quotation"),
        ("x {path}", f"there is no placeholder {{path}}: {KNOWN}"),
        ("x ${X}{X}", f"there is no placeholder {{X}}: {KNOWN}"),
        ("/bin/{text} x", "the program itself cannot come from a placeholder"),
        ("\"\"'' x", "the program has no name"),
        ("http://h {file}", "a URL is not a program: to post to one, say forward:URL"),
    ],
)
def test_wrong_command(text: str, reason: str) -> None:
    """Wrong commands are refused with the reason."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        parse_command(text)
    assert str(caught.value) == reason


def echo(path: Path) -> str:
    """A command that writes its arguments to a file, each with a NUL at its end."""
    return f"""sh -c 'printf "%s\\0" "$@" >"$0"' {shlex.quote(str(path))}"""


def arguments_in(path: Path) -> list[str]:
    return [os.fsdecode(one) for one in path.read_bytes().split(b"\0")[:-1]]


def echoed(
    folder: Path,
    arguments: str,
    values: Mapping[str, str],
    environ: Mapping[str, str] | None = None,
) -> list[str]:
    """Run a command with these arguments. Returns those that it receives."""
    path = folder / "arguments"
    call(f"{echo(path)} {arguments}", folder, values={**VALUES, **values}, environ=environ)
    return arguments_in(path)


HOSTILE = [
    "", "a b  c", "a\nb\r\n", "\x1b[31m\x07", "'", '"; rm -rf "', "$(touch x) `touch x`",
    "| touch x; & > x", "* ? ~ [a-z] %PATH%", "$HOME ${HOME} ${SMTP_PASSWORD}", "-rf", "--",
    "{text} {sender} {nothing} {}", "{{file}} $${file}", "\\1 \\g<0> \\n", "사진 🖼 Ä", "a\udcffb",
    "x" * 60_000,
]  # fmt: skip


class TestArguments:
    def test_hostile(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Any text of a sender is one argument, and is not expanded."""
        monkeypatch.setenv("SMTP_PASSWORD", "geheim")
        monkeypatch.chdir(folder)
        for value in HOSTILE:
            found = echoed(folder, "{subject} '-{text} {sender}-'", dict.fromkeys(VALUES, value))
            assert found == [value, f"-{value} {value}-"]
        assert echoed(folder, "{text}", {"text": "\0a\0\0b\0"}) == ["ab"]
        assert echoed(folder, "Photos/{camera}", {"camera": ""}) == ["Photos/camera"]
        assert sorted(contents(folder)) == ["arguments"]

    @pytest.mark.parametrize(
        ("written", "value", "expected"),
        [
            ("${X}", "{word} {file}", "{word} {file}"),
            ("{text}${X}{text}", "{file}", "Hello{file}Hello"),
            ("${X}file}", "{", "{file}"),
            ("${X}${X}", "a b'\"\\", "a b'\"\\a b'\"\\"),
            ("${X}-", "\0\udcff", "\udcff-"),
            ("\\${X}$X", "a", "a$X"),
            ("${1}${ä}", "a", "${1}${ä}"),
            ("$${X}", "a", "$a"),
        ],
    )
    def test_variables(self, folder: Path, written: str, value: str, expected: str) -> None:
        """The value of a variable is not expanded again."""
        environ = {"X": value, "Y": "y", "1": "one", "ä": "ae"}
        assert echoed(folder, written, {}, environ) == [expected]

    def test_no_input(self, folder: Path) -> None:
        """The standard input of a command is empty."""
        call(python("import sys; sys.exit(len(sys.stdin.read()))"), folder)


class TestFile:
    def test_copy(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A command gets the absolute path of one copy, which is deleted afterwards."""
        monkeypatch.chdir(folder.parent)
        [path] = echoed(Path(folder.name), "{file}", {})
        assert Path(path).is_relative_to(folder)
        assert Path(path).name == "SAM_4371.JPG"
        assert not Path(path).exists()

    def test_several(self, folder: Path) -> None:
        """Several files must be passed one at a time. Without a file, no command is run."""
        files = (photo(), photo())
        found = Upload("", (), "", "", files)
        with pytest.raises(TooLargeError, match="a command gets one file at a time"):
            deliver(["false"], {}, folder, found, files, delivery())
        outcome = deliver(["false"], {}, folder, found, (), delivery())
        assert outcome == Outcome("no file to run a command for")

    @pytest.mark.parametrize(
        "text", ["rm {file}", "mv {file} {folder}/mine"], ids=["deletes", "moves"]
    )
    def test_changed(self, folder: Path, text: str) -> None:
        """The command may do anything with its copy."""
        (folder / "other").write_bytes(b"")
        call(text.replace("{folder}", shlex.quote(str(folder))), folder)
        moved = {"mine": PHOTO} if "mine" in text else {}
        assert contents(folder) == {**moved, "other": b""}


class TestEnd:
    @pytest.mark.parametrize(
        ("status", "expected"), [(1, PermanentError), (75, TemporaryError), (255, PermanentError)]
    )
    def test_status(self, folder: Path, status: int, expected: type[DeliveryError]) -> None:
        """0 is success, 75 is a temporary error, all else is a permanent one."""
        assert call("true", folder) == Outcome("ran true")
        found = failure(f"sh -c 'exit {status}'", folder)
        assert found == (expected, f"sh ended with status {status}")

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_signal(self, folder: Path, number: int) -> None:
        """A command that is ended by a signal has failed temporarily."""
        found = failure(f"sh -c 'kill -{number:d} $$'", folder)
        assert found == (TemporaryError, f"sh was ended by signal {number:d}")

    @pytest.mark.parametrize(
        ("output", "expected"),
        [
            (r"\n \n", ""),
            (r"a\nno such album\n\n  \n", ": no such album"),
            (r"a  b\tc\r", ": a b c"),
            (r"\033[31m\007x\000y\302\233\342\200\256", ": [31m x y"),
            (r"f\374r 나", ": f\ufffdr 나"),
            ("a" * 300, f": {'a' * 176}"),
        ],
        ids=["blank", "last-line", "blanks", "controls", "not-utf-8", "long"],
    )
    def test_last_line(self, folder: Path, output: str, expected: str) -> None:
        """The last line of the output is the reason, printable and truncated."""
        text = f"""sh -c "printf '{output}' >&2; exit 1" """.replace("\\", "\\\\")
        assert failure(text, folder) == (PermanentError, f"sh ended with status 1{expected}")

    def test_flood(self, folder: Path) -> None:
        """50 MB of output neither blocks a command nor fills the memory."""
        text = python(
            "import os, sys\n"
            "for _ in range(400): os.write(1, bytes(65536)); os.write(2, bytes(65536))\n"
            "print('\\nall of it'); sys.exit(1)"
        )
        tracemalloc.start()
        try:
            assert failure(text, folder)[1] == "PYTHON ended with status 1: all of it"
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 1 << 20

    def test_output_closed(self, folder: Path) -> None:
        """The status of a command counts even if it closes its output early."""
        found = failure("sh -c 'exec >&- 2>&-; exit 75'", folder)
        assert found == (TemporaryError, "sh ended with status 75")

    def test_nothing_is_left_open(self, folder: Path) -> None:
        """Pipes, threads and processes end with the command."""
        descriptors = Path("/proc/self/fd")
        if not descriptors.exists():
            pytest.skip("needs /proc")
        call("true", folder)

        def left() -> tuple[int, int, str]:
            children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text()
            return len(list(descriptors.iterdir())), threading.active_count(), children

        before = left()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                call("echo x", folder)
            assert left() == before
            gc.collect()
        assert [one.message for one in caught if one.category is ResourceWarning] == []


class TestStart:
    """Programs that cannot be started are unreachable, since the user can install them."""

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("no-such-program-here {file}", "No such file or directory"),
            ("${TOOLS}/program {file}", "No such file or directory"),
            ("${TOOLS} {file}", "Permission denied"),
            ("${TOOLS}/script {file}", "Exec format error"),
        ],
    )
    def test_not_started(self, folder: Path, tmp_path: Path, text: str, reason: str) -> None:
        """Programs are reported as written in the rule, without values of variables."""
        script = tmp_path / "script"
        script.write_bytes(b"no first line")
        script.chmod(0o700)
        name = shlex.split(text)[0]
        expected = (UnreachableError, f"{name} cannot be started: {reason}")
        assert failure(text, folder, {"TOOLS": str(tmp_path)}) == expected

    def test_arguments_too_long(self, folder: Path) -> None:
        """Texts that are too long for an argument are a permanent error."""
        huge = {**VALUES, "text": "x" * (8 << 20)}  # more than Linux and macOS accept
        with pytest.raises(PermanentError, match=r"true cannot be started: Argument list too"):
            call("true {text}", folder, values=huge)


class TestTimeout:
    def test_killed(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A command that hangs is killed with its children, even if it ignores signals."""
        monkeypatch.setattr(run, "TIMEOUT", 1.0)
        with Lifeline() as lifeline:
            text = python(
                f"import signal; signal.signal(15, signal.SIG_IGN); {TWO}", str(lifeline.port)
            )
            assert failure(text, folder) == (TemporaryError, "PYTHON has not ended within 1 s")
            assert [ended(lifeline.next_process()) for _ in range(2)] == [True] * 2

    def test_no_process_groups(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without process groups, at least the program itself is killed."""
        monkeypatch.setattr(run, "TIMEOUT", 0.2)
        monkeypatch.delattr(os, "killpg")
        found = failure("yes", folder)
        assert found == (TemporaryError, "yes has not ended within 0 s")


class TestChildren:
    """Commands that end before the processes that they have started."""

    def test_killed(self, folder: Path) -> None:
        """Processes that a command leaves running are killed, and not waited for."""
        code = f"{CONNECT} print('busy', flush=True); os.fork() and os._exit(1); {WAIT}"
        with Lifeline() as lifeline:
            found = failure(python(code, str(lifeline.port)), folder)
            assert ended(lifeline.next_process())
        assert found[1] == "PYTHON ended with status 1: busy"

    def test_detached(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A daemon is left alone, and not waited for, even if it holds the output open."""
        monkeypatch.setattr(run, "DRAIN_TIMEOUT", 0.05)
        code = (
            f"{CONNECT} print('busy', flush=True); r, w = os.pipe()\n"
            "if os.fork(): os.close(w); os.read(r, 1); os._exit(1)\n"
            f"os.setsid(); os.close(w); {WAIT}"
        )
        with Lifeline() as lifeline:
            text = python(code, str(lifeline.port))
            assert failure(text, folder)[1] == "PYTHON ended with status 1: busy"
            with lifeline.next_process() as connection:
                connection.setblocking(False)
                with pytest.raises(BlockingIOError):  # it is alive
                    connection.recv(1)
                connection.settimeout(LIMIT)
                connection.sendall(b"x")  # now it may end
                assert connection.recv(1) == b""


class TestStopped:
    """Programs that are running when a delivery is abandoned, or when this process ends."""

    def test_end_running(self, tmp_path: Path) -> None:
        """All programs and their children are killed, with a temporary error."""
        with ThreadPoolExecutor(2) as pool, ExitStack() as stack:
            lifeline = stack.enter_context(Lifeline())
            text = python(TWO, str(lifeline.port))
            folders = [tmp_path / name for name in ("a", "b")]
            for folder in folders:
                folder.mkdir()
            found = [pool.submit(failure, text, folder) for folder in folders]
            begun = [stack.enter_context(lifeline.next_process()) for _ in range(4)]
            assert run.end_running() == 2
            assert [ended(one) for one in begun] == [True] * 4
            expected = (TemporaryError, "PYTHON was ended by signal 9")
            assert [one.result(LIMIT) for one in found] == [expected] * 2
        assert run.end_running() == 0

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_crash(self, folder: Path, number: int) -> None:
        """A program and its children are killed when this process is killed."""
        code = (
            "import pathlib, sys\n"
            "from nxparse.deliver.run import deliver, parse_command\n"
            "from nxparse.upload import File, Upload\n"
            "from tests.box import delivery\n"
            "files = (File('a.jpg', 'image/jpeg', 0, 0, lambda start, end: b''),)\n"
            "found = Upload('', (), '', '', files)\n"
            "command, folder = parse_command(sys.argv[1]), pathlib.Path(sys.argv[2])\n"
            "deliver(command, {}, folder, found, files, delivery())"
        )
        with Lifeline() as lifeline:
            text = python(TWO, str(lifeline.port))
            process = subprocess.Popen([sys.executable, "-c", code, text, str(folder)], cwd=ROOT)
            begun = [lifeline.next_process() for _ in range(2)]
            process.send_signal(number)
            process.wait()
            assert [ended(one) for one in begun] == [True] * 2

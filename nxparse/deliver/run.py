"""A command for each file: whatever else there is, by a program that can do it.

The command is taken apart as a shell would, but no shell ever sees it. Then its
placeholders and variables are filled in, all at once: each stands for one
argument or a part of one, whatever is in it. The file is a copy under its own
name in a folder of its own, which is there until the command ends.

Exit status 0 is a success, 75 means later (EX_TEMPFAIL of sysexits.h), and so do
a time limit that is over and a signal. Any other is final. A program does not
outlive this process, where it would run beside its own repeat; only one that
detaches itself (setsid) is left alone. What the command writes is read, since a
full pipe would stop it, and its last line is told if it fails. A program that
cannot be started may be mended, and until then everything else for it waits; but
an argument that is too long stays so. The program is told as it is written, since
a variable may hold a secret.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from nxparse.deliver.copies import copies
from nxparse.deliver.errors import (
    MAX_REASON,
    PermanentError,
    TemporaryError,
    UnreachableError,
    one_line,
)
from nxparse.upload import File

TIME_LIMIT = 600.0  # seconds
LATER = 75
TAIL = 4096  # bytes of its output that are looked at
DRAIN = 1.0  # seconds to read what is left of it
PLACEHOLDERS = ("file", "sender", "recipient", "subject", "text", "camera")

_running: set[subprocess.Popen[bytes]] = set()

_PLACEHOLDER = re.compile(r"(?<!\$)\{(\w+)\}")
_NAME = re.compile(rf"\$\{{([A-Za-z_][A-Za-z0-9_]*)\}}|{_PLACEHOLDER.pattern}")


def command(text: str) -> tuple[str, ...]:
    """Take a command apart. Raises ValueError."""
    if "\0" in text:
        raise ValueError("a command cannot hold a NUL")
    words = tuple(shlex.split(text))
    if not words:
        raise ValueError("there is no command")
    if not words[0].strip():
        raise ValueError("the program has no name")
    if "://" in words[0]:
        raise ValueError("a URL is not a program: to post to one, say forward:URL")
    for name in _PLACEHOLDER.findall(" ".join(words)):
        if name not in PLACEHOLDERS:
            known = ", ".join(f"{{{one}}}" for one in PLACEHOLDERS)
            raise ValueError(f"there is no placeholder {{{name}}}: there are {known}")
    if _PLACEHOLDER.search(words[0]):
        raise ValueError("the program itself cannot come from a placeholder")
    return words


def run(
    words: Sequence[str],
    file: File,
    values: Mapping[str, str],
    environ: Mapping[str, str],
    folder: Path,
) -> None:
    """Run a command for a file.

    `values` has all placeholders but `file`, `environ` the variables. `folder` is
    where the copy of the file is made. Raises a DeliveryError or OSError.
    """
    with copies([file], folder) as [path]:
        known = {**values, "file": str(path)}
        _call(words[0], [_filled(word, known, environ) for word in words])


def _filled(word: str, values: Mapping[str, str], environ: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        found = environ.get(match[1], match[0]) if match[1] else values[match[2]]
        return found.replace("\0", "")  # no argument can hold one

    return _NAME.sub(value, word)


def _call(program: str, arguments: Sequence[str]) -> None:
    name = os.path.basename(program)
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise _not_started(program, arguments[0], error) from None
    tail = _Tail(process)
    _running.add(process)
    try:
        with _watched(process.pid):
            status = process.wait(TIME_LIMIT)
    except subprocess.TimeoutExpired:
        raise TemporaryError(f"{name} has not ended within {TIME_LIMIT:.0f} s") from None
    finally:
        _end(process)
        _running.discard(process)
    told = f"{name} {_ending(status)}{_last_line(tail.read())}"
    if status == LATER or status < 0:
        raise TemporaryError(told)
    if status:
        raise PermanentError(told)


def end_running() -> int:
    """End all programs that still run, and what they have started. Returns their number.

    Their deliveries fail for now.
    """
    running = [process for process in tuple(_running) if process.poll() is None]
    for process in running:
        _kill(process)
    return len(running)


@contextmanager
def _watched(group: int) -> Iterator[None]:
    """Have a process group killed if this process ends while this is entered, even by a crash.

    The shell waits for a line or for the end of its input, which this process alone holds open.
    (PR_SET_PDEATHSIG would end the program only, not what it has started.)
    """
    if os.name != "posix":
        yield
        return
    reading, writing = os.pipe()
    try:
        try:
            watcher = subprocess.Popen(
                ["/bin/sh", "-c", 'read -r _ || kill -s KILL -- "-$1"', "sh", str(group)],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(reading)
        try:
            yield
        finally:
            with suppress(OSError):
                os.write(writing, b"\n")
            watcher.wait()
    finally:
        os.close(writing)


def _not_started(program: str, path: str, error: OSError) -> Exception:
    """What an error means: `program` is as it is written, `path` with its variables filled in."""
    told = f"{program} cannot be started: {error.strerror}"
    if error.errno == errno.E2BIG:
        return PermanentError(told)
    if error.errno == errno.ENOENT:
        if shutil.which(path):
            return UnreachableError(f"{program} is there, but not the interpreter that it needs")
        return UnreachableError(f"there is no program {program}")
    if error.errno == errno.ENOEXEC:
        return UnreachableError(f"{told}; a script needs a first line like #!/bin/sh")
    return error if error.filename is None else UnreachableError(told)


class _Tail:
    """Reads what a process writes, however much, and keeps the end of it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        self._pipe = process.stdout
        self._kept = b""
        self._thread = threading.Thread(target=self._run, name="nx output", daemon=True)
        self._thread.start()

    def read(self) -> bytes:
        """The end, as far as it has come when the process is over."""
        # Something that it has left running may hold the pipe open.
        self._thread.join(DRAIN)
        return self._kept

    def _run(self) -> None:
        with self._pipe:
            while chunk := os.read(self._pipe.fileno(), 1 << 16):
                self._kept = (self._kept + chunk)[-TAIL:]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what has not ended, and what it has started."""
    _kill(process)
    process.wait()


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _ending(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


def _last_line(output: bytes) -> str:
    """The last line that a command has written, as it may stand in a log."""
    lines = output.decode("utf-8", "replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    words = one_line(last.rstrip()[-MAX_REASON:])
    return f": {words}" if words else ""

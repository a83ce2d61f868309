"""The target `run:COMMAND`: a command for each file.

The command is split into words like in a shell, but no shell runs it. Placeholders and variables
are replaced in one pass afterwards, so their values are never split or expanded again. The file is
a copy under its own name, in a directory of its own that exists until the command ends.

Exit status 0 is success. 75 (EX_TEMPFAIL of sysexits.h), a timeout and a signal are temporary
errors; any other status is permanent. Programs end with this process, or they would run beside
their own repetition; those that detach themselves (setsid) are left alone. Error messages show the
command as it is in the options, because variables may contain secrets.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from nxparse.deliver.copies import copies
from nxparse.deliver.errors import PermanentError, TemporaryError, UnreachableError, clean_text
from nxparse.upload import File

TIMEOUT = 600.0  # seconds
TEMPORARY_STATUS = 75
OUTPUT_TAIL = 4096  # bytes of the output that are kept
DRAIN_TIMEOUT = 1.0  # seconds to read the rest of the output
MAX_LINE = 200  # characters of the last line
PLACEHOLDERS = ("file", "sender", "recipient", "subject", "text", "camera")

_running: set[subprocess.Popen[bytes]] = set()
_starting = threading.Lock()  # held until what was started is in _running

_PLACEHOLDER = re.compile(r"(?<!\$)\{(\w+)\}")
_NAME = re.compile(rf"\$\{{([A-Za-z_][A-Za-z0-9_]*)\}}|{_PLACEHOLDER.pattern}")


def parse_command(text: str) -> tuple[str, ...]:
    """Split a command into words. Raises ValueError."""
    if "\0" in text:
        raise ValueError("a command cannot hold a NUL")
    words = tuple(shlex.split(text))
    if not words or not words[0].strip():
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
    directory: Path,
) -> None:
    """Run a command for a file.

    `values` are those of all placeholders but `file`, `environ` those of the variables. The file
    is copied to `directory`. Raises a DeliveryError or OSError.
    """
    with copies([file], directory) as [path]:
        known = {**values, "file": str(path)}
        _call(words[0], [_replace_names(word, known, environ) for word in words])


def end_running() -> int:
    """Kill all running programs and their children. Returns the number of programs.

    Their deliveries fail with a TemporaryError.
    """
    with _starting:
        running = [process for process in _running if process.poll() is None]
    for process in running:
        _kill(process)
    return len(running)


def _replace_names(word: str, values: Mapping[str, str], environ: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        found = environ.get(match[1], match[0]) if match[1] else values[match[2]]
        return found.replace("\0", "")  # arguments cannot contain it

    return _NAME.sub(value, word)


def _call(program: str, command: Sequence[str]) -> None:
    """Run a command to its end. `program` is its name in the options."""
    name = os.path.basename(program)
    with _starting:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise _start_error(program, error) from None
        _running.add(process)
    assert process.stdout
    tail = bytearray()
    arguments = (process.stdout, tail)
    reader = threading.Thread(target=_read_end, args=arguments, name="nx output", daemon=True)
    reader.start()
    try:
        with _killed_with_us(process.pid):
            status = process.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        raise TemporaryError(f"{name} has not ended within {TIMEOUT:.0f} s") from None
    finally:
        _kill(process)  # also what it has left running
        process.wait()
        _running.discard(process)
    ending = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    reader.join(DRAIN_TIMEOUT)  # a detached child may hold the pipe open
    lines = tail.decode("utf-8", "replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    line = clean_text(last.rstrip()[-MAX_LINE:])
    reason = f"{name} {ending}: {line}" if line else f"{name} {ending}"
    if status == TEMPORARY_STATUS or status < 0:
        raise TemporaryError(reason)
    if status:
        raise PermanentError(reason)


@contextmanager
def _killed_with_us(group: int) -> Iterator[None]:
    """Have a process group killed if this process ends inside the with statement, even by SIGKILL.

    A shell waits for a line, or for the end of its input, which only this process holds open.
    (PR_SET_PDEATHSIG would not end the children of the program.)
    """
    if os.name != "posix":
        yield
        return
    watcher = subprocess.Popen(
        ["/bin/sh", "-c", 'read -r _ || kill -s KILL -- "-$1"', "sh", str(group)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        with suppress(OSError):
            watcher.communicate(b"\n")


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _start_error(program: str, error: OSError) -> Exception:
    """Return what to raise. `program` is its name in the options."""
    reason = f"{program} cannot be started: {error.strerror}"
    if error.errno == errno.E2BIG:
        return PermanentError(reason)
    if error.filename is None:  # the system is short of something
        return error
    if error.errno == errno.ENOENT:
        reason += " (the program, or the interpreter in its first line)"
    if error.errno == errno.ENOEXEC:
        reason += "; a script needs a first line like #!/bin/sh"
    return UnreachableError(reason)


def _read_end(pipe: IO[bytes], tail: bytearray) -> None:
    """Read all output of a program into `tail`, which keeps only the end."""
    with pipe:
        while chunk := os.read(pipe.fileno(), 1 << 16):
            tail += chunk
            del tail[:-OUTPUT_TAIL]

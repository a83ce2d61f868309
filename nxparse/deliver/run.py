"""The target `run:COMMAND`: a command for each file.

The command is split into words like in a shell, but no shell runs it. Placeholders and variables
are replaced in one pass afterwards, so their values are never split or expanded again. Programs
end with this process, or they would run beside their own repetition; those that detach themselves
(setsid) are left alone. Error messages show the program as it is in the options, because
variables may contain secrets.
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
from nxparse.deliver.errors import (
    Outcome,
    PermanentError,
    TemporaryError,
    TooLargeError,
    UnreachableError,
    clean_text,
)
from nxparse.store.records import Delivery
from nxparse.upload import File, Upload, camera

TIMEOUT = 600.0  # seconds
TEMPORARY_STATUS = 75  # EX_TEMPFAIL of sysexits.h; other statuses are permanent errors
OUTPUT_TAIL = 4096  # bytes of the output that are kept
DRAIN_TIMEOUT = 1.0  # seconds to read the rest of the output
PLACEHOLDERS = ("file", "sender", "recipient", "subject", "text", "camera")

_running: set[subprocess.Popen[bytes]] = set()
_starting = threading.Lock()  # held until a program that was started is in _running

_PLACEHOLDER = re.compile(r"(?<!\$)\{(\w+)\}")
_NAME = re.compile(rf"\$\{{([A-Za-z_][A-Za-z0-9_]*)\}}|{_PLACEHOLDER.pattern}")


def parse_command(text: str) -> tuple[str, ...]:
    """Split a command into words. Raises ValueError."""
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


def deliver(
    words: Sequence[str],
    environ: Mapping[str, str],
    folder: Path,
    upload: Upload,
    files: Sequence[File],
    delivery: Delivery,
) -> Outcome:
    """Run a command for a file, which is copied to `folder`. `environ` are the variables.

    Raises TooLargeError if there are more files, another DeliveryError, or OSError.
    """
    if not files:
        return Outcome("no file to run a command for")
    if len(files) > 1:
        raise TooLargeError("a command gets one file at a time")
    with copies(files, folder) as [path]:
        values = {
            "file": str(path),
            "sender": upload.sender,
            "recipient": ",".join(delivery.recipients),
            "subject": upload.subject,
            "text": upload.text,
            "camera": camera(upload) or "camera",
        }
        _call(words[0], [_replace_names(word, values, environ) for word in words])
    return Outcome(f"ran {os.path.basename(words[0])}")


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
            # Only this upload has texts that are too long for arguments.
            kind = PermanentError if error.errno == errno.E2BIG else UnreachableError
            raise kind(f"{program} cannot be started: {error.strerror}") from None
        _running.add(process)
    assert process.stdout
    output = bytearray()
    reader = threading.Thread(target=_read_end, args=(process.stdout, output), daemon=True)
    reader.start()
    name = os.path.basename(program)
    try:
        with _killed_with_us(process.pid):
            status = process.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        raise TemporaryError(f"{name} has not ended within {TIMEOUT:.0f} s") from None
    finally:
        _kill(process)  # also what it has left running
        process.wait()
        _running.discard(process)
    reader.join(DRAIN_TIMEOUT)  # a detached child may hold the pipe open
    ending = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    last_line = output.decode("utf-8", "replace").strip().rpartition("\n")[2]
    reason = clean_text(f"{name} {ending}: {last_line}").removesuffix(":")
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


def _read_end(pipe: IO[bytes], output: bytearray) -> None:
    """Read all output of a program. Of it, `output` gets the end."""
    with pipe:
        while chunk := os.read(pipe.fileno(), 1 << 16):
            output += chunk
            del output[:-OUTPUT_TAIL]

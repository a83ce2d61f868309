"""A real mitmdump with the addon, as a process of its own."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests import fork_server
from tests.fork_server import ForkedProcess

ROOT = Path(__file__).parent.parent
ADDON = ROOT / "nx_addon.py"
PROGRAMS = Path(sys.executable).parent
MITMDUMP = str(PROGRAMS / "mitmdump")
TIMEOUT = 30.0  # seconds; only a test that fails waits that long


def free_port() -> int:
    """A free port for a program that starts later, outside the range of ephemeral ports."""
    for port in random.sample(range(20_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


def addon_script(folder: Path, *statements: str) -> Path:
    """A script that loads the addon, then runs these statements."""
    path = folder / "script.py"
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r})"
    usual = "import nx_addon; addons = nx_addon.addons"
    path.write_text("\n".join([start, usual, *statements]))
    return path


class Proxy:
    """mitmdump, or another program, in `folder`.

    It listens on a free port of loopback, `port`, unless the arguments name a mode. Use it in a
    with statement. `before` is put before the command, as in `ip netns exec NAME`.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        script: Path = ADDON,
        program: str = "mitmdump",
        before: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        namespace: str = "",
        output: int | None = None,
    ) -> None:
        self.folder = folder
        self.uploads = folder / "uploads"
        modes = () if "--mode" in arguments else ("--mode", "regular@127.0.0.1:0")
        self._before = before
        confdir = f"confdir={folder / 'mitmproxy'}"
        start = [*before, str(PROGRAMS / program), "-s", str(script), "--set", confdir]
        self._command = [*start, *modes, *arguments]
        self._environ = {**os.environ, "PYTHONUNBUFFERED": "1", **(environ or {})}
        self._namespace = namespace
        self._output = output
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._ended = False

    def __enter__(self) -> Proxy:
        self.start()
        self.wait_for(r"port 53: ")
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start, without waiting until it serves."""
        self.process = self._start()
        self._ended = self._output is not None
        self._lines.clear()
        if self._output is None:
            threading.Thread(target=self._read, daemon=True).start()

    def _start(self) -> subprocess.Popen[str] | ForkedProcess:
        if not self._before and sys.platform == "linux":
            return fork_server.start(
                self._command, self.folder, self._environ, self._namespace, self._output
            )
        return subprocess.Popen(
            self._command,
            cwd=self.folder,
            env=self._environ,
            stdout=subprocess.PIPE if self._output is None else self._output,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    @property
    def port(self) -> int:
        """The port of the HTTP proxy."""
        return int(self.wait_for(r"[Pp]roxy .*listening at \S*:(\d+)")[1])

    @property
    def log(self) -> str:
        with self._changed:
            return "".join(self._lines)

    def wait_for(self, pattern: str, times: int = 1) -> re.Match[str]:
        """Wait until the log has `times` matches. Returns the last of these."""
        with self._changed:

            def matches() -> list[re.Match[str]]:
                return list(re.finditer(pattern, "".join(self._lines)))

            self._changed.wait_for(lambda: len(matches()) >= times or self._ended, TIMEOUT)
            found = matches()
            if len(found) < times:
                raise AssertionError(f"{pattern!r} is not in the log:\n{''.join(self._lines)}")
            return found[times - 1]

    def run(self) -> int:
        """Start it, and wait until it ends by itself. Returns its exit status."""
        self.start()
        return self.ended()

    def ended(self) -> int:
        """Wait until the process ends by itself. Returns its exit status."""
        status = self.process.wait(TIMEOUT)
        with self._changed:
            self._changed.wait_for(lambda: self._ended, TIMEOUT)
        return status

    def stop(self) -> None:
        """Send SIGTERM, and wait until the process has ended."""
        self.process.terminate()
        self.ended()

    def kill(self) -> None:
        """Kill the process group with SIGKILL."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.ended()

    def descriptors(self) -> list[str]:
        """Return the paths of its open files, and the kinds of its sockets."""
        found = []
        for link in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(re.sub(r"\[\d+\]", "", os.readlink(link)))
        return sorted(found)

    def saved(self) -> dict[str, bytes]:
        """Return the saved photos: path below `uploads` without the day, and content."""
        found = {}
        for path in self.uploads.glob("[0-9]*/**/*"):
            # A file may get its name between the listing and the reading.
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                found[str(Path(*path.relative_to(self.uploads).parts[1:]))] = path.read_bytes()
        return found

    def quarantined(self) -> list[bytes]:
        """The bodies in quarantine."""
        folder = self.uploads / ".nx" / "quarantine"
        return [path.read_bytes() for path in sorted(folder.glob("*"))]

    def _read(self) -> None:
        process = self.process
        assert process.stdout
        for line in process.stdout:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def eventually(condition: Callable[[], object], expected: str) -> None:
    """Poll until the condition holds, for states without a notification."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting for: {expected}"
        time.sleep(0.02)

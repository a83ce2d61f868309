"""Starts mitmdump, or mitmweb, as a fork of a process that has imported it, ten times as fast.

The fork is an ordinary process with its own id, session, files and signals; it shares only
the imported modules and mitmproxy's certificate authority.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).parent.parent
MAX_REQUEST = 1 << 17  # bytes
KEY_SIZE = 2048  # bits


class ForkedProcess:
    """A process of the fork server, with the part of Popen's interface that tests need."""

    def __init__(self, status: socket.socket, output: TextIO | None) -> None:
        self.pid = int(status.recv(20))
        self.stdout = output
        self.returncode: int | None = None
        self._status = status
        self._ended = threading.Event()
        threading.Thread(target=self._wait, daemon=True).start()

    def poll(self) -> int | None:
        """The exit status; None while the process runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit status. Raises subprocess.TimeoutExpired."""
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("mitmdump", timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def terminate(self) -> None:
        """Send SIGTERM."""
        os.kill(self.pid, signal.SIGTERM)

    def _wait(self) -> None:
        with self._status:
            self.returncode = int(self._status.recv(20) or b"-9")
        self._ended.set()


def start(
    arguments: Sequence[str],
    folder: Path,
    environ: Mapping[str, str],
    namespace: str,
    output: int | None,
) -> ForkedProcess:
    """Start a program with these arguments, its own path first, in a folder.

    `namespace` is its network namespace, if it is not that of the tests. It writes to the
    descriptor `output`, or to a pipe.
    """
    reader = None
    if output is None:
        pipe, output_end = os.pipe()
        reader = open(pipe, encoding="utf-8", errors="replace")  # noqa: SIM115
    else:
        output_end = os.dup(output)
    status, status_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    request = json.dumps([list(arguments), str(folder), dict(environ), namespace]).encode()
    with status_end:
        socket.send_fds(_server(), [request], [output_end, status_end.fileno()])
    os.close(output_end)
    return ForkedProcess(status, reader)


@cache
def _server() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_REQUEST)
    with theirs:
        subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())],
            cwd=ROOT,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return ours


def main(control: socket.socket) -> int:
    """Serve until the other end is closed. A fork returns from here when mitmdump ends."""
    import mitmproxy.tools.dump
    import mitmproxy.tools.main
    from mitmproxy.certs import CertStore

    import nx_addon  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:
        authority = CertStore.from_store(folder, "mitmproxy", KEY_SIZE)
    CertStore.from_store = lambda **_: authority  # type: ignore[method-assign]
    gc.freeze()
    children: dict[int, tuple[int, socket.socket]] = {}  # by descriptor of the process
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not control:
                    selector.unregister(key.fileobj)
                    pid, status = children.pop(key.fd)
                    os.close(key.fd)
                    _, ended = os.waitpid(pid, 0)
                    with status, contextlib.suppress(BrokenPipeError):
                        status.send(str(os.waitstatus_to_exitcode(ended)).encode())
                    continue
                request, descriptors, *_ = socket.recv_fds(control, MAX_REQUEST, 2)
                if not request:
                    return 0
                output, status = descriptors[0], socket.socket(fileno=descriptors[1])
                if pid := os.fork():
                    os.close(output)
                    status.send(str(pid).encode())
                    process = os.pidfd_open(pid)
                    children[process] = pid, status
                    selector.register(process, selectors.EVENT_READ)
                    continue
                arguments, folder, environ, namespace = json.loads(request)
                if namespace:
                    enter_namespace(namespace)
                _become(output, folder, environ)
                sys.argv = arguments
                getattr(mitmproxy.tools.main, Path(arguments[0]).name)(arguments[1:])
                return 0


def enter_namespace(name: str) -> None:
    """Move this thread into a network namespace."""
    with open(f"/run/netns/{name}") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0):  # os.setns: Python 3.12
            raise OSError(ctypes.get_errno(), "setns", name)


def _become(output: int, folder: str, environ: dict[str, str]) -> None:
    """Give this fork the working directory, environment and files that were requested."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, 1 << 16)
    buffering = 1 if environ.get("PYTHONUNBUFFERED") else -1
    sys.stdout = open(1, "w", buffering=buffering, closefd=False)  # noqa: SIM115
    del sys.modules["nx_addon"]  # only its imports are shared


if __name__ == "__main__":
    sys.exit(main(socket.socket(fileno=int(sys.argv[1]))))

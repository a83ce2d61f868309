"""A log stream that neither blocks nor fails.

mitmproxy writes its log to stdout from the event loop. If the reader of a pipe stopped
reading, all uploads would stop, and an error would end the process. `LogStream` writes in
a thread, each line at once.
"""

from __future__ import annotations

import io
import os
import threading
import time

LIMIT = 1 << 18  # bytes waiting to be written: the lines of some 300 uploads
PAUSE = 0.1  # seconds before a retry, if the descriptor is non-blocking and full


class LogStream(io.TextIOBase):
    """Writes lines to a descriptor, in a thread.

    While `limit` bytes are waiting, lines are dropped; their number is logged later. The text
    of one call, such as a body that mitmdump prints, is kept or dropped as a whole.
    """

    def __init__(self, fd: int, limit: int = LIMIT) -> None:
        self._fd = fd
        self._limit = limit
        self._changed = threading.Condition()
        self._line = ""  # not complete yet
        self._waiting = b""
        self._dropped = 0
        self._writing = False
        threading.Thread(target=self._run, name="nx log", daemon=True).start()

    def write(self, text: str) -> int:
        with self._changed:
            lines, end, self._line = (self._line + text).rpartition("\n")
            data = (lines + end).encode("utf-8", "backslashreplace")
            if len(self._waiting) >= self._limit:
                self._dropped += data.count(b"\n")
            elif data:  # a line is printed in several pieces; only its end wakes the thread
                self._waiting += data
                self._changed.notify_all()
        return len(text)

    def drain(self, timeout: float) -> None:
        """Wait until everything is written, at most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._writing, timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting)
                data, self._waiting = self._waiting, b""
                dropped, self._dropped = self._dropped, 0
                self._writing = True
            lines = data.count(b"\n")
            if dropped:
                data += f"{dropped} lines of the log were dropped: writing failed\n".encode()
            try:
                self._write(data)
            except OSError:
                with self._changed:
                    self._dropped += dropped + lines

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                time.sleep(PAUSE)

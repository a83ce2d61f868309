from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator

import pytest

from nxparse.proxy.log_stream import LogStream

SOON = 10.0  # seconds; only a test that fails waits that long


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The read end and the write end of a pipe."""
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            continue


def read_until(reader: int, end: bytes) -> bytes:
    text = b""
    while not text.endswith(end):
        assert select.select([reader], [], [], SOON)[0], text[-100:]
        text += os.read(reader, 1 << 16)
    return text


def test_lines(pipe: tuple[int, int]) -> None:
    """Lines are written whole and in order, even with characters that cannot be encoded."""
    reader, writer = pipe
    stream = LogStream(writer)
    print("a line", file=stream)
    stream.write("Jörg, \udce4,")
    stream.write(" and more\nlast\n")
    stream.flush()
    stream.drain(SOON)
    assert os.read(reader, 1000).decode() == "a line\nJörg, \\udce4, and more\nlast\n"


def test_a_large_piece(pipe: tuple[int, int]) -> None:
    """A piece larger than the limit is written whole if nothing else is pending."""
    reader, writer = pipe
    stream = LogStream(writer, limit=10)
    print("x" * 10_000, file=stream)
    assert read_until(reader, b"\n") == b"x" * 10_000 + b"\n"


@pytest.mark.parametrize("blocking", [True, False])
def test_no_reader(pipe: tuple[int, int], blocking: bool) -> None:
    """Writing to a full pipe does not block; later the log has the number of dropped lines."""
    reader, writer = pipe
    os.set_blocking(writer, blocking)
    stream = LogStream(writer, limit=1000)
    before = time.monotonic()
    for number in range(20_000):
        print(f"line {number}", file=stream)
    stream.drain(0.01)
    assert time.monotonic() - before < 5
    lines = missing = 0
    while lines + missing < 20_000:
        for line in read_until(reader, b"\n").decode().splitlines():
            word = line.split()[0]
            lines += word == "line"
            missing += 0 if word == "line" else int(word)
    assert missing > 0


def test_an_error(pipe: tuple[int, int]) -> None:
    """Lines that cannot be written are dropped, and counted when writing succeeds again."""
    reader, writer = pipe
    full = os.open("/dev/full", os.O_WRONLY)
    spare = os.dup(writer)
    os.dup2(full, writer)
    os.close(full)
    stream = LogStream(writer)
    for _ in range(2):
        print("lost", file=stream)
        stream.drain(SOON)
    os.dup2(spare, writer)
    os.close(spare)
    print("here", file=stream)
    text = read_until(reader, b"failed\n").decode()
    assert text == "here\n2 lines of the log were dropped: writing failed\n"

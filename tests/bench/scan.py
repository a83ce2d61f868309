"""The CPU time to parse a body, by its content and by the size of its chunks.

The alternatives are the parsers of Python's frameworks. The bound only joins each chunk to the end
of the one before and looks for the delimiter.

Each parser must first find the right parts. It is then timed without using the data.
The others return the data. The scanner returns positions, since the body is on disk.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from statistics import median

import multipart
import python_multipart
from streaming_form_data import StreamingFormDataParser
from streaming_form_data.targets import BaseTarget
from werkzeug.sansio.multipart import Data, MultipartDecoder, NeedData

from nxparse.deviation import LimitError
from nxparse.scanner import Scanner
from tests import bodies
from tests.bench.table import Goal, Row, Table, in_turns

MB = 1_000_000
CHUNKS = {"64 KiB": 1 << 16, "1,460 B": 1460}
BOUNDARY, CONTENT_TYPE = bodies.BOUNDARY, bodies.CONTENT_TYPE
DELIMITER = b"\r\n--" + BOUNDARY
BOUND = "the bound"
OURS = "nxparse"
WRONG = Goal("parts that are not as written", 1, at_most=0, structural=True)
PATIENCE = 0.2  # seconds
# Growth beyond this factor, for twice the size, is not noise.
NOT_LINEAR = 3.0

nothing = deque[object](maxlen=0).append


@dataclass(frozen=True)
class Body:
    """A body of one or more parts, and their data."""

    name: str
    data: Sequence[bytes]

    @property
    def whole(self) -> bytes:
        head = b'Content-Disposition: form-data; name="f"; filename="SAM_4371.JPG"\r\n'
        head += b"Content-Type: image/jpeg\r\n\r\n"
        parts = (b"--" + BOUNDARY + b"\r\n" + head + data + b"\r\n" for data in self.data)
        return b"".join(parts) + b"--" + BOUNDARY + b"--\r\n"


class PartDigests:
    """Hashes the data of each part, to compare it with the original."""

    def __init__(self) -> None:
        self.digests: list[bytes] = []
        self._now = hashlib.sha256()

    def data(self, piece: bytes) -> None:
        self._now.update(piece)

    def end(self, _: object = None) -> None:
        self.digests.append(self._now.digest())
        self._now = hashlib.sha256()


Kind = Callable[[int], Body]
"""Makes a body of the given number of bytes."""
Take = Callable[[bytes], object]
End = Callable[[object], object]
Parse = Callable[[Sequence[bytes], Take, End], None]


def with_nxparse(chunks: Sequence[bytes], take: Take, end: End) -> None:
    scanner = Scanner(BOUNDARY)
    for chunk in chunks:
        scanner.feed(chunk)
    step = len(chunks[0])

    def fetch(start: int, end: int) -> bytes:
        near = b"".join(chunks[start // step : -(-end // step)])
        return near[start % step : start % step + end - start]

    spans = scanner.close(fetch)
    if take is not nothing:
        whole = b"".join(chunks)
        for span in spans:
            take(whole[span.start : span.end])
            end(None)


def with_werkzeug(chunks: Sequence[bytes], take: Take, end: End) -> None:
    decoder = MultipartDecoder(BOUNDARY)
    for chunk in (*chunks, None):
        decoder.receive_data(chunk)
        while True:
            event = decoder.next_event()
            if isinstance(event, Data):
                take(event.data)
                if not event.more_data:
                    end(None)
            elif isinstance(event, NeedData) or decoder.complete:
                break


def with_python_multipart(chunks: Sequence[bytes], take: Take, end: End) -> None:
    def data(piece: bytes, start: int, stop: int) -> None:
        take(piece[start:stop])

    parser = python_multipart.MultipartParser(
        BOUNDARY, {"on_part_data": data, "on_part_end": lambda: end(None)}
    )
    for chunk in chunks:
        parser.write(chunk)
    parser.finalize()


def with_multipart(chunks: Sequence[bytes], take: Take, end: End) -> None:
    with multipart.PushMultipartParser(BOUNDARY) as parser:
        for chunk in chunks:
            for event in parser.parse(chunk):
                if event is None:
                    end(None)
                elif not isinstance(event, multipart.MultipartSegment):
                    take(event)


def with_streaming_form_data(chunks: Sequence[bytes], take: Take, end: End) -> None:
    class Target(BaseTarget):
        def on_data_received(self, chunk: bytes) -> None:
            take(chunk)

        def on_finish(self) -> None:
            end(None)

    parser = StreamingFormDataParser({"Content-Type": CONTENT_TYPE})
    parser.register("f", Target())
    for chunk in chunks:
        parser.data_received(chunk)


class Bound:
    """Finds delimiters in chunks with `bytes.find` alone."""

    def __init__(self) -> None:
        self._size = 0
        self._overlap = b""
        self.found: list[int] = []

    def feed(self, chunk: bytes) -> None:
        joined = self._overlap + chunk
        position = joined.find(DELIMITER)
        while position >= 0:
            self.found.append(self._size - len(self._overlap) + position)
            position = joined.find(DELIMITER, position + 1)
        self._overlap = joined[1 - len(DELIMITER) :]
        self._size += len(chunk)


def with_bound(chunks: Sequence[bytes], take: Take, end: End) -> None:
    bound = Bound()
    for chunk in chunks:
        bound.feed(chunk)


PATTERNS = {
    "CR": b"\r",
    "LF": b"\n",
    "CRLF": b"\r\n",
    "near misses": DELIMITER[:-1] + b"-",
    "hyphens": b"-",
}
PARSERS: dict[str, Parse] = {
    OURS: with_nxparse,
    "werkzeug": with_werkzeug,
    "python-multipart": with_python_multipart,
    "multipart": with_multipart,
    "streaming-form-data": with_streaming_form_data,
}


def main(short: bool) -> Iterator[Table]:
    size, dense, count, runs = (8 * MB, MB, 2_000, 3) if short else (64 * MB, 16 * MB, 100_000, 9)
    kinds = [photo, *(dense_with(name) for name in PATTERNS)]
    yield Table(
        "Parsing a body, in MB/s of CPU time",
        "body",
        [
            speed(kind(size if kind is photo else dense), chunk, runs)
            for kind in kinds
            for chunk in CHUNKS
        ],
        "`multipart` is defnull's.",
    )
    yield Table(
        "Growth of the time of nxparse with the size, by the content of the body",
        "body",
        [growth(kind, 4 * MB if short else 16 * MB, chunk) for kind in kinds for chunk in CHUNKS],
    )
    yield Table(f"A body of {count:,} parts", "parser", list(flood(count, runs)))


def speed(body: Body, chunk: str, runs: int) -> Row:
    """The speed of each parser with one body in chunks of one size."""
    whole = body.whole
    times = timed(PARSERS, body, pieces(whole, CHUNKS[chunk]), runs)
    speeds = {name: len(whole) / MB / seconds for name, seconds in times.items()}
    figures = {name: speeds.get(name, "wrong") for name in (OURS, BOUND, *PARSERS)}
    if OURS not in speeds:
        return Row(f"{body.name}, {chunk}", figures, [WRONG])
    fastest = max(speed for name, speed in speeds.items() if name not in (OURS, BOUND))
    goals = [Goal("of the fastest other", speeds[OURS] / fastest, at_least=1)]
    if body.name == "photo":
        goals.append(Goal("of the bound", speeds[OURS] / speeds[BOUND], at_least=0.8))
    return Row(f"{body.name}, {chunk}", figures, goals)


def timed(
    parsers: Mapping[str, Parse], body: Body, chunks: Sequence[bytes], runs: int
) -> dict[str, float]:
    """Return the seconds of each parser that finds the parts as written, and of the bound.

    A parser that needs more than `PATIENCE` is timed only once.
    """
    slow: dict[str, float] = {}
    contenders = {BOUND: timing(with_bound, chunks)}
    for name, parse in parsers.items():
        if is_right(parse, body, chunks):
            contenders[name] = timing(parse, chunks)
            if (seconds := contenders[name]()) > PATIENCE:
                slow[name] = seconds
                del contenders[name]
    found = in_turns(runs, contenders)
    return slow | {name: median(seconds) for name, seconds in found.items()}


def growth(kind: Kind, size: int, chunk: str) -> Row:
    """The time for a body twice as long, the least of several runs."""
    once, twice = (
        timing(with_nxparse, pieces(kind(length).whole, CHUNKS[chunk]))
        for length in (size, 2 * size)
    )
    times = {
        name: min(found) for name, found in in_turns(9, {"T(n)": once, "T(2n)": twice}).items()
    }
    ratio = times["T(2n)"] / times["T(n)"]
    return Row(
        f"{kind(0).name}, {chunk}",
        {f"{name}, ms": 1000 * seconds for name, seconds in times.items()},
        [Goal("T(2n)/T(n)", ratio, at_most=2.2, structural=ratio > NOT_LINEAR)],
    )


def flood(count: int, runs: int) -> Iterator[Row]:
    """Far more parts than any camera sends: the scanner refuses them."""
    body = Body("parts", [b"D"] * count)
    chunks = pieces(body.whole, CHUNKS["64 KiB"])
    ours = median(refusal(chunks) for _ in range(runs))
    goal = Goal("refused in", ours, "s", at_most=0.1, structural=True)
    yield Row(OURS, {"seconds": ours, "result": "refused"}, [goal])
    others = {name: parse for name, parse in PARSERS.items() if name != OURS}
    times = timed(others, body, chunks, runs)
    for name in others:
        result = "all read" if name in times else "wrong"
        yield Row(name, {"seconds": times.get(name), "result": result})


def refusal(chunks: Sequence[bytes]) -> float:
    start = time.process_time()
    try:
        with_nxparse(chunks, nothing, nothing)
    except LimitError:
        return time.process_time() - start
    raise AssertionError("more parts than the limit are not refused")


def timing(parse: Parse, chunks: Sequence[bytes]) -> Callable[[], float]:
    def run() -> float:
        start = time.process_time()
        parse(chunks, nothing, nothing)
        return time.process_time() - start

    return run


def is_right(parse: Parse, body: Body, chunks: Sequence[bytes]) -> bool:
    """Return whether the parser finds the parts as written, byte for byte."""
    digests = PartDigests()
    try:
        parse(chunks, digests.data, digests.end)
    except ValueError:
        return False
    return digests.digests == [hashlib.sha256(data).digest() for data in body.data]


def pieces(whole: bytes, size: int) -> list[bytes]:
    return [whole[start : start + size] for start in range(0, len(whole), size)]


def photo(size: int) -> Body:
    """Random bytes, like compressed picture data."""
    return Body("photo", [Random(0).randbytes(size)])


def dense_with(name: str) -> Kind:
    """A body full of bytes that could begin a delimiter."""
    pattern = PATTERNS[name]
    return lambda size: Body(name, [pattern * (size // len(pattern))])

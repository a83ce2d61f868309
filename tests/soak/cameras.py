"""The cameras: what they send, and in how many ways they do it badly.

Each has a random generator of its own, so what it sends does not depend on the
other threads; how often it has to try does.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import sha256
from random import Random
from threading import Event

from tests import bodies, camera, social
from tests.soak.ledger import RECIPIENTS, SITES, Ledger, Upload

SMALLEST, LARGEST, HUGE = 1_000, 300_000, 5_000_000  # bytes of a photo
ACCEPTED = '<Response Status="succ" />'
TRIES = 6
PICTURE = bodies.jpeg(LARGEST) * (HUGE // LARGEST + 1)
ENDINGS = (
    None,
    None,
    None,
    *(
        bodies.ENDINGS[name]
        for name in ("complete", "unmarked-newline", "boundary-cut-at-9", "newline", "nothing")
    ),
)


class Camera:
    """One camera; `port` tells where the proxy listens now, `pace` is its mean pause in seconds."""

    def __init__(
        self, index: int, seed: int, port: Callable[[], int], ledger: Ledger, pace: float
    ) -> None:
        self._index = index
        self._sender = f"camera{index}@example.org"
        self._random = Random(f"{seed} camera {index}")
        self._port = port
        self._ledger = ledger
        self._pace = pace
        self._count = 0
        self._over = Event()

    def run(self, over: Event) -> None:
        """Send, until it is over."""
        self._over = over
        ways: dict[Callable[[], None], int] = {
            lambda: self._email(self._whole): 50,
            lambda: self._email(self._pieces): 10,
            lambda: self._email(self._dripping): 4,
            lambda: self._email(self._half_closed): 8,
            lambda: self._email(self._deaf): 6,
            lambda: self._email(self._cut): 8,
            self._garbage: 6,
            self._post: 12,
        }
        while not over.wait(self._random.expovariate(1 / self._pace)):
            [act] = self._random.choices(list(ways), list(ways.values()))
            act()

    # What it sends

    def _photo(self) -> tuple[str, bytes]:
        """A name that others have, too, and a content that nobody else has."""
        random = self._random
        size = int(math.exp(random.uniform(math.log(SMALLEST), math.log(LARGEST))))
        if random.random() < 0.005:
            size = HUGE
        unique = bodies.jpeg(200, random.getrandbits(64))
        start = random.randrange(len(PICTURE) - size)
        return f"SAM_{random.randrange(300):04}.JPG", unique + PICTURE[
            start : start + size - 202
        ] + b"\xff\xd9"

    def _token(self) -> str:
        self._count += 1
        return f"soak-{self._index}-{self._count}"

    def _email(self, how: Callable[[bytes, Upload], int | None]) -> None:
        random = self._random
        photos = [self._photo() for _ in range(random.choice((1, 1, 1, 2, 3)))]
        recipients = random.sample(list(RECIPIENTS), random.choice((1, 1, 2, 3)))
        upload = self._upload(self._token(), recipients, photos)
        message = bodies.message_xml(sender=self._sender, recipients=recipients, text=upload.token)
        body = bodies.body(
            photos,
            message=message,
            surplus=random.random() < 0.8,
            ending=random.choice(ENDINGS),
        )
        self._insist(upload, bodies.request(body), how)

    def _post(self) -> None:
        """Some photos to a social site, each announced before it is sent."""
        random = self._random
        token, site = self._token(), random.choice(list(SITES))
        photos = [self._photo() for _ in range(random.randint(1, 3))]
        # With a description for each photo it is known how many will come.
        caption = token + "~seen" * len(photos) * (random.random() < 0.5)
        key = self._ask(social.auth(site, social.login(self._sender, "secret")), social.session_key)
        for name, data in photos if key else ():
            announcement = social.photo(key, name, caption)
            resource = self._ask(social.announce(site, "photo", announcement), social.resource_id)
            if resource:
                upload = self._upload(token, [site], [(name, data)])
                self._insist(upload, social.put(resource, data), self._whole)

    def _upload(self, token: str, to: list[str], photos: Iterable[tuple[str, bytes]]) -> Upload:
        digests = [(name, sha256(data).hexdigest()) for name, data in photos]
        return self._ledger.upload(Upload(token, self._sender, to, digests))

    def _garbage(self) -> None:
        random = self._random
        noise = random.randbytes(random.randrange(1, 3000))
        upload = bodies.request(bodies.body([("SAM_1.JPG", noise)]))
        garbage = random.choice(
            (
                noise,
                b"\x16\x03\x01\x02\0\x01" + noise,
                bodies.request(noise),
                bodies.request(b""),
                upload[: random.randrange(len(upload))],
                upload.replace(b"Content-Length: ", b"Content-Length: -"),
                upload.replace(b"<email>", b"<email"),
                upload.replace(b"columbus", b"unknown"),
                social.auth("facebook", noise),
                social.put("upload/unknown", noise),
            )
        )
        self._ledger.garbage += 1
        with suppress(OSError), self._connect() as connection:
            connection.sendall(garbage)
            connection.settimeout(random.uniform(0, 2))
            while connection.recv(1 << 16):
                pass

    # How it sends

    def _insist(
        self, upload: Upload, request: bytes, how: Callable[[bytes, Upload], int | None]
    ) -> None:
        """Try again like somebody who wants his photos to arrive, or give up."""
        for _ in range(TRIES):
            cut = upload.cut
            try:
                reply = how(request, upload)
            except OSError:  # not even connected
                how, reply = self._whole, None
            else:
                if upload.cut == cut:
                    upload.replies.append(reply)
                how = self._whole
            if reply is not None and reply < 500:
                return
            if self._random.random() < 0.1 or self._over.wait(self._random.uniform(0.5, 3)):
                return

    def _ask(self, request: bytes, answer: Callable[[str], str]) -> str:
        """Ask until there is an answer; empty if there is none."""
        for _ in range(TRIES):
            with suppress(OSError, ValueError):
                connection = self._connect()
                connection.sendall(request)
                if found := answer(camera.hear(connection).body):
                    return found
            if self._over.wait(self._random.uniform(0.5, 3)):
                break
        return ""

    def _connect(self) -> socket.socket:
        return camera.connect(self._port())

    def _whole(self, request: bytes, upload: Upload) -> int | None:
        return self._send([request])

    def _half_closed(self, request: bytes, upload: Upload) -> int | None:
        return self._send([request], socket.SHUT_WR)

    def _pieces(self, request: bytes, upload: Upload) -> int | None:
        size = self._random.randrange(500, 20_000)
        return self._send(self._slowly(camera.segmented(request, size), 0.005))

    def _dripping(self, request: bytes, upload: Upload) -> int | None:
        """Byte by byte, where it matters."""
        head, middle, tail = request[:1200], request[1200:-300], request[-300:]
        pieces = (*camera.segmented(head, 1), middle, *camera.segmented(tail, 1))
        return self._send(self._slowly(pieces, 0.001))

    def _slowly(self, pieces: Iterable[bytes], seconds: float) -> Iterable[bytes]:
        for piece in pieces:
            yield piece
            time.sleep(seconds)

    def _deaf(self, request: bytes, upload: Upload) -> int | None:
        """Go when all is sent, or a little later, before the reply is read."""
        connection = self._connect()
        with suppress(OSError):
            connection.sendall(request)
            time.sleep(self._random.choice((0, self._random.uniform(0, 0.1))))
        self._go(connection)
        return None

    def _cut(self, request: bytes, upload: Upload) -> int | None:
        connection = self._connect()
        upload.cut += 1
        with suppress(OSError):
            connection.sendall(request[: self._random.randrange(len(request))])
            self._over.wait(self._random.choice((0, 0.1, self._random.uniform(0, 8))))
        self._go(connection)
        return None

    def _go(self, connection: socket.socket) -> None:
        if self._random.random() < 0.5:
            camera.reset(connection)
        connection.close()

    def _send(self, pieces: Iterable[bytes], shut: int | None = None) -> int | None:
        """Send and hear: the status, or None."""
        connection = self._connect()
        with connection, suppress(OSError):
            for piece in pieces:
                connection.sendall(piece)
            if shut is not None:
                connection.shutdown(shut)
            heard = camera.hear(connection)
            if heard.head and (heard.status != 200 or heard.body == ACCEPTED):
                return heard.status
        return None

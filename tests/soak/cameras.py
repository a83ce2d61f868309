"""The cameras: valid uploads and garbage, sent in many ways.

Each camera has its own random generator, so its uploads depend on the seed only; the number of its
retries does not.
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
from tests.soak.ledger import CUT, HUNG, RECIPIENTS, SITES, UNREAD, Ledger, Upload

SMALLEST, LARGEST, HUGE = 1_000, 300_000, 5_000_000  # bytes of a photo
TRIES = 6
PICTURE = bodies.jpeg(LARGEST) * (HUGE // LARGEST + 1)
ENDINGS = [None, None, *map(bodies.ENDINGS.get, ("complete", "boundary-cut-at-9", "nothing"))]


class Camera:
    """A camera. `port` returns the port of the proxy; `pace` is the mean pause in seconds."""

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

    def run(self, over: Event) -> None:
        """Send until `over` is set."""
        self._over = over
        while not over.wait(self._random.expovariate(1 / self._pace)):
            [act] = self._random.choices((self._email, self._post, self._garbage), (82, 12, 6))
            act()

    # Requests

    def _email(self) -> None:
        random = self._random
        photos = [self._photo() for _ in range(random.choice((1, 1, 1, 2, 3)))]
        recipients = random.sample(RECIPIENTS, random.choice((1, 1, 2, 3)))
        upload = self._upload(self._token(), recipients, photos)
        message = bodies.message_xml(sender=self._sender, recipients=recipients, text=upload.token)
        ending, surplus = random.choice(ENDINGS), random.random() < 0.8
        body = bodies.body(photos, message=message, surplus=surplus, ending=ending)
        ways = (self._whole, self._pieces, self._drip, self._half_close, self._vanish, self._cut)
        [how] = random.choices(ways, (50, 10, 4, 8, 6, 8))
        self._repeat(upload, bodies.request(body), how)

    def _post(self) -> None:
        """Send photos to a social site, each after its announcement."""
        random = self._random
        token, site = self._token(), random.choice(SITES)
        photos = [self._photo() for _ in range(random.randint(1, 3))]
        # With a description for each photo, their number is known in advance.
        caption = token + "~seen" * len(photos) * random.randrange(2)
        key = self._get(social.auth(site, social.login(self._sender, "none")), social.session_key)
        for name, data in photos if key else ():
            announcement = social.announce(site, "photo", social.photo(key, name, caption))
            if resource := self._get(announcement, social.resource_id):
                upload = self._upload(token, [site], [(name, data)])
                self._repeat(upload, social.put(resource, data), self._whole)

    def _garbage(self) -> None:
        random = self._random
        noise = random.randbytes(random.randrange(1, 3000))
        upload = bodies.request(bodies.body([("SAM_1.JPG", noise)]))
        garbage = random.choice(
            (
                noise,
                b"\x16\x03\x01\x02\0\x01" + noise,
                bodies.request(noise),
                upload[: random.randrange(len(upload))],
                upload.replace(b"Content-Length: ", b"Content-Length: -"),
                upload.replace(b"<email>", b"<email"),
                upload.replace(b"columbus", b"unknown"),
                social.auth("facebook", noise),
                social.put("upload/unknown", noise),
            )
        )
        with suppress(OSError), camera.connect(self._port()) as connection:
            connection.sendall(garbage)
            connection.settimeout(random.uniform(0, 2))
            while connection.recv(1 << 16):
                pass

    def _photo(self) -> tuple[str, bytes]:
        """Return a name that other photos may have, and unique content."""
        random = self._random
        size = int(math.exp(random.uniform(math.log(SMALLEST), math.log(LARGEST))))
        size = HUGE if random.random() < 0.005 else size
        start = random.randrange(len(PICTURE) - size)
        unique = bodies.jpeg(200, random.getrandbits(64))
        data = unique + PICTURE[start : start + size - 202] + b"\xff\xd9"
        return f"SAM_{random.randrange(300):04}.JPG", data

    def _token(self) -> str:
        self._count += 1
        return f"soak-{self._index}-{self._count}"

    def _upload(self, token: str, to: list[str], photos: Iterable[tuple[str, bytes]]) -> Upload:
        digests = [(name, sha256(data).hexdigest()) for name, data in photos]
        return self._ledger.upload(Upload(token, self._sender, to, digests))

    # Ways of sending

    def _repeat(self, upload: Upload, request: bytes, how: Callable[[bytes], int | str]) -> None:
        """Repeat an upload until it is accepted, at most a few times, as a user does."""
        for _ in range(TRIES):
            with suppress(OSError):  # no connection
                upload.replies.append(how(request))
                if upload.replies[-1] == 200 or self._random.random() < 0.1:
                    break
            if self._over.wait(self._random.uniform(0.5, 3)):
                break
            how = self._whole

    def _get(self, request: bytes, answer: Callable[[str], str]) -> str:
        """Retry a request until its reply has a value. Returns that value, or an empty string."""
        for _ in range(TRIES):
            with suppress(OSError, ValueError):
                connection = camera.connect(self._port())
                connection.sendall(request)
                if found := answer(camera.read_reply(connection).body):
                    return found
            if self._over.wait(self._random.uniform(0.5, 3)):
                break
        return ""

    def _whole(self, request: bytes) -> int | str:
        return self._send([request])

    def _half_close(self, request: bytes) -> int | str:
        return self._send([request], half_close=True)

    def _pieces(self, request: bytes) -> int | str:
        size = self._random.randrange(500, 20_000)
        return self._send(camera.segmented(request, size), pause=0.005)

    def _drip(self, request: bytes) -> int | str:
        """Send head and tail byte by byte."""
        head, middle, tail = request[:1200], request[1200:-300], request[-300:]
        pieces = (*camera.segmented(head, 1), middle, *camera.segmented(tail, 1))
        return self._send(pieces, pause=0.001)

    def _vanish(self, request: bytes) -> int | str:
        """Disconnect after the upload, at once or soon, without reading the reply."""
        self._break_off(request, self._random.choice((0, self._random.uniform(0, 0.1))))
        return UNREAD

    def _cut(self, request: bytes) -> int | str:
        part = request[: self._random.randrange(len(request))]
        self._break_off(part, self._random.choice((0, 0.1, self._random.uniform(0, 8))))
        return CUT

    def _break_off(self, data: bytes, silence: float) -> None:
        with camera.connect(self._port()) as connection:
            with suppress(OSError):
                connection.sendall(data)
            self._over.wait(silence)
            if self._random.random() < 0.5:
                camera.reset(connection)

    def _send(
        self, pieces: Iterable[bytes], *, pause: float = 0.0, half_close: bool = False
    ) -> int | str:
        connection = camera.connect(self._port())
        try:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            reply = camera.read_reply(connection)
        except TimeoutError:
            return HUNG
        except OSError:
            return UNREAD
        finally:
            connection.close()
        return reply.status if reply.body else UNREAD

"""A receiver on Flask, with werkzeug's own server: a thread for each request.

    python -m tests.bench.flask_receiver FOLDER [--fsync]

It prints its port and saves the photos of each upload in the folder before it
answers. With --fsync it also makes them durable.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from xml.etree import ElementTree

from flask import Flask, abort, request
from werkzeug.serving import make_server

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Terminated:
    """A body of `size` bytes, followed by the `--` that cameras omit.

    Without it, werkzeug finds no parts.
    """

    def __init__(self, body: BinaryIO, size: int) -> None:
        self._body, self._left, self._end = body, size, b"--\r\n"

    def read(self, size: int) -> bytes:
        data = self._body.read(min(size, self._left))
        self._left -= len(data)
        if not data:
            data, self._end = self._end, b""
        return data


def application(folder: Path, *, fsync: bool) -> Flask:
    flask = Flask(__name__)

    @flask.post("/social/columbus/email")
    def email() -> str:
        message = request.files.get("message")
        if message is None or ElementTree.parse(message).find("sender") is None:
            abort(400)
        for photo in request.files.getlist("binary"):
            with (folder / Path(photo.filename or "photo").name).open("wb") as file:
                photo.save(file)
                if fsync:
                    file.flush()
                    os.fsync(file.fileno())
        if fsync:
            descriptor = os.open(folder, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        return '<Response Status="succ" />'

    return flask


def main() -> None:
    flask = application(Path(sys.argv[1]), fsync="--fsync" in sys.argv)

    def tolerant(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        body, size = environ["wsgi.input"], int(environ["CONTENT_LENGTH"])
        environ["wsgi.input"] = Terminated(body, size)
        environ["wsgi.input_terminated"] = True
        return flask(environ, start)

    server = make_server("127.0.0.1", 0, tolerant, threaded=True)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()

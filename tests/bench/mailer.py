"""Mails one upload in a separate process, and prints the time and memory used.

    python -m tests.bench.mailer nx_addon FOLDER PORT
    python -m tests.bench.mailer Flask-Mail PHOTO PORT

nx_addon delivers the upload in the spool in FOLDER, with all its bookkeeping.
Flask-Mail is used as in its manual: the file is read and attached.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.process import Usage, resident


def nx_addon(folder: Path, port: int) -> Callable[[], None]:
    from nxparse.deliver import targets
    from nxparse.deliver.outbox import Outbox
    from nxparse.store.spool import Spool
    from tests.box import configured

    given = configured(folder, nx_smtp=f"smtp://127.0.0.1:{port}", nx_senders=["*"])
    spool = Spool(folder)
    outbox = Outbox(
        spool,
        lambda target: targets.deliver_to(given, {}, target),
        lambda *failed: targets.save_undelivered(folder, *failed),
        retry_for=given.retry_for,
        clock=time.time,
    )

    def mail() -> None:
        outbox.deliver_due("mail")
        assert not spool.waiting(), spool.waiting()

    return mail


def flask_mail(photo: Path, port: int) -> Callable[[], None]:
    from flask import Flask
    from flask_mail import Mail, Message

    flask = Flask(__name__)
    flask.config.update(MAIL_SERVER="127.0.0.1", MAIL_PORT=port)
    mail_server = Mail(flask)

    def mail() -> None:
        message = Message(
            "[Samsung Smart Camera] sent you files.",
            sender="camera@example.org",
            recipients=["photos@example.org"],
            body="Sent from Samsung Camera.",
        )
        message.attach("SAM_0.JPG", "image/jpeg", photo.read_bytes())
        with flask.app_context():
            mail_server.send(message)

    return mail


def main() -> None:
    name, path, port = sys.argv[1:]
    mail = {"nx_addon": nx_addon, "Flask-Mail": flask_mail}[name](Path(path), int(port))
    idle, used, start = resident(os.getpid()), Usage(os.getpid()), time.perf_counter()
    mail()
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "cpu": used.cpu(), "grown": used.peak() - idle}))


if __name__ == "__main__":
    main()

"""python -m nxparse: look into uploads, and after what waits to be delivered.

    python -m nxparse show FILE [--json] [--extract DIR]   what is in an upload
    python -m nxparse repair FILE > BODY            the same for any other parser
    python -m nxparse send PHOTO... --to ADDRESS    play the camera, to try a set-up
    python -m nxparse outbox [--dir DIR]            what waits, since when, why
    python -m nxparse outbox [--dir DIR] retry ID   try an upload again now
    python -m nxparse outbox [--dir DIR] drop ID    give an upload up, keep its files

FILE is the body of an upload, as in quarantine, or a request as it was sent, with
its head. Recordings of mitmproxy are opened with mitmdump or mitmweb. The outbox
can be looked after beside a running mitmproxy, which notices within seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from nxparse import multipart
from nxparse.cli import send
from nxparse.deliver import targets
from nxparse.deliver.outbox import describe_waiting
from nxparse.deliver.save import describe_saved, store
from nxparse.deviation import BodyError
from nxparse.inspect import recorded, show
from nxparse.inspect.recorded import RecordedRequest
from nxparse.server.endpoints import EMAIL_PATH
from nxparse.store.spool import Spool
from nxparse.text import describe_disk_error, error_reason, format_list, printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0 done, 1 not possible, 2 usage."""
    parser = argparse.ArgumentParser(
        prog="python -m nxparse",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("show", help="what is in an upload")
    command.add_argument("file", type=Path, help="its body, or the whole request")
    command.add_argument("--json", action="store_true", help="as one object, for programs")
    command.add_argument("--extract", type=Path, metavar="DIR", help="also save the files there")
    command.set_defaults(run=_show)
    command = commands.add_parser("repair", help="make an upload readable for any other parser")
    command.add_argument("file", type=Path, help="its body, or the whole request")
    command.set_defaults(run=_repair)
    command = commands.add_parser("send", help="play the camera, to try a set-up")
    send.add_arguments(command)
    command.set_defaults(run=send.run)
    command = commands.add_parser("outbox", help="what waits to be delivered")
    command.add_argument("--dir", type=Path, default=Path("uploads"), help="the option nx_dir")
    command.set_defaults(run=_outbox)
    actions = command.add_subparsers(dest="action")
    actions.add_parser("list", help="what waits, since when, why, and when it is tried next")
    for name, text in (("retry", "try an upload again now"), ("drop", "give up, keep the files")):
        actions.add_parser(name, help=text).add_argument("id", help="the id that list shows")
    given = parser.parse_args(arguments)
    try:
        return int(given.run(given))
    except _OtherFileError as error:
        return _failed(str(error))
    except BrokenPipeError:
        # Whoever reads this has seen enough. Python would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _failed(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 1


# Files


class _OtherFileError(Exception):
    """A file that is neither a request nor the body of one."""


def _request(path: Path) -> RecordedRequest:
    """The request in a file; what has no head is the body of an upload by e-mail."""
    data = path.read_bytes()
    if request := recorded.parse(data):
        return request
    if other := show.describe_other(data, path):
        raise _OtherFileError(other)
    return RecordedRequest("POST", "", EMAIL_PATH, (), data)


def _show(given: argparse.Namespace) -> int:
    try:
        request = _request(given.file)
        upload = show.upload_in(request)
        shown = None if given.json else show.request(request)
        if shown:
            print(shown, end="")
        if upload is None:
            what = f"{show.title(request)}, {request.method} {request.host}{request.path}"
            if given.json or not shown:
                return _failed(f"{given.file} is no upload, but: {printable(what, 200)}")
            return 0
        if given.json:
            print(json.dumps(show.as_json(upload), ensure_ascii=False, indent=2))
        if given.extract:
            saved = store(upload.files, given.extract, "extract")
            print(describe_saved(saved), file=sys.stderr)
    except BodyError as error:
        if not given.json:
            print(show.request(request) or "", end="")
        return _failed(f"{given.file} cannot be read: {error}")
    except OSError as error:
        return _failed(error_reason(error))
    return 0


def _repair(given: argparse.Namespace) -> int:
    try:
        request = _request(given.file)
        content_type, body = multipart.repair(request.body or b"", request.header("content-type"))
    except (OSError, BodyError) as error:
        return _failed(f"{given.file} cannot be repaired: {error_reason(error)}")
    print(f"Content-Type: {content_type}", file=sys.stderr)
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()
    return 0


# The outbox


def _outbox(given: argparse.Namespace) -> int:
    root = given.dir / ".nx"
    if not (root / "state.sqlite3").exists():
        return _failed(f"{given.dir} is not the nx_dir of an nx_addon: choose one with --dir")
    try:
        spool = Spool(root, alone=False)
        try:
            match given.action:
                case "retry":
                    return _retry(spool, given.id)
                case "drop":
                    return _drop(spool, given.dir, given.id)
                case _:
                    print(describe_waiting(spool.waiting(), time.time()))
                    return 0
        finally:
            spool.close()
    except (OSError, sqlite3.Error) as error:
        return _failed(f"cannot look into the outbox: {describe_disk_error(error, given.dir)}")


def _retry(spool: Spool, id: str) -> int:
    if not spool.retry_now(id):
        return _failed(f"nothing of an upload {id} waits: see the list")
    print(f"upload {id} is tried again as soon as mitmproxy runs")
    return 0


def _drop(spool: Spool, directory: Path, id: str) -> int:
    deliveries = [one for one in spool.waiting() if one.arrival.id == id]
    if not deliveries:
        return _failed(f"nothing of an upload {id} waits: see the list")
    for delivery in deliveries:
        try:
            with spool.read(delivery) as (upload, files):
                print(targets.keep(directory, upload, files, delivery))
        except BodyError as error:
            paths = spool.give_up(delivery)
            kept = f"; its body is kept as {format_list([*map(str, paths)])}" if paths else ""
            print(f"its files cannot be kept: {error}{kept}", file=sys.stderr)
        spool.failed(delivery, "dropped by hand")
    return 0

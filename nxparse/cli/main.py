"""The command line of nx_addon: inspect uploads, test a set-up, manage the outbox.

    python -m nxparse show FILE [--json] [--extract DIR]   print the contents of an upload
    python -m nxparse repair FILE > BODY            convert a body to standard multipart/form-data
    python -m nxparse send PHOTO... --to ADDRESS    play the camera, to test a set-up
    python -m nxparse outbox [--dir DIR]            list the pending deliveries
    python -m nxparse outbox [--dir DIR] retry ID   retry an upload now
    python -m nxparse outbox [--dir DIR] drop ID    abandon an upload; its files are saved

FILE is the body of an upload, for example from quarantine, or a request with its head. Open
recordings of mitmproxy with mitmdump or mitmweb. The outbox can be changed while mitmproxy
runs; it notices within seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sqlite3
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import nxparse
from nxparse import multipart
from nxparse.cli import send
from nxparse.deliver import targets
from nxparse.deliver.outbox import describe_waiting
from nxparse.deliver.save import describe_saved, store
from nxparse.deviation import BodyError
from nxparse.filename import HEAD, sniff
from nxparse.inspect import recorded, show
from nxparse.inspect.recorded import RecordedRequest
from nxparse.server.endpoints import EMAIL_PATH
from nxparse.store.records import LocalCopy
from nxparse.store.spool import Spool
from nxparse.text import MAX_REASON, describe_disk_error, error_reason, format_list, printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0 done, 1 not possible, 2 usage."""
    parser = ArgumentParser(
        prog="python -m nxparse",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"nxparse {nxparse.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> ArgumentParser:
        command = commands.add_parser(name, help=text)
        command.set_defaults(run=run)
        return command

    command = add("show", _show, "print the contents of an upload")
    command.add_argument("file", type=Path, help="a body, or a request with its head")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.add_argument("--extract", type=Path, metavar="DIR", help="also save the files to DIR")
    command = add("repair", _repair, "convert a body to standard multipart/form-data")
    command.add_argument("file", type=Path, help="a body, or a request with its head")
    send.add_arguments(add("send", send.run, "play the camera, to test a set-up"))
    command = add("outbox", _outbox, "list or change the pending deliveries")
    command.add_argument("--dir", type=Path, default=Path("uploads"), help="the value of nx_dir")
    actions = command.add_subparsers(dest="action")
    actions.add_parser("list", help="list the pending deliveries")
    for name, text in (("retry", "retry an upload now"), ("drop", "abandon it, save its files")):
        actions.add_parser(name, help=text).add_argument("id", help="the id in the list")
    given = parser.parse_args(arguments)
    try:
        status: int = given.run(given)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader has closed the pipe. Python would print an error when it flushes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _failed(error_reason(error))


def _failed(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 1


# Files


def _request(path: Path) -> RecordedRequest:
    """Read a request from a file; a body without a head is an e-mail upload."""
    data = path.read_bytes()
    if request := recorded.parse(data):
        return request
    if show.is_recording(data):
        file = shlex.quote(str(path))
        raise BodyError(
            f"it is a recording; open it with: .venv/bin/mitmweb -s nx_addon.py -nr {file}"
        )
    kind = sniff(data[:HEAD]).partition("/")[0]
    if kind in ("image", "video"):  # also the body of an upload by a social site
        raise BodyError(f"it is {'a photo' if kind == 'image' else 'a video'}, not an upload")
    return RecordedRequest("POST", "", EMAIL_PATH, (), data)


def _show(given: argparse.Namespace) -> int:
    try:
        request = _request(given.file)
        shown = None if given.json else show.request(request)
        print(shown or "", end="")
        upload = show.upload_in(request)
        if upload is None:
            if shown:
                return 0
            what = f"{request.endpoint.title}, {request.method} {request.host}{request.path}"
            return _failed(f"{given.file} is not an upload, but: {printable(what, MAX_REASON)}")
        if given.json:
            print(json.dumps(show.as_json(upload), ensure_ascii=False, indent=2))
        if given.extract:
            print(describe_saved(store(upload.files, given.extract, "extract")), file=sys.stderr)
    except BodyError as error:
        return _failed(f"{given.file} cannot be parsed: {error}")
    return 0


def _repair(given: argparse.Namespace) -> int:
    try:
        request = _request(given.file)
        content_type, body = multipart.repair(request.body or b"", request.header("content-type"))
    except BodyError as error:
        return _failed(f"{given.file} cannot be repaired: {error}")
    print(f"Content-Type: {content_type}", file=sys.stderr)
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()
    return 0


# The outbox

_DENIED = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY)


def _outbox(given: argparse.Namespace) -> int:
    root = given.dir / ".nx"
    try:
        if not (root / "state.sqlite3").exists():
            return _failed(f"{given.dir} is not the nx_dir of nx_addon: choose it with --dir")
        with closing(Spool(root, alone=False)) as spool:
            if given.action == "retry":
                return _retry(spool, given.id)
            if given.action == "drop":
                return _drop(spool, given.dir, given.id)
            listed = describe_waiting(spool.waiting(), time.time())
    except (OSError, sqlite3.Error) as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary result code
        if isinstance(error, PermissionError) or code in _DENIED:
            return _failed(
                f"no permission to open the outbox in {given.dir}: run this command as the user "
                "who runs nx_addon"
            )
        return _failed(f"the outbox cannot be opened: {describe_disk_error(error, given.dir)}")
    print(listed)
    return 0


def _retry(spool: Spool, id: str) -> int:
    if not spool.retry_now(id):
        return _failed(f"upload {id} has no pending deliveries: see the list")
    print(f"upload {id} is retried now if mitmproxy runs, else when it starts")
    return 0


def _drop(spool: Spool, directory: Path, id: str) -> int:
    deliveries = [one for one in spool.waiting() if one.arrival.id == id]
    if not deliveries:
        return _failed(f"upload {id} has no pending deliveries: see the list")
    for delivery in deliveries:
        saved: Sequence[LocalCopy] = ()
        try:
            with spool.read(delivery) as (upload, files):
                outcome = targets.save_undelivered(directory, upload, files, delivery)
            print(outcome.message)
            saved = outcome.saved
        except BodyError as error:
            paths = spool.quarantine_delivery(delivery)
            kept = f"; its body is saved as {format_list([*map(str, paths)])}" if paths else ""
            print(f"its files cannot be saved: {error}{kept}", file=sys.stderr)
        spool.failed(delivery, "dropped by hand", saved)
    return 0

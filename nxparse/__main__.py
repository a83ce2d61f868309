"""python -m nxparse: look after what waits to be delivered.

    python -m nxparse outbox [--dir DIR]            what waits, since when, why
    python -m nxparse outbox [--dir DIR] retry ID   try an upload again now
    python -m nxparse outbox [--dir DIR] drop ID    give an upload up, keep its files

It works beside a running mitmproxy, which notices within seconds.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from nxparse import report, targets
from nxparse.deviation import BodyError
from nxparse.spool import Spool


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0 done, 1 not possible, 2 usage."""
    parser = argparse.ArgumentParser(prog="python -m nxparse", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    outbox = commands.add_parser("outbox", help="what waits to be delivered")
    outbox.add_argument("--dir", type=Path, default=Path("uploads"), help="the option nx_dir")
    actions = outbox.add_subparsers(dest="action")
    actions.add_parser("list", help="what waits, since when, why, and when it is tried next")
    for name, text in (("retry", "try an upload again now"), ("drop", "give up, keep the files")):
        actions.add_parser(name, help=text).add_argument("id", help="the id that list shows")
    given = parser.parse_args(arguments)
    try:
        return _outbox(given)
    except (OSError, sqlite3.Error) as error:
        print(
            f"cannot look into the outbox: {report.disk_error(error, given.dir)}", file=sys.stderr
        )
        return 1


def _outbox(given: argparse.Namespace) -> int:
    root = given.dir / ".nx"
    if not (root / "state.sqlite3").exists():
        print(
            f"{given.dir} is not the nx_dir of an nx_addon: choose one with --dir", file=sys.stderr
        )
        return 1
    spool = Spool(root, alone=False)
    try:
        match given.action:
            case "retry":
                return _retry(spool, given.id)
            case "drop":
                return _drop(spool, given.dir, given.id)
            case _:
                print(report.waiting(spool.waiting(), time.time()))
                return 0
    finally:
        spool.close()


def _failed(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 1


def _retry(spool: Spool, id: str) -> int:
    if not spool.hurry(id):
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
            kept = f"; its body is kept as {report.listed([*map(str, paths)])}" if paths else ""
            print(f"its files cannot be kept: {error}{kept}", file=sys.stderr)
        spool.failed(delivery, "dropped by hand")
    return 0


if __name__ == "__main__":
    sys.exit(main())

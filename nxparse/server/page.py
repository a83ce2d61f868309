"""The web page on the cameras' hosts, with the last uploads.

A camera that fails its hotspot check opens http://www.samsungimaging.com/. The page shows
that DNS and routing are right. It is made for the browser of an NX300, 480 pixels wide,
and for phones; without uploads it fits into one TCP segment. Clients choose the names on
it, so the template escapes them, and the Content-Security-Policy allows no scripts.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Collection, Iterator, Sequence
from datetime import date
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from nxparse.deliver.routes import target_label
from nxparse.server.reply import PRIVATE, Reply
from nxparse.store.deliveries import is_ahead
from nxparse.store.records import Delivery, DeliveryKey, FileRecord, UploadRecord
from nxparse.text import (
    MAX_REASON,
    format_count,
    format_duration,
    format_list,
    format_size,
    printable,
)

PER_PAGE = 20  # uploads
REFRESH = 10  # seconds between two loads of a page on which something may change
NEWS = 60.0  # seconds after which no change is expected
_FOLDER = Path(__file__).parent
README = _FOLDER.parents[1] / "README.md"
_STYLES = [
    (_FOLDER / name).read_text("utf-8").replace("\n", "") for name in ("page.css", "uploads.css")
]
_DIGESTS = " ".join(
    f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'"
    for style in _STYLES
)
_POLICY = (
    f"default-src 'none'; style-src {_DIGESTS}; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (("Content-Security-Policy", _POLICY), *PRIVATE)
NO_PREVIEW = "no preview"
_PLACEHOLDER = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="140" height="105" font-family="sans-serif" '
    f'font-size="14" text-anchor="middle" fill="#555"><text x="70" y="58">{NO_PREVIEW}</text></svg>'
).encode()
_VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".3gp")


class Failure(NamedTuple):
    """An upload that was refused or cut. `at` is a Unix time, `client` the camera's address."""

    at: float
    client: str
    reason: str


class _Entry(NamedTuple):
    """An upload, or a failed one, for the template.

    `files` are (address "UPLOAD.NUMBER", record, can be opened); `lines` are (state, sentence).
    """

    at: float
    what: str
    origin: str
    files: Sequence[tuple[str, FileRecord, bool]]
    lines: Sequence[tuple[str, str]]


def render(
    uploads: Sequence[UploadRecord],
    now: float,
    *,
    gallery: bool,
    in_progress: Collection[DeliveryKey] = (),
    failures: Sequence[Failure] = (),
    is_first: bool = True,
) -> Reply:
    """Return the page with these uploads, the latest first. `now` is a Unix time.

    At most PER_PAGE are shown; if there are more, a link leads to the older ones. In a
    `gallery` they are of all clients, and the page names them. `in_progress` are the
    deliveries being tried now, `failures` the uploads that were not accepted.
    """
    shown = uploads[:PER_PAGE]
    entries = [
        _Entry(one.at, "not accepted", f"from {one.client}", (), [("failed", one.reason)])
        for one in failures
    ] + [_upload(one, now, in_progress) for one in shown]
    entries.sort(key=lambda entry: entry.at, reverse=True)
    is_changing = any(abs(now - entry.at) < NEWS for entry in entries) or any(
        delivery.state == "waiting" for upload in shown for delivery in upload.deliveries
    )
    html = _template().render(
        styles=[Markup(style) for style in (_STYLES if entries else _STYLES[:1])],
        refresh=REFRESH if is_first and is_changing else 0,
        days=groupby(entries, lambda one: _day(one.at, now)),
        ago=lambda at: format_duration(now - at),
        gallery=gallery,
        is_empty=not entries,
        older=shown[-1].arrival.id if len(uploads) > len(shown) else "",
        is_first=is_first,
        videos=_VIDEOS,
        no_preview=NO_PREVIEW,
    )
    return Reply(200, html.encode("utf-8", "replace"), _HEADERS)


def thumbnail(picture: bytes) -> Reply:
    """Return the reply with a thumbnail, a JPEG; without one, with words."""
    if not picture:
        return Reply(200, _PLACEHOLDER, _HEADERS, "image/svg+xml")
    return Reply(200, picture, _HEADERS, "image/jpeg")


def readme() -> Reply | None:
    """Return README.md as plain text. None where it is not installed."""
    try:
        return Reply(200, README.read_bytes(), _HEADERS, "text/plain; charset=utf-8")
    except OSError:
        return None


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(printable=printable, size=format_size, clock=_clock)
    return environment.from_string((_FOLDER / "page.html").read_text("utf-8"))


def _day(at: float, now: float) -> str:
    """The local date of a Unix time, for a heading."""
    day, today = date.fromtimestamp(at), date.fromtimestamp(now)
    names = {0: "Today", 1: "Yesterday"}
    return names.get((today - day).days) or day.strftime("%A, %d %B %Y")


def _clock(at: float) -> str:
    return time.strftime("%H:%M", time.localtime(at))


def _upload(record: UploadRecord, now: float, in_progress: Collection[DeliveryKey]) -> _Entry:
    arrival, files = record.arrival, record.files
    size = format_size(sum(file.size for file in files))
    site = f", for {arrival.site}" if arrival.site else ""
    return _Entry(
        arrival.received,
        f"{format_count(len(files), 'file')}, {size}" if files else "no files",
        f"from {printable(arrival.sender) or '(no sender)'} at {arrival.client}{site}",
        [
            (f"{arrival.id}.{file.number}", file, any(copy.is_unchanged() for copy in file.saved))
            for file in files
        ],
        list(_lines(record, now, in_progress)),
    )


def _lines(
    record: UploadRecord, now: float, in_progress: Collection[DeliveryKey]
) -> Iterator[tuple[str, str]]:
    """One line for each target, or several if its deliveries differ; these name the files."""
    file_names = {file.number: printable(file.name) for file in record.files}
    for target in dict.fromkeys(one.target for one in record.deliveries):
        found: dict[tuple[str, str], list[str]] = {}
        for delivery in record.deliveries:
            if delivery.target == target:
                text = sentence(delivery, now, being_tried=delivery.key in in_progress)
                # Some of the recipients did not get it.
                is_partly = delivery.state == "done" and delivery.reason
                number = delivery.file_number
                names = found.setdefault(("partly" if is_partly else delivery.state, text), [])
                names.append(file_names.get(number, f"file {number}"))
        for (state, text), names in found.items():
            yield state, f"{format_list(names)}: {text}" if len(found) > 1 else text


def sentence(delivery: Delivery, now: float, *, being_tried: bool = False) -> str:
    """Return the state of a delivery in plain words, without secrets."""
    participle = _participle(delivery)
    reason = printable(delivery.reason, MAX_REASON)
    if delivery.state == "done":
        done = participle[0].upper() + participle[1:]
        return f"{done}; {reason}" if reason else done
    if delivery.state == "failed":
        return f"Could not be {participle}: {reason}. The files are stored."
    if being_tried:
        return f"Being {participle} now.{f' Last attempt: {reason}.' if reason else ''}"
    if not reason:
        return f"About to be {participle}."
    due = not is_ahead(delivery.next_try, now)
    when = "Due now" if due else f"Next try in {format_duration(delivery.next_try - now)}"
    return f"Waiting to be {participle}: {reason}. {when}."


# How a delivery by each kind of target is named, as in "it was saved".
_PARTICIPLES = {
    "save": "saved",
    "mail": "mailed to {}",
    "run": "handed to {}",
    "forward": "forwarded to {}",
    "mastodon": "posted to {}",
    "notify": "sent by {}",
    "drop": "dropped",
}


def _participle(delivery: Delivery) -> str:
    kind, _, shown = target_label(delivery.target).partition(":")
    match kind:
        case "mail" if not shown:
            shown = format_list([printable(one) for one in delivery.recipients])
        case "run":
            shown = shown.split()[0]
        case "forward" | "mastodon":
            shown = shown.partition("://")[2].removesuffix("/...") or shown
    return _PARTICIPLES.get(kind, "delivered").format(shown)

"""The page that the camera's browser, or anybody's, sees on our hosts.

A camera that fails its hotspot check opens http://www.samsungimaging.com/.
Whoever sees this page there knows that DNS and redirect are right, and what has
become of the last uploads. It is made for the browser of an NX300, 480 pixels
wide, as for a phone: plain HTML, no script, nothing from elsewhere. Without
uploads it is short enough for one TCP segment.

Everything in it may come from a stranger. So the template escapes whatever it
is given, the Content-Security-Policy allows our own style sheet and thumbnails
and nothing else, and no thumbnail can be taken for anything but a picture.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from nxparse.deliver.outbox import Attempted, is_due
from nxparse.deliver.routes import target_label
from nxparse.server.reply import Reply
from nxparse.store.records import DeliveryStatus, FileRecord, UploadRecord
from nxparse.text import format_duration, format_list, format_size, printable

MAX_REASON = 200  # characters
_FOLDER = Path(__file__).parent
_STYLE = (_FOLDER / "page.css").read_text("utf-8").replace("\n", "")
_STYLE_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode("ascii")
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
)


@dataclass(frozen=True, slots=True)
class _Image:
    path: str
    name: str
    turn: int


@dataclass(frozen=True, slots=True)
class _Line:
    state: str
    text: str


@dataclass(frozen=True, slots=True)
class _Upload:
    """An upload as the template wants it."""

    title: str
    origin: str
    images: Sequence[_Image]
    lines: Sequence[_Line]


def render(
    uploads: Sequence[UploadRecord],
    now: float,
    *,
    gallery: bool,
    attempted: Collection[Attempted] = (),
) -> Reply:
    """The page, with these uploads. `now` is a Unix time.

    In a `gallery` they are everybody's: then it tells whose they are, and shows
    their thumbnails. `attempted` are the deliveries that are being tried now.
    """
    html = _template().render(
        style=Markup(_STYLE),
        uploads=[_upload(one, now, gallery, attempted) for one in uploads],
    )
    return Reply(200, html.encode("utf-8", "replace"), (*_HEADERS, ("Cache-Control", "no-store")))


def thumbnail(jpeg: bytes) -> Reply:
    """A thumbnail. It never changes, but it is nobody else's business."""
    headers = (*_HEADERS, ("Cache-Control", "private, max-age=86400, immutable"))
    return Reply(200, jpeg, headers, "image/jpeg")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string((_FOLDER / "page.html").read_text("utf-8"))


def _upload(
    past: UploadRecord, now: float, gallery: bool, attempted: Collection[Attempted]
) -> _Upload:
    arrival, files = past.arrival, past.files
    names = format_list([printable(file.name) for file in files])
    size = format_size(sum(file.size for file in files))
    images = [
        _Image(f"/thumbnail/{arrival.id}.{file.number}", printable(file.name), file.turn)
        for file in files
        if gallery and file.has_thumbnail
    ]
    return _Upload(
        title=f"{f'{names}, {size}' if files else 'An upload'}, "
        f"{format_duration(now - arrival.received)} ago",
        origin=_origin(past) if gallery else "",
        images=images,
        lines=list(_lines(past, now, attempted)),
    )


def _origin(past: UploadRecord) -> str:
    arrival = past.arrival
    site = f", for {arrival.site}" if arrival.site else ""
    return f"from {printable(arrival.sender) or '(nobody)'} at {arrival.client}{site}"


def _lines(past: UploadRecord, now: float, attempted: Collection[Attempted]) -> Iterator[_Line]:
    """What has become of an upload, each way in one line unless files went different ways."""
    for target in dict.fromkeys(fate.target for fate in past.deliveries):
        fates = [fate for fate in past.deliveries if fate.target == target]
        said: dict[_Line, list[str]] = {}
        for fate in fates:
            tried = (past.arrival.id, target, fate.file_number) in attempted
            line = _Line(_shown_state(fate), sentence(fate, now, being_tried=tried))
            said.setdefault(line, []).append(_name(past.files, fate.file_number))
        for line, names in said.items():
            about = f"{format_list(names)}: " if len(said) > 1 else ""
            yield _Line(line.state, f"{about}{line.text}")


def _name(files: Sequence[FileRecord], part: int) -> str:
    named = next((file.name for file in files if file.number == part), f"file {part}")
    return printable(named)


def _shown_state(fate: DeliveryStatus) -> str:
    """The class of a line. A delivery that missed some of its recipients is only partly done."""
    return "partly" if fate.state == "done" and fate.reason else fate.state


def sentence(fate: DeliveryStatus, now: float, *, being_tried: bool = False) -> str:
    """What has become of an upload, in plain words, without anything secret."""
    participle = _participle(fate)
    reason = printable(fate.reason, MAX_REASON)
    match fate.state:
        case "done":
            told = participle[0].upper() + participle[1:]
            return f"{told}; {reason}" if reason else told
        case "failed":
            return f"Could not be {participle}: {reason}. The files are kept."
        case _ if being_tried:
            return f"Is being {participle} now.{f' Last attempt: {reason}.' if reason else ''}"
        case _ if not reason:
            return f"Is about to be {participle}."
    due = is_due(fate.next_try, now)
    when = "Due now" if due else f"Next try in {format_duration(fate.next_try - now)}"
    return f"Waits to be {participle}: {reason}. {when}."


def _participle(fate: DeliveryStatus) -> str:
    """What a target does to an upload, as what is done to it."""
    kind, _, shown = target_label(fate.target).partition(":")
    host = shown.partition("://")[2].removesuffix("/...") or shown
    match kind:
        case "save":
            return "saved"
        case "mail":
            mailed = [shown] if shown else [printable(one) for one in fate.recipients]
            return f"mailed to {format_list(mailed)}"
        case "run":
            return f"given to {shown.split()[0]}"
        case "forward":
            return f"forwarded to {host}"
        case "mastodon":
            return f"posted to {host}"
        case "notify":
            return f"sent by {shown}"
        case _:
            return "dropped"

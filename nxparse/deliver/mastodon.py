"""Photos as posts on a Mastodon server, through Mastodon.py.

Mastodon.py (https://mastodonpy.readthedocs.io) is not needed for anything else
here, and is only looked for when a rule wants it. It is given a session that
streams a photo from where it is kept, follows no redirect, and reads no more of
an answer than anybody needs.

An upload becomes one post, or a thread where it has more photos, or a longer
text, than the server takes in one; a video has a post of its own. Each photo is
uploaded, and the post refers to it. Behind the first `~` in a text are the
descriptions of the photos, one behind each `~`, as the users of these cameras
know it (samsung-nx-emailservice, commit c3f8eb0).

Each post has an Idempotency-Key, by which the server knows a post that it has
published already, for an hour (docs.joinmastodon.org/methods/statuses). What is
published when a thread breaks off is kept as the progress of the delivery.

A server that lets nobody in, knows no such call, or wants to be left alone, is
unreachable for all that waits for it. It says until when by X-RateLimit-Reset.
"""

from __future__ import annotations

import importlib
import io
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from nxparse.deliver.errors import (
    DeliveryError,
    PermanentError,
    TemporaryError,
    TooLargeError,
    UnreachableError,
    one_line,
)
from nxparse.deliver.privacy import is_loopback
from nxparse.upload import File, Upload, camera

VISIBILITIES = ("public", "unlisted", "private", "direct")
POSTSCRIPT = "\N{CAMERA} {camera}"  # for a camera that is known

API = "4.0.0"  # the version of Mastodon whose calls are made
CONNECT = 30.0  # seconds
ANSWER = 300.0  # seconds for each step
PROCESSING = 600.0  # seconds that a server may take for one file
LOOK = 2.0  # seconds between two looks at that
# A wrong token does not become right by trying.
REFUSED_RETRY = 3600.0
MAX_ANSWER = 1 << 20  # bytes

# Of a server that does not tell its limits (docs.joinmastodon.org/entities/Instance).
CHARACTERS = 500
ATTACHMENTS = 4
DESCRIPTION = 1500

# How what the system says stands in what requests says.
_SYSTEM_WORDS = re.compile(
    r"\[Errno -?[0-9]+\] ([^'\")>]+)|(?:Error\([0-9]+, |RemoteDisconnected\()'([^']+)'"
    r"|(certificate verify failed[^(\"']*)"
)


@dataclass(frozen=True, slots=True)
class Account:
    """Where to post, and how. `postscript` may have `{camera}` in it; None is the usual one."""

    url: str
    token: str = field(repr=False)
    visibility: str | None = None
    postscript: str | None = None

    def __str__(self) -> str:
        return urlsplit(self.url).netloc


def account(url: str) -> Account:
    """Read `https://TOKEN@host/?visibility=unlisted&postscript=...`.

    Raises ValueError, without the token, if it is none, or if Mastodon.py is missing.
    """
    _library()
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
        options = dict(
            parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True)
            if parts.query
            else []
        )
    except ValueError:
        raise ValueError("not a URL like https://TOKEN@host/") from None
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[\w.:-]+", host):
        raise ValueError("not a URL like https://TOKEN@host/")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError("http:// would send the access token unencrypted: use https://")
    if parts.path not in ("", "/") or parts.fragment:
        raise ValueError("there is more behind the host than /?visibility=...&postscript=...")
    token = unquote(parts.password or parts.username or "")
    if not re.fullmatch(r"[!-~]+", token):
        raise ValueError("there is no access token before the host, as in https://${TOKEN}@host/")
    if unknown := options.keys() - {"visibility", "postscript"}:
        raise ValueError(f"there is no {min(unknown)}: there are visibility and postscript")
    visibility = options.get("visibility")
    if visibility is not None and visibility not in VISIBILITIES:
        raise ValueError(f"the visibility is none of {', '.join(VISIBILITIES)}")
    netloc = parts.netloc.rpartition("@")[2]
    return Account(f"{parts.scheme}://{netloc}", token, visibility, options.get("postscript"))


def _library() -> Any:
    try:
        return importlib.import_module("mastodon")
    except ImportError:
        raise ValueError("mastodon needs Mastodon.py: pip install Mastodon.py") from None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server takes in one post: characters, files, characters for a description."""

    characters: int = CHARACTERS
    attachments: int = ATTACHMENTS
    description: int = DESCRIPTION

    def __str__(self) -> str:
        return f"{self.characters} {self.attachments} {self.description}"


@dataclass(frozen=True, slots=True)
class Post:
    """One of a thread: its text, and its files, each with what is to be seen on it."""

    text: str
    files: tuple[tuple[File, str], ...]


def compose(
    text: str, files: Sequence[File], model: str, postscript: str | None, limits: Limits
) -> list[Post]:
    """The posts that an upload becomes. `model` is that of the camera, empty if nobody knows."""
    # A `~` too much is one that was typed.
    text, *descriptions = text.split("~", len(files))
    if postscript is None:
        postscript = POSTSCRIPT if model else ""
    postscript = postscript.replace("{camera}", model or "camera")
    whole = "\n\n".join(filter(None, (text.strip(), postscript.strip())))
    descriptions += [""] * (len(files) - len(descriptions))
    described = [
        (file, _cut(description.strip(), limits.description))
        for file, description in zip(files, descriptions, strict=True)
    ]
    texts, groups = _pieces(whole, limits.characters), _groups(described, limits.attachments)
    length = max(len(texts), len(groups))
    texts += [""] * (length - len(texts))
    groups += [()] * (length - len(groups))
    return [Post(*one) for one in zip(texts, groups, strict=True)]


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _pieces(text: str, limit: int) -> list[str]:
    """A text in pieces of at most `limit` characters, cut between words where there are any."""
    pieces = []
    while len(text) > limit:
        cut = max(text.rfind(blank, 1, limit + 1) for blank in " \n")
        cut = cut if cut > 0 else limit
        pieces.append(text[:cut].rstrip())
        text = text[cut:].lstrip()
    return [*pieces, text]


def _groups(files: Sequence[tuple[File, str]], size: int) -> list[tuple[tuple[File, str], ...]]:
    """Files in the groups that posts have: some pictures, or one video."""
    groups: list[tuple[tuple[File, str], ...]] = []
    room = 0
    for file, description in files:
        is_picture = file.content_type.startswith("image/")
        if is_picture and room:
            groups[-1] = (*groups[-1], (file, description))
            room -= 1
        else:
            groups.append(((file, description),))
            room = size - 1 if is_picture else 0
    return groups


def send(
    upload: Upload,
    files: Sequence[File],
    text: str,
    to: Account,
    key: str,
    published: Sequence[str],
) -> str:
    """Publish these files of an upload with a text. Returns what has been done, in a few words.

    `key` is the same in each attempt, and for nothing else. `published` is what
    earlier attempts have published, as the `progress` of what they raised has it:
    the limits, and the ids of the posts. Raises a DeliveryError, or the OSError of
    a file.
    """
    server = _Server(to)
    limits = server.limits()
    if published:
        # With others, what is left would not begin where the last post ended.
        limits = Limits(*map(int, published[0].split()))
    posts = compose(text, files, camera(upload), to.postscript, limits)
    done = list(published[1:])
    for number, post in enumerate(posts[len(done) :], len(done)):
        try:
            media = [server.upload(file, description) for file, description in post.files]
            last = done[-1] if done else None
            done.append(server.publish(post.text, media, last, f"{key}.{number}"))
        except (TemporaryError, OSError) as error:
            # An OSError of a file has no such attribute until now, but must not lose it.
            error.progress = (str(limits), *done) if done else ()  # type: ignore[union-attr]
            raise
        except TooLargeError as error:
            # What is published already must not be published again, file by file.
            if done or len(files) == 1:
                raise PermanentError(str(error)) from None
            raise
    return f"posted to {to}" + (f" in {len(posts)} posts" if len(posts) > 1 else "")


class _RefusedError(Exception):
    """The server does not do what it is asked, and never will: its status, and its reason."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status


class _Server:
    """A Mastodon server. What it says is an answer, or a DeliveryError."""

    def __init__(self, to: Account) -> None:
        self._to = to
        self._library = _library()
        self._api = self._library.Mastodon(
            api_base_url=to.url,
            mastodon_version=API,
            version_check_mode="created",
            ratelimit_method="throw",
            request_timeout=(CONNECT, ANSWER),
            session=_Session(to),
            user_agent="nx_addon",
        )
        # As an argument it would be taken for the name of a file that has it in it.
        self._api.access_token = to.token

    def limits(self) -> Limits:
        """What the server takes, as far as it tells."""
        try:
            told = self._call(self._api.instance_v2)
        except _RefusedError:
            return Limits()
        except TemporaryError as error:
            raise UnreachableError(str(error), error.retry_after) from None
        return Limits(
            _limit(told, "statuses", "max_characters", CHARACTERS),
            _limit(told, "statuses", "max_media_attachments", ATTACHMENTS),
            _limit(told, "media_attachments", "description_limit", DESCRIPTION),
        )

    def upload(self, file: File, description: str) -> str:
        """Upload a file, and wait until it can be in a post. Returns its id."""
        try:
            media = self._entity(
                self._api.media_post,
                file,
                mime_type=file.content_type,
                file_name=file.safe_name,
                description=description or None,
            )
            deadline = time.monotonic() + PROCESSING
            while media.get("url") is None:
                if time.monotonic() > deadline:
                    raise TemporaryError(f"{self._to} has not processed {file.safe_name} yet")
                time.sleep(LOOK)
                media = self._entity(self._api.media, media["id"])
        except _RefusedError as error:
            if error.status == 404:
                told = f"{error}: is that a Mastodon server?"
                raise UnreachableError(told, REFUSED_RETRY) from None
            raise TooLargeError(f"{error} ({file.safe_name})") from None
        return str(media["id"])

    def publish(self, text: str, media: Sequence[str], reply_to: str | None, key: str) -> str:
        """Publish a post. Returns its id."""
        try:
            status = self._entity(
                self._api.status_post,
                text,
                in_reply_to_id=reply_to,
                media_ids=list(media),
                visibility=self._to.visibility,
                idempotency_key=key,
            )
        except _RefusedError as error:
            raise PermanentError(str(error)) from None
        return str(status["id"])

    def _entity(
        self, call: Callable[..., Any], *arguments: Any, **options: Any
    ) -> Mapping[str, Any]:
        """The answer to a call that has to be an object with an id."""
        answer = self._call(call, *arguments, **options)
        if not isinstance(answer, Mapping) or not answer.get("id"):
            raise TemporaryError(f"{self._to} answers as no Mastodon server does")
        return answer

    def _call(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return call(*arguments, **options)
        except self._library.MastodonRatelimitError:
            wait = max(0.0, (self._api.ratelimit_reset or 0.0) - time.time())
            raise UnreachableError(f"{self._to} says 429: too many requests", wait) from None
        except self._library.MastodonNetworkError as error:
            # What the session raises comes back as the context of this.
            match error.__context__:
                case _FileError() as failed:
                    raise failed.error from None
                case DeliveryError() as failed:
                    raise failed from None
            raise TemporaryError(self._told(f"{self._to}: {_why(error)}")) from None
        except self._library.MastodonAPIError as error:
            raise self._judged(*error.args[1:]) from None

    def _judged(self, status: object = None, reason: object = "", said: object = "") -> Exception:
        """What an answer means that is none of success."""
        if not isinstance(status, int):
            return TemporaryError(f"{self._to} answers as no Mastodon server does")
        told = self._told(f"{self._to} says {status}: {said or reason}")
        if status in (401, 403):
            return UnreachableError(told, REFUSED_RETRY)
        if status in (408, 425) or status >= 500:
            return TemporaryError(told)
        return _RefusedError(status, told)

    def _told(self, text: str) -> str:
        return one_line(text, [self._to.token])


def _limit(told: Any, of: str, name: str, usual: int) -> int:
    """A limit in what a server tells of itself (docs.joinmastodon.org/entities/Instance)."""
    found = told
    for key in ("configuration", of, name):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, int) and found > 0 else usual


def _why(error: Exception) -> str:
    """Why a server could not be reached, in the words of the system if they are in there."""
    text = str(error)
    found = _SYSTEM_WORDS.search(text)
    if found:
        return found[found.lastindex or 0]
    return "timed out" if "timed out" in text else text


class _FileError(Exception):
    """A file cannot be read, which is not the server's fault."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class _Form:
    """A form of multipart/form-data with a file in it, made while it is read (RFC 7578)."""

    def __init__(self, fields: Mapping[str, str | None], name: str, file: File) -> None:
        self.failed: OSError | None = None
        boundary = secrets.token_hex(16)
        self.content_type = f"multipart/form-data; boundary={boundary}"
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
            for field, value in fields.items()
            if value is not None
        )
        # A safe name has no quote in it.
        head += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}";'
            f' filename="{file.safe_name}"\r\nContent-Type: {file.content_type}\r\n\r\n'
        )
        self._head = head.encode("utf-8", "replace")
        self._file = file
        self._tail = f"\r\n--{boundary}--\r\n".encode("ascii")

    def __len__(self) -> int:
        return len(self._head) + self._file.size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        try:
            yield from self._file.chunks()
        except OSError as error:
            self.failed = error
            raise
        yield self._tail


class _Session:
    """What Mastodon.py needs of a session of requests."""

    def __init__(self, to: Account) -> None:
        self._to = to
        self._session = importlib.import_module("requests").Session()
        # Else it reads all of a redirect, to tell where it leads.
        self._session.get_redirect_target = lambda response: None

    def request(
        self,
        method: str,
        url: str,
        *,
        files: Mapping[str, tuple[str, File, str]],
        headers: Mapping[str, str],
        data: Any = None,
        **options: Any,
    ) -> Any:
        """Make a request, and read at most MAX_ANSWER bytes of the answer."""
        form = None
        for name, (_, file, _) in files.items():
            form = data = _Form(data, name, file)
            headers = {**headers, "Content-Type": form.content_type}
        try:
            response = self._session.request(
                method,
                # Mastodon.py has a slash at the end of a path that the documentation has
                # not; what is no Mastodon, but talks like one, may know no such path.
                url.rstrip("/"),
                headers=headers,
                data=data,
                allow_redirects=False,
                stream=True,
                **options,
            )
        except Exception:
            if form and form.failed:
                raise _FileError(form.failed) from None
            raise
        with closing(response.raw) as raw:
            if response.is_redirect:
                # To follow it is to send photos to somebody whom nobody has chosen.
                told = f"{self._to} is elsewhere now: at {response.headers['Location']}"
                raise UnreachableError(one_line(told, [self._to.token]), REFUSED_RETRY)
            body = b""
            while chunk := raw.read1(1 << 16, decode_content=True):
                body += chunk
                if len(body) > MAX_ANSWER:
                    raise TemporaryError(f"{self._to} answers more than {MAX_ANSWER} bytes")
        response.raw = io.BytesIO(body)
        if response.status_code != 429:
            # Mastodon.py would fail for one that it cannot read, as if nothing had been done.
            response.headers.pop("X-RateLimit-Reset", None)
        return response

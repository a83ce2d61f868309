"""The target `mastodon`: the posts, and the meaning of the server's replies.

Connections, TLS and malformed replies are tested in test_http_client.
"""

from __future__ import annotations

import errno
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from nxparse import filename, upload
from nxparse.deliver import http_client, mastodon
from nxparse.deliver.errors import (
    DeliveryError,
    PermanentError,
    TemporaryError,
    TooLargeError,
    UnreachableError,
)
from nxparse.deliver.http_client import Origin
from nxparse.deliver.mastodon import Account, Post, compose, deliver, parse_account
from nxparse.framing import fetch_from
from nxparse.upload import File
from tests import bodies
from tests.box import Box, delivery
from tests.deliver.failures import Failure, failure_of
from tests.faults import make_lazy
from tests.mastodon_server import (
    HOST,
    TOKEN,
    Answer,
    Call,
    Fault,
    MastodonServer,
    Processing,
    Status,
    Step,
    answer,
    error,
)
from tests.pictures import photo, picture
from tests.web_servers import WebServer

HOUR = 3600.0
DAY = 86400.0
VIDEO = b"\0\0\0\x18ftypmp42" + bytes(500)


@pytest.fixture(autouse=True)
def _poll_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mastodon, "POLL_INTERVAL", 0.0)


def file(data: bytes, name: str | None = "SAM_1.JPG") -> File:
    return upload.whole(name, "", len(data), fetch_from(data))


PICTURES = [file(picture(16 * number, 16), f"SAM_{number}.JPG") for number in range(1, 21)]
VIDEOS = [file(VIDEO + bytes([number]), f"SAM_{number}.MP4") for number in range(1, 21)]


def url_of(server: MastodonServer | WebServer, query: str = "") -> str:
    return f"http://{TOKEN}@{HOST}:{server.port}/{query}"


def send(
    server: MastodonServer | WebServer,
    files: Sequence[File],
    text: str = "",
    *,
    query: str = "",
    published: Sequence[str] = (),
) -> str:
    """Post an upload with these files. Returns the description of the result."""
    one = delivery("mastodon", site="facebook", progress=published)
    found = upload.posted("anna", "facebook", "", text, files)
    return deliver(parse_account(url_of(server, query)), found, files, one).message


def failure(
    server: MastodonServer | WebServer,
    files: Sequence[File] = PICTURES[:1],
    published: Sequence[str] = (),
) -> Failure:
    """Send files, which must fail, without the token in any text."""
    with pytest.raises(DeliveryError) as caught:
        send(server, files, published=published)
    return failure_of(caught.value, f"{HOST}:{server.port}", [TOKEN])


def contents_of(status: Status) -> list[tuple[bytes, str | None]]:
    """The files in a post, each with its description."""
    return [(media.file.data, media.description) for media in status.media]


def undescribed(files: Sequence[File]) -> list[tuple[bytes, str | None]]:
    """The result of `contents_of` for these files without descriptions."""
    return [(one.data, None) for one in files]


H = Origin(True, "h", 443)
UNENCRYPTED = "http:// would send the access token unencrypted: use https://"
NO_TOKEN = "there is no access token before the host, as in https://${TOKEN}@host/"
NO_URL = "not a URL like https://TOKEN@host/"
MORE = "only ?visibility=... and &postscript=... can follow the host"
NONE_OF = "the visibility is none of public, unlisted, private, direct"


class TestAccount:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("https://geheim@h", Account(H, "geheim")),
            ("https://me:geheim@h/", Account(H, "geheim")),
            ("https://a%2Fb%3A%40%25@h/", Account(H, "a/b:@%")),
            ("https://a@b@h/", Account(H, "a@b")),
            ("http://geheim@[::1]:3000", Account(Origin(False, "::1", 3000), "geheim")),
            ("https://geheim@h/?visibility=unlisted", Account(H, "geheim", "unlisted")),
            ("https://geheim@h?postscript=%23samsung%20{camera}",
                Account(H, "geheim", None, "#samsung {camera}")),
            ("https://geheim@h/?postscript=&visibility=direct",
                Account(H, "geheim", "direct", "")),
        ],
    )  # fmt: skip
    def test_url(self, url: str, expected: Account) -> None:
        """An account has a server, an access token, and options."""
        assert parse_account(url) == expected

    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            ("ftp://geheim@h/", NO_URL),
            ("https://geheim@h/?geheim", NO_URL),
            ("http://geheim@h/", UNENCRYPTED),
            ("http://geheim@192.168.1.5:3000/", UNENCRYPTED),
            ("https://geheim@h/@me", MORE),
            ("https://geheim@h/?postscript=%20#nx", MORE),
            ("https://h/", NO_TOKEN),
            ("https://geheim%0D%0AX@h/", NO_TOKEN),
            ("https://geheim@h/?visibility=geheim", NONE_OF),
            ("https://geheim@h/?language=de&visibility=public", MORE),
        ],
    )
    def test_wrong_url(self, url: str, reason: str) -> None:
        """Wrong URLs are refused with the reason, and without the token."""
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            parse_account(url)
        assert str(caught.value) == reason
        assert "geheim" not in "".join(traceback.format_exception(caught.value)).replace(url, "")

    def test_repr(self) -> None:
        """The token is not in a repr."""
        found = parse_account("https://geheim@h.example:8080/?visibility=direct")
        assert str(found) == "h.example:8080"
        assert "geheim" not in repr(found)


def composed(
    text: str,
    files: Sequence[File] = PICTURES[:1],
    *,
    model: str = "",
    postscript: str | None = None,
) -> list[Post]:
    return compose(text, files, model, postscript)


class TestCompose:
    @pytest.mark.parametrize(
        ("text", "count", "expected", "descriptions"),
        [
            ("text ~ a ~ b ", 2, "text", ["a", "b"]),
            ("text~a", 2, "text", ["a", ""]),
            ("text~a~b~c", 2, "text", ["a", "b~c"]),
            ("text~~b", 2, "text", ["", "b"]),
            ("~~~~", 2, "", ["", "~~"]),
            ("text~a", 0, "text~a", []),
            ("one\ntwo\n~a\nb\n~\nc\n", 2, "one\ntwo", ["a\nb", "c"]),
        ],
    )
    def test_descriptions(
        self, text: str, count: int, expected: str, descriptions: list[str]
    ) -> None:
        """Each `~` is followed by the description of a file."""
        [post] = composed(text, PICTURES[:count])
        assert post.text == expected
        assert [description for _, description in post.files] == descriptions

    @pytest.mark.parametrize(
        ("text", "postscript", "model", "expected"),
        [
            ("text~a", None, "NX300", "text\n\n📷 NX300"),
            ("text", None, "", "text"),
            ("text", "", "NX300", "text"),
            ("text", "#{camera}, {camera}", "NX300", "text\n\n#NX300, NX300"),
            ("text", "my {camera}", "", "text\n\nmy camera"),
            ("text", "{x} {0} {", "NX300", "text\n\n{x} {0} {"),
        ],
    )
    def test_postscript(self, text: str, postscript: str | None, model: str, expected: str) -> None:
        """The postscript follows the text; by default it names the camera."""
        [post] = composed(text, model=model, postscript=postscript)
        assert post.text == expected

    @pytest.mark.parametrize(
        ("files", "expected"),
        [
            ("pppp", ["pppp"]),
            ("ppppppppp", ["pppp", "pppp", "p"]),
            ("v", ["v"]),
            ("ppvvppp", ["pppp", "p", "v", "v"]),
        ],
    )
    def test_files(self, files: str, expected: list[str]) -> None:
        """Photos (p) are grouped; each video (v) has its own post after them."""
        pictures, videos = iter(PICTURES), iter(VIDEOS)
        sent = [next(pictures if kind == "p" else videos) for kind in files]
        found = composed("text", sent)
        assert [
            "".join("v" if one.content_type == "video/mp4" else "p" for one, _ in post.files)
            for post in found
        ] == expected
        assert [one for post in found for one, _ in post.files] == sorted(
            sent, key=lambda one: one.content_type
        )
        assert [post.text for post in found] == ["text"] + [""] * (len(found) - 1)

    @pytest.mark.parametrize(
        ("text", "limit", "expected"),
        [
            ("one two", 7, ["one two"]),
            ("one two three", 7, ["one two", "three"]),
            ("one two\nthree four", 13, ["one two\nthree", "four"]),
            ("one    two", 4, ["one", "two"]),
            ("a b-c  d", 20, ["a b-c  d"]),
            ("abcdefgh", 3, ["abc", "def", "gh"]),
            ("äöü 📷📷", 3, ["äöü", "📷📷"]),
        ],
    )
    def test_long_text(
        self, text: str, limit: int, expected: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Long texts continue in the next post, split between words if possible."""
        monkeypatch.setattr(mastodon, "MAX_TEXT", limit)
        found = composed(text)
        assert [post.text for post in found] == expected
        assert [len(post.files) for post in found] == [1] + [0] * (len(expected) - 1)


class TestSend:
    def test_one_photo(self) -> None:
        """A photo arrives with its description, and a post refers to it."""
        sent = file(photo(model="NX300"), "SAM_1.JPG")
        with MastodonServer() as server:
            outcome = send(
                server, [sent], "Am Meer\nbei Föhr~Ein Boot", query="?visibility=unlisted"
            )
        assert outcome == f"posted to {HOST}:{server.port}"
        [put], [status] = server.calls(Call.UPLOAD), server.statuses
        [got] = put.files
        assert (got.name, got.filename, got.content_type) == ("file", "SAM_1.JPG", "image/jpeg")
        assert contents_of(status) == [(sent.data, "Ein Boot")]
        assert (status.text, status.visibility) == ("Am Meer\nbei Föhr\n\n📷 NX300", "unlisted")
        assert status.in_reply_to is None
        assert [request.call for request in server.requests] == [Call.UPLOAD, Call.POST]
        assert {request.headers["User-Agent"] for request in server.requests} == {"nx_addon"}

    def test_defaults(self) -> None:
        """Without a visibility or description, none is sent."""
        with MastodonServer(visibility="private") as server:
            send(server, PICTURES[:1], "text")
        [put], [post] = server.calls(Call.UPLOAD), server.calls(Call.POST)
        assert put.field("description") is None
        assert post.field("visibility") is None
        assert (server.statuses[0].visibility, server.statuses[0].text) == ("private", "text")

    def test_thread(self) -> None:
        """More photos than a post can have become a thread."""
        files = PICTURES[:9]
        with MastodonServer() as server:
            outcome = send(server, files, "text~a~~c", query="?visibility=direct")
        assert outcome == f"posted to {HOST}:{server.port} in 3 posts"
        first, second, third = server.statuses
        assert [one.in_reply_to for one in server.statuses] == [None, first.id, second.id]
        assert [description for _, description in contents_of(first)] == ["a", None, "c", None]
        assert [contents_of(second), contents_of(third)] == [
            undescribed(files[4:8]),
            undescribed(files[8:]),
        ]
        assert len({one.idempotency_key for one in server.statuses}) == 3
        assert {one.visibility for one in server.statuses} == {"direct"}

    def test_limits(self) -> None:
        """No post exceeds the limits of an unmodified server."""
        with MastodonServer() as server:
            send(server, PICTURES[:5], "x" * 501 + "~" + "y" * 1501)
        assert [(len(one.text), len(one.media)) for one in server.statuses] == [(500, 4), (1, 1)]
        assert len(server.statuses[0].media[0].description or "") == 1500

    def test_processing(self) -> None:
        """A file that the server processes later is polled until it is ready."""
        with MastodonServer(script={Call.UPLOAD: [Processing(2)]}) as server:
            send(server, VIDEOS[:1])
        assert [request.status for request in server.calls(Call.POLL)] == [206, 206, 200]
        assert server.calls(Call.UPLOAD)[0].files[0].content_type == "video/mp4"
        assert contents_of(server.statuses[0]) == undescribed(VIDEOS[:1])

    def test_processing_fails(self) -> None:
        """A file that the server cannot process is refused."""
        with MastodonServer(script={Call.UPLOAD: [Processing(2, fails=True)]}) as server:
            found = failure(server)
        text = "SERVER replied 422: Error processing thumbnail for uploaded media (SAM_1.JPG)"
        assert found == Failure(PermanentError, text)
        assert server.statuses == []

    def test_processing_takes_too_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Endless processing is a temporary error."""
        monkeypatch.setattr(mastodon, "PROCESSING_LIMIT", 0.02)
        with MastodonServer(script={Call.UPLOAD: [Processing(10**9)]}) as server:
            found = failure(server)
        assert found == Failure(TemporaryError, "SERVER has not processed SAM_1.JPG yet")

    @pytest.mark.parametrize(
        "name", ['a"; name="b.jpg', "사진.jpg", "a\r\nX: y\r\n\r\nb\0.jpg", None]
    )
    def test_name(self, name: str | None) -> None:
        """Names and descriptions cannot break the body."""
        sent = replace(PICTURES[0], name=name)
        with MastodonServer() as server:
            send(server, [sent], '~Ein\r\n--Boot"; name="x\ud800"')
        [put] = server.calls(Call.UPLOAD)
        [got] = put.files
        assert (got.filename, got.data) == (filename.safe(name, "image/jpeg"), sent.data)
        assert put.fields == (("description", 'Ein\r\n--Boot"; name="x?"'),)


NOT_MASTODON = "SERVER does not reply like a Mastodon server"
CALLS = pytest.mark.parametrize("call", [Call.UPLOAD, Call.POLL, Call.POST])


def failing(call: Call, step: Step) -> dict[Call, list[Step]]:
    """A script with this step for the first call of a kind."""
    script: dict[Call, list[Step]] = {Call.UPLOAD: [Processing(1)]}
    return script | {call: [step]}


class TestStatus:
    @CALLS
    @pytest.mark.parametrize(
        ("status", "kind", "retry_after"),
        [
            (401, UnreachableError, HOUR),
            (403, UnreachableError, HOUR),
            (429, UnreachableError, 300.0),
            *((status, TemporaryError, 0.0) for status in (102, 408, 425, 500, 502, 503)),
        ],
    )
    def test_retried(
        self, call: Call, status: int, kind: type[DeliveryError], retry_after: float
    ) -> None:
        """A wrong token and the rate limit pause all posts, other errors only one."""
        with MastodonServer(script=failing(call, error(status, "No"))) as server:
            found = failure(server)
        assert (found.kind, found.retry_after) == (kind, retry_after)
        assert found.text == f"SERVER replied {status}: {'Processing' if status == 102 else 'No'}"

    @pytest.mark.parametrize("status", [400, 410, 413, 422])
    def test_permanent(self, status: int) -> None:
        """A refused post is abandoned. Files of which one is refused are sent one by one."""
        step = error(status, "No")
        with MastodonServer(script={Call.POST: [step]}) as server:
            found = failure(server, PICTURES[:2])
        assert found == Failure(PermanentError, f"SERVER replied {status}: No")
        for count, kind in ((1, PermanentError), (2, TooLargeError)):
            with MastodonServer(script={Call.UPLOAD: [step]}) as server:
                found = failure(server, PICTURES[:count])
            assert found == Failure(kind, f"SERVER replied {status}: No (SAM_1.JPG)")
            assert server.statuses == []

    @pytest.mark.parametrize("status", [301, 404, 405])
    def test_not_mastodon(self, status: int) -> None:
        """A server without the call is probably no Mastodon server; all posts wait for an hour."""
        with MastodonServer() as other:
            location = ("Location", f"http://{HOST}:{other.port}/")
            step = answer(status, {"error": "No"}, location)
            with MastodonServer(script={Call.UPLOAD: [step]}) as server:
                found = failure(server)
        text = f"SERVER replied {status}: No: is it a Mastodon server?"
        assert found == Failure(UnreachableError, text, HOUR)
        assert other.requests == []  # redirects are not followed

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ({"error": "a\r\n\x1b[31m\u202eb\u2028  c"}, "a [31m b c"),
            ({"error": f"who is {TOKEN}?"}, "who is ***?"),
            ("No", "Gone"),
        ],
        ids=["controls", "token", "text"],
    )
    def test_reason(self, content: object, expected: str) -> None:
        """The reason is printable and without the token."""
        with MastodonServer(script={Call.POST: [answer(410, content)]}) as server:
            found = failure(server)
        assert found == Failure(PermanentError, f"SERVER replied 410: {expected}")

    def test_deleted_thread(self) -> None:
        """A thread whose last post was deleted is abandoned."""
        with MastodonServer() as server:
            found = failure(server, PICTURES[:5], ["116000000000000001"])
        text = "The post you are trying to reply to does not appear to exist."
        assert found == Failure(PermanentError, f"SERVER replied 404: {text}")

    @CALLS
    @pytest.mark.parametrize("fault", [Fault.DROP, Fault.LOSE])
    def test_lost(self, call: Call, fault: Fault) -> None:
        """A lost reply is a temporary error, and the second attempt makes no second post."""
        with MastodonServer(script=failing(call, fault)) as server:
            found = failure(server)
            send(server, PICTURES[:1])
            [status] = server.statuses
        assert found.kind is TemporaryError
        assert contents_of(status) == undescribed(PICTURES[:1])

    @pytest.mark.parametrize(
        "body",
        [b"", b"<html>", b"[1]", b"{}", b'{"id": ""}', b"[" * 100_000],
        ids=lambda body: body[:20].decode("latin-1") or "empty",
    )
    @CALLS
    def test_malformed(self, call: Call, body: bytes) -> None:
        """Replies that Mastodon would not send are temporary errors."""
        with MastodonServer(script=failing(call, Answer(200, body))) as server:
            assert failure(server) == Failure(TemporaryError, NOT_MASTODON)


def test_disk_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a photo of a thread cannot be read, the posts before it are not repeated."""
    monkeypatch.setattr(http_client, "EARLY_TIMEOUT", 0.1)

    def fetch(start: int, end: int) -> bytes:
        if start:
            raise OSError(errno.EIO, "Input/output error")
        return PICTURES[0].data.ljust(end, b"\0")

    sent = [*PICTURES[:4], File("a.jpg", "image/jpeg", 1 << 20, 0, fetch)]
    with MastodonServer() as server, pytest.raises(TemporaryError, match="Input/output") as caught:
        send(server, sent)
    [status] = server.statuses
    assert caught.value.progress == (status.id,)


MESSAGE = "Am Meer~Ein Boot~Eine Möwe~~~~Der Strand"
PHOTOS = {f"SAM_{number}.JPG": one.data for number, one in enumerate(PICTURES[:6], 1)}
LATER = 1.5 * HOUR  # after which the server has forgotten the Idempotency-Key


@pytest.mark.parametrize(
    ("call", "steps"),
    [
        pytest.param(Call.UPLOAD, [None] * 4 + [error(503, "No"), Fault.DROP], id="photo"),
        pytest.param(Call.POST, [None, error(503, "No"), error(429, "No")], id="post"),
        pytest.param(Call.POST, [Fault.LOSE, None, error(401, "No")], id="lost-before"),
    ],
)
def test_interrupted_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call, steps: Sequence[Step]
) -> None:
    """An interrupted thread is continued, even much later, and no post is repeated."""
    make_lazy(monkeypatch)
    body = bodies.body(list(PHOTOS.items()), message=bodies.message_xml(text=MESSAGE))
    with MastodonServer(script={call: steps}) as server:
        target = f"mastodon:http://${{TOKEN}}@{HOST}:{server.port}/"
        box = Box(tmp_path, target, {"TOKEN": TOKEN}, body, retry_for=3 * DAY)
        server.clock = box.clock
        box.deliver()
        if steps[0] is Fault.LOSE:  # the server still knows the Idempotency-Key
            assert [one.progress for one in box.spool.waiting()] == [()]
            box.clock.now += 60
            box.deliver()
        while waiting := box.spool.waiting():
            assert len(server.statuses) == 1
            assert [one.progress for one in waiting] == [(server.statuses[0].id,)]
            box.clock.now += LATER
            box.deliver()
        box.spool.close()
    first, second = server.statuses
    assert second.in_reply_to == first.id
    sent = [data for data, _ in contents_of(first) + contents_of(second)]
    assert sent == list(PHOTOS.values())
    assert (contents_of(second)[1][1], second.text) == ("Der Strand", "")

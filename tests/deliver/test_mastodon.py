"""An upload as posts on a Mastodon server: what it gets, and what becomes of what it says."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import logging
import re
import socket
import subprocess
import sys
import time
import traceback
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nxparse import config, filename, upload
from nxparse.deliver import http_client, mastodon
from nxparse.deliver.errors import (
    DeliveryError,
    PermanentError,
    TemporaryError,
    TooLargeError,
    UnreachableError,
)
from nxparse.deliver.http_client import Origin
from nxparse.deliver.mastodon import Account, Limits, Post, account, compose
from nxparse.deliver.outbox import Outbox
from nxparse.deliver.save import folder_for
from nxparse.deliver.targets import deliver_to, keep
from nxparse.store.records import Delivery
from nxparse.store.records import Post as SitePost
from nxparse.store.spool import Spool
from nxparse.upload import File, Upload
from tests import arrivals, bodies
from tests.clock import Clock
from tests.faults import contents, make_lazy
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
    page,
    too_many,
)
from tests.mitmdump import ROOT
from tests.pictures import photo, picture
from tests.smtp_servers import Authority
from tests.web_servers import Act, Script, WebServer

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=150)

NOON = 1767268800.0  # 2026-01-01 12:00 UTC
HOUR = 3600.0
DAY = 86400.0
KEY = "0123456789abcdef"
VIDEO = b"\0\0\0\x18ftypmp42" + bytes(500)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here should take long, and what does should not take minutes."""
    for name in ("CONNECT", "ANSWER"):
        monkeypatch.setattr(http_client, name, 5.0)
    monkeypatch.setattr(mastodon, "LOOK", 0.0)


@pytest.fixture(autouse=True)
def _direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxy, password or authority this machine has, it is not meant for these tests."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


# What is sent


def piece(data: bytes, start: int, end: int) -> bytes:
    return data[start:end]


def file(data: bytes, name: str | None = "SAM_1.JPG") -> File:
    return upload.whole(name, "", len(data), partial(piece, data))


STILLS = [file(picture(16 * number, 16), f"SAM_{number}.JPG") for number in range(1, 21)]
FILMS = [file(VIDEO + bytes([number]), f"SAM_{number}.MP4") for number in range(1, 21)]


def pictures(count: int) -> list[File]:
    """So many photos, each another one, of a camera that nobody knows."""
    return STILLS[:count]


def posted(files: Sequence[File]) -> Upload:
    return upload.posted("anna", "facebook", "", "", files)


def target(server: MastodonServer | WebServer, query: str = "") -> str:
    return f"http://{TOKEN}@{HOST}:{server.port}/{query}"


def send(
    server: MastodonServer | WebServer,
    files: Sequence[File],
    text: str = "",
    *,
    query: str = "",
    published: Sequence[str] = (),
) -> str:
    return mastodon.send(posted(files), files, text, account(target(server, query)), KEY, published)


@dataclass(frozen=True)
class Failure:
    """What was raised: with SERVER for the server."""

    kind: type[DeliveryError]
    told: str
    retry_after: float | None = None
    progress: tuple[str, ...] = ()


def failure(
    server: MastodonServer | WebServer,
    files: Sequence[File] | None = None,
    text: str = "",
    published: Sequence[str] = (),
    **changes: str,
) -> Failure:
    """How an attempt fails, which it has to, with no word of the token."""
    url = target(server).replace(HOST, changes.get("host", HOST))
    url = url.replace("http:", changes.get("scheme", "http") + ":")
    files = pictures(1) if files is None else files
    to = account(url)
    with pytest.raises(DeliveryError) as caught:
        mastodon.send(posted(files), files, text, to, KEY, published)
    error = caught.value
    assert TOKEN not in "".join(traceback.format_exception(error)) + repr(error)
    return Failure(
        type(error),
        str(error).replace(str(to), "SERVER"),
        getattr(error, "retry_after", None),
        tuple(getattr(error, "progress", ())),
    )


def temporary(told: str, *progress: str) -> Failure:
    return Failure(TemporaryError, told, None, progress)


def unreachable(told: str, retry_after: float | None = None) -> Failure:
    return Failure(UnreachableError, told, retry_after)


def permanent(told: str) -> Failure:
    return Failure(PermanentError, told)


def too_large(told: str) -> Failure:
    return Failure(TooLargeError, told)


def photos(status: Status) -> list[tuple[bytes, str | None]]:
    """The files in a post, each with its description."""
    return [(media.file.data, media.description) for media in status.media]


def data(files: Sequence[File]) -> list[tuple[bytes, str | None]]:
    """Files as `photos` has them, without descriptions."""
    return [(one.data, None) for one in files]


H = Origin(True, "h", 443)
IN_CLEAR = "http:// would send the access token unencrypted: use https://"
NO_TOKEN = "there is no access token before the host, as in https://${TOKEN}@host/"
NO_URL = "not a URL like https://TOKEN@host/"
MORE = "there is more behind the host than /?visibility=...&postscript=..."
NONE_OF = "the visibility is none of public, unlisted, private, direct"


class TestAccount:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            pytest.param("https://geheim@h", Account(H, "geheim"), id="user"),
            pytest.param("https://geheim@h/", Account(H, "geheim"), id="slash"),
            pytest.param("https://me:geheim@h/", Account(H, "geheim"), id="password"),
            pytest.param("https://:geheim@h/", Account(H, "geheim"), id="no-user"),
            pytest.param("https://geheim:@h/", Account(H, "geheim"), id="no-password"),
            pytest.param("https://a%2Fb%3A%40%25@h/", Account(H, "a/b:@%"), id="quoted"),
            pytest.param("https://a@b@h/", Account(H, "a@b"), id="@-in-the-token"),
            pytest.param("https://geheim@h:8080", Account(Origin(True, "h", 8080), "geheim"),
                id="port"),
            pytest.param("http://geheim@[::1]:3000", Account(Origin(False, "::1", 3000), "geheim"),
                id="http-on-loopback"),
            pytest.param("HTTPS://geheim@h/", Account(H, "geheim"), id="case"),
            pytest.param("https://geheim@[::1]/", Account(Origin(True, "::1", 443), "geheim"),
                id="IPv6"),
            pytest.param("https://geheim@[::1]:3000/", Account(Origin(True, "::1", 3000), "geheim"),
                id="IPv6-and-port"),
            pytest.param("https://geheim@bücher.example/",
                Account(Origin(True, "xn--bcher-kva.example", 443), "geheim"), id="IDN"),
            pytest.param("https://geheim\n@h/", Account(H, "geheim"),
                id="newline-from-a-file"),
            *(
                pytest.param(f"https://geheim@h/?visibility={name}",
                    Account(H, "geheim", name), id=name)
                for name in ("public", "unlisted", "private", "direct")
            ),
            pytest.param("https://geheim@h?postscript=%23samsung%20{camera}",
                Account(H, "geheim", None, "#samsung {camera}"), id="postscript"),
            pytest.param("https://geheim@h/?postscript=a%0Ab+c%26d%3De",
                Account(H, "geheim", None, "a\nb c&d=e"), id="quoted-postscript"),
            pytest.param("https://geheim@h/?postscript=",
                Account(H, "geheim", None, ""), id="empty-postscript"),
            pytest.param("https://geheim@h/?postscript=x&visibility=direct",
                Account(H, "geheim", "direct", "x"), id="both"),
        ],
    )  # fmt: skip
    def test_url(self, url: str, expected: Account) -> None:
        """An account is a server, an access token, and how to post."""
        assert account(url) == expected

    @pytest.mark.parametrize(
        ("url", "told"),
        [
            pytest.param("", NO_URL, id="empty"),
            pytest.param("geheim@h", NO_URL, id="no-scheme"),
            pytest.param("//geheim@h/", NO_URL, id="relative"),
            pytest.param("ftp://geheim@h/", NO_URL, id="scheme"),
            pytest.param("https://geheim@/", NO_URL, id="no-host"),
            pytest.param("https://geheim@:443/", NO_URL, id="port-alone"),
            pytest.param("https://geheim@h:port/", NO_URL, id="port-of-letters"),
            pytest.param("https://geheim@h:65536/", NO_URL, id="port-too-large"),
            pytest.param("https://geheim@[::1/", NO_URL, id="bracket"),
            pytest.param("https://geheim@[geheim]/", NO_URL, id="brackets-for-a-name"),
            pytest.param("https://geheim@h\x01/", NO_URL, id="control-in-the-host"),
            pytest.param("https://geheim@h h/", NO_URL, id="blank-in-the-host"),
            pytest.param("https://geheim@h/?geheim", NO_URL, id="no-option"),
            pytest.param("http://geheim@h/", IN_CLEAR, id="http"),
            pytest.param("http://geheim@192.168.1.5:3000/", IN_CLEAR, id="http-in-the-house"),
            pytest.param("http://geheim@localhost.example/", IN_CLEAR, id="http-localhost-label"),
            pytest.param("https://geheim@h/web", MORE, id="path"),
            pytest.param("https://geheim@h/@me", MORE, id="profile"),
            pytest.param("https://geheim@h/#x", MORE, id="fragment"),
            pytest.param("https://geheim@h/?postscript=%20#nx", MORE, id="#-not-quoted"),
            pytest.param("https://ge/heim@h/", MORE, id="slash-in-the-token"),
            pytest.param("https://h/", NO_TOKEN, id="no-token"),
            pytest.param("https://@h/", NO_TOKEN, id="empty-token"),
            pytest.param("https://:@h/", NO_TOKEN, id="empty-password"),
            pytest.param("https://geheim\x01@h/", NO_TOKEN, id="control"),
            pytest.param("https://geheim%00@h/", NO_TOKEN, id="quoted-NUL"),
            pytest.param("https://geheim%0D%0AX@h/", NO_TOKEN, id="quoted-newline"),
            pytest.param("https://geheim x@h/", NO_TOKEN, id="blank"),
            pytest.param("https://geheimß@h/", NO_TOKEN, id="letters"),
            pytest.param("https://geheim@h/?visibility=", NONE_OF, id="empty-visibility"),
            pytest.param("https://geheim@h/?visibility=geheim", NONE_OF, id="visibility"),
            pytest.param("https://geheim@h/?visibility=Public", NONE_OF, id="capitals"),
            pytest.param("https://geheim@h/?visibility=public\x01", NONE_OF, id="control-behind"),
            pytest.param("https://geheim@h/?language=de&visibility=public",
                "there is no language: there are visibility and postscript", id="unknown"),
        ],
    )  # fmt: skip
    def test_wrong_url(self, url: str, told: str) -> None:
        """What is wrong is told, and nothing of the token."""
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            account(url)
        assert str(caught.value) == told
        assert "geheim" not in "".join(traceback.format_exception(caught.value)).replace(url, "")

    def test_text(self) -> None:
        """The token is in no text that an account gives of itself."""
        found = account("https://geheim@h.example:8080/?visibility=direct")
        assert str(found) == "h.example:8080"
        assert "geheim" not in repr(found)


def composed(
    text: str,
    files: Sequence[File] = (),
    *,
    model: str = "",
    postscript: str | None = None,
    characters: int = 500,
    attachments: int = 4,
    description: int = 1500,
) -> list[Post]:
    limits = Limits(characters, attachments, description)
    return compose(text, files, model, postscript, limits)


def shape(posts: Sequence[Post]) -> list[list[str]]:
    """The names of the files in each post."""
    return [[str(one.name) for one, _ in post.files] for post in posts]


class TestDescriptions:
    @pytest.mark.parametrize(
        ("text", "count", "expected", "descriptions"),
        [
            pytest.param("text", 2, "text", ["", ""], id="none"),
            pytest.param("text~a~b", 2, "text", ["a", "b"], id="each"),
            pytest.param("text ~ a ~ b ", 2, "text", ["a", "b"], id="blanks"),
            pytest.param("text~a", 2, "text", ["a", ""], id="fewer"),
            pytest.param("text~a~b~c", 2, "text", ["a", "b~c"], id="more"),
            pytest.param("text~~b", 2, "text", ["", "b"], id="none-for-the-first"),
            pytest.param("~a", 1, "", ["a"], id="no-text"),
            pytest.param("~", 1, "", [""], id="tilde-alone"),
            pytest.param("~~~~", 2, "", ["", "~~"], id="tildes-alone"),
            pytest.param("", 1, "", [""], id="nothing"),
            pytest.param("text~a", 0, "text~a", [], id="no-files"),
            pytest.param("one\ntwo\n~a\nb\n~\nc\n", 2, "one\ntwo", ["a\nb", "c"], id="lines"),
        ],
    )
    def test_text(self, text: str, count: int, expected: str, descriptions: list[str]) -> None:
        """Behind each `~` is what is to be seen on a photo."""
        [post] = composed(text, pictures(count))
        assert post.text == expected
        assert [description for _, description in post.files] == descriptions

    @pytest.mark.parametrize(
        ("length", "limit", "expected"),
        [(1500, 1500, "x" * 1500), (1501, 1500, "x" * 1499 + "…"), (5, 1, "…"), (1, 1, "x")],
    )
    def test_limit(self, length: int, limit: int, expected: str) -> None:
        """A description that is too long is cut, and shows it."""
        [post] = composed("text~" + "x" * length, pictures(1), description=limit)
        assert post.files[0][1] == expected


class TestPostscript:
    @pytest.mark.parametrize(
        ("postscript", "model", "expected"),
        [
            pytest.param(None, "NX300", "text\n\n📷 NX300", id="usual"),
            pytest.param(None, "", "text", id="usual-without-a-model"),
            pytest.param("", "NX300", "text", id="none"),
            pytest.param("#nx", "NX300", "text\n\n#nx", id="own"),
            pytest.param("#{camera}, {camera}", "NX300", "text\n\n#NX300, NX300", id="camera"),
            pytest.param("my {camera}", "", "text\n\nmy camera", id="camera-without-a-model"),
            pytest.param("{x} {0} {", "NX300", "text\n\n{x} {0} {", id="other-braces"),
            pytest.param(" \n", "NX300", "text", id="blanks"),
        ],
    )
    def test_behind_the_text(self, postscript: str | None, model: str, expected: str) -> None:
        """A postscript stands behind the text; without one of their own it is the camera."""
        [post] = composed("text~a", pictures(1), model=model, postscript=postscript)
        assert post.text == expected

    def test_alone(self) -> None:
        """Where there is no text the postscript is the text."""
        [post] = composed(" ~a", pictures(1), model="NX300")
        assert post.text == "📷 NX300"

    def test_of_a_stranger(self) -> None:
        """What a camera calls itself is put in as it is, and once."""
        [post] = composed("", pictures(1), model="{camera}")
        assert post.text == "📷 {camera}"


class TestThread:
    @pytest.mark.parametrize(
        ("files", "attachments", "expected"),
        [
            pytest.param("", 4, [""], id="none"),
            pytest.param("pppp", 4, ["pppp"], id="four"),
            pytest.param("ppppp", 4, ["pppp", "p"], id="five"),
            pytest.param("ppppppppp", 4, ["pppp", "pppp", "p"], id="nine"),
            pytest.param("ppp", 1, ["p", "p", "p"], id="a-server-with-1"),
            pytest.param("p" * 17, 16, ["p" * 16, "p"], id="a-server-with-16"),
            pytest.param("v", 4, ["v"], id="video"),
            pytest.param("vv", 4, ["v", "v"], id="videos"),
            pytest.param("pvp", 4, ["p", "v", "p"], id="between"),
            pytest.param("vpp", 4, ["v", "pp"], id="first"),
            pytest.param("ppvvppppp", 4, ["pp", "v", "v", "pppp", "p"], id="mixed"),
        ],
    )
    def test_files(self, files: str, attachments: int, expected: list[str]) -> None:
        """Pictures go together up to the limit, in their order; a video goes by itself."""
        stills, films = iter(STILLS), iter(FILMS)
        sent = [next(stills if kind == "p" else films) for kind in files]
        found = composed("text", sent, attachments=attachments)
        assert [
            "".join("v" if one.content_type == "video/mp4" else "p" for one, _ in post.files)
            for post in found
        ] == expected
        assert [one for post in found for one, _ in post.files] == sent
        assert [post.text for post in found] == ["text"] + [""] * (len(found) - 1)

    @pytest.mark.parametrize(
        ("text", "limit", "expected"),
        [
            pytest.param("one two", 7, ["one two"], id="fits"),
            pytest.param("one two", 6, ["one", "two"], id="words"),
            pytest.param("one two three", 7, ["one two", "three"], id="blank-at-the-limit"),
            pytest.param("one two\nthree four", 13, ["one two\nthree", "four"], id="last-blank"),
            pytest.param("one two\nthree", 8, ["one two", "three"], id="line"),
            pytest.param("one    two", 4, ["one", "two"], id="blanks"),
            pytest.param("abcdefgh", 3, ["abc", "def", "gh"], id="no-blank"),
            pytest.param("ab cdefgh i", 3, ["ab", "cde", "fgh", "i"], id="long-word"),
            pytest.param("a b", 1, ["a", "b"], id="limit-of-1"),
            pytest.param("äöü 📷📷", 3, ["äöü", "📷📷"], id="characters-not-bytes"),
        ],
    )
    def test_text(self, text: str, limit: int, expected: list[str]) -> None:
        """A text that is too long goes on in the next post, cut between words if it can be."""
        found = composed(text, pictures(1), characters=limit)
        assert [post.text for post in found] == expected
        assert shape(found) == [["SAM_1.JPG"]] + [[]] * (len(expected) - 1)

    def test_both(self) -> None:
        """Where both go on, they go on together."""
        found = composed("one two", pictures(5), characters=3, attachments=2)
        assert [post.text for post in found] == ["one", "two", ""]
        assert [len(post.files) for post in found] == [2, 2, 1]

    def test_postscript(self) -> None:
        """The postscript is behind the end of the text."""
        found = composed("one two", pictures(1), postscript="#nx", characters=7)
        assert [post.text for post in found] == ["one two", "#nx"]

    WORDS = st.text("ab ä📷\n~{", max_size=60)

    @PROPERTY
    @given(
        text=WORDS,
        kinds=st.text("pv", max_size=9),
        postscript=st.none() | WORDS,
        model=st.sampled_from(["", "NX300"]),
        limits=st.builds(Limits, *[st.integers(1, 20)] * 3),
    )
    @example(" ", "", " \n b", "", Limits(1, 1, 1))
    def test_any(
        self, text: str, kinds: str, postscript: str | None, model: str, limits: Limits
    ) -> None:
        """Whatever comes, it goes out once, in its order, in posts that the server takes."""
        stills, films = iter(STILLS), iter(FILMS)
        files = [next(stills if kind == "p" else films) for kind in kinds]
        found = compose(text, files, model, postscript, limits)

        text, *descriptions = text.split("~", len(files))
        added = ("📷 NX300" if model else "") if postscript is None else postscript
        words = f"{text} {added}".split()
        sent = [word for post in found for word in post.text.split()]
        assert "".join(sent) == "".join(words)
        assert sent == words or max(map(len, words)) > limits.characters

        assert [one for post in found for one, _ in post.files] == files
        told = [description for post in found for _, description in post.files]
        for wanted, said in itertools.zip_longest(map(str.strip, descriptions), told, fillvalue=""):
            assert said == wanted or (said[-1] == "…" and wanted.startswith(said[:-1]))

        for post in found:
            assert len(post.text) <= limits.characters
            assert len(post.files) <= limits.attachments
            assert all(len(description) <= limits.description for _, description in post.files)
            kinds = "".join(one.content_type[0] for one, _ in post.files)
            assert kinds in ("v", "i" * len(kinds))
            # A server refuses a post with nothing in it.
            assert post.text.strip() or post.files or len(found) == 1


class TestSend:
    """What a server that is well gets."""

    def test_one_photo(self) -> None:
        """A photo arrives byte for byte, with its description, and a post refers to it."""
        sent = file(photo(model="NX300"), "SAM_1.JPG")
        with MastodonServer() as server:
            said = send(server, [sent], "Am Meer\nbei Föhr~Ein Boot", query="?visibility=unlisted")
        assert said == f"posted to {HOST}:{server.port}"
        [put], [status] = server.calls(Call.UPLOAD), server.statuses
        [got] = put.files
        assert (got.name, got.filename, got.content_type) == ("file", "SAM_1.JPG", "image/jpeg")
        assert photos(status) == [(sent.data, "Ein Boot")]
        assert (status.text, status.visibility) == ("Am Meer\nbei Föhr\n\n📷 NX300", "unlisted")
        assert (status.in_reply_to, status.sensitive, status.language) == (None, False, None)
        assert status.idempotency_key == f"{KEY}.0"
        assert [heard.call for heard in server.heard] == [Call.INSTANCE, Call.UPLOAD, Call.POST]
        assert {heard.header("User-Agent") for heard in server.heard} == {"nx_addon"}

    def test_length(self) -> None:
        """A server hears how large a photo is before it comes: not all take chunks."""
        with MastodonServer() as server:
            send(server, pictures(1))
        [put] = server.calls(Call.UPLOAD)
        assert put.header("Transfer-Encoding") is None
        assert int(put.header("Content-Length") or "") > STILLS[0].size

    def test_defaults(self) -> None:
        """What nobody asks for is left to the account."""
        with MastodonServer(visibility="private") as server:
            send(server, pictures(1), "text")
        [put], [post] = server.calls(Call.UPLOAD), server.calls(Call.POST)
        assert put.all("description") == []
        assert post.field("visibility") is None
        assert (server.statuses[0].visibility, server.statuses[0].text) == ("private", "text")

    def test_camera(self) -> None:
        """The camera is the one of the upload, even where its photo is in another post."""
        files = [file(photo(model="NX300")), *pictures(1)]
        with MastodonServer() as server:
            url = account(target(server))
            mastodon.send(posted(files), files[1:], "text", url, KEY, ())
        assert server.statuses[0].text == "text\n\n📷 NX300"

    def test_several(self) -> None:
        """Several photos are one post, in their order, each with its description."""
        files = pictures(3)
        with MastodonServer() as server:
            send(server, files, "text~a~~c")
        [status] = server.statuses
        assert photos(status) == [
            (files[0].data, "a"),
            (files[1].data, None),
            (files[2].data, "c"),
        ]

    def test_thread(self) -> None:
        """More photos than a post takes are a thread: each replies to the one before."""
        files = pictures(9)
        with MastodonServer() as server:
            said = send(server, files, "text", query="?visibility=direct")
        assert said == f"posted to {HOST}:{server.port} in 3 posts"
        first, second, third = server.statuses
        assert [first.in_reply_to, second.in_reply_to, third.in_reply_to] == [
            None,
            first.id,
            second.id,
        ]
        assert [photos(one) for one in server.statuses] == [
            data(files[:4]),
            data(files[4:8]),
            data(files[8:]),
        ]
        assert [one.idempotency_key for one in server.statuses] == [
            f"{KEY}.{number}" for number in range(3)
        ]
        assert {one.visibility for one in server.statuses} == {"direct"}

    def test_long_text(self) -> None:
        """A text that is longer than a post goes on in posts without photos."""
        words = " ".join(str(number) for number in range(300))
        with MastodonServer() as server:
            send(server, pictures(1), words)
        assert " ".join(one.text for one in server.statuses) == words
        assert [len(one.media) for one in server.statuses] == [1, 0, 0]

    def test_no_files(self) -> None:
        """An upload without photos is its text."""
        with MastodonServer() as server:
            send(server, [], "text")
        assert [(one.text, one.media) for one in server.statuses] == [("text", ())]

    def test_own_limits(self) -> None:
        """A server that takes more, or less, than others gets posts that fit it."""
        files = pictures(6)
        with MastodonServer(characters=1000, attachments=16, description=5) as server:
            send(server, files, "x" * 1000 + "~abcdef")
            [status] = server.statuses
        assert (len(status.text), len(status.media)) == (1000, 6)
        assert status.media[0].description == "abcd…"
        with MastodonServer(characters=50, attachments=1) as server:
            send(server, files[:2], "x" * 60)
        assert [(len(one.text), len(one.media)) for one in server.statuses] == [(50, 1), (10, 1)]

    @pytest.mark.parametrize(
        "told",
        [
            pytest.param(error(404, "Not Found"), id="404"),
            pytest.param(page(404), id="404-page"),
            pytest.param(page(400), id="400"),
            pytest.param(answer(200, {}), id="nothing"),
            pytest.param(answer(200, {"configuration": None}), id="null"),
            pytest.param(answer(200, {"configuration": "x"}), id="text"),
            pytest.param(answer(200, {"configuration": {"statuses": ["x"]}}), id="list"),
            pytest.param(
                answer(200, {"configuration": {"statuses": {
                    "max_characters": 0, "max_media_attachments": "x"},
                    "media_attachments": {"description_limit": -1}}}),
                id="no-limits"),
            pytest.param(answer(200, []), id="no-object"),
        ],
    )  # fmt: skip
    def test_unknown_limits(self, told: Answer) -> None:
        """A server that does not tell its limits gets posts that fit all."""
        with MastodonServer(script={Call.INSTANCE: [told]}) as server:
            send(server, pictures(5), "x" * 501 + "~" + "y" * 1501)
        assert [(len(one.text), len(one.media)) for one in server.statuses] == [(500, 4), (1, 1)]
        assert len(server.statuses[0].media[0].description or "") == 1500

    def test_path(self) -> None:
        """The paths are those of the documentation: a strict server knows no others."""
        with MastodonServer(script={Call.UPLOAD: [Processing(1)]}) as server:
            send(server, pictures(1))
        assert [heard.path.replace(*[*server.media, "ID"]) for heard in server.heard] == [
            "/api/v2/instance",
            "/api/v2/media",
            "/api/v1/media/ID",
            "/api/v1/media/ID",
            "/api/v1/statuses",
        ]

    @pytest.mark.parametrize("looks", [1, 3])
    def test_processing(self, looks: int) -> None:
        """What a server processes later is waited for, and posted when it is done."""
        with MastodonServer(script={Call.UPLOAD: [Processing(looks)]}) as server:
            send(server, pictures(1))
        assert [heard.answered for heard in server.calls(Call.UPLOAD)] == [202]
        assert [heard.answered for heard in server.calls(Call.LOOK)] == [206] * looks + [200]
        assert photos(server.statuses[0]) == data(pictures(1))

    def test_video(self) -> None:
        """A video is uploaded as what it is."""
        with MastodonServer() as server:
            send(server, FILMS[:1])
        [put] = server.calls(Call.UPLOAD)
        assert (put.files[0].content_type, put.files[0].data) == ("video/mp4", FILMS[0].data)
        assert len(server.statuses[0].media) == 1

    def test_breaks_while_it_is_processed(self) -> None:
        """What a server cannot process it will never take."""
        with MastodonServer(script={Call.UPLOAD: [Processing(2, fails=True)]}) as server:
            assert failure(server) == permanent(
                "SERVER says 422: Error processing thumbnail for uploaded media (SAM_1.JPG)"
            )
        assert server.statuses == []

    def test_processed_without_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Processing without end is waited for until it takes too long."""
        monkeypatch.setattr(mastodon, "PROCESSING", 0.02)
        with MastodonServer(script={Call.UPLOAD: [Processing(10**9)]}) as server:
            assert failure(server) == temporary("SERVER has not processed SAM_1.JPG yet")
        assert server.statuses == []

    def test_processing_is_looked_at_now_and_then(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Between two looks there is a pause."""
        pauses: list[float] = []
        monkeypatch.setattr(time, "sleep", pauses.append)
        monkeypatch.setattr(mastodon, "LOOK", 2.0)
        with MastodonServer(script={Call.UPLOAD: [Processing(2)]}) as server:
            send(server, pictures(1))
        assert pauses == [2.0] * 3

    @pytest.mark.parametrize(
        "name",
        [
            'a"b.jpg',
            "Grüße vom Meer.JPG",
            "사진.jpg",
            "a\r\nContent-Type: text/html\r\n\r\nb.jpg",
            "../../etc/passwd",
            "a\0b.jpg",
            'x.jpg"; name="y',
            "",
            None,
        ],
    )
    def test_name(self, name: str | None) -> None:
        """However a photo is called, its name does no harm, and the photo arrives."""
        sent = replace(STILLS[0], name=name)
        with MastodonServer() as server:
            send(server, [sent], '~Ein\r\n--Boot"; name="x"')
        [put] = server.calls(Call.UPLOAD)
        [got] = put.files
        assert (got.filename, got.data) == (filename.safe(name, "image/jpeg"), sent.data)
        assert put.fields == (("description", 'Ein\r\n--Boot"; name="x"'),)

    def test_surrogate(self) -> None:
        """A description that no alphabet has does not stop a photo."""
        with MastodonServer() as server:
            send(server, pictures(1), "text~a\ud800b")
        assert photos(server.statuses[0]) == [(STILLS[0].data, "a?b")]

    def test_ipv6(self) -> None:
        """A literal address has its brackets."""
        try:
            running = WebServer(*SCRIPTS, host="::1")
        except OSError:
            pytest.skip("needs IPv6")
        with running:
            to = account(f"http://{TOKEN}@[::1]:{running.port}/")
            said = mastodon.send(posted(STILLS[:1]), STILLS[:1], "", to, KEY, ())
        assert said == f"posted to [::1]:{running.port}"

    def test_nothing_is_left_open(self) -> None:
        """However it ends, the connection is closed, and not only when somebody tidies up."""
        for script in ({}, {Call.UPLOAD: [page(503)]}, {Call.POST: [error(422, "no")]}):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with MastodonServer(script=script) as server:
                    with contextlib.suppress(DeliveryError):
                        send(server, pictures(1))
                    for thread, _ in server._connections:
                        thread.join(5)
                        assert not thread.is_alive()


def said(status: str, content: object, *headers: str) -> bytes:
    """An answer with this as JSON, and the last one on its connection."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    lines = (
        f"HTTP/1.1 {status}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
    )
    return "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n" + body


SCRIPTS: tuple[Script, ...] = (
    said("404 Not Found", {}),
    said("200 OK", {"id": "1", "url": "x"}),
    said("200 OK", {"id": "2"}),
)
"""What is said to an upload of one photo: of limits, of the photo, of the post."""

IS_IT = ": is that a Mastodon server?"
# They are not the same in all versions of Python.
UNPROCESSABLE, TOO_LARGE = HTTPStatus(422).phrase, HTTPStatus(413).phrase
INVALID = "422: Validation failed: File content type is invalid, File is invalid"


class TestStatus:
    """What an answer means, for each of the calls."""

    @pytest.mark.parametrize(
        ("call", "said", "expected"),
        [
            *(
                pytest.param(call, error(status, "No"), unreachable(f"SERVER says {status}: No",
                    HOUR), id=f"{call.name}-{status}")
                for call in (Call.INSTANCE, Call.UPLOAD, Call.POST)
                for status in (401, 403)
            ),
            *(
                pytest.param(call, page(status), Failure(kind, f"SERVER says {status}: {reason}"),
                    id=f"{call.name}-{status}")
                for call, kind in (
                    (Call.INSTANCE, UnreachableError),
                    (Call.UPLOAD, TemporaryError),
                    (Call.POST, TemporaryError),
                )
                for status, reason in (
                    (408, "Request Timeout"),
                    (425, "Too Early"),
                    (500, "Internal Server Error"),
                    (502, "Bad Gateway"),
                    (503, "Service Unavailable"),
                    (504, "Gateway Timeout"),
                    (511, "Network Authentication Required"),
                )
            ),
            *(
                pytest.param(Call.POST, error(status, "No"), permanent(f"SERVER says {status}: No"),
                    id=f"POST-{status}")
                for status in (400, 404, 410, 413, 422)
            ),
            *(
                pytest.param(Call.UPLOAD, error(status, "No"),
                    permanent(f"SERVER says {status}: No (SAM_1.JPG)"), id=f"UPLOAD-{status}")
                for status in (400, 410, 413, 415, 422)
            ),
            pytest.param(Call.UPLOAD, error(404, "Not Found"),
                unreachable(f"SERVER says 404: Not Found{IS_IT}", HOUR), id="UPLOAD-404"),
            pytest.param(Call.UPLOAD, page(404),
                unreachable(f"SERVER says 404: Not Found{IS_IT}", HOUR),
                id="UPLOAD-404-page"),
            pytest.param(Call.POST, answer(422, "No"), permanent("SERVER says 422: No"), id="text"),
            pytest.param(Call.POST, answer(422, ["No"]),
                permanent(f"SERVER says 422: {UNPROCESSABLE}"), id="list"),
            pytest.param(Call.POST, answer(422, {"error": ""}),
                permanent(f"SERVER says 422: {UNPROCESSABLE}"), id="empty"),
            pytest.param(Call.POST, error(422, "a\r\n\x1b[31m\u202eb\u2028  c"),
                permanent("SERVER says 422: a [31m b c"), id="controls"),
        ],
    )  # fmt: skip
    def test_answer(self, call: Call, said: Answer, expected: Failure) -> None:
        """An answer decides whether it is tried again, and what is told."""
        with MastodonServer(script={call: [said]}) as server:
            assert failure(server) == expected
        assert server.statuses == []

    def test_post_that_is_refused(self) -> None:
        """A post that is refused is given up whole: it is no matter of its files."""
        with MastodonServer(script={Call.POST: [error(422, "No")]}) as server:
            assert failure(server, pictures(2)) == permanent("SERVER says 422: No")

    def test_long(self) -> None:
        """A long story is cut."""
        with MastodonServer(script={Call.POST: [error(422, "x" * 5000)]}) as server:
            told = failure(server).told
        assert told.endswith("x" * 100)
        assert len(told) <= 200

    def test_wrong_token(self) -> None:
        """Who has a wrong token does not try it again and again."""
        with MastodonServer(token="another") as server:
            found = failure(server)
        assert found == unreachable("SERVER says 401: The access token is invalid", HOUR)

    @pytest.mark.parametrize("scopes", [("read",), ("write:media",), ("write:statuses",)])
    def test_wrong_scope(self, scopes: tuple[str, ...]) -> None:
        """So it is with a token that is for something else."""
        with MastodonServer(scopes=scopes) as server:
            found = failure(server)
        told = "SERVER says 403: This action is outside the authorized scopes"
        assert found == unreachable(told, HOUR)

    @pytest.mark.parametrize("scopes", [("write",), ("write:media", "write:statuses")])
    def test_scopes(self, scopes: tuple[str, ...]) -> None:
        """These scopes are enough."""
        with MastodonServer(scopes=scopes) as server:
            send(server, pictures(1))
        assert len(server.statuses) == 1

    @pytest.mark.parametrize(
        ("options", "sent", "told"),
        [
            pytest.param({"image_size": 100}, STILLS[:1],
                "422: Validation failed: File file size must be less than 0 MB, "
                "File must be less than 0 MB", id="size"),
            pytest.param({"matrix": 100}, STILLS[:1], "422: 16x16 images are not supported",
                id="pixels"),
            pytest.param({}, [file(b"no picture")], INVALID, id="type"),
            pytest.param({}, [file(b"")], INVALID, id="empty"),
            pytest.param({"body_size": 300}, STILLS[:1], f"413: {TOO_LARGE}", id="413"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("others", [0, 1], ids=["alone", "with-another"])
    def test_file_that_is_refused(
        self, options: dict[str, int], sent: Sequence[File], told: str, others: int
    ) -> None:
        """A file that a server does not take is given up alone: the others may still go."""
        told = f"SERVER says {told} ({sent[0].safe_name})"
        with MastodonServer(**options) as server:  # type: ignore[arg-type]
            found = failure(server, [*sent, *STILLS[1 : 1 + others]])
        assert found == (too_large(told) if others else permanent(told))
        assert server.statuses == []

    def test_refused_behind_a_post(self) -> None:
        """What is published already is not published again for a file that comes later."""
        steps: Sequence[Step] = [None, None, None, None, error(422, "No")]
        with MastodonServer(script={Call.UPLOAD: steps}) as server:
            assert failure(server, pictures(6)) == permanent("SERVER says 422: No (SAM_5.JPG)")
            assert len(server.statuses) == 1

    def test_reply_to_nothing(self) -> None:
        """A thread whose beginning somebody has deleted does not go on."""
        with MastodonServer() as server:
            found = failure(server, pictures(5), published=["500 4 1500", "116000000000000001"])
        assert found == permanent(
            "SERVER says 404: The post you are trying to reply to does not appear to exist."
        )


class TestPatience:
    """A server that wants to be left alone for a while."""

    @pytest.fixture(autouse=True)
    def _noon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(time, "time", lambda: NOON)

    @pytest.mark.parametrize("ahead", [0.0, 7 * HOUR, -DAY], ids=["exact", "hours", "a-day"])
    @pytest.mark.parametrize("call", [Call.INSTANCE, Call.UPLOAD, Call.LOOK, Call.POST])
    def test_until(self, call: Call, ahead: float) -> None:
        """It says until when, by its own clock, which need not be right."""
        script: dict[Call, Sequence[Step]] = {Call.UPLOAD: [Processing(1)]}
        script[call] = [too_many(NOON + ahead + 1234)]
        with MastodonServer(script=script, clock=lambda: NOON + ahead) as server:
            found = failure(server)
        assert found == unreachable("SERVER says 429: too many requests", 1234.0)

    @pytest.mark.parametrize(
        ("reset", "expected"),
        [
            pytest.param(None, 0.0, id="none"),
            pytest.param(NOON - 90, 0.0, id="past"),
            pytest.param(NOON, 0.0, id="now"),
            pytest.param(NOON + 90.5, 90.5, id="half-a-second"),
            pytest.param(f"{NOON + 90:.0f}", 90.0, id="seconds-since-1970"),
            pytest.param("2026-01-01T21:01:30+09:00", 90.0, id="elsewhere"),
            pytest.param("2026-01-01T12:01:30", 90.0, id="no-zone"),
            pytest.param("2036-01-01T12:00:00Z", 315532800.0, id="years"),
            pytest.param("soon", 0.0, id="no-time"),
            pytest.param("", 0.0, id="empty"),
        ],
    )
    def test_reset(self, reset: float | str | None, expected: float) -> None:
        """When that is may be told in several ways, or in none."""
        script = {Call.UPLOAD: [too_many(reset)]}
        script[Call.INSTANCE] = [error(404, "Not Found")]  # which says nothing of that
        with MastodonServer(script=script, clock=lambda: NOON) as server:
            found = failure(server)
        assert found == unreachable("SERVER says 429: too many requests", expected)

    def test_enough_for_now(self) -> None:
        """A server that has had enough for half an hour says so itself."""
        limits = {"api": (300, 300), "media": (2, 1800), "statuses": (300, 10800)}
        with MastodonServer(limits=limits, clock=lambda: NOON + 60) as server:
            found = failure(server, pictures(3))
        assert found == unreachable("SERVER says 429: too many requests", 1740.0)


LOST = (
    "SERVER:? (Connection reset by peer|Broken pipe|.*Remote end closed connection.*"
    "|does not answer like a Mastodon server)"
)
NO_SERVER = "SERVER does not answer like a Mastodon server"


class TestConnection:
    """A server that is not well."""

    @pytest.mark.parametrize(
        "fault", [Fault.DEAF, Fault.DROP, Fault.LOSE, Fault.HALF], ids=lambda fault: fault.name
    )
    @pytest.mark.parametrize("call", [Call.INSTANCE, Call.UPLOAD, Call.LOOK, Call.POST])
    def test_lost(self, call: Call, fault: Fault) -> None:
        """A connection that breaks may hold the next time, and then there is one post."""
        script: dict[Call, Sequence[Step]] = {Call.UPLOAD: [Processing(1)]}
        script[call] = [fault]
        with MastodonServer(script=script) as server:
            found = failure(server)
            send(server, pictures(1))
            [status] = server.statuses
        assert found.kind is (UnreachableError if call is Call.INSTANCE else TemporaryError)
        assert re.fullmatch(LOST, found.told)
        assert photos(status) == data(pictures(1))

    @pytest.mark.parametrize("fault", [Fault.IGNORE, Fault.HANG], ids=lambda fault: fault.name)
    @pytest.mark.parametrize("call", [Call.INSTANCE, Call.UPLOAD, Call.LOOK, Call.POST])
    def test_silence(self, call: Call, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who says nothing is not waited for without end."""
        script: dict[Call, Sequence[Step]] = {Call.UPLOAD: [Processing(1)]}
        script[call] = [fault]
        with MastodonServer(script=script) as server:
            with monkeypatch.context() as patch:
                patch.setattr(http_client, "ANSWER", 0.5)
                found = failure(server)
            send(server, pictures(1))
            assert len(server.statuses) == 1
        kind = UnreachableError if call is Call.INSTANCE else TemporaryError
        assert found == Failure(kind, "SERVER: timed out")

    def test_not_listening(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """So it is with a server that does not take what it is sent."""
        monkeypatch.setattr(http_client, "ANSWER", 0.3)
        large = replace(STILLS[0], size=64 << 20, _fetch=lambda start, end: bytes(end - start))
        scripts = (SCRIPTS[0], (Act.HEAD, Act.STALL))
        with WebServer(*scripts, keep=False) as server:
            found = failure(server, [large])
        assert found == temporary("SERVER: timed out")

    @pytest.mark.parametrize(
        ("script", "told"),
        [
            pytest.param((Act.POST,), "Remote end closed connection without response", id="close"),
            pytest.param((Act.POST, Act.RESET), "Connection reset by peer", id="reset"),
            pytest.param(b"garbage\r\n\r\n", r".*garbage.*", id="garbage"),
            pytest.param((Act.POST, b"HTTP/1.1 200 OK\r\nX: ", itertools.repeat(b"y" * 10_000)),
                ".*got more than 65536 bytes.*", id="endless-header"),
            pytest.param((Act.POST, b"HTTP/1.1 200 OK\r\n", itertools.repeat(b"X: y\r\n" * 1000)),
                ".*got more than 100 headers.*", id="endless-headers"),
        ],
    )  # fmt: skip
    def test_no_answer(self, script: Script, told: str) -> None:
        """What is no answer is told in as few words as there are."""
        with WebServer(*SCRIPTS[:2], script) as server:
            found = failure(server)
        assert found.kind is TemporaryError
        assert re.fullmatch(f"SERVER: {told}", found.told)

    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"<html>", b"\xff\xfe", b"[]", b"[1]", b'"x"', b"1", b"null", b"true", b"{}",
            b'{"id": null}', b'{"id": ""}', b'[{"id": "1"}]', b"[" * 100_000],
        ids=lambda body: body[:20].decode("latin-1") or "empty",
    )  # fmt: skip
    @pytest.mark.parametrize("call", [Call.UPLOAD, Call.LOOK, Call.POST])
    def test_other_answer(self, call: Call, body: bytes) -> None:
        """What is well, and not what a Mastodon server says, may be better the next time."""
        script: dict[Call, Sequence[Step]] = {Call.UPLOAD: [Processing(1)]}
        script[call] = [Answer(200, body)]
        with MastodonServer(script=script) as server:
            assert failure(server) == temporary(NO_SERVER)

    @pytest.mark.parametrize("body", [b"", b"{", b"<html>"], ids=["empty", "cut", "page"])
    def test_no_limits(self, body: bytes) -> None:
        """So it is with one who says nothing of itself that can be understood."""
        with MastodonServer(script={Call.INSTANCE: [Answer(200, body)]}) as server:
            assert failure(server) == unreachable(NO_SERVER)

    def test_number_for_an_id(self) -> None:
        """An id may be a number."""
        scripts = (SCRIPTS[0], said("200 OK", {"id": 7, "url": "x"}), said("200 OK", {"id": 8}))
        with WebServer(*scripts) as server:
            send(server, pictures(1))
        assert b"media_ids%5B%5D=7" in server.posts[-1].body

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            pytest.param(
                "200 OK",
                temporary(f"SERVER answers more than {mastodon.MAX_ANSWER} bytes"),
                id="200",
            ),
            pytest.param("422 No", permanent("SERVER says 422: No"), id="422"),
        ],
    )
    def test_huge_answer(self, status: str, expected: Failure) -> None:
        """An endless answer is read up to the limit."""
        head = f"HTTP/1.1 {status}\r\n\r\n"
        script = (Act.POST, head.encode(), itertools.repeat(b" " * (1 << 16)))
        with WebServer(*SCRIPTS[:2], script) as server:
            tracemalloc.start()
            try:
                found = failure(server)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert found == expected
        assert peak < 8 << 20

    @pytest.mark.parametrize("script", SCRIPTS, ids=["limits", "photo", "post"])
    def test_huge_redirect(self, script: Script) -> None:
        """Of a redirect nothing is read."""
        place = SCRIPTS.index(script)
        head = b"HTTP/1.1 307 There\r\nLocation: http://h.example/\r\n\r\n"
        huge = (Act.POST, head, itertools.repeat(b" " * (1 << 16), 256))
        with WebServer(*SCRIPTS[:place], huge) as server:
            tracemalloc.start()
            try:
                found = failure(server)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert found == unreachable("SERVER has moved to http://h.example/: change the rule", HOUR)
        assert peak < 4 << 20

    def test_long_answer(self) -> None:
        """An answer may be long."""
        long = json.dumps({"id": "2", "content": "x" * (mastodon.MAX_ANSWER - 1000)}).encode()
        with WebServer(
            *SCRIPTS[:2],
            said("200 OK", long),
        ) as server:
            send(server, pictures(1))

    def test_nobody_listens(self) -> None:
        """Where nobody listens nothing else can be posted either."""
        with WebServer() as server:
            pass
        assert failure(server) == unreachable("SERVER: Connection refused")

    def test_no_such_host(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """So it is with a host that is not found."""

        def resolve(*_: object, **__: object) -> object:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        with WebServer() as server:
            pass
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        found = failure(server, host="nobody.example", scheme="https")
        assert found == unreachable("SERVER: Name or service not known")

    @pytest.mark.parametrize("call", [Call.INSTANCE, Call.UPLOAD, Call.LOOK, Call.POST])
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_redirect(self, call: Call, status: int) -> None:
        """Nobody gets a photo because somebody else says so."""
        with MastodonServer() as other:
            location = ("Location", f"http://me:{TOKEN}@{HOST}:{other.port}/api/v2/media?x={TOKEN}")
            script: dict[Call, Sequence[Step]] = {Call.UPLOAD: [Processing(1)]}
            script[call] = [answer(status, {}, location)]
            with MastodonServer(script=script) as server:
                found = failure(server)
            there = f"http://me:***@{HOST}:{other.port}/api/v2/media?x=***"
            told = f"SERVER has moved to {there}: change the rule"
            assert found == unreachable(told, HOUR)
            assert (other.heard, server.statuses) == ([], [])

    @pytest.mark.parametrize(
        "location", ["/api/v3/media", "//h.example/", "https://h.example", "http://[x/", ""]
    )
    def test_where(self, location: str) -> None:
        """A redirect may say less than it should."""
        steps = {Call.UPLOAD: [answer(301, {}, ("Location", location))]}
        with MastodonServer(script=steps) as server:
            found = failure(server)
        assert found == unreachable(
            " ".join(f"SERVER has moved to {location}: change the rule".split()), HOUR
        )

    ECHO = f"who is {TOKEN}?"

    @pytest.mark.parametrize(
        ("script", "told"),
        [
            pytest.param(said("422 No", {"error": ECHO}), "422: who is ***?", id="error"),
            pytest.param(said(f"422 {ECHO}", b""), "422: who is ***?", id="reason"),
            pytest.param(said("200 OK", ECHO.encode()), NO_SERVER, id="no-json"),
            pytest.param(ECHO.encode(), "who is ***?", id="no-http"),
            pytest.param(f"{'x' * 105}{TOKEN}".encode(), "xxx***", id="no-http-and-cut"),
        ],
    )  # fmt: skip
    def test_echo(self, script: Script, told: str) -> None:
        """A server that repeats the token does not get it into the log."""
        with WebServer(*SCRIPTS[:2], script) as server:
            found = failure(server)
        assert told in found.told
        assert TOKEN[:8] not in found.told

    def test_malformed_reset(self) -> None:
        """A post is made whatever a server says of its limits."""
        good = said("200 OK", {"id": "2"}, "X-RateLimit-Reset: soon")
        with WebServer(*SCRIPTS[:2], good) as server:
            send(server, pictures(1))


class TestFile:
    """A photo that cannot be read."""

    @pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
    @pytest.mark.parametrize("first", [True, False], ids=["at-once", "later"])
    def test_error(self, number: int, first: bool) -> None:
        """It is the error of the disk that is told, and the server has no part of a photo."""
        broken = OSError(number, "the disk is tired")

        def fetch(start: int, end: int) -> bytes:
            if first or start:
                raise broken
            return STILLS[0].data.ljust(end - start, b"\0")

        with MastodonServer() as server:
            sent = File("a.jpg", "image/jpeg", 1 << 20, 0, fetch)
            with pytest.raises(OSError, match="the disk is tired") as caught:
                send(server, [sent])
        assert caught.value is broken
        assert (server.media, server.statuses) == ({}, [])

    def test_behind_a_post(self) -> None:
        """What is published before is not forgotten."""

        def fetch(start: int, end: int) -> bytes:
            if start:
                raise OSError(errno.EIO, "the disk is tired")
            return bytes(end)

        with MastodonServer() as server:
            sent = [*pictures(4), File("a.jpg", "image/jpeg", 1 << 20, 0, fetch)]
            with pytest.raises(OSError, match="the disk is tired") as caught:
                send(server, sent)
        [status] = server.statuses
        assert getattr(caught.value, "progress", ()) == ("500 4 1500", status.id)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


class TestCertificates:
    @staticmethod
    def send(server: MastodonServer) -> str:
        to = account(target(server).replace("http:", "https:"))
        return mastodon.send(posted(STILLS[:1]), STILLS[:1], "", to, KEY, ())

    def test_trusted(self, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server may prove who it is by an authority that this machine trusts."""
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        with MastodonServer(tls=authority.context()) as server:
            self.send(server)
        assert len(server.statuses) == 1

    @pytest.mark.parametrize(
        ("certificate", "reason"),
        [
            ("self-signed", "self-signed certificate"),
            ("unknown", "unable to get local issuer certificate"),
            ("expired", "certificate has expired"),
            ("another", "IP address mismatch, certificate is not valid for"),
        ],
        ids=["self-signed", "unknown", "expired", "another"],
    )
    def test_refused(
        self,
        certificate: str,
        reason: str,
        authority: Authority,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        """A server that cannot prove who it is gets neither photos nor token."""
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        context = {
            "self-signed": lambda: authority.self_signed(),
            "unknown": lambda: Authority(tmp_path).context(),
            "expired": lambda: authority.context(expired=True),
            "another": lambda: authority.context("mail.example"),
        }[certificate]()
        with MastodonServer(tls=context) as server:
            found = failure(server, scheme="https")
        assert found.kind is UnreachableError
        assert f"certificate verify failed: {reason}" in found.told
        assert server.heard == []

    def test_no_tls(self) -> None:
        """A server that does not know TLS gets nothing in clear."""
        with MastodonServer() as server:
            found = failure(server, scheme="https")
        assert found.kind is UnreachableError
        assert server.heard == []


MEMORY = """
import resource, sys
from nxparse import upload
from nxparse.deliver import http_client, mastodon

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

def send(size):
    file = upload.File("a.jpg", "image/jpeg", size, 0, lambda start, end: bytes(end - start))
    to = mastodon.account(sys.argv[1])
    mastodon.send(upload.posted("anna", "facebook", "", "", [file]), [file], "", to, "key", ())

send(1 << 20)
before = peak()
send(100 << 20)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs the peak in units of 1024 bytes")
def test_memory() -> None:
    """Memory does not grow with the photos."""
    with WebServer(*SCRIPTS, *SCRIPTS, keep=False) as server:
        command = [sys.executable, "-c", MEMORY, target(server)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert int(done.stdout) < 16 << 20
    assert max(post.size for post in server.posts) > 100 << 20


MESSAGE = "Am Meer~Ein Boot~Eine Möwe~~~~Der Strand"
NAMES = [f"SAM_{number}.JPG" for number in range(1, 7)]
PHOTOS = {name: one.data for name, one in zip(NAMES, STILLS, strict=False)}
LATER = 1.5 * HOUR  # long enough for a server to forget


class Box:
    """A spool for uploads of photos, and its outbox."""

    def __init__(self, directory: Path, clock: Clock, *targets: str) -> None:
        self.directory = directory
        self.clock = clock
        self.targets = targets
        self.open()

    def open(self) -> None:
        """Start, or start again."""
        values: dict[str, object] = {option.name: option.default for option in config.OPTIONS}
        rules = [f"*={target}" for target in self.targets]
        values |= {"nx_dir": str(self.directory), "nx_senders": ["*"], "nx_route": rules}
        environ = {"TOKEN": TOKEN}
        given = config.parse(values, environ)
        self.spool = Spool(self.directory / ".nx", self.clock)
        self.outbox = Outbox(
            self.spool,
            partial(deliver_to, given, environ),
            partial(keep, self.directory),
            retry_for=3 * DAY,
            clock=self.clock,
            jitter=lambda: 1.0,
        )

    def mail(self, count: int, text: str = MESSAGE, title: str = bodies.TITLE) -> None:
        """Accept an upload by e-mail."""
        message = bodies.message_xml(text=text, title=title)
        to = {target: [bodies.RECIPIENT] for target in self.targets}
        body = bodies.body(list(PHOTOS.items())[:count], message=message)
        arrivals.accept(self.spool, body, to)

    def post(self, count: int, text: str = MESSAGE) -> None:
        """Accept photos for a social site."""
        post = SitePost("192.0.2.7", "anna", "a session", "facebook", "NX300", text, count)
        for name, content in list(PHOTOS.items())[:count]:
            arrivals.append(self.spool, post, name, content, at_once=[], together=self.targets)

    def deliver(self) -> None:
        for target in self.targets:
            self.outbox.deliver_due(target)

    @property
    def waits(self) -> list[Delivery]:
        return self.spool.waiting()


@pytest.fixture
def clock() -> Clock:
    """The clock of the outbox, and of a server that is given it."""
    return Clock(NOON)


@pytest.fixture
def boxed(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Box]]:
    make_lazy(monkeypatch)
    made: list[Box] = []

    def make(*targets: str) -> Box:
        made.append(Box(tmp_path, clock, *targets))
        return made[-1]

    yield make
    for one in made:
        one.spool.close()


def way(server: MastodonServer, query: str = "") -> str:
    return f"mastodon:http://${{TOKEN}}@{HOST}:{server.port}/{query}"


def undelivered(directory: Path) -> dict[str, bytes]:
    return contents(folder_for(directory / "undelivered", NOON))


KINDS = pytest.mark.parametrize("kind", ["mail", "post"])


class TestOutbox:
    """From the spool to the server."""

    @KINDS
    def test_done(self, boxed: Callable[..., Box], clock: Clock, kind: str, tmp_path: Path) -> None:
        """An upload is posted once, with the text and the descriptions of its user."""
        with MastodonServer(clock=clock) as server:
            box = boxed(way(server))
            getattr(box, kind)(2)
            box.deliver()
            clock.now += LATER
            box.deliver()
        [status] = server.statuses
        assert status.text == ("Am Meer\n\n📷 NX300" if kind == "post" else "Am Meer")
        assert photos(status) == [
            (STILLS[0].data, "Ein Boot"),
            (STILLS[1].data, "Eine Möwe~~~~Der Strand"),
        ]
        assert (box.waits, undelivered(tmp_path)) == ([], {})

    @pytest.mark.parametrize("restarts", [False, True], ids=["runs-on", "restarts"])
    @KINDS
    @pytest.mark.parametrize(
        ("call", "steps"),
        [
            pytest.param(Call.UPLOAD, [None] * 4 + [page(503)], id="photo"),
            pytest.param(Call.UPLOAD, [None] * 4 + [page(503), Fault.DROP], id="photo-twice"),
            pytest.param(Call.POST, [None, page(503)], id="post"),
            pytest.param(Call.POST, [None, page(503), too_many()], id="post-twice"),
            pytest.param(Call.POST, [Fault.LOSE, None, error(401, "No")], id="lost-before"),
        ],
    )
    def test_thread_that_breaks_off(
        self,
        boxed: Callable[..., Box],
        clock: Clock,
        kind: str,
        call: Call,
        steps: Sequence[Step],
        restarts: bool,
    ) -> None:
        """A thread goes on where it broke off, however long that is ago: each post once."""
        with MastodonServer(script={call: steps}, clock=clock) as server:
            box = boxed(way(server))
            getattr(box, kind)(6)
            box.deliver()
            if steps[0] is Fault.LOSE:  # which is forgotten after an hour
                clock.now += 60
                box.deliver()
            while box.waits:
                assert len(server.statuses) == 1
                if restarts:
                    box.spool.close()
                    box.open()
                clock.now += LATER
                box.deliver()
        first, second = server.statuses
        assert second.in_reply_to == first.id
        assert [data for data, _ in photos(first) + photos(second)] == list(PHOTOS.values())
        assert (photos(second)[1][1], second.text) == ("Der Strand", "")

    def test_progress(self, boxed: Callable[..., Box]) -> None:
        """What is published is kept with what waits, and nothing if nothing is."""
        script = {Call.POST: [page(503), None, page(503)]}
        with MastodonServer(script=script) as server:
            box = boxed(way(server))
            box.mail(6)
            box.deliver()
            assert [one.progress for one in box.waits] == [()]
            box.clock.now += HOUR
            box.deliver()
            assert [one.progress[1:] for one in box.waits] == [(server.statuses[0].id,)]

    @pytest.mark.parametrize(
        ("before", "after", "expected"),
        [(4, 16, [4, 2]), (3, 1, [3, 3])],
        ids=["higher", "lower"],
    )
    def test_limits_that_change(
        self,
        boxed: Callable[..., Box],
        clock: Clock,
        tmp_path: Path,
        before: int,
        after: int,
        expected: list[int],
    ) -> None:
        """A thread is made of the same posts to its end, or kept: no photo is left out."""
        script = {Call.POST: [None, page(503)]}
        with MastodonServer(script=script, attachments=before, clock=clock) as server:
            box = boxed(way(server))
            box.mail(6)
            box.deliver()
            server.attachments = after
            clock.now += LATER
            box.deliver()
        sent = [data for status in server.statuses for data, _ in photos(status)]
        if after > before:
            assert [len(status.media) for status in server.statuses] == expected
            assert sent == list(PHOTOS.values())
        else:
            assert sent == list(PHOTOS.values())[: expected[0]]
            assert undelivered(tmp_path) == PHOTOS
        assert box.waits == []

    def test_disk_that_fails_behind_a_post(
        self, boxed: Callable[..., Box], clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is no other thing if what breaks it off is the disk."""
        chunks, failures = File.chunks, [OSError(errno.EIO, "the disk is tired")]

        def tired(one: File) -> Iterator[bytes]:
            if one.name == NAMES[4] and failures:
                raise failures.pop()
            return chunks(one)

        monkeypatch.setattr(File, "chunks", tired)
        with MastodonServer(clock=clock) as server:
            box = boxed(way(server))
            box.mail(6)
            box.deliver()
            [one] = box.waits
            assert (one.reason, len(one.progress)) == ("the disk is tired", 2)
            clock.now += LATER
            box.deliver()
        assert [len(status.media) for status in server.statuses] == [4, 2]

    @KINDS
    def test_split(self, boxed: Callable[..., Box], kind: str, tmp_path: Path) -> None:
        """A photo that a server does not take is kept; the others go alone, each as described."""
        refused = error(422, "Validation failed: File is invalid")
        steps: Sequence[Step] = [None, refused, None, refused, None]
        with MastodonServer(script={Call.UPLOAD: steps}) as server:
            box = boxed(way(server, "?postscript="))
            getattr(box, kind)(3)
            box.deliver()
        assert [photos(one) for one in server.statuses] == [
            [(PHOTOS[NAMES[0]], "Ein Boot")],
            [(PHOTOS[NAMES[2]], None)],
        ]
        assert [one.text for one in server.statuses] == ["Am Meer", "Am Meer"]
        assert [one.in_reply_to for one in server.statuses] == [None, None]
        assert (box.waits, undelivered(tmp_path)) == ([], {NAMES[1]: PHOTOS[NAMES[1]]})

    def test_refused_behind_a_post(self, boxed: Callable[..., Box], tmp_path: Path) -> None:
        """A thread that cannot go on is kept for a person, and not published anew."""
        steps: Sequence[Step] = [None] * 4 + [error(422, "No")]
        with MastodonServer(script={Call.UPLOAD: steps}) as server:
            box = boxed(way(server))
            box.mail(6)
            box.deliver()
        assert [len(one.media) for one in server.statuses] == [4]
        assert (box.waits, undelivered(tmp_path)) == ([], PHOTOS)

    def test_two_ways(self, boxed: Callable[..., Box]) -> None:
        """An upload may be posted in two ways, to the same account."""
        with MastodonServer() as server:
            ways = [way(server, f"?visibility={name}") for name in ("unlisted", "direct")]
            box = boxed(*ways)
            box.mail(1)
            box.deliver()
        assert [one.visibility for one in server.statuses] == ["unlisted", "direct"]

    @pytest.mark.parametrize(
        ("kind", "text", "expected"),
        [
            pytest.param("mail", "Am Meer", "Am Meer", id="mail"),
            pytest.param("mail", "", "Urlaub", id="mail-without-text"),
            pytest.param("mail", "~Ein Boot", "", id="mail-with-a-description-alone"),
            pytest.param("post", "Am Meer", "Am Meer", id="post"),
            pytest.param("post", "", "", id="post-without-text"),
        ],
    )
    def test_text(self, boxed: Callable[..., Box], kind: str, text: str, expected: str) -> None:
        """Where there is no text there may be a subject; that of a site nobody has typed."""
        with MastodonServer() as server:
            box = boxed(way(server, "?postscript="))
            options = {"title": "Urlaub"} if kind == "mail" else {}
            getattr(box, kind)(1, text, **options)
            box.deliver()
        assert [one.text for one in server.statuses] == [expected]

    def test_wait(
        self, boxed: Callable[..., Box], clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server that wants patience gets it, for all that waits, and is then asked again."""
        monkeypatch.setattr(time, "time", clock)
        script = {Call.UPLOAD: [too_many(NOON + 1234)]}
        with MastodonServer(script=script, clock=clock) as server:
            box = boxed(way(server))
            box.mail(1)
            box.deliver()
            assert [one.next_try - NOON for one in box.waits] == [1234.0]
            box.mail(2)
            box.deliver()
            assert len(server.heard) == 2
            clock.now += 1234
            box.deliver()
        assert (len(server.statuses), box.waits) == (2, [])

    @pytest.mark.parametrize(
        "step",
        [
            pytest.param(None, id="done"),
            pytest.param(error(401, f"who is {TOKEN}?"), id="401"),
            pytest.param(error(422, f"who is {TOKEN}?"), id="422"),
            pytest.param(page(503), id="503"),
            pytest.param(Answer(200, TOKEN.encode()), id="no-json"),
            pytest.param(Fault.DROP, id="lost"),
        ],
    )
    def test_secrets(
        self,
        boxed: Callable[..., Box],
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
        tmp_path: Path,
        step: Step,
    ) -> None:
        """The server hears the token; no log and no file does."""
        caplog.set_level(logging.DEBUG)
        with MastodonServer(script={Call.POST: [step]}) as server:
            box = boxed(way(server))
            box.mail(1)
            box.deliver()
        assert server.calls(Call.POST)[0].header("Authorization") == f"Bearer {TOKEN}"
        box.spool.close()
        kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        everything = b"".join([caplog.text.encode(), "".join(capfd.readouterr()).encode(), *kept])
        assert str(server.port).encode() in everything
        assert TOKEN.encode() not in everything

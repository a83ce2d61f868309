"""Replies to everything that is not an upload, on real files."""

from __future__ import annotations

import errno
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from nxparse import markup
from nxparse.server import social
from nxparse.server.endpoints import NOT_FOUND, Endpoint, Service, find, fixed
from nxparse.server.files import FileReply
from nxparse.server.hotspot import MSN
from nxparse.server.page import PER_PAGE, render, thumbnail
from nxparse.server.receive import Result
from nxparse.server.reply import ACCEPTED, Reply, refusal
from nxparse.server.services import (
    FAILURES_KEPT,
    MAX_FAILURES,
    Collector,
    Services,
    simulated,
    time_reply,
)
from nxparse.server.sessions import AnnouncedFile, Sessions
from nxparse.store.records import LocalCopy, Post, identity_of
from nxparse.store.spool import GAP, QUIET, Spool
from nxparse.upload import File, Upload
from tests import arrivals, pictures
from tests import social as camera
from tests.bodies import jpeg
from tests.box import configured
from tests.clock import NEW_YEAR, Clock
from tests.faults import Faults, make_lazy
from tests.social import login_qf30 as login

CLIENT = "192.0.2.7"
OTHER = "192.0.2.8"
USER = "camera@example.net"
PASSWORD = "correct horse"
STATEMENTS = ("BEGIN", "SELECT", "INSERT", "UPDATE", "DELETE", "COMMIT")


class Place:
    """Services on real files, and their log lines. `config` allows all senders."""

    def __init__(self, directory: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.directory = directory
        self.clock = Clock()
        self.spool = Spool(directory / ".nx", self.clock)
        self.sessions = Sessions(directory / ".nx" / "sessions.sqlite3", self.clock)
        self.services = Services(self.sessions, self.spool, self.clock)
        self.config = configured(directory)
        self._caplog = caplog

    def allow(self, *senders: str) -> None:
        self.config = configured(self.directory, nx_senders=senders)

    def logged(self) -> list[tuple[str, str]]:
        """The log lines since the last call."""
        lines = [(record.levelname, record.getMessage()) for record in self._caplog.records]
        self._caplog.clear()
        return lines

    def answer(
        self, service: Service, body: bytes = b"", argument: str = "facebook", client: str = CLIENT
    ) -> Reply:
        return self.services.answer(self.config, client, Endpoint(service, argument), body)

    def log_in(self, client: str = CLIENT) -> str:
        """Log in. Returns the key."""
        reply = self.answer(Service.LOGIN, login(USER, PASSWORD), client=client)
        found = re.search(rb'SessionKey="([0-9a-f]{32})"', reply.body)
        assert found
        self.logged()
        return found[1].decode()

    def announce(self, key: str, caption: str = "", site: str = "facebook") -> str:
        """Announce a photo, which is not logged. Returns the token."""
        reply = self.answer(Service.PHOTO, announcement(key, caption), site)
        token = reply.body.split(b"upload/")[1][:32].decode()
        assert reply == social.upload_to(token)
        assert self.logged() == []
        return token

    def announced(self, token: str, client: str = CLIENT) -> AnnouncedFile | Reply:
        return self.services.announced(self.config, client, token)


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Iterator[Place]:
    make_lazy(monkeypatch)
    caplog.set_level(logging.DEBUG)
    found = Place(tmp_path / "uploads", caplog)
    yield found
    found.sessions.close()
    found.spool.close()


def announcement(key: str, caption: str = "") -> bytes:
    return camera.photo(key, "SAM_4371.JPG", caption)


@pytest.mark.parametrize("body", [login(USER, PASSWORD), camera.login(USER, PASSWORD)])
def test_login(place: Place, body: bytes) -> None:
    """A login gets a new key, and one log line."""
    reply = place.answer(Service.LOGIN, body, "picasa")
    key = reply.body.split(b'"')[1].decode()
    assert reply == social.logged_in(key, USER)
    assert place.logged() == [("INFO", f"{CLIENT}: {USER} has logged in to picasa")]


def test_not_allowed(place: Place) -> None:
    """A sender who is not allowed cannot log in; the log line names the option."""
    place.allow("me@example.org")
    assert place.answer(Service.LOGIN, login("a b", "")) == social.LOGIN_FAILED
    sentence = (
        f"{CLIENT}: a login to facebook is refused: a b may not send; "
        f"to allow it, use --set 'nx_senders=a b'"
    )
    assert place.logged() == [("WARNING", sentence)]


def test_logout(place: Place) -> None:
    """A logout always succeeds and is not logged."""
    place.allow("me@example.org")
    body = b'<Request Method="logout"><SessionKey Value="x"/></Request>'
    assert place.answer(Service.LOGIN, body) == social.LOGGED_OUT
    assert place.logged() == []


@pytest.mark.parametrize(
    ("service", "body", "status", "reason"),
    [
        (Service.LOGIN, b"", 400, "login to facebook is refused: it has no XML"),
        (Service.LOGIN, b"<Request/>", 401, "login to facebook is refused: it names no user"),
        (Service.PHOTO, b"garbage", 400, "photo announced to facebook is refused: it has no XML"),
        (Service.VIDEO, b"garbage", 400, "video announced to facebook is refused: it has no XML"),
    ],
)
def test_no_message(place: Place, service: Service, body: bytes, status: int, reason: str) -> None:
    """A malformed message is refused with a reason, and saved unless it is empty."""
    comment = reason.rpartition(": ")[2]
    assert place.answer(service, body) == refusal(status, comment, unknown=bool(body))
    assert place.logged() == [("WARNING", f"{CLIENT}: a {reason}")]


def test_video(place: Place) -> None:
    """A video is announced like a photo; its category is not used as the camera's model."""
    body = camera.video(place.log_in(), "SAM_1.MP4", "a~b")
    reply = place.answer(Service.VIDEO, body, "youtube")
    found = place.announced(reply.body.split(b"upload/")[1][:32].decode())
    assert isinstance(found, AnnouncedFile)
    post = Post(CLIENT, USER, found.post.session, "youtube", "", "a~b")
    assert found == AnnouncedFile(found.id, post, "SAM_1.MP4")


@pytest.mark.parametrize("key", ["", "0" * 32, "x" * 10_000, "%00", "&#0;", "of another"])
def test_unknown_key(place: Place, key: str) -> None:
    """A camera with an unknown key, or that of another address, has to log in again."""
    of_another = place.log_in(OTHER)
    body = announcement(of_another if key == "of another" else key)
    assert place.answer(Service.PHOTO, body) == social.SESSION_EXPIRED
    line = f"{CLIENT}: has to log in to facebook again: its session has expired"
    assert place.logged() == [("WARNING", line)]


@pytest.mark.parametrize(
    "token", ["", "0" * 32, "..%2f..%2fx", "\ud800", "x" * 10_000, "of another"], ids=ascii
)
def test_unknown_token(place: Place, token: str) -> None:
    """A file is refused if it was not announced, or only by another address."""
    announced = place.announce(place.log_in())
    client, token = (OTHER, announced) if token == "of another" else (CLIENT, token)
    assert place.announced(token, client) == social.SESSION_EXPIRED
    line = f"{client}: a file is refused: it was not announced"
    assert place.logged() == [("WARNING", line)]


def test_not_allowed_any_more(place: Place) -> None:
    """A sender removed from nx_senders may neither announce nor send; nothing is stored."""
    place.allow("CAMERA@*")
    key = place.log_in()
    token = place.announce(key)
    place.allow("me@example.org")
    assert place.answer(Service.PHOTO, announcement(key)) == social.SESSION_EXPIRED
    assert place.announced(token) == social.SESSION_EXPIRED
    allowed = f"{USER} may not send; to allow it, use --set nx_senders={USER}"
    assert place.logged() == [
        ("WARNING", f"{CLIENT}: a file for facebook is refused: {allowed}"),
        ("WARNING", f"{CLIENT}: a file is refused: {allowed}"),
    ]
    with closing(sqlite3.connect(place.directory / ".nx" / "sessions.sqlite3")) as database:
        assert database.execute("SELECT count(*) FROM announcement").fetchall() == [(1,)]
    place.allow("CAMERA@*")
    assert isinstance(place.announced(token), AnnouncedFile)


def test_announced_photo_delays_its_post(place: Place) -> None:
    """A post is not delivered while another photo of it is announced."""
    spool, clock, key = place.spool, place.clock, place.log_in()

    def wait() -> float:
        [one] = spool.waiting()
        return one.next_try - clock.now

    found = place.announced(place.announce(key, "a caption"))
    assert isinstance(found, AnnouncedFile)
    arrivals.append(
        spool,
        found.post,
        found.name,
        jpeg(500),
        at_once=[],
        together=["mail"],
        announcement=found.id,
    )
    assert wait() == QUIET
    clock.now += QUIET - 1
    place.announce(key, "another caption")
    place.announce(key, "a caption", site="picasa")
    assert wait() == 1
    place.announce(key, "a caption")
    assert wait() == GAP


def test_time(place: Place) -> None:
    """The time is one line of XML, in milliseconds."""
    place.clock.now = NEW_YEAR + 0.0625
    assert place.answer(Service.TIME) == Reply(
        200,
        b'<?xml version="1.0" encoding="UTF-8" standalone="yes"?><initializeResult>'
        b"<currentServerTime>1767225600062</currentServerTime></initializeResult>",
    )


@pytest.mark.parametrize("service", [Service.LOGIN, Service.PHOTO, Service.VIDEO])
def test_any_failure_of_the_disk(place: Place, service: Service) -> None:
    """Any disk error causes status 507, and is logged once."""
    key = place.log_in()
    body = login(USER, PASSWORD) if service is Service.LOGIN else announcement(key)
    for number in range(1, 20):
        place.logged()
        with Faults(STATEMENTS, errno.EIO, number) as faults:
            reply = place.answer(service, body)
        if not faults.failed:
            break
        assert reply == refusal(507, "The state cannot be read or stored")
        line = f"{CLIENT}: a request is refused: disk I/O error ({place.directory})"
        assert place.logged() == [("ERROR", line)]
    assert number > 4
    assert reply.status == 200


PHOTO = pictures.photo(pictures.picture())


def arrive(place: Place, client: str) -> str:
    """Store an upload of a client with a saved photo. Returns the address of the file."""
    incoming = place.spool.begin()
    incoming.write(b"x")
    file = File(f"{client}.JPG", "image/jpeg", 1, 0, incoming.fetch)
    upload = Upload("me", ("a",), "", "", (file,))
    id = place.spool.accept(incoming, client, upload, {"save": ["a"]}).id
    place.spool.reply_confirmed(id)
    path = place.directory / f"{client}.JPG"
    path.write_bytes(PHOTO)
    [delivery] = [one for one in place.spool.waiting() if one.arrival.id == id]
    place.spool.done(delivery, saved=[LocalCopy(path, identity_of(path.stat()))])
    return f"{id}.1"


def test_own_uploads(place: Place) -> None:
    """Visitors see the uploads and failures of their own address; in a gallery, all."""
    addresses = {client: arrive(place, client) for client in (CLIENT, OTHER)}
    for client in (CLIENT, OTHER):
        place.services.note_failure(client, f"Refused: {client}")
    visitors = {CLIENT: [CLIENT], OTHER: [OTHER], "192.0.2.99": []}
    for is_gallery, visits in ((False, visitors), (True, {"192.0.2.99": [OTHER, CLIENT]})):
        place.config = replace(place.config, gallery=is_gallery)
        for client, seen in visits.items():
            html = place.answer(Service.PAGE, argument="", client=client).body.decode()
            links = re.findall(r'href="/file/([^"]+)"', html)
            assert sorted(links) == sorted(addresses[one] for one in seen)
            assert sorted(re.findall("Refused: ([0-9.]+)", html)) == sorted(seen)


def test_older(place: Place) -> None:
    """All uploads of a client are on its pages, even if others were received in between."""
    ids = []
    for _ in range(PER_PAGE + 5):
        arrive(place, OTHER)
        place.clock.now += 1
        ids.append(arrive(place, CLIENT).rpartition(".")[0])
    first = place.answer(Service.PAGE, argument="").body.decode()
    assert (first.count("<h3>"), re.findall('href="/older/(.+)"', first)) == (PER_PAGE, [ids[5]])
    second = place.answer(Service.PAGE, argument=ids[5]).body.decode()
    assert (second.count("<h3>"), "/older/" in second) == (5, False)
    assert b"<h3>" not in place.answer(Service.PAGE, argument="0' OR 1").body


@pytest.mark.parametrize("suffix", [".1", ".2", ".01", "", ".1/"])
@pytest.mark.parametrize("client", [CLIENT, OTHER])
@pytest.mark.parametrize("gallery", [False, True])
def test_visibility(place: Place, suffix: str, client: str, gallery: bool) -> None:
    """Files and thumbnails are visible to their own client, or to all in a gallery."""
    argument = arrive(place, CLIENT).removesuffix(".1") + suffix
    config = place.config = replace(place.config, gallery=gallery)
    found = suffix == ".1" and (gallery or client == CLIENT)
    reply = place.answer(Service.THUMBNAIL, argument=argument, client=client)
    assert reply == (thumbnail(pictures.picture()) if found else NOT_FOUND)
    for service in (Service.OPEN, Service.DOWNLOAD):
        file = place.services.file(config, client, Endpoint(service, argument), "GET", ())
        if isinstance(file, FileReply):
            assert file.file.read(0, 10**6) == PHOTO
            file.file.close()
        assert isinstance(file, FileReply) is found
        assert found or file == NOT_FOUND


def test_thumbnail_on_request(place: Place) -> None:
    """A thumbnail is read from the saved file; a photo without one gets a placeholder."""
    address = arrive(place, CLIENT)
    (place.directory / f"{CLIENT}.JPG").unlink()
    assert place.answer(Service.THUMBNAIL, argument=address) == NOT_FOUND
    address = arrive(place, CLIENT)
    path = place.directory / f"{CLIENT}.JPG"
    state = path.stat()
    path.write_bytes(bytes(len(PHOTO)))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert place.answer(Service.THUMBNAIL, argument=address) == thumbnail(b"")


def test_disk_error_with_a_file(place: Place) -> None:
    """A disk error during a request for a file causes status 507."""
    endpoint = Endpoint(Service.OPEN, arrive(place, CLIENT))
    with Faults(STATEMENTS, errno.EIO):
        reply = place.services.file(place.config, CLIENT, endpoint, "GET", ())
    assert isinstance(reply, Reply)
    assert reply.status == 507


def test_failures(place: Place) -> None:
    """Failures are listed for an hour, up to a limit, with short printable reasons."""

    def listed() -> list[str]:
        html = place.answer(Service.PAGE, argument="").body.decode()
        return re.findall(r">(reason [^<]*)</p>", html)

    for number in range(MAX_FAILURES + 1):
        place.services.note_failure(CLIENT, f"reason {number}\n{'x' * 300}")
    assert len(listed()) == MAX_FAILURES
    assert not [one for one in listed() if not re.fullmatch(r"reason [1-9][0-9]*\?x+…", one)]
    assert {len(one) for one in listed()} == {200}
    place.clock.now += FAILURES_KEPT + 1
    assert listed() == []


@pytest.mark.parametrize(
    ("call", "reply"),
    [
        (Endpoint(Service.LOGIN, "facebook"), social.logged_in("0" * 32, "replay")),
        (Endpoint(Service.PHOTO, "facebook"), social.upload_to("0" * 32)),
        (Endpoint(Service.VIDEO, "youtube"), social.upload_to("0" * 32)),
        (Endpoint(Service.EMAIL), ACCEPTED),
        (Endpoint(Service.FILE, "0" * 32), ACCEPTED),
        (Endpoint(Service.ACCOUNT), social.LOGIN_FAILED),
        (Endpoint(Service.LIST), NOT_FOUND),
        (Endpoint(Service.TIME), time_reply(NEW_YEAR)),
        (Endpoint(Service.PAGE), render([], NEW_YEAR, gallery=False)),
        (Endpoint(Service.THUMBNAIL, "x.1"), NOT_FOUND),
        (fixed(NOT_FOUND), NOT_FOUND),
        (find("GET", "www.msn.com", "/"), MSN.redirect),
    ],
    ids=lambda value: value.service.name.lower() if isinstance(value, Endpoint) else "",
)
def test_simulated(call: Endpoint, reply: Reply) -> None:
    """A replayed request gets the reply that a camera would get."""
    assert simulated(call, NEW_YEAR) == reply


class TestCollector:
    """A small request, which is only collected."""

    @pytest.mark.parametrize(
        ("given", "limit"), [({}, markup.MAX_BYTES), ({"limit": 10}, 10)], ids=["default", "given"]
    )
    @pytest.mark.parametrize("surplus", [-1, 0, 1, 2, 10**6])
    def test_collected(self, given: dict[str, int], limit: int, surplus: int) -> None:
        """A body is answered as a whole, and cut one byte after the limit."""
        answered: list[bytes] = []
        data = bytes(limit + surplus)
        collector = Collector(CLIENT, lambda body: answered.append(body) or ACCEPTED, **given)
        for start in range(0, len(data), 3000):
            collector.feed(data[start : start + 3000])
        assert collector.finish() == Result(ACCEPTED, body=data[: limit + 1])
        assert answered == [data[: limit + 1]]

    def test_cut(self, caplog: pytest.LogCaptureFixture) -> None:
        """A cut request is not answered; the part that arrived is returned for inspection."""
        collector = Collector(CLIENT, pytest.fail)
        collector.feed(b"<Request")
        assert collector.abort("gone\r\nx") == b"<Request"
        assert caplog.messages == ["192.0.2.7: a request was cut, gone??x"]

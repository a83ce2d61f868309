"""Replies to everything that is not an upload, on real files."""

from __future__ import annotations

import errno
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from nxparse.config import OPTIONS, Config, parse
from nxparse.server import social
from nxparse.server.endpoints import NOT_FOUND, Endpoint, Service, find, fixed
from nxparse.server.files import FileReply
from nxparse.server.hotspot import MSN
from nxparse.server.page import PAGE, render, thumbnail
from nxparse.server.reply import ACCEPTED, Reply, refusal
from nxparse.server.services import FAILURES_KEPT, MAX_FAILURES, Services, simulated, time_reply
from nxparse.server.sessions import AnnouncedFile, Sessions
from nxparse.store.saved import LocalCopy, identity_of
from nxparse.store.spool import GAP, QUIET, Spool
from nxparse.upload import File, Upload
from tests import arrivals, pictures
from tests import social as camera
from tests.bodies import jpeg
from tests.clock import NEW_YEAR, Clock
from tests.faults import Faults, make_lazy
from tests.social import login_qf30 as login

CLIENT = "192.0.2.7"
OTHER = "192.0.2.8"
USER = "camera@example.net"
PASSWORD = "correct horse"
STATEMENTS = ("BEGIN", "SELECT", "INSERT", "UPDATE", "DELETE", "COMMIT")


@pytest.fixture(autouse=True)
def _prepared(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    make_lazy(monkeypatch)
    caplog.set_level(logging.DEBUG)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where photos go."""
    return tmp_path / "uploads"


@pytest.fixture
def spool(directory: Path, clock: Clock) -> Iterator[Spool]:
    found = Spool(directory / ".nx", clock)
    yield found
    found.close()


@pytest.fixture
def sessions(directory: Path, spool: Spool, clock: Clock) -> Iterator[Sessions]:
    found = Sessions(directory / ".nx" / "sessions.sqlite3", clock)
    yield found
    found.close()


@pytest.fixture
def services(sessions: Sessions, spool: Spool, clock: Clock) -> Services:
    return Services(sessions, spool, clock)


def configured(directory: Path, *senders: str) -> Config:
    """These may send (everybody, if there are none); the defaults of the other options."""
    defaults = {option.name: option.default for option in OPTIONS}
    return parse({**defaults, "nx_dir": str(directory), "nx_senders": senders}, {})


@pytest.fixture
def config(directory: Path) -> Config:
    """All senders are allowed."""
    return configured(directory)


def logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """The log lines since the last call."""
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    caplog.clear()
    return lines


def announcement(key: str, caption: str = "") -> bytes:
    return camera.photo(key, "SAM_4371.JPG", caption)


def log_in(services: Services, config: Config, user: str = USER, client: str = CLIENT) -> str:
    """Log in; the key."""
    reply = services.answer(
        config, client, Endpoint(Service.LOGIN, "facebook"), login(user, PASSWORD)
    )
    found = re.search(rb'SessionKey="([0-9a-f]{32})"', reply.body)
    assert reply.status == 200
    assert found
    return found[1].decode()


def announce(
    services: Services, config: Config, key: str, caption: str = "", site: str = "facebook"
) -> str:
    """Announce a photo; the token."""
    call = Endpoint(Service.PHOTO, site)
    reply = services.answer(config, CLIENT, call, announcement(key, caption))
    found = re.search(rb'ResourceID="upload/([0-9a-f]{32})"', reply.body)
    assert found, reply
    assert reply == social.upload_to(found[1].decode())
    return found[1].decode()


class TestLogin:
    @pytest.mark.parametrize(
        "body", [login(USER, PASSWORD), camera.login(USER, PASSWORD)], ids=["clear", "aes"]
    )
    def test_let_in(
        self, services: Services, config: Config, body: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A login gets a new key, and one log line."""
        reply = services.answer(config, CLIENT, Endpoint(Service.LOGIN, "picasa"), body)
        key = reply.body.split(b'"')[1].decode()
        assert reply == social.logged_in(key, USER)
        assert logged(caplog) == [("INFO", f"{CLIENT}: {USER} has logged in to picasa")]

    def test_not_allowed(
        self,
        services: Services,
        directory: Path,
        sessions: Sessions,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A sender who is not allowed cannot log in; the log line names the option."""
        given = configured(directory, "me@example.org")
        reply = services.answer(
            given, CLIENT, Endpoint(Service.LOGIN, "facebook"), login("a b", "")
        )
        assert reply == social.LOGIN_FAILED
        assert logged(caplog) == [
            (
                "WARNING",
                f"{CLIENT}: a login to facebook is refused: a b may not send; "
                f"to allow it, use --set 'nx_senders=a b'",
            )
        ]

    @pytest.mark.parametrize("site", ["facebook", "flickr"])
    def test_logout(
        self,
        services: Services,
        directory: Path,
        sessions: Sessions,
        site: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A logout always succeeds and is not logged."""
        given = configured(directory, "me@example.org")
        body = b'<Request Method="logout"><SessionKey Value="x"/></Request>'
        reply = services.answer(given, CLIENT, Endpoint(Service.LOGIN, site), body)
        assert reply == social.LOGGED_OUT
        assert logged(caplog) == []


@pytest.mark.parametrize("service", [Service.LOGIN, Service.PHOTO, Service.VIDEO])
def test_no_message(
    services: Services, config: Config, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """A malformed message is refused with a reason, which is logged."""
    endpoint, reason = Endpoint(service, "facebook"), "it has no XML"
    for body in (b"", b"garbage"):
        reply = services.answer(config, CLIENT, endpoint, body)
        assert reply == refusal(400, reason, unknown=bool(body))
        line = f"{CLIENT}: a request is refused: {service.name.lower()}: {reason}"
        assert logged(caplog) == [("WARNING", line)]


EXPIRED = ("WARNING", f"{CLIENT}: has to log in to facebook again: its session has expired")


class TestAnnounce:
    def test_photo(
        self, services: Services, config: Config, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A logged-in camera may announce photos, which is not logged."""
        key = log_in(services, config)
        caplog.clear()
        token = announce(services, config, key, "a caption")
        assert logged(caplog) == []
        found = services.announced(config, CLIENT, token)
        assert found
        assert found.name == "SAM_4371.JPG"
        post = found.post
        assert (post.client, post.sender, post.site) == (CLIENT, USER, "facebook")
        assert (post.album, post.caption, post.photos) == ("NX300", "a caption", 0)

    def test_video(self, services: Services, config: Config) -> None:
        """A video is announced as a photo is; its category is not the camera's model."""
        body = camera.video(log_in(services, config), "SAM_1.MP4", "a~b")
        reply = services.answer(config, CLIENT, Endpoint(Service.VIDEO, "youtube"), body)
        token = reply.body.split(b"upload/")[1][:32].decode()
        assert reply == social.upload_to(token)
        found = services.announced(config, CLIENT, token)
        assert found
        assert found.name == "SAM_1.MP4"
        assert (found.post.site, found.post.album, found.post.photos) == ("youtube", "", 1)

    @pytest.mark.parametrize(
        "key", ["", "0" * 32, "x" * 10_000, "%00", "&#0;", "of another"], ids=lambda key: key[:8]
    )
    def test_unknown_key(
        self, services: Services, config: Config, key: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """With a key that is unknown, or another address's, a camera has to log in again."""
        of_another = log_in(services, config, client=OTHER)
        caplog.clear()
        body = announcement(of_another if key == "of another" else key)
        reply = services.answer(config, CLIENT, Endpoint(Service.PHOTO, "facebook"), body)
        assert reply == social.SESSION_EXPIRED
        assert logged(caplog) == [EXPIRED]

    def test_not_allowed_any_more(
        self, services: Services, directory: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A sender removed from nx_senders has no session any more; nothing is stored."""
        key = log_in(services, configured(directory, USER))
        caplog.clear()
        call = Endpoint(Service.PHOTO, "facebook")
        now = configured(directory, "me@example.org")
        assert services.answer(now, CLIENT, call, announcement(key)) == social.SESSION_EXPIRED
        sentence = (
            f"{CLIENT}: a file for facebook is refused: {USER} may not send; "
            f"to allow it, use --set nx_senders={USER}"
        )
        assert logged(caplog) == [("WARNING", sentence)]
        with closing(sqlite3.connect(directory / ".nx" / "sessions.sqlite3")) as database:
            assert database.execute("SELECT * FROM announcement").fetchall() == []

    def test_another_photo_is_waited_for(
        self, services: Services, config: Config, spool: Spool, clock: Clock
    ) -> None:
        """A post is not delivered while another photo of it has been announced."""
        key = log_in(services, config)
        arrive(spool, found(services, config, announce(services, config, key, "a caption")))
        assert spool.next_try("mail") == clock.now + QUIET
        clock.now += QUIET - 1
        announce(services, config, key, "another caption")
        assert spool.next_try("mail") == clock.now + 1
        announce(services, config, key, "a caption", site="picasa")
        assert spool.next_try("mail") == clock.now + 1
        announce(services, config, key, "a caption")
        assert spool.next_try("mail") == clock.now + GAP


def found(services: Services, config: Config, token: str) -> AnnouncedFile:
    announced = services.announced(config, CLIENT, token)
    assert isinstance(announced, AnnouncedFile)
    return announced


def arrive(spool: Spool, announced: AnnouncedFile) -> None:
    """The photo that was announced comes, to be mailed with the rest of its post."""
    arrivals.append(
        spool,
        announced.post,
        announced.name,
        jpeg(500),
        at_once=[],
        together=["mail"],
        resource=announced.id,
    )


class TestAnnounced:
    @pytest.mark.parametrize(
        "token", ["", "0" * 32, "..%2f..%2fx", "\ud800", "x" * 10_000, "of another"], ids=ascii
    )
    def test_unknown(
        self, services: Services, config: Config, token: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A file is refused if it was not announced, or by another address."""
        announced = announce(services, config, log_in(services, config))
        caplog.clear()
        client, token = (OTHER, announced) if token == "of another" else (CLIENT, token)
        assert services.announced(config, client, token) == social.SESSION_EXPIRED
        line = f"{client}: a file is refused: it was not announced"
        assert logged(caplog) == [("WARNING", line)]

    def test_not_allowed_any_more(
        self, services: Services, directory: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An announced file of a sender who is no longer allowed is refused."""
        before = configured(directory, "CAMERA@*")
        token = announce(services, before, log_in(services, before))
        caplog.clear()
        now = configured(directory, "me@example.org")
        assert services.announced(now, CLIENT, token) == social.SESSION_EXPIRED
        assert [level for level, _ in logged(caplog)] == ["WARNING"]
        assert isinstance(services.announced(before, CLIENT, token), AnnouncedFile)


def test_time(services: Services, config: Config, clock: Clock) -> None:
    """The time is one line of XML, in milliseconds."""
    clock.now = NEW_YEAR + 0.0625
    assert services.answer(config, CLIENT, Endpoint(Service.TIME), b"") == Reply(
        200,
        b'<?xml version="1.0" encoding="UTF-8" standalone="yes"?><initializeResult>'
        b"<currentServerTime>1767225600062</currentServerTime></initializeResult>",
    )


class TestDisk:
    def test_any_failure(
        self,
        services: Services,
        config: Config,
        directory: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Any failure of the disk is a 507, logged once."""
        key = log_in(services, config)
        calls = {
            "login": (Endpoint(Service.LOGIN, "facebook"), login(USER, PASSWORD)),
            "photo": (Endpoint(Service.PHOTO, "facebook"), announcement(key)),
            "video": (Endpoint(Service.VIDEO, "facebook"), announcement(key)),
        }
        failures = dict.fromkeys(calls, 0)
        for name, (call, body) in calls.items():
            for number in range(1, 20):
                caplog.clear()
                with Faults(STATEMENTS, errno.EIO, number) as faults:
                    reply = services.answer(config, CLIENT, call, body)
                if not faults.failed:
                    assert reply.status == 200
                    break
                failures[name] += 1
                assert reply == refusal(507, "The state cannot be read or stored")
                assert [record.exc_info for record in caplog.records] == [None]
                line = f"{CLIENT}: a request is refused: disk I/O error ({directory})"
                assert logged(caplog) == [("ERROR", line)]
        assert min(failures.values()) > 3


PHOTO = pictures.photo(pictures.picture())


class TestPage:
    """The page and its files."""

    @pytest.fixture
    def arrive(self, spool: Spool, directory: Path) -> Callable[..., str]:
        """Stores an upload of a client with a saved photo; returns the address of the file."""

        def store(client: str, *, saves: bool = True) -> str:
            incoming = spool.begin()
            incoming.write(b"x")
            file = File(f"{client}.JPG", "image/jpeg", 1, 0, incoming.fetch)
            upload = Upload("me", ("a",), "", "", (file,))
            id = spool.accept(incoming, client, upload, {"save": ["a"]}).id
            spool.reply_confirmed(id)
            if saves:
                path = directory / f"{client}.JPG"
                path.write_bytes(PHOTO)
                saved = LocalCopy(path, identity_of(path.stat()))
                [delivery] = [one for one in spool.waiting() if one.arrival.id == id]
                spool.done(delivery, saved=[saved])
            return f"{id}.1"

        return store

    def shown(self, reply: Reply) -> list[str]:
        return sorted(re.findall(r"<b>([0-9.]+)\.JPG</b>", reply.body.decode()))

    def test_own_uploads(
        self, services: Services, config: Config, arrive: Callable[..., str]
    ) -> None:
        """A visitor sees the uploads and failures of his own address; in a gallery, all."""
        addresses = {client: arrive(client) for client in (CLIENT, OTHER)}
        for client in (CLIENT, OTHER):
            services.note_failure(client, f"Refused: {client}")
        endpoint = Endpoint(Service.PAGE)
        for client, seen in ((CLIENT, [CLIENT]), (OTHER, [OTHER]), ("192.0.2.99", [])):
            reply = services.answer(config, client, endpoint, b"")
            assert self.shown(reply) == seen
            assert re.findall(rb"Refused: ([0-9.]+)", reply.body) == [one.encode() for one in seen]
            links = re.findall(r'href="/file/([^"]+)"', reply.body.decode())
            assert links == [addresses[one] for one in seen]
        reply = services.answer(replace(config, gallery=True), "192.0.2.99", endpoint, b"")
        assert self.shown(reply) == [CLIENT, OTHER]
        assert reply.body.count(b"Refused: ") == 2

    def test_older(
        self,
        services: Services,
        config: Config,
        clock: Clock,
        arrive: Callable[..., str],
    ) -> None:
        """All uploads of a client are on one of the pages, whoever came between."""
        ids = []
        for _ in range(PAGE + 5):
            arrive(OTHER)
            clock.now += 1
            ids.append(arrive(CLIENT).rpartition(".")[0])
        first = services.answer(config, CLIENT, Endpoint(Service.PAGE), b"").body.decode()
        assert (first.count("<h3>"), re.findall('href="/older/(.+)"', first)) == (PAGE, [ids[5]])
        second = services.answer(config, CLIENT, Endpoint(Service.PAGE, ids[5]), b"").body.decode()
        assert (second.count("<h3>"), "/older/" in second) == (5, False)
        reply = services.answer(config, CLIENT, Endpoint(Service.PAGE, "0' OR 1"), b"")
        assert b"<h3>" not in reply.body

    def test_being_tried(
        self, sessions: Sessions, config: Config, spool: Spool, arrive: Callable[..., str]
    ) -> None:
        """It says which deliveries are being tried right now."""
        arrive(CLIENT, saves=False)
        [delivery] = spool.waiting()
        services = Services(sessions, spool, spool._clock, lambda: {delivery.key})
        html = services.answer(config, CLIENT, Endpoint(Service.PAGE), b"").body
        assert b"Being saved now." in html

    @pytest.mark.parametrize("suffix", [".1", ".2", ".01", "", ".1/"])
    @pytest.mark.parametrize("client", [CLIENT, OTHER])
    @pytest.mark.parametrize("gallery", [False, True])
    def test_visibility(
        self,
        services: Services,
        config: Config,
        arrive: Callable[..., str],
        suffix: str,
        client: str,
        gallery: bool,
    ) -> None:
        """Files and thumbnails are for their own client, or for all in a gallery."""
        argument = arrive(CLIENT).removesuffix(".1") + suffix
        config = replace(config, gallery=gallery)
        found = suffix == ".1" and (gallery or client == CLIENT)
        reply = services.answer(config, client, Endpoint(Service.THUMBNAIL, argument), b"")
        assert reply == (thumbnail(pictures.picture()) if found else NOT_FOUND)
        for service in (Service.OPEN, Service.DOWNLOAD):
            file = services.file(config, client, Endpoint(service, argument), "GET", ())
            if isinstance(file, FileReply):
                assert file.file.read(0, 10**6) == PHOTO
                file.file.close()
            else:
                assert file == NOT_FOUND
            assert isinstance(file, FileReply) is found

    def test_thumbnail_on_request(
        self, services: Services, config: Config, directory: Path, arrive: Callable[..., str]
    ) -> None:
        """It is read from the saved file; a photo without one gets a placeholder."""
        endpoint = Endpoint(Service.THUMBNAIL, arrive(CLIENT))
        reply = services.answer(config, CLIENT, endpoint, b"")
        assert (reply.body, reply.content_type) == (pictures.picture(), "image/jpeg")
        (directory / f"{CLIENT}.JPG").unlink()
        assert services.answer(config, CLIENT, endpoint, b"") == NOT_FOUND
        no_photo = Endpoint(Service.THUMBNAIL, arrive(OTHER))
        path = directory / f"{OTHER}.JPG"
        state = path.stat()
        path.write_bytes(bytes(len(PHOTO)))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        assert services.answer(config, OTHER, no_photo, b"") == thumbnail(b"")

    def test_disk_error(
        self, services: Services, config: Config, arrive: Callable[..., str]
    ) -> None:
        """A state that cannot be read is a 507, for a file too."""
        endpoint = Endpoint(Service.OPEN, arrive(CLIENT))
        with Faults(STATEMENTS, errno.EIO):
            reply = services.file(config, CLIENT, endpoint, "GET", ())
        assert isinstance(reply, Reply)
        assert reply.status == 507


def test_failures(services: Services, config: Config, clock: Clock) -> None:
    """They are listed for an hour, up to a number, with short printable reasons."""

    def listed() -> list[str]:
        html = services.answer(config, CLIENT, Endpoint(Service.PAGE), b"").body.decode()
        return re.findall(r">(reason [^<]*)</p>", html)

    for number in range(MAX_FAILURES + 1):
        services.note_failure(CLIENT, f"reason {number}\n{'x' * 300}")
    assert len(listed()) == MAX_FAILURES
    assert not [one for one in listed() if not re.fullmatch(r"reason [1-9][0-9]*\?x+…", one)]
    assert {len(one) for one in listed()} == {200}
    clock.now += FAILURES_KEPT + 1
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

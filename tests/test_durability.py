"""Durability with a real mitmdump: crashes, full disks, replaced folders."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests import bodies, camera
from tests.faults import small_disk
from tests.mitmdump import Proxy, eventually

PHOTO = bodies.jpeg(200_000)
BODY = bodies.body([("SAM_1.JPG", PHOTO)])
REQUEST = bodies.request(BODY)

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount file systems")


@needs_strace
def test_everything_is_durable_before_the_reply(folder: Path) -> None:
    """The body and its directory entry are fsynced, then the database, then the reply is sent."""
    trace = folder / "trace"
    calls = "trace=openat,write,fsync,fdatasync,rename,renameat,renameat2,sendto"
    with Proxy(folder) as proxy:
        command = ["strace", "-f", "-y", "-s", "40", "-o", str(trace), "-e", calls]
        command += ["-p", str(proxy.process.pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr
            line = strace.stderr.readline()
            if "attached" not in line:
                pytest.skip(f"strace cannot attach: {line}")
            assert camera.send(proxy.port, REQUEST).body == camera.ACCEPTED
            strace.terminate()

    spool = re.escape(str(proxy.uploads / ".nx" / "spool"))
    steps = {
        "created": rf"openat\(\d+<{spool}>, \"[^\"]+\", \S*O_CREAT",
        "written": rf"write\(\d+<{spool}/",
        "body": rf"fsync\(\d+<{spool}/[^>]*>",
        "database": r"f(?:data)?sync\(\d+<[^>]*/state\.sqlite3-wal>",
        "reply": r'sendto\(.*"HTTP/1\.1 200 OK.*Date',
    }
    text = trace.read_text()
    start = position = re.search(steps["created"], text).start()  # type: ignore[union-attr]
    for step, pattern in steps.items():
        match = re.compile(pattern).search(text, position)
        assert match, (step, text[start:])
        position = match.start()
    before = text[start:position]
    committed = re.search(steps["database"], before)
    assert committed
    entries = [match.start() for match in re.finditer(rf"fsync\(\d+<{spool}>", before)]
    assert len(entries) == 1
    assert entries[0] < committed.start()
    assert len(re.findall(rf"fsync\(\d+<{spool}/", before)) == 1
    assert len(re.findall(r"sync\(\d+<[^>]*/state\.sqlite3", before)) == 1
    assert "rename" not in before


def test_killed_while_delivery_has_to_wait(folder: Path) -> None:
    """An upload with a pending delivery is delivered after a kill and a restart."""
    with Proxy(folder) as proxy:
        proxy.uploads.chmod(0o755)
        obstacle = proxy.uploads / time.strftime("%Y-%m-%d")
        obstacle.write_text("a file where the folder of the day should be")
        assert camera.send(proxy.port, REQUEST).body == camera.ACCEPTED
        proxy.wait_for(r"Not a directory .*; it is safe, next try in 1\d seconds")
        proxy.kill()
    obstacle.unlink()
    with Proxy(folder) as proxy:
        proxy.wait_for("saved as ")
        assert proxy.saved() == {"SAM_1.JPG": PHOTO}


@needs_root
def test_a_disk_that_fills_up(folder: Path) -> None:
    """If the disk fills up during an upload, that is refused with 507 and leaves no file."""
    with small_disk(folder / "uploads", 80) as disk, Proxy(folder) as proxy:
        connection = camera.connect(proxy.port)
        connection.sendall(REQUEST[:100_000])
        spool = disk / ".nx" / "spool"
        eventually(lambda: list(spool.glob("[0-9]*")), "the upload begins")
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as file:
            while shutil.disk_usage(disk).free:
                file.write(bytes(min(1 << 20, shutil.disk_usage(disk).free)))
        connection.sendall(REQUEST[100_000:])

        assert camera.read_reply(connection).status == 507
        proxy.wait_for(
            r"an upload is refused: No space left on device \(uploads\): make room there"
        )
        assert list(spool.iterdir()) == []

        filler.unlink()
        assert camera.send(proxy.port, REQUEST).body == camera.ACCEPTED
        proxy.wait_for("saved as ")
        assert (proxy.saved(), proxy.quarantined()) == ({"SAM_1.JPG": PHOTO}, [])


@needs_root
def test_the_reserve_remains(folder: Path) -> None:
    """Concurrent uploads, and one without a length, leave space to save the accepted ones."""
    photo = bodies.jpeg(4 << 20)
    requests = [bodies.request(bodies.body([(f"SAM_{n}.JPG", photo)])) for n in range(4)]
    with small_disk(folder / "uploads", 84) as disk, Proxy(folder) as proxy:
        connections = [camera.connect(proxy.port) for _ in requests]
        for connection, request in zip(connections, requests, strict=True):
            connection.sendall(request[: 1 << 20])
        spool = disk / ".nx" / "spool"
        eventually(lambda: len(list(spool.glob("[0-9]*"))) == 2, "two of them have room")
        for connection, request in zip(connections, requests, strict=True):
            connection.sendall(request[1 << 20 :])
        statuses = [camera.read_reply(connection).status for connection in connections]
        assert sorted(statuses) == [200, 200, 507, 507]
        proxy.wait_for(
            r"is refused: only \S+ MB are free, too little for this .* \(uploads\): make room"
        )
        eventually(lambda: len(proxy.saved()) == 2, "accepted uploads are saved")
        eventually(lambda: not list(spool.iterdir()), "the spool is empty")
        assert shutil.disk_usage(disk).free >= 64 << 20
        for path in proxy.uploads.glob("*/SAM_*.JPG"):
            path.unlink()
        # There is room for the beginning of an upload without a length, but not for all of it.
        head, _, data = requests[2].partition(b"\r\n\r\n")
        length = b"Content-Length: %d" % len(data)
        head = head.replace(b"  HTTP/1.0", b" HTTP/1.1")
        head = head.replace(length, b"Transfer-Encoding: chunked")
        assert b"chunked" in head
        connection = camera.connect(proxy.port)
        connection.sendall(head + b"\r\n\r\n")
        data += bytes(20 << 20)
        for start in range(0, len(data), 1 << 20):
            piece = data[start : start + (1 << 20)]
            connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        connection.sendall(b"0\r\n\r\n")
        assert camera.read_reply(connection).status == 507
        assert shutil.disk_usage(disk).free >= 64 << 20
        assert list(spool.iterdir()) == []


@needs_root
@pytest.mark.parametrize("way", ["spool removed", "made again", "mounted again"])
def test_a_folder_that_was_replaced(folder: Path, way: str) -> None:
    """A folder that was removed or unmounted is reopened when it is back, with one line."""
    first, second = contextlib.ExitStack(), contextlib.ExitStack()
    with first, second:
        if way == "mounted again":
            first.enter_context(small_disk(folder / "uploads", 200))
        options = ("nx_smtp=smtp://127.0.0.1:9", "nx_senders=*", "nx_route=photos@*=save")
        proxy = second.enter_context(Proxy(folder, *(f"--set={one}" for one in options)))
        uploads = proxy.uploads
        if way == "spool removed":
            shutil.rmtree(uploads / ".nx" / "spool")
        elif way == "made again":
            shutil.rmtree(uploads)
            assert camera.send(proxy.port, REQUEST).status == 507
            proxy.wait_for("an upload is refused: ")
            uploads.mkdir()
        else:
            first.close()
            assert camera.send(proxy.port, REQUEST).status == 507
            uploads.rmdir()
            second.enter_context(small_disk(folder / "uploads", 200))
        assert camera.send(proxy.port, REQUEST).body == camera.ACCEPTED
        eventually(lambda: proxy.saved() == {"SAM_1.JPG": PHOTO}, "it is saved")
        proxy.wait_for("was replaced while nx_addon is running: reopened it")
        assert proxy.log.count("reopened it") == 1
        assert "Traceback" not in proxy.log
        message = bodies.message_xml(recipients=["later@example.org"])
        camera.send(
            proxy.port, bodies.request(bodies.body([("SAM_2.JPG", PHOTO)], message=message))
        )
        pending = proxy.wait_for(r"upload (\S+): mail: .*; it is safe")[1]
        proxy.kill()
        again = second.enter_context(Proxy(folder, *(f"--set={one}" for one in options)))
        again.wait_for(f"upload {pending}: mail: .*; it is safe")


@needs_root
def test_a_read_only_folder_at_start(folder: Path) -> None:
    """A read-only folder stops the start with a remedy."""
    with small_disk(folder / "uploads", 200) as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        proxy = Proxy(folder)
        assert proxy.run() == 1
        assert (
            "uploads cannot be stored: Read-only file system (uploads): make it writable, "
            "or choose another folder with --set nx_dir=FOLDER"
        ) in proxy.log
        assert "Traceback" not in proxy.log


@pytest.mark.parametrize(
    ("obstacle", "reason"),
    [("uploads", "Not a directory"), ("uploads/.nx/state.sqlite3", "file is not a database")],
)
def test_something_in_the_way_at_start(folder: Path, obstacle: str, reason: str) -> None:
    """A file in the place of a folder or of the database ends the start with one message."""
    path = folder / obstacle
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("This is neither a folder nor a database. " * 100)
    proxy = Proxy(folder)
    assert proxy.run() == 1
    assert f"uploads cannot be stored: {reason} ({obstacle})" in proxy.log
    assert "Traceback" not in proxy.log


def test_damaged_sessions(folder: Path) -> None:
    """Uploads are received even if the sessions are damaged."""
    with Proxy(folder) as proxy:
        assert camera.send(proxy.port, REQUEST).status == 200
    sessions = folder / "uploads" / ".nx" / "sessions.sqlite3"
    for path in sessions.parent.glob("sessions.sqlite3-*"):
        path.unlink()
    sessions.write_bytes(b"garbage " * 1000)
    with Proxy(folder) as proxy:
        proxy.wait_for("cannot use uploads/.nx/sessions.sqlite3 .*: moved it to ")
        assert camera.send(proxy.port, REQUEST).status == 200
    assert "Traceback" not in proxy.log


def test_recovered_is_logged_first(folder: Path) -> None:
    """The part of a killed upload is in quarantine only, and logged even if the start fails."""
    with Proxy(folder) as proxy:
        connection = camera.connect(proxy.port)
        connection.sendall(REQUEST[:5000])
        proxy.wait_for("client connect")
        parts = proxy.uploads / ".nx" / "spool"
        eventually(lambda: any(path.stat().st_size for path in parts.iterdir()), "it arrives")
        proxy.kill()
    sessions = folder / "uploads" / ".nx" / "sessions.sqlite3"
    for path in sessions.parent.glob("sessions.sqlite3*"):
        path.unlink()
    sessions.symlink_to(folder / "missing" / "file")
    proxy = Proxy(folder)
    assert proxy.run() == 1
    assert "recovered a partial upload from the last run" in proxy.log
    [part] = proxy.quarantined()
    assert REQUEST[:5000].endswith(part)
    assert (proxy.saved(), list(parts.iterdir())) == ({}, [])
    reason = "No such file or directory (uploads/.nx/sessions.sqlite3)"
    assert f"logins to social sites cannot be stored: {reason}" in proxy.log

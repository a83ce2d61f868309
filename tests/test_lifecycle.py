"""A real mitmdump that is reloaded, stopped, or cannot write its log."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests import bodies, camera
from tests.mitmdump import ADDON, ROOT, Proxy, addon_script, eventually, free_port
from tests.smtp_servers import Act, ScriptedServer


def send(proxy: Proxy, name: str, to: str = "anna@example.org", port: int = 0) -> None:
    """Upload a photo, which must be accepted."""
    message = bodies.message_xml(recipients=[to])
    body = bodies.body([(name, bodies.jpeg(1000))], message=message)
    reply = camera.send(port or proxy.port, bodies.request(body))
    assert (reply.status, reply.body) == (200, camera.ACCEPTED)


def test_reload_during_a_delivery(folder: Path) -> None:
    """The reloaded addon accepts and delivers. A delivery that hangs is not repeated."""
    script = folder / "nx_addon_copy.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{ADDON.read_text()}")
    program = folder / "program"
    program.write_text(
        f"#!/bin/sh\necho $1 >> {folder}/begun\n"
        f"until [ -e {folder}/go ]; do sleep 0.05; done\necho $1 >> {folder}/ended\n"
    )
    program.chmod(0o755)
    rules = (f"anna@*=run:{program} {{recipient}}", "ben@*=save")
    options = ["--set=nx_senders=*", *(f"--set=nx_route={rule}" for rule in rules)]
    with Proxy(folder, *options, script=script) as proxy:
        send(proxy, "SAM_1.JPG")
        eventually((folder / "begun").exists, "the delivery begins")
        for times in (2, 3):
            later = time.time() + times * 10
            os.utime(script, (later, later))
            proxy.wait_for(r"port 53: ", times)
            send(proxy, f"BEN_{times}.JPG", "ben@example.org")
            proxy.wait_for(rf"saved as .*BEN_{times}\.JPG")
        send(proxy, "SAM_2.JPG")
        (folder / "go").touch()
        eventually(lambda: len(lines(folder / "ended")) == 2, "both deliveries end")
        proxy.stop()
        assert "Traceback" not in proxy.log
    assert len(lines(folder / "begun")) == 2


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_second_interrupt(folder: Path) -> None:
    """Ctrl-C logs the current delivery. A second one ends the process."""
    script = addon_script(folder, "nx_addon.STOP_TIMEOUT = 600.0")
    with ScriptedServer({"greeting": Act.READ_ON}) as server:
        settings = ("--set", f"nx_smtp=smtp://127.0.0.1:{server.port}", "--set", "nx_senders=*")
        with Proxy(folder, *settings, script=script) as proxy:
            send(proxy, "SAM_1.JPG")
            server.wait("connect")
            id = proxy.wait_for(r"next: mail \(upload (\S+)\)")[1]
            os.kill(proxy.process.pid, signal.SIGINT)
            proxy.wait_for(rf"waiting up to 600 s for upload {id} to mail; .*Ctrl-C again")
            os.kill(proxy.process.pid, signal.SIGINT)
            assert proxy.ended() == 0
            assert f"stopped during the delivery of upload {id} to mail" in proxy.log
            assert "Traceback" not in proxy.log


def test_log_through_a_pipe(folder: Path) -> None:
    """Log lines through a pipe, as to systemd, are not buffered."""
    with Proxy(folder, environ={"PYTHONUNBUFFERED": ""}) as proxy:
        send(proxy, "SAM_1.JPG")
        proxy.wait_for(r"saved as .*SAM_1\.JPG")


@contextmanager
def writing_to(output: int, folder: Path, *arguments: str) -> Iterator[tuple[Proxy, int]]:
    """A proxy that writes its log to this descriptor, which is closed here, and its port."""
    port = free_port()
    modes = ("--mode", f"regular@127.0.0.1:{port}")
    proxy = Proxy(folder, *modes, *arguments, output=output)
    proxy.start()
    os.close(output)
    try:
        eventually(lambda: camera.is_served(port), "it serves")
        yield proxy, port
    finally:
        proxy.kill()


def test_full_disk_for_the_log(folder: Path) -> None:
    """Uploads continue when the disk of the log is full."""
    size = 1 << 20
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.truncate(log, size - 4000)
    with writing_to(log, folder) as (proxy, port):
        resource.prlimit(proxy.process.pid, resource.RLIMIT_FSIZE, (size, size))
        for number in range(10):
            send(proxy, f"SAM_{number}.JPG", port=port)
        eventually(lambda: len(proxy.saved()) == 10, "all are saved")
        assert proxy.process.poll() is None
    assert (folder / "log").stat().st_size == size


def test_log_reader_closes(folder: Path) -> None:
    """Uploads continue when the reader of the log closes the pipe."""
    reader, writer = os.pipe()
    with writing_to(writer, folder) as (proxy, port):
        os.close(reader)
        for number in range(3):
            send(proxy, f"SAM_{number}.JPG", port=port)
        eventually(lambda: len(proxy.saved()) == 3, "all are saved")
        assert proxy.process.poll() is None


def test_log_reader_stalls(folder: Path) -> None:
    """Uploads continue when the reader of the log stalls. Later the log counts dropped lines."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with writing_to(writer, folder, "--set", "flow_detail=3") as (proxy, port):
        long = b"GET / HTTP/1.0\r\nHost: gld.samsungosp.com\r\nX: " + b"x" * 8000 + b"\r\n\r\n"
        for _ in range(60):
            assert camera.send(port, long).status == 200
        send(proxy, "SAM_1.JPG", port=port)
        eventually(lambda: "SAM_1.JPG" in proxy.saved(), "it is saved")
        text = b""

        def reported() -> bool:
            nonlocal text
            with suppress(BlockingIOError):
                text += os.read(reader, 1 << 16)
            return b"lines of the log were dropped" in text

        eventually(reported, "the log reports dropped lines")
        os.close(reader)

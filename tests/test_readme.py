"""README says what is so."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import optmanager

import nxparse
from nxparse import config
from nxparse.deliver import routes, targets
from nxparse.server.endpoints import DNS_HOSTS
from tests import bodies, camera, readme
from tests.mitmdump import ROOT, Proxy

TEXT = (ROOT / "README.md").read_text()


def test_options() -> None:
    """The table of options has every option, in order, with its default."""
    rows = re.findall(r"^\| `(nx_\w+)` \|(?: `(.*?)`)? \|", TEXT, re.MULTILINE)

    defaults = [(option.name, option.default or "") for option in config.OPTIONS]
    defaults[defaults.index(("nx_gallery", ""))] = ("nx_gallery", "false")
    assert rows == defaults


def test_hosts() -> None:
    """Whatever lists the cameras' hosts lists all of them, in the same order."""
    lists = re.findall(r"gld\.samsungosp\.com[/ ][\w./ ]*www\.yahoo\.co\.kr", TEXT)

    assert len(lists) == 3
    assert {tuple(re.split("[/ ]", names)) for names in lists} == {DNS_HOSTS}


def test_links() -> None:
    """Each file and each section that README points to is there."""
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    sections = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= sections


def test_the_log(folder: Path) -> None:
    """The log of an upload looks as README shows it."""
    (shown,) = readme.blocks("log")
    photo = bodies.jpeg(1_300_000)
    body = bodies.body(
        [("SAM_4371.JPG", photo)], message=bodies.message_xml(recipients=["me@example.org"])
    )
    with Proxy(folder) as proxy:
        camera.send(proxy.port, bodies.request(body))
        proxy.wait_for("saved as .*\n")
        log = proxy.log
    seen = [line for line in log.splitlines() if "tolerated" in line or "saved as" in line]

    assert [general(line) for line in shown.splitlines()] == [general(line) for line in seen]


def general(line: str) -> str:
    """A line of the log without times, addresses and ids."""
    line = re.sub(r"\d+T\d+Z-\w+", "ID", line)
    line = re.sub(r"\d+\.\d+\.\d+\.\d+", "ADDRESS", line)
    return re.sub(r"\d\d:\d\d:\d\d\.\d+|\d{4}-\d\d-\d\d", "TIME", line)


def test_the_python() -> None:
    """The lines of Python run."""
    (code,) = readme.blocks("python")
    names: dict[str, object] = {
        "body": bodies.body([("SAM_1.JPG", bodies.jpeg(100))]),
        "content_type": bodies.CONTENT_TYPE,
    }
    exec(code, names)

    upload = names["upload"]
    assert isinstance(upload, nxparse.Upload)
    assert upload.sender == bodies.SENDER


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(line, id=" ".join(re.findall(r"--mode \S+|-nr|mitmweb", line)) or "plain")
        for block in readme.blocks("sh")
        for line in block.splitlines()
        if "mitm" in line
    ],
)
def test_commands(command: str, folder: Path) -> None:
    """What README says to type is understood by mitmproxy: options, modes, values."""
    words = shlex.split(command.split("&&")[-1])
    program = next(word for word in words if "mitm" in word)
    arguments = words[words.index(program) + 1 :]
    pairs = list(itertools.pairwise(arguments))
    modes = [value for flag, value in pairs if flag == "--mode"]
    sets = [value for flag, value in pairs if flag == "--set"]
    assert "nx_addon.py" in arguments
    for mode in modes:
        assert mode in ("regular@80", "dns@53", "transparent@8080")
    assert {name.partition("=")[0] for name in sets} <= {option.name for option in config.OPTIONS}


ENVIRON = {
    "SMTP_PASSWORD": "s3cr3t/?#@",
    "HOOK": "https://home.example.org/api/webhook/s3cr3t",
    "TOKEN": "s3cr3t",
    "TELEGRAM": "tgram://123456789:abcdefghijklmnopqrstuvwxyz123456789/12315544",
}
EXAMPLES = [
    [word for flag, word in itertools.pairwise(shlex.split(line)) if flag == "--set"]
    for block in readme.blocks("sh")
    for line in block.splitlines()
    if "nx_route=" in line or "nx_smtp=" in line
]


@pytest.mark.parametrize("settings", EXAMPLES, ids=lambda settings: settings[-1])
def test_examples_encrypt_passwords(settings: list[str]) -> None:
    """A mail server with a password is one that nobody on the way can strip of TLS."""
    assert not [one for one in settings if one.startswith("nx_smtp=smtp://") and "@" in one]


@pytest.mark.parametrize("settings", EXAMPLES, ids=lambda settings: settings[-1])
def test_examples(settings: list[str]) -> None:
    """What README sets can be used as it stands there."""
    values: dict[str, Any] = {option.name: option.default for option in config.OPTIONS}
    for name, _, value in (setting.partition("=") for setting in settings):
        several = not isinstance(values[name], str)
        values[name] = [*values[name], value] if several else value
    parsed = config.parse(values, ENVIRON)
    for rule in parsed.routes:
        targets.deliver_to(parsed, ENVIRON, rule.target.text)


def test_config_yaml() -> None:
    """The example of a config.yaml works."""
    (text,) = readme.blocks("yaml")
    written = optmanager.parse(text)
    assert set(written) <= {option.name for option in config.OPTIONS}
    values = {one.name: one.convert(written.get(one.name), ENVIRON) for one in config.OPTIONS}
    parsed = config.parse(values, ENVIRON)
    assert (parsed.gallery, parsed.max_upload) == (True, 500 << 20)
    assert [rule.target.text for rule in parsed.routes] == ["save", "mail:everybody@example.org"]


def test_there_is_an_example_for_each_target() -> None:
    """Of those that are not obvious."""
    told = " ".join(word for settings in EXAMPLES for word in settings)
    assert [kind for kind in routes.KINDS if f"={kind}" not in told] == ["drop"]


def commands_of_nxparse(name: str) -> list[list[str]]:
    """What README says to type for a command of nxparse, from its name on."""
    lines = [line for block in readme.blocks("sh") for line in block.splitlines()]
    words = [shlex.split(line) for line in lines if "-m nxparse" in line]
    return [one[3:] for one in words if one[3] == name]


def test_the_outbox(folder: Path) -> None:
    """The commands that look after the outbox do what README says, as it stands there."""
    commands = commands_of_nxparse("outbox")
    assert [words[1:2] for words in commands] == [[], ["retry"], ["drop"]]
    with Proxy(folder) as proxy:
        proxy.stop()
    for words in commands:
        done = nxparse_run("outbox", "--dir", str(folder / "uploads"), *words[1:])
        said = "nothing of an upload" if words[1:] else "no pending deliveries"
        assert (done.stdout + done.stderr).startswith(said)
        assert done.returncode == (1 if words[1:] else 0)


def test_show_and_repair(folder: Path) -> None:
    """The commands that look into a file do it, as they stand in README."""
    (folder / "body").write_bytes(bodies.body([("SAM_1.JPG", bodies.jpeg(100))]))
    commands = [*commands_of_nxparse("show"), *commands_of_nxparse("repair")]
    assert [len(words) for words in commands] == [2, 5, 4]
    for words in commands:
        if ">" in words:
            del words[words.index(">") :]
        words[-1] = str(folder / "body")
        words = [str(folder / "photos") if word == "photos" else word for word in words]
        assert nxparse_run(*words).returncode == 0
    assert [path.name for path in (folder / "photos").iterdir()] == ["SAM_1.JPG"]


def test_send(folder: Path) -> None:
    """The command in README uploads a photo, with `--via` as README describes it."""
    assert "`--via 192.168.1.2`" in TEXT
    (words,) = commands_of_nxparse("send")
    (folder / "photo.jpg").write_bytes(bodies.jpeg(2000))
    with Proxy(folder) as proxy:
        words = [str(folder / word) if word == "photo.jpg" else word for word in words]
        done = nxparse_run(*words, "--via", f"127.0.0.1:{proxy.port}")
        proxy.wait_for("saved as .*photo.jpg")
    assert (done.returncode, done.stderr) == (0, "")


def nxparse_run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nxparse", *words],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        cwd=ROOT,
    )


def test_the_service(folder: Path) -> None:
    """The systemd unit starts what README has set up before, with options that exist."""
    (unit,) = readme.blocks("ini")
    start = re.search(r"^ExecStart=(.*?)$(?<!\\)", unit.replace("\\\n", ""), re.MULTILINE)
    assert start
    words = shlex.split(start[1])
    assert words[0] == "/opt/nx_addon/.venv/bin/mitmdump"
    words[words.index("transparent@8080")] = "regular@127.0.0.1:0"
    words = [word.replace("/var/lib/nx_addon", str(folder)) for word in words[1:]]
    place = words.index(f"confdir={folder}/mitmproxy")  # Proxy has one of its own
    del words[place - 1 : place + 1]
    with Proxy(folder, *words[2:]) as proxy:
        assert "there is no option" not in proxy.log
        assert (folder / "uploads" / ".nx").is_dir()
    assert re.search(r"^WorkingDirectory=/opt/nx_addon$", unit, re.MULTILINE)
    for directive in ("MemoryMax=256M", "AmbientCapabilities=CAP_NET_BIND_SERVICE"):
        assert directive in unit


def test_systemd_understands_the_service(folder: Path) -> None:
    """systemd-analyze finds nothing wrong with the unit, but that it is not installed."""
    (unit,) = readme.blocks("ini")
    path = folder / "nx_addon.service"
    path.write_text(unit.replace("/opt/nx_addon/.venv/bin/mitmdump", "/bin/true"))
    try:
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", path],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("needs systemd-analyze")

    assert [line for line in done.stderr.splitlines() if "nx_addon" in line] == []

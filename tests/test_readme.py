"""The commands, tables and examples in README."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import addons, optmanager
from mitmproxy.addons.readfile import ReadFile
from mitmproxy.proxy.mode_specs import ProxyMode
from mitmproxy.test import taddons
from mitmproxy.tools import cmdline

from nxparse import config
from nxparse.deliver import routes, targets
from nxparse.server.endpoints import DNS_HOSTS
from tests import bodies, readme
from tests.mitmdump import ROOT, Proxy

TEXT = (ROOT / "README.md").read_text()
LINES = readme.lines()
OPTIONS = {option.name: option for option in config.OPTIONS}
# Of mitmproxy's own addons.
FOREIGN_OPTIONS = {"tls_version_client_min", "ciphers_client", "dns_name_servers"}


def test_options() -> None:
    """The table of options has every option, in order, with its default."""
    rows = re.findall(r"^\| `(nx_\w+)` \|(?: `(.*?)`)? \|", TEXT, re.MULTILINE)

    defaults = {name: option.default or "" for name, option in OPTIONS.items()}
    assert rows == list((defaults | {"nx_gallery": "false"}).items())


def test_hosts() -> None:
    """Each list of the cameras' hosts is complete, in the same order."""
    lists = re.findall(r"gld\.samsungosp\.com[/ ][\w./ ]*www\.yahoo\.co\.kr", TEXT)

    assert lists
    assert {tuple(re.split("[/ ]", names)) for names in lists} == {DNS_HOSTS}


def test_links() -> None:
    """Each file and section that README links to exists."""
    for target in re.findall(r"\]\(([^)#:]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    sections = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", TEXT, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= sections


def test_length() -> None:
    """README has at most 350 lines."""
    assert TEXT.count("\n") <= 350


@pytest.mark.parametrize("command", LINES)
def test_shell(command: str) -> None:
    """Each line is a command that a shell can parse, with programs that README sets up."""
    subprocess.run(["bash", "-n", "-c", command], check=True)
    programs = re.findall(r"(?:^|&& |\| )(?:sudo (?:-\S+ \S+ )?)?(\S+)", command)
    installed = ["cd", "printf", "export", "git", "python3", "systemctl", "journalctl", "nft"]
    installed += ["nmcli", "tee", "rm", "install", "sysctl", "useradd", "usermod", "userdel"]
    installed += ["groupdel"]
    for program in programs:
        name = program.removeprefix("/opt/nx_addon/")
        assert name in installed or re.fullmatch(r"\.venv/bin/(python|pip|mitm\w+)", name), program


COMMANDS = [line.split("&& ")[-1] for line in LINES if "nx_addon.py" in line]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command: str) -> None:
    """mitmproxy accepts the arguments, modes and options of each of its commands."""
    program, *words = shlex.split(command)
    with taddons.context(*addons.default_addons(), ReadFile(), loadcore=False) as context:
        parser = getattr(cmdline, Path(program).name)(context.options)
    arguments = parser.parse_args(words)

    assert arguments.scripts == ["nx_addon.py"]
    for mode in arguments.mode or ():
        ProxyMode.parse(mode)
    names = {setting.partition("=")[0] for setting in arguments.setoptions}
    assert names <= {*OPTIONS, *FOREIGN_OPTIONS}


def test_inline_options() -> None:
    """The options in the text exist, and its modes are valid."""
    settings = re.findall(r"--set ([a-z_]+)=", TEXT)
    assert set(settings) <= {*OPTIONS, *FOREIGN_OPTIONS}
    for mode in re.findall(r"--mode (\S+?)[`\s]", TEXT):
        ProxyMode.parse(mode)


ENVIRON = {
    "SMTP_PASSWORD": "s3cr3t/?#@",
    "HOOK": "https://home.example.org/api/webhook/s3cr3t",
    "TOKEN": "s3cr3t",
    "TELEGRAM": "tgram://123456789:abcdefghijklmnopqrstuvwxyz123456789/12315544",
}
RULES = re.findall(r"^\| `\w+[:`].*\| `(.+=.+)` \|$", TEXT, re.MULTILINE)
EXAMPLES = [
    [word for flag, word in pairwise(shlex.split(line)) if flag == "--set"]
    for line in COMMANDS
    if "nx_smtp=" in line
]
EXAMPLES += [[f"nx_route={rule}", "nx_senders=*", "nx_smtp=smtps://h"] for rule in RULES]


@pytest.mark.parametrize("settings", EXAMPLES, ids=lambda settings: settings[0])
def test_examples(settings: list[str]) -> None:
    """The examples of mail servers and targets are valid, and send passwords over TLS only."""
    values: dict[str, Any] = {name: option.default for name, option in OPTIONS.items()}
    for name, _, value in (setting.partition("=") for setting in settings):
        values[name] = value if isinstance(values[name], str) else [*values[name], value]
    parsed = config.parse(values, ENVIRON)
    for rule in parsed.routes:
        targets.deliver_to(parsed, ENVIRON, rule.target.text)
    assert "=smtp://" not in "".join(settings)


def test_each_target_has_an_example() -> None:
    """The table of targets is complete."""
    kinds = [re.split("[=:]", rule)[1] for rule in RULES]
    assert sorted(kinds) == sorted(routes.KINDS)


def test_config_yaml() -> None:
    """The example of a config.yaml is valid."""
    (text,) = readme.blocks("yaml")
    written = optmanager.parse(text)
    assert set(written) <= set(OPTIONS)
    values = {name: option.convert(written.get(name), ENVIRON) for name, option in OPTIONS.items()}
    parsed = config.parse(values, ENVIRON)
    assert parsed.gallery
    assert [rule.target.text for rule in parsed.routes] == ["save", "mail:everybody@example.org"]


def commands_of_nxparse(name: str) -> list[list[str]]:
    """The commands of README for a command of nxparse, as words from its name on."""
    words = [shlex.split(line) for line in LINES if " -m nxparse " in line]
    return [one[3:] for one in words if one[3] == name]


def test_a_photo_and_the_outbox(shared: Proxy) -> None:
    """The photo that `send` uploads is saved and logged as README shows, and nothing is pending."""
    (words,) = commands_of_nxparse("send")
    photo = shared.folder / "SAM_4371.JPG"
    photo.write_bytes(bodies.jpeg(1_300_000))
    places = {"photo.jpg": str(photo), "192.168.1.2": f"127.0.0.1:{shared.port}"}
    done = nxparse_run(*[places.get(word, word) for word in words])
    assert (done.returncode, done.stderr) == (0, "")
    logged = shared.wait_for("saved as .*\n").string.splitlines()
    (shown,) = readme.blocks("log")
    assert general(shown.strip()) in [general(line) for line in logged]

    commands = commands_of_nxparse("outbox")
    assert [words[1:2] for words in commands] == [[], ["retry"]]
    for words in commands:
        done = nxparse_run("outbox", "--dir", str(shared.uploads), *words[1:])
        assert (done.stdout + done.stderr).count("\n") == 1
        assert done.returncode == (1 if words[1:] else 0)


def general(line: str) -> str:
    """A line of the log without times and ids."""
    line = re.sub(r"\d+T\d+Z-\w+", "ID", line)
    return re.sub(r"\d\d:\d\d:\d\d\.\d+|\d{4}-\d\d-\d\d", "TIME", line)


def test_show_and_repair(folder: Path) -> None:
    """The commands that inspect a file work."""
    (folder / "body").write_bytes(bodies.body([("SAM_1.JPG", bodies.jpeg(100))]))
    commands = [*commands_of_nxparse("show"), *commands_of_nxparse("repair")]
    assert [len(words) for words in commands] == [4, 4]
    for words in commands:
        if ">" in words:
            del words[words.index(">") :]
        words[-1] = str(folder / "body")
        words = [str(folder / "photos") if word == "photos" else word for word in words]
        assert nxparse_run(*words).returncode == 0
    assert [path.name for path in (folder / "photos").iterdir()] == ["SAM_1.JPG"]


def nxparse_run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nxparse", *words]
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, cwd=ROOT
    )


def test_the_recording_is_ignored_by_git() -> None:
    """Recordings and reports are private: git does not offer to commit them."""
    files = ["camera.mitm", "report.md", "uploads/x", "photos/x"]
    assert "-w +camera.mitm" in TEXT
    try:
        command = ["git", "check-ignore", "--no-index", *files]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    except FileNotFoundError:
        pytest.skip("needs git")
    if done.returncode == 128:
        pytest.skip("needs a clone")
    assert done.stdout.split() == files


class TestService:
    (unit,) = readme.blocks("ini")

    def test_starts(self, folder: Path) -> None:
        """The unit starts the installed mitmdump, with options that exist."""
        start = re.search(r"^ExecStart=(.*)$", self.unit.replace("\\\n", ""), re.MULTILINE)
        assert start
        words = shlex.split(start[1].replace("/srv/photos", str(folder / "photos")))
        assert words[:3] == ["/opt/nx_addon/.venv/bin/mitmdump", "-s", "nx_addon.py"]
        words[words.index("transparent@8080")] = "regular@127.0.0.1:0"
        with Proxy(folder, *words[3:]) as proxy:
            assert "there is no option" not in proxy.log
            assert (folder / "photos" / ".nx").is_dir()

    def test_paths(self) -> None:
        """The commands in README create the user and the folders of the unit."""
        commands = "\n".join(LINES)
        for name, value in re.findall(r"^(\w+)=(.*)$", self.unit, re.MULTILINE):
            if name == "User":
                assert f"--home-dir /var/lib/{value} " in commands
            elif name in ("WorkingDirectory", "ReadWritePaths"):
                assert f" {value}\n" in commands
            elif name == "ExecStartPre":
                assert f"sudo {value.removeprefix('+/usr/sbin/')}\n" in commands

    @pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
    def test_verify(self, folder: Path) -> None:
        """systemd-analyze finds no mistake, with placeholders for mitmdump and nft."""
        path = folder / "nx_addon.service"
        unit = self.unit.replace("/opt/nx_addon/.venv/bin/mitmdump", "/bin/true")
        path.write_text(unit.replace("/usr/sbin/nft", "/bin/true"))
        command = ["systemd-analyze", "verify", "--man=no", path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert [line for line in done.stderr.splitlines() if "nx_addon" in line] == []

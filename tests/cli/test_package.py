"""The package as installed by `pip install .`."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import nxparse
from tests import bodies
from tests.mitmdump import ROOT


def has_setuptools() -> bool:
    """Return whether this Python can build the package without network access."""
    try:
        return int(metadata.version("setuptools").partition(".")[0]) >= 77
    except metadata.PackageNotFoundError:
        return False


pytestmark = pytest.mark.skipif(not has_setuptools(), reason="needs setuptools 77 or newer")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the contents of the wheel."""
    folder = tmp_path_factory.mktemp("package")
    # The build writes into its source folder.
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "nxparse", folder / "source" / "nxparse", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "-q", "-w", folder, folder / "source"],
        check=True,
    )
    [wheel] = folder.glob(f"nxparse-{nxparse.__version__}-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def python(installed: Path, *arguments: str) -> str:
    """Run Python outside the repository, with this package. Returns what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=installed.parent,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    path = tmp_path / "upload"
    path.write_bytes(bodies.body([("SAM_1.JPG", bodies.jpeg(500))]))
    return path


def test_commands(installed: Path, upload: Path) -> None:
    """The command line works. It and the metadata have the version of nxparse."""
    assert "SAM_1.JPG" in python(installed, "-m", "nxparse", "show", str(upload))
    assert python(installed, "-m", "nxparse", "--version") == f"nxparse {nxparse.__version__}\n"
    [information] = installed.glob("nxparse-*.dist-info/METADATA")
    assert f"\nVersion: {nxparse.__version__}\n" in information.read_text("utf-8")


def test_changelog() -> None:
    """The newest entry of the changelog is this version."""
    [newest, *_] = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert newest == nxparse.__version__


def test_parser_needs_nothing_else(installed: Path, upload: Path) -> None:
    """Uploads can be parsed without site-packages."""
    program = (
        "import sys, nxparse; body = open(sys.argv[1], 'rb').read();"
        "print(nxparse.read(body, '').files[0].name)"
    )
    assert python(installed, "-S", "-c", program, str(upload)) == "SAM_1.JPG\n"


def test_package_data(installed: Path) -> None:
    """The wheel includes the files of the page, but neither tests nor the addon."""
    names = {path.name for path in (installed / "nxparse" / "server").iterdir()}
    assert {"page.html", "page.css", "page.py"} <= names
    assert {path.name.partition("-")[0] for path in installed.iterdir()} == {"nxparse"}


def test_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that is too old gets a sentence, not a syntax error."""
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    with pytest.raises(ImportError, match=r"nxparse needs Python 3\.11 or later"):
        importlib.reload(nxparse)

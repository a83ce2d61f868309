from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mitmdump import Proxy

os.environ["HYPOTHESIS_NO_PLUGINS"] = "1"  # no test uses them, and one imports trio


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """With `-n`, let idle workers take tests from busy ones."""
    if getattr(config.option, "numprocesses", None) and config.option.dist == "no":
        config.option.dist = "worksteal"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy that the tests of a module share: each uses file names of its own."""
    with Proxy(tmp_path_factory.mktemp("proxy")) as proxy:
        yield proxy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder to start a proxy in."""
    return tmp_path

"""Network namespaces of Linux."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import pytest

from tests.fork_server import ROOT, enter_namespace

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

MISSING = [name for name in ("ip", "nft") if shutil.which(name) is None]
needs_namespace = pytest.mark.skipif(
    os.geteuid() != 0 or bool(MISSING), reason=f"needs root, iproute2 and nftables (no {MISSING})"
)


def run(*command: str, stdin: bytes = b"") -> str:
    """Run a command that succeeds. Returns its output."""
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, cwd=ROOT)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout.decode()


@contextmanager
def namespace(purpose: str, *commands: str) -> Iterator[list[str]]:
    """A namespace in which these commands have run. Yields the command that enters it."""
    name = f"nx{os.getpid()}{purpose}"
    inside = ["ip", "netns", "exec", name]
    try:
        subprocess.run(["ip", "netns", "add", name], check=True)
        for command in ("ip link set lo up", *commands):
            subprocess.run([*inside, *shlex.split(command)], check=True)
        yield inside
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def call_in(
    name: str,
    function: Callable[Arguments, Result],
    *positional: Arguments.args,
    **named: Arguments.kwargs,
) -> Result:
    """Call a function in a namespace, and in a thread."""
    with ThreadPoolExecutor(1, initializer=enter_namespace, initargs=(name,)) as pool:
        return pool.submit(function, *positional, **named).result()

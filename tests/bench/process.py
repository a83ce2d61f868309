"""What a process uses, from Linux's /proc: CPU seconds and MiB of memory."""

from __future__ import annotations

import os
import re
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


class Usage:
    """What a process uses from now on."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
        self._cpu = _cpu(pid)

    def cpu(self) -> float:
        """Its own CPU time and the kernel's for it, in seconds."""
        return _cpu(self._pid) - self._cpu

    def peak(self) -> float:
        """The most of its memory that was resident at a time, in MiB."""
        return peak(self._pid)


def peak(pid: int) -> float:
    """The most of its memory that was ever resident, in MiB."""
    return _memory(pid, "VmHWM")


def resident(pid: int) -> float:
    """How much of its memory is resident, in MiB."""
    return _memory(pid, "VmRSS")


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _memory(pid: int, name: str) -> float:
    match = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match
    return int(match[1]) / 1024

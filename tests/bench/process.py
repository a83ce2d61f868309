"""CPU seconds and MiB of memory that a process uses, from Linux's /proc."""

from __future__ import annotations

import os
import re
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


class Usage:
    """CPU time and peak memory of a process, from now on."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets the peak
        self._cpu = _cpu(pid)

    def cpu(self) -> float:
        """User and system CPU time, in seconds."""
        return _cpu(self._pid) - self._cpu

    def peak(self) -> float:
        """Peak resident memory, in MiB."""
        return peak(self._pid)


def peak(pid: int) -> float:
    """Peak resident memory of a process, in MiB."""
    return _memory(pid, "VmHWM")


def resident(pid: int) -> float:
    """Resident memory of a process, in MiB."""
    return _memory(pid, "VmRSS")


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _memory(pid: int, name: str) -> float:
    match = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match
    return int(match[1]) / 1024

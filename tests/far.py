"""A server on loopback that appears to be on another machine."""

from __future__ import annotations

import socket
from typing import Any

import pytest

PEER = "192.0.2.25"


class _FarSocket(socket.socket):
    def getpeername(self) -> tuple[str, int]:
        return PEER, super().getpeername()[1]


def appear_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every connection that is opened from now on report PEER as its peer."""
    create = socket.create_connection

    def create_far(*arguments: Any, **options: Any) -> socket.socket:
        near = create(*arguments, **options)
        timeout = near.gettimeout()
        far = _FarSocket(fileno=near.detach())
        far.settimeout(timeout)
        return far

    monkeypatch.setattr(socket, "create_connection", create_far)

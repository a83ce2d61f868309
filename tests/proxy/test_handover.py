from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from nxparse.deliver.outbox import Outbox
from nxparse.proxy.handover import Opened
from nxparse.server.sessions import Sessions
from nxparse.store.spool import Spool


def test_close(tmp_path: Path) -> None:
    """After it is closed, another process may open the folder."""

    def nothing(*_: object) -> Any:
        raise AssertionError("nothing is delivered here")

    root = tmp_path / ".nx"
    for _ in range(2):
        spool = Spool(root)
        sessions = Sessions(root / "sessions.sqlite3")
        outbox = Outbox(spool, nothing, nothing, retry_for=0, clock=time.time)
        Opened(root, spool, sessions, outbox).close()

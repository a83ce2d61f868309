"""Storage and deliveries that stay open while mitmproxy reloads nx_addon.py.

mitmproxy ends the old instance of the addon and starts the new one in one go, while a
delivery may still be running. So the old instance leaves here what it has open, and the
new one takes it over. mitmproxy does not reload this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nxparse.deliver.outbox import Outbox
from nxparse.server.sessions import Sessions
from nxparse.store.spool import Spool


@dataclass(frozen=True, eq=False, slots=True)
class Opened:
    """All that is open in `root`, the folder `.nx`."""

    root: Path
    spool: Spool
    sessions: Sessions
    outbox: Outbox

    def close(self) -> None:
        self.spool.close()
        self.sessions.close()


left: dict[Path, Opened] = {}  # by root

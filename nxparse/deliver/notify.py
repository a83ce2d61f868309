"""A message to any service that Apprise knows, with the photos attached.

Apprise (https://github.com/caronc/apprise) speaks to some hundred services,
each by a URL of its own; it is not needed for anything else here, and is only
looked for when a rule wants it. It tells no more than whether it has worked,
and writes the reason to its log: so every failure is a reason to try again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nxparse.deliver.copies import copies
from nxparse.deliver.errors import TemporaryError, one_line
from nxparse.deliver.privacy import is_loopback
from nxparse.upload import File, Upload

_LOGGER = logging.getLogger("apprise")


def service(url: str) -> Any:
    """What Apprise makes of a URL. Raises ValueError, without the URL, if it is none."""
    try:
        import apprise
    except ImportError:
        raise ValueError("notify needs Apprise: pip install apprise") from None
    # What it says may name secrets; `send` tells what of it can be told.
    _LOGGER.propagate = False
    # In threads of Apprise's own, several services would log where nobody listens.
    found = apprise.Apprise(asset=apprise.AppriseAsset(async_mode=False))
    if not found.add(url):
        raise ValueError("not a URL that Apprise knows, see https://appriseit.com")
    for one in found:
        _check_encryption(one)
    return found


def _check_encryption(one: Any) -> None:
    """Raise ValueError if a service would send a secret unencrypted to another machine."""
    # Apprise writes the scheme that it uses in the end, and leaves out what is secret.
    shown = one.url(privacy=True)
    scheme = shown.partition("://")[0]
    if scheme in _schemes(one.protocol) and shown != one.url() and not is_loopback(one.host or ""):
        secure = " or ".join(f"{name}://" for name in _schemes(one.secure_protocol))
        raise ValueError(
            f"{scheme}:// would send its password or token unencrypted: "
            f"use {secure or 'another service'}"
        )


def _schemes(protocol: str | Sequence[str] | None) -> Sequence[str]:
    return (protocol,) if isinstance(protocol, str) else protocol or ()


def send(upload: Upload, files: Sequence[File], to: Any, folder: Path) -> None:
    """Send the text of an upload, its subject as the title, and these files of it.

    `to` is a `service`; copies of the files are made in `folder`. Raises
    TemporaryError or OSError.
    """
    with copies(files, folder) as paths, _Said() as said:
        taken = to.notify(
            # Most services want some text.
            body=upload.text or upload.subject or "photos",
            title=upload.subject,
            attach=[str(path) for path in paths] or None,
        )
    if not taken:
        raise TemporaryError(f"Apprise could not send it{said.last}")


class _Said(logging.Handler):
    """Records the last warning that Apprise logs in this thread while this is entered."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._last = ""
        thread = threading.get_ident()
        self.addFilter(lambda record: record.thread == thread)

    def __enter__(self) -> _Said:
        _LOGGER.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        _LOGGER.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._last = record.getMessage()

    @property
    def last(self) -> str:
        """The last warning, without anything that looks like a URL or an address."""
        words = (word for word in self._last.split() if "/" not in word and "@" not in word)
        told = one_line(" ".join(words))
        return f": {told}" if told else ""

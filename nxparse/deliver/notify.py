"""The target `notify:URL`: a message with the photos, through Apprise.

Apprise (https://github.com/caronc/apprise) supports some hundred services, each with URLs of its
own. It is imported only if a rule needs it. It reports no more than success or failure and logs
the reason, so all failures are temporary errors.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nxparse.deliver.copies import copies
from nxparse.deliver.errors import Outcome, TemporaryError, clean_text
from nxparse.deliver.privacy import is_loopback
from nxparse.store.records import Delivery
from nxparse.upload import File, Upload

_LOGGER = logging.getLogger("apprise")


def parse_service(url: str) -> Any:
    """Return the Apprise object for a URL. Raises ValueError, without the URL."""
    try:
        import apprise
    except ImportError:
        raise ValueError("notify needs Apprise: .venv/bin/pip install apprise") from None
    _LOGGER.propagate = False  # its messages may contain secrets
    # Otherwise several services would log in other threads than the one of `deliver`.
    service = apprise.Apprise(asset=apprise.AppriseAsset(async_mode=False))
    if not service.add(url):
        raise ValueError("not a URL that Apprise knows, see https://appriseit.com")
    for one in service:
        _check_encryption(one)
    return service


def _check_encryption(service: Any) -> None:
    """Raise ValueError if a service would send a secret unencrypted to another machine."""
    # Apprise writes the scheme that it will use, and replaces secrets.
    shown = service.url(privacy=True)
    scheme = shown.partition("://")[0]
    has_secret = shown != service.url()
    if scheme in _schemes(service.protocol) and has_secret and not is_loopback(service.host or ""):
        secure = " or ".join(f"{name}://" for name in _schemes(service.secure_protocol))
        raise ValueError(
            f"{scheme}:// would send its password or token unencrypted: "
            f"use {secure or 'another service'}"
        )


def _schemes(protocol: str | Sequence[str] | None) -> Sequence[str]:
    return (protocol,) if isinstance(protocol, str) else protocol or ()


def deliver(
    service: Any, folder: Path, upload: Upload, files: Sequence[File], delivery: Delivery
) -> Outcome:
    """Send the text of an upload, with its subject as the title, and files of it.

    The files are copied to `folder`. Raises TemporaryError or OSError.
    """
    warnings = _Warnings()
    _LOGGER.addHandler(warnings)
    try:
        with copies(files, folder) as paths:
            is_sent = service.notify(
                # Most services require a text.
                body=upload.text or upload.subject or "photos",
                title=upload.subject,
                attach=[str(path) for path in paths] or None,
            )
    finally:
        _LOGGER.removeHandler(warnings)
    if not is_sent:
        raise TemporaryError(f"Apprise could not send it{warnings.reason}")
    return Outcome("sent by Apprise")


class _Warnings(logging.Handler):
    """Records the last warning of the current thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.reason = ""
        thread = threading.get_ident()
        self.addFilter(lambda record: record.thread == thread)

    def emit(self, record: logging.LogRecord) -> None:
        # URLs and addresses may be secret.
        words = [word for word in record.getMessage().split() if not set("/@") & set(word)]
        self.reason = f": {clean_text(' '.join(words))}" if words else ""

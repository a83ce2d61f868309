"""From a target to the function that delivers to it.

The module of a target is imported only when a rule names it, so that mitmproxy starts fast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from nxparse.address import deliverable
from nxparse.deliver import routes, save
from nxparse.deliver.errors import Outcome, UnreachableError
from nxparse.deliver.outbox import Deliver
from nxparse.deliver.routes import Target
from nxparse.store.records import Delivery
from nxparse.store.spool import UNDELIVERED
from nxparse.text import format_recipients
from nxparse.upload import File, Upload

if TYPE_CHECKING:
    from nxparse.deliver.smarthost import Smarthost

Environ = Mapping[str, str]


class Settings(Protocol):
    """The options that deliveries depend on."""

    @property
    def dir(self) -> Path: ...
    @property
    def smtp(self) -> Smarthost | None: ...
    @property
    def mail_from(self) -> str | None: ...


def deliver_to(settings: Settings, environ: Environ, target: str) -> Deliver:
    """Return the function that delivers to a target, which the options may no longer contain.

    Raises UnreachableError if it cannot be used now: the user may correct the options.
    """
    try:
        return prepare(settings, environ, routes.parse_target(target))
    except ValueError as error:
        raise UnreachableError(str(error)) from None


def prepare(settings: Settings, environ: Environ, target: Target) -> Deliver:
    """Parse the argument of a target and return the function that delivers to it.

    Raises ValueError, without secrets.
    """
    is_url = target.kind in ("forward", "mastodon")
    argument = routes.expand(target.argument, environ, url=is_url)
    if target.argument and not argument.strip():
        raise ValueError(f"{routes.shown(target.text)} needs an argument: its variable is empty")
    private = settings.dir / ".nx"  # for temporary copies of photos
    match target.kind:
        case "save":
            folder = save.parse_path(argument) if argument else settings.dir
            return partial(save.deliver, folder)
        case "mail":
            if "://" in argument:  # it may contain a password
                raise ValueError("a URL is not an e-mail address")
            address = deliverable(argument) if argument else ""
            if not settings.smtp:
                example = "smtps://user:password@host"
                raise ValueError(f"nx_smtp is not set: add --set nx_smtp={example}")
            from nxparse.deliver import mail

            return partial(mail.deliver, settings.smtp, settings.mail_from, address)
        case "run":
            from nxparse.deliver import run

            # A variable stays one word, whatever is in it.
            words = run.parse_command(target.argument)
            return partial(run.deliver, words, environ, private)
        case "forward":
            from nxparse.deliver import forward

            return partial(forward.deliver, forward.parse_server(argument))
        case "mastodon":
            from nxparse.deliver import mastodon

            return partial(mastodon.deliver, mastodon.parse_account(argument))
        case "notify":
            from nxparse.deliver import notify

            return partial(notify.deliver, notify.parse_service(argument), private)
        case "drop":
            return _drop
    raise ValueError(f"unknown target {target.kind!r}")


def _drop(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
    return Outcome(f"dropped by the rule for {format_recipients(delivery.recipients)}")


def save_undelivered(
    directory: Path, upload: Upload, files: Sequence[File], delivery: Delivery
) -> Outcome:
    """Save the files of a failed delivery in `undelivered/` below nx_dir."""
    return save.deliver(directory / UNDELIVERED, upload, files, delivery)

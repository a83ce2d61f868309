"""From a target to the function that delivers to it.

The module of a target is imported only when a rule names it, so that mitmproxy starts fast.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from nxparse.address import deliverable, is_deliverable
from nxparse.deliver import routes
from nxparse.deliver.errors import (
    Outcome,
    PermanentError,
    TemporaryError,
    TooLargeError,
    UnreachableError,
)
from nxparse.deliver.outbox import Deliver
from nxparse.deliver.routes import Target
from nxparse.deliver.save import describe_saved, parse_folder, save
from nxparse.store.records import Delivery
from nxparse.store.saved import LocalCopy
from nxparse.text import format_list, format_recipients
from nxparse.upload import File, Upload, camera, encoded

if TYPE_CHECKING:
    from nxparse.deliver.smarthost import Smarthost

UNDELIVERED = "undelivered"

Environ = Mapping[str, str]


class Settings(Protocol):
    """The options that deliveries depend on."""

    @property
    def dir(self) -> Path: ...
    @property
    def smtp(self) -> Smarthost | None: ...
    @property
    def mail_from(self) -> str: ...


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
    argument = routes.expand_argument(target, environ)
    if target.kind == "run":  # a variable stays one word, whatever is in it
        return _run(settings, environ, target.argument)
    return _TARGETS[target.kind](settings, argument)


def save_undelivered(directory: Path, files: Sequence[File], delivery: Delivery) -> str:
    """Save the files of a failed delivery in `undelivered/` below nx_dir."""
    received = delivery.arrival.received
    return describe_saved(save(files, directory / UNDELIVERED, received, delivery.id))


def _save(settings: Settings, argument: str) -> Deliver:
    directory = parse_folder(argument) if argument else settings.dir

    def deliver(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
        saved = save(files, directory, delivery.arrival.received, delivery.id)
        found = tuple(LocalCopy(one.path, one.identity) for one in saved)
        return Outcome(describe_saved(saved), saved=found)

    return deliver


def _drop(settings: Settings, argument: str) -> Deliver:
    def deliver(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
        return Outcome(f"dropped by the rule for {format_recipients(delivery.recipients)}")

    return deliver


def _run(settings: Settings, environ: Environ, argument: str) -> Deliver:
    from nxparse.deliver import run

    words = run.parse_command(argument)
    if not routes.expand(words[0], environ).strip():
        raise ValueError("the program has no name: a variable is empty")

    def deliver(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
        if len(files) > 1:
            raise TooLargeError("a command gets one file at a time")
        values = {
            "sender": upload.sender,
            "recipient": ",".join(delivery.recipients),
            "subject": upload.subject,
            "text": upload.text,
            "camera": camera(upload),
        }
        for file in files:
            run.run(words, file, values, environ, settings.dir / ".nx")
        return Outcome(f"ran {Path(words[0]).name}" if files else "no file to run a command for")

    return deliver


def _forward(settings: Settings, argument: str) -> Deliver:
    from nxparse.deliver import forward

    server = forward.parse_server(argument)

    def deliver(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
        body = encoded(upload, files, delivery.id)
        status = forward.send(body, delivery.id, server, time.time())
        return Outcome(f"forwarded to {server}, status {status}")

    return deliver


def _mastodon(settings: Settings, argument: str) -> Deliver:
    from nxparse.deliver import mastodon

    account = mastodon.parse_account(argument)

    def deliver(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
        # The subject of a post to a site was not typed by its user.
        text = upload.text or ("" if delivery.arrival.site else upload.subject)
        if delivery.file_number:  # leave out the descriptions of the other files
            text, *descriptions = text.split("~")
            text = "~".join([text, *descriptions[delivery.file_number - 1 : delivery.file_number]])
        # Another target may post the same upload to the same account, in another way.
        key = hashlib.sha256(f"{delivery.id} {delivery.target}".encode()).hexdigest()[:32]
        return Outcome(mastodon.send(upload, files, text, account, key, delivery.progress))

    return deliver


def _notify(settings: Settings, argument: str) -> Deliver:
    from nxparse.deliver import notify

    service = notify.parse_service(argument)

    def deliver(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
        notify.send(upload, files, service, settings.dir / ".nx")
        return Outcome("sent by Apprise")

    return deliver


def _mail(settings: Settings, argument: str) -> Deliver:
    if "://" in argument:  # it may contain a password
        raise ValueError("a URL is not an e-mail address")
    address = deliverable(argument) if argument else ""

    def deliver(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
        from nxparse.deliver import mail

        if not settings.smtp:
            raise UnreachableError("nx_smtp is not set")
        recipients = [address] if address else delivery.recipients
        mail_from = settings.mail_from
        if delivery.arrival.site and not mail_from and not is_deliverable(upload.sender):
            mail_from = address  # the user name of a site need not be an address
        date = delivery.arrival.received
        try:
            message = mail.compose(
                upload, files, recipients, id=delivery.id, date=date, mail_from=mail_from
            )
        except ValueError as error:
            raise PermanentError(str(error)) from None
        refused = mail.send(message, settings.smtp)
        if address and refused:
            [one] = refused
            raise (PermanentError if one.permanent else TemporaryError)(one.reason)
        missed = {one.recipient for one in refused}
        reached = [sent for sent, as_given in message.recipients.items() if as_given not in missed]
        summary = f"mailed to {format_list(reached)}" if reached else "not mailed"
        return Outcome(f"{summary} through {settings.smtp}", tuple(refused))

    return deliver


_TARGETS: Mapping[str, Callable[[Settings, str], Deliver]] = {
    "save": _save,
    "mail": _mail,
    "forward": _forward,
    "mastodon": _mastodon,
    "notify": _notify,
    "drop": _drop,
}

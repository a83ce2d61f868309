"""From the text of a target to the function that delivers to it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from nxparse.address import is_deliverable
from nxparse.deliver import forward, mail, mastodon, notify, routes, run
from nxparse.deliver.errors import (
    Outcome,
    PermanentError,
    TemporaryError,
    TooLargeError,
    UnreachableError,
)
from nxparse.deliver.outbox import Deliver
from nxparse.deliver.save import describe_saved, save
from nxparse.store.records import Delivery
from nxparse.store.saved import SavedFile
from nxparse.text import format_list, format_recipients
from nxparse.upload import File, Upload, camera, encoded

UNDELIVERED = "undelivered"


class Settings(Protocol):
    """The options that deliveries depend on."""

    @property
    def dir(self) -> Path: ...
    @property
    def smtp(self) -> mail.Smarthost | None: ...
    @property
    def mail_from(self) -> str: ...


def deliver_to(settings: Settings, environ: Mapping[str, str], target: str) -> Deliver:
    """The function for a target, which may be one that is no longer in the options.

    Raises UnreachableError if it cannot be used now: somebody may mend the options.
    """
    try:
        found = routes.target(target)
        argument = routes.expand_argument(found, environ)
        if found.argument and not argument.strip():
            shown = routes.shown(found.text)
            raise ValueError(f"nothing stands behind {shown}: a variable is empty")
        match found.kind:
            case "save":
                return partial(_save, Path(argument).expanduser() if argument else settings.dir)
            case "mail":
                return partial(_mail, settings, argument)
            case "run":
                words = run.command(found.argument)
                return partial(_run, settings.dir / ".nx", words, environ)
            case "forward":
                return partial(_forward, forward.server(argument))
            case "mastodon":
                return partial(_mastodon, mastodon.account(argument))
            case "notify":
                return partial(_notify, notify.service(argument), settings.dir / ".nx")
            case _:
                return _drop
    except (ValueError, RuntimeError) as error:  # RuntimeError: ~somebody who does not exist
        raise UnreachableError(str(error)) from None


def keep(directory: Path, upload: Upload, files: Sequence[File], delivery: Delivery) -> str:
    """Put the files of a delivery that has failed below nx_dir, where a person finds them."""
    received = delivery.arrival.received
    return describe_saved(save(files, directory / UNDELIVERED, received, delivery.id))


def _save(directory: Path, upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
    saved = save(files, directory, delivery.arrival.received, delivery.id)
    return Outcome(
        describe_saved(saved), saved=tuple(SavedFile(one.path, one.identity) for one in saved)
    )


def _drop(upload: Upload, files: Sequence[File], delivery: Delivery) -> Outcome:
    return Outcome(f"dropped, as the rule for {format_recipients(delivery.recipients)} says")


def _run(
    folder: Path,
    words: Sequence[str],
    environ: Mapping[str, str],
    upload: Upload,
    files: Sequence[File],
    delivery: Delivery,
) -> Outcome:
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
        run.run(words, file, values, environ, folder)
    return Outcome(f"{Path(words[0]).name} has done it" if files else "has no file for a command")


def _forward(
    server: forward.Server, upload: Upload, files: Sequence[File], delivery: Delivery
) -> Outcome:
    said = forward.send(encoded(upload, files, delivery.id), delivery.id, server, time.time())
    return Outcome(f"forwarded to {server}, which says {said}")


def _mastodon(
    account: mastodon.Account, upload: Upload, files: Sequence[File], delivery: Delivery
) -> Outcome:
    # What came to a site has a subject that nobody has typed.
    text = upload.text or ("" if delivery.arrival.site else upload.subject)
    if delivery.file_number:  # what is to be seen on the others is not to be seen on this one
        text, *descriptions = text.split("~")
        text = "~".join([text, *descriptions[delivery.file_number - 1 : delivery.file_number]])
    # Another target may post the same upload to the same account, in another way.
    key = hashlib.sha256(f"{delivery.id} {delivery.target}".encode()).hexdigest()[:32]
    return Outcome(mastodon.send(upload, files, text, account, key, delivery.progress))


def _notify(
    service: Any, folder: Path, upload: Upload, files: Sequence[File], delivery: Delivery
) -> Outcome:
    notify.send(upload, files, service, folder)
    return Outcome("sent by Apprise")


def _mail(
    settings: Settings, address: str, upload: Upload, files: Sequence[File], delivery: Delivery
) -> Outcome:
    if not settings.smtp:
        raise UnreachableError("nx_smtp names no mail server any more")
    recipients = [address] if address else delivery.recipients
    mail_from = settings.mail_from
    if delivery.arrival.site and not mail_from and not is_deliverable(upload.sender):
        mail_from = address  # a site's user need not have one
    try:
        letter = mail.compose(
            upload,
            files,
            recipients,
            id=delivery.id,
            date=delivery.arrival.received,
            mail_from=mail_from,
        )
    except ValueError as error:
        raise PermanentError(str(error)) from None
    refused = {one.recipient: one for one in mail.send(letter, settings.smtp)}
    if address and refused:
        [one] = refused.values()
        raise (PermanentError if one.permanent else TemporaryError)(one.reason)
    # The letter has the recipients in the spelling that the server knows.
    spelled = list(zip(recipients, letter.recipients, strict=True))
    reached = [known for _, known in spelled if known not in refused]
    told = f"mailed to {format_list(reached)}" if reached else "not mailed"
    return Outcome(
        f"{told} through {settings.smtp}",
        tuple(
            replace(refused[known], recipient=typed) for typed, known in spelled if known in refused
        ),
    )

"""The message of an e-mail upload: a small XML document in the part `message`.

As an NX300 writes it (wiki page "Email-service" of ge0rg/samsung-nx-hacks)::

    <?xml version="1.0" encoding="UTF-8"?>
    <email><sender>A</sender><receiverList><receiver>B</receiver>...</receiverList>
    <title><![CDATA[...]]></title>
    <body><![CDATA[text
    language_sh100_utf8]]></body></email>

The last line of the text is a marker for Samsung's server. Sender and receivers are bare
addresses or `Name <address>`.
"""

from __future__ import annotations

import re
from html import escape
from typing import NamedTuple

from nxparse import markup
from nxparse.address import comparable
from nxparse.deviation import BodyError, Deviation, Kind
from nxparse.markup import Element, one_line

MAX_RECIPIENTS = 64

_MARKER = re.compile(r"(?:\A|\r?\n)language_sh100_utf8\s*\Z")
_FIELDS = ("sender", "receiver", "title", "body")


class Message(NamedTuple):
    """The fields of a message.

    `sender` and `recipients` are bare addresses as typed, not checked. `sender_name` is the name
    before the sender's address. There are no duplicate recipients. Offsets in `deviations` count
    from the beginning of the message.
    """

    sender: str
    sender_name: str
    recipients: tuple[str, ...]
    subject: str
    text: str
    deviations: tuple[Deviation, ...] = ()


def parse(data: bytes) -> Message:
    """Parse the message part. Raises BodyError."""
    elements, deviations = markup.read(data, _FIELDS)
    values = {field: [*_texts(elements, field)] for field in _FIELDS}
    sender_name, sender = _mailbox(values["sender"][0] if values["sender"] else "")
    if not sender:
        deviations.append(Deviation(Kind.NO_SENDER, 0))
    return Message(
        sender=sender,
        sender_name=sender_name,
        recipients=_recipients(values["receiver"]),
        subject=one_line(values["title"][0]) if values["title"] else "",
        text=_MARKER.sub("", values["body"][0]) if values["body"] else "",
        deviations=tuple(deviations),
    )


def compose(message: Message) -> bytes:
    """Write a message as a camera does. Characters that XML does not allow are left out."""
    receivers = "".join(f"<receiver>{_text(one)}</receiver>" for one in message.recipients)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<email><sender>{_text(message.sender)}</sender>"
        f"<receiverList>{receivers}</receiverList>"
        f"<title>{_text(message.subject)}</title><body>{_text(message.text)}</body></email>"
    ).encode()


def _text(value: str) -> str:
    return escape(markup.FORBIDDEN.sub("", value), quote=False)


def _texts(elements: list[Element], field: str) -> list[str]:
    # A cut address is wrong; a cut text is still useful.
    cut_is_wrong = field in ("sender", "receiver")
    return [
        element.text
        for element in elements
        if element.name == field and (element.whole or not cut_is_wrong)
    ]


def _mailbox(value: str) -> tuple[str, str]:
    """Split `Name <address>` into name and address."""
    value = one_line(value)
    if value.endswith(">") and "<" in value:
        name, _, address = value[:-1].rpartition("<")
        return name.strip().strip('"'), address.strip()
    return "", value


def _recipients(values: list[str]) -> tuple[str, ...]:
    """Return the recipients in order, without duplicates in any spelling."""
    addresses: dict[str, str] = {}
    for value in values:
        for piece in _listed(value):
            address = _mailbox(piece)[1]
            if address:
                addresses.setdefault(comparable(address), address)
    if not addresses:
        raise BodyError("the message names no receiver")
    if len(addresses) > MAX_RECIPIENTS:
        raise BodyError(f"the message names more than {MAX_RECIPIENTS} receivers")
    return tuple(addresses.values())


def _listed(value: str) -> list[str]:
    """Split at commas and semicolons, if each piece is an address."""
    pieces = [piece for piece in re.split("[,;]", value) if piece.strip()]
    return pieces if all("@" in piece for piece in pieces) else [value]

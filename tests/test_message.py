"""The message of an upload: as captured, damaged, and hostile."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nxparse import message
from nxparse.deviation import BodyError, Deviation, Kind
from nxparse.markup import MAX_BYTES, MAX_DEPTH, MAX_ELEMENTS
from nxparse.message import MAX_RECIPIENTS, Message, compose

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'


def xml(
    sender: str = "<sender>a@x.org</sender>",
    receivers: str = "<receiverList><receiver>b@x.org</receiver></receiverList>",
    title: str = "<title>T</title>",
    body: str = "<body>B</body>",
) -> str:
    """A message of these elements."""
    return f"<email>{sender}{receivers}{title}{body}</email>"


def read(document: str | bytes) -> tuple[str, tuple[str, ...], str, str, str]:
    """The parsed message, without the name of the sender."""
    found = message.parse(document.encode() if isinstance(document, str) else document)
    return (found.sender, found.recipients, found.subject, found.text, kinds(found))


def kinds(found: Message) -> str:
    return " ".join(map(str, found.deviations))


CLEAN = ""
BROKEN = "xml-malformed"

TEXTS = {
    "no-marker": ("<body>Hello</body>", "Hello", CLEAN),
    "marker": ("<body>a\nlanguage_sh100_utf8</body>", "a", CLEAN),
    "marker-crlf": ("<body>a\r\nlanguage_sh100_utf8\r\n </body>", "a", CLEAN),
    "marker-real-cr": ("<body>a&#13;\nlanguage_sh100_utf8</body>", "a", CLEAN),
    "marker-alone": ("<body>language_sh100_utf8</body>", "", CLEAN),
    "marker-in-the-middle": ("<body>a\nlanguage_sh100_utf8\nb</body>", "a\nlanguage_sh100_utf8\nb",
        CLEAN),
    "split-cdata-malformed": ("<body>&<![CDATA[a]]]]><![CDATA[>b <c> &amp;]]></body>",
        "&a]]>b <c> &amp;", BROKEN),
    "ampersand": ("<body>Tom & Jerry</body>", "Tom & Jerry", BROKEN),
    "less-than": ("<body>I <3 you</body>", "I <3 you", BROKEN),
    "references": ("<body>& &amp; &lt;&gt; &quot;&apos; &#65;&#x42; &nbsp;</body>",
        "& & <> \"' AB &nbsp;", BROKEN),
    "empty": ("<body/>", "", CLEAN),
    "missing": ("", "", CLEAN),
    "twice": ("<body>a</body><body>b</body>", "a", CLEAN),
    "nul": ("<body>a\0b\x1bc</body>", "abc", BROKEN),
    "surrogate": ("<body>&#xD800;&#0;</body>", "\ufffd\ufffd", BROKEN),
}  # fmt: skip


@pytest.mark.parametrize(("body", "text", "noticed"), TEXTS.values(), ids=TEXTS)
def test_text(body: str, text: str, noticed: str) -> None:
    """The text is returned exactly as the user wrote it."""
    assert read(xml(body=body)) == ("a@x.org", ("b@x.org",), "T", text, noticed)


SUBJECTS = {
    "empty": ("<title/>", "", CLEAN),
    "missing": ("", "", CLEAN),
    "upper-case": ("<TITLE>a</TITLE>", "a", CLEAN),
    "line-end": ("<title>a\r\nb</title>", "a b", CLEAN),
    "injection": ("<title>a&#13;&#10;Bcc: c@x.org</title>", "a Bcc: c@x.org", CLEAN),
    "unicode-line-ends": ("<title>a\u2028b\u2029c\x85d\x7fe</title>", "a b c d e", CLEAN),
    "controls": ("<title>a\x0bb\x0cc\0d</title>", "abcd", BROKEN),
}  # fmt: skip


@pytest.mark.parametrize(("title", "subject", "noticed"), SUBJECTS.values(), ids=SUBJECTS)
def test_subject(title: str, subject: str, noticed: str) -> None:
    """The subject is always one line."""
    assert read(xml(title=title)) == ("a@x.org", ("b@x.org",), subject, "B", noticed)


SENDERS = {
    "bare": ("<sender>a@x.org</sender>", ("", "a@x.org"), CLEAN),
    "name": ("<sender>Me &lt;a@x.org&gt;</sender>", ("Me", "a@x.org"), CLEAN),
    "quoted-name": ('<sender>"M, E" &lt; a@x.org &gt;</sender>', ("M, E", "a@x.org"), CLEAN),
    "name-not-escaped": ("<sender>Me <a@x.org></sender>", ("Me", "a@x.org"), BROKEN),
    "longer-in-lower-case": ("<sender>İİ &lt;a@x.org></sender>&", ("İİ", "a@x.org"), BROKEN),
    "missing": ("", ("", ""), "no-sender"),
    "empty": ("<sender/>", ("", ""), "no-sender"),
    "name-alone": ("<sender>Me &lt;&gt;</sender>", ("Me", ""), "no-sender"),
    "twice": ("<sender>a@x.org</sender><sender>b@x.org</sender>", ("", "a@x.org"), CLEAN),
}  # fmt: skip


@pytest.mark.parametrize(("sender", "expected", "noticed"), SENDERS.values(), ids=SENDERS)
def test_sender(sender: str, expected: tuple[str, str], noticed: str) -> None:
    """The sender is split into name and address, and otherwise unchanged."""
    found = message.parse(xml(sender=sender).encode())
    assert (found.sender_name, found.sender) == expected
    assert kinds(found) == noticed


def receivers(*names: str) -> str:
    return "".join(f"<receiver>{name}</receiver>" for name in names)


NUMBERED = [f"r{number}@x.org" for number in range(MAX_RECIPIENTS + 1)]

RECIPIENTS = {
    "duplicates": (receivers("b@x.org", "B@X.org", "c@x.org", "b@x.org"), ("b@x.org", "c@x.org")),
    "duplicates-in-other-letters": (
        receivers("b@ex\uff41mple.org", "b@example.org", "B@example\u3002org"),
        ("b@ex\uff41mple.org",)),
    "duplicates-in-idna": (receivers("b@xn--bcher-kva.example", "b@b\u00fccher.example"),
        ("b@xn--bcher-kva.example",)),
    "no-duplicates": (receivers("ß@x.org", "ss@x.org"), ("ß@x.org", "ss@x.org")),
    "blanks": (receivers(" b@x.org ", "\n\tc@x.org\r\n"), ("b@x.org", "c@x.org")),
    "lists": (receivers("b@x.org, c@x.org;d@x.org;"), ("b@x.org", "c@x.org", "d@x.org")),
    "list-with-name": (receivers("B &lt;b@x.org&gt;, c@x.org"), ("b@x.org", "c@x.org")),
    "quoted-name": (receivers('"x" &lt;b@x.org&gt;'), ("b@x.org",)),
    "comma-in-the-name": (receivers('"B, C" &lt;b@x.org&gt;'), ("b@x.org",)),
    "no-address": (receivers("facebook"), ("facebook",)),
}  # fmt: skip


@pytest.mark.parametrize(("element", "recipients"), RECIPIENTS.values(), ids=RECIPIENTS)
def test_recipients(element: str, recipients: tuple[str, ...]) -> None:
    """Recipients are in order, as typed, without duplicates, with or without a list element."""
    assert read(xml(receivers=element)) == ("a@x.org", recipients, "T", "B", CLEAN)
    listed = f"<receiverList>{element}</receiverList>"
    assert read(xml(receivers=listed)) == ("a@x.org", recipients, "T", "B", CLEAN)


NO_RECEIVER = "the message names no receiver"
TOO_MANY = "the message names more than 64 receivers"
TOO_LONG = "the XML is longer than 65536 bytes"
ELEMENTS = "the XML has more elements than any camera writes"
DOCTYPE = "the XML has a DOCTYPE or an ENTITY, which no camera sends"

REFUSED = {
    "empty": ("", NO_RECEIVER),
    "empty-list": (xml(receivers="<receiverList/>"), NO_RECEIVER),
    "only-a-name": (xml(receivers=receivers("B &lt;&gt;")), NO_RECEIVER),
    "attribute": (f"<email a='{'x' * 5_000_000}'/>", TOO_LONG),
    "doctype": ("<!DOCTYPE email><email/>", DOCTYPE),
    "entity": ("<!DOCTYPE e [<!ENTITY a 'b'>]>" + xml(title="&a;"), DOCTYPE),
    "malformed": ("&<!DOCTYPE e>" + xml(), DOCTYPE),
    "entity-without-doctype": (xml(title="<title><![CDATA[a]]>&<!ENTITY a 'b'></title>"), DOCTYPE),
}  # fmt: skip


@pytest.mark.parametrize(("document", "reason"), REFUSED.values(), ids=REFUSED)
def test_refused(document: str, reason: str) -> None:
    """A message without recipients or beyond a limit is refused with a reason."""
    with pytest.raises(BodyError) as caught:
        message.parse(document.encode())
    status = 413 if reason == TOO_LONG else 400
    assert (str(caught.value), caught.value.status) == (reason, status)


def nested(depth: int) -> str:
    return "<b>" * depth + "</b>" * depth


ROOM = MAX_BYTES - len(xml(body="<body></body>"))

LIMITS: dict[str, tuple[Callable[[int], str], str]] = {
    "bytes": (lambda more: xml(body=f"<body>{'x' * (ROOM + more)}</body>"), TOO_LONG),
    "depth": (lambda more: xml(body=nested(MAX_DEPTH - 1 + more)), ELEMENTS),
    "elements": (lambda more: xml(body="<b/>" * (MAX_ELEMENTS - 5 + more)), ELEMENTS),
    "recipients": (lambda more: xml(receivers=receivers(*NUMBERED[: 64 + more])), TOO_MANY),
    "searched-elements": (
        lambda more: "&" + xml(receivers="<x>" * (MAX_ELEMENTS - 3 + more) + receivers("b@x.org")),
        NO_RECEIVER,
    ),
}


@pytest.mark.parametrize(("document", "reason"), LIMITS.values(), ids=LIMITS)
def test_limits(document: Callable[[int], str], reason: str) -> None:
    """Each limit is exact."""
    assert read(document(0))[1]
    with pytest.raises(BodyError, match=reason):
        message.parse(document(1).encode())


@pytest.mark.parametrize(
    ("document", "noticed"),
    [
        (DECLARATION + xml(), CLEAN),
        ("\r\n \t" + DECLARATION + xml(), CLEAN),
        ("\ufeff" + DECLARATION + xml(), CLEAN),
        (xml() + "\0\0\0", BROKEN),
        (xml() + xml(), BROKEN),
    ],
    ids=["declaration", "newline-before", "bom", "nuls-after", "twice"],
)
def test_damaged_frame(document: str, noticed: str) -> None:
    """Surplus or missing bytes around the elements do not change them."""
    recipients = ("b@x.org",)
    assert read(document) == ("a@x.org", recipients, "T", "B", noticed)


def test_cut_message() -> None:
    """Incomplete addresses of a cut message are ignored."""
    document = xml(receivers=receivers("b@x.org", "c@x.org"))
    first, second = document.index("</receiver>") + 11, document.rindex("</receiver>") + 11
    title = document.index("</title>") + 8
    for end in range(first, len(document)):
        sender, recipients, subject, _, noticed = read(document[:end])
        expected = ("b@x.org", "c@x.org")[: 1 + (end >= second)]
        assert (sender, recipients, noticed) == ("a@x.org", expected, BROKEN)
        assert subject == "T" or end < title
    assert read(xml(body="<body>The text")[:-10])[3] == "The te"
    sender, *_, noticed = read(f"<email>{receivers('b@x.org')}<sender>a@x.o")
    assert (sender, noticed) == ("", "xml-malformed no-sender")


KOREAN = "사진"

IN_KOREAN = xml(title=f"<title>{KOREAN}</title>")


def declared(encoding: str) -> str:
    return f"<?xml version='1.0' encoding='{encoding}'?>"


ENCODINGS = {
    "utf-8": ((DECLARATION + IN_KOREAN).encode(), KOREAN, []),
    "korean-undeclared": (IN_KOREAN.encode("cp949"), KOREAN, ["utf-8 is cp949"]),
    "EUC-KR": ((declared("EUC-KR") + IN_KOREAN).encode("euc-kr"), KOREAN, []),
    "cp949": ((declared("cp949") + IN_KOREAN).encode("cp949"), KOREAN, []),
    "utf-16": ((declared("UTF-16") + IN_KOREAN).encode("utf-16"), KOREAN, []),
    "utf-16-undeclared": (IN_KOREAN.encode("utf-16"), KOREAN, []),
    "unknown": ((declared("x-unknown") + xml()).encode(), "T", ["x-unknown is utf-8"]),
    "wrongly-declared-utf-16": ((declared("utf-16") + xml()).encode(), "T", ["utf-16 is utf-8"]),
    "not-utf-8": (
        xml(title="<title>a#b</title>").encode().replace(b"#", b"\xff"),
        "a\ufffdb",
        ["neither utf-8 nor UTF-8"],
    ),
}


@pytest.mark.parametrize(("document", "title", "details"), ENCODINGS.values(), ids=ENCODINGS)
def test_encodings(document: bytes, title: str, details: list[str]) -> None:
    """A wrong encoding is detected and reported."""
    assert message.parse(document) == Message(
        sender="a@x.org",
        sender_name="",
        recipients=("b@x.org",),
        subject=title,
        text="B",
        deviations=tuple(Deviation(Kind.XML_ENCODING, 0, detail) for detail in details),
    )


def test_detail() -> None:
    """The detail of the deviation is expat's message."""
    (deviation,) = message.parse(xml(title="<title>&</title>").encode()).deviations
    assert deviation.detail == "not well-formed (invalid token): line 1, column 96"


@pytest.mark.parametrize(
    "text", ["<receiver>c@x.org</receiver>", "<title>C</title>", "</body>", "<!DOCTYPE html>"]
)
def test_markup_in_cdata_is_text(text: str) -> None:
    """Markup in CDATA adds no recipient and changes no title."""
    sender = f"<body><![CDATA[{text}]]></body><sender>a@x.org</sender>"
    for inside, noticed in (("", CLEAN), ("&", BROKEN)):
        document = xml(sender=sender, body=f"<x>{inside}</x>")
        assert read(document) == ("a@x.org", ("b@x.org",), "T", text, noticed)


# Composed messages


def test_composed_in_full() -> None:
    """A composed message is exact, byte for byte."""
    given = Message("a@x.org", "A", ("b@x.org", "c@x.org"), "1 < 2", 'Ä & "B"\n]]>')
    document = xml(
        receivers=f"<receiverList>{receivers('b@x.org', 'c@x.org')}</receiverList>",
        title="<title>1 &lt; 2</title>",
        body='<body>Ä &amp; "B"\n]]&gt;</body>',
    )
    assert compose(given).decode() == DECLARATION + document


COMPOSED = {
    "no-sender": ("", "a\nb\tc", "a\nb\tc"),
    "markup": ("anna", "<b>&amp;</body>", "<b>&amp;</body>"),
    "injection": ("a</sender><receiver>x@y", "<!ENTITY e 'x'>&e;", "<!ENTITY e 'x'>&e;"),
    "not-in-XML": ("", "a\0b\x1b[31m\x0c\ufffe\uffff", "ab[31m"),
    "surrogates": ("", "a\ud800b\udfffc", "abc"),
}


@pytest.mark.parametrize(("sender", "text", "expected"), COMPOSED.values(), ids=COMPOSED)
def test_composed(sender: str, text: str, expected: str) -> None:
    """A composed message is well-formed. Characters that XML does not allow are left out."""
    found = message.parse(compose(Message(sender, "", ("b@x.org",), "T", text)))
    assert (found.sender_name, found.sender) == ("", sender)
    assert (found.text, found.subject, found.recipients) == (expected, "T", ("b@x.org",))
    assert set(found.deviations) <= {Deviation(Kind.NO_SENDER, 0)}

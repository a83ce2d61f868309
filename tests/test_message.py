"""The message of an upload: as captured, damaged, and hostile."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nxparse import message
from nxparse.deviation import Deviation, Kind
from nxparse.markup import MAX_BYTES, MAX_DEPTH, MAX_ELEMENTS, MarkupError
from nxparse.message import MAX_RECIPIENTS, Message, MessageError, compose
from tests import bodies

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'


def xml(
    sender: str = "<sender>a@x.org</sender>",
    receivers: str = "<receiverList><receiver>b@x.org</receiver></receiverList>",
    title: str = "<title>T</title>",
    body: str = "<body>B</body>",
) -> str:
    """A message of these elements."""
    return f"<email>{sender}{receivers}{title}{body}</email>"


def read(document: str | bytes) -> tuple[str, tuple[str, ...], str, str, list[Kind]]:
    """All that can differ between messages, but for the name of the sender."""
    found = message.parse(document.encode() if isinstance(document, str) else document)
    kinds = [deviation.kind for deviation in found.deviations]
    return (found.sender, found.recipients, found.subject, found.text, kinds)


def test_message_as_captured() -> None:
    """Title and text are exact, without the marker for the server."""
    assert message.parse(bodies.message_xml()) == Message(
        sender="Camera@samsungcamera.com",
        sender_name="",
        recipients=("photos@example.org",),
        subject="[Samsung Smart Camera] sent you files.",
        text="Sent from Samsung Camera.",
    )


CLEAN: list[Kind] = []
BROKEN = [Kind.XML_MALFORMED]
RECODED = [Kind.XML_ENCODING]


@pytest.mark.parametrize(
    ("body", "text", "kinds"),
    [
        pytest.param("<body>Hello</body>", "Hello", CLEAN, id="no-marker"),
        pytest.param("<body>a\nlanguage_sh100_utf8</body>", "a", CLEAN, id="marker"),
        pytest.param("<body>a\r\nlanguage_sh100_utf8\r\n </body>", "a", CLEAN, id="marker-crlf"),
        pytest.param("<body>a&#13;\nlanguage_sh100_utf8</body>", "a", CLEAN, id="marker-real-cr"),
        pytest.param("<body>language_sh100_utf8</body>", "", CLEAN, id="marker-alone"),
        pytest.param(
            "<body>a\nlanguage_sh100_utf8\nb</body>",
            "a\nlanguage_sh100_utf8\nb",
            CLEAN,
            id="marker-in-the-middle",
        ),
        pytest.param(
            "<body>&<![CDATA[a]]]]><![CDATA[>b <c> &amp;]]></body>",
            "&a]]>b <c> &amp;",
            BROKEN,
            id="split-cdata-malformed",
        ),
        pytest.param("<body>Tom & Jerry</body>", "Tom & Jerry", BROKEN, id="ampersand"),
        pytest.param("<body>I <3 you</body>", "I <3 you", BROKEN, id="less-than"),
        pytest.param(
            "<body>& &amp; &lt;&gt; &quot;&apos; &#65;&#x42; &nbsp;</body>",
            "& & <> \"' AB &nbsp;",
            BROKEN,
            id="references",
        ),
        pytest.param("<body/>", "", CLEAN, id="empty"),
        pytest.param("", "", CLEAN, id="missing"),
        pytest.param("<body>a</body><body>b</body>", "a", CLEAN, id="twice"),
        pytest.param("<body>a\0b\x1bc</body>", "abc", BROKEN, id="nul"),
        pytest.param("<body>&#xD800;&#0;</body>", "\ufffd\ufffd", BROKEN, id="surrogate"),
    ],
)
def test_text(body: str, text: str, kinds: list[Kind]) -> None:
    """The text is exactly what the user wrote."""
    assert read(xml(body=body)) == ("a@x.org", ("b@x.org",), "T", text, kinds)


@pytest.mark.parametrize(
    ("title", "subject", "kinds"),
    [
        pytest.param("<title/>", "", CLEAN, id="empty"),
        pytest.param("", "", CLEAN, id="missing"),
        pytest.param("<TITLE>a</TITLE>", "a", CLEAN, id="upper-case"),
        pytest.param("<title>a\r\nb</title>", "a b", CLEAN, id="line-end"),
        pytest.param("<title>a&#13;&#10;Bcc: c@x.org</title>", "a Bcc: c@x.org", CLEAN,
            id="injection"),
        pytest.param("<title>a\u2028b\u2029c\x85d\x7fe</title>", "a b c d e", CLEAN,
            id="unicode-line-ends"),
        pytest.param("<title>a\x0bb\x0cc\0d</title>", "abcd", BROKEN, id="controls"),
    ],
)  # fmt: skip
def test_subject(title: str, subject: str, kinds: list[Kind]) -> None:
    """The subject is always one line."""
    assert read(xml(title=title)) == ("a@x.org", ("b@x.org",), subject, "B", kinds)


@pytest.mark.parametrize(
    ("sender", "expected", "kinds"),
    [
        pytest.param("<sender>a@x.org</sender>", ("", "a@x.org"), CLEAN, id="bare"),
        pytest.param("<sender>Me &lt;a@x.org&gt;</sender>", ("Me", "a@x.org"), CLEAN,
            id="name"),
        pytest.param('<sender>"M, E" &lt; a@x.org &gt;</sender>', ("M, E", "a@x.org"), CLEAN,
            id="quoted-name"),
        pytest.param("<sender>Me <a@x.org></sender>", ("Me", "a@x.org"), BROKEN,
            id="name-not-escaped"),
        pytest.param("<sender>İİ &lt;a@x.org></sender>&", ("İİ", "a@x.org"), BROKEN,
            id="longer-in-lower-case"),
        pytest.param("", ("", ""), [Kind.NO_SENDER], id="missing"),
        pytest.param("<sender/>", ("", ""), [Kind.NO_SENDER], id="empty"),
        pytest.param("<sender>Me &lt;&gt;</sender>", ("Me", ""), [Kind.NO_SENDER],
            id="name-alone"),
        pytest.param("<sender>a@x.org</sender><sender>b@x.org</sender>", ("", "a@x.org"), CLEAN,
            id="twice"),
    ],
)  # fmt: skip
def test_sender(sender: str, expected: tuple[str, str], kinds: list[Kind]) -> None:
    """The sender is split into name and address, and otherwise unchanged."""
    found = message.parse(xml(sender=sender).encode())
    assert (found.sender_name, found.sender) == expected
    assert [deviation.kind for deviation in found.deviations] == kinds


def receivers(*names: str) -> str:
    return "".join(f"<receiver>{name}</receiver>" for name in names)


NUMBERED = [f"r{number}@x.org" for number in range(MAX_RECIPIENTS + 1)]


@pytest.mark.parametrize(
    ("element", "recipients"),
    [
        pytest.param(receivers("b@x.org", "B@X.org", "c@x.org", "b@x.org"), ("b@x.org", "c@x.org"),
            id="duplicates"),
        pytest.param(receivers("b@ex\uff41mple.org", "b@example.org", "B@example\u3002org"),
            ("b@ex\uff41mple.org",), id="duplicates-in-other-letters"),
        pytest.param(receivers("b@xn--bcher-kva.example", "b@b\u00fccher.example"),
            ("b@xn--bcher-kva.example",), id="duplicates-in-idna"),
        pytest.param(receivers("ß@x.org", "ss@x.org"), ("ß@x.org", "ss@x.org"),
            id="no-duplicates"),
        pytest.param(receivers(" b@x.org ", "\n\tc@x.org\r\n"), ("b@x.org", "c@x.org"),
            id="blanks"),
        pytest.param(receivers("b@x.org, c@x.org;d@x.org;"), ("b@x.org", "c@x.org", "d@x.org"),
            id="lists"),
        pytest.param(receivers("B &lt;b@x.org&gt;, c@x.org"), ("b@x.org", "c@x.org"),
            id="list-with-name"),
        pytest.param(receivers('"x" &lt;b@x.org&gt;'), ("b@x.org",), id="quoted-name"),
        pytest.param(receivers('"B, C" &lt;b@x.org&gt;'), ("b@x.org",), id="comma-in-the-name"),
        pytest.param(receivers("facebook"), ("facebook",), id="no-address"),
    ],
)  # fmt: skip
def test_recipients(element: str, recipients: tuple[str, ...]) -> None:
    """Recipients are in order, as typed, without duplicates, with or without a list element."""
    assert read(xml(receivers=element)) == ("a@x.org", recipients, "T", "B", CLEAN)
    listed = f"<receiverList>{element}</receiverList>"
    assert read(xml(receivers=listed)) == ("a@x.org", recipients, "T", "B", CLEAN)


NOBODY = "the message names no receiver"
TOO_MANY = "the message names more than 64 receivers"
TOO_LONG = "the XML is longer than 65536 bytes"
ELEMENTS = "the XML has more elements than any camera writes"
DOCTYPE = "the XML has a DOCTYPE or an ENTITY, which no camera sends"


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        pytest.param("", NOBODY, id="empty"),
        pytest.param(xml(receivers="<receiverList/>"), NOBODY, id="empty-list"),
        pytest.param(xml(receivers=receivers("B &lt;&gt;")), NOBODY, id="only-a-name"),
        pytest.param(f"<email a='{'x' * 5_000_000}'/>", TOO_LONG, id="attribute"),
        pytest.param("<!DOCTYPE email><email/>", DOCTYPE, id="doctype"),
        pytest.param("<!DOCTYPE e [<!ENTITY a 'b'>]>" + xml(title="&a;"), DOCTYPE, id="entity"),
        pytest.param("&<!DOCTYPE e>" + xml(), DOCTYPE, id="malformed"),
        pytest.param(xml(title="<title><![CDATA[a]]>&<!ENTITY a 'b'></title>"), DOCTYPE,
            id="entity-without-doctype"),
    ],
)  # fmt: skip
def test_refused(document: str, reason: str) -> None:
    """A message without recipients or beyond a limit is refused with a reason."""
    with pytest.raises(MarkupError) as caught:
        message.parse(document.encode())
    status = 413 if reason == TOO_LONG else 400
    assert (str(caught.value), caught.value.status) == (reason, status)


ROOM = MAX_BYTES - len(xml(body="<body></body>"))


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        pytest.param(
            lambda more: xml(body=f"<body>{'x' * (ROOM + more)}</body>"), TOO_LONG,
            id="bytes",
        ),
        pytest.param(
            lambda more: xml(body="<b>" * (MAX_DEPTH - 1 + more) + "</b>" * (MAX_DEPTH - 1 + more)),
            ELEMENTS, id="depth",
        ),
        pytest.param(lambda more: xml(body="<b/>" * (MAX_ELEMENTS - 5 + more)), ELEMENTS,
            id="elements"),
        pytest.param(lambda more: xml(receivers=receivers(*NUMBERED[: MAX_RECIPIENTS + more])),
            TOO_MANY, id="recipients"),
    ],
)  # fmt: skip
def test_limits(document: Callable[[int], str], reason: str) -> None:
    """Each limit is exact."""
    assert read(document(0))[2] == "T"
    with pytest.raises(MarkupError, match=reason):
        message.parse(document(1).encode())


def test_elements_beyond_the_limit_are_not_searched() -> None:
    """The number of elements is limited in malformed XML, too."""
    empty = "<receiver></receiver>"
    last = receivers("b@x.org")
    within = "&" + xml(receivers=empty * (MAX_ELEMENTS - 10) + last)
    assert read(within)[1] == ("b@x.org",)
    with pytest.raises(MessageError, match=NOBODY):
        message.parse(("&" + xml(receivers=empty * MAX_ELEMENTS + last)).encode())


@pytest.mark.parametrize(
    ("document", "kinds"),
    [
        pytest.param(DECLARATION + xml(), CLEAN, id="declaration"),
        pytest.param("\r\n \t" + DECLARATION + xml(), CLEAN, id="newline-before"),
        pytest.param("\ufeff" + DECLARATION + xml(), CLEAN, id="bom"),
        pytest.param(xml() + "\0\0\0", BROKEN, id="nuls-behind"),
        pytest.param(xml() + xml(), BROKEN, id="twice"),
    ],
)
def test_damaged_frame(document: str, kinds: list[Kind]) -> None:
    """Surplus or missing bytes around the elements do not change them."""
    recipients = ("b@x.org",)
    assert read(document) == ("a@x.org", recipients, "T", "B", kinds)


def test_cut_message_keeps_what_is_whole() -> None:
    """A cut message has only whole addresses."""
    document = xml(receivers=receivers("b@x.org", "c@x.org"))
    first, second = document.index("</receiver>") + 11, document.rindex("</receiver>") + 11
    title = document.index("</title>") + 8
    for end in range(first, len(document)):
        sender, recipients, subject, _, kinds = read(document[:end])
        expected = ("b@x.org", "c@x.org")[: 1 + (end >= second)]
        assert (sender, recipients, kinds) == ("a@x.org", expected, BROKEN)
        assert subject == "T" or end < title
    assert read(xml(body="<body>The text")[:-10])[3] == "The te"
    sender, *_, kinds = read(f"<email>{receivers('b@x.org')}<sender>a@x.o")
    assert (sender, kinds) == ("", [*BROKEN, Kind.NO_SENDER])


KOREAN = "사진"


@pytest.mark.parametrize(
    ("document", "title", "details"),
    [
        pytest.param(DECLARATION.encode() + xml(title=f"<title>{KOREAN}</title>").encode(), KOREAN,
            [], id="utf-8"),
        pytest.param(xml(title=f"<title>{KOREAN}</title>").encode("cp949"), KOREAN,
            ["utf-8 is cp949"], id="korean-undeclared"),
        pytest.param(b"<?xml version='1.0' encoding='EUC-KR'?>"
            + xml(title=f"<title>{KOREAN}</title>").encode("euc-kr"), KOREAN, [], id="EUC-KR"),
        pytest.param(b"<?xml version='1.0' encoding='cp949'?>"
            + xml(title=f"<title>{KOREAN}</title>").encode("cp949"), KOREAN, [], id="cp949"),
        pytest.param(
            f'<?xml version="1.0" encoding="UTF-16"?>{xml(title=f"<title>{KOREAN}</title>")}'
            .encode("utf-16"), KOREAN, [], id="utf-16",
        ),
        pytest.param(xml(title=f"<title>{KOREAN}</title>").encode("utf-16"), KOREAN, [],
            id="utf-16-undeclared"),
        pytest.param(b"<?xml version='1.0' encoding='x-unknown'?>" + xml().encode(), "T",
            ["x-unknown is utf-8"], id="unknown"),
        pytest.param(b"<?xml version='1.0' encoding='utf-16'?>" + xml().encode(), "T",
            ["utf-16 is utf-8"], id="lying-utf-16-odd"),
        pytest.param(xml(title="<title>a#b</title>").encode().replace(b"#", b"\xff"), "a\ufffdb",
            ["neither utf-8 nor UTF-8"], id="not-utf-8"),
        pytest.param(xml(title="<title>a#b</title>").encode().replace(b"#", b"\xed\xa0\x80"),
            "a\ufffd\ufffd\ufffdb", ["neither utf-8 nor UTF-8"], id="surrogate"),
    ],
)  # fmt: skip
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
    assert message.parse(xml(title="<title>&</title>").encode()).deviations == (
        Deviation(Kind.XML_MALFORMED, 0, "not well-formed (invalid token): line 1, column 96"),
    )


@pytest.mark.parametrize("broken", ["", "&"], ids=["well-formed", "malformed"])
@pytest.mark.parametrize(
    "text",
    [
        "<receiver>c@x.org</receiver>",
        "<sender>c@x.org</sender>",
        "<title>C</title>",
        "<body>C</body>",
        "</body>",
        "<!DOCTYPE html>",
    ],
)
def test_markup_in_cdata_is_text(text: str, broken: str) -> None:
    """Markup in CDATA adds no recipient and changes no title."""
    document = xml(
        sender=f"<body><![CDATA[{text}]]></body><sender>a@x.org</sender>", body=f"<x>{broken}</x>"
    )
    expected = ("a@x.org", ("b@x.org",), "T", text, BROKEN if broken else CLEAN)
    assert read(document) == expected


# Messages that are written


def test_composed_in_full() -> None:
    """A composed message is exact, byte for byte."""
    given = Message("a@x.org", "A", ("b@x.org", "c@x.org"), "1 < 2", 'Ä & "B"\n]]>')
    assert compose(given).decode() == (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        "<email><sender>a@x.org</sender>"
        "<receiverList><receiver>b@x.org</receiver><receiver>c@x.org</receiver></receiverList>"
        '<title>1 &lt; 2</title><body>Ä &amp; "B"\n]]&gt;</body></email>'
    )


@pytest.mark.parametrize(
    ("sender", "text", "expected"),
    [
        pytest.param("", "a\nb\tc", "a\nb\tc", id="nobody"),
        pytest.param("anna", "<b>&amp;</body>", "<b>&amp;</body>", id="markup"),
        pytest.param("a</sender><receiver>x@y", "<!DOCTYPE x [<!ENTITY e 'x'>]>&e;",
            "<!DOCTYPE x [<!ENTITY e 'x'>]>&e;", id="doctype"),
        pytest.param("", "a\0b\x1b[31m\x0c\ufffe\uffff", "ab[31m", id="not-in-XML"),
        pytest.param("", "a\ud800b\udfffc", "abc", id="surrogates"),
    ],
)  # fmt: skip
def test_composed(sender: str, text: str, expected: str) -> None:
    """A composed message is well-formed. Characters that XML does not allow are left out."""
    found = message.parse(compose(Message(sender, "", ("b@x.org",), "T", text)))
    assert (found.sender_name, found.sender) == ("", sender)
    assert (found.text, found.subject, found.recipients) == (expected, "T", ("b@x.org",))
    assert set(found.deviations) <= {Deviation(Kind.NO_SENDER, 0)}

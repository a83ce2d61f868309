"""Stand-ins: what is private gets one, wherever and however it is written, and nothing else."""

from __future__ import annotations

import html
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nxparse.inspect.pseudonyms import MAX_FORM, Keep, Pseudonyms, keep_for, unescaped

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=200)


@pytest.fixture
def names() -> Pseudonyms:
    return Pseudonyms()


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        ("123456789033", "digits-12"),
        ("12", "digits-2"),
        ("00112233445566778899aabbccddeeff", "hex-32"),
        ("0xDEADBEEF", "hex-10"),
        ("q83vASNFZ4mrze8BI0VniavN7wEjRWeJq83vASNFZ4k=", "base64-44"),
        ("A2Z9QQ44512", "alnum-11"),
        ("Jane Doe", "text-1 (8 characters)"),
        ("rosebud", "text-1 (7 characters)"),
        ("jane@home.example", "address-1@example.org"),
        ("jane%40home.example", "address-1@example.org (percent-encoded)"),
        ("Jane Doe <jane@home.example>", "text-1 (8 characters) <address-1@example.org>"),
        ('"Jane" <j@a.example>;k@a.example', None),
        ("192.168.1.23", "ip-1"),
        ("192.168.001.023", "ip-1"),
        ("192.168.1.23:8080", "ip-1:8080"),
        ("fe80::216:6cff:feaa:bbcc", "ip-1"),
        ("[2001:db8::1]:80", "[ip-1]:80"),
        ("00:16:6C:AA:BB:CC", "mac-1"),
        ("Jane in Rome.JPG", "file-1.jpg"),
        ("  Jane  ", "  text-1 (4 characters)  "),
        ("Jane\nDoe", "text-1 (8 characters)"),
        ("정민수", "text-1 (3 characters)"),
    ],
)
def test_kinds(names: Pseudonyms, original: str, expected: str | None) -> None:
    """A stand-in tells kind and length of what it stands for, and nothing else of it."""
    value = names.value(original, Keep.NOTHING)
    assert value == expected or expected is None
    assert "Jane" not in value
    assert "a.example" not in value


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ("[Samsung Smart Camera] sent you files.", Keep.CONSTANTS),
        ("Sent from Samsung Camera.\nlanguage_sh100_utf8", Keep.CONSTANTS),
        ("NX300", Keep.CONSTANTS),
        ("NX mini", Keep.CONSTANTS),
        ("HMX-QF30", Keep.CONSTANTS),
        ("SAM_4371.JPG", Keep.CONSTANTS),
        ("P1000123.JPG", Keep.CONSTANTS),
        ("DSC01234.jpg", Keep.CONSTANTS),
        ("IMG_0001.MOV", Keep.CONSTANTS),
        ("login", Keep.CONSTANTS),
        ("", Keep.NOTHING),
        (" \r\n", Keep.NOTHING),
        ("9999", Keep.DEFAULT),
        ("-3", Keep.DEFAULT),
        ("1.0", Keep.DEFAULT),
        ("image/jpeg", Keep.DEFAULT),
        ("ko_KR", Keep.DEFAULT),
        ("snsgw.samsungmobile.com:80", Keep.DEFAULT),
        ("http://snsgw.samsungmobile.com/oauth", Keep.DEFAULT),
        ("urn:schemas-upnp-org:device:MediaServer:1", Keep.DEFAULT),
        ("register", Keep.WORDS),
        ("1.10.2", Keep.WORDS),
    ],
)
def test_kept(names: Pseudonyms, text: str, keep: Keep) -> None:
    """What says nothing of anybody stays, as long as it stands where it is no secret."""
    assert names.value(text, keep) == text
    if text.strip():
        assert names.value(text, Keep.NOTHING) != text


@pytest.mark.parametrize(
    ("text", "keep"),
    [
        ("9999", Keep.CONSTANTS),
        ("rosebud", Keep.DEFAULT),
        ("10000", Keep.DEFAULT),
        ("52.52", Keep.DEFAULT),
        ("1.2.3.4", Keep.WORDS),
        ("nas.fritz.box", Keep.DEFAULT),
        ("192-168-1-7.dyn.example.com", Keep.DEFAULT),
        ("two words", Keep.WORDS),
        ("Rome_SAM_4371.JPG", Keep.CONSTANTS),
        ("20130512_101010.jpg", Keep.CONSTANTS),
    ],
)
def test_replaced(names: Pseudonyms, text: str, keep: Keep) -> None:
    """What might tell of somebody does not stay."""
    assert text not in names.value(text, keep)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Password", Keep.NOTHING),
        ("CryptSessionKey", Keep.NOTHING),
        ("loginID", Keep.NOTHING),
        ("DUID", Keep.NOTHING),
        ("X-Serial", Keep.NOTHING),
        ("sender", Keep.NOTHING),
        ("title", Keep.CONSTANTS),
        ("FileName", Keep.CONSTANTS),
        ("Method", Keep.WORDS),
        ("oauth_signature_method", Keep.WORDS),
        ("Width", Keep.DEFAULT),
    ],
)
def test_names(name: str, expected: Keep) -> None:
    """The name of a value tells what may be kept of it."""
    assert keep_for(name) is expected


def test_stable(names: Pseudonyms) -> None:
    """One value has one stand-in, however it is encoded; each other one another."""
    first, second = "jane+rome@home.example", "joe@home.example"
    assert names.value(first) == "address-1@example.org"
    assert names.value(second) == "address-2@example.org"
    assert names.value(quote(first)) == "address-1@example.org (percent-encoded)"
    assert names.anywhere(f"<{first.upper()}>") == "<address-1@example.org>"
    assert names.value("0123456789", Keep.NOTHING) == "digits-10"
    assert names.value("9876543210", Keep.NOTHING) == "digits-10-2"
    assert names.value("0123456789", Keep.NOTHING) == "digits-10"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/social/columbus/email?DUID=123456789033", "/social/columbus/email?DUID=digits-12"),
        (
            "/a.jsp?b=&lang=ko&c#top",
            "/a.jsp?b=&lang=ko&text-2 (1 characters)#text-1 (3 characters)",
        ),
        ("/upload/cafe0123cafe0123/SAM_1.JPG", "/upload/hex-16/SAM_1.JPG"),
        ("/upload/jane", "/upload/text-1 (4 characters)"),
        ("/v2/photo/12/Rome%202013", "/v2/photo/12/text-1 (9 characters)"),
        ("http://jane:rosebud@nas.lan:81/x", "http://text-1 (12 characters)@host-1:81/x"),
        ("http://10.0.0.1/?u=http%3A%2F%2Fa.com", "http://ip-1/?u=text-1 (12 characters)"),
        ("http://yahoo.com", "http://yahoo.com"),
        ("", ""),
    ],
)
def test_url(names: Pseudonyms, text: str, expected: str) -> None:
    """Of a URL the steps of the path and the names of parameters stay."""
    assert names.url(text).startswith(expected)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("www.ospserver.net", "www.ospserver.net"),
        ("WWW.Samsung.COM:80", "WWW.Samsung.COM:80"),
        ("samsung.com.", "samsung.com."),
        ("localhost:8080", "host-1:8080"),
        ("nas", "host-1"),
        ("cam.fritz.box", "host-1"),
        ("cam.local", "host-1"),
        ("cam.home.arpa.", "host-1"),
        ("p5B0C1234.dip.example.net", "host-1"),
        ("10.0.0.1:80", "ip-1:80"),
        ("::1", "ip-1"),
        ("a b.com", "host-1"),
        ("", ""),
    ],
)
def test_host(names: Pseudonyms, host: str, expected: str) -> None:
    """The name of a host stays only if everybody may know it."""
    assert names.host(host) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x (jane@home.example; 10.0.0.1)", "x (address-1@example.org; ip-1)"),
        ("SN A2Z9QQ44512/1", "SN alnum-11/1"),
        ("00-16-6C-AA-BB-CC", "mac-1"),
        ("6ba7b810-9dad-11d1-80b4-00c04fd430c8", "text-1 (36 characters)"),
        ("at ::ffff:10.0.0.1.", "at ip-1."),
        ("Thu, 05 Nov 2026 10:20:30 GMT", "Thu, 05 Nov 2026 10:20:30 GMT"),
        (".NET CLR 2.0.50727; 999.1.1.1", ".NET CLR 2.0.50727; 999.1.1.1"),
        ("see http://nas.lan/12345678", "see http://host-1/digits-8"),
    ],
)
def test_anywhere(names: Pseudonyms, text: str, expected: str) -> None:
    """Addresses and ids are replaced in any text, and the text stays."""
    assert names.anywhere(text) == expected


def _within_base64(text: str) -> str:
    """What of base64 is the same whatever stands before and behind the text."""
    ends = (b"\0\0", b"\xff\xff")
    encoded = [b64encode(end + text.encode() + end).decode() for end in ends]
    return "".join(one for one, other in zip(*encoded, strict=True) if one == other)


def _every_byte(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "upper": str.upper,
    "lower": str.lower,
    "percent": lambda text: quote(text, ""),
    "percent-plus": quote_plus,
    "every-byte": _every_byte,
    "percent-twice": lambda text: quote(quote(text, ""), ""),
    "xml": lambda text: html.escape(text, quote=True),
    "xml-numbers": lambda text: "".join(f"&#{ord(char)};" for char in text),
    "xml-hex": lambda text: "".join(f"&#x{ord(char):X};" for char in text),
    "backslash": lambda text: "".join(f"\\u{ord(char):04x}" for char in text),
    "hex": lambda text: text.encode().hex(),
    "base64": lambda text: b64encode(text.encode()).decode(),
    "base64-url": lambda text: urlsafe_b64encode(text.encode()).decode(),
    "base64-inner": _within_base64,
    "base64-percent": lambda text: quote(b64encode(text.encode()).decode(), ""),
    "spread": lambda text: text.replace(" ", "\r\n  "),
}
PRIVATE = (
    "jane.doe@home.example",
    "Jörg Müller",
    "hunter2 & <friends>",
    "A2Z9QQ44512",
    "123456789033",
    "00112233445566778899aabbccddeeff",
    "김민수의 카메라",
    "Sant'Ambrogio / 50% + more?",
    "a text so long that it does not fit into one piece, so that it is looked for in several",
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("original", PRIVATE)
def test_sweep(names: Pseudonyms, original: str, form: str) -> None:
    """What was private in one place is found in any other, in any form."""
    stand_in = names.value(original, Keep.NOTHING)
    written = FORMS[form](original)
    swept = names.sweep(f"before={written};behind")
    assert written.lower() not in swept.lower()
    assert swept.startswith("before=")
    assert swept.endswith("behind")
    assert stand_in.split(" ")[0].partition("@")[0] in swept


@pytest.mark.parametrize("form", FORMS)
def test_sweep_of_encoded(form: str) -> None:
    """What first was seen encoded is found in any other form."""
    for original in PRIVATE:
        names = Pseudonyms()
        names.value(quote(original, ""), Keep.NOTHING)
        written = FORMS[form](original)
        assert written.lower() not in names.sweep(f"<{written}>").lower()


def test_sweep_overlap(names: Pseudonyms) -> None:
    """Of values that overlap nothing is left; the longest of those that begin together counts."""
    for original in ("rosebud", "rosebud garden", "garden gnome"):
        names.value(original, Keep.NOTHING)
    assert names.sweep("a rosebud garden gnome b") == "a text-2 (14 characters) b"
    assert names.sweep("a rosebud b") == "a text-1 (7 characters) b"
    assert names.sweep("rosebud%20garden") == "text-2 (14 characters)"
    names.value("his rosebud garden, too", Keep.NOTHING)
    assert names.sweep("his rosebud garden, too!") == "text-4 (23 characters)!"


def test_sweep_short(names: Pseudonyms) -> None:
    """A short value is found where it is a word, and words of the protocol are not looked for."""
    for original in ("bob", "image", "19", "!!!", "민수"):
        names.value(original, Keep.NOTHING)
    text = "bobsled image/jpeg 19 !!! "
    assert names.sweep(text) == text
    assert names.sweep("a/bob,") == "a/text-1 (3 characters),"
    assert names.sweep("민수의") == "text-4 (2 characters)의"


def test_sweep_parts(names: Pseudonyms) -> None:
    """Also looked for: who has an address, a file's name alone, a MAC address written otherwise."""
    for original in ("jane.doe@home.example", "Rome by night.jpg", "00:16:6C:AA:BB:CC"):
        names.value(original, Keep.NOTHING)
    swept = names.sweep("/~jane.doe/ rome%20by%20NIGHT 00166caabbcc 00-16-6c-aa-bb-cc")
    assert swept == "/~address-1/ file-1.jpg mac-1 mac-1"


def test_sweep_pieces(names: Pseudonyms) -> None:
    """Of a long value most of any half is found, too."""
    long = "".join(f"{number} little bottles, " for number in range(100, 110))
    names.value(long, Keep.NOTHING)
    assert names.sweep(f"<{long}>") == f"<text-1 ({len(long.strip())} characters) >"
    assert (
        names.sweep(f"<{long[:130]}>")
        == f"<text-1 ({len(long.strip())} characters){long[128:130]}>"
    )


def test_sweep_decoded(names: Pseudonyms) -> None:
    """What was seen in base64 alone is found in clear; what in Latin-1, as UTF-8."""
    names.value(b64encode(b"rosebud garden").decode(), Keep.NOTHING)
    names.value("Jörg Müller", Keep.NOTHING)
    assert names.sweep("a rosebud garden") == "a base64-20"
    assert names.sweep(quote("x Jörg Müller", encoding="latin-1")) == "x%20text-1 (11 characters)"


def test_sweep_behind_odd_letters(names: Pseudonyms) -> None:
    """Letters whose lower case is longer do not shift what stands behind them."""
    names.value("rosebud", Keep.NOTHING)
    assert names.sweep("İİİ rosebud İ") == "İİİ text-1 (7 characters) İ"


def test_marker(names: Pseudonyms) -> None:
    """The camera's note behind the text stays, if it is no secret."""
    text = "Hello\nlanguage_sh100_utf8"
    assert names.value(text, Keep.CONSTANTS) == "text-1 (5 characters)\nlanguage_sh100_utf8"
    assert names.value(text, Keep.NOTHING) == "text-2 (25 characters)"


def test_sweep_keeps_the_rest(names: Pseudonyms) -> None:
    """What is not private stays byte for byte, escapes and all."""
    names.value("rosebud", Keep.NOTHING)
    text = "a%20b &amp; \\u0041 +\t\r\n x&#65;y \ud800"
    assert names.sweep(text) == text
    assert names.sweep(text + "rosebud" + text) == f"{text}text-1 (7 characters){text}"


def _tells(text: str) -> bool:
    return text.strip() == text and sum(map(str.isalnum, text)) >= 6


@PROPERTY
@given(
    st.text("abcXYZ0123456789 é한&<>'%+@.-_/\"=", min_size=8, max_size=200).filter(_tells),
    st.sampled_from(sorted(FORMS)),
    st.text("xyz =%&;<>", max_size=10),
)
def test_any_value(original: str, form: str, around: str) -> None:
    """No value that was replaced once survives a sweep."""
    names = Pseudonyms()
    value = names.value(original, Keep.NOTHING)
    assert original.lower() not in value.lower()
    written = FORMS[form](original)
    # An address splits a text into several originals, of which some are too short to look for.
    assume("@" not in original or form in ("plain", "percent"))
    assert written.lower() not in names.sweep(f"{around} {written} {around}").lower()


@PROPERTY
@given(st.text(max_size=100), st.text(max_size=100), st.sampled_from(Keep))
def test_anything(text: str, other: str, keep: Keep) -> None:
    """Any text is taken, and a text is swept the same twice."""
    names = Pseudonyms()
    for take in (names.anywhere, names.host, names.url, names.query, names.file, names.sweep):
        assert isinstance(take(text), str)
    assert names.value(text, keep) == names.value(text, keep)
    assert names.sweep(other) == names.sweep(other)


def test_slow() -> None:
    """The worst that 32 KiB can hold takes a time that is linear in them."""
    begun = time.process_time()
    for unit in ("a", "a@", "1.", "::", "%25", "%41", "a1", "&#1;", "http://", " ", "/", "+"):
        text = unit * ((1 << 15) // len(unit))
        names = Pseudonyms()
        for length in range(2, MAX_FORM):
            names.value(text[:length], Keep.NOTHING)
        for take in (names.anywhere, names.host, names.url, names.query, names.value, names.sweep):
            take(text)
    assert time.process_time() - begun < 15


def test_nested() -> None:
    """Encodings within encodings are not followed into the depth."""
    names = Pseudonyms()
    nested = "".join(f"x%{'25' * depth}40y " for depth in range(200))
    assert "@y" not in names.value(nested, Keep.NOTHING)
    url = "http://a.com/"
    for _ in range(10):
        url = f"http://a.com/{quote(url, '')}?type={quote(url, '')}"[:65536]
    assert names.url(url).startswith("http://a.com/text-")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("&lt;&#65;&#x42;&quot;&apos;&amp;lt;", "<AB\"'&lt;"),
        ("a & b &nothing; &#xD800;", "a & b ? \ud800"),
        ("%41\\u0041", "%41\\u0041"),
    ],
)
def test_unescaped(raw: str, expected: str) -> None:
    """The references of XML are resolved, and nothing else is."""
    assert unescaped(raw) == expected

"""Addresses that mail can be sent to, and similar texts that are refused."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nxparse.address import AddressError, comparable, deliverable, is_deliverable

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=100)

LABEL = "a" * 63
DOMAIN = ".".join([LABEL] * 3 + ["b" * 61])  # 253 bytes


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("first.last@example.org", id="dot"),
        pytest.param("o'neill_1-2@example.org", id="quote-mark"),
        pytest.param("#$&'*+/?=^_`{|}~-@example.org", id="every-atom-character"),
        pytest.param("a" * 64 + "@example.org", id="local-64"),
        pytest.param(f"me@{LABEL}.example", id="label-63"),
        pytest.param(f"me@{DOMAIN}", id="domain-253"),
    ],
)
def test_plain(address: str) -> None:
    """A plain address stays unchanged."""
    assert deliverable(address) == address
    assert is_deliverable(address)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        pytest.param("me@bücher.example", "me@xn--bcher-kva.example", id="german"),
        pytest.param("me@bücher。example", "me@xn--bcher-kva.example", id="ideographic-full-stop"),
        pytest.param("me@example\u00ad.org", "me@example.org", id="soft-hyphen"),
    ],
)
def test_international_domain(address: str, expected: str) -> None:
    """The domain is encoded in IDNA."""
    assert deliverable(address) == expected


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("", id="empty"),
        pytest.param("a@b@example.org", id="two-at"),
        pytest.param(".me@example.org", id="dot-first"),
        pytest.param("m..e@example.org", id="two-dots"),
        pytest.param("a" * 65 + "@example.org", id="local-65"),
        pytest.param("gerät@example.org", id="local-not-ascii"),
        pytest.param('"me"@example.org', id="quoted"),
        pytest.param('"a@good" <evil@example.org>', id="quoted-address-as-name"),
        pytest.param("a@example.org, b@example.org", id="comma"),
        pytest.param("Friends: a@example.org;", id="group"),
        pytest.param("@relay.example:me@example.org", id="route"),
        pytest.param("me example@example.org", id="blank"),
        pytest.param("me\n@example.org", id="newline"),
        pytest.param("me@example.org\r\nRCPT TO:<x@y>", id="command"),
        pytest.param("me\0@example.org", id="nul"),
        pytest.param("=?UTF-8?Q?=0A?=@example.org", id="encoded-word"),
        pytest.param("victim%evil.example@example.org", id="percent-hack"),
        pytest.param("evil.example!victim@example.org", id="bang-path"),
    ],
)
def test_local_part(address: str) -> None:
    """Local parts that are not plain, or that some servers interpret differently, are refused."""
    with pytest.raises(AddressError) as caught:
        deliverable(address)
    assert str(caught.value) == f"{address!r} is not an e-mail address"
    assert not is_deliverable(address)


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("me@", id="none"),
        pytest.param("me@.example.org", id="dot-first"),
        pytest.param("me@example.org.", id="dot-last"),
        pytest.param("me@example..org", id="two-dots"),
        pytest.param("me@-example.org", id="dash-first"),
        pytest.param("me@example.org ", id="blank-last"),
        pytest.param("me@[127.0.0.1]", id="literal"),
        pytest.param(f"me@{LABEL}a.example", id="label-64"),
        pytest.param("me@=?UTF-8?Q?example?=.org", id="encoded-word"),
        pytest.param("me@ü\ud800.example", id="surrogate"),
        pytest.param("me@\u2100.example", id="becomes-a-slash"),
        pytest.param("me@\u00ad.example", id="becomes-nothing"),
        pytest.param("me@אa.example", id="mixed-directions"),
        pytest.param("me@" + "ü" * 63 + ".example", id="label-too-long-in-idna"),
        pytest.param("me@" + "ü." * 120 + "example", id="too-long-in-idna"),
        pytest.param("me@straße.example", id="sharp-s"),
        pytest.param("me@βόλος.example", id="final-sigma"),
        pytest.param("me@a\u200db.example", id="joiner"),
    ],
)
def test_domain(address: str) -> None:
    """Domains that are not host names, or ambiguous in IDNA, are refused."""
    with pytest.raises(AddressError) as caught:
        deliverable(address)
    assert str(caught.value) == f"{address[:100]!r} has a domain that cannot exist"


@pytest.mark.parametrize(
    "domain",
    [pytest.param(f"{DOMAIN}b", id="254"), pytest.param("ü" * 60_000, id="CVE-2022-45061")],
)
def test_domain_too_long(domain: str) -> None:
    """A domain that is too long is refused before it is encoded."""
    with pytest.raises(AddressError) as caught:
        deliverable(f"me@{domain}")
    assert str(caught.value) == f"{f'me@{domain}'[:100]!r} has too long a domain"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        pytest.param("boss@example.org", "boss@example.org", id="plain"),
        pytest.param("boss@ex\uff41mple.org", "boss@example.org", id="full-width-letter"),
        pytest.param("boss@example\u3002org", "boss@example.org", id="ideographic-full-stop"),
        pytest.param("boss@example\u2024org", "boss@example.org", id="one-dot-leader"),
        pytest.param("boss@exam\u00adple.org", "boss@example.org", id="soft-hyphen"),
        pytest.param("boss@bu\u0308cher.example", "boss@b\u00fccher.example", id="decomposed"),
        pytest.param("boss@xn--bcher-kva.example", "boss@b\u00fccher.example", id="punycode"),
        pytest.param("boss@stra\u00dfe.example", "boss@stra\u00dfe.example", id="sharp-s"),
        pytest.param("boss@xn--strae-oqa.example", "boss@stra\u00dfe.example", id="sharp-s-2008"),
        pytest.param("boss@xn--example-.org", "boss@xn--example-.org", id="punycode-of-ascii"),
        pytest.param("boss@xn--\u00fc.org", "boss@xn--\u00fc.org", id="punycode-of-nothing"),
        pytest.param("boss@xn--*.org", "boss@xn--*.org", id="glob-of-punycode"),
        pytest.param("bo\u0308ss@example.org", "b\u00f6ss@example.org", id="local-decomposed"),
        pytest.param("a@b@Ex\uff41mple.org", "a@b@example.org", id="two-at"),
        pytest.param("*@ex\uff41m?le.[!a]rg", "*@exam?le.[!a]rg", id="glob"),
        pytest.param("*@*.B\u00dcCHER-*", "*@*.b\u00fccher-*", id="glob-not-ascii"),
    ],
)
def test_comparable(address: str, expected: str) -> None:
    """Different spellings of one address, or of a glob, compare equal."""
    assert comparable(address) == expected


@PROPERTY
@given(st.text() | st.builds("{}@{}".format, st.text(), st.text()))
@example("a@\u00df")
@example("a@xn--\u00df-")
@example("a@\u05d0")
def test_comparable_as_mailed(address: str) -> None:
    """An address and its deliverable form compare equal."""
    found = comparable(address)
    assert comparable(found) == found
    if is_deliverable(address):
        assert comparable(deliverable(address)) == found


@pytest.mark.parametrize(
    "domain",
    [
        pytest.param("\u00fc" * 60_000, id="not-ascii"),
        pytest.param("xn--" + "a" * 60_000, id="punycode"),
        pytest.param("*" * 60_000, id="glob"),
        pytest.param("\ufdfa" * 250, id="grows"),
    ],
)
def test_comparable_domain_too_long(domain: str) -> None:
    """A domain that is too long is not encoded."""
    assert comparable(f"me@{domain}") == f"me@{domain}"

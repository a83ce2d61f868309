"""Replies to the cameras' hotspot checks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nxparse.server import hotspot
from nxparse.server.hotspot import MSN, YAHOO, PortalCheck, PortalState
from nxparse.server.reply import Reply

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=200)

CLIENT = "192.0.2.7"
OTHER = "192.0.2.8"


FAMILIES = {
    "yahoo": (YAHOO, "yahoo.co.kr", "http://yahoo.com", b"YAHOO!"),
    "msn": (MSN, "msn.com", "http://msn.com", b"MSN"),
}
both = pytest.mark.parametrize("family", [YAHOO, MSN], ids=["yahoo", "msn"])


@pytest.mark.parametrize(("family", "domain", "site", "text"), FAMILIES.values(), ids=FAMILIES)
def test_redirect(family: PortalCheck, domain: str, site: str, text: bytes) -> None:
    """Some models expect a redirect to plain http:, with the reason FOUND."""
    reply = family.redirect
    assert (reply.status, reply.reason) == (302, "FOUND")
    assert reply.headers == (("Location", site),)
    assert f'<a href="{site}">'.encode() in reply.body
    assert len(reply.body) < 500


@pytest.mark.parametrize(("family", "domain", "site", "text"), FAMILIES.values(), ids=FAMILIES)
def test_cookie(family: PortalCheck, domain: str, site: str, text: bytes) -> None:
    """Other models expect a cookie of that domain, with its leading dot."""
    cookie = f"samsung=hotspot; Domain=.{domain}; Path=/"
    assert family.cookie == Reply(200, text, (("Set-Cookie", cookie),))


def asks(turns: PortalState, family: PortalCheck, client: str = CLIENT) -> str:
    """Which reply a camera gets."""
    answers = {id(family.redirect): "redirect", id(family.cookie): "cookie"}
    return answers[id(turns.answer(client, family))]


@both
def test_in_turn(family: PortalCheck) -> None:
    """A new camera gets the redirect first, then both replies in turn."""
    turns = PortalState()
    found = [asks(turns, family) for _ in range(5)]
    assert found == ["redirect", "cookie", "redirect", "cookie", "redirect"]


def test_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit, the cameras that have been silent the longest are forgotten."""
    monkeypatch.setattr(hotspot, "MAX_CAMERAS", 2)
    turns = PortalState()
    asks(turns, YAHOO, "192.0.2.1")
    asks(turns, YAHOO, "192.0.2.2")
    asks(turns, YAHOO, "192.0.2.1")
    asks(turns, YAHOO, "192.0.2.1")
    asks(turns, YAHOO, "192.0.2.3")
    assert asks(turns, YAHOO, "192.0.2.1") == "cookie"
    assert asks(turns, YAHOO, "192.0.2.2") == "redirect"


@PROPERTY
@given(
    st.lists(
        st.tuples(st.sampled_from([CLIENT, OTHER]), st.sampled_from([YAHOO, MSN, None])),
        max_size=20,
    )
)
def test_any_order(steps: list[tuple[str, PortalCheck | None]]) -> None:
    """A camera that continued gets the same reply again, others get the other one."""
    turns = PortalState()
    given: dict[tuple[str, PortalCheck], str] = {}
    went_on: set[tuple[str, PortalCheck]] = set()
    for client, family in steps:
        if family is None:
            turns.passed(client)
            went_on |= {camera for camera in given if camera[0] == client}
            continue
        camera = client, family
        answer = asks(turns, family, client)
        assert (answer == given.get(camera, "cookie")) is (camera in went_on)
        went_on.discard(camera)
        given[camera] = answer

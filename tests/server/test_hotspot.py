"""Replies to the cameras' hotspot checks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nxparse.server import hotspot
from nxparse.server.hotspot import MSN, YAHOO, PortalCheck, PortalState

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=50)

CLIENT = "192.0.2.7"
OTHER = "192.0.2.8"


def asks(turns: PortalState, family: PortalCheck, client: str = CLIENT) -> str:
    """Which reply a camera gets."""
    answers = {id(family.redirect): "redirect", id(family.cookie): "cookie"}
    return answers[id(turns.answer(client, family))]


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

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


def reply_kind(state: PortalState, check: PortalCheck, client: str = CLIENT) -> str:
    """Return the kind of reply that a camera gets."""
    answers = {id(check.redirect): "redirect", id(check.cookie): "cookie"}
    return answers[id(state.answer(client, check))]


def test_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit, the least recently seen cameras are forgotten."""
    monkeypatch.setattr(hotspot, "MAX_CAMERAS", 2)
    state = PortalState()
    reply_kind(state, YAHOO, "192.0.2.1")
    reply_kind(state, YAHOO, "192.0.2.2")
    reply_kind(state, YAHOO, "192.0.2.1")
    reply_kind(state, YAHOO, "192.0.2.1")
    reply_kind(state, YAHOO, "192.0.2.3")
    assert reply_kind(state, YAHOO, "192.0.2.1") == "cookie"
    assert reply_kind(state, YAHOO, "192.0.2.2") == "redirect"


@PROPERTY
@given(
    st.lists(
        st.tuples(st.sampled_from([CLIENT, OTHER]), st.sampled_from([YAHOO, MSN, None])),
        max_size=20,
    )
)
def test_any_order(steps: list[tuple[str, PortalCheck | None]]) -> None:
    """A camera that continued gets the same reply again; others get the other one."""
    state = PortalState()
    given: dict[tuple[str, PortalCheck], str] = {}
    continued: set[tuple[str, PortalCheck]] = set()
    for client, check in steps:
        if check is None:
            state.passed(client)
            continued |= {camera for camera in given if camera[0] == client}
            continue
        camera = client, check
        answer = reply_kind(state, check, client)
        assert (answer == given.get(camera, "cookie")) is (camera in continued)
        continued.discard(camera)
        given[camera] = answer

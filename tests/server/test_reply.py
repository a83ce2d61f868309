"""Replies to cameras."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nxparse.server.reply import ACCEPTED, Reply, refusal

PROPERTY = settings(derandomize=True, database=None, deadline=None, max_examples=50)


def test_fields() -> None:
    """Headers have a fixed order and the usual spelling, and the date is in GMT."""
    reply = Reply(200, "é".encode(), (("ETag", '"x"'), ("Server", "y")), "text/xml")
    assert reply.fields(784111777.9) == [
        ("Date", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ("ETag", '"x"'),
        ("Server", "y"),
        ("Content-Type", "text/xml"),
        ("Content-Length", "2"),
        ("Connection", "close"),
    ]


@pytest.mark.parametrize("status", [100, 204, 304])
def test_fields_without_content(status: int) -> None:
    """A reply whose status allows no content has no length (RFC 9110, section 8.6)."""
    assert [name for name, _ in Reply(status).fields(0)] == ["Date", "Connection"]


def test_accepted() -> None:
    """The reply to an upload has exactly the 26 bytes that cameras search for."""
    assert Reply(200, b'<Response Status="succ" />') == ACCEPTED
    assert len(ACCEPTED.body) == 26


@pytest.mark.parametrize(
    ("reason", "comment"),
    [
        ("", ""),
        ("no --> way", "no ?-? way"),
        ("a-b--c---d-", "a-b?-c??-d?"),
        ("<Response Status='succ' />", "?Response Status='succ' /?"),
        ("a&b\r\nc\0d\x1be\x7ff é\ud800\u2028", "a?b??c?d?e?f ???"),
        ("x" * 201, "x" * 200),
        ("x" * 199 + "-x", "x" * 199 + "-"),
    ],
)
def test_reason_stays_in_its_comment(reason: str, comment: str) -> None:
    """Nothing in the reason ends the comment or the line."""
    xml = f'<Response ErrCode="400" ErrSubCode="0" /><!-- {comment} -->'
    assert refusal(400, reason) == Reply(400, xml.encode("ascii"), remark=reason[:200])


@PROPERTY
@given(st.text(st.characters() | st.sampled_from("-<>"), max_size=250))
def test_any_reason(reason: str) -> None:
    """The body of any refusal is one element, one comment and one line."""
    body = refusal(400, reason).body
    assert re.fullmatch(rb'<Response ErrCode="400" ErrSubCode="0" /><!--[ -~]*-->', body)
    assert body.count(b"--") == 2
    assert len(body) <= 255

"""Reads and changes flows. They are typed as Any, since mitmproxy is not imported here."""

from __future__ import annotations

from typing import Any

from nxparse.inspect import show
from nxparse.inspect.recorded import Headers, RecordedRequest, RecordedResponse
from nxparse.server import endpoints
from nxparse.server.receive import BodyInfo
from nxparse.text import printable

MAX_COMMENT = 200  # characters
MARKS = {
    "received": ":camera:",
    "repeated": ":repeat:",
    "answered": ":white_check_mark:",
    "refused": ":no_entry:",
    "unknown": ":question:",
    "cut": ":x:",
    "failed": ":x:",
}


def address(client: Any) -> str:
    """Return the address of a client, for the log. A file of flows may contain any text."""
    return printable(client.peername[0]) if client.peername else "unknown client"


def named_by_mode(client: Any) -> Any:
    """Return the server that a reverse or upstream mode names; None in other modes."""
    return getattr(client.proxy_mode, "address", None)


def fields(headers: Any) -> Headers:
    """Return headers in their order and spelling."""
    return tuple((name, value) for name, value in headers.items(multi=True))


def body_info(flow: Any) -> BodyInfo:
    """Return the client of a request, and what the head says about the body."""
    headers = flow.request.headers
    length = headers.get("content-length")
    content_type = headers.get("content-type", "")
    return BodyInfo(address(flow.client_conn), content_type, int(length) if length else None)


def has_body(request: Any) -> bool:
    """Return whether a body may follow the head. In HTTP/2 no header announces it."""
    if "content-length" in request.headers:
        return bool(request.headers["content-length"].strip() != "0")
    return "transfer-encoding" in request.headers or request.is_http2


def recorded(flow: Any) -> RecordedRequest:
    """Return a copy of an HTTP flow in our own types."""
    request, response = flow.request, flow.response
    return RecordedRequest(
        method=request.method,
        host=endpoints.bare_host(request.pretty_host),
        path=request.path,
        headers=fields(request.headers),
        body=request.raw_content,
        version=request.http_version,
        client=address(flow.client_conn),
        at=request.timestamp_start,
        answered=response
        and RecordedResponse(response.status_code, fields(response.headers), response.raw_content),
    )


def is_readable(flow: Any, message: Any) -> bool:
    """Return whether `prettify` has a text for the request or response of a flow."""
    known = show.has_secrets if message is flow.response else show.is_readable
    return known(recorded(flow))


def prettify(data: bytes, flow: Any, message: Any) -> str:
    """Return a readable text for a body."""
    seen = recorded(flow)
    is_reply = message is flow.response
    text = show.reply(seen) if is_reply else show.request(seen._replace(body=data))
    return "nx_addon cannot explain this: choose another view\n" if text is None else text


def hide_credentials(flow: Any) -> None:
    """Remove user names, passwords and keys from a request."""
    # Rarely needed, and slow to import: its regular expressions are large.
    from nxparse.inspect import credentials

    request = flow.request
    hidden = credentials.hide_in_headers(fields(request.headers))
    request.headers.fields = tuple((_wire(name), _wire(value)) for name, value in hidden)
    request.path = credentials.hide_in_url(request.path)
    request.raw_content = credentials.hide_in_body(request.raw_content or b"")


def is_labelled(flow: Any) -> bool:
    """Return whether nx_addon has answered a request, perhaps with other options than now."""
    return flow.comment.partition(":")[0] in MARKS


def label(flow: Any, outcome: str, words: str) -> None:
    """Mark a flow with its outcome, a key of MARKS, and add a comment."""
    flow.marked = MARKS[outcome]
    flow.comment = printable(f"{outcome}: {words}", MAX_COMMENT)


def _wire(text: str) -> bytes:
    # As mitmproxy decodes headers.
    return text.encode("utf-8", "surrogateescape")

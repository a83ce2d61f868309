"""Requests described in one line of the log, without credentials."""

from __future__ import annotations

import nxparse
from nxparse.inspect import show
from nxparse.inspect.recorded import RecordedRequest
from nxparse.text import describe_upload, printable

MAX_METHOD = 20  # characters of it in a line
MAX_URL = 200
MAX_REASON = 200


def describe_request(method: str, url: str) -> str:
    """Return the method and URL of a request."""
    # Rarely needed, and slow to import: its regular expressions are large.
    from nxparse.inspect import credentials

    url = credentials.hide_in_url(url[: 2 * MAX_URL])
    return f"{printable(method, MAX_METHOD)} {printable(url, MAX_URL)}"


def describe_recorded(recorded: RecordedRequest) -> str:
    """Return what a request from a file was, and how it was answered."""
    line = describe_request(recorded.method, f"http://{recorded.host}{recorded.path}")
    title = show.title(recorded)
    if title != show.EMAIL:
        status = f", answered {recorded.answered.status}" if recorded.answered else ""
        return f"{line}: {title}{status}"
    if not recorded.body:
        return f"{line}: an upload whose body is not in this flow"
    try:
        upload = nxparse.read(recorded.body, recorded.header("content-type"))
    except ValueError as error:
        return f"{line}: an upload that cannot be parsed: {printable(str(error), MAX_REASON)}"
    return f"{line}: an upload {describe_upload(upload)}"

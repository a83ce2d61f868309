"""The straightforward addon: let mitmproxy keep the body, take it apart, write the files, answer.

It is what tests.bench.receive compares with: in 25 lines, with the parser of the
standard library, and without any care for what a power cut or a bad body would do.
"""

from email import policy
from email.parser import BytesParser
from pathlib import Path

from mitmproxy import http

FOLDER = Path("photos")


def request(flow: http.HTTPFlow) -> None:
    """Save the photos of an upload in `FOLDER`."""
    if not flow.request.path.startswith("/social/columbus/email"):
        return
    head = f"Content-Type: {flow.request.headers['content-type']}\r\n\r\n".encode()
    message = BytesParser(policy=policy.HTTP).parsebytes(head + (flow.request.raw_content or b""))
    FOLDER.mkdir(exist_ok=True)
    for part in message.walk():
        name = part.get_filename()
        if part.get_content_maintype() == "image" and name:
            (FOLDER / Path(name).name).write_bytes(part.get_payload(decode=True))
    flow.response = http.Response.make(200, b'<Response Status="succ" />')

"""Receives, stores and delivers uploads from Samsung's Wi-Fi cameras.

`read(body, content_type)` parses the body of an e-mail upload into an Upload.
`nxparse.multipart` has `parse` and `repair` for the multipart body itself.

The modules in this folder parse and do no I/O: upload, message, markup, multipart, scanner,
framing, filename, jpeg, address, deviation. Each folder has one job. It imports only from those
below it in this list, and from the parsing modules:

    cli/       the command line: show, repair, send, outbox
    proxy/     between mitmproxy and the server: connections, exchanges, DNS, advice
    inspect/   requests recorded, shown, redacted and reported
    server/    the services: endpoints (the map of the protocol), hotspot checks,
               social API, sessions, receiving, the web page
    config     the options, parsed once into one frozen object
    deliver/   the outbox, the rules, and one module for each kind of target
    store/     directory operations, SQLite, bodies, uploads and deliveries
    text       strings for one line of a log

Nothing here imports mitmproxy; only nx_addon.py does.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036
    raise ImportError("nxparse needs Python 3.11 or later")

from nxparse.upload import File, Upload, read

__version__ = "1.0.0"
__all__ = ["File", "Upload", "read"]

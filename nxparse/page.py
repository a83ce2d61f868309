"""The page that the camera's browser, or anybody's, sees on our hosts.

A camera that fails its hotspot check opens http://www.samsungimaging.com/.
Whoever sees this page there knows that DNS and redirect are right. It is short
enough for one TCP segment and plain enough for the browser of an NX300.
"""

from __future__ import annotations

from nxparse.reply import Reply

PAGE = Reply(
    200,
    b"<!DOCTYPE html>"
    b'<html lang="en"><head><meta charset="utf-8">'
    b'<meta name="viewport" content="width=device-width"><title>nx_addon</title></head>'
    b"<body><h1>It works</h1>"
    b"<p>This network answers for Samsung's camera services.</p>"
    b"<p>On the camera: choose photos, Share, E-mail, Send.</p>"
    b"</body></html>",
)

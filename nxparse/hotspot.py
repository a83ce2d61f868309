"""What a camera wants to hear before it believes that it is on the Internet.

Before any upload a camera fetches one known page. If the answer is not what it
expects, it takes the network for a hotspot with a captive portal, opens its
browser, and the upload never starts.

The NX family asks ``GET http://gld.samsungosp.com/``. An NX300 is content with
any 200 (wiki page "Email-service" of ge0rg/samsung-nx-hacks). The NX mini
wants what this answer has: no body, an ETag, and nginx as the server
(ge0rg/samsung-nx-emailservice, commit b475ee7).
"""

from __future__ import annotations

from nxparse.reply import Reply

GLD = Reply(200, headers=(("Server", "nginx/notreally"), ("ETag", '"deadbeef"')))

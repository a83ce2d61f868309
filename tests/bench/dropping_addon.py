"""The bound: how fast mitmproxy discards a streamed body.

mitmproxy streams only to servers, so each request gets one in this process. It receives
the head but no body, and replies when the client has sent all of it.
"""

import asyncio

from mitmproxy import ctx, http
from mitmproxy.addonmanager import Loader


class DroppingAddon:
    def __init__(self) -> None:
        self.complete: dict[str, asyncio.Event] = {}  # by the id of the flow

    def load(self, loader: Loader) -> None:
        ctx.options.connection_strategy = "lazy"

    async def requestheaders(self, flow: http.HTTPFlow) -> None:
        complete = self.complete[flow.id] = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await complete.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            writer.close()
            server.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        flow.request.data.host, flow.request.data.port = server.sockets[0].getsockname()
        flow.request.stream = lambda chunk: []

    def request(self, flow: http.HTTPFlow) -> None:
        self.complete.pop(flow.id).set()

    def response(self, flow: http.HTTPFlow) -> None:
        flow.response = http.Response.make(200, b'<Response Status="succ" />')


addons = [DroppingAddon()]

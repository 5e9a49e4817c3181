"""An upstream that streams: a fixed head, then chunks, each a write of its own. Spends as little as Python can.

Run as ``python -m bench.sse SOCKET CHUNKS``.
"""

import asyncio
import sys
from typing import Any

import uvloop

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
CHUNK = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)
END = b"0\r\n\r\n"


class Upstream(asyncio.Protocol):
    """Answers every request whose body arrived; requests are not pipelined."""

    def __init__(self, chunks: int) -> None:
        self._chunks = chunks
        self._received = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if separator and len(body) >= _length(head):
            self._received = b""
            self._transport.write(HEAD)
            asyncio.get_running_loop().call_soon(self._send, self._chunks)

    def _send(self, left: int) -> None:
        if self._transport.is_closing():
            return
        if left == 0:
            self._transport.write(END)
            return
        self._transport.write(CHUNK)
        asyncio.get_running_loop().call_soon(self._send, left - 1)


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


async def main(socket: str, chunks: int) -> None:
    server = await asyncio.get_running_loop().create_unix_server(lambda: Upstream(chunks), socket)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))

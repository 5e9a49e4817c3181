"""What is sent between the workers and the store: frames of a JSON object and bytes beside it.

A frame is the length of the JSON, the length of the bytes (both four bytes, the highest first), the JSON, the bytes.
"""

import asyncio
import struct
from typing import Any, NamedTuple

import orjson

MOST_HEAD, MOST_BODY = 1 << 20, 64 << 20
_LENGTHS = struct.Struct(">II")


class Frame(NamedTuple):
    head: dict[str, Any]
    body: bytes = b""


class FrameError(ValueError):
    """What came is none; the connection is of no use any more."""


def packed(head: dict[str, Any], body: bytes = b"") -> bytes:
    text = orjson.dumps(head)
    return _LENGTHS.pack(len(text), len(body)) + text + body


class Frames:
    """Frames out of any chunking. Holds no more than one of the largest, and what came with its end."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Raises FrameError."""
        held, found, at = self._held, [], 0
        held += data
        while len(held) - at >= _LENGTHS.size:
            head, body = _LENGTHS.unpack_from(held, at)
            if head > MOST_HEAD or body > MOST_BODY:
                raise FrameError(f"a frame of {head} and {body} bytes: {MOST_HEAD} and {MOST_BODY} at most")
            begin = at + _LENGTHS.size
            if len(held) < begin + head + body:
                break
            at = begin + head + body
            found.append(Frame(_object(held[begin : begin + head]), bytes(held[begin + head : at])))
        del held[:at]
        return found


def _object(text: bytearray) -> dict[str, Any]:
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise FrameError(f"a frame's head is no JSON: {error.msg}") from None
    if not isinstance(found, dict):
        raise FrameError("a frame's head is no object")
    return found


class Link(asyncio.Protocol):
    """One end of a connection; `taken` is called for each frame that comes."""

    def __init__(self) -> None:
        self._frames = Frames()
        self._transport: asyncio.Transport | None = None

    def taken(self, frame: Frame) -> None:
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        for frame in self._frames.feed(data):
            self.taken(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def send(self, head: dict[str, Any], body: bytes = b"") -> None:
        if self._transport is not None:
            self._transport.write(packed(head, body))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

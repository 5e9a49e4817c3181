"""HTTP/2 frames: their numbers, and those that are sent as bytes. https://www.rfc-editor.org/rfc/rfc9113#section-6"""

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = struct.Struct(">HBBBI")  # length (16 and 8 bits), type, flags, stream
HEAD_SIZE = 9

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, HAS_PRIORITY = 0x1, 0x4, 0x8, 0x20
ACK = 0x1

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED = range(6)
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM = range(6, 12)

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = range(1, 6)
MAX_HEADER_LIST_SIZE = 6

FRAME_SIZE = 16_384  # of the largest frame that is taken, and of the largest that any peer takes
WINDOW = 65_535  # of a connection at first, and of a stream unless settings say otherwise
MOST_WINDOW = (1 << 31) - 1
MOST_STREAM = (1 << 31) - 1

_PAIR = struct.Struct(">HI")
_INT = struct.Struct(">I")
_GOAWAY = struct.Struct(">II")


class PeerError(Exception):
    """The peer broke the protocol in a way that ends the connection. `code`: of the error, for GOAWAY."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class StreamError(Exception):
    """The same for one stream, for RST_STREAM."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_PAIR.pack(*each) for each in values.items()))


def settings_of(payload: bytes) -> list[tuple[int, int]]:
    """The settings of a frame, in their order. Raises PeerError."""
    if len(payload) % _PAIR.size:
        raise PeerError(FRAME_SIZE_ERROR, "settings of a wrong size")
    return list(_PAIR.iter_unpack(payload))


def window_update(stream: int, more: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, _INT.pack(more))


def reset(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, _INT.pack(code))


def goaway(last: int, code: int, reason: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, _GOAWAY.pack(last, code) + reason.encode()[:200])


def number(payload: bytes) -> int:
    """The one number of a RST_STREAM or WINDOW_UPDATE frame. Raises PeerError."""
    if len(payload) != _INT.size:
        raise PeerError(FRAME_SIZE_ERROR, "a frame of a wrong size")
    return int.from_bytes(payload, "big")


def unpadded(flags: int, payload: bytes) -> bytes:
    """What is in a DATA or HEADERS frame beside padding. Raises PeerError."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise PeerError(PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]


SETTINGS_ACK = frame(SETTINGS, ACK, 0)

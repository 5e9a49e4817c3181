"""AWS event streams: frames with checksums, as Bedrock's ConverseStream sends them.

Prelude (total length, headers' length, CRC of both), headers, payload, CRC of all before it; numbers big-endian, CRCs
those of zlib. https://smithy.io/2.0/aws/amazon-eventstream.html
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NoReturn

from extproc.translate.failures import unreadable
from extproc.translate.wire.frames import Frame

_PRELUDE = struct.Struct("!III")
_CRC = struct.Struct("!I")
_MOST_HEADERS = 128 * 1024
# Sizes of header values by type: true, false, byte, short, integer, long, timestamp, UUID.
_FIXED = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
_BYTES, _STRING = 6, 7


class EventStream:
    """Reads frames of at most `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = bytearray()

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        self._held += chunk
        at = 0
        while True:
            end = at + self._total(at)
            if end == at or len(self._held) < end:
                break
            yield _frame(bytes(self._held[at:end]))
            at = end
        del self._held[:at]

    def end(self) -> Iterator[Frame]:
        if self._held:
            _bad("it ends inside of a frame")
        return iter(())

    def _total(self, at: int) -> int:
        """The length of the frame that begins at `at`; 0 while its prelude is not here."""
        if len(self._held) - at < _PRELUDE.size:
            return 0
        total, headers, crc = _PRELUDE.unpack_from(self._held, at)
        if zlib.crc32(self._held[at : at + 8]) != crc:
            _bad("a frame's prelude has a wrong checksum")
        if total > self._limit or headers > _MOST_HEADERS or total < headers + _PRELUDE.size + _CRC.size:
            _bad("a frame has a length that cannot be")
        return int(total)


def _frame(raw: bytes) -> Frame:
    headers_length = int.from_bytes(raw[4:8], "big")
    if zlib.crc32(raw[:-4]) != _CRC.unpack(raw[-4:])[0]:
        _bad("a frame has a wrong checksum")
    headers = _headers(raw[_PRELUDE.size : _PRELUDE.size + headers_length])
    kind = headers.get(":message-type", "event")
    payload = raw[_PRELUDE.size + headers_length : -4]
    if kind == "event":
        return Frame(headers.get(":event-type", ""), payload)
    name = headers.get(":exception-type") or headers.get(":error-code") or kind
    if not payload and ":error-message" in headers:
        payload = headers[":error-message"].encode()
    return Frame(name, payload, error=True)


def _headers(raw: bytes) -> dict[str, str]:
    """The headers that are strings; others are stepped over."""
    found, at = {}, 0
    try:
        while at < len(raw):
            name_end = at + 1 + raw[at]
            name, kind = raw[at + 1 : name_end], raw[name_end]
            at = name_end + 1
            if kind in (_BYTES, _STRING):
                size = int.from_bytes(raw[at : at + 2], "big")
                at += 2
                if at + size > len(raw):
                    _bad("a header is cut off")
                if kind == _STRING:
                    found[name.decode()] = raw[at : at + size].decode()
                at += size
            else:
                at += _FIXED[kind]
    except (IndexError, KeyError, UnicodeDecodeError):
        _bad("a frame's headers are wrong")
    if at > len(raw):
        _bad("a header is cut off")
    return found


def _bad(what: str) -> NoReturn:
    raise unreadable(f"in its event stream, {what}")

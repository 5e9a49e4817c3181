"""Header blocks of gRPC calls. https://www.rfc-editor.org/rfc/rfc7541

A client is told to keep no table of headers. From then on a block says the same each time it comes, so that what it
says is looked up: blocks of a client's calls are nearly all alike, and decoding one costs more than the rest of a call.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import hpack

from extproc.rpc.frames import COMPRESSION_ERROR, PeerError

MOST_BYTES = 32 << 10  # of the headers of a call, decoded
_TABLE = 4096  # bytes of headers that a client may have us remember before it knows better
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
# Hop-by-hop words of HTTP/1, which HTTP/2 has no use for.
_FORBIDDEN = frozenset(("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"))


@dataclass(frozen=True, slots=True)
class Head:
    """What the headers of a call say. `path`: "" where they are no valid request. `timeout_s`: None without a deadline.

    `metadata`: names in small letters; of a name that comes twice the values joined by a comma.
    """

    path: str
    method: str
    content_type: str
    timeout_s: float | None
    encoding: str
    metadata: Mapping[str, str]


class Decoder:
    """The headers that come on one connection."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(MOST_BYTES)
        self._decoder.max_allowed_table_size = _TABLE

    def forget(self) -> None:
        """The client has agreed to keep no table."""
        self._decoder.max_allowed_table_size = 0

    def head(self, block: bytes) -> Head:
        """Raises PeerError: a block that cannot be read leaves the table unknown."""
        if not (self._decoder.max_allowed_table_size or self._decoder.header_table_size):
            return _alike(block)
        return _head(_decoded(self._decoder, block))


@lru_cache(maxsize=512)
def _alike(block: bytes) -> Head:
    """A block from a client that keeps no table."""
    decoder = hpack.Decoder(MOST_BYTES)
    decoder.header_table_size = decoder.max_allowed_table_size = 0
    return _head(_decoded(decoder, block))


def _decoded(decoder: hpack.Decoder, block: bytes) -> Iterable[tuple[str, str]]:
    try:
        return [(str(name), str(value)) for name, value in decoder.decode(block)]
    except (hpack.HPACKError, IndexError, ValueError) as error:
        raise PeerError(COMPRESSION_ERROR, f"a header block cannot be read: {error}") from None


def _head(pairs: Iterable[tuple[str, str]]) -> Head:
    pseudo: dict[str, str] = {}
    metadata: dict[str, str] = {}
    valid = True
    for name, value in pairs:
        if name.startswith(":"):
            valid &= not metadata and name not in pseudo
            pseudo[name] = value
        else:
            valid &= name == name.lower() and name not in _FORBIDDEN
            metadata[name] = f"{metadata[name]},{value}" if name in metadata else value
    valid &= pseudo.keys() <= {":method", ":scheme", ":path", ":authority"}
    valid &= {":method", ":scheme", ":path"} <= pseudo.keys()
    return Head(
        pseudo.get(":path", "") if valid else "",
        pseudo.get(":method", ""),
        metadata.get("content-type", ""),
        _timeout_s(metadata.get("grpc-timeout")),
        metadata.get("grpc-encoding", "identity"),
        metadata,
    )


def _timeout_s(told: str | None) -> float | None:
    """https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md: digits and a unit. Else it is no deadline."""
    found = _TIMEOUT.fullmatch(told) if told is not None else None
    return int(found[1]) * _UNITS[found[2]] if found else None


def block(*pairs: tuple[str, str]) -> bytes:
    """A block that no table is needed to read: each name and value as it is."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in pairs)


def _text(text: str) -> bytes:
    raw = text.encode("latin-1")
    if len(raw) < 127:
        return bytes((len(raw),)) + raw
    size, more = len(raw) - 127, bytearray(b"\x7f")
    while size >= 128:
        more.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(more) + bytes((size,)) + raw

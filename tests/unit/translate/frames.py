"""AWS event stream frames, made after the specification: https://smithy.io/2.0/aws/amazon-eventstream.html"""

import struct
import zlib


def header(name: str, value: str) -> bytes:
    return bytes([len(name)]) + name.encode() + b"\x07" + struct.pack("!H", len(value)) + value.encode()


def frame(name: str, payload: bytes, *, error: bool = False) -> bytes:
    kinds = (":exception-type", "exception") if error else (":event-type", "event")
    headers = header(kinds[0], name) + header(":content-type", "application/json") + header(":message-type", kinds[1])
    return raw_frame(headers, payload)


def raw_frame(headers: bytes, payload: bytes) -> bytes:
    prelude = struct.pack("!II", 12 + len(headers) + len(payload) + 4, len(headers))
    body = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + payload
    return body + struct.pack("!I", zlib.crc32(body))

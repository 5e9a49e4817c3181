"""What images cost in tokens, estimated by the rules that OpenAI and Anthropic publish for their models."""

import base64
import binascii
import math
import re
import struct

UNKNOWN = (1024, 1024)  # pixels, of an image behind a URL
_HEAD = 64 * 1024  # base64 characters that are looked at: JPEG's size stands behind its previews
_PATCH = 32
_MOST_PATCHES = 1536
_PATCHES = (  # models that count patches, and tokens per patch
    ("gpt-4.1-mini", 1.62),
    ("gpt-4.1-nano", 2.46),
    ("gpt-5-mini", 1.62),
    ("gpt-5-nano", 2.46),
    ("o4-mini", 1.72),
)
_TILES = (  # models that count tiles of 512 pixels: tokens of an image, tokens of a tile
    ("gpt-4o-mini", 2833, 5667),
    ("gpt-5", 70, 140),
    ("o1", 75, 150),
    ("o3", 75, 150),
    ("", 85, 170),
)
_SQUARE, _SHORT, _TILE = 2048, 768, 512
_DATA = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
# Start of frame: every kind of JPEG but the marks that share its range.
_FRAME = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf].{3}(.{4})", re.DOTALL)


def tokens(model: str, size: tuple[int, int], detail: str = "auto") -> int:
    """`size`: width and height in pixels. `detail`: low, high or auto."""
    model = model.removeprefix("openai/")
    width, height = max(1, size[0]), max(1, size[1])
    if "claude" in model:
        return _by_area(width, height)
    for start, each in _PATCHES:
        if model.startswith(start):
            patches = math.ceil(width / _PATCH) * math.ceil(height / _PATCH)
            return math.ceil(min(patches, _MOST_PATCHES) * each)
    base, tile = next((base, tile) for start, base, tile in _TILES if model.startswith(start))
    if detail == "low":
        return base
    scale = min(1.0, _SQUARE / max(width, height))
    scale = min(scale, _SHORT / min(width, height))
    return base + tile * math.ceil(width * scale / _TILE) * math.ceil(height * scale / _TILE)


def _by_area(width: int, height: int) -> int:
    """Anthropic's: an image is shrunk to 1,568 pixels, and 750 pixels are a token."""
    scale = min(1.0, 1568 / max(width, height))
    return min(1600, math.ceil(width * scale * height * scale / 750))


def size_of(url: str) -> tuple[int, int]:
    """Width and height of an image in a data URL; UNKNOWN for others and for what cannot be read."""
    head = _DATA.match(url)
    return size_of_base64(url[head.end() : head.end() + _HEAD]) if head else UNKNOWN


def size_of_base64(text: str) -> tuple[int, int]:
    """Of PNG, GIF, JPEG and WebP, from their first bytes."""
    try:
        data = base64.b64decode(text[: min(len(text), _HEAD) // 4 * 4])
    except (binascii.Error, ValueError):
        return UNKNOWN
    try:
        return _size(data) or UNKNOWN
    except struct.error:
        return UNKNOWN


def _size(data: bytes) -> tuple[int, int] | None:
    if data.startswith(b"\x89PNG"):
        width, height = struct.unpack(">II", data[16:24])
    elif data.startswith(b"GIF8"):
        width, height = struct.unpack("<HH", data[6:10])
    elif data.startswith(b"\xff\xd8"):
        frame = _FRAME.search(data)
        height, width = struct.unpack(">HH", frame.group(1)) if frame else (0, 0)
    elif data[8:12] == b"WEBP" and data[12:16] == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif data[8:12] == b"WEBP" and data[12:16] == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack("<HH", data[26:30]))
    else:
        return None
    return (width, height) if 0 < width <= 65_535 and 0 < height <= 65_535 else None

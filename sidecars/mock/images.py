"""POST /v1/images/generations (JSON), /edits and /variations (forms): one pixel, coloured by the request."""

import base64
import struct
import zlib
from typing import Any

from sidecars.mock.answer import Plain, json_answer, measure, with_usage
from sidecars.mock.call import Call
from sidecars.mock.errors import invalid
from sidecars.mock.prose import words

_TOKENS_PER_IMAGE = 1


def generation(call: Call) -> Plain:
    return _images(call, call.string("prompt"), 0)


def edit(call: Call) -> Plain:
    return _images(call, call.string("prompt"), _uploaded(call))


def variation(call: Call) -> Plain:
    return _images(call, "", _uploaded(call))


def _uploaded(call: Call) -> int:
    count = sum(file.field in ("image", "image[]") for file in call.body.files)
    if not count:
        raise invalid("image", "at least one file named image or image[]")
    return count


def _images(call: Call, prompt: str, uploaded: int) -> Plain:
    count = call.integer("n", 1, 10) or 1
    usage = measure(call, words(prompt) + uploaded * _TOKENS_PER_IMAGE, count * _TOKENS_PER_IMAGE)
    if call.choice("response_format", ("b64_json", "url")) == "url":
        data = [{"url": f"https://mock.invalid/{call.identify('img-')}-{i}.png"} for i in range(count)]
    else:
        data = [{"b64_json": base64.b64encode(_pixel(call, i)).decode()} for i in range(count)]
    found: dict[str, Any] = {"created": call.created, "data": data}
    reported = {
        "input_tokens": usage.prompt,
        "output_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "input_tokens_details": {"text_tokens": words(prompt), "image_tokens": uploaded * _TOKENS_PER_IMAGE},
    }
    return json_answer(with_usage(call, found, reported), usage)


def _pixel(call: Call, index: int) -> bytes:
    """A PNG (W3C PNG specification) of one RGB pixel; images of one answer differ in blue."""
    red, green, blue = bytes.fromhex(call.body.digest[:6])
    scanline = bytes((0, red, green, (blue + index) % 256))
    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    sections = ((b"IHDR", header), (b"IDAT", zlib.compress(scanline)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in sections
    )

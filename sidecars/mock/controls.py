"""What a request may ask of the mock: the table of controls and how headers and model names are read.

A control is asked for by a header (`x-mock-delay: 150ms`) or by the model name (`mock+delay=150ms`); both spell the
same keys, listed in `CONTROLS`. A header wins over the model name, which wins over the process's flags. An unknown
key or a bad value is a 400: a typo in a test must not pass silently.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from sidecars.mock.delays import Delay, delay
from sidecars.mock.errors import MockError
from sidecars.mock.steps import Rate, Script, rates, script

HEADER_PREFIX = b"x-mock-"
_SIZE = re.compile(r"(\d+)(B|KiB|MiB)?")
_BYTES = {None: 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20}
_LARGEST = 16 << 20


@dataclass(frozen=True, slots=True)
class Controls:
    """How one request is answered. Durations are seconds, sizes are bytes. `headers` are more ones of the answer."""

    status: int = 200
    first_status: int | None = None
    retry_after: str | None = None
    delay: Delay = 0.0
    chunk_delay: Delay = 0.0
    chunks: int | None = None
    fail_after: int | None = None
    error_after: int | None = None
    hang: str | None = None
    usage: tuple[int, int] | None = None
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    no_usage: bool = False
    size: int | None = None
    body: bytes | None = None
    content_type: str | None = None
    gzip: bool = False
    errors: tuple[Rate, ...] = ()
    script: Script | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()


def status(text: str) -> int:
    """An HTTP status that ends a request: 200 to 599."""
    if not (text.isascii() and text.isdigit() and 200 <= int(text) <= 599):
        raise ValueError("an HTTP status from 200 to 599")
    return int(text)


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None or int(match[1]) * _BYTES[match[2]] > _LARGEST:
        raise ValueError("a size such as 512, 64KiB or 1MiB, at most 16MiB")
    return int(match[1]) * _BYTES[match[2]]


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ValueError("a whole number, 0 or more")
    return int(text)


def _positive(text: str) -> int:
    if _count(text) < 1:
        raise ValueError("a whole number, 1 or more")
    return int(text)


def _usage(text: str) -> tuple[int, int]:
    prompt, comma, completion = text.partition(",")
    if not comma:
        raise ValueError("two whole numbers, prompt and completion tokens, such as 19,10")
    return _count(prompt.strip()), _count(completion.strip())


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("0 or 1")
    return text == "1"


def _hang(text: str) -> str:
    if text not in ("headers", "body"):
        raise ValueError("headers or body")
    return text


def _header_value(text: str) -> str:
    if not (text and text.isascii() and text.isprintable()):
        raise ValueError("printable ASCII text")
    return text


CONTROLS: dict[str, Callable[[str], Any]] = {
    "status": status,
    "first-status": status,
    "retry-after": _header_value,
    "delay": delay,
    "chunk-delay": delay,
    "chunks": _positive,
    "fail-after": _count,
    "error-after": _count,
    "hang": _hang,
    "usage": _usage,
    "cached-tokens": _count,
    "reasoning-tokens": _count,
    "no-usage": _flag,
    "size": _size,
    "body": unquote_to_bytes,
    "content-type": _header_value,
    "gzip": _flag,
    "errors": rates,
    "script": script,
}


def read_controls(base: Controls, model: str, headers: Iterable[tuple[bytes, bytes]]) -> Controls:
    """`base` with what `model` and then `headers` (lower-case names) ask for; raises a 400 `MockError`."""
    found: dict[str, Any] = {}
    if model.startswith("mock") and "+" in model:
        for directive in model.split("+")[1:]:
            key, equals, value = directive.partition("=")
            if not equals:
                raise MockError(400, f"Model directive '{directive}' is not key=value.", param="model")
            # Percent-encoding lets a value hold the '+' that ends a directive; `body` decodes itself, once.
            _put(found, key, value if key == "body" else unquote(value), "model")
    for name, raw in headers:
        if name.startswith(HEADER_PREFIX):
            _put(found, name[len(HEADER_PREFIX) :].decode("latin-1"), raw.decode("latin-1").strip(), None)
    return replace(base, **found) if found else base


def _put(found: dict[str, Any], key: str, text: str, param: str | None) -> None:
    parse = CONTROLS.get(key)
    if parse is None:
        raise MockError(400, f"Unknown mock control '{key}'; known: {', '.join(CONTROLS)}.", param=param)
    try:
        found[key.replace("-", "_")] = parse(text)
    except ValueError as problem:
        raise MockError(400, f"Mock control '{key}' is '{text}'; expected {problem}.", param=param) from None

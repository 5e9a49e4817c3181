"""When a rule applies, as far as Envoy does not decide it: by request headers, and by what a request holds."""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from extproc.stages.protocol import Request


class Modality(StrEnum):
    """What a request holds; `text` where it holds none of image, audio and file."""

    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"
    FILE = "file"
    TOOLS = "tools"


# Types of parts in OpenAI's chat and Responses API, and in Anthropic's messages.
_PARTS = {
    "image_url": Modality.IMAGE, "input_image": Modality.IMAGE, "image": Modality.IMAGE,
    "input_audio": Modality.AUDIO, "audio": Modality.AUDIO,
    "file": Modality.FILE, "input_file": Modality.FILE, "document": Modality.FILE,
}  # fmt: skip
_TOOLS = ("tools", "functions")


def modalities(request: Request) -> frozenset[Modality]:
    """What the request's body holds."""
    body = request.body
    found = {kind for part in _parts(body) if (kind := _PARTS.get(part)) is not None}
    held = found or {Modality.TEXT}
    if any(isinstance(body.get(name), list) and body[name] for name in _TOOLS):
        held |= {Modality.TOOLS}
    return frozenset(held)


def headers_match(wanted: Mapping[str, tuple[str, ...]], headers: Mapping[str, str]) -> bool:
    """Whether every header has one of the values wanted of it."""
    return all(name in headers and _is_one(headers[name], values) for name, values in wanted.items())


def _is_one(value: str, wanted: tuple[str, ...]) -> bool:
    return any(value.startswith(each[:-1]) if each.endswith("*") else value == each for each in wanted)


def _parts(body: dict[str, Any]) -> Iterator[str]:
    for name in ("messages", "input"):
        messages = body.get(name)
        for message in messages if isinstance(messages, list) else ():
            content = message.get("content") if isinstance(message, dict) else None
            for part in content if isinstance(content, list) else ():
                kind = part.get("type") if isinstance(part, dict) else None
                if isinstance(kind, str):
                    yield kind

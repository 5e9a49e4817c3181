"""What the answering modules hand to delivery: a plain answer or a stream, with its usage."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from sidecars.mock.call import Call

JSON = b"application/json"
EVENTS = b"text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer. `cached` is a part of `prompt`, `reasoning` a part of `completion`."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0


@dataclass(frozen=True, slots=True)
class Plain:
    """An answer in one piece."""

    body: bytes
    content_type: bytes = JSON
    usage: Usage = Usage()
    status: int = 200


@dataclass(frozen=True, slots=True)
class Stream:
    """Server-sent events: `opening` and `closing` are one write each, every one of the `total` chunks is its own.

    `chunks` is read once. `failure` is the event that `error-after` ends the stream with.
    """

    opening: bytes
    chunks: Iterable[bytes]
    total: int
    closing: bytes
    failure: bytes
    usage: Usage


def measure(call: Call, prompt: int, completion: int = 0) -> Usage:
    """The usage to report: `usage` replaces both counts; reasoning tokens come on top of a counted completion."""
    controls = call.controls
    completion += controls.reasoning_tokens
    if controls.usage is not None:
        prompt, completion = controls.usage
    return Usage(prompt, completion, controls.cached_tokens, controls.reasoning_tokens)


def with_usage(call: Call, answer: dict[str, Any], usage: dict[str, Any]) -> dict[str, Any]:
    """`answer` with its usage, unless `no-usage` was asked for."""
    if not call.controls.no_usage:
        answer["usage"] = usage
    return answer


def json_answer(answer: dict[str, Any], usage: Usage = Usage()) -> Plain:
    return Plain(orjson.dumps(answer), usage=usage)


def chat_usage(usage: Usage) -> dict[str, Any]:
    """Usage as chat completions and completions spell it."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def input_usage(usage: Usage) -> dict[str, Any]:
    """Usage as embeddings and rerank spell it: nothing is generated."""
    return {"prompt_tokens": usage.prompt, "total_tokens": usage.prompt + usage.completion}

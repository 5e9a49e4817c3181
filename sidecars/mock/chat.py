"""POST /v1/chat/completions, plain and streamed, as in OpenAI's API reference."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import orjson

from sidecars.mock import prose
from sidecars.mock.answer import DONE, Plain, Stream, chat_usage, json_answer, with_usage
from sidecars.mock.call import Call
from sidecars.mock.draft import Ask, Draft, Tool, chosen, draft, text_of
from sidecars.mock.errors import MockError, error_body, invalid


def answer(call: Call) -> Plain | Stream:
    call.model()
    ask = _ask(call)
    with_final_usage = wants_usage(call)
    made = draft(call, ask)
    if call.flag("stream"):
        return _stream(call, ask, made, with_final_usage)
    shell = _shell(call, "chat.completion")
    shell["choices"] = [_choice(call, made, index) for index in range(ask.count)]
    return json_answer(with_usage(call, shell, chat_usage(made.usage)), made.usage)


def wants_usage(call: Call) -> bool:
    """Whether a stream ends with its usage; `stream_options` without `stream` is an error, as at OpenAI."""
    options = call.data.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise invalid("stream_options", "an object")
    if not call.flag("stream"):
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise MockError(400, message, param="stream_options")
    return bool(options.get("include_usage")) and not call.controls.no_usage


def event(data: Any) -> bytes:
    return b"data: " + orjson.dumps(data) + b"\n\n"


def failure_event() -> bytes:
    return b"data: " + error_body(500, "The mock was asked to fail midway.") + b"\n\n"


def _ask(call: Call) -> Ask:
    messages = call.objects("messages")
    if not messages:
        raise invalid("messages", "an array with at least one message")
    texts = [text_of(message.get("content"), f"messages[{i}].content") for i, message in enumerate(messages)]
    said = next((texts[i] for i in range(len(texts) - 1, -1, -1) if messages[i].get("role") == "user"), "")
    limit = call.integer("max_completion_tokens", 1, 1 << 30)
    schema, json_object = _response_format(call)
    return Ask(
        said=said,
        prompt_words=sum(map(prose.words, texts)),
        count=call.integer("n", 1, 128) or 1,
        stops=prose.stops_of(call),
        limit=limit if limit is not None else call.integer("max_tokens", 1, 1 << 30),
        tool=chosen(_tools(call), call.data.get("tool_choice")),
        schema=schema,
        json_object=json_object,
    )


def _tools(call: Call) -> list[Tool]:
    found = []
    for index, tool in enumerate(call.objects("tools")):
        function = tool.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise invalid(f"tools[{index}].function", "an object with a name")
        found.append(Tool(function["name"], function.get("parameters", {"type": "object"}), f"tools[{index}].function"))
    return found


def _response_format(call: Call) -> tuple[Any, bool]:
    wanted = call.data.get("response_format")
    kind = wanted.get("type") if isinstance(wanted, dict) else wanted
    if kind in (None, "text"):
        return None, False
    if kind == "json_object":
        return None, True
    holder = wanted.get("json_schema") if isinstance(wanted, dict) else None
    if kind != "json_schema" or not isinstance(holder, dict) or not isinstance(holder.get("schema"), dict):
        raise invalid("response_format", "type text, json_object, or json_schema with json_schema.schema")
    return holder["schema"], False


def _shell(call: Call, kind: str) -> dict[str, Any]:
    return {
        "id": call.identify("chatcmpl-"),
        "object": kind,
        "created": call.created,
        "model": call.model(),
        "service_tier": "default",
        "system_fingerprint": "fp_mock",
    }


def _choice(call: Call, made: Draft, index: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": made.text, "refusal": None, "annotations": []}
    if made.tool is not None:
        message["content"] = None
        message["tool_calls"] = [_tool_call(call, made.tool, f"{index}", made.text), *_further(call, made, index)]
    return {"index": index, "message": message, "logprobs": None, "finish_reason": made.reason}


def _tool_call(call: Call, name: str, suffix: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"id": f"{call.identify('call_')}{suffix}", "type": "function", "function": function}


def _further(call: Call, made: Draft, index: int) -> list[dict[str, Any]]:
    """The calls of a choice after the first one."""
    return [_tool_call(call, name, f"{index}_{at}", of) for at, (name, of) in enumerate(made.more, 1)]


def _stream(call: Call, ask: Ask, made: Draft, with_final_usage: bool) -> Stream:
    shell = _shell(call, "chat.completion.chunk")
    tail: dict[str, Any] = {"usage": None} if with_final_usage else {}

    def chunk(index: int, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return event({**shell, "choices": [choice], **tail})

    opening = b"".join(chunk(i, _first_delta(call, made, i)) for i in range(ask.count))
    closing = b"".join(chunk(i, {}, made.reason) for i in range(ask.count))
    if with_final_usage:
        closing += event({**shell, "choices": [], "usage": chat_usage(made.usage)})
    # Only the piece differs between the chunks of a choice: they are cut from one rendered chunk around a marker.
    marker = "\0piece\0"
    frames = [chunk(i, _delta(made, marker)) for i in range(ask.count)]
    further = [
        chunk(i, {"tool_calls": [{"index": at, **each}]})
        for i in range(ask.count)
        for at, each in enumerate(_further(call, made, i), 1)
    ]
    return Stream(
        opening=opening,
        chunks=chain(fill(frames, orjson.dumps(marker), made.pieces), further),
        total=len(made.pieces) * ask.count + len(further),
        closing=closing + DONE,
        failure=failure_event(),
        usage=made.usage,
    )


def fill(frames: list[bytes], marker: bytes, pieces: Sequence[str]) -> Iterator[bytes]:
    """Every piece in every frame, in the order pieces are generated."""
    split = [(head, tail) for head, _, tail in (frame.rpartition(marker) for frame in frames)]
    for piece in pieces:
        encoded = orjson.dumps(piece)
        for head, tail in split:
            yield head + encoded + tail


def _first_delta(call: Call, made: Draft, index: int) -> dict[str, Any]:
    if made.tool is None:
        return {"role": "assistant", "content": "", "refusal": None}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"index": 0, **_tool_call(call, made.tool, f"{index}", "")}],
    }


def _delta(made: Draft, piece: str) -> dict[str, Any]:
    if made.tool is None:
        return {"content": piece}
    return {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}

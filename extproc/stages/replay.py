"""An answer told again: as a stream where it was a document, as a document where it was a stream.

Both directions are per API; what cannot be told again without loss is None, and then the provider is asked.
"""

from collections.abc import Callable, Iterator
from typing import Any

import orjson

from extproc.stages.protocol import Endpoint
from extproc.stages.sse import Splitter, data_of, event_of

Json = dict[str, Any]
DONE = b"data: [DONE]\n\n"
_HEAD = ("id", "created", "model", "system_fingerprint", "service_tier")
_JOINED = ("content", "refusal", "reasoning_content", "reasoning")


def to_stream(endpoint: Endpoint, body: bytes, usage: bool = False) -> bytes | None:
    """`usage`: the request asked for it (`stream_options.include_usage`)."""
    answer = _object(body)
    told = _STREAMS.get(endpoint)
    if answer is None or told is None:
        return None
    try:
        return b"".join(told(answer, usage))
    except (KeyError, TypeError, AttributeError):
        return None


def to_answer(endpoint: Endpoint, stream: bytes) -> bytes | None:
    """None too for a stream that did not come to its end, or that tells of an error."""
    joined = _ANSWERS.get(endpoint)
    events = list(_events(stream))
    if joined is None or not is_whole(endpoint, stream) or any("error" in event for event in events):
        return None
    try:
        answer = joined(events)
        return None if answer is None else orjson.dumps(answer)
    except (KeyError, TypeError, AttributeError, IndexError):  # events of another shape
        return None


def is_whole(endpoint: Endpoint, stream: bytes) -> bool:
    """Whether the stream came to its end."""
    tail = stream[-64 * 1024 :]
    if endpoint in (Endpoint.CHAT, Endpoint.COMPLETIONS):
        return b"[DONE]" in tail[-32:]
    if endpoint is Endpoint.MESSAGES:
        return b'"message_stop"' in tail.replace(b" ", b"")[-200:]
    return endpoint is Endpoint.RESPONSES and b"response.completed" in stream


def _events(stream: bytes) -> Iterator[Json]:
    for event in Splitter().feed(stream):
        value = _object(data_of(event) or b"")
        if value is not None:
            yield value


def _object(text: bytes) -> Json | None:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _chat_stream(answer: Json, usage: bool) -> Iterator[bytes]:
    head = {name: answer[name] for name in _HEAD if name in answer} | {"object": "chat.completion.chunk"}
    for choice in answer["choices"]:
        message = dict(choice["message"])
        if message.get("tool_calls"):
            message["tool_calls"] = [{"index": at, **call} for at, call in enumerate(message["tool_calls"])]
        said = {"index": choice["index"], "delta": message, "finish_reason": None}
        yield _data(head | {"choices": [said | ({"logprobs": choice["logprobs"]} if choice.get("logprobs") else {})]})
        ended = {"index": choice["index"], "delta": {}, "finish_reason": choice.get("finish_reason")}
        yield _data(head | {"choices": [ended]})
    if usage and answer.get("usage"):
        yield _data(head | {"choices": [], "usage": answer["usage"]})
    yield DONE


def _chat_answer(events: list[Json]) -> Json | None:
    answer: Json = {"object": "chat.completion", "choices": []}
    choices: dict[int, Json] = {}
    for event in events:
        answer |= {name: event[name] for name in (*_HEAD, "usage") if event.get(name) is not None}
        for part in event.get("choices") or ():
            blank: Json = {
                "index": part["index"],
                "message": {"role": "assistant", "content": None},
                "finish_reason": None,
            }
            choice = choices.setdefault(part["index"], blank)
            _add(choice["message"], part.get("delta") or {})
            choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
            if part.get("logprobs"):
                _add_lists(choice.setdefault("logprobs", {}), part["logprobs"])
    answer["choices"] = [choices[index] for index in sorted(choices)]
    return answer if choices else None


def _add(message: Json, delta: Json) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            for part in value or ():
                _add_call(message.setdefault("tool_calls", []), part)
        elif name in _JOINED and isinstance(value, str):
            message[name] = (message.get(name) or "") + value
        elif name == "role":
            message[name] = value or message[name]
        elif value:  # nobody knows how its parts are to be joined
            raise KeyError(name)


def _add_call(calls: list[Json], part: Json) -> None:
    at = part.get("index", 0)
    if not 0 <= at <= len(calls):
        raise KeyError(at)
    if at == len(calls):
        calls.append({})
    call = calls[at]
    call |= {name: value for name, value in part.items() if name not in ("index", "function") and value is not None}
    function = part.get("function") or {}
    known = call.setdefault("function", {"name": "", "arguments": ""})
    known["name"] = function.get("name") or known["name"]
    known["arguments"] += function.get("arguments") or ""


def _add_lists(known: Json, more: Json) -> None:
    for name, value in more.items():
        known[name] = (known.get(name) or []) + value if isinstance(value, list) else known.get(name, value)


def _text_stream(answer: Json, usage: bool) -> Iterator[bytes]:
    head = {name: answer[name] for name in _HEAD if name in answer} | {"object": "text_completion"}
    for choice in answer["choices"]:
        yield _data(head | {"choices": [choice]})
    if usage and answer.get("usage"):
        yield _data(head | {"choices": [], "usage": answer["usage"]})
    yield DONE


def _text_answer(events: list[Json]) -> Json | None:
    answer: Json = {"object": "text_completion"}
    choices: dict[int, Json] = {}
    for event in events:
        answer |= {name: event[name] for name in (*_HEAD, "usage") if event.get(name) is not None}
        for part in event.get("choices") or ():
            choice = choices.setdefault(part["index"], {"text": "", "index": part["index"], "finish_reason": None})
            choice["text"] += part.get("text") or ""
            choice |= {name: part[name] for name in ("finish_reason", "logprobs") if part.get(name) is not None}
    answer["choices"] = [choices[index] for index in sorted(choices)]
    return answer if choices else None


_CLAUDE_DELTAS = {"text": "text_delta", "thinking": "thinking_delta", "signature": "signature_delta"}


def _claude_stream(answer: Json, usage: bool) -> Iterator[bytes]:
    content = answer["content"]
    begun = answer | {"content": [], "stop_reason": None, "stop_sequence": None}
    yield _typed({"type": "message_start", "message": begun})
    for index, block in enumerate(content):
        blank = block | {name: "" for name in _CLAUDE_DELTAS if name in block}
        if block["type"] == "tool_use":
            blank = block | {"input": {}}
        yield _typed({"type": "content_block_start", "index": index, "content_block": blank})
        for name, kind in _CLAUDE_DELTAS.items():
            if block.get(name):
                yield _typed(
                    {"type": "content_block_delta", "index": index, "delta": {"type": kind, name: block[name]}}
                )
        if block["type"] == "tool_use":
            written = orjson.dumps(block["input"]).decode()
            delta = {"type": "input_json_delta", "partial_json": written}
            yield _typed({"type": "content_block_delta", "index": index, "delta": delta})
        yield _typed({"type": "content_block_stop", "index": index})
    ended = {name: answer.get(name) for name in ("stop_reason", "stop_sequence")}
    yield _typed({"type": "message_delta", "delta": ended, "usage": answer.get("usage") or {}})
    yield _typed({"type": "message_stop"})


def _claude_answer(events: list[Json]) -> Json | None:
    answer: Json | None = None
    inputs: dict[int, str] = {}
    for event in events:
        kind = event.get("type")
        if kind == "message_start":
            answer = {**event["message"], "content": []}
        elif answer is None or kind in ("ping", "message_stop"):
            continue
        elif kind == "content_block_start":
            answer["content"].append(dict(event["content_block"]))
        elif kind == "content_block_delta":
            _add_to_block(answer["content"][event["index"]], event["delta"], inputs, event["index"])
        elif kind == "message_delta":
            answer |= event["delta"]
            answer["usage"] = {**(answer.get("usage") or {}), **(event.get("usage") or {})}
    for index, written in inputs.items():
        if answer is not None:
            answer["content"][index]["input"] = _object(written.encode() or b"{}") or {}
    return answer


def _add_to_block(block: Json, delta: Json, inputs: dict[int, str], index: int) -> None:
    if delta["type"] == "input_json_delta":
        inputs[index] = inputs.get(index, "") + delta["partial_json"]
    elif delta["type"] == "citations_delta":
        block["citations"] = [*(block.get("citations") or []), delta["citation"]]
    else:
        name = next(name for name, kind in _CLAUDE_DELTAS.items() if kind == delta["type"])
        block[name] = (block.get(name) or "") + delta[name]


def _response_stream(answer: Json, usage: bool) -> Iterator[bytes]:
    events: list[Json] = [{"type": "response.created", "response": answer | {"status": "in_progress", "output": []}}]
    for at, item in enumerate(answer["output"]):
        place = {"output_index": at}
        blank = (
            item | ({"content": []} if "content" in item else {}) | ({"arguments": ""} if "arguments" in item else {})
        )
        events.append({"type": "response.output_item.added", **place, "item": blank | {"status": "in_progress"}})
        for index, part in enumerate(item.get("content") or ()):
            where = {"item_id": item.get("id"), **place, "content_index": index}
            text = part.get("text")
            if isinstance(text, str):
                empty = part | {"text": ""}
                events.append({"type": "response.content_part.added", **where, "part": empty})
                events.append({"type": "response.output_text.delta", **where, "delta": text})
                events.append({"type": "response.output_text.done", **where, "text": text})
                events.append({"type": "response.content_part.done", **where, "part": part})
        if isinstance(item.get("arguments"), str):
            where = {"item_id": item.get("id"), **place}
            events.append({"type": "response.function_call_arguments.delta", **where, "delta": item["arguments"]})
            events.append({"type": "response.function_call_arguments.done", **where, "arguments": item["arguments"]})
        events.append({"type": "response.output_item.done", **place, "item": item})
    events.append({"type": "response.completed", "response": answer})
    for number, event in enumerate(events):
        yield _typed(event | {"sequence_number": number})


def _response_answer(events: list[Json]) -> Json | None:
    found = [event["response"] for event in events if event.get("type") == "response.completed"]
    return found[-1] if found else None


def _data(value: Json) -> bytes:
    return event_of(orjson.dumps(value))


def _typed(value: Json) -> bytes:
    return event_of(orjson.dumps(value), value["type"].encode())


_STREAMS: dict[Endpoint, Callable[[Json, bool], Iterator[bytes]]] = {
    Endpoint.CHAT: _chat_stream,
    Endpoint.COMPLETIONS: _text_stream,
    Endpoint.MESSAGES: _claude_stream,
    Endpoint.RESPONSES: _response_stream,
}
_ANSWERS: dict[Endpoint, Callable[[list[Json]], Json | None]] = {
    Endpoint.CHAT: _chat_answer,
    Endpoint.COMPLETIONS: _text_answer,
    Endpoint.MESSAGES: _claude_answer,
    Endpoint.RESPONSES: _response_answer,
}

"""Answers as each provider sends them, whole and as a stream, made from the same steps."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from hypothesis import strategies as st

from extproc.translate import ClientAPI, Exchange, Options, ProviderName, Stamp, Upstream, request
from tests.unit.translate.frames import frame

STREAMS: dict[ProviderName, str] = {
    "openai": "text/event-stream",
    "anthropic": "text/event-stream",
    "gemini": "text/event-stream",
    "cohere": "text/event-stream",
    "ollama": "application/x-ndjson",
    "bedrock": "application/vnd.amazon.eventstream",
}
# Same dialects are not translated.
PAIRS: list[tuple[ClientAPI, ProviderName]] = [
    (client, provider) for client in ("openai", "anthropic") for provider in STREAMS if client != provider
]


class Step(NamedTuple):
    """`text`, `thinking`, or a `call` of the function `name` whose arguments are the object `{"a": text}`."""

    kind: str
    text: str
    name: str = ""


class Said(NamedTuple):
    """What an answer says, in any dialect."""

    text: str
    thinking: str
    calls: list[tuple[str, Any]]
    reason: str


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12)
# Thinking before text before calls, which is the order of all providers.
STEPS = st.builds(
    lambda thinking, text, calls: [*thinking, *text, *calls],
    st.lists(st.builds(Step, st.just("thinking"), TEXTS), max_size=2),
    st.lists(st.builds(Step, st.just("text"), TEXTS), max_size=3),
    st.lists(st.builds(Step, st.just("call"), TEXTS, st.sampled_from(["f", "g"])), max_size=3),
)


def said(steps: list[Step], reason: str = "stop") -> Said:
    calls = [(step.name, {"a": step.text}) for step in steps if step.kind == "call"]
    joined = {kind: "".join(step.text for step in steps if step.kind == kind) for kind in ("text", "thinking")}
    return Said(joined["text"], joined["thinking"], calls, "tool_calls" if calls and reason == "stop" else reason)


def exchange(client: ClientAPI, provider: ProviderName, *, stream: bool, options: Options | None = None) -> Exchange:
    body = {"model": "a", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}], "stream": stream}
    if client == "openai":
        body["stream_options"] = {"include_usage": True}
    text = json.dumps(body).encode()
    result = request(client, provider, text, "m", Stamp("id-1", 1), options or Options())
    assert isinstance(result, Upstream)
    return result.exchange


def whole(provider: ProviderName, steps: list[Step]) -> bytes:
    return json.dumps(_WHOLE[provider](steps)).encode()


def stream(provider: ProviderName, steps: list[Step]) -> bytes:
    events = list(_STREAMS[provider](steps))
    if provider == "bedrock":
        return b"".join(frame(name, json.dumps(event).encode()) for name, event in events)
    if provider == "ollama":
        return b"".join(json.dumps(event).encode() + b"\n" for event in events)
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    return (text + ("data: [DONE]\n\n" if provider == "openai" else "")).encode()


def arguments(step: Step) -> str:
    return json.dumps({"a": step.text}, ensure_ascii=False)


def halves(text: str) -> tuple[str, str]:
    return text[: len(text) // 2], text[len(text) // 2 :]


def _of(steps: list[Step], kind: str) -> list[Step]:
    return [step for step in steps if step.kind == kind]


def _reason(steps: list[Step], calls: str, stop: str) -> str:
    return calls if _of(steps, "call") else stop


def _openai(steps: list[Step]) -> dict[str, Any]:
    calls = [
        {"id": f"c{i}", "type": "function", "function": {"name": step.name, "arguments": arguments(step)}}
        for i, step in enumerate(_of(steps, "call"))
    ]
    found = said(steps)
    message = {"role": "assistant", "content": found.text or None, "reasoning_content": found.thinking}
    choice = {"index": 0, "message": message | {"tool_calls": calls}, "finish_reason": found.reason}
    return {"id": "o-1", "model": "m", "choices": [choice], "usage": _OPENAI_USAGE}


_OPENAI_USAGE = {
    "prompt_tokens": 70,
    "completion_tokens": 30,
    "total_tokens": 100,
    "prompt_tokens_details": {"cached_tokens": 40},
    "completion_tokens_details": {"reasoning_tokens": 5},
}


def _openai_stream(steps: list[Step]) -> Iterator[dict[str, Any]]:
    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return {"id": "o-1", "model": "m", "choices": [choice], "usage": None}

    yield chunk({"role": "assistant", "content": ""})
    calls = -1
    for step in steps:
        if step.kind != "call":
            yield chunk({"content" if step.kind == "text" else "reasoning_content": step.text})
            continue
        calls += 1
        function = {"name": step.name, "arguments": ""}
        yield chunk({"tool_calls": [{"index": calls, "id": f"c{calls}", "type": "function", "function": function}]})
        for half in halves(arguments(step)):
            yield chunk({"tool_calls": [{"index": calls, "function": {"arguments": half}}]})
    yield chunk({}, said(steps).reason)
    yield {"id": "o-1", "model": "m", "choices": [], "usage": _OPENAI_USAGE}


def _anthropic(steps: list[Step]) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    for i, step in enumerate(steps):
        if step.kind == "call":
            content.append({"type": "tool_use", "id": f"c{i}", "name": step.name, "input": {"a": step.text}})
        else:
            content.append({"type": step.kind, step.kind: step.text})
    reason = _reason(steps, "tool_use", "end_turn")
    return {"type": "message", "id": "a-1", "model": "m", "content": content, "stop_reason": reason} | {
        "usage": _ANTHROPIC_USAGE | {"output_tokens": 30}
    }


_ANTHROPIC_USAGE = {"input_tokens": 20, "cache_read_input_tokens": 40, "cache_creation_input_tokens": 10}


def _anthropic_stream(steps: list[Step]) -> Iterator[dict[str, Any]]:
    message = {"id": "a-1", "model": "m", "content": [], "usage": _ANTHROPIC_USAGE | {"output_tokens": 1}}
    yield {"type": "message_start", "message": message}
    for i, step in enumerate(steps):
        block: dict[str, Any] = {"type": step.kind, step.kind: ""}
        kinds = (f"{step.kind}_delta", step.kind)
        pieces = halves(step.text)
        if step.kind == "call":
            block = {"type": "tool_use", "id": f"c{i}", "name": step.name, "input": {}}
            kinds, pieces = ("input_json_delta", "partial_json"), halves(arguments(step))
        yield {"type": "content_block_start", "index": i, "content_block": block}
        for piece in pieces:
            yield {"type": "content_block_delta", "index": i, "delta": {"type": kinds[0], kinds[1]: piece}}
        yield {"type": "content_block_stop", "index": i}
    reason = _reason(steps, "tool_use", "end_turn")
    yield {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 30}}
    yield {"type": "message_stop"}


def _gemini_part(step: Step) -> dict[str, Any]:
    if step.kind == "call":
        return {"functionCall": {"name": step.name, "args": {"a": step.text}}}
    return {"text": step.text} | ({"thought": True} if step.kind == "thinking" else {})


def _gemini_answer(parts: list[dict[str, Any]], *, last: bool) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}}
    answer: dict[str, Any] = {"candidates": [candidate], "responseId": "g-1", "modelVersion": "m"}
    if last:
        candidate["finishReason"] = "STOP"
        counts = {"promptTokenCount": 70, "cachedContentTokenCount": 40, "candidatesTokenCount": 25}
        answer["usageMetadata"] = counts | {"thoughtsTokenCount": 5, "totalTokenCount": 100}
    return answer


def _gemini(steps: list[Step]) -> dict[str, Any]:
    return _gemini_answer([_gemini_part(step) for step in steps], last=True)


def _gemini_stream(steps: list[Step]) -> Iterator[dict[str, Any]]:
    for step in steps:
        yield _gemini_answer([_gemini_part(step)], last=False)
    yield _gemini_answer([], last=True)


_COHERE_USAGE = {"billed_units": {"input_tokens": 70, "output_tokens": 30}, "cached_tokens": 40}


def _cohere(steps: list[Step]) -> dict[str, Any]:
    calls = [
        {"id": f"c{i}", "type": "function", "function": {"name": step.name, "arguments": arguments(step)}}
        for i, step in enumerate(_of(steps, "call"))
    ]
    content = [{"type": step.kind, step.kind: step.text} for step in steps if step.kind != "call"]
    reason = _reason(steps, "TOOL_CALL", "COMPLETE")
    message = {"role": "assistant", "content": content, "tool_calls": calls}
    return {"id": "co-1", "finish_reason": reason, "message": message, "usage": _COHERE_USAGE}


def _cohere_stream(steps: list[Step]) -> Iterator[dict[str, Any]]:
    yield {"type": "message-start", "id": "co-1", "delta": {"message": {"role": "assistant"}}}
    for i, step in enumerate(steps):
        if step.kind == "call":
            call: dict[str, Any] = {"id": f"c{i}", "function": {"name": step.name, "arguments": ""}}
            yield {"type": "tool-call-start", "index": i, "delta": {"message": {"tool_calls": call}}}
            for half in halves(arguments(step)):
                call = {"function": {"arguments": half}}
                yield {"type": "tool-call-delta", "index": i, "delta": {"message": {"tool_calls": call}}}
            yield {"type": "tool-call-end", "index": i}
            continue
        for half in halves(step.text):
            yield {"type": "content-delta", "index": i, "delta": {"message": {"content": {step.kind: half}}}}
    yield {
        "type": "message-end",
        "delta": {"finish_reason": _reason(steps, "TOOL_CALL", "COMPLETE"), "usage": _COHERE_USAGE},
    }


def _ollama_message(step: Step) -> dict[str, Any]:
    if step.kind == "call":
        return {"content": "", "tool_calls": [{"function": {"name": step.name, "arguments": {"a": step.text}}}]}
    return {"content": step.text} if step.kind == "text" else {"content": "", "thinking": step.text}


_OLLAMA_END = {"done": True, "done_reason": "stop", "prompt_eval_count": 70, "eval_count": 30}


def _ollama(steps: list[Step]) -> dict[str, Any]:
    found = said(steps)
    calls = [{"function": {"name": name, "arguments": value}} for name, value in found.calls]
    message = {"role": "assistant", "content": found.text, "thinking": found.thinking, "tool_calls": calls}
    return {"model": "m", "message": message} | _OLLAMA_END


def _ollama_stream(steps: list[Step]) -> Iterator[dict[str, Any]]:
    for step in steps:
        yield {"model": "m", "message": {"role": "assistant"} | _ollama_message(step), "done": False}
    yield {"model": "m", "message": {"role": "assistant", "content": ""}} | _OLLAMA_END


_BEDROCK_USAGE = {"inputTokens": 20, "outputTokens": 30, "cacheReadInputTokens": 40, "cacheWriteInputTokens": 10}


def _bedrock(steps: list[Step]) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    for i, step in enumerate(steps):
        if step.kind == "call":
            content.append({"toolUse": {"toolUseId": f"c{i}", "name": step.name, "input": {"a": step.text}}})
        elif step.kind == "text":
            content.append({"text": step.text})
        else:
            content.append({"reasoningContent": {"reasoningText": {"text": step.text}}})
    message = {"role": "assistant", "content": content}
    reason = _reason(steps, "tool_use", "end_turn")
    return {"output": {"message": message}, "stopReason": reason, "usage": _BEDROCK_USAGE}


def _bedrock_stream(steps: list[Step]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "messageStart", {"role": "assistant"}
    for i, step in enumerate(steps):
        pieces = halves(step.text)
        if step.kind == "call":
            start = {"toolUse": {"toolUseId": f"c{i}", "name": step.name}}
            yield "contentBlockStart", {"contentBlockIndex": i, "start": start}
            pieces = halves(arguments(step))
        for piece in pieces:
            delta: dict[str, Any] = {"text": piece}
            if step.kind != "text":
                delta = {"toolUse": {"input": piece}} if step.kind == "call" else {"reasoningContent": delta}
            yield "contentBlockDelta", {"contentBlockIndex": i, "delta": delta}
        yield "contentBlockStop", {"contentBlockIndex": i}
    yield "messageStop", {"stopReason": _reason(steps, "tool_use", "end_turn")}
    yield "metadata", {"usage": _BEDROCK_USAGE}


_WHOLE = {
    "openai": _openai,
    "anthropic": _anthropic,
    "gemini": _gemini,
    "cohere": _cohere,
    "ollama": _ollama,
    "bedrock": _bedrock,
}
_STREAMS: dict[ProviderName, Any] = {
    "openai": _openai_stream,
    "anthropic": _anthropic_stream,
    "gemini": _gemini_stream,
    "cohere": _cohere_stream,
    "ollama": _ollama_stream,
    "bedrock": _bedrock_stream,
}

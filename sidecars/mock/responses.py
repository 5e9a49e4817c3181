"""POST /v1/responses, plain and as the typed events of OpenAI's Responses API."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import orjson

from sidecars.mock import prose
from sidecars.mock.answer import Plain, Stream, Usage, json_answer
from sidecars.mock.call import Call
from sidecars.mock.draft import Ask, Draft, Tool, chosen, draft, text_of
from sidecars.mock.errors import MockError, invalid


def answer(call: Call) -> Plain | Stream:
    model = call.model()
    made = draft(call, _ask(call))
    if made.more:
        raise MockError(500, "A fixture answers with several tool calls; here it can be `chunks` of data, or a `body`.")
    final = _response(call, model, made)
    if not call.flag("stream"):
        return json_answer(final, made.usage)
    return _Events(call, made, final).stream()


def _ask(call: Call) -> Ask:
    instructions = call.data.get("instructions")
    said, texts = _input(call)
    schema, json_object = _text_format(call)
    return Ask(
        said=said,
        prompt_words=prose.words(text_of(instructions, "instructions")) + sum(map(prose.words, texts)),
        count=1,
        stops=(),
        limit=call.integer("max_output_tokens", 1, 1 << 30),
        tool=chosen(_tools(call), call.data.get("tool_choice")),
        schema=schema,
        json_object=json_object,
    )


def _input(call: Call) -> tuple[str, list[str]]:
    """The last user message and every text of `input`."""
    value = call.data.get("input")
    if isinstance(value, str):
        return value, [value]
    items = call.objects("input")
    if not items:
        raise invalid("input", "a string or an array of items, not empty")
    texts = [text_of(item.get("content"), f"input[{i}].content") for i, item in enumerate(items)]
    said = next((texts[i] for i in range(len(texts) - 1, -1, -1) if items[i].get("role") == "user"), "")
    return said, texts


def _tools(call: Call) -> list[Tool]:
    """The function tools; those that a provider runs itself (search and the like) are never called."""
    found = []
    for index, tool in enumerate(call.objects("tools")):
        if tool.get("type") != "function":
            continue
        if not isinstance(tool.get("name"), str):
            raise invalid(f"tools[{index}].name", "a string")
        found.append(Tool(tool["name"], tool.get("parameters") or {"type": "object"}, f"tools[{index}].parameters"))
    return found


def _text_format(call: Call) -> tuple[Any, bool]:
    text = call.data.get("text")
    wanted = text.get("format") if isinstance(text, dict) else None
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind in (None, "text"):
        return None, False
    if kind == "json_object":
        return None, True
    if not isinstance(wanted, dict) or kind != "json_schema" or not isinstance(wanted.get("schema"), dict):
        raise invalid("text.format", "type text, json_object, or json_schema with a schema")
    return wanted["schema"], False


def _response(call: Call, model: str, made: Draft) -> dict[str, Any]:
    """The finished response object; `instructions` and the like are repeated as OpenAI does."""
    cut_short = made.reason == "length"
    data = call.data
    return {
        "id": call.identify("resp_"),
        "object": "response",
        "created_at": call.created,
        "status": "incomplete" if cut_short else "completed",
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut_short else None,
        "instructions": data.get("instructions"),
        "max_output_tokens": data.get("max_output_tokens"),
        "model": model,
        "output": [_item(call, made, done=True)],
        "parallel_tool_calls": data.get("parallel_tool_calls", True),
        "previous_response_id": data.get("previous_response_id"),
        "store": data.get("store", True),
        "temperature": data.get("temperature", 1.0),
        "text": data.get("text") or {"format": {"type": "text"}},
        "tool_choice": data.get("tool_choice") or "auto",
        "tools": data.get("tools") or [],
        "top_p": data.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": None if call.controls.no_usage else _usage(made.usage),
        "metadata": data.get("metadata") or {},
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }


def _item(call: Call, made: Draft, *, done: bool) -> dict[str, Any]:
    """The one output item, finished or as it is announced."""
    text = made.text if done else ""
    if made.tool is not None:
        status = "completed" if done else "in_progress"
        names = {"id": call.identify("fc_"), "call_id": call.identify("call_"), "name": made.tool}
        return {"type": "function_call", "status": status, "arguments": text, **names}
    status = ("incomplete" if made.reason == "length" else "completed") if done else "in_progress"
    content = [_part(text)] if done else []
    return {
        "type": "message",
        "id": call.identify("msg_"),
        "status": status,
        "role": "assistant",
        "content": content,
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


class _Events:
    """The events of one streamed response, numbered in the order they are sent."""

    def __init__(self, call: Call, made: Draft, final: dict[str, Any]) -> None:
        self._call = call
        self._made = made
        self._final = final
        self._pieces = made.pieces
        self._numbers = count()
        item = _item(call, made, done=False)
        self._at = {"item_id": item["id"], "output_index": 0}
        if made.tool is None:
            self._at["content_index"] = 0

    def stream(self) -> Stream:
        opening = self._opening()
        first = next(self._numbers)
        total = len(self._pieces)
        self._numbers = count(first + total)
        failure = {"code": "server_error", "message": "The mock was asked to fail midway.", "param": None}
        return Stream(
            opening=opening,
            chunks=self._deltas(first),
            total=total,
            closing=self._closing(),
            # The reference puts the error's fields on the event; clients of the `error` object find that as well.
            failure=self._event("error", **failure, error={"type": "server_error", **failure}),
            usage=self._made.usage,
        )

    def _event(self, kind: str, **fields: Any) -> bytes:
        return _render(kind, {"type": kind, "sequence_number": next(self._numbers), **fields})

    def _opening(self) -> bytes:
        bare = {**self._final, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
        events = [
            self._event("response.created", response=bare),
            self._event("response.in_progress", response=bare),
            self._event("response.output_item.added", output_index=0, item=_item(self._call, self._made, done=False)),
        ]
        if self._made.tool is None:
            events.append(self._event("response.content_part.added", **self._at, part=_part("")))
        return b"".join(events)

    def _deltas(self, first: int) -> Iterator[bytes]:
        tool = self._made.tool is not None
        kind = "response.function_call_arguments.delta" if tool else "response.output_text.delta"
        extra: dict[str, Any] = {} if tool else {"logprobs": []}
        head, _, tail = _render(kind, {"type": kind, **self._at, **extra, "delta": 0}).rpartition(b"0")
        for number, piece in enumerate(self._pieces, first):
            yield b'%b%b,"sequence_number":%d%b' % (head, orjson.dumps(piece), number, tail)

    def _closing(self) -> bytes:
        text = self._made.text
        if self._made.tool is not None:
            kind = "response.function_call_arguments.done"
            events = [self._event(kind, **self._at, name=self._made.tool, arguments=text)]
        else:
            events = [
                self._event("response.output_text.done", **self._at, text=text, logprobs=[]),
                self._event("response.content_part.done", **self._at, part=_part(text)),
            ]
        events += [
            self._event("response.output_item.done", output_index=0, item=_item(self._call, self._made, done=True)),
            self._event(f"response.{self._final['status']}", response=self._final),
        ]
        return b"".join(events)


def _render(kind: str, data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps(data))

"""Anthropic's messages. https://docs.claude.com/en/api/messages, /en/docs/build-with-claude/streaming"""

import base64
import re
from collections.abc import Iterable, Iterator

from extproc.translate import jsontext
from extproc.translate.failures import AnswerError, from_object, unreadable
from extproc.translate.jsontext import Object
from extproc.translate.losses import Losses, inexpressible, invalid
from extproc.translate.neutral import (
    Audio,
    Cache,
    CallPiece,
    CallStarted,
    Chat,
    Counted,
    Document,
    Ended,
    Event,
    Finished,
    Image,
    Part,
    Reason,
    Started,
    Text,
    TextPiece,
    Thinking,
    ThinkingPiece,
    ThinkingRedacted,
    ThinkingSigned,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
    Unexpressed,
    Usage,
)
from extproc.translate.providers.common import (
    Call,
    Dialect,
    Options,
    a_count,
    a_list,
    a_text,
    alternating,
    an_object,
    budget_of,
    cache_control,
    carry,
    effort_of,
    lose_detail,
    lose_details,
    parsed,
    safe_id,
    system_and_turns,
)
from extproc.translate.wire.frames import Frame
from extproc.translate.wire.sse import Events

VERSION = "2023-06-01"
_LEAST_BUDGET = 1024
# Models that think by a budget of tokens; later ones adapt to a level of effort.
_BY_BUDGET = re.compile(r"claude-(3|(opus|sonnet|haiku)-4(-[0-5])?(-20|@|$|[^-\d]))")
_NAMES = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "stop": "stop_sequences"}
_COUNTS = (
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "output_tokens",
    "output_tokens_details",
)
_FINISH: dict[str, Reason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def write(chat: Chat, model: str, options: Options) -> Call:
    """The request."""
    system, turns = system_and_turns(chat)
    limit = chat.setting("max_tokens")
    body: Object = {"model": model, "max_tokens": options.max_tokens if limit is None else limit}
    if system:
        body["system"] = _blocks(system, chat.losses)
    body["messages"] = [{"role": turn.role, "content": _blocks(turn.parts, chat.losses)} for turn in alternating(turns)]
    if chat.tools:
        body["tools"] = [_tool(tool) for tool in chat.tools]
    _choose(chat, body)
    user = chat.settings.get("user")
    if user is not None:
        body["metadata"] = {"user_id": user.value}
    carry(chat, _NAMES, body, done=("max_tokens", "user"))
    think(chat, model, body)
    _shape(chat, body)
    if chat.stream:
        body["stream"] = True
    return Call("/messages", body, (("anthropic-version", VERSION),))


def without_unsigned_thinking(body: Object, losses: Losses) -> Object | None:
    """Anthropic's own request without thinking that nobody signed, which is refused; None when there is none.

    Clients have such thinking from other models: a conversation may have been served by several.
    """
    messages = a_list(body.get("messages"))
    kept = [_signed_part(message, f"messages[{i}]", losses) for i, message in enumerate(messages)]
    return body | {"messages": kept} if losses.dropped else None


def _signed_part(message: object, at: str, losses: Losses) -> object:
    """The message without unsigned thinking. One of nothing else stays: it cannot be empty."""
    content = a_list(an_object(message).get("content"))
    signed = [block for block in content if not _is_unsigned(block)]
    if not signed or len(signed) == len(content):
        return message
    for i, block in enumerate(content):
        if _is_unsigned(block):
            losses.hint(f"{at}.content[{i}]")
    return an_object(message) | {"content": signed}


def _is_unsigned(block: object) -> bool:
    found = an_object(block)
    return found.get("type") == "thinking" and found.get("signature") == ""


def _choose(chat: Chat, body: Object) -> None:
    choice: Object | None = None
    if chat.choice is not None:
        choice = {"type": chat.choice.kind}
        if chat.choice.kind == "tool":
            choice["name"] = chat.choice.name
    if chat.parallel is not None and not chat.parallel.value and chat.tools:
        choice = choice or {"type": "auto"}
        if choice["type"] != "none":
            choice["disable_parallel_tool_use"] = True
    if choice is not None and chat.tools:
        body["tool_choice"] = choice


def _shape(chat: Chat, body: Object) -> None:
    """Structured output: by schema only, and always strict."""
    if chat.format is None:
        return
    if chat.format.schema is None:
        chat.losses.param(chat.format.at, "it has no mode for any JSON; use a json_schema")
        return
    lose_details(chat.format, chat.losses, strict=True)
    body.setdefault("output_config", {})["format"] = {"type": "json_schema", "schema": chat.format.schema}


def think(chat: Chat, model: str, body: Object) -> None:
    """Puts `thinking` and the effort into a body with `max_tokens`; Bedrock's Claude reads the same fields.

    Thinking demands a temperature of 1; without it, temperatures end at 1.
    """
    reasoning, losses = chat.reasoning, chat.losses
    temperature = chat.settings.get("temperature")
    if temperature is not None and isinstance(temperature.value, int | float) and temperature.value > 1:
        losses.param(temperature.at, "temperatures above 1 do not exist here")
        body["temperature"] = 1
    if reasoning is None:
        return
    if not reasoning.on:
        body["thinking"] = {"type": "disabled"}
        return
    if _BY_BUDGET.search(model) or reasoning.budget is not None:
        if unthought := _calls_without_thinking(chat.turns):
            losses.param(reasoning.at, f"the calls in {unthought} came back without the thinking before them")
            return
        budget = budget_of(reasoning, losses)
        if "max_tokens" not in chat.settings:
            body["max_tokens"] += budget
        elif reasoning.budget is None:  # thinking counts against the limit: something must be left for the answer
            budget = min(budget, max(_LEAST_BUDGET, body["max_tokens"] * 4 // 5))
        if body["max_tokens"] <= _LEAST_BUDGET:
            losses.param(reasoning.at, f"thinking needs max_tokens above {_LEAST_BUDGET}")
            return
        body["thinking"] = {"type": "enabled", "budget_tokens": budget}
    else:
        body["thinking"] = {"type": "adaptive"}
        effort = effort_of(reasoning, losses)
        body["output_config"] = {"effort": "low" if effort == "minimal" else effort}
    if temperature is not None and body.get("temperature") != 1:
        losses.param(temperature.at, "a model that thinks has the temperature 1")
        del body["temperature"]


def _calls_without_thinking(turns: Iterable[Turn]) -> str:
    """Where tools were called last without signed thinking before that, which a model that thinks demands to see again.

    https://docs.claude.com/en/docs/build-with-claude/extended-thinking#preserving-thinking-blocks
    """
    last = next((turn for turn in reversed(alternating(turns)) if turn.role == "assistant"), None)
    if last is None or not any(isinstance(part, ToolCall) for part in last.parts):
        return ""
    thought = any(isinstance(part, Thinking) and (part.signature or part.redacted) for part in last.parts)
    return "" if thought else last.at


def _tool(tool: Tool) -> Object:
    found: Object = {"name": tool.name}
    if tool.description is not None:
        found["description"] = tool.description
    found["input_schema"] = tool.parameters
    if tool.strict is not None:
        found["strict"] = tool.strict
    return _marked(found, tool.cache)


def _marked(block: Object, cache: Cache | None) -> Object:
    if cache is not None:
        block["cache_control"] = cache_control(cache)
    return block


def _blocks(parts: Iterable[Part], losses: Losses) -> list[Object]:
    return [_marked(block, part.cache) for part in parts for block in [_block(part, losses)] if block is not None]


def _block(part: Part, losses: Losses) -> Object | None:
    """The block; None for an empty text, which the API refuses, and for thinking that it did not sign."""
    if isinstance(part, Text):
        return {"type": "text", "text": part.text} if part.text else None
    if isinstance(part, ToolCall):
        return {"type": "tool_use", "id": safe_id(part.id), "name": part.name, "input": part.arguments_object}
    if isinstance(part, ToolResult):
        result: Object = {
            "type": "tool_result",
            "tool_use_id": safe_id(part.call_id),
            "content": _blocks(part.parts, losses),
        }
        if part.is_error:
            result["is_error"] = True
        return result
    if isinstance(part, Thinking):
        return _thought(part, losses)
    if isinstance(part, Image):
        lose_detail(part, losses)
        return {"type": "image", "source": _source(part)}
    if isinstance(part, Audio):
        inexpressible(part.at, "it does not listen to audio")
    block: Object = {"type": "document", "source": _document(part)}
    if part.name:
        block["title"] = part.name
    return block


def _thought(part: Thinking, losses: Losses) -> Object | None:
    if part.redacted:
        return {"type": "redacted_thinking", "data": part.redacted}
    if part.signature:
        return {"type": "thinking", "thinking": part.text, "signature": part.signature}
    losses.hint(part.at)
    return None


def _source(part: Image | Document) -> Object:
    if part.url:
        return {"type": "url", "url": part.url}
    return {"type": "base64", "media_type": part.media_type, "data": part.data}


def _document(part: Document) -> Object:
    if part.text:
        return {"type": "text", "media_type": "text/plain", "data": part.text}
    if part.media_type.startswith("text/") and part.data:
        return {"type": "text", "media_type": "text/plain", "data": decoded(part)}
    return _source(part)


def decoded(part: Document) -> str:
    """The text of a document that came in base64. Refuses what is neither."""
    try:
        return base64.b64decode(part.data, validate=True).decode()
    except ValueError:
        invalid(part.at, "text in UTF-8, in base64")


class Reader:
    """Reads an answer, whole or streamed."""

    def __init__(self) -> None:
        self._usage: Object = {}
        self._in_call = False  # server tools stream arguments, too

    def whole(self, answer: Object) -> Iterator[Event]:
        if answer.get("type") == "error":
            raise AnswerError(from_object(answer))
        if not isinstance(answer.get("content"), list):
            raise unreadable("it has no content")
        yield Started(a_text(answer.get("id")), a_text(answer.get("model")))
        for block in a_list(answer.get("content")):
            yield from _whole_block(an_object(block))
        yield self._count(answer.get("usage"))
        yield from _finish(answer)
        yield Ended()

    def frame(self, frame: Frame) -> Iterator[Event]:
        event = parsed(frame)
        kind = event.get("type")
        if kind == "message_start":
            message = an_object(event.get("message"))
            yield Started(a_text(message.get("id")), a_text(message.get("model")))
            yield self._count(message.get("usage"))
        elif kind == "content_block_start":
            block = an_object(event.get("content_block"))
            self._in_call = block.get("type") == "tool_use"
            yield from _start(block)
        elif kind == "content_block_delta":
            delta = an_object(event.get("delta"))
            if self._in_call or delta.get("type") != "input_json_delta":
                yield from _delta(delta)
        elif kind == "message_delta":
            yield self._count(event.get("usage"))
            yield from _finish(an_object(event.get("delta")))
        elif kind == "message_stop":
            yield Ended()

    def _count(self, usage: object) -> Counted:
        """Later counts are cumulative, and replace earlier ones."""
        found = an_object(usage)
        self._usage |= {name: found[name] for name in _COUNTS if found.get(name) is not None}
        cached = a_count(self._usage.get("cache_read_input_tokens"))
        written = a_count(self._usage.get("cache_creation_input_tokens"))
        total = a_count(self._usage.get("input_tokens")) + cached + written
        thought = a_count(an_object(self._usage.get("output_tokens_details")).get("thinking_tokens"))
        return Counted(Usage(total, a_count(self._usage.get("output_tokens")), cached, written, thought))


def _finish(message: Object) -> Iterator[Event]:
    reason = message.get("stop_reason")
    if isinstance(reason, str):
        sequence = message.get("stop_sequence")
        yield Finished(_FINISH.get(reason, "stop"), sequence if isinstance(sequence, str) else None)


def _whole_block(block: Object) -> Iterator[Event]:
    yield from _start(block)
    if block.get("type") == "tool_use":
        yield CallPiece(jsontext.text(an_object(block.get("input"))))
    if block.get("citations"):
        yield Unexpressed("citations")


def _start(block: Object) -> Iterator[Event]:
    """A block begins. What it holds already counts: in streams that is nothing, in whole answers all."""
    kind = a_text(block.get("type"))
    if kind == "text":
        if text := a_text(block.get("text")):
            yield TextPiece(text)
    elif kind == "thinking":
        if text := a_text(block.get("thinking")):
            yield ThinkingPiece(text)
        if signature := a_text(block.get("signature")):
            yield ThinkingSigned(signature)
    elif kind == "redacted_thinking":
        yield ThinkingRedacted(a_text(block.get("data")))
    elif kind == "tool_use":
        yield CallStarted(a_text(block.get("id")), a_text(block.get("name")))
    else:
        yield Unexpressed(kind)


def _delta(delta: Object) -> Iterator[Event]:
    kind = a_text(delta.get("type"))
    if kind == "text_delta":
        yield TextPiece(a_text(delta.get("text")))
    elif kind == "input_json_delta":
        yield CallPiece(a_text(delta.get("partial_json")))
    elif kind == "thinking_delta":
        yield ThinkingPiece(a_text(delta.get("thinking")))
    elif kind == "signature_delta":
        yield ThinkingSigned(a_text(delta.get("signature")))
    else:
        yield Unexpressed(kind)


DIALECT = Dialect("/v1", write, Reader, Events, "text/event-stream")

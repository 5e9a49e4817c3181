"""Cohere's chat, version 2. https://docs.cohere.com/reference/chat, /reference/chat-stream"""

from collections.abc import Iterable, Iterator

from extproc.translate.failures import AnswerError, Failure
from extproc.translate.jsontext import Object
from extproc.translate.losses import Losses, inexpressible
from extproc.translate.neutral import (
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
    Tool,
    ToolCall,
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
    an_object,
    budget_of,
    carry,
    lose_cache,
    lose_details,
    lose_single_call,
    parsed,
    plain,
    split_results,
)
from extproc.translate.providers.functions import function_call, function_tool, image_url
from extproc.translate.wire.frames import Frame
from extproc.translate.wire.sse import Events

_NAMES = {
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "p",
    "top_k": "k",
    "stop": "stop_sequences",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
}
_FINISH: dict[str, Reason] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
}
_FAILED = {"ERROR": 502, "TIMEOUT": 504}


def write(chat: Chat, model: str, options: Options) -> Call:
    """The request."""
    del options
    body: Object = {
        "model": model,
        "messages": [message for turn in chat.turns for message in _turn(turn, chat.losses)],
    }
    carry(chat, _NAMES, body)
    if chat.tools:
        body["tools"] = [_tool(tool, chat.losses) for tool in chat.tools]
        if any(tool.strict for tool in chat.tools):  # all of them, then
            body["strict_tools"] = True
        _choose(chat, body)
    lose_single_call(chat)
    if chat.format is not None:
        form: Object = {"type": "json_object"}
        lose_details(chat.format, chat.losses, strict=True)
        if chat.format.schema is not None:
            form["json_schema"] = chat.format.schema
        body["response_format"] = form
    if chat.reasoning is not None:
        body["thinking"] = {"type": "disabled"}
        if chat.reasoning.on:
            body["thinking"] = {"type": "enabled", "token_budget": budget_of(chat.reasoning, chat.losses)}
    body["stream"] = chat.stream
    return Call("/chat", body)


def _choose(chat: Chat, body: Object) -> None:
    """Any tool or none; one of several cannot be demanded."""
    choice = chat.choice
    if choice is None or choice.kind == "auto":
        return
    if choice.kind == "tool" and (len(chat.tools) > 1 or chat.tools[0].name != choice.name):
        chat.losses.param(choice.at, "it cannot be told which of several tools to call")
    else:
        body["tool_choice"] = "NONE" if choice.kind == "none" else "REQUIRED"


def _tool(tool: Tool, losses: Losses) -> Object:
    lose_cache(tool.cache, losses)
    return function_tool(tool, tool.parameters)


def _turn(turn: Turn, losses: Losses) -> Iterator[Object]:
    for part in turn.parts:
        lose_cache(part.cache, losses)
    if turn.role == "assistant":
        yield _assistant(turn, losses)
        return
    results, rest = split_results(turn)
    for result in results:
        if result.is_error:
            losses.hint(f"{result.at}.is_error")
        for part in result.parts:
            lose_cache(part.cache, losses)
            if not isinstance(part, Text):
                inexpressible(part.at, "a tool's result is text here")
        yield {"role": "tool", "tool_call_id": result.call_id, "content": result.text}
    if rest or not results:
        yield {"role": turn.role, "content": _content(rest)}


def _content(parts: Iterable[Part]) -> object:
    found = list(parts)
    if len(found) == 1 and isinstance(found[0], Text):
        return found[0].text
    return [_part(part) for part in found] or ""


def _part(part: Part) -> Object:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Document) and part.text:
        return {"type": "text", "text": part.text}
    if not isinstance(part, Image):
        inexpressible(part.at, "it takes text and images")
    return image_url(part)


def _assistant(turn: Turn, losses: Losses) -> Object:
    """Thinking may go back without a signature; before tool calls it is the plan, as which it came."""
    planning = any(isinstance(part, ToolCall) for part in turn.parts)
    plan: list[str] = []
    content: list[Part] = []
    calls: list[Object] = []
    for part in turn.parts:
        if isinstance(part, ToolCall):
            calls.append(function_call(part, part.arguments_text))
        elif isinstance(part, Thinking) and part.redacted:
            losses.hint(part.at)
        elif isinstance(part, Thinking) and planning:
            plan.append(part.text)
        else:
            content.append(part)
    message: Object = {"role": "assistant"}
    if plan:
        message["tool_plan"] = "\n".join(plan)
    text = plain(content)
    if text is not None:
        message["content"] = text
    elif content:
        message["content"] = [
            {"type": "thinking", "thinking": part.text} if isinstance(part, Thinking) else _part(part)
            for part in content
        ]
    if calls:
        message["tool_calls"] = calls
    return message


class Reader:
    """Reads an answer, whole or streamed."""

    def whole(self, answer: Object) -> Iterator[Event]:
        yield Started(a_text(answer.get("id")))
        message = an_object(answer.get("message"))
        if not message:
            raise AnswerError(Failure(502, "The model's provider sent an answer without a message."))
        if plan := a_text(message.get("tool_plan")):
            yield ThinkingPiece(plan)
        for block in a_list(message.get("content")):
            yield from _content_events(an_object(block))
        for call in a_list(message.get("tool_calls")):
            yield from _call_events(an_object(call))
        if message.get("citations"):
            yield Unexpressed("citations")
        yield from _end(answer)

    def frame(self, frame: Frame) -> Iterator[Event]:
        event = parsed(frame)
        kind = a_text(event.get("type"))
        delta = an_object(event.get("delta"))
        message = an_object(delta.get("message"))
        if kind == "message-start":
            yield Started(a_text(event.get("id")))
        elif kind in ("content-start", "content-delta"):
            yield from _content_events(an_object(message.get("content")))
        elif kind == "tool-plan-delta":
            if plan := a_text(message.get("tool_plan")):
                yield ThinkingPiece(plan)
        elif kind == "tool-call-start":
            yield from _call_events(an_object(message.get("tool_calls")))
        elif kind == "tool-call-delta":
            function = an_object(an_object(message.get("tool_calls")).get("function"))
            if piece := a_text(function.get("arguments")):
                yield CallPiece(piece)
        elif kind.startswith("citation"):
            yield Unexpressed("citations")
        elif kind == "message-end":
            if error := a_text(delta.get("error")):
                raise AnswerError(Failure(502, error))
            yield from _end(delta)


def _content_events(block: Object) -> Iterator[Event]:
    if thought := a_text(block.get("thinking")):
        yield ThinkingPiece(thought)
    if text := a_text(block.get("text")):
        yield TextPiece(text)


def _call_events(call: Object) -> Iterator[Event]:
    function = an_object(call.get("function"))
    yield CallStarted(a_text(call.get("id")), a_text(function.get("name")))
    if arguments := a_text(function.get("arguments")):
        yield CallPiece(arguments)


def _end(answer: Object) -> Iterator[Event]:
    usage = answer.get("usage")
    if isinstance(usage, dict):
        yield Counted(_usage(usage))
    reason = a_text(answer.get("finish_reason"))
    if reason in _FAILED:
        raise AnswerError(Failure(_FAILED[reason], f"The model failed: {reason}."))
    yield Finished(_FINISH.get(reason, "stop"))
    yield Ended()


def _usage(usage: Object) -> Usage:
    """What is billed: `tokens` beside it counts the provider's own preamble, too."""
    billed, counted = an_object(usage.get("billed_units")), an_object(usage.get("tokens"))
    counts = billed if "output_tokens" in billed else counted
    total = a_count(counts.get("input_tokens"))
    return Usage(total, a_count(counts.get("output_tokens")), min(total, a_count(usage.get("cached_tokens"))))


DIALECT = Dialect("/v2", write, Reader, Events, "text/event-stream")

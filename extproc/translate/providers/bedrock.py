"""Amazon Bedrock's Converse and ConverseStream; requests are signed elsewhere.

https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html and _ConverseStream.html
"""

import base64
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote

from extproc.translate import jsontext
from extproc.translate.failures import AnswerError, Failure, unreadable
from extproc.translate.jsontext import Object
from extproc.translate.losses import Losses, inexpressible
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
    ToolCall,
    ToolResult,
    Turn,
    Unexpressed,
    Usage,
)
from extproc.translate.providers.anthropic import think
from extproc.translate.providers.common import (
    Call,
    Dialect,
    Options,
    a_count,
    a_list,
    a_text,
    alternating,
    an_object,
    carry,
    effort_of,
    lose_detail,
    lose_single_call,
    safe_id,
    system_and_turns,
)
from extproc.translate.wire.eventstream import EventStream
from extproc.translate.wire.frames import Frame

_NAMES = {"max_tokens": "maxTokens", "temperature": "temperature", "top_p": "topP", "stop": "stopSequences"}
_IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/jpg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
_DOCUMENTS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9 ()\[\]-]+")
_FINISH: dict[str, Reason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
_FAILED = frozenset({"malformed_model_output", "malformed_tool_use"})
_STATUSES = {
    "throttlingException": 429,
    "validationException": 400,
    "modelStreamErrorException": 502,
    "serviceUnavailableException": 503,
    "internalServerException": 500,
}


def write(chat: Chat, model: str, options: Options) -> Call:
    """The request; the model, also one with an ARN for a name, is in the path."""
    system, turns = system_and_turns(chat)
    body: Object = {
        "messages": [
            {"role": turn.role, "content": list(_blocks(turn.parts, chat.losses))} for turn in alternating(turns)
        ]
    }
    if system:
        body["system"] = list(_blocks(system, chat.losses))
    config: Object = {}
    claude = "claude" in model
    carry(chat, _NAMES, config, done=("top_k",) if claude else ())
    _think(chat, model, options, body, config)
    if claude and "top_k" in chat.settings:
        body.setdefault("additionalModelRequestFields", {})["top_k"] = chat.setting("top_k")
    if config:
        body["inferenceConfig"] = config
    _tools(chat, body, turns)
    _shape(chat, body)
    verb = "converse-stream" if chat.stream else "converse"
    return Call(f"/model/{quote(model, safe='')}/{verb}", body)


def _think(chat: Chat, model: str, options: Options, body: Object, config: Object) -> None:
    """Claude's fields are Anthropic's own; other models know levels of effort."""
    if "claude" not in model:
        if chat.reasoning is not None and chat.reasoning.on:
            body["outputConfig"] = {"effort": effort_of(chat.reasoning, chat.losses)}
        elif chat.reasoning is not None:
            chat.losses.hint(chat.reasoning.at)
        return
    fields: Object = {"max_tokens": config.get("maxTokens", options.max_tokens)}
    if "temperature" in config:
        fields["temperature"] = config.pop("temperature")
    think(chat, model, fields)
    if "temperature" in fields:
        config["temperature"] = fields["temperature"]
    if "thinking" in fields:
        config["maxTokens"] = fields["max_tokens"]
        body["additionalModelRequestFields"] = {"thinking": fields["thinking"]}
    if "output_config" in fields:
        body["outputConfig"] = fields["output_config"]


def _tools(chat: Chat, body: Object, turns: list[Turn]) -> None:
    """None of the tools is not to offer them, which is not allowed once the conversation has called one."""
    if not chat.tools:
        return
    lose_single_call(chat)
    choice = chat.choice
    if choice is not None and choice.kind == "none":
        if not any(isinstance(part, ToolCall | ToolResult) for turn in turns for part in turn.parts):
            chat.losses.warn(f"{choice.at} became a request without tools")
            return
        chat.losses.param(choice.at, "tools cannot be switched off in a conversation that used them")
    tools: list[Object] = []
    for tool in chat.tools:
        spec: Object = {"name": tool.name}
        if tool.description:
            spec["description"] = tool.description
        spec["inputSchema"] = {"json": tool.parameters}
        if tool.strict is not None:
            spec["strict"] = tool.strict
        tools += [{"toolSpec": spec}, *_cache_point(tool.cache)]
    body["toolConfig"] = {"tools": tools}
    if choice is not None and choice.kind != "none":
        value = {"name": choice.name} if choice.kind == "tool" else {}
        body["toolConfig"]["toolChoice"] = {choice.kind: value}


def _shape(chat: Chat, body: Object) -> None:
    form = chat.format
    if form is None:
        return
    if form.schema is None:
        chat.losses.param(form.at, "it has no mode for any JSON; use a json_schema")
        return
    schema: Object = {"schema": jsontext.text(form.schema)}
    if form.name:
        schema["name"] = form.name
    if form.description:
        schema["description"] = form.description
    shape = {"type": "json_schema", "structure": {"jsonSchema": schema}}
    body.setdefault("outputConfig", {})["textFormat"] = shape


def _blocks(parts: Iterable[Part], losses: Losses) -> Iterator[Object]:
    for part in parts:
        block = _block(part, losses)
        if block is not None:
            yield block
            # Results cannot hold marks: the last one in a result stands behind it.
            inner = [each.cache for each in part.parts if each.cache] if isinstance(part, ToolResult) else []
            yield from _cache_point(part.cache or (inner[-1] if inner else None))


def _cache_point(cache: Cache | None) -> list[Object]:
    if cache is None:
        return []
    return [{"cachePoint": {"type": "default", "ttl": cache.ttl} if cache.ttl else {"type": "default"}}]


def _block(part: Part, losses: Losses) -> Object | None:
    """The block; None for an empty text, which the API refuses, and for thinking that nobody signed."""
    if isinstance(part, Text):
        return {"text": part.text} if part.text else None
    if isinstance(part, ToolCall):
        return {"toolUse": {"toolUseId": safe_id(part.id), "name": part.name, "input": part.arguments_object}}
    if isinstance(part, ToolResult):
        content = [block for inner in part.parts if (block := _block(inner, losses)) is not None] or [{"json": {}}]
        result: Object = {"toolUseId": safe_id(part.call_id), "content": content}
        if part.is_error:
            result["status"] = "error"
        return {"toolResult": result}
    if isinstance(part, Thinking):
        return _thought(part, losses)
    return _media(part, losses)


def _media(part: Image | Audio | Document, losses: Losses) -> Object:
    if isinstance(part, Audio):
        return {"audio": {"format": part.format, "source": {"bytes": part.data}}}
    if part.url:
        inexpressible(part.at, "nothing is fetched by URL; send the data")
    if isinstance(part, Document):
        return {"document": _document(part)}
    lose_detail(part, losses)
    if part.media_type not in _IMAGES:
        inexpressible(part.at, f"images are {', '.join(sorted(set(_IMAGES.values())))}")
    return {"image": {"format": _IMAGES[part.media_type], "source": {"bytes": part.data}}}


def _thought(part: Thinking, losses: Losses) -> Object | None:
    if part.redacted:
        return {"reasoningContent": {"redactedContent": part.redacted}}
    if part.signature:
        return {"reasoningContent": {"reasoningText": {"text": part.text, "signature": part.signature}}}
    losses.hint(part.at)
    return None


def _document(part: Document) -> Object:
    """Names are of letters, digits, spaces, hyphens and brackets only."""
    name = re.sub(r"  +", " ", _NOT_IN_NAMES.sub(" ", part.name.rpartition(".")[0] or part.name)).strip() or "document"
    if part.text:
        data = base64.b64encode(part.text.encode()).decode()
        return {"format": "txt", "name": name[:200], "source": {"bytes": data}}
    if part.media_type not in _DOCUMENTS:
        inexpressible(part.at, f"documents are {', '.join(_DOCUMENTS.values())}")
    return {"format": _DOCUMENTS[part.media_type], "name": name[:200], "source": {"bytes": part.data}}


class Reader:
    """Reads an answer, whole or streamed. It has no name of its own; usage comes last."""

    def __init__(self) -> None:
        self._in_call = False

    def whole(self, answer: Object) -> Iterator[Event]:
        message = an_object(answer.get("output")).get("message")
        if not isinstance(message, dict):
            raise unreadable("it has no message")
        yield Started()
        for block in a_list(message.get("content")):
            yield from _whole_block(an_object(block))
        yield Counted(_usage(an_object(answer.get("usage"))))
        yield from _finish(answer)
        yield Ended()

    def frame(self, frame: Frame) -> Iterator[Event]:
        event = _payload(frame)
        if frame.name == "messageStart":
            yield Started()
        elif frame.name == "contentBlockStart":
            yield from self._start(an_object(event.get("start")))
        elif frame.name == "contentBlockDelta":
            delta = an_object(event.get("delta"))
            if self._in_call or "toolUse" not in delta:
                yield from _delta(delta)
        elif frame.name == "contentBlockStop":
            self._in_call = False
        elif frame.name == "messageStop":
            yield from _finish(event)
        elif frame.name == "metadata":
            yield Counted(_usage(an_object(event.get("usage"))))
            yield Ended()

    def _start(self, start: Object) -> Iterator[Event]:
        call = start.get("toolUse")
        self._in_call = isinstance(call, dict) and "type" not in call  # with a type, it is a tool of the server's
        if self._in_call:
            yield CallStarted(a_text(an_object(call).get("toolUseId")), a_text(an_object(call).get("name")))
        else:
            for kind in list(start)[:4]:
                yield Unexpressed(kind)


def _payload(frame: Frame) -> Object:
    """The event. Raises AnswerError for an exception, and for what is no object."""
    try:
        event = jsontext.loads(frame.data)
    except jsontext.JSONTextError as error:
        if not frame.error:
            raise unreadable(str(error)) from None
        event = {}
    if frame.error:
        message = a_text(an_object(event).get("message")) or "The model's provider broke off with an error."
        raise AnswerError(Failure(_STATUSES.get(frame.name, 502), message))
    if not isinstance(event, dict):
        raise unreadable("an event is no object")
    return event


def _finish(event: Object) -> Iterator[Event]:
    reason = a_text(event.get("stopReason"))
    if reason in _FAILED:
        raise AnswerError(Failure(502, f"The model failed: {reason}."))
    if not reason:
        raise unreadable("it does not say why it stopped")
    yield Finished(_FINISH.get(reason, "stop"))


def _whole_block(block: Object) -> Iterator[Event]:
    call = block.get("toolUse")
    if isinstance(call, dict):
        yield CallStarted(a_text(call.get("toolUseId")), a_text(call.get("name")))
        yield CallPiece(jsontext.text(an_object(call.get("input"))))
        return
    thought = an_object(an_object(block.get("reasoningContent")).get("reasoningText"))
    yield from _delta(block | {"reasoningContent": thought} if thought else block)


def _delta(delta: Object) -> Iterator[Event]:
    """A piece of a block; the blocks of whole answers have nearly the same shape."""
    if text := a_text(delta.get("text")):
        yield TextPiece(text)
    thought = an_object(delta.get("reasoningContent"))
    if text := a_text(thought.get("text")):
        yield ThinkingPiece(text)
    if signature := a_text(thought.get("signature")):
        yield ThinkingSigned(signature)
    if redacted := a_text(thought.get("redactedContent")):
        yield ThinkingRedacted(redacted)
    if arguments := a_text(an_object(delta.get("toolUse")).get("input")):
        yield CallPiece(arguments)
    for kind in ("image", "citation", "citationsContent", "toolResult", "audio", "document"):
        if kind in delta:
            yield Unexpressed(kind)


def _usage(usage: Object) -> Usage:
    """The cache's part is counted beside the input."""
    cached, written = a_count(usage.get("cacheReadInputTokens")), a_count(usage.get("cacheWriteInputTokens"))
    total = a_count(usage.get("inputTokens")) + cached + written
    return Usage(total, a_count(usage.get("outputTokens")), cached, written)


DIALECT = Dialect("", write, Reader, EventStream, "application/vnd.amazon.eventstream")

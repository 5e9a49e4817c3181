"""OpenAI's chat completions, and the servers that speak it in their own accents.

OpenAI: platform.openai.com/docs/api-reference/chat, Azure: learn.microsoft.com/azure/ai-foundry/openai/reference,
Hugging Face: huggingface.co/docs/inference-providers, OpenRouter: openrouter.ai/docs/api-reference, vLLM:
docs.vllm.ai/en/latest/serving/openai_compatible_server.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple
from urllib.parse import quote

from extproc.translate.failures import AnswerError, from_object, unreadable
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
    RefusalPiece,
    Started,
    Text,
    TextPiece,
    Thinking,
    ThinkingPiece,
    ThinkingRedacted,
    ThinkingSigned,
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
    cache_control,
    carry,
    effort_of,
    lose_cache,
    parsed,
    plain,
    split_results,
)
from extproc.translate.providers.functions import function_call, function_tool, image_url, url_of
from extproc.translate.wire.frames import Frame
from extproc.translate.wire.sse import Events


class Accent(NamedTuple):
    """Where servers of this dialect differ."""

    limit: str = "max_completion_tokens"  # OpenAI's newer name; other servers know the older one for sure
    marks: bool = False  # carries `cache_control`
    thoughts: bool = False  # carries `reasoning` and `reasoning_details`
    top_k: bool = False
    most_stops: int = 4


OPENAI = Accent()
HUGGINGFACE = Accent(limit="max_tokens")
OPENROUTER = Accent(limit="max_tokens", marks=True, thoughts=True, top_k=True, most_stops=64)
VLLM = Accent(limit="max_tokens", top_k=True, most_stops=64)
_NAMES = {"temperature": "temperature", "top_p": "top_p", "user": "user"}
_FINISH: dict[str, Reason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


def path(endpoint: str, model: str, options: Options) -> str:
    """The path below the base path; Azure's older API has the model in it."""
    if not options.api_version:
        return endpoint
    return f"/deployments/{quote(model, safe='')}{endpoint}?api-version={quote(options.api_version, safe='')}"


def write(accent: Accent, chat: Chat, model: str, options: Options) -> Call:
    """The request."""
    body: Object = {"model": model, "messages": _messages(chat, accent)}
    limit = chat.setting("max_tokens")
    if limit is not None:
        body[accent.limit] = limit
    _stops(chat, accent, body)
    names = _NAMES | {"top_k": "top_k"} if accent.top_k else _NAMES
    carry(chat, names, body, done=("max_tokens", "stop"))
    if chat.tools:
        body["tools"] = [_tool(tool, accent, chat.losses) for tool in chat.tools]
        if chat.choice is not None:
            body["tool_choice"] = _choice(chat.choice.kind, chat.choice.name)
        if chat.parallel is not None:
            body["parallel_tool_calls"] = chat.parallel.value
    _shape(chat, body)
    _think(chat, accent, body)
    if chat.stream:
        body["stream"] = True
        if options.stream_usage:
            body["stream_options"] = {"include_usage": True}
    return Call(path("/chat/completions", model, options), body)


def _stops(chat: Chat, accent: Accent, body: Object) -> None:
    stop = chat.settings.get("stop")
    if stop is None or not isinstance(stop.value, list):
        return
    if len(stop.value) > accent.most_stops:
        chat.losses.param(stop.at, f"it takes {accent.most_stops} stop sequences at most")
    body["stop"] = stop.value[: accent.most_stops]


def _choice(kind: str, name: str) -> object:
    if kind == "tool":
        return {"type": "function", "function": {"name": name}}
    return "required" if kind == "any" else kind


def _shape(chat: Chat, body: Object) -> None:
    form = chat.format
    if form is None:
        return
    if form.schema is None:
        body["response_format"] = {"type": "json_object"}
        return
    schema: Object = {"name": form.name or "answer", "schema": form.schema}
    if form.strict is not None:
        schema["strict"] = form.strict
    body["response_format"] = {"type": "json_schema", "json_schema": schema}


def _think(chat: Chat, accent: Accent, body: Object) -> None:
    reasoning = chat.reasoning
    if reasoning is None:
        return
    if not accent.thoughts:
        if reasoning.on:
            body["reasoning_effort"] = effort_of(reasoning, chat.losses)
        else:  # many models refuse to be told so, those that do not think and those that always do
            chat.losses.hint(reasoning.at)
        return
    if not reasoning.on:
        body["reasoning"] = {"enabled": False}
    elif reasoning.effort:
        body["reasoning"] = {"effort": reasoning.effort}
    else:
        body["reasoning"] = {"enabled": True} if reasoning.budget is None else {"max_tokens": reasoning.budget}


def _tool(tool: Tool, accent: Accent, losses: Losses) -> Object:
    return _marked(function_tool(tool, tool.schema, strict=tool.strict), tool.cache, accent, losses)


def _marked(part: Object, cache: Cache | None, accent: Accent, losses: Losses) -> Object:
    if cache is None:
        return part
    if accent.marks:
        part["cache_control"] = cache_control(cache)
    else:
        losses.hint(cache.at)
    return part


def _messages(chat: Chat, accent: Accent) -> list[Object]:
    messages: list[Object] = []
    for turn in chat.turns:
        if turn.role == "assistant":
            messages.append(_assistant(turn, accent, chat.losses))
        elif turn.role == "system":
            messages.append({"role": "system", "content": _content(turn.parts, accent, chat.losses)})
        else:
            messages += _user(turn, accent, chat.losses)
    return messages


def _user(turn: Turn, accent: Accent, losses: Losses) -> Iterator[Object]:
    """Tool results first, as messages of their own: nothing may stand between them and the calls.

    They are text only here; images in them come as a user message right after, with a warning.
    """
    results, rest = split_results(turn)
    for result in results:
        texts: list[Part] = [part for part in result.parts if isinstance(part, Text)]
        others = [part for part in result.parts if not isinstance(part, Text)]
        if others:
            losses.warn(f"{result.at}: images and documents moved behind the tool results")
            rest = [*others, *rest]
        if result.is_error:
            losses.hint(f"{result.at}.is_error")
        if result.cache is not None:
            losses.hint(result.cache.at)
        content = _content(texts, accent, losses)
        yield {"role": "tool", "tool_call_id": result.call_id, "content": content}
    if rest or not results:
        yield {"role": "user", "content": _content(rest, accent, losses)}


def _content(parts: Iterable[Part], accent: Accent, losses: Losses) -> object:
    found = list(parts)
    if not found:
        return ""
    if not accent.marks and len(found) == 1 and isinstance(found[0], Text):
        lose_cache(found[0].cache, losses)
        return found[0].text
    single = plain(found)
    return single if single is not None else [_part(part, accent, losses) for part in found]


def _part(part: Part, accent: Accent, losses: Losses) -> Object:
    if isinstance(part, Text):
        found: Object = {"type": "text", "text": part.text}
    elif isinstance(part, Image):
        found = image_url(part)
    elif isinstance(part, Audio):
        found = {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
    elif isinstance(part, Document):
        found = _document(part, accent)
    else:
        inexpressible(part.at, "it does not belong into a message of this role")
    return _marked(found, part.cache, accent, losses)


def _document(part: Document, accent: Accent) -> Object:
    if part.text:
        return {"type": "text", "text": part.text}
    if part.url and not accent.thoughts:  # OpenRouter fetches documents, others do not
        inexpressible(part.at, "documents by URL are not fetched; send the data")
    return {"type": "file", "file": {"filename": part.name or "document.pdf", "file_data": url_of(part)}}


def _assistant(turn: Turn, accent: Accent, losses: Losses) -> Object:
    texts = [part for part in turn.parts if isinstance(part, Text)]
    message: Object = {"role": "assistant", "content": _content(texts, accent, losses) if texts else None}
    details: list[Object] = []
    calls: list[Object] = []
    for part in turn.parts:
        if isinstance(part, Thinking):
            if accent.thoughts:
                details.append(_detail(part, len(details)))
            else:
                losses.hint(part.at)
        elif isinstance(part, ToolCall):
            calls.append(function_call(part, part.arguments_text))
            if part.cache is not None:
                losses.hint(part.cache.at)
        elif not isinstance(part, Text):
            inexpressible(part.at, "an assistant's message is text and tool calls")
    if details:
        message["reasoning_details"] = details
    if calls:
        message["tool_calls"] = calls
    return message


def _detail(part: Thinking, index: int) -> Object:
    """OpenRouter's form of thinking, as https://openrouter.ai/docs/use-cases/reasoning-tokens has it."""
    if part.redacted:
        return {"type": "reasoning.encrypted", "data": part.redacted, "index": index}
    return {"type": "reasoning.text", "text": part.text, "signature": part.signature or None, "index": index}


class Reader:
    """Reads an answer, whole or streamed. One choice: nobody who needs translation can ask for more."""

    def __init__(self) -> None:
        self._started = False
        self._call, self._id = -1, ""  # the index and id of the call whose arguments are coming
        self._finish: str | None = None

    def whole(self, answer: Object) -> Iterator[Event]:
        if answer.get("error"):
            raise AnswerError(from_object(answer))
        if not a_list(answer.get("choices")):
            raise unreadable("it has no choices")
        yield from self._chunk(answer, "message")
        yield Ended()

    def frame(self, frame: Frame) -> Iterator[Event]:
        if frame.data.strip() == b"[DONE]":
            yield Ended()
            return
        yield from self._chunk(parsed(frame), "delta")

    def _chunk(self, chunk: Object, of: str) -> Iterator[Event]:
        if not self._started and (chunk.get("id") or chunk.get("choices")):
            self._started = True
            yield Started(a_text(chunk.get("id")), a_text(chunk.get("model")))
        for choice in a_list(chunk.get("choices"))[:1]:
            found = an_object(choice)
            yield from self._message(an_object(found.get(of)))
            if found.get("logprobs"):
                yield Unexpressed("logprobs")
            reason = found.get("finish_reason")
            if isinstance(reason, str):
                yield Finished(_FINISH.get(reason, "stop"))
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            yield Counted(usage_of(usage))

    def _message(self, message: Object) -> Iterator[Event]:
        yield from _thoughts(message)
        if text := a_text(message.get("content")):
            yield TextPiece(text)
        if refusal := a_text(message.get("refusal")):
            yield RefusalPiece(refusal)
        for i, call in enumerate(a_list(message.get("tool_calls"))):
            yield from self._called(an_object(call), i)
        for name in ("audio", "annotations", "images", "function_call"):
            if message.get(name):
                yield Unexpressed(name)

    def _called(self, call: Object, position: int) -> Iterator[Event]:
        function = an_object(call.get("function"))
        index, name, call_id = call.get("index", position), a_text(function.get("name")), a_text(call.get("id"))
        another = bool(name) and call_id not in ("", self._id)  # Gemini's endpoint gives all of them one index
        if isinstance(index, int) and (index != self._call or another):
            if index < self._call and not another:
                raise unreadable("the pieces of its tool calls are mixed up")
            self._call, self._id = index, call_id
            yield CallStarted(call_id, name)
        if arguments := a_text(function.get("arguments")):
            yield CallPiece(arguments)


def _thoughts(message: Object) -> Iterator[Event]:
    """Thinking as text; OpenRouter repeats it in details, which hold what the model needs to have back."""
    thought = a_text(message.get("reasoning_content")) or a_text(message.get("reasoning"))
    if thought:
        yield ThinkingPiece(thought)
    for item in a_list(message.get("reasoning_details")):
        detail = an_object(item)
        text = a_text(detail.get("text"))
        if text and not thought:
            yield ThinkingPiece(text)
        if signature := a_text(detail.get("signature")):
            yield ThinkingSigned(signature)
        if detail.get("type") == "reasoning.encrypted":
            yield ThinkingRedacted(a_text(detail.get("data")))


def usage_of(usage: Object) -> Usage:
    """OpenAI's usage; caches also as DeepSeek and other servers tell them, or Anthropic's names beside OpenAI's."""
    details, produced = an_object(usage.get("prompt_tokens_details")), an_object(usage.get("completion_tokens_details"))
    cached = a_count(details.get("cached_tokens")) or a_count(usage.get("prompt_cache_hit_tokens"))
    written = a_count(details.get("cache_write_tokens")) or a_count(usage.get("cache_creation_input_tokens"))
    total, given = a_count(usage.get("prompt_tokens")), a_count(usage.get("completion_tokens"))
    return Usage(total, given, cached, written, a_count(produced.get("reasoning_tokens")))


def _dialect(base_path: str, accent: Accent) -> Dialect:
    writer: Callable[[Chat, str, Options], Call] = partial(write, accent)
    return Dialect(base_path, writer, Reader, Events, "text/event-stream")


DIALECT = _dialect("/v1", OPENAI)
DIALECT_AZURE = _dialect("/openai/v1", OPENAI)
DIALECT_HUGGINGFACE = _dialect("/v1", HUGGINGFACE)
DIALECT_OPENROUTER = _dialect("/api/v1", OPENROUTER)
DIALECT_VLLM = _dialect("/v1", VLLM)

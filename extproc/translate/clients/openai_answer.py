"""The neutral events of an answer -> OpenAI's chat completion, whole or as a stream of chunks.

https://platform.openai.com/docs/api-reference/chat/object and /chat/streaming. Thinking goes out as
`reasoning_content`, which DeepSeek introduced, and its signatures as OpenRouter's `reasoning_details`, so that clients
which send their messages back as they got them keep it. Gemini's signatures go where Google's own OpenAI endpoint puts
them: `extra_content.google.thought_signature`.
"""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from extproc.translate import jsontext
from extproc.translate.clients.writer import EventWriter, Origin, frame_of, named
from extproc.translate.failures import Failure, shape
from extproc.translate.jsontext import Object
from extproc.translate.neutral import (
    CallPiece,
    CallStarted,
    Event,
    RefusalPiece,
    Started,
    TextPiece,
    ThinkingPiece,
    ThinkingRedacted,
    ThinkingSigned,
    Usage,
)

_DONE = b"data: [DONE]\n\n"


def whole(events: Iterable[Event], origin: Origin) -> bytes:
    """The body of a chat completion."""
    message = _Message()
    head, finished, usage = frame_of(events, message.add)
    name, model = named(head, origin)
    body: Object = {
        "id": name,
        "object": "chat.completion",
        "created": origin.created,
        "model": model,
        "choices": [{"index": 0, "message": message.object(), "logprobs": None, "finish_reason": finished.reason}],
    }
    if usage is not None:
        body["usage"] = usage_object(usage)
    return jsontext.dumps(body)


def usage_object(usage: Usage) -> Object:
    """The usage in OpenAI's names; tokens written to a cache have one since 2026."""
    details: Object = {"cached_tokens": usage.cached}
    if usage.cache_write:
        details["cache_write_tokens"] = usage.cache_write
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": details,
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


class _Message:
    """Gathers the message of a whole answer."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._thoughts = _Thoughts()
        self._calls: list[tuple[Object, list[str]]] = []

    def add(self, event: Event) -> None:
        if isinstance(event, TextPiece):
            self._text.append(event.text)
        elif isinstance(event, RefusalPiece):
            self._refusal.append(event.text)
        elif isinstance(event, ThinkingPiece | ThinkingSigned | ThinkingRedacted):
            self._thoughts.add(event)
        elif isinstance(event, CallStarted):
            self._calls.append((_call(event), []))
        elif isinstance(event, CallPiece) and self._calls:
            self._calls[-1][1].append(event.arguments)

    def object(self) -> Object:
        message: Object = {"role": "assistant", "content": "".join(self._text) or None}
        if not self._text and not self._calls and not self._refusal:
            message["content"] = ""
        message["refusal"] = "".join(self._refusal) or None
        message |= self._thoughts.object()
        if self._calls:
            for call, pieces in self._calls:
                call["function"]["arguments"] = "".join(pieces) or "{}"
            message["tool_calls"] = [call for call, _ in self._calls]
        return message


class _Thoughts:
    """Gathers the thinking of a whole answer: a block ends with its signature."""

    def __init__(self) -> None:
        self._blocks: list[Object] = []
        self._open: list[str] = []
        self._text: list[str] = []

    def add(self, event: ThinkingPiece | ThinkingSigned | ThinkingRedacted) -> None:
        if isinstance(event, ThinkingPiece):
            self._open.append(event.text)
            self._text.append(event.text)
        elif isinstance(event, ThinkingSigned):
            self._blocks.append(_detail("".join(self._open)) | {"signature": event.signature})
            self._open = []
        else:
            self._blocks.append(_encrypted(event.data))

    def object(self) -> Object:
        """The fields of a message; none where nothing was thought."""
        fields: Object = {"reasoning_content": "".join(self._text)} if self._text else {}
        blocks = [*self._blocks, _detail("".join(self._open))] if self._open else self._blocks
        if blocks:
            fields["reasoning_details"] = [block | {"index": i} for i, block in enumerate(blocks)]
        return fields


def _detail(text: str) -> Object:
    return {"type": "reasoning.text", "text": text}


def _encrypted(data: str) -> Object:
    return {"type": "reasoning.encrypted", "data": data}


def _call(event: CallStarted) -> Object:
    call: Object = {"id": event.id, "type": "function", "function": {"name": event.name, "arguments": ""}}
    if event.signature:
        call["extra_content"] = {"google": {"thought_signature": event.signature}}
    return call


class Writer(EventWriter):
    """Writes a stream of chunks."""

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin)
        self._open = b""  # what every chunk begins with, once it is known
        self._calls = 0
        self._details = 0
        self._no_arguments = False

    def finish(self) -> bytes:
        """The end of a whole answer."""
        out = [self._close_call(), self._delta({}, self._finished.reason)]
        if self._usage is not None and self._origin.usage_asked:
            usage = jsontext.dumps(usage_object(self._usage))
            out.append(self._open.removesuffix(_CHOICE) + b'[],"usage":' + usage + b"}\n\n")
        return b"".join([*out, _DONE])

    def fail(self, failure: Failure) -> bytes:
        """The end of a broken one."""
        return b"data: " + jsontext.dumps(shape(failure, "openai")) + b"\n\n"

    def _start(self, head: Started) -> bytes:
        if self._open:
            return b""
        name, model = named(head, self._origin)
        frame: Object = {
            "id": name,
            "object": "chat.completion.chunk",
            "created": self._origin.created,
            "model": model,
        }
        self._open = b"data: " + jsontext.dumps(frame)[:-1] + b',"choices":' + _CHOICE
        return self._delta({"role": "assistant", "content": ""})

    def _delta(self, delta: Object, reason: str | None = None) -> bytes:
        before = b"" if self._open else self._start(Started())
        end = b"null" if reason is None else jsontext.dumps(reason)
        return before + self._open + jsontext.dumps(delta) + b',"logprobs":null,"finish_reason":' + end + b"}]}\n\n"

    def _text(self, event: TextPiece) -> bytes:
        return self._delta({"content": event.text})

    def _refusal(self, event: RefusalPiece) -> bytes:
        return self._delta({"refusal": event.text})

    def _thought(self, event: ThinkingPiece) -> bytes:
        detail = _detail(event.text) | {"index": self._details}
        return self._delta({"reasoning_content": event.text, "reasoning_details": [detail]})

    def _signed(self, event: ThinkingSigned) -> bytes:
        return self._end_detail(_detail("") | {"signature": event.signature})

    def _redacted(self, event: ThinkingRedacted) -> bytes:
        return self._end_detail(_encrypted(event.data))

    def _end_detail(self, detail: Object) -> bytes:
        self._details += 1
        return self._delta({"reasoning_details": [detail | {"index": self._details - 1}]})

    def _call(self, event: CallStarted) -> bytes:
        before = self._close_call()
        call: Object = {"index": self._calls} | _call(event)
        self._calls += 1
        self._no_arguments = True
        return before + self._delta({"tool_calls": [call]})

    def _arguments(self, event: CallPiece) -> bytes:
        if not self._calls or not event.arguments:
            return b""
        self._no_arguments = False
        return self._delta({"tool_calls": [{"index": self._calls - 1, "function": {"arguments": event.arguments}}]})

    def _close_call(self) -> bytes:
        """A call without any arguments gets an empty object: clients parse what they were sent."""
        return self._arguments(CallPiece("{}")) if self._no_arguments else b""

    BY_EVENT: ClassVar[dict[type, Callable[[Any, Any], bytes]]] = EventWriter.BY_EVENT | {
        Started: _start,
        TextPiece: _text,
        RefusalPiece: _refusal,
        ThinkingPiece: _thought,
        ThinkingSigned: _signed,
        ThinkingRedacted: _redacted,
        CallStarted: _call,
        CallPiece: _arguments,
    }


_CHOICE = b'[{"index":0,"delta":'

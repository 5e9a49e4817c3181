"""The neutral events of an answer -> Anthropic's message, whole or as a stream of events.

https://docs.claude.com/en/api/messages, https://docs.claude.com/en/docs/build-with-claude/streaming
"""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from extproc.translate import jsontext
from extproc.translate.clients.writer import EventWriter, Origin, frame_of, named
from extproc.translate.failures import AnswerError, Failure, shape, unreadable
from extproc.translate.jsontext import Object
from extproc.translate.neutral import (
    CallPiece,
    CallStarted,
    Event,
    Finished,
    RefusalPiece,
    Started,
    TextPiece,
    ThinkingPiece,
    ThinkingRedacted,
    ThinkingSigned,
    Usage,
)

_STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


def whole(events: Iterable[Event], origin: Origin) -> bytes:
    """The body of a message."""
    content = _Content()
    head, finished, usage = frame_of(events, content.add)
    body = _message(head, origin) | {"content": content.blocks()} | _stopped(finished, content.refused)
    return jsontext.dumps(body | {"usage": usage_object(usage)})


def usage_object(told: Usage | None) -> Object:
    """The usage in Anthropic's names: what the cache had a part in is counted apart from the input.

    Zeros where the provider told none: messages must have it.
    """
    usage = told or Usage()
    counts: Object = {
        "input_tokens": max(0, usage.input - usage.cached - usage.cache_write),
        "cache_creation_input_tokens": usage.cache_write,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.output,
    }
    if usage.reasoning:
        counts["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    return counts


def _message(head: Started, origin: Origin) -> Object:
    name, model = named(head, origin)
    return {
        "id": name,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _stopped(finished: Finished, refused: bool) -> Object:
    reason = "refusal" if refused else "stop_sequence" if finished.sequence is not None else _STOP[finished.reason]
    return {"stop_reason": reason, "stop_sequence": finished.sequence}


class _Content:
    """Gathers the blocks of a whole answer; pieces of the same kind join the block before."""

    def __init__(self) -> None:
        self.refused = False
        self._blocks: list[Object] = []
        self._kind = ""
        self._pieces: list[str] = []

    def add(self, event: Event) -> None:
        if isinstance(event, TextPiece | RefusalPiece):
            self.refused = self.refused or isinstance(event, RefusalPiece)
            self._piece("text", event.text)
        elif isinstance(event, ThinkingPiece):
            self._piece("thinking", event.text)
        elif isinstance(event, ThinkingSigned):
            self._piece("thinking", "")
            self._blocks[-1]["signature"] = event.signature
            self._close()
        elif isinstance(event, ThinkingRedacted):
            self._open("redacted_thinking", {"type": "redacted_thinking", "data": event.data})
        elif isinstance(event, CallStarted):
            self._open("tool_use", {"type": "tool_use", "id": event.id, "name": event.name, "input": {}})
        elif isinstance(event, CallPiece) and self._kind == "tool_use":
            self._pieces.append(event.arguments)

    def blocks(self) -> list[Object]:
        """All blocks, finished."""
        self._close()
        return self._blocks

    def _piece(self, kind: str, text: str) -> None:
        if self._kind != kind:
            block = {"type": kind, kind: ""}
            self._open(kind, block | {"signature": ""} if kind == "thinking" else block)
        self._pieces.append(text)

    def _open(self, kind: str, block: Object) -> None:
        self._close()
        self._kind = kind
        self._blocks.append(block)

    def _close(self) -> None:
        if self._kind in ("text", "thinking"):
            self._blocks[-1][self._kind] = "".join(self._pieces)
        elif self._kind == "tool_use":
            self._blocks[-1]["input"] = _input("".join(self._pieces))
        self._kind, self._pieces = "", []


def _input(text: str) -> Object:
    """The object of a call's arguments. Raises AnswerError for what is none."""
    try:
        value = jsontext.loads(text) if text.strip() else {}
    except jsontext.JSONTextError:
        value = None
    if not isinstance(value, dict):
        raise unreadable("a tool call's arguments are not the JSON text of an object")
    return value


class Writer(EventWriter):
    """Writes a stream of events, one content block after another."""

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin)
        self._started = False
        self._index = -1
        self._kind = ""  # of the open block
        self._refused = False

    def finish(self) -> bytes:
        """The end of a whole answer."""
        before = self._start(Started()) + self._close()
        delta = {"type": "message_delta", "delta": _stopped(self._finished, self._refused)}
        return before + _event(delta | {"usage": usage_object(self._usage)}) + _event({"type": "message_stop"})

    def fail(self, failure: Failure) -> bytes:
        """The end of a broken one."""
        return b"event: error\ndata: " + jsontext.dumps(shape(failure, "anthropic")) + b"\n\n"

    def _start(self, head: Started) -> bytes:
        if self._started:
            return b""
        self._started = True
        usage = usage_object(self._usage)
        return _event({"type": "message_start", "message": _message(head, self._origin) | {"usage": usage}})

    def _text(self, event: TextPiece) -> bytes:
        return self._piece("text", {"type": "text_delta", "text": event.text})

    def _refusal(self, event: RefusalPiece) -> bytes:
        self._refused = True
        return self._piece("text", {"type": "text_delta", "text": event.text})

    def _thought(self, event: ThinkingPiece) -> bytes:
        return self._piece("thinking", {"type": "thinking_delta", "thinking": event.text})

    def _signed(self, event: ThinkingSigned) -> bytes:
        return self._piece("thinking", {"type": "signature_delta", "signature": event.signature}) + self._close()

    def _redacted(self, event: ThinkingRedacted) -> bytes:
        opened = self._open("redacted_thinking", {"type": "redacted_thinking", "data": event.data})
        return opened + self._close()

    def _call(self, event: CallStarted) -> bytes:
        return self._open("tool_use", {"type": "tool_use", "id": event.id, "name": event.name, "input": {}})

    def _arguments(self, event: CallPiece) -> bytes:
        if self._kind != "tool_use":
            raise AnswerError(Failure(502, "The model's provider sent arguments outside of a tool call."))
        return self._delta({"type": "input_json_delta", "partial_json": event.arguments})

    def _piece(self, kind: str, delta: Object) -> bytes:
        before = b""
        if self._kind != kind:
            empty: Object = {"type": kind, kind: ""}
            if kind == "thinking":
                empty["signature"] = ""
            before = self._open(kind, empty)
        return before + self._delta(delta)

    def _open(self, kind: str, block: Object) -> bytes:
        before = self._start(Started()) + self._close()
        self._kind = kind
        self._index += 1
        return before + _event({"type": "content_block_start", "index": self._index, "content_block": block})

    def _delta(self, delta: Object) -> bytes:
        return _event({"type": "content_block_delta", "index": self._index, "delta": delta})

    def _close(self) -> bytes:
        if not self._kind:
            return b""
        self._kind = ""
        return _event({"type": "content_block_stop", "index": self._index})

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


def _event(event: Object) -> bytes:
    return b"event: " + str(event["type"]).encode() + b"\ndata: " + jsontext.dumps(event) + b"\n\n"

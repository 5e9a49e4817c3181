"""The shapes of OpenAI's answers, whole and as streams of server-sent events."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

import orjson

from sidecars.onnx.generate.choice import Scored
from sidecars.onnx.generate.generation import Piece
from sidecars.onnx.generate.text import Vocabulary

DONE = b"data: [DONE]\n\n"


def event(body: bytes) -> bytes:
    return b"data: " + body + b"\n\n"


@dataclass(slots=True)
class Choice:
    """One answer so far."""

    texts: list[str] = field(default_factory=list)
    tokens: list[Scored] = field(default_factory=list)
    generated: int = 0
    finish: str | None = None

    def grow(self, piece: Piece) -> None:
        self.texts.append(piece.text)
        self.tokens.extend(piece.tokens)
        self.generated, self.finish = piece.generated, piece.finish


def usage(prompt_tokens: int, choices: Sequence[Choice]) -> dict[str, int]:
    """`completion_tokens` has every token that was generated, the one that ended an answer too."""
    generated = sum(choice.generated for choice in choices)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": prompt_tokens + generated,
    }


class Shape(Protocol):
    """How one of the two operations answers. `scored`: whether logprobs were asked for."""

    def whole(self, choices: Sequence[Choice], usage: dict[str, int]) -> bytes: ...

    def first(self, index: int) -> bytes | None:
        """The chunk before the first piece of an answer."""

    def chunk(self, index: int, piece: Piece) -> bytes: ...

    def last(self, usage: dict[str, int]) -> bytes:
        """The chunk with nothing but the usage."""


class _Shape:
    prefix: str
    kind: str
    chunk_kind: str

    def __init__(self, model: str, vocabulary: Vocabulary, *, scored: bool, with_usage: bool) -> None:
        self._vocabulary = vocabulary
        self._scored = scored
        self._with_usage = with_usage
        self._head = {"id": f"{self.prefix}-{uuid4().hex}", "created": int(time.time()), "model": model}

    def last(self, usage: dict[str, int]) -> bytes:
        return self._dump({"object": self.chunk_kind, "choices": [], "usage": usage})

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        # As OpenAI has it: where the usage comes last, every other chunk says that it has none.
        extra = {"usage": None} if self._with_usage else {}
        return self._dump({"object": self.chunk_kind, "choices": [choice], **extra})

    def _dump(self, body: dict[str, Any]) -> bytes:
        return orjson.dumps(self._head | body)


class ChatShape(_Shape):
    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def whole(self, choices: Sequence[Choice], usage: dict[str, int]) -> bytes:
        found = [
            {
                "index": i,
                "message": {"role": "assistant", "content": "".join(choice.texts), "refusal": None},
                "logprobs": self._logprobs(choice.tokens),
                "finish_reason": choice.finish,
            }
            for i, choice in enumerate(choices)
        ]
        return self._dump({"object": self.kind, "choices": found, "usage": usage})

    def first(self, index: int) -> bytes | None:
        return self._delta(index, {"role": "assistant", "content": ""}, (), None)

    def chunk(self, index: int, piece: Piece) -> bytes:
        delta = {"content": piece.text} if piece.text or piece.finish is None else {}
        return self._delta(index, delta, piece.tokens, piece.finish)

    def _delta(self, index: int, delta: dict[str, str], tokens: Sequence[Scored], finish: str | None) -> bytes:
        logprobs = self._logprobs(tokens) if tokens else None
        return self._chunk({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish})

    def _logprobs(self, tokens: Sequence[Scored]) -> dict[str, Any] | None:
        if not self._scored:
            return None
        content = [
            {**self._token(one.token, one.logprob), "top_logprobs": [self._token(*other) for other in one.top]}
            for one in tokens
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        raw = self._vocabulary.bytes(token)
        return {"token": raw.decode(errors="replace"), "logprob": logprob, "bytes": list(raw)}


class CompletionShape(_Shape):
    prefix, kind = "cmpl", "text_completion"
    chunk_kind = kind

    def __init__(self, model: str, vocabulary: Vocabulary, *, scored: bool, with_usage: bool) -> None:
        super().__init__(model, vocabulary, scored=scored, with_usage=with_usage)
        self._offsets: dict[int, int] = {}  # where the next token of each answer begins

    def whole(self, choices: Sequence[Choice], usage: dict[str, int]) -> bytes:
        found = [
            self._choice(i, "".join(choice.texts), choice.tokens, choice.finish) for i, choice in enumerate(choices)
        ]
        return self._dump({"object": self.kind, "choices": found, "usage": usage})

    def first(self, index: int) -> bytes | None:
        return None

    def chunk(self, index: int, piece: Piece) -> bytes:
        return self._chunk(self._choice(index, piece.text, piece.tokens, piece.finish))

    def _choice(self, index: int, text: str, tokens: Sequence[Scored], finish: str | None) -> dict[str, Any]:
        logprobs = self._logprobs(index, tokens) if self._scored else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def _logprobs(self, index: int, tokens: Sequence[Scored]) -> dict[str, Any]:
        offsets = []
        for one in tokens:
            offsets.append(self._offsets.setdefault(index, 0))
            self._offsets[index] += len(self._vocabulary.bytes(one.token).decode(errors="replace"))
        return {
            "tokens": [self._name(one.token) for one in tokens],
            "token_logprobs": [one.logprob for one in tokens],
            "top_logprobs": [{self._name(token): logprob for token, logprob in one.top} for one in tokens],
            "text_offset": offsets,
        }

    def _name(self, token: int) -> str:
        """Its text; a part of a character as OpenAI has it, by its bytes: these parts are not all one token."""
        raw = self._vocabulary.bytes(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

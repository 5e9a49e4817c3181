"""The stage `saving`: fewer tokens. Old turns go, white space is compacted, what is large is told.

{"history": {"turns": 20, "tokens": 16000}, "white_space": "lines", "warn": {"tokens": 50000}}
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from extproc.json_splice import Document
from extproc.stages.book import NO_BOOK, Book
from extproc.stages.prompt_tokens import Counter
from extproc.stages.protocol import NOTHING, Access, Endpoint, Needs, Outcome, Plain, Request
from extproc.stages.settings import STRICT
from extproc.stages.texts import texts

WARNING = "x-headgate-warning"
_KEPT = ("system", "developer")
_TRAILING = re.compile(r"(?<![ \t])[ \t]++(?=\r?\n|\Z)")
_BLANK_LINES = re.compile(r"(?:\r?\n){3,}")
_RUNS = re.compile(r"(?<=\S)[ \t]{2,}(?=\S)")
_FENCE = re.compile(r"(^```.*?(?:^```|\Z))", re.DOTALL | re.MULTILINE)
# What tools are called with may be code, thinking is signed, and a prediction says what will come, to the letter.
_TO_THE_LETTER = frozenset(
    ("arguments", "tool_calls", "function_call", "thinking", "reasoning", "reasoning_content", "reasoning_details",
     "prediction")
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class History:
    """The most of it that is sent. The last turn and system messages always are."""

    turns: int | None = None
    tokens: int | None = None
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if self.turns is None and self.tokens is None:
            raise ValueError("turns or tokens is expected")
        for name, value in (("turns", self.turns), ("tokens", self.tokens)):
            if value is not None and not 1 <= value <= 10**9:
                raise ValueError(f"{name} is {value}: 1 to 1000000000 is expected")


@dataclass(frozen=True, slots=True)
class Warn:
    """From how many tokens of prompt, or bytes of body, the client is warned."""

    tokens: int | None = None
    bytes: int | None = None
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if self.tokens is None and self.bytes is None:
            raise ValueError("tokens or bytes is expected")


@dataclass(frozen=True, slots=True)
class Settings:
    """`white_space`: `lines`: ends of lines and runs of empty lines; `all`: also runs of spaces within a line."""

    history: History | None = None
    white_space: Literal["lines", "all"] | None = None
    warn: Warn | None = None
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


class Saving(Plain):
    def __init__(self, settings: Settings, book: Book | None = None) -> None:
        self._settings = settings
        self._book = book or NO_BOOK
        changes = settings.history or settings.white_space
        self.needs = Needs(Access.CHANGE if changes else Access.READ)

    def request(self, request: Request) -> Outcome:
        settings = self._settings
        metadata: dict[str, Any] = {}
        document = Document(request.raw)
        if settings.white_space:
            self._compact(request, document, metadata)
        if settings.history:
            _forget(request, self._counter(request), document, settings.history, metadata)
        warning = _warning(request, self._counter(request), settings.warn) if settings.warn else None
        if not document.changed and not warning and not metadata:
            return NOTHING
        return Outcome(
            body=document.render() if document.changed else None,
            answer_headers={WARNING: warning} if warning else {},
            metadata=metadata | ({"oversized": warning} if warning else {}),
        )

    def _counter(self, request: Request) -> Counter:
        return Counter(self._book.tokenizer(request.model), request.model)

    def _compact(self, request: Request, document: Document, metadata: dict[str, Any]) -> None:
        saved = 0
        for path, text in texts(request.endpoint, request.body):
            if _TO_THE_LETTER.isdisjoint(path) and "input" not in path[1:]:
                less = compacted(text, self._settings.white_space == "all")
                if less != text:
                    saved += len(text) - len(less)
                    document.set(path, less)
        if saved:
            metadata["white_space_saved"] = saved


def compacted(text: str, within: bool = False) -> str:
    """Without white space that says nothing. What is fenced as code stays. Linear time."""
    if "```" not in text:
        return _compacted(text, within)
    return "".join(
        [piece if number % 2 else _compacted(piece, within) for number, piece in enumerate(_FENCE.split(text))]
    )


def _compacted(text: str, within: bool) -> str:
    less = _BLANK_LINES.sub("\n\n", _TRAILING.sub("", text))
    return _RUNS.sub(" ", less) if within else less


def _forget(request: Request, counter: Counter, document: Document, history: History, metadata: dict[str, Any]) -> None:
    """Whole turns go, the oldest first, so that a tool's call and its result stay together or go together."""
    name = "input" if request.endpoint is Endpoint.RESPONSES else "messages"
    messages = request.body.get(name)
    if not isinstance(messages, list):
        return
    turns = list(turns_of(messages))
    first = max(0, len(turns) - history.turns) if history.turns is not None else 0
    if history.tokens is not None and len(request.raw) > history.tokens:  # a token is at least a byte
        first = max(first, _first_that_fits(request, counter, messages, turns, history.tokens, metadata))
    gone = {at for turn in turns[:first] for at in turn}
    if gone:
        document.remove_elements((name,), gone)
        metadata["messages_dropped"] = len(gone)


def turns_of(messages: list[Any]) -> Iterator[list[int]]:
    """Indices by turn, without system messages: what a user says, and all that follows up to the next time."""
    turn: list[int] = []
    for at, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role in _KEPT:
            continue
        if role == "user" and not _results(message) and turn:
            yield turn
            turn = []
        turn.append(at)
    if turn:
        yield turn


def _results(message: dict[str, Any]) -> bool:
    """Anthropic's results of tools are in messages of the user: they belong to the turn before."""
    content = message.get("content")
    return isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") == "tool_result" for part in content
    )


def _first_that_fits(
    request: Request,
    counter: Counter,
    messages: list[Any],
    turns: list[list[int]],
    most: int,
    metadata: dict[str, Any],
) -> int:
    """From the last turn back, as long as there is room beside what is always sent."""
    everything = {name: value for name, value in request.body.items() if name not in ("messages", "input")}
    of_turns = {at for turn in turns for at in turn}
    always = [message for at, message in enumerate(messages) if at not in of_turns]
    used = counter.prompt(request.endpoint, everything | {"messages": always}).tokens
    for number in range(len(turns) - 1, -1, -1):
        used += counter.messages(messages[at] for at in turns[number])
        if used > most:
            if number == len(turns) - 1:
                metadata["history_too_long"] = used
            return min(number + 1, len(turns) - 1)
    return 0


def _warning(request: Request, counter: Counter, warn: Warn) -> str | None:
    if warn.bytes is not None and len(request.raw) > warn.bytes:
        return f"the request has {len(request.raw)} bytes, more than {warn.bytes}"
    if warn.tokens is not None and len(request.raw) > warn.tokens:
        tokens = counter.prompt(request.endpoint, request.body).tokens
        if tokens > warn.tokens:
            return f"the prompt has {'' if counter.exact else 'about '}{tokens} tokens, more than {warn.tokens}"
    return None

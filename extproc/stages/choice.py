"""The stage `choice`: what a request holds decides which model answers it.

{"rules": [{"when": {"has": ["image"]}, "model": "vision"}, {"when": {"tokens": {"least": 32000}}, "model": "long"}]}
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from pydantic import ConfigDict

from extproc.json_splice import Document
from extproc.stages.book import NO_BOOK, Book
from extproc.stages.prompt_tokens import Counter
from extproc.stages.protocol import NOTHING, Access, Endpoint, Needs, Outcome, Plain, Request
from extproc.stages.settings import STRICT, bounds


class Modality(StrEnum):
    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"
    FILE = "file"
    TOOLS = "tools"


_BY_TYPE = {
    "text": Modality.TEXT,
    "input_text": Modality.TEXT,
    "output_text": Modality.TEXT,
    "image_url": Modality.IMAGE,
    "input_image": Modality.IMAGE,
    "image": Modality.IMAGE,
    "input_audio": Modality.AUDIO,
    "audio": Modality.AUDIO,
    "file": Modality.FILE,
    "input_file": Modality.FILE,
    "document": Modality.FILE,
    "tool_use": Modality.TOOLS,
    "tool_result": Modality.TOOLS,
    "function_call": Modality.TOOLS,
    "function_call_output": Modality.TOOLS,
}
_MOST_DEPTH = 6


@dataclass(frozen=True, slots=True)
class Size:
    """Tokens of the prompt, both ends included."""

    least: int | None = None
    most: int | None = None
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        bounds(self.least, self.most)


@dataclass(frozen=True, slots=True)
class When:
    """All that is stated has to hold. `has`: one of these. `lacks`: none of these."""

    has: tuple[Modality, ...] = ()
    lacks: tuple[Modality, ...] = ()
    tokens: Size | None = None
    stream: bool | None = None
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


@dataclass(frozen=True, slots=True)
class Rule:
    """`model`: a name of the policy. `name`: as logged."""

    model: str
    when: When = When()
    name: str = ""
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("model is empty: the name of a model is expected")


@dataclass(frozen=True, slots=True)
class Settings:
    """The first rule that holds decides; else the model stays."""

    rules: tuple[Rule, ...]
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


class Choice(Plain):
    needs = Needs(request=Access.CHANGE)

    def __init__(self, settings: Settings, book: Book | None = None) -> None:
        self._rules = settings.rules
        self._book = book or NO_BOOK

    def request(self, request: Request) -> Outcome:
        facts = _Facts(request, self._book)
        for number, rule in enumerate(self._rules):
            reason = facts.reason(rule.when)
            if reason is not None:
                chosen = {"model": rule.model, "rule": rule.name or str(number), "reason": reason}
                document = Document(request.raw)
                document.set(("model",), rule.model)
                return Outcome(body=document.render(), model=rule.model, metadata={"choice": chosen})
        return NOTHING


class _Facts:
    """What is known of a request; each found out once, when a rule asks."""

    def __init__(self, request: Request, book: Book) -> None:
        self._request = request
        self._book = book
        self._modalities: frozenset[Modality] | None = None
        self._tokens: int | None = None

    def reason(self, when: When) -> str | None:
        """Why the rule holds; None if it does not. The cheap conditions are judged first."""
        reasons = []
        if when.stream is not None:
            if self._request.streamed is not when.stream:
                return None
            reasons.append("streamed" if when.stream else "not streamed")
        if when.has or when.lacks:
            found = self.modalities()
            if (when.has and found.isdisjoint(when.has)) or not found.isdisjoint(when.lacks):
                return None
            reasons += [f"has {one.value}" for one in when.has if one in found]
            reasons += [f"lacks {one.value}" for one in when.lacks]
        if when.tokens is not None:
            size = self._within(when.tokens)
            if size is None:
                return None
            reasons.append(size)
        return ", ".join(reasons) or "always"

    def modalities(self) -> frozenset[Modality]:
        if self._modalities is None:
            self._modalities = modalities(self._request)
        return self._modalities

    def _within(self, size: Size) -> str | None:
        """A token is a byte at least: a short body without media needs no counting to be below a bound."""
        length = len(self._request.raw)
        if self._tokens is None and length < (size.least or 0) and self.modalities() <= _COUNTED:
            return None
        if self._tokens is None:
            counter = Counter(self._book.tokenizer(self._request.model), self._request.model)
            self._tokens = counter.prompt(self._request.endpoint, self._request.body).tokens
        tokens = self._tokens
        if (size.least is not None and tokens < size.least) or (size.most is not None and tokens > size.most):
            return None
        return f"{tokens} tokens"


_COUNTED = frozenset((Modality.TEXT, Modality.TOOLS))


def modalities(request: Request) -> frozenset[Modality]:
    """What a request holds. Tools count when they are offered, called or answered; audio also when it is asked for."""
    body = request.body
    found = {modality for name in ("messages", "input", "system") for modality in _of(body.get(name), 0)}
    if request.endpoint is not Endpoint.CHAT and body.get("prompt", body.get("instructions")):
        found.add(Modality.TEXT)
    if body.get("tools") or body.get("functions"):
        found.add(Modality.TOOLS)
    asked = body.get("modalities")
    if body.get("audio") or (isinstance(asked, list) and "audio" in asked):
        found.add(Modality.AUDIO)
    return frozenset(found)


def _of(value: Any, depth: int) -> Iterator[Modality]:
    if isinstance(value, str):
        if value:
            yield Modality.TEXT
    elif isinstance(value, list) and depth < _MOST_DEPTH:
        for one in value:
            yield from _of(one, depth + 1)
    elif isinstance(value, dict):
        kind = value.get("type")
        if isinstance(kind, str) and kind in _BY_TYPE:
            yield _BY_TYPE[kind]
        if value.get("tool_calls") or value.get("role") == "tool":
            yield Modality.TOOLS
        if "content" in value and depth < _MOST_DEPTH:
            yield from _of(value["content"], depth + 1)

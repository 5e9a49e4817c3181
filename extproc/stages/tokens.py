"""The stage `tokens`: counts prompts, and refuses what exceeds the model's window.

{"models": {"gpt-4o*": {"window": 128000}, "llama*": {"window": 8192, "tokenizer": "llama"}}}
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import ConfigDict

from extproc.stages.book import NO_BOOK, Book
from extproc.stages.patterns import Patterns
from extproc.stages.prompt_tokens import Count, Counter
from extproc.stages.protocol import NOTHING, Access, Endpoint, Needs, Outcome, Plain, Refusal, Request
from extproc.stages.settings import STRICT
from extproc.stages.tokenizers import Tokenizer
from extproc.usage.price_catalog import Catalog

_CAPS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
# Images and files are worth more tokens than bytes of JSON; a body with none of these marks holds no such part.
_MEDIA = (b"image", b"file", b"audio", b"document", b"\\u")
_GENERATES = (Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.RESPONSES, Endpoint.MESSAGES)


@dataclass(frozen=True, slots=True)
class Model:
    """What is known of a model. `window`: tokens of the prompt.

    `tokenizer`: one of OpenAI's encodings or a tokenizer of the policy, in place of the one that its name tells.
    """

    window: int | None = None
    tokenizer: str | None = None
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if self.window is not None and not 1 <= self.window <= 10**9:
            raise ValueError(f"window is {self.window}: 1 to 1000000000 tokens are expected")


@dataclass(frozen=True, slots=True)
class Settings:
    """`models`: by name or prefix with `*`.

    `count`: every prompt, for the log; else only those that may be too long. `guard`: refuse those that are.
    `output`: a window holds the answer's cap too, as it does for many models. `margin`: by what share of the window an
    estimate has to exceed it.
    """

    models: Mapping[str, Model] = field(default_factory=dict)
    count: bool = True
    guard: bool = True
    output: bool = False
    margin: float = 0.1
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 10:
            raise ValueError(f"margin is {self.margin}: 0 to 10 is expected")


class Tokens(Plain):
    """Raises ValueError for a tokenizer that the book does not have; without a book, none is looked up."""

    def __init__(self, settings: Settings, book: Book | None = None) -> None:
        for name, model in settings.models.items():
            if book is not None and model.tokenizer is not None:
                _named(book, name, model.tokenizer)
        self._book = book or NO_BOOK
        self._models = Patterns(settings.models)
        self._settings = settings
        self.needs = Needs(Access.CHANGE if settings.guard else Access.READ)

    def request(self, request: Request) -> Outcome:
        if request.endpoint is Endpoint.COUNT_TOKENS:  # on its way to a provider that counts
            return NOTHING
        model = self._models.get(request.model)
        window = model.window if model and self._settings.guard else None
        if not self._settings.count and (window is None or self._fits(request, window)):
            return NOTHING
        count = self.count(request)
        metadata = {"prompt_tokens": count.tokens, "prompt_tokens_exact": count.exact}
        refusal = self._judged(request, count, window) if window is not None else None
        return Outcome(refusal=refusal, metadata=metadata)

    def count(self, request: Request) -> Count:
        """Tokens of the prompt, as far as the gateway can know."""
        return Counter(self.tokenizer(request.model), request.model).prompt(request.endpoint, request.body)

    def tokenizer(self, model: str) -> Tokenizer:
        facts = self._models.get(model)
        if facts is None or facts.tokenizer is None:
            return self._book.tokenizer(model)
        return self._book.named(facts.tokenizer)

    def _fits(self, request: Request, window: int) -> bool:
        """A token is at least a byte, and a message's JSON is longer than its overhead: no need to count."""
        raw = request.raw
        return len(raw) + self._cap(request) <= window and not any(mark in raw for mark in _MEDIA)

    def _cap(self, request: Request) -> int:
        if not self._settings.output or request.endpoint not in _GENERATES:
            return 0
        caps = [cap for name in _CAPS if isinstance(cap := request.body.get(name), int) and cap > 0]
        return max(caps, default=0)

    def _judged(self, request: Request, count: Count, window: int) -> Refusal | None:
        cap = self._cap(request)
        room = window if count.exact else window * (1 + self._settings.margin)
        if count.tokens + cap <= room:
            return None
        about = "" if count.exact else "about "
        wanted = f"{about}{count.tokens} in the prompt" + (f", {cap} for the answer" if cap else "")
        text = f"This model's context window is {window} tokens. The request has {about}{count.tokens + cap}: {wanted}."
        return Refusal(400, "context_length_exceeded", f"{text} Shorten the prompt.", _param(request))


def models_of(catalog: Catalog, family: str) -> dict[str, Model]:
    """What the catalog knows of one family's models, by each of their names: for `Settings.models`."""
    return {
        name: Model(window=model.context_window)
        for model in catalog.models
        if model.family == family and model.context_window
        for name in model.names
    }


def _param(request: Request) -> str:
    return next((name for name in ("messages", "input", "prompt") if name in request.body), "messages")


def _named(book: Book, model: str, tokenizer: str) -> Tokenizer:
    try:
        return book.named(tokenizer)
    except ValueError as error:
        raise ValueError(f"models.{model}.tokenizer: {error}") from None

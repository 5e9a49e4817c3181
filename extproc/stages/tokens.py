"""The stage `tokens`: counts prompts, refuses what exceeds the model's window, and answers the counting endpoints.

{"models": {"gpt-4o*": {"window": 128000}, "llama*": {"window": 8192, "tokenizer": "llama"}}, "tokenizers": ["llama"]}
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import orjson
from pydantic import ConfigDict

from extproc.stages import tokenizers
from extproc.stages.patterns import Patterns
from extproc.stages.prompt_tokens import Count, Counter
from extproc.stages.protocol import NOTHING, Access, Endpoint, Needs, Outcome, Plain, Refusal, Reply, Request
from extproc.stages.settings import STRICT
from extproc.stages.tokenizers import Tokenizer
from extproc.usage.price_catalog import Catalog

_CAPS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
# Images and files are worth more tokens than bytes of JSON; a body with none of these marks holds no such part.
_MEDIA = (b"image", b"file", b"audio", b"document", b"\\u")
_GENERATES = (Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.RESPONSES, Endpoint.MESSAGES)


@dataclass(frozen=True, slots=True)
class Model:
    """What is known of a model. `window`: tokens of the prompt. `tokenizer`: an encoding, or a name given."""

    window: int | None = None
    tokenizer: str | None = None
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if self.window is not None and not 1 <= self.window <= 10**9:
            raise ValueError(f"window is {self.window}: 1 to 1000000000 tokens are expected")


@dataclass(frozen=True, slots=True)
class Settings:
    """`models`: by name or prefix with `*`. `tokenizers`: names of tokenizer.json files that will be given.

    `count`: every prompt, for the log; else only those that may be too long. `guard`: refuse those that are.
    `output`: a window holds the answer's cap too, as it does for many models. `margin`: by what share of the window an
    estimate has to exceed it.
    """

    models: Mapping[str, Model] = field(default_factory=dict)
    tokenizers: tuple[str, ...] = ()
    count: bool = True
    guard: bool = True
    output: bool = False
    margin: float = 0.1
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 10:
            raise ValueError(f"margin is {self.margin}: 0 to 10 is expected")
        known = (*self.tokenizers, *tokenizers.ENCODINGS)
        for name, model in self.models.items():
            if model.tokenizer is not None and model.tokenizer not in known:
                raise ValueError(
                    f"models.{name}.tokenizer is {model.tokenizer!r}: one of {', '.join(known)} is expected"
                )


class Tokens(Plain):
    """`given`: the text of each tokenizer.json by name. Raises ValueError where one is missing or none."""

    def __init__(self, settings: Settings, given: Mapping[str, str] | None = None) -> None:
        given = given or {}
        missing = [name for name in settings.tokenizers if name not in given]
        if missing:
            raise ValueError(f"tokenizers: the tokenizer.json of {missing[0]} is missing")
        self._local = {name: tokenizers.Local(name, given[name]) for name in settings.tokenizers}
        self._models = Patterns(settings.models)
        self._settings = settings
        self.needs = Needs(Access.CHANGE if settings.guard else Access.READ)

    def request(self, request: Request) -> Outcome:
        if request.endpoint is Endpoint.TOKENIZE:
            return self._tokenize(request)
        if request.endpoint is Endpoint.COUNT_TOKENS:
            return Outcome(reply=_json({"input_tokens": self.count(request).tokens}))
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
            return tokenizers.of_model(model)
        return self._local.get(facts.tokenizer) or tokenizers.known(facts.tokenizer)

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

    def _tokenize(self, request: Request) -> Outcome:
        body, tokenizer = request.body, self.tokenizer(request.model)
        text = body.get("prompt", body.get("input"))
        model = self._models.get(request.model)
        answer: dict[str, Any] = {"model": request.model, "tokenizer": tokenizer.name}
        if isinstance(text, str):
            tokens = tokenizer.encode(text)
            answer |= {"count": len(tokens), "exact": tokenizer.exact}
            answer |= {"tokens": tokens} if tokenizer.exact else {}
        elif isinstance(body.get("messages"), list):
            count = self.count(request)
            answer |= {"count": count.tokens, "exact": count.exact}
        else:
            return Outcome(
                refusal=Refusal(400, "missing_required_parameter", "`prompt` (a text) or `messages` is expected.")
            )
        return Outcome(reply=_json(answer | {"max_model_len": model.window if model else None}))


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


def _json(value: Any) -> Reply:
    return Reply(200, "application/json", orjson.dumps(value))

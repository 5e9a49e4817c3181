"""One entry of a provider's listing -> names and values of facts, for each API. Pure.

Providers that speak OpenAI's API add members of their own to its listing. Those that are read here are of vLLM
(`max_model_len`), OpenRouter and gateways like this one (https://openrouter.ai/docs/models), Groq (`context_window`,
`max_completion_tokens`) and Mistral (`max_context_length`, `capabilities`, `deprecation`).
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any

from controlplane.metadata import apis, facts
from extproc.stages.parameters import Kind, Parameter
from extproc.usage.price_catalog import CAPABILITIES, MODALITIES
from extproc.usage.prices import MAX_TOKENS, price_from_json, price_to_json

Found = Iterator[tuple[str, Any]]

_GREATEST = 10**9
_MODALITIES = {**{word: word for word in MODALITIES}, "file": "pdf"}
_PRICES = {
    "prompt": "input", "completion": "output", "input_cache_read": "cached_input", "input_cache_write": "cache_write",
    "internal_reasoning": "reasoning",
}  # fmt: skip
# The parameters that OpenRouter tells the support of: https://openrouter.ai/docs/models#supported-parameters
_JUDGED = (
    "temperature", "top_p", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs", "stop",
    "seed", "tools", "tool_choice", "parallel_tool_calls", "response_format",
)  # fmt: skip
_ALSO = ("top_k", "min_p", "top_a", "repetition_penalty", "include_reasoning", "reasoning")
_BY_PARAMETER = {"tools": "tools", "structured_outputs": "json_schema", "reasoning": "reasoning"}
_MISTRAL = {"function_calling": "tools", "vision": "vision"}
_OLLAMA = {"vision": "vision", "tools": "tools", "thinking": "reasoning", "embedding": "embeddings"}


# What the ONNX service takes beside what OpenAI's API has, and what it does not take of that.
_ANY, _FROM_ONE = Parameter(Kind.MUTABLE), Parameter(Kind.MUTABLE, least=1)
_REFUSED = ("tools", "tool_choice", "parallel_tool_calls", "reasoning_effort", "verbosity", "modalities")
_ONNX: Mapping[str, Mapping[str, Parameter]] = {
    "generate": {
        "top_k": Parameter(Kind.MUTABLE, least=0),
        "repetition_penalty": Parameter(Kind.MUTABLE, least=0, most=10),
        **dict.fromkeys(_REFUSED, facts.UNSUPPORTED),
    },
    "rerank": {"top_n": _FROM_ONE, "return_documents": _ANY, "user": _ANY},
    "classify": {"user": _ANY},
    "nli": {"labels": _ANY, "hypothesis_template": _ANY, "multi_label": _ANY, "user": _ANY},
}


class Entry:
    """An object of which nothing is known: each member is of the right type, or absent."""

    def __init__(self, data: Any) -> None:
        self._data: dict[str, Any] = data if isinstance(data, dict) else {}

    def __contains__(self, name: str) -> bool:
        return self._data.get(name) is not None

    def tokens(self, *names: str) -> int | None:
        """The first that is a number of tokens."""
        found = (self.number(name) for name in names)
        return next((int(value) for value in found if value is not None and 1 <= value <= MAX_TOKENS), None)

    def number(self, name: str) -> int | float | None:
        value = self._data.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        return value if -_GREATEST <= value <= _GREATEST else None

    def text(self, name: str) -> str:
        value = self._data.get(name)
        return value if isinstance(value, str) else ""

    def words(self, name: str) -> tuple[str, ...]:
        value = self._data.get(name)
        return tuple(word for word in value if isinstance(word, str)) if isinstance(value, list) else ()

    def true(self, name: str) -> bool:
        return self._data.get(name) is True

    def within(self, name: str) -> "Entry":
        return Entry(self._data.get(name))


def openai(entry: Entry) -> Found:
    """An entry of `GET /models`."""
    context = entry.tokens("max_model_len", "context_length", "context_window", "max_context_length")
    output = entry.tokens("max_completion_tokens", "max_output_tokens")
    yield from _counts(context, output or entry.within("top_provider").tokens("max_completion_tokens"))
    shape = entry.within("architecture")
    inputs, outputs = (_modalities(shape.words(f"{way}_modalities")) for way in ("input", "output"))
    yield from _words(facts.INPUTS, inputs)
    yield from _words(facts.OUTPUTS, outputs)
    yield from _words(facts.CAPABILITIES, _capabilities(entry, inputs))
    price = _price(entry.within("pricing"))
    if price:
        yield facts.PRICE, price
    yield from _ending(entry.text("expiration_date") or entry.text("deprecation"))
    yield from _parameters(entry)


def anthropic(entry: Entry) -> Found:
    """https://docs.claude.com/en/api/models-list"""
    yield from _counts(entry.tokens("max_input_tokens"), entry.tokens("max_tokens"))
    able = entry.within("capabilities")
    if "image_input" in able:
        taken = {"image": "image_input", "pdf": "pdf_input"}
        inputs = tuple(word for word, name in taken.items() if able.within(name).true("supported"))
        yield facts.INPUTS, ("text", *inputs)


def gemini(entry: Entry) -> Found:
    """https://ai.google.dev/api/models#Model"""
    yield from _counts(entry.tokens("inputTokenLimit"), entry.tokens("outputTokenLimit"))
    methods = entry.words("supportedGenerationMethods")
    if "embedContent" in methods and "generateContent" not in methods:
        yield facts.CAPABILITIES, ("embeddings",)
    hottest = entry.number("maxTemperature")
    if hottest is not None and hottest > 0:
        yield facts.parameter_name("temperature"), Parameter(Kind.MUTABLE, least=0, most=hottest)
    for name, told in (("temperature", "temperature"), ("top_p", "topP")):
        usual = entry.number(told)
        if usual is not None:
            yield facts.default_name(name), usual


def cohere(entry: Entry) -> Found:
    """https://docs.cohere.com/v1/reference/list-models"""
    yield from _counts(entry.tokens("context_length"), None)
    endpoints = entry.words("endpoints")
    if "embed" in endpoints and "chat" not in endpoints:
        yield facts.CAPABILITIES, ("embeddings",)


def ollama(entry: Entry) -> Found:
    """An entry of `/api/tags`, with what `/api/show` tells of it as `show`."""
    show = entry.within("show")
    set_to = dict(line.split(None, 1) for line in show.text("parameters").splitlines() if len(line.split(None, 1)) == 2)
    context = show.tokens("context_length")
    held = set_to.get("num_ctx", "")
    if held.isascii() and held.isdecimal() and len(held) < 10 and int(held):
        context = min(context or MAX_TOKENS, int(held))
    yield from _counts(context, None)
    able = show.words("capabilities")
    if able:
        found = [ours for theirs, ours in _OLLAMA.items() if theirs in able]
        found += ["streaming", "json_schema"] if "completion" in able else []
        yield from _words(facts.CAPABILITIES, tuple(word for word in CAPABILITIES if word in found))
        yield facts.INPUTS, ("text", "image") if "vision" in able else ("text",)
        yield from _words(facts.OUTPUTS, ("text",) if "completion" in able else ())


def onnx(entry: Entry) -> Found:
    """A model of the ONNX service, which refuses every parameter that it does not know (docs/onnx.md)."""
    yield from _counts(entry.tokens("max_tokens"), entry.tokens("max_output_tokens"))
    task = entry.text("task")
    if task:
        yield facts.INPUTS, ("text",)
        yield facts.OUTPUTS, ("text",) if task == "generate" else ()  # else numbers
        yield from ((facts.parameter_name(name), value) for name, value in _ONNX.get(task, {}).items())
        yield facts.parameter_name(facts.OTHERS), facts.UNSUPPORTED
    if task == "generate":
        yield facts.CAPABILITIES, ("streaming", "json_schema")
    if task == "embed":
        yield facts.CAPABILITIES, ("embeddings",)
        yield facts.parameter_name("dimensions"), Parameter(Kind.MUTABLE, least=1, most=entry.tokens("dimensions"))
        if entry.words("prompts"):
            yield facts.parameter_name("prompt_name"), Parameter(Kind.MUTABLE)


def _counts(context: int | None, output: int | None) -> Found:
    if context:
        yield facts.CONTEXT, context
    if output:
        yield facts.OUTPUT, output


def _words(name: str, words: tuple[str, ...]) -> Found:
    if words:
        yield name, words


def _modalities(words: tuple[str, ...]) -> tuple[str, ...]:
    found = {_MODALITIES[word] for word in words if word in _MODALITIES}
    return tuple(sorted(found, key=MODALITIES.index))


def _capabilities(entry: Entry, inputs: tuple[str, ...]) -> tuple[str, ...]:
    """Those that are told in words, or follow from parameters; none where neither is told."""
    found = {word for word in entry.words("capabilities") if word in CAPABILITIES}
    able = entry.within("capabilities")
    found |= {ours for theirs, ours in _MISTRAL.items() if able.true(theirs)}
    supported = entry.words("supported_parameters")
    if supported and not found:
        found = {ours for theirs, ours in _BY_PARAMETER.items() if theirs in supported} | {"streaming"}
        found |= {"vision"} if "image" in inputs else set()
        found |= {"caching"} if "input_cache_read" in entry.within("pricing") else set()
    elif found and able.true("completion_chat"):
        found.add("streaming")
    return tuple(word for word in CAPABILITIES if word in found)


def _price(told: Entry) -> dict[str, Any]:
    """A price for single tokens, in decimal strings, as one for a million of them."""
    if not (told.text("prompt") and told.text("completion")):
        return {}
    price: dict[str, Any] = {}
    try:
        for theirs, ours in _PRICES.items():
            if told.text(theirs):
                price[ours] = Decimal(told.text(theirs)).scaleb(6)
        if told.text("request") and Decimal(told.text("request")):
            price["request"] = Decimal(told.text("request"))
        return price_to_json(price_from_json(price))
    except (InvalidOperation, ValueError, ArithmeticError):  # such as -1: it depends
        return {}


def _ending(text: str) -> Found:
    """A date, or a time of which the date is kept."""
    with suppress(ValueError):
        yield facts.DEPRECATION, date.fromisoformat(text[:10]).isoformat()


def _parameters(entry: Entry) -> Found:
    supported = entry.words("supported_parameters")
    for name in _JUDGED if supported else ():
        if name not in supported:
            yield facts.parameter_name(name), facts.UNSUPPORTED
    if supported and not {*apis.CAPS} & {*supported}:
        yield from ((facts.parameter_name(name), facts.UNSUPPORTED) for name in apis.CAPS)
    for name in _ALSO:
        if name in supported:
            yield facts.parameter_name(name), Parameter(Kind.MUTABLE)
    usual = entry.within("default_parameters")
    for name in (*apis.CHAT, *_ALSO):
        value = usual.number(name)
        if value is not None:
            yield facts.default_name(name), value

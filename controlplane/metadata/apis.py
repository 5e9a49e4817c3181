"""What the clients' API says of its own parameters, and what translation cannot carry to a provider's."""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import orjson

from controlplane.metadata.facts import OPAQUE, OTHERS, UNSUPPORTED, Fact, Layer, Source, Told, default, parameter
from extproc import translate
from extproc.stages.parameters import Kind, Parameter
from extproc.translate.settings import Translation

_ANY = Parameter(Kind.MUTABLE)
_SOURCE = Source(Layer.API, "OpenAI's API")


def _range(least: float | None = None, most: float | None = None) -> Parameter:
    return Parameter(Kind.MUTABLE, least=least, most=most)


# https://platform.openai.com/docs/api-reference/chat/create
CHAT: Mapping[str, Parameter] = {
    "temperature": _range(0, 2),
    "top_p": _range(0, 1),
    "n": _range(1, 128),
    "max_tokens": _range(1),
    "max_completion_tokens": _range(1),
    "frequency_penalty": _range(-2, 2),
    "presence_penalty": _range(-2, 2),
    "logit_bias": _ANY,
    "logprobs": _ANY,
    "top_logprobs": _range(0, 20),
    "stop": _ANY,
    "seed": _ANY,
    "stream": _ANY,
    "stream_options": _ANY,
    "tools": _ANY,
    "tool_choice": _ANY,
    "parallel_tool_calls": _ANY,
    "response_format": _ANY,
    "reasoning_effort": _ANY,
    "verbosity": _ANY,
    "modalities": _ANY,
    "user": _ANY,
}
# https://platform.openai.com/docs/api-reference/embeddings/create
EMBEDDINGS: Mapping[str, Parameter] = {"dimensions": _range(1), "encoding_format": _ANY, "user": _ANY}
CAPS = ("max_tokens", "max_completion_tokens")  # of the output
_CHAT_DEFAULTS = {
    "temperature": 1, "top_p": 1, "n": 1, "frequency_penalty": 0, "presence_penalty": 0, "logprobs": False,
    "stream": False, "parallel_tool_calls": True,
}  # fmt: skip

# Values that ask for something, so that a translation has to say what becomes of them.
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
_PROBES: Mapping[str, Mapping[str, Any]] = {
    "temperature": {"temperature": 0.5},
    "top_p": {"top_p": 0.5},
    "n": {"n": 2},
    "max_tokens": {"max_tokens": 16},
    "max_completion_tokens": {"max_completion_tokens": 16},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "presence_penalty": {"presence_penalty": 0.5},
    "logit_bias": {"logit_bias": {"1": 1}},
    "logprobs": {"logprobs": True},
    "top_logprobs": {"logprobs": True, "top_logprobs": 2},
    "stop": {"stop": ["."]},
    "seed": {"seed": 1},
    "stream": {"stream": True},
    "stream_options": {"stream": True, "stream_options": {"include_usage": True}},
    "tools": {"tools": [_TOOL]},
    "tool_choice": {"tools": [_TOOL], "tool_choice": "required"},
    "parallel_tool_calls": {"tools": [_TOOL], "parallel_tool_calls": False},
    "response_format": {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}}},
    "reasoning_effort": {"reasoning_effort": "low"},
    "verbosity": {"verbosity": "low"},
    "modalities": {"modalities": ["text", "audio"]},
    "user": {"user": "u"},
    "dimensions": {"dimensions": 16},
    "encoding_format": {"encoding_format": "base64"},
}
_UNKNOWN = "x_unknown"
_EMBEDS = "amazon.titan-embed-text-v2:0"  # where the model matters, one that can


def _told(known: Mapping[str, Parameter], defaults: Mapping[str, Any]) -> Told:
    found = [parameter(name, value, _SOURCE) for name, value in known.items()]
    found += [default(name, value, _SOURCE) for name, value in defaults.items()]
    return Told((*found, parameter(OTHERS, OPAQUE, _SOURCE)))


OF_CHATS = _told(CHAT, _CHAT_DEFAULTS)
OF_OTHERS = _told({}, {})
OF_EMBEDDINGS = _told(EMBEDDINGS, {"encoding_format": "float"})


@lru_cache(maxsize=256)
def untranslated(translation: Translation, *, embeddings: bool) -> Told:
    """The parameters that a provider's API has no place for: found by translating a request with each of them.

    Some models cannot do what their API can; which these are is not known here.
    """
    source = Source(Layer.TRANSLATION, f"translation: {translation.provider} has no place for it")
    dropping = replace(translation, options=replace(translation.options, unsupported="drop"))
    names = (*(EMBEDDINGS if embeddings else CHAT), _UNKNOWN)
    lost = [name for name in names if _lost(name, dropping, embeddings=embeddings)]
    found: list[Fact] = [parameter(OTHERS if name == _UNKNOWN else name, UNSUPPORTED, source) for name in lost]
    return Told(tuple(found))


def _lost(name: str, translation: Translation, *, embeddings: bool) -> bool:
    probe = {"input": "hi"} if embeddings else {"messages": [{"role": "user", "content": "hi"}]}
    body = orjson.dumps({"model": "m", **probe, **_PROBES.get(name, {name: 1})})
    client: translate.ClientAPI = "openai_embeddings" if embeddings else "openai"
    model = _EMBEDS if embeddings else "m"
    made = translate.request(client, translation.provider, body, model, translate.Stamp("", 0), translation.options)
    return isinstance(made, translate.Refused) or name in made.dropped

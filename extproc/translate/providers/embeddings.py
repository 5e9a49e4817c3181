"""OpenAI's embeddings to the providers that have their own.

https://platform.openai.com/docs/api-reference/embeddings, https://ai.google.dev/api/embeddings,
https://docs.cohere.com/reference/embed, https://github.com/ollama/ollama/blob/main/docs/api.md#generate-embeddings,
https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-embed-text.html
"""

import base64
import struct
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import quote

from extproc.translate import jsontext
from extproc.translate.exchange import Exchange
from extproc.translate.failures import Answer, unreadable
from extproc.translate.fields import Fields
from extproc.translate.jsontext import Object
from extproc.translate.losses import Losses, Refused, RefusedError, inexpressible, invalid
from extproc.translate.providers.common import Call, Options, a_count, a_list, an_object


class _Asked(NamedTuple):
    texts: list[str]
    dimensions: int | None
    base64: bool


class _Found(NamedTuple):
    """`tokens` None where the provider does not count."""

    vectors: list[Any]
    tokens: int | None


_Write = Callable[[_Asked, str, Options], Call]
_Read = Callable[[Object], _Found]


def prepare(provider: str, body: Object, model: str, options: Options, losses: Losses) -> tuple[Call, Exchange]:
    """The request and the way back. Refuses providers without embeddings."""
    if provider not in _PROVIDERS:
        message = "This provider has no embeddings. Use a model of another provider."
        raise RefusedError(Refused("model", message, "unsupported_endpoint"))
    write, read = _PROVIDERS[provider]
    asked = _asked(body, losses)

    def answer(found: Object) -> Answer:
        return Answer(200, {"content-type": "application/json"}, _answer(read(found), asked, model))

    return write(asked, model, options), Exchange("openai", answer)


def _asked(body: Object, losses: Losses) -> _Asked:
    fields = Fields(body, "", losses)
    fields.take("model")
    given = fields.take("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        invalid("input", "a string or a list of strings")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            inexpressible(f"input[{i}]", "tokens are numbered otherwise by each model; send text")
    encoding = fields.text("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        invalid("encoding_format", "float or base64")
    asked = _Asked(texts, fields.whole("dimensions"), encoding == "base64")
    fields.hint("user")
    fields.done()
    return asked


def _answer(found: _Found, asked: _Asked, model: str) -> bytes:
    if len(found.vectors) != len(asked.texts):
        raise unreadable(f"{len(found.vectors)} embeddings for {len(asked.texts)} texts")
    data = [
        {"object": "embedding", "index": i, "embedding": _packed(vector) if asked.base64 else vector}
        for i, vector in enumerate(found.vectors)
    ]
    body: Object = {"object": "list", "data": data, "model": model}
    if found.tokens is not None:
        body["usage"] = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
    return jsontext.dumps(body)


def _packed(vector: Any) -> str:
    """Little-endian floats of 32 bits in base64, which OpenAI's own clients ask for."""
    try:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    except (struct.error, TypeError, OverflowError):
        raise unreadable("an embedding is no list of numbers") from None


def _write_gemini(asked: _Asked, model: str, options: Options) -> Call:
    name = model if "/" in model else f"models/{model}"
    common: Object = {"model": name, "taskType": _GEMINI_TASKS.get(options.embedding_purpose, "RETRIEVAL_DOCUMENT")}
    if asked.dimensions is not None:
        common["outputDimensionality"] = asked.dimensions
    requests = [common | {"content": {"parts": [{"text": text}]}} for text in asked.texts]
    return Call(f"/{quote(name, safe='/-._~')}:batchEmbedContents", {"requests": requests})


def _read_gemini(answer: Object) -> _Found:
    usage = answer.get("usageMetadata")
    tokens = a_count(usage.get("promptTokenCount")) if isinstance(usage, dict) else None
    return _Found([an_object(one).get("values") for one in a_list(answer.get("embeddings"))], tokens)


def _write_cohere(asked: _Asked, model: str, options: Options) -> Call:
    body: Object = {"model": model, "texts": asked.texts, "input_type": options.embedding_purpose}
    if asked.dimensions is not None:
        body["output_dimension"] = asked.dimensions
    return Call("/embed", body | {"embedding_types": ["float"]})


def _read_cohere(answer: Object) -> _Found:
    billed = an_object(answer.get("meta")).get("billed_units")
    tokens = a_count(billed.get("input_tokens")) if isinstance(billed, dict) else None
    return _Found(a_list(an_object(answer.get("embeddings")).get("float")), tokens)


def _write_ollama(asked: _Asked, model: str, _: Options) -> Call:
    body: Object = {"model": model, "input": asked.texts}
    if asked.dimensions is not None:
        body["dimensions"] = asked.dimensions
    return Call("/embed", body)


def _read_ollama(answer: Object) -> _Found:
    count = answer.get("prompt_eval_count")
    return _Found(a_list(answer.get("embeddings")), None if count is None else a_count(count))


def _write_titan(asked: _Asked, model: str, _: Options) -> Call:
    """Bedrock has no embeddings of its own, but each model its API; Amazon's takes one text."""
    if "titan-embed-text" not in model:
        message = "On Bedrock, embeddings are translated for Amazon's titan-embed-text models only."
        raise RefusedError(Refused("model", message, "unsupported_endpoint"))
    if len(asked.texts) > 1:
        inexpressible("input[1]", "this model takes one text in a request")
    body: Object = {"inputText": asked.texts[0]}
    if asked.dimensions is not None:
        body["dimensions"] = asked.dimensions
    return Call(f"/model/{quote(model, safe='')}/invoke", body)


def _read_titan(answer: Object) -> _Found:
    count = answer.get("inputTextTokenCount")
    vector = answer.get("embedding")
    return _Found([] if vector is None else [vector], None if count is None else a_count(count))


_GEMINI_TASKS = {
    "search_query": "RETRIEVAL_QUERY",
    "classification": "CLASSIFICATION",
    "clustering": "CLUSTERING",
}
_PROVIDERS: dict[str, tuple[_Write, _Read]] = {
    "gemini": (_write_gemini, _read_gemini),
    "cohere": (_write_cohere, _read_cohere),
    "ollama": (_write_ollama, _read_ollama),
    "bedrock": (_write_titan, _read_titan),
}

"""What each operation feeds a model, and what it answers."""

import asyncio
import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
import orjson

from sidecars.onnx.batch import Priority
from sidecars.onnx.bodies import ClassifyBody, EmbeddingsBody, NliBody, Pair, RerankBody, read_input
from sidecars.onnx.errors import ServiceError, invalid
from sidecars.onnx.loaded import Loaded, LoadedEncoder
from sidecars.onnx.pooling import Floats, normalize
from sidecars.onnx.scores import Roles, activate, ranked, roles_of, zero_shot
from sidecars.onnx.settings import Task
from sidecars.onnx.tokens import Tokens

# Texts of fewer characters are tokenized where they are: faster than a thread is reached.
_INLINE_CHARS = 2000
_SERVES = {
    Task.EMBED: "/v1/embeddings",
    Task.RERANK: "/v1/rerank",
    Task.CLASSIFY: "/v1/classify",
    Task.NLI: "/v1/nli and /v1/classify with `labels`",
    Task.GENERATE: "/v1/chat/completions and /v1/completions",
}
_T = TypeVar("_T")


def unfit(name: str, loaded: Loaded) -> ServiceError:
    """A 400: the model is for something else."""
    message = f"The model '{name}' is for {_SERVES[loaded.card.task]}, not for this."
    return ServiceError(400, "operation_not_supported", message, param="model")


@dataclass(frozen=True, slots=True)
class Call:
    """A model and how a request may use it. `max_inputs`: sequences of one request."""

    name: str
    loaded: LoadedEncoder
    priority: Priority
    max_inputs: int

    def require(self, *tasks: Task) -> None:
        """Raises ServiceError for a model that is for something else."""
        if self.loaded.card.task not in tasks:
            raise unfit(self.name, self.loaded)

    def limit(self, count: int, param: str) -> None:
        if count > self.max_inputs:
            raise invalid(param, f"Invalid '{param}': {count} sequences in one request; at most {self.max_inputs}.")

    async def run(self, sequences: Sequence[Tokens]) -> list[Floats]:
        return await self.loaded.engine.submit(sequences, self.priority)

    async def score(self, pairs: Sequence[tuple[str, str]]) -> tuple[list[Floats], int]:
        """The logits of pairs, and how many tokens were fed."""
        encoder = self.loaded.encoder
        sequences = await _beside(encoder.pairs, pairs, sum(len(one) + len(other) for one, other in pairs))
        return await self.run(sequences), sum(map(len, sequences))


async def embeddings(call: Call, body: EmbeddingsBody) -> bytes:
    """POST /v1/embeddings."""
    call.require(Task.EMBED)
    given = read_input(body.input)
    call.limit(len(given), "input")
    width = call.loaded.width
    if body.dimensions is not None and body.dimensions > width:
        raise invalid("dimensions", f"Invalid 'dimensions': the model '{call.name}' has {width} at most.")
    sequences = await _sequences(call, given, body.prompt_name)
    rows = np.stack(await call.run(sequences))
    if body.dimensions is not None and body.dimensions < width:
        rows = rows[:, : body.dimensions]
        # A shortened vector is no unit vector any more.
        rows = normalize(rows) if call.loaded.card.normalize else rows
    rows = np.ascontiguousarray(rows)
    vectors = [_base64(row) for row in rows] if body.encoding_format == "base64" else list(rows)
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    return _answer(call, _count(sequences), data)


async def rerank(call: Call, body: RerankBody) -> bytes:
    """POST /v1/rerank, in the shape that Cohere, Jina and vLLM agree on."""
    call.require(Task.RERANK)
    call.limit(len(body.documents), "documents")
    texts = [document if isinstance(document, str) else document.text for document in body.documents]
    rows, fed = await call.score([(body.query, text) for text in texts])
    scores = activate(np.concatenate(rows), call.loaded.card.activation).tolist()
    order = sorted(range(len(texts)), key=lambda i: -scores[i])[: body.top_n]
    results: list[dict[str, Any]] = [{"index": i, "relevance_score": scores[i]} for i in order]
    if body.return_documents:
        for result in results:
            result["document"] = {"text": texts[result["index"]]}
    found = {
        "id": f"rerank-{uuid4().hex}",
        "object": "list",
        "model": call.name,
        "results": results,
        "usage": _usage(fed),
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    }
    return orjson.dumps(found)


async def classify(call: Call, body: ClassifyBody) -> bytes:
    """POST /v1/classify: by the model's own labels, or by `labels` of the request with an NLI model."""
    call.require(Task.CLASSIFY, Task.NLI)
    texts = [body.input] if isinstance(body.input, str) else body.input
    if call.loaded.card.task is Task.NLI:
        return await _classify_by_entailment(call, body, texts)
    for name in ("labels", "hypothesis_template", "multi_label"):
        if name in body.model_fields_set and getattr(body, name) is not False:
            raise invalid(name, f"The model '{call.name}' has labels of its own; '{name}' is for NLI models.")
    call.limit(len(texts), "input")
    encoder = call.loaded.encoder
    sequences = await _beside(encoder.texts, texts, sum(map(len, texts)))
    scores = activate(np.stack(await call.run(sequences)), call.loaded.card.activation)
    data = [_labelled(i, call.loaded.card.labels, row) for i, row in enumerate(scores.tolist())]
    return _answer(call, _count(sequences), data)


async def nli(call: Call, body: NliBody) -> bytes:
    """POST /v1/nli: whether premises entail hypotheses."""
    call.require(Task.NLI)
    given = [body.input] if isinstance(body.input, Pair) else body.input
    call.limit(len(given), "input")
    roles = _roles(call)
    rows, fed = await call.score([(pair.premise, pair.hypothesis) for pair in given])
    scores = activate(np.stack(rows), "softmax").tolist()
    return _answer(call, fed, [_labelled(i, roles.names, row) for i, row in enumerate(scores)])


async def _classify_by_entailment(call: Call, body: ClassifyBody, texts: Sequence[str]) -> bytes:
    labels = body.labels
    if labels is None:
        raise invalid("labels", f"The model '{call.name}' classifies by candidates: 'labels' is required.")
    if len(set(labels)) < len(labels):
        raise invalid("labels", "Invalid 'labels': the same label is given twice.")
    if body.hypothesis_template.count("{}") != 1:
        raise invalid("hypothesis_template", "Invalid 'hypothesis_template': expected one {} for the label.")
    call.limit(len(texts) * len(labels), "labels")
    roles = _roles(call)
    hypotheses = [body.hypothesis_template.replace("{}", label) for label in labels]
    rows, fed = await call.score([(text, hypothesis) for text in texts for hypothesis in hypotheses])
    logits = np.stack(rows).reshape(len(texts), len(labels), -1)
    scores = zero_shot(logits, roles, multi_label=body.multi_label).tolist()
    return _answer(call, fed, [_labelled(i, labels, row) for i, row in enumerate(scores)])


def _roles(call: Call) -> Roles:
    roles = roles_of(call.loaded.card.labels)
    if roles is None:
        labels = ", ".join(call.loaded.card.labels)
        raise ServiceError(
            500, "labels_unknown",
            f"None of the labels of '{call.name}' means entailment ({labels}); the service's settings can name them.",
        )  # fmt: skip
    return roles


async def _sequences(call: Call, given: list[str] | list[list[int]], prompt_name: str | None) -> list[Tokens]:
    card, encoder = call.loaded.card, call.loaded.encoder
    if isinstance(given[0], str):
        prompt = card.prompt
        if prompt_name is not None:
            if prompt_name not in card.prompts:
                known = ", ".join(card.prompts) or "none"
                raise invalid("prompt_name", f"The model '{call.name}' has no prompt '{prompt_name}'; it has: {known}.")
            prompt = card.prompts[prompt_name]
        texts = [prompt + text for text in given]
        found = await _beside(encoder.texts, texts, sum(map(len, texts)))
    else:
        if prompt_name is not None:
            raise invalid("prompt_name", "Invalid 'prompt_name': for texts only; token ids are fed as they are.")
        _check_ids(call, given)
        found = encoder.ids(given)
    for index, tokens in enumerate(found):
        if not tokens.ids:
            raise invalid("input", f"Invalid 'input': item {index} has no tokens.")
    return found


def _check_ids(call: Call, lists: list[list[int]]) -> None:
    size = call.loaded.encoder.vocabulary
    for ids in lists:
        if min(ids) < 0 or max(ids) >= size:
            raise invalid("input", f"Invalid 'input': token ids of '{call.name}' are from 0 to {size - 1}.")


async def _beside(encode: Callable[[Sequence[_T]], list[Tokens]], given: Sequence[_T], size: int) -> list[Tokens]:
    """Tokenizes beside the event loop what is not small."""
    return encode(given) if size < _INLINE_CHARS else await asyncio.to_thread(encode, given)


def _count(sequences: Sequence[Tokens]) -> int:
    return sum(map(len, sequences))


def _labelled(index: int, labels: Sequence[str], scores: list[float]) -> dict[str, Any]:
    """`probs` and `num_classes` are as in vLLM: in the order of the labels."""
    best = max(range(len(scores)), key=scores.__getitem__)
    return {
        "object": "classification",
        "index": index,
        "label": labels[best],
        "score": scores[best],
        "scores": ranked(labels, scores),
        "probs": scores,
        "num_classes": len(scores),
    }


def _base64(row: Floats) -> str:
    """The float32 numbers, little-endian."""
    return base64.b64encode(row.astype("<f4").tobytes()).decode()


def _answer(call: Call, fed: int, data: list[dict[str, Any]]) -> bytes:
    found = {"object": "list", "model": call.name, "data": data, "usage": _usage(fed)}
    return orjson.dumps(found, option=orjson.OPT_SERIALIZE_NUMPY)


def _usage(fed: int) -> dict[str, int]:
    return {"prompt_tokens": fed, "total_tokens": fed}

"""POST /v1/classify and /v1/nli: the labels whose words are in the text, in the shape of the local models' service."""

from collections.abc import Sequence
from typing import Any

from sidecars.mock.answer import Plain, input_usage, json_answer, measure, with_usage
from sidecars.mock.call import Call
from sidecars.mock.errors import invalid
from sidecars.mock.prose import words

_NLI = ("entailment", "neutral", "contradiction")
_LABELS = ("positive", "negative")
_PAIR = "an object with a premise and a hypothesis"


def classify(call: Call) -> Plain:
    """Labels (`labels`, else positive and negative) share one by how many of their words the text holds."""
    value = call.data.get("input")
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise invalid("input", "a string or an array of strings, not empty")
    labels = call.data.get("labels", list(_LABELS))
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise invalid("labels", "an array of strings, not empty")
    rows = [_shared([1 + 8 * _held(label, text) for label in labels]) for text in texts]
    return _answer(call, labels, rows, sum(map(words, texts)))


def nli(call: Call) -> Plain:
    """A premise that holds every word of the hypothesis entails it, one that holds none contradicts it."""
    value = call.data.get("input")
    pairs = value if isinstance(value, list) else [value]
    rows: list[list[float]] = []
    fed = 0
    for index, pair in enumerate(pairs):
        if not isinstance(pair, dict):
            raise invalid(f"input[{index}]", _PAIR)
        premise, hypothesis = pair.get("premise"), pair.get("hypothesis")
        if not isinstance(premise, str) or not isinstance(hypothesis, str):
            raise invalid(f"input[{index}]", _PAIR)
        held = _held(hypothesis, premise)
        rows.append(_shared([1 + 8 * (held == 1), 1 + 8 * (0 < held < 1), 1 + 8 * (held == 0)]))
        fed += words(premise) + words(hypothesis)
    return _answer(call, _NLI, rows, fed)


def _held(words_of: str, text: str) -> float:
    """The share of the words that a text holds."""
    asked = set(words_of.lower().split())
    return len(asked & set(text.lower().split())) / max(len(asked), 1)


def _shared(weights: Sequence[float]) -> list[float]:
    return [round(weight / sum(weights), 6) for weight in weights]


def _answer(call: Call, labels: Sequence[str], rows: Sequence[list[float]], fed: int) -> Plain:
    usage = measure(call, fed)
    data = [_row(index, labels, scores) for index, scores in enumerate(rows)]
    found = {"object": "list", "model": call.model(), "data": data}
    return json_answer(with_usage(call, found, input_usage(usage)), usage)


def _row(index: int, labels: Sequence[str], scores: list[float]) -> dict[str, Any]:
    order = sorted(range(len(labels)), key=lambda i: -scores[i])
    return {
        "object": "classification",
        "index": index,
        "label": labels[order[0]],
        "score": scores[order[0]],
        "scores": {labels[i]: scores[i] for i in order},
        "probs": scores,
        "num_classes": len(labels),
    }

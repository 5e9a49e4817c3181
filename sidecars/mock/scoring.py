"""POST /v1/moderations and /v1/rerank: scores that a test can foresee from the words of the texts."""

from typing import Any

from sidecars.mock.answer import Plain, input_usage, json_answer, measure, with_usage
from sidecars.mock.call import Call
from sidecars.mock.draft import text_of
from sidecars.mock.errors import invalid
from sidecars.mock.prose import words

CATEGORIES = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent"),
    *("self-harm", "self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors"),
    *("violence", "violence/graphic"),
)


def moderation(call: Call) -> Plain:
    """A category is flagged when its name, as in `CATEGORIES`, is a word of the text."""
    value = call.data.get("input")
    if isinstance(value, str):
        texts = [value]
    elif isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        texts = value
    else:
        texts = [text_of(value, "input")] if value else []
    if not texts:
        raise invalid("input", "a string, an array of strings or an array of content parts, not empty")
    found = {
        "id": call.identify("modr-"),
        "model": call.body.model or "omni-moderation-latest",
        "results": [_judgement(text) for text in texts],
    }
    return json_answer(found, measure(call, sum(map(words, texts))))


def _judgement(text: str) -> dict[str, Any]:
    said = {word.strip(".,;:!?\"'").lower() for word in text.split()}
    flags = {category: category in said for category in CATEGORIES}
    return {
        "flagged": any(flags.values()),
        "categories": flags,
        "category_scores": {category: 0.99 if flagged else 0.01 for category, flagged in flags.items()},
        "category_applied_input_types": {category: ["text"] for category in CATEGORIES},
    }


def rerank(call: Call) -> Plain:
    """Documents by the share of the query's words that they hold, ties in the order given.

    The answer serves readers of Cohere's shape (`results`, `meta.billed_units`) and of Jina's (`usage`).
    """
    query = call.string("query")
    documents = call.data.get("documents")
    if not isinstance(documents, list) or not documents:
        raise invalid("documents", "an array of strings or of objects with a text, not empty")
    texts = [_document(item, i) for i, item in enumerate(documents)]
    asked = set(query.lower().split())
    scores = [round(len(asked & set(text.lower().split())) / max(len(asked), 1), 6) for text in texts]
    order = sorted(range(len(texts)), key=lambda i: -scores[i])[: call.integer("top_n", 1, 1 << 30)]
    results: list[dict[str, Any]] = [{"index": i, "relevance_score": scores[i]} for i in order]
    if call.flag("return_documents"):
        for result in results:
            result["document"] = {"text": texts[result["index"]]}
    usage = measure(call, words(query) + sum(map(words, texts)))
    found = {
        "id": call.identify("rerank-"),
        "object": "list",
        "model": call.model(),
        "results": results,
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    }
    return json_answer(with_usage(call, found, input_usage(usage)), usage)


def _document(item: Any, index: int) -> str:
    text = item.get("text") if isinstance(item, dict) else item
    if not isinstance(text, str):
        raise invalid(f"documents[{index}]", "a string or an object with a text")
    return text

"""The answers of `POST /v1/tokenize` and of Anthropic's `POST /v1/messages/count_tokens`, given by the gateway itself.

The former is like vLLM's, with what a gateway knows beside: {"model", "count", "exact", "tokenizer", "tokens"}; the
latter https://docs.claude.com/en/api/messages-count-tokens: {"input_tokens"}.
"""

from typing import Any

import orjson

from extproc.stages.book import Book
from extproc.stages.prompt_tokens import Counter
from extproc.stages.protocol import Access, Endpoint, Needs, Outcome, Plain, Refusal, Reply, Request
from extproc.stages.tokenizers import Tokenizer

# Characters of texts whose tokens are told one by one. Of longer ones the list would be many times their size, and a
# tokenizer.json makes it at one go, while all others in the worker wait.
MOST_TOLD = 128 << 10
_PROMPTS = ("messages", "input", "prompt")
_EXPECTED = "`prompt` or `input` (a text, or a list of them) or `messages` (a list) is expected."
_SPECIAL = "add_special_tokens"


class Counts(Plain):
    """Knows the models of the policy by its book."""

    needs = Needs(request=Access.CHANGE)

    def __init__(self, book: Book) -> None:
        self._book = book

    def request(self, request: Request) -> Outcome:
        if not self._book.has(request.model):
            kind = "not_found_error" if request.endpoint.anthropic else "invalid_request_error"
            message = f"The model '{request.model}' does not exist."
            return Outcome(refusal=Refusal(404, "model_not_found", message, "model", kind))
        refusal = _problem(request)
        if refusal is not None:
            return Outcome(refusal=refusal)
        tokenizer = self._book.tokenizer(request.model)
        if request.endpoint is Endpoint.COUNT_TOKENS:
            count = Counter(tokenizer, request.model).prompt(request.endpoint, request.body)
            return _reply({"input_tokens": count.tokens})
        return _reply({"model": request.model, **_counted(request, tokenizer)})


def _problem(request: Request) -> Refusal | None:
    body = request.body
    if request.endpoint is Endpoint.COUNT_TOKENS and not isinstance(body.get("messages"), list):
        return Refusal(400, "missing_required_parameter", "`messages` (a list) is expected.", "messages")
    given = [name for name in _PROMPTS if body.get(name) is not None]
    if not given:
        return Refusal(400, "missing_required_parameter", _EXPECTED, "prompt")
    if len(given) > 1:
        return Refusal(400, "invalid_value", f"`{given[0]}` and `{given[1]}` are both there: {_EXPECTED}", given[1])
    kinds: tuple[type, ...] = (list,) if given[0] == "messages" else (str, list)
    if not isinstance(body[given[0]], kinds):
        return Refusal(400, "invalid_type", _EXPECTED, given[0])
    if not isinstance(body.get(_SPECIAL, True), bool):
        return Refusal(400, "invalid_type", f"`{_SPECIAL}` is true or false.", _SPECIAL)
    return None


def _counted(request: Request, tokenizer: Tokenizer) -> dict[str, Any]:
    body = request.body
    given = body.get("prompt", body.get("input"))
    texts = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    plain = texts and all(isinstance(text, str) for text in texts) and "instructions" not in body
    if not plain:
        count = Counter(tokenizer, request.model).prompt(_meant(body), body)
        return {"count": count.tokens, "exact": count.exact, "tokenizer": tokenizer.name}
    special = body.get(_SPECIAL, True)
    said = {"exact": tokenizer.exact, "tokenizer": tokenizer.name}
    if sum(map(len, texts)) > MOST_TOLD:
        return {"count": sum([tokenizer.count(text, special=special) for text in texts]), **said}
    ids = [tokenizer.encode(text, special=special) for text in texts]
    told = {"tokens": ids[0] if isinstance(given, str) else ids} if tokenizer.exact else {}
    return {"count": sum(map(len, ids)), **said, **told}


def _meant(body: dict[str, Any]) -> Endpoint:
    """The endpoint that a body is for, as far as its members tell."""
    if "messages" in body:
        return Endpoint.MESSAGES if "system" in body else Endpoint.CHAT
    given = body.get("input")
    items = isinstance(given, list) and any(isinstance(item, dict) for item in given)
    return Endpoint.RESPONSES if items or "instructions" in body else Endpoint.COMPLETIONS


def _reply(answer: dict[str, Any]) -> Outcome:
    return Outcome(reply=Reply(200, "application/json", orjson.dumps(answer)))

"""The answers of the gateway's own endpoints; what clients see of them is in tests/e2e/test_counting.py."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.stages.book import Book, Counting
from extproc.stages.count import MOST_TOLD, Counts
from extproc.stages.protocol import Endpoint, opened
from extproc.stages.tokenizers import Local
from tests.support.words import tokenizer_json
from tests.unit.stages.given import asked

_LOCAL = {"words": Local("words", tokenizer_json())}
_MODELS: dict[str, tuple[str | None, ...]] = {
    "gpt-4o": (None,), "smart": ("gpt-4o-mini",), "llama": ("meta/llama-3",), "both": ("gpt-4o", "meta/llama-3"),
    "alike": ("gpt-4o", "gpt-4.1"), "free-*": (None,), "unknown": ("acme-1", "gpt-4o"),
}  # fmt: skip
BOOK = Book(Counting(_MODELS, {"meta/llama-*": "words"}, {"words": "digest"}), _LOCAL)
STAGE = Counts(BOOK)


def told(body: dict[str, Any], endpoint: Endpoint = Endpoint.TOKENIZE, model: str = "gpt-4o") -> Any:
    outcome = STAGE.request(asked(body, endpoint, model=model))
    assert outcome.reply is not None and outcome.reply.status == 200
    return json.loads(outcome.reply.body)


@pytest.mark.parametrize(
    ("model", "tokenizer", "exact"),
    [
        ("gpt-4o", "o200k_base", True),
        ("smart", "o200k_base", True),
        ("llama", "words", True),
        ("both", "estimate by o200k_base", False),
        ("alike", "o200k_base", True),
        ("free-gpt-4", "estimate by o200k_base", False),
        ("unknown", "estimate by o200k_base", False),
        ("not of the policy", "estimate by o200k_base", False),
    ],
)
def test_the_tokenizer_of_what_providers_are_asked_for(model: str, tokenizer: str, exact: bool) -> None:
    found = BOOK.tokenizer(model)
    assert (found.name, found.exact) == (tokenizer, exact)
    assert BOOK.has(model) is (model != "not of the policy")


@pytest.mark.parametrize(
    ("body", "count", "exact"),
    [
        ({"messages": [{"role": "user", "content": "hello world"}]}, 9, True),
        ({"messages": [{"role": "user", "content": "hello world"}], "system": "hello"}, 10, False),
        ({"messages": []}, 3, True),
        ({"input": [{"role": "user", "content": "hello world"}]}, 9, True),
        ({"input": "hello world", "instructions": "hello"}, 14, True),
        ({"input": [[1, 2, 3], [4]]}, 4, True),
        ({"prompt": ["hello", [1, 2]]}, 3, True),
    ],
)
def test_what_is_no_plain_text_is_counted_as_its_endpoint_would(body: dict[str, Any], count: int, exact: bool) -> None:
    assert told(body) == {"model": "gpt-4o", "count": count, "exact": exact, "tokenizer": "o200k_base"}


def test_tokens_of_long_texts_are_not_told() -> None:
    answer = told({"prompt": "hello " * (MOST_TOLD // 6 + 1)})
    assert "tokens" not in answer
    assert answer["exact"] is True


_VALUE = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=3) | st.none())
_BODY = st.dictionaries(
    st.sampled_from(["prompt", "input", "messages", "system", "instructions", "add_special_tokens", "tools"]), _VALUE
)


@given(_BODY, st.sampled_from([Endpoint.TOKENIZE, Endpoint.COUNT_TOKENS]), st.sampled_from([*_MODELS, "absent"]))
def test_any_body_is_counted_or_refused(body: dict[str, Any], endpoint: Endpoint, model: str) -> None:
    request = asked(body, endpoint, model=model)
    assert opened(request) is None
    outcome = STAGE.request(request)
    assert (outcome.reply is None) is (outcome.refusal is not None)
    if outcome.refusal is not None:
        assert outcome.refusal.status in (400, 404)

"""Usage objects as the providers' API references show them, and as providers get them wrong."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.usage.reading import ABSENT, MOST_TOKENS, Reading, tokens
from extproc.usage.record import Tokens

SHAPES: dict[str, tuple[dict[str, Any], Tokens]] = {
    "openai chat": (
        {
            "prompt_tokens": 2006,
            "completion_tokens": 300,
            "total_tokens": 2306,
            "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 256, "accepted_prediction_tokens": 0},
        },
        Tokens(2006, 300, cached=1920, reasoning=256),
    ),
    "openai completions": ({"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}, Tokens(5, 7)),
    "openai embeddings": ({"prompt_tokens": 8, "total_tokens": 8}, Tokens(8, 0)),
    "openai responses": (
        {
            "input_tokens": 328,
            "input_tokens_details": {"cached_tokens": 100},
            "output_tokens": 52,
            "output_tokens_details": {"reasoning_tokens": 20},
            "total_tokens": 380,
        },
        Tokens(328, 52, cached=100, reasoning=20),
    ),
    "openai transcription": (
        {
            "type": "tokens",
            "input_tokens": 14,
            "input_token_details": {"text_tokens": 10, "audio_tokens": 4},
            "output_tokens": 101,
            "total_tokens": 115,
        },
        Tokens(14, 101),
    ),
    "openai whisper": ({"type": "duration", "seconds": 9}, Tokens()),
    "openai images": (
        {
            "total_tokens": 100,
            "input_tokens": 50,
            "output_tokens": 50,
            "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
        },
        Tokens(50, 50),
    ),
    "anthropic": ({"input_tokens": 2095, "output_tokens": 503}, Tokens(2095, 503)),
    "anthropic cached": (
        {
            "input_tokens": 50,
            "cache_creation_input_tokens": 248,
            "cache_read_input_tokens": 100000,
            "cache_creation": {"ephemeral_5m_input_tokens": 148, "ephemeral_1h_input_tokens": 100},
            "output_tokens": 503,
            "service_tier": "standard",
        },
        Tokens(100298, 503, cached=100000, cache_write=248),
    ),
    "anthropic without a cache": (
        {"input_tokens": 9, "cache_creation_input_tokens": None, "cache_read_input_tokens": None, "output_tokens": 4},
        Tokens(9, 4),
    ),
    "anthropic compacted": (
        {
            "input_tokens": 23000,
            "output_tokens": 1000,
            "iterations": [
                {"type": "compaction", "input_tokens": 180000, "output_tokens": 3500},
                {"type": "message", "input_tokens": 23000, "output_tokens": 1000},
            ],
        },
        Tokens(203000, 4500),
    ),
    "deepseek": (
        {
            "prompt_tokens": 30,
            "completion_tokens": 12,
            "total_tokens": 42,
            "prompt_cache_hit_tokens": 20,
            "prompt_cache_miss_tokens": 10,
            "completion_tokens_details": {"reasoning_tokens": 5},
        },
        Tokens(30, 12, cached=20, reasoning=5),
    ),
    "gemini thinking, only in the total": (
        {"prompt_tokens": 20, "completion_tokens": 151, "total_tokens": 553},
        Tokens(20, 533, reasoning=382),
    ),
    "gemini thinking, nothing said": ({"prompt_tokens": 21, "total_tokens": 81}, Tokens(21, 60)),
    "xai, reasoning beside the completion": (
        {
            "prompt_tokens": 32,
            "completion_tokens": 9,
            "total_tokens": 135,
            "completion_tokens_details": {"reasoning_tokens": 94},
        },
        Tokens(32, 103, reasoning=94),
    ),
    "vllm": (
        {"prompt_tokens": 7, "total_tokens": 23, "completion_tokens": 16, "prompt_tokens_details": None},
        Tokens(7, 16),
    ),
    "vllm rerank": ({"total_tokens": 56}, Tokens(56, 0)),
    "mistral": (
        {"prompt_tokens": 16, "completion_tokens": 34, "total_tokens": 50, "prompt_audio_seconds": {}},
        Tokens(16, 34),
    ),
    "mistral cached": (
        {"prompt_tokens": 16, "completion_tokens": 34, "total_tokens": 50, "num_cached_tokens": 4},
        Tokens(16, 34, cached=4),
    ),
    "cohere chat": (
        {
            "billed_units": {"input_tokens": 5.0, "output_tokens": 418.0},
            "tokens": {"input_tokens": 71, "output_tokens": 418},
        },
        Tokens(5, 418),
    ),
    "cohere embed": ({"api_version": {"version": "1"}, "billed_units": {"input_tokens": 2}}, Tokens(2, 0)),
    "cohere rerank": ({"meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}}, Tokens()),
    "a gateway that writes both families": (
        {"prompt_tokens": 0, "completion_tokens": 0, "input_tokens": 25, "output_tokens": 9, "total_tokens": 34},
        Tokens(25, 9),
    ),
    "a gateway before anthropic": (
        {"prompt_tokens": 130, "completion_tokens": 9, "total_tokens": 139, "cache_read_input_tokens": 100},
        Tokens(130, 9, cached=100),
    ),
    "cached tokens written": (
        {
            "prompt_tokens": 30,
            "completion_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 20},
        },
        Tokens(30, 2, cached=5, cache_write=20),
    ),
    "a total that counts cached tokens twice": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 10,
            "total_tokens": 190,
            "prompt_tokens_details": {"cached_tokens": 80},
        },
        Tokens(100, 10, cached=80),
    ),
    "only output and total": ({"completion_tokens": 4, "total_tokens": 10}, Tokens(6, 4)),
    "nothing taken": ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, Tokens()),
}


def read(usage: Any) -> Reading:
    return tokens([json.dumps(usage)])


@pytest.mark.parametrize("name", SHAPES)
def test_the_shapes_of_the_apis(name: str) -> None:
    usage, expected = SHAPES[name]
    assert read(usage) == Reading(expected)
    assert tokens([json.dumps(usage).encode()]) == Reading(expected)


def test_an_anthropic_stream_is_one_usage() -> None:
    start = b'{"input_tokens":25,"cache_creation_input_tokens":0,"cache_read_input_tokens":100,"output_tokens":1}'
    assert tokens([start, b'{"output_tokens":15}']) == Reading(Tokens(125, 15, cached=100))
    searched = b'{"input_tokens":10682,"cache_read_input_tokens":null,"output_tokens":510}'
    assert tokens([start, searched]) == Reading(Tokens(10782, 510, cached=100))
    assert tokens([start]) == Reading(Tokens(125, 1, cached=100))


def test_null_and_empty_texts_state_nothing() -> None:
    nothing: list[list[str | bytes]] = [[], [""], [b""], ["null"], ["null", b"null"], ["{}"], ['{"type":"speech"}']]
    for texts in nothing:
        assert tokens(texts) == ABSENT, texts
        assert tokens(texts).absent
        assert not tokens(texts).bad
    for names in (("input_tokens", "output_tokens"), ("prompt_tokens", "total_tokens")):
        assert read(dict.fromkeys(names)) == ABSENT
    assert tokens(["null", '{"prompt_tokens":8,"total_tokens":8}', "null"]) == Reading(Tokens(8))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (-1, "-1"),
        (1.5, "1.5"),
        ("12", "a string"),
        (True, "a boolean"),
        (False, "a boolean"),
        ([], "a list"),
        ({}, "an object"),
        (MOST_TOKENS + 1, "1e+08"),
        (2**53 + 1, "9.0072e+15"),
        (2**70, "1.18059e+21"),
        (1e300, "1e+300"),
    ],
)
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens", "total_tokens"])
def test_impossible_counts_make_a_reading_bad(name: str, value: object, shown: str) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, name: value}
    reading = read(usage)
    assert reading.bad
    assert reading.tokens is None
    assert reading.problem == f"{name} is {shown}, expected a whole number from 0 to {MOST_TOKENS}"


@pytest.mark.parametrize(
    ("usage", "problem"),
    [
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 6}}, "cached 6 .* more than input 5"),
        (
            {"prompt_tokens": 5, "completion_tokens": 6, "completion_tokens_details": {"reasoning_tokens": 7}},
            "reasoning 7 is more than output 6",
        ),
        ({"prompt_tokens": 5, "completion_tokens_details": {"reasoning_tokens": -7}}, "reasoning_tokens is -7"),
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": "6"}}, "cached_tokens is a string"),
        ({"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 10}, "total of 10 is less"),
        ({"prompt_tokens": 5, "total_tokens": 4}, "total of 4 is less"),
        ({"completion_tokens": 5}, "input tokens are missing"),
        ({"completion_tokens": 5, "total_tokens": 4}, "input tokens are missing"),
        ({"output_tokens": 5}, "input tokens are missing"),
        ({"output_tokens": 5, "cache_read_input_tokens": 5}, "input_tokens is missing"),
        ({"input_tokens": 5, "cache_read_input_tokens": 5}, "output_tokens is missing"),
        ({"input_tokens": 5, "output_tokens": 1, "cache_read_input_tokens": -5}, "cache_read_input_tokens is -5"),
        ({"input_tokens": MOST_TOKENS, "output_tokens": 1, "cache_read_input_tokens": 1}, "is more than 100000000"),
        ({"billed_units": {"input_tokens": 1.5}}, "input_tokens is 1.5"),
        ([], "usage is a list"),
        ("usage", "usage is a string"),
        (7, "usage is 7"),
    ],
)
def test_contradictions_make_a_reading_bad(usage: object, problem: str) -> None:
    reading = read(usage)
    assert reading.bad
    assert reading.tokens is None
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(reading.problem)


@pytest.mark.parametrize(
    "text", ["{", '{"prompt_tokens": 5', '{"prompt_tokens": NaN}', b"\xff", "\ud800", "-", "[" * 5000]
)
def test_what_is_not_json_is_bad(text: str | bytes) -> None:
    assert "not whole JSON" in tokens([text]).problem
    assert tokens(['{"prompt_tokens":5}', text]).bad


_odd = st.integers(-2, 12) | st.sampled_from([None, True, 1.0, 1.5, "1", MOST_TOKENS, MOST_TOKENS + 1])
_details = st.none() | st.just([]) | st.dictionaries(
    st.sampled_from(["cached_tokens", "audio_tokens", "reasoning_tokens", "cache_write_tokens"]), _odd
)  # fmt: skip
_usual = st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens": _odd,
        "completion_tokens": _odd,
        "total_tokens": _odd,
        "prompt_tokens_details": _details,
        "completion_tokens_details": _details,
    },
)


@given(_usual, st.booleans())
def test_the_shortcut_for_usual_usage_is_none(usage: dict[str, Any], adds_up: bool) -> None:
    """What is not usual goes the long way, and an unknown field makes it so."""
    if adds_up and type(usage.get("prompt_tokens")) is type(usage.get("completion_tokens")) is int:
        usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
    assert read(usage) == read({**usage, "unknown": 1})


def test_a_problem_never_repeats_what_a_provider_wrote() -> None:
    for reading in (read({"prompt_tokens": "sk-secret"}), tokens(["sk-secret"]), read("sk-secret")):
        assert reading.bad
        assert "secret" not in reading.problem


NAMES = sorted(
    {name for usage, _ in SHAPES.values() for name in usage}
    | {"cached_tokens", "reasoning_tokens", "cache_write_tokens", "search_units"}
)
COUNTS = st.one_of(
    st.integers(0, 1000), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none()
)
USAGES = st.dictionaries(
    st.sampled_from(NAMES),
    st.one_of(
        COUNTS,
        st.text(max_size=5),
        st.dictionaries(st.sampled_from(NAMES), COUNTS, max_size=4),
        st.lists(st.dictionaries(st.sampled_from(NAMES), COUNTS | st.just("compaction"), max_size=4), max_size=3),
    ),
    max_size=8,
)


def check(reading: Reading) -> None:
    assert [reading.bad, reading.absent, reading.tokens is not None].count(True) == 1
    if reading.tokens is not None:
        found = reading.tokens
        assert all(type(count) is int for count in (found.input, found.output, found.cached, found.reasoning))
        assert 0 <= found.cached + found.cache_write <= found.input <= MOST_TOKENS
        assert min(found.cached, found.cache_write) >= 0
        assert 0 <= found.reasoning <= found.output <= MOST_TOKENS


@given(st.lists(st.one_of(st.binary(), st.text(st.characters())), max_size=3))
def test_any_text_is_read_without_an_exception(texts: list[str | bytes]) -> None:
    check(tokens(texts))


@given(st.lists(USAGES, max_size=3))
def test_any_usage_is_read_without_an_exception(usages: list[dict[str, Any]]) -> None:
    check(tokens([json.dumps(usage) for usage in usages]))


@given(st.integers(0, MOST_TOKENS), st.integers(0, MOST_TOKENS), st.data())
def test_a_sound_usage_is_read_as_it_is(prompt: int, completion: int, data: st.DataObject) -> None:
    cached, reasoning = data.draw(st.integers(0, prompt)), data.draw(st.integers(0, completion))
    chat: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    if chat["total_tokens"] <= MOST_TOKENS:
        assert read(chat) == Reading(Tokens(prompt, completion, cached=cached, reasoning=reasoning))
    else:
        assert read(chat).bad

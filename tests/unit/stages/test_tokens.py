import base64
import json
import struct
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.stages import images, settings, tokenizers
from extproc.stages.book import Book, Counting
from extproc.stages.prompt_tokens import Counter
from extproc.stages.protocol import NOTHING, Access, Endpoint
from extproc.stages.settings import SettingsError
from extproc.stages.tokens import Model, Settings, Tokens, models_of
from extproc.usage.price_catalog import load_catalog
from tests.support.words import tokenizer_json
from tests.unit.stages.given import asked

BOOK = Book(Counting(tokenizers={"llama*": "words"}), {"words": tokenizers.Local("words", tokenizer_json())})


def stage(**document: Any) -> Tokens:
    return Tokens(settings.parse(Settings, json.dumps(document).encode(), "test"), BOOK)


@pytest.mark.parametrize(
    ("encoding", "text", "ids"),
    [
        ("cl100k_base", "tiktoken is great!", [83, 1609, 5963, 374, 2294, 0]),
        ("cl100k_base", "hello world", [15339, 1917]),
        ("o200k_base", "hello world", [24912, 2375]),
        ("o200k_base", "", []),
    ],
)
def test_published_encodings(encoding: str, text: str, ids: list[int]) -> None:
    assert tokenizers.known(encoding).encode(text) == ids
    assert tokenizers.known(encoding).count(text) == len(ids)


@pytest.mark.parametrize(
    ("model", "name", "exact"),
    [
        ("gpt-4o-mini", "o200k_base", True),
        ("openai/gpt-4.1", "o200k_base", True),
        ("gpt-4-turbo", "cl100k_base", True),
        ("ft:gpt-3.5-turbo:org", "cl100k_base", True),
        ("text-embedding-3-small", "cl100k_base", True),
        ("claude-opus-5", "estimate by o200k_base", False),
        ("", "estimate by o200k_base", False),
    ],
)
def test_tokenizer_by_model(model: str, name: str, exact: bool) -> None:
    assert (tokenizers.of_model(model).name, tokenizers.of_model(model).exact) == (name, exact)


# OpenAI's notebook on counting tokens gives these messages and 129 tokens for gpt-3.5-turbo and gpt-4, 124 for gpt-4o.
NOTEBOOK = [
    ("system", "",
     "You are a helpful, pattern-following assistant that translates corporate jargon into plain English."),
    ("system", "example_user", "New synergies will help drive top-line growth."),
    ("system", "example_assistant", "Things working well together will increase revenue."),
    ("system", "example_user",
     "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage."),
    ("system", "example_assistant", "Let's talk later when we're less busy about how to do better."),
    ("user", "", "This late pivot means we don't have time to boil the ocean for the client deliverable."),
]  # fmt: skip


@pytest.mark.parametrize(("model", "tokens"), [("gpt-4", 129), ("gpt-3.5-turbo", 129), ("gpt-4o", 124)])
def test_the_published_rule_for_messages(model: str, tokens: int) -> None:
    messages = [{"role": role, "content": text} | ({"name": name} if name else {}) for role, name, text in NOTEBOOK]
    count = stage().count(asked({"messages": messages}, model=model))
    assert (count.tokens, count.exact) == (tokens, True)


def test_the_published_rule_for_tools() -> None:
    location = {"type": "string", "description": "The city and state, e.g. San Francisco, CA"}
    unit = {"type": "string", "description": "The unit of temperature to return", "enum": ["celsius", "fahrenheit"]}
    function = {
        "name": "get_current_weather",
        "description": "Get the current weather in a given location",
        "parameters": {"type": "object", "properties": {"location": location, "unit": unit}, "required": ["location"]},
    }
    messages = [
        {"role": "system", "content": "You are a helpful assistant that can answer to questions about the weather."},
        {"role": "user", "content": "What's the weather like in San Francisco?"},
    ]
    body = {"messages": messages, "tools": [{"type": "function", "function": function}]}
    count = stage().count(asked(body, model="gpt-4o"))
    assert (count.tokens, count.exact) == (101, False)


def png(width: int, height: int) -> str:
    data = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", width, height)
    return "data:image/png;base64," + base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("model", "size", "detail", "tokens"),
    [
        ("gpt-4o", (1024, 1024), "high", 765),
        ("gpt-4o", (2048, 4096), "high", 1105),
        ("gpt-4o", (4096, 8192), "low", 85),
        ("gpt-4.1-mini", (1024, 1024), "auto", 1659),
        ("gpt-4.1-mini", (9999, 9999), "auto", 2489),
        ("claude-sonnet-4-5", (1000, 1000), "auto", 1334),
        ("any", (0, 0), "auto", 255),
    ],
)
def test_images(model: str, size: tuple[int, int], detail: str, tokens: int) -> None:
    assert images.tokens(model, size, detail) == tokens


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"GIF89a" + struct.pack("<HH", 3, 4), (3, 4)),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\xff\xc0\0\x11\x08" + struct.pack(">HH", 4, 3), (3, 4)),
        (b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x02\0\0\x03\0\0", (3, 4)),
        (b"RIFF\0\0\0\0WEBPVP8 " + b"\0" * 10 + struct.pack("<HH", 3, 4), (3, 4)),
        (b"<svg/>", images.UNKNOWN),
        (b"\x89PNG", images.UNKNOWN),
        (b"", images.UNKNOWN),
    ],
)
def test_image_sizes(data: bytes, size: tuple[int, int]) -> None:
    assert images.size_of_base64(base64.b64encode(data).decode()) == size


def test_an_image_in_a_message_is_estimated() -> None:
    part = {"type": "image_url", "image_url": {"url": png(512, 512), "detail": "high"}}
    text = {"type": "text", "text": "what?"}
    with_image = stage().count(asked({"messages": [{"role": "user", "content": [text, part]}]}, model="gpt-4o"))
    without = stage().count(asked({"messages": [{"role": "user", "content": [text]}]}, model="gpt-4o"))
    assert (with_image.tokens - without.tokens, with_image.exact, without.exact) == (255, False, True)


@pytest.mark.parametrize(
    ("endpoint", "body", "tokens"),
    [
        (Endpoint.COMPLETIONS, {"prompt": "hello world"}, 2),
        (Endpoint.COMPLETIONS, {"prompt": ["hello world", "hello"]}, 3),
        (Endpoint.EMBEDDINGS, {"input": [[1, 2, 3], [4]]}, 4),
        (Endpoint.RESPONSES, {"input": "hello world"}, 9),
        (Endpoint.RESPONSES, {"input": [{"type": "message", "role": "user", "content": "hello world"}]}, 9),
        (Endpoint.MESSAGES, {"system": "hello", "messages": [{"role": "user", "content": "hello world"}]}, 10),
    ],
)
def test_other_endpoints(endpoint: Endpoint, body: Any, tokens: int) -> None:
    assert stage().count(asked(body, endpoint, model="gpt-4o")).tokens == tokens


@pytest.mark.parametrize("document", [{}, {"models": {"other": {"tokenizer": "words"}}}])
def test_a_local_tokenizer_is_exact_for_texts(document: dict[str, Any]) -> None:
    model = "other" if document else "llama-3"
    count = stage(**document).count(asked({"prompt": "hello world hello"}, Endpoint.COMPLETIONS, model=model))
    assert (count.tokens, count.exact) == (4, True)
    # Its chat template is not part of it.
    chat = stage(**document).count(asked({"messages": []}, model=model))
    assert chat.exact is False


CHAT = {"messages": [{"role": "user", "content": "hello world"}]}  # 9 tokens


@pytest.mark.parametrize(
    ("model", "window", "more", "refused"),
    [
        ("gpt-4o", 9, {}, False),
        ("gpt-4o", 8, {}, True),
        ("gpt-4o", 18, {"max_tokens": 10}, True),
        ("gpt-4o", 19, {"max_completion_tokens": 10}, False),
        ("claude", 9, {}, False),
        ("claude", 8, {}, True),
        ("claude", 100, {"max_tokens": 100}, False),
        ("claude", 100, {"max_tokens": 102}, True),
    ],
)
def test_the_window_is_guarded(model: str, window: int, more: dict[str, Any], refused: bool) -> None:
    for count in (True, False):
        out = stage(models={"*": {"window": window}}, count=count, output=True).request(asked(CHAT | more, model=model))
        assert (out.refusal is not None) is refused
        if out.refusal:
            error = json.loads(out.refusal.body())["error"]
            assert (out.refusal.status, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
            assert f"{window} tokens" in error["message"]


def test_the_log_says_whether_a_count_is_exact() -> None:
    assert stage().request(asked(CHAT, model="gpt-4o")).metadata == {"prompt_tokens": 9, "prompt_tokens_exact": True}
    assert stage().request(asked(CHAT, model="x")).metadata["prompt_tokens_exact"] is False
    assert stage(guard=False).needs.request is Access.READ


def test_a_request_that_asks_for_a_count_passes() -> None:
    out = stage(models={"*": {"window": 1}}).request(asked(CHAT, Endpoint.COUNT_TOKENS, model="claude"))
    assert out == NOTHING


def test_windows_of_the_catalog() -> None:
    models = models_of(load_catalog(), "openai")
    assert models["gpt-4o"] == Model(window=128_000)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"models": {"a": {"window": 0}}}, "models.a: window is 0"),
        ({"margin": -1}, "margin is -1"),
    ],
)
def test_settings_that_cannot_be(document: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        stage(**document)


def test_tokenizers_that_are_none() -> None:
    with pytest.raises(ValueError, match=r"models\.a\.tokenizer: 'x' is no tokenizer: one of words, o200k_base"):
        Tokens(Settings(models={"a": Model(tokenizer="x")}), BOOK)
    with pytest.raises(ValueError, match=r"words is no tokenizer\.json: .* line 2 column 1"):
        tokenizers.Local("words", "{\n}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["text", "image_url", "file"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["role", "content", "type", "text", "image_url", "source", "function", "tool_calls", "name",
                         "input", "parameters", "properties", "enum", "items", "url", "data", "detail", "description"]),
        inner, max_size=4,
    ),
    max_leaves=15,
)  # fmt: skip


@given(
    st.sampled_from(list(Endpoint)),
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(["messages", "tools", "input", "prompt", "system", "instructions"], JSON)
    ),
)
def test_any_shape_is_counted(endpoint: Endpoint, body: dict[str, Any]) -> None:
    assert Counter(tokenizers.ESTIMATE, "m").prompt(endpoint, body).tokens >= 0


@pytest.mark.parametrize("text", ["a" * 2_000_000, "\x00" * 500_000, " \n" * 1_000_000, "日本" * 300_000])
def test_long_texts_take_linear_time(text: str) -> None:
    begun = time.process_time()
    assert 0 < tokenizers.ESTIMATE.count(text) <= len(text.encode())
    assert time.process_time() - begun < 20


@pytest.mark.parametrize("text", ["hello " * 40_000, "hello  world\n" * 20_000])
def test_a_long_text_is_counted_in_parts_all_the_same(text: str) -> None:
    local = tokenizers.Local("words", tokenizer_json())
    assert local.count(text) == len(local.encode(text)) == len(text.split())
    assert local.count(text, special=True) == len(local.encode(text, special=True))


@given(st.text(max_size=30), st.integers(1, 10))
def test_parts_are_the_text(text: str, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizers, "PART", most)
        parts = list(tokenizers._parts(text))
    assert "".join(parts) == text
    assert all(0 < len(part) <= most for part in parts)

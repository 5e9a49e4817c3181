"""What providers tell of their models, in the words of each API."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.metadata import facts, listings
from controlplane.metadata.facts import UNSUPPORTED
from controlplane.metadata.listings import APIS, Listing, changed, of_show, path, read
from extproc.stages.parameters import Kind, Parameter

VLLM = {"data": [{"id": "up", "object": "model", "max_model_len": 4096}, {"id": "other"}]}
OPENROUTER = {
    "data": [
        {
            "id": "acme/large",
            "context_length": 131072,
            "architecture": {"input_modalities": ["text", "image", "file", "smell"], "output_modalities": ["text"]},
            "pricing": {
                "prompt": "0.0000025",
                "completion": "0.00001",
                "request": "0",
                "input_cache_read": "0.00000125",
            },
            "top_provider": {"context_length": 131072, "max_completion_tokens": 16384, "is_moderated": True},
            "supported_parameters": [
                "max_tokens",
                "temperature",
                "top_k",
                "tools",
                "tool_choice",
                "structured_outputs",
            ],
            "default_parameters": {"temperature": 0.6, "top_p": None},
            "expiration_date": "2027-03-01",
        }
    ]
}
ANTHROPIC = {
    "data": [
        {
            "id": "claude-sonnet-4-5-20250929",
            "max_input_tokens": 200000,
            "max_tokens": 64000,
            "capabilities": {"image_input": {"supported": True}, "pdf_input": {"supported": False}},
        }
    ],
    "has_more": False,
}
GEMINI = {
    "models": [
        {
            "name": "models/gemini-2.5-flash",
            "inputTokenLimit": 1048576,
            "outputTokenLimit": 65536,
            "supportedGenerationMethods": ["generateContent", "countTokens"],
            "temperature": 1,
            "maxTemperature": 2,
            "topP": 0.95,
        },
        {"name": "models/embedder", "inputTokenLimit": 2048, "supportedGenerationMethods": ["embedContent"]},
    ]
}
COHERE = {"models": [{"name": "embed-v4", "endpoints": ["embed"], "context_length": 8192.0}]}
SHOWN = {
    "license": "long",
    "model_info": {"general.architecture": "llama", "llama.context_length": 131072},
    "capabilities": ["completion", "tools", "vision", "thinking"],
    "parameters": 'num_ctx                        4096\nstop                           "<|end|>"',
}
OLLAMA = {"models": [{"name": "llama3.2:latest", "show": of_show(SHOWN)}]}
ONNX = {
    "models": [
        {"model": "minilm", "state": "ready", "task": "embed", "max_tokens": 256, "dimensions": 384},
        {"model": "writer", "task": "generate", "max_tokens": 8192, "max_output_tokens": 4096, "chat": True},
        {"model": "later", "state": "available"},
    ]
}


def told(kind: str, document: Any, model: str) -> dict[str, Any]:
    return {fact.name: fact.value for fact in read(kind, "p", document, (model,)).models[model]}


def test_vllm_tells_its_window() -> None:
    assert told("openai", VLLM, "up") == {facts.CONTEXT: 4096}
    assert told("openai", VLLM, "other") == {}


def test_openrouter_tells_almost_everything() -> None:
    found = told("openrouter", OPENROUTER, "acme/large")
    assert found | {"parameters.seed": UNSUPPORTED} == found
    assert {name: value for name, value in found.items() if value != UNSUPPORTED} == {
        facts.CONTEXT: 131072,
        facts.OUTPUT: 16384,
        facts.INPUTS: ("text", "image", "pdf"),
        facts.OUTPUTS: ("text",),
        facts.CAPABILITIES: ("streaming", "tools", "vision", "json_schema", "caching"),
        facts.PRICE: {"input": "2.5", "cached_input": "1.25", "output": "10"},
        facts.DEPRECATION: "2027-03-01",
        "parameters.top_k": Parameter(Kind.MUTABLE),
        "defaults.temperature": 0.6,
    }
    assert read("openrouter", "p", OPENROUTER, ("acme/large:nitro",)).missing == ()


def test_groq_and_mistral_have_names_of_their_own() -> None:
    groq = {"data": [{"id": "m", "context_window": 131072, "max_completion_tokens": 8192}]}
    assert told("openai", groq, "m") == {facts.CONTEXT: 131072, facts.OUTPUT: 8192}
    able = {"completion_chat": True, "function_calling": True, "vision": False}
    mistral = {
        "data": [{"id": "m", "max_context_length": 32768, "capabilities": able, "deprecation": "2027-01-31T00:00:00Z"}]
    }
    found = {facts.CONTEXT: 32768, facts.CAPABILITIES: ("streaming", "tools"), facts.DEPRECATION: "2027-01-31"}
    assert told("openai", mistral, "m") == found


def test_anthropics_models_are_found_without_their_date() -> None:
    found = {facts.CONTEXT: 200000, facts.OUTPUT: 64000, facts.INPUTS: ("text", "image")}
    assert told("anthropic", ANTHROPIC, "claude-sonnet-4-5") == found


def test_gemini_tells_ranges() -> None:
    found = told("gemini", GEMINI, "gemini-2.5-flash")
    hot = Parameter(Kind.MUTABLE, least=0, most=2)
    usual = {"defaults.temperature": 1, "defaults.top_p": 0.95}
    assert found == {facts.CONTEXT: 1048576, facts.OUTPUT: 65536, "parameters.temperature": hot, **usual}
    assert told("gemini", GEMINI, "embedder")[facts.CAPABILITIES] == ("embeddings",)


def test_cohere_and_ollama_and_the_onnx_service() -> None:
    assert told("cohere", COHERE, "embed-v4") == {facts.CONTEXT: 8192, facts.CAPABILITIES: ("embeddings",)}
    assert told("ollama", OLLAMA, "llama3.2") == {
        facts.CONTEXT: 4096,
        facts.CAPABILITIES: ("streaming", "tools", "vision", "json_schema", "reasoning"),
        facts.INPUTS: ("text", "image"),
        facts.OUTPUTS: ("text",),
    }
    minilm = told("onnx", ONNX, "minilm")
    assert minilm[facts.CONTEXT] == 256
    assert minilm["parameters.dimensions"] == Parameter(Kind.MUTABLE, least=1, most=384)
    writer = told("onnx", ONNX, "writer")
    assert (writer[facts.OUTPUT], writer[facts.OUTPUTS], minilm[facts.OUTPUTS]) == (4096, ("text",), ())
    assert writer["parameters.tools"] == writer["parameters.*"] == minilm["parameters.*"] == facts.UNSUPPORTED
    assert writer["parameters.top_k"].kind is Kind.MUTABLE
    assert told("onnx", ONNX, "later") == {}
    assert read("onnx", "here", ONNX, ("minilm",)).models["minilm"][0].source.text == "service of here"


def test_what_a_provider_does_not_list_is_missing_unless_there_are_more_pages() -> None:
    assert read("openai", "p", VLLM, ("up", "gone")) == Listing(
        {"up": read("openai", "p", VLLM, ("up",)).models["up"]}, ("gone",), 2
    )
    assert read("anthropic", "p", {"data": [], "has_more": True}, ("m",)).missing == ()


@pytest.mark.parametrize("wrong", [None, [], {}, {"data": {}}, {"data": None}, "text", 7])
def test_what_is_no_listing_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="a list `data` is expected"):
        read("openai", "p", wrong, ("m",))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_MEMBERS = st.sampled_from(
    ("max_model_len", "context_length", "architecture", "input_modalities", "pricing", "prompt", "completion", "show",
     "supported_parameters", "default_parameters", "temperature", "capabilities", "expiration_date", "parameters",
     "maxTemperature", "supportedGenerationMethods", "endpoints", "task", "dimensions", "model_info", "top_provider")
)  # fmt: skip


@given(st.sampled_from(sorted(APIS)), st.dictionaries(_MEMBERS, _JSON | st.dictionaries(_MEMBERS, _JSON, max_size=4)))
def test_whatever_an_entry_says_facts_have_their_forms(kind: str, entry: dict[str, Any]) -> None:
    api = APIS[kind]
    for fact in read(kind, "p", {api.of: [{**entry, api.name: "m"}, entry, 7]}, ("m",)).models["m"]:
        if fact.name in facts.FORMS:
            assert type(fact.value) is facts.FORMS[fact.name]
        else:
            assert fact.name.startswith(("parameters.", "defaults."))


@given(_JSON)
def test_whatever_is_shown_of_a_model_is_cut_to_three_members(shown: Any) -> None:
    assert set(of_show(shown)) == {"context_length", "capabilities", "parameters"}


def test_each_api_is_asked_at_its_own_place() -> None:
    assert path("openai", "/api/v1") == "/api/v1/models"
    assert path("cohere", "/v2") == "/v1/models?page_size=1000"
    assert path("ollama", "/api") == "/api/tags"
    assert path("onnx", "/v1") == "/models"


def test_facts_that_stay_are_the_same_value() -> None:
    first = changed(read("openai", "p", VLLM, ("up", "other")).models, {})
    longer = {"data": [{"id": "up", "max_model_len": 8192}, {"id": "other"}]}
    second = changed(read("openai", "p", longer, ("up", "other")).models, first)
    assert second["other"] is first["other"]
    assert second["up"] is not first["up"]
    assert listings.entries_of("ollama", OLLAMA, ("llama3.2", "gone"))[0][0] == "llama3.2:latest"

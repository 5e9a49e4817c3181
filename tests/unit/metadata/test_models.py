"""What clients are told of a model: from the catalog, its targets, translation, the policy and its rules."""

from typing import Any

import orjson
import pytest

from controlplane.metadata import apis, facts
from controlplane.metadata.facts import Fact, Layer, Source, Told
from controlplane.metadata.listings import read
from controlplane.metadata.models import Listed
from controlplane.metadata.rows import rows, show
from controlplane.metadata.shapes import pricing
from controlplane.plan.ir import Plan
from extproc.translate import Options
from extproc.translate.settings import Translation
from tests.unit.plan.compiled import compiled

POLICY = """
providers:
  openai: {kind: openai}
  claude: {kind: anthropic}
  gemini: {kind: gemini}
  farm: {kind: openai, base_url: "http://10.0.0.7/v1"}
  fake: {kind: mock}
  here: {kind: onnx, models: {up: {path: m}}}
models:
"""


def planned(models: str, more: str = "") -> Plan:
    lines = "".join(f"  {line}\n" for line in models.strip().splitlines())
    return compiled(f"version: 1\n{POLICY}{lines}{more}").plan


def parameters(plan: Plan, model: str, listed: Listed | None = None) -> dict[str, Any]:
    found = show(plan, model, listed or {})
    assert found is not None
    told: dict[str, Any] = found["parameters"]
    return told


def client(plan: Plan, model: str, listed: Listed | None = None) -> dict[str, Any]:
    parts = dict(rows(plan, listed or {}))[model]
    found: dict[str, Any] = orjson.loads(f"{{{parts.text}}}")
    return found


def listing(provider: str, **values: Any) -> Listed:
    source = Source(Layer.PROVIDER, f"listing of {provider}")
    return {provider: {"up": Told(tuple(Fact(name, value, source) for name, value in values.items()))}}


def test_layers_come_in_their_order_each_value_with_its_source() -> None:
    plan = planned(
        "a: {provider: openai, model: gpt-4o}\n"
        "b: {provider: openai, model: up}\n"
        "c: {provider: openai, model: up, about: {context_window: 3k}}"
    )
    listed = listing("openai", context_window=2000, max_output=100)
    assert client(plan, "a", listed)["context_length"] == 128000
    assert client(plan, "b", listed)["context_length"] == 2000
    found = client(plan, "c", listed)
    assert (found["context_length"], found["max_completion_tokens"]) == (3000, 100)
    assert found["sources"] == {
        "context_length": "policy: models.c.about.context_window",
        "max_completion_tokens": "listing of openai",
    }
    assert found["parameters"]["max_tokens"] == {"kind": "mutable", "min": 1, "max": 100, "source": "listing of openai"}


def test_prices_of_the_policy_come_before_those_of_a_listing() -> None:
    listed = listing("farm", price={"input": "1", "output": "2"})
    told = client(planned("m: {provider: farm, model: up}"), "m", listed)
    assert told["pricing"] == {"prompt": "0.000001", "completion": "0.000002"}
    plan = planned("m: {provider: farm, model: up}", "prices: {up: {input: 3, output: 0.07}}\n")
    told = client(plan, "m", listed)
    assert told["pricing"] == {"prompt": "0.000003", "completion": "0.00000007"}
    assert told["sources"]["pricing"] == "policy: prices.up"


def test_prices_for_one_token_are_exact() -> None:
    found = pricing(
        {"input": "2.5", "output": "10000", "tiers": [{"above": 9, "input": "0.0000000000000000000000000001"}]}
    )
    assert found["prompt"] == "0.0000025"
    assert found["completion"] == "0.01"
    assert found["tiers"] == [{"above": 9, "prompt": f"0.{'0' * 33}1"}]


def test_several_targets_and_a_row_for_each() -> None:
    plan = planned("m: {try: [[{provider: openai, model: gpt-4o}, {provider: fake, model: x, weight: 3}], claude]}")
    found = show(plan, "m", {})
    assert found is not None
    targets = [(row["provider"], row["model"], row["group"], row["weight"]) for row in found["targets"]]
    assert targets == [("openai", "gpt-4o", 1, 1), ("fake", "x", 1, 3), ("claude", "m", 2, 1)]
    assert found["facts"]["inputs"]["value"] == ("text", "image")
    assert "price" not in found["facts"]  # those of a target are its own
    assert [each["provider_name"] for each in client(plan, "m")["endpoints"]] == ["openai", "fake", "claude"]


def test_a_name_that_a_pattern_takes_is_known_too() -> None:
    plan = planned('"gpt-*": openai\nbig: {provider: openai, model: gpt-4o}')
    assert [name for name, _ in rows(plan, {})] == ["big"]
    found = show(plan, "gpt-4o-mini", {})
    assert found is not None
    assert found["facts"]["context_window"]["value"] == 128000
    assert show(plan, "llama", {}) is None


def test_models_of_embeddings_have_their_own_parameters() -> None:
    plan = planned(
        "e: {provider: openai, model: text-embedding-3-small}\ng: {provider: gemini, model: gemini-embedding-001}"
    )
    told = parameters(plan, "e")
    assert "temperature" not in told
    assert told["dimensions"]["kind"] == "mutable"
    assert client(plan, "e")["architecture"]["output_modalities"] == ["embeddings"]
    listed = {
        "gemini": {
            "gemini-embedding-001": Told((Fact(facts.CAPABILITIES, ("embeddings",), Source(Layer.PROVIDER, "x")),))
        }
    }
    told = parameters(plan, "g", listed)
    assert told["encoding_format"]["kind"] == "mutable"
    assert (told["user"]["kind"], told["*"]["kind"]) == ("unsupported", "unsupported")


def test_models_of_neither_have_no_parameters_that_are_known() -> None:
    plan = planned("m: {provider: farm, about: {outputs: [image]}}\nw: {provider: farm, about: {inputs: [audio]}}")
    for model in ("m", "w"):
        assert list(parameters(plan, model)) == ["*"]


def test_of_a_local_model_nothing_is_taken_for_granted() -> None:
    plan = planned("m: {provider: here, model: up}\nboth: {try: [{provider: here, model: up}, farm]}")
    for listed in ({}, {"here": {"up": Told()}}):
        for model in ("m", "both"):
            told = client(plan, model, listed)
            assert list(told["parameters"]) == ["*"]
            assert told["supported_parameters"] == []
    writer = {"task": "generate", "max_tokens": 512, "max_output_tokens": 100}
    facts_of = read("onnx", "here", {"models": [{"model": "up", **writer}]}, ("up",)).models["up"]
    told = client(plan, "m", {"here": {"up": Told(facts_of)}})
    kinds = {name: one["kind"] for name, one in told["parameters"].items()}
    assert (kinds["temperature"], kinds["top_k"], kinds["tools"]) == ("mutable", "mutable", "unsupported")
    assert (kinds["*"], told["parameters"]["max_tokens"]["max"]) == ("unsupported", 100)


@pytest.mark.parametrize("kind", ["anthropic", "gemini", "cohere", "ollama", "bedrock"])
def test_translation_says_what_it_has_no_place_for(kind: Any) -> None:
    for unsupported in ("refuse", "drop"):
        told = apis.untranslated(Translation(kind, Options(unsupported=unsupported)), embeddings=False)
        lost = {fact.name.removeprefix("parameters.") for fact in told.facts}
        assert {"n", "logit_bias", "*"} <= lost
        assert not {"temperature", "max_tokens", "tools", "stream", "stop"} & lost


RULES = """
rules:
  - {name: calm, when: {model: m}, do: [{set: {temperature: 0}}, {remove: [seed]}, {default: {stop: ["."]}}]}
  - name: held
    when: {model: m}
    do: [{clamp: {top_p: {most: 0.5}}}, {max_tokens: {most: 10}}, {set: {user: "{key}"}}]
  - {name: deep, when: {model: m}, do: [{set: {"stream_options.include_usage": true}}]}
  - name: judged
    when: {model: m}
    do: [{parameters: {models: {"m*": {parameters: {n: {kind: unsupported}}, others: unsupported}}}}]
  - {name: streams, when: {model: m, stream: true}, do: [{set: {logprobs: true}}]}
  - {name: elsewhere, when: {path: /v1/embeddings}, do: [{set: {verbosity: low}}]}
"""


def test_rules_for_every_request_fix_hold_and_remove() -> None:
    told = parameters(
        planned("m: {provider: openai, model: gpt-4o}\nother: {provider: openai, model: gpt-4o}", RULES), "m"
    )
    assert told["temperature"] == {"kind": "read_only", "value": 0, "source": "policy: rule calm"}
    assert told["seed"] == {"kind": "unsupported", "source": "policy: rule calm"}
    assert told["stop"]["default"] == ["."]
    assert (told["top_p"]["min"], told["top_p"]["max"], told["top_p"]["source"]) == (0, 0.5, "policy: rule held")
    assert told["max_tokens"]["max"] == 10
    assert told["user"] == {"kind": "read_only", "source": "policy: rule held"}  # another value for each request
    assert (told["n"]["kind"], told["*"]["kind"]) == ("unsupported", "unsupported")
    for name in ("stream_options", "logprobs", "verbosity"):
        assert told[name]["kind"] == "mutable"
        assert told[name]["source"] == "OpenAI's API"


def test_rules_for_others_leave_a_model_as_it_is() -> None:
    plan = planned("m: {provider: openai, model: gpt-4o}\nother: {provider: openai, model: gpt-4o}", RULES)
    assert parameters(plan, "other")["temperature"]["max"] == 2


def test_a_bound_does_not_make_a_parameter_supported() -> None:
    plan = planned("m: {provider: openai, model: o3}", "rules: [{do: [{clamp: {logprobs: {most: 1}}}]}]\n")
    assert parameters(plan, "m")["logprobs"]["kind"] == "unsupported"


def test_an_alias_has_what_its_model_is_said_to_have() -> None:
    plan = planned("m: {provider: farm, about: {context_window: 5k}}\nalias: m")
    assert client(plan, "alias")["sources"] == {"context_length": "policy: models.m.about.context_window"}


def test_models_that_are_alike_share_their_texts() -> None:
    told = dict(rows(planned("a: farm\nb: farm\nc: fake"), {}))
    assert told["a"] is told["b"]
    assert all(one is other for one, other in zip(told["a"].parameters, told["c"].parameters, strict=True))

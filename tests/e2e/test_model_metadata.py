"""What clients are told of models, and what providers tell of them while the gateway runs."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.support.gateway import Gateway, eventually
from tests.support.wired import Answer, Asked, WiredProvider

CANARY = "sk-canary-of-the-provider"
HUGE = b'{"data": [' + b" " * (9 << 20) + b"]}"


class Farm:
    """A vLLM and an Ollama, which tell what `models` says; `instead`: another answer of the first."""

    def __init__(self) -> None:
        self.models: list[dict[str, Any]] = []
        self.instead: Answer | None = None

    def answer(self, asked: Asked) -> Answer:
        if asked.path == "/v1/models":
            return self.instead or _json({"object": "list", "data": self.models})
        if asked.path == "/api/tags":
            return _json({"models": [{"name": "tiny:latest"}, {"name": "other:latest"}]})
        if asked.path == "/api/show":
            window = {"tiny:latest": 2048}[asked.json()["model"]]
            return _json({"model_info": {"llama.context_length": window}, "capabilities": ["completion", "tools"]})
        return Answer(404, b"{}")


def _json(value: Any) -> Answer:
    return Answer(200, json.dumps(value).encode())


@pytest.fixture(scope="module")
def farm() -> Farm:
    return Farm()


@pytest.fixture(scope="module")
def provider(farm: Farm) -> Iterator[WiredProvider]:
    with WiredProvider(farm.answer) as provider:
        yield provider


@pytest.fixture(scope="module")
def gateway(farm: Farm, provider: WiredProvider) -> Iterator[Gateway]:
    farm.models = [{"id": "up", "max_model_len": 4096}]
    policy = f"""
providers:
  farm: {{kind: openai, base_url: "{provider.url}/v1", api_key: {{env: FARM_KEY}}, headers: {{x-org: acme}}}}
  home: {{kind: ollama, base_url: "{provider.url}/api"}}
  fake: {{kind: mock}}
models:
  org/large: {{provider: farm, model: up, about: {{max_output: 1k}}}}
  second: farm
  tiny: home
  "wild-*": fake
  plain: fake
keys:
  all: {{secret: {{env: ALL}}}}
  some: {{secret: {{env: SOME}}, models: ["org/*"]}}
"""
    env = {"FARM_KEY": CANARY, "ALL": "sk-all", "SOME": "sk-some"}
    with Gateway(policy, settings="listing: 1s", env=env, key="sk-all") as gateway:
        yield gateway


def told(gateway: Gateway, model: str) -> dict[str, Any]:
    with gateway.client() as client:
        return client.models.retrieve(model).to_dict()


def window(gateway: Gateway, model: str) -> Any:
    return told(gateway, model).get("context_length")


def problem(gateway: Gateway) -> Any:
    return next(each["problem"] for each in gateway.status()["listings"] if each["provider"] == "farm")


def test_a_model_is_told_with_all_that_is_known_of_it(gateway: Gateway, farm: Farm) -> None:
    farm.models = [{"id": "up", "max_model_len": 4096}]
    eventually(lambda: window(gateway, "org/large") == 4096, "the listing is told")
    found = told(gateway, "org/large")
    assert {name: found[name] for name in ("id", "object", "created", "owned_by")} == {
        "id": "org/large", "object": "model", "created": 0, "owned_by": "farm",
    }  # fmt: skip
    sources = {
        "context_length": "listing of farm",
        "max_completion_tokens": "policy: models.org/large.about.max_output",
    }
    assert (found["max_completion_tokens"], found["sources"]) == (1000, sources)
    assert found["parameters"]["temperature"]["max"] == 2
    assert "temperature" in found["supported_parameters"]
    eventually(lambda: window(gateway, "tiny") == 2048, "Ollama is asked about its model")
    assert told(gateway, "tiny")["parameters"]["n"]["kind"] == "unsupported"
    with gateway.client() as client:
        listed = client.models.list().data
    assert [set(each.to_dict()) for each in listed] == [{"id", "object", "created", "owned_by"}] * 4


def test_a_key_is_told_of_the_models_that_it_may_use(gateway: Gateway) -> None:
    with gateway.client("sk-some") as client:
        assert client.models.retrieve("org/large").id == "org/large"
        for model in ("second", "plain", "wild-1", "absent"):
            with pytest.raises(openai.NotFoundError):
                client.models.retrieve(model)
    with gateway.client() as client:
        found = client.models.retrieve("wild-1")
    assert (found.id, found.owned_by) == ("wild-1", "fake")


def test_providers_are_asked_as_for_clients_requests(gateway: Gateway, provider: WiredProvider) -> None:
    asked = eventually(lambda: [each for each in provider.asked if each.path == "/v1/models"], "the provider is asked")
    headers = asked[-1].headers
    assert (headers["authorization"], headers["x-org"]) == (f"Bearer {CANARY}", "acme")
    assert not any(name.startswith(("x-headgate", "x-envoy")) for name in headers)


def test_what_a_listing_says_is_told_without_a_revision(gateway: Gateway, farm: Farm) -> None:
    farm.models = [{"id": "up", "max_model_len": 4096}]
    revision = gateway.revision()
    eventually(lambda: "second" in str(gateway.status()["warnings"]), "it warns of a model that is not listed")
    farm.models = [{"id": "up", "max_model_len": 8192}, {"id": "second", "max_model_len": 16384}]
    eventually(lambda: window(gateway, "second") == 16384, "the new listing is told")
    assert window(gateway, "org/large") == 8192
    eventually(lambda: not gateway.status()["warnings"], "the warning goes")
    assert gateway.revision() == revision


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer(200, b"<html>"), "not JSON"),
        (Answer(200, b'{"data": 7}'), "no listing"),
        (Answer(200, HUGE), "larger than"),
        (Answer(500, b"{}"), "answered 500"),
        (Answer(200, b"\x1f\x8b", headers={"content-encoding": "gzip"}), "compressed"),
    ],
    ids=["text", "another shape", "huge", "an error", "compressed"],
)
def test_an_answer_that_is_no_listing_leaves_the_last_one(
    gateway: Gateway, farm: Farm, answer: Answer, why: str
) -> None:
    farm.models = [{"id": "up", "max_model_len": 8192}, {"id": "second"}]
    eventually(lambda: window(gateway, "org/large") == 8192, "the listing is told")
    farm.instead = answer
    try:
        eventually(lambda: why in str(problem(gateway)), f"the problem is told: {why}")
        assert window(gateway, "org/large") == 8192
    finally:
        farm.instead = None
    eventually(lambda: problem(gateway) is None, "the next listing is told")


def test_ctl_shows_every_value_with_its_source(gateway: Gateway) -> None:
    farm.models = [{"id": "up", "max_model_len": 8192}]
    eventually(lambda: window(gateway, "org/large") == 8192, "the listing is told")
    run = gateway.ctl("models", "show", "org/large")
    for words in ("8,192", "listing of farm", "policy: models.org/large.about.max_output", "farm/up", "OpenAI's API"):
        assert words in run.stdout
    found = gateway.admin.get("/models/wild-7").json()
    assert found["facts"]["inputs"] == {"value": ["text", "image", "audio"], "source": "mock"}
    assert gateway.admin.get("/models/absent").status_code == 404


def test_the_last_listing_outlives_a_restart_while_the_provider_is_away(gateway: Gateway, farm: Farm) -> None:
    farm.models = [{"id": "up", "max_model_len": 8192}]
    eventually(lambda: window(gateway, "org/large") == 8192, "the listing is told")
    farm.instead = Answer(503, b"{}")
    try:
        gateway.stop()
        gateway.start()
        eventually(lambda: window(gateway, "org/large") == 8192, "what was kept is told")
        eventually(lambda: problem(gateway), "the provider is away")
    finally:
        farm.instead = None


def test_the_credential_is_nowhere(gateway: Gateway) -> None:
    eventually(lambda: window(gateway, "org/large"), "the listing is told")
    shown = [gateway.admin.get(path).text for path in ("/status", "/models", "/models/org/large", "/snapshot")]
    kept, logs = gateway.files("state/listings/*"), gateway.files("run/headgate-*/*/*.log")
    assert kept
    shown += [content.decode(errors="replace") for content in (kept | logs).values()]
    for text in (*shown, gateway.output(), json.dumps(told(gateway, "org/large"))):
        assert CANARY not in text

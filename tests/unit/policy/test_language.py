"""The policy language's contract: its example is accepted by the check and by the JSON Schema alike."""

from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from controlplane.policy.check import check
from controlplane.policy.language import Target
from controlplane.policy.load import load
from controlplane.policy.schema import json_schema

CONTRACT = """\
version: 1
gateway:
  listen: 127.0.0.1:8080
  admin: 127.0.0.1:9800
  max_body: 32MiB
providers:
  openai:   {kind: openai, api_key: {env: OPENAI_API_KEY}}
  claude:   {kind: openai, api_key: {file: secrets/anthropic}}
  farm:
    kind: openai
    base_url: http://10.0.0.7:8000/v1
    endpoints: [10.0.0.7:8000, 10.0.0.8:8000]
    health: {path: /health, interval: 5s}
    balance: least_request
  fake:     {kind: mock}
models:
  gpt-4o-mini: openai
  sonnet: {provider: claude, model: claude-sonnet-4-5}
  "llama-*": farm
  smart:
    try:
      - [{provider: openai, model: gpt-4o, weight: 9}, {provider: farm, model: gpt-oss, weight: 1}]
      - {provider: claude, model: claude-sonnet-4-5}
    on: [429, 5xx, timeout, connect]
keys:
  alice: {secret: {env: ALICE_KEY}, models: [smart, "gpt-*"], limits: [standard], expires: 2027-01-01}
limits:
  standard: {requests: 600/m}
"""


def test_the_contract_is_accepted() -> None:
    found = check(CONTRACT, "policy.yaml")
    assert found.diagnostics == ()
    assert found.policy is not None
    assert found.policy.models["smart"].groups == (
        (Target("openai", "gpt-4o", 9), Target("farm", "gpt-oss", 1)),
        (Target("claude", "claude-sonnet-4-5"),),
    )
    assert list(Draft202012Validator(json_schema()).iter_errors(load(CONTRACT, "policy.yaml").data)) == []


@pytest.mark.parametrize(
    "text",
    [
        CONTRACT.replace("version: 1", "version: 2"),
        CONTRACT.replace("listen: 127", "lisen: 127"),
        CONTRACT.replace("32MiB", "32 MiB"),
        CONTRACT.replace("32MiB", "null"),
        CONTRACT.replace("{kind: mock}", "{kind: mock, api_key: {env: A}}"),
        CONTRACT.replace("kind: mock", "kind: vllm"),
        CONTRACT.replace("{env: OPENAI_API_KEY}", "sk-literal"),
        CONTRACT.replace("{env: OPENAI_API_KEY}", "{env: sk-literal}"),
        CONTRACT.replace("interval: 5s", "interval: 5"),
        CONTRACT.replace("least_request", "fastest"),
        CONTRACT.replace("weight: 9", "weight: 0"),
        CONTRACT.replace("[429, 5xx", "[200, 5xx"),
        CONTRACT.replace("600/m", "600/minute"),
        CONTRACT.replace("2027-01-01", "tomorrow"),
        CONTRACT.replace("{secret: {env: ALICE_KEY}, ", "{"),
    ],
)
def test_what_the_check_refuses_editors_mark_too(text: str) -> None:
    assert text != CONTRACT
    assert check(text, "policy.yaml").policy is None
    assert list(Draft202012Validator(json_schema()).iter_errors(load(text, "policy.yaml").data)) != []


def _fields(schema: Any) -> Iterator[dict[str, Any]]:
    """Every mapping of a schema."""
    if isinstance(schema, dict):
        yield schema
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _fields(part)


def test_every_default_is_what_a_policy_could_say() -> None:
    schema = json_schema()
    told = [of for of in _fields(schema) if "default" in of and not isinstance(of["default"], dict)]
    wrong = [of for of in told if not Draft202012Validator({**of, "$defs": schema["$defs"]}).is_valid(of["default"])]
    assert (len(told) > 100, wrong) == (True, [])

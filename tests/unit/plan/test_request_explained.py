"""What `ctl explain --request` says of translation: which targets need it, and what it would do to the request."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from controlplane.cli.main import app
from controlplane.plan import request_explained
from controlplane.plan.request_explained import Translated
from tests.unit.plan.compiled import compiled

TEXT = """\
version: 1
providers:
  claude: {kind: anthropic}
  gpt: {kind: openai}
  gem: {kind: gemini, unsupported: drop}
models:
  all: {try: [{provider: claude, model: sonnet}, [{provider: gpt, model: g}, {provider: gem, model: gemini-3-pro}]]}
  four: gpt
"""
PLAN = compiled(TEXT).plan
HI: dict[str, Any] = {"model": "all", "messages": [{"role": "user", "content": "hi"}]}


def explained(path: str = "/v1/chat/completions", model: str = "all", **more: Any) -> tuple[Translated, ...]:
    return request_explained.request(
        PLAN, model, None, path, json.dumps(HI | {"model": model} | more).encode()
    ).translations


def test_targets_of_another_api_are_translated_the_others_are_not_named() -> None:
    assert explained() == (
        Translated("claude", "sonnet", "anthropic", "/v1/messages", (), (), None),
        Translated("gem", "gemini-3-pro", "gemini", "/v1beta/models/gemini-3-pro:generateContent", (), (), None),
    )
    assert explained(model="four") == ()
    assert [each.provider for each in explained("/v1/messages", max_tokens=9)] == ["gpt", "gem"]
    assert explained("/v1/responses") == ()


def test_losses_and_refusals_are_told_as_the_provider_is_configured() -> None:
    claude, gem = explained(seed=1, logit_bias={"1": 1}, reasoning_effort="max")
    assert claude.path is None
    assert claude.refused is not None
    assert claude.refused.startswith("'seed', 'logit_bias' are not supported")
    assert (gem.refused, gem.dropped) == (None, ("logit_bias",))
    assert gem.warnings == ("reasoning_effort became the level high, the highest",)


@pytest.mark.parametrize(
    ("path", "model", "status", "code"),
    [
        ("/v1/embeddings", "all", 200, None),
        ("/v1/messages/count_tokens", "four", 400, "unsupported_endpoint"),
        ("/v1/messages", "four", 200, None),
    ],
)
def test_the_endpoint_decides_who_serves(path: str, model: str, status: int, code: str | None) -> None:
    found = request_explained.request(PLAN, model, None, path)
    assert (found.status, found.code) == (status, code)
    assert bool(found.groups) is (status == 200)


def test_embeddings_pass_over_who_has_none() -> None:
    found = request_explained.request(PLAN, "all", None, "/v1/embeddings")
    assert [target[0] for group in found.groups for target in group] == ["gpt", "gem"]


def test_without_a_provider_of_another_api_messages_are_not_spoken() -> None:
    plan = compiled("version: 1\nproviders: {gpt: {kind: openai}}\nmodels: {m: gpt}\n").plan
    found = request_explained.request(plan, "m", None, "/v1/messages")
    assert (found.status, found.code) == (404, "unknown_url")


def test_ctl_prints_it(tmp_path: Path) -> None:
    policy, request = tmp_path / "policy.yaml", tmp_path / "request.json"
    policy.write_text(TEXT)
    request.write_text(json.dumps(HI | {"seed": 1, "user": "u"}))
    done = CliRunner().invoke(app, ["explain", str(policy), "--request", str(request)])
    assert done.exit_code == 0
    assert "translated for claude/sonnet (anthropic): 400 'seed' is not supported" in done.output
    assert "translated for gem/gemini-3-pro (gemini): POST /v1beta/models/gemini-3-pro:generateContent" in done.output
    assert "left out: user" in done.output
    wrong = CliRunner().invoke(app, ["explain", str(policy), "--request", str(request), "--path", "/v1/nothing"])
    assert wrong.exit_code == 1

"""What `ctl` knows of a policy alone: what it means takes no secrets."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from controlplane.cli import local
from controlplane.cli.main import app
from controlplane.policy.diagnostics import PolicyError

POLICY = """\
version: 1
providers: {p: {kind: openai, api_key: {env: NOBODY_SETS_THIS}}}
models: {gpt-4o: p}
keys: {alice: {secret: {file: absent}, models: [gpt-4o]}}
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return path


def test_what_a_policy_means_takes_no_secrets(policy: Path) -> None:
    for words in (["explain", str(policy)], ["models", "list", str(policy)], ["prices", "show", "gpt-4o", str(policy)]):
        done = CliRunner().invoke(app, words)
        assert (done.exit_code, "gpt-4o" in done.output or "input" in done.output) == (0, True), done.output
    request = policy.with_name("request.json")
    request.write_text(json.dumps({"model": "gpt-4o"}))
    assert local.answer(policy, request, "alice", "/v1/chat/completions")["status"] == 200


def test_its_secrets_are_looked_at_where_they_matter(policy: Path) -> None:
    found = local.validate(policy)
    assert [each["code"] for each in found.view["diagnostics"]] == ["absent-secret", "absent-secret"]


def test_an_error_is_shown_with_its_line(policy: Path) -> None:
    policy.write_text(POLICY.replace("gpt-4o: p", "gpt-4o: q"))
    with pytest.raises(PolicyError) as caught:
        local.planned(policy)
    assert local.text_at(caught.value) == policy.read_text()


def test_a_model_is_shown_as_far_as_the_policy_and_the_catalog_know_it(policy: Path) -> None:
    done = CliRunner().invoke(app, ["models", "show", "gpt-4o", str(policy), "--format", "json"])
    found = json.loads(done.output)["facts"]["context_window"]
    assert (done.exit_code, found["value"], found["source"].partition(": ")[2]) == (0, 128000, "openai/gpt-4o")
    shown = CliRunner().invoke(app, ["models", "show", "gpt-4o", str(policy)]).output
    assert all(words in shown for words in ("128,000", "p/gpt-4o", "0 to 2, 1 by default", "opaque"))
    with pytest.raises(local.UseError, match="the nearest name is gpt-4o"):
        local.model(policy, "gpt-4")

"""One file per case: a policy, a line, and what the compiler makes of it: xDS resources, or diagnostics.

The first line of a case may name what it shows: `# shows: routes, cluster` (all kinds of resources otherwise), or
`# shows: accounting`, `# shows: limiting`, `# shows: inline`, `# shows: mocks` and `# shows: local models`, the
documents that the services get, and `# shows: models`, what clients are told of models. Parts that are the same in
every policy are folded unless it says `# shows whole: routes`. To accept what the compiler now says, run
`HEADGATE_GOLDEN=write pytest tests/golden` and read the difference.
"""

import json
import os
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.compiling import Compiler
from controlplane.metadata.rows import rows
from controlplane.plan.ir import Plan
from controlplane.policy.diagnostics import PolicyError
from controlplane.policy.load import LoadCache
from controlplane.policy.mock import MockProvider
from controlplane.policy.onnx import OnnxProvider
from controlplane.policy.render import render
from controlplane.policy.secrets import SecretRef
from controlplane.xds import limiting, local_models, mock_settings
from controlplane.xds.accounting import lower
from controlplane.xds.redact import dump
from controlplane.xds.scripts import script
from controlplane.xds.surroundings import Surroundings
from extproc.limits.settings import dump as dump_settings
from extproc.usage.accounting import dump as dump_accounting
from tests.support.words import tokenizer_json

CASES = sorted(Path(__file__).with_name("cases").glob("*.txt"))
LINE = "=" * 40 + "\n"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
AROUND = Surroundings("/etc/ssl/certs/ca-certificates.crt", "/run/{}.sock")


def read(ref: SecretRef) -> str:
    if ref.name.startswith("ABSENT"):
        raise LookupError(f"the environment variable {ref.name} is not set")
    if ref.name == "prices.json":
        sold = {"family": "acme", "name": "large", "price": {"input": "1.5", "output": "6"}}
        return json.dumps({"version": 1, "families": {"acme": {"title": "Acme"}}, "models": [sold]})
    if ref.name == "words.json":
        return tokenizer_json()
    if ref.name.startswith("broken"):
        return '{\n  "model":\n}'
    if ref.name == "GUARD_URL":
        return "https://guard.example.com/value-of-GUARD_URL"
    if ref.name.startswith("WHSEC"):
        return f"whsec_{b64encode(b'value-of-' + ref.name.encode().ljust(24)).decode()}"
    return f"{'redis://' if ref.name.startswith('REDIS') else ''}value-of-{ref.name}"


def fixtures(path: str) -> tuple[str, ...]:
    """Two mistakes, where the name says so."""
    return (f"{path}:3: no such field", f"{path}:7: expected text") if path.startswith("wrong") else ()


def files(path: str) -> frozenset[str] | None:
    """A model's folder has what it needs, unless its name says otherwise."""
    if path.removeprefix("./").startswith(("absent", "Qwen")):
        return None
    if path.endswith("genai"):
        return frozenset({"genai_config.json", "tokenizer.json", "int4.onnx", "draft.onnx"})
    lacking = path.partition("without-")[2].split(",")
    several = {"one.onnx", "two.onnx"} if "several" in path else {"model.onnx", "int8.onnx"}
    return frozenset({"config.json", "tokenizer.json", *several} - set(lacking))


def probe(python: str) -> str | None:
    """What is wrong with an interpreter, by the beginning of its name."""
    return {"absent": "cannot be used: No such file or directory", "empty": "has no package vllm"}.get(
        python.partition("/")[0]
    )


COMPILER = Compiler("policy.yaml", read, AROUND, LoadCache(), files=files, fixtures=fixtures, probe=probe)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_compiles_to(case: Path) -> None:
    policy, _, expected = case.read_text().partition(LINE)
    found = compiled(policy)
    assert "value-of-" not in found, "a secret is shown"
    if os.environ.get("HEADGATE_GOLDEN") == "write":
        case.write_text(policy + LINE + found)
        return
    assert found == expected


def test_is_deterministic_byte_for_byte() -> None:
    policy = CASES[0].read_text().partition(LINE)[0]
    first, second = (replace(COMPILER, cache=LoadCache()).compile(policy, NOW) for _ in range(2))
    bodies = [{n: r.body for of in c.snapshot.resources.values() for n, r in of.items()} for c in (first, second)]
    assert bodies[0] == bodies[1]


def _told(told: OnnxProvider | MockProvider) -> dict[str, Any] | None:
    """The settings of a service; None where it has none."""
    if isinstance(told, OnnxProvider):
        return local_models.lower(told, Path("/etc"), max_body=1 << 25, drain_ms=30_000)
    return None if told.plain else mock_settings.lower(told, Path("/etc"))


def compiled(policy: str) -> str:
    try:
        result = replace(COMPILER, cache=LoadCache()).compile(policy, NOW)
    except PolicyError as error:
        return "".join(render(d, policy) + "\n" for d in error.diagnostics)
    shown = dump(result.snapshot)
    how, _, kinds = policy.partition("\n")[0].partition(": ")
    if how == "# shows" and (document := _document(kinds, result.plan)) is not None:
        return yaml.safe_dump(document, width=110, sort_keys=True)
    if how.startswith("# shows"):
        shown = {kind: shown[kind] for kind in kinds.split(", ")}
    configs = {kind: {name: entry["config"] for name, entry in of.items()} for kind, of in shown.items() if of}
    readable = _without_scripts(configs)
    # The maps of protobuf messages have no order of their own.
    return yaml.safe_dump(readable if how == "# shows whole" else _folded(readable), width=110, sort_keys=True)


def _document(kind: str, plan: Plan) -> Any:
    """A document that is made of a plan beside the resources; None: this is none of them."""
    if kind == "accounting":
        return json.loads(dump_accounting(lower(plan)))
    if kind == "limiting":
        settings = limiting.lower(plan)
        assert settings is not None
        return json.loads(dump_settings(settings))
    if kind in ("local models", "mocks"):
        told = {of.name: _told(of.told) for of in plan.services}
        return {name: of for name, of in told.items() if of}
    if kind == "models":
        return {model: json.loads(f"{{{parts.text}}}") for model, parts in rows(plan, {})}
    if kind == "inline":
        assert plan.inline is not None
        return json.loads(plan.inline.document)
    return None


def _folded(value: Any) -> Any:
    """Without what every policy has alike: the table of paths, and Envoy's own error answers."""
    if isinstance(value, list):
        return [_folded(of) for of in value]
    if not isinstance(value, dict):
        return value
    if _is_table_of_paths(value.get("matcher_tree", {})):
        return "<paths>"
    return {key: "<errors>" if key == "local_reply_config" else _folded(of) for key, of in value.items()}


def _is_table_of_paths(tree: Any) -> bool:
    """The look at one path alone, which comes before the models, is none."""
    paths = {**tree.get("exact_match_map", {}).get("map", {}), **tree.get("prefix_match_map", {}).get("map", {})}
    by_path = tree.get("input", {}).get("name") == ":path"
    return by_path and not all(path.startswith("/v1/tokenize") for path in paths)


def _without_scripts(value: Any) -> Any:
    """A script's text would change every case with it."""
    if isinstance(value, dict):
        return {key: _without_scripts(of) for key, of in value.items()}
    if isinstance(value, list):
        return [_without_scripts(of) for of in value]
    for name in ("models", "facts", "spent", "identity"):
        if isinstance(value, str):
            value = value.replace(script(name), f"<{name}.lua>")
    return value

"""The documents say what is: generated pages are in step, every snippet holds, every link leads somewhere."""

import json
import re
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from controlplane.cli.reference import commands, documents
from controlplane.compiling import Compiler
from controlplane.policy.load import LoadCache, load
from controlplane.policy.schema import json_schema
from controlplane.policy.secrets import SecretRef
from controlplane.xds.surroundings import Surroundings
from tests.support.words import tokenizer_json

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
EXAMPLES = sorted(ROOT.glob("examples/*.yaml"))
AROUND = Surroundings("/ca.pem", "/{}.sock")
WEBHOOK_SECRET = "whsec_" + b64encode(bytes(32)).decode()
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SCHEMA = Draft202012Validator(json_schema())
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")
COMMAND = re.compile(
    r"(?<![\w/.-])(?:\.venv/bin/)?ctl ((?:keys |audit |prices |cache |models )?[a-z]+)((?: --[a-z-]+)*)"
)


def snippets(language: str) -> list[Any]:
    return list(_snippets(language))


def _snippets(language: str) -> Iterator[Any]:
    for page in PAGES:
        for number, (found, text) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
            if found == language:
                yield pytest.param(text, id=f"{page.stem}-{number}")


def compiled(text: str) -> None:
    def read(ref: SecretRef) -> str:
        if ref.name == "prices.json":
            return json.dumps({"version": 1, "families": {}, "models": []})
        if ref.name == "words.json":
            return tokenizer_json()
        of_webhooks = WEBHOOK_SECRET if "WEBHOOK" in ref.name else "https://h/" if "-url" in ref.name else None
        stores = {"REDIS_URL": "redis://h", "LEDGER_URL": "postgresql://h/d"}
        return of_webhooks or stores.get(ref.name) or f"value-of-{ref.name}"

    folder = frozenset({"config.json", "tokenizer.json", "model.onnx"})
    Compiler(
        "policy.yaml", read, AROUND, LoadCache(), files=lambda path: None if path.startswith("Qwen/") else folder
    ).compile(text, NOW)


@pytest.mark.parametrize("path", list(documents()))
def test_generated_files_are_in_step(path: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == documents()[path], "run `python -m controlplane.cli.reference`"


@pytest.mark.parametrize("text", snippets("yaml"))
def test_policies_in_the_documents_compile_and_fit_the_schema(text: str) -> None:
    compiled(text)
    SCHEMA.validate(plain(text))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_compile_and_fit_the_schema(example: Path) -> None:
    text = example.read_text(encoding="utf-8")
    compiled(text)
    SCHEMA.validate(plain(text))


def test_the_schema_is_one_and_refuses_what_the_language_refuses() -> None:
    Draft202012Validator.check_schema(json_schema())
    good = {"version": 1, "providers": {"p": {"kind": "mock"}}, "models": {"m": "p"}}
    SCHEMA.validate(good)
    for wrong in (
        {"version": 2}, {"extra": 1}, {"providers": {}}, {"providers": {"-p": {"kind": "mock"}}},
        {"providers": {"p": {"kind": "openai", "api_key": "sk-literal"}}}, {"models": {"m": None}},
        {"providers": {"p": {"kind": "openai", "api_key": None}}}, {"limits": {"l": {"requests": "600"}}},
        {"models": {"m": {"provider": "p", "try": ["p"]}}}, {"gateway": {"max_body": "32MB"}},
    ):  # fmt: skip
        assert not SCHEMA.is_valid(good | wrong), wrong


@pytest.mark.parametrize("text", snippets("python"))
def test_python_in_the_documents_is_python(text: str) -> None:
    compile(text, "snippet", "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_in_the_documents_exist(page: Path) -> None:
    known = {name for name, _ in commands()}
    reference = documents()["docs/reference/cli.md"]
    for command, options in COMMAND.findall(page.read_text(encoding="utf-8")):
        assert command in known
        for option in options.split():
            assert f"`{option}`" in reference.partition(f"## ctl {command}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_every_command_and_field_has_words() -> None:
    for path, text in documents().items():
        if path.endswith(".md"):
            rows = [line for line in text.splitlines() if line.startswith("| `")]
            assert all(row.rsplit("|", 2)[1].strip() for row in rows), path


def plain(text: str) -> Any:
    return load(text, "policy.yaml").data

"""The human view of a diagnostic: the caret under what is wrong, and never a secret above it."""

import pytest

from controlplane.policy.check import check
from controlplane.policy.place import path_of, path_text
from controlplane.policy.render import render

PATHS: list[tuple[str | int, ...]] = [
    (), ("gateway",), ("keys", "alice", "limits", 0), ("models", "gpt-4.1*"), ("models", "a/b:c", "try", 1, 0),
    ("keys", ""),
]  # fmt: skip
HEAD = "version: 1\nproviders: {p: {kind: openai}}\nmodels: {m: p}\n"
SECRET = "hunter2-very-private"


def rendered(text: str) -> str:
    return "\n".join(render(each, text) for each in check(text, "policy.yaml").diagnostics)


@pytest.mark.parametrize("path", PATHS)
def test_a_path_can_be_read_again(path: tuple[str | int, ...]) -> None:
    assert path_of(path_text(path)) == path


@pytest.mark.parametrize(
    "text",
    [
        "keys: {k: %s}\n",
        "keys: [%s]\n",
        "keys:\n  - %s\n",
        "keys:\n  k: '%s'\n",
        "keys:\n  k: {secret: '%s, {x', models: [n]}\n",
        'keys:\n  k: {"secret": "%s"}\n',
        "keys:\n  k: {secrte: %s}\n",
        "keys:\n  k: {secret: {value: %s}}\n",
        "keys:\n  k: {secret: {env: %s}}\n",
        "keys:\n  k:\n    secret:\n      %s\n    limts: [l]\n",
        "keys:\n  k:\n    secret: |\n      %s\n",
        "keys:\n  k:\n    secret:\n      - %s\n",
        "keys:\n  k:\n    secret:\n      value: %s\n",
        'keys:\n  k:\n    secret: "%s\n',
        'keys:\n  k:\n    secret: "begin\n      %s: x\n    a: [\n',
        "gateway: {admin: {token: %s, lisen: 1}}\n",
        "gateway: {max_body: 1x, admin: {token: %s}}\n",
    ],
)
def test_a_secret_is_not_shown(text: str) -> None:
    shown = rendered(HEAD + text % SECRET)
    assert "error" in shown
    assert SECRET[:6] not in shown


@pytest.mark.parametrize("field", ["apikey", "api-key", "API_KEY", "secrets", "client_secret", "tokn", "password"])
def test_a_misspelt_field_is_known_to_hold_a_secret(field: str) -> None:
    shown = rendered(f"version: 1\nproviders:\n  p: {{kind: openai, {field}: {SECRET}}}\nmodels: {{m: p}}\n")
    assert "unknown-field" in shown
    assert SECRET[:6] not in shown


def test_what_looks_like_a_providers_key_is_not_shown_anywhere() -> None:
    shown = rendered(HEAD + "gateway: {max_body: sk-proj-0123456789}\n")
    assert "invalid-value" in shown
    assert "proj" not in shown


@pytest.mark.parametrize(
    ("line", "caret"),
    [
        ("  k: {secret: {env: K}, limts: [l]}", "limts"),
        ("  k: {secret: {file: a/b.txt}, limits: [none]}", "none"),
        ("  k: {secret: {env: K}, models: [" + "m, " * 60 + "no-model]}", "no-model"),
        ("  'ключ': {secret: {env: K}}", "'ключ'"),
    ],
)
def test_the_caret_is_under_what_is_wrong(line: str, caret: str) -> None:
    shown, under = rendered(HEAD + "keys:\n" + line + "\n").split("\n")[2:4]
    assert len(shown) <= 80
    assert shown[under.index("^") :].startswith(caret)


def test_lines_are_those_that_yaml_counts() -> None:
    text = HEAD.replace("\n", "\r") + "# a\u2028b\u2028keys: {k: {secret: {env: K}, x: 1}}"
    assert "keys: {k" in rendered(text)


@pytest.mark.parametrize("field", ["tokens: 5", "organization: acme"])
def test_a_field_that_is_named_nearly_as_a_secret_is_shown(field: str) -> None:
    text = f"version: 1\nproviders: {{p: {{kind: mock}}}}\nmodels: {{m: p}}\nodd: {{{field}, x: 1}}\n"
    (found,) = [each for each in check(text, "policy.yaml").diagnostics if each.code == "unknown-field"]
    assert field in render(found, text)

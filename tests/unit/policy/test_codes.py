"""The registry of diagnostic codes says all that the policy package uses, and nothing else."""

import ast
from collections.abc import Iterator
from pathlib import Path

import controlplane.policy
from controlplane.policy.codes import CODES

# The functions that make a diagnostic, and the argument that is its code.
MAKERS = {"Diagnostic": 1, "PydanticCustomError": 0, "error": 0, "_error": 0, "_add": 0, "_problem": 0, "_lose": 0}


def test_every_code_is_registered_and_used() -> None:
    used = set(_used())
    assert used - CODES.keys() == set(), "used, but not explained in controlplane/policy/codes.py"
    assert CODES.keys() - used == set(), "explained, but used nowhere"


def test_every_meaning_ends_with_the_next_step() -> None:
    for code, meaning in CODES.items():
        assert meaning.endswith((".", ")")), code
        assert "\n" not in meaning, code


def _used() -> Iterator[str]:
    for file in Path(controlplane.policy.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (at := MAKERS.get(_name(node.func))) is not None and len(node.args) > at:
                code = node.args[at]
                if isinstance(code, ast.Constant) and isinstance(code.value, str):
                    yield code.value


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")

"""The registry of diagnostic codes says all that the policy package uses, and nothing else."""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import controlplane.discovery
import controlplane.plan
import controlplane.policy
from controlplane.policy.codes import CODES

# The functions that make a diagnostic; its code is their first argument, or follows the severity.
MAKERS = {"Diagnostic", "PydanticCustomError", "error", "_error", "_add", "add", "_problem", "_lose"}
_PACKAGES = (controlplane.policy, controlplane.plan, controlplane.discovery)
CODE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def test_every_code_is_registered_and_used() -> None:
    used = set(_used())
    assert used - CODES.keys() == set(), "used, but not explained in controlplane/policy/codes.py"
    assert CODES.keys() - used == set(), "explained, but used nowhere"


def test_every_meaning_ends_with_the_next_step() -> None:
    for code, meaning in CODES.items():
        assert meaning.endswith((".", ")")), code
        assert "\n" not in meaning, code


def _used() -> Iterator[str]:
    for file in (file for package in _PACKAGES for file in _modules(package)):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _name(node.func) in MAKERS:
                texts = (arg.value for arg in node.args[:2] if isinstance(arg, ast.Constant))
                yield from [text for text in texts if isinstance(text, str) and CODE.fullmatch(text)][:1]


def _modules(package: ModuleType) -> Iterable[Path]:
    return Path(package.__path__[0]).glob("*.py")


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")

"""What `ctl` says of errors, in a terminal and in a pipe; and what it takes to say it."""

import io
import subprocess
import sys

import pytest
from rich.console import Console

from controlplane.cli import console
from controlplane.policy.diagnostics import Diagnostic, Severity
from controlplane.policy.place import Place

TEXT = "version: 1\nproviders: {p: {kind: mick}}\n"
KINDS = "one of " + ", ".join(f"kind-{number:02}" for number in range(20))
PLACE = Place("policy.yaml", 2, 22, ("providers",))
FOUND = Diagnostic(Severity.ERROR, "unknown-value", "`mick` is no kind of [provider]", PLACE, KINDS)


def _said(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> list[str]:
    file = io.StringIO()
    made = Console(file=file, force_terminal=terminal, width=60, soft_wrap=True, highlight=False, color_system=None)
    monkeypatch.setattr(console, "err", made)
    console.diagnostics([FOUND], TEXT)
    console.failed("word " * 20, "no [way]")
    return file.getvalue().splitlines()


def test_a_terminal_folds_what_is_long_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    said = _said(monkeypatch, terminal=True)
    assert all(len(line) <= 60 for line in said)
    start = next(number for number, line in enumerate(said) if line.startswith("  expected: "))
    assert said[start + 1].startswith("    kind-")
    words = " ".join(said).split()
    assert [word for word in words if word.startswith("kind-")] == KINDS.removeprefix("one of ").split()
    assert any(line.startswith("no [way]: word word") for line in said)


def test_a_pipe_gets_every_line_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    said = _said(monkeypatch, terminal=False)
    assert "error: `mick` is no kind of [provider]  [unknown-value]" in said
    assert f"  expected: {KINDS}" in said
    assert said[-1].startswith("no [way]: " + "word " * 19)


def test_commands_load_neither_the_database_nor_the_web_framework() -> None:
    loaded = "import sys, controlplane.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, timeout=60, check=True)
    assert not {"sqlalchemy", "fastapi", "uvicorn", "onnxruntime"} & set(done.stdout.split())

"""Interpreters that a policy names for servers: what is wrong with one is told before it is needed."""

from pathlib import Path

import pytest

from controlplane.runtime.interpreters import interpreter_prober


def script(folder: Path, text: str) -> None:
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("echo no", "has no package vllm"),
        ("echo broken library >&2; exit 127", "is no Python that runs: broken library"),
        ("echo something else", "is no Python that runs"),
        ("echo yes", None),
    ],
)
def test_it_is_asked_for_vllm(tmp_path: Path, text: str, problem: str | None) -> None:
    script(tmp_path, text)
    assert interpreter_prober(tmp_path)("python") == problem


def test_one_that_cannot_run_is_told_apart(tmp_path: Path) -> None:
    probe = interpreter_prober(tmp_path)
    assert probe("python") == "cannot be used: No such file or directory"
    (tmp_path / "python").write_text("echo yes")
    assert probe("python") == "cannot be executed"
    assert probe(".") == "cannot be executed"


def test_a_good_one_is_asked_once_and_one_without_vllm_each_time(tmp_path: Path) -> None:
    probe = interpreter_prober(tmp_path)
    script(tmp_path, f"echo x >> {tmp_path}/asked; cat {tmp_path}/answer")
    for answer in ("no", "yes", "yes"):
        (tmp_path / "answer").write_text(answer)
        probe("python")
    assert (tmp_path / "asked").read_text().split() == ["x", "x"]

"""`ctl models import` and `quantize`: what they say, and with which exit code."""

import builtins
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from controlplane.cli import local
from controlplane.cli.main import app, run
from tests.support.onnx_service import ROOT
from tests.support.tiny_models import MODELS, make


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    for name in ("mean", "classifier", "reranker"):
        make(MODELS[name], folder / name)
    return folder


@pytest.fixture(scope="module")
def models(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("mean", "reranker"):
        assert ctl("import", sources / name, folder / name).exit_code == 0
    return folder


def ctl(*words: object) -> Result:
    return CliRunner().invoke(app, ["models", *map(str, words)])


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What the command says where it fails, through the entry point, which makes messages of errors."""

    def ask(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["ctl", "models", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            run()
        said = capsys.readouterr()
        assert (caught.value.code, said.out) == (1, "")
        return " ".join(said.err.split())

    return ask


def policy_of(text: str) -> Any:
    return yaml.safe_load(text[text.index("providers:") :])


def test_import_says_what_was_made_and_how_to_serve_it(sources: Path, tmp_path: Path) -> None:
    done = ctl("import", sources / "mean", tmp_path / "made", "--name", "my-model")
    assert done.exit_code == 0
    assert "task embed, 32 numbers, sequences of 24 tokens at most" in done.stdout
    assert "apart by" in done.stdout
    assert "not part of the graph: pooler.dense.bias, pooler.dense.weight" in done.stdout
    assert policy_of(done.stdout) == {
        "providers": {"here": {"kind": "onnx", "models": {"my-model": {"path": str(tmp_path / "made")}}}},
        "models": {"my-model": "here"},
    }
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\n" + done.stdout[done.stdout.index("providers:") :])
    assert [row["model"] for row in local.models(policy)] == ["my-model"]
    again = ctl("import", sources / "mean", tmp_path / "made")
    assert (again.exit_code, "left as it is" in again.stdout) == (0, True)


def test_import_for_programs(sources: Path, tmp_path: Path) -> None:
    done = ctl("import", sources / "classifier", tmp_path / "made", "--format", "json")
    view = json.loads(done.stdout)
    assert (done.exit_code, view["state"], view["check"]["task"]) == (0, "converted", "classify")
    assert view["check"]["labels"] == ["negative", "neutral", "positive"]
    assert view["check"]["difference"] < 1e-4
    assert view["bytes"] == (tmp_path / "made" / "model.onnx").stat().st_size


def test_import_refuses_with_a_reason(sources: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    wrong = Path(shutil.copytree(sources / "mean", tmp_path / "wrong"))
    config = json.loads((wrong / "config.json").read_text())
    (wrong / "config.json").write_text(json.dumps({**config, "model_type": "t5"}))
    assert "model_type 't5'; can be converted: bert, roberta" in refused("import", wrong, tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["wrong"]


def test_a_conversion_with_other_numbers_is_not_kept(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sidecars.onnx.convert import reference

    monkeypatch.setitem(reference._ACTIVATIONS, "gelu", reference._relu)
    done = ctl("import", sources / "mean", tmp_path / "made")
    assert isinstance(done.exception, local.UseError)
    assert "gives other numbers than its weights" in str(done.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("command", "package"), [("import", "onnx"), ("quantize", "onnxruntime")])
def test_an_absent_extra_is_named(command: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    for name in [name for name in sys.modules if name.startswith(("sidecars.onnx.convert", "sidecars.onnx.quantize"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "sidecars.onnx.session", raising=False)
    own = builtins.__import__

    def absent(name: str, scope: Any = None, local: Any = None, names: Sequence[str] = (), level: int = 0) -> Any:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return own(name, scope, local, names, level)

    monkeypatch.setattr(builtins, "__import__", absent)
    done = ctl(command, tmp_path / "source", tmp_path / "made")
    assert isinstance(done.exception, local.UseError)
    assert f"the package {package}: pip install 'headgate[onnx,onnx-convert]'" in str(done.exception)


def test_quantize_says_what_it_costs_and_gains(models: Path, tmp_path: Path) -> None:
    done = ctl("quantize", models / "mean", tmp_path / "int8", "--min-cosine", "0.9")
    assert done.exit_code == 0
    for words in ("8 products", "cosine mean 0.99", "times as fast with one text", "48 texts (built in)"):
        assert words in done.stdout
    assert policy_of(done.stdout)["models"] == {"int8": "here"}


def test_quantize_fails_with_its_own_code_where_too_much_is_lost(models: Path, tmp_path: Path) -> None:
    for name, option in (("mean", "--min-cosine"), ("reranker", "--min-agreement")):
        done = ctl("quantize", models / name, tmp_path / "int8", option, "1.0", "--format", "json")
        view = json.loads(done.stdout)
        assert (done.exit_code, view["folder"], view["policy"]) == (3, None, None)
        assert "1.0 is asked for" in view["refused"]
        assert list(tmp_path.iterdir()) == []
    done = ctl("quantize", models / "mean", tmp_path / "int8", "--min-cosine", "1.0")
    assert (done.exit_code, "nothing is written" in done.stderr, "to serve it" in done.stdout) == (3, True, False)


def test_quantize_refuses_with_a_reason(models: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "its folder does not exist" in refused("quantize", tmp_path / "absent", tmp_path / "int8")
    assert f"{tmp_path} exists: remove it" in refused("quantize", models / "mean", tmp_path)


def test_nothing_of_this_is_loaded_by_other_commands() -> None:
    script = "import sys; import controlplane.cli.main; print([m for m in ('onnx', 'onnxruntime') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""The guide and the code agree."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from sidecars.onnx.metrics import Metrics
from sidecars.onnx.models import State
from sidecars.onnx.settings import ModelSettings, Settings, parse

GUIDE = (Path(__file__).resolve().parents[3] / "docs" / "onnx.md").read_text()


@pytest.mark.parametrize("kind", [Settings, ModelSettings])
def test_every_setting_has_a_row(kind: type) -> None:
    rows = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", GUIDE, re.MULTILINE))))
    assert {field.name for field in dataclasses.fields(kind)} <= rows


def test_every_state_has_a_row() -> None:
    assert all(f"| `{state}` |" in GUIDE for state in State)


def test_every_metric_is_named() -> None:
    metrics = Metrics()
    metrics.watch(list)
    families = re.findall(r"^# TYPE headgate_onnx_(\w+) (\w+)", metrics.text().decode(), re.MULTILINE)
    assert len(families) > 10
    for name, kind in families:
        assert f"`{name}`" in GUIDE, (name, kind)


def test_every_code_is_told() -> None:
    sources = Path(__file__).resolve().parents[3].glob("sidecars/onnx/**/*.py")
    codes = {code for path in sources for code in re.findall(r'ServiceError\(\s*[\w.]+, "(\w+)"', path.read_text())}
    assert len(codes) > 8
    assert all(f"`{code}`" in GUIDE for code in codes)


def test_the_settings_shown_are_settings() -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL)
    assert list(parse(shown).models) == ["all-minilm-l6-v2"]
    assert json.loads(shown)["version"] == 1

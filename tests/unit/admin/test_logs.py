"""The end of a process's log, by the name that the status has for it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from controlplane.admin.logs import router
from controlplane.policy.secrets import Secret


@pytest.fixture
def http(tmp_path: Path) -> TestClient:
    controller: Any = SimpleNamespace(secrets=lambda: (Secret("pass"), Secret("password")))
    states: Any = (SimpleNamespace(name="envoy"), SimpleNamespace(name="vllm-local"))
    app = FastAPI()
    app.include_router(router(controller, lambda: states, lambda name: tmp_path / f"{name}.log"))
    return TestClient(app)


def test_the_last_lines_come_without_secrets(http: TestClient, tmp_path: Path) -> None:
    (tmp_path / "vllm-local.log").write_text("".join(f"line {number} password\n" for number in range(300)))
    found = http.get("/processes/vllm-local/log", params={"lines": 200}).json()
    assert found["lines"] == [f"line {number} [redacted]" for number in range(100, 300)]
    assert found["file"] == str(tmp_path / "vllm-local.log")


def test_one_that_wrote_nothing_has_no_lines(http: TestClient) -> None:
    assert http.get("/processes/envoy/log").json()["lines"] == []


def test_a_name_that_nobody_has_gets_a_suggestion(http: TestClient, tmp_path: Path) -> None:
    (tmp_path / "secret.log").write_text("x")
    answer = http.get("/processes/vllm-locl/log")
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith("no process `vllm-locl` runs here; did you mean `vllm-local`?")
    assert http.get("/processes/secret/log").status_code == 404
    assert http.get("/processes/..%2Fx/log").status_code == 404

"""Endpoints that come and go while requests are served."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from sidecars.onnx.convert import convert
from tests.support.gateway import Gateway, eventually
from tests.support.mock import ROOT, MockProvider
from tests.support.onnx_service import OnnxService
from tests.support.tiny_models import MODELS, make

_POLICY = """
providers:
  farm:
    kind: openai
    base_url: http://farm.internal/v1
    discover: {{registered: {{token: {{env: FARM}}, ttl: 10m}}}}
  checked:
    kind: openai
    base_url: http://checked.internal/v1
    discover: {{registered: {{token: {{env: FARM}}}}}}
    health: {{path: /health, interval: 1s}}
  fenced:
    kind: openai
    base_url: http://fenced.internal/v1
    discover: {{registered: {{token: {{env: FENCED}}, networks: [10.0.0.0/8]}}}}
  shelf: {{kind: openai, base_url: "http://shelf.internal/v1", discover: {{file: shelf.yaml}}}}
  named: {{kind: openai, base_url: "http://named.internal/v1", discover: {{dns: "localhost:{port}", refresh: 1s}}}}
  fake: {{kind: mock}}
models:
  m: farm
  a: farm
  b: {{try: [{{provider: farm, model: inner-b}}, fake]}}
  "w-*": farm
  "mock*": farm
  checked: checked
  shelf: shelf
  named: named
"""
_FIGURES = ("capacity", "queue", "running", "weight", "heard")
_SECRETS = {"FARM": "farm-token-of-services", "FENCED": "another-token-of-services"}
_TOKEN = {"authorization": f"Bearer {_SECRETS['FARM']}"}


@pytest.fixture(scope="module")
def mocks() -> Iterator[tuple[MockProvider, MockProvider]]:
    with MockProvider(name="one") as one, MockProvider(name="two") as two:
        yield one, two


@pytest.fixture(scope="module")
def running(mocks: tuple[MockProvider, MockProvider]) -> Iterator[Gateway]:
    listed = {"shelf.yaml": f'endpoints: ["{mocks[0].address}"]'}
    with Gateway(_POLICY.format(port=mocks[1].port), env=_SECRETS, files=listed) as running:
        yield running


@pytest.fixture
def gateway(running: Gateway) -> Iterator[Gateway]:
    """Nobody is registered after a test."""
    yield running
    for row in _rows(running) + _rows(running, "checked"):
        running.admin.delete(f"/register/{row['id']}", headers=_TOKEN).raise_for_status()


def _register(gateway: Gateway, name: str, address: str, **more: object) -> httpx.Response:
    body = {"id": name, "provider": "farm", "address": address, "capacity": 4} | more
    return gateway.admin.post("/register", json=body, headers=_TOKEN)


def _heartbeat(gateway: Gateway, name: str, **said: int) -> httpx.Response:
    return gateway.admin.post(f"/register/{name}/heartbeat", json=said, headers=_TOKEN)


def _leave(gateway: Gateway, name: str) -> None:
    left = gateway.admin.delete(f"/register/{name}", headers=_TOKEN)
    assert left.json() == {"id": name, "everywhere": True}


def _rows(gateway: Gateway, provider: str = "farm") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = gateway.admin.get("/endpoints", params={"provider": provider}).json()["rows"]
    return rows


def _served_by(gateway: Gateway, model: str, times: int = 8) -> set[str]:
    answers = [gateway.chat(model) for _ in range(times)]
    return {answer.headers.get("x-mock-name", str(answer.status_code)) for answer in answers}


def _alarms(gateway: Gateway) -> str:
    return "\n".join(alarm["message"] for alarm in gateway.status()["alarms"])


def _audited(gateway: Gateway, target: str) -> list[tuple[str, str | None]]:
    rows = gateway.admin.get("/audit", params={"action": "endpoint"}).json()["rows"]
    return [(row["action"], row["details"].get("why")) for row in rows if row["target"] == target]


def test_a_service_joins_serves_and_leaves(gateway: Gateway, mocks: tuple[MockProvider, MockProvider]) -> None:
    assert gateway.chat().status_code == 503
    assert "no service has registered for provider `farm`" in _alarms(gateway)
    answer = _register(gateway, "first", mocks[0].address, capabilities=["chat"])
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"id": "first", "ttl_s": 600.0, "heartbeat_s": 200.0}
    eventually(lambda: gateway.chat().status_code == 200, "the service serves")
    assert mocks[0].requests()[-1].header("host") == "farm.internal"
    assert "`farm`" not in _alarms(gateway)
    assert _heartbeat(gateway, "first", queue=1, running=4, capacity=8).status_code == 200
    (row,) = _rows(gateway)
    assert {name: row[name] for name in ("id", "address", "capacity", "queue", "running", "capabilities")} == {
        "id": "first", "address": mocks[0].address, "capacity": 8, "queue": 1, "running": 4, "capabilities": ["chat"],
    }  # fmt: skip
    _leave(gateway, "first")
    eventually(lambda: gateway.chat().status_code == 503, "nobody is left")
    assert _audited(gateway, "first") == [("endpoint.left", "left"), ("endpoint.joined", None)]


def test_a_model_goes_to_those_that_have_it(gateway: Gateway, mocks: tuple[MockProvider, MockProvider]) -> None:
    _register(gateway, "one", mocks[0].address, models=["a", "m"])
    _register(gateway, "two", mocks[1].address, models=["inner-b", "m"])
    eventually(lambda: _served_by(gateway, "m") == {"one", "two"}, "both serve")
    assert _served_by(gateway, "a") == {"one"}
    assert _served_by(gateway, "b") == {"two"}
    eventually(lambda: _served_by(gateway, "w-1") == {"one", "two"}, "a wildcard goes to both")
    _leave(gateway, "two")
    eventually(lambda: _served_by(gateway, "b") == {"mock"}, "the next group serves what nobody has")
    assert "`inner-b`" in _alarms(gateway)
    _register(gateway, "two", mocks[1].address)
    eventually(lambda: _served_by(gateway, "b") == {"two"}, "one without a list has all")
    assert "`inner-b`" not in _alarms(gateway)


@pytest.mark.parametrize(
    ("change", "token", "status", "code"),
    [
        ({}, "wrong", 401, "invalid_registration_token"),
        ({}, _SECRETS["FENCED"], 401, "invalid_registration_token"),
        ({"provider": "absent"}, _SECRETS["FARM"], 401, "invalid_registration_token"),
        ({"provider": "shelf"}, _SECRETS["FARM"], 401, "invalid_registration_token"),
        ({"provider": "fenced"}, _SECRETS["FENCED"], 403, "address_not_allowed"),
        ({"address": "farm.internal:80"}, _SECRETS["FARM"], 422, "invalid_address"),
        ({"id": "taken", "provider": "fenced", "address": "10.0.0.7:80"}, _SECRETS["FENCED"], 409, "id_taken"),
        ({"adress": "127.0.0.1:80"}, _SECRETS["FARM"], 422, "invalid_request"),
        ({"capacity": 0}, _SECRETS["FARM"], 422, "invalid_request"),
        ({"ttl_s": 0.1}, _SECRETS["FARM"], 422, "invalid_request"),
        ({"models": ["m"] * 200_000}, "wrong", 413, "request_too_large"),
    ],
)
def test_who_may_not_join(gateway: Gateway, change: dict[str, Any], token: str, status: int, code: str) -> None:
    _register(gateway, "taken", "127.0.0.1:1")
    body = {"id": "new", "provider": "farm", "address": "127.0.0.1:2", "capacity": 4} | change
    answer = gateway.admin.post("/register", json=body, headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == code
    assert [row["id"] for row in _rows(gateway)] == ["taken"]


def test_who_is_not_registered_is_told_so(gateway: Gateway) -> None:
    assert _heartbeat(gateway, "nobody").json()["error"]["code"] == "not_registered"
    assert gateway.admin.delete("/register/nobody", headers=_TOKEN).status_code == 404
    _register(gateway, "mine", "127.0.0.1:1")
    others = {"authorization": f"Bearer {_SECRETS['FENCED']}"}
    assert gateway.admin.delete("/register/mine", headers=others).status_code == 404
    assert gateway.admin.delete("/register/mine").status_code == 401


class Load:
    """Requests without end, from several clients at once; what they were answered."""

    def __init__(self, gateway: Gateway, clients: int = 4) -> None:
        self._gateway, self._stop = gateway, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        body = {"messages": [{"role": "user", "content": "hi"}], "stream": number % 2 == 0}
        body["model"] = "mock+chunks=3+chunk-delay=2ms" if body["stream"] else "m"
        with httpx.Client(base_url=self._gateway.url, timeout=60) as http:
            while not self._stop.is_set():
                answer = http.post("/v1/chat/completions", json=body)
                if answer.status_code != 200 or (body["stream"] and not answer.text.endswith("data: [DONE]\n\n")):
                    self.failures.append(f"{answer.status_code} {answer.text[-200:]}")
                self.answers[answer.headers.get("x-mock-name", "")] += 1


def test_fifty_come_and_go_and_no_request_fails(gateway: Gateway, mocks: tuple[MockProvider, MockProvider]) -> None:
    _register(gateway, "stays", mocks[0].address)
    eventually(lambda: gateway.chat().status_code == 200, "somebody serves")
    revision, listener = gateway.revision(), _versions(gateway)
    with Load(gateway) as load:
        for number in range(50):
            _register(gateway, f"comes-{number}", mocks[1].address)
            if number % 10 == 0:
                eventually(lambda: _served_by(gateway, "m", 2) == {"one", "two"}, "both serve")
            _leave(gateway, f"comes-{number}")
        with MockProvider(name="three") as three:
            _register(gateway, "ends", three.address)
            eventually(lambda: "three" in _served_by(gateway, "m", 2), "it serves")
            _leave(gateway, "ends")
    assert load.failures == []
    assert load.answers["one"] > 100
    assert load.answers["two"] > 5
    assert (gateway.revision(), _versions(gateway)) == (revision, listener)


def _versions(gateway: Gateway) -> dict[str, Any]:
    """All that nodes are told but endpoints."""
    snapshot: dict[str, Any] = gateway.admin.get("/snapshot").json()
    return {kind: resources for kind, resources in snapshot.items() if "endpoint" not in kind.lower()}


def test_a_stream_of_one_that_leaves_comes_to_its_end(
    gateway: Gateway, mocks: tuple[MockProvider, MockProvider]
) -> None:
    _register(gateway, "leaves", mocks[0].address)
    eventually(lambda: gateway.chat().status_code == 200, "it serves")
    body = {"model": "mock+chunks=10+chunk-delay=50ms", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    with gateway.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        events = answer.iter_lines()
        next(events)
        _leave(gateway, "leaves")
        assert [line for line in events if line][-1] == "data: [DONE]"
    assert gateway.chat().status_code == 503


def test_the_silent_leave_within_their_time(gateway: Gateway, mocks: tuple[MockProvider, MockProvider]) -> None:
    _register(gateway, "alive", mocks[0].address)
    assert _register(gateway, "silent", mocks[1].address, ttl_s=1).json()["ttl_s"] == 1
    with Load(gateway, clients=2) as load:
        eventually(lambda: [row["id"] for row in _rows(gateway)] == ["alive"], "the silent one is gone")
    assert load.failures == []
    eventually(lambda: _served_by(gateway, "m") == {"one"}, "nobody asks it")
    left = [("endpoint.left", "stale"), ("endpoint.joined", None)]
    eventually(lambda: _audited(gateway, "silent") == left, "it had joined, and left")
    assert _heartbeat(gateway, "silent").status_code == 404


def test_one_that_left_is_gone_though_it_says_that_it_is_healthy(
    gateway: Gateway, mocks: tuple[MockProvider, MockProvider]
) -> None:
    _register(gateway, "well", mocks[0].address, provider="checked")
    eventually(lambda: gateway.chat("checked").status_code == 200, "its health was found good")
    _leave(gateway, "well")
    eventually(lambda: gateway.chat("checked").status_code == 503, "it is asked no more")


def test_one_that_moves_and_one_that_takes_its_place(
    gateway: Gateway, mocks: tuple[MockProvider, MockProvider]
) -> None:
    _register(gateway, "mover", mocks[0].address)
    _register(gateway, "mover", mocks[1].address)
    eventually(lambda: _served_by(gateway, "m", 4) == {"two"}, "the old address is asked no more")
    _register(gateway, "heir", mocks[1].address)
    assert [row["id"] for row in _rows(gateway)] == ["heir"]
    joined, left = ("endpoint.joined", None), "endpoint.left"
    assert _audited(gateway, "mover") == [(left, "replaced"), joined, (left, "moved"), joined]


def test_one_that_crashed_fails_no_request(gateway: Gateway, mocks: tuple[MockProvider, MockProvider]) -> None:
    with MockProvider(name="three") as three:
        _register(gateway, "stays", mocks[0].address)
        _register(gateway, "crashes", three.address)
        eventually(lambda: _served_by(gateway, "m") == {"one", "three"}, "both serve")
        three.kill()
        assert _served_by(gateway, "m", 40) == {"one"}


def test_the_loaded_one_gets_fewer(gateway: Gateway, mocks: tuple[MockProvider, MockProvider]) -> None:
    _register(gateway, "free", mocks[0].address)
    _register(gateway, "busy", mocks[1].address)
    for _ in range(4):
        _heartbeat(gateway, "busy", queue=20, running=4)
    weights = {row["id"]: row["weight"] for row in _rows(gateway)}
    assert weights["free"] == 400
    assert 60 < weights["busy"] < 100

    def share() -> float:
        answers = Counter(gateway.chat().headers.get("x-mock-name") for _ in range(40))
        return answers["two"] / 40

    eventually(lambda: 0 < share() < 0.3, "the loaded one is asked less")
    for _ in range(8):
        _heartbeat(gateway, "busy", queue=0, running=0)
    eventually(lambda: 0.35 < share() < 0.65, "idle again, it is asked as much")


def test_the_control_plane_comes_back_and_knows_them(
    gateway: Gateway, mocks: tuple[MockProvider, MockProvider]
) -> None:
    _register(gateway, "known", mocks[0].address, models=["m"], capabilities=["chat"])
    gateway.write("shelf.yaml", "")
    eventually(lambda: "the file is empty" in _alarms(gateway), "it is told")
    before = _rows(gateway)
    kept = Path(gateway.folder, "state/endpoints.json")
    eventually(lambda: kept.exists() and "known" in kept.read_text(), "it is kept")
    eventually(lambda: gateway.chat().status_code == 200, "it serves")
    with Load(gateway, clients=1) as load:
        gateway.kill()
        assert gateway.chat().status_code == 200
        gateway.start()
        assert _served_by(gateway, "m") == {"one"}
        assert _served_by(gateway, "shelf") == {"one"}, "what a file said before it was wrong"
    assert load.failures == []
    after = _rows(gateway)
    assert [{**row, "heard_s": 0} for row in after] == [{**row, "heard_s": 0} for row in before]
    assert _heartbeat(gateway, "known").status_code == 200


def test_edits_of_a_file_are_followed(gateway: Gateway, mocks: tuple[MockProvider, MockProvider]) -> None:
    assert _served_by(gateway, "shelf") == {"one"}
    revision, rest = gateway.revision(), _versions(gateway)
    gateway.write("shelf.yaml", f'endpoints: [{{address: "{mocks[1].address}", models: [shelf]}}]')
    eventually(lambda: _served_by(gateway, "shelf", 2) == {"two"}, "the edit is followed")
    gateway.write("shelf.yaml", "endpoints:\n  - farm.internal:80\n")
    wrong = "shelf.yaml:2:5 endpoints[0].address: not valid: farm.internal:80, expected an IP address"
    eventually(lambda: wrong in _alarms(gateway), "it is told")
    assert _served_by(gateway, "shelf") == {"two"}
    (gateway.folder / "shelf.yaml").unlink()
    eventually(lambda: "shelf.yaml: No such file" in _alarms(gateway), "it is told")
    assert _served_by(gateway, "shelf") == {"two"}
    gateway.write("shelf.yaml", "endpoints: []")
    eventually(lambda: _served_by(gateway, "shelf", 1) == {"503"}, "nobody is listed")
    assert "shelf.yaml" not in _alarms(gateway)
    assert (gateway.revision(), _versions(gateway)) == (revision, rest)
    gateway.write("shelf.yaml", f'endpoints: ["{mocks[0].address}"]')
    eventually(lambda: _served_by(gateway, "shelf", 1) == {"one"}, "as before")


def test_a_name_is_looked_up(gateway: Gateway) -> None:
    eventually(lambda: _served_by(gateway, "named", 1) == {"two"}, "its addresses are endpoints")


@contextmanager
def _announced(gateway: Gateway, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    command = (sys.executable, "-m", "sidecars.announce", "--url", gateway.admin_url, "--provider", "farm", *options)
    env = os.environ | {"TOKEN": _SECRETS["FARM"]}
    with subprocess.Popen((*command, "--token-env", "TOKEN"), cwd=ROOT, env=env) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_process_announces_for_others(gateway: Gateway, mocks: tuple[MockProvider, MockProvider]) -> None:
    service = f"http://{mocks[0].address}"
    options = ("--id", "vllm", "--address", f":{mocks[0].port}", "--models", "m,a", "--health-url", f"{service}/health")
    with _announced(gateway, *options, "--capacity", "2") as process:
        eventually(lambda: _served_by(gateway, "a", 1) == {"one"}, "it serves")
        (row,) = _rows(gateway)
        assert (row["id"], row["address"], row["models"]) == ("vllm", mocks[0].address, ["m", "a"])
        shown = gateway.ctl("endpoints", "--provider", "farm").stdout.splitlines()
        assert shown[0].split() == ["provider", "id", "address", "from", "models", *_FIGURES]
        assert shown[1].split()[:6] == ["farm", "vllm", mocks[0].address, "registered", "m,", "a"]
        assert "endpoints found: farm 1, checked 0" in gateway.ctl("status").stdout
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert _rows(gateway) == []


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scratch = tmp_path_factory.mktemp("onnx")
    folder: Path = convert(make(MODELS["reranker"], scratch / "source"), scratch / "reranker").folder
    return folder


def test_the_onnx_service_announces_itself(gateway: Gateway, reranker: Path) -> None:
    options = ("--announce", gateway.admin_url, "--provider", "farm", "--token-env", "TOKEN", "--id", "onnx")
    models = {"models": {"w-reranker": {"path": str(reranker), "preload": True}}}
    body = {"model": "w-reranker", "query": "a cat", "documents": ["a dog", "the cat"]}
    with OnnxService(models, *options, env={"TOKEN": _SECRETS["FARM"]}) as service:
        eventually(lambda: gateway.http.post("/v1/rerank", json=body).status_code == 200, "it serves")
        (row,) = _rows(gateway)
        assert (row["id"], row["models"], row["capacity"]) == ("onnx", ["w-reranker"], 16)
        service.terminate()
        eventually(lambda: _rows(gateway) == [], "it leaves before it stops")


def test_snapshots_and_documents_show_no_token(gateway: Gateway) -> None:
    texts = [json.dumps(gateway.admin.get(path).json()) for path in ("/snapshot", "/status", "/endpoints", "/audit")]
    texts.append((gateway.folder / "state/endpoints.json").read_text())
    assert not any(secret in text for secret in _SECRETS.values() for text in texts)

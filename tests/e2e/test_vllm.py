"""Servers that the gateway launches: started, waited for without holding anything up, kept, replaced, drained, ended.

A stand-in with vLLM's arguments and manners is launched here; `make test-vllm` runs the real one.
"""

import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from sidecars.recording.exchange import Answer, Body, Exchange, Request, Times
from tests.support import vllm_environment
from tests.support.gateway import Gateway, alive, eventually

POLICY = """
providers:
  local:
    kind: vllm
    health: {{path: /health, interval: 200ms, timeout: 2s, healthy_after: 1}}
    launch:
      model: ./models/tiny
      python: venv/bin/python
      names: [llama]
      args: [--hold, {folder}/hold, --gate, {folder}/gate{args}]
      env: {{FLAVOUR: {{file: flavour}}}}
      {more}
  fallback: {{kind: mock}}
models:
  llama: {{try: [local, fallback]}}
  only: {{provider: local, model: llama}}
  other: fallback
"""
NAME = "vllm-local"
FLAVOUR = "vanilla-secret"


class Served(Gateway):
    """A gateway whose policy launches a server. `meanwhile`: what it did while the server loaded."""

    meanwhile: Mapping[str, Any]

    def __init__(self) -> None:
        super().__init__("", files={"models/tiny/config.json": "{}", "flavour": FLAVOUR})
        vllm_environment.make(self.folder / "venv")
        self._policy = self.policy()

    def policy(self, args: str = "", more: str = "") -> str:
        return POLICY.format(folder=self.folder, args=args, more=more)

    @property
    def runs(self) -> bool:
        return self._process is not None

    def who(self, model: str = "llama") -> str:
        """Who answers: the pid of the server, or "mock"."""
        told: str = self.chat(model).raise_for_status().json().get("system_fingerprint") or ""
        return told.removeprefix("fake-") if told.startswith("fake-") else "mock"

    def said(self) -> str:
        """What is answered; the server says its secret."""
        told: str = self.chat("llama").raise_for_status().json()["choices"][0]["message"]["content"]
        return told

    def serves(self) -> str:
        """Waits until the server that runs serves; its pid."""
        return eventually(lambda: self._ours(self.who()), f"the server serves\n{self.log()}", 60)

    def _ours(self, who: str) -> str:
        return who if who == str(self.processes().get(NAME)) else ""

    def state(self) -> dict[str, Any]:
        (row,) = self.admin.get("/models").json()["local"]
        return dict(row)

    def log(self) -> str:
        (found,) = self.folder.glob(f"run/headgate-*/*/{NAME}.log")
        return found.read_text()

    def worker(self) -> int:
        return int(self.log().rpartition("worker: ")[2].split()[0])


@pytest.fixture(scope="module")
def started() -> Iterator[Served]:
    made = Served()
    made.write("hold", "")
    with made:
        made.meanwhile = {
            "other": made.who("other"),
            "llama": made.who(),
            "only": made.chat("only").status_code,
            "state": made.state(),
            "alarms": made.status()["alarms"],
        }
        yield made


@pytest.fixture
def gateway(started: Served) -> Served:
    """It runs, and has the first policy and secret, whatever a test before has made of them.

    Streams run through and servers load at once, unless a test says otherwise.
    """
    started.write("gate", "")
    (started.folder / "hold").unlink(missing_ok=True)
    if not started.runs:
        started.edit(started.policy())
        started.start()
    elif started.path.read_text() != started.text(started.policy()):
        started.apply_edit(started.policy())
    if (started.folder / "flavour").read_text() != FLAVOUR:
        started.write("flavour", FLAVOUR)
        eventually(lambda: started.said() == FLAVOUR, "a server has it", 60)
    return started


class Stream(threading.Thread):
    """A streamed chat that waits for the gate after its first chunk."""

    def __init__(self, gateway: Served) -> None:
        super().__init__()
        (gateway.folder / "gate").unlink()
        self.text, self.begun, self._gateway = "", threading.Event(), gateway
        self.start()
        assert self.begun.wait(60), "the stream begins"

    def run(self) -> None:
        with self._gateway.client() as client:
            asked = [{"role": "user", "content": "hi"}]
            for chunk in client.chat.completions.create(model="llama", messages=asked, stream=True):  # type: ignore[call-overload]
                self.text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
                self.begun.set()

    def finish(self) -> str:
        self._gateway.write("gate", "")
        self.join(60)
        return self.text


def test_nothing_waits_for_a_server_that_loads(gateway: Served) -> None:
    assert gateway.meanwhile == {
        "other": "mock",
        "llama": "mock",  # a failover
        "only": 503,
        "state": {"provider": "local", "model": "llama", "state": "loading", "why": None},
        "alarms": [],
    }
    gateway.serves()
    eventually(lambda: gateway.state()["state"] == "ready", "it is ready")


def test_it_runs_in_its_own_environment_and_tells_no_secret(gateway: Served) -> None:
    gateway.serves()
    assert gateway.said() == FLAVOUR
    (variables,) = (line for line in gateway.log().splitlines()[:1] if line.startswith("variables: "))
    assert not {"PYTHONPATH", "VIRTUAL_ENV", "PYTHONUNBUFFERED", "XDG_RUNTIME_DIR"} & set(variables.split())
    paths = ("/status", "/models", "/snapshot", f"/processes/{NAME}/log")
    told = [gateway.admin.get(path).raise_for_status().text for path in paths]
    assert "flavour: vanilla-secret" in gateway.log()  # what it writes is its own affair, what is told of it is ours
    assert "flavour: [redacted]" in told[-1]
    assert not any("vanilla-secret" in text for text in (*told, gateway.output()))


def test_what_the_gateway_does_not_know_reaches_it_untouched(gateway: Served) -> None:
    gateway.serves()
    body = {"messages": [{"role": "user", "content": "hi"}], "model": "llama", "min_p": 0.1, "guided_regex": "a+"}
    seen = gateway.http.post("/v1/chat/completions", json=body).json()["seen"]
    assert seen == body


def test_a_killed_server_fails_over_and_comes_back(gateway: Served) -> None:
    before, worker = gateway.serves(), gateway.worker()
    gateway.write("hold", "")  # the next one serves no sooner
    os.kill(int(before), signal.SIGKILL)
    assert gateway.who() == "mock"
    (gateway.folder / "hold").unlink()
    assert gateway.serves() != before
    assert not alive(worker), "its worker ended with it"


def test_an_edit_replaces_it_when_it_has_answered_what_it_had(gateway: Served) -> None:
    before = gateway.serves()
    stream = Stream(gateway)
    gateway.apply_edit(gateway.policy(", --max-model-len, 100"))
    assert gateway.who() == "mock"  # the old one gets nothing more
    assert alive(int(before))
    assert stream.finish() == "begun ended"
    assert gateway.serves() != before
    assert not alive(int(before))


def test_an_edit_of_what_it_need_not_know_leaves_it_alone(gateway: Served) -> None:
    gateway.apply_edit(gateway.policy(more="drain: 30s"))
    before = gateway.serves()
    gateway.apply_edit(gateway.policy(more="drain: 40s"))
    assert gateway.serves() == before


def test_a_changed_secret_replaces_it(gateway: Served) -> None:
    before = gateway.serves()
    gateway.write("flavour", "lemon-secret")
    eventually(lambda: gateway.said() == "lemon-secret", "another server serves", 60)
    assert gateway.serves() != before


def test_the_next_control_plane_adopts_it(gateway: Served) -> None:
    before = gateway.serves()
    gateway.kill()
    gateway.start()
    assert gateway.serves() == before


def test_one_that_crashes_is_an_alarm(gateway: Served) -> None:
    gateway.apply_edit(gateway.policy(", --crash"))
    (alarm,) = eventually(lambda: gateway.status()["alarms"], "an alarm", 60)
    assert "`local` ended, and is started again" in alarm["message"]
    assert "no kernel image is available for [redacted]" in alarm["message"]
    assert gateway.state()["state"] == "failed"
    gateway.apply_edit(gateway.policy())
    gateway.serves()
    eventually(lambda: not gateway.status()["alarms"], "no alarm any more")


def test_one_that_is_never_ready_is_started_again(gateway: Served) -> None:
    gateway.write("hold", "")
    gateway.apply_edit(gateway.policy(", --max-model-len, 50", "ready_within: 3s"))
    first = eventually(lambda: gateway.processes().get(NAME), "a server", 60)
    (alarm,) = eventually(lambda: gateway.status()["alarms"], "an alarm", 60)
    assert "did not get ready in time" in alarm["message"]
    eventually(lambda: gateway.processes().get(NAME) not in (None, first), "another server", 60)
    (gateway.folder / "hold").unlink()
    gateway.serves()
    eventually(lambda: not gateway.status()["alarms"], "no alarm any more")


def test_a_replay_waits_for_its_server(gateway: Served) -> None:
    asked = {"model": "only", "messages": [{"role": "user", "content": "hi"}]}
    exchange = Exchange(
        id="i", at="2026-01-02T03:04:05Z", model="only", provider="p",
        request=Request(method="POST", path="/v1/chat/completions", headers={"content-type": "application/json"},
                        body=Body.of(json.dumps(asked).encode())),
        answer=Answer(status=200, headers={}), ms=Times(headers=1, first=1, total=1),
    )  # fmt: skip
    gateway.write("log.jsonl", exchange.line())
    done = gateway.ctl(
        "replay", str(gateway.folder / "log.jsonl"), "--against", str(gateway.path), "--format", "json"
    )  # fmt: skip
    assert json.loads(done.stdout)["after"]["statuses"] == {"200": 1}, done.stderr


def test_one_that_the_policy_drops_is_ended(gateway: Served) -> None:
    before, worker = gateway.serves(), gateway.worker()
    gateway.apply_edit("providers: {fallback: {kind: mock}}\nmodels: {llama: fallback}")
    eventually(lambda: not alive(int(before)) and not alive(worker), "it ends", 60)
    assert gateway.admin.get("/models").json()["local"] == []
    gateway.apply_edit(gateway.policy())
    gateway.serves()


def test_the_end_of_the_gateway_waits_for_its_requests(gateway: Served) -> None:
    before = gateway.serves()
    stream = Stream(gateway)
    gateway.signal()
    assert stream.finish() == "begun ended"
    assert gateway.wait() == 0
    assert not alive(int(before))

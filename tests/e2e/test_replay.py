"""Traffic recorded through the gateway and replayed: nothing differs against the same policy, some against another."""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.gateway import Gateway, alive, eventually, started
from tests.support.mock import MockProvider
from tests.support.recorder import COMMAND, ROOT, Recorder
from tests.support.usage import only_record

_CANARY = "hg-canary-0123456789abcdef"
_POLICY = """
providers: {p: {kind: mock}, q: {kind: mock, fixtures: other.yaml}}
models: {m: p, other: q}
keys: {alice: {secret: {env: ALICE_KEY}}}
prices: {"*": {input: 1, output: 2}}
"""
_FIXTURES = """
- match: {user: one two}
  answer: {text: something else entirely}
- match: {user_matches: weather}
  answer: {tool_calls: [{name: weather, arguments: {city: Rome}}], usage: {prompt_tokens: 100, completion_tokens: 50}}
"""
_TOOLS: Any = [
    {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}, "required": []}}}
]


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    files = {"other.yaml": _FIXTURES}
    with Gateway(_POLICY, env={"ALICE_KEY": _CANARY}, key=_CANARY, files=files) as running:
        yield running


@pytest.fixture(scope="module")
def recorder(gateway: Gateway) -> Iterator[Recorder]:
    """The traffic of a client: plain, streamed, with tools, embeddings, a model that is none, and a wrong key."""
    with Recorder(gateway.url, gateway.folder / "log.jsonl") as running:
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key=_CANARY, max_retries=0) as client:
            _chat(client, "one two")
            _chat(client, f"my key is {_CANARY}")
            _chat(client, "weather", tools=_TOOLS, tool_choice="required")
            options = {"include_usage": True}
            list(_chat(client, "a stream of words", model="m", stream=True, stream_options=options))
            client.embeddings.create(model="m", input=["one", "two"])
            with pytest.raises(openai.NotFoundError):
                _chat(client, "hi", model="none")
        stranger = openai.OpenAI(base_url=f"{running.url}/v1", api_key=f"{_CANARY}-wrong", max_retries=0)
        with stranger, pytest.raises(openai.AuthenticationError):
            _chat(stranger, "hi")
        eventually(lambda: len(running.exchanges()) == 7, "everything is recorded")
        yield running


def _chat(client: openai.OpenAI, said: str, model: str = "m", **more: Any) -> Any:
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": said}], **more)


def replay(gateway: Gateway, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    around = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
    own = {"ALICE_KEY": _CANARY, "XDG_RUNTIME_DIR": str(gateway.folder / "run")}
    return subprocess.run(
        [*COMMAND, "replay", str(gateway.folder / "log.jsonl"), *args],
        cwd=ROOT, env={**around, **own, **env}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def view(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _usage(gateway: Gateway, requests: int) -> list[dict[str, Any]]:
    """The usage of the gateway, if it is that of so many requests or more."""
    rows: list[dict[str, Any]] = gateway.admin.get("/usage").json()["rows"]
    return rows if sum(row["requests"] for row in rows) >= requests else []


def test_no_secret_is_recorded(gateway: Gateway, recorder: Recorder) -> None:
    text = recorder.log.read_text()
    assert "canary" not in text
    assert "[redacted]" in text
    assert recorder.log.stat().st_mode & 0o777 == 0o600
    assert b"canary" not in recorder.output()


def test_a_recording_says_what_passed(recorder: Recorder) -> None:
    first, _, _, stream, _, absent, stranger = recorder.exchanges()
    assert (first["model"], first["answer"]["status"]) == ("m", 200)
    assert json.loads(first["request"]["body"]["text"])["messages"][0]["content"] == "one two"
    assert first["usage"]["prompt_tokens"] == 2
    assert stream["usage"]["completion_tokens"] == 6
    times = [at for at, _ in stream["answer"]["events"]]
    assert times == sorted(times)
    assert stream["answer"]["events"][-1][1] == "data: [DONE]\n\n"
    assert [each["answer"]["status"] for each in (absent, stranger)] == [404, 401]


def test_against_the_same_policy_nothing_differs(gateway: Gateway, recorder: Recorder) -> None:
    """But for the request with a wrong key: credentials are not recorded, so it is sent with a good one."""
    before = eventually(lambda: _usage(gateway, 5), "what was recorded is in the ledger")
    args = ("--against", str(gateway.path), "--key", "alice", "--format", "json", "--max-different", "15")
    done = replay(gateway, *args)
    found = view(done)
    assert done.returncode == 0, done.stderr
    assert (found["requests"], found["different"]) == (7, 1)
    worst, *others = found["results"]
    assert (worst["before"]["status"], worst["after"]["status"]) == (401, 200)
    assert found["after"]["statuses"] == {"200": 6, "404": 1}
    assert found["after"]["unpriced"] == 0
    for result in others:
        assert result["before"]["text"] == result["after"]["text"]
        assert result["before"]["calls"] == result["after"]["calls"]
        assert result["after"]["provider"] == (None if result["after"]["status"] == 404 else "p")
        assert result["before"]["cost_usd"] == result["after"]["cost_usd"]
    # The real gateway and its ledger are as they were.
    assert _usage(gateway, 5) == before
    answer = gateway.chat()
    assert answer.status_code == 200
    only_record(gateway, answer.headers["x-request-id"])


def test_against_a_policy_that_routes_elsewhere(gateway: Gateway, recorder: Recorder) -> None:
    """With a baseline both sides are gateways: the request with a wrong key has the same answer on both."""
    elsewhere = gateway.folder / "elsewhere.yaml"
    gateway.write(elsewhere.name, f"version: 1\n{_POLICY}".replace("{m: p, other: q}", "{m: q}"))
    args = ("--against", str(elsewhere), "--baseline", str(gateway.path), "--max-cost", "2")
    done = replay(gateway, *args, COLUMNS="80")
    assert done.returncode == 1, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80, done.stderr
    assert "2 of 7 requests differ (28.6 %), the worst first:" in done.stdout
    ids = [exchange["id"] for exchange in recorder.exchanges()]
    assert done.stdout.index(ids[2]) < done.stdout.index(ids[0])
    assert "  - [p] f({}) (tool_calls)" in done.stdout
    assert '  + [q] weather({"city":"Rome"}) (tool_calls)' in done.stdout
    assert "  + [q] something else entirely (stop)" in done.stdout
    assert "more than 2 times" in done.stdout
    assert "canary" not in done.stdout + done.stderr


def test_against_a_gateway_that_runs(gateway: Gateway, recorder: Recorder) -> None:
    (before,) = eventually(lambda: _usage(gateway, 5), "what was recorded is in the ledger")
    args = ("--against", gateway.url, "--limit", "3", "--format", "json")
    done = replay(gateway, *args, HEADGATE_KEY=_CANARY)
    assert (done.returncode, view(done)["requests"]) == (0, 3), done.stdout
    assert view(replay(gateway, *args))["after"]["statuses"] == {"401": 3}
    eventually(lambda: _usage(gateway, before["requests"] + 3), "what was replayed is in the ledger")


def test_a_recording_is_a_fixture(gateway: Gateway, recorder: Recorder) -> None:
    """The mock answers as it was recorded, with the times of the chunks; what it does not know is a 404."""
    flags = ("--fixtures", str(recorder.log), "--strict", "404")
    with MockProvider(*flags) as mock, openai.OpenAI(base_url=mock.base_url, api_key="x", max_retries=0) as client:
        assert _chat(client, "one two").choices[0].message.content == "You said: one two"
        chunks = list(_chat(client, "a stream of words", model="renamed", stream=True))
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert said == "You said: a stream of words"
        with pytest.raises(openai.NotFoundError):
            _chat(client, "never recorded")


@pytest.mark.parametrize(
    ("log", "args", "said"),
    [
        ("absent.jsonl", (), "No such file"),
        ("wrong.jsonl", (), "wrong.jsonl:2: not JSON"),
        ("log.jsonl", ("--against", "absent.yaml"), "No such file"),
        ("log.jsonl", ("--against", "wrong.yaml"), "unknown-field"),
        ("log.jsonl", ("--key", "bob"), "no key named 'bob'"),
        ("log.jsonl", ("--speed", "fast"), "neither a number above 0 nor"),
    ],
)
def test_wrong_use(gateway: Gateway, recorder: Recorder, log: str, args: tuple[str, ...], said: str) -> None:
    gateway.write("wrong.jsonl", recorder.log.read_bytes().splitlines(keepends=True)[0] + b"{\n")
    gateway.write("wrong.yaml", f"version: 1\n{_POLICY}oops: 1\n")
    against = () if "--against" in args else ("--against", str(gateway.path))
    named = tuple(str(gateway.folder / arg) if arg.endswith(".yaml") else arg for arg in args)
    done = subprocess.run(
        [*COMMAND, "replay", str(gateway.folder / log), *against, *named],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, said in done.stderr + done.stdout) == (2, True), done.stderr


def test_ctrl_c_leaves_nothing(gateway: Gateway, recorder: Recorder) -> None:
    """Also while requests wait for their turn."""
    with tempfile.TemporaryDirectory(prefix="hg-") as folder:
        env = {**os.environ, "ALICE_KEY": _CANARY, "XDG_RUNTIME_DIR": folder, "TMPDIR": folder}
        process = subprocess.Popen(
            [*COMMAND, "replay", str(recorder.log), "--against", str(gateway.path), "--speed", "0.001"],
            cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            eventually(lambda: "envoy" in started(Path(folder)), "its gateway runs", 60)
            pids = started(Path(folder)).values()
            os.kill(process.pid, signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            process.kill()
            process.wait()
        assert not list(Path(folder).glob("headgate-replay-*"))
        assert not list(Path(folder).glob("headgate-*/*"))  # what its gateway had in its run folder
        assert not [pid for pid in pids if alive(pid)]

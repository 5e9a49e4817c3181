"""Servers of vLLM from the control plane's side: how one is started, and what it is asked."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from controlplane.plan.launches import Server
from controlplane.policy.launch import Launch
from controlplane.policy.secrets import Secret, SecretRef
from controlplane.runtime import vllm_client
from controlplane.runtime.folder import RunFolder
from controlplane.runtime.supervise import Supervisor
from controlplane.runtime.vllm import Servers

TOLD: dict[str, Any] = {"model": "./m", "python": "venv/bin/python"}


def launch(**fields: Any) -> Launch:
    return Launch.model_validate({**TOLD, **fields})


@pytest.fixture
def short() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hg-") as folder:
        yield Path(folder)


@asynccontextmanager
async def answering(socket: str, body: str | None, status: int = 200) -> AsyncIterator[None]:
    """A server that says one thing, or (None) nothing at all."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if body is None:
            await reader.read()  # until the other side gives up
        else:
            head = f"HTTP/1.1 {status} OK\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write((head + body).encode())
        writer.close()

    async with await asyncio.start_unix_server(answer, socket):
        yield


GAUGES = """# HELP vllm:num_requests_running Number of requests in model execution batches.
vllm:num_requests_running{engine="0",model_name="m"} 0.0
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 4.0
vllm:num_requests_running{engine="1",model_name="m"} %s
"""


@pytest.mark.parametrize(("told", "idle"), [(GAUGES % "0.0", True), (GAUGES % "2.0", False), ("", True), (None, False)])
async def test_it_is_idle_when_its_engines_have_nothing(
    short: Path, monkeypatch: pytest.MonkeyPatch, told: str | None, *, idle: bool
) -> None:
    monkeypatch.setattr(vllm_client, "_ANSWER_S", 0.2 if told is None else 5.0)
    async with answering(f"{short}/s", told):
        assert await vllm_client.idle(f"{short}/s") == idle
    assert await vllm_client.idle(f"{short}/away")


async def test_it_is_healthy_when_it_says_so(short: Path) -> None:
    async with answering(f"{short}/well", ""), answering(f"{short}/dead", "", 503):
        assert await vllm_client.healthy(f"{short}/well")
        assert not await vllm_client.healthy(f"{short}/dead")
    assert not await vllm_client.healthy(f"{short}/away")


def test_only_what_a_server_must_be_started_anew_for_gives_it_another_socket() -> None:
    sockets = [
        Server("p", launch(**fields)).socket
        for fields in (
            {}, {"drain": "5m", "stop_within": "1m", "ready_within": "1h"}, {"names": ["m"]},
            {"args": ["--seed", 1]}, {"env": {"A": 1}}, {"env": {"A": {"env": "B"}}}, {"names": ["n"]},
        )
    ]  # fmt: skip
    assert len(set(sockets[:3])) == 1
    assert len(set(sockets[2:])) == 5
    assert Server("other", launch()).socket not in sockets


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("./models/llama", ("llama",)),
        ("/models/llama/", ("llama",)),
        ("Qwen/Qwen3-8B", ("Qwen/Qwen3-8B",)),
        ("../x.gguf", ("x.gguf",)),
    ],
)
def test_a_model_is_named_after_its_place(model: str, names: tuple[str, ...]) -> None:
    assert launch(model=model).served == names


async def test_one_whose_interpreter_is_gone_is_an_alarm(short: Path) -> None:
    run = RunFolder(short)
    async with Supervisor(run) as supervisor:
        servers = Servers(run, supervisor, short)
        ref = SecretRef("env", "TOKEN")
        told = launch(env={"HF_TOKEN": {"env": "TOKEN"}})
        compiled: Any = SimpleNamespace(
            plan=SimpleNamespace(servers=(Server("p", told),)), secrets={ref: Secret("very-secret")}
        )
        await servers.conclude(compiled)
        async with asyncio.timeout(30):
            while not (found := await servers.alarms()):  # noqa: ASYNC110 - alarms have no event
                await asyncio.sleep(0.01)
        assert "the server of `p` cannot be started" in found[0]["message"]
        assert "venv/bin/python" in found[0]["message"]
        assert servers.models()[0]["state"] == "failed"
        assert "very-secret" not in repr(servers)
        await servers.close()

"""The real vLLM, launched by the gateway on the processor with a tiny random model: `make test-vllm`.

Slow, since each server takes a minute to start: the order of the tests is that of one life, with few starts.
"""

import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from controlplane.runtime.process import family
from tests.support.gateway import Gateway, alive, eventually
from tests.support.tiny_llama import HIDDEN, make
from tests.support.usage import only_record

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

PYTHON = Path(__file__).resolve().parents[2] / "build/vllm/bin/python"
START_S = 600.0
ASKED: list[Any] = [{"role": "user", "content": "say something"}]
POLICY = """
providers:
  chats:
    kind: vllm
    launch:
      model: ./tiny
      python: {python}
      args: [--enforce-eager, --max-model-len, {length}]
      env: @env
  {embeds}
  fallback: {{kind: mock}}
models:
  tiny: {{try: [chats, fallback]}}
  {model}
  other: fallback
"""
ENV = "{VLLM_CPU_KVCACHE_SPACE: 1, HF_HUB_OFFLINE: 1}"
EMBEDS = f"""embeds:
    kind: vllm
    launch:
      model: ./tiny
      python: {PYTHON}
      names: [tiny-embed]
      args: [--enforce-eager, --max-model-len, 128, --runner, pooling, --convert, embed]
      env: {ENV}"""


def policy(length: int = 512, *, embeds: bool = False) -> str:
    text = POLICY.format(
        python=PYTHON, length=length, embeds=EMBEDS if embeds else "", model="tiny-embed: embeds" if embeds else ""
    )
    return text.replace("@env", ENV)


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    assert PYTHON.exists(), "vLLM is not installed: make test-vllm"
    made = Gateway(policy())
    make(made.folder / "tiny")
    with made:
        yield made


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.base_url, api_key="none", max_retries=0, timeout=120) as made:
        yield made


def ready(gateway: Gateway, provider: str = "chats") -> int:
    """Waits until the server that now runs serves; its pid."""
    name = f"vllm-{provider}"

    def look() -> bool:
        rows = gateway.admin.get("/models").json()["local"]
        assert not gateway.status()["alarms"], gateway.status()["alarms"]
        return any(row["provider"] == provider and row["state"] == "ready" for row in rows)

    eventually(look, f"{provider} is ready", START_S)
    return gateway.process(name)


def fingerprint(gateway: Gateway) -> str:
    """vLLM tells its version; the mock does not."""
    return gateway.chat("tiny").raise_for_status().json().get("system_fingerprint") or ""


def serves(gateway: Gateway) -> int:
    """Waits until requests reach the server, which is when Envoy found it healthy."""
    pid = ready(gateway)
    eventually(lambda: fingerprint(gateway).startswith("vllm-"), "vLLM answers", 30)
    return pid


def test_nothing_waits_while_it_loads(gateway: Gateway) -> None:
    assert gateway.chat("other").status_code == 200
    assert not fingerprint(gateway).startswith("vllm-")
    serves(gateway)


def test_a_streamed_chat_and_its_usage(gateway: Gateway, client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="tiny", messages=ASKED, max_tokens=12, stream=True, stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    chunks = list(stream)
    assert len([chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]) > 1
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens == 12
    record = only_record(gateway, stream.response.headers["x-request-id"])
    assert (record["input"], record["output"]) == (usage.prompt_tokens, usage.completion_tokens)


def test_completions_and_parameters_that_only_vllm_has(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": "once", "max_tokens": 8, "temperature": 0}
    one, other = (client.completions.create(**asked, extra_body={"ignore_eos": True}) for _ in range(2))
    assert one.choices[0].text == other.choices[0].text
    assert one.usage is not None
    assert one.usage.completion_tokens == 8
    chosen = client.chat.completions.create(
        model="tiny", messages=ASKED, extra_body={"structured_outputs": {"choice": ["yes", "no"]}}
    )
    assert chosen.choices[0].message.content in ("yes", "no")


def test_its_errors_reach_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="tiny", messages=ASKED, max_tokens=100_000)
    assert "512" in refused.value.message


def test_an_edit_lets_a_stream_finish(gateway: Gateway, client: openai.OpenAI) -> None:
    before = gateway.process("vllm-chats")
    stream = client.chat.completions.create(
        model="tiny", messages=ASKED, max_tokens=400, stream=True, extra_body={"ignore_eos": True}
    )
    next(stream)
    gateway.apply_edit(policy(256))
    chunks = list(stream)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert not fingerprint(gateway).startswith("vllm-")
    assert serves(gateway) != before
    assert not family(before), "no process of the old server is left"


def test_a_killed_server_fails_over_and_comes_back(gateway: Gateway) -> None:
    before = serves(gateway)
    workers = family(before) - {before}
    assert workers, "its engine is a process of its own"
    os.kill(before, signal.SIGKILL)
    assert not fingerprint(gateway).startswith("vllm-")
    eventually(lambda: not any(alive(pid) for pid in workers), "its processes end with it")
    eventually(lambda: gateway.processes().get("vllm-chats") != before, "another one is started", 30)
    eventually(lambda: fingerprint(gateway).startswith("vllm-"), "vLLM answers again", START_S)


def test_embeddings_of_a_second_server(gateway: Gateway, client: openai.OpenAI) -> None:
    first = gateway.process("vllm-chats")
    gateway.apply_edit(policy(256, embeds=True))
    assert gateway.process("vllm-chats") == first
    ready(gateway, "embeds")
    answer = eventually(lambda: _embedded(client), "embeddings are served", 30)
    one, other = (entry.embedding for entry in answer.data)
    assert len(one) == HIDDEN
    assert math.isclose(sum(x * x for x in one), 1, rel_tol=1e-3)
    assert one != other
    assert answer.usage.prompt_tokens > 0


def test_the_end_of_the_gateway_ends_them_all(gateway: Gateway) -> None:
    pids = [pid for name, pid in gateway.processes().items() if name.startswith("vllm-")]
    families = [family(pid) for pid in pids]
    assert len(families) == 2
    gateway.signal()
    assert gateway.wait(60) == 0
    assert not any(alive(pid) for each in families for pid in each)


def _embedded(client: openai.OpenAI) -> Any:
    try:
        return client.embeddings.create(model="tiny-embed", input=["a cat", "the river"])
    except (openai.APIStatusError, httpx.TransportError):
        return None

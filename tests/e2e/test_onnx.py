"""Local models behind the gateway: true embeddings, their usage, and failover to a provider and back."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sidecars.onnx.convert import convert
from tests.support.gateway import Gateway, eventually
from tests.support.minilm import MINILM, minilm_folder
from tests.support.mock import MockProvider
from tests.support.onnx_service import OnnxService
from tests.support.tiny_models import MODELS, make

pytestmark = pytest.mark.xdist_group("e2e-onnx")

_POLICY = """
providers:
  local: {{kind: openai, base_url: "{local}"}}
  fallback: {{kind: openai, base_url: "{fallback}"}}
models:
  all-minilm-l6-v2:
    try: [{{provider: local}}, {{provider: fallback}}]
    on: [5xx, connect]
  reranker: local
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnnxService]:
    scratch = tmp_path_factory.mktemp("onnx")
    reranker: Path = convert(make(MODELS["reranker"], scratch / "source"), scratch / "reranker").folder
    models = {MINILM: {"path": str(minilm_folder()), "preload": True}, "reranker": {"path": str(reranker)}}
    with OnnxService({"models": models}) as running:
        running.wait_for(lambda: running.http.get("/ready").status_code == 200)
        yield running


@pytest.fixture(scope="module")
def gateway(service: OnnxService) -> Iterator[Gateway]:
    with MockProvider() as mock, Gateway(_POLICY.format(local=f"{service.url}/v1", fallback=mock.base_url)) as running:
        yield running


def test_embeddings_are_true(gateway: Gateway) -> None:
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "The central bank raised interest rates."]
    with gateway.client() as client:
        answer = client.embeddings.create(model=MINILM, input=texts)
    cat, kitten, bank = (np.array(entry.embedding) for entry in answer.data)
    assert cat @ kitten > 0.5
    assert cat @ bank < 0.2
    assert answer.usage.prompt_tokens == 9 + 10 + 9


def test_rerank(gateway: Gateway, service: OnnxService) -> None:
    body = {"model": "reranker", "query": "a cat", "documents": ["a dog", "the cat sleeps", "no"]}
    through = gateway.http.post("/v1/rerank", json=body).json()
    assert through["results"] == service.post("/v1/rerank", body).json()["results"]


def test_errors_reach_the_client_as_they_are(gateway: Gateway) -> None:
    answer = gateway.http.post("/v1/embeddings", json={"model": MINILM, "input": "a", "dimensions": 1000})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "dimensions")


def test_failover_to_a_provider_and_back(gateway: Gateway, service: OnnxService) -> None:
    def width() -> int:
        return len(
            gateway.http.post("/v1/embeddings", json={"model": MINILM, "input": "a"}).json()["data"][0]["embedding"]
        )

    assert width() == 384
    service.kill()
    assert width() == 1536  # the mock's
    service.start()
    eventually(lambda: width() == 384, "the local model serves again", 60)

"""The service over HTTP, as the official client and others use it."""

import base64
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.support.onnx_service import OnnxService

MINILM = "all-minilm-l6-v2"
TINY = ("mean", "cls", "prompted", "reranker", "raw-reranker", "classifier", "topics", "nli", "nli-two")


@pytest.fixture(scope="module")
def service(minilm: Path, tiny: Callable[[str], Path]) -> Iterator[OnnxService]:
    models = {name: {"path": str(tiny(name))} for name in TINY}
    real = {"path": str(minilm), "preload": True}
    with OnnxService({"models": {MINILM: real, **models}, "max_inputs": 64, "max_body_bytes": 2_000_000}) as running:
        yield running


@pytest.fixture
def client(service: OnnxService) -> Iterator[openai.OpenAI]:
    with service.openai() as made:
        yield made


def test_minilm_is_itself(client: openai.OpenAI, expected: dict[str, Any]) -> None:
    answer = client.embeddings.create(model=MINILM, input=expected["texts"])
    vectors = np.array([entry.embedding for entry in answer.data])
    wanted = np.array(expected["models"][MINILM])
    assert np.abs(vectors - wanted).max() < 1e-3
    assert (1 - (vectors * wanted).sum(axis=1)).max() < 1e-4
    assert [entry.index for entry in answer.data] == list(range(len(wanted)))
    assert answer.model == MINILM


def test_usage_counts_what_was_fed(client: openai.OpenAI) -> None:
    usage = client.embeddings.create(model=MINILM, input=["Hello world", "word " * 1000]).usage
    assert usage.prompt_tokens == usage.total_tokens == 4 + 256


def test_floats_and_base64_are_the_same(client: openai.OpenAI, service: OnnxService) -> None:
    plain = client.embeddings.create(model=MINILM, input="Hello", encoding_format="float").data[0].embedding
    body = {"model": MINILM, "input": "Hello", "encoding_format": "base64"}
    packed = service.post("/v1/embeddings", body).json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(packed), "<f4").tolist() == pytest.approx(plain, abs=1e-7)


def test_fewer_dimensions_are_the_first_ones_made_unit(client: openai.OpenAI) -> None:
    whole = client.embeddings.create(model=MINILM, input="Hello").data[0].embedding
    short = client.embeddings.create(model=MINILM, input="Hello", dimensions=8).data[0].embedding
    length = math.sqrt(sum(value * value for value in whole[:8]))
    assert short == pytest.approx([value / length for value in whole[:8]], abs=1e-6)


def test_a_model_that_does_not_normalize_is_only_cut(client: openai.OpenAI) -> None:
    whole = client.embeddings.create(model="cls", input="a cat").data[0].embedding
    short = client.embeddings.create(model="cls", input="a cat", dimensions=3).data[0].embedding
    assert short == pytest.approx(whole[:3], abs=1e-6)


def test_token_ids_are_fed_as_they_are(client: openai.OpenAI) -> None:
    text = client.embeddings.create(model=MINILM, input="Hello world")
    ids = client.embeddings.create(model=MINILM, input=[101, 7592, 2088, 102])
    lists = client.embeddings.create(model=MINILM, input=[[101, 7592, 2088, 102], [101] * 300])
    assert ids.data[0].embedding == pytest.approx(text.data[0].embedding, abs=1e-6)
    assert lists.data[0].embedding == pytest.approx(text.data[0].embedding, abs=1e-6)
    assert (ids.usage.prompt_tokens, lists.usage.prompt_tokens) == (4, 4 + 256)


def test_prompts_are_put_in_front(client: openai.OpenAI) -> None:
    def vector(text: str, prompt: str | None) -> list[float]:
        extra = {"prompt_name": prompt} if prompt else {}
        return client.embeddings.create(model="prompted", input=text, extra_body=extra).data[0].embedding

    assert vector("river", None) == pytest.approx(vector("river", "document"), abs=1e-6)
    assert vector("river", "query") != pytest.approx(vector("river", "document"), abs=1e-3)
    with pytest.raises(openai.BadRequestError, match="it has: query, document"):
        vector("river", "other")


@pytest.mark.parametrize("model", ["reranker", "raw-reranker"])
def test_rerank(service: OnnxService, expected: dict[str, Any], model: str) -> None:
    texts, scores = expected["texts"], expected["models"][model]
    body = {"model": model, "query": expected["query"], "documents": texts}
    found = service.post("/v1/rerank", body).json()
    assert {one["index"]: one["relevance_score"] for one in found["results"]} == pytest.approx(
        dict(enumerate(scores)), abs=1e-4
    )
    order = [one["index"] for one in found["results"]]
    assert order == sorted(order, key=lambda i: -scores[i])
    assert found["usage"]["total_tokens"] == found["usage"]["prompt_tokens"] > 0
    assert found["meta"]["billed_units"] == {"search_units": 1}
    top = service.post("/v1/rerank", {**body, "documents": [{"text": t} for t in texts], "top_n": 2,
                                      "return_documents": True}).json()["results"]  # fmt: skip
    assert [(one["index"], one["document"]) for one in top] == [(i, {"text": texts[i]}) for i in order[:2]]


@pytest.mark.parametrize("model", ["classifier", "topics"])
def test_classify(service: OnnxService, expected: dict[str, Any], model: str) -> None:
    data = service.post("/v1/classify", {"model": model, "input": expected["texts"]}).json()["data"]
    for row, wanted in zip(data, expected["models"][model], strict=True):
        assert row["scores"] == pytest.approx(wanted, abs=1e-4)
        assert (row["label"], row["score"]) == next(iter(row["scores"].items()))
        assert list(row["scores"].values()) == sorted(row["probs"], reverse=True)
    alone = service.post("/v1/classify", {"model": model, "input": expected["texts"][0]}).json()["data"]
    assert alone[0]["scores"] == pytest.approx(data[0]["scores"], abs=1e-5)


def test_nli(service: OnnxService, expected: dict[str, Any]) -> None:
    pairs = [
        {"premise": premise, "hypothesis": hypothesis}
        for premise, hypothesis in zip(expected["premises"], expected["hypotheses"], strict=True)
    ]
    found = service.post("/v1/nli", {"model": "nli", "input": pairs}).json()
    wanted = [{k.lower(): v for k, v in row.items()} for row in expected["models"]["nli"]["nli"]]
    assert [row["scores"] for row in found["data"]] == [pytest.approx(row, abs=1e-4) for row in wanted]
    assert set(found["data"][0]["scores"]) == {"entailment", "neutral", "contradiction"}
    alone = service.post("/v1/nli", {"model": "nli", "input": pairs[0]}).json()["data"]
    assert alone[0]["scores"] == pytest.approx(wanted[0], abs=1e-4)


@pytest.mark.parametrize("model", ["nli", "nli-two"])
@pytest.mark.parametrize("multi", [False, True])
def test_zero_shot(service: OnnxService, expected: dict[str, Any], model: str, multi: bool) -> None:
    body = {"model": model, "input": expected["premises"], "labels": expected["labels"], "multi_label": multi,
            "hypothesis_template": expected["template"]}  # fmt: skip
    data = service.post("/v1/classify", body).json()["data"]
    wanted = expected["models"][model]["zero_shot_multi" if multi else "zero_shot"]
    assert [row["scores"] for row in data] == [pytest.approx(row, abs=1e-4) for row in wanted]


def test_models_are_listed(client: openai.OpenAI, service: OnnxService) -> None:
    assert {model.id for model in client.models.list()} == {MINILM, *TINY}
    assert client.models.retrieve("nli").id == "nli"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nly")
    described = {one["model"]: one for one in service.http.get("/models").json()["models"]}
    one = described[MINILM]
    assert (one["state"], one["task"], one["dimensions"], one["max_tokens"]) == ("ready", "embed", 384, 256)
    assert (one["device"], one["threads"]) == ("cpu", 1)


def test_load_and_unload_by_hand(service: OnnxService) -> None:
    for _ in range(2):
        assert service.post("/models/topics/load", None).json()["labels"] == ["rivers", "films", "animals"]
        assert service.http.get("/ready/topics").status_code == 200
        assert service.post("/models/topics/unload", None).json()["state"] == "available"
        assert service.http.get("/ready/topics").status_code == 503
    assert service.post("/models/nothing/load", None).status_code == 404


def test_health_and_readiness(service: OnnxService) -> None:
    assert service.http.get("/health").json() == {"status": "ok"}
    service.wait_for(lambda: service.http.get("/ready").status_code == 200)
    assert service.http.get("/ready").json()["models"][MINILM] == "ready"


def test_the_unix_socket_serves_the_same(service: OnnxService) -> None:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(service.socket)), base_url="http://onnx") as client:
        answer = client.post("/v1/embeddings", content=b'{"model":"mean","input":"a cat"}', timeout=60)
    assert len(answer.json()["data"][0]["embedding"]) == 32


def test_metrics_count(service: OnnxService) -> None:
    def count(name: str) -> float:
        lines = service.http.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    asked = 'headgate_onnx_requests_total{model="mean",operation="embeddings",status="200"}'
    before, tokens = count(asked), count('headgate_onnx_tokens_total{model="mean"}')
    used = service.post("/v1/embeddings", {"model": "mean", "input": ["a cat", "no"]}).json()["usage"]["total_tokens"]
    assert count(asked) == before + 1
    assert count('headgate_onnx_tokens_total{model="mean"}') == tokens + used
    assert count('headgate_onnx_model_state{model="mean",state="ready"}') == 1


def test_every_answer_has_its_request_id(service: OnnxService) -> None:
    given = service.http.get("/health", headers={"x-request-id": "abc"}).headers
    made = service.http.get("/nowhere").headers
    assert given["x-request-id"] == "abc"
    assert made["x-request-id"].startswith("req_")


def test_priorities_are_known(service: OnnxService) -> None:
    body = {"model": "mean", "input": "a cat"}
    for name in ("high", "normal", "low"):
        assert service.post("/v1/embeddings", body, **{"x-headgate-priority": name}).status_code == 200
    refused = service.post("/v1/embeddings", body, **{"x-headgate-priority": "vip"})
    assert refused.status_code == 400
    assert "high, normal, low" in refused.json()["error"]["message"]


WRONG: list[tuple[str, Any, int, str | None, str]] = [
    ("embeddings", {"model": "men", "input": "a"}, 404, "model", "Did you mean 'mean'?"),
    ("embeddings", {"input": "a"}, 400, "model", "Missing required parameter: 'model'."),
    ("embeddings", {"model": "mean"}, 400, "input", "Missing required parameter: 'input'."),
    ("embeddings", {"model": "mean", "input": []}, 400, "input", "not empty"),
    ("embeddings", {"model": "mean", "input": ["a", 1]}, 400, "input", "expected a string"),
    ("embeddings", {"model": "mean", "input": [[1], []]}, 400, "input", "expected a string"),
    ("embeddings", {"model": "mean", "input": [True]}, 400, "input", "expected a string"),
    ("embeddings", {"model": "mean", "input": [-1]}, 400, "input", "from 0 to"),
    ("embeddings", {"model": "mean", "input": [10**6]}, 400, "input", "from 0 to"),
    ("embeddings", {"model": "mean", "input": ["a"] * 65}, 400, "input", "at most 64"),
    ("embeddings", {"model": "mean", "input": "a", "dimensions": 33}, 400, "dimensions", "32 at most"),
    ("embeddings", {"model": "mean", "input": "a", "dimensions": 0}, 400, "dimensions", "greater than"),
    ("embeddings", {"model": "mean", "input": "a", "encoding_format": "hex"}, 400, "encoding_format", "'base64'"),
    ("embeddings", {"model": "mean", "input": "a", "temperature": 1}, 400, "temperature", "Unknown parameter"),
    ("embeddings", {"model": "nli", "input": "a"}, 400, "model", "is for /v1/nli"),
    ("embeddings", [], 400, None, "not a JSON object"),
    ("rerank", {"model": "mean", "query": "a", "documents": ["b"]}, 400, "model", "is for /v1/embeddings"),
    ("rerank", {"model": "reranker", "query": "a", "documents": []}, 400, "documents", "at least 1"),
    ("rerank", {"model": "reranker", "query": "a", "documents": [1]}, 400, "documents[0]", "valid string"),
    ("rerank", {"model": "reranker", "query": "a", "documents": ["b"], "top_n": 0}, 400, "top_n", "greater than"),
    ("classify", {"model": "classifier", "input": "a", "labels": ["b"]}, 400, "labels", "labels of its own"),
    ("classify", {"model": "nli", "input": "a"}, 400, "labels", "is required"),
    ("classify", {"model": "nli", "input": "a", "labels": ["b", "b"]}, 400, "labels", "twice"),
    ("classify", {"model": "nli", "input": ["a"] * 9, "labels": list("abcdefgh")}, 400, "labels", "72 sequences"),
    ("classify", {"model": "nli", "input": "a", "labels": ["b"], "hypothesis_template": "x"}, 400,
     "hypothesis_template", "one {}"),
    ("classify", {"model": "classifier", "input": "a", "multi_label": True}, 400, "multi_label", "is for NLI models"),
    ("classify", {"model": "classifier", "input": "a", "hypothesis_template": "{}"}, 400, "hypothesis_template",
     "is for NLI models"),
    ("classify", {"model": "classifier", "input": ["a", 1]}, 400, "input[1]", "valid string"),
    ("embeddings", {"model": "prompted", "input": [5], "prompt_name": "query"}, 400, "prompt_name", "texts only"),
    ("embeddings", {"model": "mean", "input": None}, 400, "input", "expected a string"),
    ("embeddings", {"model": "mean", "input": "a", "other": None}, 400, "other", "Unknown parameter"),
    ("nli", {"model": "nli", "input": ["a", "b"]}, 400, "input[0]", "an object"),
    ("nli", {"model": "nli", "input": {"premise": "a"}}, 400, "input.hypothesis", "Missing"),
    ("nli", {"model": "nli", "input": []}, 400, "input", "at least 1"),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "body", "status", "param", "says"), WRONG)
def test_wrong_requests_are_told(
    service: OnnxService, operation: str, body: Any, status: int, param: str | None, says: str
) -> None:
    answer = service.post(f"/v1/{operation}", body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert says in error["message"]
    assert error["type"] == "invalid_request_error"
    assert isinstance(error["code"], str)


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("embeddings", {"model": "mean", "input": "a", "encoding_format": None, "dimensions": None, "user": None}),
        ("rerank", {"model": "raw-reranker", "query": "a", "documents": ["b"], "return_documents": None}),
        ("classify", {"model": "classifier", "input": "a", "labels": None, "multi_label": None}),
    ],
)
def test_null_says_nothing(service: OnnxService, operation: str, body: dict[str, Any]) -> None:
    found, wanted = (
        service.post(f"/v1/{operation}", each).raise_for_status().json() | {"id": ""}
        for each in (body, {name: value for name, value in body.items() if value is not None})
    )
    assert found == wanted


def test_bodies_that_are_no_json_or_too_large(service: OnnxService) -> None:
    broken = service.http.post("/v1/embeddings", content=b'{"model":')
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_request")
    large = service.post("/v1/embeddings", {"model": "mean", "input": "a" * 2_000_000})
    assert (large.status_code, large.json()["error"]["code"]) == (413, "request_too_large")


def test_unknown_places(service: OnnxService) -> None:
    assert service.http.get("/v1/nothing").json()["error"]["code"] == "unknown_url"
    wrong = service.http.get("/v1/embeddings")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")


def test_a_hundred_thousand_tokens_are_cut(service: OnnxService) -> None:
    text = "word " * 100_000
    usage = service.post("/v1/embeddings", {"model": MINILM, "input": [text]}).json()["usage"]
    assert usage["prompt_tokens"] == 256
    ids = [7592] * 100_000
    assert service.post("/v1/embeddings", {"model": MINILM, "input": ids}).json()["usage"]["prompt_tokens"] == 256

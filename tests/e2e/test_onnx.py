"""Local models as a provider: true numbers through the gateway, and what becomes of requests when a model is away."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from controlplane.cli.main import app
from sidecars.onnx.convert import convert
from tests.support.gateway import Gateway, alive, eventually
from tests.support.minilm import MINILM, minilm_folder
from tests.support.tiny_decoder import make_decoder
from tests.support.tiny_models import MODELS, make
from tests.support.usage import alarms, only_record

EXPECTED = json.loads((Path(__file__).parents[1] / "unit/onnx/expected.json").read_text())
CHATS = json.loads((Path(__file__).parents[1] / "unit/onnx/expected_generate.json").read_text())["chats"]
SERVICE = "onnx-here"
_MODELS = """
      all-minilm-l6-v2: {path: MINILM}
      narrow: {path: MINILM, max_requests: 1}
      reranker: {path: models/reranker}
      classifier: {path: models/classifier}
      nli: {path: models/nli}
      broken: {path: models/broken}
      writer: {path: models/writer, max_output_tokens: 48}
"""
_POLICY = """
providers:
  here:
    kind: onnx
    threads: 1
    models:
{models}
  fake: {{kind: mock}}
models:
  all-minilm-l6-v2: {{try: [here, fake]}}
  narrow: {{provider: here, retries: 0}}
  overflowing: {{try: [{{provider: here, model: narrow}}, fake]}}
  guarded: {{try: [{{provider: here, model: broken}}, fake]}}
  broken: {{provider: here, retries: 0}}
  reranker: here
  classifier: here
  writer: here
  "nli*": here
  held: fake
keys:
  alice: {{secret: {{env: ALICE}}, priority: low}}
  bob: {{secret: {{env: BOB}}, models: ["nli*", guarded]}}
"""
LONG = ["the river is not blue " * 20] * 64  # takes a while
ALICE, BOB = "sk-alice-0123456789", "sk-bob-0123456789"


def policy(more: str = "") -> str:
    return _POLICY.format(models=_MODELS.replace("MINILM", str(minilm_folder())).strip("\n") + more)


@pytest.fixture
def gateway(started: Gateway) -> Gateway:
    """With the policy above, whatever a test before has made of it."""
    if started.path.read_text() != started.text(policy()):
        started.apply_edit(policy())
    return started


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    scratch = tmp_path_factory.mktemp("onnx")
    made = Gateway(policy(), env={"ALICE": ALICE, "BOB": BOB}, key=ALICE)
    try:
        for name in ("reranker", "classifier", "nli"):
            convert(make(MODELS[name], scratch / name), made.folder / "models" / name)
        make_decoder(made.folder / "models" / "writer")
        shutil.copytree(made.folder / "models" / "nli", made.folder / "models" / "broken")
        (made.folder / "models" / "broken" / "model.onnx").write_bytes(b"no graph")
        with made:
            yield made
    finally:
        shutil.rmtree(made.folder, ignore_errors=True)


def ask(gateway: Gateway, path: str, body: dict[str, Any], key: str = ALICE, **headers: str) -> httpx.Response:
    return gateway.http.post(path, json=body, headers={"authorization": f"Bearer {key}", **headers}, timeout=60)


def embed(gateway: Gateway, model: str, texts: list[str]) -> httpx.Response:
    return ask(gateway, "/v1/embeddings", {"model": model, "input": texts})


def local(gateway: Gateway, model: str) -> dict[str, Any]:
    rows = gateway.admin.get("/models").raise_for_status().json()["local"]
    found: dict[str, Any] = next(row for row in rows if row["model"] == model)
    return found


def in_work(gateway: Gateway, pool: ThreadPoolExecutor, model: str, count: int) -> list[Future[httpx.Response]]:
    """So many long requests, of which the model has some left to do; those that ended unseen are asked again."""

    def look() -> list[Future[httpx.Response]]:
        requests = [pool.submit(embed, gateway, model, LONG) for _ in range(count)]
        while not all(each.done() for each in requests):
            if local(gateway, model)["waiting_tokens"]:
                return requests
        return []

    return eventually(look, "requests are in work")


def test_embeddings_are_those_of_the_reference(gateway: Gateway) -> None:
    with gateway.client() as client:
        answer = client.embeddings.create(model=MINILM, input=EXPECTED["texts"])
    found = np.array([entry.embedding for entry in answer.data])
    assert np.abs(found - np.array(EXPECTED["models"][MINILM])).max() < 1e-4
    assert answer.usage.prompt_tokens > 256  # the long text was cut there


def test_rerank_classify_and_nli(gateway: Gateway) -> None:
    ranked = ask(
        gateway,
        "/v1/rerank",
        {"model": "reranker", "query": EXPECTED["query"], "documents": EXPECTED["texts"]},
    )
    scores = {one["index"]: one["relevance_score"] for one in ranked.json()["results"]}
    assert scores == pytest.approx(dict(enumerate(EXPECTED["models"]["reranker"])), abs=1e-4)
    classified = ask(gateway, "/v1/classify", {"model": "classifier", "input": EXPECTED["texts"]})
    for row, wanted in zip(classified.json()["data"], EXPECTED["models"]["classifier"], strict=True):
        assert row["scores"] == pytest.approx(wanted, abs=1e-4)
    pairs = zip(EXPECTED["premises"], EXPECTED["hypotheses"], strict=True)
    body = {"model": "nli", "input": [{"premise": one, "hypothesis": other} for one, other in pairs]}
    inferred = ask(gateway, "/v1/nli", body, BOB)
    for row, wanted in zip(inferred.json()["data"], EXPECTED["models"]["nli"]["nli"], strict=True):
        assert row["scores"] == pytest.approx({name.lower(): score for name, score in wanted.items()}, abs=1e-4)
    for answer in (ranked, classified, inferred):
        fed = answer.json()["usage"]["prompt_tokens"]
        assert only_record(gateway, answer.headers["x-request-id"])["input"] == fed


def test_chats_whole_and_streamed_are_those_of_the_reference(gateway: Gateway) -> None:
    with gateway.client() as client:
        for one in CHATS:
            asked: dict[str, Any] = {"model": "writer", "messages": one["messages"], "temperature": 0}
            whole = client.chat.completions.create(**asked)
            chunks = list(client.chat.completions.create(**asked, stream=True))
            assert whole.choices[0].message.content == one["text"]
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == one["text"]
    tokens = [2 * sum(one["prompt_tokens"] for one in CHATS), 2 * sum(len(one["tokens"]) for one in CHATS)]

    def counted() -> bool:
        rows = gateway.admin.get("/usage", params={"by": "model"}).json()["rows"]
        return [[row["input_tokens"], row["output_tokens"]] for row in rows if row["model"] == "writer"] == [tokens]

    eventually(counted, "usage has what was fed and generated")


def test_clients_errors(gateway: Gateway) -> None:
    wrong = ask(gateway, "/v1/embeddings", {"model": MINILM, "input": "a", "dimensions": 1000})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "dimensions")
    other = ask(gateway, "/v1/nli", {"model": "reranker", "input": []})
    assert other.status_code == 400
    assert ask(gateway, "/v1/classify", {"model": "classifier", "input": "a"}, BOB).status_code == 403
    pair = {"premise": "a", "hypothesis": "a"}
    unknown = ask(gateway, "/v1/nli", {"model": "nli-other", "input": pair}, BOB)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


def test_a_model_that_fails_stops_no_other(gateway: Gateway) -> None:
    refused = embed(gateway, "broken", ["a"])
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")
    assert int(refused.headers["retry-after"]) > 0
    assert len(embed(gateway, "guarded", ["a"]).json()["data"][0]["embedding"]) == 1536  # the mock's
    assert len(embed(gateway, MINILM, ["a"]).json()["data"][0]["embedding"]) == 384
    alarm = eventually(lambda: alarms(gateway).get("model"), "an alarm")
    assert "`broken` of `here` failed" in str(alarm)


def test_a_full_queue_is_429_or_the_next_target(gateway: Gateway) -> None:
    with ThreadPoolExecutor() as pool:

        def meanwhile(model: str) -> httpx.Response | None:
            """The answer to a short request, if it came before the one to a long one."""
            (first,) = in_work(gateway, pool, "narrow", 1)
            found = embed(gateway, model, ["a"])
            early = not first.done()
            assert first.result().status_code == 200
            return found if early else None

        refused = eventually(lambda: meanwhile("narrow"), "another request comes meanwhile")
        instead = eventually(lambda: meanwhile("overflowing"), "another request comes meanwhile")
    assert refused is not None and instead is not None
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert int(refused.headers["retry-after"]) > 0
    assert len(instead.json()["data"][0]["embedding"]) == 1536


def test_unload_while_requests_are_in_flight(gateway: Gateway) -> None:
    with ThreadPoolExecutor() as pool:
        requests = in_work(gateway, pool, MINILM, 2)
        gone = CliRunner().invoke(app, ["models", "unload", MINILM, "--server", gateway.admin_url])
        assert (gone.exit_code, gone.output.strip()) == (0, f"here/{MINILM} is available")
        assert [len(each.result().json()["data"]) for each in requests] == [len(LONG)] * 2
    again = CliRunner().invoke(app, ["models", "load", MINILM, "--server", gateway.admin_url, "--format", "json"])
    assert (again.exit_code, json.loads(again.stdout)["state"]) == (0, "ready")
    wrong = gateway.admin.post("/models/load", json={"model": "all-minilm"})
    assert wrong.status_code == 404 and "did you mean `all-minilm-l6-v2`" in wrong.text
    assert gateway.admin.post("/models/load", json={"model": "broken"}).status_code == 503
    listed = CliRunner().invoke(app, ["models", "--server", gateway.admin_url])
    assert f"here/{MINILM}" in listed.stdout and "failed" in listed.stdout


def test_the_key_decides_on_the_priority_not_the_client(gateway: Gateway) -> None:
    words = ("--models", "guarded", "--priority", "high", "--format", "json")
    issued = json.loads(gateway.ctl("keys", "issue", "carla", *words).stdout)["secret"]
    found = []
    with mock(gateway) as http:
        for key in (ALICE, BOB, issued):
            body, forged = {"model": "guarded", "input": "a"}, {"x-headgate-priority": "high"}
            assert ask(gateway, "/v1/embeddings", body, key, **forged).status_code == 200
            headers = dict(http.get("/mock/requests?last=1").json()["requests"][0]["headers"])
            found.append(headers.get("x-headgate-priority"))
    assert found == ["low", None, "high"]
    (row,) = json.loads(gateway.ctl("keys", "list", "--format", "json").stdout)["rows"]
    assert row["priority"] == "high"


def mock(gateway: Gateway) -> httpx.Client:
    (socket,) = gateway.folder.glob("run/headgate-*/*/mock.sock")
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://mock")


def test_an_edit_adds_a_model_without_a_restart(gateway: Gateway) -> None:
    before = gateway.process(SERVICE)
    gateway.apply_edit(policy("\n      nli-more: {path: models/nli}"))
    body = {"model": "nli-more", "input": {"premise": "a dog runs", "hypothesis": "the cat is red"}}
    assert ask(gateway, "/v1/nli", body).status_code == 200
    gateway.apply_edit(policy())
    eventually(lambda: ask(gateway, "/v1/nli", body).status_code == 404, "the model is gone")
    assert gateway.process(SERVICE) == before
    gateway.apply_edit(policy("\n    tokenizer_threads: 1"))
    assert gateway.process(SERVICE) != before
    # Where starting takes long, Envoy has found out and looks again soon.
    eventually(lambda: ask(gateway, "/v1/nli", {**body, "model": "nli"}).status_code == 200, "it serves again")


def test_a_folder_that_is_not_there_is_refused(gateway: Gateway) -> None:
    wrong = gateway.text(policy("\n      other: {path: models/other}"))
    refused = gateway.admin.post("/apply", json={"policy": wrong})
    assert refused.status_code == 422
    (told,) = [each for each in refused.json()["diagnostics"] if each["severity"] == "error"]
    assert (told["code"], told["path"]) == ("absent-model", "providers.here.models.other.path")


def test_failover_from_a_killed_service_and_back(gateway: Gateway) -> None:
    def width() -> int:
        return len(embed(gateway, MINILM, ["a"]).json()["data"][0]["embedding"])

    def killed() -> bool:
        """Whether the mock answers once the service is killed, which is soon started again."""
        os.kill(gateway.process(SERVICE), signal.SIGKILL)
        found = width() == 1536
        eventually(lambda: width() == 384, "the local model serves again", 60)
        return found

    eventually(lambda: width() == 384, "the local model serves", 60)
    eventually(killed, "the next target answers", 120)
    assert any(
        each["name"] == "service" and "was started again" in each["message"] for each in gateway.status()["alarms"]
    )


def test_requests_are_served_to_the_end_of_the_drain(gateway: Gateway) -> None:
    body = {"model": "held", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    sent = {"authorization": f"Bearer {ALICE}", "x-mock-chunks": "600", "x-mock-chunk-delay": "100ms"}
    with ThreadPoolExecutor() as pool:
        with gateway.http.stream("POST", "/v1/chat/completions", json=body, headers=sent):  # which keeps it draining
            requests = in_work(gateway, pool, MINILM, 2)
            gateway.signal()
            eventually(lambda: gateway.http.get("/health").status_code == 503, "the gateway drains")
            assert ask(gateway, "/v1/classify", {"model": "classifier", "input": "a"}).status_code == 200
        widths = {len(entry["embedding"]) for each in requests for entry in each.result().json()["data"]}
    assert (widths, gateway.wait()) == ({384}, 0)
    gateway.start()


def test_the_next_control_plane_adopts_it_and_stops_what_it_does_not_need(gateway: Gateway) -> None:
    service = gateway.process(SERVICE)
    gateway.kill()
    gateway.start()
    assert gateway.process(SERVICE) == service
    gateway.kill()
    gateway.edit("providers: {fake: {kind: mock}}\nmodels: {m: fake}")
    gateway.start()
    eventually(lambda: not alive(service), "the service is stopped", 60)
    eventually(lambda: SERVICE not in gateway.processes(), "and no record is left of it")

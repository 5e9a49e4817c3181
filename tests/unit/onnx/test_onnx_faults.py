"""What is wrong with one model is told clearly, and the others keep serving."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.broken_models import WORD, with_nan, without_memory
from tests.support.onnx_service import ROOT, OnnxService

Folder = Callable[[str], Path]


def _copy(source: Path, folder: Path) -> Path:
    return Path(shutil.copytree(source, folder))


@pytest.fixture(scope="module")
def broken(tiny: Folder, tiny_source: Folder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Settings of one good model and of many that are not."""
    at = tmp_path_factory.mktemp("broken")
    mean = tiny("mean")
    folders = {name: _copy(mean, at / name) for name in (
        "no-tokenizer", "bad-tokenizer", "no-config", "bad-config", "no-onnx", "corrupt", "cut", "several", "pooling",
        "modules", "labels",
    )}  # fmt: skip
    (folders["no-tokenizer"] / "tokenizer.json").unlink()
    (folders["bad-tokenizer"] / "tokenizer.json").write_text('{"version": "1.0"}')
    (folders["no-config"] / "config.json").unlink()
    (folders["bad-config"] / "config.json").write_text("{")
    (folders["no-onnx"] / "model.onnx").unlink()
    (folders["corrupt"] / "model.onnx").write_bytes(b"this is no protobuf" * 100)
    (folders["cut"] / "model.onnx").write_bytes((mean / "model.onnx").read_bytes()[:5000])
    (folders["several"] / "model.onnx").rename(folders["several"] / "one.onnx")
    shutil.copy(folders["several"] / "one.onnx", folders["several"] / "two.onnx")
    (folders["pooling"] / "1_Pooling" / "config.json").write_text('{"pooling_mode_weightedmean_tokens": true}')
    (folders["modules"] / "modules.json").write_text('[{"type": "sentence_transformers.models.Dense", "path": ""}]')
    settings: dict[str, dict[str, Any]] = {name: {"path": str(folder)} for name, folder in folders.items()}
    settings["labels"] = {"path": str(tiny("classifier")), "labels": ["one", "two"]}
    settings["good"] = {"path": str(mean), "preload": True}
    settings["nan"] = {"path": str(with_nan(tiny_source("mean"), at / "nan"))}
    settings["memory"] = {"path": str(without_memory(mean, at / "memory"))}
    settings["tpu"] = {"path": str(mean), "device": "tpu"}
    settings["cuda"] = {"path": str(mean), "device": "cuda:0"}
    settings["absent"] = {"path": str(at / "absent")}
    settings["two-files"] = {"path": str(folders["several"]), "file": "two.onnx"}
    return settings


@pytest.fixture(scope="module")
def service(broken: dict[str, dict[str, Any]]) -> Iterator[OnnxService]:
    with OnnxService({"models": broken}) as running:
        yield running


def _embed(service: OnnxService, model: str, given: Any = "a cat") -> httpx.Response:
    return service.post("/v1/embeddings", {"model": model, "input": given})


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("no-tokenizer", "its folder has no tokenizer.json"),
        ("bad-tokenizer", "tokenizer.json cannot be read"),
        ("no-config", "its folder has no config.json"),
        ("bad-config", "config.json is not valid JSON"),
        ("no-onnx", "no ONNX file"),
        ("corrupt", "model.onnx cannot be loaded"),
        ("cut", "model.onnx cannot be loaded"),
        ("several", "name one as `file`: one.onnx, two.onnx"),
        ("pooling", "pooling_mode_weightedmean_tokens is not served"),
        ("modules", "modules that are not served: Dense"),
        ("labels", "gives 3 logits and has 2 labels"),
        ("tpu", "the device 'tpu' is not known; expected cpu, cuda or cuda:N"),
        ("cuda", "has no CUDAExecutionProvider"),
        ("absent", "its folder does not exist"),
    ],
)
def test_what_cannot_be_loaded_says_why(
    service: OnnxService, broken: dict[str, dict[str, Any]], model: str, says: str
) -> None:
    answer = _embed(service, model)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (503, "model_unavailable", "server_error")
    assert says in error["message"]
    assert int(answer.headers["retry-after"]) >= 1
    assert broken[model]["path"] not in error["message"]  # where it is on the machine is nobody's business
    assert service.state(model) == "failed"
    assert says in service.http.get(f"/ready/{model}").json()["why"]
    assert _embed(service, "good").status_code == 200


def test_a_file_can_be_chosen(service: OnnxService) -> None:
    assert _embed(service, "two-files").json()["data"] == _embed(service, "good").json()["data"]


def test_what_is_no_number_is_an_error_of_that_request_only(service: OnnxService) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda text: _embed(service, "nan", text), ["a cat", f"a {WORD} cat"] * 8))
    assert [answer.status_code for answer in answers] == [200, 500] * 8
    assert answers[1].json()["error"]["code"] == "inference_failed"
    assert "not a number" in answers[1].json()["error"]["message"]


def test_too_little_memory_is_an_error_of_that_request_only(service: OnnxService) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda text: _embed(service, "memory", text), ["a cat", f"a {WORD} cat"] * 8))
    assert [answer.status_code for answer in answers] == [200, 503] * 8
    assert answers[1].json()["error"]["code"] == "out_of_memory"
    assert _embed(service, "good").status_code == 200


class Slow:
    """A model whose folder gives its config.json only when it is told to: until then it is loading."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.path = _copy(source, folder)
        self._config = (self.path / "config.json").read_bytes()
        (self.path / "config.json").unlink()
        os.mkfifo(self.path / "config.json")

    def release(self) -> None:
        (self.path / "config.json").write_bytes(self._config)


@contextmanager
def _asking(service: OnnxService, count: int) -> Iterator[list[httpx.Response]]:
    """So many requests in work for the model `slow`; at the end their answers are in the list."""
    answers: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(_embed(service, "slow"))) for _ in range(count)]
    for thread in threads:
        thread.start()
    service.wait_for(lambda: service.http.get("/ready/slow").json()["open_requests"] == count)
    yield answers
    for thread in threads:
        thread.join(60)


def test_while_a_model_loads_others_serve_and_its_queue_is_bounded(tiny: Folder, tmp_path: Path) -> None:
    slow = Slow(tiny("mean"), tmp_path / "slow")
    models = {"slow": {"path": str(slow.path), "max_requests": 2}, "good": {"path": str(tiny("cls"))}}
    with OnnxService({"models": models}) as service:
        with _asking(service, 2) as answers:
            assert service.state("slow") == "loading"
            assert _embed(service, "good").status_code == 200
            refused = _embed(service, "slow")
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
            assert int(refused.headers["retry-after"]) >= 1
            slow.release()
        assert [answer.status_code for answer in answers] == [200, 200]


def test_a_client_that_leaves_is_forgotten(tiny: Folder, tmp_path: Path) -> None:
    slow = Slow(tiny("mean"), tmp_path / "slow")
    with OnnxService({"models": {"slow": {"path": str(slow.path)}}}) as service:
        with pytest.raises(httpx.ReadTimeout):
            service.http.post("/v1/embeddings", json={"model": "slow", "input": "a cat"}, timeout=0.5)
        service.wait_for(lambda: service.http.get("/ready/slow").json()["open_requests"] == 0)
        left = 'operation="embeddings",status="499"} 1.0'
        service.wait_for(lambda: left in service.http.get("/metrics").text)
        slow.release()


def test_told_to_stop_it_answers_what_is_in_work_first(tiny: Folder, tmp_path: Path) -> None:
    slow = Slow(tiny("mean"), tmp_path / "slow")
    with OnnxService({"models": {"slow": {"path": str(slow.path)}}}) as service:
        with _asking(service, 3) as answers:
            service.terminate()
            slow.release()
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert service.wait() == 0
        assert service.log()[-1]["event"] == "onnx: stopped"
        assert not service.socket.exists()


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("{", "Invalid JSON"),
        ('{"version": 2, "models": {}}', "version"),
        ('{"version": 1, "models": {"a": {"path": "x", "treads": 2}}}', "models.a.treads"),
        ('{"version": 1, "models": {"a": {"path": "x", "batch_tokens": 0}}}', "models.a.batch_tokens"),
        ('{"version": 1, "models": {}, "memory_bytes": {"gpu": 1}}', "the device 'gpu' is not known"),
    ],
)
def test_settings_that_are_wrong_end_it_at_once(tmp_path: Path, document: str, says: str) -> None:
    (tmp_path / "settings.json").write_text(document)
    command = [sys.executable, "-m", "sidecars.onnx", "--listen", "127.0.0.1:0"]
    done = subprocess.run([*command, "--settings", str(tmp_path / "settings.json")], cwd=ROOT, capture_output=True,
                          text=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_runtime_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"version": 1, "models": {}}')
    script = "import sys; sys.modules['onnxruntime'] = None; from sidecars.onnx.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "--listen", "127.0.0.1:0", "--settings", str(tmp_path / "settings.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "onnxruntime" in done.stderr
    assert "headgate[onnx]" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_follows_its_settings(tiny: Folder) -> None:
    with OnnxService({"models": {"one": {"path": str(tiny("mean"))}}}) as service:
        assert _embed(service, "one").status_code == 200
        service.edit({"models": {"two": {"path": str(tiny("cls")), "preload": True}}})
        service.wait_for(lambda: service.http.get("/ready").json()["models"] == {"two": "ready"})
        assert _embed(service, "one").status_code == 404
        service.edit({"models": {"two": {"path": 1}}})
        service.wait_for(lambda: any("new settings cannot be used" in line["event"] for line in service.log()))
        assert _embed(service, "two").status_code == 200

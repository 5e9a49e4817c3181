"""What is wrong with one model that generates is told clearly, and the others keep serving."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sidecars.onnx.generate import native
from sidecars.onnx.generate.card import Defaults, read_generator_card
from sidecars.onnx.loaded import UnusableError, load, look
from sidecars.onnx.metrics import Metrics
from sidecars.onnx.settings import ModelSettings, Task
from tests.support.broken_models import decoder_with_nan, decoder_without_memory
from tests.support.onnx_service import OnnxService
from tests.support.tiny_decoder import Decoder, make_decoder

BAD = 100  # a token that makes a run fail
Edit = Callable[[dict[str, Any]], Any]


def _edited(source: Path, folder: Path, edit: Edit) -> Path:
    shutil.copytree(source, folder)
    config = json.loads((folder / "genai_config.json").read_text())
    edit(config)
    (folder / "genai_config.json").write_text(json.dumps(config))
    return folder


EDITS: dict[str, tuple[Edit, str]] = {
    "no-model": (lambda config: config.pop("model"), "has no section model"),
    "no-decoder": (lambda config: config["model"].pop("decoder"), "has no section model.decoder"),
    "no-context": (lambda config: config["model"].pop("context_length"), "has no model.context_length"),
    "no-vocabulary": (lambda config: config["model"].update(vocab_size=0), "no model.vocab_size"),
    "vision": (lambda config: config["model"].update(vision={}), "more than text (vision)"),
    "no-file": (lambda config: config["model"]["decoder"].update(filename="other.onnx"), "has no other.onnx"),
    "wrong-type": (lambda config: config["model"].update(type="abacus"), "model.onnx cannot be loaded on cpu"),
    "wrong-field": (lambda config: config["model"].update(wheels=4), "wheels"),
    "wrong-names": (lambda config: config["model"]["decoder"]["outputs"].update(logits="x"), "first run failed"),
    "end-outside": (lambda config: config["model"].update(eos_token_id=[10**6]), "eos_token_id"),
}


@pytest.fixture(scope="module")
def broken(decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], str]]:
    """Settings of models that cannot be loaded, and what is said of each."""
    at = tmp_path_factory.mktemp("broken")
    found: dict[str, tuple[dict[str, Any], str]] = {
        name: ({"path": str(_edited(decoder, at / name, edit))}, says) for name, (edit, says) in EDITS.items()
    }
    whole = {"path": str(decoder)}
    copies = {name: Path(shutil.copytree(decoder, at / name)) for name in ("mute", "letters", "json", "corrupt", "cut")}
    (copies["mute"] / "tokenizer.json").unlink()
    (copies["letters"] / "tokenizer.json").write_text("{}")
    (copies["json"] / "genai_config.json").write_text("{")
    (copies["corrupt"] / "model.onnx").write_bytes(b"this is no protobuf" * 100)
    (copies["cut"] / "model.onnx").write_bytes((decoder / "model.onnx").read_bytes()[:50_000])
    template = make_decoder(at / "template", Decoder(template="{% for %}"))
    found |= {
        "mute": ({"path": str(copies["mute"])}, "its folder has no tokenizer.json"),
        "letters": ({"path": str(copies["letters"])}, "tokenizer.json cannot be read"),
        "json": ({"path": str(copies["json"])}, "genai_config.json is not valid JSON"),
        "corrupt": ({"path": str(copies["corrupt"])}, "model.onnx cannot be loaded on cpu"),
        "cut": ({"path": str(copies["cut"])}, "model.onnx cannot be loaded on cpu"),
        "template": ({"path": str(template)}, "chat template is not valid"),
        "tpu": ({**whole, "device": "tpu"}, "the device 'tpu' is not known"),
        "cuda": ({**whole, "device": "cuda:0"}, "cannot be loaded on cuda:0"),
        "large": ({**whole, "memory_bytes": 10**15}, "it takes 953,674,316.4 MiB"),
        "pooled": ({**whole, "pooling": "mean"}, "`pooling` is not for a model that generates text"),
        "no-config": ({"path": str(at), "task": "generate"}, "has no genai_config.json"),
    }
    return found


@pytest.fixture(scope="module")
def service(
    broken: dict[str, tuple[dict[str, Any], str]], decoder: Path, tiny: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[OnnxService]:  # fmt: skip
    at = tmp_path_factory.mktemp("failing")
    models = {name: settings for name, (settings, _) in broken.items()}
    models["good"] = {"path": str(decoder), "preload": True}
    models["nan"] = {"path": str(decoder_with_nan(at / "nan", BAD))}
    models["memory"] = {"path": str(decoder_without_memory(at / "memory", BAD))}
    models["encoder"] = {"path": str(tiny("mean")), "generations": 2}
    with OnnxService({"models": models, "memory_bytes": {"cpu": 10**12}}) as running:
        yield running


def _complete(service: OnnxService, model: str, **body: Any) -> httpx.Response:
    body = {"prompt": "a cat", "max_tokens": 5, "temperature": 0, **body}
    return service.post("/v1/completions", {"model": model, **body})


def test_what_cannot_be_loaded_says_why(service: OnnxService, broken: dict[str, tuple[dict[str, Any], str]]) -> None:
    for name, (settings, says) in broken.items():
        answer = _complete(service, name)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (503, "model_unavailable"), name
        assert says in error["message"], name
        assert settings["path"] not in error["message"]
        assert service.state(name) == "failed"
    assert _complete(service, "good").status_code == 200


def test_a_setting_of_the_one_kind_is_not_for_the_other(service: OnnxService) -> None:
    answer = service.post("/v1/embeddings", {"model": "encoder", "input": "a"})
    assert answer.status_code == 503
    assert "`generations` is not for a model that generates no text" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("model", "status", "code"), [("nan", 500, "inference_failed"), ("memory", 503, "out_of_memory")]
)
def test_what_fails_is_an_error_of_that_request_only(service: OnnxService, model: str, status: int, code: str) -> None:
    for body in ({}, {"stream": True}):
        refused = _complete(service, model, prompt=[5, BAD], **body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
        assert _complete(service, model).json() | {"id": "", "created": 0, "model": ""} == _complete(
            service, "good"
        ).json() | {"id": "", "created": 0, "model": ""}


@pytest.mark.parametrize(("model", "code"), [("nan", "inference_failed"), ("memory", "out_of_memory")])
def test_a_stream_that_fails_ends_with_the_error(service: OnnxService, model: str, code: str) -> None:
    answer = _complete(service, model, logit_bias={str(BAD): 100}, stream=True)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert json.loads(events[0])["choices"][0]["text"]
    assert json.loads(events[-1])["error"]["code"] == code
    assert "[DONE]" not in events
    log = service.log()[-1]
    assert (log["event"], log["code"]) == ("onnx: stream failed", code)


def test_without_the_runtime_a_model_says_what_to_install(decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_genai", None)
    native.library.cache_clear()
    settings = ModelSettings(decoder)
    with pytest.raises(UnusableError, match=r"pip install 'headgate\[onnx-genai\]'"):
        load("it", look(settings), settings, 1, Metrics().runs_of("it"))


def test_the_runtime_reports_to_nobody(decoder: Path) -> None:
    native.library()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


def test_what_a_folder_says(decoder: Path, tmp_path: Path) -> None:
    card = read_generator_card(ModelSettings(decoder, max_tokens=100, max_output_tokens=20))
    assert (card.task, card.max_tokens, card.max_output_tokens) == (Task.GENERATE, 100, 20)
    assert (card.vocabulary, card.ends, card.names["bos_token"]) == (300, {1, 6}, "<s>")
    cache = 2 * 2 * 2 * 8 * 4  # keys and values of two layers, of two heads of eight floats
    size = (decoder / "model.onnx").stat().st_size + 256 * 300 * 4  # the logits of a part of a prompt
    assert look(ModelSettings(decoder)).memory_bytes == size + 16384 * cache
    assert look(ModelSettings(decoder, batch_tokens=100)).memory_bytes == size + 2048 * cache


def test_how_tokens_are_chosen_is_the_folders_to_say(tmp_path: Path) -> None:
    search = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.1}
    sampled = make_decoder(tmp_path / "sampled", Decoder(search=search))
    assert read_generator_card(ModelSettings(sampled)).defaults == Defaults(0.6, 0.9, 20, 1.1)
    # As exporters write it for a model of which nothing is known.
    search = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "repetition_penalty": 1.0}
    unknown = make_decoder(tmp_path / "unknown", Decoder(search=search))
    assert read_generator_card(ModelSettings(unknown)).defaults == Defaults()


def test_a_template_of_its_own_file_wins(tmp_path: Path) -> None:
    folder = make_decoder(tmp_path / "decoder")
    (folder / "chat_template.jinja").write_text("mine")
    assert read_generator_card(ModelSettings(folder)).template == "mine"
    (folder / "chat_template.jinja").unlink()
    words = json.loads((folder / "tokenizer_config.json").read_text())
    words["chat_template"] = [{"name": "tools", "template": "a"}, {"name": "default", "template": "b"}]
    words["bos_token"] = {"content": "<b>", "special": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(words))
    card = read_generator_card(ModelSettings(folder))
    assert (card.template, card.names["bos_token"]) == ("b", "<b>")

"""What a folder says of a model, and what the settings say instead."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecars.onnx.folder import Card, FolderError, read_card
from sidecars.onnx.settings import ModelSettings, Pool, Task


@pytest.fixture
def card(tmp_path: Path) -> Callable[..., Card]:
    """The card of a folder with a config.json and further files, and with settings."""

    def read(config: dict[str, Any], files: dict[str, Any] | None = None, **settings: Any) -> Card:
        for name, value in {"config.json": config, "tokenizer.json": {}, "model.onnx": {}, **(files or {})}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(json.dumps(value))
        return read_card(ModelSettings(tmp_path, **settings))

    return read


CLASSIFIER = {"architectures": ["BertForSequenceClassification"]}


@pytest.mark.parametrize(
    ("config", "task", "labels", "activation"),
    [
        ({"architectures": ["BertModel"]}, Task.EMBED, 2, "softmax"),
        ({}, Task.EMBED, 2, "softmax"),
        ({**CLASSIFIER, "id2label": {"0": "LABEL_0"}}, Task.RERANK, 1, "sigmoid"),
        ({**CLASSIFIER, "num_labels": 1}, Task.RERANK, 1, "sigmoid"),
        ({**CLASSIFIER, "id2label": {"1": "b", "0": "a"}}, Task.CLASSIFY, 2, "softmax"),
        ({**CLASSIFIER, "problem_type": "multi_label_classification"}, Task.CLASSIFY, 2, "sigmoid"),
        ({**CLASSIFIER, "id2label": {"0": "Entailment", "1": "x"}}, Task.NLI, 2, "softmax"),
        (
            {**CLASSIFIER, "num_labels": 1, "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
            Task.RERANK, 1, "identity",
        ),
    ],
)  # fmt: skip
def test_what_a_model_is_for(
    card: Callable[..., Card], config: dict[str, Any], task: Task, labels: int, activation: str
) -> None:
    found = card(config)
    assert (found.task, len(found.labels), found.activation) == (task, labels, activation)


def test_labels_are_in_the_order_of_the_logits(card: Callable[..., Card]) -> None:
    config = {**CLASSIFIER, "id2label": {str(i): f"l{i}" for i in (10, 9, 2, 1, 0, 3, 4, 5, 6, 7, 8)}}
    assert card(config).labels == tuple(f"l{i}" for i in range(11))


@pytest.mark.parametrize(
    ("config", "files", "asked", "tokens"),
    [
        ({}, {}, None, 512),
        ({"max_position_embeddings": 128}, {}, None, 128),
        ({"max_position_embeddings": 514, "model_type": "roberta", "pad_token_id": 1}, {}, None, 512),
        ({"max_position_embeddings": 512}, {"sentence_bert_config.json": {"max_seq_length": 256}}, None, 256),
        ({"max_position_embeddings": 128}, {"sentence_bert_config.json": {"max_seq_length": 256}}, None, 128),
        ({"max_position_embeddings": 128}, {"sentence_bert_config.json": {"max_seq_length": None}}, None, 128),
        ({"max_position_embeddings": 512}, {"tokenizer_config.json": {"model_max_length": 384}}, None, 384),
        ({"max_position_embeddings": 512}, {"tokenizer_config.json": {"model_max_length": 1e30}}, None, 512),
        ({"max_position_embeddings": 512}, {}, 100, 100),
        ({"max_position_embeddings": 512}, {}, 1000, 512),
    ],
)
def test_where_sequences_are_cut(
    card: Callable[..., Card], config: dict[str, Any], files: dict[str, Any], asked: int | None, tokens: int
) -> None:
    assert card(config, files, max_tokens=asked).max_tokens == tokens


def test_settings_win_over_the_folder(card: Callable[..., Card]) -> None:
    modules = {"modules.json": [{"type": "a.Transformer", "path": ""}, {"type": "b.Normalize", "path": "2_Normalize"}]}
    own = card({}, modules)
    assert (own.task, own.pooling, own.normalize) == (Task.EMBED, (Pool.MEAN,), True)
    told = card({}, modules, task="rerank", pooling="cls", normalize=False, labels=("fit",))
    assert (told.task, told.pooling, told.normalize, told.labels) == (Task.RERANK, (Pool.CLS,), False, ("fit",))


def test_prompts(card: Callable[..., Card]) -> None:
    prompts = {"query": "q: ", "document": "d: "}
    found = card({}, {"config_sentence_transformers.json": {"prompts": prompts, "default_prompt_name": "query"}})
    assert (found.prompt, found.prompts) == ("q: ", prompts)
    with pytest.raises(FolderError, match="'other' is not among its prompts"):
        card({}, {"config_sentence_transformers.json": {"prompts": prompts, "default_prompt_name": "other"}})


def test_the_onnx_file_may_lie_in_a_folder_of_its_own(card: Callable[..., Card], tmp_path: Path) -> None:
    card({}, {"onnx/model.onnx": {}, "onnx/model.onnx_data": {"a": 1}})
    (tmp_path / "model.onnx").unlink()
    found = read_card(ModelSettings(tmp_path))
    assert found.onnx == tmp_path / "onnx" / "model.onnx"
    assert found.weight_bytes == len("{}") + len('{"a": 1}')
    with pytest.raises(FolderError, match=r"has no int8\.onnx"):
        read_card(ModelSettings(tmp_path, file="int8.onnx"))


def test_memory_grows_with_the_model_and_the_length(card: Callable[..., Card]) -> None:
    small = card({"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "max_position_embeddings": 64})
    large = card({"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4, "max_position_embeddings": 64})
    long = card({"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "max_position_embeddings": 128})
    distil = card({"dim": 32, "hidden_dim": 64, "n_heads": 4, "max_position_embeddings": 64})
    assert small.token_bytes == distil.token_bytes == 4 * (8 * 32 + 4 * 64 + 2 * 4 * 64)
    assert small.token_bytes < min(large.token_bytes, long.token_bytes)


@pytest.mark.parametrize(
    ("config", "files", "says"),
    [
        ({**CLASSIFIER, "id2label": {"a": "x"}}, {}, "id2label"),
        ({**CLASSIFIER, "id2label": {"0": "x", "1": "x"}}, {}, "not all different: x, x"),
        ({**CLASSIFIER, "num_labels": "two"}, {}, "num_labels"),
        ({"hidden_size": [32, 64]}, {}, "hidden_size"),
        ({"max_position_embeddings": "512"}, {}, "max_position_embeddings"),
        ({"pad_token_id": "[PAD]"}, {}, "pad_token_id"),
        ({}, {"config_sentence_transformers.json": {"prompts": {"query": 5}}}, "prompts"),
        ({}, {"config_sentence_transformers.json": {"prompts": ["query"]}}, "prompts"),
    ],
)
def test_files_that_say_what_cannot_be(
    card: Callable[..., Card], config: dict[str, Any], files: dict[str, Any], says: str
) -> None:
    with pytest.raises(FolderError, match=says):
        card(config, files)


def test_a_padding_that_is_none_is_not_stated(card: Callable[..., Card]) -> None:
    roberta = {"model_type": "roberta", "max_position_embeddings": 514}
    for pad in (None, -1):
        assert card({**roberta, "pad_token_id": pad}).max_tokens == 512


@pytest.mark.parametrize("modules", ["{", "{}", "[1]", '[{"path": ""}]'])
def test_modules_that_are_none(card: Callable[..., Card], tmp_path: Path, modules: str) -> None:
    card({})
    (tmp_path / "modules.json").write_text(modules)
    with pytest.raises(FolderError, match=r"modules\.json"):
        read_card(ModelSettings(tmp_path))

"""What a model folder says of itself: a Hugging Face folder, with or without the files of sentence-transformers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from sidecars.onnx.pooling import PoolingError, read_pooling
from sidecars.onnx.settings import ModelSettings, Pool, Task


class FolderError(Exception):
    """A folder that cannot be served; the text says what is wrong and what was expected.

    It reaches clients, so files are named as they lie in the folder: where that is on this machine is not theirs.
    """


# Tokenizers without a limit of their own state an enormous one.
_NO_LIMIT = 1_000_000
# Families whose positions begin behind the padding id have fewer than their table has rows.
_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "xlm-roberta-xl"})
_FALLBACK_TOKENS = 512
_IDENTITY = "Identity"


@dataclass(frozen=True, slots=True)
class Card:
    """What is to be known of a model before it is loaded.

    `max_tokens`: of one sequence, special tokens included. `labels`: in the order of the logits.
    `activation`: from logits to scores, `softmax`, `sigmoid` or `identity`. `prompt`: put in front of every text;
    `prompts`: those that a request can name. `weight_bytes`: of the ONNX file and the data beside it.
    `token_bytes`: an estimate of the memory that one fed token takes while the model runs.
    """

    onnx: Path
    tokenizer: Path
    task: Task
    max_tokens: int
    pad_id: int
    pooling: tuple[Pool, ...]
    normalize: bool
    labels: tuple[str, ...]
    activation: str
    prompt: str
    prompts: Mapping[str, str]
    weight_bytes: int
    token_bytes: int

    def memory_bytes(self, batch_tokens: int) -> int:
        """An estimate of what it takes at most, fed so many tokens at once."""
        # A sequence longer than a batch may be is fed alone.
        return self.weight_bytes + max(batch_tokens, self.max_tokens) * self.token_bytes


def read_card(settings: ModelSettings) -> Card:
    """Reads a folder; what the settings state wins. Raises FolderError."""
    folder = settings.path
    if not folder.is_dir():
        raise FolderError("its folder does not exist")
    config = read_json(folder / "config.json")
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise FolderError("its folder has no tokenizer.json; a fast tokenizer is needed, save the model with one")
    onnx = _onnx(folder, settings.file)
    modules = _modules(folder)
    labels = settings.labels or _labels(config)
    if len(set(labels)) < len(labels):
        raise FolderError(f"its labels are not all different: {', '.join(labels)}")
    task = settings.task or _task(config, labels)
    max_tokens = _max_tokens(folder, config, settings.max_tokens)
    prompts, prompt = _prompts(folder)
    try:
        pooling = (settings.pooling,) if settings.pooling else read_pooling(modules.get("Pooling"))
    except PoolingError as error:
        raise FolderError(str(error)) from None
    return Card(
        onnx=onnx,
        tokenizer=tokenizer,
        task=task,
        max_tokens=max_tokens,
        pad_id=_whole(config, "pad_token_id"),
        pooling=pooling,
        normalize="Normalize" in modules if settings.normalize is None else settings.normalize,
        labels=labels,
        activation=_activation(config, labels),
        prompt=prompt,
        prompts=prompts,
        weight_bytes=sum(file.stat().st_size for file in parts_of(onnx)),
        token_bytes=_token_bytes(config, max_tokens),
    )


def read_json(path: Path, default: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A JSON object; `default`, where given, stands for a file that is absent."""
    try:
        found = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        if default is None:
            raise FolderError(f"its folder has no {path.name}") from None
        return dict(default)
    except OSError as error:
        raise FolderError(f"{path.name} cannot be read: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        raise FolderError(f"{path.name} is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise FolderError(f"{path.name} is not a JSON object")
    return found


def _onnx(folder: Path, asked: str | None) -> Path:
    """The ONNX file: the one asked for, else `model.onnx`, else the only one there is."""
    if asked is not None:
        if not (folder / asked).is_file():
            raise FolderError(f"its folder has no {asked}")
        return folder / asked
    for name in ("model.onnx", "onnx/model.onnx"):
        if (folder / name).is_file():
            return folder / name
    found = sorted(path.relative_to(folder) for path in folder.rglob("*.onnx"))
    if len(found) == 1:
        return folder / found[0]
    if not found:
        raise FolderError("its folder has no ONNX file; make one with `ctl models import`")
    raise FolderError(f"its folder has several ONNX files; name one as `file`: {', '.join(map(str, found))}")


def parts_of(onnx: Path) -> list[Path]:
    """The ONNX file, and what holds its weights where they lie outside of it."""
    return [onnx, *(onnx.with_name(onnx.name + end) for end in ("_data", ".data") if Path(f"{onnx}{end}").is_file())]


def _modules(folder: Path) -> dict[str, Path]:
    """The modules of sentence-transformers, by the last part of their type, and where their files are."""
    path = folder / "modules.json"
    if not path.is_file():
        return {}
    try:
        listed = orjson.loads(path.read_bytes())
        found = {entry["type"].rpartition(".")[2]: folder / entry["path"] for entry in listed}
    except (orjson.JSONDecodeError, TypeError, KeyError, AttributeError):
        listed = found = {}
    if not isinstance(listed, list):
        raise FolderError(f"{path.name} is not a list of modules with `type` and `path`")
    unknown = found.keys() - {"Transformer", "Pooling", "Normalize"}
    if unknown:
        raise FolderError(f"{path.name} has modules that are not served: {', '.join(sorted(unknown))}")
    return found


def _whole(config: Mapping[str, Any], *names: str, default: int = 0) -> int:
    """The first of these numbers that config.json states; what is below 0 there means none."""
    for name in names:
        value = config.get(name)
        if value is not None and (type(value) is not int):
            raise FolderError(f"config.json has a {name} that is no whole number")
        if value is not None and value >= 0:
            return int(value)
    return default


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    named = config.get("id2label")
    if not isinstance(named, dict) or not named:
        return tuple(f"LABEL_{i}" for i in range(_whole(config, "num_labels", default=2)))
    if not all(key.isdecimal() for key in named):
        raise FolderError("config.json has an id2label whose keys are not the numbers of the logits")
    return tuple(str(named[key]) for key in sorted(named, key=int))


def _task(config: Mapping[str, Any], labels: tuple[str, ...]) -> Task:
    architectures = config.get("architectures") or [""]
    if not str(architectures[0]).endswith("ForSequenceClassification"):
        return Task.EMBED
    if len(labels) == 1:
        return Task.RERANK
    return Task.NLI if any(label.lower().startswith("entail") for label in labels) else Task.CLASSIFY


def _max_tokens(folder: Path, config: Mapping[str, Any], asked: int | None) -> int:
    """The least of what the files state; a setting can only lower it."""
    stated = [
        read_json(folder / "sentence_bert_config.json", {}).get("max_seq_length"),
        read_json(folder / "tokenizer_config.json", {}).get("model_max_length"),
        _positions(config),
    ]
    limits = [int(limit) for limit in stated if isinstance(limit, int | float) and 0 < limit < _NO_LIMIT]
    own = min(limits, default=_FALLBACK_TOKENS)
    return min(own, asked or own)


def _positions(config: Mapping[str, Any]) -> int:
    rows = _whole(config, "max_position_embeddings")
    if rows and config.get("model_type") in _OFFSET_POSITIONS:
        return rows - _whole(config, "pad_token_id", default=1) - 1
    return rows


def _activation(config: Mapping[str, Any], labels: tuple[str, ...]) -> str:
    """One logit is squashed unless the model says that it is not to be; several exclude each other, or do not."""
    own = config.get("sentence_transformers")
    stated = own.get("activation_fn") if isinstance(own, dict) else None
    stated = stated or config.get("sbert_ce_default_activation_function")
    if isinstance(stated, str) and stated.rpartition(".")[2] == _IDENTITY and len(labels) == 1:
        return "identity"
    if len(labels) == 1 or config.get("problem_type") == "multi_label_classification":
        return "sigmoid"
    return "softmax"


def _prompts(folder: Path) -> tuple[dict[str, str], str]:
    """The named prompts, and the one that is used where a request names none."""
    found = read_json(folder / "config_sentence_transformers.json", {})
    prompts = found.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise FolderError("config_sentence_transformers.json has prompts that are not texts by name")
    default = found.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise FolderError(f"the default prompt '{default}' is not among its prompts")
    return prompts, prompts[default] if default is not None else ""


def _token_bytes(config: Mapping[str, Any], max_tokens: int) -> int:
    """Activations in float32 of one layer: hidden states, the wide ones twice over, and the scores of each head."""
    hidden = _whole(config, "hidden_size", "dim")
    wide = _whole(config, "intermediate_size", "hidden_dim")
    heads = _whole(config, "num_attention_heads", "n_heads")
    return 4 * (8 * hidden + 4 * wide + 2 * heads * max_tokens)

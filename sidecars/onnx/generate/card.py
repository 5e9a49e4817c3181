"""What a folder in the form of onnxruntime-genai says of itself: `genai_config.json`, and a tokenizer beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidecars.onnx.folder import FolderError, parts_of, read_json
from sidecars.onnx.settings import ModelSettings, Task

CONFIG = "genai_config.json"
# So much an answer may have where the settings do not say: an answer without a bound takes its share of the cache.
_OUTPUT_TOKENS = 4096
_FLOAT_BYTES = 4
# So many tokens of a prompt are fed in a step: the other answers wait no longer for their turn.
CHUNK = 256
# Their positions turn by other angles from some length on: a cache that was begun with the one is wrong for the other.
_WHOLE_PROMPTS = frozenset({"phi3", "phi3small", "phimoe"})
_BESIDE = ("vision", "speech", "encoder", "embedding", "joiner")


@dataclass(frozen=True, slots=True)
class Defaults:
    """How tokens are chosen where a request does not say. `top_k`: 0 for all."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0


@dataclass(frozen=True, slots=True)
class GeneratorCard:
    """What is to be known of a model that generates, before it is loaded.

    `max_tokens`: of prompt and answer together; `max_output_tokens`: of an answer. `ends`: the tokens that end one.
    `whole_prompts`: whether a prompt has to be fed at once. `template`: of its chats; `names`: of its special tokens,
    as templates know them. `weight_bytes`: of the ONNX file and the data beside it. `token_bytes`: an estimate of what
    one token takes in the cache.
    """

    folder: Path
    onnx: Path
    tokenizer: Path
    task: Task
    max_tokens: int
    max_output_tokens: int
    vocabulary: int
    ends: frozenset[int]
    whole_prompts: bool
    defaults: Defaults
    template: str | None
    names: Mapping[str, str]
    weight_bytes: int
    token_bytes: int

    def memory_bytes(self, batch_tokens: int) -> int:
        """An estimate of what it takes at most, with caches of so many tokens together."""
        # An answer of any size is made alone.
        caches = max(batch_tokens, self.max_tokens) * self.token_bytes
        logits = CHUNK * self.vocabulary * _FLOAT_BYTES  # of the part of a prompt that is fed at once
        return self.weight_bytes + caches + logits


def generates(settings: ModelSettings) -> bool:
    """Whether a folder holds a model that generates text."""
    if settings.task is not None:
        return settings.task is Task.GENERATE
    return (settings.path / CONFIG).is_file()


def read_generator_card(settings: ModelSettings) -> GeneratorCard:
    """Reads a folder; what the settings state wins. Raises FolderError."""
    folder = settings.path
    config = read_json(folder / CONFIG)
    model = _section(config, "model")
    decoder = _section(model, "decoder", "model.")
    beside = [part for part in _BESIDE if part in model]
    if beside:
        raise FolderError(f"{CONFIG} describes a model of more than text ({', '.join(beside)}), which is not served")
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise FolderError("its folder has no tokenizer.json; a fast tokenizer is needed, save the model with one")
    onnx = folder / str(decoder.get("filename", ""))
    if not onnx.is_file():
        raise FolderError(f"its folder has no {decoder.get('filename', 'file named as model.decoder.filename')}")
    own = _count(model, "context_length", "model.")
    max_tokens = min(own, settings.max_tokens or own)
    words = read_json(folder / "tokenizer_config.json", {})
    return GeneratorCard(
        folder=folder,
        onnx=onnx,
        tokenizer=tokenizer,
        task=Task.GENERATE,
        max_tokens=max_tokens,
        max_output_tokens=min(settings.max_output_tokens or _OUTPUT_TOKENS, max_tokens),
        vocabulary=_count(model, "vocab_size", "model."),
        ends=_ends(model),
        whole_prompts=model.get("type") in _WHOLE_PROMPTS,
        defaults=_defaults(config.get("search") or {}),
        template=_template(folder, words),
        names=_names(words),
        weight_bytes=sum(file.stat().st_size for file in parts_of(onnx)),
        token_bytes=_cache_bytes(decoder),
    )


def _section(config: Mapping[str, Any], name: str, place: str = "") -> Mapping[str, Any]:
    found = config.get(name)
    if not isinstance(found, dict):
        raise FolderError(f"{CONFIG} has no section {place}{name}")
    return found


def _count(config: Mapping[str, Any], name: str, place: str) -> int:
    found = config.get(name)
    if not isinstance(found, int) or found <= 0:
        raise FolderError(f"{CONFIG} has no {place}{name}, or it is no number above 0")
    return found


def _ends(model: Mapping[str, Any]) -> frozenset[int]:
    found = model.get("eos_token_id", [])
    return frozenset(found if isinstance(found, list) else [found])


def _defaults(search: Mapping[str, Any]) -> Defaults:
    """The model's own, as its makers recommend them; where they state none, OpenAI's."""
    penalty = float(search.get("repetition_penalty", 1.0))
    if not search.get("do_sample"):
        return Defaults(repetition_penalty=penalty)
    top_p = float(search.get("top_p", 1.0))
    return Defaults(
        float(search.get("temperature", 1.0)), top_p if top_p > 0 else 1.0, int(search.get("top_k", 0)), penalty
    )


def _template(folder: Path, words: Mapping[str, Any]) -> str | None:
    """The file wins over the entry, as in transformers; of several named ones the default is meant."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = words.get("chat_template")
    if isinstance(found, list):
        found = next((one.get("template") for one in found if one.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def _names(words: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and its like: a text, or an object with one."""
    found = {name: value for name, value in words.items() if name.endswith("_token")}
    found = {name: value.get("content") if isinstance(value, dict) else value for name, value in found.items()}
    return {name: value for name, value in found.items() if isinstance(value, str)}


def _cache_bytes(decoder: Mapping[str, Any]) -> int:
    """Keys and values of every layer, in float32: a cache in half of that is estimated at twice its size."""
    sizes = [decoder.get(name, 0) for name in ("num_hidden_layers", "num_key_value_heads", "head_size")]
    layers, heads, size = (value if isinstance(value, int) else 0 for value in sizes)
    return 2 * layers * heads * size * _FLOAT_BYTES

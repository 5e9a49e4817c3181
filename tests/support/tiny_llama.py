"""A Llama of a few hundred kilobytes with weights from a seed, as Hugging Face's libraries save one.

It says nothing sensible, but it says the same each time, and every server of the family loads it. Needs numpy,
safetensors and tokenizers, and nothing of this project.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

HIDDEN, LAYERS, HEADS, WIDE, POSITIONS = 64, 2, 2, 128, 512
_SPECIALS = ("<pad>", "<s>", "</s>")
_TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


def make(folder: Path, seed: int = 1) -> Path:
    """Writes configuration, tokenizer (one token per byte) and weights; the folder."""
    folder.mkdir(parents=True)
    tokenizer = _tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    own = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": POSITIONS, "chat_template": _TEMPLATE}
    named = dict(zip(("pad_token", "bos_token", "eos_token"), _SPECIALS, strict=True))
    _write(folder / "tokenizer_config.json", {**own, **named})
    _write(folder / "config.json", _config(tokenizer.get_vocab_size()))
    random = np.random.RandomState(seed)  # the only one whose numbers never change
    weights = {name: _weight(random, name, shape) for name, shape in _shapes(tokenizer.get_vocab_size())}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def _tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: number for number, piece in enumerate((*_SPECIALS, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_SPECIALS))
    return tokenizer


def _config(vocabulary: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": WIDE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": POSITIONS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _shapes(vocabulary: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every parameter of the model, in a fixed order."""
    yield "model.embed_tokens.weight", (vocabulary, HIDDEN)
    for layer in range(LAYERS):
        base = f"model.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{base}self_attn.{name}.weight", (HIDDEN, HIDDEN)
        yield f"{base}mlp.gate_proj.weight", (WIDE, HIDDEN)
        yield f"{base}mlp.up_proj.weight", (WIDE, HIDDEN)
        yield f"{base}mlp.down_proj.weight", (HIDDEN, WIDE)
        yield f"{base}input_layernorm.weight", (HIDDEN,)
        yield f"{base}post_attention_layernorm.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (vocabulary, HIDDEN)


def _weight(random: Any, name: str, shape: tuple[int, ...]) -> Any:
    middle = 1.0 if name.endswith("norm.weight") else 0.0
    return (middle + 0.1 * random.standard_normal(shape)).astype(np.float32)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1))

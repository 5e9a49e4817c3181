"""A folder that onnxruntime-genai generates text from: a Llama of two layers and some kilobytes, weights from a seed.

`weights` has the names and shapes of transformers' `LlamaForCausalLM`, so that it can be asked what to expect; see
`tests/unit/onnx/reference_generate.py`. `logits` is the same model once more, in numpy, without a cache.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

HIDDEN, LAYERS, HEADS, KEYS, WIDE, POSITIONS = 32, 2, 4, 2, 64, 2048
SIZE = HIDDEN // HEADS
THETA, EPSILON = 10_000.0, 1e-5
ENDS = (1, 6)
SPECIALS = ("<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|tool|>", "<|end|>")
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role not in ['system', 'user', 'assistant', 'tool'] %}"
    "{{ raise_exception('a role that is not known: ' + message.role) }}{% endif %}"
    "<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# What the pairs of bytes that become one token are learnt from.
_TEXT = ["the river runs and the dog sleeps", "a cat eats, nobody sees it", "straße, 你好 and 🙂", '{"name": true}']

Weights = Mapping[str, Any]


@dataclass(frozen=True)
class Decoder:
    """A decoder to make. `template`: of its chats, None for a model that has none."""

    seed: int = 1
    template: str | None = TEMPLATE
    context: int = POSITIONS
    search: Mapping[str, Any] | None = None


def make_decoder(folder: Path, decoder: Decoder = Decoder()) -> Path:
    """Writes the folder as the exporters of onnxruntime-genai do."""
    folder.mkdir(parents=True)
    tokenizer = make_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    vocabulary = tokenizer.get_vocab_size()
    own: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    if decoder.template is not None:
        own["chat_template"] = decoder.template
    _write(folder / "tokenizer_config.json", own)
    _write(folder / "genai_config.json", genai_config(vocabulary, decoder))
    onnx.save_model(graph(weights(vocabulary, decoder.seed)), folder / "model.onnx")
    return folder


def make_tokenizer() -> Tokenizer:
    """Byte pairs: every byte is a token, so that a character can be in several."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in SPECIALS],
    )  # fmt: skip
    tokenizer.train_from_iterator(_TEXT, trainer)
    return tokenizer


def genai_config(vocabulary: int, decoder: Decoder) -> dict[str, Any]:
    return {
        "model": {
            "type": "llama",
            "vocab_size": vocabulary,
            "context_length": decoder.context,
            "bos_token_id": 0,
            "eos_token_id": list(ENDS),
            "pad_token_id": 1,
            "decoder": {
                "filename": "model.onnx",
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "head_size": SIZE,
                "hidden_size": HIDDEN,
                "num_attention_heads": HEADS,
                "num_hidden_layers": LAYERS,
                "num_key_value_heads": KEYS,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {"max_length": decoder.context, "past_present_share_buffer": False, **(decoder.search or {})},
    }


def weights(vocabulary: int, seed: int) -> Weights:
    """By transformers' names; linear weights are (out, in)."""
    random = np.random.RandomState(seed)  # the only one whose numbers never change

    def draw(*shape: int, scale: float = 0.3) -> Any:
        return (scale * random.standard_normal(shape)).astype(np.float32)

    found = {"model.embed_tokens.weight": draw(vocabulary, HIDDEN, scale=1.0)}
    for layer in range(LAYERS):
        base = f"model.layers.{layer}."
        found[base + "input_layernorm.weight"] = 1 + draw(HIDDEN)
        found[base + "self_attn.q_proj.weight"] = draw(HIDDEN, HIDDEN)
        found[base + "self_attn.k_proj.weight"] = draw(KEYS * SIZE, HIDDEN)
        found[base + "self_attn.v_proj.weight"] = draw(KEYS * SIZE, HIDDEN)
        found[base + "self_attn.o_proj.weight"] = draw(HIDDEN, HIDDEN)
        found[base + "post_attention_layernorm.weight"] = 1 + draw(HIDDEN)
        found[base + "mlp.gate_proj.weight"] = draw(WIDE, HIDDEN)
        found[base + "mlp.up_proj.weight"] = draw(WIDE, HIDDEN)
        found[base + "mlp.down_proj.weight"] = draw(HIDDEN, WIDE)
    found["model.norm.weight"] = 1 + draw(HIDDEN)
    found["lm_head.weight"] = draw(vocabulary, HIDDEN)
    return found


def graph(values: Weights) -> onnx.ModelProto:
    """Of plain operators, with a cache that grows by what is fed."""
    made = _Graph(values)
    cos, sin = _angles(np.arange(POSITIONS))
    position = made.add("Unsqueeze", "position_ids", made.constant("one", [1]))
    made.cos, made.sin = (
        made.add("Gather", made.constant(name, table), position) for name, table in (("cos", cos), ("sin", sin))
    )  # each (batch, 1, sequence, size)
    # What is later is not seen: (batch, 1, sequence, total).
    keys = made.add("CumSum", made.add("ConstantOfShape", made.add("Shape", "attention_mask"), value=_ones()),
                    made.constant("axis", 1))  # fmt: skip
    keys = made.add("Sub", keys, made.constant("first", [1]))
    keys = made.add("Unsqueeze", keys, made.constant("between", [1, 2]))
    seen = made.add("LessOrEqual", keys, made.add("Unsqueeze", "position_ids", made.constant("around", [1, 3])))
    zero, lowest = made.constant("open", [0.0]), made.constant("lowest", [float(np.finfo(np.float32).min)])
    made.bias = made.add("Where", seen, zero, lowest)
    states = made.add("Gather", made.weight("model.embed_tokens.weight"), "input_ids")
    for layer in range(LAYERS):
        states = made.layer(states, layer)
    states = made.norm(states, "model.norm.weight")
    return made.model(made.linear(states, "lm_head.weight"))


class _Graph:
    def __init__(self, values: Weights) -> None:
        self._values = values
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self.cos = self.sin = self.bias = ""

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: Any) -> str:
        array = np.asarray(value)
        kind = np.int64 if np.issubdtype(array.dtype, np.integer) else np.float32
        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(array, kind), name)
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self._values[name])

    def linear(self, states: str, name: str) -> str:
        return self.add("MatMul", states, self.constant(name, self._values[name].T))

    def norm(self, states: str, name: str) -> str:
        square = self.add("ReduceMean", self.add("Mul", states, states), self.constant("last", [-1]))
        root = self.add("Sqrt", self.add("Add", square, self.constant("epsilon", [EPSILON])))
        return self.add("Mul", self.add("Div", states, root), self.weight(name))

    def layer(self, states: str, layer: int) -> str:
        base = f"model.layers.{layer}."
        normed = self.norm(states, base + "input_layernorm.weight")
        states = self.add("Add", states, self._attention(normed, layer, base + "self_attn."))
        normed = self.norm(states, base + "post_attention_layernorm.weight")
        gate = self.linear(normed, base + "mlp.gate_proj.weight")
        gate = self.add("Mul", gate, self.add("Sigmoid", gate))
        wide = self.add("Mul", gate, self.linear(normed, base + "mlp.up_proj.weight"))
        return self.add("Add", states, self.linear(wide, base + "mlp.down_proj.weight"))

    def _attention(self, states: str, layer: int, base: str) -> str:
        query = self._turned(self._heads(states, base + "q_proj.weight", HEADS))
        key = self._turned(self._heads(states, base + "k_proj.weight", KEYS))
        value = self._heads(states, base + "v_proj.weight", KEYS)
        key = self._cached(key, f"{layer}.key")
        value = self._cached(value, f"{layer}.value")
        key, value = self._repeated(key), self._repeated(value)
        scores = self.add("MatMul", query, self.add("Transpose", key, perm=[0, 1, 3, 2]))
        scores = self.add("Mul", scores, self.constant("scale", [SIZE**-0.5]))
        shares = self.add("Softmax", self.add("Add", scores, self.bias), axis=-1)
        heads = self.add("Transpose", self.add("MatMul", shares, value), perm=[0, 2, 1, 3])
        return self.linear(self.add("Reshape", heads, self.constant("joined", [0, 0, HIDDEN])), base + "o_proj.weight")

    def _heads(self, states: str, name: str, heads: int) -> str:
        apart = self.add("Reshape", self.linear(states, name), self.constant(f"heads{heads}", [0, 0, heads, SIZE]))
        return self.add("Transpose", apart, perm=[0, 2, 1, 3])

    def _turned(self, states: str) -> str:
        """Rotary positions."""
        half = SIZE // 2
        axis, zero, middle, end = (self.constant(f"at{i}", [i]) for i in (3, 0, half, SIZE))
        first, second = self.add("Slice", states, zero, middle, axis), self.add("Slice", states, middle, end, axis)
        swapped = self.add("Concat", self.add("Neg", second), first, axis=3)
        return self.add("Add", self.add("Mul", states, self.cos), self.add("Mul", swapped, self.sin))

    def _cached(self, states: str, name: str) -> str:
        self._nodes.append(helper.make_node("Concat", [f"past_key_values.{name}", states], [f"present.{name}"], axis=2))
        return f"present.{name}"

    def _repeated(self, states: str) -> str:
        """Each key head for the query heads that share it."""
        rows = self.constant("rows", np.repeat(np.arange(KEYS), HEADS // KEYS))
        return self.add("Gather", states, rows, axis=1)

    def model(self, logits: str) -> onnx.ModelProto:
        self._nodes.append(helper.make_node("Identity", [logits], ["logits"]))

        def value(name: str, kind: int, *axes: str | int) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, kind, list(axes))

        caches = [f"{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]
        inputs = [
            value("input_ids", TensorProto.INT64, "batch", "sequence"),
            value("attention_mask", TensorProto.INT64, "batch", "total"),
            value("position_ids", TensorProto.INT64, "batch", "sequence"),
            *(value(f"past_key_values.{name}", TensorProto.FLOAT, "batch", KEYS, "past", SIZE) for name in caches),
        ]
        size = self._values["lm_head.weight"].shape[0]
        outputs = [
            value("logits", TensorProto.FLOAT, "batch", "sequence", size),
            *(value(f"present.{name}", TensorProto.FLOAT, "batch", KEYS, "total", SIZE) for name in caches),
        ]
        whole = helper.make_graph(self._nodes, "decoder", inputs, outputs, initializer=list(self._constants.values()))
        return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def logits(values: Weights, ids: Sequence[int]) -> Any:
    """Of every position, (sequence, vocabulary), as the paper and transformers have it."""
    cos, sin = _angles(np.arange(len(ids)))
    later = np.triu(np.full((len(ids), len(ids)), -np.inf, np.float32), 1)
    states = values["model.embed_tokens.weight"][np.asarray(ids)]
    for layer in range(LAYERS):
        own = {name.removeprefix(f"model.layers.{layer}."): value for name, value in values.items()}
        normed = _norm(states, own["input_layernorm.weight"])
        query, key, value = (
            (normed @ own[f"self_attn.{part}_proj.weight"].T).reshape(len(ids), -1, SIZE).transpose(1, 0, 2)
            for part in "qkv"
        )
        query, key = query * cos + _swapped(query) * sin, key * cos + _swapped(key) * sin
        key, value = (np.repeat(part, HEADS // KEYS, axis=0) for part in (key, value))
        scores = query @ key.transpose(0, 2, 1) / np.sqrt(np.float32(SIZE)) + later
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        heads = (powers / powers.sum(axis=-1, keepdims=True)) @ value
        states = states + heads.transpose(1, 0, 2).reshape(len(ids), HIDDEN) @ own["self_attn.o_proj.weight"].T
        normed = _norm(states, own["post_attention_layernorm.weight"])
        gate = normed @ own["mlp.gate_proj.weight"].T
        wide = gate / (1 + np.exp(-gate)) * (normed @ own["mlp.up_proj.weight"].T)
        states = states + wide @ own["mlp.down_proj.weight"].T
    return _norm(states, values["model.norm.weight"]) @ values["lm_head.weight"].T


def greedy(
    values: Weights,
    ids: Sequence[int],
    count: int,
    change: Callable[[Any, list[int]], Any] = lambda row, _found: row,
) -> list[int]:
    """The likeliest next tokens, up to `count`; the one that ends is the last. `change`: done to the logits, by what
    was found so far."""
    found: list[int] = []
    while len(found) < count and (not found or found[-1] not in ENDS):
        found.append(int(change(logits(values, [*ids, *found])[-1], found).argmax()))
    return found


def _norm(states: Any, weight: Any) -> Any:
    return states / np.sqrt((states * states).mean(axis=-1, keepdims=True) + EPSILON) * weight


def _swapped(states: Any) -> Any:
    half = SIZE // 2
    return np.concatenate([-states[..., half:], states[..., :half]], axis=-1)


def _angles(positions: Any) -> tuple[Any, Any]:
    """Cosines and sines, (positions, size)."""
    steps = positions[:, None] / THETA ** (np.arange(0, SIZE, 2) / SIZE)
    both = np.concatenate([steps, steps], axis=1)
    return np.cos(both).astype(np.float32), np.sin(both).astype(np.float32)


def _ones() -> onnx.TensorProto:
    return helper.make_tensor("value", TensorProto.INT64, [1], [1])


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1))

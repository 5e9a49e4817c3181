"""What the families of encoders call their parts. The computation is the same for all of them.

A post-norm transformer: embeddings, layer norm, then layers of attention and feed-forward, each with a residual and a
layer norm (Vaswani 2017, Devlin 2018). RoBERTa counts positions over what is not padding, from behind the padding id;
DistilBERT has no token types.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sidecars.onnx.convert.weights import ConvertError


@dataclass(frozen=True, slots=True)
class Family:
    """Names of parameters, `{}` for the number of a layer, and of fields in config.json.

    `prefix`: in front of the encoder's names where a head lies beside it.
    """

    prefix: str
    embeddings: str
    query: str
    key: str
    value: str
    attention_out: str
    attention_norm: str
    widen: str
    narrow: str
    norm: str
    fields: Mapping[str, str]
    counts_positions: bool = False


_BERT_FIELDS = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "wide": "intermediate_size",
    "activation": "hidden_act",
}


def _bert_like(prefix: str, *, counts_positions: bool) -> Family:
    layer = "encoder.layer.{}."
    return Family(
        prefix=prefix,
        embeddings="embeddings.",
        query=layer + "attention.self.query",
        key=layer + "attention.self.key",
        value=layer + "attention.self.value",
        attention_out=layer + "attention.output.dense",
        attention_norm=layer + "attention.output.LayerNorm",
        widen=layer + "intermediate.dense",
        narrow=layer + "output.dense",
        norm=layer + "output.LayerNorm",
        fields=_BERT_FIELDS,
        counts_positions=counts_positions,
    )


_ROBERTA = _bert_like("roberta.", counts_positions=True)
_DISTILBERT_LAYER = "transformer.layer.{}."

FAMILIES: Mapping[str, Family] = {
    "bert": _bert_like("bert.", counts_positions=False),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": Family(
        prefix="distilbert.",
        embeddings="embeddings.",
        query=_DISTILBERT_LAYER + "attention.q_lin",
        key=_DISTILBERT_LAYER + "attention.k_lin",
        value=_DISTILBERT_LAYER + "attention.v_lin",
        attention_out=_DISTILBERT_LAYER + "attention.out_lin",
        attention_norm=_DISTILBERT_LAYER + "sa_layer_norm",
        widen=_DISTILBERT_LAYER + "ffn.lin1",
        narrow=_DISTILBERT_LAYER + "ffn.lin2",
        norm=_DISTILBERT_LAYER + "output_layer_norm",
        fields={
            "hidden": "dim",
            "layers": "n_layers",
            "heads": "n_heads",
            "wide": "hidden_dim",
            "activation": "activation",
        },
    ),
}

# HF's name of an activation: the operator, and its attributes.
ACTIVATIONS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "gelu": ("Gelu", {}),
    "gelu_new": ("Gelu", {"approximate": "tanh"}),
    "gelu_pytorch_tanh": ("Gelu", {"approximate": "tanh"}),
    "relu": ("Relu", {}),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """An encoder's sizes. `types`: how many token types there are, 0 for none."""

    family: Family
    hidden: int
    layers: int
    heads: int
    wide: int
    activation: str
    vocabulary: int
    positions: int
    types: int
    padding: int
    epsilon: float


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The sizes that config.json states. Raises ConvertError for what this converter does not build."""
    kind = config.get("model_type")
    family = FAMILIES.get(str(kind))
    if family is None:
        raise ConvertError(f"config.json has the model_type '{kind}'; can be converted: {', '.join(FAMILIES)}")
    _refuse_variants(config)
    try:
        own = {field: config[name] for field, name in family.fields.items()}
        shape = Shape(
            family=family,
            vocabulary=config["vocab_size"],
            positions=config["max_position_embeddings"],
            types=0 if kind == "distilbert" else config.get("type_vocab_size", 2),
            padding=config.get("pad_token_id") or 0,
            epsilon=config.get("layer_norm_eps", 1e-12),
            **own,
        )
    except KeyError as missing:
        raise ConvertError(f"config.json has no {missing}, which a {kind} needs") from None
    if shape.activation not in ACTIVATIONS:
        raise ConvertError(f"the activation '{shape.activation}' is not known; known: {', '.join(ACTIVATIONS)}")
    if shape.hidden % shape.heads:
        raise ConvertError(f"a hidden size of {shape.hidden} does not divide by {shape.heads} heads")
    return shape


def _refuse_variants(config: Mapping[str, Any]) -> None:
    position = config.get("position_embedding_type", "absolute")
    if position != "absolute":
        raise ConvertError(f"positions of type '{position}' are not built, only absolute ones")
    if config.get("is_decoder") or config.get("add_cross_attention"):
        raise ConvertError("the model is a decoder; only encoders can be converted")
    if config.get("embedding_size", config.get("hidden_size")) != config.get("hidden_size"):
        raise ConvertError("embeddings narrower than the hidden size are not built")

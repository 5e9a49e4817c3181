"""Model folders of a few kilobytes, with weights from a seed: one for each family, head and way of pooling.

They are what Hugging Face's libraries save, so that those can be asked for the numbers to expect; see
`tests/unit/onnx/reference.py`. Needs numpy, safetensors and tokenizers, and nothing of this project.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

HIDDEN, LAYERS, HEADS, WIDE, POSITIONS = 32, 2, 4, 64, 64
_WORDS = "a the is not no of and good bad cat dog sleeps runs eats red blue river mountain film boring great nobody"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Tiny:
    """A model to make. `labels`: of its head, none for an encoder; `pooling`: flags of sentence-transformers."""

    family: str
    seed: int
    labels: tuple[str, ...] = ()
    pooling: Mapping[str, bool] = field(default_factory=dict)
    normalize: bool = False
    max_seq_length: int | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    prompts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sentences(self) -> bool:
        return bool(self.pooling)


MODELS = {
    "mean": Tiny("bert", 1, pooling={"pooling_mode_mean_tokens": True}, normalize=True, max_seq_length=24),
    "cls": Tiny("distilbert", 2, pooling={"pooling_mode_cls_token": True}),
    "last": Tiny("roberta", 3, pooling={"pooling_mode_lasttoken": True}, normalize=True),
    "max": Tiny("bert", 4, pooling={"pooling_mode_max_tokens": True}, config={"hidden_act": "gelu_new"}),
    "joined": Tiny(
        "bert", 5, pooling={"pooling_mode_cls_token": True, "pooling_mode_mean_sqrt_len_tokens": True}, normalize=True
    ),
    "prompted": Tiny(
        "xlm-roberta", 6, pooling={"pooling_mode_mean_tokens": True}, normalize=True,
        prompts={"prompts": {"query": "the dog: ", "document": "a cat "}, "default_prompt_name": "document"},
    ),
    "reranker": Tiny("bert", 7, labels=("LABEL_0",)),
    "raw-reranker": Tiny(
        "roberta", 8, labels=("LABEL_0",),
        config={"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.1.0"}},
    ),
    "classifier": Tiny("distilbert", 9, labels=("negative", "neutral", "positive")),
    "topics": Tiny("bert", 10, labels=("rivers", "films", "animals"),
                   config={"problem_type": "multi_label_classification"}),
    "nli": Tiny("roberta", 11, labels=("CONTRADICTION", "NEUTRAL", "ENTAILMENT")),
    "nli-two": Tiny("bert", 12, labels=("entailment", "not_entailment")),
}  # fmt: skip


def make(tiny: Tiny, folder: Path) -> Path:
    """Writes the folder as Hugging Face's libraries save it, weights in safetensors."""
    folder.mkdir(parents=True)
    tokenizer = make_tokenizer(tiny.family)
    tokenizer.save(str(folder / "tokenizer.json"))
    vocabulary = tokenizer.get_vocab_size()
    _write(folder / "config.json", _config(tiny, vocabulary))
    specials = _specials(tiny.family)
    feeds = ["input_ids", *(["token_type_ids"] if tiny.family == "bert" else []), "attention_mask"]
    own = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": POSITIONS, "model_input_names": feeds}
    _write(folder / "tokenizer_config.json", {**own, **specials})
    _write(folder / "special_tokens_map.json", specials)
    random = np.random.RandomState(tiny.seed)  # the only one whose numbers never change
    weights = {name: _weight(random, name, shape) for name, shape in _shapes(tiny, vocabulary)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    if tiny.sentences:
        _sentence_files(tiny, folder)
    return folder


def make_tokenizer(family: str) -> Tokenizer:
    """Word pieces over a small vocabulary: some words, and every letter."""
    named = _specials(family)
    # Where the family expects the padding: 0, or 1 for RoBERTa.
    order = ["cls_token", "pad_token", "sep_token", "unk_token", "mask_token"]
    if "roberta" not in family:
        order = ["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"]
    pieces = [named[name] for name in order]
    pieces += [*"0123456789.,!?:", *_LETTERS, *(f"##{letter}" for letter in _LETTERS)]
    pieces += [word for word in _WORDS.split() if word not in pieces]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=named["unk_token"], max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    cls, sep = named["cls_token"], named["sep_token"]
    pair = f"{cls} $A {sep} {sep} $B {sep}" if "roberta" in family else f"{cls} $A {sep} $B:1 {sep}:1"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}", pair=pair, special_tokens=[(cls, vocabulary[cls]), (sep, vocabulary[sep])]
    )
    tokenizer.add_special_tokens(list(named.values()))
    return tokenizer


def _specials(family: str) -> dict[str, str]:
    names = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    if "roberta" not in family:
        names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return dict(zip(["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"], names, strict=True))


def _config(tiny: Tiny, vocabulary: int) -> dict[str, Any]:
    roberta = "roberta" in tiny.family
    stem = {"bert": "Bert", "distilbert": "DistilBert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta"}[tiny.family]
    sizes = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
             "intermediate_size": WIDE, "hidden_act": "gelu", "layer_norm_eps": 1e-5 if roberta else 1e-12,
             "type_vocab_size": 1 if roberta else 2}  # fmt: skip
    if tiny.family == "distilbert":
        sizes = {"dim": HIDDEN, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": WIDE, "activation": "gelu"}
    found = {
        "model_type": tiny.family,
        "architectures": [f"{stem}ForSequenceClassification" if tiny.labels else f"{stem}Model"],
        "vocab_size": vocabulary,
        "max_position_embeddings": POSITIONS + 2 if roberta else POSITIONS,
        "pad_token_id": 1 if roberta else 0,
        **sizes,
        **tiny.config,
    }
    if tiny.labels:
        found["id2label"] = dict(enumerate(tiny.labels))
        found["label2id"] = {label: i for i, label in enumerate(tiny.labels)}
    return found


def _sentence_files(tiny: Tiny, folder: Path) -> None:
    kinds = ["Transformer", "Pooling", *(["Normalize"] if tiny.normalize else [])]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    _write(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir()
    _write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": HIDDEN, **tiny.pooling})
    if tiny.normalize:
        (folder / "2_Normalize").mkdir()
    _write(folder / "sentence_bert_config.json", {"max_seq_length": tiny.max_seq_length, "do_lower_case": False})
    if tiny.prompts:
        _write(folder / "config_sentence_transformers.json", tiny.prompts)


def _shapes(tiny: Tiny, vocabulary: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every parameter of the model, in a fixed order."""
    config = _config(tiny, vocabulary)
    distil = tiny.family == "distilbert"
    stem = {"xlm-roberta": "roberta"}.get(tiny.family, tiny.family)
    prefix = f"{stem}." if tiny.labels else ""
    base = f"{prefix}embeddings."
    yield base + "word_embeddings.weight", (vocabulary, HIDDEN)
    yield base + "position_embeddings.weight", (config["max_position_embeddings"], HIDDEN)
    if not distil:
        yield base + "token_type_embeddings.weight", (config["type_vocab_size"], HIDDEN)
    yield from _pair(base + "LayerNorm", HIDDEN)
    for layer in range(LAYERS):
        for name, shape in _layer(distil=distil):
            yield from _pair(f"{prefix}{'transformer' if distil else 'encoder'}.layer.{layer}.{name}", *shape)
    if tiny.labels:
        for name, shape in _head(stem, len(tiny.labels)):
            yield from _pair(name, *shape)
    elif stem == "bert":
        yield from _pair("pooler.dense", HIDDEN, HIDDEN)


def _layer(*, distil: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    square = (HIDDEN, HIDDEN)
    if distil:
        yield from ((f"attention.{part}_lin", square) for part in ("q", "k", "v", "out"))
        yield from (("sa_layer_norm", (HIDDEN,)), ("ffn.lin1", (WIDE, HIDDEN)), ("ffn.lin2", (HIDDEN, WIDE)))
        yield "output_layer_norm", (HIDDEN,)
        return
    yield from ((f"attention.self.{part}", square) for part in ("query", "key", "value"))
    yield from (("attention.output.dense", square), ("attention.output.LayerNorm", (HIDDEN,)))
    yield from (("intermediate.dense", (WIDE, HIDDEN)), ("output.dense", (HIDDEN, WIDE)))
    yield "output.LayerNorm", (HIDDEN,)


def _head(stem: str, labels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    inner = {"bert": "bert.pooler.dense", "roberta": "classifier.dense", "distilbert": "pre_classifier"}[stem]
    yield inner, (HIDDEN, HIDDEN)
    yield "classifier.out_proj" if stem == "roberta" else "classifier", (labels, HIDDEN)


def _pair(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _weight(random: Any, name: str, shape: tuple[int, ...]) -> Any:
    """Around one where a layer norm scales, around zero elsewhere; large enough that every part matters."""
    middle = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
    return (middle + 0.3 * random.standard_normal(shape)).astype(np.float32)


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1))

"""A converted folder is run, and held to the reference. Needs onnxruntime."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sidecars.onnx.convert.reference import forward
from sidecars.onnx.convert.weights import ConvertError, Weights
from sidecars.onnx.device import Device
from sidecars.onnx.folder import Card, FolderError, read_card
from sidecars.onnx.session import LoadError, RunError, Session
from sidecars.onnx.settings import ModelSettings, Task, cores
from sidecars.onnx.tokens import Encoder, TokenizerError, Tokens

_TEXTS = ("Hello world", "The quick brown fox jumps over the lazy dog.", "a")
_PAIR = ("A man is playing a guitar.", "Somebody makes music.")
# Of the largest number there is: what float32 loses over some dozen layers, and far less than any mistake makes.
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Verified:
    """What was seen. `difference`: the largest to the reference, as a share of the largest number.

    `width`: how many numbers the model gives for a text.
    """

    card: Card
    texts: int
    difference: float
    width: int


def verify(folder: Path, config: Mapping[str, Any], weights: Weights) -> Verified:
    """Raises ConvertError for a folder that cannot be served, or whose numbers are others."""
    try:
        card = read_card(ModelSettings(path=folder))
        encoder = Encoder(card.tokenizer, card.max_tokens)
        sequences = [*encoder.texts(_TEXTS), *encoder.pairs([_PAIR])]
        session = Session(card, Device("cpu"), cores())
        rows = session.run(sequences)
        alone = np.concatenate([session.run([tokens]) for tokens in sequences])
        apart = max(_apart(session, card, tokens, forward(config, weights, *_fed(tokens))) for tokens in sequences)
    except (FolderError, TokenizerError, LoadError, RunError) as error:
        raise ConvertError(f"the converted model cannot be served: {error}") from None
    largest = float(np.abs(alone).max())
    if not np.abs(rows - alone).max() <= _TOLERANCE * largest or not apart <= _TOLERANCE:
        raise ConvertError(f"the converted model gives other numbers than its weights: apart by {apart:.1e}")
    return Verified(card, len(sequences), apart, int(rows.shape[1]))


def _apart(session: Session, card: Card, tokens: Tokens, expected: Any) -> float:
    name = "last_hidden_state" if card.task is Task.EMBED else "logits"
    (found,) = session.tensors([name], tokens)
    return float(np.abs(found[0] - expected).max() / np.abs(expected).max())


def _fed(tokens: Tokens) -> tuple[Sequence[int], Sequence[int]]:
    return tokens.ids, tokens.types

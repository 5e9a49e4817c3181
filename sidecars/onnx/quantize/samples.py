"""The texts that a model is calibrated with, and others that it is judged by."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sidecars.onnx.folder import Card
from sidecars.onnx.quantize.rewrite import QuantizeError
from sidecars.onnx.settings import Task
from sidecars.onnx.tokens import Encoder, Tokens

_HERE = Path(__file__).parent
_FEWEST = 20
_PAIRS = frozenset({Task.RERANK, Task.NLI})


@dataclass(frozen=True, slots=True)
class Samples:
    """Sequences as a model is fed them. No text is in both halves."""

    calibrate: list[Tokens]
    judge: list[Tokens]


def read_samples(card: Card, file: Path | None) -> Samples:
    """Those of a file, a text in each line, or those that come along. Every second one is for calibration.

    A line for a model of pairs is two texts with a tab between them. Raises QuantizeError, OSError, TokenizerError.
    """
    pairs = card.task in _PAIRS
    source = file or _HERE / ("pairs.txt" if pairs else "texts.txt")
    try:
        lines = [line for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise QuantizeError(f"{source} is not UTF-8: {error}") from None
    lines = list(dict.fromkeys(lines))
    if len(lines) < _FEWEST:
        raise QuantizeError(f"{source} has {len(lines)} different texts; expected {_FEWEST} at least")
    sequences = _fed(card, lines, source) if pairs else _encoder(card).texts([card.prompt + line for line in lines])
    return Samples(sequences[::2], sequences[1::2])


def _fed(card: Card, lines: Sequence[str], source: Path) -> list[Tokens]:
    found = [line.split("\t") for line in lines]
    wrong = next((line for line, parts in zip(lines, found, strict=True) if len(parts) != 2), None)
    if wrong is not None:
        raise QuantizeError(
            f"{source}: the model is for {card.task}, so every line is two texts with a tab between; not {wrong[:80]!r}"
        )
    return _encoder(card).pairs([(first, second) for first, second in found])


def _encoder(card: Card) -> Encoder:
    return Encoder(card.tokenizer, card.max_tokens)

"""A model in memory: made and warmed up in a thread, taken down in good order."""

from dataclasses import dataclass

import numpy as np

from sidecars.onnx.device import Device, parse_device
from sidecars.onnx.engine import Engine, Observer
from sidecars.onnx.folder import Card, FolderError, read_card
from sidecars.onnx.session import LoadError, RunError, Session
from sidecars.onnx.settings import ModelSettings, Task
from sidecars.onnx.tokens import Encoder, TokenizerError, Tokens

# Enough to have every kernel run and its memory taken; models of many thousand tokens would take minutes for all.
_WARM_TOKENS = 512


class UnusableError(Exception):
    """A model that cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What loading a model will take. `memory_bytes`: of its weights, and of the largest batch in work."""

    card: Card
    device: Device
    batch_tokens: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that can be asked. `width`: how many numbers it gives for a sequence."""

    card: Card
    encoder: Encoder
    engine: Engine
    width: int
    threads: int


def look(settings: ModelSettings) -> Plan:
    """Looks at the folder and the device. Raises UnusableError."""
    try:
        device = parse_device(settings.device)
        card = read_card(settings)
    except (ValueError, FolderError) as error:
        raise UnusableError(str(error)) from None
    batch_tokens = settings.batch_tokens or device.batch_tokens
    # A sequence longer than a batch may be is fed alone.
    estimate = card.weight_bytes + max(batch_tokens, card.max_tokens) * card.token_bytes
    return Plan(card, device, batch_tokens, settings.memory_bytes or estimate)


def load(name: str, plan: Plan, queue_tokens: int, threads: int, observer: Observer) -> Loaded:
    """Blocks for as long as it takes. Raises UnusableError."""
    card = plan.card
    try:
        encoder = Encoder(card.tokenizer, card.max_tokens)
        session = Session(card, plan.device, threads)
        width = _warm_up(card, session, encoder)
    except (LoadError, TokenizerError) as error:
        raise UnusableError(str(error)) from None
    except RunError as error:
        raise UnusableError(f"the first run failed: {error}") from None
    engine = Engine(name, session, observer, batch_tokens=plan.batch_tokens, queue_tokens=queue_tokens)
    return Loaded(card, encoder, engine, width, threads)


def _warm_up(card: Card, session: Session, encoder: Encoder) -> int:
    """Runs a short and a long sequence, so that the first request pays for neither. Returns the width."""
    (short,) = encoder.texts(["warm up"])
    if not short.ids:
        raise LoadError(f"{card.tokenizer.name} makes no tokens of a text")
    length = min(card.max_tokens, _WARM_TOKENS)
    long = Tokens((short.ids * length)[:length], [])
    rows = np.concatenate([session.run([short]), session.run([long])])
    width = int(rows.shape[1])
    if card.task is not Task.EMBED and width != len(card.labels):
        raise LoadError(f"the model gives {width} logits and has {len(card.labels)} labels ({', '.join(card.labels)})")
    return width

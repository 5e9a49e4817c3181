"""A model in memory: made and warmed up in a thread, taken down in good order."""

from dataclasses import dataclass

import numpy as np

from sidecars.onnx.device import Device, parse_device
from sidecars.onnx.engine import Engine
from sidecars.onnx.folder import Card, FolderError, read_card
from sidecars.onnx.generate.card import GeneratorCard, generates, read_generator_card
from sidecars.onnx.generate.loaded import LoadedGenerator, load_generator
from sidecars.onnx.generate.turns import Watcher
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

    card: Card | GeneratorCard
    device: Device
    batch_tokens: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class LoadedEncoder:
    """A model that can be asked. `width`: how many numbers it gives for a sequence."""

    card: Card
    encoder: Encoder
    engine: Engine
    width: int
    threads: int


Loaded = LoadedEncoder | LoadedGenerator
# Settings that are for the one kind of model, or for the other.
_ENCODERS_ONLY = ("file", "pooling", "normalize", "labels")
_GENERATORS_ONLY = ("max_output_tokens", "generations")


def look(settings: ModelSettings) -> Plan:
    """Looks at the folder and the device. Raises UnusableError."""
    try:
        device = parse_device(settings.device)
        card = _card(settings)
    except (ValueError, FolderError) as error:
        raise UnusableError(str(error)) from None
    generator = isinstance(card, GeneratorCard)
    batch_tokens = settings.batch_tokens or (device.cache_tokens if generator else device.batch_tokens)
    return Plan(card, device, batch_tokens, settings.memory_bytes or card.memory_bytes(batch_tokens))


def load(name: str, plan: Plan, settings: ModelSettings, threads: int, watcher: Watcher) -> Loaded:
    """Blocks for as long as it takes. Raises UnusableError."""
    try:
        if isinstance(plan.card, GeneratorCard):
            return load_generator(
                name, plan.card, plan.device, watcher, room=plan.batch_tokens, together=settings.generations,
                queue_tokens=settings.queue_tokens, threads=threads,
            )  # fmt: skip
        return _load_encoder(name, plan.card, plan, settings.queue_tokens, threads, watcher)
    except (LoadError, TokenizerError) as error:
        raise UnusableError(str(error)) from None


def _card(settings: ModelSettings) -> Card | GeneratorCard:
    """Raises FolderError, UnusableError."""
    generator = generates(settings)
    for name in _ENCODERS_ONLY if generator else _GENERATORS_ONLY:
        if getattr(settings, name) is not None:
            kind = "generates text" if generator else "generates no text"
            raise UnusableError(f"the setting `{name}` is not for a model that {kind}")
    return read_generator_card(settings) if generator else read_card(settings)


def _load_encoder(
    name: str, card: Card, plan: Plan, queue_tokens: int, threads: int, watcher: Watcher
) -> LoadedEncoder:
    try:
        encoder = Encoder(card.tokenizer, card.max_tokens)
        session = Session(card, plan.device, threads)
        width = _warm_up(card, session, encoder)
    except RunError as error:
        raise LoadError(f"the first run failed: {error}") from None
    engine = Engine(name, session, watcher, batch_tokens=plan.batch_tokens, queue_tokens=queue_tokens)
    return LoadedEncoder(card, encoder, engine, width, threads)


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

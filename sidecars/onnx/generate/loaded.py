"""A model that generates text, in memory: made and warmed up in a thread, taken down in good order."""

from dataclasses import dataclass

from sidecars.onnx.device import CPU, Device
from sidecars.onnx.errors import ServiceError
from sidecars.onnx.generate.card import GeneratorCard
from sidecars.onnx.generate.choice import Choice
from sidecars.onnx.generate.generation import Asked, Generations
from sidecars.onnx.generate.native import Model, NativeError
from sidecars.onnx.generate.prompt import ChatTemplate, TemplateRefusedError
from sidecars.onnx.generate.text import Vocabulary
from sidecars.onnx.generate.turns import Turns, Watcher
from sidecars.onnx.session import LoadError, lacks_memory, short

_MISSING = "it generates text, which needs onnxruntime-genai; pip install 'headgate[onnx-genai]'"
_TOGETHER = 8


@dataclass(frozen=True, slots=True)
class LoadedGenerator:
    """A model that can be asked for text. `template`: None for a model without chats."""

    card: GeneratorCard
    vocabulary: Vocabulary
    template: ChatTemplate | None
    engine: Turns
    threads: int


def load_generator(
    name: str,
    card: GeneratorCard,
    device: Device,
    watcher: Watcher,
    *,
    room: int,
    together: int | None,
    queue_tokens: int,
    threads: int,
) -> LoadedGenerator:
    """Blocks for as long as it takes. Raises LoadError, TokenizerError."""
    vocabulary = Vocabulary(card.tokenizer)
    try:
        template = None if card.template is None else ChatTemplate(card.template, card.names)
    except TemplateRefusedError as error:
        raise LoadError(str(error)) from None
    source = Generations(name, open_model(card, device, threads), card, vocabulary)
    _warm_up(source, Asked(vocabulary.ids("warm up", special=False), 1, Choice(temperature=0)))
    engine = Turns(name, source, watcher, room=room, together=together or _TOGETHER, queue_tokens=queue_tokens)
    return LoadedGenerator(card, vocabulary, template, engine, threads)


def open_model(card: GeneratorCard, device: Device, threads: int) -> Model:
    """Raises LoadError."""
    options = {
        "intra_op_num_threads": threads,
        "inter_op_num_threads": 1,
        "log_severity_level": 4,  # what goes wrong is raised
        # A thread that spins for work takes the processor from the proxy on the same machine.
        "session.intra_op.allow_spinning": "0",
    }
    providers = [] if device.provider == CPU else [("cuda", {"device_id": device.number})]
    try:
        return Model(card.folder, providers, options, card.vocabulary)
    except ImportError as error:
        raise LoadError(_MISSING if isinstance(error, ModuleNotFoundError) else f"{_MISSING} ({error})") from None
    except NativeError as error:
        if lacks_memory(error):
            raise LoadError(f"there is not enough memory to load {card.onnx.name}") from None
        told = short(error).replace(str(card.folder), card.folder.name)
        raise LoadError(f"{card.onnx.name} cannot be loaded on {device}: {told}") from None


def _warm_up(source: Generations, asked: Asked) -> None:
    """Has every kernel run and its memory taken, and sees that the model works at all."""
    try:
        generation = source.begin(asked)
        while generation.step().piece is None:
            pass
        generation.close()
    except ServiceError as error:
        raise LoadError(f"the first run failed: {error.message}") from None

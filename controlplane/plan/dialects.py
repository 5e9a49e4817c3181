"""Who speaks what: which endpoints a provider serves as they are, which through translation, and which not at all."""

from enum import StrEnum


class Surface(StrEnum):
    """The endpoints of one kind, by the beginning of their paths."""

    CHAT = "/v1/chat/completions"
    EMBEDDINGS = "/v1/embeddings"
    MESSAGES = "/v1/messages"
    COUNT_TOKENS = "/v1/messages/count_tokens"
    OTHER = ""  # the further endpoints of OpenAI's API


def surface_of(path: str) -> Surface:
    """The kind of an endpoint that carries a model, by its path."""
    return next((surface for surface in Surface if surface.value == path), Surface.OTHER)


OPENAI_LIKE = frozenset({"openai", "azure", "huggingface", "openrouter", "vllm", "mock", "onnx"})
_NATIVE = {"anthropic": frozenset({Surface.MESSAGES, Surface.COUNT_TOKENS})}
_OPENAI = frozenset({Surface.CHAT, Surface.EMBEDDINGS, Surface.OTHER})
_CHATS = frozenset({Surface.CHAT, Surface.MESSAGES})
_NO_EMBEDDINGS = frozenset({"anthropic"})


def serves(kind: str, surface: Surface) -> bool:
    """Whether a provider of this kind can answer requests to these endpoints."""
    return surface in native(kind) or translates(kind, surface)


def translates(kind: str, surface: Surface) -> bool:
    """Whether such requests, and their answers, need translation."""
    if surface in native(kind):
        return False
    return surface in _CHATS or (surface is Surface.EMBEDDINGS and kind not in _NO_EMBEDDINGS)


def native(kind: str) -> frozenset[Surface]:
    """The endpoints that a provider of this kind has itself."""
    return _OPENAI if kind in OPENAI_LIKE else _NATIVE.get(kind, frozenset())

"""The stages by the name that a document gives them, and how one is built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from extproc.stages import cache, choice, parameters, safety, saving, settings, tokens, transform, validation
from extproc.stages.book import Book
from extproc.stages.protocol import Stage
from extproc.stages.settings import SettingsError


@dataclass(frozen=True, slots=True)
class Kind:
    """`make`: from the settings, and the book of tokenizers, if it is at hand. `counts`: it uses the book."""

    settings: type[Any]
    make: Callable[[Any, Book | None], Stage]
    counts: bool = False


KINDS: Mapping[str, Kind] = {
    "cache": Kind(cache.Settings, lambda made, _: cache.Cache(made)),
    "choice": Kind(choice.Settings, choice.Choice, counts=True),
    "parameters": Kind(parameters.Settings, lambda made, _: parameters.Parameters(made)),
    "safety": Kind(safety.Settings, lambda made, _: safety.Safety(made)),
    "saving": Kind(saving.Settings, saving.Saving, counts=True),
    "tokens": Kind(tokens.Settings, tokens.Tokens, counts=True),
    "transform": Kind(transform.Settings, lambda made, _: transform.Transform(made)),
    "validation": Kind(validation.Settings, lambda made, _: validation.Validation(made)),
}


def build(name: str, document: bytes, origin: str, book: Book | None = None) -> Stage:
    """Raises SettingsError, which names the field; also for a stage that does not exist."""
    kind = KINDS.get(name)
    if kind is None:
        raise SettingsError(f"{origin}: there is no stage {name!r}: one of {', '.join(KINDS)} is expected")
    made = settings.parse(kind.settings, document, origin)
    try:
        return kind.make(made, book)
    except ValueError as error:
        raise SettingsError(f"{origin}: {error}") from None

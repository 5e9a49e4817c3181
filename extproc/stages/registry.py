"""The stages by the name that a document gives them, and how one is built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from extproc.stages import cache, choice, parameters, safety, saving, settings, tokens, transform, validation, webhook
from extproc.stages.around import Around
from extproc.stages.book import Book
from extproc.stages.protocol import Stage
from extproc.stages.settings import SettingsError


@dataclass(frozen=True, slots=True)
class Kind:
    """`make`: from the settings, and what is around, if that is at hand. `around`: it uses that; `counts`: to count."""

    settings: type[Any]
    make: Callable[[Any, Around | None], Stage]
    around: bool = False
    counts: bool = False


def _counting(settings: type[Any], make: Callable[[Any, Book | None], Stage]) -> Kind:
    return Kind(settings, lambda made, around: make(made, around.book if around else None), around=True, counts=True)


KINDS: Mapping[str, Kind] = {
    "cache": Kind(cache.Settings, lambda made, _: cache.Cache(made)),
    "choice": _counting(choice.Settings, choice.Choice),
    "parameters": Kind(parameters.Settings, lambda made, _: parameters.Parameters(made)),
    "safety": Kind(safety.Settings, lambda made, _: safety.Safety(made)),
    "saving": _counting(saving.Settings, saving.Saving),
    "tokens": _counting(tokens.Settings, tokens.Tokens),
    "transform": Kind(transform.Settings, lambda made, _: transform.Transform(made)),
    "validation": Kind(validation.Settings, lambda made, _: validation.Validation(made)),
    "webhook": Kind(webhook.Settings, webhook.Webhook, around=True),
}


def build(name: str, document: bytes, origin: str, around: Around | None = None) -> Stage:
    """Raises SettingsError, which names the field; also for a stage that does not exist."""
    kind = KINDS.get(name)
    if kind is None:
        raise SettingsError(f"{origin}: there is no stage {name!r}: one of {', '.join(KINDS)} is expected")
    made = settings.parse(kind.settings, document, origin)
    try:
        return kind.make(made, around)
    except ValueError as error:
        raise SettingsError(f"{origin}: {error}") from None

"""The kinds of stages that a settings document can name, and what each of them says of itself beforehand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from extproc.stages import parameters, safety, tokens, transform, validation
from extproc.stages.protocol import Needs, Stage
from extproc.stages.settings import parse

Names = frozenset[str]
_NONE: Names = frozenset()


@dataclass(frozen=True, slots=True)
class Kind:
    """A stage: its settings, how it is built, and the names of the headers that it may set.

    `asks`: headers towards the provider. `tells`: headers towards the client. Envoy has to know them beforehand.
    `asked`: whether the stage has something to say of requests whose bodies it does not need.
    """

    settings: type[Any]
    build: Callable[[Any], Stage]
    asked: Callable[[Any], bool] = field(default=lambda _: False)
    asks: Callable[[Any], Names] = field(default=lambda _: _NONE)
    tells: Callable[[Any], Names] = field(default=lambda _: _NONE)


@dataclass(frozen=True, slots=True)
class Built:
    """A stage ready to run. `asked`: it has something to say of every request, if only of its headers."""

    kind: str
    stage: Stage
    needs: Needs
    asked: bool
    asks: Names
    tells: Names


def _speaks(settings: transform.Settings) -> bool:
    return any(operation.remove_from_answer is None for operation in settings.operations)


def _asked(settings: transform.Settings) -> Names:
    return frozenset(name for operation in settings.operations for name in operation.headers or ())


def _told(settings: transform.Settings) -> Names:
    return frozenset(name for operation in settings.operations for name in operation.answer_headers or ())


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "transform": Kind(transform.Settings, transform.Transform, _speaks, _asked, _told),
        "safety": Kind(safety.Settings, safety.Safety),
        "validation": Kind(validation.Settings, validation.Validation),
        "parameters": Kind(parameters.Settings, parameters.Parameters, tells=lambda _: frozenset({parameters.WARNING})),
        "tokens": Kind(tokens.Settings, tokens.Tokens),
    }
)


@lru_cache(maxsize=1024)  # an edit leaves most stages as they are, and compiling patterns takes milliseconds
def build(kind: str, document: bytes, origin: str) -> Built:
    """A stage from the JSON of its settings. Raises SettingsError, and ValueError for what the stage cannot be."""
    known = KINDS[kind]
    settings = parse(known.settings, document, origin)
    stage = known.build(settings)
    return Built(kind, stage, stage.needs, known.asked(settings), known.asks(settings), known.tells(settings))

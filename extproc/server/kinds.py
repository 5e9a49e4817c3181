"""The stages that a settings document can name, and what each of them says of itself beforehand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from extproc.stages import cache, parameters, registry, saving, transform
from extproc.stages.around import Around
from extproc.stages.protocol import Needs, Stage
from extproc.stages.registry import KINDS
from extproc.stages.settings import parse

Names = frozenset[str]
_NONE: Names = frozenset()


@dataclass(frozen=True, slots=True)
class Built:
    """A stage ready to run.

    `asked`: it has something to say of requests whose bodies it does not need. `chooses`: another model, maybe.
    `asks`, `tells`: headers that it may set towards provider and client; Envoy has to know their names beforehand.
    """

    kind: str
    stage: Stage
    needs: Needs
    asked: bool
    chooses: bool
    asks: Names
    tells: Names


def _transform(settings: transform.Settings) -> tuple[bool, Names, Names]:
    asked = any(operation.remove_from_answer is None for operation in settings.operations)
    asks = frozenset(name for operation in settings.operations for name in operation.headers or ())
    tells = frozenset(name for operation in settings.operations for name in operation.answer_headers or ())
    return asked, asks, tells


# What stages say of themselves beyond their needs: `asked`, `asks` and `tells` of what is built.
_MORE: Mapping[str, Callable[[Any], tuple[bool, Names, Names]]] = MappingProxyType(
    {
        "transform": _transform,
        "cache": lambda _: (False, _NONE, frozenset({cache.HEADER})),
        "parameters": lambda _: (False, _NONE, frozenset({parameters.WARNING})),
        "saving": lambda _: (False, _NONE, frozenset({saving.WARNING})),
    }
)


def build(kind: str, document: bytes, origin: str, around: Around | None = None) -> Built:
    """A stage from the JSON of its settings. Raises SettingsError.

    `around`: what the policy keeps elsewhere, without which no name is looked up there.
    """
    if around is None or not KINDS[kind].around:
        return _kept(kind, document, origin)
    return _built(kind, document, origin, around)


def _built(kind: str, document: bytes, origin: str, around: Around | None = None) -> Built:
    stage = registry.build(kind, document, origin, around)
    asked, asks, tells = _MORE.get(kind, lambda _: (False, _NONE, _NONE))(parse(KINDS[kind].settings, document, origin))
    return Built(kind, stage, stage.needs, asked, kind == "choice", asks, tells)


@lru_cache(maxsize=1024)  # an edit leaves most stages as they are, and compiling patterns takes milliseconds
def _kept(kind: str, document: bytes, origin: str) -> Built:
    return _built(kind, document, origin)

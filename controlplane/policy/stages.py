"""A rule's actions -> the stages that do them. Neighbours of one kind become one stage, which scans a body once."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import orjson

from controlplane.policy import caching, guarding
from controlplane.policy.rules import FINDS, TRANSFORMS, Rule
from extproc.server.kinds import Built, build
from extproc.server.settings import StageSpec

_KINDS = {
    **dict.fromkeys(TRANSFORMS, "transform"),
    **dict.fromkeys((*FINDS, "injection"), "safety"),
    "webhook": "webhook",
    "validate": "validation",
    "parameters": "parameters",
    "tokens": "tokens",
    "save": "saving",
    "choose": "choice",
    "cache": "cache",
}


def stages(rule: Rule) -> tuple[StageSpec, ...]:
    """The stages of a rule, in its order."""
    done = [did for action in rule.do for did in action.done()]
    return tuple(each for kind, group in groupby(done, lambda did: _KINDS[did[0]]) for each in _stages(kind, group))


def built(spec: StageSpec, origin: str) -> Built:
    """The stage itself, as the service will build it. Raises ValueError for what it cannot be."""
    return build(spec.kind, orjson.dumps(spec.settings), origin)


def _stages(kind: str, done: Iterator[tuple[str, Any]]) -> Iterator[StageSpec]:
    if kind == "transform":
        yield StageSpec(kind, {"operations": [{name: told} for name, told in done]})
    elif kind == "safety":
        yield StageSpec(kind, _safety(done))
    elif kind == "cache":
        yield from (StageSpec(kind, caching.settings(told)) for _, told in done)
    elif kind == "webhook":
        yield from (StageSpec(kind, guarding.settings(told)) for _, told in done)
    else:
        yield from (StageSpec(kind, told) for _, told in done)


def _safety(done: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {"rules": []}
    for name, told in done:
        if name == "injection":
            made["injection"] = {"action": told} if isinstance(told, str) else told
        else:
            made["rules"].append({**({"find": told} if isinstance(told, list) else told), "action": name})
    return made

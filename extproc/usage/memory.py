"""What the collector keeps over a restart beside the ledger: what it learned, and what it told about accounts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import orjson
from pydantic import TypeAdapter, ValidationError

from extproc.usage.files import replace


class _Held(TypedDict):
    held_us: int
    until_us: int


class _Told(TypedDict):
    account: tuple[str, str, str, str, str, str, int]
    told: dict[str, int]
    spent: _Held | None


class _Budgets(TypedDict):
    version: Literal[1]
    accounts: list[_Told]


class _Document(TypedDict):
    estimator: dict[str, Any]
    budgets: _Budgets


@dataclass(frozen=True, slots=True)
class Memory:
    """The dumps of `estimate.Estimator` and of `budgets.Budgets`."""

    estimator: dict[str, Any]
    budgets: dict[str, Any]


_ADAPTER = TypeAdapter(_Document)


def read(path: Path) -> Memory | None:
    """None where there is none yet. Raises OSError, and ValueError where the file is damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        found = _ADAPTER.validate_json(content)
    except ValidationError as error:
        raise ValueError(f"not a memory of the collector ({error.error_count()} errors)") from None
    return Memory(found["estimator"], dict(found["budgets"]))


def write(path: Path, memory: Memory) -> None:
    """Raises OSError."""
    replace(path, orjson.dumps({"estimator": memory.estimator, "budgets": memory.budgets}))

"""What the collector keeps over a restart beside the ledger: what it learned, and what it told about accounts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import TypeAdapter, ValidationError

from extproc.usage.files import replace


@dataclass(frozen=True, slots=True)
class Memory:
    """The dumps of `estimate.Estimator` and of `budgets.Budgets`."""

    estimator: dict[str, Any]
    budgets: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Held:
    held_us: int
    until_us: int


@dataclass(frozen=True, slots=True)
class _Told:
    account: tuple[str, str, str, str, str, str, int]
    told: dict[str, int]
    spent: _Held | None


@dataclass(frozen=True, slots=True)
class _Budgets:
    version: Literal[1]
    accounts: list[_Told]


_BUDGETS = TypeAdapter(_Budgets)


def read(path: Path) -> Memory | None:
    """None where there is none yet. Raises OSError, and ValueError where the file is damaged."""
    try:
        found = orjson.loads(path.read_bytes())
        _BUDGETS.validate_python(found["budgets"])  # estimators look for themselves
        return Memory(found["estimator"], found["budgets"])
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ValueError(f"not what was told about budgets ({error.error_count()} errors)") from None
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a memory of the collector ({error})") from None


def write(path: Path, memory: Memory) -> None:
    """Raises OSError."""
    replace(path, orjson.dumps({"estimator": memory.estimator, "budgets": memory.budgets}))

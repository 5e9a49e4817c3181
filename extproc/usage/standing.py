"""How accounts stand, told to the control plane in a file: the edge denies by it, `ctl` and the admin API show it."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from extproc.usage.budgets import Standing, Unit
from extproc.usage.files import replace

_TELL_S = 1.0  # between reports of accounts of which none was spent or restored
_VERSION = 1


class Told:
    """The file. What was told before a restart stands until more is known."""

    def __init__(self, path: Path) -> None:
        self._path, self._next = path, 0.0
        self._accounts, self._content = _read(path)

    def due(self) -> bool:
        """Whether it is time to tell what changed little."""
        return time.monotonic() >= self._next

    def tell(self, standings: Iterable[Standing] | None, alarms: list[dict[str, str]]) -> None:
        """Writes the file if anything changed; None: accounts as before. Raises OSError; it is told again then."""
        self._next = time.monotonic() + _TELL_S
        if standings is not None:
            self._accounts = [_shown(each) for each in standings]
        content = orjson.dumps({"version": _VERSION, "accounts": self._accounts, "alarms": alarms})
        if content != self._content:
            replace(self._path, content)
            self._content = content


def _read(path: Path) -> tuple[list[Any], bytes]:
    try:
        content = path.read_bytes()
        found = orjson.loads(content)
        if found["version"] == _VERSION and type(found["accounts"]) is list:
            return found["accounts"], content
    except (OSError, ValueError, KeyError, TypeError):
        pass  # the control plane, too, takes it for nothing
    return [], b""


def _shown(standing: Standing) -> dict[str, object]:
    account = standing.account
    return {
        "budget": account.budget,
        "owner_kind": account.owner_kind,
        "owner": account.owner,
        "unit": account.unit,
        "used": _number(account.unit, standing.used),
        "amount": _number(account.unit, standing.amount),
        "window": standing.window,
        "on_spent": account.on_spent,
        "until_us": standing.until_us,
    }


def _number(unit: Unit, number: int) -> int | str:
    """Picodollars as a text: JSON's numbers end at 64 bits, which 18 million dollars do not fit into."""
    return str(number) if unit == "pico" else number

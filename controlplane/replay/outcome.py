"""What became of one request: the values that are compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.replay.said import Said


@dataclass(frozen=True, slots=True)
class Outcome:
    """`status` is 0 where no answer came; `error` then says why, also of one that broke off. Times are milliseconds
    since the request was sent: to the first event or byte, and to the end. `id` is the answer's `x-request-id`.
    `provider`, `model` and `cost_pico` are as the gateway's ledger has them; None where that is not known.
    """

    status: int
    said: Said
    first_ms: float
    total_ms: float
    id: str = ""
    error: str = ""
    usage: Mapping[str, Any] | None = None
    provider: str | None = None
    model: str | None = None
    cost_pico: int | None = None

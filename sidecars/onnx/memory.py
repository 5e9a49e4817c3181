"""Room for models: what does not fit the budget has others go, the least recently used first."""

import asyncio
import ctypes
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

from sidecars.onnx.loaded import Plan, UnusableError


class Holder(Protocol):
    """A model, as far as it holds memory. `used`: when it was last used, by a clock that only rises."""

    @property
    def used(self) -> float: ...

    @property
    def busy(self) -> bool: ...

    @property
    def holds(self) -> Plan | None:
        """What it takes, None while it takes nothing."""

    async def make_room(self) -> None:
        """Has it go, and returns when it is gone."""


def give_back() -> None:
    """Returns to the system what was freed. glibc keeps it otherwise: hundreds of megabytes of a model that is gone."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f} MiB"


class Memory:
    """The budgets by device, `cpu` or `cuda:N`.

    One model is loaded at a time, so that what is free stays so until it is taken.
    """

    def __init__(self) -> None:
        self._budgets: Mapping[str, int] = {}
        self._holders: list[Holder] = []
        self._lock = asyncio.Lock()

    def share(self, budgets: Mapping[str, int], holders: Iterable[Holder]) -> None:
        """From the next load on: how much there is, and who may hold some of it."""
        self._budgets = budgets
        self._holders = list(holders)

    @asynccontextmanager
    async def room(self, plan: Plan) -> AsyncIterator[None]:
        """Makes room, and keeps it while the model is loaded. Raises UnusableError when it can never fit."""
        async with self._lock:
            await self._free(plan)
            yield

    async def _free(self, plan: Plan) -> None:
        budget = self._budgets.get(str(plan.device))
        if budget is None:
            return
        if plan.memory_bytes > budget:
            raise UnusableError(
                f"it takes {_mib(plan.memory_bytes)}, and all models on {plan.device} may take {_mib(budget)} "
                "together; raise the bound of the device, or state what the model takes"
            )
        while True:
            held = [(holder, taken) for holder in self._holders if (taken := holder.holds) is not None]
            held = [(holder, taken) for holder, taken in held if taken.device == plan.device]
            if sum(taken.memory_bytes for _, taken in held) + plan.memory_bytes <= budget:
                return
            # Those that nobody uses at the moment go before those that have to finish first.
            victim = min((holder for holder, _ in held), key=lambda holder: (holder.busy, holder.used))
            await victim.make_room()

"""Whom stages ask: the store of the response cache. Nobody's answer is waited for without an end."""

import structlog

from extproc.cache.client import Client, Seat
from extproc.server.chain import Asking
from extproc.stages.cache import Await, Find, Found

_log = structlog.get_logger(__name__)


class Others:
    """Those that a worker can ask. `cache`: None where the worker was told of no store."""

    def __init__(self, cache: Client | None = None) -> None:
        self._cache = cache

    def talk(self) -> "Talk":
        """What one exchange has to ask."""
        return Talk(self._cache)


class Talk:
    """The questions of one exchange. End it with the exchange: what it may have stored, others need not wait for."""

    def __init__(self, cache: Client | None) -> None:
        self._cache = cache
        self._seats: list[Seat] = []

    async def ask(self, asking: Asking) -> object:
        """The answer; None where nobody can tell."""
        found: Found | None = None
        match asking.question:
            case Find() as find if self._cache is not None:
                found = await self._cache.find(asking.rule, find)
            case Await(ticket=Seat() as seat) if self._cache is not None:
                found = await self._cache.landed(seat)
            case _:
                _log.error("nobody can answer", rule=asking.rule, question=type(asking.question).__name__)
        if found is not None and isinstance(found.ticket, Seat):
            self._seats.append(found.ticket)
        return found

    def end(self) -> None:
        for seat in self._seats:
            seat.leave()

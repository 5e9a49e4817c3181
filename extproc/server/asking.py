"""Whom stages ask: the store of the response cache, and webhooks. Nobody's answer is waited for without an end."""

import structlog

from extproc.cache.client import Client, Seat
from extproc.server.chain import Asking
from extproc.server.hooks import Hooks
from extproc.stages.cache import Await, Find, Found
from extproc.stages.webhook import Call

_log = structlog.get_logger(__name__)


class Others:
    """Those that a worker can ask. `cache`: None where the worker was told of no store."""

    def __init__(self, cache: Client | None = None, hooks: Hooks | None = None) -> None:
        self._cache = cache
        self._hooks = hooks or Hooks()

    def talk(self) -> "Talk":
        """What one exchange has to ask."""
        return Talk(self._cache, self._hooks)


class Talk:
    """The questions of one exchange. End it with the exchange: what it may have stored, others need not wait for."""

    def __init__(self, cache: Client | None, hooks: Hooks) -> None:
        self._cache = cache
        self._hooks = hooks
        self._seats: list[Seat] = []

    async def ask(self, asking: Asking) -> object:
        """The answer; None where nobody can tell."""
        if isinstance(asking.question, Call):
            return await self._hooks.ask(asking.rule, asking.question)
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

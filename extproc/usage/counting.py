"""Budgets held against the ledger: what an account has spent comes from there first, and from new records after.

An account of every client of an outside issuer is a template: nobody knows the clients before their first request. That
request is in the ledger already when the client's own accounts are made, and counts when they are seeded.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import structlog

from extproc.usage.budgets import Account, Budgets, Event, Standing
from extproc.usage.identity import of_every_client
from extproc.usage.ledger import Ledger
from extproc.usage.record import UsageRecord

_log = structlog.get_logger()
_SLICE_S = 1.0


class Counting:
    """The accounts of the live policy. Until `ready`, what they spent is not known, and nothing is said of them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._budgets = Budgets(())
        self._accounts: list[Account] | None = None  # None: not known yet
        self._templates: dict[str, list[Account]] = {}  # by owner: `ISSUER:*`
        self._met: dict[str, None] = {}  # clients of outside issuers, in the order in which they came
        self._unseeded: list[Account] = []
        self._memory: dict[str, Any] | None = None  # what was told, until the accounts are known

    @property
    def ready(self) -> bool:
        return self._accounts is not None and not self._unseeded

    def recall(self, memory: dict[str, Any]) -> None:
        """Takes what `dump` gave before a restart."""
        self._memory = memory

    def dump(self) -> dict[str, Any]:
        return self._budgets.dump() if self._memory is None else self._memory

    def replace(self, accounts: Iterable[Account]) -> None:
        """Follows a new policy. Raises ValueError for two that are the same account."""
        given, self._templates = tuple(accounts), {}
        for account in given:
            if account.owner_kind == "key" and account.owner.endswith(":*"):
                self._templates.setdefault(account.owner, []).append(account)
        own = [account for account in given if account.owner not in self._templates]
        self._met.update(dict.fromkeys(_clients(self._memory)))
        accounts = [*own, *(account for client in self._met for account in self._accounts_of(client))]
        waiting = {account.identity for account in (*self._unseeded, *self._budgets.replace(accounts))}
        self._accounts = accounts
        self._unseeded = [account for account in accounts if account.identity in waiting]

    def seed(self, now_us: int) -> bool:
        """Fetches what new accounts have spent: of so many as a moment is enough for. Whether those were all.

        Until then no record may be added. Raises LedgerError; it goes on where it was then.
        """
        until = time.monotonic() + _SLICE_S
        while self._unseeded:
            if time.monotonic() > until:
                return False
            account = self._unseeded[0]
            for amount, since in self._spent(account, now_us):
                self._budgets.seed(account, amount, since)
            self._unseeded.pop(0)
        if self._memory is not None and self._accounts is not None:
            try:
                self._budgets.load(self._memory)
            except (ValueError, ZeroDivisionError) as error:
                _log.warning("what was told about budgets is lost", reason=str(error))
            self._memory = None
        return True

    def doubt(self) -> None:
        """Counts from the ledger again: it may hold records, or hold them not, against what was counted here."""
        if self._accounts is None:
            return
        self._memory = self.dump()
        self._budgets = Budgets(self._accounts)
        self._unseeded = list(self._accounts)

    def add(self, records: Sequence[UsageRecord]) -> None:
        """Counts what is new in the ledger."""
        for record in records if self._accounts else ():
            self._budgets.add(record)
        fresh = {record.key: None for record in records if record.key not in self._met} if self._templates else {}
        for client in fresh:  # what they spent so far, the ledger tells
            if of_every_client(client) in self._templates:
                self._meet(client)

    def _meet(self, client: str) -> None:
        self._met[client] = None
        for account in self._accounts_of(client):
            self._budgets.admit(account)
            self._unseeded.append(account)
            if self._accounts is not None:
                self._accounts.append(account)

    def _accounts_of(self, client: str) -> Iterator[Account]:
        for template in self._templates.get(of_every_client(client), ()):
            yield replace(template, owner=client)

    def settle(self, now_us: int) -> list[Event]:
        """What happened to accounts since the last time; nothing before `ready`."""
        events = self._budgets.settle(now_us) if self.ready else []
        for event in events:
            account = event.account
            _log.info(type(event).__name__.lower(), budget=account.budget, owner=account.owner or "everyone")
        return events

    def standings(self, now_us: int) -> list[Standing] | None:
        """How accounts stand; None before `ready`."""
        return self._budgets.spent_now(now_us) if self.ready else None

    def _spent(self, account: Account, now_us: int) -> list[tuple[int, int]]:
        """Amounts and when. All are fetched before the first counts: a ledger that goes away has none count twice."""
        found = []
        around = stretches(account, now_us)
        if len(around) > 1 and not self._amount(account, around[0][0], around[-1][1]):
            return []  # most keys are idle, and a rolling window has 65 stretches
        for since, until in around:
            amount = self._amount(account, since, until)
            if amount:
                found.append((amount, since))
        return found

    def _amount(self, account: Account, since: int, until: int) -> int:
        spent = self._ledger.spent(account.owner_kind, account.owner, since, until)
        return {"pico": spent.cost_pico, "tokens": spent.tokens, "requests": spent.requests}[account.unit]


def stretches(account: Account, now_us: int) -> list[tuple[int, int]]:
    """The stretches of time whose spending counts now, as `Budgets.seed` wants them, in microseconds."""
    since = account.window.counted_from(now_us)
    if account.window.period is not None:
        return [(since, account.window.bounds(now_us)[1])]  # to its end: clocks may have been ahead
    step = account.window.step_us
    return [(start, start + step) for start in range(since, now_us + 1, step)]


def _clients(memory: dict[str, Any] | None) -> list[str]:
    """The clients of outside issuers of whom something was told before a restart: they may be spent."""
    found = []
    with suppress(KeyError, TypeError, ValueError, AttributeError):  # `load` says what is wrong with it
        for entry in (memory or {"accounts": []})["accounts"]:
            kind, owner = entry["account"][1:3]
            if kind == "key" and of_every_client(owner) != owner:
                found.append(owner)
    return found

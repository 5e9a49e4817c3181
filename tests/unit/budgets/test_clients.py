"""Accounts that each client of an outside issuer has for itself: made when it comes, counted once, kept by restarts."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from extproc.usage.budgets import Account, Spent
from extproc.usage.counting import Counting
from extproc.usage.identity import every_client, of_every_client
from extproc.usage.ledger import Ledger
from extproc.usage.windows import Window
from tests.unit.ledger.usage_records import record

MONTH = Window.calendar("month", "UTC")
OWN = Account("own", "key", every_client("corp"), "requests", 3, MONTH)
TEAM = Account("shared", "team", "search", "requests", 100, MONTH)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}") as opened:
        yield opened


@pytest.fixture
def now_us() -> int:
    return time.time_ns() // 1000


class Requests:
    """Writes requests to a ledger and counts them, as the collector does."""

    def __init__(self, ledger: Ledger, counting: Counting, now_us: int, first: int = 1) -> None:
        self._ledger, self._counting, self._now, self._next = ledger, counting, now_us, first

    def come(self, *keys: str) -> list[str]:
        """Whose accounts are spent by that."""
        self._counting.seed(self._now)
        found = [record(self._next + n, self._now, key=key, team="search") for n, key in enumerate(keys)]
        self._next += len(keys)
        self._counting.add(self._ledger.write(found, "log", self._next))
        self._counting.seed(self._now)
        return [event.account.owner for event in self._counting.settle(self._now) if isinstance(event, Spent)]


def used(counting: Counting, now_us: int) -> dict[str, int]:
    return {standing.account.owner: standing.used for standing in counting.standings(now_us) or ()}


def test_names() -> None:
    assert [of_every_client(key) for key in ("corp:bob", "corp:a:b", "alice")] == ["corp:*", "corp:*", "alice"]


def test_each_client_has_an_account_and_each_request_counts_once(ledger: Ledger, now_us: int) -> None:
    counting = Counting(ledger)
    counting.replace([OWN, TEAM])
    requests = Requests(ledger, counting, now_us)
    assert requests.come("corp:bob", "alice", "corp:bob", "shop:bob") == []
    assert used(counting, now_us) == {"search": 4, "corp:bob": 2}
    assert requests.come("corp:eve") == []
    assert requests.come("corp:bob") == ["corp:bob"]
    assert used(counting, now_us) == {"search": 6, "corp:bob": 3, "corp:eve": 1}


def test_a_spent_client_stays_so_after_a_restart(ledger: Ledger, now_us: int) -> None:
    before = Counting(ledger)
    before.replace([OWN])
    assert Requests(ledger, before, now_us).come(*["corp:bob"] * 3, "corp:eve") == ["corp:bob"]
    after = Counting(ledger)
    after.recall(before.dump())
    after.replace([OWN])
    after.seed(now_us)
    assert after.settle(now_us) == []  # told already
    assert used(after, now_us) == {"corp:bob": 3}
    Requests(ledger, after, now_us, first=100).come("corp:eve")
    assert used(after, now_us) == {"corp:bob": 3, "corp:eve": 2}


def test_clients_follow_the_policy(ledger: Ledger, now_us: int) -> None:
    counting = Counting(ledger)
    counting.replace([OWN])
    requests = Requests(ledger, counting, now_us)
    requests.come("corp:bob", "corp:bob")
    counting.replace([Account("own", "key", "corp:*", "requests", 2, MONTH)])
    assert requests.come() == ["corp:bob"]
    counting.replace([TEAM])
    requests.come("corp:bob")
    assert used(counting, now_us) == {"search": 3}
    counting.replace([OWN])
    counting.seed(now_us)
    assert used(counting, now_us) == {"corp:bob": 3}


def test_a_ledger_in_doubt_counts_clients_again(ledger: Ledger, now_us: int) -> None:
    counting = Counting(ledger)
    counting.replace([OWN])
    requests = Requests(ledger, counting, now_us)
    requests.come("corp:bob", "corp:bob")
    counting.doubt()
    assert requests.come("corp:bob") == ["corp:bob"]
    assert used(counting, now_us) == {"corp:bob": 3}


@pytest.mark.parametrize("memory", [{}, {"accounts": None}, {"accounts": [{}]}, {"accounts": [{"account": ["a"]}]}])
def test_a_damaged_memory_names_nobody(ledger: Ledger, now_us: int, memory: dict[str, object]) -> None:
    counting = Counting(ledger)
    counting.recall(memory)
    counting.replace([OWN])
    assert used(counting, now_us) == {}

"""Retention by the collector, on both databases: what the policy does not keep goes, totals stay."""

from pathlib import Path

import pytest

from extproc.usage import pruning
from extproc.usage.accounting import Accounting, Retention, dump
from extproc.usage.collector import now_us
from extproc.usage.ledger import Ledger
from extproc.usage.ledger.spans import DAY
from extproc.usage.pruning import Pruning
from tests.support.postgres import PostgresServer, postgres
from tests.unit.collector.given import PRICES, PROVIDERS, Place, drained, line

__all__ = ["postgres"]
OLD = 45  # days


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    made = Place(tmp_path)
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        made.url = server.database()
    request.addfinalizer(made.close)
    return made


def keep(place: Place, retention: Retention | None) -> None:
    place.paths.document.write_bytes(dump(Accounting(PROVIDERS, prices=PRICES, retention=retention)))


def fill(place: Place, count: int) -> None:
    """So many requests 45 days ago, a minute apart, and as many now."""
    for number in range(count):
        for at in (now_us() - OLD * DAY + number * 60_000_000, now_us()):
            place.append(line(2 * number, at=str(at)))


def rows(place: Place, table: str) -> int:
    with Ledger.open(place.url) as ledger, ledger._database.reading() as connection:
        count: int = connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()
        return count


def test_what_is_not_kept_goes_in_small_steps_and_totals_stay(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "ROWS", 3)
    monkeypatch.setattr(pruning, "_PAUSE_S", 0.0)
    keep(place, Retention(30, 32, 400))
    fill(place, 10)
    ledger = Ledger(place.url)
    place.ledgers.append(ledger)
    collector = place.collector(pruning=Pruning(ledger, first_s=0.0))
    left = []
    for _ in range(8):
        drained(collector)
        left.append(rows(place, "usage_records"))
    assert left == sorted(left, reverse=True)
    assert (left[-1], len(set(left)) > 2) == (10, True)
    assert rows(place, "usage_hours") >= 2
    with Ledger.open(place.url) as reader:
        assert reader.spent("", "", 0, now_us() + DAY).requests == 20
        assert sum(row.requests for row in reader.usage(["hour"], 0, now_us() + DAY)) == 20


def test_without_a_word_in_the_policy_everything_stays(place: Place) -> None:
    keep(place, None)
    fill(place, 3)
    ledger = Ledger(place.url)
    place.ledgers.append(ledger)
    collector = place.collector(pruning=Pruning(ledger, first_s=0.0))
    for _ in range(3):
        drained(collector)
    assert rows(place, "usage_records") == 6

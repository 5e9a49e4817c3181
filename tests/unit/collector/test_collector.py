"""The collector on a real ledger, with files as Envoy writes them: each entry once, accounts told, nothing stops it."""

import random
import sqlite3
from pathlib import Path
from typing import Any

import orjson
import pytest

from extproc.usage import collector as module
from extproc.usage.accounting import AccountSpec
from extproc.usage.collector import now_us
from tests.unit.collector.given import NoEnvoy, Place, drained, errors, line, logging

DAILY = AccountSpec("daily", "key", "alice", "requests", 3, period="day", warn=("0.5",))
MONEY = AccountSpec("money", "team", "search", "pico", 10**9, period="month")
ROLLING = AccountSpec("limit:standard", "key", "alice", "tokens", 10**6, seconds=3600)


def now_line(number: int = 0, **changes: object) -> bytes:
    return line(number, at=str(now_us()), **changes)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_S", 0.0)
    monkeypatch.setattr(module, "_REOPEN_S", 0.0)


def used(place: Place) -> dict[str, int]:
    return {account["budget"]: int(account["used"]) for account in place.told()["accounts"]}


def spent(place: Place) -> set[str]:
    return {account["budget"] for account in place.told()["accounts"] if account["until_us"] is not None}


class Away:
    """The ledger's folder, out of reach."""

    def __init__(self, place: Place) -> None:
        self._folder = place.folder / "db"
        self._folder.mkdir()
        place.url = f"sqlite:///{self._folder / 'ledger.db'}"

    def go(self) -> None:
        self._folder.rename(self._folder.with_name("away"))
        self._folder.touch()

    def come(self) -> None:
        self._folder.unlink()
        self._folder.with_name("away").rename(self._folder)


def test_each_entry_becomes_a_record(place: Place) -> None:
    place.append(*(line(number) for number in range(10)), line(10, cluster=None, attempts=0))
    drained(place.collector())
    records = place.records()
    assert [record.at_us % 100 for record in records] == list(range(10))
    assert all(record.cost_pico == 20 * 10**6 for record in records)


def test_a_collector_that_dies_after_any_step_loses_nothing(place: Place) -> None:
    random.seed(5)
    content = b"".join(line(number) for number in range(150))
    while content:
        size = random.randrange(1, 3000)
        place.append(content[:size])
        content = content[size:]
        place.collector().step()
    drained(place.collector())
    assert sorted(record.at_us % 1000 for record in place.records()) == list(range(150))


def test_equal_ids_are_not_one_request(place: Place) -> None:
    place.append(line(1, id="mine"), line(1, id="mine"), line(1, id=None))
    drained(place.collector())
    assert len(place.records()) == 3


def test_a_long_id_is_cut_and_its_request_counts(place: Place) -> None:
    place.append(*(line(number, id="x" * 8000) for number in range(3)))
    drained(place.collector())
    assert len(place.records()) == 3


def test_a_record_that_the_ledger_refuses_is_set_aside_with_an_alarm(place: Place) -> None:
    collector = place.collector()
    place.append(line(1))
    drained(collector)
    odd = (
        "CREATE TRIGGER odd BEFORE INSERT ON usage_records WHEN new.at_us % 10 = 3 BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    with sqlite3.connect(place.folder / "ledger.db") as database:
        database.execute(odd)
    database.close()
    place.append(*(line(number) for number in range(2, 6)), line(13))
    with logging() as logged:
        drained(collector)
    collector.finish()
    assert [record.at_us % 100 for record in place.records()] == [1, 2, 4, 5]
    aside = [orjson.loads(text) for text in place.paths.refused.read_bytes().splitlines()]
    assert {each["record"]["at_us"] % 100 for each in aside} == {3, 13}
    assert errors(logged).count("a record was refused") == 2
    assert str(place.paths.refused) in place.alarms()["ledger/refused"]
    place.paths.refused.unlink()
    collector.finish()
    assert "ledger/refused" not in place.alarms()


def test_damaged_lines_are_told_and_passed_by(place: Place) -> None:
    place.append(line(1), b"no entry\n", line(2)[:99], line(3), line(7).replace(b"\x1f", b""), line(4))
    with logging() as logged:
        drained(place.collector())
    assert [record.at_us % 10 for record in place.records()] == [1, 3, 4]
    assert errors(logged).count("an entry of the access log is damaged") == 3


def test_a_record_that_no_ledger_takes_does_not_keep_others_out(place: Place) -> None:
    place.append(line(1), line(2, took=10**15), line(3, status=99999), line(4))
    with logging() as logged:
        drained(place.collector())
    assert [record.at_us % 10 for record in place.records()] == [1, 4]
    assert errors(logged).count("a record was refused") == 2


def test_bad_usage_is_noted(place: Place) -> None:
    place.append(line(1, usage='{"prompt_tokens":-1}'))
    drained(place.collector()).finish()
    assert "prompt_tokens is -1" in place.alarms()["usage/openai"]


# Rotation.


def test_a_long_log_is_put_aside_and_goes_when_it_was_read(place: Place) -> None:
    place.append(line(1), line(2))
    collector = drained(place.collector(rotate=len(line(1)) + 1))
    drained(collector)
    assert place.envoy.reopened
    place.append(line(3))
    drained(drained(collector))
    assert [path.name for path in place.folder.glob("requests.log*")] == ["requests.log"]
    assert len(place.records()) == 3


def test_a_log_put_aside_is_read_as_long_as_it_is_written_to(place: Place) -> None:
    place.envoy.opens = False
    place.append(line(1))
    collector = drained(drained(place.collector(rotate=100)))
    assert not place.log.exists()
    for number in (2, 3):
        place.append(line(number), to="requests.log.1")
        drained(collector)
    assert len(place.records()) == 3
    assert (place.folder / "requests.log.1").exists()
    place.log.touch()
    drained(collector)
    assert not (place.folder / "requests.log.1").exists()


def test_envoy_is_asked_again_for_a_new_log(place: Place) -> None:
    place.envoy.opens = False
    place.append(line(1))
    collector = drained(place.collector(rotate=100))
    for _ in range(5):
        collector.step()
    assert place.envoy.reopened >= 3


def test_what_envoy_writes_just_before_it_begins_a_new_log_is_read(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look into the old file and the look for the new one."""
    place.append(line(1))
    place.envoy.opens = False
    collector = drained(place.collector(rotate=100))
    drained(collector)
    read = module.log.read

    def then_write(path: Path, *rest: Any, **more: Any) -> Any:
        block = read(path, *rest, **more)
        if path.name == "requests.log.1" and not place.log.exists():
            place.append(line(2), to="requests.log.1")
            place.log.touch()
        return block

    monkeypatch.setattr(module.log, "read", then_write)
    collector.step()
    drained(drained(collector))
    assert len(place.records()) == 2
    assert not (place.folder / "requests.log.1").exists()


def test_several_logs_put_aside(place: Place) -> None:
    for number in range(1, 5):
        place.append(line(number), line(10 + number), to=f"requests.log.{number}")
    place.append(line(9))
    drained(drained(place.collector()))
    assert [record.at_us % 10 for record in place.records()] == [1, 2, 3, 4, 9, 1, 2, 3, 4]
    assert not list(place.folder.glob("requests.log.*"))


@pytest.mark.parametrize("first", [b"", line(1)])
def test_the_torn_end_of_a_log_put_aside_is_told_once(place: Place, first: bytes) -> None:
    place.append(first, line(2)[:50], to="requests.log.1")
    place.append(line(3))
    collector = place.collector()
    with logging() as logged:
        for _ in range(5):
            drained(collector)
    assert errors(logged) == ["an entry of the access log is damaged"]
    assert not (place.folder / "requests.log.1").exists()
    assert len(place.records()) == (2 if first else 1)


@pytest.mark.parametrize("first", [b"", line(1)])
def test_a_whole_entry_at_the_end_counts_without_its_lines_end(place: Place, first: bytes) -> None:
    place.append(first, line(2)[:-1], to="requests.log.1")
    place.append(line(3))
    drained(drained(place.collector()))
    assert len(place.records()) == (3 if first else 2)
    assert not (place.folder / "requests.log.1").exists()


def test_an_empty_log_put_aside_goes(place: Place) -> None:
    place.append(b"", to="requests.log.1")
    place.append(line(3))
    drained(drained(place.collector()))
    assert not (place.folder / "requests.log.1").exists()


def test_a_log_that_vanishes_is_begun_anew(place: Place) -> None:
    place.append(line(1))
    collector = drained(place.collector())
    place.log.unlink()
    drained(collector)
    assert place.envoy.reopened == 1
    place.append(line(2))
    drained(collector)
    assert len(place.records()) == 2


def test_a_first_line_that_a_client_made_long_stalls_nothing(place: Place) -> None:
    place.append(line(1, id='"' * 60_000), line(2))
    drained(place.collector())
    assert len(place.records()) == 2


def test_a_log_that_cannot_be_read_is_an_alarm(place: Place) -> None:
    place.log.mkdir()
    collector = place.collector()
    collector.step()
    collector.finish()
    assert "cannot read" in place.alarms()["log"]
    place.log.rmdir()
    place.append(line(1))
    drained(collector).finish()
    assert "log" not in place.alarms()
    assert len(place.records()) == 1


# A ledger that goes away.


def test_a_ledger_that_is_away_at_the_start(place: Place) -> None:
    away = Away(place)
    away.go()
    place.append(line(1))
    collector = place.collector()
    assert not collector.step()
    collector.finish()
    assert "usage waits in" in place.alarms()["ledger"]
    away.come()
    drained(collector).finish()
    assert "ledger" not in place.alarms()
    assert len(place.records()) == 1


def test_a_ledger_that_goes_away_and_comes_back(place: Place) -> None:
    away = Away(place)
    place.document(DAILY)
    place.append(now_line(1))
    collector = drained(place.collector())
    for number in (2, 3):
        away.go()
        place.append(now_line(number))
        assert not collector.step()
        assert not collector.step()
        away.come()
        drained(collector)
    collector.finish()
    assert len(place.records()) == 3
    assert used(place) == {"daily": 3}


def test_accounts_stay_as_they_were_told_while_the_ledger_is_away(place: Place) -> None:
    away = Away(place)
    place.document(DAILY)
    place.append(*map(now_line, range(3)))
    drained(place.collector()).finish()
    assert spent(place) == {"daily"}
    away.go()
    restarted = place.collector()
    restarted.step()
    restarted.finish()
    assert spent(place) == {"daily"}
    assert "ledger" in place.alarms()
    away.come()
    drained(restarted).finish()
    assert (spent(place), place.alarms()) == ({"daily"}, {})


def test_a_policy_that_changes_while_the_ledger_is_away(place: Place) -> None:
    away = Away(place)
    away.go()
    collector = place.collector()
    for accounts in ((DAILY, ROLLING), (ROLLING,), (MONEY, ROLLING)):
        place.document(*accounts)
        collector.step()
    place.append(now_line())
    away.come()
    drained(collector).finish()
    assert used(place) == {"money": 20 * 10**6, "limit:standard": 15}


def test_a_ledger_that_goes_away_while_accounts_are_fetched_counts_nothing_twice(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.document(ROLLING, DAILY)
    place.append(now_line(1))
    drained(place.collector())
    collector = place.collector()
    ledger = place.ledgers[-1]
    real, calls = ledger.spent, iter(range(10_000))

    def sometimes(*asked: Any) -> Any:
        if next(calls) in (3, 40, 100):
            raise module.LedgerUnavailable("away")
        return real(*asked)

    monkeypatch.setattr(ledger, "spent", sometimes)
    for _ in range(6):
        collector.step()
    collector.finish()
    assert used(place) == {"limit:standard": 15, "daily": 1}


def test_a_write_that_was_done_though_the_connection_broke_counts_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.document(DAILY)
    collector = drained(place.collector())
    ledger = place.ledgers[-1]
    real, broken = ledger.write, iter([True])

    def breaks(*given: Any) -> Any:
        found = real(*given)
        if next(broken, False):
            raise module.LedgerUnavailable("gone at the commit")
        return found

    monkeypatch.setattr(ledger, "write", breaks)
    place.append(now_line(1), now_line(2))
    drained(collector)
    drained(collector).finish()
    assert used(place) == {"daily": 2}
    assert len(place.records()) == 2


# Accounts.


def test_accounts_are_counted_from_the_ledger_after_a_restart(place: Place) -> None:
    place.document(DAILY, MONEY, ROLLING)
    place.append(now_line(1), now_line(2))
    drained(place.collector())
    place.append(now_line(3))
    drained(place.collector()).finish()
    assert used(place) == {"daily": 3, "money": 60 * 10**6, "limit:standard": 45}
    assert spent(place) == {"daily"}


def test_an_entry_ahead_of_the_clock_counts_the_same_after_a_restart(place: Place) -> None:
    """A month has its whole length, whatever the clock says now; unless this is its last minute."""
    place.document(MONEY)
    place.append(line(1, at=str(now_us() + 30_000_000)))
    drained(place.collector()).finish()
    before = used(place)
    drained(place.collector()).finish()
    assert used(place) == before


def test_entries_of_another_time_count_in_theirs(place: Place) -> None:
    place.document(DAILY, ROLLING)
    place.append(line(1, at="0"), line(2, at=str(now_us() - 40 * 86_400_000_000)), now_line(3))
    drained(place.collector()).finish()
    assert used(place) == {"daily": 1, "limit:standard": 15}
    assert len(place.records()) == 3


def test_the_end_of_a_budget_is_told_at_once_and_little_changes_are_not(place: Place) -> None:
    place.document(DAILY, MONEY)
    collector = place.collector()
    collector.step()
    collector._told._next = float("inf")  # within the second
    place.append(now_line(1))
    drained(collector)
    assert used(place) == {"daily": 0, "money": 0}
    place.append(now_line(2), now_line(3))
    drained(collector)
    assert used(place) == {"daily": 3, "money": 60 * 10**6}
    assert spent(place) == {"daily"}


def test_what_is_told(place: Place) -> None:
    place.document(DAILY)
    drained(place.collector())
    (account,) = place.told()["accounts"]
    start, end = account.pop("window")
    assert start <= now_us() < end and end - start == 86_400_000_000
    assert account == {
        "budget": "daily", "owner_kind": "key", "owner": "alice", "unit": "requests", "used": 0, "amount": 3,
        "on_spent": "block", "until_us": None,
    }  # fmt: skip
    assert (place.told()["version"], place.told()["alarms"]) == (1, [])
    assert place.paths.standing.stat().st_mode & 0o777 == 0o600


def test_a_file_that_says_the_same_is_not_written(place: Place) -> None:
    place.document(DAILY)
    collector = drained(place.collector())
    before = place.paths.standing.stat().st_ino
    for _ in range(3):
        collector.finish()
    assert place.paths.standing.stat().st_ino == before


# The accounting document.


def test_a_new_document_counts_from_the_next_entry(place: Place) -> None:
    collector = place.collector()
    place.append(line(1))
    drained(collector)
    place.document(prices={"": {"m": {"input": "100", "output": "100"}}})
    place.append(line(2))
    drained(collector)
    assert [record.cost_pico for record in place.records()] == [20 * 10**6, 1500 * 10**6]


def _spoiled(**changes: object) -> bytes:
    account = {"budget": "b", "owner_kind": "key", "owner": "a", "unit": "requests", "amount": 1, "period": "day"}
    return orjson.dumps({"clusters": {}, "accounts": [{**account, **changes}] * 2})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"clusters":{},"version":2}',
        b'{"clusters":7}',
        _spoiled(),  # two are the same
        _spoiled(zone="Nowhere/Nothing"),
        _spoiled(unit="hours"),
        _spoiled(owner=""),
        _spoiled(warn=["x"]),
        b'{"clusters":{},"prices":{"":{"m":{"input":"-1"}}}}',
        b'{"clusters":{},"prices":{"":{"**":{"input":"1"}}}}',
    ],
)
def test_a_document_that_cannot_be_used_changes_nothing(place: Place, content: bytes) -> None:
    place.document(DAILY)
    collector = drained(place.collector())
    good = place.paths.document.read_bytes()
    place.paths.document.write_bytes(content)
    place.append(now_line(1))
    drained(collector).finish()
    assert used(place) == {"daily": 1}
    assert place.records()[0].cost_pico == 20 * 10**6
    assert "as before the last policy" in place.alarms()["document"]
    place.paths.document.write_bytes(good)
    drained(collector).finish()
    assert place.alarms() == {}


def test_without_a_document_requests_are_recorded_and_what_was_told_stays(place: Place) -> None:
    place.document(DAILY)
    place.append(*map(now_line, range(3)))
    drained(place.collector()).finish()
    place.paths.document.unlink()
    place.append(now_line(4, cluster="p"))
    drained(place.collector()).finish()
    assert spent(place) == {"daily"}
    assert "document" in place.alarms()
    assert len(place.records()) == 4


# Files that are damaged, or cannot be written.


def _memory(**changes: object) -> bytes:
    told = {"account": ["daily", "key", "alice", "requests", "day", "UTC", 0], "told": {}, "spent": None, **changes}
    return orjson.dumps({"estimator": {"version": 1, "models": {}}, "budgets": {"version": 1, "accounts": [told]}})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"estimator":{}}',
        b'{"estimator":7,"budgets":{"version":1,"accounts":[]}}',
        b'{"estimator":{"version":1,"models":{"x":{}}},"budgets":{"version":2}}',
        _memory(account=["x"]),
        _memory(told={"abc": 1}),
        _memory(told={"1/0": 1}),
        _memory(told={"1/2": "soon"}),
        _memory(spent={"held_us": 1}),
        _memory(spent={"held_us": "x", "until_us": 1}),
    ],
)
def test_a_damaged_memory_is_forgotten(place: Place, content: bytes) -> None:
    place.document(DAILY)
    place.paths.memory.write_bytes(content)
    place.append(now_line(1))
    with logging() as logged:
        drained(place.collector()).finish()
    assert any("lost" in entry["event"] for entry in logged)
    assert used(place) == {"daily": 1}
    assert orjson.loads(place.paths.memory.read_bytes())["budgets"]["version"] == 1


def test_a_warning_is_given_once_over_a_restart(place: Place) -> None:
    place.document(DAILY)
    place.append(now_line(1), now_line(2))
    with logging() as logged:
        drained(place.collector()).finish()
        drained(place.collector()).finish()
    assert [entry["event"] for entry in logged].count("warned") == 1


def test_a_memory_that_was_not_taken_up_yet_is_not_written_over(place: Place) -> None:
    away = Away(place)
    place.document(DAILY)
    place.append(now_line(1), now_line(2))
    drained(place.collector()).finish()
    before = orjson.loads(place.paths.memory.read_bytes())["budgets"]
    away.go()
    restarted = place.collector()
    restarted.step()
    restarted.finish()
    assert orjson.loads(place.paths.memory.read_bytes())["budgets"] == before
    assert before["accounts"]


def test_what_was_learned_is_known_after_a_restart(place: Place) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 1000}
    place.append(*(line(number, usage=orjson.dumps(usage).decode()) for number in range(50)))
    drained(place.collector()).finish()
    place.append(line(99, answered="", usage=None))
    drained(place.collector())
    last = place.records()[-1]
    assert last.estimated and 800 < last.tokens.output < 1200


@pytest.mark.parametrize("name", ["standing", "memory"])
def test_a_file_that_cannot_be_written_does_not_stop_the_reading(place: Place, name: str) -> None:
    path: Path = getattr(place.paths, name)
    path.mkdir()
    collector = place.collector()
    place.append(line(1))
    with logging() as logged:
        drained(collector).finish()
        place.append(line(2))
        drained(collector).finish()
    assert len(place.records()) == 2
    assert [entry["name"] for entry in logged if entry["event"] == "alarm"] == [name]
    path.rmdir()
    collector.finish()
    collector.finish()
    assert path.is_file()
    assert place.alarms() == {}
    assert not list(place.folder.glob(".*.new"))


def test_entries_that_the_ledger_refuses_for_now_are_learned_from_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.append(line(1))
    collector = place.collector()
    ledger = place.ledgers[-1]
    real, broken = ledger.write, iter([True] * 5)

    def breaks(*given: Any) -> Any:
        if next(broken, False):
            raise module.LedgerUnavailable("database or disk is full")
        return real(*given)

    monkeypatch.setattr(ledger, "write", breaks)
    for _ in range(7):
        collector.step()
    assert collector._estimator.dump()["models"]["openai/m"]["finished"] == 1
    assert len(place.records()) == 1


def test_the_stand_in_is_as_envoy_is(place: Place) -> None:
    assert isinstance(place.envoy, NoEnvoy)
    assert {name for name in dir(NoEnvoy) if name in dir(module.Envoy)} >= {"reopen_logs", "failed_writes"}


def test_the_largest_budget_is_told(place: Place) -> None:
    most = 10**9 * 10**12  # picodollars of the largest amount that a policy takes
    place.document(AccountSpec("company", "", "", "pico", most, period="month"))
    drained(place.collector()).finish()
    (account,) = place.told()["accounts"]
    assert int(account["amount"]) == most

"""The ledger on real databases: what is written is what is answered, once."""

import itertools
from collections.abc import Iterable, Mapping
from contextlib import closing
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extproc.usage.ledger import Ledger, RefusedRecordError, Spent, UnpricedModel, UsageRow
from extproc.usage.ledger import requests as requests_module
from extproc.usage.ledger.histogram import RELATIVE_ERROR
from extproc.usage.ledger.schema import RUN
from extproc.usage.ledger.spans import DAY, HOUR, MINUTE
from extproc.usage.record import Tokens, UsageRecord
from tests.unit.ledger.usage_records import MAY_1, record, records, sums

EVER = 2**52
# One database serves all examples: each takes names of its own.
_examples = itertools.count()
several = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def said(row: UsageRow) -> dict[str, object]:
    return {name: getattr(row, name) for name in sums([])}


def own(batch: Iterable[UsageRecord], example: int) -> list[UsageRecord]:
    """The records under an organization of this example."""
    return [r._replace(id=f"{example}/{r.id}", organization=str(example)) for r in batch]


def first_of_each(batch: Iterable[UsageRecord]) -> list[UsageRecord]:
    found: dict[tuple[int, str], UsageRecord] = {}
    for one in batch:
        found.setdefault((one.at_us, one.id), one)
    return list(found.values())


def test_an_empty_ledger_answers_nothing(ledger: Ledger) -> None:
    assert ledger.usage(["key", "day"], 0, EVER) == []
    assert ledger.usage([], 0, EVER) == []
    assert ledger.unpriced(0, EVER) == []
    assert ledger.spent("key", "alice", 0, EVER) == Spent(0, 0, 0)
    assert ledger.records() == ()
    assert ledger.position("log") == 0


def test_a_record_comes_back_as_it_was(ledger: Ledger) -> None:
    whole = record(1, estimated=True, cache_hit=True, status=0, cost_pico=None, first_byte_us=None, streamed=False)
    other = record(2, MAY_1 + 1, cost_pico=0, complete=False)
    assert ledger.write([whole, other], "log", 10) == (whole, other)
    assert ledger.records() == (other, whole)


def test_a_range_read_twice_counts_once(ledger: Ledger) -> None:
    batch = [record(n) for n in range(5)]
    assert ledger.write(batch[:3], "log", 30) == tuple(batch[:3])
    assert ledger.write(batch, "log", 50) == tuple(batch[3:])
    assert ledger.write(batch, "log", 50) == ()
    assert ledger.write([batch[0], record(9), record(9, key="bob")], "log", 60) == (record(9),)
    assert ledger.spent("", "", 0, EVER) == Spent(6, 6 * 15, 6 * 1500)
    assert ledger.position("log") == 60


def test_positions_are_kept_by_log(ledger: Ledger) -> None:
    ledger.write([], "a", 1)
    ledger.write([], "b", 2)
    ledger.write([], "a", 3)
    assert (ledger.position("a"), ledger.position("b")) == (3, 2)
    ledger.forget("a")
    ledger.forget("never read")
    assert (ledger.position("a"), ledger.position("b")) == (0, 2)


@several
@given(st.lists(st.tuples(st.integers(0, 40), st.lists(records(), max_size=30)), max_size=6))
def test_totals_equal_a_plain_sum(ledger: Ledger, batches: list[tuple[int, list[UsageRecord]]]) -> None:
    """Each batch begins with some of what was written before, as after a kill."""
    example = next(_examples)
    written: list[UsageRecord] = []
    new: list[UsageRecord] = []
    for again, batch in batches:
        mine = own(batch, example)
        new += ledger.write([*written[-again:], *mine], "log", 1)
        written += mine
    expected = first_of_each(written)
    assert new == expected

    where = {"organization": str(example)}
    assert [said(row) for row in ledger.usage([], 0, EVER, where)] == ([sums(expected)] if expected else [])
    spent = ledger.spent("organization", str(example), 0, EVER)
    assert spent.requests == len(expected)
    assert spent.tokens == sum(r.tokens.total for r in expected)
    assert spent.cost_pico == sum(r.cost_pico or 0 for r in expected)
    by_day = ledger.usage(["day", "provider"], 0, EVER, where)
    assert sum(row.requests for row in by_day) == len(expected)
    for row in by_day:
        alike = [r for r in expected if r.provider == row.group["provider"] and day(r) == row.group["day"]]
        assert said(row) == sums(alike)


def day(one: UsageRecord) -> str:
    return f"2026-05-{(one.at_us - MAY_1) // DAY + 1:02}"


@several
@given(
    st.lists(records(MAY_1, MAY_1 + 2 * DAY), min_size=1, max_size=60),
    st.integers(MAY_1 - HOUR, MAY_1 + 2 * DAY),
    st.integers(0, 2 * DAY),
    st.sampled_from([1, MINUTE, HOUR, DAY]),
)
def test_any_range_answers_what_its_records_sum_up_to(
    ledger: Ledger, batch: list[UsageRecord], since: int, length: int, aligned: int
) -> None:
    example = next(_examples)
    ledger.write(own(batch, example), "log", 1)
    since, until = since // aligned * aligned, (since + length) // aligned * aligned
    inside = [r for r in first_of_each(batch) if since <= r.at_us < until]
    where = {"organization": str(example)}
    for by in ([], ["minute"], ["hour"], ["day"]):
        rows = ledger.usage(by, since, until, where)
        assert sum(row.requests for row in rows) == len(inside)
    rows = ledger.usage(["team", "key"], since, until, where)
    expected: Mapping[tuple[str, str], list[UsageRecord]] = {
        (team, key): alike
        for team in ("search", "")
        for key in ("alice", "bob", "")
        if (alike := [r for r in inside if (r.team, r.key) == (team, key)])
    }
    assert {tuple(row.group.values()): said(row) for row in rows} == {k: sums(v) for k, v in expected.items()}
    # Latencies do not depend on what they were read from: all by the minute is all by the record, slot by slot.
    whole = ledger.usage([], since, until, where)
    assert [row.latency_p50 is not None for row in whole] == [True] * bool(inside)


def test_groups_are_named_and_sorted(ledger: Ledger) -> None:
    times = [MAY_1 + 13 * HOUR + 5 * MINUTE + 7, MAY_1 + 13 * HOUR, MAY_1 + DAY]
    ledger.write([record(n, at, key="ab"[n % 2]) for n, at in enumerate(times)], "log", 1)

    def groups(*by: str) -> list[tuple[str, ...]]:
        rows = ledger.usage(by, 0, EVER)
        assert all(tuple(row.group) == by for row in rows)
        return [tuple(row.group.values()) for row in rows]

    assert groups("day") == [("2026-05-01",), ("2026-05-02",)]
    assert groups("hour", "key") == [("2026-05-01T13:00Z", "a"), ("2026-05-01T13:00Z", "b"), ("2026-05-02T00:00Z", "a")]
    assert groups("minute") == [("2026-05-01T13:00Z",), ("2026-05-01T13:05Z",), ("2026-05-02T00:00Z",)]
    assert groups("key", "model", "provider", "served_model") == [
        ("a", "smart", "openai", "gpt-4o"),
        ("b", "smart", "openai", "gpt-4o"),
    ]


def test_a_row_has_rates_and_percentiles(ledger: Ledger) -> None:
    batch = [
        record(n, status=500 if n < 5 else 200, first_byte_us=10_000 * (n + 1), duration_us=100_000 * (n + 1))
        for n in range(100)
    ]
    ledger.write(batch, "log", 1)
    (row,) = ledger.usage([], 0, EVER)
    assert (row.requests, row.errors, row.error_rate, row.total_tokens) == (100, 5, 0.05, 1500)
    for found, exact in (
        (row.latency_p50, 5000),
        (row.latency_p95, 9500),
        (row.latency_p99, 9900),
        (row.first_token_p50, 500),
        (row.first_token_p95, 950),
        (row.first_token_p99, 990),
    ):
        assert found == pytest.approx(exact, rel=RELATIVE_ERROR + 0.001)
    assert row.tokens_per_second == pytest.approx(500 / 505)
    assert ledger.usage([], MAY_1, MAY_1 + 1) == [row]  # from the records themselves


def test_money_is_exact_beyond_64_bits(ledger: Ledger) -> None:
    most = 10**16
    ledger.write([record(n, MAY_1 + n * DAY, cost_pico=most - 1) for n in range(1000)], "log", 1)
    (row,) = ledger.usage([], 0, EVER)
    assert row.cost == Decimal("9999999.999999999000")
    assert str(row.cost) == "9999999.999999999"
    assert ledger.spent("team", "search", 0, EVER).cost_pico == 1000 * (most - 1)


def test_models_without_a_price_are_listed_and_never_cost_zero(ledger: Ledger) -> None:
    ledger.write(
        [
            record(1, model="a", served_model="a-1", cost_pico=None),
            record(2, model="a", served_model="a-1", cost_pico=None, tokens=Tokens(1, 2)),
            record(3, model="a", served_model="a-1", cost_pico=7),
            record(4, model="b"),
            record(5, model="c", cost_pico=0),
        ],
        "log",
        1,
    )
    assert ledger.unpriced(0, EVER) == [UnpricedModel("a", "openai", "a-1", 2, 11, 7)]
    assert ledger.unpriced(0, MAY_1) == []
    (a,) = ledger.usage(["model"], 0, EVER, {"model": "a"})
    assert (a.cost, a.unpriced) == (Decimal("0.000000000007"), 2)
    (c,) = ledger.usage([], 0, EVER, {"model": "c"})
    assert c.cost == 0
    ledger.write([record(6, model="d", cost_pico=None)], "log", 1)
    assert [row.cost for row in ledger.usage([], 0, EVER, {"model": "d"})] == [None]


def test_spending_is_told_by_owner(ledger: Ledger) -> None:
    ledger.write([record(1), record(2, key="bob"), record(3, team="ops"), record(4, organization="other")], "log", 1)
    asked = [("key", "alice", 3), ("team", "search", 3), ("organization", "acme", 3), ("", "", 4), ("key", "nobody", 0)]
    for kind, owner, requests in asked:
        spent = ledger.spent(kind, owner, MAY_1, MAY_1 + 1)  # type: ignore[arg-type]
        assert spent == Spent(requests, requests * 15, requests * 1500)


def test_records_are_paged_and_chosen(ledger: Ledger) -> None:
    batch = [record(n, MAY_1 + n // 3, key="ab"[n % 2], model=f"m{n % 3}") for n in range(30)]
    ledger.write(batch, "log", 1)
    newest = sorted(batch, key=lambda r: (r.at_us, r.id), reverse=True)
    for where, expected in (
        ({}, newest),
        ({"key": "a"}, [r for r in newest if r.key == "a"]),
        ({"key": "a", "model": "m1"}, [r for r in newest if (r.key, r.model) == ("a", "m1")]),
        ({"id": "request-7"}, [batch[7]]),
        ({"id": "request-7", "key": "a"}, []),
    ):
        found: list[UsageRecord] = []
        while page := ledger.records(where, 4, (found[-1].at_us, found[-1].id) if found else None):
            found += page
        assert found == expected


def test_unknown_names_are_refused(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="cannot group by 'week': expected one of key, team"):
        ledger.usage(["week"], 0, EVER)
    with pytest.raises(ValueError, match="cannot choose by 'day'"):
        ledger.usage([], 0, EVER, {"day": "2026-05-01"})
    with pytest.raises(ValueError, match="cannot choose records by 'status'"):
        ledger.records({"status": "200"})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tokens": Tokens(input=-1)}, "input_tokens is -1, expected 0 to"),
        ({"tokens": Tokens(output=2**70)}, "output_tokens is 1180591620717411303424"),
        ({"cost_pico": -5}, "cost_pico is -5"),
        ({"at_us": -1}, "at_us is -1"),
        ({"id": "half \ud800"}, "id holds a character"),
        ({"id": "a\0b"}, "id holds a character"),
        ({"id": "x" * 3000}, "id has 3000 characters, expected at most 512"),
    ],
)
def test_a_record_that_cannot_be_stored_is_named(ledger: Ledger, changes: dict[str, object], problem: str) -> None:
    bad = record(1, **changes)  # type: ignore[arg-type]
    with pytest.raises(RefusedRecordError, match=problem) as caught:
        ledger.write([record(0), bad, record(2)], "log", 1)
    assert caught.value.record == bad.id
    assert ledger.position("log") == 0
    assert len(ledger.write([record(0), record(2)], "log", 1)) == 2
    assert ledger.spent("", "", 0, EVER).requests == 2


def test_a_request_is_found_by_the_id_that_the_client_saw(ledger: Ledger) -> None:
    hour = 3_600_000_000
    ids = [
        "ab.0123456789",
        "ab.0123456999",
        "ab.cd.0123456789",
        "ab",
        "abc.0123456789",
        "é🦊.0123456789",
        "%.0123456789",
    ]
    batch = [record(n, MAY_1 + n * 700 * hour, id=each) for n, each in enumerate(ids)]
    ledger.write(batch, "log", 1)

    def found(request: str) -> list[str]:
        return [each.id for each in ledger.records({"id": request})]

    assert found("ab") == ["ab.0123456999", "ab.0123456789"]
    assert found("ab.cd") == ["ab.cd.0123456789"]
    assert found("ab.0123456789") == ["ab.0123456789"]
    assert found("é🦊") == ["é🦊.0123456789"]
    assert found("%") == ["%.0123456789"]
    assert found("a") == found("") == found("ab.") == []
    assert [each.id for each in ledger.records({"id": "ab"}, limit=1)] == ["ab.0123456999"]


def test_a_request_is_found_in_every_run(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests_module, "_AT_ONCE", 1)
    ledger.write([record(n, MAY_1 + n, id=f"{n}.0123456789") for n in range(2 * RUN + 9)], "log", 1)
    for number in (0, RUN - 2, RUN - 1, RUN, 2 * RUN - 1, 2 * RUN + 8):
        assert [each.at_us for each in ledger.records({"id": str(number)})] == [MAY_1 + number]
    assert ledger.records({"id": str(2 * RUN + 9)}) == ()


def test_a_request_is_found_by_the_index(ledger: Ledger) -> None:
    ledger.write([record(number, MAY_1 + number) for number in range(3000)], "log", 1)
    question = (
        "SELECT number FROM usage_records WHERE (usage_records.number / 4096) IN (0) AND id >= 'a.' AND id < 'a/'"
    )
    with ledger._database.writing() as connection:
        if ledger._database.dialect == "sqlite":
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {question}").fetchall()
        else:
            connection.exec_driver_sql("ANALYZE usage_records")
            question = question.replace("id >=", 'id COLLATE "C" >=').replace("id <", 'id COLLATE "C" <')
            plan = connection.exec_driver_sql(f"EXPLAIN {question}").fetchall()
    assert "usage_records_request" in str(plan)


@pytest.mark.parametrize("bad", [0, 3, 6])
def test_a_record_that_the_database_refuses_for_no_known_reason_is_named(ledger: Ledger, bad: int) -> None:
    batch = [record(number) for number in range(7)]
    _refuse(ledger, batch[bad].id)
    with pytest.raises(RefusedRecordError, match="nobody knows why") as caught:
        ledger.write(batch, "log", 1)
    assert caught.value.record == batch[bad].id
    assert (ledger.position("log"), ledger.spent("", "", 0, EVER).requests) == (0, 0)
    assert len(ledger.write([each for each in batch if each is not batch[bad]], "log", 1)) == 6


def _refuse(ledger: Ledger, request: str) -> None:
    """Has the database refuse a record, as a constraint of somebody else's would."""
    odd = {
        "sqlite": f"CREATE TRIGGER odd BEFORE INSERT ON usage_records WHEN new.id = '{request}' "
        "BEGIN SELECT RAISE(ABORT, 'no'); END",
        "postgresql": f"ALTER TABLE usage_records ADD CONSTRAINT odd CHECK (id <> '{request}')",
    }
    with ledger._database.writing() as connection:
        connection.exec_driver_sql(odd[ledger._database.dialect])


def test_names_of_any_kind_are_counted(ledger: Ledger) -> None:
    ledger.write([record(1, model="a\0b"), record(2, model="\ud800"), record(3, model="m" * 100_000)], "log", 1)
    assert [row.group["model"] for row in ledger.usage(["model"], 0, EVER)] == ["?", "a\ufffdb", "m" * 256]


def test_a_reader_sees_what_is_committed_while_a_writer_is_at_work(ledger: Ledger, url: str) -> None:
    ledger.write([record(1)], "log", 1)
    with closing(Ledger.open(url)) as other:
        with ledger._database.writing():
            assert other.spent("", "", 0, EVER).requests == 1
        ledger.write([record(2)], "log", 2)
        assert other.spent("", "", 0, EVER).requests == 2
        assert other.write([record(3)], "log", 3)
    assert ledger.spent("", "", 0, EVER).requests == 3

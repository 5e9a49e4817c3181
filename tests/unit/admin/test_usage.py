"""Usage over the admin API: ranges, groups, rows as the contract says, a ledger that is away."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import orjson
import pytest
from fastapi import FastAPI

from controlplane.admin.access import Caller, caller_of
from controlplane.admin.app import _add_errors
from controlplane.admin.roles import Everything, Principal, Role
from controlplane.admin.usage import Usage
from controlplane.runtime.accounting import Accounting
from controlplane.runtime.folder import RunFolder
from extproc.usage.ledger import Ledger
from tests.unit.ledger.usage_records import record
from tests.unit.plan.compiled import compiled

POLICY = "version: 1\nproviders: {p: {kind: mock}}\nmodels: {m: p}\n"
HOUR_US = 3_600_000_000
LATENCIES = {"p50", "p95", "p99"}


@pytest.fixture
def accounting(tmp_path: Path) -> Accounting:
    return Accounting(RunFolder(tmp_path / "run"), tmp_path)


@pytest.fixture
def usage(accounting: Accounting) -> Iterator[Usage]:
    with Usage(accounting) as opened:
        yield opened


@pytest.fixture
async def client(usage: Usage) -> httpx.AsyncClient:
    app = FastAPI()
    _add_errors(app)
    app.include_router(usage.router(SimpleNamespace(live=SimpleNamespace(compiled=compiled(POLICY)))))  # type: ignore[arg-type]
    app.dependency_overrides[caller_of] = lambda: Caller(Principal("admin", Role.ADMIN, Everything()), user=False)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://admin")


@pytest.fixture
def now_us(accounting: Accounting) -> int:
    """A ledger with a request of this moment, two of an hour ago, one of 40 days ago, and one without a price."""
    now = time.time_ns() // 1000
    records = [
        record(1, now - 1000),
        record(2, now - HOUR_US, key="bob", model="m"),
        record(3, now - HOUR_US, status=500),
        record(4, now - 40 * 24 * HOUR_US),
        record(5, now - HOUR_US, model="odd", cost_pico=None, estimated=True),
    ]
    with Ledger.open(f"sqlite:///{accounting.log.with_name('ledger.db')}") as ledger:
        ledger.write(records, "log", 1)
    return now


async def rows(client: httpx.AsyncClient, path: str = "/usage", **asked: str) -> list[dict[str, object]]:
    answer = await client.get(path, params=asked)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, object]] = answer.json()["rows"]
    return found


async def test_rows_as_the_contract_says(client: httpx.AsyncClient, now_us: int) -> None:
    found = await rows(client, by="key,model")
    assert [(row["key"], row["model"], row["requests"]) for row in found] == [
        ("alice", "odd", 1), ("alice", "smart", 2), ("bob", "m", 1),
    ]  # fmt: skip
    smart = found[1]
    assert (smart["input_tokens"], smart["output_tokens"], smart["total_tokens"]) == (20, 10, 30)
    assert (smart["cost"], smart["errors"], smart["error_rate"]) == ("0.000000003", 1, 0.5)
    assert set(smart["latency_ms"]) == set(smart["first_token_ms"]) == LATENCIES  # type: ignore[call-overload]
    assert (found[0]["cost"], found[0]["unpriced"], found[0]["estimated"]) == (None, 1, 1)


async def test_without_groups_there_is_one_row(client: httpx.AsyncClient, now_us: int) -> None:
    (row,) = await rows(client)
    assert (row["requests"], "key" in row) == (4, False)


async def test_an_empty_ledger_has_no_rows(client: httpx.AsyncClient) -> None:
    assert await rows(client, by="key") == []


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, 4),
        ({"since": "30m"}, 1),
        ({"since": "60d"}, 5),
        ({"since": "2h", "until": "30m"}, 3),
        ({"since": "2020-01-01"}, 5),
        ({"since": "2020-01-01", "until": "2020-02-01"}, 0),
        ({"since": "2020-01-01T00:00:00+02:00"}, 5),
        ({"since": "0001-01-01", "until": "9999-12-31"}, 5),
        ({"since": "60d", "until": ""}, 5),
    ],
)
async def test_ranges(client: httpx.AsyncClient, now_us: int, asked: dict[str, str], expected: int) -> None:
    assert sum(int(str(row["requests"])) for row in await rows(client, by="model", **asked)) == expected


@pytest.mark.parametrize("path", ["/usage", "/usage/unpriced"])
@pytest.mark.parametrize("name", ["since", "until"])
@pytest.mark.parametrize("text", ["yesterday", "30", "-1h", "400d", "2026-13-01", "2026-01-01 10:00", "1h 2m", "\n"])
async def test_a_time_that_is_none_is_told(client: httpx.AsyncClient, path: str, name: str, text: str) -> None:
    answer = await client.get(path, params={name: text})
    assert answer.status_code == 422
    assert name in answer.json()["detail"]
    assert "24h" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/usage", "/usage/unpriced"])
@pytest.mark.parametrize(("since", "until"), [("1d", "2d"), ("2100-01-01", ""), ("2026-01-01", "2026-01-01")])
async def test_a_range_that_ends_before_it_begins_is_told(
    client: httpx.AsyncClient, path: str, since: str, until: str
) -> None:
    answer = await client.get(path, params={"since": since, "until": until})
    assert (answer.status_code, since in answer.text) == (422, True)


@pytest.mark.parametrize("by", ["colour", "key,colour", "at_us", "key;drop", " key"])
async def test_a_group_that_is_none_is_told(client: httpx.AsyncClient, by: str) -> None:
    answer = await client.get("/usage", params={"by": by})
    assert answer.status_code == 422
    assert by.removeprefix("key,") in answer.json()["detail"]


@pytest.mark.parametrize(
    ("where", "expected"),
    [({"key": "bob"}, 1), ({"key": ""}, 0), ({"model": "smart"}, 2), ({"team": "search", "model": "odd"}, 1)],
)
async def test_conditions(client: httpx.AsyncClient, now_us: int, where: dict[str, str], expected: int) -> None:
    assert sum(int(str(row["requests"])) for row in await rows(client, by="model", **where)) == expected


async def test_models_without_a_price(client: httpx.AsyncClient, now_us: int) -> None:
    (row,) = await rows(client, "/usage/unpriced")
    assert (row["model"], row["requests"]) == ("odd", 1)


async def test_single_requests(client: httpx.AsyncClient, now_us: int) -> None:
    found = await rows(client, "/usage/records", limit="2")
    assert [row["id"] for row in found] == ["request-1", "request-5"]
    assert found[0]["input"] == 10 and found[1]["cost"] is None
    for limit in ("0", "1001", "x"):
        assert (await client.get("/usage/records", params={"limit": limit})).status_code == 422


async def test_a_ledger_that_is_away_and_comes_back(
    client: httpx.AsyncClient, accounting: Accounting, tmp_path: Path
) -> None:
    database = accounting.log.with_name("ledger.db")
    database.mkdir()
    for path in ("/usage", "/usage/unpriced", "/usage/records"):
        answer = await client.get(path)
        assert answer.status_code == 503
        assert answer.json()["error"] == "ledger-unavailable"
    database.rmdir()
    assert (await client.get("/usage")).status_code == 200


async def test_budgets_as_the_collector_tells_them(client: httpx.AsyncClient, accounting: Accounting) -> None:
    assert await rows(client, "/budgets") == []
    account = {
        "budget": "monthly", "owner_kind": "key", "owner": "alice", "unit": "pico", "used": 1_500_000_000_000,
        "amount": 50 * 10**12, "window": [0, 86_400_000_000], "on_spent": "block", "until_us": None,
    }  # fmt: skip
    told = {"version": 1, "accounts": [account], "alarms": [{"name": "disk", "message": "full"}]}
    accounting.standing.write_bytes(orjson.dumps(told))
    (row,) = await rows(client, "/budgets")
    assert (row["budget"], row["unit"], row["used"], row["amount"], row["spent_until"]) == (
        "monthly", "usd", "1.5", "50", None,
    )  # fmt: skip
    assert (row["since"], row["until"]) == ("1970-01-01T00:00:00+00:00", "1970-01-02T00:00:00+00:00")


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{"])
async def test_what_the_collector_tells_may_be_damaged(
    client: httpx.AsyncClient, usage: Usage, accounting: Accounting, content: bytes
) -> None:
    accounting.standing.write_bytes(content)
    assert await rows(client, "/budgets") == []
    assert usage.alarms() == []
    assert accounting.spent() == ()

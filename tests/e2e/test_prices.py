"""Prices of a file: imported by the command line, charged by the gateway, told with their source."""

import json
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from tests.support import forked
from tests.support.forked import ROOT
from tests.support.gateway import Gateway, eventually
from tests.support.mock import MockProvider
from tests.support.usage import ask, ctl, only_record

_COMMUNITY = ROOT / "tests/unit/prices/community.json"
_POLICY = """
providers: {{p: {{kind: openai, base_url: "{base_url}"}}}}
models: {{m: p, flat: p, "m-*": p}}
prices: {{flat: {{request: 0.01}}}}
"""


def _file(usd: str) -> str:
    """A file of prices with one model, priced by the million tokens."""
    sold = {"family": "somebody", "name": "m", "price": {"input": usd, "output": usd}}
    return json.dumps({"version": 1, "title": "ours", "families": {"somebody": {"title": "S"}}, "models": [sold]})


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with (
        MockProvider() as provider,
        Gateway(
            _POLICY.format(base_url=provider.base_url),
            settings="prices: prices.json",
            files={"prices.json": _file("1")},
        ) as running,
    ):
        yield running


def _cost(gateway: Gateway, model: str) -> Decimal | None:
    answer = ask(gateway, model, usage="1000,500")
    cost = only_record(gateway, answer.headers["x-request-id"])["cost"]
    return None if cost is None else Decimal(cost)


def test_its_prices_are_charged_and_an_edit_is_taken_over(gateway: Gateway) -> None:
    assert _cost(gateway, "m") == Decimal("0.0015")
    gateway.write("prices.json", "no prices")
    eventually(lambda: "prices.json" in gateway.output(), "the bad edit is told")
    assert _cost(gateway, "m") == Decimal("0.0015")
    gateway.write("prices.json", _file("4"))
    eventually(lambda: _cost(gateway, "m") == Decimal("0.006"), "the new price holds", 20)


def test_a_request_is_found_by_the_id_of_its_answer(gateway: Gateway) -> None:
    answer = ask(gateway, "flat")
    request = answer.headers["x-request-id"]
    only_record(gateway, request)
    (row,) = json.loads(ctl(gateway, "usage", "--id", request, "--format", "json").stdout)["rows"]
    assert (row["id"].rpartition(".")[0], row["cost"]) == (request, "0.01")
    assert "served_model: flat" in ctl(gateway, "usage", "--id", request).stdout
    assert "no record has this id" in ctl(gateway, "usage", "--id", "nobody-1").stdout


def test_a_price_by_the_request_includes_tokens(gateway: Gateway) -> None:
    assert _cost(gateway, "flat") == Decimal("0.01")


def test_explain_and_show_tell_where_a_price_is_from(gateway: Gateway) -> None:
    gateway.write("request.json", json.dumps({"model": "m"}))
    done = ctl(gateway, "explain", str(gateway.path), "--request", str(gateway.folder / "request.json"))
    assert "ours: somebody/m" in done.stdout, done.stdout + done.stderr
    rows = json.loads(ctl(gateway, "prices", "show", "flat", str(gateway.path), "--format", "json").stdout)["rows"]
    assert [(row["provider"], row["price"], row["source"]) for row in rows] == [
        ("p", {"request": "0.01"}, "policy: flat")
    ]
    assert "no known price" in ctl(gateway, "prices", "show", "m-other", str(gateway.path)).stdout
    assert "catalog of" in ctl(gateway, "prices", "show", "gpt-4o").stdout


def _import(tmp_path: Path, file: str, *words: str) -> subprocess.CompletedProcess[str]:
    return forked.run("prices", "import", file, *words, cwd=tmp_path, env={"COLUMNS": "200"})


def test_an_import_says_what_it_left_out(tmp_path: Path) -> None:
    done = _import(tmp_path, str(_COMMUNITY), "--format", "json")
    assert done.returncode == 0, done.stderr
    told, written = json.loads(done.stdout), json.loads((tmp_path / "prices.json").read_text())
    assert told["models"] == len(written["models"]) > 0
    assert "negative" in {each["name"] for each in told["skipped"]}
    assert all(each["reason"] for each in told["skipped"])
    assert "12 entries were left out" in _import(tmp_path, str(_COMMUNITY), "-o", "again.json").stdout
    assert json.loads((tmp_path / "again.json").read_text()) == written


@pytest.mark.parametrize("text", ["[]", "{", "{}"])
def test_what_is_no_price_file_changes_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "prices.json").write_text("as before")
    (tmp_path / "bad.json").write_text(text)
    done = _import(tmp_path, "bad.json")
    assert (done.returncode, (tmp_path / "prices.json").read_text()) == (1, "as before")
    assert "bad.json" in done.stderr

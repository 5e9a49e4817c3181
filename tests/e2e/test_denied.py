"""Requests that the edge refuses, in the audit log: who, why, how many."""

import json
import os
import signal
from collections.abc import Iterator

import pytest

from tests.support.gateway import Gateway, eventually
from tests.support.usage import Row, ask, ctl

_POLICY = """
providers: {p: {kind: mock}}
models: {m: p, n: p}
budgets: {one: {requests: 1, per: day}}
limits: {two: {requests: 1/h}}
keys:
  spender: {secret: {env: SPENDER}, budget: one}
  limited: {secret: {env: LIMITED}, models: [m], limits: [two]}
"""
_KEYS = {name: f"sk-{name.lower()}-0123456789abcdef" for name in ("SPENDER", "LIMITED")}


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Gateway(_POLICY, env=_KEYS) as running:
        yield running


def _denials(gateway: Gateway) -> dict[tuple[str, str, str], int]:
    """Key, reason and model -> count."""
    folder = str(gateway.folder / "state/audit")
    done = ctl(gateway, "audit", "show", folder, "--action", "request.denied", "--format", "json")
    found: dict[tuple[str, str, str], int] = {}
    entries: list[Row] = json.loads(done.stdout)["rows"]
    for entry in entries:
        kind = (entry["actor"]["name"], entry["details"]["reason"], entry["target"])
        found[kind] = found.get(kind, 0) + entry["details"]["count"]
        assert entry["actor"]["from"] == "127.0.0.1"
    return found


def test_they_are_counted_by_key_and_reason(gateway: Gateway) -> None:
    sent = [ask(gateway, "m", key=_KEYS["LIMITED"]).status_code for _ in range(3)]
    sent += [ask(gateway, "n", key=_KEYS["LIMITED"]).status_code for _ in range(2)]
    sent += [ask(gateway, "m", key="sk-nobody").status_code for _ in range(4)]
    assert sent == [200, 429, 429, 403, 403, 401, 401, 401, 401]
    eventually(lambda: ask(gateway, "m", key=_KEYS["SPENDER"]).status_code == 429, "the budget is spent")
    log = gateway.folder / "state/usage/requests.log"
    eventually(lambda: b"insufficient_quota" in log.read_bytes(), "Envoy wrote its log")
    os.kill(gateway.process("usage"), signal.SIGTERM)  # which tells before it ends, and does not wait for a minute
    expected = {
        ("limited", "rate_limit_exceeded", "m"): 2,
        ("limited", "model_not_allowed", "n"): 2,
        ("", "invalid_api_key", ""): 4,
        ("spender", "insufficient_quota", ""): 1,
    }
    eventually(lambda: sum(_denials(gateway).values()) >= sum(expected.values()), "they are in the audit log")
    assert _denials(gateway) == expected
    counts = gateway.folder / "state/usage/denials.json"
    eventually(lambda: not counts.exists(), "the counts were taken")
    shown = ctl(gateway, "audit", "show", str(gateway.folder / "state/audit"), "--since", "1h", "--limit", "10").stdout
    assert "model_not_allowed" in shown
    assert ctl(gateway, "audit", "verify", str(gateway.folder / "state/audit")).returncode == 0

"""What `ctl diff` says of counters: kept, or begun anew."""

import pytest

from controlplane.plan.counters import changes
from tests.unit.plan.compiled import compiled

POLICY = """\
version: 1
providers: {{p: {{kind: mock}}}}
models: {{m: p}}
teams: {{red: {{limits: [l]}}}}
keys: {{alice: {{secret: {{env: A}}, team: red, limits: [l], budget: b}}}}
limits: {{l: {{{limit}}}}}
budgets: {{b: {{{budget}}}}}
"""
BUDGET = "usd: 5, per: day"


def change(before: str, after: str, budgets: tuple[str, str] = (BUDGET, BUDGET)) -> list[tuple[str, bool]]:
    plans = [
        compiled(POLICY.format(limit=limit, budget=budget)).plan
        for limit, budget in zip((before, after), budgets, strict=True)
    ]
    return [(".".join(each.path), each.kept) for each in changes(*plans)]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("requests: 10/s", "requests: 10/s", []),
        ("requests: 10/s", "requests: 20/s", [("limits.l.requests", False)]),
        ("tokens: 10/s", "tokens: 20/s", [("limits.l.tokens", True)]),
        ("tokens: 10/s", "tokens: 10/s, enforce: strict", [("limits.l.tokens", False)]),
        ("tokens: 10/s, enforce: strict", "tokens: 20/s, enforce: strict", [("limits.l.tokens", True)]),
        ("tokens: 10/s, enforce: strict", "tokens: 10/m, enforce: strict", [("limits.l.tokens", False)]),
        (
            "tokens: 10/s, enforce: strict",
            "tokens: 10/s, enforce: strict, on_error: allow",
            [("limits.l.tokens", True)],
        ),
        ("concurrent: 5", "concurrent: 6", [("limits.l.concurrent", True)]),
        ("concurrent: 5", "concurrent: 5, per: key", [("limits.l.concurrent", False)]),
        ("concurrent: 5", "requests: 5/s", []),
    ],
)
def test_an_edited_limit(before: str, after: str, expected: list[tuple[str, bool]]) -> None:
    assert change(before, after) == expected


@pytest.mark.parametrize(("after", "kept"), [("usd: 6, per: day", True), ("usd: 5, per: day, enforce: strict", False)])
def test_an_edited_budget(after: str, kept: bool) -> None:
    assert change("concurrent: 5", "concurrent: 5", (BUDGET, after)) == [("budgets.b", kept)]

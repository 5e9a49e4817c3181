"""Issued keys beside the policy: what must not be edited away under them."""

import pytest

from controlplane.plan.tokens import IssuedKey, Tokens, conflicts, identity_of, priority_in
from controlplane.policy.check import check
from controlplane.policy.language import Policy
from extproc.usage.identity import Owner

BASE = "version: 1\nproviders: {p: {kind: mock}}\nmodels: {m: p}\n"
ISSUED = Tokens("{}", (), (IssuedKey("dora", "dora;$trial;fast;", None, ("fast",), "trial", Owner("dora")),))
HAVE = "limits: {fast: {requests: 1/s}}\nbudgets: {trial: {usd: 1, per: day}}\n"


def policy(text: str) -> Policy:
    found = check(BASE + text, "policy.yaml").policy
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        (HAVE, []),
        (HAVE + "keys: {dana: {secret: {env: A}}}\n", []),
        (HAVE + "keys: {dora: {secret: {env: A}}}\n", ["issued-key-name"]),
        ("budgets: {trial: {usd: 1, per: day}}\n", ["issued-key-needs"]),
        ("", ["issued-key-needs", "issued-key-needs"]),
    ],
)
def test_an_edit_keeps_what_issued_keys_bear(text: str, codes: list[str]) -> None:
    assert [each.code for each in conflicts(policy(text), ISSUED)] == codes
    assert not list(conflicts(policy(text), None))


@pytest.mark.parametrize("priority", ["high", "normal", "low"])
def test_an_identity_says_whose_turn_it_is(priority: str) -> None:
    for limits in ((), ("high", "low")):
        assert priority_in(identity_of(Owner("dora", "search", "acme"), limits, ("trial",), priority)) == priority

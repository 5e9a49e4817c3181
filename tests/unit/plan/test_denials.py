"""Spent accounts -> whose requests the edge denies, until when, and whose it serves by another model."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.plan.denials import Denial, Spent, denials, spent
from controlplane.plan.ir import Plan
from tests.unit.plan.compiled import compiled

KEYS = """\
version: 1
gateway: {budget: everyone}
providers: {p: {kind: mock}}
models: {m: p, cheap: p, cheaper: p}
budgets:
  everyone: {requests: 10, per: day}
  shared: {usd: 5, per: month}
  own: {usd: 5, per: month}
  soft: {usd: 1, per: day, on_spent: {downgrade: cheap}}
limits: {tokens: {tokens: 10/m}}
organizations: {acme: {budget: shared}}
teams: {search: {organization: acme, budget: soft}, ads: {organization: acme}, free: {}}
keys:
  alice: {secret: {env: A}, team: search, budget: [own, soft], limits: [tokens]}
  bob: {secret: {env: B}, team: search}
  carol: {secret: {env: C}, team: ads}
  dave: {secret: {env: D}, team: free}
  erin: {secret: {env: E}}
"""
OPEN = """\
version: 1
gateway: {budget: [everyone, soft]}
providers: {p: {kind: mock}}
models: {m: p, cheap: p}
budgets:
  everyone: {requests: 10, per: day}
  soft: {requests: 5, per: day, on_spent: {downgrade: cheap}}
"""


PLAN = compiled(KEYS).plan


@pytest.fixture
def plan() -> Plan:
    return PLAN


def denied(plan: Plan, *accounts: Spent) -> dict[str, Denial]:
    """By key."""
    names = {key.identity: key.name for key in plan.keys}
    return {names.get(denial.identity, denial.identity): denial for denial in denials(plan, accounts)}


def of(name: str, kind: str = "", owner: str = "", on_spent: str = "block", until_us: int = 100) -> Spent:
    return Spent(name, kind, owner, on_spent, until_us)


@pytest.mark.parametrize(
    ("account", "expected"),
    [
        (of("own", "key", "alice"), {"alice"}),
        (of("limit:tokens", "key", "alice"), {"alice"}),
        (of("soft", "team", "search", "downgrade:cheap"), {"alice", "bob"}),
        (of("shared", "organization", "acme"), {"alice", "bob", "carol"}),
        (of("everyone"), {"alice", "bob", "carol", "dave", "erin"}),
    ],
)
def test_an_owner_is_all_of_its_keys(plan: Plan, account: Spent, expected: set[str]) -> None:
    found = denied(plan, account)
    assert set(found) == expected
    assert all(denial.until_us == 100 and denial.name == account.name for denial in found.values())


@pytest.mark.parametrize(
    "account",
    [
        of("gone", "key", "alice"),
        of("own", "key", "bob"),
        of("own", "key", "nobody"),
        of("own", "team", "search"),
        of("limit:gone", "key", "alice"),
        of("shared"),
        of("everyone", "key", "alice"),
    ],
)
def test_an_account_of_an_older_policy_denies_nobody(plan: Plan, account: Spent) -> None:
    assert denied(plan, account) == {}


def test_a_limit_is_told_from_a_budget(plan: Plan) -> None:
    assert denied(plan, of("limit:tokens", "key", "alice"))["alice"].rate
    assert not denied(plan, of("own", "key", "alice"))["alice"].rate


def test_a_downgrade_names_its_model(plan: Plan) -> None:
    found = denied(plan, of("soft", "key", "alice", "downgrade:cheap"))["alice"]
    assert (found.downgrade, found.rate) == ("cheap", False)


def test_the_hardest_wins_then_the_longest(plan: Plan) -> None:
    accounts = [
        of("soft", "key", "alice", "downgrade:cheap", until_us=9000),
        of("limit:tokens", "key", "alice", until_us=50),
        of("own", "key", "alice", until_us=300),
        of("everyone", until_us=200),
    ]
    for given_order in (accounts, accounts[::-1]):
        found = denied(plan, *given_order)
        assert (found["alice"].name, found["alice"].until_us, found["alice"].downgrade) == ("own", 300, None)
        assert (found["bob"].name, found["bob"].until_us) == ("everyone", 200)


_spent = st.builds(
    of,
    st.sampled_from(["own", "soft", "shared", "everyone", "limit:tokens", "gone"]),
    st.sampled_from(["key", "team", "organization", ""]),
    st.sampled_from(["alice", "search", "acme", "", "bob"]),
    st.sampled_from(["block", "downgrade:cheap", "downgrade:cheaper"]),
    st.integers(1, 5),
)


@given(st.lists(_spent, max_size=8))
def test_one_denial_for_each_identity_whatever_the_order(accounts: list[Spent]) -> None:
    plan = PLAN
    found = denials(plan, accounts)
    identities = [denial.identity for denial in found]
    assert identities == sorted(set(identities))
    assert [(d.identity, d.downgrade is None, d.until_us) for d in denials(plan, accounts[::-1])] == [
        (d.identity, d.downgrade is None, d.until_us) for d in found
    ]


def test_the_open_gateway_is_everyone() -> None:
    plan = compiled(OPEN).plan
    soft, hard = of("soft", on_spent="downgrade:cheap", until_us=500), of("everyone", until_us=100)
    assert denied(plan, soft)[""].downgrade == "cheap"
    assert denied(plan, soft, hard)[""] == Denial("", "everyone", False, 100)


def test_nothing_spent_denies_nobody(plan: Plan) -> None:
    assert denials(plan, ()) == ()


def told(**changes: Any) -> Mapping[str, Any]:
    account = {"budget": "b", "owner_kind": "key", "owner": "a", "on_spent": "block", "until_us": 7, **changes}
    return {"accounts": [account]}


def test_only_accounts_without_anything_left_are_spent() -> None:
    assert spent(told()) == (Spent("b", "key", "a", "block", 7),)
    assert spent(told(until_us=None)) == ()
    assert spent(told(on_spent="warn")) == ()
    assert spent({"accounts": []}) == ()


@pytest.mark.parametrize("document", [{}, {"accounts": 7}, {"accounts": [{}]}, {"accounts": [7]}])
def test_what_is_no_standing_is_an_error(document: Mapping[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError)):
        spent(document)


OUTSIDE = (
    KEYS
    + """\
issuers:
  corp:
    issuer: https://corp.example
    audience: a
    jwks: {url: https://corp.example/keys}
    claims: {team: groups}
    teams: {eng: search, sales: ads}
    team: free
    budget: own
  shop: {issuer: https://shop.example, audience: a, jwks: {url: https://shop.example/keys}}
"""
)


def outside(*accounts: Spent) -> set[str]:
    return {denial.identity for denial in denials(compiled(OUTSIDE).plan, accounts) if denial.outside}


@pytest.mark.parametrize(
    ("account", "begin"),
    [
        (of("everyone"), {"acme/search/corp:", "acme/ads/corp:", "free/corp:", "shop:"}),
        (of("shared", "organization", "acme"), {"acme/search/corp:", "acme/ads/corp:"}),
        (of("soft", "team", "search", "downgrade:cheap"), {"acme/search/corp:"}),
        (of("own", "key", "corp:bob"), {"acme/search/corp:bob", "acme/ads/corp:bob", "free/corp:bob"}),
        (of("own", "key", "shop:bob"), set()),  # its clients have no such budget
        (of("own", "key", "alice"), set()),
    ],
)
def test_accounts_concern_clients_of_outside_issuers(account: Spent, begin: set[str]) -> None:
    assert outside(account) == begin

"""Who a request is from: written by the control plane, read by the collector."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.policy.grammar import NAME, matches
from extproc.usage.identity import Owner, identity, owner

_name = st.text("aZ09._-", min_size=1, max_size=63).filter(lambda text: matches(NAME, text))
_owners = st.builds(Owner, _name, st.just("") | _name, st.just("") | _name)


@given(_owners, st.lists(_name, unique=True, max_size=4))
def test_what_is_written_is_read(who: Owner, limits: list[str]) -> None:
    assert owner(identity(who, limits)) == who


@given(st.lists(st.tuples(_owners, st.lists(_name, unique=True, max_size=2)), max_size=4))
def test_two_owners_are_never_one(pairs: list[tuple[Owner, list[str]]]) -> None:
    known = {(who, frozenset(limits)) for who, limits in pairs}
    assert len({identity(who, sorted(limits)) for who, limits in known}) == len(known)


@given(_owners, st.lists(_name, min_size=1, unique=True, max_size=4))
def test_each_limit_stands_between_semicolons(who: Owner, limits: list[str]) -> None:
    made = identity(who, limits)
    assert all(f";{limit};" in made for limit in limits)
    assert made == identity(who, reversed(limits)), "their order changes nothing: buckets are kept"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Owner("")),
        ("alice", Owner("alice")),
        ("search/alice", Owner("alice", "search")),
        ("acme/search/alice;a;b;", Owner("alice", "search", "acme")),
        ("acme//alice", Owner("alice", "", "acme")),
        ("a/b/c/d", Owner("d", "c", "a/b")),
        (";;", Owner("")),
    ],
)
def test_any_text_has_an_owner(text: str, expected: Owner) -> None:
    assert owner(text) == expected

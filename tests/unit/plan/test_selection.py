"""Whose identity a team's or an organization's limit concerns."""

import re

from hypothesis import given
from hypothesis import strategies as st

from controlplane.plan.tokens import identity_of
from controlplane.xds.selection import _of_organizations, _of_teams
from extproc.usage.identity import Owner

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,5}", fullmatch=True)
several = st.lists(names, min_size=1, max_size=3).map(tuple)
none = st.just("")


@given(names, names | none, names | none, st.lists(names, max_size=2).map(tuple), several)
def test_exactly_its_keys(
    key: str, team: str, organization: str, limits: tuple[str, ...], named: tuple[str, ...]
) -> None:
    identity = identity_of(Owner(key, team, organization), limits, limits)
    assert bool(re.fullmatch(_of_teams(named), identity)) == (team in named)
    assert bool(re.fullmatch(_of_organizations(named), identity)) == (organization in named)

"""Roles of the admin API: the table holds what it promises, for every principal and target."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.admin.roles import (
    PERMISSIONS,
    Action,
    Everything,
    Organization,
    Principal,
    Principals,
    Role,
    Team,
    allows,
    allows_some,
    holds,
    permissions_page,
)
from controlplane.policy.secrets import Secret

names = st.sampled_from(["", "ml", "web", "acme", "umbrella"])
teams = st.builds(Team, names, names)
scopes = st.one_of(st.just(Everything()), st.builds(Organization, names), teams)
actions = st.sampled_from(list(Action))
roles = st.sampled_from(list(Role))


@given(scopes, actions, scopes)
def test_a_role_can_do_all_that_a_lower_one_can(scope: object, action: Action, target: object) -> None:
    can = [allows(Principal("p", role, scope), action, target) for role in Role]  # type: ignore[arg-type]
    assert all(higher >= lower for lower, higher in pairwise(can))


@given(teams, roles, actions, scopes)
def test_a_team_never_sees_another_team(team: Team, role: Role, action: Action, target: object) -> None:
    can = allows(Principal("p", role, team), action, target)  # type: ignore[arg-type]
    if action == Action.READ_MODELS:
        assert can
    elif can:
        assert isinstance(target, Team)
        assert target.name == team.name != ""


@given(names, roles, actions, scopes)
def test_an_organization_sees_itself_and_its_teams_only(name: str, role: Role, action: Action, target: object) -> None:
    can = allows(Principal("p", role, Organization(name)), action, target)  # type: ignore[arg-type]
    if can and action != Action.READ_MODELS:
        own = target.organization if isinstance(target, Team) else getattr(target, "name", None)
        assert own == name != ""


@given(scopes, roles, actions)
def test_the_whole_gateway_includes_every_scope(scope: object, role: Role, action: Action) -> None:
    if allows(Principal("p", role, scope), action, scope):  # type: ignore[arg-type]
        assert allows(Principal("p", role, Everything()), action, scope)  # type: ignore[arg-type]


@given(scopes, scopes, scopes)
def test_what_a_held_scope_holds_is_held(outer: object, middle: object, inner: object) -> None:
    # A team as a scope is known by its name alone, so only a target that says its organization can be passed on.
    if isinstance(middle, Team) and isinstance(inner, Team) and middle.organization != inner.organization:
        return
    if holds(outer, middle) and holds(middle, inner):  # type: ignore[arg-type]
        assert holds(outer, inner)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("role", "scope", "action", "target", "may"),
    [
        (Role.MEMBER, Team("ml"), Action.ISSUE_KEYS, Team("ml", "acme"), True),
        (Role.MEMBER, Team("ml"), Action.REVOKE_KEYS, Team("ml", "acme"), True),
        (Role.ADMIN, Team("ml"), Action.REVOKE_KEYS, Team("web", "acme"), False),
        (Role.VIEWER, Team("ml"), Action.ISSUE_KEYS, Team("ml", "acme"), False),
        (Role.ADMIN, Team("ml"), Action.READ_STATUS, Everything(), False),
        (Role.ADMIN, Everything(), Action.READ_SNAPSHOT, Everything(), True),
        (Role.MEMBER, Everything(), Action.READ_SNAPSHOT, Everything(), False),
        (Role.MEMBER, Everything(), Action.ROTATE_SIGNING, Everything(), False),
        (Role.VIEWER, Team("ml"), Action.READ_USAGE, Team("ml", "acme"), True),
        (Role.ADMIN, Team("ml"), Action.READ_USAGE, Everything(), False),
        (Role.ADMIN, Organization("acme"), Action.ISSUE_KEYS, Team("web", "acme"), True),
        (Role.ADMIN, Organization("acme"), Action.APPLY, Everything(), False),
        (Role.ADMIN, Everything(), Action.APPLY, Everything(), True),
        (Role.MEMBER, Everything(), Action.APPLY, Everything(), False),
        (Role.MEMBER, Everything(), Action.DIFF, Everything(), True),
        (Role.VIEWER, Everything(), Action.READ_STATUS, Everything(), True),
        (Role.MEMBER, Everything(), Action.READ_AUDIT, Everything(), False),
    ],
)
def test_the_table(role: Role, scope: object, action: Action, target: object, may: bool) -> None:
    assert allows(Principal("p", role, scope), action, target) is may  # type: ignore[arg-type]


@given(scopes, roles, actions, scopes)
def test_who_may_do_something_to_a_target_may_do_it_to_some(
    scope: object, role: Role, action: Action, target: object
) -> None:
    principal = Principal("p", role, scope)  # type: ignore[arg-type]
    if allows(principal, action, target):  # type: ignore[arg-type]
        assert allows_some(principal, action)


def test_every_action_has_a_permission_and_a_row() -> None:
    assert set(PERMISSIONS) == set(Action)
    page = permissions_page()
    assert "| action | viewer | member | admin |" in page
    assert "| issue and rotate keys | no | own scope | own scope |" in page
    assert "| read models | yes | yes | yes |" in page
    assert "| apply | no | no | whole gateway only |" in page
    assert all(f"| {action} |" in page for action in Action)


ALICE = Principal("alice", Role.ADMIN, Everything())
BOB = Principal("bob", Role.VIEWER, Team("ml"))


def test_tokens_find_their_principals_and_are_not_shown() -> None:
    known = Principals.of([(ALICE, Secret("alices-token")), (BOB, Secret("bobs-token"))])
    assert known.find("alices-token") == ALICE
    assert known.find("bobs-token") == BOB
    assert [known.find(text) for text in ("", "alices-toke", "alices-token ", "\udcff", "é")] == [None] * 5
    assert "token" not in repr(known)


def test_tokens_must_be_there_and_differ() -> None:
    with pytest.raises(ValueError, match="the token of alice is empty"):
        Principals.of([(ALICE, Secret(""))])
    with pytest.raises(ValueError, match="alice and bob have the same token") as raised:
        Principals.of([(ALICE, Secret("same-words")), (BOB, Secret("same-words"))])
    assert "same-words" not in str(raised.value)


@given(st.lists(st.text(min_size=1), unique=True, max_size=8), st.text())
def test_only_the_very_token_is_found(tokens: list[str], given_token: str) -> None:
    known = Principals.of(
        (Principal(str(i), Role.VIEWER, Everything()), Secret(token)) for i, token in enumerate(tokens)
    )
    found = known.find(given_token)
    assert (found is None) == (given_token not in tokens)
    assert found is None or tokens[int(found.name)] == given_token

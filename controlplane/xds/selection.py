"""Whose requests a limit counts, and by what: as actions of Envoy's rate limit descriptors.

Envoy drops a descriptor of which one entry is absent, so the entry that tells who is concerned is the condition too.
Models and providers are read from marks on the model's route: their number costs a request nothing, and an edit of
models changes no limit's configuration, which would empty its buckets.
"""

from collections.abc import Iterator
from typing import TypeAlias

from envoy.config.route.v3 import route_components_pb2 as route
from envoy.type.matcher.v3 import regex_pb2 as regex
from envoy.type.matcher.v3 import string_pb2 as strings

from controlplane.plan.limits import MODEL, PATTERN, Use
from controlplane.plan.tokens import budget_tag
from controlplane.policy.limits import Per, Place
from controlplane.xds import names
from controlplane.xds.protos import boolean

Action: TypeAlias = route.RateLimit.Action
WHO = "who"
_APPLIES = "applies"  # an entry that is only a condition
_NAMED = route.HeaderMatcher(name=names.MODEL, present_match=True)
_NOBODY = "-"  # the bucket of those without a team, which no team can be called


def tag(use: Use) -> str:
    """How an identity says that the use applies to it."""
    return f";{budget_tag(use.name) if use.budget else use.name};"


def for_service(use: Use, rule: str) -> Iterator[list[Action]]:
    """Descriptors for the service, which knows itself what team an identity is of: ("limit", `rule`), then `who`."""
    for marked in _marked(use):
        yield [_condition(use, "limit", rule), *marked, *_who(use, skip=True)]


def for_envoy(use: Use) -> Iterator[list[Action]]:
    """Descriptors for a filter of Envoy's own: one condition, perhaps a mark, then `who`, if there are several."""
    concerned = _condition(use, _APPLIES, "yes")
    for marked in _marked(use):
        if use.per in (Per.TEAM, Per.ORGANIZATION):
            for who in _groups(use):
                yield [concerned, *marked, who]
        elif use.per is Per.KEY:
            yield [concerned, *marked, *_who(use)]
            yield [concerned, *marked, _value(WHO, _NOBODY, _absent(names.CLIENT))]
        else:
            yield [concerned, *marked, *_who(use)]


def keys(actions: list[Action]) -> tuple[str, ...]:
    """The keys of the entries that actions make."""
    return tuple(
        "remote_address"
        if action.HasField("remote_address")
        else getattr(action, action.WhichOneof("action_specifier")).descriptor_key
        for action in actions
    )


def _condition(use: Use, key: str, value: str) -> Action:
    """An entry that is there if the use concerns the client, and the request is one for a model."""
    client = _client(use)
    return _value(key, value, *([_NAMED, client] if client is not None else [_NAMED]))


def _client(use: Use) -> route.HeaderMatcher | None:
    if use.place is Place.KEYS:
        return route.HeaderMatcher(name=names.CLIENT, string_match=strings.StringMatcher(contains=tag(use)))
    if use.place is Place.TEAMS:
        return _matching(_of_teams(use.owners))
    if use.place is Place.ORGANIZATIONS:
        return _matching(_of_organizations(use.owners))
    return None


def _marked(use: Use) -> list[list[Action]]:
    """By what marks of the model's route the use concerns a request; where these name its bucket, they do so here."""
    if use.per is Per.PROVIDER:
        return [[_mark(f"{use.id}/{provider}", WHO)] for provider in use.owners]
    if use.per is Per.MODEL:
        exact, pattern = (use.id, f"{use.id}*") if _by_route(use) else (MODEL, PATTERN)
        return [[_mark(exact, WHO)], [_mark(pattern, _APPLIES), _header(names.MODEL)]]
    return [[_mark(use.id, _APPLIES)]] if _by_route(use) else [[]]


def _by_route(use: Use) -> bool:
    return use.place in (Place.MODELS, Place.PROVIDERS)


def _who(use: Use, *, skip: bool = False) -> list[Action]:
    """`skip`: clients without an identity are nobody, else the descriptor is left out for them."""
    if use.per in (Per.KEY, Per.TEAM, Per.ORGANIZATION):
        return [_header(names.CLIENT, skip)]
    # Envoy gives this entry the key "remote_address".
    return [Action(remote_address=Action.RemoteAddress())] if use.per is Per.ADDRESS else []


def _groups(use: Use) -> Iterator[Action]:
    """A team (or organization) each, and one for the clients that have none."""
    pattern = _of_teams if use.per is Per.TEAM else _of_organizations
    for group in use.groups:
        yield _value(WHO, group, _matching(pattern((group,))))
    if not use.groups:
        yield _value(WHO, _NOBODY, _NAMED)
    elif not (use.place is Place.TEAMS and use.per is Per.TEAM):
        others = _matching(pattern(use.groups))
        others.invert_match = True
        others.treat_missing_header_as_empty = True
        yield _value(WHO, _NOBODY, others)


def _of_teams(teams: tuple[str, ...]) -> str:
    return rf"(?:[^/;]*/)?{_any(teams)}/[^/;]+(?:;.*)?"


def _of_organizations(organizations: tuple[str, ...]) -> str:
    return rf"{_any(organizations)}/[^/;]*/[^/;]+(?:;.*)?"


def _any(given: tuple[str, ...]) -> str:
    """An RE2 pattern; of all that names may have, only the dot means something else."""
    return f"(?:{'|'.join(name.replace('.', '[.]') for name in given)})"


def _matching(pattern: str) -> route.HeaderMatcher:
    match = strings.StringMatcher(safe_regex=regex.RegexMatcher(regex=pattern))
    return route.HeaderMatcher(name=names.CLIENT, string_match=match)


def _absent(header: str) -> route.HeaderMatcher:
    return route.HeaderMatcher(name=header, present_match=False)


def _value(key: str, value: str, *headers: route.HeaderMatcher) -> Action:
    return Action(
        header_value_match=Action.HeaderValueMatch(
            descriptor_key=key, descriptor_value=value, expect_match=boolean(True), headers=headers
        )
    )


def _header(name: str, skip: bool = False) -> Action:
    return Action(request_headers=Action.RequestHeaders(header_name=name, descriptor_key=WHO, skip_if_absent=skip))


def _mark(mark: str, key: str) -> Action:
    path = {"key": names.MARKS, "path": [{"key": mark}]}
    source = Action.MetaData.Source.ROUTE_ENTRY
    return Action(metadata=Action.MetaData(descriptor_key=key, metadata_key=path, source=source))

"""Keys -> authentication and model permissions, each an extension resource of its own.

A policy without keys gets filters that do nothing in their place, so that the listener stays the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from envoy.config.rbac.v3 import rbac_pb2 as rules
from envoy.extensions.filters.http.api_key_auth.v3 import api_key_auth_pb2 as auth
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2 as mutation
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as rbac

from controlplane.plan.ir import Key, Plan
from controlplane.policy.secrets import Secrets
from controlplane.xds import issuers, matchers, names

# Where clients put keys: OpenAI's way, Anthropic's way, Azure's way.
SOURCES = ({"header": "Authorization"}, {"header": "x-api-key"}, {"header": "api-key"})

_ALLOW = rules.Action(name="allowed", action=rules.RBAC.Action.ALLOW)
_DENY = rules.Action(name="model-not-allowed", action=rules.RBAC.Action.DENY)
_ALLOWED = matchers.action("allow", _ALLOW)
_DENY_ADDRESS = rules.Action(name=names.ADDRESS_DENIED, action=rules.RBAC.Action.DENY)


def nothing() -> mutation.HeaderMutation:
    """A filter that does nothing."""
    return mutation.HeaderMutation()


def authentication(plan: Plan, secrets: Secrets) -> auth.ApiKeyAuth:
    """Looks the client's secret up in a hash table and puts its identity into a header."""
    config = auth.ApiKeyAuth(
        key_sources=SOURCES,
        forwarding=auth.Forwarding(header=names.CLIENT, hide_credentials=True),
    )
    for key in plan.keys:
        if key.secret is not None:
            config.credentials.add(key=secrets[key.secret].reveal(), client=key.identity)
    return config


Allowed = tuple[tuple[str, tuple[str, ...]], ...]  # identity and models of each restricted key
Bound = tuple[tuple[str, tuple[str, ...]], ...]  # identity and networks of each key that is bound to some


@dataclass(frozen=True, slots=True)
class Grants:
    """What the grant header of outside issuers' clients means.

    `lists`: the header's value and the models of each issuer's own list. `models`: those of the policy, which a claim
    can name; none where no issuer has such a claim.
    """

    lists: Allowed = ()
    models: tuple[str, ...] = ()


def grants(plan: Plan) -> Grants:
    lists = tuple((issuers.own_list(each), each.models) for each in plan.issuers if each.models is not None)
    named = any(each.models_claim for each in plan.issuers)
    return Grants(lists, tuple(route.name for route in plan.routes) if named else ())


def restricts(plan: Plan) -> bool:
    """Whether anybody may use some models only, or come from some addresses only."""
    given = grants(plan)
    restricted_key = any(key.models is not None or key.addresses is not None for key in plan.keys)
    return bool(given.lists or given.models) or restricted_key


def permissions(allowed: Allowed, given: Grants = Grants(), bound: Bound = ()) -> rbac.RBAC:
    """Identity or grant -> models, a tree of hash lookups. Requests that name no model pass: the routes answer them.

    Before that identity -> addresses, where keys are bound to some: a hash lookup more, whatever their number.
    """
    shared = {models: _permission(models) for models in {models for _, models in allowed}}
    clients = {identity: shared[models] for identity, models in allowed}
    everyone = _if_named(_by_grant(given, _by_client(clients)))
    if not bound:
        return rbac.RBAC(matcher=everyone)
    elsewhere = matchers.action("deny", _DENY_ADDRESS)
    from_there = {}
    for identity, networks in bound:
        inside = matchers.then(_if_named(clients[identity])) if identity in clients else _ALLOWED
        from_there[identity] = matchers.then(matchers.first_of([(matchers.within(networks), inside)], elsewhere))
    return rbac.RBAC(matcher=matchers.lookup(names.CLIENT, from_there, {}, matchers.then(everyone)))


def _if_named(then: matchers.OnMatch) -> matchers.Matcher:
    return matchers.first_of([(matchers.present(names.MODEL), then)], _ALLOWED)


def _by_client(clients: dict[str, matchers.OnMatch]) -> matchers.OnMatch:
    return matchers.then(matchers.lookup(names.CLIENT, clients, {}, _ALLOWED)) if clients else _ALLOWED


def _by_grant(given: Grants, others: matchers.OnMatch) -> matchers.OnMatch:
    if given.models:
        others = matchers.then(matchers.first_of([(matchers.present(names.GRANT), _named(given.models))], others))
    if given.lists:
        lists = {value: _permission(models) for value, models in given.lists}
        others = matchers.then(matchers.lookup(names.GRANT, lists, {}, others))
    return others


def restricted(keys: Iterable[Key]) -> Allowed:
    """The keys that may use some models only."""
    return tuple((key.identity, key.models) for key in keys if key.models is not None)


def bound(keys: Iterable[Key]) -> Bound:
    """The keys that may be used from some addresses only."""
    return tuple((key.identity, key.addresses) for key in keys if key.addresses is not None)


def _named(models: tuple[str, ...]) -> matchers.OnMatch:
    """Grants that name models between semicolons: a model passes by its own name, and by patterns that hold it."""
    allow, deny = matchers.action("allow", _ALLOW), matchers.action("deny", _DENY)
    patterns = tuple(name for name in models if name.endswith("*"))

    def granted(model: str) -> matchers.OnMatch:
        start = model.removesuffix("*")
        holding = {model, *(pattern for pattern in patterns if start.startswith(pattern[:-1]))}
        said = (matchers.contains(names.GRANT, f";{name};") for name in sorted(holding))
        return matchers.then(matchers.first_of([(matchers.either(*said), allow)], deny))

    exact = {name: granted(name) for name in models if not name.endswith("*")}
    prefixes = {name[:-1]: granted(name) for name in models if name.endswith("*")}
    everything = matchers.contains(names.GRANT, ";*;")
    each = matchers.then(matchers.lookup(names.MODEL, exact, prefixes, deny))
    return matchers.then(matchers.first_of([(everything, allow)], each))


def _permission(models: tuple[str, ...]) -> matchers.OnMatch:
    """What one list of models allows. Thousands of keys share a few lists."""
    allow, deny = matchers.action("allow", _ALLOW), matchers.action("deny", _DENY)
    exact = {name: allow for name in models if not name.endswith("*")}
    prefixes = {name[:-1]: allow for name in models if name.endswith("*")}
    return matchers.then(matchers.lookup(names.MODEL, exact, prefixes, deny)) if models else deny

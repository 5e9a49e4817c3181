"""Keys -> authentication and model permissions, each an extension resource of its own.

A policy without keys gets filters that do nothing in their place, so that the listener stays the same.
"""

from collections.abc import Iterable

from envoy.config.rbac.v3 import rbac_pb2 as rules
from envoy.extensions.filters.http.api_key_auth.v3 import api_key_auth_pb2 as auth
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2 as mutation
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as rbac

from controlplane.plan.ir import Key, Plan
from controlplane.policy.secrets import Secrets
from controlplane.xds import matchers, names

# Where clients put keys: OpenAI's way, Anthropic's way, Azure's way.
SOURCES = ({"header": "Authorization"}, {"header": "x-api-key"}, {"header": "api-key"})

_ALLOW = rules.Action(name="allowed", action=rules.RBAC.Action.ALLOW)
_DENY = rules.Action(name="model-not-allowed", action=rules.RBAC.Action.DENY)
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


def permissions(allowed: Allowed, bound: Bound = ()) -> rbac.RBAC:
    """Identity -> models, as a tree of hash lookups. Requests that name no model pass: the routes answer them.

    Before that identity -> addresses, where keys are bound to some: a hash lookup more, whatever their number.
    """
    shared = {models: _permission(models) for models in {models for _, models in allowed}}
    clients = {identity: shared[models] for identity, models in allowed}
    allow, named = matchers.action("allow", _ALLOW), matchers.present(names.MODEL)
    by_client = matchers.then(matchers.lookup(names.CLIENT, clients, {}, allow))
    by_model = matchers.first_of([(named, by_client)], allow) if allowed else None
    if not bound:
        return rbac.RBAC(matcher=by_model)

    def inside(identity: str) -> matchers.OnMatch:
        return matchers.then(matchers.first_of([(named, clients[identity])], allow)) if identity in clients else allow

    elsewhere = matchers.action("deny", _DENY_ADDRESS)
    from_there = {
        identity: matchers.then(matchers.first_of([(matchers.within(networks), inside(identity))], elsewhere))
        for identity, networks in bound
    }
    others = allow if by_model is None else matchers.then(by_model)
    return rbac.RBAC(matcher=matchers.lookup(names.CLIENT, from_there, {}, others))


def restricted(keys: Iterable[Key]) -> Allowed:
    """The keys that may use some models only."""
    return tuple((key.identity, key.models) for key in keys if key.models is not None)


def bound(keys: Iterable[Key]) -> Bound:
    """The keys that may be used from some addresses only."""
    return tuple((key.identity, key.addresses) for key in keys if key.addresses is not None)


def _permission(models: tuple[str, ...]) -> matchers.OnMatch:
    """What one list of models allows. Thousands of keys share a few lists."""
    allow, deny = matchers.action("allow", _ALLOW), matchers.action("deny", _DENY)
    exact = {name: allow for name in models if not name.endswith("*")}
    prefixes = {name[:-1]: allow for name in models if name.endswith("*")}
    return matchers.then(matchers.lookup(names.MODEL, exact, prefixes, deny)) if models else deny

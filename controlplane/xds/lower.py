"""plan -> resources: the last step of the compiler, a pure function. One module says how one thing is lowered."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from envoy.config.core.v3 import extension_pb2 as extension
from google.protobuf.any_pb2 import Any as AnyProto
from google.protobuf.message import Message

from controlplane.metadata.models import Listed
from controlplane.metadata.rows import Row, rows
from controlplane.plan.denials import Denial
from controlplane.plan.ir import Endpoint, Plan, Upstream
from controlplane.policy.secrets import Secrets
from controlplane.xds import (
    asking_providers,
    clusters,
    denials,
    endpoints,
    facts,
    fleet,
    issuers,
    keys,
    limits,
    listener,
    module,
    names,
    routes,
    rules,
    sds,
    subsets,
    tokens,
    usage,
)  # fmt: skip
from controlplane.xds import resource as xds
from controlplane.xds.protos import pack
from controlplane.xds.surroundings import Surroundings


def lower(plan: Plan, secrets: Secrets, around: Surroundings, *, draining: bool = False) -> xds.Snapshot:
    """Everything an Envoy is told to serve this plan. The same arguments give the same bytes.

    `draining` makes /health answer 503, so that load balancers turn away before the listener closes.
    """
    return xds.Snapshot.of(_resources(plan, secrets, around, draining))


def _resources(plan: Plan, secrets: Secrets, around: Surroundings, draining: bool) -> Iterator[xds.Resource]:
    asked = subsets.asked(plan)
    for upstream in (_placed(upstream, around) for upstream in plan.reached):
        for lane, translated in names.lanes(upstream):
            made = clusters.lower(upstream, lane, around, secrets, plan.worker_timeout_ms if translated else None)
            cluster = _resource(xds.CLUSTER, made)
            yield cluster
            if not upstream.resolve:
                assignment = endpoints.lower(upstream, cluster.name, asked.get(cluster.name, ()))
                yield _resource(xds.ENDPOINTS, assignment, name=cluster.name, tie=cluster.version)
    yield _resource(xds.CLUSTER, usage.cluster(around.usage_socket))
    if plan.workers:
        yield _resource(xds.CLUSTER, rules.cluster(plan.workers, around.rules_socket))
    for secret in sds.lower(plan, secrets):
        yield _resource(xds.SECRET, secret)
    yield _resource(xds.LISTENER, listener.lower(plan, around.usage_log, around.rules_log))
    if plan.caching is not None and plan.caching.inside:
        yield _resource(xds.LISTENER, listener.inside(plan, around.usage_log, around.inside_socket))
    if any(upstream.listing_ms for upstream in plan.upstreams.values()):
        yield _resource(xds.LISTENER, asking_providers.lower(around.listings_socket))
    yield from _authentication(plan, secrets)
    yield _permissions(keys.restricted(plan.keys), keys.grants(plan), keys.bound(plan.keys))
    yield _extension(names.SPENT, pack(keys.nothing()))
    yield _facts(rows(plan, {}))
    for limit in plan.limits:
        yield _extension(names.limit(limit.use.id), limits.lower(limit))
    if plan.counted:
        yield _resource(xds.CLUSTER, clusters.service(names.LIMITS_CLUSTER, around.limits_socket))
    yield _extension(names.MODEL_FILTER, pack(module.filter_of(names.MODEL_FILTER, _told(plan))))
    yield from _optional(plan)
    yield _resource(xds.ROUTES, routes.lower(plan, draining=draining))


def _told(plan: Plan) -> str:
    """What the filter that reads the model is to do beside it."""
    words = {"limits": any(map(fleet.sized, plan.counted)), "rules": plan.ruled}
    return " ".join(word for word, wanted in words.items() if wanted)


def _optional(plan: Plan) -> Iterator[xds.Resource]:
    """The filters that ask our services."""
    made: dict[str, Message] = {}
    if plan.counted:
        made[names.NO_COUNTS] = fleet.no_counts(plan.counted, caches=plan.caching is not None)
        made[names.ASKING] = fleet.lower(plan.counted, caches=plan.caching is not None)
    if plan.inline is not None:
        made[names.RULES] = rules.processor(plan.inline)
    yield from _in_their_places((names.NO_COUNTS, names.ASKING, names.RULES), made)


def _authentication(plan: Plan, secrets: Secrets) -> Iterator[xds.Resource]:
    """The filters that decide who a request is from."""
    made: dict[str, Message] = {}
    if not plan.open:
        static = keys.authentication(plan, secrets)
        made[names.KEYS] = tokens.static_keys(static) if plan.tokens or plan.issuers else static
    if plan.tokens is not None:
        made[names.TOKENS] = tokens.authentication(plan.tokens.jwks)
        if plan.tokens.revoked:
            made[names.REVOCATIONS] = tokens.revocations(plan.tokens.revoked)
    if plan.issuers:
        patterns = (route.name for route in plan.routes if route.prefix is not None)
        made[names.ISSUERS] = issuers.authentication(plan.issuers, secrets)
        made[names.IDENTITIES] = issuers.identities(plan.issuers, patterns)
    places = (names.TOKENS, names.REVOCATIONS, names.ISSUERS, names.IDENTITIES, names.KEYS)
    yield from _in_their_places(places, made)


def _in_their_places(places: Iterable[str], made: Mapping[str, Message]) -> Iterator[xds.Resource]:
    """Filters; one without anything to do stays in the listener all the same, and does nothing."""
    for name in places:
        yield _extension(name, pack(made.get(name, keys.nothing())))


def deny(snapshot: xds.Snapshot, denied: tuple[Denial, ...]) -> xds.Snapshot:
    """The same snapshot, with requests of spent accounts refused or downgraded."""
    return _with(snapshot, _resource(xds.EXTENSION, denials.lower(denied))) if denied else snapshot


def describe(snapshot: xds.Snapshot, plan: Plan, listed: Listed) -> xds.Snapshot:
    """The same snapshot, with what providers tell of their models."""
    return _with(snapshot, _facts(rows(plan, listed))) if listed else snapshot


def _with(snapshot: xds.Snapshot, made: xds.Resource) -> xds.Snapshot:
    """The same snapshot, with an extension in the place of the one of that name."""
    kept = [each for named in snapshot.resources.values() for each in named.values()]
    return xds.Snapshot.of(made if each.name == made.name and each.type_url == xds.EXTENSION else each for each in kept)


def _placed(upstream: Upstream, around: Surroundings) -> Upstream:
    """The processes that providers are listen on sockets whose folder the plan does not know."""
    process = upstream.service or upstream.server
    if process is None:
        return upstream
    return replace(upstream, endpoints=(Endpoint(around.service_socket.format(process.socket), 0),))


@lru_cache(maxsize=2)  # that of the policy alone, and that of listings, too
def _facts(told: tuple[Row, ...]) -> xds.Resource:
    return _resource(xds.EXTENSION, facts.lower(told))


@lru_cache(maxsize=2)  # most edits leave the keys alone
def _permissions(allowed: keys.Allowed, grants: keys.Grants, bound: keys.Bound) -> xds.Resource:
    restricted = allowed or bound or grants.lists or grants.models
    made = keys.permissions(allowed, grants, bound) if restricted else keys.nothing()
    return _extension(names.PERMISSIONS, pack(made))


def _extension(name: str, config: AnyProto) -> xds.Resource:
    return _resource(xds.EXTENSION, extension.TypedExtensionConfig(name=name, typed_config=config))


def _resource(type_url: str, message: Any, name: str | None = None, tie: str = "") -> xds.Resource:
    body = message.SerializeToString(deterministic=True)
    return xds.Resource(type_url, name or message.name, body, tie)

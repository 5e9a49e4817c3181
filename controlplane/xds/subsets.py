"""Which endpoints have a model: by their metadata, so that Envoy picks among these without asking anybody.

Every cluster of a provider whose endpoints are discovered is divided by one key, its own name; an endpoint's value of
it are the models that it has. A route says by the same key which model it wants of each cluster, and clusters that are
not divided overlook what it says. Requests whose model only the client knows (a wildcard) go to any endpoint.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType

from envoy.config.cluster.v3 import cluster_pb2 as cluster
from envoy.config.core.v3 import base_pb2 as base
from envoy.config.core.v3 import extension_pb2 as extension
from envoy.extensions.load_balancing_policies.least_request.v3 import least_request_pb2 as least_request
from envoy.extensions.load_balancing_policies.random.v3 import random_pb2 as random
from envoy.extensions.load_balancing_policies.ring_hash.v3 import ring_hash_pb2 as ring_hash
from envoy.extensions.load_balancing_policies.round_robin.v3 import round_robin_pb2 as round_robin
from envoy.extensions.load_balancing_policies.subset.v3 import subset_pb2 as subset
from google.protobuf.message import Message

from controlplane.discovery.found import Found
from controlplane.plan.ir import Plan, Route
from controlplane.xds import names
from controlplane.xds.protos import pack

_NAMESPACE = "envoy.lb"
_POLICY = "envoy.load_balancing_policies."
_WITHIN: Mapping[str, Message] = MappingProxyType(
    {
        "round_robin": round_robin.RoundRobin(),
        "least_request": least_request.LeastRequest(),
        "random": random.Random(),
        "ring_hash": ring_hash.RingHash(),
    }
)

Wanted = tuple[tuple[str, str], ...]  # (cluster, the model that a route asks it for)


def balancing(name: str, balance: str) -> cluster.LoadBalancingPolicy:
    """How a cluster is divided, and how endpoints are chosen among those that have the model."""
    made = subset.Subset(
        fallback_policy=subset.Subset.LbSubsetFallbackPolicy.ANY_ENDPOINT,
        subset_selectors=[subset.Subset.LbSubsetSelector(keys=[name])],
        list_as_any=True,
        allow_redundant_keys=True,
        subset_lb_policy=_policy(balance, _WITHIN[balance]),
    )
    return _policy("subset", made)


def _policy(name: str, config: Message) -> cluster.LoadBalancingPolicy:
    made = cluster.LoadBalancingPolicy()
    made.policies.add().typed_extension_config.CopyFrom(
        extension.TypedExtensionConfig(name=_POLICY + name, typed_config=pack(config))
    )
    return made


def wanted(route: Route, plan: Plan) -> Wanted:
    """What a route asks of clusters that are divided."""
    return tuple(
        (names.target_cluster(target), model)
        for target in route.targets
        if plan.upstreams[target.provider].discovered
        and (model := target.model or route.upstream_model or (route.name if route.prefix is None else ""))
    )


def criteria(wanted: Wanted) -> base.Metadata | None:
    """The same for Envoy."""
    if not wanted:
        return None
    found = base.Metadata()
    found.filter_metadata[_NAMESPACE].update(dict(wanted))
    return found


def asked(plan: Plan) -> Mapping[str, tuple[str, ...]]:
    """Every model that a divided cluster is asked for by name."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    if any(upstream.discovered for upstream in plan.upstreams.values()):
        for route in _every_way(plan):
            for name, model in wanted(route, plan):
                found[name].add(model)
    return {name: tuple(sorted(models)) for name, models in found.items()}


def lacking(plan: Plan, found: Mapping[str, tuple[Found, ...]]) -> dict[str, tuple[str, ...]]:
    """Provider -> the models that it is asked for by name, and that none of the endpoints that were found has."""
    models = asked(plan)
    lacks = {}
    for name, endpoints in found.items():
        clusters = (names.cluster(name, lane, translated=of) for lane, of in names.lanes(plan.upstreams[name]))
        wanted = {model for each in clusters for model in models.get(each, ())}
        have = {model for each in endpoints for model in each.models or wanted}
        lacks[name] = tuple(sorted(wanted - have))
    return lacks


@lru_cache(maxsize=1024)  # services alike have the same
def having(name: str, models: tuple[str, ...]) -> base.Metadata:
    """The metadata of an endpoint of a cluster that has these models; to be copied, not changed."""
    found = base.Metadata()
    found.filter_metadata[_NAMESPACE].update({name: list(models)})
    return found


def _every_way(plan: Plan) -> Iterator[Route]:
    for route in plan.routes:
        yield route
        yield from (way.route for way in route.ways if way.route is not None)

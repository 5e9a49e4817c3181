"""Providers -> endpoints."""

from envoy.config.core.v3 import address_pb2 as address
from envoy.config.endpoint.v3 import endpoint_components_pb2 as components
from envoy.config.endpoint.v3 import endpoint_pb2 as endpoint

from controlplane.discovery.found import Found
from controlplane.plan.ir import Endpoint, Upstream
from controlplane.xds import subsets
from controlplane.xds.protos import uint

# Nobody can listen there, so connecting fails at once.
_NOWHERE_NAMED = Endpoint("127.0.0.1", 1)
_NOWHERE = Endpoint("/dev/null/nowhere", 0)


def lower(upstream: Upstream, cluster: str, asked: tuple[str, ...] = ()) -> endpoint.ClusterLoadAssignment:
    """The provider's endpoints, and behind them one that always refuses.

    Envoy answers "no healthy upstream" without a retry, which would make failover inert just when a provider
    has no healthy endpoint left (or its name does not resolve). A refused connection is retried.

    Where endpoints are discovered, none is known yet; the last one stands for each of the models that the cluster is
    `asked` for.
    """
    real = [_endpoint(e, upstream.host) for e in upstream.endpoints]
    nowhere = _endpoint(_NOWHERE_NAMED if upstream.resolve else _NOWHERE, upstream.host)
    nowhere.endpoint.health_check_config.disable_active_health_check = True
    if upstream.discovered:
        nowhere.metadata.CopyFrom(subsets.having(cluster, asked))
    return endpoint.ClusterLoadAssignment(
        cluster_name=cluster,
        endpoints=[
            components.LocalityLbEndpoints(lb_endpoints=real, priority=0),
            components.LocalityLbEndpoints(lb_endpoints=[nowhere], priority=1),
        ],
        # As long as one real endpoint in a hundred is healthy, none of the traffic goes nowhere.
        policy=endpoint.ClusterLoadAssignment.Policy(overprovisioning_factor=uint(10_000)),
    )


def _endpoint(place: Endpoint, host: str) -> components.LbEndpoint:
    if place.port:
        where = address.Address(socket_address={"address": place.host, "port_value": place.port})
    else:
        where = address.Address(pipe={"path": place.host})
    return components.LbEndpoint(endpoint=components.Endpoint(address=where, hostname=host))


def filled(body: bytes, upstream: Upstream, found: tuple[Found, ...]) -> endpoint.ClusterLoadAssignment:
    """A lowered assignment with the endpoints that were found."""
    made = endpoint.ClusterLoadAssignment.FromString(body)
    real, last = made.endpoints
    nowhere = last.lb_endpoints[0]
    for each in found:
        added = real.lb_endpoints.add()
        added.CopyFrom(_endpoint(each.endpoint, upstream.host))
        # A weight that moves with the load would move keys from endpoint to endpoint.
        added.load_balancing_weight.value = each.full if upstream.balance == "ring_hash" else each.weight
        # One that does not say has all of them.
        added.metadata.CopyFrom(subsets.having(made.cluster_name, each.models) if each.models else nowhere.metadata)
    return made

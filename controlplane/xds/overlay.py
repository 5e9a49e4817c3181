"""Endpoints that come and go, laid over a snapshot: what a policy compiles to does not change with them."""

from collections.abc import Iterator, Mapping

from controlplane.discovery.found import Found
from controlplane.plan.ir import Plan
from controlplane.xds import endpoints, names
from controlplane.xds.resource import ENDPOINTS, Resource, Snapshot


def overlay(snapshot: Snapshot, plan: Plan, found: Mapping[str, tuple[Found, ...]]) -> Snapshot:
    """The snapshot of a plan with the endpoints that were found: provider -> endpoints, in an order of their own.

    Nothing but the assignments of these providers' clusters is another, so that nodes get a delta of endpoints.
    """
    made = tuple(_assignments(snapshot, plan, found))
    return snapshot.replaced(ENDPOINTS, made) if made else snapshot


def _assignments(snapshot: Snapshot, plan: Plan, found: Mapping[str, tuple[Found, ...]]) -> Iterator[Resource]:
    for upstream in plan.upstreams.values():
        if not upstream.discovered:
            continue
        mine = found.get(upstream.name, ())
        for lane, translated in names.lanes(upstream):
            name = names.cluster(upstream.name, lane, translated=translated)
            known = snapshot.resources[ENDPOINTS][name]
            made = endpoints.filled(known.body, upstream, mine)
            yield Resource(ENDPOINTS, name, made.SerializeToString(deterministic=True), known.tie)

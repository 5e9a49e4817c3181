"""Which requests need a cluster that adapts every attempt, and which get by with the provider's plain one.

Upstream filters cost CPU on every request of their cluster, so they exist only in lanes of their own, used by
models whose targets want different paths, names or headers. All other requests are adapted once, at the edge.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from controlplane.plan.ir import Route, Target, Upstream

Lanes = dict[str, int]
Foreign = dict[str, tuple[str, ...]]


def assign(routes: Iterable[Route], upstreams: Mapping[str, Upstream]) -> tuple[tuple[Route, ...], Lanes, Foreign]:
    """The routes with their targets' lanes; lanes per provider; headers that each provider must clear."""
    assigned = tuple(_assign(route, upstreams) for route in routes)
    lanes: Lanes = {}
    foreign: dict[str, set[str]] = {}
    for route in assigned:
        for target in route.targets:
            lanes[target.provider] = max(lanes.get(target.provider, 1), target.lane + 1)
            if route.per_attempt:
                others = {name for t in route.targets for name in sets(upstreams[t.provider])}
                foreign.setdefault(target.provider, set()).update(others - sets(upstreams[target.provider]))
    return assigned, lanes, {name: tuple(sorted(headers)) for name, headers in foreign.items()}


def sets(upstream: Upstream) -> frozenset[str]:
    """The request headers that a provider's cluster sets."""
    credential = {"authorization"} if upstream.api_key else set()
    return frozenset(credential | {name.lower() for name, _ in upstream.headers})


def _assign(route: Route, upstreams: Mapping[str, Upstream]) -> Route:
    if _alike(route, upstreams):
        first = route.targets[0]
        return replace(route, upstream_model=_renamed(route, first), base_path=upstreams[first.provider].base_path)
    used: dict[str, list[str | None]] = {}
    groups = tuple(tuple(_with_lane(target, used) for target in group) for group in route.groups)
    return replace(route, groups=groups)


def _alike(route: Route, upstreams: Mapping[str, Upstream]) -> bool:
    """Whether every attempt may carry the same path, model name and set of headers."""
    wanted = {
        (_renamed(route, target), upstreams[target.provider].base_path, sets(upstreams[target.provider]))
        for target in route.targets
    }
    return len(wanted) == 1


def _renamed(route: Route, target: Target) -> str | None:
    """The name to write into the body; None if the client's own is right."""
    return None if target.model in (None, route.name) else target.model


def _with_lane(target: Target, used: dict[str, list[str | None]]) -> Target:
    """A lane per upstream model name: the cluster is all that an attempt knows about its target."""
    models = used.setdefault(target.provider, [])
    if target.model not in models:
        models.append(target.model)
    return replace(target, lane=models.index(target.model) + 1)

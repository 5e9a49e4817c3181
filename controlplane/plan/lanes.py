"""Which requests need a cluster that adapts every attempt, and which get by with the provider's plain one.

Upstream filters cost CPU on every request of their cluster, so they exist only in lanes of their own, used by
models whose targets want different paths, names or headers, or another dialect than the client's. All other requests
are adapted once, at the edge.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from controlplane.plan.dialects import Surface, translates
from controlplane.plan.ir import Route, Target, Upstream, Way

Upstreams = Mapping[str, Upstream]


@dataclass(frozen=True, slots=True)
class Lanes:
    """What all models together need of a provider. `foreign`: headers that its lanes must clear."""

    plain: int = 1
    translated: int = 0
    foreign: frozenset[str] = field(default_factory=frozenset)


def assign(routes: Iterable[Route], upstreams: Upstreams) -> tuple[tuple[Route, ...], dict[str, Lanes]]:
    """The routes with their targets' lanes, and the lanes of each provider."""
    assigned = tuple(_whole(route, upstreams) for route in routes)
    needed: dict[str, Lanes] = {}
    for route in assigned:
        ways = (route, *(way.route for way in route.ways if way.route is not None))
        for way in ways:
            _count(way, upstreams, needed)
    return assigned, needed


def sets(upstream: Upstream) -> frozenset[str]:
    """The request headers that a provider's cluster sets."""
    credential = {upstream.api_key_header} if upstream.api_key else set()
    signature = {"authorization", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token"}
    return frozenset(
        credential | (signature if upstream.aws else set()) | {name.lower() for name, _ in upstream.headers}
    )


def _count(route: Route, upstreams: Upstreams, needed: dict[str, Lanes]) -> None:
    others = {name for target in route.targets for name in sets(upstreams[target.provider])}
    for target in route.targets:
        lanes = needed.get(target.provider, Lanes())
        plain = lanes.plain if target.translated else max(lanes.plain, target.lane + 1)
        translated = max(lanes.translated, target.lane) if target.translated else lanes.translated
        foreign = others - sets(upstreams[target.provider]) if route.per_attempt else frozenset()
        needed[target.provider] = Lanes(plain, translated, lanes.foreign | foreign)


def _whole(route: Route, upstreams: Upstreams) -> Route:
    """A route and its ways. Endpoints whose requests go the way of chats after all have none of their own."""
    if not route.ways:
        return _assign(route, Surface.CHAT, upstreams)
    base = _assign(replace(route, ways=()), Surface.CHAT, upstreams)
    found: dict[Route | None, list[Surface]] = {}
    for way in route.ways:
        for surface in way.surfaces:
            own = None if way.route is None else _assign(way.route, surface, upstreams)
            if own != base:
                found.setdefault(own, []).append(surface)
    return replace(base, ways=tuple(Way(tuple(surfaces), own) for own, surfaces in found.items()))


def _assign(route: Route, surface: Surface, upstreams: Upstreams) -> Route:
    translated = {target.provider for target in route.targets if translates(upstreams[target.provider].kind, surface)}
    if not translated and _alike(route, upstreams):
        first = route.targets[0]
        return replace(route, upstream_model=_renamed(route, first), base_path=upstreams[first.provider].base_path)
    used: dict[str, list[str | None]] = {}
    groups = tuple(
        tuple(_with_lane(replace(target, translated=target.provider in translated), used) for target in group)
        for group in route.groups
    )
    return replace(route, groups=groups)


def _alike(route: Route, upstreams: Upstreams) -> bool:
    """Whether every attempt may carry the same path, model name and set of headers."""
    providers = [upstreams[target.provider] for target in route.targets]
    if any(provider.deployments for provider in providers):  # the model is in the path
        return False
    wanted = {
        (_renamed(route, target), provider.base_path, sets(provider))
        for target, provider in zip(route.targets, providers, strict=True)
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

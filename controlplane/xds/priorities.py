"""Priorities of keys -> what local models are told of a request's turn, in a header that no client can send."""

from collections.abc import Callable, Iterable

from envoy.config.core.v3 import base_pb2 as base
from envoy.config.route.v3 import route_components_pb2 as route

from controlplane.plan.tokens import priority_tag
from controlplane.xds import matchers, names

_OVERWRITE = base.HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD


def parted(priorities: Iterable[str], routed: Callable[[str], matchers.OnMatch]) -> matchers.OnMatch:
    """A route for each priority, and the usual one: by what identities say, so not more for more keys."""
    first = [(matchers.contains(names.CLIENT, f";{priority_tag(each)};"), routed(each)) for each in priorities]
    return matchers.then(matchers.first_of(first, routed(""))) if first else routed("")


def tell(made: route.Route, priority: str) -> None:
    """Has a route say it."""
    made.request_headers_to_add.add(header={"key": names.PRIORITY, "value": priority}, append_action=_OVERWRITE)

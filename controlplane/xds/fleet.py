"""Limits that Envoy cannot keep alone -> one rate limit filter that asks the service in extproc/limits.

One call at the request takes what every such limit asks for, all or nothing. The answer leaves a ticket in dynamic
metadata, and one call when the stream is done gives the ticket back with what was used. A request that no limit
concerns makes no call, and neither does the end of a stream without a ticket: of refused requests, and of those that
only plain request limits counted.

The ticket, not a header, carries what the end must know: by then routes have removed the internal headers, and clients
choose their request ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from envoy.config.core.v3 import config_source_pb2 as source
from envoy.config.core.v3 import grpc_service_pb2 as grpc
from envoy.config.ratelimit.v3 import rls_pb2 as rls
from envoy.config.route.v3 import route_components_pb2 as route
from envoy.extensions.filters.http.ratelimit.v3 import rate_limit_pb2 as ratelimit
from envoy.extensions.filters.http.set_metadata.v3 import set_metadata_pb2 as metadata
from envoy.type.matcher.v3 import regex_pb2 as regex
from envoy.type.matcher.v3 import string_pb2 as strings
from google.protobuf.struct_pb2 import Struct

from controlplane.xds import limits, names
from controlplane.xds.protos import boolean, millis

CLUSTER = "headgate-limits"
CAP = "x-headgate-cap"  # the output cap that the request states; "" or absent where it states none
NAMESPACE = "headgate"  # of the dynamic metadata that holds the tokens used, as numbers
COUNTS = ("total_tokens", "input_tokens", "output_tokens", "cached_tokens")
TICKETS = "envoy.filters.http.ratelimit"  # the namespace in which the filter keeps the service's dynamic metadata

_Action = route.RateLimit.Action


class Who(StrEnum):
    """What of a request names its bucket; the service makes key, team or organization of a client."""

    CLIENT = "client"
    MODEL = "model"
    ADDRESS = "address"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class FleetLimit:
    """A limit or budget as the filter needs it; `name` is that of the rule in the service's settings.

    `clients`: an RE2 pattern that the whole identity must match for the limit to apply, None for everyone.
    `sized`: it counts tokens or money, so that the service must know the request's size, cap and model.
    `priced`: it counts money, so that it must know the kinds of tokens, not only their sum.
    `on_error_deny`: requests are refused while nobody can count them.
    """

    name: str
    clients: str | None
    who: Who
    sized: bool
    priced: bool
    on_error_deny: bool


def member(limit: str) -> str:
    """The pattern of identities that name a limit."""
    return f".*{limits.tag(limit)}.*"


def lower(fleet: Sequence[FleetLimit], *, timeout_ms: int = 250) -> ratelimit.RateLimit:
    """The filter for all such limits; place it after the model and the cap are known.

    While the service itself cannot be reached, the strictest choice of its limits holds for all requests that it is
    asked about (503). `timeout_ms` is above what the service gives its store, so that the service decides first.
    """
    service = grpc.GrpcService(envoy_grpc=grpc.GrpcService.EnvoyGrpc(cluster_name=CLUSTER), timeout=millis(timeout_ms))
    return ratelimit.RateLimit(
        domain="headgate",
        timeout=millis(timeout_ms),
        failure_mode_deny=any(limit.on_error_deny for limit in fleet),
        status_on_error={"code": 503},
        stat_prefix="fleet",
        disable_x_envoy_ratelimited_header=True,
        rate_limit_service=rls.RateLimitServiceConfig(grpc_service=service, transport_api_version=source.ApiVersion.V3),
        rate_limits=[*map(_reserve, fleet), *_settle(fleet)],
    )


def no_counts(fleet: Sequence[FleetLimit]) -> metadata.Config:
    """A filter that says 0 for each count, to be placed before those that set them.

    Where a count is absent, Envoy leaves its descriptor out, but writes a warning for every such request.
    """
    counts = Struct()
    counts.update(dict.fromkeys(_counts(fleet), 0))
    return metadata.Config(
        metadata=[metadata.Metadata(metadata_namespace=NAMESPACE, allow_overwrite=True, value=counts)]
    )


def _reserve(limit: FleetLimit) -> route.RateLimit:
    """("limit", NAME), ("who", …) and, where sizes count, ("model", …), ("bytes", N), ("cap", N) where present."""
    actions = [_named(limit), *_who(limit.who)]
    if limit.sized:
        actions += [_header(names.MODEL, "model"), _header("content-length", "bytes"), _header(CAP, "cap")]
    return route.RateLimit(actions=actions)


def _named(limit: FleetLimit) -> route.RateLimit.Action:
    """The first entry; where it is absent, Envoy leaves the whole descriptor out."""
    if limit.clients is None:
        return _Action(generic_key=_Action.GenericKey(descriptor_key="limit", descriptor_value=limit.name))
    pattern = strings.StringMatcher(safe_regex=regex.RegexMatcher(regex=limit.clients))
    return _Action(
        header_value_match=_Action.HeaderValueMatch(
            descriptor_key="limit",
            descriptor_value=limit.name,
            expect_match=boolean(True),
            headers=[route.HeaderMatcher(name=names.CLIENT, string_match=pattern)],
        )
    )


def _who(who: Who) -> list[route.RateLimit.Action]:
    if who is Who.CLIENT:
        return [_header(names.CLIENT, "who")]
    if who is Who.MODEL:
        return [_header(names.MODEL, "who")]
    # Envoy gives this entry the key "remote_address".
    return [_Action(remote_address=_Action.RemoteAddress())] if who is Who.ADDRESS else []


def _header(name: str, key: str) -> route.RateLimit.Action:
    return _Action(request_headers=_Action.RequestHeaders(header_name=name, descriptor_key=key, skip_if_absent=True))


def _settle(fleet: Sequence[FleetLimit]) -> list[route.RateLimit]:
    """("ticket", T), ("count", WHAT), each number as its descriptor's hits. A number that is absent is left out.

    The status is always there: a request that reports no tokens must give its ticket back too.
    """
    counts = _counts(fleet)
    formats = [f"%DYNAMIC_METADATA({NAMESPACE}:{count})%" for count in counts]
    return [_count("status", "%RESPONSE_CODE%"), *map(_count, counts, formats)]


def _counts(fleet: Sequence[FleetLimit]) -> Sequence[str]:
    """The kinds of tokens matter for money only."""
    return COUNTS if any(limit.priced for limit in fleet) else COUNTS[:1]


def _count(what: str, number: str) -> route.RateLimit:
    ticket = _Action(
        metadata=_Action.MetaData(descriptor_key="ticket", metadata_key={"key": TICKETS, "path": [{"key": "ticket"}]})
    )
    kind = _Action(generic_key=_Action.GenericKey(descriptor_key="count", descriptor_value=what))
    return route.RateLimit(
        actions=[ticket, kind], hits_addend=route.RateLimit.HitsAddend(format=number), apply_on_stream_done=True
    )

"""What the rate limit service counts -> one rate limit filter that asks it.

One call at the request takes what every such limit asks for, all or nothing. The answer leaves a ticket in dynamic
metadata, and one call when the stream is done gives the ticket back with what was used. A request that no limit
concerns makes no call, and neither does the end of a stream without a ticket: of refused requests, and of those that
only plain request limits counted.

The ticket, not a header, carries what the end must know: by then routes have removed the internal headers, and clients
choose their request ids.
"""

from collections.abc import Iterator, Sequence

from envoy.config.core.v3 import config_source_pb2 as source
from envoy.config.core.v3 import grpc_service_pb2 as grpc
from envoy.config.ratelimit.v3 import rls_pb2 as rls
from envoy.config.route.v3 import route_components_pb2 as route
from envoy.extensions.filters.http.ratelimit.v3 import rate_limit_pb2 as ratelimit
from envoy.extensions.filters.http.set_metadata.v3 import set_metadata_pb2 as metadata
from google.protobuf.struct_pb2 import Struct

from controlplane.plan.limits import Counted
from controlplane.xds import names, selection
from controlplane.xds.protos import millis
from extproc.limits.settings import Kind, Unit
from extproc.usage.entries import CACHE_HITS

TYPE = "envoy.extensions.filters.http.ratelimit.v3.RateLimit"
NO_COUNTS_TYPE = "envoy.extensions.filters.http.set_metadata.v3.Config"
NAMESPACE = "headgate"  # of the dynamic metadata that holds the tokens used, as numbers
COUNTS = ("total_tokens", "input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens")
TICKETS = "envoy.filters.http.ratelimit"  # the namespace in which the filter keeps the service's dynamic metadata

_Action = selection.Action


def sized(counted: Counted) -> bool:
    """Whether tokens or money are counted: the service must know the request's size, cap and model."""
    return counted.rule.kind is not Kind.CONCURRENT and counted.rule.counts is not Unit.REQUESTS


def priced(counted: Counted) -> bool:
    """Whether money is counted: the kinds of tokens matter, not only their sum."""
    return counted.rule.counts is Unit.PICODOLLARS


def lower(counted: Sequence[Counted], *, caches: bool = False, timeout_ms: int = 1000) -> ratelimit.RateLimit:
    """The filter for all that is counted; place it after the model and the cap are known. `caches`: some rules do.

    While the service itself cannot be reached, the strictest choice of its limits holds for all requests that it is
    asked about (503). `timeout_ms` is above what the service gives its store, so that the service decides first.
    """
    service = grpc.GrpcService(
        envoy_grpc=grpc.GrpcService.EnvoyGrpc(cluster_name=names.LIMITS_CLUSTER), timeout=millis(timeout_ms)
    )
    return ratelimit.RateLimit(
        domain="headgate",
        timeout=millis(timeout_ms),
        failure_mode_deny=any(each.rule.on_error == "deny" for each in counted),
        status_on_error={"code": 503},
        stat_prefix="fleet",
        disable_x_envoy_ratelimited_header=True,
        rate_limit_service=rls.RateLimitServiceConfig(grpc_service=service, transport_api_version=source.ApiVersion.V3),
        rate_limits=[each for of in counted for each in _reserve(of)] + _settle(counted, caches=caches),
    )


def no_counts(counted: Sequence[Counted], *, caches: bool = False) -> metadata.Config:
    """A filter that says 0 for each count, to be placed before those that set them.

    Where a count is absent, Envoy leaves its descriptor out, but writes a warning for every such request.
    """
    counts = Struct()
    counts.update(dict.fromkeys(_counts(counted, caches=caches), 0))
    return metadata.Config(
        metadata=[metadata.Metadata(metadata_namespace=NAMESPACE, allow_overwrite=True, value=counts)]
    )


def _reserve(counted: Counted) -> Iterator[route.RateLimit]:
    """("limit", NAME), ("who", …) and, where sizes count, ("model", …), ("bytes", N), ("cap", N) where present."""
    size = []
    if sized(counted):
        size = [_header(names.MODEL, "model"), _header("content-length", "bytes"), _header(names.CAP, "cap")]
    for actions in selection.for_service(counted.use, counted.name):
        yield route.RateLimit(actions=[*actions, *size])


def _header(name: str, key: str) -> route.RateLimit.Action:
    return _Action(request_headers=_Action.RequestHeaders(header_name=name, descriptor_key=key, skip_if_absent=True))


def _settle(counted: Sequence[Counted], *, caches: bool) -> list[route.RateLimit]:
    """("ticket", T), ("count", WHAT), each number as its descriptor's hits. A number that is absent is left out.

    The status is always there: a request that reports no tokens must give its ticket back too.
    """
    counts = _counts(counted, caches=caches)
    formats = [f"%DYNAMIC_METADATA({NAMESPACE}:{count})%" for count in counts]
    return [_count("status", "%RESPONSE_CODE%"), *map(_count, counts, formats)]


def _counts(counted: Sequence[Counted], *, caches: bool) -> Sequence[str]:
    """No token, their sum, or for money their kinds too; and whether the cache answered."""
    hits = (CACHE_HITS,) if caches else ()
    if any(map(priced, counted)):
        return (*COUNTS, *hits)
    return (*COUNTS[:1], *hits) if any(map(sized, counted)) else ()


def _count(what: str, number: str) -> route.RateLimit:
    ticket = _Action(
        metadata=_Action.MetaData(descriptor_key="ticket", metadata_key={"key": TICKETS, "path": [{"key": "ticket"}]})
    )
    kind = _Action(generic_key=_Action.GenericKey(descriptor_key="count", descriptor_value=what))
    return route.RateLimit(
        actions=[ticket, kind], hits_addend=route.RateLimit.HitsAddend(format=number), apply_on_stream_done=True
    )

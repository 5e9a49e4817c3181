"""When an attempt is followed by another, and where that goes."""

from envoy.config.route.v3 import route_components_pb2 as route

from controlplane.plan.ir import Route
from controlplane.xds.protos import PREVIOUS_HOSTS, millis, typed_struct, uint

_LOOKS = 32  # for an endpoint that was not tried yet: one of much weight comes up again and again


def lower(model: Route, *, elsewhere: bool) -> route.RetryPolicy:
    """`elsewhere`: an attempt should go to another endpoint of the same provider, since there are some."""
    retry = model.retry
    policy = route.RetryPolicy(
        retry_on=",".join(retry.conditions),
        retriable_status_codes=retry.statuses,
        num_retries=uint(retry.attempts - 1),
        per_try_timeout=millis(model.first_byte_ms),
        retry_back_off={"base_interval": millis(25), "max_interval": millis(250)},
    )
    if model.idle_ms < all_first_bytes_ms(model):
        # The stream's clock has to be longer. Envoy does not always arm this one (docs/compiler.md).
        policy.per_try_idle_timeout.CopyFrom(millis(model.idle_ms))
    if elsewhere:
        previous = policy.retry_host_predicate.add(name="envoy.retry_host_predicates.previous_hosts")
        previous.typed_config.CopyFrom(typed_struct(PREVIOUS_HOSTS, {}))
        policy.host_selection_retry_max_attempts = _LOOKS
    if retry.honour_retry_after:
        # Longer waits are the client's to decide: it gets the provider's 429 with its retry-after.
        policy.rate_limited_retry_back_off.reset_headers.add(name="retry-after")
        policy.rate_limited_retry_back_off.max_interval.CopyFrom(millis(5000))
    if len(model.groups) > 1 or len(model.groups[0]) > 1:
        policy.MergeFromString(b"\x70\x01")  # refresh_cluster_on_retry, field 14, unknown to xds-protos
    return policy


def all_first_bytes_ms(model: Route) -> int:
    """How long all attempts together may be silent; the stream's idle clock runs meanwhile."""
    return model.retry.attempts * model.first_byte_ms

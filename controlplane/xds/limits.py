"""Limits -> one local rate limit filter each, whose buckets live as long as its resource does not change.

Membership is part of a key's identity, or a mark on a model's route, not of the limit: giving a key or a model a limit
changes no bucket of others.
"""

from typing import Any

from envoy.config.core.v3 import extension_pb2 as extension
from envoy.extensions.common.matching.v3 import extension_matcher_pb2 as delegate
from envoy.extensions.filters.common.matcher.action.v3 import skip_action_pb2 as skip
from google.protobuf import json_format
from google.protobuf.any_pb2 import Any as AnyProto

from controlplane.plan.limits import NativeLimit
from controlplane.policy.limits import Per, Place
from controlplane.xds import matchers, names, selection
from controlplane.xds.protos import pack, typed_struct

LOCAL = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
MATCHED = "envoy.extensions.common.matching.v3.ExtensionWithMatcher"
_BUCKETS = 100_000  # kept per limit, least recently used first out


def lower(limit: NativeLimit) -> AnyProto:
    """A rate limit filter. That of keys is skipped for clients whose identity does not name the limit."""
    use = limit.use
    if use.place is not Place.KEYS or use.per is not Per.KEY:
        return _buckets(limit, [_plain(actions) for actions in selection.for_envoy(use)], _keys(limit))
    client = {"request_headers": {"header_name": names.CLIENT, "descriptor_key": "client"}}
    member = matchers.contains(names.CLIENT, selection.tag(use))
    return pack(
        delegate.ExtensionWithMatcher(
            xds_matcher=matchers.first_of([(matchers.negate(member), matchers.action("skip", skip.SkipFilter()))]),
            extension_config=extension.TypedExtensionConfig(
                name="limit", typed_config=_buckets(limit, [[client]], [("client",)])
            ),
        )
    )


def _plain(actions: list[selection.Action]) -> list[dict[str, Any]]:
    return [json_format.MessageToDict(action, preserving_proto_field_name=True) for action in actions]


def _keys(limit: NativeLimit) -> list[tuple[str, ...]]:
    """The forms of its descriptors, each once."""
    return list(dict.fromkeys(selection.keys(actions) for actions in selection.for_envoy(limit.use)))


def _buckets(limit: NativeLimit, rate_limits: list[list[dict[str, Any]]], forms: list[tuple[str, ...]]) -> AnyProto:
    """A bucket for each value of a descriptor; a request without one passes, for there is no other bucket.

    TypedStruct because xds-protos lacks `enable_retry_after_header`.
    """
    bucket = {"max_tokens": limit.burst, "tokens_per_fill": limit.amount, "fill_interval": f"{limit.per_s}s"}
    return typed_struct(
        LOCAL,
        {
            "stat_prefix": f"limit_{limit.use.id}",
            "filter_enabled": {"default_value": {"numerator": 100}},
            "filter_enforced": {"default_value": {"numerator": 100}},
            "max_dynamic_descriptors": _BUCKETS,
            "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
            "enable_retry_after_header": True,
            # An entry without a value is a wildcard: one bucket per value.
            "descriptors": [{"entries": [{"key": key} for key in form], "token_bucket": bucket} for form in forms],
            "rate_limits": [{"actions": actions} for actions in rate_limits],
        },
    )

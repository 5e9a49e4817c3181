"""Limits -> one local rate limit filter each, whose buckets live as long as its resource does not change.

Membership is part of a key's identity, not of the limit: giving a key a limit changes no bucket of others.
"""

from envoy.config.core.v3 import extension_pb2 as extension
from envoy.extensions.common.matching.v3 import extension_matcher_pb2 as delegate
from envoy.extensions.filters.common.matcher.action.v3 import skip_action_pb2 as skip
from google.protobuf.any_pb2 import Any as AnyProto

from controlplane.plan.ir import Limit
from controlplane.xds import matchers, names
from controlplane.xds.protos import typed_struct

TYPE = "envoy.extensions.common.matching.v3.ExtensionWithMatcher"
_CLIENTS = 100_000  # buckets kept per limit, least recently used first out


def tag(limit: str) -> str:
    """How a key's identity says that the limit applies to it."""
    return f";{limit};"


def lower(limit: Limit) -> delegate.ExtensionWithMatcher:
    """A rate limit filter, skipped for clients whose identity does not name the limit."""
    member = matchers.contains(names.CLIENT, tag(limit.name))
    return delegate.ExtensionWithMatcher(
        xds_matcher=matchers.first_of([(matchers.negate(member), matchers.action("skip", skip.SkipFilter()))]),
        extension_config=extension.TypedExtensionConfig(name="limit", typed_config=_buckets(limit)),
    )


def _buckets(limit: Limit) -> AnyProto:
    """A bucket per client; TypedStruct because xds-protos lacks `enable_retry_after_header`."""
    interval = f"{limit.per_s}s"
    bucket = {"max_tokens": limit.amount, "tokens_per_fill": limit.amount, "fill_interval": interval}
    who = {"request_headers": {"header_name": names.CLIENT, "descriptor_key": "client"}}
    return typed_struct(
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        {
            "stat_prefix": f"limit_{limit.name}",
            "filter_enabled": {"default_value": {"numerator": 100}},
            "filter_enforced": {"default_value": {"numerator": 100}},
            # The bucket of a request without a client, which authentication lets nobody send.
            "token_bucket": bucket,
            "always_consume_default_token_bucket": False,
            "max_dynamic_descriptors": _CLIENTS,
            "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
            "enable_retry_after_header": True,
            # An entry without a value is a wildcard: one bucket per client.
            "descriptors": [{"entries": [{"key": "client"}], "token_bucket": bucket}],
            "rate_limits": [{"actions": [who]}],
        },
    )

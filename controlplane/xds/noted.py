"""What filters noted of a request in dynamic metadata, as a condition of access logs and local replies."""

from envoy.config.accesslog.v3 import accesslog_pb2 as accesslog
from envoy.type.matcher.v3 import metadata_pb2 as metadata
from envoy.type.matcher.v3 import value_pb2 as value

from controlplane.xds.protos import boolean


def noted(namespace: str, key: str, match: value.ValueMatcher) -> accesslog.AccessLogFilter:
    """Requests whose value under the key is as `match` says; not those without one."""
    matcher = metadata.MetadataMatcher(filter=namespace, path=[{"key": key}], value=match)
    return accesslog.AccessLogFilter(
        metadata_filter=accesslog.MetadataFilter(matcher=matcher, match_if_key_not_found=boolean(False))
    )

"""The bootstrap: the little that Envoy is told by file, so that it can fetch all else over xDS.

Pure: values in, a proto out. It holds no secret; what is secret travels by SDS.
"""

from dataclasses import dataclass
from typing import Any

from envoy.config.bootstrap.v3 import bootstrap_pb2 as bootstrap
from envoy.config.cluster.v3 import cluster_pb2 as cluster
from envoy.config.core.v3 import address_pb2 as address
from envoy.config.core.v3 import base_pb2 as base
from envoy.config.core.v3 import config_source_pb2 as source
from envoy.config.core.v3 import grpc_service_pb2 as grpc
from envoy.config.core.v3 import protocol_pb2 as protocol
from envoy.config.endpoint.v3 import endpoint_components_pb2 as components
from envoy.config.endpoint.v3 import endpoint_pb2 as endpoint
from envoy.config.metrics.v3 import stats_pb2 as stats
from envoy.config.overload.v3 import overload_pb2 as overload
from envoy.extensions.resource_monitors.downstream_connections.v3 import downstream_connections_pb2 as connections
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as http
from envoy.type.matcher.v3 import regex_pb2 as regex
from envoy.type.matcher.v3 import string_pb2 as strings
from google.protobuf.struct_pb2 import Struct

from controlplane.xds import names
from controlplane.xds.protos import millis, pack

NODE_CLUSTER = "headgate"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

# Envoy reads these as its defaults wherever a listener or cluster sets no limit of its own. Its 100 headers are
# few for an answer that came through two CDNs; sizes are the largest that common servers accept.
_RUNTIME: dict[str, Any] = {
    "envoy.reloadable_features.max_request_headers_count": 200,
    "envoy.reloadable_features.max_request_headers_size_kb": 64,
    "envoy.reloadable_features.max_response_headers_count": 200,
    "envoy.reloadable_features.max_response_headers_size_kb": 64,
} | names.RUNTIME

# Statistics that nobody reads, of which there is one for every cluster (or worker, or zone).
_UNREAD = (
    r"cluster\..*\.circuit_breakers\..*",
    r"cluster\..*\.(internal|external|canary|zone)\..*",
    r"cluster\..*\.upstream_cx_length_ms",
    r"cluster\..*\.lb_(subsets|zone|local|recalculate)_.*",
    r"listener\..*\.worker_\d+\..*",
    r"(main_thread|workers|server\.worker_\d+)\.watchdog_.*",
)


@dataclass(frozen=True, slots=True)
class Node:
    """What one Envoy is started with.

    `xds_socket` and `admin_socket` are paths of unix sockets, so that no port is taken. `delta` False selects
    state-of-the-world xDS. `max_connections` bounds client connections; the file descriptors must allow it.
    """

    id: str
    xds_socket: str
    admin_socket: str
    delta: bool = True
    max_connections: int = 100_000


def build_bootstrap(node: Node) -> bootstrap.Bootstrap:
    """The bootstrap of a node. Serialize with ``SerializeToString(deterministic=True)``; Envoy wants it as .pb."""
    return bootstrap.Bootstrap(
        node=base.Node(id=node.id, cluster=NODE_CLUSTER),
        admin=bootstrap.Admin(address=_pipe(node.admin_socket, mode=0o600), ignore_global_conn_limit=True),
        dynamic_resources=bootstrap.Bootstrap.DynamicResources(
            ads_config=_ads(node.delta), cds_config=names.ads(), lds_config=names.ads()
        ),
        static_resources=bootstrap.Bootstrap.StaticResources(clusters=[_xds_cluster(node.xds_socket)]),
        layered_runtime=bootstrap.LayeredRuntime(layers=[_runtime()]),
        overload_manager=_overload(node.max_connections),
        stats_config=_stats(),
        # A provider nobody asks costs no statistics.
        deferred_stat_options=bootstrap.Bootstrap.DeferredStatOptions(enable_deferred_creation_stats=True),
    )


def _ads(delta: bool) -> source.ApiConfigSource:
    api_type = source.ApiConfigSource.ApiType
    # Without this Envoy waits up to 30 s to come back to a control plane that was away.
    again = base.RetryPolicy(retry_back_off={"base_interval": millis(100), "max_interval": millis(1000)})
    service = grpc.GrpcService(
        envoy_grpc=grpc.GrpcService.EnvoyGrpc(cluster_name=names.XDS_CLUSTER, retry_policy=again)
    )
    return source.ApiConfigSource(
        api_type=api_type.DELTA_GRPC if delta else api_type.GRPC,
        transport_api_version=source.ApiVersion.V3,
        grpc_services=[service],
        set_node_on_first_message_only=True,
    )


def _xds_cluster(socket: str) -> cluster.Cluster:
    # The keepalive notices a control plane that hangs; a compile of a large policy must not look like one.
    keepalive = protocol.KeepaliveSettings(interval=millis(30_000), timeout=millis(20_000))
    explicit = http.HttpProtocolOptions.ExplicitHttpConfig(
        http2_protocol_options=protocol.Http2ProtocolOptions(connection_keepalive=keepalive)
    )
    made = cluster.Cluster(
        name=names.XDS_CLUSTER,
        type=cluster.Cluster.DiscoveryType.STATIC,
        connect_timeout=millis(1000),
        load_assignment=endpoint.ClusterLoadAssignment(
            cluster_name=names.XDS_CLUSTER,
            endpoints=[
                components.LocalityLbEndpoints(
                    lb_endpoints=[components.LbEndpoint(endpoint=components.Endpoint(address=_pipe(socket)))]
                )
            ],
        ),
    )
    made.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(
        pack(http.HttpProtocolOptions(explicit_http_config=explicit))
    )
    return made


def _pipe(path: str, mode: int = 0) -> address.Address:
    return address.Address(pipe=address.Pipe(path=path, mode=mode))


def _runtime() -> bootstrap.RuntimeLayer:
    layer = Struct()
    layer.update(_RUNTIME)
    return bootstrap.RuntimeLayer(name="headgate", static_layer=layer)


def _overload(max_connections: int) -> overload.OverloadManager:
    monitor = connections.DownstreamConnectionsConfig(max_active_downstream_connections=max_connections)
    named = "envoy.resource_monitors.global_downstream_max_connections"
    return overload.OverloadManager(
        resource_monitors=[overload.ResourceMonitor(name=named, typed_config=pack(monitor))]
    )


def _stats() -> stats.StatsConfig:
    unread = [strings.StringMatcher(safe_regex=regex.RegexMatcher(regex=pattern)) for pattern in _UNREAD]
    return stats.StatsConfig(
        stats_matcher=stats.StatsMatcher(exclusion_list=strings.ListStringMatcher(patterns=unread))
    )

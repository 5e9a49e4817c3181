"""Providers -> clusters: how to reach one, how to judge its health, what each attempt says to it."""

from envoy.config.cluster.v3 import circuit_breaker_pb2 as breakers
from envoy.config.cluster.v3 import cluster_pb2 as cluster
from envoy.config.cluster.v3 import outlier_detection_pb2 as outlier
from envoy.config.core.v3 import base_pb2 as base
from envoy.config.core.v3 import health_check_pb2 as health
from envoy.config.core.v3 import protocol_pb2 as protocol
from envoy.extensions.transport_sockets.tls.v3 import common_pb2 as tls_common
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2 as secret
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2 as tls
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as http
from envoy.type.matcher.v3 import string_pb2 as strings

from controlplane.plan.ir import Ejection, Health, Upstream, UpstreamTls
from controlplane.policy.grammar import is_ip
from controlplane.policy.secrets import Secrets
from controlplane.xds import endpoints, names, subsets, upstream_filters
from controlplane.xds.protos import millis, pack, uint
from controlplane.xds.surroundings import Surroundings

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
# Envoy's defaults (1,024 requests, 3 retries at a time) turn load into 503 and failover into 429.
_PLENTY = 1_000_000

_BALANCE = {
    "round_robin": cluster.Cluster.LbPolicy.ROUND_ROBIN,
    "least_request": cluster.Cluster.LbPolicy.LEAST_REQUEST,
    "random": cluster.Cluster.LbPolicy.RANDOM,
    "ring_hash": cluster.Cluster.LbPolicy.RING_HASH,
}


def lower(
    upstream: Upstream, lane: int, around: Surroundings, secrets: Secrets, translates_in_ms: int | None = None
) -> cluster.Cluster:
    """The cluster of one lane of a provider; `translates_in_ms`: it translates, and how long that may take."""
    name = names.cluster(upstream.name, lane, translated=translates_in_ms is not None)
    made = cluster.Cluster(
        name=name,
        connect_timeout=millis(upstream.connect_timeout_ms),
        lb_policy=_BALANCE[upstream.balance],
        circuit_breakers=_breakers(upstream.max_connections, upstream.max_requests),
        outlier_detection=_ejection(upstream.ejection) if upstream.ejection else None,
        health_checks=[_health(upstream.health, upstream.host)] if upstream.health else [],
    )
    if upstream.resolve:
        made.type = cluster.Cluster.DiscoveryType.STRICT_DNS
        made.dns_lookup_family = cluster.Cluster.DnsLookupFamily.V4_PREFERRED
        made.dns_refresh_rate.CopyFrom(millis(upstream.refresh_ms or 30_000))
        made.respect_dns_ttl = upstream.refresh_ms is None
        # A name that does not resolve must not keep the others from starting.
        made.wait_for_warm_on_init.value = False
        made.load_assignment.CopyFrom(endpoints.lower(upstream, name))
    else:
        made.type = cluster.Cluster.DiscoveryType.EDS
        made.eds_cluster_config.eds_config.CopyFrom(names.ads())
        # One that left is gone, though it may still say that it is healthy.
        made.ignore_health_on_host_removal = upstream.health is not None
        if upstream.discovered:
            made.lb_policy = cluster.Cluster.LbPolicy.LOAD_BALANCING_POLICY_CONFIG
            made.load_balancing_policy.CopyFrom(subsets.balancing(name, upstream.balance))
    options = _protocol(upstream)
    options.http_filters.extend(upstream_filters.lower(upstream, lane, secrets, translates_in_ms))
    made.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(pack(options))
    if upstream.tls is not None:
        made.transport_socket.CopyFrom(_tls(upstream.name, upstream.tls, around))
    return made


def service(name: str, socket: str) -> cluster.Cluster:
    """A gRPC service of the gateway itself, on a unix socket."""
    made = cluster.Cluster(
        name=name, type=cluster.Cluster.DiscoveryType.STATIC, connect_timeout=millis(1000), circuit_breakers=_breakers()
    )
    made.load_assignment.cluster_name = name
    made.load_assignment.endpoints.add().lb_endpoints.add().endpoint.address.pipe.path = socket
    http2 = http.HttpProtocolOptions.ExplicitHttpConfig(http2_protocol_options=protocol.Http2ProtocolOptions())
    made.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(
        pack(http.HttpProtocolOptions(explicit_http_config=http2))
    )
    return made


def _protocol(upstream: Upstream) -> http.HttpProtocolOptions:
    if upstream.tls is None:
        explicit = http.HttpProtocolOptions.ExplicitHttpConfig(http_protocol_options=protocol.Http1ProtocolOptions())
        return http.HttpProtocolOptions(explicit_http_config=explicit)
    return http.HttpProtocolOptions(
        auto_config=http.HttpProtocolOptions.AutoHttpConfig(
            http_protocol_options=protocol.Http1ProtocolOptions(),
            http2_protocol_options=protocol.Http2ProtocolOptions(),
        )
    )


def _breakers(connections: int | None = None, requests: int | None = None) -> breakers.CircuitBreakers:
    threshold = breakers.CircuitBreakers.Thresholds(
        max_connections=uint(connections or _PLENTY),
        max_pending_requests=uint(_PLENTY),
        max_requests=uint(requests or _PLENTY),
        max_retries=uint(_PLENTY),
    )
    return breakers.CircuitBreakers(thresholds=[threshold])


def _ejection(ejection: Ejection) -> outlier.OutlierDetection:
    return outlier.OutlierDetection(
        consecutive_5xx=uint(ejection.after),
        consecutive_gateway_failure=uint(ejection.after),
        enforcing_consecutive_gateway_failure=uint(100),
        enforcing_success_rate=uint(0),
        interval=millis(1000),
        base_ejection_time=millis(ejection.duration_ms),
        max_ejection_percent=uint(ejection.max_percent),
    )


def _health(check: Health, host: str) -> health.HealthCheck:
    while_out = check.unhealthy_interval_ms
    return health.HealthCheck(
        unhealthy_interval=None if while_out is None else millis(while_out),
        timeout=millis(check.timeout_ms),
        interval=millis(check.interval_ms),
        unhealthy_threshold=uint(check.unhealthy_after),
        healthy_threshold=uint(check.healthy_after),
        # Cut off from the network, the gateway asks at its own pace too.
        no_traffic_interval=millis(check.interval_ms),
        http_health_check=health.HealthCheck.HttpHealthCheck(path=check.path, host=host),
    )


def _tls(provider: str, settings: UpstreamTls, around: Surroundings) -> base.TransportSocket:
    name = settings.server_name
    san_type = tls_common.SubjectAltNameMatcher.SanType
    is_address = is_ip(name)
    san = tls_common.SubjectAltNameMatcher(
        san_type=san_type.IP_ADDRESS if is_address else san_type.DNS, matcher=strings.StringMatcher(exact=name)
    )
    expected = tls_common.CertificateValidationContext(match_typed_subject_alt_names=[san])
    common = tls.CommonTlsContext()
    if settings.ca is None:
        expected.trusted_ca.filename = around.ca_bundle
        common.validation_context.CopyFrom(expected)
    else:
        common.combined_validation_context.default_validation_context.CopyFrom(expected)
        by_sds = common.combined_validation_context.validation_context_sds_secret_config
        by_sds.CopyFrom(secret.SdsSecretConfig(name=names.provider_ca(provider), sds_config=names.ads()))
    if settings.certificate is not None:
        common.tls_certificate_sds_secret_configs.add(name=names.provider_certificate(provider), sds_config=names.ads())
    context = tls.UpstreamTlsContext(common_tls_context=common, sni="" if is_address else name)
    return base.TransportSocket(name="envoy.transport_sockets.tls", typed_config=pack(context))

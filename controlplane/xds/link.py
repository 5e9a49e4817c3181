"""A snapshot as one static bootstrap, everything it refers to put in place, so that Envoy can judge it whole.

`envoy --mode validate` does not fetch anything: what would come by discovery must be part of the file.
"""

from collections.abc import Mapping

from envoy.config.bootstrap.v3 import bootstrap_pb2 as bootstrap
from envoy.config.cluster.v3 import cluster_pb2 as cluster
from envoy.config.core.v3 import extension_pb2 as extension
from envoy.config.endpoint.v3 import endpoint_pb2 as endpoint
from envoy.config.listener.v3 import listener_pb2 as listener
from envoy.config.route.v3 import route_pb2 as route
from envoy.extensions.filters.http.credential_injector.v3 import credential_injector_pb2 as injector
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm
from envoy.extensions.http.injected_credentials.generic.v3 import generic_pb2 as generic
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2 as sds
from envoy.extensions.transport_sockets.tls.v3 import tls_pb2 as tls
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as http
from google.protobuf.any_pb2 import Any as AnyProto

from controlplane.xds import names
from controlplane.xds import resource as xds
from controlplane.xds.keys import nothing
from controlplane.xds.protos import pack

_TLS = {
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext": tls.UpstreamTlsContext,
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext": tls.DownstreamTlsContext,
}


def static_bootstrap(snapshot: xds.Snapshot, known: xds.Snapshot = xds.EMPTY) -> bootstrap.Bootstrap:
    """The snapshot without discovery. Holds every secret of the snapshot: treat the result as one.

    Extensions that `known` has too were judged before and are left out: ten thousand keys take their time.
    """
    made = bootstrap.Bootstrap()
    made.node.id = made.node.cluster = "validate"
    made.layered_runtime.layers.add(name="headgate").static_layer.update(names.RUNTIME)
    for resource in snapshot.of_type(xds.SECRET).values():
        made.static_resources.secrets.append(sds.Secret.FromString(resource.body))
    assignments = snapshot.of_type(xds.ENDPOINTS)
    for resource in snapshot.of_type(xds.CLUSTER).values():
        made.static_resources.clusters.append(_cluster(resource, assignments))
    for resource in snapshot.of_type(xds.LISTENER).values():
        made.static_resources.listeners.append(_listener(resource, snapshot, known.of_type(xds.EXTENSION)))
    return made


def _cluster(resource: xds.Resource, assignments: Mapping[str, xds.Resource]) -> cluster.Cluster:
    made = cluster.Cluster.FromString(resource.body)
    if made.type == cluster.Cluster.DiscoveryType.EDS:
        made.ClearField("eds_cluster_config")
        made.type = cluster.Cluster.DiscoveryType.STATIC
        made.load_assignment.CopyFrom(endpoint.ClusterLoadAssignment.FromString(assignments[made.name].body))
    if made.HasField("transport_socket"):
        _static_tls(made.transport_socket.typed_config)
    for options in made.typed_extension_protocol_options.values():
        _static_credentials(options)
    return made


def _listener(resource: xds.Resource, snapshot: xds.Snapshot, known: Mapping[str, xds.Resource]) -> listener.Listener:
    made = listener.Listener.FromString(resource.body)
    for chain in made.filter_chains:
        if chain.HasField("transport_socket"):
            _static_tls(chain.transport_socket.typed_config)
        for network_filter in chain.filters:
            manager = hcm.HttpConnectionManager()
            if not network_filter.typed_config.Unpack(manager):
                continue
            if manager.HasField("rds"):
                routes = snapshot.of_type(xds.ROUTES)[manager.rds.route_config_name]
                manager.route_config.CopyFrom(route.RouteConfiguration.FromString(routes.body))
            for http_filter in manager.http_filters:
                if http_filter.HasField("config_discovery"):
                    http_filter.typed_config.CopyFrom(
                        _extension(snapshot.of_type(xds.EXTENSION)[http_filter.name], known)
                    )
            network_filter.typed_config.CopyFrom(pack(manager))
    return made


def _extension(resource: xds.Resource, known: Mapping[str, xds.Resource]) -> AnyProto:
    if resource.name in known and known[resource.name].version == resource.version:
        return pack(nothing())
    return extension.TypedExtensionConfig.FromString(resource.body).typed_config


def _static_tls(config: AnyProto) -> None:
    """Makes a TLS context name static secrets; without a source, the name refers to the bootstrap's own."""
    context = _TLS[config.type_url]()
    config.Unpack(context)
    common = context.common_tls_context
    for certificate in common.tls_certificate_sds_secret_configs:
        certificate.ClearField("sds_config")
    if common.HasField("validation_context_sds_secret_config"):
        common.validation_context_sds_secret_config.ClearField("sds_config")
    if common.HasField("combined_validation_context"):
        common.combined_validation_context.validation_context_sds_secret_config.ClearField("sds_config")
    config.CopyFrom(pack(context))


def _static_credentials(options: AnyProto) -> None:
    protocol, config, secret = http.HttpProtocolOptions(), injector.CredentialInjector(), generic.Generic()
    options.Unpack(protocol)
    for http_filter in protocol.http_filters:
        if http_filter.typed_config.Unpack(config):
            config.credential.typed_config.Unpack(secret)
            secret.credential.ClearField("sds_config")
            config.credential.typed_config.CopyFrom(pack(secret))
            http_filter.typed_config.CopyFrom(pack(config))
    options.CopyFrom(pack(protocol))

"""The way by which the control plane asks providers for their models: through Envoy, as clients' requests go.

So a provider's addresses, TLS, headers and credential are those of its cluster, and the control plane needs none of
them. The listener is on a unix socket in the private run folder; a header of the request names the provider, so that
it stays the same whatever providers there are.
"""

from envoy.config.listener.v3 import listener_components_pb2 as components
from envoy.config.listener.v3 import listener_pb2 as listener
from envoy.config.route.v3 import route_components_pb2 as route
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2 as router
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm

from controlplane.xds import names
from controlplane.xds.protos import boolean, millis, pack

_TIMEOUT_MS = 10_000


def lower(socket: str) -> listener.Listener:
    """The listener: a provider's plain cluster bears its name, which the header says."""
    action = route.RouteAction(
        cluster_header=names.PROVIDER, auto_host_rewrite=boolean(True), timeout=millis(_TIMEOUT_MS)
    )
    host = route.VirtualHost(name=names.LISTINGS, domains=["*"])
    host.routes.add(match={"prefix": "/"}, route=action, request_headers_to_remove=[names.PROVIDER])
    manager = hcm.HttpConnectionManager(
        stat_prefix=names.LISTINGS,
        route_config=route_pb2.RouteConfiguration(name=names.LISTINGS, virtual_hosts=[host]),
        http_filters=[hcm.HttpFilter(name="envoy.filters.http.router", typed_config=pack(_ROUTER))],
        stream_idle_timeout=millis(_TIMEOUT_MS),
    )
    chain = components.FilterChain(filters=[components.Filter(name="http", typed_config=pack(manager))])
    made = listener.Listener(name=names.LISTINGS, filter_chains=[chain])
    made.address.pipe.path = socket
    made.address.pipe.mode = 0o600
    return made


_ROUTER = router.Router(suppress_envoy_headers=True)

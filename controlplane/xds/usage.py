"""Accounting, as far as Envoy does it: one line of the access log for every request, whatever became of it."""

from envoy.config.accesslog.v3 import accesslog_pb2 as accesslog
from envoy.config.cluster.v3 import cluster_pb2 as clusters
from envoy.config.core.v3 import base_pb2 as base
from envoy.config.core.v3 import substitution_format_string_pb2 as formats
from envoy.config.route.v3 import route_components_pb2 as route
from envoy.extensions.access_loggers.file.v3 import file_pb2 as file

from controlplane.xds import names
from controlplane.xds.protos import millis, pack
from extproc.usage.entries import FORMAT

_PATIENCE_S = 10


def cluster(socket: str) -> clusters.Cluster:
    """Where clients' questions about their usage are answered: the control plane."""
    made = clusters.Cluster(name=names.USAGE_CLUSTER, connect_timeout=millis(1000))
    made.type = clusters.Cluster.DiscoveryType.STATIC
    made.load_assignment.cluster_name = names.USAGE_CLUSTER
    made.load_assignment.endpoints.add().lb_endpoints.add().endpoint.address.pipe.path = socket
    return made


def route_to_it() -> route.Route:
    """GET /v1/usage, with the client's identity, which nobody but the gateway can have set."""
    action = route.RouteAction(cluster=names.USAGE_CLUSTER, timeout={"seconds": _PATIENCE_S})
    made = route.Route(match={"prefix": "/"}, route=action)
    overwrite = base.HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    who = {"key": names.OWNER, "value": f"%REQ({names.CLIENT})%"}
    made.request_headers_to_add.add(header=who, append_action=overwrite)
    return made


def log(path: str) -> accesslog.AccessLog:
    """The access log that the collector reads."""
    lines = formats.SubstitutionFormatString(text_format_source={"inline_string": FORMAT})
    return accesslog.AccessLog(name="usage", typed_config=pack(file.FileAccessLog(path=path, log_format=lines)))

"""Snapshots made readable, with every secret taken out. The only way by which resources leave the process as text."""

from typing import Any

from envoy.config.cluster.v3 import cluster_pb2 as cluster
from envoy.config.core.v3 import extension_pb2 as extension
from envoy.config.endpoint.v3 import endpoint_pb2 as endpoint
from envoy.config.listener.v3 import listener_pb2 as listener
from envoy.config.route.v3 import route_pb2 as route
from envoy.extensions.filters.http.api_key_auth.v3 import api_key_auth_pb2 as auth
from envoy.extensions.filters.http.aws_request_signing.v3 import aws_request_signing_pb2 as signing
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2 as sds
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as http
from google.protobuf import json_format

from controlplane.xds import resource as xds
from controlplane.xds.diff import KINDS
from controlplane.xds.protos import pack

REDACTED = "[redacted]"

_MESSAGES = {
    xds.CLUSTER: cluster.Cluster,
    xds.ENDPOINTS: endpoint.ClusterLoadAssignment,
    xds.SECRET: sds.Secret,
    xds.LISTENER: listener.Listener,
    xds.EXTENSION: extension.TypedExtensionConfig,
    xds.ROUTES: route.RouteConfiguration,
}


def dump(snapshot: xds.Snapshot) -> dict[str, Any]:
    """The snapshot as JSON-ready data: kind -> name -> {version, config}, secrets shown as `[redacted]`."""
    return {
        kind: {name: {"version": r.version, "config": config(r)} for name, r in snapshot.of_type(type_url).items()}
        for type_url, kind in KINDS.items()
    }


def config(resource: xds.Resource) -> dict[str, Any]:
    """One resource as JSON-ready data, its secrets redacted."""
    message = _MESSAGES[resource.type_url].FromString(resource.body)
    if resource.type_url == xds.SECRET:
        return {"name": message.name, message.WhichOneof("type"): REDACTED}
    if resource.type_url == xds.EXTENSION:
        _hide_keys(message)
    if resource.type_url == xds.CLUSTER:
        _hide_accounts(message)
    return dict(json_format.MessageToDict(message, preserving_proto_field_name=True))


def _hide_accounts(message: cluster.Cluster) -> None:
    """The keys of AWS accounts stand in the filters that sign."""
    for options in message.typed_extension_protocol_options.values():
        found, account = http.HttpProtocolOptions(), signing.AwsRequestSigning()
        options.Unpack(found)
        for http_filter in found.http_filters:
            if http_filter.typed_config.Unpack(account) and account.credential_provider.HasField("inline_credential"):
                hidden = account.credential_provider.inline_credential
                for field, _ in hidden.ListFields():
                    setattr(hidden, field.name, REDACTED)
                http_filter.typed_config.CopyFrom(pack(account))
        options.CopyFrom(pack(found))


def _hide_keys(message: extension.TypedExtensionConfig) -> None:
    credentials = auth.ApiKeyAuth()
    if not message.typed_config.Unpack(credentials):
        return
    for credential in credentials.credentials:
        credential.key = REDACTED
    message.typed_config.CopyFrom(pack(credentials))

"""Translation -> Envoy's ext_proc filter in the cluster of a lane: each attempt is translated from the original body.

Headers are never sent. It stands between two filters of the module, which take from the bodies what the service says of
headers: the one that gives the attempt its path and its model's name, for answers, and one for requests.
"""

from envoy.config.core.v3 import base_pb2 as base
from envoy.config.core.v3 import grpc_service_pb2 as grpc
from envoy.extensions.filters.http.ext_proc.v3 import ext_proc_pb2 as ext_proc
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2 as modes
from envoy.type.v3 import http_status_pb2 as http_status

from controlplane.xds import names, rules
from controlplane.xds.protos import millis
from extproc.server import exchange, translating
from extproc.translate.settings import Translation, dump

# Nothing can be done without a worker: where all are gone, they are tried until the time for a message is over, which
# usually comes before so many tries, with pauses of at most so many milliseconds.
_UNTIL_BACK = (60, 500)
_SKIP = modes.ProcessingMode.HeaderSendMode.SKIP


def processor(translation: Translation, timeout_ms: int) -> ext_proc.ExternalProcessor:
    """The filter. Answers come to the service as they arrive: it keeps what is no stream until it is whole."""
    how = base.HeaderValue(key=translating.TRANSLATION, value=dump(translation).replace("%", "%%"))
    service = grpc.GrpcService(
        envoy_grpc={"cluster_name": names.RULES_CLUSTER},
        retry_policy=rules.another_worker(*_UNTIL_BACK),
        initial_metadata=[how],
    )
    return ext_proc.ExternalProcessor(
        grpc_service=service,
        processing_mode=modes.ProcessingMode(
            request_header_mode=_SKIP,
            request_body_mode=modes.ProcessingMode.BodySendMode.BUFFERED,
            request_trailer_mode=_SKIP,
            response_header_mode=_SKIP,
            response_body_mode=modes.ProcessingMode.BodySendMode.STREAMED,
            response_trailer_mode=_SKIP,
        ),
        request_attributes=translating.REQUEST_ATTRIBUTES,
        message_timeout=millis(timeout_ms),
        disable_clear_route_cache=True,
        metadata_options={"receiving_namespaces": {"untyped": [exchange.OWN]}},
        status_on_error=http_status.HttpStatus(code=503),
    )

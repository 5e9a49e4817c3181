"""Rules -> Envoy's ext_proc filter: one in the listener that shows nothing, and on routes what their rules need.

It runs behind the filter that reads the model, permissions and limits, and takes the processing mode of the route that
was picked for the model. Headers are not sent, unless rules may choose another model: route, client, model and what
rules read come as attributes, so that a request costs one message.
https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/http/http_filters/ext_proc_filter
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from envoy.config.accesslog.v3 import accesslog_pb2 as accesslog
from envoy.config.cluster.v3 import circuit_breaker_pb2 as breakers
from envoy.config.cluster.v3 import cluster_pb2 as clusters
from envoy.config.cluster.v3 import outlier_detection_pb2 as outlier
from envoy.config.core.v3 import base_pb2 as base
from envoy.config.core.v3 import grpc_service_pb2 as grpc
from envoy.config.core.v3 import health_check_pb2 as health
from envoy.config.core.v3 import protocol_pb2 as protocol
from envoy.config.core.v3 import substitution_format_string_pb2 as formats
from envoy.config.route.v3 import route_components_pb2 as route
from envoy.extensions.access_loggers.file.v3 import file_pb2 as file
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2 as cel
from envoy.extensions.filters.http.ext_proc.v3 import ext_proc_pb2 as ext_proc
from envoy.extensions.filters.http.ext_proc.v3 import processing_mode_pb2 as modes
from envoy.extensions.filters.http.header_to_metadata.v3 import header_to_metadata_pb2 as to_metadata
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2 as http
from envoy.type.matcher.v3 import value_pb2 as value
from envoy.type.v3 import http_status_pb2 as http_status
from google.protobuf.struct_pb2 import Struct

from controlplane.plan.rules import Inline, Leaf
from controlplane.xds import names
from controlplane.xds.noted import noted
from controlplane.xds.protos import boolean, millis, pack, uint
from extproc.server import exchange, settings
from extproc.server.service import MOST_EXCHANGES
from extproc.stages.cache import WAIT_S

TYPE = "envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_WINDOW = 1 << 20  # bytes of a message that may be on the way; a worker reads few at once
_SEND = modes.ProcessingMode.HeaderSendMode.SEND
_SKIP, _NONE = modes.ProcessingMode.HeaderSendMode.SKIP, modes.ProcessingMode.BodySendMode.NONE
_BUFFERED, _STREAMED = modes.ProcessingMode.BodySendMode.BUFFERED, modes.ProcessingMode.BodySendMode.STREAMED
_OVERWRITE = base.HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
_LOG_LINE = Struct()
_LOG_LINE.update(
    {
        "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
        "id": "%REQ(x-request-id)%",
        "path": "%PATH(NQ:ORIG_OR_PATH)%",
        "status": "%RESPONSE_CODE%",
        "request": f"%DYNAMIC_METADATA({exchange.NAMESPACE}:{exchange.LOG})%",
        "answer": f"%DYNAMIC_METADATA({exchange.NAMESPACE}:{exchange.ANSWER_LOG})%",
    }
)
_FAILED = "response.code_details.startsWith('ext_proc_error')"


class Through(NamedTuple):
    """What the requests of a route go through: rules of a version of the settings."""

    version: str
    leaf: Leaf


def cluster(workers: int, socket: str) -> clusters.Cluster:
    """The workers, an endpoint each: a connection stays with one process, so one address would leave others idle."""
    made = clusters.Cluster(
        name=names.RULES_CLUSTER,
        connect_timeout=millis(1000),
        lb_policy=clusters.Cluster.LbPolicy.LEAST_REQUEST,
        circuit_breakers=_breakers(workers),
        health_checks=[_health()],
        outlier_detection=_ejection(),
    )
    made.type = clusters.Cluster.DiscoveryType.STATIC
    # A worker that was just seen to be dead is not asked again, however few are left. Below 1 in 100 none is: then all
    # are asked, for Envoy tries no more where there is nobody to ask, and one that is back need not wait to be checked.
    made.common_lb_config.healthy_panic_threshold.value = 1
    made.load_assignment.cluster_name = names.RULES_CLUSTER
    group = made.load_assignment.endpoints.add()
    for number in range(workers):
        group.lb_endpoints.add().endpoint.address.pipe.path = socket.format(number)
    http2 = protocol.Http2ProtocolOptions(
        initial_stream_window_size=uint(_WINDOW), initial_connection_window_size=uint(4 * _WINDOW)
    )
    explicit = http.HttpProtocolOptions.ExplicitHttpConfig(http2_protocol_options=http2)
    options = http.HttpProtocolOptions(explicit_http_config=explicit)
    made.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(pack(options))
    return made


def processor(inline: Inline) -> ext_proc.ExternalProcessor:
    """The filter. By itself it shows the service nothing."""
    service = grpc.GrpcService(
        envoy_grpc={"cluster_name": names.RULES_CLUSTER},
        retry_policy=another_worker(),
    )
    headers = (exchange.attribute(name) for name in inline.rules.headers)
    waits = any(part.kind == "cache" for rule in inline.rules.rules for part in rule.ready.stages)
    return ext_proc.ExternalProcessor(
        grpc_service=service,
        processing_mode=_mode(request=_NONE, answer=_NONE),
        request_attributes=[*exchange.REQUEST_ATTRIBUTES, *headers],
        response_attributes=exchange.ANSWER_ATTRIBUTES,
        message_timeout=millis(inline.timeout_ms),
        # A request may wait for the answer to another one, which takes as long as its provider.
        max_message_timeout=millis(int(WAIT_S * 1000)) if waits else None,
        metadata_options={"receiving_namespaces": {"untyped": [exchange.NAMESPACE, exchange.OWN]}},
        status_on_error=http_status.HttpStatus(code=503),
    )


def another_worker(retries: int = 3, longest_ms: int = 50) -> base.RetryPolicy:
    """A worker that is gone has done nothing: another one is asked, for by then it is ejected. `longest_ms`: a pause.

    A predicate that leaves out hosts which were asked would say so, too, but Envoy makes it anew for every exchange,
    from its configuration: some 40 us.
    """
    return base.RetryPolicy(
        num_retries=uint(retries),
        retry_on="connect-failure,refused-stream,reset",
        retry_back_off={"base_interval": millis(10), "max_interval": millis(longest_ms)},
    )


def answer_headers() -> to_metadata.Config:
    """The filter behind it, which answers meet first: what their headers say, as the service has to be told."""
    return to_metadata.Config(
        response_rules=[
            to_metadata.Config.Rule(
                header=name,
                on_header_present=to_metadata.Config.KeyValuePair(metadata_namespace=exchange.ANSWER, key=name),
            )
            for name in exchange.ANSWER_HEADERS
        ]
    )


def send(made: route.Route, through: Through) -> None:
    """Has the requests of a route, and their answers, shown to the service."""
    leaf = through.leaf
    made.name = settings.route_name(through.version, leaf.chain, streamed=leaf.streamed)
    answer = _NONE if not leaf.answer else _STREAMED if leaf.streamed else _BUFFERED
    overrides = ext_proc.ExtProcOverrides(
        processing_mode=_mode(request=_BUFFERED if leaf.request else _NONE, answer=answer, headers=leaf.chooses),
        failure_mode_allow=boolean(not leaf.closed),
    )
    made.typed_per_filter_config[names.RULES].CopyFrom(pack(ext_proc.ExtProcPerRoute(overrides=overrides)))
    if answer == _BUFFERED:
        # An answer that is refused must not have begun: the filter of the model keeps its headers back.
        made.metadata.filter_metadata[names.MODEL_FILTER].update({"hold": "answer"})
    made.request_headers_to_add.extend(_header(exchange.ASK, name) for name in leaf.asks)
    if not leaf.chooses:
        made.response_headers_to_add.extend(told(leaf.tells))


def told(headers: Iterable[str]) -> Iterator[base.HeaderValueOption]:
    """Headers that rules set towards the client, for a route; or for all, where rules may choose another route."""
    return (_header(exchange.TELL, name) for name in headers)


def log(path: str) -> accesslog.AccessLog:
    """A line for each request of which rules noted something; what they noted is JSON by itself."""
    there = value.ValueMatcher(present_match=True)
    either = [noted(exchange.NAMESPACE, key, there) for key in (exchange.LOG, exchange.ANSWER_LOG)]
    lines = formats.SubstitutionFormatString(json_format=_LOG_LINE)
    return accesslog.AccessLog(
        name="rules",
        filter=accesslog.AccessLogFilter(or_filter=accesslog.OrFilter(filters=either)),
        typed_config=pack(file.FileAccessLog(path=path, log_format=lines)),
    )


def unavailable() -> accesslog.AccessLogFilter:
    """The answers to requests whose rules could not be asked, and that must not go on without them."""
    failed = pack(cel.ExpressionFilter(expression=_FAILED))
    by_service = accesslog.ExtensionFilter(name="envoy.access_loggers.extension_filters.cel", typed_config=failed)
    return accesslog.AccessLogFilter(extension_filter=by_service)


def _mode(*, request: int, answer: int, headers: bool = False) -> modes.ProcessingMode:
    return modes.ProcessingMode(
        request_header_mode=_SEND if headers else _SKIP,
        request_body_mode=request,
        request_trailer_mode=_SKIP,
        response_header_mode=_SKIP,
        response_body_mode=answer,
        response_trailer_mode=_SKIP,
    )


def _header(which: str, name: str) -> base.HeaderValueOption:
    """A header that rules set: its value is what they left in dynamic metadata; none where they left none."""
    value = {"key": name, "value": f"%DYNAMIC_METADATA({exchange.NAMESPACE}:{which}:{name})%"}
    return base.HeaderValueOption(header=value, append_action=_OVERWRITE)


def _breakers(workers: int) -> breakers.CircuitBreakers:
    """Exchanges beyond what workers take fail at once."""
    most = uint(workers * MOST_EXCHANGES)
    threshold = breakers.CircuitBreakers.Thresholds(
        max_connections=most, max_pending_requests=most, max_requests=most, max_retries=most
    )
    return breakers.CircuitBreakers(thresholds=[threshold])


def _ejection() -> outlier.OutlierDetection:
    """A worker that takes no connection is left alone for a moment: having nothing to do, it would be preferred."""
    return outlier.OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=uint(1),
        enforcing_consecutive_local_origin_failure=uint(100),
        enforcing_local_origin_success_rate=uint(0),
        enforcing_consecutive_5xx=uint(0),
        enforcing_success_rate=uint(0),
        interval=millis(250),
        base_ejection_time=millis(500),
        max_ejection_time=millis(1000),
        max_ejection_percent=uint(100),
    )


def _health() -> health.HealthCheck:
    return health.HealthCheck(
        timeout=millis(2000),
        interval=millis(1000),
        unhealthy_threshold=uint(1),
        healthy_threshold=uint(1),
        no_traffic_interval=millis(1000),
        grpc_health_check=health.HealthCheck.GrpcHealthCheck(),
    )

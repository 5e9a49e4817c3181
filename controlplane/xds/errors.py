"""Error answers in OpenAI's shape, for every request that never got an answer from a provider.

https://platform.openai.com/docs/guides/error-codes
"""

from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2 as accesslog
from envoy.config.core.v3 import substitution_format_string_pb2 as formats
from envoy.config.route.v3 import route_components_pb2 as route
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm

from controlplane.xds.names import MODEL
from controlplane.xds.protos import uint

INVALID = "invalid_request_error"
SERVER = "server_error"


def body(message: str, kind: str, code: str, param: str | None = None) -> dict[str, Any]:
    """The JSON of an error; `message` may hold Envoy format commands, whose values Envoy escapes."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def direct(status: int, message: str, code: str, param: str | None = None) -> route.DirectResponseAction:
    """A route's answer that is an error."""
    answer = route.DirectResponseAction(status=status)
    answer.body_format.json_format.update(body(message, INVALID, code, param))
    return answer


def local_replies() -> hcm.LocalReplyConfig:
    """What Envoy itself answers when a filter, a timeout or an upstream ends a request; first match wins."""
    mappers = [
        _mapper(_status(401), body("Incorrect API key provided, or none: send `Authorization: Bearer <key>`.", INVALID, "invalid_api_key")),
        _mapper(_status(403), body(f"This API key may not use the model '%REQ({MODEL})%'.", INVALID, "model_not_allowed", "model")),
        _mapper(_status(408), body("The request took too long to arrive.", INVALID, "request_timeout")),
        _mapper(_status(413), body("The request body is larger than this gateway accepts.", INVALID, "request_too_large")),
        _mapper(_status(429), body("Rate limit reached. Wait for `retry-after` seconds and try again.", "rate_limit_error", "rate_limit_exceeded")),
        _mapper(_status(431), body("The request headers are larger than this gateway accepts.", INVALID, "request_too_large")),
        # A reset connection or an answer that is not HTTP: somebody is there, but what comes is no answer.
        _mapper(_flags("UC", "UR", "UPE", "LR"), body("The model's provider broke off without a proper answer.", SERVER, "upstream_error"), status=502),
        _mapper(_flags("UT", "SI", "UMSDR", "DT"), body("The model's provider took too long to answer.", SERVER, "upstream_timeout"), status=504),
        _mapper(_flags("UF", "UH", "NC", "NR", "UO", "URX"), body("No provider of this model can be reached at the moment.", SERVER, "upstream_unavailable"), status=503),
        _mapper(_flags("DPE"), body("The request is not valid HTTP.", INVALID, "invalid_request")),
    ]  # fmt: skip
    return hcm.LocalReplyConfig(mappers=mappers)


def _mapper(when: accesslog.AccessLogFilter, answer: dict[str, Any], status: int | None = None) -> hcm.ResponseMapper:
    mapper = hcm.ResponseMapper(filter=when, status_code=uint(status) if status else None)
    mapper.body_format_override.CopyFrom(formats.SubstitutionFormatString())
    mapper.body_format_override.json_format.update(answer)
    return mapper


def _status(code: int) -> accesslog.AccessLogFilter:
    comparison = accesslog.ComparisonFilter(op=accesslog.ComparisonFilter.Op.EQ)
    comparison.value.default_value = code
    comparison.value.runtime_key = f"headgate.local_reply.{code}"
    return accesslog.AccessLogFilter(status_code_filter=accesslog.StatusCodeFilter(comparison=comparison))


def _flags(*flags: str) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(response_flag_filter=accesslog.ResponseFlagFilter(flags=flags))

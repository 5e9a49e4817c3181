"""Error answers for every request that never got one from a provider: OpenAI's shape, Anthropic's on its endpoints.

https://platform.openai.com/docs/guides/error-codes
"""

from typing import Any, NamedTuple

from envoy.config.accesslog.v3 import accesslog_pb2 as accesslog
from envoy.config.core.v3 import base_pb2 as base
from envoy.config.core.v3 import substitution_format_string_pb2 as formats
from envoy.config.route.v3 import route_components_pb2 as route
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm
from envoy.type.matcher.v3 import value_pb2 as value

from controlplane.plan.dialects import Surface
from controlplane.xds import names
from controlplane.xds.names import MODEL
from controlplane.xds.noted import noted
from controlplane.xds.protos import uint
from controlplane.xds.rules import unavailable
from controlplane.xds.tokens import about, denied_by, refused, revoked

INVALID = "invalid_request_error"
SERVER = "server_error"

_LIMITS = "envoy.filters.http.ratelimit"
_NO_KEY = "Incorrect API key provided, or none: send `Authorization: Bearer <key>`."
_NO_RULES = "The rules or the translation that this request needs cannot be applied at the moment. Try again."
_OTHER_ORIGIN = ("Pages of this origin may not call this gateway.", INVALID, "origin_not_allowed")
_ELSEWHERE = "This API key may not be used from your address."
_NOT_ACCEPTED = "The token is not accepted (%RESPONSE_CODE_DETAILS%): send a new one, meant for this gateway."
_REVOKED = "This API key was revoked: ask for a new one."
_TOO_MANY = "Rate limit reached. Wait for `retry-after` seconds and try again."
_BY_STATUS: tuple[tuple[int, str, str, str, str | None], ...] = (
    (401, _NO_KEY, INVALID, "invalid_api_key", None),
    (403, f"This API key may not use the model '%REQ({MODEL})%'.", INVALID, "model_not_allowed", "model"),
    (408, "The request took too long to arrive.", INVALID, "request_timeout", None),
    (413, "The request body is larger than this gateway accepts.", INVALID, "request_too_large", None),
    (429, _TOO_MANY, "rate_limit_error", "rate_limit_exceeded", None),
    (431, "The request headers are larger than this gateway accepts.", INVALID, "request_too_large", None),
)

# Envoy's response code details of requests that never get as far as the filters:
# https://github.com/envoyproxy/envoy/blob/v1.40.0/envoy/stream_info/stream_info.h
_NO_UPGRADE = "WebSockets and other upgrades of the connection are not supported: send a plain request."
_BY_DETAILS = (
    ("upgrade_failed", 403, _NO_UPGRADE, "upgrade_not_supported"),
    ("low_version", 426, "HTTP/1.0 is not supported: send HTTP/1.1 or HTTP/2.", "invalid_request"),
    ("missing_host_header", 400, "The request has no `Host` header.", "invalid_request"),
    ("path_normalization_failed", 400, "The request has no valid path.", "invalid_request"),
)

_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}

# Envoy's response flags: https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/observability/access_log/usage
_BY_FLAGS = (
    # Somebody is there, but what comes is no answer.
    (("UC", "UR", "UPE", "LR"), 502, "The model's provider broke off without a proper answer.", "upstream_error"),
    (("UT", "SI", "UMSDR", "DT"), 504, "The model's provider took too long to answer.", "upstream_timeout"),
    (
        ("UF", "UH", "NC", "NR", "UO", "URX"),
        503,
        "No provider of this model can be reached at the moment.",
        "upstream_unavailable",
    ),
)


def body(message: str, kind: str, code: str, param: str | None = None) -> dict[str, Any]:
    """The JSON of an error; `message` may hold Envoy format commands, whose values Envoy escapes."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def anthropics(status: int, message: str) -> dict[str, Any]:
    """The JSON of an error for clients of Anthropic's API: https://docs.claude.com/en/api/errors"""
    kind = _ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else INVALID)
    return {"type": "error", "error": {"type": kind, "message": message}}


def direct(
    status: int, message: str, code: str, param: str | None = None, *, anthropic: bool = False
) -> route.DirectResponseAction:
    """A route's answer that is an error."""
    answer = route.DirectResponseAction(status=status)
    told = anthropics(status, message) if anthropic else body(message, INVALID, code, param)
    answer.body_format.json_format.update(told)
    return answer


class _Case(NamedTuple):
    """A reason for which Envoy itself answers, and what. `changes`: the status is not Envoy's own."""

    when: accesslog.AccessLogFilter
    status: int
    message: str
    kind: str
    code: str
    param: str | None = None
    changes: bool = True


def local_replies(*, messages: bool, pages: bool = False) -> hcm.LocalReplyConfig:
    """What Envoy itself answers when a filter, a timeout or an upstream ends a request; first match wins.

    `messages`: clients may speak Anthropic's API, too, and read its errors. `pages`: browsers may ask beforehand.
    """
    # Refusals of tokens are not all 401 by themselves.
    cases = [
        _Case(refused(), 401, _NOT_ACCEPTED, INVALID, "invalid_api_key"),
        _Case(revoked(), 401, _REVOKED, INVALID, "invalid_api_key"),
        _Case(denied_by(names.ADDRESS_DENIED), 403, _ELSEWHERE, INVALID, "address_not_allowed", changes=False),
    ]
    cases += [
        _Case(about(f"response.code_details == '{details}'"), status, message, INVALID, code, changes=False)
        for details, status, message, code in _BY_DETAILS
    ]
    if pages:
        cases.append(_Case(_both(_status(403), _asks_first()), 403, *_OTHER_ORIGIN, changes=False))
    cases += _refusals()
    cases.append(_Case(unavailable(), 503, _NO_RULES, SERVER, "rules_unavailable"))
    cases += [
        _Case(_status(status), status, message, kind, code, param, changes=False)
        for status, message, kind, code, param in _BY_STATUS
    ]
    cases += [_Case(_flags(*flags), status, message, SERVER, code) for flags, status, message, code in _BY_FLAGS]
    invalid = "The request is not valid HTTP."
    cases.append(_Case(_flags("DPE"), 400, invalid, INVALID, "invalid_request", changes=False))
    mappers = [hcm.ResponseMapper(filter=_own_words())]
    for case in cases:
        status = case.status if case.changes else None
        if messages:
            told = anthropics(case.status, case.message.replace("Authorization: Bearer <key>", "x-api-key: <key>"))
            mappers.append(_mapper(_both(_speaks_anthropics(), case.when), told, status))
        mappers.append(_mapper(case.when, body(case.message, case.kind, case.code, case.param), status))
    return hcm.LocalReplyConfig(mappers=mappers)


def _refusals() -> list[_Case]:
    """What the rate limit service says of a refusal, and what is said when it cannot be asked."""
    away = "The limits of this request cannot be counted at the moment. Try again."
    name = f"%DYNAMIC_METADATA({_LIMITS}:refused)%"
    rate = f"Rate limit reached: `{name}` has no room for this request. Wait for `retry-after` seconds and try again."
    budget = f"The budget `{name}` has no room for what this request may cost."
    unpriced = f"The model '%REQ({MODEL})%' has no known price, so that the budget `{name}` cannot bound its cost."
    spent = "insufficient_quota"
    return [
        _Case(_flags("RLSE"), 503, away, SERVER, "limits_unavailable"),
        _Case(_told("code", "limits_unavailable"), 503, away, SERVER, "limits_unavailable"),
        _Case(_told("reason", "unpriced"), 429, unpriced, spent, spent, "model", changes=False),
        _Case(_told("code", spent), 429, budget, spent, spent, changes=False),
        _Case(
            _told("code", "rate_limit_exceeded"), 429, rate, "rate_limit_error", "rate_limit_exceeded", changes=False
        ),
    ]


def _both(one: accesslog.AccessLogFilter, other: accesslog.AccessLogFilter) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(and_filter=accesslog.AndFilter(filters=[one, other]))


def _asks_first() -> accesslog.AccessLogFilter:
    """A browser's preflight."""
    method = {"name": ":method", "string_match": {"exact": "OPTIONS"}}
    return accesslog.AccessLogFilter(header_filter=accesslog.HeaderFilter(header=method))


def _speaks_anthropics() -> accesslog.AccessLogFilter:
    """By the path that the client asked for; by what was noted of it where an attempt may have changed it."""
    path = accesslog.HeaderFilter(header={"name": ":path", "string_match": {"prefix": Surface.MESSAGES.value}})
    untried = accesslog.HeaderFilter(header={"name": names.CLIENT_PATH, "present_match": True, "invert_match": True})
    asked = _both(accesslog.AccessLogFilter(header_filter=path), accesslog.AccessLogFilter(header_filter=untried))
    said = noted("headgate", "dialect", value.ValueMatcher(string_match={"exact": "anthropic"}))
    either = [asked, said]
    return accesslog.AccessLogFilter(or_filter=accesslog.OrFilter(filters=either))


def _told(key: str, text: str) -> accesslog.AccessLogFilter:
    """What the rate limit service left in metadata."""
    return noted(_LIMITS, key, value.ValueMatcher(string_match={"exact": text}))


def _mapper(when: accesslog.AccessLogFilter, answer: dict[str, Any], status: int | None = None) -> hcm.ResponseMapper:
    mapper = hcm.ResponseMapper(filter=when, status_code=uint(status) if status else None)
    mapper.body_format_override.CopyFrom(formats.SubstitutionFormatString())
    mapper.body_format_override.json_format.update(answer)
    # A request that ends while its headers are read has no id yet.
    absent = base.HeaderValueOption.HeaderAppendAction.ADD_IF_ABSENT
    mapper.headers_to_add.add(header={"key": "x-request-id", "value": "%UNIQUE_ID%"}, append_action=absent)
    return mapper


def _own_words() -> accesslog.AccessLogFilter:
    """Answers whose script has said all there is to say: nothing is put in their place."""
    return noted("headgate", "own_words", value.ValueMatcher(bool_match=True))


def _status(code: int) -> accesslog.AccessLogFilter:
    comparison = accesslog.ComparisonFilter(op=accesslog.ComparisonFilter.Op.EQ)
    comparison.value.default_value = code
    comparison.value.runtime_key = f"headgate.local_reply.{code}"
    return accesslog.AccessLogFilter(status_code_filter=accesslog.StatusCodeFilter(comparison=comparison))


def _flags(*flags: str) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(response_flag_filter=accesslog.ResponseFlagFilter(flags=flags))

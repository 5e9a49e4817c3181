"""Errors between dialects: a provider's error as a value, and the two shapes in which clients read it.

Statuses and types follow OpenAI's (platform.openai.com/docs/guides/error-codes) and Anthropic's
(docs.claude.com/en/api/errors) lists.
"""

import math
import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from extproc.translate import jsontext
from extproc.translate.jsontext import Object

ClientName = Literal["openai", "anthropic"]

_LONGEST_MESSAGE = 2_000
_OPENAI_TYPES = {429: "rate_limit_error"}
_OPENAI_CODES = {
    400: "invalid_request",
    401: "upstream_authentication",
    403: "upstream_permission",
    404: "not_found",
    408: "request_timeout",
    413: "request_too_large",
    429: "rate_limit_exceeded",
    502: "upstream_error",
    503: "upstream_unavailable",
    504: "upstream_timeout",
}
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
# How Anthropic, Bedrock, Gemini, Cohere and vLLM say that a prompt does not fit.
_TOO_LONG = re.compile(
    r"prompt is too long|input is too long|exceeds? the maximum (number of )?(input )?tokens"
    r"|too many tokens|maximum context length|exceeds? the context",
    re.IGNORECASE,
)
# RFC 9110: seconds, or a date.
_RETRY_AFTER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?|[A-Za-z0-9 ,:+-]{10,40}")


class Failure(NamedTuple):
    """`status` as the provider or HTTP states it; `code` and `param` empty where it says nothing."""

    status: int
    message: str
    code: str = ""
    param: str = ""
    retry_after: str = ""  # the value of a `retry-after` header


class AnswerError(Exception):
    """An answer that cannot be read, or a stream that the provider broke off; `failure` is what the client gets."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Answer(NamedTuple):
    """A whole answer for the client; `headers` are to be set in place of the provider's."""

    status: int
    headers: dict[str, str]
    body: bytes


class UnreadableError(AnswerError):
    """An answer that breaks the provider's own protocol."""


def unreadable(what: str) -> UnreadableError:
    return UnreadableError(Failure(502, f"The model's provider sent an answer that cannot be read: {what}."))


def broken_off() -> Failure:
    return Failure(502, "The model's provider broke off in the middle of the answer.")


def status_of(kind: str, otherwise: int = 502) -> int:
    """The HTTP status that belongs to a provider's error type or code, for errors inside of a stream."""
    return _STATUSES.get(kind, otherwise)


def client_status(status: int, client: ClientName) -> int:
    """The status for a client: 529 is known to Anthropic's alone, and 424 to none."""
    if status == 424 or not 400 <= status <= 599:
        return 502
    return 503 if status == 529 and client == "openai" else status


def render(failure: Failure, client: ClientName) -> Answer:
    """The error as a whole answer."""
    headers = {"content-type": "application/json"}
    if failure.retry_after and _RETRY_AFTER.fullmatch(failure.retry_after):
        headers["retry-after"] = failure.retry_after
    status = client_status(failure.status, client)
    return Answer(status, headers, jsontext.dumps(shape(failure, client)))


def shape(failure: Failure, client: ClientName) -> Object:
    """The error object in the client's dialect."""
    status = client_status(failure.status, client)
    message = failure.message[:_LONGEST_MESSAGE].encode("utf-8", "replace").decode()
    if client == "anthropic":
        kind = _ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": message}}
    kind = _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    code = failure.code[:100] or _OPENAI_CODES.get(status, "upstream_error" if status >= 500 else "invalid_request")
    return {"error": {"message": message, "type": kind, "param": failure.param[:200] or None, "code": code}}


def from_body(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """A provider's error answer, whatever dialect it is in; pages that are not JSON are not shown to the client.

    Read are OpenAI's and Gemini's `{"error": {...}}`, Anthropic's `{"type": "error", "error": {...}}`, AWS's and
    Cohere's `{"message"}`, and Ollama's `{"error": "text"}`.
    """
    retry_after = headers.get("retry-after", "")
    try:
        value = jsontext.loads(body)
    except jsontext.JSONTextError:
        value = None
    if isinstance(value, list) and value:  # Gemini wraps the error of a stream in a list
        value = value[0]
    if not isinstance(value, dict):
        return Failure(status, f"The model's provider answered {status} without an explanation.", "", "", retry_after)
    found = from_object(value, status)
    return found._replace(status=status, retry_after=retry_after or found.retry_after)


def from_object(value: Object, status: int = 502) -> Failure:
    """The error that an object states; `status` where it does not tell its own."""
    error = value.get("error")
    if isinstance(error, str):
        return Failure(status, error)
    if not isinstance(error, dict):
        error = value
    message = _text(error.get("message")) or _text(value.get("message")) or _text(value.get("Message"))
    kind, code = _text(error.get("type")), _text(error.get("code"))
    stated = error.get("code")
    if isinstance(stated, int) and 400 <= stated <= 599:  # Gemini's and OpenRouter's codes are statuses
        status = stated
    status = _STATUSES.get(kind, _STATUSES.get(code, status))
    text = message or "The model's provider answered with an error without an explanation."
    return Failure(status, text, _code(text, status), _text(error.get("param")), _retry_delay(error))


def _code(message: str, status: int) -> str:
    """OpenAI's code for what only the message tells; clients shorten the conversation when they see it."""
    return "context_length_exceeded" if status in (400, 413, 422) and _TOO_LONG.search(message[:500]) else ""


def _retry_delay(error: Object) -> str:
    """Gemini's google.rpc.RetryInfo, such as `46.1s`, in whole seconds."""
    details = error.get("details")
    for detail in details[:16] if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        if isinstance(delay, str) and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?s", delay):
            return str(math.ceil(float(delay[:-1])))
    return ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""

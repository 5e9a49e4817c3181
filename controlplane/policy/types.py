"""The field types of the policy language: a grammar each, for pydantic and for the JSON Schema alike."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from controlplane.policy import grammar
from controlplane.policy.grammar import Address, Rate, Url
from controlplane.policy.secrets import SecretRef


class Strict(BaseModel):
    """A mapping of the policy: fields that it does not have are errors, values are not converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=False, allow_inf_nan=False)


def _by(parse: Callable[[Any], Any], kinds: type | tuple[type, ...] = str) -> BeforeValidator:
    """Validates with a grammar's parser; its ValueError says what was expected."""

    def validate(value: Any) -> Any:
        expected = "text"
        if isinstance(value, kinds) and not isinstance(value, bool):
            try:
                return parse(value)
            except ValueError as error:
                expected = str(error)
        else:
            try:
                parse("")
            except ValueError as error:
                expected = str(error)
        raise PydanticCustomError("invalid-value", "not valid: {found}", {"found": shown(value), "expected": expected})

    return BeforeValidator(validate)


def shown(value: Any) -> str:
    """A value as an error may quote it: short, on one line."""
    text = {None: "nothing", True: "true", False: "false"}.get(value) if isinstance(value, bool | None) else str(value)
    text = text if text is not None else str(value)
    return " ".join((text if len(text) <= 60 else text[:59] + "…").split()) or "nothing"


def _text(pattern: str, examples: list[Any]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": examples})


Duration = Annotated[int, _by(grammar.duration), _text(grammar.DURATION, ["250ms", "30s", "5m", "1h"])]
Size = Annotated[
    int,
    _by(grammar.size, (str, int)),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "pattern": grammar.SIZE}, {"type": "integer", "minimum": 1}],
            "examples": ["32MiB"],
        }
    ),
]
RateType = Annotated[InstanceOf[Rate], _by(grammar.rate), _text(grammar.RATE, ["600/m", "20k/h"])]
AddressType = Annotated[
    InstanceOf[Address],
    _by(grammar.address),
    _text(r"^.+:[0-9]+$", ["127.0.0.1:8080", "[::1]:8080"]),
    PlainSerializer(str),
]
UrlType = Annotated[
    InstanceOf[Url],
    _by(grammar.url),
    _text(r"^https?://[^\s@?#]+$", ["https://api.openai.com/v1"]),
    PlainSerializer(str),
]
ProviderName = Annotated[str, _by(grammar.name), _text(grammar.NAME, ["openai"])]
KeyName = Annotated[str, _by(grammar.name), _text(grammar.NAME, ["alice"])]
LimitName = Annotated[str, _by(grammar.name), _text(grammar.NAME, ["standard"])]
Pattern = Annotated[str, _by(grammar.pattern), _text(grammar.PATTERN, ["smart", "gpt-*"])]
UpstreamModel = Annotated[str, _by(grammar.model), _text(grammar.MODEL, ["gpt-4o"])]


def _header_name(text: str) -> str:
    if not re.match(grammar.HEADER.replace("$", r"\Z"), text):
        raise ValueError("the name of an HTTP header")
    lower = text.lower()
    if lower in (
        "authorization",
        "host",
        "content-length",
        "content-type",
        "transfer-encoding",
        "connection",
    ) or lower.startswith("x-headgate-"):
        raise ValueError("another header: this one is set by the gateway (credentials go into `api_key`)")
    return lower


def _header_value(text: str) -> str:
    if not text or not text.isprintable() or not text.isascii():
        raise ValueError("printable ASCII text")
    return text


HeaderName = Annotated[str, _by(_header_name), _text(grammar.HEADER, ["openai-organization"])]
HeaderValue = Annotated[str, _by(_header_value), WithJsonSchema({"type": "string", "minLength": 1})]
UrlPath = Annotated[str, Field(pattern=r"^/[!-~]*$", examples=["/health"])]


def _secret(value: Any) -> SecretRef:
    """Never quotes what it was given: that may be the secret itself."""
    hint = "write {env: NAME} or {file: path}; the value stays out of the policy"
    if isinstance(value, dict) and len(value) == 1:
        ((kind, name),) = value.items()
        if kind in ("env", "file") and isinstance(name, str) and name and "\0" not in name:
            return SecretRef(kind, name)
    code = "invalid-secret" if isinstance(value, dict) else "literal-secret"
    message = (
        "a reference to a secret has exactly one of `env` and `file`"
        if isinstance(value, dict)
        else "a secret must be a reference, not a value"
    )
    raise PydanticCustomError(code, message, {"expected": "{env: NAME} or {file: path}", "hint": hint})


SecretType = Annotated[
    InstanceOf[SecretRef],
    BeforeValidator(_secret),
    WithJsonSchema(
        {
            "oneOf": [
                {
                    "type": "object",
                    "properties": {kind: {"type": "string", "minLength": 1, "description": what}},
                    "required": [kind],
                    "additionalProperties": False,
                }
                for kind, what in (
                    ("env", "Name of an environment variable."),
                    ("file", "Path of a file, relative to the policy."),
                )
            ],
            "description": "Where the secret's value is kept. Never the value itself.",
        }
    ),
    PlainSerializer(str),
]


def _moment(text: str) -> datetime:
    try:
        if len(text) == 10:
            return datetime.combine(date.fromisoformat(text), datetime.min.time(), UTC)
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = datetime.min
    if moment.tzinfo is None:
        raise ValueError("a date such as 2027-01-01 (its first moment, UTC) or a time such as 2027-01-01T12:00:00Z")
    return moment.astimezone(UTC)


Moment = Annotated[
    datetime, _by(_moment), WithJsonSchema({"type": "string", "examples": ["2027-01-01", "2027-01-01T12:00:00Z"]})
]


_REASONS = ("5xx", "timeout", "connect", "reset")


def _retry(value: str | int) -> str | int:
    if value in _REASONS or (isinstance(value, int) and 400 <= value <= 599):
        return value
    raise ValueError("5xx, timeout, connect, reset, or a status from 400 to 599")


# A failure that leads to another attempt.
RETRY = Annotated[
    Any,
    _by(_retry, (str, int)),
    WithJsonSchema({"anyOf": [{"enum": list(_REASONS)}, {"type": "integer", "minimum": 400, "maximum": 599}]}),
]

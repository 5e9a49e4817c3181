"""The field types of the policy language: a grammar each, for pydantic and for the JSON Schema alike."""

import re
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from controlplane.policy import grammar
from controlplane.policy.grammar import ENV, PATH, Address, Rate, Url
from controlplane.policy.secrets import SecretRef
from extproc.usage.prices import MAX_PER_MILLION, MAX_PER_UNIT
from sidecars.mock import delays, steps


class Strict(BaseModel):
    """A mapping of the policy: fields that it does not have are errors, values are not converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=False, allow_inf_nan=False)


def _by(parse: Callable[[Any], Any], kinds: type | tuple[type, ...] = str, *, quote: bool = True) -> BeforeValidator:
    """Validates with a grammar's parser; its ValueError says what was expected. `quote`: the value is no secret."""

    def validate(value: Any) -> Any:
        fits = isinstance(value, kinds) and not isinstance(value, bool)
        try:
            found = parse(value if fits else "")
        except ValueError as error:
            expected = str(error)
        else:
            if fits:
                return found
            expected = "text"
        message = "not valid: {found}" if quote else "this value is not valid"
        context = {"found": shown(value), "expected": expected} if quote else {"expected": expected}
        raise PydanticCustomError("invalid-value", message, context)

    return BeforeValidator(validate)


# What a provider's key looks like, wherever it stands.
LOOKS_SECRET = re.compile(r"\b(?:sk|pk|gsk|xai|hf|AIza)[-_][A-Za-z0-9_-]{6,}")
HIDDEN = "*" * 8


def shown(value: Any) -> str:
    """A value as an error may quote it: short, on one line, and nothing that looks like a secret."""
    if value is None or value == "":
        return "nothing" if value is None else "an empty text"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = " ".join(LOOKS_SECRET.sub(HIDDEN, (str(value).lower() if isinstance(value, bool) else str(value))).split())
    return text if len(text) <= 60 else text[:59] + "…"


def _proven(parse: Callable[[str], Any]) -> Callable[[str], str]:
    """The text itself, once it is known to be right: what follows reads it again."""

    def proven(text: str) -> str:
        parse(text)
        return text

    return proven


def _text(pattern: str, examples: list[Any]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": examples})


_DURATIONS = ["250ms", "30s", "5m", "1h"]
Count = Annotated[int, Field(ge=1, lt=1 << 32)]  # Envoy's uint32
Duration = Annotated[int, _by(grammar.duration), _text(grammar.DURATION, _DURATIONS)]
Clock = Annotated[int, _by(grammar.clock), _text(grammar.DURATION, _DURATIONS)]
Days = Annotated[int, _by(grammar.days), _text(grammar.DAYS, ["30d"])]


def _bytes(example: str) -> WithJsonSchema:
    forms = [{"type": "string", "pattern": grammar.SIZE}, {"type": "integer", "minimum": 1}]
    return WithJsonSchema({"anyOf": forms, "examples": [example]})


Size = Annotated[int, _by(grammar.size, (str, int)), _bytes("32MiB")]
Memory = Annotated[int, _by(grammar.memory, (str, int)), _bytes("16GiB")]
Device = Annotated[str, _by(grammar.device), _text(grammar.DEVICE, ["cpu", "cuda:0"])]
ModelFolder = Annotated[str, Field(pattern=PATH, examples=["models/minilm"])]
OnnxFile = Annotated[str, Field(pattern=PATH, examples=["model.onnx"])]
Priority = Literal["high", "normal", "low"]
Label = Annotated[str, Field(min_length=1, max_length=256)]
Tokens = Annotated[
    int,
    _by(grammar.tokens, (str, int)),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "pattern": grammar.TOKENS}, {"type": "integer", "minimum": 1}],
            "examples": ["128k"],
        }
    ),
]
Day = Annotated[str, _by(grammar.day), _text(grammar.DAY, ["2027-01-01"])]
Refresh = Annotated[int, _by(grammar.refresh), _text(grammar.REFRESH, ["10m", "off"])]
RateType = Annotated[InstanceOf[Rate], _by(grammar.rate), _text(grammar.RATE, ["600/m", "20k/h"])]
AddressType = Annotated[
    InstanceOf[Address],
    _by(grammar.address),
    _text(r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$", ["127.0.0.1:8080", "[::1]:8080"]),
]
EndpointType = Annotated[InstanceOf[Address], _by(grammar.endpoint)]
AddressName = Annotated[
    InstanceOf[Address], _by(grammar.address_name), _text(r"^[A-Za-z0-9._-]+:[0-9]{1,5}$", ["vllm.internal:8000"])
]
UrlType = Annotated[
    InstanceOf[Url],
    _by(grammar.url),
    _text(r"^https?://[^\s@?#]+$", ["https://api.openai.com/v1"]),
]
Network = Annotated[str, _by(grammar.network), _text(grammar.NETWORK, ["10.0.0.0/8", "2001:db8::/32"])]
ProviderName = Annotated[str, _by(grammar.name), _text(grammar.NAME, ["openai"])]
KeyName = Annotated[str, _by(grammar.name), _text(grammar.NAME, ["alice"])]
IssuerName = Annotated[str, _by(grammar.name), _text(grammar.NAME, ["corp"])]
UserName = Annotated[str, _by(grammar.name), _text(grammar.NAME, ["ana"])]
LimitName = Annotated[str, _by(grammar.name), _text(grammar.NAME, ["standard"])]
TeamName = Annotated[str, _by(grammar.name), _text(grammar.NAME, ["search"])]
OrganizationName = Annotated[str, _by(grammar.name), _text(grammar.NAME, ["acme"])]
BudgetName = Annotated[str, _by(grammar.name), _text(grammar.NAME, ["monthly"])]
WebhookName = Annotated[str, _by(grammar.name), _text(grammar.NAME, ["ops"])]
TokenizerName = Annotated[str, _by(grammar.name), _text(grammar.NAME, ["llama"])]
TimeZone = Annotated[str, _by(grammar.timezone), _text(r"^[A-Za-z0-9_+/-]+$", ["Europe/Berlin"])]


def _number(**bound: int) -> WithJsonSchema:
    text = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"}
    return WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0, **bound}, text]})


_NUMBERS = (int, float, str)
Amount = Annotated[InstanceOf[Decimal], _by(grammar.amount, _NUMBERS), _number()]
TokenPrice = Annotated[InstanceOf[Decimal], _by(grammar.token_price, _NUMBERS), _number(maximum=MAX_PER_MILLION)]
RequestPrice = Annotated[InstanceOf[Decimal], _by(grammar.request_price, _NUMBERS), _number(maximum=MAX_PER_UNIT)]
Fraction = Annotated[
    InstanceOf[Decimal],
    _by(grammar.fraction, (int, float, str)),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": 1, "examples": [0.8]}),
]
RuleName = Annotated[str, _by(grammar.name), _text(grammar.NAME, ["no-secrets"])]
_DELAYS = ["150ms", "uniform(10ms,50ms)", "lognormal(300ms,2s)"]
_DELAY = r"^([a-z]+\()?[0-9.]+(ms|s|m|h)(, *[0-9.]+(ms|s|m|h))*\)?$"
MockDelay = Annotated[str, _by(_proven(delays.delay)), _text(_DELAY, _DELAYS)]
MockScript = Annotated[str, _by(_proven(steps.script)), _text(r"^[a-z0-9*., -]+$", ["ok*2, 503, hang, ok..."])]
MockFault = Literal["reset", "cut", "hang", "hang-body"]
ModelName = Annotated[str, _by(grammar.model), _text(grammar.MODEL, ["gpt-4o-mini"])]
Pattern = Annotated[str, _by(grammar.pattern), _text(grammar.PATTERN, ["smart", "gpt-*"])]
UpstreamModel = Annotated[str, _by(grammar.model), _text(grammar.MODEL, ["gpt-4o"])]


# What the gateway or the connection itself says to a provider; RFC 9110, section 7.6.1 lists the latter.
_OWN_HEADERS = {
    "authorization", "host", "content-length", "content-type",
    "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
}  # fmt: skip


def _header_name(text: str) -> str:
    lower = grammar.header(text)
    if lower in _OWN_HEADERS or lower.startswith(("x-headgate-", "x-envoy-")):
        raise ValueError("another header: this one is set by the gateway (credentials go into `api_key`)")
    return lower


def _header_value(text: str) -> str:
    if not text.strip() or not text.isprintable() or not text.isascii():
        raise ValueError("printable ASCII text; a number in quotes")
    return text


HeaderName = Annotated[str, _by(_header_name), _text(grammar.HEADER, ["openai-organization"])]
HeaderValue = Annotated[str, _by(_header_value, quote=False), WithJsonSchema({"type": "string", "pattern": "^[ -~]+$"})]
PageHeader = Annotated[str, _by(grammar.header), _text(grammar.HEADER, ["x-request-id"])]
Origin = Annotated[str, _by(grammar.origin), _text(grammar.ORIGIN, ["https://app.example.com"])]
HostName = Annotated[str, _by(grammar.host), _text(grammar.HOST, ["api.example.com"])]
Folder = Annotated[str, Field(pattern=PATH, examples=[".headgate"])]
ApiVersion = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+$", examples=["2024-10-21"])]
Region = Annotated[str, Field(pattern=r"^[a-z0-9-]+$", examples=["eu-central-1"])]
UrlPath = Annotated[str, Field(pattern=r"^/[!-~]*$", examples=["/health"])]
ModelSource = Annotated[str, _by(grammar.model_source), _text(grammar.MODEL_SOURCE, ["./llama", "Qwen/Qwen3-8B"])]
VariableName = Annotated[str, _by(grammar.variable), _text(ENV, ["CUDA_VISIBLE_DEVICES"])]


def _secret(value: Any) -> SecretRef:
    """Never quotes what it was given: that may be the secret itself."""
    context = {"expected": "{env: NAME} or {file: path}", "hint": "the value itself stays out of the policy"}
    if not isinstance(value, dict):
        message = "a secret must be a reference, not a value"
        raise PydanticCustomError("literal-secret", message, context)
    kind, name = next(iter(value.items())) if len(value) == 1 else (None, None)
    if kind not in ("env", "file"):
        message = "a reference to a secret has exactly one of `env` and `file`"
        raise PydanticCustomError("invalid-secret", message, context)
    if not isinstance(name, str) or not name or "\0" in name or (kind == "env" and not grammar.matches(ENV, name)):
        wanted = "the name of an environment variable" if kind == "env" else "the path of a file"
        message = "this is no name of an environment variable" if kind == "env" else "this is no path of a file"
        raise PydanticCustomError("invalid-secret", message, context | {"expected": wanted})
    return SecretRef(kind, name)


def _reference(kind: str, what: str, **form: str | int) -> dict[str, Any]:
    field = {"type": "string", "description": what, **form}
    return {"type": "object", "properties": {kind: field}, "required": [kind], "additionalProperties": False}


def _references() -> list[dict[str, Any]]:
    return [
        _reference("env", "Name of an environment variable.", pattern=ENV),
        _reference("file", "Path of a file, relative to the policy.", minLength=1),
    ]


SecretType = Annotated[
    InstanceOf[SecretRef],
    BeforeValidator(_secret),
    WithJsonSchema(
        {
            "description": "Where the secret's value is kept. Never the value itself.",
            "oneOf": _references(),
        }
    ),
]
_PLAIN_WEBHOOK_URL = _by(grammar.webhook_url, quote=False)


def _webhook_url(value: Any) -> Any:
    """A URL, or a reference to one that is a secret itself."""
    return _secret(value) if isinstance(value, dict) else _PLAIN_WEBHOOK_URL.func(value)  # type: ignore[call-arg]


WebhookUrl = Annotated[
    str | SecretRef,
    PlainValidator(_webhook_url),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": r"^https?://[^\s@#]+$"}, *_references()]}),
]
Moment = Annotated[datetime, _by(grammar.moment), _text(grammar.MOMENT, ["2027-01-01", "2027-01-01T12:00:00Z"])]


def _plain(value: str | float) -> str:
    if not (text := str(value)) or "\0" in text:
        raise ValueError("text or a number")
    return text


_SCALAR: dict[str, Any] = {"anyOf": [{"type": "string", "minLength": 1}, {"type": "number"}]}
Argument = Annotated[str, _by(_plain, (str, int, float)), WithJsonSchema(_SCALAR)]
_VARIABLE = _by(_plain, (str, int, float), quote=False)


def _variable(value: Any) -> Any:
    """A plain value, or a reference to a secret."""
    return _secret(value) if isinstance(value, dict) else _VARIABLE.func(value)  # type: ignore[call-arg]


Variable = Annotated[
    str | SecretRef, PlainValidator(_variable), WithJsonSchema({"anyOf": [*_SCALAR["anyOf"], *_references()]})
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

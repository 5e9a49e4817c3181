"""The stage `validation`: JSON Schema of the endpoint, shape of messages and tools, limits. Errors name the field.

{"limits": {"messages": 200, "tools": 64, "images": 10, "text": 100000}, "schemas": {"chat": {"required": ["user"]}}}
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, ConfigDict

from extproc.stages import paths
from extproc.stages.protocol import NOTHING, Access, Endpoint, Needs, Outcome, Plain, Refusal, Request
from extproc.stages.schemas import SCHEMAS
from extproc.stages.settings import STRICT
from extproc.stages.texts import texts

if TYPE_CHECKING:
    import jsonschema_rs

_IMAGES = ("image_url", "input_image", "image")
_JSON_NAMES = {
    "object": "an object",
    "array": "a list",
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
}
_LIMIT_WORDS = {
    "minimum": "must be at least",
    "maximum": "must be at most",
    "exclusiveMinimum": "must be above",
    "exclusiveMaximum": "must be below",
    "minItems": "must have this many elements at least:",
    "maxItems": "must have this many elements at most:",
    "minLength": "must have this many characters at least:",
    "maxLength": "must have this many characters at most:",
}


@dataclass(frozen=True, slots=True)
class Limits:
    """The most of each; None for no limit. `body`: bytes. `text`: characters of one text, `texts`: of all of them."""

    body: int | None = None
    messages: int | None = None
    tools: int | None = None
    images: int | None = None
    text: int | None = None
    texts: int | None = None
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if value is not None and not 0 <= value <= 2**40:
                raise ValueError(f"{one.name} is {value}: 0 to {2**40} is expected")


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    _Schema(schema)  # raises ValueError
    return schema


@dataclass(frozen=True, slots=True)
class Settings:
    """`schema`: the endpoint's own. `schemas`: others that requests must meet too. `pairs`: calls and results of tools
    belong together, tools have different names."""

    schema: bool = True
    pairs: bool = True
    limits: Limits = Limits()
    schemas: Mapping[Endpoint, Annotated[dict[str, Any], AfterValidator(_schema)]] = field(default_factory=dict)
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


class Validation(Plain):
    needs = Needs(request=Access.CHANGE, closed=True)

    def __init__(self, settings: Settings) -> None:
        self._limits = settings.limits
        self._texts = settings.limits.text is not None or settings.limits.texts is not None
        self._pairs = settings.pairs
        own = SCHEMAS if settings.schema else {}
        self._schemas = {
            endpoint: [_Schema(schemas[endpoint]) for schemas in (own, settings.schemas) if endpoint in schemas]
            for endpoint in Endpoint
        }

    def request(self, request: Request) -> Outcome:
        for refusal in self._refusals(request):
            return Outcome(refusal=refusal)
        return NOTHING

    def _refusals(self, request: Request) -> Iterator[Refusal]:
        """The cheapest first, so that no schema runs over what is too much anyway."""
        yield from self._too_many(request)
        for schema in self._schemas[request.endpoint]:
            error = schema.error(request.body)
            if error is not None:
                yield _refusal(error)
        if self._texts:
            yield from self._too_long(request)
        if self._pairs:
            yield from _unpaired(request)

    def _too_many(self, request: Request) -> Iterator[Refusal]:
        limits, body = self._limits, request.body
        if limits.body is not None and len(request.raw) > limits.body:
            text = f"The body has {len(request.raw)} bytes; at most {limits.body} are allowed."
            yield Refusal(413, "request_too_large", text)
        for name, most in (("messages", limits.messages), ("input", limits.messages), ("tools", limits.tools)):
            found = body.get(name)
            if most is not None and isinstance(found, list) and len(found) > most:
                yield _wrong(name, f"has {len(found)} elements; at most {most} are allowed", "too_many_elements")
        if limits.images is not None and b"image" in request.raw:
            for number, place in enumerate(_images(body), 1):
                if number > limits.images:
                    yield _wrong(place, f"is image {number}; at most {limits.images} are allowed", "too_many_images")

    def _too_long(self, request: Request) -> Iterator[Refusal]:
        total, one, all_ = 0, self._limits.text, self._limits.texts
        for path, text in texts(request.endpoint, request.body):
            total += len(text)
            if one is not None and len(text) > one:
                yield _wrong(
                    paths.written(path),
                    f"has {len(text)} characters; at most {one} are allowed",
                    "string_above_max_length",
                )
            if all_ is not None and total > all_:
                yield _wrong(
                    paths.written(path), f"is where all texts exceed {all_} characters", "string_above_max_length"
                )


def _unpaired(request: Request) -> Iterator[Refusal]:
    tools = request.body.get("tools")
    if isinstance(tools, list):
        yield from _twice(tools)
    messages = request.body.get("messages")
    if isinstance(messages, list) and request.endpoint is Endpoint.CHAT:
        yield from _unanswered(messages)


def _twice(tools: list[Any]) -> Iterator[Refusal]:
    names = set()
    for number, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if isinstance(name, str) and name in names:
            yield _wrong(f"tools[{number}]", f"has a name that another tool has: {name[:64]!r}")
        names.add(name if isinstance(name, str) else None)


def _unanswered(messages: list[Any]) -> Iterator[Refusal]:
    """OpenAI's rule: each call of an assistant's message is answered by the tool messages right behind it."""
    waiting: set[str] = set()
    place = 0
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            continue
        if message.get("role") == "tool":
            called = message.get("tool_call_id")
            if called not in waiting:
                yield _wrong(f"messages[{number}].tool_call_id", "answers no tool call of the message before it")
            waiting.discard(str(called))
            continue
        if waiting:
            break
        calls = message.get("tool_calls")
        waiting = {call["id"] for call in calls or () if isinstance(call, dict) and isinstance(call.get("id"), str)}
        place = number
    if waiting:
        yield _wrong(
            f"messages[{place}].tool_calls", f"has calls without an answer: {', '.join(sorted(waiting))[:200]}"
        )


def _images(body: dict[str, Any]) -> Iterator[str]:
    for name in ("messages", "input"):
        messages = body.get(name)
        for at, message in enumerate(messages if isinstance(messages, list) else ()):
            content = message.get("content") if isinstance(message, dict) else None
            for inner, part in enumerate(content if isinstance(content, list) else ()):
                if isinstance(part, dict) and part.get("type") in _IMAGES:
                    yield f"{name}[{at}].content[{inner}]"


class _Schema:
    """A JSON Schema: its patterns take linear time, and it fetches nothing. Raises ValueError."""

    def __init__(self, schema: dict[str, Any]) -> None:
        import jsonschema_rs  # noqa: PLC0415 - 3 MiB, for those who validate

        self._mismatch = jsonschema_rs.ValidationError
        try:
            self._validator = jsonschema_rs.Draft202012Validator(
                schema, pattern_options=jsonschema_rs.RegexOptions(), retriever=_no_retrieval
            )
        except Exception as error:
            raise ValueError(f"no JSON Schema: {str(error).splitlines()[0][:300]}") from None

    def error(self, body: Any) -> "jsonschema_rs.ValidationError | None":
        """The first thing that is wrong."""
        try:
            self._validator.validate(body)
        except self._mismatch as error:
            return error
        return None


def _no_retrieval(uri: str) -> Any:
    raise ValueError(f"{uri[:200]} is elsewhere: a schema is complete in itself")


def _refusal(error: "jsonschema_rs.ValidationError") -> Refusal:
    """The error's own message would repeat the value, which may be anything and any length."""
    place = paths.written(tuple(error.instance_path))
    kind, told = error.kind.name, error.kind.as_dict()
    if kind == "required":
        place = f"{place}.{told['property']}" if place else str(told["property"])
        return Refusal(400, "missing_required_parameter", f"'{place}' is missing.", place)
    if kind == "type":
        expected = [word for name, word in _JSON_NAMES.items() if name in told["types"]]
        return _wrong(place, f"must be {' or '.join(expected)}", "invalid_type")
    if kind == "enum":
        return _wrong(place, f"must be one of {', '.join(map(str, told['options']))}")
    if kind in _LIMIT_WORDS:
        return _wrong(place, f"{_LIMIT_WORDS[kind]} {told['limit']}")
    return _wrong(place, f"does not meet the schema's `{kind}`")


def _wrong(place: str, what: str, code: str = "invalid_value") -> Refusal:
    return Refusal(400, code, f"'{place or 'the body'}' {what}.", place or None)

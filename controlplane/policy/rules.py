"""What the language says about rules: when they apply, and what they do.

What a stage can be told is said by the stage's own settings (extproc/stages); here each of them gets its name in `do`.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_type_hints

import orjson
from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter
from pydantic_core import PydanticCustomError, core_schema

from controlplane.policy.caching import Cache
from controlplane.policy.guarding import Guard, spelled_out
from controlplane.policy.types import HeaderName, KeyName, Pattern, RuleName, Strict, TeamName
from extproc.stages import choice, operations, parameters, safety, saving, tokens, validation
from extproc.stages.detectors import Kind

TRANSFORMS = (
    "set", "default", "remove", "rename", "clamp", "max_tokens", "system", "headers", "answer_headers", "metadata",
    "remove_from_answer",
)  # fmt: skip
FINDS = ("redact", "mask", "flag", "block")


def _several(value: Any) -> Any:
    """One value is a list of one."""
    return [value] if isinstance(value, str) else value


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """A JSON Schema without references: it becomes a part of a greater one."""
    if isinstance(schema, list):
        return [_inlined(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(of, definitions) for name, of in schema.items() if name != "$defs"}


def _schema(adapter: TypeAdapter[Any]) -> dict[str, Any]:
    made = adapter.json_schema()
    found: dict[str, Any] = _inlined(made, made.get("$defs", {}))
    return found


class _Told:
    """Annotates a field that holds what a stage is told, checked by the stage's own types, kept as it is written.

    `before` completes what is written. Stages read JSON, so that is what is checked: it has lists where they have
    tuples.
    """

    def __init__(self, kind: Any, before: Callable[[Any], Any] = lambda value: value) -> None:
        self._adapter: TypeAdapter[Any] = TypeAdapter(kind)
        self._before = before
        self.schema = _schema(self._adapter)

    def validate(self, value: Any) -> Any:
        self._adapter.validate_json(orjson.dumps(self._before(value)))
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.validate)

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return self.schema


class _Finding(_Told):
    """What to find: a list of known kinds, or a mapping with patterns and words of the policy's own."""

    def __init__(self, action: str) -> None:
        super().__init__(safety.Rule, lambda value: {**value, "action": action} if isinstance(value, dict) else value)
        self._kinds = _Told(Annotated[list[Kind], Field(min_length=1)])
        own = {name: of for name, of in self.schema["properties"].items() if name != "action"}
        self.schema = {"anyOf": [self._kinds.schema, {**self.schema, "properties": own}]}

    def validate(self, value: Any) -> Any:
        if not isinstance(value, list | dict):
            told = {"expected": "a list of kinds such as [email], or a mapping"}
            raise PydanticCustomError("wrong-type", "this is neither a list nor a mapping", told)
        return self._kinds.validate(value) if isinstance(value, list) else super().validate(value)


def _operation(name: str) -> _Told:
    """One of the operations of the stage `transform`."""
    hint = get_type_hints(operations.Operation, include_extras=True)[name]
    return _Told(next(each for each in get_args(hint) if each is not type(None)))


# Not written into the class: there the names of its fields hide those of the modules.
_CHOICE, _PARAMETERS, _SAVING, _TOKENS, _VALIDATION = (
    _Told(stage.Settings) for stage in (choice, parameters, saving, tokens, validation)
)
_CACHE = _Told(Cache)
_WEBHOOK = _Told(Guard, spelled_out)
_WEBHOOK.schema = {"anyOf": [{"type": "string"}, _WEBHOOK.schema]}
_INJECTION = _Told(safety.Injection, lambda value: {"action": value} if isinstance(value, str) else value)
_INJECTION.schema = {"anyOf": [{"enum": ["flag", "block"]}, _INJECTION.schema]}


_Patterns: TypeAlias = Annotated[
    list[Pattern], BeforeValidator(_several, json_schema_input_type=Pattern | list[Pattern]), Field(min_length=1)
]
_Keys: TypeAlias = Annotated[
    list[KeyName], BeforeValidator(_several, json_schema_input_type=KeyName | list[KeyName]), Field(min_length=1)
]
_Teams: TypeAlias = Annotated[
    list[TeamName], BeforeValidator(_several, json_schema_input_type=TeamName | list[TeamName]), Field(min_length=1)
]
_Path: TypeAlias = Annotated[str, Field(pattern=r"^/v1/[a-z/]*\*?$", examples=["/v1/chat/completions", "/v1/audio/*"])]
_Paths: TypeAlias = Annotated[
    list[_Path], BeforeValidator(_several, json_schema_input_type=_Path | list[_Path]), Field(min_length=1)
]
_Word: TypeAlias = Literal["text", "image", "audio", "file", "tools"]
_Words: TypeAlias = Annotated[
    list[_Word], BeforeValidator(_several, json_schema_input_type=_Word | list[_Word]), Field(min_length=1)
]
_Value: TypeAlias = Annotated[str, Field(min_length=1, examples=["beta", "beta-*", "*"])]
_Values: TypeAlias = Annotated[
    list[_Value], BeforeValidator(_several, json_schema_input_type=_Value | list[_Value]), Field(min_length=1)
]


class When(Strict):
    """Which requests a rule is for: all of the conditions must hold. Without any, it is for all requests."""

    model: _Patterns | None = Field(None, description="Models, exact or ending in *.")
    key: _Keys | None = Field(None, description="Keys.")
    team: _Teams | None = Field(None, description="Teams of keys.")
    path: _Paths | None = Field(None, description="Endpoints, exact or ending in *.")
    header: dict[HeaderName, _Values] = Field(
        {}, description="Request headers: the value, or its beginning and a *; one of them each."
    )
    modality: _Words | None = Field(None, description="What the request holds: one of these.")
    stream: bool | None = Field(None, description="Whether a stream is asked for.")


class Action(Strict):
    """One thing to do: exactly one of these."""

    set: Annotated[Any, _operation("set")] = Field(None, description="Replace or add parameters.")
    default: Annotated[Any, _operation("default")] = Field(None, description="Add parameters that are absent.")
    remove: Annotated[Any, _operation("remove")] = Field(None, description="Take parameters out.")
    rename: Annotated[Any, _operation("rename")] = Field(None, description="Give parameters another name.")
    clamp: Annotated[Any, _operation("clamp")] = Field(None, description="Hold numbers within `least` and `most`.")
    max_tokens: Annotated[Any, _operation("max_tokens")] = Field(
        None, description="Hold the output cap, whatever its name."
    )
    system: Annotated[Any, _operation("system")] = Field(
        None, description="Put a system prompt before, behind or in place."
    )
    headers: Annotated[Any, _operation("headers")] = Field(None, description="Headers to set towards the provider.")
    answer_headers: Annotated[Any, _operation("answer_headers")] = Field(
        None, description="Headers to set towards the client."
    )
    metadata: Annotated[Any, _operation("metadata")] = Field(None, description="Values to log.")
    remove_from_answer: Annotated[Any, _operation("remove_from_answer")] = Field(
        None, description="Take members out of answers and of the events of streams."
    )
    redact: Annotated[Any, _Finding("redact")] = Field(None, description="Put `[KIND]` in the place of what is found.")
    mask: Annotated[Any, _Finding("mask")] = Field(
        None, description="Hide what is found from the provider, not the client."
    )
    flag: Annotated[Any, _Finding("flag")] = Field(None, description="Log what is found.")
    block: Annotated[Any, _Finding("block")] = Field(
        None, description="Refuse requests and answers in which it is found."
    )
    injection: Annotated[Any, _INJECTION] = Field(None, description="Flag or block what looks like a prompt injection.")
    webhook: Annotated[Any, _WEBHOOK] = Field(
        None, description="Ask a service of your own whether requests and answers may pass, or change."
    )
    validate_: Annotated[Any, _VALIDATION] = Field(
        None, alias="validate", description="Refuse requests that break a schema or exceed limits."
    )
    parameters: Annotated[Any, _PARAMETERS] = Field(
        None, description="What to do with parameters that a model does not support."
    )
    tokens: Annotated[Any, _TOKENS] = Field(
        None, description="Count the prompt's tokens; refuse what the model cannot hold."
    )

    save: Annotated[Any, _SAVING] = Field(
        None, description="Spend fewer tokens: drop old turns, compact white space, warn."
    )

    cache: Annotated[Any, _CACHE] = Field(None, description="Give answers again that were given before.")

    choose: Annotated[Any, _CHOICE] = Field(None, description="Serve another model, by what the request holds.")

    def done(self) -> list[tuple[str, Any]]:
        """What is written: the name of the action, and what it is told."""
        names = {field: info.alias or field for field, info in type(self).model_fields.items()}
        return [(names[field], getattr(self, field)) for field in names if field in self.model_fields_set]


def told_fields(action: str, steps: tuple[str | int, ...]) -> tuple[str, ...]:
    """The fields that a mapping within an action can have; none where names are free."""
    field = next((info for name, info in Action.model_fields.items() if action in (name, info.alias)), None)
    told = next((each for each in field.metadata if isinstance(each, _Told)), None) if field else None
    schema: Any = told.schema if told else {}
    for step in steps:
        schema = _mapping(schema)
        if isinstance(step, int):
            schema = schema.get("items", {})
        else:
            schema = schema.get("properties", {}).get(step, schema.get("additionalProperties", {}))
    return tuple(_mapping(schema).get("properties", ()))


def _mapping(schema: Any) -> Any:
    """The mapping among the forms that something can have."""
    forms = schema.get("anyOf", [schema]) if isinstance(schema, dict) else [{}]
    return next((form for form in forms if "properties" in form or "items" in form), forms[0])


class Rule(Strict):
    """Something to do to requests and their answers, in the order of `rules` and of `do`."""

    name: RuleName | None = Field(None, description="What logs and errors call it; `rule-1` and so on by default.")
    when: When = Field(When(), description="Which requests it is for.")
    do: list[Action] = Field(min_length=1, description="What to do, in this order.")
    on_error: Literal["allow", "deny"] | None = Field(
        None,
        description="What becomes of a request that the rule cannot be applied to; deny by default where it protects.",
    )

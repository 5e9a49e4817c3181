"""JSON Schemas of the requests, concise: what every provider needs, and the types of what it reads.

Providers add parameters all the time, so unknown members are always valid. null is as good as absent for everything
that may be left out. The shapes follow the public API references of OpenAI and Anthropic.
"""

from typing import Any

from extproc.stages.protocol import Endpoint

_Schema = dict[str, Any]


def _maybe(kind: str, **more: Any) -> _Schema:
    """A value or null."""
    return {"type": [kind, "null"], **more}


def _object(required: tuple[str, ...] = (), **properties: Any) -> _Schema:
    return {"type": "object", "required": list(required), "properties": properties}


def _list(items: Any, **more: Any) -> _Schema:
    return {"type": "array", "items": items, **more}


def _typed(kinds: dict[str, _Schema]) -> _Schema:
    """An object told apart by its `type`; kinds that are not known here pass, if they are objects with a type."""
    return _object(("type",), type=_TEXT) | {
        "allOf": [{"if": {"properties": {"type": {"const": kind}}}, "then": schema} for kind, schema in kinds.items()]
    }


def _one_of(*types: str, **by_type: _Schema) -> _Schema:
    """A value of one of these JSON types. `string`, `array`, `object`: what it then has to be."""
    return {
        "type": list(types),
        "allOf": [{"if": {"type": kind}, "then": schema} for kind, schema in by_type.items()],
    }


_TEXT = {"type": "string"}
_NAME = {"type": "string", "minLength": 1}
_COUNT = _maybe("integer", minimum=1)
_PENALTY = _maybe("number", minimum=-2, maximum=2)
_STOP = _one_of("string", "array", "null", array=_list(_TEXT))

_PART = _typed(
    {
        "text": _object(("text",), text=_TEXT),
        "refusal": _object(("refusal",), refusal=_TEXT),
        "image_url": _object(("image_url",), image_url=_object(("url",), url=_NAME)),
        "input_audio": _object(("input_audio",), input_audio=_object(("data", "format"), data=_NAME, format=_NAME)),
        "file": _object(("file",), file={"type": "object"}),
    }
)
_CALL = _typed(
    {"function": _object(("function",), function=_object(("name", "arguments"), name=_NAME, arguments=_TEXT))}
)
_FUNCTION = _object(("name",), name=_NAME, description=_maybe("string"), parameters=_maybe("object"))
_TOOL = _typed({"function": _object(("function",), function=_FUNCTION)})
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_MESSAGE = _object(
    ("role",),
    role={"enum": list(_ROLES)},
    content=_one_of("string", "array", "null", array=_list(_PART)),
    name=_maybe("string"),
    tool_calls=_one_of("array", "null", array=_list(_CALL)),
    tool_call_id=_maybe("string"),
) | {
    "allOf": [
        {"if": {"properties": {"role": {"not": {"const": "assistant"}}}}, "then": {"required": ["content"]}},
        {"if": {"properties": {"role": {"const": "tool"}}}, "then": {"required": ["tool_call_id"]}},
    ]
}  # fmt: skip
_COMMON = {
    "model": _NAME,
    "stream": _maybe("boolean"),
    "temperature": _maybe("number", minimum=0, maximum=2),
    "top_p": _maybe("number", minimum=0, maximum=1),
    "max_tokens": _COUNT,
    "metadata": _maybe("object"),
}
_SAMPLED = _COMMON | {
    "n": _COUNT,
    "stop": _STOP,
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "seed": _maybe("integer"),
    "logit_bias": _maybe("object"),
    "stream_options": _maybe("object"),
    "user": _maybe("string"),
}
_CHAT = _object(
    ("model", "messages"),
    messages=_list(_MESSAGE, minItems=1),
    tools=_one_of("array", "null", array=_list(_TOOL)),
    tool_choice={"type": ["string", "object", "null"]},
    response_format=_one_of("object", "null", object=_object(("type",), type=_NAME)),
    max_completion_tokens=_COUNT,
    **_SAMPLED,
)
_TOKENS = {"type": "integer", "minimum": 0}
_INPUT = _one_of(
    "string", "array", array=_list(_one_of("string", "integer", "array", array=_list(_TOKENS)), minItems=1)
)
_COMPLETIONS = _object(("model", "prompt"), prompt=_INPUT, suffix=_maybe("string"), **_SAMPLED)
_EMBEDDINGS = _object(
    ("model", "input"),
    model=_NAME,
    input=_INPUT,
    dimensions=_COUNT,
    encoding_format={"enum": ["float", "base64", None]},
    user=_maybe("string"),
)
_RESPONSES = _object(
    ("model",),
    input=_one_of("string", "array", "null", array=_list({"type": "object"})),
    instructions=_maybe("string"),
    tools=_one_of("array", "null", array=_list(_object(("type",), type=_NAME))),
    max_output_tokens=_COUNT,
    previous_response_id=_maybe("string"),
    **_COMMON,
)
_SOURCE = _object(("type",), type=_NAME)
_BLOCK = _typed(
    {
        "text": _object(("text",), text=_TEXT),
        "image": _object(("source",), source=_SOURCE),
        "document": _object(("source",), source=_SOURCE),
        "tool_use": _object(("id", "name", "input"), id=_NAME, name=_NAME, input={"type": "object"}),
        "tool_result": _object(("tool_use_id",), tool_use_id=_NAME, content={"type": ["string", "array", "null"]}),
    }
)
_CLAUDE_TOOL = _object(("name",), name=_NAME, input_schema=_maybe("object"))
_MESSAGES = _object(
    ("model", "messages"),
    messages=_list(
        _object(
            ("role", "content"),
            role={"enum": ["user", "assistant"]},
            content=_one_of("string", "array", array=_list(_BLOCK)),
        ),
        minItems=1,
    ),
    system=_one_of("string", "array", "null", array=_list(_BLOCK)),
    tools=_one_of("array", "null", array=_list(_CLAUDE_TOOL)),
    stop_sequences=_one_of("array", "null", array=_list(_TEXT)),
    **_COMMON,
)

SCHEMAS: dict[Endpoint, _Schema] = {
    Endpoint.CHAT: _CHAT,
    Endpoint.COMPLETIONS: _COMPLETIONS,
    Endpoint.EMBEDDINGS: _EMBEDDINGS,
    Endpoint.RESPONSES: _RESPONSES,
    Endpoint.MESSAGES: _MESSAGES | {"required": ["model", "messages", "max_tokens"]},
    Endpoint.COUNT_TOKENS: _MESSAGES,
}

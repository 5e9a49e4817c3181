"""What clients send to have text generated. What is not served is refused by its name, never ignored."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from sidecars.onnx.bodies import Body, Text
from sidecars.onnx.errors import ServiceError, invalid
from sidecars.onnx.generate.card import Defaults
from sidecars.onnx.generate.choice import Choice

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)
_Penalty = Annotated[float, Field(ge=-2, le=2)]
_Bias = Annotated[float, Field(ge=-100, le=100)]
_ID = re.compile(r"[0-9]{1,9}")
_STOPS = 16
_UNSERVED = frozenset(
    [
        "audio",
        "best_of",
        "echo",
        "function_call",
        "functions",
        "metadata",
        "modalities",
        "parallel_tool_calls",
        "prediction",
        "prompt_cache_key",
        "reasoning_effort",
        "safety_identifier",
        "service_tier",
        "store",
        "suffix",
        "tool_choice",
        "tools",
        "verbosity",
        "web_search_options",
    ]
)


class StreamOptions(BaseModel):
    model_config = _STRICT

    include_usage: bool = False


class GenerateBody(Body):
    """What both operations take. `top_k`, `repetition_penalty`: as in vLLM and its like. None: as the model has it."""

    unserved: ClassVar[frozenset[str]] = _UNSERVED
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    presence_penalty: _Penalty = 0.0
    frequency_penalty: _Penalty = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    logit_bias: Mapping[str, _Bias] | None = None
    seed: int | None = None
    stop: Text | Annotated[list[Text], Field(max_length=_STOPS)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with its usage. Raises ServiceError for options without a stream."""
        if self.stream_options is None:
            return False
        if not self.stream:
            raise invalid("stream_options", "Invalid 'stream_options': only with 'stream': true.")
        return self.stream_options.include_usage

    def choice(self, defaults: Defaults, vocabulary: int) -> Choice:
        """Raises ServiceError."""
        repetition = self.repetition_penalty
        return Choice(
            temperature=defaults.temperature if self.temperature is None else self.temperature,
            top_p=defaults.top_p if self.top_p is None else self.top_p,
            top_k=defaults.top_k if self.top_k is None else self.top_k,
            presence=self.presence_penalty,
            frequency=self.frequency_penalty,
            repetition=defaults.repetition_penalty if repetition is None else repetition,
            bias=_bias(self.logit_bias or {}, vocabulary),
            seed=self.seed,
        )


class Part(BaseModel):
    """A part of a message; what else than text it holds is looked at by `_content`."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    type: str
    text: str | None = None


class Function(BaseModel):
    model_config = _STRICT

    name: str
    arguments: str


class ToolCall(BaseModel):
    model_config = _STRICT

    id: str
    type: Literal["function"]
    function: Function


class Message(BaseModel):
    """`tool_calls`, `tool_call_id`, `name` go to the model's template, which may have a place for them.

    The last four are what answers have and clients send back with them; here they are always empty.
    """

    model_config = _STRICT

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


class Schema(BaseModel):
    model_config = _STRICT

    name: str
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(BaseModel):
    model_config = _STRICT

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Schema | None = None


class ChatBody(GenerateBody):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None

    @property
    def output_tokens(self) -> int | None:
        """Raises ServiceError when it is asked for in two ways."""
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise invalid("max_tokens", "Invalid 'max_tokens': not together with 'max_completion_tokens'.")
        return self.max_completion_tokens if self.max_tokens is None else self.max_tokens

    @property
    def likeliest(self) -> int | None:
        """How many of the likeliest tokens are told; None for no logprobs. Raises ServiceError."""
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("top_logprobs", "Invalid 'top_logprobs': only with 'logprobs': true.")
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionBody(GenerateBody):
    """`prompt`: in the four spellings of `read_input`."""

    prompt: Any
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


def template_messages(messages: list[Message]) -> list[dict[str, Any]]:
    """As chat templates take them: contents are texts, arguments objects. Raises ServiceError."""
    return [_template_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _template_message(message: Message, place: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        # No template knows the newer name of the same.
        "role": "system" if message.role == "developer" else message.role,
        "content": _content(message.content, f"{place}.content"),
    }
    if message.content is None and not message.tool_calls:
        raise invalid(f"{place}.content", f"Missing required parameter: '{place}.content'.")
    if message.name is not None:
        found["name"] = message.name
    if message.tool_call_id is not None:
        found["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        found["tool_calls"] = [_tool_call(call, place) for call in message.tool_calls]
    return found


def _content(content: str | list[Part] | None, place: str) -> str:
    if not isinstance(content, list):
        return content or ""
    for i, part in enumerate(content):
        if part.type == "text" and part.text is None:
            raise invalid(f"{place}[{i}].text", f"Missing required parameter: '{place}[{i}].text'.")
        if part.type != "text":
            raise ServiceError(
                400, "unsupported_content",
                f"Invalid '{place}[{i}]': a part of type '{part.type}'; models here take text only.",
                param=f"{place}[{i}]",
            )  # fmt: skip
    return "\n".join(part.text or "" for part in content)


def _tool_call(call: ToolCall, place: str) -> dict[str, Any]:
    try:
        arguments = orjson.loads(call.function.arguments)
    except orjson.JSONDecodeError:
        raise invalid(f"{place}.tool_calls", f"Invalid '{place}.tool_calls': the arguments are not JSON.") from None
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "type": call.type, "function": function}


def _bias(given: Mapping[str, float], vocabulary: int) -> dict[int, float]:
    wrong = next((text for text in given if not (_ID.fullmatch(text) and int(text) < vocabulary)), None)
    if wrong is not None:
        raise invalid("logit_bias", f"Invalid 'logit_bias': '{wrong}' is no token id from 0 to {vocabulary - 1}.")
    return {int(text): bias for text, bias in given.items()}

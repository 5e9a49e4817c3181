"""What clients send. An unknown field is refused: it would be ignored, and the client would not know."""

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from sidecars.onnx.errors import ServiceError, invalid

Text = Annotated[str, Field(min_length=1)]


class Body(BaseModel):
    """`user`: OpenAI's field for a name of the end user, which says nothing to a model.

    `unserved`: fields of OpenAI's that are known and not served.
    """

    unserved: ClassVar[frozenset[str]] = frozenset()
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: Text
    user: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        """Null is what clients send who have nothing to say, as OpenAI takes it: the field is not there."""
        if not isinstance(given, dict):
            return given
        free = cls.unserved | {of.alias or name for name, of in cls.model_fields.items() if not of.is_required()}
        return {name: value for name, value in given.items() if value is not None or name not in free}


class EmbeddingsBody(Body):
    """`input`: see `read_input`. `prompt_name`: one of the model's prompts, put in front of each text."""

    input: Any
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    prompt_name: Text | None = None


class Document(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    text: str


class RerankBody(Body):
    query: Text
    documents: Annotated[list[str | Document], Field(min_length=1)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool = False


class ClassifyBody(Body):
    """`labels`, `hypothesis_template`, `multi_label`: for NLI models, which classify by what a text entails."""

    input: Text | Annotated[list[Text], Field(min_length=1)]
    labels: Annotated[list[Text], Field(min_length=1)] | None = None
    hypothesis_template: Text = "This example is {}."
    multi_label: bool = False


class Pair(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    premise: Text
    hypothesis: Text


class NliBody(Body):
    input: Pair | Annotated[list[Pair], Field(min_length=1)]


_Body = TypeVar("_Body", bound=Body)


def parse(kind: type[_Body], raw: bytes) -> _Body:
    """Raises ServiceError, 400, for the first thing that is wrong."""
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        raise _told(error, kind.unserved) from None


def read_input(value: Any, place: str = "input") -> list[str] | list[list[int]]:
    """The four spellings of OpenAI: a text, texts, token ids, lists of token ids. Raises ServiceError."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return value
        if _is_ids(value):
            return [value]
        if all(isinstance(item, list) and item and _is_ids(item) for item in value):
            return value
    expected = "a string, an array of strings, an array of token ids or an array of those, not empty"
    raise invalid(place, f"Invalid '{place}': expected {expected}.")


def _is_ids(value: list[Any]) -> bool:
    return all(type(item) is int for item in value)


# What stands in a place for the choice that was tried of several.
_BRANCHES = frozenset({"str", "Document", "Pair"})


def _told(error: ValidationError, unserved: frozenset[str]) -> ServiceError:
    found = error.errors(include_url=False, include_input=False)
    # Of several choices, the one whose type was right says most, or was so for the longest.
    deepest = max(found, key=lambda one: len(one["loc"]))
    first = next((one for one in found if not one["type"].endswith("_type")), deepest)
    if first["type"] == "json_invalid":
        return invalid(None, f"The body is not valid JSON: {first['ctx']['error']}.")
    place = "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}"
        for part in first["loc"]
        if isinstance(part, int) or (part.isidentifier() and part not in _BRANCHES)
    ).removeprefix(".")
    if first["type"] == "extra_forbidden" and place in unserved:
        message = f"Unsupported parameter: '{place}' is not served by models here."
        return ServiceError(400, "unsupported_parameter", message, param=place)
    return invalid(place, _why(first, place)) if place else invalid(None, "The body is not a JSON object.")


def _why(wrong: ErrorDetails, place: str) -> str:
    match wrong["type"]:
        case "extra_forbidden":
            return f"Unknown parameter: '{place}'."
        case "missing":
            return f"Missing required parameter: '{place}'."
        case "too_short":
            return f"Invalid '{place}': an array of at least {wrong['ctx']['min_length']} is expected."
        case "too_long":
            return f"Invalid '{place}': an array of {wrong['ctx']['max_length']} at most is expected."
    return f"Invalid '{place}': {wrong['msg'][0].lower()}{wrong['msg'][1:]}."

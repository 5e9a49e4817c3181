"""What the language says about models in their own words: facts that clients are told, and nobody enforces."""

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from controlplane.policy.types import Day, Strict, Tokens

_Number: TypeAlias = int | float
_Modality: TypeAlias = Literal["text", "image", "audio", "video", "pdf"]
_Capability: TypeAlias = Literal["streaming", "tools", "vision", "json_schema", "reasoning", "caching", "embeddings"]


def _in_order(pair: list[_Number]) -> list[_Number]:
    if len(pair) != 2 or pair[0] > pair[1]:
        raise ValueError("a range has two numbers, the least first, such as [0, 1]")
    return pair


_TWO = Field(json_schema_extra={"minItems": 2, "maxItems": 2})


class ParameterAbout(Strict):
    """A parameter that clients may set, within bounds; or one that has a fixed value."""

    range: Annotated[list[_Number], _TWO, AfterValidator(_in_order)] | None = Field(
        None, description="Its least and its greatest value, such as [0, 1]."
    )
    default: Any = Field(None, description="Its value where a request does not say.")
    fixed: Any = Field(None, description="The only value that it has; not together with the others.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("say what it may be: `range`, `default`, `fixed`, or the word unsupported or opaque")
        if self.fixed is not None and (self.range is not None or self.default is not None):
            raise ValueError("a parameter with a `fixed` value has neither `range` nor `default`")
        if self.range is not None and isinstance(self.default, int | float):
            least, most = self.range
            if not least <= self.default <= most:
                raise ValueError(f"the default {self.default} is not within the range of {least} to {most}")
        return self


def _form(value: Any) -> str:
    return "<bounds>" if isinstance(value, dict | ParameterAbout) else "<word>"


ParameterSpec: TypeAlias = Annotated[
    Annotated[Literal["unsupported", "opaque"], Tag("<word>")] | Annotated[ParameterAbout, Tag("<bounds>")],
    Discriminator(_form),
]


class About(Strict):
    """What clients are told about a model, in place of what is found out. Told, not enforced: rules do that."""

    context_window: Tokens | None = Field(None, description="Tokens of input at most.")
    max_output: Tokens | None = Field(None, description="Tokens of output at most.")
    inputs: list[_Modality] | None = Field(None, description="What it takes.")
    outputs: list[_Modality] | None = Field(None, description="What it gives.")
    capabilities: list[_Capability] | None = Field(None, description="What it can do.")
    deprecation: Day | None = Field(None, description="The day on which it is turned off.")
    parameters: dict[Annotated[str, Field(min_length=1, max_length=100)], ParameterSpec] = Field(
        {}, description="Parameters of requests, by name: bounds, a fixed value, `unsupported` or `opaque`."
    )

    # Equal only to itself: what is made of it is looked up by it, at every edit.
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

"""What the language says about the mock: a provider that the gateway runs itself, for tests and demonstrations."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from controlplane.policy.limits import LimitNames
from controlplane.policy.types import Folder, MockDelay, MockFault, MockScript, Pattern, Strict


class MockError(Strict):
    """Requests that fail, by chance."""

    status: Annotated[int, Field(ge=200, le=599)] | None = Field(None, description="Answer with this status.")
    fault: MockFault | None = Field(
        None,
        description="`reset` closes the connection before the headers, `cut` after the first chunk; `hang` never "
        "answers, `hang-body` sends headers only.",
    )
    rate: Annotated[float, Field(ge=1e-6, le=1, strict=False)] = Field(description="The share of the requests.")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.status is None) == (self.fault is None):
            raise PydanticCustomError(
                "invalid-value", "an error is one thing", {"expected": "either `status` or `fault`"}
            )
        return self


class MockProvider(Strict):
    """A stand-in that answers everything, without account or network. See docs/mock.md."""

    kind: Literal["mock"] = Field(description="The API it speaks.")
    fixtures: Folder | None = Field(
        None,
        description="A file or folder of answers, or of recordings, relative to the policy. Edits of it are followed.",
    )
    strict: Literal[400, 404] | None = Field(
        None, description="The status of requests without a fixture; by default they get the usual answer."
    )
    speed: Annotated[float, Field(ge=0.001, le=1e9, strict=False)] = Field(
        1.0, description="How much faster than recorded recordings are replayed."
    )
    delay: MockDelay | None = Field(None, description="Until the answer begins; none by default.")
    chunk_delay: MockDelay | None = Field(None, description="Before each chunk of a stream; none by default.")
    errors: list[MockError] = Field([], description="Requests that fail, by chance.")
    script: dict[Pattern, MockScript] = Field(
        {}, description="What requests for a model get in turn, by model; the first that fits counts."
    )
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = Field(0, description="Of all that is drawn.")
    limits: LimitNames = Field([], description="Limits on the requests of models that it may serve.")

    @model_validator(mode="after")
    def _all(self) -> Self:
        if sum(error.rate for error in self.errors) > 1 + 1e-9:
            raise PydanticCustomError(
                "invalid-value", "the rates exceed 1", {"expected": "rates of 1 at most, together"}
            )
        return self

    @property
    def plain(self) -> bool:
        """Whether it says nothing that another mock would not do as well."""
        return self == MockProvider(kind="mock", limits=self.limits)

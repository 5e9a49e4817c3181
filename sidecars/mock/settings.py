"""How providers of kind mock behave: by flags for everybody, by a file of settings for each host name.

    {"version": 1, "profiles": {"fake.mock.headgate": {"fixtures": "/etc/fixtures", "delay": "lognormal(300ms,2s)"}}}

The control plane writes the file; it holds no secret.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from sidecars.mock.delays import Delay, delay
from sidecars.mock.steps import Rate, Script, checked_rates, known_fault, script

Strictness = Literal[400, 404]


class SettingsError(Exception):
    """Settings that cannot be used; the text has a line for each mistake."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def _parsed(parse: Any) -> BeforeValidator:
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


class FaultRate(_Strict):
    fault: Annotated[str, _parsed(known_fault)]
    rate: float


class ProfileSettings(_Strict):
    """One provider. `strict`: the status for requests without a fixture. `speed`: how much faster than recorded.
    `scripts`: by model, exact or ending in `*`; the first that fits counts."""

    fixtures: Path | None = None
    strict: Strictness | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    speed: Annotated[float, Field(gt=0, le=1e9)] = 1.0
    delay: Annotated[Delay, _parsed(delay)] = 0.0
    chunk_delay: Annotated[Delay, _parsed(delay)] = 0.0
    errors: tuple[FaultRate, ...] = ()
    scripts: tuple[tuple[str, Annotated[Script, _parsed(script)]], ...] = ()

    @model_validator(mode="after")
    def _rates(self) -> "ProfileSettings":
        self.rates()
        return self

    def rates(self) -> tuple[Rate, ...]:
        return checked_rates([Rate(each.fault, each.rate) for each in self.errors])


class Document(_Strict):
    version: Literal[1]
    profiles: Mapping[str, ProfileSettings]


def parse(text: bytes | str) -> Mapping[str, ProfileSettings]:
    """Profiles by the host name that requests for them bear. Raises SettingsError."""
    try:
        return Document.model_validate_json(text).profiles
    except ValidationError as error:
        raise SettingsError(
            "\n".join(f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        ) from None

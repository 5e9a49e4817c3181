"""How one provider of kind mock behaves: by flags, or by a file that is followed.

    {"version": 1, "tag": "5f0c", "fixtures": "/etc/fixtures", "delay": "lognormal(300ms,2s)"}

The control plane writes the file; it holds no secret.
"""

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


_Delay = Annotated[Delay, _parsed(delay)]
_Fault = Annotated[str, _parsed(known_fault)]
_Script = Annotated[Script, _parsed(script)]


class FaultRate(_Strict):
    fault: _Fault
    rate: float


class Settings(_Strict):
    """`tag` is told to whoever asks which settings are in force. `strict`: the status for requests without a fixture.
    `speed`: how much faster than recorded. `scripts`: by model, exact or ending in `*`; the first that fits counts."""

    version: Literal[1] = 1
    tag: str | None = None
    fixtures: Path | None = None
    strict: Strictness | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    speed: Annotated[float, Field(gt=0, le=1e9)] = 1.0
    delay: _Delay = 0.0
    chunk_delay: _Delay = 0.0
    errors: tuple[FaultRate, ...] = ()
    scripts: tuple[tuple[str, _Script], ...] = ()

    @model_validator(mode="after")
    def _rates(self) -> "Settings":
        self.rates()
        return self

    def rates(self) -> tuple[Rate, ...]:
        return checked_rates([Rate(each.fault, each.rate) for each in self.errors])


def read(file: Path) -> Settings:
    """Raises SettingsError, OSError."""
    try:
        return Settings.model_validate_json(file.read_bytes())
    except ValidationError as error:
        lines = "\n".join(f"  {'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise SettingsError(f"{file}:\n{lines}") from None

"""A stage's settings: a frozen dataclass, read from a JSON document, strictly."""

from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

# For `__pydantic_config__` of every settings class. JSON has no tuples and enums; "strict" knows that for JSON input.
STRICT = ConfigDict(extra="forbid", strict=True, regex_engine="rust-regex")

T = TypeVar("T")


class SettingsError(ValueError):
    """Settings that cannot be used: every problem, each with the field it is at."""


def parse(kind: type[T], document: bytes, origin: str) -> T:
    """Raises SettingsError: "rules.pii.stages[0]: most: Input should be a valid integer"."""
    try:
        return _adapter(kind).validate_json(document)
    except ValidationError as error:
        found = [
            f"{_place(problem['loc'])}: {problem['msg'].removeprefix('Value error, ')}" for problem in _problems(error)
        ]
        raise SettingsError(f"{origin}: {'; '.join(found)}") from None


def dump(settings: Any) -> bytes:
    """The document of settings; `parse` is its inverse."""
    return bytes(_adapter(type(settings)).dump_json(settings, exclude_defaults=True))


def bounds(least: float | None, most: float | None) -> None:
    """Refuses, with ValueError, bounds that bound nothing and those that leave nothing."""
    if least is None and most is None:
        raise ValueError("least or most is expected")
    if least is not None and most is not None and least > most:
        raise ValueError(f"least is {least}, above most, {most}")


def _adapter(kind: type[T]) -> TypeAdapter[T]:
    if kind not in _ADAPTERS:  # building one takes a millisecond
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def _problems(error: ValidationError) -> list[Any]:
    return list(error.errors(include_url=False, include_input=False))


def _place(location: tuple[int | str, ...]) -> str:
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text or "the document"

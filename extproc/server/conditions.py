"""When a rule applies, as far as it depends on what a request's headers say."""

from collections.abc import Mapping


def headers_match(wanted: Mapping[str, tuple[str, ...]], headers: Mapping[str, str]) -> bool:
    """Whether every header has one of the values wanted of it."""
    return all(name in headers and _is_one(headers[name], values) for name, values in wanted.items())


def _is_one(value: str, wanted: tuple[str, ...]) -> bool:
    return any(value.startswith(each[:-1]) if each.endswith("*") else value == each for each in wanted)

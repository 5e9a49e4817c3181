"""Texts with variables: {key}, {team}, {model}, {date}, {header:x-user}. Braces are doubled: {{ and }}."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from extproc.stages.protocol import Request

VARIABLES: dict[str, Callable[[Request], str]] = {
    "key": lambda request: request.key,
    "team": lambda request: request.team,
    "model": lambda request: request.model,
    "date": lambda request: request.now.date().isoformat(),
    "time": lambda request: request.now.strftime("%Y-%m-%dT%H:%M:%SZ"),
}
_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,100}")


@dataclass(frozen=True, slots=True)
class Template:
    """A text that was taken apart: literal texts, and functions of the request. What is absent is empty."""

    parts: tuple[str | Callable[[Request], str], ...]
    headers: frozenset[str] = frozenset()

    def of(self, request: Request) -> str:
        return "".join([part if isinstance(part, str) else part(request) for part in self.parts])


def template(text: str) -> Template:
    """Raises ValueError for a brace that is not doubled and for a variable that does not exist."""
    parts: list[str | Callable[[Request], str]] = []
    headers, at = set(), 0
    for piece in _PIECE.finditer(text):
        parts.append(text[at : piece.start()])
        at = piece.end()
        name = piece.group(1)
        if name is not None and name.startswith("header:"):
            header = _header(name)
            headers.add(header)
            parts.append(_reading(header))
        elif name is not None:
            parts.append(_variable(name))
        elif len(piece.group()) == 2:
            parts.append(piece.group()[0])
        else:
            raise ValueError(f"a single {piece.group()} at character {piece.start()} of {text!r}: double it for itself")
    parts.append(text[at:])
    return Template(tuple(part for part in parts if part != ""), frozenset(headers))


def _reading(header: str) -> Callable[[Request], str]:
    return lambda request: request.headers.get(header, "")


def _variable(name: str) -> Callable[[Request], str]:
    if name not in VARIABLES:
        raise ValueError(f"unknown variable {{{name}}}: one of {', '.join(VARIABLES)} or header:NAME is expected")
    return VARIABLES[name]


def _header(variable: str) -> str:
    header = variable.removeprefix("header:").lower()
    if not _HEADER.fullmatch(header):
        raise ValueError(f"{{{variable}}} names no header")
    return header

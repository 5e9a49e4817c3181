"""From the messages of a chat to the text that a model was trained on, by its own template.

Templates are programs, written for Jinja as transformers runs it: in a sandbox, with the same names.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class TemplateRefusedError(Exception):
    """A template that cannot be used, or does not take these messages; the text says why."""


class _Generation(Extension):
    """`{% generation %}`: marks what training is to learn, and says nothing else."""

    tags = {"generation"}  # noqa: RUF012 -- as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """May be used by several threads at once."""

    def __init__(self, source: str, names: Mapping[str, str]) -> None:
        """`names`: special tokens, by the names that templates have for them. Raises TemplateRefusedError."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
        )
        environment.filters["tojson"] = _json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _now
        self._names = names
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise TemplateRefusedError(f"its chat template is not valid: {error}") from None

    def text(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Up to where the answer begins. Raises TemplateRefusedError."""
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **self._names)
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise TemplateRefusedError(str(error)) from None


def _json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Without the escapes for HTML that Jinja's own filter makes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(layout: str) -> str:
    return datetime.now().astimezone().strftime(layout)

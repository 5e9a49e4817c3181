"""YAML text -> plain data beside the spots of its parts, from libyaml's events: composing takes five times longer."""

import re
import sys
from dataclasses import dataclass
from typing import Any

import yaml

from controlplane.policy.diagnostics import Diagnostic, PolicyError, Severity
from controlplane.policy.document import Node, Spot
from controlplane.policy.place import Place

# Without libyaml: slower, the same result.
_Parser: Any = yaml.cyaml.CParser if yaml.__with_libyaml__ else yaml.SafeLoader  # type: ignore[attr-defined]

MAX_DEPTH = 32
# What libyaml takes for the end of a line: https://yaml.org/spec/1.1/#b-char
BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_CONSTANTS = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_NUMERIC = frozenset("+-.0123456789")
# Big policies are parsed entry by entry, and most entries look alike: their spots and names are kept once.
_SPOTS: tuple[Spot, ...] = tuple((0, column) for column in range(256))


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document; `problems` are what YAML allows and a policy does not. `blocks`: it has a block scalar."""

    data: Any
    node: Node | Spot
    problems: tuple[Diagnostic, ...]
    blocks: bool


def parse(text: str, file: str, max_depth: int = MAX_DEPTH) -> Parsed:
    """Raises yaml.YAMLError for malformed text, PolicyError where a part of the document's meaning is lost."""
    return _Builder(text, file, max_depth).document()


def _spot(mark: Any) -> Spot:
    if mark.line == 0 and mark.column < len(_SPOTS):
        return _SPOTS[mark.column]
    return mark.line, mark.column


class _Builder:
    def __init__(self, text: str, file: str, max_depth: int) -> None:
        self._next = _Parser(text).get_event
        self._file, self._max_depth = file, max_depth
        self._path: list[str | int] = []
        self._problems: list[Diagnostic] = []
        self._lost = self._blocks = False

    def document(self) -> Parsed:
        self._next()  # stream start
        if type(self._next()) is yaml.StreamEndEvent:
            return Parsed(None, (0, 0), (), False)
        data, node = self._value(self._next())
        self._next()  # document end
        event = self._next()
        if type(event) is not yaml.StreamEndEvent:
            self._problem("several-documents", "the file holds more than one YAML document", event, "one document")
        if self._lost:
            raise PolicyError(self._problems)
        return Parsed(data, node, tuple(self._problems), self._blocks)

    def _value(self, event: Any) -> tuple[Any, Node | Spot]:
        mark = event.start_mark
        if type(event) is yaml.AliasEvent:
            expected = "the value itself, or text that begins with * in quotes"
            self._lose("anchor", "aliases are not part of the policy language", event, expected)
            return None, (mark.line, mark.column)
        if event.anchor is not None:
            self._problem("anchor", "anchors are not part of the policy language", event, "the value alone")
        if event.tag is not None and event.tag != "!":
            self._problem("tag", f"the tag `{event.tag}` is not part of the policy language", event, "the value alone")
        if type(event) is yaml.ScalarEvent:
            self._blocks |= event.style in ("|", ">")
            return _resolve(event.value) if event.implicit[0] else event.value, _spot(mark)
        node = Node(mark.line, mark.column)
        if len(self._path) >= self._max_depth:
            self._problem("too-deep", "this is nested too deeply", event, f"at most {MAX_DEPTH} levels")
            raise PolicyError(self._problems)
        return self._sequence(node) if type(event) is yaml.SequenceStartEvent else self._mapping(node)

    def _sequence(self, node: Node) -> tuple[list[Any], Node]:
        items: list[Any] = []
        children: list[Node | Spot] = []
        self._path.append(0)
        while type(event := self._next()) is not yaml.SequenceEndEvent:
            self._path[-1] = len(items)
            item, child = self._value(event)
            items.append(item)
            children.append(child)
        self._path.pop()
        node.children = children
        return items, node

    def _mapping(self, node: Node) -> tuple[dict[Any, Any], Node]:
        data: dict[Any, Any] = {}
        children: dict[Any, Node | Spot] = {}
        keys: dict[Any, Spot] = {}
        self._path.append("")
        while type(event := self._next()) is not yaml.MappingEndEvent:
            if type(event) is not yaml.ScalarEvent or event.anchor or event.tag:
                self._path[-1] = ""
                self._lose("complex-key", "a key must be a plain name", event, "a name")
                if type(event) is not yaml.ScalarEvent:
                    self._value(event)
                self._value(self._next())
                continue
            key: str = sys.intern(event.value)
            mark: Any = event.start_mark
            self._path[-1] = key
            if key == "<<" and event.implicit[0]:
                self._lose("anchor", "merge keys are not part of the policy language", event, "the fields themselves")
            value, child = self._value(self._next())
            if key in data:
                message = f"`{key}` stands here twice; the first is in line {keys[key][0] + 1}"
                self._problem("duplicate-key", message, event, "each name once")
                continue
            data[key], children[key], keys[key] = value, child, _spot(mark)
        self._path.pop()
        node.children, node.keys = children, keys
        return data, node

    def _lose(self, code: str, message: str, event: Any, expected: str) -> None:
        """A problem past which the rest cannot be judged: nobody knows what it would have said."""
        self._lost = True
        self._problem(code, message, event, expected)

    def _problem(self, code: str, message: str, event: Any, expected: str) -> None:
        mark = event.start_mark
        path = tuple(step for step in self._path if step != "")  # the key is read, but is no name
        place = Place(self._file, mark.line + 1, mark.column + 1, path)
        self._problems.append(Diagnostic(Severity.ERROR, code, message, place, expected))


def _resolve(value: str) -> Any:
    """YAML 1.2's core types, without 1.1's dates, `yes` and `on`."""
    if value in _CONSTANTS:
        return _CONSTANTS[value]
    if value[0] not in _NUMERIC:
        return value
    if _INT.match(value) and len(value) < 40:
        return int(value, 0) if value[:2] in ("0o", "0x") else int(value)
    if _FLOAT.match(value):
        return float(value)
    return value


# libyaml's words (the beginning or a part of them) and what to do about it.
_STEPS = (
    ("mapping values are not allowed", "one `:` too many, or the wrong indentation; quote text that contains `: `"),
    ("could not find expected ':'", "write `name: value`; quote text that goes on in the next line"),
    ("did not find expected key", "fields of one mapping begin in the same column"),
    ("did not find expected '-'", "items of one list begin in the same column"),
    ("did not find expected ',' or '}'", "a `,` or `}` is missing, or `: ` or `, ` stands in text without quotes"),
    ("did not find expected ',' or ']'", "a `,` or `]` is missing, or `, ` stands in text without quotes"),
    ("found unexpected end of stream", "a quote is not closed"),
    ("block sequence entries are not allowed", "begin a list in a line of its own"),
    ("did not find expected alphabetic or numeric", "quote text that begins with `*` or `&`"),
    ("cannot start any token", "quote text that begins with a special character"),
)


def malformed(error: yaml.MarkedYAMLError, text: str, file: str) -> Diagnostic:
    """What libyaml says about malformed text, where, and the next step."""
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line, mark.column) if mark else (0, 0)
    message = f"not valid YAML: {error.problem or error.context or 'malformed'}"
    begun = error.context_mark
    if error.context and begun is not None and begun.line < line:
        what = " ".join(error.context.split()[2:])  # without "while parsing"
        message += f", in {what} that begins in line {begun.line + 1}"
    hint = next((step for words, step in _STEPS if words in message), None)
    lines = BREAK.split(text)
    if line < len(lines) and "\t" in lines[line][: column + 1]:
        hint = "indent with spaces, not with tabs"
    return Diagnostic(Severity.ERROR, "invalid-yaml", message, Place(file, line + 1, column + 1), hint=hint)

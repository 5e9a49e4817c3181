"""Policy text -> document. Fast, strict, and incremental: unchanged entries of a big policy are not parsed again.

The text is cut where that is safe beyond doubt: at top-level keys, and inside a section at its entries. Each piece is
parsed by itself. Whatever is unusual (a piece that does not parse to a single entry, an anchor, a directive, a tab)
is parsed as a whole instead, which gives the same result, errors included.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from controlplane.policy.diagnostics import Diagnostic, PolicyError, Severity
from controlplane.policy.document import Document, Node, Spot, spot
from controlplane.policy.place import Place

try:
    _Loader: Any = yaml.CSafeLoader
except AttributeError:  # libyaml is absent: slower, the same result
    _Loader = yaml.SafeLoader

_SECTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]*:[ \t]*(#.*)?$")
_UNUSUAL = re.compile(r"[\t&*|>%\x00]|^(---|\.\.\.)|!|<<|\?[ \n]", re.MULTILINE)
_INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_CONSTANTS = {"true": True, "false": False, "True": True, "False": False, "TRUE": True, "FALSE": False}
_NULLS = {"", "~", "null", "Null", "NULL"}

Entry = tuple[Any, Any, Node | Spot, Spot]  # key, data, node, place of the key


@dataclass(slots=True)
class LoadCache:
    """The pieces of the last text, by their own text, and what callers derived from their data (by its identity)."""

    entries: dict[str, Entry] = field(default_factory=dict)
    derived: dict[int, tuple[Any, Any]] = field(default_factory=dict)


class _UnusualError(Exception):
    """A piece that only a parse of the whole text can judge."""


def load(text: str | bytes, file: str, cache: LoadCache | None = None) -> Document:
    """Raises PolicyError for text that is no YAML mapping."""
    decoded = _decoded(text, file)
    if cache is not None:
        try:
            return _by_pieces(decoded, file, cache)
        except _UnusualError:
            pass
    return _whole(decoded, file)


def _decoded(text: str | bytes, file: str) -> str:
    if isinstance(text, bytes):
        raw = text
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            column = error.start - (raw.rfind(b"\n", 0, error.start) + 1) + 1
            raise _error("not-utf8", "the file is not UTF-8 text", file, line, column, "UTF-8") from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _by_pieces(text: str, file: str, cache: LoadCache) -> Document:
    data: dict[str, Any] = {}
    root = Node(0, 0, {}, {})
    used: dict[str, Entry] = {}
    for start, section, body in _sections(text):
        for line, piece in [(start, section)] if body is None else [(start, section), *body]:
            entry = cache.entries.get(piece) or used.get(piece)
            if entry is None:
                entry = _parse_piece(piece)
            used[piece] = entry
            if body is not None and line == start:
                if entry[1] is not None or entry[0] in data:
                    raise _UnusualError
                mapping: dict[Any, Any] = {}
                header = Node(line, spot(entry[2])[1], {}, {})
                data[entry[0]] = mapping
                _place(root, entry, line, header)
            elif body is None:
                if entry[0] in data:
                    raise _UnusualError
                data[entry[0]] = entry[1]
                _place(root, entry, line, None)
            else:
                if entry[0] in mapping:
                    raise _UnusualError
                mapping[entry[0]] = entry[1]
                _place(header, entry, line, None)
                if len(mapping) == 1:
                    header.line, header.column = line + entry[3][0], entry[3][1]
    if not data:
        raise _UnusualError
    cache.entries = used
    return Document(file, data, root)


def _place(parent: Node, entry: Entry, line: int, node: Node | None) -> None:
    key, _, found, (key_line, key_column) = entry
    if node is None and isinstance(found, Node):
        node = Node(found.line + line, found.column, found.children, found.keys, line)
    shifted = node or (spot(found)[0] + line, spot(found)[1])
    if isinstance(parent.children, dict) and parent.keys is not None:
        parent.children[key] = shifted
        parent.keys[key] = (key_line + line, key_column)


def _sections(text: str) -> list[tuple[int, str, list[tuple[int, str]] | None]]:
    """(first line, text, pieces) per top-level key; `pieces` is None where the key is not cut further."""
    sections: list[tuple[int, list[str]]] = []
    for number, line in enumerate(text.split("\n")):
        if line and line[0] not in " #":
            sections.append((number, [line]))
        elif sections:
            sections[-1][1].append(line)
        elif line.strip() and not line.startswith("#"):
            raise _UnusualError
    return [_cut(start, lines) for start, lines in sections]


def _cut(start: int, lines: list[str]) -> tuple[int, str, list[tuple[int, str]] | None]:
    if not _SECTION.match(lines[0]):
        return start, "\n".join(lines), None
    first = next((line for line in lines[1:] if line.strip() and not line.lstrip().startswith("#")), "")
    indent = len(first) - len(first.lstrip(" "))
    if indent == 0 or first[indent] == "-":
        return start, "\n".join(lines), None
    prefix = " " * indent
    pieces: list[tuple[int, list[str]]] = []
    for number, line in enumerate(lines[1:], start + 1):
        if line.startswith(prefix) and line[indent : indent + 1] not in ("", " ", "#"):
            pieces.append((number, [line]))
        elif pieces:
            pieces[-1][1].append(line)
        elif line.strip() and not line.lstrip().startswith("#"):
            raise _UnusualError
    return start, lines[0], [(number, "\n".join(piece)) for number, piece in pieces]


def _parse_piece(piece: str) -> Entry:
    if _UNUSUAL.search(piece.replace('*"', '"').replace("*'", "'")):
        raise _UnusualError
    try:
        data, node = _Builder(piece, "").document()
    except (yaml.YAMLError, PolicyError):
        raise _UnusualError from None
    if (
        not isinstance(data, dict)
        or len(data) != 1
        or not isinstance(node, Node)
        or not isinstance(node.children, dict)
        or node.keys is None
    ):
        raise _UnusualError
    ((key, value),) = data.items()
    return key, value, node.children[key], node.keys[key]


def _whole(text: str, file: str) -> Document:
    if not text.strip():
        raise _error("empty-policy", "the policy is empty", file, 1, 1, "`version: 1`, providers and models")
    try:
        data, node = _Builder(text, file).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = error.problem or error.context or "malformed"
        hint = "YAML is indented with spaces" if "tab" in what or "\\t" in what else None
        raise _error("invalid-yaml", f"not valid YAML: {what}", file, line, column, hint=hint) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _error("invalid-yaml", f"not valid YAML: {error.reason}", file, line, 1) from None
    if not isinstance(data, dict) or not isinstance(node, Node):
        found = "a list" if isinstance(data, list) else "a single value"
        line, column = spot(node)
        raise _error("not-a-mapping", f"the policy is {found}", file, line + 1, column + 1, "a mapping of fields")
    return Document(file, data, node)


class _Builder:
    """Builds data and positions from the parser's events, collecting what YAML allows and a policy does not."""

    def __init__(self, text: str, file: str) -> None:
        self._events = yaml.parse(text, Loader=_Loader)
        self._file = file
        self._problems: list[Diagnostic] = []

    def document(self) -> tuple[Any, Node | Spot]:
        next(self._events)  # stream start
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return {}, Node(0, 0, {}, {})
        data, node = self._value(next(self._events))
        next(self._events)  # document end
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            self._problem("several-documents", "the file holds more than one YAML document", event, "one document")
        if self._problems:
            raise PolicyError(self._problems)
        return data, node

    def _value(self, event: Any) -> tuple[Any, Node | Spot]:
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            self._problem(
                "anchor", "anchors and aliases are not part of the policy language", event, "the value itself"
            )
            return None, (mark.line, mark.column)
        if event.anchor is not None:
            self._problem(
                "anchor", "anchors and aliases are not part of the policy language", event, "the value itself"
            )
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event), (mark.line, mark.column)
        node = Node(mark.line, mark.column)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(node)
        return self._mapping(node)

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        value = event.value
        if event.tag is not None and event.tag != "!":
            self._problem("tag", f"the tag {event.tag} is not part of the policy language", event, "a plain value")
        return _resolve(value) if event.implicit[0] else value

    def _sequence(self, node: Node) -> tuple[list[Any], Node]:
        items: list[Any] = []
        children: list[Node | Spot] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            item, child = self._value(event)
            items.append(item)
            children.append(child)
        node.children = children
        return items, node

    def _mapping(self, node: Node) -> tuple[dict[Any, Any], Node]:
        data: dict[Any, Any] = {}
        children: dict[Any, Node | Spot] = {}
        keys: dict[Any, Spot] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                self._problem("complex-key", "a key must be a name", event, "a name")
                self._value(event)
                self._value(next(self._events))
                continue
            key: str = event.value
            mark: Any = event.start_mark
            value, child = self._value(next(self._events))
            if key in data:
                first = keys[key][0] + 1
                self._problem(
                    "duplicate-key", f"`{key}` stands here twice; the first is in line {first}", event, "each name once"
                )
                continue
            data[key], children[key], keys[key] = value, child, (mark.line, mark.column)
        node.children, node.keys = children, keys
        return data, node

    def _problem(self, code: str, message: str, event: Any, expected: str) -> None:
        place = Place(self._file, event.start_mark.line + 1, event.start_mark.column + 1)
        self._problems.append(Diagnostic(Severity.ERROR, code, message, place, expected))


def _resolve(value: str) -> Any:
    """YAML 1.2's core types, but for dates, and without 1.1's `yes` and `on`."""
    if value in _NULLS:
        return None
    if value in _CONSTANTS:
        return _CONSTANTS[value]
    if _INT.match(value) and len(value) < 40:
        return int(value, 0) if value[:2] in ("0o", "0x") else int(value)
    if _FLOAT.match(value):
        return float(value)
    return value


def _error(
    code: str, message: str, file: str, line: int, column: int, expected: str | None = None, hint: str | None = None
) -> PolicyError:
    return PolicyError([Diagnostic(Severity.ERROR, code, message, Place(file, line, column), expected, hint=hint)])

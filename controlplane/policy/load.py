"""Policy text -> document. Fast, strict, and incremental: unchanged entries of a big policy are not parsed again.

The text is cut where that is safe beyond doubt: at top-level keys, and inside a section at its entries. Each piece is
parsed by itself. Whatever is unusual (a piece that does not parse to a single entry, an anchor, a block scalar, a line
end that is none elsewhere) is parsed as a whole instead, which gives the same result, errors included.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml

from controlplane.policy.diagnostics import Diagnostic, PolicyError, Severity
from controlplane.policy.document import Document, Node, Part, Spot, Unread, spot
from controlplane.policy.parse import BREAK, MAX_DEPTH, malformed, parse
from controlplane.policy.place import Place

_SECTION = re.compile(r"[A-Za-z_][A-Za-z0-9_]*:[ \t]*(#.*)?$")
_OTHER_BREAKS = re.compile("[\r\x85\u2028\u2029]")

Entry = tuple[Any, Any, int]  # key, data, column of the key, which stands in the first line
Piece = tuple[int, str]  # number of its first line, text


@dataclass(slots=True)
class LoadCache:
    """The pieces of the last text, by their own text, and what callers derived from a section's data, by identity."""

    entries: dict[str, Entry] = field(default_factory=dict)
    derived: dict[tuple[str, int], tuple[Any, Any]] = field(default_factory=dict)


class _UnusualError(Exception):
    """A piece that only a parse of the whole text can judge."""


def load(text: str | bytes, file: str, cache: LoadCache | None = None) -> Document:
    """Raises PolicyError for text whose meaning is lost; lesser problems come with the document."""
    decoded = _decoded(text, file)
    if cache is not None:
        try:
            return _by_pieces(decoded, file, cache)
        except _UnusualError:
            pass
    return _whole(decoded, file)


def _decoded(text: str | bytes, file: str) -> str:
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        else:
            text.encode("utf-8")
    except UnicodeError as error:
        raise not_utf8(error, file) from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def not_utf8(error: UnicodeError, file: str) -> PolicyError:
    """For bytes that could not be read as text."""
    return _error("not-utf8", "the file is not UTF-8 text", file, _before(error), "UTF-8")


def _before(error: UnicodeError) -> Spot:
    """Where decoding or encoding stopped."""
    if isinstance(error, UnicodeDecodeError):
        return _end(error.object[: error.start].decode("utf-8", "replace"))
    return _end(error.object[: error.start]) if isinstance(error, UnicodeEncodeError) else (0, 0)


def _end(text: str) -> Spot:
    """The spot that follows a text."""
    lines = BREAK.split(text)
    return len(lines) - 1, len(lines[-1])


def _by_pieces(text: str, file: str, cache: LoadCache) -> Document:
    if _OTHER_BREAKS.search(text):
        raise _UnusualError
    used: dict[str, Entry] = {}

    def entry(piece: str) -> Entry:
        used[piece] = found = cache.entries.get(piece) or _parse_piece(piece)
        return found

    sections = _sections(text)
    data, children, keys = _mapping(((line, first) for line, first, _ in sections), entry)
    for _, first, pieces in sections:
        if pieces:
            name = used[first][0]
            if data[name] is not None:
                raise _UnusualError
            data[name], within, names = _mapping(pieces, entry)
            children[name] = _block(within, names)
    cache.entries = used
    return Document(file, data, _block(children, keys))


def _mapping(
    pieces: Iterable[Piece], entry: Callable[[str], Entry]
) -> tuple[dict[Any, Any], dict[Any, Part], dict[Any, Spot]]:
    """The data, parts and spots of keys of a mapping that is made of pieces."""
    data: dict[Any, Any] = {}
    children: dict[Any, Part] = {}
    keys: dict[Any, Spot] = {}
    for line, piece in pieces:
        key, value, column = entry(piece)
        if key in data:
            raise _UnusualError
        data[key], children[key], keys[key] = value, Unread(line, piece, _places), (line, column)
    if not data:
        raise _UnusualError
    return data, children, keys


def _block(children: dict[Any, Part], keys: dict[Any, Spot]) -> Node:
    """A mapping in block style stands where its first key does."""
    line, column = next(iter(keys.values()))
    return Node(line, column, children, keys)


def _sections(text: str) -> list[tuple[int, str, list[Piece]]]:
    """(number of the first line, text, entries) per top-level key; without entries, all of it is in the text."""
    sections: list[tuple[int, list[str]]] = []
    for number, line in enumerate(text.split("\n")):
        if line and line[0] not in " #":
            sections.append((number, [line]))
        elif sections:
            sections[-1][1].append(line)
        elif _content(line):
            raise _UnusualError
    return [_cut(start, lines) for start, lines in sections]


def _cut(start: int, lines: list[str]) -> tuple[int, str, list[Piece]]:
    first = next(filter(_content, lines[1:]), "")
    indent = len(first) - len(first.lstrip(" "))
    if not _SECTION.match(lines[0]) or indent == 0 or first[indent] == "-":
        return start, "\n".join(lines), []
    prefix = " " * indent
    entries: list[tuple[int, list[str]]] = []
    for number, line in enumerate(lines[1:], start + 1):
        if line.startswith(prefix) and line[indent : indent + 1] not in ("", " ", "#"):
            entries.append((number, [line]))
        elif entries:
            entries[-1][1].append(line)
        elif _content(line):
            raise _UnusualError
    return start, lines[0], [(number, "\n".join(entry)) for number, entry in entries]


def _content(line: str) -> bool:
    text = line.lstrip(" ")
    return bool(text) and text[0] != "#"


def _parse_piece(piece: str) -> Entry:
    try:
        parsed = parse(piece, "", MAX_DEPTH - 2)
    except (yaml.YAMLError, PolicyError):
        raise _UnusualError from None
    node = parsed.node
    if parsed.problems or parsed.blocks or len(parsed.data or ()) != 1:
        raise _UnusualError
    if not isinstance(node, Node) or node.keys is None:
        raise _UnusualError
    ((key, value),) = parsed.data.items()
    # A key that begins anywhere else is part of something that only looks like an entry: `--- {a: b}`, `? a`.
    column = len(piece) - len(piece.lstrip(" "))
    if node.keys[key] != (0, column):
        raise _UnusualError
    return key, value, column


def _places(piece: str) -> Node | Spot:
    """Where the value of a piece that `_parse_piece` took stands, and its parts."""
    parsed = parse(piece, "", MAX_DEPTH - 2)
    (key,) = parsed.data
    found = parsed.node.child(key) if isinstance(parsed.node, Node) else None
    return (0, 0) if found is None else found


def _whole(text: str, file: str) -> Document:
    try:
        parsed = parse(text, file)
    except yaml.MarkedYAMLError as error:
        raise PolicyError([malformed(error, text, file)]) from None
    except yaml.reader.ReaderError as error:
        where = _end(text.encode()[: error.position].decode("utf-8", "replace"))
        raise _error("invalid-yaml", f"not valid YAML: {error.reason}", file, where, "printable text") from None
    if parsed.data is None:
        raise _error("empty-policy", "the policy is empty", file, (0, 0), "`version: 1`, providers and models")
    if not isinstance(parsed.data, dict) or not isinstance(parsed.node, Node):
        found = "a list" if isinstance(parsed.data, list) else "a single value"
        where = spot(parsed.node)
        raise _error("not-a-mapping", f"the policy is {found}", file, where, "a mapping of fields: version, providers")
    return Document(file, parsed.data, parsed.node, parsed.problems)


def _error(code: str, message: str, file: str, where: Spot, expected: str) -> PolicyError:
    place = Place(file, where[0] + 1, where[1] + 1)
    return PolicyError([Diagnostic(Severity.ERROR, code, message, place, expected)])

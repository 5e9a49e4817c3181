"""Changes single members of a JSON text and leaves every other byte as it is. Pure.

Models are sensitive to the order of keys, clients sign and hash what they send, and integers beyond 2^53 are not
floats; so a body is never parsed and written again. A `Document` finds the members on the paths it is asked for, skips
all others by one regular expression, and joins the text again around what changed. Time is linear in the text;
recursion is as deep as the paths are long, however deep the text is nested.

The text has to be JSON, so parse it first: one that is not raises `NotJsonError`, or stays wrong where it was wrong.
Where an object has the same name twice, a change concerns both, so that no reader can see another value.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any

import orjson

Step = str | int
Path = Sequence[Step]

_SPACE = rb"[ \t\n\r]*+"
_INNER = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
_STRING = rb'"' + _INNER + rb'"'
_SCALAR = rb"[-+.0-9A-Za-z]++"


def _value(depth: int) -> bytes:
    """A pattern for a value with at most `depth` containers in one another. Possessive: it never backtracks."""
    inner = rb'[^"{}\[\]]++|' + _STRING
    for _ in range(depth):
        inner = rb'[^"{}\[\]]++|' + _STRING + rb"|[{\[](?:" + inner + rb")*+[}\]]"
    return _STRING + rb"|" + _SCALAR + rb"|[{\[](?:" + inner + rb")*+[}\]]"


_VALUE = re.compile(_value(5), re.DOTALL)
MOST_DEPTH = 100
_SHALLOW = re.compile(_SPACE + b"(?:" + _value(MOST_DEPTH - 1) + b")", re.DOTALL)
_MEMBER = re.compile(rb'%b"(%b)"%b:%b(%b)%b([,}])' % (_SPACE, _INNER, _SPACE, _SPACE, _value(5), _SPACE), re.DOTALL)
_ELEMENT = re.compile(rb"%b()(%b)%b([,\]])" % (_SPACE, _value(5), _SPACE), re.DOTALL)
_KEY = re.compile(rb'%b"(%b)"%b:%b' % (_SPACE, _INNER, _SPACE, _SPACE), re.DOTALL)
_NO_KEY = re.compile(rb"%b()" % _SPACE)
_AFTER = re.compile(rb"%b([,}\]])" % _SPACE)
_EMPTY = re.compile(rb"%b[}\]]" % _SPACE)
_TOKEN = re.compile(rb"%b|[{}\[\]]" % _STRING, re.DOTALL)
_LEADING = re.compile(_SPACE)


def is_shallow(text: bytes) -> bool:
    """Whether a JSON text has at most MOST_DEPTH containers in one another, so that recursion over it is safe."""
    return text.count(b"[") + text.count(b"{") <= MOST_DEPTH or _SHALLOW.match(text) is not None


class NotJsonError(ValueError):
    """The text is no JSON document; the message says at which byte that showed."""


class _Item:
    """A member or an element as a span of the text: white space, key and colon; the value; white space.

    A changed one has bytes instead: `lead` and `tail` around the value, the value itself as `new` or as a `child`.
    """

    __slots__ = ("begin", "child", "end", "lead", "name", "new", "start", "stop", "tail")

    def __init__(self, name: bytes | None, begin: int, start: int, stop: int, end: int) -> None:
        self.name = name
        self.begin, self.start, self.stop, self.end = begin, start, stop, end
        self.lead: bytes | None = None
        self.tail: bytes | None = None
        self.new: bytes | None = None
        self.child: _Container | None = None


class _Container:
    """An object or an array that ended at `stop`, split into its items. `hollow` is the white space of an empty one."""

    __slots__ = ("hollow", "is_object", "items", "stop")

    def __init__(self, is_object: bool, items: list[_Item], stop: int, hollow: bytes = b"") -> None:
        self.is_object = is_object
        self.items = items
        self.stop = stop
        self.hollow = hollow

    def named(self, step: Step) -> list[_Item]:
        if isinstance(step, str):
            name = step.encode()
            return [item for item in self.items if item.name == name] if self.is_object else []
        return self.items[step : step + 1] if not self.is_object and step >= 0 else []

    def insert(self, at: int, name: str | None, value: bytes, tail: bytes) -> None:
        """`tail`: of the last item. White space before the closing bracket stays there."""
        item = _Item(None if name is None else name.encode(), 0, 0, 0, 0)
        item.lead = b"" if name is None else orjson.dumps(name) + b":"
        item.tail, item.new = b"", value
        if self.items and at == len(self.items):
            item.tail, self.items[-1].tail = tail, b""
        self.items.insert(at, item)

    def drop(self, gone: list[_Item], tail: bytes) -> None:
        ids = {id(item) for item in gone}
        self.items = [item for item in self.items if id(item) not in ids]
        if self.items:
            self.items[-1].tail = tail


class Document:
    """A JSON text that can be changed by path. A path is names and indices: ("messages", 0, "content").

    Each change tells whether it did something: False where the path leads nowhere. Values are JSON values; bytes are
    taken as JSON that is written already. Any method may raise NotJsonError; a value that is no JSON raises TypeError.
    """

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._top: _Item | None = None
        self._changed = False

    @property
    def changed(self) -> bool:
        return self._changed

    def raw(self, path: Path) -> bytes | None:
        """The bytes of a value as they are now; None where there is none. Of several the last, as parsers do."""
        found = self._find(path)
        return self._value(found[-1]) if found else None

    def set(self, path: Path, value: Any) -> bool:
        """Replaces or adds a member; objects on the way are added too. An element of an array must exist."""
        found = self._find(path)
        for item in found:
            item.new, item.child = _dumped(value), None
            self._changed = True
        return bool(found) or self._add(path, value)

    def default(self, path: Path, value: Any) -> bool:
        """Adds a member where there is none of that name; null is a value."""
        return not self._find(path) and self._add(path, value)

    def remove(self, path: Path) -> bool:
        """Takes out a member or an element, with the white space around it and one comma."""
        removed = False
        for holder in self._holders(path[:-1]):
            gone = holder.named(path[-1])
            if gone:
                holder.drop(gone, self._tail(holder))
                removed = self._changed = True
        return removed

    def remove_elements(self, path: Path, indices: Collection[int]) -> bool:
        """Takes several elements out of the array at `path`; indices are those before any is gone."""
        removed = False
        for holder in self._holders(path):
            gone = [] if holder.is_object else [item for at, item in enumerate(holder.items) if at in indices]
            if gone:
                holder.drop(gone, self._tail(holder))
                removed = self._changed = True
        return removed

    def rename(self, path: Path, name: str) -> bool:
        """Changes a member's name, not its place. Does nothing where the object has the new name already."""
        renamed = False
        for holder in self._holders(path[:-1]):
            if not isinstance(path[-1], str) or holder.named(name):
                continue
            for item in holder.named(path[-1]):
                lead = self._text[item.begin : item.start] if item.lead is None else item.lead
                key = _found(_KEY.match(lead), item.start)
                item.lead = lead[: key.start(1) - 1] + orjson.dumps(name) + lead[key.end(1) + 1 :]
                item.name = name.encode()
                renamed = self._changed = True
        return renamed

    def insert(self, path: Path, index: int, value: Any) -> bool:
        """Puts an element into the array at `path`, before that index; at its end for the array's length."""
        done = False
        for holder in self._holders(path):
            if not holder.is_object and 0 <= index <= len(holder.items):
                holder.insert(index, None, _dumped(value), self._tail(holder))
                done = self._changed = True
        return done

    def render(self) -> bytes:
        """The text as it is now: the very same object where nothing changed."""
        if not self._changed:
            return self._text
        return self._whole(self._root())

    def _root(self) -> _Item:
        if self._top is None:
            start = _found(_LEADING.match(self._text), 0).end()
            child = _split(self._text, start) if self._text[start : start + 1] in (b"{", b"[") else None
            stop = child.stop if child else _skip(self._text, start)
            self._top = _Item(None, 0, start, stop, len(self._text))
            self._top.child = child
        return self._top

    def _find(self, path: Path) -> list[_Item]:
        items = [self._root()]
        for step in path:
            items = [found for item in items if (holder := self._split(item)) for found in holder.named(step)]
        return items

    def _holders(self, path: Path) -> list[_Container]:
        return [holder for item in self._find(path) if (holder := self._split(item))]

    def _add(self, path: Path, value: Any) -> bool:
        """The deepest object that is there gets the rest of the path."""
        for depth in range(len(path) - 1, -1, -1):
            found = self._find(path[:depth])
            if not found:
                continue
            missing = path[depth:]
            if not all(isinstance(step, str) for step in missing):
                return False
            holders = [holder for item in found if (holder := self._split(item)) and holder.is_object]
            encoded = _dumped(value)
            for step in reversed(missing[1:]):
                encoded = b"{%b:%b}" % (orjson.dumps(step), encoded)
            for holder in holders:
                holder.insert(len(holder.items), str(missing[0]), encoded, self._tail(holder))
                self._changed = True
            return bool(holders)
        return False

    def _split(self, item: _Item) -> _Container | None:
        """The items of a value; None where it is no container. The text is split once, where a path leads."""
        if item.child is None:
            text, start = (self._text, item.start) if item.new is None else (item.new, 0)
            if text[start : start + 1] not in (b"{", b"["):
                return None
            if item.new is not None:  # offsets are of one text only, so a new value becomes part of it
                item.lead = self._text[item.begin : item.start] if item.lead is None else item.lead
                item.tail = self._text[item.stop : item.end] if item.tail is None else item.tail
                item.start, item.stop = len(self._text), len(self._text) + len(item.new)
                self._text, item.new = self._text + item.new, None
            item.child = _split(self._text, item.start)
        return item.child

    def _tail(self, holder: _Container) -> bytes:
        last = holder.items[-1] if holder.items else None
        if last is None:
            return b""
        return self._text[last.stop : last.end] if last.tail is None else last.tail

    def _whole(self, item: _Item) -> bytes:
        text = self._text
        if item.new is None and item.child is None and item.lead is None and item.tail is None:
            return text[item.begin : item.end]
        lead = text[item.begin : item.start] if item.lead is None else item.lead
        tail = text[item.stop : item.end] if item.tail is None else item.tail
        return lead + self._value(item) + tail

    def _value(self, item: _Item) -> bytes:
        if item.new is not None:
            return item.new
        if item.child is None:
            return self._text[item.start : item.stop]
        inner = b",".join([self._whole(one) for one in item.child.items]) or item.child.hollow
        return b"{%b}" % inner if item.child.is_object else b"[%b]" % inner


def _split(text: bytes, start: int) -> _Container:
    is_object = text[start] == _OPEN_OBJECT
    pattern, at = (_MEMBER if is_object else _ELEMENT).match, start + 1
    empty = _EMPTY.match(text, at)
    if empty:
        return _Container(is_object, [], empty.end(), text[at : empty.end() - 1])
    items = []
    while True:
        match = pattern(text, at)
        if match:
            (_, end), (name, to), (value, stop), _ = match.regs
        else:
            name, to, value, stop, end = _slow(text, at, is_object)
        items.append(_Item(_name(text[name:to]) if is_object else None, at, value, stop, end - 1))
        at = end
        if text[end - 1] != _COMMA:
            return _Container(is_object, items, end)


_OPEN_OBJECT, _COMMA = b"{,"


def _slow(text: bytes, at: int, is_object: bool) -> tuple[int, int, int, int, int]:
    """An item whose value is nested deeper than the patterns reach: name's and value's span, end of the delimiter."""
    key = _found((_KEY if is_object else _NO_KEY).match(text, at), at)
    stop = _skip(text, key.end())
    return *key.span(1), key.end(), stop, _found(_AFTER.match(text, stop), stop).end()


def _skip(text: bytes, start: int) -> int:
    """Where the value that starts here ends. Brackets are counted only where the pattern does not reach."""
    match = _VALUE.match(text, start)
    if match:
        return match.end()
    depth = 0
    for token in _TOKEN.finditer(text, start):
        first = text[token.start()]
        if first in b"{[":
            depth += 1
        elif first in b"}]":
            depth -= 1
        if depth <= 0:
            return token.end()
    raise NotJsonError(f"no JSON value at byte {start}")


def _name(name: bytes) -> bytes:
    """What stands between the quotes, its escapes resolved."""
    if b"\\" not in name:
        return name
    try:
        return str(orjson.loads(b'"%b"' % name)).encode()
    except orjson.JSONDecodeError:
        raise NotJsonError("a name with a broken escape") from None


def _found(match: re.Match[bytes] | None, at: int) -> re.Match[bytes]:
    if match is None:
        raise NotJsonError(f"no JSON at byte {at}")
    return match


def _dumped(value: Any) -> bytes:
    return value if isinstance(value, bytes) else orjson.dumps(value)

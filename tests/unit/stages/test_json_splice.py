"""The splicer against a parser: the change is made, and no other byte is another."""

import json
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from extproc.json_splice import MOST_DEPTH, Document, NotJsonError, is_shallow

TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
NAMES = st.sampled_from(["a", "b", "model", "ü", 'q"uote', "back\\slash", "new\nline", "{[", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
NEW = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=4,
)
PATHS = st.lists(NAMES | st.integers(0, 3), min_size=1, max_size=3)


def written(value: Any, draw: st.DrawFn) -> str:
    """JSON as no library writes it: any white space, any escapes."""

    def space() -> str:
        return draw(st.sampled_from(["", "", " ", "\n\t", "  \r\n"]))

    def member(name: str, inner: Any) -> str:
        return f"{space()}{quoted(name, draw)}{space()}:{space()}{written(inner, draw)}{space()}"

    if isinstance(value, dict):
        return "{" + (",".join(member(*item) for item in value.items()) or space()) + "}"
    if isinstance(value, list):
        return "[" + (",".join(f"{space()}{written(one, draw)}{space()}" for one in value) or space()) + "]"
    return quoted(value, draw) if isinstance(value, str) else json.dumps(value)


def quoted(value: str, draw: st.DrawFn) -> str:
    return json.dumps(value, ensure_ascii=draw(st.booleans()))


@st.composite
def documents(draw: st.DrawFn) -> tuple[bytes, Any]:
    value = draw(st.dictionaries(NAMES, VALUES, max_size=5))
    around = draw(st.sampled_from(["", " ", "\n"]))
    return (around + written(value, draw) + around).encode(), value


def at(value: Any, path: list[str | int]) -> Any:
    """The value at a path; the ellipsis where there is none."""
    for step in path:
        try:
            if isinstance(value, (str, dict if isinstance(step, int) else list)):
                return ...
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return ...
    return value


def pairs(text: bytes) -> Any:
    return json.loads(text, object_pairs_hook=tuple)


@given(documents(), PATHS, NEW)
@example((b'{"a":[{}]}', {"a": [{}]}), ["a", 0, "b"], 1)
def test_set_puts_the_value_there_and_undoing_it_gives_the_bytes_back(
    document: tuple[bytes, Any], path: list[str | int], value: Any
) -> None:
    source, before = document
    spliced = Document(source)
    known = spliced.raw(path)
    assert (known is None) is (at(before, path) is ...)
    if spliced.set(path, value):
        assert at(json.loads(spliced.render()), path) == value
    else:
        assert spliced.render() is source
    if known is not None:
        assert spliced.set(path, known)
        assert spliced.render() == source


@given(documents(), PATHS, NEW)
def test_default_changes_nothing_that_is_there(document: tuple[bytes, Any], path: list[str | int], value: Any) -> None:
    source, before = document
    spliced = Document(source)
    if spliced.default(path, value):
        assert at(before, path) is ...
        assert at(json.loads(spliced.render()), path) == value
    else:
        assert spliced.render() is source


@given(documents(), PATHS)
def test_remove_takes_out_one_thing(document: tuple[bytes, Any], path: list[str | int]) -> None:
    source, value = document
    spliced = Document(source)
    assert spliced.remove(path) is (at(value, path) is not ...)
    if spliced.changed:
        del at(value, path[:-1])[path[-1]]
    assert json.loads(spliced.render()) == value


@given(documents(), NAMES, NAMES)
def test_rename_keeps_the_place_and_the_value(document: tuple[bytes, Any], old: str, new: str) -> None:
    source, before = document
    spliced = Document(source)
    done = spliced.rename([old], new)
    assert done is (old in before and new not in before)
    expected = tuple((new if done and name == old else name, value) for name, value in pairs(source))
    assert pairs(spliced.render()) == expected


@pytest.mark.parametrize("inside", [["a", "b"], ["a", "b", "c"], ["a", 0]])
def test_what_was_put_in_can_be_changed_in_turn(inside: list[str | int]) -> None:
    document = Document(b'{ "a" : null , "z":1}')
    document.set(["a"], [0] if 0 in inside else {})
    document.set(inside, True)
    value = {"b": True} if inside[-1] == "b" else {"b": {"c": True}} if inside[-1] == "c" else [True]
    assert json.loads(document.render()) == {"a": value, "z": 1}


@example((b'{"a":null,"b":null}', {"a": None, "b": None}), [(["a"], []), (["a", "a"], None)])
@given(documents(), st.lists(st.tuples(PATHS, NEW), max_size=5))
def test_many_changes_of_one_document_are_those_of_many_documents(
    document: tuple[bytes, Any], changes: list[tuple[list[str | int], Any]]
) -> None:
    once, text = Document(document[0]), document[0]
    for path, value in changes:
        one_by_one = Document(text)
        assert once.set(path, value) is one_by_one.set(path, value)
        text = one_by_one.render()
        assert once.render() == text


@given(st.lists(NEW, max_size=4), st.integers(0, 5), NEW)
def test_insert_is_pythons_insert(elements: list[Any], index: int, value: Any) -> None:
    document = Document(json.dumps({"m": elements}, indent=1).encode())
    assert document.insert(["m"], index, value) is (index <= len(elements))
    if document.changed:
        elements.insert(index, value)
    assert json.loads(document.render()) == {"m": elements}


@given(st.lists(NEW, max_size=6), st.sets(st.integers(0, 7)))
def test_several_elements_at_once(elements: list[Any], indices: set[int]) -> None:
    document = Document(json.dumps({"m": elements}, indent=1).encode())
    assert document.remove_elements(["m"], indices) is any(index < len(elements) for index in indices)
    assert json.loads(document.render()) == {"m": [one for at, one in enumerate(elements) if at not in indices]}


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        ('{"a":1, "n" : 1234567890123456789}', ("set", "a", 2), '{"a":2, "n" : 1234567890123456789}'),
        ('{ "a" : "\\u0041\\/" , "b":1 }', ("set", "b", "é"), '{ "a" : "\\u0041\\/" , "b":"é" }'),
        ('{\n  "a": 1,\n  "b": 2\n}', ("remove", "b"), '{\n  "a": 1\n}'),
        ('{\n  "a": 1,\n  "b": 2\n}', ("remove", "a"), '{\n  "b": 2\n}'),
        ('{\n  "a": 1\n}', ("set", "b", 2), '{\n  "a": 1,"b":2\n}'),
        ("{ }", ("set", "b", 2), '{"b":2}'),
        ('{"a":1}', ("remove", "a"), "{}"),
        ('{"m\\u006fdel":"x"}', ("set", "model", "y"), '{"m\\u006fdel":"y"}'),
        ('{"a":1,"b":2,"a":3}', ("set", "a", 0), '{"a":0,"b":2,"a":0}'),
        ('{"a":1,"b":2,"a":3}', ("remove", "a"), '{"b":2}'),
        ('{"a":1,"b":2,"a":3}', ("rename", "a", "c"), '{"c":1,"b":2,"c":3}'),
        ('{"a":1,"b":2}', ("rename", "a", "b"), '{"a":1,"b":2}'),
        ('{"s":"}]\\"{[,"}', ("set", "b", [1]), '{"s":"}]\\"{[,","b":[1]}'),
        ("[1]", ("set", "b", 1), "[1]"),
    ],
)  # fmt: skip
def test_every_other_byte_stays(before: str, change: tuple[Any, ...], after: str) -> None:
    document = Document(before.encode())
    getattr(document, change[0])([change[1]], *change[2:])
    assert document.render() == after.encode()


@given(st.binary(max_size=60), PATHS)
@example(b'{"a":', ["a"])
@example(b'{"a":[1,2', ["a", 1])
@example(b'{"\xff":1}', ["a"])
@example(b'{"\\ud800":1}', ["a"])
@example(b"", ["a"])
def test_what_is_no_json_is_refused_or_changed_within_bounds(text: bytes, path: list[str | int]) -> None:
    document = Document(text)
    try:
        document.set(path, None)
        assert len(document.render()) <= len(text) + 60
    except NotJsonError:
        pass


@pytest.mark.parametrize(
    "value",
    [b"[" * 300_000 + b"]" * 300_000, b'{"a":' * 200_000 + b"1" + b"}" * 200_000, b'"' + b"\\n" * 2_000_000 + b'"',
     b"[" + b'{"role":"user","content":"hi"},' * 100_000 + b"0]", b"[" * 9 + b"1," * 500_000 + b"1" + b"]" * 9,
     b'{"a":' * 6 + b"[" * 300_000, b'"' * 1_000_001],
    ids=["arrays", "objects", "escapes", "messages", "deep and long", "open", "quotes"],
)  # fmt: skip
def test_time_is_linear_however_deep_and_long(value: bytes) -> None:
    document, begun = Document(b'{"x":%b,"n":1}' % value), time.process_time()
    try:
        document.set(["n"], 2)
        assert document.render().endswith(b'"n":2}')
    except NotJsonError:
        assert value.count(b"[") != value.count(b"]") or b'""' in value
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("pair", ["[]", ('{"a":', "}")], ids=["arrays", "objects"])
@pytest.mark.parametrize(("depth", "shallow"), [(1, True), (MOST_DEPTH, True), (MOST_DEPTH + 1, False), (5000, False)])
def test_depth_is_measured(pair: Any, depth: int, shallow: bool) -> None:
    value = pair[0] * depth + ("1" if pair[0] != "[" else "") + pair[1] * depth
    assert is_shallow(value.encode()) is shallow
    assert is_shallow(b"[" + b",".join([b'{"[[{":[]}'] * 1000) + b"]")

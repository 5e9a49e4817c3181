"""The pure parts, on more inputs than a process is worth starting for."""

from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecars.listen import Address, parse_address
from sidecars.mock.errors import MockError
from sidecars.mock.multipart import read_form
from sidecars.mock.prose import cut, pieces, words
from sidecars.mock.recorder import Recorded, Recorder
from sidecars.mock.sample import sample

_texts = st.text(alphabet=st.sampled_from(list("ab \n\té日")), max_size=40)


@given(_texts, st.none() | st.integers(1, 60))
def test_pieces_join_to_the_text_and_none_is_empty(text: str, count: int | None) -> None:
    found = pieces(text, count)
    assert "".join(found) == text
    assert all(found)
    if count is not None and len(text) >= count:
        assert len(found) == count


@given(_texts, st.integers(1, 10))
def test_cutting_leaves_the_first_words(text: str, limit: int) -> None:
    kept, reason = cut(text, (), limit)
    assert text.startswith(kept)
    assert words(kept) == min(words(text), limit)
    assert (reason == "length") == (words(text) > limit)


_leaves: st.SearchStrategy[Any] = st.one_of(
    st.just({"type": "string"}),
    st.builds(lambda low: {"type": "string", "minLength": low}, st.integers(0, 5)),
    st.builds(lambda low: {"type": "integer", "minimum": low}, st.integers(-5, 5)),
    st.builds(lambda high: {"type": "number", "exclusiveMaximum": high}, st.floats(-5, 5)),
    st.builds(lambda values: {"enum": values}, st.lists(st.integers() | st.text(), min_size=1, max_size=3)),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"const": [1]}, {"type": ["string", "null"]}, {}]),
    st.just({"$ref": "#/$defs/tree"}),
)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.builds(lambda item, least: {"type": "array", "items": item, "minItems": least}, inner, st.integers(0, 3)),
        st.builds(
            lambda fields: {"type": "object", "properties": fields, "required": sorted(fields)},
            st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        ),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
    )


@given(st.recursive(_leaves, _nested, max_leaves=8))
def test_samples_are_valid(schema: dict[str, Any]) -> None:
    tree = {
        "type": "object",
        "properties": {"left": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}, "value": {"type": "integer"}},
        "required": ["left", "value"],
    }
    whole = {**schema, "$defs": {"tree": tree}}
    jsonschema.validate(sample(whole), whole)


def test_samples_merge_all_of_and_end_endless_schemas() -> None:
    parts = [{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, {"$ref": "#/$defs/b"}]
    both = {"allOf": parts, "$defs": {"b": {"properties": {"b": {"const": 1}}, "required": ["b"]}}}
    assert sample(both) == {"a": "", "b": 1}
    assert sample({"type": "object", "properties": {"self": {"$ref": "#"}}, "required": ["self"]}) is not None
    assert sample({"$ref": "#/$defs/absent"}) is None


@given(st.binary(max_size=60), st.text(alphabet="ab é", min_size=1, max_size=5))
def test_form_files_keep_their_bytes(content: bytes, field: str) -> None:
    if b"--edge" in content:
        return
    disposition = f'Content-Disposition: form-data; name="{field}"'.encode()
    raw = b"--edge\r\n" + disposition + b"\r\n\r\nvalue\r\n--edge\r\n" + disposition
    raw += b'; filename="f.bin"\r\nContent-Type: application/octet-stream\r\n\r\n' + content + b"\r\n--edge--\r\n"
    form = read_form('multipart/form-data; boundary="edge"', raw)
    assert form.files[0].content == content
    assert list(form.data.values()) == ["value"]


def test_repeated_form_fields_are_lists() -> None:
    part = b'--b\r\ncontent-disposition: form-data; name="k"\r\n\r\n%d\r\n'
    form = read_form("multipart/form-data; boundary=b", b"".join(part % i for i in range(3)) + b"--b--")
    assert form.data == {"k": ["0", "1", "2"]}
    with pytest.raises(MockError, match="UTF-8"):
        read_form("multipart/form-data; boundary=b", part.replace(b"%d", b"\xff") + b"--b--")


def test_addresses() -> None:
    assert parse_address("[::1]:80") == Address("::1", 80)
    assert str(parse_address("[::1]:80")) == "[::1]:80"
    assert str(parse_address("localhost:0")) == "localhost:0"
    assert parse_address("unix:/a:b") == Address(path="/a:b")


def test_the_record_is_bounded_by_bytes_and_keeps_the_newest() -> None:
    recorder = Recorder(10)
    for size in (1 << 20, 40 << 20, 30 << 20, 70 << 20):
        recorder.add(Recorded("POST", "/", [], bytes(size)))
    assert [len(one.body) for one in recorder.last(10)] == [70 << 20]
    none = Recorder(0)
    none.add(Recorded("POST", "/", [], b"x"))
    assert none.last(5) == []

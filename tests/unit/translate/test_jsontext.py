"""JSON text: whole numbers and order kept, and the model spliced without touching anything else."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.translate import Options, Stamp, Upstream, request
from extproc.translate.jsontext import JSONTextError, dumps, loads, with_model

TEXTS = st.one_of(st.sampled_from(["model", '"model":"x"', "\\", '"', "mod\u0065l", "ä🙂"]), st.text(max_size=8))
NUMBERS = st.one_of(st.integers(-(2**200), 2**200), st.floats(allow_nan=False, allow_infinity=False))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=12,
)


@given(VALUES)
def test_values_come_back_whole_and_in_order(value: Any) -> None:
    text = dumps(value)
    assert json.dumps(loads(text)) == json.dumps(value)
    assert dumps(loads(text)) == text


@given(st.lists(st.tuples(TEXTS, VALUES), max_size=6), st.integers(0, 6), st.sampled_from([None, 1, "\t"]), TEXTS)
def test_only_the_model_changes(fields: list[tuple[str, Any]], at: int, indent: Any, model: str) -> None:
    rest = [(name, value) for name, value in fields if name != "model"]
    parts = [f"{json.dumps(name)} : {json.dumps(value, indent=indent)}" for name, value in rest]
    parts.insert(at, '"model"\n:\t"old \\" one"')
    body = ("{ " + " ,\r\n".join(parts) + " }").encode()
    changed = with_model(body, model)
    before, _, after = body.partition(b'"old \\" one"')
    assert changed == before + dumps(model) + after


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"mod\\u0065l":"a","x":"model"}', b'{"mod\\u0065l":"new","x":"model"}'),
        (b'{"model":"a","model":"b"}', b'{"model":"new","model":"new"}'),
        (b'{"x":{"model":"a"},"y":["model",":"],"model":"b"}', b'{"x":{"model":"a"},"y":["model",":"],"model":"new"}'),
        (b'{"model":null,"model":"b"}', b'{"model":null,"model":"new"}'),
    ],
)
def test_the_model_is_found_however_it_is_written(body: bytes, expected: bytes) -> None:
    assert with_model(body, "new") == expected


@pytest.mark.parametrize(
    "text",
    [b"", b"nul", b"\xff", b'"\xed\xa0\x80"', b'"\\ud800"', b"NaN", b"[" * 2000, b"1" * 5000, b"{'a':1}", b"1 2"],
)
def test_what_is_no_json_has_one_kind_of_error(text: bytes) -> None:
    with pytest.raises(JSONTextError):
        loads(text)


def test_what_cannot_be_written_has_the_same_kind_of_error() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for value in (deep, "\ud800", object(), {1.5: object()}):
        with pytest.raises(JSONTextError):
            dumps(value)


def test_a_large_body_passes_by_without_being_parsed_twice() -> None:
    body = b'{"model":"a","messages":[{"role":"user","content":"' + b"x\\n" * 3_000_000 + b'"}]}'
    result = request("openai", "openai", body, "b", Stamp("", 0), Options())
    assert isinstance(result, Upstream)
    assert result.body == body.replace(b'"a"', b'"b"', 1)
    assert result.exchange.untouched

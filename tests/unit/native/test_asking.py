"""How the module asks for the usage of streams."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.native.module import Filter, Request

MODEL = Filter("model")
CHAT = {"content-type": "application/json", ":path": "/v1/chat/completions", "x-headgate-client": "alice;std;"}
ASK = ',"stream_options":{"include_usage":true}'

keys = st.sampled_from(["stream", "stream_options", "include_usage", "model", "a"]) | st.text(max_size=4)
leaves = st.none() | st.booleans() | st.integers() | st.sampled_from(
    ["stream", '"stream":true', '"stream_options":{"include_usage":true}', "{[", "\\", '\\"stream": true', "}"]
)  # fmt: skip
values = st.recursive(
    leaves | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
options = (
    st.none()
    | st.dictionaries(st.text(max_size=4), values, max_size=2)
    | st.builds(
        lambda more, asked: dict([*more.items(), ("include_usage", asked), ("z}", '"include_usage":1')]),
        st.dictionaries(keys.filter(lambda k: k != "include_usage"), values, max_size=3),
        st.none() | st.booleans(),
    )
)
absent = object()


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    """Any body of a completion, its keys in any order; with and without the two that matter, and with their like."""
    fields: dict[str, Any] = draw(
        st.dictionaries(keys.filter(lambda k: k not in {"model", "stream", "stream_options"}), values)
    )
    fields = {key: value for key, value in fields.items() if key.lower() != "model"}
    fields["model"] = draw(st.sampled_from(["gpt", "a/b"]))
    fields["stream"] = draw(st.sampled_from([True, True, True, False, None, "true", 1, {"stream": True}, absent]))
    fields["stream_options"] = draw(st.just(absent) | options)
    order = draw(st.permutations(list(fields)))
    return {key: fields[key] for key in order if fields[key] is not absent}


def written(body: dict[str, Any], layout: int) -> bytes:
    if layout == 0:
        return json.dumps(body, separators=(" ,\n ", " \t:\r\n "), ensure_ascii=False).encode()
    return json.dumps(body, indent=[None, 1, "\t"][layout - 1]).encode()


def expected(body: dict[str, Any]) -> dict[str, Any] | None:
    """The body with its usage asked for; None where nothing is to be done."""
    asked = body.get("stream_options")
    if body.get("stream") is not True or (asked or {}).get("include_usage"):
        return None
    return {**body, "stream_options": {**(asked or {}), "include_usage": True}}


def check(done: Request, original: bytes, wanted: dict[str, Any] | None) -> None:
    if wanted is None:
        assert done.body == original
        assert "content-length" not in done.headers
    else:
        assert json.loads(done.body) == wanted
        assert done.headers["content-length"] == str(len(done.body))


@given(bodies(), st.integers(0, 3), st.sampled_from(["/v1/chat/completions", "/v1/completions?a=b"]))
def test_asks_where_a_client_streams_and_did_not_ask(body: dict[str, Any], layout: int, path: str) -> None:
    original = written(body, layout)
    check(MODEL.request(original, {**CHAT, ":path": path}), original, expected(body))


@given(bodies(), st.integers(0, 3))
def test_asks_and_renames_at_once(body: dict[str, Any], layout: int) -> None:
    original = written(body, layout)
    renamed = {**body, "model": "upstream"}
    done = MODEL.request(original, CHAT, {"model/model": "upstream"})
    assert json.loads(done.body) == (expected(renamed) or renamed)
    assert done.headers["content-length"] == str(len(done.body))


@given(bodies(), st.integers(0, 3))
def test_only_one_place_of_the_body_changes(body: dict[str, Any], layout: int) -> None:
    original = written(body, layout)
    changed = MODEL.request(original, CHAT).body
    start = next((i for i, (a, b) in enumerate(zip(original, changed, strict=False)) if a != b), len(original))
    more = len(changed) - len(original)
    replaced = 5  # the letters of false, at most
    assert more >= -1
    assert any(changed[start + more + n :] == original[start + n :] for n in range(replaced + 1))


@given(bodies(), st.integers(0, 3))
def test_asks_a_provider_that_refuses_it_never(body: dict[str, Any], layout: int) -> None:
    original = written(body, layout)
    check(MODEL.request(original, CHAT, {"model/stream_usage": "never"}), original, None)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/embeddings",
        "/v1/responses",
        "/v1/responses?x=/v1/chat/completions",
        "/v1/embeddings?completions",
        "/v1/audio/transcriptions",
    ],
)
def test_other_apis_have_no_such_option(path: str) -> None:
    original = b'{"model":"m","stream":true}'
    check(MODEL.request(original, {**CHAT, ":path": path}), original, None)


def test_a_form_is_never_taken_for_json() -> None:
    form = b'--B\r\ncontent-disposition: form-data; name="model"\r\n\r\nm\r\n--B\r\n\r\n{"stream":true\r\n--B--\r\n'
    done = MODEL.request(form, {**CHAT, "content-type": "multipart/form-data; boundary=B"})
    assert (done.body, done.headers["x-headgate-model"]) == (form, "m")


_ON = '"include_usage":true'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"model":"m","stream":true}', '{"model":"m"' + ASK + ',"stream":true}'),
        ('{"stream":true,"model":"m"}', '{"stream":true,"model":"m"' + ASK + "}"),
        ('{"stream":false,"stream":true,"model":"m"}', '{"stream":false,"stream":true,"model":"m"' + ASK + "}"),
    ],
)
def test_where_it_is_written(before: str, after: str) -> None:
    assert MODEL.request(before.encode(), CHAT).body.decode() == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{}", "{" + _ON + "}"),
        ("{ }", "{" + _ON + " }"),
        ("null", "{" + _ON + "}"),
        ('{"x":1}', "{" + _ON + ',"x":1}'),
        ('{"include_usage":false}', "{" + _ON + "}"),
        ('{"include_usage" : null }', '{"include_usage" : true }'),
        ('{"x":{"include_usage":true}}', "{" + _ON + ',"x":{"include_usage":true}}'),
    ],
)
@pytest.mark.parametrize(
    "body",
    ['{"model":"m","stream":true,"stream_options": OPTIONS}', '{"stream_options":OPTIONS,"stream":true,"model":"m"}'],
)
def test_how_options_change(body: str, before: str, after: str) -> None:
    assert MODEL.request(body.replace("OPTIONS", before).encode(), CHAT).body.decode() == body.replace("OPTIONS", after)


@pytest.mark.parametrize(
    "body",
    [
        '{"stream":true,"stream":false,"model":"m"}',
        '{"model":"m","stream":true,"stream_options":[]}',
        '{"model":"m","stream":true,"stream_options":"x"}',
        '{"model":"m","stream":true,"stream_options":true}',
        '{"model":"m","stream":true,"stream_options":{"include_usage":1}}',
        '{"model":"m","stream":true,"stream_options":{"include_usage":"false"}}',
        '{"model":"m","x\\"stream":true}',
        '{"model":"m","x":["stream",true]}',
    ],
)
def test_what_the_provider_will_refuse_stays_as_it_is(body: str) -> None:
    check(MODEL.request(body.encode(), CHAT), body.encode(), None)


_TOKENS = [
    '"stream"', '"stream_options"', '"model"', '"include_usage"', '"gpt"', "true", "false", "null", ":", ",", "{", "}",
    "[", "]", "\\", '"', " ",
]  # fmt: skip


@given(
    st.lists(st.sampled_from(_TOKENS), max_size=30).map("".join).map(str.encode) | st.binary(max_size=200),
    st.booleans(),
)
def test_survives_any_body(body: bytes, within: bool) -> None:
    if within:
        body = b'{"model":"gpt","stream":true,' + body
    done = MODEL.request(body, CHAT)
    assert done.body == body or _ON in done.body.decode("latin-1")
    MODEL.request(body, {**CHAT, ":path": "/v1/completions"}, {"model/model": "x"})


def elapsed(body: str) -> float:
    def once() -> float:
        started = time.process_time()
        MODEL.request(body.encode(), CHAT)
        return time.process_time() - started

    return min(once() for _ in range(3))


@pytest.mark.parametrize(
    "unit",
    [
        '"a":{"stream":true},', '"a":{"stream_options":{"include_usage":true}},', '"stream":true,', '"stream"  :',
        '"stream" ', '"stream_options":{', '"include_usage":false,', "{", "[", '\\"stream\\":true', "x" * 50, " ",
        '\\\\"', "\\",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "body",
    [
        '{"model":"m",FILLING"stream":true}',
        '{"stream":true,"stream_options":{FILLING},"model":"m"}',
        '{"model":"m","stream":true,"x":"FILLING"}',
    ],
)
def test_the_work_grows_with_the_body_only(body: str, unit: str) -> None:
    """Four times the body takes about four times as long, whatever it holds; quadratic would be sixteen."""
    small = elapsed(body.replace("FILLING", unit * (400_000 // len(unit))))
    large = elapsed(body.replace("FILLING", unit * (1_600_000 // len(unit))))
    assert large < max(0.05, 9 * small)

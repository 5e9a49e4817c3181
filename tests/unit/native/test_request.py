"""What the module reads of requests, and how it renames their model. What only a real Envoy shows is in tests/e2e."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.native.module import Filter

JSON = {"content-type": "application/json", ":path": "/v1/embeddings"}
MODEL = Filter("model")
ATTEMPT = Filter("attempt", "farm~2\n/openai/v1")


def asked(body: bytes, headers: dict[str, str] = JSON) -> str | None:
    return MODEL.request(body, headers).headers.get("x-headgate-model")


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/@+=-]{0,40}", fullmatch=True)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.just("model"), inner, max_size=4)
    ),
    max_leaves=20,
)
others = st.dictionaries(st.text(max_size=8).filter(lambda k: k.lower() != "model"), values, max_size=6)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, str]:
    """A request whose `model` stands anywhere among other fields, in any of JSON's notations."""
    fields = list(draw(others).items())
    name = draw(names)
    fields.insert(draw(st.integers(0, len(fields))), ("model", name))
    space, ascii_only = draw(st.sampled_from([None, 1, "\t"])), draw(st.booleans())
    return json.dumps(dict(fields), indent=space, ensure_ascii=ascii_only).encode(), name


@given(bodies())
def test_finds_the_model_that_a_json_parser_finds(case: tuple[bytes, str]) -> None:
    body, name = case
    assert asked(body) == name


@given(bodies(), names)
def test_renames_the_model_and_changes_no_other_byte(case: tuple[bytes, str], upstream: str) -> None:
    body, name = case
    renamed = MODEL.request(body, JSON, {"model/model": upstream})
    assert json.loads(renamed.body) == {**json.loads(body), "model": upstream}
    assert renamed.headers["content-length"] == str(len(renamed.body))
    at = renamed.body.index(json.dumps(upstream)[1:-1].encode())
    assert any(
        renamed.body[:i] + name.encode() + renamed.body[i + len(upstream) :] == body
        for i in range(at, len(renamed.body))
        if renamed.body[i : i + len(upstream)] == upstream.encode()
    )


@given(bodies(), names)
def test_an_attempt_renames_the_same_way(case: tuple[bytes, str], upstream: str) -> None:
    body, _ = case
    at_the_edge = MODEL.request(body, JSON, {"model/model": upstream}).body
    assert ATTEMPT.request(body, {**JSON, ":path": "/v1/x"}, {"attempt/farm~2": upstream}).body == at_the_edge


@given(st.binary(max_size=300) | st.text(alphabet='{}[]":,\\ model\n', max_size=80).map(str.encode))
def test_survives_any_body(body: bytes) -> None:
    found = asked(body)
    try:
        parsed = json.loads(body)
    except ValueError:
        return
    if isinstance(parsed, dict) and isinstance(parsed.get("model"), str) and found is not None:
        assert found == parsed["model"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"cheap","model":"dear"}',
        b'{"model":"cheap","Model":"dear"}',
        b'{"model":"cheap","mod\\u0065l":"dear"}',
        b'{"\\u006dodel":"cheap","model":"dear"}',
        b'{"model":"cheap","m\\u006Fdel":5}',
    ],
)
def test_a_body_with_two_models_has_none(body: bytes) -> None:
    assert asked(body) is None


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b'"model"', b"{", b'{"model":5}', b'{"model":null}', b'{"model":""}', b'{"model":["x"]}',
        b'{"a":{"model":"x"}}', b'{"a":"\\"model\\":\\"x\\""}', b'{"model":"x', b'{"model":"a\\nb"}',
        b'{"model":"' + b"x" * 300 + b'"}',
    ],
)  # fmt: skip
def test_a_body_without_a_usable_model_has_none(body: bytes) -> None:
    assert asked(body) is None


@pytest.mark.parametrize(
    ("written", "meant"),
    [(b"gpt\\u002d4", "gpt-4"), (b"a\\/b", "a/b"), (b"caf\\u00e9", "caf?"), (b"a\\\\u0041", "a\\u0041")],
)
def test_escapes_in_a_name_are_decoded(written: bytes, meant: str) -> None:
    assert asked(b'{"model":"' + written + b'"}') == meant


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_other_content_types_have_no_model(content_type: str) -> None:
    assert asked(b'{"model":"x"}', {**JSON, "content-type": content_type}) is None


def form(*parts: tuple[str, bytes], boundary: str = "B") -> bytes:
    return (
        b"".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"
            for name, value in parts
        )
        + f"--{boundary}--\r\n".encode()
    )


FORM = {"content-type": "multipart/form-data; boundary=B", ":path": "/v1/audio/transcriptions"}


@given(st.binary(max_size=200).filter(lambda b: b"--B" not in b), names, names)
def test_a_form_is_read_and_renamed_like_a_body(file: bytes, name: str, upstream: str) -> None:
    body = form(("file", file), ("model", name.encode()), ("language", b"en"))
    renamed = MODEL.request(body, FORM, {"model/model": upstream})
    assert renamed.headers["x-headgate-model"] == name
    assert renamed.body == form(("file", file), ("model", upstream.encode()), ("language", b"en"))
    attempt = ATTEMPT.request(body, {**FORM, ":path": "/v1/x"}, {"attempt/farm~2": upstream})
    assert attempt.body == renamed.body


def test_a_form_with_two_models_has_none() -> None:
    assert asked(form(("model", b"cheap"), ("model", b"dear")), FORM) is None


def test_json_before_a_form_is_not_read() -> None:
    assert asked(b'{"model":"cheap"}\r\n' + form(("model", b"dear")), FORM) == "dear"


def test_an_attempt_starts_from_the_clients_path() -> None:
    first = ATTEMPT.request(b"{}", {**JSON, ":path": "/v1/chat/completions?a=1"}).headers
    assert first[":path"] == "/openai/v1/chat/completions?a=1"
    second = ATTEMPT.request(b"{}", first).headers
    assert second[":path"] == first[":path"], "a path already rewritten is rewritten again"


def test_an_attempt_without_a_name_of_its_own_restores_the_length() -> None:
    headers = {**JSON, ":path": "/v1/x", "content-length": "999"}
    adapted = ATTEMPT.request(b'{"model":"a"}', headers, {"attempt/farm~2": ""})
    assert adapted.body == b'{"model":"a"}'
    assert adapted.headers["content-length"] == "13"

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.stages import settings
from extproc.stages.protocol import Access, Endpoint, Request
from extproc.stages.settings import SettingsError
from extproc.stages.transform import Settings, Transform
from tests.unit.stages.given import CHAT, CUTS, asked, chunked, fed


def stage(*operations: dict[str, Any]) -> Transform:
    return Transform(settings.parse(Settings, json.dumps({"operations": operations}).encode(), "test"))


def after(request: Request, *operations: dict[str, Any]) -> Any:
    body = stage(*operations).request(request).body
    return request.body if body is None else json.loads(body)


def test_untouched_parts_stay_byte_for_byte() -> None:
    raw = (
        b'{ "model":"m",  "seed":123456789012345678901, "messages":[{"role":"user","content":"\\u00e9\\/"}], "n":1.50}'
    )
    out = stage({"set": {"temperature": 0}}, {"remove": ["n"]}, {"system": {"text": "Hi"}}).request(asked(raw))
    assert out.body == (
        b'{ "model":"m",  "seed":123456789012345678901, "messages":[{"role":"system","content":"Hi"},'
        b'{"role":"user","content":"\\u00e9\\/"}],"temperature":0}'
    )


def test_parameters() -> None:
    done = after(
        asked(CHAT | {"user": "u", "logprobs": True, "metadata": {"a": 1}}),
        {"set": {"metadata.team": "{team}", "stream_options": {"include_usage": True, "by": ["{key}", "{{x}}"]}}},
        {"default": {"top_p": 0.5, "temperature": 1}},
        {"remove": ["user", "absent.too"]},
        {"rename": {"logprobs": "with_logprobs"}},
    )
    assert done["metadata"] == {"a": 1, "team": "red"}
    assert done["stream_options"] == {"include_usage": True, "by": ["alice", "{x}"]}
    assert (done["top_p"], done["temperature"], done["with_logprobs"]) == (0.5, 0.7, True)
    assert "user" not in done and "logprobs" not in done


def test_rename_leaves_one_of_two() -> None:
    body = {"max_tokens": 1, "max_completion_tokens": 2}
    assert after(asked(body), {"rename": {"max_tokens": "max_completion_tokens"}}) == {"max_completion_tokens": 2}


@pytest.mark.parametrize(("before", "now"), [(5, 2), (-1, 0), (1.5, 1.5), ("9", 2), (True, 2), (None, None), ([], 2)])
def test_clamp_holds_whatever_is_there(before: Any, now: Any) -> None:
    assert after(asked({"temperature": before}), {"clamp": {"temperature": {"least": 0, "most": 2}}}) == {
        "temperature": now
    }


@pytest.mark.parametrize(
    ("endpoint", "before", "now"),
    [
        (Endpoint.CHAT, {"max_tokens": 500}, {"max_tokens": 100}),
        (Endpoint.CHAT, {"max_completion_tokens": 500}, {"max_completion_tokens": 100}),
        (Endpoint.CHAT, {"max_tokens": 50}, {"max_tokens": 50}),
        (Endpoint.CHAT, {}, {"max_tokens": 100}),
        (Endpoint.CHAT, {"max_tokens": None}, {"max_tokens": 100}),
        (Endpoint.RESPONSES, {}, {"max_output_tokens": 100}),
        (Endpoint.RESPONSES, {"max_output_tokens": 500}, {"max_output_tokens": 100}),
        (Endpoint.MESSAGES, {}, {"max_tokens": 100}),
        (Endpoint.EMBEDDINGS, {}, {}),
        (Endpoint.COUNT_TOKENS, {}, {}),
        (Endpoint.OTHER, {}, {}),  # pictures, sound, rerankings
    ],
)
def test_max_tokens_by_any_name(endpoint: Endpoint, before: Any, now: Any) -> None:
    assert after(asked(before, endpoint), {"max_tokens": {"most": 100, "add": True}}) == now


@pytest.mark.parametrize(
    ("model", "name"),
    [("gpt-5-mini", "max_completion_tokens"), ("openai/o3", "max_completion_tokens"), ("olmo", "max_tokens")],
)
def test_a_cap_that_is_added_has_the_name_that_the_model_knows(model: str, name: str) -> None:
    assert after(asked({}, model=model), {"max_tokens": {"most": 100, "add": True}}) == {name: 100}


USER = {"role": "user", "content": "hi"}
SYSTEM = {"role": "system", "content": "own"}


@pytest.mark.parametrize(
    ("mode", "messages", "expected"),
    [
        ("prepend", [USER], [{"role": "system", "content": "new"}, USER]),
        ("prepend", [SYSTEM, USER], [{"role": "system", "content": "new\n\nown"}, USER]),
        ("append", [SYSTEM, USER], [{"role": "system", "content": "own\n\nnew"}, USER]),
        ("append", [USER], [{"role": "system", "content": "new"}, USER]),
        ("replace", [SYSTEM, USER, SYSTEM], [{"role": "system", "content": "new"}, USER]),
        ("replace", [], [{"role": "system", "content": "new"}]),
        (
            "prepend",
            [{"role": "developer", "content": [{"type": "text", "text": "own"}]}],
            [{"role": "developer", "content": [{"type": "text", "text": "new"}, {"type": "text", "text": "own"}]}],
        ),
        ("append", [{"role": "system"}, 7], [{"role": "system"}, {"role": "system", "content": "new"}, 7]),
        ("append", "none", "none"),
    ],
)  # fmt: skip
def test_system_prompt_of_chat(mode: str, messages: Any, expected: Any) -> None:
    done = after(asked({"messages": messages}), {"system": {"text": "new", "mode": mode}})
    assert done["messages"] == expected


@pytest.mark.parametrize(
    ("endpoint", "body", "mode", "expected"),
    [
        (Endpoint.MESSAGES, {}, "append", {"system": "new"}),
        (Endpoint.MESSAGES, {"system": "own"}, "append", {"system": "own\n\nnew"}),
        (Endpoint.MESSAGES, {"system": "own"}, "replace", {"system": "new"}),
        (Endpoint.MESSAGES, {"system": [{"type": "text", "text": "own"}]}, "prepend",
         {"system": [{"type": "text", "text": "new"}, {"type": "text", "text": "own"}]}),
        (Endpoint.RESPONSES, {"instructions": "own"}, "prepend", {"instructions": "new\n\nown"}),
        (Endpoint.RESPONSES, {"input": [SYSTEM, USER]}, "replace", {"input": [USER], "instructions": "new"}),
        (Endpoint.EMBEDDINGS, {"input": "x"}, "prepend", {"input": "x"}),
    ],
)  # fmt: skip
def test_system_prompt_of_other_apis(endpoint: Endpoint, body: Any, mode: str, expected: Any) -> None:
    assert after(asked(body, endpoint), {"system": {"text": "new", "mode": mode}}) == expected


def test_the_clients_own_prompt_keeps_its_escapes() -> None:
    raw = b'{"messages":[{"role":"system","content":"\\u0041\\u00e9"}]}'
    done = stage({"system": {"text": 'a "b"', "mode": "append"}}).request(asked(raw))
    assert done.body == b'{"messages":[{"role":"system","content":"\\u0041\\u00e9\\n\\na \\"b\\""}]}'


def test_headers_and_metadata_are_templates_and_hold_no_line_ends() -> None:
    one = stage(
        {"headers": {"x-who": "{key}/{team}/{header:X-User}"}},
        {"answer_headers": {"x-model": "{model}"}},
        {"metadata": {"day": "{date}", "at": "{time}"}},
    )
    out = one.request(asked(model="a\r\nb: c", headers={"x-user": "u1"}))
    assert out.headers == {"x-who": "alice/red/u1"}
    assert out.answer_headers == {"x-model": "a  b: c"}
    assert out.metadata == {"day": "2026-02-03", "at": "2026-02-03T04:05:06Z"}
    assert out.body is None
    assert one.needs.headers == {"x-user"} and one.needs.request is Access.NONE


def test_what_it_needs_is_what_it_does() -> None:
    assert stage({"remove": ["a"]}).needs.request is Access.CHANGE
    assert stage({"remove": ["a"]}).needs.stream is Access.NONE
    fields = stage({"remove_from_answer": ["id"]}).needs
    assert (fields.request, fields.answer, fields.stream) == (Access.NONE, Access.CHANGE, Access.CHANGE)
    assert stage({"set": {"a": ["{header:x-a}"]}}, {"system": {"text": "{header:x-b}"}}).needs.headers == {"x-a", "x-b"}


def test_answers_lose_members() -> None:
    one = stage({"remove_from_answer": ["system_fingerprint", "choices[*].logprobs", "usage.details"]})
    body = b'{"id": 1,"system_fingerprint":"f","choices":[{"logprobs":[1],"n" :1},{"n":2}],"usage":{"a":1e5}}'
    assert one.answer(asked(), None, body).body == b'{"id": 1,"choices":[{"n" :1},{"n":2}],"usage":{"a":1e5}}'
    for same in (b'{"id":1}', b"<html>", b"", b"[1]", b'"x"', b"\xff"):
        assert one.answer(asked(), None, same).body is None


SSE = (
    b'data: {"id":1,"fp":"a","choices":[{"delta":{"content":"h\xc3\xa9"}}]}\n\n'
    b': ping\n\nevent: x\r\ndata: {"\\u0066p":2}\r\n\r\n'
    b'data:{"id" : 3}\n\ndata: {"fp":\ndata: 1}\n\ndata: [DONE]\n\ndata: {"fp":"cut'
)


@given(CUTS)
def test_streams_lose_members_however_they_are_cut(cuts: list[int]) -> None:
    one = stage({"remove_from_answer": ["fp"]})
    stream = one.stream(asked(), None)
    assert stream is not None
    assert fed(stream, chunked(SSE, cuts)) == (
        b'data: {"id":1,"choices":[{"delta":{"content":"h\xc3\xa9"}}]}\n\n: ping\n\nevent: x\r\ndata: {}\r\n\r\n'
        b'data:{"id" : 3}\n\ndata: {}\n\ndata: [DONE]\n\ndata: {"fp":"cut'
    )


@given(
    st.lists(
        st.sampled_from([b"data: {}", b"\n", b"\r", b"\r\n", b"fp", b'data: {"fp":1}', b":", b"\xff"]), max_size=12
    ),
    CUTS,
)
def test_any_bytes_come_out_the_same_for_any_chunking(parts: list[bytes], cuts: list[int]) -> None:
    one, data = stage({"remove_from_answer": ["fp"]}), b"".join(parts)
    whole, cut = one.stream(asked(), None), one.stream(asked(), None)
    assert whole is not None and cut is not None
    assert fed(whole, [data]) == fed(cut, chunked(data, cuts))


@pytest.mark.parametrize(
    ("operation", "told"),
    [
        ({"set": {"a": 1}, "remove": ["b"]}, "operations[0]: one operation is expected, here are 2"),
        ({"sett": {"a": 1}}, "operations[0].sett: Unexpected"),
        ({"set": {"a": "{who}"}}, "unknown variable {who}"),
        ({"set": {"a": ["x{"]}}, "a single { at character 1"),
        ({"system": {"text": "x", "mode": "before"}}, "operations[0].system.mode: Input should be"),
        ({"remove": ["a[*]"]}, "operations[0].remove[0]: 'a[*]': [*] is for answers"),
        ({"remove": [".a"]}, "'.a' is no path"),
        ({"remove": ["[0]"]}, "it starts with the name of a member"),
        ({"remove_from_answer": ["a[0]"]}, "the name of a member is expected at its end"),
        ({"clamp": {"n": {}}}, "operations[0].clamp.n: least or most is expected"),
        ({"clamp": {"n": {"least": 2, "most": 1}}}, "least is 2, above most, 1"),
        ({"max_tokens": {"most": 0}}, "most is 0"),
        ({"headers": {"a": "{header:a b}"}}, "names no header"),
        ({"headers": {"a b": "c"}}, "'a b' is no name of a header"),
        ({"headers": {"Host": "c"}}, "'Host' is the gateway's own"),
        ({"answer_headers": {"x-headgate-model": "c"}}, "'x-headgate-model' is the gateway's own"),
    ],
)
def test_errors_name_the_field(operation: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        stage(operation)
    assert told in str(caught.value)
    assert str(caught.value).startswith("test: operations[0]")


def test_an_event_without_end_passes_in_bounded_memory() -> None:
    stream = stage({"remove_from_answer": ["fp"]}).stream(asked(), None)
    assert stream is not None
    size = 0
    for _ in range(40):
        size += len(stream.feed(b'data: "' + b"x" * 1_000_000))
    assert size == 40 * 1_000_007 and stream.metadata == {"oversized_event": True} and stream.end() == b""

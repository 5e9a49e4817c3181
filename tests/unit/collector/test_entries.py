"""Lines of the access log: what Envoy really writes, and everything else."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from extproc.usage.entries import FORMAT, Entry, EntryError, parse, surface
from tests.unit.collector.given import fields, line

# Written by Envoy 1.40.0.
DIRECT = (
    b'{"answer":null,"at":"1795265755261838","attempts":0,"cluster":null,"details":"direct_response","first":208,'
    b'"flags":"-","from":"127.0.0.1","id":"3bbf6595-2e99-4af1-9767-294ea89b084c","in":0,"ms":0,"out":3,'
    b'"path":"/health","request":null,"status":200,"took":223,"type":"text/plain"}\n'
)
BROKEN_REQUEST = (
    b'{"answer":null,"at":"1795265757337380","attempts":0,"cluster":null,"details":"http1.codec_error","first":95,'
    b'"flags":"DPE","from":"127.0.0.1","id":null,"in":0,"ms":0,"out":11,"path":null,"request":null,"status":400,'
    b'"took":108,"type":"text/plain"}\n'
)
BYTES_OUT_OF_UTF8 = (  # sent by a client as the id and the model
    b'{"answer":null,"at":"1795265756332800","attempts":1,"cluster":"p","details":"via_upstream","first":516,'
    b'"flags":"-","from":"127.0.0.1","id":"\\u00ff\\u00fe\\u0080","in":29,"ms":0,"out":150,'
    b'"path":"/v1/chat/completions?x=1","request":"-o/t/alice;l;\\u000aw-\\u00ff","status":400,"took":533,"type":"a/b"}\n'
)
STREAM = (
    b'{"answer":"m\\n{\\"prompt_tokens\\":1,\\"completion_tokens\\":3}","at":"1795265758340759","attempts":2,"cluster":"p",'
    b'"details":"via_upstream","first":4967,"flags":"DC","from":"::1","id":"c7427d90","in":71,"ms":5,"out":1435,'
    b'"path":"/v1/chat/completions","request":"!o/t/alice;l;\\nm\\ncheap","status":200,"took":"-",'
    b'"type":"text/event-stream; charset=utf-8"}\n'
)


def test_a_request_that_was_answered_here() -> None:
    entry = parse(DIRECT)
    assert (entry.id, entry.at_us, entry.status) == ("3bbf6595-2e99-4af1-9767-294ea89b084c", 1795265755261838, 200)
    assert (entry.client, entry.model, entry.instead, entry.cluster, entry.attempts) == ("", "", "", "", 0)
    assert (entry.first_us, entry.took_us, entry.complete, entry.usage) == (208, 223, True, ())


def test_a_request_that_was_none() -> None:
    entry = parse(BROKEN_REQUEST)
    assert (entry.id, entry.surface, entry.model, entry.status) == ("", "", "", 400)


def test_bytes_that_are_no_utf8() -> None:
    entry = parse(BYTES_OUT_OF_UTF8)
    assert (entry.id, entry.client, entry.model, entry.surface) == (
        "\xff\xfe\x80", "o/t/alice;l;", "w-\xff", "chat/completions",
    )  # fmt: skip


def test_a_stream_that_the_client_left() -> None:
    entry = parse(STREAM)
    assert entry.streamed and not entry.complete
    assert (entry.client, entry.model, entry.instead) == ("o/t/alice;l;", "m", "cheap")
    assert (entry.answered_model, entry.usage) == ("m", ('{"prompt_tokens":1,"completion_tokens":3}',))
    assert (entry.took_us, entry.first_us, entry.attempts, entry.address) == (5000, 4967, 2, "::1")


def test_the_fields_are_those_that_envoy_is_told_to_write() -> None:
    assert sorted(fields()) == sorted(FORMAT)
    assert list(fields()) == sorted(fields()), "a torn line is told by the first field"


@pytest.mark.parametrize("name", sorted(FORMAT))
def test_a_field_may_be_null_but_the_time(name: str) -> None:
    if name == "at":
        with pytest.raises(EntryError):
            parse(line(**{name: None}))
    else:
        assert isinstance(parse(line(**{name: None})), Entry)


@pytest.mark.parametrize("name", sorted(FORMAT))
@pytest.mark.parametrize("wrong", [[], {}, True, [1], {"a": 1}, 1.5])
def test_a_value_of_another_type_never_gets_further(name: str, wrong: object) -> None:
    with pytest.raises(EntryError):
        parse(line(**{"took": None, name: wrong}))  # without it `ms` is looked at


@pytest.mark.parametrize("name", sorted(FORMAT))
def test_a_field_that_is_absent(name: str) -> None:
    found = fields(took=None)
    del found[name]
    with pytest.raises(EntryError, match=name):
        parse(orjson.dumps(found))


@pytest.mark.parametrize(
    "damaged", [b"", b"\n", b"{", line()[:-40], b"null", b"[]", b"7", b"\xff", b'{"at":', b"\0" * 99]
)
def test_damaged_lines(damaged: bytes) -> None:
    with pytest.raises(EntryError):
        parse(damaged)


@pytest.mark.parametrize("cut", range(1, len(line()) - 2, 7))
def test_no_part_of_a_line_is_an_entry(cut: int) -> None:
    with pytest.raises(EntryError):
        parse(line()[:cut])


@pytest.mark.parametrize("number", [b"1e999", b"-1", b"99999999999999999999999", b"1e3", b"[]"])
def test_counts_that_are_none(number: bytes) -> None:
    with pytest.raises(EntryError):
        parse(line().replace(b'"attempts":1', b'"attempts":' + number))


def test_an_error_quotes_little() -> None:
    with pytest.raises(EntryError) as caught:
        parse(line(at="x" * 10_000))
    assert len(str(caught.value)) < 200


def test_a_clock_that_went_back_makes_no_negative_time() -> None:
    entry = parse(line(first=-5, took=-7))
    assert (entry.first_us, entry.took_us) == (0, 1000)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/chat/completions", "chat/completions"),
        ("/openai/deployments/x/chat/completions?api-version=1", "chat/completions"),
        ("/v1/embeddings", "embeddings"),
        ("/v1/audio/speech/", "audio/speech"),
        ("/", ""),
        ("", ""),
        ("messages", "messages"),
        ("/chat", "chat"),
    ],
)
def test_surfaces(path: str, expected: str) -> None:
    assert surface(path) == expected


_json: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(FORMAT)), _json, max_size=4))
@example({"at": "٣"})
@example({"at": "1" * 5000})
@example({"first": "x"})
def test_only_entries_and_entry_errors(changes: dict[str, Any]) -> None:

    _parsed(json.dumps(fields(**changes)).encode())


@given(st.binary(max_size=200) | st.builds(lambda a, b: a + b, st.binary(max_size=5), st.just(line())))
def test_only_entries_and_entry_errors_of_bytes(content: bytes) -> None:
    _parsed(content)


@given(st.text(max_size=30), st.text(max_size=30))
def test_odd_names_stay_apart(client: str, model: str) -> None:
    try:
        entry = parse(line(request=f"-{client}\n{model}"))
    except (EntryError, TypeError):
        return  # half of a surrogate pair cannot be written
    if "\n" not in client + model:
        assert (entry.client, entry.model, entry.instead) == (client, model, "")


def _parsed(content: bytes) -> None:
    try:
        entry = parse(content)
    except EntryError:
        return
    texts = (entry.id, entry.client, entry.model, entry.instead, entry.cluster, entry.content_type, entry.surface)
    numbers = (entry.at_us, entry.attempts, entry.status, entry.took_us, entry.bytes_in, entry.bytes_out)
    assert all(type(text) is str for text in (*texts, *entry.usage))
    assert all(type(number) is int for number in numbers)
    assert min(numbers[1:]) >= 0
    assert entry.first_us is None or entry.first_us >= 0
    assert type(entry.streamed) is bool

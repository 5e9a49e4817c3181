"""Lines of the access log: what Envoy really writes, and everything else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.usage.entries import BEGIN, END, FIELDS, SEPARATOR, Entry, EntryError, parse, surface
from tests.unit.collector.given import fields, line


def written(*texts: str) -> bytes:
    return f"{BEGIN}{SEPARATOR.join(texts)}{END}".encode("latin-1")


# Written by Envoy 1.40.0.
DIRECT = written(
    "3bbf6595-2e99-4af1-9767-294ea89b084c", "1795265755261838", "-", "0", "200", "-", "direct_response", "/health",
    "text/plain", "208", "223", "0", "0", "3", "127.0.0.1", "-",
)  # fmt: skip
BROKEN_REQUEST = written(
    "-", "1795265757337380", "-", "0", "400", "DPE", "http1.codec_error", "-", "text/plain", "95", "108", "0", "0",
    "11", "127.0.0.1", "-",
)  # fmt: skip
BYTES_OUT_OF_UTF8 = written(  # sent by a client as the id and the model
    "\xff\xfe\x80", "1795265756332800", "p", "1", "400", "-", "via_upstream", "/v1/chat/completions", "a/b", "516",
    "533", "0", "29", "150", "127.0.0.1", "o/t/alice;l;", "w-\xff", "", "",
)  # fmt: skip
STREAM = written(
    "c7427d90", "1795265758340759", "p", "2", "200", "DC", "via_upstream", "/v1/chat/completions",
    "text/event-stream; charset=utf-8", "4967", "-", "5", "71", "1435", "::1", "o/t/alice;l;", "m", "cheap", "m",
    '{"prompt_tokens":1,"completion_tokens":3}',
)  # fmt: skip


def test_a_request_that_was_answered_here() -> None:
    entry = parse(DIRECT)
    assert (entry.id, entry.at_us, entry.course.status) == (
        "3bbf6595-2e99-4af1-9767-294ea89b084c",
        1795265755261838,
        200,
    )
    assert (
        entry.names.client,
        entry.names.model,
        entry.names.instead,
        entry.course.cluster,
        entry.course.attempts,
    ) == ("", "", "", "", 0)
    assert (entry.first_us, entry.took_us, entry.course.complete, entry.usage) == (208, 223, True, ())


def test_a_request_that_was_none() -> None:
    entry = parse(BROKEN_REQUEST)
    assert (entry.id, entry.course.surface, entry.names.model, entry.course.status) == ("", "", "", 400)


def test_bytes_that_are_no_utf8() -> None:
    entry = parse(BYTES_OUT_OF_UTF8)
    assert (entry.names.client, entry.names.model, entry.course.surface) == (
        "o/t/alice;l;",
        "w-\ufffd",
        "chat/completions",
    )
    assert entry.id == "\ufffd" * 3


def test_a_stream_that_the_client_left() -> None:
    entry = parse(STREAM)
    assert entry.course.streamed and not entry.course.complete
    assert (entry.names.client, entry.names.model, entry.names.instead) == ("o/t/alice;l;", "m", "cheap")
    assert (entry.names.answered, entry.usage) == ("m", ('{"prompt_tokens":1,"completion_tokens":3}',))
    assert (entry.took_us, entry.first_us, entry.course.attempts, entry.address) == (5000, 4967, 2, "::1")


def test_a_model_may_be_named_like_nothing() -> None:
    assert parse(line(model="-")[:-1]).names.model == "-"


NAMES = [name for name, _ in FIELDS]


def test_the_fields_are_those_that_envoy_is_told_to_write() -> None:
    assert list(fields())[: len(NAMES)] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_field_may_be_unknown_but_the_time(name: str) -> None:
    content = line(**{name: None})[:-1]
    if name == "at":
        with pytest.raises(EntryError):
            parse(content)
    else:
        assert isinstance(parse(content), Entry)


@pytest.mark.parametrize("name", ["at", "attempts", "status", "first", "took", "ms", "in", "out"])
@pytest.mark.parametrize("wrong", ["x", "1.5", "1e3", "٣x", "", "1" * 5000, "0x1", "+"])
def test_what_is_no_number_never_gets_further(name: str, wrong: str) -> None:
    if wrong == "" and name != "at":
        return
    with pytest.raises(EntryError):
        parse(line(**{"took": None, name: wrong})[:-1])  # without it `ms` is looked at


@pytest.mark.parametrize("name", ["attempts", "status", "ms", "in", "out"])
@pytest.mark.parametrize("wrong", ["-1", "99999999999999999999999", "٣", "²"])
def test_counts_that_are_none(name: str, wrong: str) -> None:
    with pytest.raises(EntryError):
        parse(line(**{"took": None, name: wrong})[:-1])


@pytest.mark.parametrize("damaged", [b"", b"\x1e", b"\x1e\x1d", b"\x1d\x1e", b"{", line()[:-40], b"\xff", b"\0" * 99])
def test_damaged_lines(damaged: bytes) -> None:
    with pytest.raises(EntryError):
        parse(damaged)


@pytest.mark.parametrize("cut", range(1, len(line()) - 2))
def test_no_part_of_a_line_is_an_entry(cut: int) -> None:
    for part in (line()[:cut], line()[cut:-1]):
        with pytest.raises(EntryError):
            parse(part)


@pytest.mark.parametrize("left", ["", "alice", "alice\x1fm", "alice\x1fm\x1f"])
def test_what_was_left_has_all_its_parts(left: str) -> None:
    with pytest.raises(EntryError, match="fewer parts"):
        parse(DIRECT[:-2] + left.encode() + DIRECT[-1:])


def test_an_error_quotes_little() -> None:
    with pytest.raises(EntryError) as caught:
        parse(line(at="x" * 10_000)[:-1])
    assert len(str(caught.value)) < 200


def test_a_clock_that_went_back_makes_no_negative_time() -> None:
    entry = parse(line(first=-5, took=-7)[:-1])
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


texts = st.none() | st.integers(-(2**70), 2**70).map(str) | st.text(max_size=20)


@given(st.dictionaries(st.sampled_from(list(fields())), texts, max_size=4))
def test_only_entries_and_entry_errors(changes: dict[str, str | None]) -> None:
    try:
        _parsed(line(**changes)[:-1])
    except UnicodeEncodeError:
        return  # half of a surrogate pair cannot be written


@given(st.binary(max_size=200) | st.builds(lambda a, b: a + b, st.binary(max_size=5), st.just(line())))
def test_only_entries_and_entry_errors_of_bytes(content: bytes) -> None:
    _parsed(content)


def _parsed(content: bytes) -> None:
    try:
        entry = parse(content)
    except EntryError:
        return
    texts = (
        entry.id,
        entry.names.client,
        entry.names.model,
        entry.names.instead,
        entry.course.cluster,
        entry.course.content_type,
        entry.course.surface,
    )
    numbers = (entry.at_us, entry.course.attempts, entry.course.status, entry.took_us, entry.bytes_in, entry.bytes_out)
    assert all(type(text) is str for text in (*texts, *entry.usage))
    assert all(type(number) is int for number in numbers)
    assert min(numbers[1:]) >= 0
    assert entry.first_us is None or entry.first_us >= 0
    assert type(entry.course.streamed) is bool

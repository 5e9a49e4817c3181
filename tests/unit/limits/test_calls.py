"""What Envoy sends, as it is, and as it should never be."""

import pytest
from envoy.service.ratelimit.v3 import rls_pb2 as rls
from hypothesis import given
from hypothesis import strategies as st

from extproc.limits.calls import Asked, CallError, Done, Held, Ticket, parse, read_ticket, write_ticket

_HELD = st.builds(Held, st.text(), st.text(), st.integers(0, 2**61), st.integers(0, 2**60), st.booleans())


def call(*descriptors: tuple[dict[str, str], int | None]) -> rls.RateLimitRequest:
    made = rls.RateLimitRequest(domain="headgate")
    for entries, hits in descriptors:
        descriptor = made.descriptors.add()
        for key, value in entries.items():
            descriptor.entries.add(key=key, value=value)
        if hits is not None:
            descriptor.hits_addend.value = hits
    return made


def test_the_limits_of_a_request() -> None:
    sized = {"limit": "t", "who": "alice;t;", "model": "m", "bytes": "300", "cap": "77"}
    asked = parse(call((sized, None), ({"limit": "a", "remote_address": "10.0.0.1"}, None), ({"limit": "g"}, None)))
    assert asked == (
        Asked("t", "alice;t;", "m", 300, 77),
        Asked("a", "10.0.0.1", "", None, None),
        Asked("g", "", "", None, None),
    )


def test_a_limit_that_is_named_twice_counts_once() -> None:
    assert parse(call(({"limit": "g"}, None), ({"limit": "g"}, None))) == (Asked("g", "", "", None, None),)


@pytest.mark.parametrize(
    ("text", "number"),
    [("", None), ("-5", None), ("1e9", None), ("٣", None), ("7", 7), ("9" * 30, 100_000_000), ("0", 0)],
)
def test_a_cap_is_what_the_client_says_if_it_is_a_number(text: str, number: int | None) -> None:
    (asked,) = parse(call(({"limit": "t", "cap": text}, None)))  # type: ignore[misc]
    assert asked == Asked("t", "", "", None, number)


def test_the_end_of_a_stream() -> None:
    counts = {"status": 200, "total_tokens": 42, "input_tokens": 0, "output_tokens": 10**9}
    done = parse(call(*(({"ticket": "T", "count": what}, number) for what, number in counts.items())))
    assert done == Done("T", 200, {"total_tokens": 42})


def test_an_answer_that_never_began() -> None:
    assert parse(call(({"ticket": "T", "count": "status"}, 0))) == Done("T", 0, {})


def test_calls_that_are_none() -> None:
    for wrong in (call(), call(({"key": "value"}, None))):
        with pytest.raises(CallError):
            parse(wrong)


@given(st.text(), st.text(), st.lists(_HELD))
def test_a_ticket_is_read_as_it_was_written(name: str, model: str, held: list[Held]) -> None:
    ticket = Ticket(name, model, tuple(held))
    assert read_ticket(write_ticket(ticket)) == ticket


@given(st.text())
def test_a_ticket_of_others_is_an_error(text: str) -> None:
    with pytest.raises(CallError):
        read_ticket(text)

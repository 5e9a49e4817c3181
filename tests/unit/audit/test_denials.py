"""Denials are counted, whatever their number, in a bounded number of entries."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from controlplane.audit.denials import Denial, Denials
from controlplane.audit.entry import Actor, Event

short = st.sampled_from(["", "a", "b", "c"])
denials = st.builds(Denial, short, st.sampled_from(["rate_limit_exceeded", "model_not_allowed"]), short, short)


def counted(events: tuple[Event, ...]) -> int:
    return sum(int(str(event.details["count"])) for event in events)


@given(st.lists(st.tuples(denials, st.floats(0, 40), st.integers(1, 9))), st.integers(1, 8))
def test_none_is_lost_and_each_kind_comes_once_a_minute(steps: list[tuple[Denial, float, int]], pairs: int) -> None:
    counts, now_s, last = Denials(60, pairs), 1000.0, dict[tuple[str, ...], float]()
    given_, got = 0, 0
    for denial, wait_s, count in steps:
        now_s += wait_s
        counts.add(denial, now_s, count)
        given_ += count
        events = counts.due(now_s)
        assert len(events) <= pairs + 1
        for event in events:
            kind = (event.actor.name, event.actor.source, event.target, str(event.details.get("reason")))
            assert now_s - last.get(kind, 0) >= 60
            last[kind] = now_s
        got += counted(events)
    assert got + counted(counts.drain(now_s)) == given_
    assert counts.drain(now_s) == counts.due(now_s + 100) == ()


@given(st.lists(denials))
def test_counts_are_exact_while_there_is_room(steps: list[Denial]) -> None:
    counts = Denials()
    for denial in steps:
        counts.add(denial, 5)
    found = {
        Denial(e.actor.name, str(e.details["reason"]), e.target, e.actor.source): e.details["count"]
        for e in counts.due(65)
    }
    assert found == Counter(steps)


def test_what_an_entry_says() -> None:
    counts = Denials(60, pairs=1)
    counts.add(Denial("alice", "rate_limit_exceeded", "gpt-4o", "10.0.0.9"), 100, 3)
    counts.add(Denial("bob", "rate_limit_exceeded", "x" * 1000, "10.0.0.8"), 130, 2)
    assert counts.due(159.9) == ()
    first, others = counts.due(160)
    assert (first.actor, first.action, first.target) == (
        Actor("client", "alice", "10.0.0.9"), "request.denied", "gpt-4o"
    )  # fmt: skip
    assert first.details == {"reason": "rate_limit_exceeded", "count": 3, "seconds": 60}
    assert (others.target, others.details) == ("others", {"count": 2, "seconds": 60})


def test_names_that_clients_choose_are_cut_and_masked() -> None:
    counts = Denials()
    counts.add(Denial("alice", "model_not_found", "y " * 10_000, ""), 0)
    counts.add(Denial("alice", "model_not_found", "sk-proj-0123456789abcdefghij", ""), 0)
    assert [event.target for event in counts.drain(1)] == ["y " * 64, "[redacted]"]

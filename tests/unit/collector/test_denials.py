"""Denials are counted, whatever their number, in a bounded number of entries, and none is lost."""

from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.audit.denials import events
from controlplane.audit.entry import Actor
from extproc.usage import denials as module
from extproc.usage.denials import Denial, Denials, denial
from extproc.usage.entries import parse
from tests.unit.collector.given import Place, drained, line

NOWHERE = Path("/nonexistent/denials.json")
short = st.sampled_from(["", "a", "b", "c"])
found = st.builds(Denial, short, st.sampled_from(["rate_limit_exceeded", "model_not_allowed"]), short, short)


def refused(**changes: object) -> bytes:
    return line(0, **({"attempts": 0, "cluster": None, "answered": "", "usage": None} | changes))


def reason(**changes: object) -> str | None:
    made = denial(parse(refused(**changes)))
    return made.reason if made else None


@given(st.lists(found), st.integers(1, 8))
def test_none_is_lost_and_kinds_are_bounded(steps: list[Denial], kinds: int) -> None:
    counts = Denials(NOWHERE, kinds)
    for each in steps:
        counts.add(each, 5.0)
    told = counts.take(65.0)
    assert len(told["counts"]) <= kinds
    assert sum(each["count"] for each in told["counts"]) + told["others"] == len(steps)
    if len(set(steps)) <= kinds:
        assert {Denial(*(each[name] for name in Denial._fields)): each["count"] for each in told["counts"]} == Counter(
            steps
        )
    assert len(events(told)) <= kinds + 1


def test_why_a_request_was_refused() -> None:
    assert reason(status=401) == "invalid_api_key"
    assert reason(status=403, details="rbac_access_denied_matched_policy[model-not-allowed]") == "model_not_allowed"
    assert reason(status=403, details="rbac_access_denied_matched_policy[address-not-allowed]") == "address_not_allowed"
    assert reason(status=429, details="local_rate_limited") == "rate_limit_exceeded"
    assert reason(status=429, details="lua_response", answered="insufficient_quota") == "insufficient_quota"
    assert reason(status=429, attempts=1, cluster="openai") is None  # the provider's own
    assert (reason(status=200), reason(status=404), reason(status=503)) == (None, None, None)


def test_what_an_entry_says() -> None:
    counts = Denials(NOWHERE, kinds=1)
    for _ in range(3):
        counts.add(Denial("alice", "rate_limit_exceeded", "gpt-4o", "10.0.0.9"), 100.0)
    counts.add(Denial("bob", "rate_limit_exceeded", "m", "10.0.0.8"), 130.0)
    assert (counts.due(159.9), counts.due(160.0)) == (False, True)
    first, others = events(counts.take(160.0))
    assert (first.actor, first.action, first.target) == (
        Actor("client", "alice", "10.0.0.9"), "request.denied", "gpt-4o"
    )  # fmt: skip
    assert first.details == {"reason": "rate_limit_exceeded", "count": 3, "seconds": 60}
    assert (others.target, others.details) == ("others", {"count": 1, "seconds": 60})


@pytest.mark.parametrize("told", [{}, {"version": 2}, {"version": 1, "counts": [1], "others": 0, "seconds": 1}])
def test_what_is_no_document_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises((KeyError, ValueError, TypeError)):
        events(told)


def test_a_file_that_nobody_takes_costs_no_count(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INTERVAL_S", 0.0)
    collector = place.collector()

    def told() -> int:
        return sum(each["count"] for each in orjson.loads(place.paths.denials.read_bytes())["counts"])

    place.append(refused(status=401), line(1))
    drained(collector)
    collector.finish()
    assert told() == 1
    place.append(refused(status=401), refused(status=403))
    drained(collector)
    collector.finish()
    assert told() == 1
    place.paths.denials.unlink()
    collector.finish()
    assert told() == 2

"""Usage records for tests: from a few values, at random, and their sums in plain Python."""

from collections.abc import Iterable
from decimal import Decimal

from hypothesis import strategies as st

from extproc.usage.record import Tokens, UsageRecord

# 2026-05-01T00:00:00Z
MAY_1 = 1_777_593_600_000_000
SECOND = 1_000_000


def record(number: int, at_us: int = MAY_1, **changes: object) -> UsageRecord:
    """A finished request that cost 1,500 picodollars."""
    values: dict[str, object] = {
        "id": f"request-{number}",
        "at_us": at_us,
        "key": "alice",
        "team": "search",
        "organization": "acme",
        "model": "smart",
        "provider": "openai",
        "served_model": "gpt-4o",
        "surface": "chat/completions",
        "attempts": 1,
        "status": 200,
        "tokens": Tokens(input=10, output=5, cached=2, cache_write=1, reasoning=3),
        "estimated": False,
        "cost_pico": 1500,
        "first_byte_us": 200_000,
        "duration_us": 1_000_000,
        "bytes_in": 100,
        "bytes_out": 400,
        "streamed": True,
        "complete": True,
        "cache_hit": False,
    }
    return UsageRecord(**(values | changes))  # type: ignore[arg-type]


_counts = st.integers(0, 10**7)
_tokens = st.builds(Tokens, _counts, _counts, _counts, _counts, _counts)


def records(first_us: int = MAY_1, last_us: int = MAY_1 + 3 * 86_400 * SECOND) -> st.SearchStrategy[UsageRecord]:
    """Any record within a range of time; ids are few, so that some occur twice."""
    return st.builds(
        record,
        st.integers(0, 60),
        st.integers(first_us, last_us),
        key=st.sampled_from(["alice", "bob", ""]),
        team=st.sampled_from(["search", ""]),
        model=st.sampled_from(["smart", "llama-3", "na\0me \ud800"]),
        provider=st.sampled_from(["openai", "farm", ""]),  # the last: out of the cache
        status=st.sampled_from([200, 400, 503, 0]),
        tokens=_tokens,
        estimated=st.booleans(),
        cost_pico=st.none() | st.integers(0, 10**14),
        first_byte_us=st.none() | st.integers(0, 10**9),
        duration_us=st.integers(0, 2 * 10**9),
        complete=st.booleans(),
    )


def sums(found: Iterable[UsageRecord]) -> dict[str, object]:
    """What a row of usage is to say of these records; latencies left out."""
    rows = list(found)
    priced = [r.cost_pico for r in rows if r.cost_pico is not None]
    return {
        "requests": len(rows),
        "errors": sum(r.status >= 400 or r.status == 0 for r in rows),
        "input_tokens": sum(r.tokens.input for r in rows),
        "output_tokens": sum(r.tokens.output for r in rows),
        "cached_tokens": sum(r.tokens.cached for r in rows),
        "cache_write_tokens": sum(r.tokens.cache_write for r in rows),
        "reasoning_tokens": sum(r.tokens.reasoning for r in rows),
        "cost": Decimal(sum(priced)).scaleb(-12) if priced else None,
        "unpriced": len(rows) - len(priced),
        "estimated": sum(r.estimated for r in rows),
        "abandoned": sum(not r.complete for r in rows),
        "cache_hits": sum(r.provider == "" for r in rows),
    }

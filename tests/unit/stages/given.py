"""What the stages' tests share: requests, chunkings, and a stopwatch that is generous."""

import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from extproc.stages.protocol import Endpoint, Request, Stream

NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
CHAT = {
    "model": "gpt-4o-mini",
    "messages": [{"role": "system", "content": "You are terse."}, {"role": "user", "content": "Why is the sea blue?"}],
    "temperature": 0.7,
}


def asked(body: Any = CHAT, endpoint: Endpoint = Endpoint.CHAT, **more: Any) -> Request:
    raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    return Request(endpoint, raw, **{"model": "m", "key": "alice", "team": "red", "now": NOW} | more)


def chunked(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


def fed(stream: Stream, chunks: list[bytes]) -> bytes:
    out = b"".join([stream.feed(chunk) for chunk in chunks]) + stream.end()
    assert stream.end() == b""
    return out


CUTS = st.lists(st.integers(0, 10_000), max_size=12)

"""Vectors that gateways share by a real Redis: each sees what others store, and nothing that is gone."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from extproc.cache import shared_vectors
from extproc.cache.memory import Place, Vectored
from extproc.cache.nearest import unit
from extproc.cache.redis_store import RedisStore
from extproc.cache.shared_vectors import SharedVectors
from tests.support.redis import RedisServer, redis_server

_NOW = 1_700_000_000.0


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


class Node:
    """The part of a gateway that is asked."""

    def __init__(self, server: RedisServer, most_bytes: int = 1 << 20) -> None:
        self.now = _NOW
        self.store = RedisStore(server.url)
        self.vectors = SharedVectors(self.store, most_bytes, lambda: self.now)

    async def keep(self, number: int, x: float, y: float, *, rule: str = "r", group: bytes = b"g") -> Place:
        place = Place(rule, number.to_bytes(32))
        assert await self.store.put(place, b"answer %d" % number, 60)
        await self.vectors.put(place, Vectored(group, unit([x, y])), 60)
        return place

    async def alike(self, x: float, y: float, *, rule: str = "r", group: bytes = b"g", least: float = 0.9) -> bytes:
        found = await self.vectors.alike(rule, Vectored(group, unit([x, y])), least)
        return found[0] if found else b""


@asynccontextmanager
async def _nodes(redis: RedisServer, number: int = 2) -> AsyncIterator[list[Node]]:
    with redis.client() as client:
        client.flushall()
    nodes = [Node(redis) for _ in range(number)]
    try:
        yield nodes
    finally:
        for node in nodes:
            await node.store.close()


async def test_each_sees_what_the_other_stores(redis: RedisServer) -> None:
    async with _nodes(redis) as (one, other):
        assert await other.alike(1, 0) == b""
        await one.keep(1, 1, 0)
        await one.keep(2, 0, 1)
        assert [await node.alike(0.99, 0.05) for node in (one, other)] == [b"answer 1"] * 2
        await other.keep(3, 0.7, 0.7)
        assert await one.alike(0.69, 0.71) == b"answer 3"
        assert await one.alike(-1, 0) == b""


async def test_rules_and_groups_are_apart(redis: RedisServer) -> None:
    async with _nodes(redis) as (one, other):
        await one.keep(1, 1, 0)
        assert await other.alike(1, 0, rule="another") == b""
        assert await other.alike(1, 0, group=b"another") == b""


async def test_what_is_gone_is_not_found(redis: RedisServer) -> None:
    async with _nodes(redis) as (one, other):
        place = await one.keep(1, 1, 0)
        await one.keep(2, 0.95, 0.1)
        assert await other.alike(1, 0) == b"answer 1"
        with redis.client() as client:
            assert client.delete(f"headgate:cache:r:{place.key.hex()}") == 1
        assert await other.alike(1, 0) == b"answer 2", "the next nearest one is"
        other.now += 61
        assert await other.alike(1, 0) == b""
        assert other.vectors.size == 0


async def test_a_rule_is_cleared_for_all(redis: RedisServer) -> None:
    async with _nodes(redis) as (one, other):
        await one.keep(1, 1, 0)
        await one.keep(2, 1, 0, rule="another")
        assert await other.alike(1, 0) == b"answer 1"
        assert await one.store.clear("r") == 1
        await one.vectors.clear("r")
        assert [await node.alike(1, 0) for node in (one, other)] == [b"", b""]
        assert await other.alike(1, 0, rule="another") == b"answer 2"


async def test_another_model_begins_anew(redis: RedisServer) -> None:
    async with _nodes(redis) as (one, other):
        await one.keep(1, 1, 0)
        longer = Vectored(b"g", unit([1.0, 0.0, 0.0]))
        assert await other.vectors.alike("r", longer, 0.9) is None
        place = Place("r", (2).to_bytes(32))
        await one.store.put(place, b"longer", 60)
        await one.vectors.put(place, longer, 60)
        assert await other.vectors.alike("r", longer, 0.9) == (b"longer", pytest.approx(1))
        assert await other.alike(1, 0) == b""


async def test_what_others_write_there_is_passed_over(redis: RedisServer) -> None:
    async with _nodes(redis) as (one, other):
        with redis.client() as client:
            client.xadd(f"headgate:cache-vectors:r:{b'g'.hex()}", {"k": "x", "v": "abc", "e": "1"})
            client.xadd(f"headgate:cache-vectors:r:{b'g'.hex()}", {"something": "else"})
        await one.keep(1, 1, 0)
        assert await other.alike(1, 0) == b"answer 1"


async def test_copies_are_bounded(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_vectors, "_MOST", 50)
    async with _nodes(redis) as (one, _):
        for number in range(120):
            await one.keep(number, 1, number / 10)
        copy_bytes = 50 * (4 * 2 + 200)
        other = Node(redis, most_bytes=copy_bytes)
        assert await other.alike(1, 11.9, least=0.99) == b"answer 119"
        assert other.vectors.size == copy_bytes
        await one.keep(200, 1, 0, group=b"h")
        assert await other.alike(1, 0, group=b"h") == b"answer 200"
        assert other.vectors.size < copy_bytes, "what was not asked for longest is let go of"
        assert await other.alike(1, 11.9, least=0.99) == b"answer 119", "and read again when it is"
        await other.store.close()

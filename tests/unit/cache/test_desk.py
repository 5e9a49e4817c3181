"""The desk without sockets: who leads, who waits, and what comes of a failure."""

import asyncio
from collections.abc import Hashable
from typing import Any

import pytest

from extproc.cache.desk import Desk, Find, Near, Said
from extproc.cache.embeddings import EmbeddingError, Wanted
from extproc.cache.memory import MemoryStore, Place
from extproc.cache.nearest import Vector, unit
from extproc.cache.redis_store import RedisStore
from tests.support.redis import RedisServer, redis_server

_VECTORS = {"one": [1.0, 0.0], "nearly one": [0.99, 0.05], "two": [0.0, 1.0]}
_PLACE = Place("r", bytes(32))


class Source:
    asked = 0
    away = False

    async def of(self, wanted: Wanted) -> Vector:
        self.asked += 1
        if self.away:
            raise EmbeddingError("away")
        return unit(_VECTORS[wanted.text])


class Room:
    """A desk, what it told, and its clock."""

    def __init__(self, redis: RedisStore | None = None) -> None:
        self.now = 100.0
        self.told: list[tuple[Hashable, Said]] = []
        self.source = Source()
        memory = MemoryStore(1 << 20, lambda: self.now)
        self.desk = Desk(memory, redis, self.source, lambda who, said: self.told.append((who, said)), lambda: self.now)

    async def find(self, who: str, find: Find) -> Said:
        return self.desk.find_at_once(who, find) or await self.desk.find(who, find)


def _find(*, shared: bool = False, lead: bool = True, text: str | None = None, number: int = 0) -> Find:
    near = None if text is None else Near(b"g", Wanted(text, "m", None, "alice"), 0.9)
    return Find(Place("r", number.to_bytes(32)), shared, lead, near)


async def test_one_leads_the_others_have_what_it_keeps() -> None:
    room = Room()
    said = [(await room.find(who, _find())).how for who in "abc"]
    assert said == ["lead", "wait", "wait"]
    room.desk.keep("a", _PLACE, b"answer", 60)
    assert room.told == [("b", Said("hit", b"answer")), ("c", Said("hit", b"answer"))]
    assert await room.find("d", _find()) == Said("hit", b"answer")
    shown = await room.desk.show()
    assert shown["rules"] == [
        {"rule": "r", "hits": 3, "similar": 0, "misses": 1, "stored": 1, "waited": 2, "entries": 1, "redis_entries": 0}
    ]


async def test_when_the_first_one_leaves_the_next_one_leads() -> None:
    room = Room()
    for who in "abc":
        await room.find(who, _find())
    room.desk.leave("b")
    room.desk.leave("a")
    assert room.told == [("c", Said("lead"))]
    room.desk.leave("a")
    room.desk.leave("c")
    assert (await room.find("d", _find())).how == "lead"


async def test_who_would_not_store_leads_nobody() -> None:
    room = Room()
    assert [(await room.find(who, _find(lead=False))).how for who in "ab"] == ["lead", "lead"]
    assert (await room.find("c", _find())).how == "lead"


async def test_texts_that_are_alike_have_one_answer() -> None:
    room = Room()
    assert (await room.find("a", _find(text="one"))).how == "lead"
    room.desk.keep("a", _PLACE, b"answer", 60)
    said = await room.find("b", _find(text="nearly one", number=1))
    assert (said.how, said.stored) == ("hit", b"answer")
    assert said.similarity == pytest.approx(0.9987, abs=1e-3)
    assert (await room.find("c", _find(text="two", number=2))).how == "lead"
    assert room.source.asked == 3
    assert await room.find("d", _find(text="one")) == Said("hit", b"answer")  # equal: nobody is asked
    assert room.source.asked == 3


async def test_who_waits_for_an_equal_text_has_the_answer_that_is_alike() -> None:
    room = Room()
    await room.find("a", _find(text="one"))
    room.desk.keep("a", _PLACE, b"answer", 60)
    leading = _find(text="nearly one", number=1)
    finding = room.desk.find("b", leading)
    assert (await finding).how == "hit"
    assert (await room.find("c", leading)).how == "hit"


async def test_without_embeddings_it_goes_on_and_does_not_ask_at_once_again() -> None:
    room = Room()
    room.source.away = True
    assert (await room.find("a", _find(text="one"))).how == "lead"
    assert (await room.find("b", _find(text="two", number=1))).how == "lead"
    assert room.source.asked == 1
    assert (await room.desk.status())["embeddings"] == "away"
    room.source.away, room.now = False, room.now + 2
    assert (await room.find("c", _find(text="two", number=2))).how == "lead"
    assert (await room.desk.status())["embeddings"] == "here"


async def test_clearing_is_by_rule() -> None:
    room = Room()
    for number, rule in enumerate("rrs"):
        room.desk.keep("a", Place(rule, number.to_bytes(32)), b"x", 60)
    assert await room.desk.clear("r") == {"cleared": 2, "redis": "unused"}
    assert await room.desk.clear(None) == {"cleared": 1, "redis": "unused"}


async def test_redis_has_what_it_is_given_until_it_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extproc.cache.redis_store._TIMEOUT_S", 30.0)  # however busy the machine
    with redis_server() as server:
        store = RedisStore(server.url)
        room = Room(store)
        try:
            await _with_redis(room, server)
        finally:
            await store.close()


async def _with_redis(room: Room, server: RedisServer) -> None:
    desk: Any = room.desk
    assert [(await room.find(who, _find(shared=True))).how for who in "ab"] == ["lead", "wait"]
    await desk.keep_shared("a", _PLACE, b"answer", 60)
    assert room.told == [("b", Said("hit", b"answer"))]
    assert await room.find("c", _find(shared=True)) == Said("hit", b"answer")
    assert (await desk.show())["rules"][0]["redis_entries"] == 1
    with server.client() as client:
        client.set("headgate:cache:rr:00", "another rule's")
        client.set("headgate:counter", "not of the cache")
    assert await desk.clear("r") == {"cleared": 1, "redis": "here"}
    await desk.keep_shared("x", _PLACE, b"answer", 60)
    assert (await desk.clear(None))["cleared"] == 2
    server.stop()
    assert (await room.find("d", _find(shared=True))).how == "lead"
    await desk.keep_shared("d", _PLACE, b"answer", 60)
    assert (await desk.status())["redis"] == "away"
    assert await desk.clear(None) == {"cleared": 0, "redis": "away"}
    server.start()
    async with asyncio.timeout(30):
        while (await desk.status())["redis"] == "away":  # noqa: ASYNC110 - it is another process that comes back
            await asyncio.sleep(0.01)
    await desk.keep_shared("e", _PLACE, b"back", 60)
    assert await room.find("f", _find(shared=True)) == Said("hit", b"back")

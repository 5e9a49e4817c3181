"""A worker and the store over a real socket: many calls at once, connections that end, a store that is away."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from extproc.cache import client as module
from extproc.cache.client import Client, Seat
from extproc.cache.desk import Desk
from extproc.cache.embeddings import Embeddings
from extproc.cache.memory import MemoryStore
from extproc.cache.service import Service
from extproc.server.asking import Others
from extproc.server.chain import Asking
from extproc.stages.cache import Await, Find, Found


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is there is waited for, however busy the machine."""
    monkeypatch.setattr(module, "_ASK_S", 30.0)


@asynccontextmanager
async def _store(folder: Path) -> AsyncIterator[Service]:
    service, source = Service(str(folder / "cache.sock")), Embeddings(str(folder / "inside.sock"))
    service.desk = Desk(MemoryStore(1 << 20, time.monotonic), None, source, service.tell, time.monotonic)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()
        await source.close()


@asynccontextmanager
async def _client(service: Service) -> AsyncIterator[Client]:
    client = Client(service.socket)
    try:
        yield client
    finally:
        client.close()


def _find(number: int = 0, *, read: bool = True) -> Find:
    return Find("memory", number.to_bytes(32), read, lead=True, near=None)


async def _asked(client: Client, number: int = 0) -> bytes | Seat:
    """What is stored, or the right to store something, once there is one or the other."""
    found = await client.find("r", _find(number))
    if found is not None and found.waits and isinstance(found.ticket, Seat):
        found = await client.landed(found.ticket)
    assert found is not None
    if found.stored is not None:
        return found.stored
    assert isinstance(found.ticket, Seat)
    return found.ticket


async def _until(look: Callable[[], Awaitable[object]]) -> None:
    """Looks until there is something."""
    async with asyncio.timeout(30):
        while not await look():  # noqa: ASYNC110 - another process's doing, in part
            await asyncio.sleep(0.005)


async def _waiting(service: Service, number: int) -> None:
    async def enough() -> bool:
        return service.desk.counts.waited["r"] >= number

    await _until(enough)


@pytest.mark.usefixtures("patient")
async def test_64_that_ask_for_the_same_have_one_answer(tmp_path: Path) -> None:
    async with _store(tmp_path) as service, _client(service) as one, _client(service) as two:
        seat = await _asked(one)
        assert isinstance(seat, Seat)
        asking = [asyncio.create_task(_asked(each)) for each in (one, two) for _ in range(32)]
        await _waiting(service, 64)
        await asyncio.to_thread(seat.keep, b"answer" * 50_000, 60)
        assert await asyncio.gather(*asking) == [b"answer" * 50_000] * 64


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("how", ["leave", "close", "cancel"])
async def test_when_the_one_that_leads_is_gone_another_one_leads(tmp_path: Path, how: str) -> None:
    async with _store(tmp_path) as service, _client(service) as one, _client(service) as two:
        seat = await _asked(one)
        assert isinstance(seat, Seat)
        waits = asyncio.create_task(_asked(two))
        await _waiting(service, 1)
        if how == "leave":
            seat.leave()
        elif how == "close":
            one.close()
        else:
            third = asyncio.create_task(_asked(two))
            await _waiting(service, 2)
            waits.cancel()
            seat.leave()
            waits = third
        assert isinstance(await waits, Seat)


@pytest.mark.usefixtures("patient")
async def test_a_store_that_is_away_is_told_at_once(tmp_path: Path) -> None:
    async with _store(tmp_path) as service:
        client = Client(service.socket)
        assert isinstance(await _asked(client), Seat)
    began = time.monotonic()
    assert [await client.find("r", _find()) for _ in range(100)] == [None] * 100
    assert await client.told({"op": "show"}, 1) is None
    assert time.monotonic() - began < 20
    (tmp_path / "cache.sock").unlink(missing_ok=True)
    async with _store(tmp_path) as service:
        await _until(lambda: client.find("r", _find(1)))
        assert isinstance(await _asked(client, 2), Seat)
        client.close()


async def test_a_store_that_hangs_is_left_alone_for_a_while(tmp_path: Path) -> None:
    held: list[asyncio.Task[None] | None] = []

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(asyncio.current_task())
        while await reader.read(1 << 16):
            pass
        writer.close()

    server = await asyncio.start_unix_server(silent, tmp_path / "cache.sock")
    client = Client(str(tmp_path / "cache.sock"))
    began = time.monotonic()
    assert [await client.find("r", _find()) for _ in range(20)] == [None] * 20
    assert time.monotonic() - began < 15  # of twenty, if each one found out by itself
    client.close()
    server.close()
    await asyncio.wait([task for task in held if task is not None])


@pytest.mark.usefixtures("patient")
async def test_what_is_no_call_ends_the_connection_and_no_other(tmp_path: Path) -> None:
    async with _store(tmp_path) as service, _client(service) as good:
        assert isinstance(await _asked(good), Seat)
        for data in (b"\xff" * 8, b"\0\0\0\2\0\0\0\0{}", b'\0\0\0\x0b\0\0\0\0{"op":"no"}'):
            reader, writer = await asyncio.open_unix_connection(service.socket)
            writer.write(data)
            assert await reader.read() == b""
            writer.close()
        assert isinstance(await _asked(good, 1), Seat)


@pytest.mark.usefixtures("patient")
async def test_an_exchange_that_ends_lets_others_go_on(tmp_path: Path) -> None:
    async with _store(tmp_path) as service, _client(service) as client:
        others = Others(client)
        first, second = others.talk(), others.talk()
        led = await first.ask(Asking("r", _find()))
        waits = await second.ask(Asking("r", _find()))
        assert isinstance(led, Found) and isinstance(waits, Found) and waits.waits and waits.ticket
        landing = asyncio.create_task(second.ask(Asking("r", Await(waits.ticket, 60.0))))
        first.end()
        leads = await landing
        assert isinstance(leads, Found) and leads.ticket and not leads.waits
        leads.ticket.keep(b"answer", 60)
        second.end()
        assert await others.talk().ask(Asking("r", _find())) == Found(b"answer")
        assert (await others.talk().ask(Asking("r", _find(read=False)))).ticket  # type: ignore[attr-defined]


async def test_without_a_store_nobody_answers() -> None:
    assert await Others().talk().ask(Asking("r", _find())) is None

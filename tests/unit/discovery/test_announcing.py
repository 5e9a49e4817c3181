"""A service that announces itself to a control plane which comes, goes and forgets."""

import argparse
import asyncio
from collections.abc import Callable

import httpx
import orjson
import pytest

from sidecars.announce import Announcer, Busy, Said, ServiceAwayError, client
from sidecars.announce.measure import Measure, busy
from sidecars.announce.options import OptionsError, add, own_address, said, token

SAID = Said("one", "farm", "10.0.0.7:8000", ("m",), capacity=4)


class ControlPlane:
    """Answers as the admin API does, and notes what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, dict[str, object]]] = []
        self.known = False
        self.down = False
        self.heard = asyncio.Event()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        if self.down:
            raise httpx.ConnectError("refused", request=request)
        assert request.headers["authorization"] == "Bearer t0ken"
        body = orjson.loads(request.content) if request.content else {}
        self.told.append((request.method, request.url.path, body))
        self.heard.set()
        if request.url.path == "/register":
            self.known = True
        elif not self.known:
            return httpx.Response(404, json={"error": {"message": "not registered", "code": "not_registered"}})
        if request.method == "DELETE":
            self.known = False
        return httpx.Response(200, json={"id": "one", "ttl_s": 0.03, "heartbeat_s": 0.01})

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not what():
                self.heard.clear()
                await self.heard.wait()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FIRST_RETRY_S", "_LONGEST_RETRY_S", "_LOOK_S", "_LINGER_S"):
        monkeypatch.setattr(client, name, 0.005)


def announcer(plane: ControlPlane, measure: Callable[[], Busy] = Busy) -> Announcer:
    async def measured() -> Busy:
        return measure()

    return Announcer("http://plane", "t0ken", SAID, measured, httpx.MockTransport(plane))


async def run(made: Announcer, stop: asyncio.Event) -> "asyncio.Task[None]":
    return asyncio.create_task(made.run(stop))


async def test_it_joins_beats_and_leaves() -> None:
    plane, stop = ControlPlane(), asyncio.Event()
    task = await run(announcer(plane, lambda: Busy(1, 9)), stop)
    await plane.until(lambda: len(plane.told) > 3)
    stop.set()
    await task
    assert plane.told[0] == ("POST", "/register", SAID.body() | {"models": ["m"], "capabilities": []})
    beat = ("POST", "/register/one/heartbeat", {"queue": 6, "running": 4})
    assert plane.told[1:4] == [beat] * 3, "what it works on beyond its capacity waits"
    assert plane.told[-1][:2] == ("DELETE", "/register/one")


async def test_it_joins_again_when_it_was_forgotten() -> None:
    plane, stop = ControlPlane(), asyncio.Event()
    task = await run(announcer(plane), stop)
    await plane.until(lambda: len(plane.told) > 2)
    plane.known = False
    plane.told.clear()
    await plane.until(lambda: plane.known)
    assert [path for _, path, _ in plane.told][-2:] == ["/register/one/heartbeat", "/register"]
    stop.set()
    await task


async def test_it_waits_for_a_control_plane() -> None:
    plane, stop = ControlPlane(), asyncio.Event()
    plane.down = True
    task = await run(announcer(plane), stop)
    await asyncio.sleep(0)
    assert plane.told == []
    plane.down = False
    await plane.until(lambda: plane.known)
    plane.down = True
    stop.set()
    await task  # it cannot leave, and ends all the same


async def test_it_leaves_while_the_service_is_away() -> None:
    plane, stop, away = ControlPlane(), asyncio.Event(), True

    def measure() -> Busy:
        if away:
            raise ServiceAwayError("no answer")
        return Busy()

    task = await run(announcer(plane, measure), stop)
    for _ in range(3):
        await asyncio.sleep(0)
    assert plane.told == []
    away = False
    await plane.until(lambda: plane.known)
    away = True
    await plane.until(lambda: not plane.known)
    away = False
    await plane.until(lambda: plane.known)
    stop.set()
    await task


async def test_others_than_control_planes_are_no_reason_to_end() -> None:
    plane, stop = ControlPlane(), asyncio.Event()
    answers = iter([httpx.Response(200, text="<html>"), httpx.Response(200, json={}), httpx.Response(500, json=[])])

    async def answer(request: httpx.Request) -> httpx.Response:
        return next(answers, None) or await plane(request)

    made = announcer(plane)
    made.transport = httpx.MockTransport(answer)
    task = await run(made, stop)
    await plane.until(lambda: plane.known)
    stop.set()
    await task


async def test_other_models_are_announced() -> None:
    plane, stop, models = ControlPlane(), asyncio.Event(), ("m",)
    task = await run(announcer(plane, lambda: Busy(models=models)), stop)
    await plane.until(lambda: plane.known)
    models = ("m", "n")
    await plane.until(lambda: plane.told[-1][2].get("models") == ["m", "n"])
    stop.set()
    await task


def test_the_token_is_shown_nowhere() -> None:
    assert "t0ken" not in repr(Announcer("http://plane", "t0ken", SAID))


VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a} b"} 3.0
vllm:num_requests_running{engine="1",model_name="a} b"} 2.0
vllm:num_requests_waiting{engine="0",model_name="a} b"} 7.0 1700000000000
vllm:kv_cache_usage_perc NaN
"""


def test_metrics_are_read() -> None:
    assert busy(VLLM) == (7, 5)
    assert busy("tgi_queue_size 2\ntgi_batch_current_size 4\n") == (2, 4)
    assert busy("mine_waiting 2\nmine_running NaN\n", (("mine_waiting", "mine_running"),)) == (2, 0)
    assert busy("nothing 1\n") == busy("") == busy("\x00{") == (0, 0)


async def test_a_service_is_asked() -> None:
    answers = {"/metrics": VLLM, "/health": "", "/v1/models": '{"data": [{"id": "m"}]}', "/broken": "{}"}

    def answer(request: httpx.Request) -> httpx.Response:
        text = answers.get(request.url.path)
        return httpx.Response(500) if text is None else httpx.Response(200, text=text)

    async with httpx.AsyncClient(base_url="http://x", transport=httpx.MockTransport(answer)) as http:
        assert await Measure(http, "/metrics", "/health", "/v1/models")() == Busy(7, 5, ("m",))
        assert await Measure(http)() == Busy()
        for wrong in (Measure(http, health="/sick"), Measure(http, models="/broken"), Measure(http, metrics="/sick")):
            with pytest.raises(ServiceAwayError):
                await wrong()


def test_options_describe_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argparse.ArgumentParser()
    add(parser, capacity=16)
    given = parser.parse_args(["--provider", "farm", "--address", ":8000", "--id", "one", "--token-env", "TOKEN"])
    assert said(given, "http://127.0.0.1:9800") == Said("one", "farm", "127.0.0.1:8000", capacity=16)
    monkeypatch.setenv("TOKEN", "t0ken\n")
    assert token(given) == "t0ken"
    monkeypatch.delenv("TOKEN")
    with pytest.raises(OptionsError, match="--token-env"):
        token(given)
    bare = parser.parse_args(["--provider", "farm"])
    assert said(bare, "http://x", "10.0.0.7:80").address == "10.0.0.7:80"
    for wrong, words in ((bare, "--address"), (parser.parse_args([]), "--provider")):
        with pytest.raises(OptionsError, match=words):
            said(wrong, "http://x")
    for url in ("10.0.0.1:9800", "http://", "ftp://x"):
        with pytest.raises(OptionsError, match="no URL"):
            said(given, url)
    with pytest.raises(OptionsError, match="no way"):
        own_address("http://no-such-host.invalid")

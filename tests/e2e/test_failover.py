"""Which provider serves when others fail, and how long anybody waits."""

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import httpx
import pytest

from tests.support.gateway import Gateway, eventually
from tests.support.mock import MockProvider
from tests.support.ports import free_port
from tests.support.wired import Answer, WiredProvider

_POLICY = """
providers:
  good: {{kind: openai, base_url: "{good}"}}
  other: {{kind: openai, base_url: "{other}"}}
  third: {{kind: openai, base_url: "{third}"}}
  refusing: {{kind: openai, base_url: "http://127.0.0.1:{free}/v1"}}
  nameless: {{kind: openai, base_url: "http://no-such-host.invalid/v1"}}
  sick:
    kind: openai
    base_url: "{sick}"
    endpoints: ["{sick_address}"]
    health: {{path: /health, interval: 250ms, timeout: 200ms, unhealthy_after: 1, healthy_after: 1}}
  live: {{kind: openai, base_url: "{live}/v1"}}
  pair: {{kind: openai, base_url: "{good}", endpoints: ["127.0.0.1:{free}", "{good_address}"], balance: round_robin}}
models:
  on-429: {{try: [{{provider: other, model: mock+status=429}}, {{provider: good, model: a}}]}}
  on-500: {{try: [{{provider: other, model: mock+status=500}}, {{provider: good, model: a}}]}}
  on-529: {{try: [{{provider: other, model: mock+status=529}}, {{provider: good, model: a}}]}}
  on-reset: {{try: [{{provider: other, model: mock+fail-after=0}}, {{provider: good, model: a}}]}}
  on-refused: {{try: [refusing, good]}}
  on-no-name: {{try: [nameless, good]}}
  on-sick: {{try: [sick, good]}}
  on-hang:
    try: [{{provider: other, model: mock+hang=headers}}, good]
    timeouts: {{first_byte: 2s, idle: 5s}}
  only-5xx: {{try: [{{provider: other, model: mock+status=429}}, {{provider: good, model: a}}], on: [5xx]}}
  not-on-400: {{try: [{{provider: other, model: mock+status=400}}, {{provider: good, model: a}}]}}
  three:
    try:
      - {{provider: other, model: mock+status=503}}
      - {{provider: third, model: mock+status=503}}
      - {{provider: good, model: a}}
  all-fail: {{try: [{{provider: other, model: mock+status=503}}, {{provider: third, model: mock+status=502}}]}}
  weighted: {{try: [[{{provider: good, model: a, weight: 3}}, {{provider: other, model: b, weight: 1}}]]}}
  pair: {{try: [pair]}}
  leaving: good
  again: {{provider: other, model: mock+status=503}}
  thrice: {{provider: other, model: mock+status=503, retries: 2}}
  once: {{provider: other, model: mock+status=503, retries: 0}}
  quick: {{provider: good, retries: 0, timeouts: {{first_byte: 1500ms, idle: 1500ms}}}}
  live: live
"""


@pytest.fixture(scope="module")
def mocks() -> Iterator[dict[str, MockProvider]]:
    with (
        MockProvider(name="good") as good,
        MockProvider(name="other") as other,
        MockProvider(name="third") as third,
        MockProvider("--status", "503", name="sick") as sick,
    ):
        yield {"good": good, "other": other, "third": third, "sick": sick}


class Live(WiredProvider):
    """Streams an event only when its client has seen the one before."""

    events: Final = [*(f'data: {{"choices": [], "number": {number}}}' for number in range(3)), "data: [DONE]"]

    def __init__(self) -> None:
        super().__init__(lambda _: Answer(200, self._one_by_one(), "text/event-stream"))
        self.seen = threading.Semaphore(0)
        self.in_time = True

    def _one_by_one(self) -> Iterator[bytes]:
        for event in self.events:
            yield f"{event}\n\n".encode()
            self.in_time &= self.seen.acquire(timeout=20)


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with Live() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(mocks: dict[str, MockProvider], live: Live) -> Iterator[Gateway]:
    policy = _POLICY.format(
        **{name: mock.base_url for name, mock in mocks.items()},
        live=live.url,
        sick_address=mocks["sick"].address,
        good_address=mocks["good"].address,
        free=free_port(),
    )
    with Gateway(policy) as running:
        mocks["sick"].wait_for(lambda stats: stats["health_checks"] >= 2)
        yield running


@pytest.fixture(autouse=True)
def _forget(mocks: dict[str, MockProvider]) -> None:
    for mock in mocks.values():
        mock.forget()


@pytest.mark.parametrize(
    "model", ["on-429", "on-500", "on-529", "on-reset", "on-refused", "on-no-name", "on-hang", "three"]
)
def test_the_next_group_serves_what_the_first_cannot(gateway: Gateway, model: str) -> None:
    answer = gateway.chat(model)
    assert answer.status_code == 200
    assert answer.headers["x-mock-name"] == "good"


def test_groups_are_tried_in_their_order_and_once_each(gateway: Gateway, mocks: dict[str, MockProvider]) -> None:
    assert gateway.chat("three").status_code == 200
    assert [len(mocks[name].requests()) for name in ("other", "third", "good")] == [1, 1, 1]


def test_a_provider_whose_endpoints_are_all_unhealthy_is_passed_over(
    gateway: Gateway, mocks: dict[str, MockProvider]
) -> None:
    for _ in range(5):
        assert gateway.chat("on-sick").headers["x-mock-name"] == "good"
    assert not mocks["sick"].requests()


def test_a_stream_fails_over_before_its_first_byte(gateway: Gateway) -> None:
    with gateway.client() as client:
        events = client.chat.completions.create(
            model="on-500", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        assert "".join(e.choices[0].delta.content or "" for e in events) == "You said: hi"


@pytest.mark.parametrize(("model", "status"), [("only-5xx", 429), ("not-on-400", 400)])
def test_other_failures_are_the_clients_to_see(
    gateway: Gateway, mocks: dict[str, MockProvider], model: str, status: int
) -> None:
    assert gateway.chat(model).status_code == status
    assert not mocks["good"].requests()


def test_when_all_fail_the_client_sees_the_last_answer(gateway: Gateway, mocks: dict[str, MockProvider]) -> None:
    answer = gateway.chat("all-fail")
    assert (answer.status_code, answer.headers["x-mock-name"]) == (502, "third")
    assert answer.json()["error"]
    assert len(mocks["other"].requests()) == len(mocks["third"].requests()) == 1


def test_weights_share_the_requests(gateway: Gateway) -> None:
    seen = Counter(gateway.chat("weighted").headers["x-mock-name"] for _ in range(200))
    assert seen["good"] + seen["other"] == 200
    assert 115 <= seen["good"] <= 182, seen  # 150 expected; more than 5 standard deviations off otherwise


def test_another_endpoint_of_the_same_provider_takes_over(gateway: Gateway) -> None:
    assert [gateway.chat("pair").status_code for _ in range(6)] == [200] * 6


@pytest.mark.parametrize(("model", "attempts"), [("once", 1), ("again", 2), ("thrice", 3)])
def test_a_single_provider_is_asked_again(
    gateway: Gateway, mocks: dict[str, MockProvider], model: str, attempts: int
) -> None:
    assert gateway.chat(model).status_code == 503
    assert len(mocks["other"].requests()) == attempts


def _stream(gateway: Gateway, **controls: str) -> list[str]:
    body = {"model": "quick", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    headers = {f"x-mock-{name.replace('_', '-')}": value for name, value in controls.items()}
    with gateway.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
        assert answer.status_code == 200
        return [line for line in answer.iter_lines() if line]


def test_a_stream_may_take_longer_than_the_clock_of_its_first_byte(gateway: Gateway) -> None:
    began = time.monotonic()
    lines = _stream(gateway, chunks="20", chunk_delay="100ms")
    assert time.monotonic() - began > 1.5
    assert lines[-1] == "data: [DONE]"
    assert len([line for line in lines if '"content"' in line]) >= 20


def test_a_stream_that_falls_silent_is_cut(gateway: Gateway) -> None:
    began = time.monotonic()
    with pytest.raises(httpx.RemoteProtocolError):
        _stream(gateway, chunks="3", chunk_delay="60s")
    assert 1 < time.monotonic() - began < 50


def test_events_arrive_one_by_one(gateway: Gateway, live: Live) -> None:
    body = {"model": "live", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    arrived = []
    with gateway.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        for line in answer.iter_lines():
            if line:
                arrived.append(line)
                live.seen.release()
    assert arrived == live.events
    assert live.in_time


def test_a_client_that_leaves_frees_the_provider(gateway: Gateway, mocks: dict[str, MockProvider]) -> None:
    body = {"model": "leaving", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    headers = {"x-mock-chunks": "1000", "x-mock-chunk-delay": "20ms"}
    with gateway.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
        next(answer.iter_lines())
    # By model: streams of other tests may end meanwhile.
    mocks["good"].wait_for(lambda stats: any(row["model"] == "leaving" and row["aborts"] == 1 for row in stats["by"]))


def test_a_provider_that_recovers_is_used_again() -> None:
    """An endpoint that was never healthy when the gateway started."""
    port = free_port()
    policy = f"""
providers:
  late:
    kind: openai
    base_url: "http://127.0.0.1:{port}/v1"
    health: {{path: /health, interval: 200ms, timeout: 200ms, unhealthy_after: 1, healthy_after: 1}}
models:
  m: {{provider: late, retries: 0}}
"""
    with Gateway(policy) as gateway:
        assert gateway.chat("m").status_code == 503
        with _late_server(port):
            eventually(lambda: gateway.chat("m").status_code == 200, "the late provider serves")


class _late_server:  # noqa: N801 - reads as a function
    """Answers everything with 200 and an empty object on a port."""

    def __init__(self, port: int) -> None:
        self._server = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection, suppress(OSError):  # Envoy waits for its health in vain, and leaves
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")

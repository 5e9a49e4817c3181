"""Endpoints that come and go while requests are served."""

from collections.abc import Iterator

import httpx
import pytest

from tests.support.gateway import Gateway, eventually
from tests.support.mock import MockProvider

pytestmark = pytest.mark.xdist_group("e2e-discovery")

_POLICY = """
providers:
  farm:
    kind: openai
    base_url: http://farm.internal/v1
    discover: {registered: {token: {env: FARM}, ttl: 30s}}
  fake: {kind: mock}
models:
  m: farm
  a: farm
  b: {try: [{provider: farm, model: inner-b}, fake]}
  "w-*": farm
"""
_SECRET = "farm-token-of-services"
_TOKEN = {"authorization": f"Bearer {_SECRET}"}


@pytest.fixture(scope="module")
def mocks() -> Iterator[tuple[MockProvider, MockProvider]]:
    with MockProvider(name="one") as one, MockProvider(name="two") as two:
        yield one, two


@pytest.fixture(scope="module")
def running() -> Iterator[Gateway]:
    with Gateway(_POLICY, env={"FARM": _SECRET}) as running:
        yield running


@pytest.fixture
def gateway(running: Gateway) -> Iterator[Gateway]:
    """Nobody is registered before a test, nor after it."""
    yield running
    for row in _rows(running):
        running.admin.delete(f"/register/{row['id']}", headers=_TOKEN)


def _register(gateway: Gateway, name: str, address: str, **more: object) -> httpx.Response:
    body = {"id": name, "provider": "farm", "address": address, "capacity": 4} | more
    return gateway.admin.post("/register", json=body, headers=_TOKEN)


def _rows(gateway: Gateway) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = gateway.admin.get("/endpoints").json()["rows"]
    return rows


def _served_by(gateway: Gateway, model: str, times: int = 8) -> set[str]:
    answers = [gateway.chat(model) for _ in range(times)]
    return {answer.headers.get("x-mock-name", str(answer.status_code)) for answer in answers}


def test_a_service_joins_serves_and_leaves(gateway: Gateway, mocks: tuple[MockProvider, MockProvider]) -> None:
    assert gateway.chat().status_code == 503
    answer = _register(gateway, "one", mocks[0].address)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"id": "one", "ttl_s": 30.0, "heartbeat_s": 10.0}
    eventually(lambda: gateway.chat().status_code == 200, "the service serves")
    left = gateway.admin.delete("/register/one", headers=_TOKEN)
    assert left.json() == {"id": "one", "everywhere": True}
    eventually(lambda: gateway.chat().status_code == 503, "nobody is left")


def test_a_model_goes_to_those_that_have_it(gateway: Gateway, mocks: tuple[MockProvider, MockProvider]) -> None:
    _register(gateway, "one", mocks[0].address, models=["a", "m"])
    _register(gateway, "two", mocks[1].address, models=["inner-b", "m"])
    eventually(lambda: _served_by(gateway, "m") == {"one", "two"}, "both serve")
    assert _served_by(gateway, "a") == {"one"}
    assert _served_by(gateway, "b") == {"two"}
    assert _served_by(gateway, "w-1") == {"one", "two"}
    gateway.admin.delete("/register/two", headers=_TOKEN)
    eventually(lambda: _served_by(gateway, "b") == {"mock"}, "the next group serves what nobody has")
    _register(gateway, "two", mocks[1].address)
    eventually(lambda: _served_by(gateway, "b") == {"two"}, "one without a list has all")

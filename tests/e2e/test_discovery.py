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
models: {m: farm}
"""
_TOKEN = {"authorization": "Bearer farm-token-of-services"}


@pytest.fixture(scope="module")
def mocks() -> Iterator[tuple[MockProvider, MockProvider]]:
    with MockProvider(name="one") as one, MockProvider(name="two") as two:
        yield one, two


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Gateway(_POLICY, env={"FARM": "farm-token-of-services"}) as running:
        yield running


def _register(gateway: Gateway, name: str, address: str, **more: object) -> httpx.Response:
    body = {"id": name, "provider": "farm", "address": address, "capacity": 4} | more
    return gateway.admin.post("/register", json=body, headers=_TOKEN)


def test_a_service_joins_serves_and_leaves(gateway: Gateway, mocks: tuple[MockProvider, MockProvider]) -> None:
    assert gateway.chat().status_code == 503
    answer = _register(gateway, "one", mocks[0].address)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"id": "one", "ttl_s": 30.0, "heartbeat_s": 10.0}
    eventually(lambda: gateway.chat().status_code == 200, "the service serves")
    left = gateway.admin.delete("/register/one", headers=_TOKEN)
    assert left.json() == {"id": "one", "everywhere": True}
    eventually(lambda: gateway.chat().status_code == 503, "nobody is left")

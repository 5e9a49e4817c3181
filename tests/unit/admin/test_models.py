"""Loading and unloading over the admin API: which model is meant, and what the audit log is told."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from controlplane.admin.access import Caller, caller_of
from controlplane.admin.models import router
from controlplane.admin.roles import Everything, Principal, Role
from controlplane.audit.entry import Event


class Stub:
    """Services with the models `m` at two providers, and `alone` at one, which cannot be loaded."""

    def __init__(self) -> None:
        self.told: list[Event] = []
        self.away = False

    async def models(self) -> list[dict[str, Any]]:
        return [{"provider": p, "model": m} for p, m in (("one", "m"), ("two", "m"), ("two", "alone"))]

    async def change(self, verb: str, provider: str, model: str) -> tuple[int, dict[str, Any]] | None:
        if self.away:
            return None
        if model == "alone":
            return 503, {"error": {"message": "it is corrupt"}}
        return 200, {"model": model, "state": f"{verb}ed"}

    async def tell(self, event: Event) -> None:
        self.told.append(event)


@pytest.fixture
def stub() -> Stub:
    return Stub()


@pytest.fixture
def http(stub: Stub) -> Iterator[TestClient]:
    app = FastAPI()
    app.include_router(router(SimpleNamespace(live=None), stub, list, stub))  # type: ignore[arg-type]
    somebody = Caller(Principal("ana", Role.MEMBER, Everything()), user=True)
    app.dependency_overrides[caller_of] = lambda: somebody
    with TestClient(app) as client:
        yield client


def test_a_name_that_several_have_needs_a_provider(http: TestClient, stub: Stub) -> None:
    refused = http.post("/models/load", json={"model": "m"})
    assert (refused.status_code, refused.json()["detail"]) == (
        409,
        "several providers have a model `m`: name one of one, two",
    )
    assert stub.told == []
    answer = http.post("/models/unload", json={"model": "m", "provider": "two"})
    assert answer.json() == {"provider": "two", "model": "m", "state": "unloaded"}
    (event,) = stub.told
    assert (event.actor.name, event.action, event.target) == ("ana", "model.unloaded", "two/m")
    assert event.details == {"status": 200}


def test_a_name_may_have_its_provider_in_front_as_lists_show_it(http: TestClient, stub: Stub) -> None:
    answer = http.post("/models/load", json={"model": "one/m"})
    assert answer.json() == {"provider": "one", "model": "m", "state": "loaded"}
    assert stub.told[0].target == "one/m"


def test_a_name_that_nobody_has_gets_a_suggestion(http: TestClient) -> None:
    refused = http.post("/models/load", json={"model": "alon"})
    assert refused.status_code == 404 and "did you mean `alone`?" in refused.json()["detail"]
    assert " runs here. `ctl models list`" in http.post("/models/load", json={"model": "xyz"}).json()["detail"]
    assert http.post("/models/load", json={"model": "alone", "provider": "one"}).status_code == 404


def test_why_it_cannot_be_loaded_is_told(http: TestClient, stub: Stub) -> None:
    refused = http.post("/models/load", json={"model": "alone"})
    assert (refused.status_code, refused.json()["detail"]) == (503, "it is corrupt")
    assert stub.told[0].details == {"status": 503}
    stub.away = True
    assert "does not answer" in http.post("/models/load", json={"model": "alone"}).json()["detail"]

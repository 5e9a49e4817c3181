"""Every route of the admin API states who may call it, and nobody else gets by."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import BaseRoute, Route

from controlplane.admin.access import ROUTES, SERVICES
from controlplane.admin.app import create_app
from controlplane.admin.roles import PERMISSIONS, Action, Reach
from controlplane.admin.usage import Usage
from controlplane.audit.log import AuditLog
from controlplane.compiling import Compiled, Compiler
from controlplane.policy.load import LoadCache
from controlplane.policy.secrets import SecretRef
from controlplane.runtime.accounting import Accounting
from controlplane.runtime.auditing import Auditing
from controlplane.runtime.caching import Caching
from controlplane.runtime.discovery import Discovery
from controlplane.runtime.keys import Keys
from controlplane.runtime.model_listings import ModelListings
from controlplane.runtime.services import Services
from controlplane.xds.surroundings import Surroundings

USERS = """
    root: {token: {env: ROOT}, role: admin}
    clerk: {token: {env: CLERK}, role: member}
    guest: {token: {env: GUEST}, role: viewer}
    ana: {token: {env: ANA}, role: admin, organization: acme}
    tom: {token: {env: TOM}, role: member, team: search}
    vic: {token: {env: VIC}, role: viewer, team: search}
"""
POLICY = """version: 1
gateway:
  admin:{admin}
providers: {{p: {{kind: mock}}}}
models: {{m: p}}
organizations: {{acme: {{}}}}
teams: {{search: {{organization: acme}}, ads: {{}}}}
keys: {{alice: {{secret: {{env: ALICE}}}}}}
"""
OPEN = POLICY.format(admin=" 127.0.0.1:9800")
WITH_TOKEN = POLICY.format(admin=" {token: {env: ADMIN}}")
WITH_USERS = POLICY.format(admin=f"\n   token: {{env: ADMIN}}\n   users:{USERS}")
NOBODY = "a-token-of-nobody"


def token(name: str) -> str:
    return f"token-of-{name}-0123456789"


async def _no_counters() -> dict[str, Any]:
    return {}


async def _no_alarms() -> list[dict[str, str]]:
    return []


class Served:
    """The real application over a control plane that has nothing but a policy."""

    def __init__(self, folder: Path, *, loopback: bool = True) -> None:
        self.compiler = Compiler("policy.yaml", self._read, Surroundings("/ca", "/m"), LoadCache())
        self.secrets: dict[str, str] = {}
        self.controller: Any = SimpleNamespace(live=None)
        auditing = Auditing(AuditLog.open(folder / "audit"), folder / "denials.json")
        run: Any = SimpleNamespace(admin_socket="")
        self.apply(OPEN)
        usage = Usage(Accounting(run, folder))
        store: Any = SimpleNamespace(list=lambda *_: [], get=lambda _: None)
        discovery = Discovery(folder, folder, auditing.tell)
        self.app = create_app(
            self.controller, store, tuple, usage, Keys(folder), auditing, _no_alarms, _no_counters, Caching(run, run),
            Services(run, run, folder), discovery, list, folder.joinpath, ModelListings("", folder), loopback=loopback,
        )  # fmt: skip

    def apply(self, text: str) -> Compiled:
        compiled = self.compiler.compile(text, datetime.now(UTC))
        self.controller.live = SimpleNamespace(compiled=compiled)
        return compiled

    def ask(self, method: str, path: str, user: str | None = None, **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:9800") as client:
                return await client.request(method, path, **more)

        if user is not None:
            more["headers"] = {"authorization": f"Bearer {token(user)}", **more.get("headers", {})}
        return asyncio.run(ask())

    def _read(self, ref: SecretRef) -> str:
        return self.secrets.get(ref.name, token(ref.name.lower()))


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path)


def every_route(routes: list[BaseRoute]) -> Iterator[tuple[str, str]]:
    for route in routes:
        if (included := getattr(route, "original_router", None)) is not None:
            yield from every_route(included.routes)
            continue
        assert isinstance(route, Route), f"{route} is no plain route: say here how its permission is found"
        for method in route.methods or ():
            yield method, route.path


def calls(app: FastAPI) -> list[tuple[str, str]]:
    return sorted(every_route(app.routes))


def test_every_route_has_a_permission_and_every_permission_a_route(served: Served) -> None:
    assert set(calls(served.app)) == set(ROUTES) | SERVICES
    assert set(ROUTES.values()) == set(Action)


def test_a_route_without_a_permission_is_refused_even_to_the_administrator(served: Served) -> None:
    @served.app.get("/forgotten")
    def forgotten() -> str:
        return "a secret"

    served.apply(WITH_USERS)
    assert served.ask("GET", "/forgotten", "admin").status_code == 403
    served.apply(OPEN)
    assert served.ask("GET", "/forgotten").status_code == 403


def test_every_route_refuses_those_who_are_not_known(served: Served) -> None:
    served.apply(WITH_USERS)
    for method, path in calls(served.app):
        for more in (
            {},
            {"headers": {"authorization": f"Bearer {NOBODY}"}},
            {"headers": {"authorization": "Basic eA=="}},
        ):
            answer = served.ask(method, path, **more)
            error = answer.json()["error"]
            code, named = "invalid_admin_token", "HEADGATE_TOKEN"
            if (method, path) in SERVICES:
                code, named = "invalid_registration_token", "`discover`"
            assert (answer.status_code, error["code"]) == (401, code), (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert named in error["message"]
            assert NOBODY not in answer.text


@pytest.mark.parametrize("user", ["root", "clerk", "guest", "ana", "tom", "vic"])
def test_every_route_asks_the_table(served: Served, user: str) -> None:
    rank = {"root": 3, "clerk": 2, "guest": 1, "ana": 3, "tom": 2, "vic": 1}[user]
    gateway = user in ("root", "clerk", "guest")
    served.apply(WITH_USERS)
    for (method, path), action in ROUTES.items():
        least, reach = PERMISSIONS[action]
        may = rank >= least and (gateway or reach is not Reach.GATEWAY)
        answer = served.ask(method, path.replace("{number}", "1").replace("{name}", "x"), user, json={"bad": 1})
        if may:
            assert answer.status_code != 401, (path, answer.text)
            if path != "/usage/unpriced" or gateway:
                assert answer.status_code != 403, (path, answer.text)
        else:
            error = answer.json()["error"]
            assert (answer.status_code, error["type"], error["code"]) == (403, "permission_error", "permission_denied")
            assert f"`{user}`" in error["message"]
            assert "administrator" in error["message"]


def test_a_plain_token_is_the_administrators(served: Served) -> None:
    served.apply(WITH_TOKEN)
    assert served.ask("GET", "/history", "admin").status_code == 200
    assert served.ask("GET", "/history", "root").status_code == 401


def test_edits_of_users_and_tokens_count_at_once(served: Served) -> None:
    served.apply(WITH_USERS)
    assert served.ask("GET", "/history", "guest").status_code == 200
    served.secrets["GUEST"] = token("other")
    served.apply(WITH_USERS)
    assert served.ask("GET", "/history", "guest").status_code == 401
    assert served.ask("GET", "/history", "other").status_code == 200
    served.apply(WITH_TOKEN)
    assert served.ask("GET", "/history", "other").status_code == 401


def test_without_tokens_only_loopback_is_the_administrator(served: Served, tmp_path: Path) -> None:
    assert served.ask("GET", "/history").status_code == 200
    assert served.ask("GET", "/history", headers={"host": "localhost:9800"}).status_code == 200
    assert served.ask("GET", "/history", headers={"host": "[::1]:9800"}).status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "[", ""):
        assert served.ask("GET", "/history", headers={"host": host}).status_code == 400, host
    elsewhere = Served(tmp_path / "elsewhere", loopback=False)
    assert elsewhere.ask("GET", "/history").json()["error"]["code"] == "no_token_set"
    assert elsewhere.ask("GET", "/history", "admin").status_code == 401
    elsewhere.apply(WITH_TOKEN)
    assert elsewhere.ask("GET", "/history", "admin", headers={"host": "gateway.example"}).status_code == 200


def test_pages_of_other_sites_are_refused(served: Served) -> None:
    assert served.ask("GET", "/history", headers={"origin": "https://evil.example"}).status_code == 403
    assert served.ask("GET", "/history", headers={"origin": "http://127.0.0.1:9800"}).status_code == 200

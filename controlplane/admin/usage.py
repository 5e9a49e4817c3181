"""Usage and budgets over the admin API: what the ledger knows, and how accounts stand."""

import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Annotated, Any, Self

from fastapi import APIRouter, HTTPException, Query

from controlplane.admin import views
from controlplane.admin.access import Called, Caller, team_of
from controlplane.admin.roles import Action, Everything, Organization, Target, Team
from controlplane.policy import grammar
from controlplane.policy.language import Policy
from controlplane.runtime.accounting import Accounting
from controlplane.runtime.controller import Controller
from extproc.usage.identity import owner
from extproc.usage.ledger import Ledger

_DAY_US = 86_400_000_000
_CLIENTS = frozenset({"model", "day", "hour"})  # what a client's usage may be grouped by: not who serves it


class Usage:
    """Reads the ledger of one gateway, which is opened when it is first asked. Close it in the end."""

    def __init__(self, accounting: Accounting) -> None:
        self._accounting = accounting
        self._ledger: Ledger | None = None
        self._url = ""  # that it was opened with
        self._asking = threading.Lock()  # a ledger is for one thread at a time

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._asking:
            if self._ledger is not None:
                self._ledger.close()

    def alarms(self) -> list[dict[str, str]]:
        """What the collector wants the operator to know."""
        found: list[dict[str, str]] = self._accounting.told().get("alarms", [])
        return found

    def router(self, controller: Controller) -> APIRouter:
        router = APIRouter()
        router.get("/usage", summary="Requests, tokens, cost and latency, grouped")(self.usage)
        router.get("/usage/unpriced", summary="Models that were used without a known price")(self.unpriced)
        router.get("/usage/records", summary="Single requests, newest first")(self.records)

        @router.get("/budgets", summary="How budgets and token limits stand")
        def budgets(caller: Called) -> dict[str, Any]:
            live = controller.live
            told = self._accounting.told().get("accounts", []) if live else []
            teams = {key.name: key.owner.team for key in live.compiled.plan.keys} if live else {}
            mine = (each for each in told if live and caller.holds(_owner_of(live.compiled.policy, teams, each)))
            return {"rows": [views.account(each) for each in mine]}

        return router

    def usage(
        self,
        caller: Called,
        by: Annotated[str, Query(description="Comma-separated: key, team, organization, model, provider, day …")] = "",
        since: Annotated[str, Query(description="A time, or an age such as 24h.")] = "30d",
        until: Annotated[str, Query(description="A time, or an age.")] = "",
        key: str | None = None,
        team: str | None = None,
        organization: str | None = None,
        model: str | None = None,
        provider: str | None = None,
    ) -> dict[str, Any]:
        start, end = _range(since, until)
        given = {"key": key, "team": team, "organization": organization, "model": model, "provider": provider}
        where = _own(caller, given)
        try:
            with self._asking:
                found = self._opened().usage([name for name in by.split(",") if name], start, end, where)
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        return {"since": _iso(start), "until": _iso(end), "rows": [views.usage_row(row) for row in found]}

    def own(self, identity: str, by: str, since: str, until: str) -> dict[str, Any]:
        """What one client used, as it may see it."""
        start, end = _range(since, until)
        names = [name for name in by.split(",") if name]
        if not set(names) <= _CLIENTS:
            raise HTTPException(422, f"cannot group by {by!r}: expected some of {', '.join(sorted(_CLIENTS))}")
        with self._asking:
            found = self._opened().usage(names, start, end, {"key": owner(identity).key})
        return {"since": _iso(start), "until": _iso(end), "rows": [views.usage_row(row) for row in found]}

    def unpriced(self, caller: Called, since: str = "30d", until: str = "") -> dict[str, Any]:
        caller.expect(Action.READ_USAGE, Everything())
        start, end = _range(since, until)
        with self._asking:
            found = self._opened().unpriced(start, end)
        return {"rows": [views.unpriced_model(each) for each in found]}

    def records(
        self,
        caller: Called,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        request: Annotated[str | None, Query(alias="id", description="The `x-request-id` of an answer.")] = None,
        key: str | None = None,
        team: str | None = None,
        model: str | None = None,
        provider: str | None = None,
    ) -> dict[str, Any]:
        given = {"id": request, "key": key, "team": team, "model": model, "provider": provider}
        where = _own(caller, given)
        with self._asking:
            found = self._opened().records(where, limit)
        return {"rows": [views.usage_record(record) for record in found]}

    def _opened(self) -> Ledger:
        if self._ledger is not None and self._url != self._accounting.url:  # a new password
            self._ledger.close()
            self._ledger = None
        if self._ledger is None:
            self._url = self._accounting.url
            self._ledger = Ledger.open(self._url)
        return self._ledger


def _own(caller: Caller, given: Mapping[str, str | None]) -> dict[str, str]:
    """What to look for, within what the caller may see. Raises RefusedError where that is something else."""
    where = {name: value for name, value in given.items() if value is not None}
    match caller.scope:
        case Team(name):
            caller.expect(Action.READ_USAGE, Team(where.setdefault("team", name)))
        case Organization(name):
            caller.expect(Action.READ_USAGE, Organization(where.setdefault("organization", name)))
    return where


def _owner_of(policy: Policy, teams: Mapping[str, str], account: Mapping[str, Any]) -> Target:
    """Whose an account is, as the collector tells it. `teams`: of each key."""
    name, kind = account["owner"], account["owner_kind"]
    if kind == "organization":
        return Organization(name)
    if kind == "key":
        name = teams.get(name, "")
    return team_of(policy, name)


def _range(since: str, until: str) -> tuple[int, int]:
    now = datetime.now(UTC)
    start, end = _moment(since, now, "since"), _moment(until, now, "until") + (1 if not until else 0)
    if start >= end:
        raise HTTPException(422, f"since is {since!r}, expected a time before {repr(until) if until else 'now'}")
    return start, end


def _moment(text: str, now: datetime, name: str) -> int:
    """Microseconds since the epoch of a time, or of an age before now; now itself for none."""
    try:
        at = grammar.earlier(text, now) if text else now
    except ValueError as error:
        raise HTTPException(422, f"{name} is {text!r}, expected {error}") from None
    return int(at.timestamp() * 1_000_000)


def _iso(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="seconds")

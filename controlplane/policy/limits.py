"""What the language says about limits: what they count, for whom, how strictly, and where they can be named.

A limit says what it counts and what has a counter of its own (`per`). Where it is named says whose requests count.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal, Protocol, TypeAlias

from pydantic import Field

from controlplane.policy.diagnostics import Diagnostic
from controlplane.policy.document import Path
from controlplane.policy.grammar import Rate
from controlplane.policy.types import Count, LimitName, RateType, Strict
from extproc.limits.settings import MAX_AMOUNT, MAX_WINDOW_S
from extproc.usage.record import PICO

_DAY_S = 86_400
_MOST_USD = MAX_AMOUNT // PICO  # of a strict budget
_EVENTUAL = "enforce: eventual"


class Per(StrEnum):
    """What has a counter of its own."""

    KEY = "key"
    TEAM = "team"
    ORGANIZATION = "organization"
    MODEL = "model"
    PROVIDER = "provider"
    ADDRESS = "address"
    GATEWAY = "gateway"


class Place(StrEnum):
    """Where a limit can be named."""

    KEYS = "keys"
    TEAMS = "teams"
    ORGANIZATIONS = "organizations"
    MODELS = "models"
    PROVIDERS = "providers"
    GATEWAY = "gateway"


# What has a counter of its own where the limit does not say: each of those that name it.
DEFAULT_PER: Mapping[Place, Per] = {
    Place.KEYS: Per.KEY,
    Place.TEAMS: Per.TEAM,
    Place.ORGANIZATIONS: Per.ORGANIZATION,
    Place.MODELS: Per.MODEL,
    Place.PROVIDERS: Per.PROVIDER,
    Place.GATEWAY: Per.GATEWAY,
}

Scope: TypeAlias = Literal["node", "fleet"]
Enforce: TypeAlias = Literal["strict", "eventual"]
OnError: TypeAlias = Literal["allow", "deny"]
PerName: TypeAlias = Literal["key", "team", "organization", "model", "provider", "address", "gateway"]
LimitNames: TypeAlias = list[LimitName]


class Limit(Strict):
    """A bound on `requests`, `tokens` and `concurrent` requests, one or several of them."""

    requests: RateType | None = Field(None, description="Requests in a period.")
    tokens: RateType | None = Field(None, description="Tokens in a period, input and output.")
    concurrent: Count | None = Field(None, description="Requests in progress at the same time.")
    burst: Count | None = Field(
        None, description="How many requests, or tokens, may come at once; as many as the rate says by default."
    )
    per: PerName | None = Field(
        None, description="What has a counter of its own: by default each key, team, model … that names the limit."
    )
    scope: Scope = Field("node", description="Count on each node for itself, or for the fleet, in `gateway.redis`.")
    enforce: Enforce | None = Field(
        None, description="Tokens only. `eventual`, the default: charged after. `strict`: reserved before, never over."
    )
    on_error: OnError | None = Field(
        None, description="What to do while nobody can count: `deny` by default where tokens are strict, else `allow`."
    )

    @property
    def strict(self) -> bool:
        return self.enforce == "strict"

    @property
    def fleet(self) -> bool:
        return self.scope == "fleet"

    def per_at(self, place: Place) -> Per:
        """What has a counter of its own where it is named there."""
        return Per(self.per) if self.per else DEFAULT_PER[place]


class _Error(Protocol):
    """Makes an error at a path of the document."""

    def __call__(
        self, code: str, message: str, path: Path, expected: str, near: str | None = None, hint: str | None = None
    ) -> Diagnostic: ...


Limits: TypeAlias = Mapping[str, Any]
Named: TypeAlias = Iterable[tuple[Path, Sequence[str]]]


def check(limits: Limits, budgets: Mapping[str, Any], redis: bool, error: _Error) -> Iterator[Diagnostic]:
    """What does not fit together within a limit or a budget, and with `gateway.redis`."""
    for name, limit in limits.items():
        yield from _limit(("limits", name), limit, error)
    for name, budget in budgets.items():
        yield from _budget(("budgets", name), budget, error)
    for path in () if redis else shared(limits, budgets):
        yield error(
            "fleet-without-redis", "counters of a fleet are kept in Redis, and the policy names none",
            (*path, "scope"), "`gateway.redis`", hint="write gateway: {redis: {env: REDIS_URL}}, or scope: node",
        )  # fmt: skip


def shared(limits: Limits, budgets: Mapping[str, Any]) -> list[Path]:
    """The limits and budgets that a fleet counts together."""
    found: list[Path] = [("limits", name) for name, limit in limits.items() if limit.fleet]
    return found + [("budgets", name) for name, budget in budgets.items() if budget.scope == "fleet"]


def check_named(
    named: Named, written: Limits, limits: Limits, error: _Error, nearest: Callable[[str], str | None]
) -> Iterator[Diagnostic]:
    """Limits that are named must exist, once each, and count per something that their place knows.

    `written`: all limits, right or wrong; `limits`: those that are right.
    """
    for path, names in named:
        for number, name in enumerate(names):
            here = (*path, "limits", number)
            if name not in written:
                message = f"there is no limit `{name}`"
                yield error("unknown-name", message, here, "a limit of this policy", nearest(name))
            if name in names[:number]:
                yield error("duplicate-item", f"`{name}` stands here twice", here, "each limit once")
            if path[0] != Place.PROVIDERS and name in limits and limits[name].per == Per.PROVIDER:
                message = f"`{name}` counts per provider, which is known only where providers name the limit"
                hint = f"name `{name}` in `limits` of providers, or change its `per`"
                yield error("unfit-limit", message, here, "a limit with another `per`", hint=hint)


def _limit(path: Path, limit: Limit, error: _Error) -> Iterator[Diagnostic]:
    if limit.requests is None and limit.tokens is None and limit.concurrent is None:
        yield error("one-amount", "a limit limits something", path, "`requests`, `tokens`, `concurrent`, or several")
        return
    if limit.burst is not None and (limit.requests is None) == (limit.tokens is None):
        message = "`burst` is of one rate, and there are two" if limit.requests else "`burst` is of a rate"
        hint = "make two limits of it" if limit.requests else "add `requests` or `tokens`, or leave `burst` out"
        yield error("unfit-limit", message, (*path, "burst"), "one of `requests` and `tokens`", hint=hint)
    rate = limit.tokens or (limit.requests if limit.fleet else None)
    if limit.burst is not None and rate is not None and _window_s(rate, limit.burst) > MAX_WINDOW_S:
        message = f"{limit.burst} at once take longer than {MAX_WINDOW_S // _DAY_S} days to come back at this rate"
        hint = "a smaller `burst`, or a higher rate"
        yield error("unfit-limit", message, (*path, "burst"), "a burst that comes back within a year", hint=hint)
    if limit.enforce is not None and limit.tokens is None:
        message = "requests and concurrency are always exact: `enforce` is for tokens"
        yield error("unfit-limit", message, (*path, "enforce"), "`tokens`", hint="leave `enforce` out")
    if limit.on_error is not None and not (limit.strict or limit.fleet or limit.concurrent is not None):
        message = "this limit asks nobody, so nobody can be away"
        expected = "`scope: fleet`, `enforce: strict` or `concurrent`"
        yield error("unfit-limit", message, (*path, "on_error"), expected, hint="leave `on_error` out")


def _window_s(rate: Rate, burst: int) -> int:
    return -(-rate.per_seconds * burst // rate.amount)


def _budget(path: Path, budget: Any, error: _Error) -> Iterator[Diagnostic]:
    strict = budget.enforce == "strict"
    if strict and budget.usd is not None and not 0 < budget.usd <= _MOST_USD:
        message = "a strict budget is counted ahead, which such an amount cannot be"
        yield error(
            "unfit-budget", message, (*path, "usd"), f"more than 0, at most {_MOST_USD}", hint=f"write {_EVENTUAL}"
        )
    if budget.window == "rolling" and "timezone" in budget.model_fields_set:
        message = "`timezone` says where calendar periods begin, and a rolling one begins nowhere"
        yield error("unfit-budget", message, (*path, "timezone"), "`window: calendar`", hint="leave `timezone` out")
    if strict and budget.on_spent != "block":
        message = "a strict budget refuses what does not fit, before it runs"
        hint = f"write on_spent: block, or {_EVENTUAL}"
        yield error("unfit-budget", message, (*path, "on_spent"), "`block`", hint=hint)
    for field, given in (("scope", budget.scope == "fleet"), ("on_error", budget.on_error is not None)):
        if given and not strict:
            message = f"`{field}` is for strict budgets; others are counted after, from each node's log"
            yield error("unfit-budget", message, (*path, field), "`enforce: strict`", hint=f"leave `{field}` out")

"""The settings of the rate limit service: what the control plane writes for it, as JSON. It holds no secret.

{"rules": {"standard": {"kind": "tokens", "amount": 200000, "per_s": 60, "scope": "fleet", "on_error": "deny"}},
 "prices": {"gpt-4o*": {"input": "2.50", "output": "10"}},
 "redis": {"url_env": "HEADGATE_REDIS_URL"}}
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

from extproc.limits.tariff import Tariff
from extproc.usage.windows import SECOND, Window

VERSION = 1
# Counters are 64-bit in Redis; sums of two amounts must fit.
MAX_AMOUNT = 2**61
MAX_WINDOW_S = 366 * 86_400
_STRICT = ConfigDict(extra="forbid", strict=True)


class Kind(StrEnum):
    REQUESTS = "requests"
    TOKENS = "tokens"
    CONCURRENT = "concurrent"
    BUDGET = "budget"


class Unit(StrEnum):
    """What is counted. A picodollar is 1e-12 USD."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    PICODOLLARS = "picodollars"


class By(StrEnum):
    """What has a bucket of its own: part of the client's identity, the value as Envoy sends it, or one for all."""

    KEY = "key"
    TEAM = "team"
    ORGANIZATION = "organization"
    VALUE = "value"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Estimate:
    """How much a strict rule reserves: the prompt as ceil(body bytes / `bytes_per_token`), and the output cap.

    `output`: tokens, where the request states no cap. `prompt`: tokens, where the body's length is not known.
    The rule is never over as long as no prompt has more tokens than this, and no answer more than its cap.
    """

    bytes_per_token: int = 3
    output: int = 4096
    prompt: int = 8192
    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    def __post_init__(self) -> None:
        if not (1 <= self.bytes_per_token <= 1000 and 0 <= self.output <= 10**8 and 0 <= self.prompt <= 10**8):
            raise ValueError("bytes_per_token is 1 to 1000; output and prompt are 0 to 100000000 tokens")


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit or budget.

    `per_s`: rolling over that many seconds; `calendar` and `zone`: over calendar periods; neither for `concurrent`.
    `burst`: requests and tokens may come this many at once, at the same rate: at most `burst` in any
    `per_s` * `burst` / `amount` seconds. `unit` is for budgets, whose amounts are in it.
    `lease_s`: how long something is held for a request whose end never comes; then a concurrent one is given back, and
    tokens and money count as they were reserved. `on_error`: what to do with requests while Redis is away.
    """

    kind: Kind
    amount: int
    per_s: int | None = None
    calendar: Literal["day", "week", "month"] | None = None
    zone: str = "UTC"
    burst: int | None = None
    unit: Unit | None = None
    by: By = By.KEY
    scope: Literal["node", "fleet"] = "node"
    on_error: Literal["allow", "deny"] = "allow"
    enforce: Literal["strict", "eventual"] = "strict"
    lease_s: int = 3600
    estimate: Estimate = Estimate()
    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise ValueError(problem)

    def _problems(self) -> list[str]:
        windows = (self.per_s is not None) + (self.calendar is not None)
        wanted = 0 if self.kind is Kind.CONCURRENT else 1
        budget = self.kind is Kind.BUDGET
        checks = {
            f"amount is {self.amount}: 1 to {MAX_AMOUNT} is expected": not 1 <= self.amount <= MAX_AMOUNT,
            f"{self.kind} has {'neither' if wanted == 0 else 'one'} of per_s and calendar": windows != wanted,
            f"per_s is {self.per_s}: 1 to {MAX_WINDOW_S} is expected": self.per_s is not None
            and not 1 <= self.per_s <= MAX_WINDOW_S,
            f"lease_s is {self.lease_s}: 1 to 604800 is expected": not 1 <= self.lease_s <= 604_800,
            "burst is for requests and tokens with per_s": self.burst is not None
            and (budget or self.per_s is None or not 1 <= self.burst <= MAX_AMOUNT),
            "a budget has a unit, nothing else has": (self.unit is not None) != budget,
            f"unknown time zone {self.zone!r}": self.calendar is not None and not _known(self.zone),
            f"burst makes the window longer than {MAX_WINDOW_S} s": self.window_us > MAX_WINDOW_S * SECOND,
        }
        return [problem for problem, found in checks.items() if found]

    @property
    def counts(self) -> Unit:
        """What the amount is an amount of."""
        if self.unit is not None:
            return self.unit
        return Unit.TOKENS if self.kind is Kind.TOKENS else Unit.REQUESTS

    @property
    def room(self) -> int:
        """What fits into one window."""
        return self.burst or self.amount

    @property
    def lease_us(self) -> int:
        return self.lease_s * SECOND

    @property
    def window_us(self) -> int:
        """Length of a rolling window, 0 where there is none. Rounded up, so that the rate is never above the rule's."""
        if self.per_s is None:
            return 0
        return -(-self.per_s * SECOND * self.room // max(self.amount, 1))


@dataclass(frozen=True, slots=True)
class Redis:
    """`url_env` names the environment variable that holds the URL. `timeout_ms` bounds each call."""

    url_env: str
    timeout_ms: int = 50
    prefix: str = "headgate"
    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    def __post_init__(self) -> None:
        if not 1 <= self.timeout_ms <= 60_000:
            raise ValueError(f"timeout_ms is {self.timeout_ms}: 1 to 60000 is expected")
        if not self.prefix or set(self.prefix) & set("{}:"):
            raise ValueError(f"prefix is {self.prefix!r}: a text without braces and colons is expected")


def _known(zone: str) -> bool:
    try:
        Window.calendar("day", zone)
    except ValueError:
        return False
    return True


def _priced(prices: dict[str, Any]) -> dict[str, Any]:
    Tariff.of(prices)  # raises ValueError
    return prices


@dataclass(frozen=True)
class Settings:
    """`prices`: model name or, with a `*` at its end, prefix -> price as in schemas/models.json, of the dearest target.

    Raises ValueError for rules of scope fleet without `redis`.
    """

    rules: Mapping[str, Rule]
    prices: Annotated[dict[str, Any], AfterValidator(_priced)] = field(default_factory=dict)
    redis: Redis | None = None
    version: Literal[1] = 1
    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    def __post_init__(self) -> None:
        shared = [name for name, rule in self.rules.items() if rule.scope == "fleet"]
        if shared and self.redis is None:
            raise ValueError(f"rule {shared[0]!r} has scope fleet: `redis` with `url_env` is expected")
        if "" in self.rules:
            raise ValueError("a rule without a name: a text that is not empty is expected")

    @cached_property
    def tariff(self) -> Tariff:
        return Tariff.of(self.prices)


class SettingsError(ValueError):
    """Settings that cannot be used; the text says where and why."""


_ADAPTER = TypeAdapter(Settings)


def parse(text: bytes, origin: str) -> Settings:
    """Raises SettingsError, which lists every problem with its place in the document."""
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        found = [
            f"{'.'.join(map(str, problem['loc'])) or 'the document'}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors(include_url=False, include_input=False)
        ]
        raise SettingsError(f"{origin}: not settings of version {VERSION}: {'; '.join(found)}") from None


def read(path: Path) -> Settings:
    """Raises OSError and SettingsError."""
    return parse(path.read_bytes(), str(path))


def fingerprint(settings: Settings) -> str:
    """Tells settings apart that are not equal; in which order their rules stand makes no difference."""
    plain = _ADAPTER.dump_python(settings, mode="json", exclude_defaults=True)
    return blake2b(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()


def dump(settings: Settings) -> bytes:
    """The document of settings; `parse` is its inverse."""
    return _ADAPTER.dump_json(settings, exclude_defaults=True)

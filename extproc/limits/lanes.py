"""One rule, ready to count requests: what they need of it before, and what they are charged after. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Self

from extproc.limits import tariff as tariffs
from extproc.limits.calls import Asked, Held
from extproc.limits.settings import MAX_AMOUNT, By, Kind, Rule, Unit
from extproc.limits.stores import Bucket, Charge, Form, Hold
from extproc.limits.tariff import Tariff
from extproc.usage.entries import CACHE_HITS
from extproc.usage.identity import Owner, identity, owner
from extproc.usage.windows import SECOND, STEPS, Window

_SKEW_US = 600 * SECOND  # by which this clock may differ from the store's at the end of a calendar window
_LONGEST_WHO = 120  # characters of a bucket's name that stay readable
# Statuses with which a provider may have worked all the same: no answer began (0: the client left), or time ran out.
_UNSURE = frozenset({0, 408, 499, 504})


@dataclass(frozen=True, slots=True)
class Lane:
    """`signature` is part of a bucket's key: with another window a rule begins anew, with another amount it goes on."""

    name: str
    rule: Rule
    tariff: Tariff
    form: Form
    step_us: int
    signature: str
    window: Window | None

    @classmethod
    def of(cls, name: str, rule: Rule, tariff: Tariff) -> Self:
        if rule.kind is Kind.CONCURRENT:
            return cls(name, rule, tariff, Form.LEASES, SECOND, "l", None)
        if rule.calendar is not None:
            window = Window.calendar(rule.calendar, rule.zone)
            return cls(name, rule, tariff, Form.CALENDAR, SECOND, f"c{rule.calendar}@{rule.zone}", window)
        # A step rounded up makes the window longer by less than a step, never shorter.
        return cls(
            name, rule, tariff, Form.ROLLING, -(-rule.window_us // STEPS), f"{rule.counts}{rule.window_us}", None
        )

    @property
    def settles(self) -> bool:
        """Whether the end of the stream matters: plain counts of requests are final at once."""
        return self.form is Form.LEASES or self.rule.counts is not Unit.REQUESTS

    def who(self, told: str) -> str:
        """The bucket's name."""
        match self.rule.by:
            case By.ALL:
                return ""
            case By.KEY:
                name = told.partition(";")[0]
            case By.TEAM:
                found = owner(told)
                name = identity(Owner(found.team, found.organization))
            case By.ORGANIZATION:
                name = owner(told).organization
            case By.VALUE:
                name = told
        return name if len(name) <= _LONGEST_WHO else blake2b(name.encode(), digest_size=16).hexdigest()

    def bucket(self, who: str) -> Bucket:
        return Bucket(f"{self.name}:{self.signature}:{who}", self.form, self.step_us)

    def ask(self, asked: Asked) -> int | None:
        """What the request is held to use at most. None: no known price bounds it."""
        rule = self.rule
        if not self.settles or self.form is Form.LEASES:
            return 1
        if rule.enforce == "eventual":
            return 0
        bounds = rule.estimate
        prompt = bounds.prompt if asked.body_bytes is None else -(-asked.body_bytes // bounds.bytes_per_token)
        output = bounds.output if asked.cap is None else asked.cap
        if rule.counts is Unit.TOKENS:
            return min(prompt + output, MAX_AMOUNT)
        price = self.tariff.find(asked.model)
        bound = None if price is None else tariffs.most(price, prompt, output)
        return None if bound is None else min(bound, MAX_AMOUNT)

    def hold(self, who: str, ask: int, now: int) -> Hold:
        """`now`: microseconds since the epoch, by this machine's clock."""
        lease = self.rule.lease_us if self.settles else 0
        return Hold(self.bucket(who), self.rule.room, ask, max(ask, 1), lease, self._ends(now))

    def charge(self, held: Held, actual: int) -> Charge:
        bucket = self.bucket(held.who)
        return Charge(bucket, held.amount, actual, self.rule.lease_us, held.window, held.anyway)

    def actual(self, held: int, model: str, status: int, counts: Mapping[str, int]) -> int:
        """What the request used; where nobody reports it, all that was held if a provider may have worked."""
        if self.form is Form.LEASES:
            return 0
        if counts.get(CACHE_HITS):  # no provider worked
            return 0
        used = self._reported(model, counts)
        if used is None:
            used = held if status < 400 or status in _UNSURE else 0
        return min(used, MAX_AMOUNT)

    def _reported(self, model: str, counts: Mapping[str, int]) -> int | None:
        total, prompt, output = (counts.get(f"{kind}_tokens") for kind in ("total", "input", "output"))
        if self.rule.counts is Unit.TOKENS:
            parts = (prompt or 0) + (output or 0)
            return total or parts or None
        price = self.tariff.find(model)
        if price is None:
            return None
        cached, written = counts.get("cached_tokens", 0), counts.get("cache_write_tokens", 0)
        return tariffs.spent(price, total, prompt, output, cached, written)

    def _ends(self, now: int) -> tuple[int, ...]:
        """Ends of the calendar windows that may be current by the store's clock."""
        if self.window is None:
            return ()
        first, last = (self.window.bounds(at)[1] for at in (now - _SKEW_US, now + _SKEW_US))
        return (first,) if first == last else (first, last)

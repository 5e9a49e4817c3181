"""Where requests get room in all their limits, or in none, and give it back when they are done."""

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import structlog

from extproc.limits.calls import Asked, Done, Held, Ticket, read_ticket, write_ticket
from extproc.limits.counters import Counters
from extproc.limits.guard import Guard
from extproc.limits.lanes import Lane
from extproc.limits.memory import MemoryStore, wall_us
from extproc.limits.settings import Settings, fingerprint
from extproc.limits.stores import Charge, Form, Hold, Standing

_log = structlog.get_logger(__name__)
_BRIEFLY_US = 60_000_000


class Reason(StrEnum):
    """Why a request was refused: no room, nobody to count it, or no price that bounds what it may cost."""

    SPENT = "spent"
    UNAVAILABLE = "unavailable"
    UNPRICED = "unpriced"


@dataclass(frozen=True, slots=True)
class Row:
    """One limit of a request. `standing`: None when it was not counted."""

    lane: Lane
    standing: Standing | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """`refused`: the limit that refuses the request for `reason`. `ticket`: "" when nothing is to be settled."""

    rows: tuple[Row, ...]
    refused: Row | None = None
    reason: Reason = Reason.SPENT
    ticket: str = ""


@dataclass(frozen=True, slots=True)
class _Place:
    """A limit that a request needs room in: who, and what it takes there."""

    lane: Lane
    who: str
    hold: Hold

    @property
    def shared(self) -> bool:
        return self.lane.rule.scope == "fleet"


class Desk:
    """`local` counts rules of this node, `shared` those of the fleet (None: there are none)."""

    def __init__(
        self,
        settings: Settings,
        local: MemoryStore,
        shared: Guard | None,
        counters: Counters,
        clock: Callable[[], int] = wall_us,
    ) -> None:
        self._local = local
        self._shared = shared
        self._counters = counters
        self._clock = clock
        # Names of calls are unique in the fleet, and over restarts.
        self._name = f"{os.urandom(9).hex()}."
        self._calls = itertools.count()
        self._unknown: set[str] = set()
        self._lanes: Mapping[str, Lane] = {}
        self.update(settings)

    def update(self, settings: Settings) -> None:
        """New rules; what is counted and held goes on where a rule's window is the same."""
        self._lanes = {name: Lane.of(name, rule, settings.tariff) for name, rule in settings.rules.items()}
        self._unknown = set()
        self.fingerprint = fingerprint(settings)

    @property
    def redis(self) -> str:
        """How the shared store is: `none` of it is needed, `there` or `away`."""
        return "none" if self._shared is None else "away" if self._shared.away else "there"

    async def reserve(self, asked: Sequence[Asked]) -> Outcome:
        """Takes room in every limit, or in none."""
        now = self._clock()
        call = f"{self._name}{next(self._calls):x}"
        places: list[_Place] = []
        for each in asked:
            lane = self._lanes.get(each.limit)
            if lane is None:
                self._report_unknown(each.limit)
                continue
            ask = lane.ask(each)
            if ask is None:
                self._counters.unpriced += 1
                if lane.rule.on_error == "deny":
                    self._counters.refused += 1
                    row = Row(lane, None)
                    return Outcome((row,), row, Reason.UNPRICED)
                continue
            who = lane.who(each.who)
            places.append(_Place(lane, who, lane.hold(who, ask, now)))
        outcome = await self._take(call, places, next((each.model for each in asked if each.model), ""))
        if outcome.refused:
            self._counters.refused += 1
        else:
            self._counters.passed += 1
        return outcome

    async def settle(self, done: Done) -> None:
        """Charges what was used for what was held. Raises CallError for a ticket that is none."""
        ticket = read_ticket(done.ticket)
        charges: dict[str, list[Charge]] = {"node": [], "fleet": []}
        for held in ticket.held:
            lane = self._lanes.get(held.limit)
            if lane is None:  # the rule is gone, and its counters with it
                continue
            actual = lane.actual(held.amount, ticket.model, done.status, done.counts)
            if actual > held.amount > 0:
                self._counters.overruns += 1
            if actual or held.amount:
                charges[lane.rule.scope].append(lane.charge(held, actual))
        self._counters.settled += 1
        if charges["node"]:
            self._local.settle_now(ticket.call, charges["node"])
        if charges["fleet"] and self._shared is not None:
            await self._shared.settle(ticket.call, charges["fleet"])

    async def _take(self, call: str, places: Sequence[_Place], model: str) -> Outcome:
        near = [place for place in places if not place.shared]
        far = [place for place in places if place.shared]
        holds = [_held(place.hold) if far else place.hold for place in near]
        local = self._local.reserve_now(call, holds) if holds else None
        rows = _rows(near, local.standings if local else ())
        if local and not local.taken:
            return Outcome(rows, _refusing(rows))
        if far:
            try:
                more, refused, reason = await self._take_shared(call, far)
            except BaseException:
                self._finish_near(call, near, rows, passed=False)
                raise
            self._finish_near(call, near, rows, passed=refused is None)
            rows += more
            if refused is not None:
                return Outcome(rows, refused, reason)
        return Outcome(rows, ticket=_ticket(call, model, [*near, *far], rows, self._clock()))

    async def _take_shared(self, call: str, far: Sequence[_Place]) -> tuple[tuple[Row, ...], Row | None, Reason]:
        verdict = await self._shared.reserve(call, [place.hold for place in far]) if self._shared else None
        if verdict is not None:
            rows = _rows(far, verdict.standings)
            return rows, None if verdict.taken else _refusing(rows), Reason.SPENT
        rows = tuple(Row(place.lane, None) for place in far)
        refused = next((row for row in rows if row.lane.rule.on_error == "deny"), None)
        if refused is None:
            self._counters.away_passed += 1
        else:
            self._counters.away_refused += 1
        return rows, refused, Reason.UNAVAILABLE

    def _finish_near(self, call: str, near: Sequence[_Place], rows: Sequence[Row], *, passed: bool) -> None:
        """What was held only until the fleet's limits were known: spent now, or given back with all else."""
        charges = []
        for place, row in zip(near, rows, strict=True):
            if row.standing is not None and not (passed and place.hold.lease_us):
                hold = _held(place.hold)
                actual = hold.ask if passed else 0
                charges.append(Charge(hold.bucket, hold.ask, actual, hold.lease_us, row.standing.end))
        if charges:
            self._local.settle_now(call, charges)

    def _report_unknown(self, limit: str) -> None:
        """Envoy may have newer rules than this process for a moment; a rule that stays unknown is told once."""
        if limit not in self._unknown and len(self._unknown) < 1000:
            self._unknown.add(limit)
            _log.error("a limit that the settings do not have: its requests pass uncounted", limit=limit)
        self._counters.errors += 1


def _held(hold: Hold) -> Hold:
    """The same, but held until the fleet's limits are known."""
    return replace(hold, lease_us=hold.lease_us or _BRIEFLY_US)


def _rows(places: Sequence[_Place], standings: Sequence[Standing]) -> tuple[Row, ...]:
    return tuple(Row(place.lane, standing) for place, standing in zip(places, standings, strict=True))


def _refusing(rows: Sequence[Row]) -> Row:
    """Of the limits without room the one that will have none for longest."""
    return max(rows, key=lambda row: row.standing.wait_us if row.standing else 0)


def _window(ends: Sequence[int], now: int) -> int:
    """The end of the calendar window by this machine's clock."""
    return next((end for end in ends if end > now), 0)


def _ticket(call: str, model: str, places: Sequence[_Place], rows: Sequence[Row], now: int) -> str:
    held = []
    for place, row in zip(places, rows, strict=True):
        if not place.lane.settles:
            continue
        if row.standing is None:  # taken or not, it is given back: see Guard.reserve
            if place.lane.form is not Form.LEASES:
                held.append(Held(place.lane.name, place.who, 0, _window(place.hold.ends, now), True))
            continue
        ask = place.hold.ask
        held.append(Held(place.lane.name, place.who, ask, row.standing.end, not ask))
    return write_ticket(Ticket(call, model, tuple(held))) if held else ""

"""A whole replay: reads the recording, sends it where it is to go, compares."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane.plan.build import plan
from controlplane.plan.ir import Plan
from controlplane.policy.check import check
from controlplane.policy.diagnostics import PolicyError
from controlplane.policy.prices import imported
from controlplane.replay.charged import at_prices_of, charged
from controlplane.replay.gateway import ReplayError, gateway
from controlplane.replay.outcome import Outcome
from controlplane.replay.report import Side, Thresholds, report
from controlplane.replay.send import Pace, recorded, send
from controlplane.runtime.changes import utc_now
from controlplane.runtime.surroundings import secret_reader
from sidecars.recording.exchange import Exchange, ExchangeError, parse


@dataclass(frozen=True, slots=True)
class Recording:
    """Exchanges that can be sent again, and why others cannot, by their line."""

    exchanges: tuple[Exchange, ...]
    skipped: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """A policy that is right, as it is written and as it is planned; and the secret of the key to send with, if any."""

    path: Path
    document: Mapping[str, Any]
    plan: Plan
    key: str | None


@dataclass(frozen=True, slots=True)
class Address:
    """A gateway that runs already."""

    url: str
    key: str | None


Target = Checked | Address


def read(log: Path, limit: int | None) -> Recording:
    """The first `limit` exchanges of a recording. Raises ReplayError, OSError."""
    found: list[Exchange] = []
    skipped: list[tuple[int, str]] = []
    with log.open("rb") as file:
        for number, line in enumerate(file, 1):
            if limit is not None and len(found) >= limit:
                break
            if not line.strip():
                continue
            try:
                exchange = parse(line)
                exchange.request.body.content()
            except ExchangeError as error:
                raise ReplayError(f"{log}:{number}: {error}") from None
            reason = exchange.request.body.withheld
            if reason is None:
                found.append(exchange)
            else:
                skipped.append((number, f"the request's body was not recorded: {reason}"))
    if not found:
        raise ReplayError(f"{log} holds no request that can be sent again")
    return Recording(tuple(found), tuple(skipped))


def checked(policy: Path, key: str | None) -> Checked:
    """`key` names a key of the policy. Raises PolicyError, ReplayError, OSError."""
    result = check(policy.read_bytes(), str(policy))
    if result.policy is None:
        raise PolicyError(result.diagnostics)
    found, reader = result.policy, secret_reader(policy.parent)
    prices, wrong = imported(found, reader, result.places)
    if wrong:
        raise PolicyError(wrong)
    secret = None
    if key is not None:
        if key not in found.keys:
            raise ReplayError(f"{policy} has no key named {key!r}; it has: {', '.join(found.keys) or 'none'}")
        try:
            secret = reader(found.keys[key].secret).strip()
        except (LookupError, OSError) as error:
            raise ReplayError(f"the secret of the key {key!r} cannot be read: {error}") from None
    return Checked(policy, found.written, plan(found, now=utc_now(), imported=prices), secret)


def replay(
    recording: Recording, against: Target, baseline: Target | None, pace: Pace, limits: Thresholds
) -> dict[str, Any]:
    """The view of `report`. Raises ReplayError."""
    exchanges = recording.exchanges
    if baseline is None:
        before = Side("recorded", [recorded(exchange) for exchange in exchanges])
    else:
        before = Side(_name(baseline), _outcomes(exchanges, baseline, pace))
    after = Side(_name(against), _outcomes(exchanges, against, pace))
    if baseline is None and isinstance(against, Checked):
        before = Side(before.name, at_prices_of(against.plan, before.outcomes, after.outcomes))
    skipped = [{"line": line, "reason": reason} for line, reason in recording.skipped]
    return {**report(exchanges, before, after, limits), "skipped": skipped}


def _outcomes(exchanges: Sequence[Exchange], target: Target, pace: Pace) -> list[Outcome]:
    if isinstance(target, Address):
        return asyncio.run(send(exchanges, target.url, target.key, pace))
    with gateway(target.path, target.document, target.key) as running:
        found = asyncio.run(send(exchanges, running.url, running.key, pace))
        used = sum(bool(e.model) and 200 <= of.status < 300 for e, of in zip(exchanges, found, strict=True))
        return charged(found, running.charged(used))


def _name(target: Target) -> str:
    return target.url if isinstance(target, Address) else str(target.path)

"""What the admin API and `ctl --format json` say: plain data, made from the control plane's own values."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from controlplane.plan.diff import PolicyChange
from controlplane.plan.ir import Plan
from controlplane.policy.diagnostics import Diagnostic, Severity
from controlplane.policy.place import Place, path_of, path_text
from controlplane.runtime.changes import Applied, Difference, Live
from controlplane.runtime.failures import Failure
from controlplane.xds.diff import KINDS, Change
from extproc.usage.record import PICO

if TYPE_CHECKING:
    from controlplane.audit.entry import Entry
    from controlplane.audit.read import Page
    from controlplane.revisions.revision import Revision
    from controlplane.runtime.child import ProcessState
    from controlplane.xds.server.nodes import Nack, NodeView, TypeView
    from extproc.usage.ledger import UnpricedModel, UsageRow
    from extproc.usage.record import UsageRecord

View = dict[str, Any]


def diagnostic(found: Diagnostic) -> View:
    place = found.place
    return {
        "severity": str(found.severity),
        "code": found.code,
        "message": found.message,
        "file": place.file if place else None,
        "line": place.line if place else None,
        "column": place.column if place else None,
        "path": path_text(place.path) if place else None,
        "expected": found.expected,
        "suggestion": found.suggestion,
        "hint": found.hint,
    }


def diagnostic_of(view: View, file: str) -> Diagnostic:
    """What `diagnostic` showed, told of another file: the one that was sent."""
    place = Place(file, view["line"], view["column"], path_of(view["path"])) if view["file"] else None
    rest = (view[name] for name in ("expected", "suggestion", "hint"))
    return Diagnostic(Severity(view["severity"]), view["code"], view["message"], place, *rest)


def revision(found: "Revision") -> View:
    return {
        "revision": found.number,
        "state": found.state,
        "policy": found.policy_hash[:12],
        "snapshot": found.snapshot_version,
        "who": found.who,
        "why": found.why,
        "source": found.source,
        "at": found.at.isoformat(),
        "error": found.error,
    }


def failure(found: Failure) -> View:
    return {
        "at": found.at.isoformat(),
        "source": found.source,
        "code": found.code,
        "message": found.message,
        "diagnostics": [diagnostic(d) for d in found.diagnostics],
    }


def process(found: "ProcessState") -> View:
    return {
        "name": found.name,
        "status": str(found.status),
        "since": found.since.isoformat(),
        "pid": found.pid,
        "adopted": found.adopted,
        "restarts": found.restarts,
        "last_exit": found.last_exit,
        "last_log": list(found.last_log),
    }


def policy_change(change: PolicyChange) -> View:
    return {"action": change.action, "path": path_text(change.path), "before": change.before, "after": change.after}


def xds_change(change: Change) -> View:
    return {
        "action": change.action,
        "kind": change.kind,
        "name": change.name,
        "before": change.before,
        "after": change.after,
        "effect": str(change.effect),
    }


def difference(found: Difference) -> View:
    return {
        "policy": [policy_change(change) for change in found.policy],
        "xds": [xds_change(change) for change in found.xds],
        "counters": [{**asdict(change), "path": path_text(change.path)} for change in found.counters],
        "effect": str(found.effect),
        "at_next_start": list(found.at_next_start),
    }


def applied(found: Applied) -> View:
    return {
        "revision": found.revision.number,
        "changed": found.changed,
        "nodes": list(found.nodes),
        "difference": difference(found.difference),
    }


def live(found: Live | None) -> View | None:
    if found is None:
        return None
    warnings = [diagnostic(d) for d in found.compiled.warnings]
    return {**revision(found.revision), "open": found.compiled.plan.open, "warnings": warnings}


def node(found: "NodeView") -> View:
    return {
        "id": found.id,
        "connected": found.connected,
        "since": _iso(found.connected_since if found.connected else found.disconnected_at or 0.0),
        "transport": found.transport,
        "version": found.build_version,
        "types": [_type(each) for each in found.types],
    }


def _type(found: "TypeView") -> View:
    return {
        "kind": KINDS[found.type_url],
        "sent": found.sent,
        "acknowledged": found.acknowledged,
        "in_sync": found.settled and found.rejected is None,
        "resources": found.resources,
        "rejection": _nack(found.nack) if found.nack and found.rejected else None,
        "last_rejection": _nack(found.nack) if found.nack else None,
    }


def _nack(nack: "Nack") -> View:
    return {"at": _iso(nack.time), "message": nack.message, "names": list(nack.names), "version": nack.version}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def models(plan: Plan) -> list[View]:
    """What clients can ask for, and where it goes: groups in the order in which they are tried."""
    return [
        {
            "model": route.name,
            "groups": [
                [
                    {
                        "provider": target.provider,
                        "model": target.model or route.upstream_model or route.name,
                        "weight": target.weight,
                    }
                    for target in group
                ]
                for group in route.groups
            ],
            "attempts": route.retry.attempts,
        }
        for route in plan.routes
    ]


def usage_row(row: "UsageRow") -> View:
    return {
        **row.group,
        "requests": row.requests,
        "errors": row.errors,
        "error_rate": round(row.error_rate, 6),
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "total_tokens": row.total_tokens,
        "cached_tokens": row.cached_tokens,
        "cache_write_tokens": row.cache_write_tokens,
        "reasoning_tokens": row.reasoning_tokens,
        "cost": None if row.cost is None else format(row.cost, "f"),
        "cost_partial": row.cost is not None and row.unpriced > 0,
        "unpriced": row.unpriced,
        "estimated": row.estimated,
        "abandoned": row.abandoned,
        "cache_hits": row.cache_hits,
        "latency_ms": {"p50": row.latency_p50, "p95": row.latency_p95, "p99": row.latency_p99},
        "first_token_ms": {"p50": row.first_token_p50, "p95": row.first_token_p95, "p99": row.first_token_p99},
        "tokens_per_second": row.tokens_per_second,
    }


def unpriced_model(found: "UnpricedModel") -> View:
    return {
        "model": found.model,
        "provider": found.provider,
        "served_model": found.served_model,
        "requests": found.requests,
        "input_tokens": found.input_tokens,
        "output_tokens": found.output_tokens,
    }


def usage_record(found: "UsageRecord") -> View:
    view = found._asdict()
    view.update(view.pop("tokens")._asdict())
    cost = view.pop("cost_pico")
    view["cost"] = None if cost is None else format(Decimal(cost) / PICO, "f")
    view["at"] = datetime.fromtimestamp(view.pop("at_us") / 1e6, UTC).isoformat(timespec="milliseconds")
    return view


def audit_page(page: "Page") -> View:
    """Entries of the audit log, newest first."""
    return {"rows": [_entry(each) for each in page.entries], "damaged": page.damaged}


def _entry(found: "Entry") -> View:
    """An entry, without its place in the chain: `ctl audit verify` looks at that."""
    actor = {"kind": found.actor.kind, "name": found.actor.name, "from": found.actor.source}
    said = {"action": found.action, "target": found.target, "details": found.details}
    return {"seq": found.seq, "at": found.at.isoformat(timespec="milliseconds"), "actor": actor, **said}


def account(told: Mapping[str, Any]) -> View:
    """An account as the collector tells it, with money as USD."""
    view = {name: told[name] for name in ("budget", "owner_kind", "owner", "on_spent")}
    money = told["unit"] == "pico"
    for name in ("used", "amount"):
        view[name] = format(Decimal(told[name]) / PICO, "f") if money else told[name]
    start, end = told["window"]
    view["unit"] = "usd" if money else told["unit"]
    view["since"], view["until"] = _at(start), _at(end)
    view["spent_until"] = None if told["until_us"] is None else _at(told["until_us"])
    return view


def _at(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / 1e6, UTC).isoformat(timespec="seconds")

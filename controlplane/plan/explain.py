"""plan -> why: the tier of every rule. What `ctl explain` prints; for one request, see `request_explained`."""

from collections import Counter
from collections.abc import Iterator
from decimal import Decimal

from controlplane.plan import rules_explained, translation_explained
from controlplane.plan.accounts import LIMIT
from controlplane.plan.ir import Decision, Issuer, Plan, RemoteKeys, Route, Tier, Upstream
from controlplane.plan.limits import Counted, NativeLimit, Use
from controlplane.policy.limits import Per, Place
from extproc.limits.bounds import amount_of, bound
from extproc.limits.settings import Kind
from extproc.usage.accounting import AccountSpec
from extproc.usage.budgets import Lag, explain_overshoot
from extproc.usage.record import PICO

# From the end of a request to the edge knowing its cost: Envoy flushes its log, the collector takes a batch, a small
# resource is pushed. A collector that keeps dying is started again after 10 s at most (`child.Backoff`), one that hangs
# is killed after 60 s (`pulse.DEADLINE_S`); to start takes some seconds more.
LAG = Lag(flush_us=100_000, batch_us=400_000, push_us=500_000, restart_us=14_000_000, hung_us=75_000_000)


def decisions(plan: Plan) -> Iterator[Decision]:
    """Where each line of the policy runs and why, in the order of the policy. Keys alike share one decision."""
    yield from _gateway(plan)
    for upstream in plan.upstreams.values():
        yield from _upstream(upstream)
    for route in plan.routes:
        yield _model(route)
    yield from translation_explained.decisions(plan)
    yield from _keys(plan)
    yield from (_native_limit(limit) for limit in plan.limits)
    yield from (_counted(each) for each in plan.counted)
    if plan.inline is not None:
        yield from rules_explained.decisions(plan.inline)
    yield from _accounts(plan)
    asked = rules_explained.asked(plan.inline) if plan.inline else ()
    for webhook in plan.webhooks:
        budgets = dict.fromkeys(account.budget for account in plan.accounts if webhook.name in account.webhooks)
        if not budgets and webhook.name in asked:
            continue  # what it is asked stands at the rules
        yield Decision(
            ("webhooks", webhook.name),
            f"tell of {', '.join(webhook.events)} of {', '.join(budgets) or 'no budget in use'}",
            Tier.ASIDE,
            "signed HTTP calls by the collector, from an outbox on disk",
            "at least once: tried again for 24 h; costs requests nothing",
        )
    if plan.tokens is not None:
        rule = f"verify issued keys, refuse {len(plan.tokens.revoked)} that are revoked"
        yield _native(("keys",), rule, "jwt_authn with a cache of verified tokens, rbac on their ids", "no look-up")
    for issuer in plan.issuers:
        yield from _issuer(issuer)


def _upstream(upstream: Upstream) -> Iterator[Decision]:
    path = ("providers", upstream.name)
    yield _native(path, "reach it", "cluster with its own endpoints, circuit breakers and upstream filters", "")
    if upstream.service:
        yield _native(path, "run it", f"process `{upstream.service.name}` on a unix socket", "started with the gateway")
    if upstream.server:
        how = "a process of its own on a unix socket, started again when it ends or hangs"
        yield Decision((*path, "launch"), "keep its server running", Tier.ASIDE, how, "nothing waits for it")
    if upstream.discovered:
        rule, why = "find its endpoints", "one that joins or leaves is a delta: nothing drains, no revision"
        yield _native((*path, "discover"), rule, "endpoints by EDS, divided by the models that they have", why)
    elif upstream.refresh_ms is not None:
        rule = f"look its endpoints up every {upstream.refresh_ms / 1000:g} s"
        yield _native((*path, "discover"), rule, "STRICT_DNS: every address is an endpoint", "no request waits")
    if upstream.api_key:
        yield _native((*path, "api_key"), "authenticate to it", "credential_injector, secret by SDS", "per attempt")
    if upstream.health:
        yield _native((*path, "health"), "check it actively", "HTTP health check", "no request waits for it")
    if upstream.ejection:
        why = "on by default" if upstream.ejection.max_percent == 50 else "as set"
        yield _native((*path, "ejection"), "take failing endpoints out", "outlier detection", why)


def _native_limit(limit: NativeLimit) -> Decision:
    return _native(
        ("limits", limit.use.name, "requests"),
        f"{limit.amount} requests per {limit.per_s} s, {limit.burst} at once, {_whose(limit.use)}",
        f"local_ratelimit, a bucket per {limit.use.per}",
        "exact, overshoot 0: never more than the burst and the rate since; counted per Envoy node; refilled when this "
        "limit changes, by nothing else",
    )


def _counted(counted: Counted) -> Decision:
    rule, bounds = counted.rule, bound(counted.rule)
    section = "budgets" if counted.use.budget else "limits"
    path = (section, counted.use.name) if counted.use.budget else (section, counted.use.name, str(rule.kind))
    amount, enforced = amount_of(rule), rule.enforce
    if rule.kind is Kind.CONCURRENT:
        amount, enforced = f"{rule.amount} requests at once", "strict"
    else:
        amount += f" in any {rule.per_s} s" if rule.per_s else f" per {rule.calendar}"
    return Decision(
        path,
        f"{amount}, {_whose(counted.use)}",
        Tier.INLINE,
        f"ratelimit filter asking the rate limit service: {bounds.price}",
        f"{enforced}, per {rule.scope}; overshoot: {bounds.overshoot}; refused though it may fit: {bounds.refusal}; "
        f"{bounds.away}; while the service is away, {_while_away(rule.on_error)}",
    )


def _while_away(on_error: str) -> str:
    return "requests pass, unless another limit of the policy says deny" if on_error == "allow" else "503"


def _whose(use: Use) -> str:
    """Whose requests count, and by what."""
    named = f"the {use.place} {', '.join(use.owners[:3])}{' …' if len(use.owners) > 3 else ''}"
    who = {Place.KEYS: "the keys that name it", Place.GATEWAY: "everyone"}.get(use.place, named)
    each = "one counter for all" if use.per is Per.GATEWAY else f"a counter per {use.per}"
    return f"for {who}: {each}"


def _accounts(plan: Plan) -> Iterator[Decision]:
    """Budgets and token limits. Those that only differ in their owner share one decision."""
    owners = Counter((account.budget, account.owner_kind) for account in plan.accounts)
    strict = {each.use.name for each in plan.counted if each.use.budget}
    told = set()
    for account in plan.accounts:
        kind = (account.budget, account.owner_kind)
        if kind in told or account.budget in strict:
            continue
        told.add(kind)
        limit = account.budget.startswith(LIMIT)
        path = ("limits", account.budget.removeprefix(LIMIT), "tokens") if limit else ("budgets", account.budget)
        whose = f"each of {owners[kind]} {account.owner_kind}s" if account.owner_kind else "everyone together"
        outside = sum(each.owner.endswith(":*") for each in plan.accounts if (each.budget, each.owner_kind) == kind)
        if outside:
            whose = "each of " + " and ".join(
                [f"{owners[kind] - outside} keys"] * (owners[kind] > outside) + ["all clients of outside issuers"]
            )
        yield Decision(
            path,
            f"{_amount(account)} for {whose}",
            Tier.ASIDE,
            "counted from the access log; spent accounts are refused or downgraded at the edge",
            f"eventual, costs requests nothing; overshoot: {explain_overshoot(LAG)}",
        )


def _amount(account: AccountSpec) -> str:
    amount = f"{format(Decimal(account.amount) / PICO, 'f')} USD"
    if account.unit != "pico":
        amount = f"{account.amount} {account.unit}"
    return f"{amount} per {account.period}" if account.period else f"{amount} in any {account.seconds} s"


def _native(path: tuple[str | int, ...], rule: str, mechanism: str, why: str) -> Decision:
    return Decision(path, rule, Tier.NATIVE, mechanism, why)


def _gateway(plan: Plan) -> Iterator[Decision]:
    yield _native(
        ("gateway", "listen"), f"serve {plan.edge.host}:{plan.edge.port}", "listener", "fixed: edits do not drain it"
    )
    yield _native(("gateway", "max_body"), f"refuse bodies over {plan.edge.max_body} bytes", "buffer filter", "413")
    if plan.imported is not None:
        yield Decision(
            ("gateway", "prices"),
            f"{plan.imported.title}: prices of {len(plan.imported.models)} models",
            Tier.ASIDE,
            "looked up by the collector: the policy's own prices, then these, then the catalog",
            "a request's price is that of the policy it was served under",
        )
    if plan.retention is not None:
        keep = plan.retention
        yield Decision(
            ("gateway", "retention"),
            f"keep records {keep.records}, minutes {keep.minutes}, hours {keep.hours} days; days for ever",
            Tier.ASIDE,
            "removed from the ledger by the collector, every hour, a few rows at a time",
            "new records come first",
        )
    if plan.edge.tls:
        mutual = ", client certificates required" if plan.edge.tls.client_ca else ""
        yield _native(("gateway", "tls"), f"TLS to clients{mutual}", "transport socket, secrets by SDS", "")
    if plan.edge.cors:
        yield _native(
            ("gateway", "cors"),
            "answer browsers' preflights",
            "a route, and a header filter on answers",
            "before authentication",
        )


def _model(route: Route) -> Decision:
    path = ("models", route.name)
    lookup = "prefix trie" if route.prefix is not None else "hash lookup"
    mechanism = f"route found by {lookup} on the body's model"
    if len(route.targets) > 1:
        mechanism += f", {len(route.groups)} priority group{'s' if len(route.groups) > 1 else ''}"
    if route.per_attempt:
        return _native(
            path,
            "route it",
            mechanism + ", adapted per attempt by the module",
            "its targets have paths, names or headers of their own",
        )
    if route.upstream_model is not None:
        return _native(
            path,
            "route it",
            mechanism + ", renamed once by the filter that reads the model",
            "all its targets share the name",
        )
    return _native(path, "route it", mechanism, "the name passes through")


def _keys(plan: Plan) -> Iterator[Decision]:
    if plan.open:
        yield _native(("keys",), "none: everyone may use every model", "no filter", "the gateway is open")
        return
    yield _native(
        ("keys",),
        f"authenticate {len(plan.keys)} keys",
        "api_key_auth, a hash lookup",
        "WIP in Envoy; behind one lowering",
    )
    restricted = [key for key in plan.keys if key.models is not None]
    if restricted:
        yield _native(
            ("keys",),
            f"{len(restricted)} keys may use some models only",
            "rbac, a tree of hash lookups",
            "403 where not allowed",
        )
    if bound := sum(key.addresses is not None for key in plan.keys):
        rule = f"{bound} keys may be used from some addresses only"
        yield _native(("keys",), rule, "rbac, a hash lookup and a trie of networks", "403 from elsewhere")
    for priority in plan.priorities:
        number = sum(key.priority == priority for key in plan.keys)
        rule, mechanism = (
            f"{number} keys have {priority} priority at local models",
            "a route for these, by their identity",
        )
        yield _native(("keys",), rule, mechanism, "two comparisons for requests to local models, nothing for others")
    for name in plan.expired:
        yield _native(("keys", name, "expires"), "has expired", "left out of the snapshot", "401")


def _issuer(issuer: Issuer) -> Iterator[Decision]:
    """Prices are CPU of Envoy beyond a static key's, for ES256; see docs/tiers.md."""
    path = ("issuers", issuer.name)
    if isinstance(issuer.keys, RemoteKeys):
        keys = f"its keys are fetched every {issuer.keys.refresh_ms / 1000:g} s, not by requests"
        why = f"{keys}; some 90 µs of CPU a request: every signature is checked, so that withdrawn keys count no more"
    else:
        why = "some 20 µs of CPU a request, 90 µs the first time that a worker sees a token: its signature is checked"
    yield _native(path, f"accept tokens of {issuer.issuer} as keys", "jwt_authn", why)
    claims = [issuer.key_claim, issuer.team_claim, issuer.limits_claim, issuer.models_claim]
    said = ", ".join(f"`{claim}`" for claim in claims if claim is not None)
    yield _native(
        (*path, "claims"),
        f"name its clients by {said}",
        "a script, run for these tokens only",
        "401 where one is missing",
    )
    if issuer.models is not None or issuer.models_claim is not None:
        yield _native(
            path, "its clients may use some models only", "rbac, a tree of hash lookups", "403 where not allowed"
        )

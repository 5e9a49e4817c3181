"""policy -> plan: resolves, defaults, and places every rule on the cheapest tier that can honour it."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import TypeAlias

from controlplane.plan import issuers, upstreams
from controlplane.plan import limits as limiting
from controlplane.plan.accounts import accounts, accounts_of
from controlplane.plan.caching import caching
from controlplane.plan.dialects import OPENAI_LIKE, Surface, serves
from controlplane.plan.ir import Cors, Edge, Key, Plan, Retry, Route, Said, ServerTls, Target, Upstream, Way, Webhook
from controlplane.plan.lanes import Lanes, assign
from controlplane.plan.rules import inline
from controlplane.plan.tokens import IssuedKey, Tokens, identity_of, owner
from controlplane.policy import language
from controlplane.policy.tokenizers import TokenizerText
from extproc.usage.accounting import Retention
from extproc.usage.price_catalog import Catalog

Upstreams: TypeAlias = Mapping[str, Upstream]

# What Envoy calls the reasons to try again: https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/http/http_filters/router_filter#x-envoy-retry-on
# It does not tell a timeout from a reset, so either word covers both.
_CONDITIONS = {"timeout": "reset", "reset": "reset", "connect": "connect-failure"}
_STATUSES = "retriable-status-codes"


def plan(
    policy: language.Policy,
    *,
    now: datetime,
    tokens: Tokens | None = None,
    imported: Catalog | None = None,
    tokenizers: tuple[TokenizerText, ...] = (),
    hooks: str = "",
) -> Plan:
    """The plan of a checked policy. Keys that expired by `now` (aware, UTC) are not in it.

    `tokens`: the issued keys; `imported`: the prices in the file that the policy names; `tokenizers`: its tokenizers.
    `hooks`: the hash of what the workers of rules are told of webhooks.
    """
    built = {
        name: upstreams.build(name, provider, policy.gateway.listing) for name, provider in policy.providers.items()
    }
    native, counted = tuple(limiting.native(policy, tokens)), tuple(limiting.counted(policy, tokens))
    uses = tuple(dict.fromkeys([each.use for each in native] + [each.use for each in counted]))
    messages = _messages(policy)
    routes, lanes = assign(
        (_whole(name, model, built, uses, messages=messages) for name, model in policy.models.items()), built
    )
    needed = {name: lanes.get(name, Lanes()) for name in built}
    adapted = {
        name: upstreams.with_lanes(upstream, of.plain, of.translated, tuple(sorted(of.foreign)))
        for (name, upstream), of in zip(built.items(), needed.values(), strict=True)
    }
    translated = any(of.translated for of in needed.values())
    keys = tuple(
        _key(name, key, policy) for name, key in policy.keys.items() if key.expires is None or key.expires > now
    )
    counts = bool(policy.rules) or translated if policy.gateway.tokenize is None else policy.gateway.tokenize
    keep = policy.gateway.retention
    issued = tuple(_issued(key) for key in tokens.keys) if tokens else ()
    everyone = (*keys, *issued)
    return Plan(
        edge=_edge(policy.gateway),
        upstreams=MappingProxyType(adapted),
        routes=routes,
        keys=everyone,
        limits=native,
        open=not policy.keys and tokens is None and not policy.issuers,
        expired=tuple(name for name, key in policy.keys.items() if key.expires is not None and key.expires <= now),
        accounts=(*accounts(policy), *accounts_of(tokens, policy)),
        prices=tuple(
            (pattern, tuple((name, format(rate, "f")) for name, rate in price.stated().items()))
            for pattern, price in policy.prices.items()
        ),
        imported=imported,
        tokenizers=tokenizers,
        ledger=policy.gateway.ledger,
        inline=inline(
            policy,
            [(key.identity, key.owner) for key in everyone],
            {route.name: None if route.per_attempt else route.upstream_model for route in routes},
            counts=counts,
            texts=tokenizers,
            hooks=hooks,
        ),
        retention=Retention(keep.records, keep.minutes, keep.hours),
        webhooks=tuple(
            Webhook(name, webhook.url, webhook.secret, tuple(dict.fromkeys(webhook.events)))
            for name, webhook in policy.webhooks.items()
        ),
        workers=policy.gateway.rule_workers if policy.rules or translated or counts else 0,
        worker_timeout_ms=policy.gateway.rule_timeout,
        messages=messages,
        tokens=tokens,
        issuers=tuple(issuers.build(policy)),
        counted=counted,
        redis=policy.gateway.redis if any(each.rule.scope == "fleet" for each in counted) else None,
        caching=caching(policy.gateway, policy.rules),
        about={
            name: Said(model.alias_of or name, model.about)
            for name, model in policy.models.items()
            if model.about is not None
        },
    )


def next_expiry(policy: language.Policy, *, now: datetime) -> datetime | None:
    """When the plan of this policy next changes by itself; None if it never does."""
    return min((key.expires for key in policy.keys.values() if key.expires and key.expires > now), default=None)


def _edge(gateway: language.Gateway) -> Edge:
    tls, cors = gateway.tls, gateway.cors
    return Edge(
        host=gateway.listen.host,
        port=gateway.listen.port,
        max_body=gateway.max_body,
        tls=ServerTls(tls.cert, tls.key, tls.client_ca) if tls else None,
        cors=Cors(tuple(cors.origins), tuple(cors.headers), cors.max_age // 1000, cors.credentials) if cors else None,
        trusted_proxies=tuple(dict.fromkeys(gateway.trusted_proxies)),
    )


def _messages(policy: language.Policy) -> bool:
    """Whether clients may speak Anthropic's API: as the policy says, or where somebody speaks another than OpenAI's."""
    if policy.gateway.messages is not None:
        return policy.gateway.messages
    return any(provider.kind not in OPENAI_LIKE for provider in policy.providers.values())


def _whole(
    name: str, model: language.Model, upstreams: Upstreams, uses: tuple[limiting.Use, ...], *, messages: bool
) -> Route:
    """The route of chats, with the ways of requests to other endpoints, each to those targets that serve them."""
    surfaces = [Surface.EMBEDDINGS, Surface.OTHER, *((Surface.MESSAGES, Surface.COUNT_TOKENS) if messages else ())]
    kinds = {upstreams[target.provider].kind for group in model.groups for target in group}
    route = _route(name, model, model.groups, upstreams, uses)
    if kinds <= OPENAI_LIKE and not messages:
        return route
    return replace(route, ways=tuple(Way((each,), _way(route, model, each, upstreams, uses)) for each in surfaces))


def _way(
    route: Route, model: language.Model, surface: Surface, upstreams: Upstreams, uses: tuple[limiting.Use, ...]
) -> Route | None:
    served = tuple(
        tuple(target for target in group if serves(upstreams[target.provider].kind, surface)) for group in model.groups
    )
    if served == model.groups:
        return route
    kept = tuple(group for group in served if group)
    return _route(route.name, model, kept, upstreams, uses) if kept else None


def _route(
    name: str,
    model: language.Model,
    chosen: tuple[tuple[language.Target, ...], ...],
    upstreams: Upstreams,
    uses: tuple[limiting.Use, ...],
) -> Route:
    """The way to some targets of a model."""
    groups = tuple(tuple(Target(t.provider, 0, t.model, t.weight) for t in group) for group in chosen)
    return Route(
        name=name,
        prefix=name[:-1] if name.endswith("*") else None,
        groups=groups,
        upstream_model=None,
        base_path="/v1",
        retry=_retry(model, groups),
        first_byte_ms=model.timeouts.first_byte,
        idle_ms=model.timeouts.idle,
        stream_usage=all(upstreams[target.provider].stream_usage for group in groups for target in group),
        marks=limiting.marks(name, model, uses) if uses else (),
    )


def _retry(model: language.Model, groups: tuple[tuple[Target, ...], ...]) -> Retry:
    """One attempt per group; a model with a single group gets its `retries` on the same targets."""
    alone = len(groups) == 1
    attempts = 1 + (1 if model.retries is None else model.retries) if alone else len(groups)
    words = [word for word in model.on if isinstance(word, str)]
    statuses = sorted({word for word in model.on if isinstance(word, int)})
    conditions = []
    if {"5xx", "timeout", "connect", "reset"} <= set(words):
        conditions.append("5xx")  # Envoy's word for all of these together
    else:
        conditions.extend(dict.fromkeys(_CONDITIONS[word] for word in words if word in _CONDITIONS))
        if "5xx" in words:
            statuses = sorted({*statuses, *range(500, 600)})
    if statuses:
        conditions.append(_STATUSES)
    # With another provider to turn to there is no reason to wait for this one.
    return Retry(attempts, tuple(conditions), tuple(statuses), honour_retry_after=alone and 429 in statuses)


def _key(name: str, key: language.Key, policy: language.Policy) -> Key:
    models = None if key.models is None or "*" in key.models else tuple(key.models)
    who = owner(policy, name, key.team)
    limits = tuple(key.limits)
    addresses = None if key.addresses is None else tuple(dict.fromkeys(key.addresses))
    identity = identity_of(who, limits, tuple(key.budget), key.priority)
    return Key(name, identity, key.secret, models, limits, who, addresses, key.priority)


def _issued(key: IssuedKey) -> Key:
    models = None if key.models is None or "*" in key.models else key.models
    return Key(key.name, key.identity, None, models, key.limits, key.owner, key.addresses, key.priority)

"""Models -> one RouteConfiguration: a request's path picks the surface, its model header picks the route.

The model tree is a hash lookup (then a prefix trie for wildcards), so 10 models cost what 10,000 cost.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, lru_cache

from envoy.config.core.v3 import base_pb2 as base
from envoy.config.route.v3 import route_components_pb2 as route
from envoy.config.route.v3 import route_pb2
from google.protobuf.any_pb2 import Any as AnyProto

from controlplane.plan.dialects import Surface
from controlplane.plan.ir import Plan, Route
from controlplane.plan.rules import COUNT, Branch, Leaf
from controlplane.policy.endpoints import ENDPOINTS, MESSAGES, PATHS, TOKENIZE
from controlplane.xds import cors, errors, keys, listing, matchers, names, priorities, retries, rules, subsets, usage
from controlplane.xds.protos import boolean, millis, pack, typed_struct, uint

_GROUPS = "envoy.extensions.router.cluster_specifiers.priority_group.v3.PriorityGroupClusterSpecifier"
_IDLE_SLACK_MS = 1000
# Bodies that Envoy's filters may hold without raising their limit of 1 MiB. A body without a length is not small.
_SMALL = "[0-9]{1,6}"
_ENABLED = route.FilterConfig(config=AnyProto())
_HEALTH = r"/health(\?(?s:.*))?"
_USAGE = r"/v1/usage(\?(?s:.*))?"
_LISTING = r"/v1/models([/?](?s:.*))?"
_TOKENIZE = f"/v1/{TOKENIZE}"

_SPOKEN = frozenset(f"/v1/{name}" for name in MESSAGES)
_WRONG_METHOD = ("%REQ(:METHOD)% is not allowed here: use POST.", "method_not_allowed")
_NOT_SPOKEN = (
    "Clients of this gateway speak OpenAI's API only: set `gateway.messages: true` in its policy.", "unknown_url"
)  # fmt: skip
_NOT_COUNTED = ("This gateway counts no tokens: set `gateway.tokenize: true` in its policy.", "unknown_url")
_AWAY = "Tokens cannot be counted at the moment. Try again."
_NOT_SERVED = "No provider of the model '%REQ(x-headgate-model)%' has this endpoint."

# What a client sends for the gateway, and what would tell a provider about the client.
_NOT_FOR_PROVIDERS = (
    names.CLIENT, names.MODEL, names.INSTEAD, names.STREAM, names.TOKEN_ID, names.ISSUER, names.GRANT, names.CAP,
    "authorization", "x-api-key", "api-key", "cookie", "openai-organization", "openai-project",
    "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-real-ip", "forwarded",
    "x-envoy-external-address",
    "accept-encoding",  # usage cannot be read from a compressed answer
)  # fmt: skip
# What a provider says about the gateway's account with it, and about itself.
_NOT_FOR_CLIENTS = (
    "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
    "openai-organization", "openai-project", "set-cookie", "alt-svc", "strict-transport-security",
)  # fmt: skip
# https://docs.claude.com/en/api/rate-limits#response-headers
_OF_ANTHROPIC = (
    "anthropic-organization-id",
    *(
        f"anthropic-ratelimit-{counted}-{part}"
        for counted in ("requests", "tokens", "input-tokens", "output-tokens")
        for part in ("limit", "remaining", "reset")
    ),
)


def lower(plan: Plan, *, draining: bool) -> route_pb2.RouteConfiguration:
    """The route table of the whole edge."""
    host = route.VirtualHost(
        name="edge",
        domains=["*"],
        matcher=_models(plan, draining),
        request_body_buffer_limit={"value": plan.edge.max_body},  # what a retry may send again
    )
    for name in _tokens(plan):
        host.typed_per_filter_config[name].CopyFrom(pack(_ENABLED))
    chosen = plan.inline.told_after_choice if plan.inline else ()
    return route_pb2.RouteConfiguration(
        name=names.ROUTES,
        virtual_hosts=[host],
        request_headers_to_remove=_NOT_FOR_PROVIDERS,
        response_headers_to_remove=_not_for_clients(plan),
        response_headers_to_add=rules.told(chosen),
        max_direct_response_body_size_bytes=uint(1 << 20),
    )


def _not_for_clients(plan: Plan) -> tuple[str, ...]:
    anthropic = any(upstream.kind == "anthropic" for upstream in plan.upstreams.values())
    return (*_NOT_FOR_CLIENTS, *(_OF_ANTHROPIC if anthropic else ()))


def _models(plan: Plan, draining: bool) -> matchers.Matcher:
    """Model -> route. Only requests to an endpoint get a model header, so a model also vouches for the path."""
    unknown = _in_dialects(plan, 404, f"The model '%REQ({names.MODEL})%' does not exist.", "model_not_found", "model")
    exact, prefixes, everything = {}, {}, unknown
    for pattern, on_match in _placed(plan):
        if not pattern.endswith("*"):
            exact[pattern] = on_match
        elif pattern == "*":
            everything = on_match
        else:
            prefixes[pattern[:-1]] = on_match
    named, surface = matchers.present(names.MODEL), matchers.then(_surface(plan, draining))
    others = matchers.first_of([(named, everything)], surface)
    models = matchers.lookup(names.MODEL, exact, prefixes, matchers.then(others))
    if plan.inline is None or not plan.inline.counts:
        return models
    # One route for all models, which the service knows: a route for each would make the table twice as long.
    counted = matchers.then(matchers.first_of([(named, _counted(plan.inline.version))], surface))
    return matchers.lookup(":path", {_TOKENIZE: counted}, {f"{_TOKENIZE}?": counted}, matchers.then(models))


def _surface(plan: Plan, draining: bool) -> matchers.Matcher:
    """What a request without a model gets: the first look of every request, so it is all lookups."""
    only_get = _error(405, "%REQ(:METHOD)% is not allowed here: use GET.", "method_not_allowed")
    unknown = _in_dialects(plan, 404, "Unknown request URL: %REQ(:METHOD)% %REQ(:PATH)%.", "unknown_url")
    about_usage, models = usage.route_to_it(), listing.route(plan)
    if any(key.addresses is not None for key in plan.keys):
        for made in (about_usage, models):
            made.typed_per_filter_config[names.PERMISSIONS].CopyFrom(pack(_ENABLED))
    asked, listed = {"GET": matchers.action("usage", about_usage)}, {"GET": matchers.action("listing", models)}
    if plan.edge.cors is not None:
        listed["OPTIONS"] = asked["OPTIONS"] = cors.preflight(plan.edge.cors)
    get = matchers.regex(":method", "GET|HEAD")
    paths, queried = _endpoints(plan)
    rest = matchers.first_of(
        [
            (matchers.every(matchers.regex(":path", _HEALTH), get), matchers.action("health", _health(plan, draining))),
            (matchers.regex(":path", _LISTING), matchers.then(matchers.lookup(":method", listed, {}, only_get))),
            *((matchers.regex(":path", _with_query(named)), on_match) for named, on_match in queried.items()),
            (matchers.regex(":path", _USAGE), matchers.then(matchers.lookup(":method", asked, {}, only_get))),
        ],
        unknown,
    )
    return matchers.lookup(":path", paths, {}, matchers.then(rest))


def _endpoints(plan: Plan) -> tuple[dict[str, matchers.OnMatch], dict[tuple[str, ...], matchers.OnMatch]]:
    """What becomes of requests to endpoints before their model is known: by path, and by name where a query follows."""
    methods = {} if plan.edge.cors is None else {"OPTIONS": cors.preflight(plan.edge.cors)}

    @cache
    def posted(filters: tuple[str, ...], anthropic: bool) -> matchers.OnMatch:
        if anthropic and not plan.messages:
            return _error(404, *_NOT_SPOKEN, anthropic=True)
        taken = {"POST": _nameless(plan, filters, anthropic=anthropic), **methods}
        refused = _error(405, *_WRONG_METHOD, anthropic=anthropic)
        return matchers.then(matchers.lookup(":method", taken, {}, refused))

    tokenize = posted((names.RULES, names.HOLD), False) if plan.counts else _error(404, *_NOT_COUNTED)
    count = Surface.COUNT_TOKENS.value
    paths = {path: posted(_of_rules(plan, path, counts=path == count), path in _SPOKEN) for path in PATHS}
    queried = {
        ENDPOINTS: posted(_of_rules(plan), False),
        MESSAGES: posted(_of_rules(plan, counts=True), True),
        (TOKENIZE,): tokenize,
    }
    return {**paths, _TOKENIZE: tokenize}, queried


def _with_query(endpoints: tuple[str, ...]) -> str:
    return r"/v1/(" + "|".join(endpoints) + r")\?(?s:.*)"


def _health(plan: Plan, draining: bool) -> route.Route:
    """GET /health for load balancers: 200, or 503 once the gateway drains."""
    answer = route.DirectResponseAction(status=503 if draining else 200)
    answer.body.inline_string = "draining\n" if draining else "ok\n"
    made = route.Route(match={"prefix": "/"}, direct_response=answer)
    # Load balancers have no key.
    for name in (names.KEYS, *_tokens(plan)):
        made.typed_per_filter_config[name].CopyFrom(pack(route.FilterConfig(disabled=True)))
    return made


def _tokens(plan: Plan) -> tuple[str, ...]:
    """The filters for tokens that are used. Where one were not enabled, its tokens would be refused, not accepted."""
    issued = (names.TOKENS, names.REVOCATIONS) if plan.tokens else ()
    return (*issued, *((names.ISSUERS, names.IDENTITIES) if plan.issuers else ()))


def _of_rules(plan: Plan, path: str | None = None, *, counts: bool = False) -> tuple[str, ...]:
    """The filters that requests to an endpoint need for their rules: which model they ask for is not known yet.

    `counts`: they may ask for a count.
    """
    if plan.inline is None:
        return ()
    shown, counted = plan.inline.shown(path), counts and plan.counts
    wanted = {
        names.RULES: any(shown) or counted,
        names.HOLD: shown.request or counted,
        names.ANSWER: shown.answer,
    }
    return tuple(name for name, needed in wanted.items() if needed)


def _nameless(plan: Plan, filters: tuple[str, ...], *, anthropic: bool) -> matchers.OnMatch:
    """Every request to an endpoint takes this route first. It enables the filters that this request needs."""
    small = matchers.regex("content-length", _SMALL)
    large = _reading(plan, *filters, names.BODY, anthropic=anthropic)
    return matchers.then(matchers.first_of([(small, _reading(plan, *filters, anthropic=anthropic))], large))


def _reading(plan: Plan, *more: str, anthropic: bool) -> matchers.OnMatch:
    """Has the model read, and then the permissions checked if there are any."""
    message = (
        'The request names no model, or more than one. Send a JSON object, not compressed, with one string "model" of '
        'at most 256 bytes and `content-type: application/json`, or a multipart form with one "model" field.'
    )
    answer = errors.direct(400, message, "model_required", "model", anthropic=anthropic)
    made = route.Route(match={"prefix": "/"}, direct_response=answer)
    enabled = {names.MODEL_FILTER: _ENABLED}
    if keys.restricts(plan):
        enabled[names.PERMISSIONS] = _ENABLED
    if plan.accounts:
        enabled[names.SPENT] = _ENABLED
    if plan.counted:
        enabled[names.ASKING] = enabled[names.NO_COUNTS] = _ENABLED
    enabled.update(dict.fromkeys(more, _ENABLED))
    for name, enable in enabled.items():
        made.typed_per_filter_config[name].CopyFrom(pack(enable))
    return matchers.action("answer", made)


def _error(
    status: int, message: str, code: str, param: str | None = None, *, anthropic: bool = False
) -> matchers.OnMatch:
    answer = errors.direct(status, message, code, param, anthropic=anthropic)
    return matchers.action("answer", route.Route(match={"prefix": "/"}, direct_response=answer))


def _in_dialects(plan: Plan, status: int, message: str, code: str, param: str | None = None) -> matchers.OnMatch:
    """An error in the shape of the API that the request came to."""
    usual = _error(status, message, code, param)
    if not plan.messages:
        return usual
    spoken = {Surface.MESSAGES.value: _error(status, message, code, param, anthropic=True)}
    return matchers.then(matchers.lookup(":path", {}, spoken, usual))


def _placed(plan: Plan) -> Iterator[tuple[str, matchers.OnMatch]]:
    """Models and patterns, with what becomes of their requests."""
    if plan.inline is None or not plan.ruled:
        yield from ((model.name, _on_match(model, plan, None)) for model in plan.routes)
        return
    models = {model.name: model for model in plan.routes}
    for place in plan.inline.places:
        yield place.pattern, _branched(models[place.route], plan, plan.inline.version, place.branch)


def _branched(model: Route, plan: Plan, version: str, branch: Branch) -> matchers.OnMatch:
    """A route for each kind of request that goes through other rules."""
    if isinstance(branch, Leaf):
        return _on_match(model, plan, rules.Through(version, branch) if branch.messages else None)
    cases = {value: _branched(model, plan, version, case) for value, case in branch.cases}
    others = _branched(model, plan, version, branch.others)
    if branch.by == "client":
        return matchers.then(matchers.lookup(names.CLIENT, cases, {}, others))
    if branch.by == "path":
        queried = {f"{path}?": case for path, case in cases.items()}
        return matchers.then(matchers.lookup(":path", cases, queried, others))
    return matchers.then(matchers.lookup(names.STREAM, cases, {}, others))


def _on_match(model: Route, plan: Plan, through: rules.Through | None) -> matchers.OnMatch:
    """What becomes of requests for a model: its route, or one by the endpoint where they part."""
    usual = _one_way(replace(model, ways=()) if model.ways else model, plan, through)
    if not model.ways:
        return usual
    ways = {
        surface: _one_way(way.route, plan, through) if way.route else _not_served(surface, plan)
        for way in model.ways
        for surface in way.surfaces
    }
    others = ways.pop(Surface.OTHER, None)
    if others is not None:
        ways = dict.fromkeys((each for each in Surface if each is not Surface.OTHER), usual) | ways
    paths = {surface.value: on_match for surface, on_match in ways.items()}
    return matchers.then(matchers.lookup(":path", {}, paths, others or usual))


def _not_served(surface: Surface, plan: Plan) -> matchers.OnMatch:
    """Of an endpoint that no provider of the model has. Tokens the gateway can count itself."""
    if surface is Surface.COUNT_TOKENS and plan.inline is not None and plan.inline.counts:
        return _counted(plan.inline.version, anthropic=True)
    anthropic = surface in (Surface.MESSAGES, Surface.COUNT_TOKENS)
    return _error(400, _NOT_SERVED, "unsupported_endpoint", anthropic=anthropic)


@lru_cache(maxsize=8)
def _counted(version: str, *, anthropic: bool = False) -> matchers.OnMatch:
    """The route of requests that the service answers; it goes nowhere itself."""
    answer = errors.direct(503, _AWAY, "rules_unavailable", anthropic=anthropic)
    made = route.Route(match={"prefix": "/"}, direct_response=answer)
    rules.send(made, rules.Through(version, COUNT))
    return matchers.action("answer", made)


def _one_way(model: Route, plan: Plan, through: rules.Through | None) -> matchers.OnMatch:
    upstreams = [plan.upstreams[target.provider] for target in model.targets]
    elsewhere = any(len(each.endpoints) > 1 or each.resolve or each.discovered for each in upstreams)
    sticky = any(upstream.balance == "ring_hash" for upstream in upstreams)
    local = any(upstream.kind == "onnx" for upstream in upstreams)
    wanted = subsets.wanted(model, plan)
    return priorities.parted(
        plan.priorities if local else (), lambda each: _route(model, elsewhere, sticky, through, each, wanted)
    )


@lru_cache(maxsize=20_000)  # an edit leaves most models as they are
def _route(
    model: Route, elsewhere: bool, sticky: bool, through: rules.Through | None, priority: str, wanted: subsets.Wanted
) -> matchers.OnMatch:
    """`elsewhere`: a retry should go to another endpoint, since there are some. `sticky`: a client's requests too.

    `through`: the rules that its requests go through. `priority`: what local models are told of their turn. `wanted`:
    the models that it asks clusters of endpoints for.
    """
    action = route.RouteAction(
        timeout={},  # no total timeout: it would cut long streams
        idle_timeout=millis(max(model.idle_ms, retries.all_first_bytes_ms(model)) + _IDLE_SLACK_MS),
        retry_policy=retries.lower(model, elsewhere=elsewhere),
        auto_host_rewrite=boolean(True),
        metadata_match=subsets.criteria(wanted),
    )
    if len(model.targets) == 1:
        action.cluster = names.target_cluster(model.targets[0])
    else:
        action.inline_cluster_specifier_plugin.extension.name = "groups"
        action.inline_cluster_specifier_plugin.extension.typed_config.CopyFrom(typed_struct(_GROUPS, _groups(model)))
    if sticky:
        by_client = route.RouteAction.HashPolicy(header={"header_name": names.CLIENT}, terminal=True)
        by_address = route.RouteAction.HashPolicy(connection_properties={"source_ip": True})
        action.hash_policy.extend([by_client, by_address])
    if not model.per_attempt and model.base_path != "/v1":
        action.prefix_rewrite = f"{model.base_path}/"
    made = route.Route(match={"prefix": "/v1/"}, route=action, metadata=_upstream_models(model))
    if priority:
        priorities.tell(made, priority)
    if through is not None:
        rules.send(made, through)
    return matchers.action("route", made)


def _upstream_models(model: Route) -> base.Metadata | None:
    """What the filters read: the name for all attempts, or one per cluster ("": as the client wrote it), and whether
    streams may be asked for their usage; what limits read.
    """
    metadata = base.Metadata()
    if model.per_attempt:
        attempts = {names.target_cluster(target): target.model or "" for target in model.targets}
        metadata.filter_metadata[names.ATTEMPT_FILTER].update(attempts)
    elif model.upstream_model is not None:
        metadata.filter_metadata[names.MODEL_FILTER].update({"model": model.upstream_model})
    if model.marks:
        metadata.filter_metadata[names.MARKS].update(dict(model.marks))
    if not model.stream_usage:
        metadata.filter_metadata[names.MODEL_FILTER].update({"stream_usage": "never"})
    return metadata if metadata.filter_metadata else None


def _groups(model: Route) -> dict[str, object]:
    return {
        "priority_groups": [
            {
                "name": f"group-{index}",
                "clusters": [{"cluster_name": names.target_cluster(t), "weight": t.weight} for t in group],
            }
            for index, group in enumerate(model.groups)
        ]
    }

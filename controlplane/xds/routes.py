"""Models -> one RouteConfiguration: a request's path picks the surface, its model header picks the route.

The model tree is a hash lookup (then a prefix trie for wildcards), so 10 models cost what 10,000 cost.
"""

from envoy.config.core.v3 import base_pb2 as base
from envoy.config.route.v3 import route_components_pb2 as route
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2 as cors
from envoy.type.matcher.v3 import string_pb2 as strings

from controlplane.plan.ir import Cors, Plan, Route, Target
from controlplane.xds import errors, listing, matchers, names
from controlplane.xds.protos import boolean, millis, pack, typed_struct, uint

# The endpoints that carry a model, below /v1.
ENDPOINTS = (
    "chat/completions", "completions", "embeddings", "responses", "moderations", "rerank",
    "images/generations", "images/edits", "images/variations",
    "audio/speech", "audio/transcriptions", "audio/translations",
)  # fmt: skip

_GROUPS = "envoy.extensions.router.cluster_specifiers.priority_group.v3.PriorityGroupClusterSpecifier"
_INFERENCE = r"/v1/(" + "|".join(ENDPOINTS) + r")(\?.*)?"
_LISTING = r"/v1/models(/.+)?(\?.*)?"

# What a client sends for the gateway, and what would tell a provider about the client.
_NOT_FOR_PROVIDERS = (
    names.CLIENT, names.MODEL, "authorization", "x-api-key", "api-key", "cookie", "openai-organization", "openai-project",
    "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-real-ip", "forwarded", "x-envoy-external-address",
)  # fmt: skip
# What a provider says about the gateway's account with it, and about itself.
_NOT_FOR_CLIENTS = (
    "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens",
    "openai-organization", "openai-project", "set-cookie", "server", "alt-svc", "strict-transport-security",
)  # fmt: skip


def lower(plan: Plan) -> route_pb2.RouteConfiguration:
    """The route table of the whole edge."""
    host = route.VirtualHost(
        name="edge",
        domains=["*"],
        matcher=_surface(plan),
        request_body_buffer_limit={"value": plan.edge.max_body},
    )
    if plan.edge.cors is not None:
        host.typed_per_filter_config["envoy.filters.http.cors"].CopyFrom(pack(_cors(plan.edge.cors)))
    return route_pb2.RouteConfiguration(
        name=names.ROUTES,
        virtual_hosts=[host],
        request_headers_to_remove=_NOT_FOR_PROVIDERS,
        response_headers_to_remove=_NOT_FOR_CLIENTS,
        max_direct_response_body_size_bytes=uint(1 << 20),
    )


def _surface(plan: Plan) -> matchers.Matcher:
    path = matchers.regex(":path", _INFERENCE)
    get = matchers.regex(":method", "GET|HEAD")
    unknown = errors.direct(404, "Unknown request URL: %REQ(:METHOD)% %REQ(:PATH)%. See /v1/models and the API's paths.", "unknown_url")
    wrong_method = errors.direct(405, "%REQ(:METHOD)% is not allowed here: use POST.", "method_not_allowed")
    return matchers.first_of(
        [
            (matchers.every(path, matchers.regex(":method", "POST")), matchers.then(_models(plan))),
            (matchers.every(matchers.regex(":path", _LISTING), get), matchers.action("listing", listing.route(plan))),
            (path, _answer(wrong_method)),
        ],
        _answer(unknown),
    )


def _models(plan: Plan) -> matchers.Matcher:
    hashed = {u.name for u in plan.upstreams.values() if u.balance == "ring_hash"}
    exact = {r.name: matchers.action("route", _route(r, hashed)) for r in plan.routes if r.prefix is None}
    prefixes = {r.prefix: matchers.action("route", _route(r, hashed)) for r in plan.routes if r.prefix is not None}
    no_such = errors.direct(404, f"The model '%REQ({names.MODEL})%' does not exist.", "model_not_found", "model")
    nameless = errors.direct(
        400,
        "The request names no model. Send a JSON object with a string \"model\" and `content-type: application/json`, "
        "or a multipart form with a \"model\" field.",
        "model_required",
        "model",
    )
    named = matchers.present(names.MODEL)
    if "" in prefixes:  # the wildcard `*` takes every name, but not a request without one
        anything = prefixes.pop("")
        unmatched = matchers.first_of([(named, anything)], _answer(nameless))
    else:
        unmatched = matchers.first_of([(named, _answer(no_such))], _answer(nameless))
    return matchers.lookup(names.MODEL, exact, prefixes, matchers.then(unmatched))


def _answer(direct: route.DirectResponseAction) -> matchers.OnMatch:
    return matchers.action("answer", route.Route(match={"prefix": "/"}, direct_response=direct))


def _route(model: Route, hashed: set[str]) -> route.Route:
    action = route.RouteAction(
        timeout={},  # no total timeout: it would cut long streams
        # The attempt's own clocks below bound the wait; a clock over all attempts would bound failover.
        idle_timeout={},
        retry_policy=_retries(model),
        auto_host_rewrite=boolean(True),
    )
    targets = [target for group in model.groups for target in group]
    if len(targets) == 1:
        action.cluster = names.target_cluster(targets[0])
    else:
        action.inline_cluster_specifier_plugin.extension.name = "groups"
        action.inline_cluster_specifier_plugin.extension.typed_config.CopyFrom(typed_struct(_GROUPS, _groups(model)))
    if any(target.provider in hashed for target in targets):
        by_client = route.RouteAction.HashPolicy(header={"header_name": names.CLIENT}, terminal=True)
        by_address = route.RouteAction.HashPolicy(connection_properties={"source_ip": True})
        action.hash_policy.extend([by_client, by_address])
    made = route.Route(match={"prefix": "/"}, route=action)
    spliced = _upstream_models(targets)
    if spliced:
        metadata = base.Metadata()
        metadata.filter_metadata[names.LUA_NAMESPACE].update(spliced)
        made.metadata.CopyFrom(metadata)
    return made


def _upstream_models(targets: list[Target]) -> dict[str, str]:
    """Cluster -> the name to ask it for; "" means: as the client wrote it, after another attempt renamed it."""
    if all(target.model is None for target in targets):
        return {}
    return {names.target_cluster(target): target.model or "" for target in targets}


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


def _retries(model: Route) -> route.RetryPolicy:
    retry = model.retry
    policy = route.RetryPolicy(
        retry_on=",".join(retry.conditions),
        retriable_status_codes=retry.statuses,
        num_retries=uint(retry.attempts - 1),
        per_try_timeout=millis(model.first_byte_ms),
        per_try_idle_timeout=millis(model.idle_ms),
        retry_back_off={"base_interval": millis(25), "max_interval": millis(250)},
        host_selection_retry_max_attempts=3,
    )
    previous = policy.retry_host_predicate.add(name="envoy.retry_host_predicates.previous_hosts")
    previous.typed_config.CopyFrom(typed_struct("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", {}))
    if retry.honour_retry_after:
        # Longer waits are the client's to decide: it gets the provider's 429 with its retry-after.
        policy.rate_limited_retry_back_off.reset_headers.add(name="retry-after")
        policy.rate_limited_retry_back_off.max_interval.CopyFrom(millis(5000))
    if len(model.groups) > 1 or len(model.groups[0]) > 1:
        policy.MergeFromString(b"\x70\x01")  # refresh_cluster_on_retry, field 14, unknown to xds-protos
    return policy


def _cors(policy: Cors) -> cors.CorsPolicy:
    origins = [
        strings.StringMatcher(safe_regex={"regex": ".*"}) if origin == "*" else strings.StringMatcher(exact=origin)
        for origin in policy.origins
    ]
    return cors.CorsPolicy(
        allow_origin_string_match=origins,
        allow_methods="GET, POST, OPTIONS",
        allow_headers=", ".join(policy.headers),
        expose_headers="x-request-id, retry-after, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
        "x-ratelimit-reset-requests",
        max_age=str(policy.max_age_s),
        allow_credentials=boolean(policy.credentials),
    )


"""CORS: which web pages may call the gateway. https://fetch.spec.whatwg.org/#http-cors-protocol

Envoy's own cors filter passes over requests whose route is a direct response, as the first route of every request
here is. So preflights are routes of their own, and one header filter serves all answers, errors included.
"""

import re

from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2 as mutation
from envoy.config.core.v3 import base_pb2 as base
from envoy.config.core.v3 import extension_pb2 as extension
from envoy.config.route.v3 import route_components_pb2 as route
from envoy.extensions.common.matching.v3 import extension_matcher_pb2 as delegate
from envoy.extensions.filters.common.matcher.action.v3 import skip_action_pb2 as skip
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2 as headers

from controlplane.plan.ir import Cors
from controlplane.xds import matchers, names
from controlplane.xds.protos import pack

_SET = base.HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
# What the gateway tells in headers of answers: a page can read only those that are named.
_EXPOSED = (
    "x-request-id", "retry-after", "x-should-retry",
    *(f"x-ratelimit-{part}-{of}" for of in ("requests", "tokens") for part in ("limit", "remaining", "reset")),
    "x-headgate-cache", "x-headgate-cache-similarity", "x-headgate-dropped", "x-headgate-not-translated",
    "x-headgate-warning",
)  # fmt: skip


def answers(policy: Cors) -> delegate.ExtensionWithMatcher:
    """The filter that tells a page's browser that it may read the answer; skipped for other origins and none."""
    allowed = {"access-control-allow-origin": "%REQ(origin)%", "vary": "origin"}
    allowed["access-control-expose-headers"] = ", ".join(_EXPOSED)
    if policy.credentials:
        allowed["access-control-allow-credentials"] = "true"
    mutations = [mutation.HeaderMutation(append=_header(name, value)) for name, value in allowed.items()]
    config = headers.HeaderMutation(mutations=headers.Mutations(response_mutations=mutations))
    return delegate.ExtensionWithMatcher(
        xds_matcher=matchers.first_of(
            [(matchers.negate(_allowed(policy)), matchers.action("skip", skip.SkipFilter()))]
        ),
        extension_config=extension.TypedExtensionConfig(name="cors", typed_config=pack(config)),
    )


def preflight(policy: Cors) -> matchers.OnMatch:
    """The answer to a browser that asks first. It carries no key, so it is not asked for one."""
    refused = route.Route(match={"prefix": "/"}, direct_response={"status": 403})  # in the words of `errors`
    refusal = matchers.action("answer", _without_key(refused))
    granted = route.Route(match={"prefix": "/"}, direct_response={"status": 200})
    for name, value in (
        ("access-control-allow-methods", "GET, POST, OPTIONS"),
        ("access-control-allow-headers", ", ".join(policy.headers)),
        ("access-control-max-age", str(policy.max_age_s)),
    ):
        granted.response_headers_to_add.append(_header(name, value))
    grant = matchers.action("preflight", _without_key(granted))
    return matchers.then(matchers.first_of([(_allowed(policy), grant)], refusal))


def _allowed(policy: Cors) -> matchers.Predicate:
    """Whether the page's origin is one of the policy's."""
    if "*" in policy.origins:
        return matchers.present("origin")
    return matchers.regex("origin", "|".join(re.escape(origin) for origin in policy.origins))


def _header(name: str, value: str) -> base.HeaderValueOption:
    return base.HeaderValueOption(header=base.HeaderValue(key=name, value=value), append_action=_SET)


def _without_key(made: route.Route) -> route.Route:
    made.typed_per_filter_config[names.KEYS].CopyFrom(pack(route.FilterConfig(disabled=True)))
    return made

"""Outside issuers -> two filters, each a resource of its own, so that issued keys come and go without touching them.

1. `issuers` (jwt_authn) verifies what looks like a token of theirs: a bearer that begins with `eyJ`. Nothing else may
   follow from a token before that, and the header in which it leaves `iss` is one that clients cannot send.
2. `identities` (Lua, run for those tokens only) makes the client header out of the claims, or answers 401.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from envoy.config.core.v3 import base_pb2 as base
from envoy.config.core.v3 import extension_pb2 as extension
from envoy.config.route.v3 import route_components_pb2 as route
from envoy.extensions.common.matching.v3 import extension_matcher_pb2 as delegate
from envoy.extensions.filters.http.composite.v3 import composite_pb2 as composite
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as jwt
from envoy.extensions.filters.http.lua.v3 import lua_pb2 as lua

from controlplane.plan.ir import Issuer, RemoteKeys
from controlplane.policy.secrets import Secrets
from controlplane.xds import errors, matchers, names
from controlplane.xds.protos import millis, pack, uint
from controlplane.xds.scripts import quoted, script
from extproc.usage.identity import Owner, identity

# Every JWT begins so: its header is a JSON object, `{"`.
JWT = "eyJ"
# Verified tokens each worker remembers, so that a signature is checked once: some KiB each.
_REMEMBERED = 10_000
_CLOCK_SKEW_S = 60  # their clocks are not ours
_FETCH_S = 5
_FETCHED_EARLY_MS = 5000  # Envoy fetches keys again so long before the time that it is told


def authentication(issuers: tuple[Issuer, ...], secrets: Secrets) -> jwt.JwtAuthentication:
    """Verifies signature, `iss`, `aud` and times. Credentials of another form pass, for other filters to judge."""
    config = jwt.JwtAuthentication()
    for issuer in issuers:
        config.providers[issuer.name].CopyFrom(_provider(issuer, secrets))
    any_of = [jwt.JwtRequirement(provider_name=issuer.name) for issuer in issuers]
    requirement = any_of[0]
    if len(any_of) > 1:
        requirement = jwt.JwtRequirement(requires_any=jwt.JwtRequirementOrList(requirements=any_of))
    match = route.RouteMatch(prefix="/")
    match.headers.add(name="authorization").string_match.prefix = f"Bearer {JWT}"
    config.rules.append(jwt.RequirementRule(match=match, requires=requirement))
    return config


def identities(issuers: tuple[Issuer, ...], patterns: Iterable[str]) -> delegate.ExtensionWithMatcher:
    """Names the clients of outside issuers. `patterns`: the models of the policy that end in a star."""
    made = lua.Lua()
    known = ", ".join(f"[{quoted(pattern)}] = true" for pattern in sorted(patterns))
    entries = ",\n".join(f"[{quoted(issuer.issuer)}] = {{{_settings(issuer)}}}" for issuer in issuers)
    made.default_source_code.inline_string = (
        f"local PATTERNS = {{{known}}}\nlocal ISSUERS = {{\n{entries}}}\n{script('identity')}"
    )
    typed = extension.TypedExtensionConfig(name="identify", typed_config=pack(made))
    run = matchers.action("identify", composite.ExecuteFilterAction(typed_config=typed))
    return delegate.ExtensionWithMatcher(
        xds_matcher=matchers.lookup(names.ISSUER, {issuer.issuer: run for issuer in issuers}, {}, None),
        extension_config=extension.TypedExtensionConfig(name="identity", typed_config=pack(composite.Composite())),
    )


def _provider(issuer: Issuer, secrets: Secrets) -> jwt.JwtProvider:
    made = jwt.JwtProvider(
        issuer=issuer.issuer,
        audiences=issuer.audiences,
        require_expiration=True,
        from_headers=[jwt.JwtHeader(name="authorization", value_prefix="Bearer ")],
        claim_to_headers=[jwt.JwtClaimToHeader(header_name=names.ISSUER, claim_name="iss")],
        payload_in_metadata="payload",
        clock_skew_seconds=_CLOCK_SKEW_S,
    )
    if isinstance(issuer.keys, RemoteKeys):
        made.remote_jwks.CopyFrom(_remote(issuer.keys))
    else:
        made.local_jwks.inline_string = secrets[issuer.keys].reveal()
        # Not with fetched keys: Envoy goes on accepting what it remembers when they are withdrawn.
        made.jwt_cache_config.jwt_cache_size = _REMEMBERED
    return made


def _remote(keys: RemoteKeys) -> jwt.RemoteJwks:
    """Fetched ahead of requests, and without holding the edge up while the issuer is away."""
    return jwt.RemoteJwks(
        http_uri={"uri": keys.uri, "cluster": keys.upstream.name, "timeout": {"seconds": _FETCH_S}},
        cache_duration=millis(keys.refresh_ms + _FETCHED_EARLY_MS),
        async_fetch=jwt.JwksAsyncFetch(fast_listener=True),
        retry_policy=base.RetryPolicy(num_retries=uint(2)),
    )


def own_list(issuer: Issuer) -> str:
    """How the grant header says that the models are those of the issuer's own list."""
    return f"={issuer.name}"


def _settings(issuer: Issuer) -> str:
    teams = ", ".join(f"{{{quoted(value)}, {quoted(_owner(of))}}}" for value, of in issuer.teams)
    limits = ", ".join(f"[{quoted(name)}] = true" for name in sorted(issuer.named_limits))
    refusals = ", ".join(f"{kind} = {quoted(orjson.dumps(body).decode())}" for kind, body in _refusals(issuer).items())
    default = "".join(f";{name}" for name in sorted(issuer.limits))
    parts = {
        "key": quoted(issuer.key_claim),
        "team": _optional(issuer.team_claim),
        "limits": _optional(issuer.limits_claim),
        "models": _optional(issuer.models_claim),
        "teams": f"{{{teams}}}",
        "others": quoted(_owner(issuer.otherwise)) if issuer.otherwise else "nil",
        "known_limits": f"{{{limits}}}",
        "default_limits": quoted(f"{default};" if default else ""),
        "budgets": quoted("".join(f"{tag};" for tag in sorted(issuer.budgets))),
        "default_models": quoted("" if issuer.models is None else own_list(issuer)),
        "patterns": "PATTERNS",
        "refusals": f"{{{refusals}}}",
    }
    return ", ".join(f"{name} = {value}" for name, value in parts.items())


def _refusals(issuer: Issuer) -> Mapping[str, dict[str, Any]]:
    """Kind -> body. They say which claim it is and what it should say, never what it says."""

    def refusal(claim: str | None, expected: str) -> dict[str, Any]:
        message = f"The token of `{issuer.name}` is not accepted: its claim `{claim}` {expected}."
        return errors.body(message, errors.INVALID, "invalid_api_key")

    name = "must be a text of at most 128 letters, digits and . _ @ : | + = -"
    return {
        "key": refusal(issuer.key_claim, name),
        "team": refusal(issuer.team_claim, "names no team that this gateway knows"),
        "limits": refusal(issuer.limits_claim, "must name limits of this gateway that count requests only"),
        "models": refusal(issuer.models_claim, "must name models of this gateway"),
    }


def _owner(of: Owner) -> str:
    return identity(of)


def _optional(claim: str | None) -> str:
    return "nil" if claim is None else quoted(claim)

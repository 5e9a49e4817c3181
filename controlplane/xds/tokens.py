"""Issued keys -> token authentication, beside static keys and outside issuers (`issuers`).

These filters, each a resource of its own, decide who a request is from:

1. `tokens` (jwt_authn) looks at requests whose credential has the form of an issued key, and refuses bad ones. It puts
   the identity into the client header.
2. `revocations` (rbac) refuses tokens by their id.
3. `issuers` and `identities` do the same for tokens of outside issuers.
4. `keys` (api_key_auth) refuses everything that has no identity by then, unless it bears a static secret.

Nothing passes that none of them let in: a request that the others have nothing to say about has no client header,
because clients cannot send one (internal headers are removed at entry), and so meets 4.
"""

from collections.abc import Iterable

from envoy.config.accesslog.v3 import accesslog_pb2 as accesslog
from envoy.config.core.v3 import base_pb2 as base
from envoy.config.core.v3 import extension_pb2 as extension
from envoy.config.rbac.v3 import rbac_pb2 as rules
from envoy.config.route.v3 import route_components_pb2 as route
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2 as cel
from envoy.extensions.common.matching.v3 import extension_matcher_pb2 as delegate
from envoy.extensions.filters.common.matcher.action.v3 import skip_action_pb2 as skip
from envoy.extensions.filters.http.api_key_auth.v3 import api_key_auth_pb2 as auth
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as jwt
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as rbac

from controlplane.keys.issue import ISSUER, LEEWAY_S, PREFIX
from controlplane.xds import matchers, names
from controlplane.xds.protos import pack

TOKEN_ID = names.TOKEN_ID

JWT_TYPE = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
MATCHED_TYPE = "envoy.extensions.common.matching.v3.ExtensionWithMatcher"
RBAC_TYPE = "envoy.extensions.filters.http.rbac.v3.RBAC"

# Every JWT begins so: its header is a JSON object, `{"`.
_JWT = "eyJ"
# Where clients put keys, and what precedes them there; the first header that is there counts, as for static keys.
_PLACES = (("authorization", "Bearer "), ("x-api-key", ""), ("api-key", ""))
# Verified tokens each worker remembers, so that a signature is checked once: some KiB each.
_REMEMBERED = 10_000
_REVOKED = "revoked-token"
_ABOUT_TOKENS = "response.code_details.startsWith('jwt_authn_access_denied')"
_ABOUT_REVOKED = f"response.code_details == 'rbac_access_denied_matched_policy[{_REVOKED}]'"
_ALLOW = rules.Action(name="token-not-revoked", action=rules.RBAC.Action.ALLOW)
_DENY = rules.Action(name=_REVOKED, action=rules.RBAC.Action.DENY)


def authentication(jwks: str, issuer: str = ISSUER) -> jwt.JwtAuthentication:
    """Verifies what looks like an issued key: what begins with `hg-eyJ`. `jwks` is the JWK set of the signing keys.

    Other credentials pass, for other filters to judge.
    """
    config = jwt.JwtAuthentication()
    for number, (header, _) in enumerate(_PLACES):
        name = f"issued/{header}"
        config.providers[name].CopyFrom(_issued(jwks, issuer, number))
        config.rules.append(_rule(number, PREFIX + _JWT, jwt.JwtRequirement(provider_name=name)))
    return config


def static_keys(config: auth.ApiKeyAuth) -> delegate.ExtensionWithMatcher:
    """Static keys, asked only where no token has said who the client is."""
    known = matchers.present(names.CLIENT)
    return delegate.ExtensionWithMatcher(
        xds_matcher=matchers.first_of([(known, matchers.action("skip", skip.SkipFilter()))]),
        extension_config=extension.TypedExtensionConfig(name="static", typed_config=pack(config)),
    )


def revocations(jtis: Iterable[str]) -> rbac.RBAC:
    """Refuses tokens by id: one hash lookup, whatever their number."""
    allow, deny = matchers.action("allow", _ALLOW), matchers.action("deny", _DENY)
    return rbac.RBAC(matcher=matchers.lookup(TOKEN_ID, dict.fromkeys(sorted(jtis), deny), {}, allow))


def refused() -> accesslog.AccessLogFilter:
    """Which of Envoy's answers are about tokens that are not accepted. To one for another audience it says 403."""
    return about(_ABOUT_TOKENS)


def revoked() -> accesslog.AccessLogFilter:
    """Which of Envoy's 403 answers are to revoked tokens.

    What `rbac` says in metadata comes after its answer, too late to be matched.
    """
    return about(_ABOUT_REVOKED)


def denied_by(action: str) -> accesslog.AccessLogFilter:
    """Which of Envoy's answers an rbac action of this name gave."""
    return about(f"response.code_details == 'rbac_access_denied_matched_policy[{action}]'")


def about(expression: str) -> accesslog.AccessLogFilter:
    """Answers that a CEL expression holds for."""
    by = pack(cel.ExpressionFilter(expression=expression))
    found = accesslog.ExtensionFilter(name="envoy.access_loggers.extension_filters.cel", typed_config=by)
    return accesslog.AccessLogFilter(extension_filter=found)


def _issued(jwks: str, issuer: str, place: int) -> jwt.JwtProvider:
    """One provider per header: of two tokens in two headers, only the one that counts is looked at."""
    header, before = _PLACES[place]
    return jwt.JwtProvider(
        issuer=issuer,
        local_jwks=base.DataSource(inline_string=jwks),
        from_headers=[jwt.JwtHeader(name=header, value_prefix=before + PREFIX)],
        claim_to_headers=[
            jwt.JwtClaimToHeader(header_name=names.CLIENT, claim_name="hg"),
            jwt.JwtClaimToHeader(header_name=TOKEN_ID, claim_name="jti"),
        ],
        clock_skew_seconds=LEEWAY_S,
        jwt_cache_config=jwt.JwtCacheConfig(jwt_cache_size=_REMEMBERED),
    )


def _rule(place: int, begin: str, requirement: jwt.JwtRequirement) -> jwt.RequirementRule:
    """The credential in a header begins so, and no header that counts more is there."""
    header, before = _PLACES[place]
    match = route.RouteMatch(prefix="/")
    match.headers.add(name=header).string_match.prefix = before + begin
    for earlier, _ in _PLACES[:place]:
        absent = match.headers.add(name=earlier, invert_match=True, treat_missing_header_as_empty=True)
        absent.string_match.safe_regex.regex = "(?s).+"
    return jwt.RequirementRule(match=match, requires=requirement)

"""Issued keys and outside issuers -> token authentication, beside static keys.

Four filters in this order, each a resource of its own, decide who a request is from:

1. `authentication` (jwt_authn) looks at requests whose credential has the form of a token, and refuses bad ones. It
   puts the identity into the client header, or for outside issuers what the identity is made of.
2. `revocations` (rbac) refuses tokens by their id.
3. `identities` makes the identities of outside issuers' clients.
4. `static_keys` (api_key_auth) refuses everything that has no identity by then, unless it bears a static secret.

Nothing passes that neither 1 nor 4 let in: a request that 1 has nothing to say about has no client header, because
clients cannot send one (`HEADERS` and the client header are removed at entry), and so meets 4.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from envoy.config.accesslog.v3 import accesslog_pb2 as accesslog
from envoy.config.common.mutation_rules.v3 import mutation_rules_pb2 as mutation
from envoy.config.core.v3 import base_pb2 as base
from envoy.config.core.v3 import extension_pb2 as extension
from envoy.config.rbac.v3 import rbac_pb2 as rules
from envoy.config.route.v3 import route_components_pb2 as route
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2 as cel
from envoy.extensions.common.matching.v3 import extension_matcher_pb2 as delegate
from envoy.extensions.filters.common.matcher.action.v3 import skip_action_pb2 as skip
from envoy.extensions.filters.http.api_key_auth.v3 import api_key_auth_pb2 as auth
from envoy.extensions.filters.http.composite.v3 import composite_pb2 as composite
from envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2 as headers
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as jwt
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as rbac

from controlplane.keys.issue import ISSUER, LEEWAY_S, PREFIX
from controlplane.xds import matchers, names
from controlplane.xds.protos import pack, uint

TOKEN_ID = names.TOKEN_ID
_ISSUER, _SUBJECT, _TEAM = "x-headgate-issuer", "x-headgate-subject", "x-headgate-team"
# Internal request headers: clients must not send them, providers must not see them.
HEADERS = (TOKEN_ID, _ISSUER, _SUBJECT, _TEAM)

JWT_TYPE = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
MATCHED_TYPE = "envoy.extensions.common.matching.v3.ExtensionWithMatcher"
RBAC_TYPE = "envoy.extensions.filters.http.rbac.v3.RBAC"

# Every JWT begins so: its header is a JSON object, `{"`.
_JWT = "eyJ"
# Where clients put keys, and what precedes them there; the first header that is there counts, as for static keys.
_PLACES = (("authorization", "Bearer "), ("x-api-key", ""), ("api-key", ""))
# Verified tokens each worker remembers, so that a signature is checked once: some KiB each.
_REMEMBERED = 10_000
# What a client may be called: nothing that means something in an identity or in a list of header values.
_NAME = r"[A-Za-z0-9._@:|+=-]{1,128}"
_REVOKED = "revoked-token"
_ABOUT_TOKENS = (
    f"response.code_details == 'rbac_access_denied_matched_policy[{_REVOKED}]' || "
    "response.code_details.startsWith('jwt_authn_access_denied')"
)
_ALLOW = rules.Action(name="token-not-revoked", action=rules.RBAC.Action.ALLOW)
_DENY = rules.Action(name=_REVOKED, action=rules.RBAC.Action.DENY)


@dataclass(frozen=True, slots=True)
class RemoteKeys:
    """Where an issuer publishes its keys, and the cluster by which the edge gets there."""

    uri: str
    cluster: str
    cache_s: int = 600
    timeout_s: int = 5


@dataclass(frozen=True, slots=True)
class Membership:
    """The identity of an issuer's client: `prefix`, the name that its token says, `suffix`."""

    prefix: str = ""
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Issuer:
    """An outside issuer of tokens (OpenID Connect, or any JWT with `iss`, `exp` and a name).

    `keys` is a JWK set as JSON, or where to fetch it. Claims are paths with dots: `realm.team`. `teams` says what
    values of the team claim mean; others, and tokens without one, are `others`, or are refused where that is None.
    Claims must be strings or numbers: Envoy cannot look into lists and objects, it takes their base64 for a value.
    """

    name: str
    issuer: str
    audiences: tuple[str, ...]
    keys: str | RemoteKeys
    others: Membership | None
    client_claim: str = "sub"
    team_claim: str | None = None
    teams: tuple[tuple[str, Membership], ...] = ()

    def __post_init__(self) -> None:
        if self.teams and self.team_claim is None:
            raise ValueError(f"issuer {self.name}: `teams` needs to know which claim names the team")
        if not self.teams and self.others is None:
            raise ValueError(f"issuer {self.name} lets nobody in: it has neither `teams` nor `others`")


def authentication(jwks: str | None, issuers: tuple[Issuer, ...], issuer: str = ISSUER) -> jwt.JwtAuthentication:
    """Verifies what looks like a token: what begins with `hg-eyJ`, and with outside issuers a bearer's `eyJ`.

    `jwks` is the JWK set of issued keys; None accepts none of them. Other credentials pass, for static keys to judge.

    Raises:
        ValueError: two outside issuers have the same `issuer`, or one has ours.
    """
    urls = [issuer] * (jwks is not None) + [outside.issuer for outside in issuers]
    if len(set(urls)) < len(urls):
        raise ValueError(f"issuers must differ in `issuer`: {', '.join(sorted(urls))}")
    config = jwt.JwtAuthentication()
    if jwks is not None:
        for number, (header, _) in enumerate(_PLACES):
            name = f"issued/{header}"
            config.providers[name].CopyFrom(_issued(jwks, issuer, number))
            config.rules.append(_rule(number, PREFIX + _JWT, jwt.JwtRequirement(provider_name=name)))
    if issuers:
        any_of = [jwt.JwtRequirement(provider_name=f"outside/{outside.name}") for outside in issuers]
        for outside in issuers:
            config.providers[f"outside/{outside.name}"].CopyFrom(_outside(outside))
        requirement = any_of[0]
        if len(any_of) > 1:
            requirement = jwt.JwtRequirement(requires_any=jwt.JwtRequirementOrList(requirements=any_of))
        config.rules.append(_rule(0, _JWT, requirement))
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


def identities(issuers: tuple[Issuer, ...]) -> delegate.ExtensionWithMatcher:
    """The identity of a client of an outside issuer, out of what its token says; none where that is not acceptable."""
    by_issuer = {outside.issuer: matchers.then(_members(outside)) for outside in issuers}
    return delegate.ExtensionWithMatcher(
        xds_matcher=matchers.lookup(_ISSUER, by_issuer, {}, None),
        extension_config=extension.TypedExtensionConfig(name="identity", typed_config=pack(composite.Composite())),
    )


def refusals() -> accesslog.AccessLogFilter:
    """Which of Envoy's 403 answers are about tokens: to be answered 401 `invalid_api_key`, before other mappers.

    They are those to revoked tokens, and to tokens for another audience. What `rbac` says in metadata comes after its
    answer, too late to be matched.
    """
    return _forbidden(_ABOUT_TOKENS)


def denied_by(action: str) -> accesslog.AccessLogFilter:
    """Which of Envoy's 403 answers an rbac action of this name gave."""
    return _forbidden(f"response.code_details == 'rbac_access_denied_matched_policy[{action}]'")


def _forbidden(expression: str) -> accesslog.AccessLogFilter:
    comparison = accesslog.ComparisonFilter(op=accesslog.ComparisonFilter.Op.EQ)
    comparison.value.default_value = 403
    comparison.value.runtime_key = "headgate.local_reply.403"
    forbidden = accesslog.AccessLogFilter(status_code_filter=accesslog.StatusCodeFilter(comparison=comparison))
    about = pack(cel.ExpressionFilter(expression=expression))
    why = accesslog.ExtensionFilter(name="envoy.access_loggers.extension_filters.cel", typed_config=about)
    both = [forbidden, accesslog.AccessLogFilter(extension_filter=why)]
    return accesslog.AccessLogFilter(and_filter=accesslog.AndFilter(filters=both))


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


def _outside(outside: Issuer) -> jwt.JwtProvider:
    said = [(_ISSUER, "iss"), (_SUBJECT, outside.client_claim)]
    if outside.team_claim is not None:
        said.append((_TEAM, outside.team_claim))
    made = jwt.JwtProvider(
        issuer=outside.issuer,
        audiences=outside.audiences,
        require_expiration=True,
        from_headers=[jwt.JwtHeader(name="authorization", value_prefix="Bearer ")],
        claim_to_headers=[jwt.JwtClaimToHeader(header_name=header, claim_name=claim) for header, claim in said],
        clock_skew_seconds=60,  # their clocks are not ours
        jwt_cache_config=jwt.JwtCacheConfig(jwt_cache_size=_REMEMBERED),
    )
    if isinstance(outside.keys, str):
        made.local_jwks.inline_string = outside.keys
        return made
    made.remote_jwks.CopyFrom(_remote(outside.keys))
    return made


def _remote(keys: RemoteKeys) -> jwt.RemoteJwks:
    """Fetched ahead of requests, and without holding the edge up while the issuer is away."""
    return jwt.RemoteJwks(
        http_uri={"uri": keys.uri, "cluster": keys.cluster, "timeout": {"seconds": keys.timeout_s}},
        cache_duration={"seconds": keys.cache_s},
        async_fetch=jwt.JwksAsyncFetch(fast_listener=True),
        retry_policy=base.RetryPolicy(num_retries=uint(2)),
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


def _members(outside: Issuer) -> matchers.Matcher:
    chosen = others = None if outside.others is None else _identify(outside.others)
    if outside.teams:
        teams = {value: _identify(membership) for value, membership in outside.teams}
        chosen = matchers.then(matchers.lookup(_TEAM, teams, {}, others))
    return matchers.first_of([(matchers.regex(_SUBJECT, _NAME), chosen)])


def _identify(membership: Membership) -> matchers.OnMatch:
    """Writes the client header. A percent sign begins a format command, so one that is meant is doubled."""
    prefix, suffix = (part.replace("%", "%%") for part in (membership.prefix, membership.suffix))
    option = base.HeaderValueOption(
        header=base.HeaderValue(key=names.CLIENT, value=f"{prefix}%REQ({_SUBJECT})%{suffix}"),
        append_action=base.HeaderValueOption.HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    write = headers.HeaderMutation()
    write.mutations.request_mutations.append(mutation.HeaderMutation(append=option))
    typed = extension.TypedExtensionConfig(name="identify", typed_config=pack(write))
    return matchers.action("identify", composite.ExecuteFilterAction(typed_config=typed))

"""The plan: a policy with every name resolved, every default filled in and every rule placed on a tier.

A plan holds no secret, only references to them, so it can be printed, compared and stored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from controlplane.plan.caching import Caching
from controlplane.plan.dialects import Surface
from controlplane.plan.launches import Server
from controlplane.plan.limits import Counted, NativeLimit
from controlplane.plan.rules import Inline
from controlplane.plan.services import Service
from controlplane.plan.tokens import Tokens
from controlplane.policy.about import About
from controlplane.policy.secrets import SecretRef
from controlplane.policy.tokenizers import TokenizerText
from extproc.translate.settings import Translation
from extproc.usage.accounting import AccountSpec, Retention
from extproc.usage.identity import Owner
from extproc.usage.price_catalog import Catalog
from extproc.usage.webhooks.body import Kind

ANY = "*"


class Tier(IntEnum):
    """Where a rule runs, cheapest first. See docs/tiers.md for what each costs."""

    NATIVE = 0  # Envoy's own filters, routes and clusters
    ASIDE = 1  # Python, off the request path
    INLINE = 2  # Python, in the request path (ext_proc)


@dataclass(frozen=True, slots=True)
class Cors:
    origins: tuple[str, ...]
    headers: tuple[str, ...]
    max_age_s: int
    credentials: bool


@dataclass(frozen=True, slots=True)
class ServerTls:
    """TLS towards clients; with `client_ca` a client must present a certificate that it signed."""

    certificate: SecretRef
    private_key: SecretRef
    client_ca: SecretRef | None


@dataclass(frozen=True, slots=True)
class Edge:
    """What the listener is made of. `max_body` is in bytes."""

    host: str
    port: int
    max_body: int
    tls: ServerTls | None
    cors: Cors | None
    trusted_proxies: tuple[str, ...] = ()  # networks whose x-forwarded-for is believed


@dataclass(frozen=True, slots=True)
class Health:
    path: str
    interval_ms: int
    timeout_ms: int
    unhealthy_after: int
    healthy_after: int
    unhealthy_interval_ms: int | None = None  # while it is out; None: as usual


@dataclass(frozen=True, slots=True)
class Ejection:
    """Outlier ejection: `after` consecutive failures take an endpoint out for `duration_ms`."""

    after: int
    duration_ms: int
    max_percent: int


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """TLS towards a provider. `ca` None means the system's certificate authorities."""

    server_name: str
    ca: SecretRef | None
    certificate: SecretRef | None
    private_key: SecretRef | None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address to connect to: host and port, or the path of a unix socket in `host` with port 0."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Aws:
    """How requests to AWS are signed. `access_key_id` None: with what Envoy finds in its surroundings."""

    region: str
    access_key_id: SecretRef | None = None
    secret_access_key: SecretRef | None = None
    session_token: SecretRef | None = None


@dataclass(frozen=True, slots=True)
class Upstream:
    """A provider, ready to be lowered.

    `base_path` takes the place of the ``/v1`` of the client's path. Lane 0 is the plain cluster. Further lanes
    exist where a model is tried at several targets that want different paths, names or headers: their clusters
    adapt every attempt, and `foreign` names the headers that another provider may have left on the request.
    """

    name: str
    kind: str
    host: str
    endpoints: tuple[Endpoint, ...]
    resolve: bool  # endpoints are names to look up, not addresses
    base_path: str
    tls: UpstreamTls | None
    api_key: SecretRef | None
    headers: tuple[tuple[str, str], ...]
    health: Health | None
    ejection: Ejection | None
    balance: str
    connect_timeout_ms: int
    max_connections: int | None
    max_requests: int | None
    lanes: int
    foreign: tuple[str, ...]
    stream_usage: bool  # takes `stream_options`
    api_key_header: str = "authorization"
    defaults: tuple[tuple[str, str], ...] = ()  # headers for requests that do not have them
    aws: Aws | None = None  # requests are signed
    deployments: str = ""  # Azure: paths name the model and this `api-version`
    translated_lanes: int = 0  # clusters whose attempts are translated
    translation: Translation | None = None  # how; None: never
    service: Service | None = None  # a process of the gateway's own, at whose socket it is
    discovered: bool = False  # its endpoints come and go while the gateway runs; none are known here
    refresh_ms: int | None = None  # how often names are looked up; None: when an answer is stale
    server: Server | None = None  # a server that the gateway starts, likewise
    listing_ms: int = 0  # how often it is asked which models it has; 0: never


@dataclass(frozen=True, slots=True)
class Target:
    """One choice for a model: a provider's lane, the name to ask it for (None: as the client wrote it)."""

    provider: str
    lane: int
    model: str | None
    weight: int
    translated: bool = False  # the lane is one of those that translate


@dataclass(frozen=True, slots=True)
class Retry:
    """When an attempt is followed by another: Envoy's retry conditions, and status codes beyond them."""

    attempts: int  # in all, the first included
    conditions: tuple[str, ...]
    statuses: tuple[int, ...]
    honour_retry_after: bool


@dataclass(frozen=True, slots=True)
class Route:
    """A model clients can ask for. `prefix` is set for a wildcard: the name without its star.

    `upstream_model` (None: as the client wrote it) and `base_path` hold for all targets alike, unless attempts
    differ: then each target's lane adapts its own.
    """

    name: str
    prefix: str | None
    groups: tuple[tuple[Target, ...], ...]
    upstream_model: str | None
    base_path: str
    retry: Retry
    first_byte_ms: int
    idle_ms: int
    stream_usage: bool  # every target takes `stream_options`
    marks: tuple[tuple[str, str], ...] = ()  # what limits on models and providers must know of its requests
    ways: tuple["Way", ...] = ()  # of requests to endpoints that go another way than chats

    @property
    def targets(self) -> tuple[Target, ...]:
        return tuple(target for group in self.groups for target in group)

    @property
    def every_target(self) -> tuple[Target, ...]:
        """The targets of all its ways: some differ in their lanes alone."""
        others = (way.route.targets for way in self.ways if way.route is not None)
        return tuple(dict.fromkeys((*self.targets, *(target for targets in others for target in targets))))

    @property
    def per_attempt(self) -> bool:
        """Whether each attempt must be adapted to its target."""
        return any(target.lane for target in self.targets)


@dataclass(frozen=True, slots=True)
class Way:
    """How requests for a model go that come to these endpoints. `route` None: no target of the model serves them."""

    surfaces: tuple[Surface, ...]
    route: Route | None


@dataclass(frozen=True, slots=True)
class Key:
    """A client credential. `identity` is what the edge knows the client by after authentication.

    `models` None means every model; otherwise exact names, and prefixes ending in ``*``.
    """

    name: str
    identity: str
    secret: SecretRef | None  # None: an issued key, known by its signature
    models: tuple[str, ...] | None
    limits: tuple[str, ...]
    owner: Owner
    addresses: tuple[str, ...] | None = None  # networks that it may be used from; None: all
    priority: str = "normal"


@dataclass(frozen=True, slots=True)
class RemoteKeys:
    """Where an issuer publishes its keys, and how the edge gets there."""

    uri: str
    upstream: Upstream
    refresh_ms: int


@dataclass(frozen=True, slots=True)
class Issuer:
    """An issuer whose tokens are keys. Its client NAME is the key `ISSUER:NAME`.

    `teams` is what values of the team claim mean, in order: the first that a token says counts. `otherwise` are clients
    without such a value; None: they are refused. Both are owners whose key is `ISSUER:`, to which the name is added.
    `named_limits` are those that a claim can name.
    """

    name: str
    issuer: str
    audiences: tuple[str, ...]
    keys: SecretRef | RemoteKeys
    key_claim: str
    team_claim: str | None
    limits_claim: str | None
    models_claim: str | None
    teams: tuple[tuple[str, Owner], ...]
    otherwise: Owner | None
    models: tuple[str, ...] | None
    limits: tuple[str, ...]
    budgets: tuple[str, ...]
    named_limits: tuple[str, ...]

    @property
    def owners(self) -> tuple[Owner, ...]:
        """Whose requests its clients' can be: their owners, each once, with the key `ISSUER:`."""
        every = [of for _, of in self.teams] + ([self.otherwise] if self.otherwise else [])
        return tuple(dict.fromkeys(every))


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where budgets tell what happens to them. `url`: a reference where it is a secret itself."""

    name: str
    url: str | SecretRef
    secret: SecretRef
    events: tuple[Kind, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """Why a line of the policy runs where it runs."""

    path: tuple[str | int, ...]
    rule: str
    tier: Tier
    mechanism: str
    why: str


@dataclass(frozen=True, slots=True)
class Said:
    """What the policy says about a model, or about the model that it is another name of: `model` is where it stands."""

    model: str
    about: About


@dataclass(frozen=True, slots=True)
class Plan:
    edge: Edge
    upstreams: Mapping[str, Upstream]
    routes: tuple[Route, ...]
    keys: tuple[Key, ...]
    limits: tuple[NativeLimit, ...]  # counted by Envoy
    open: bool  # the policy has no keys: everyone may use every model
    expired: tuple[str, ...]  # keys of the policy that are no longer accepted
    accounts: tuple[AccountSpec, ...] = ()  # budgets and token limits, for each owner
    prices: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()  # pattern -> rates, as written in the policy
    imported: Catalog | None = None  # prices of a file; they come after those of the policy
    tokenizers: tuple[TokenizerText, ...] = ()
    ledger: SecretRef | None = None
    inline: Inline | None = None  # where the policy has rules, or counts for clients
    workers: int = 0  # of the inline service, which runs rules, translates and counts
    worker_timeout_ms: int = 0  # for one message
    messages: bool = False  # clients may speak Anthropic's API, too
    retention: Retention | None = None
    webhooks: tuple[Webhook, ...] = ()
    tokens: Tokens | None = None  # issued keys, where any were ever issued
    issuers: tuple[Issuer, ...] = ()
    counted: tuple[Counted, ...] = ()  # by the rate limit service
    redis: SecretRef | None = None  # where a fleet's counters are
    caching: Caching | None = None  # where rules cache answers
    about: Mapping[str, Said] = field(default_factory=dict)  # what the policy says of models

    @property
    def ruled(self) -> bool:
        """Whether requests for models may meet rules."""
        return self.inline is not None and self.inline.ruled

    @property
    def counts(self) -> bool:
        """Whether clients may ask how many tokens a request has."""
        return self.inline is not None and self.inline.counts

    @property
    def priorities(self) -> tuple[str, ...]:
        """Those of keys whose requests do not wait like all others, where a model runs here for which they may wait."""
        local = any(upstream.kind == "onnx" for upstream in self.upstreams.values())
        return tuple(sorted({key.priority for key in self.keys} - {"normal"})) if local else ()

    @property
    def services(self) -> tuple[Service, ...]:
        """The processes that providers are, each once."""
        found: dict[str, Service] = {}
        for upstream in self.upstreams.values():
            if upstream.service is not None:
                found.setdefault(upstream.service.name, upstream.service)
        return tuple(found.values())

    @property
    def servers(self) -> tuple[Server, ...]:
        """The servers that providers have the gateway start."""
        return tuple(upstream.server for upstream in self.upstreams.values() if upstream.server is not None)

    @property
    def reached(self) -> tuple[Upstream, ...]:
        """Whatever the edge connects to: providers, and outside issuers that publish their keys."""
        remote = (issuer.keys.upstream for issuer in self.issuers if isinstance(issuer.keys, RemoteKeys))
        return (*self.upstreams.values(), *remote)

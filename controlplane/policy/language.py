"""The policy language, version 1: what can be written (pydantic models, from which the JSON Schema is made), and the
resolved Policy that the rest of the compiler works on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag

from controlplane.policy.about import About, ParameterAbout
from controlplane.policy.accounts import Budget, BudgetNames, Downgrade, Organization, Price, Retention, Team, Webhook
from controlplane.policy.discovery import ByFile, ByName, ByRegistration
from controlplane.policy.grammar import Address
from controlplane.policy.issuers import Issuer, JwksUrl
from controlplane.policy.limits import Limit, LimitNames
from controlplane.policy.providers import FORMS, Ejection, HealthCheck, Provider, ProviderSpec
from controlplane.policy.rules import Action, Rule
from controlplane.policy.types import (
    RETRY,
    AddressType,
    BudgetName,
    Clock,
    Duration,
    Folder,
    IssuerName,
    KeyName,
    LimitName,
    Moment,
    Network,
    OrganizationName,
    Origin,
    PageHeader,
    Pattern,
    Priority,
    ProviderName,
    Refresh,
    SecretType,
    Size,
    Strict,
    TeamName,
    TokenizerName,
    UpstreamModel,
    UserName,
    WebhookName,
)

LISTEN, ADMIN = Address("127.0.0.1", 8080), Address("127.0.0.1", 9800)

On: TypeAlias = Literal["5xx", "timeout", "connect", "reset"] | int
DEFAULT_ON: tuple[On, ...] = (429, "5xx", "timeout", "connect", "reset")


class AdminUser(Strict):
    """Somebody who may call the admin API: for the whole gateway, or for one team or organization."""

    token: SecretType = Field(description="The bearer token that they send.")
    role: Literal["admin", "member", "viewer"] = Field(description="What they may do; an admin may do everything.")
    team: TeamName | None = Field(None, description="For this team only.")
    organization: OrganizationName | None = Field(None, description="For this organization and its teams only.")


class Admin(Strict):
    """The admin API. A plain address is short for `{listen: ADDRESS}`."""

    listen: AddressType = Field(
        ADMIN, description="Where it listens. Anywhere but on loopback it needs a token or users."
    )
    token: SecretType | None = Field(None, description="The bearer token of the administrator, who may do everything.")
    users: dict[UserName, AdminUser] = Field({}, description="Others with a token and a role, by name.")


class GatewayTls(Strict):
    """TLS towards clients."""

    cert: SecretType = Field(description="The certificate chain, PEM.")
    key: SecretType = Field(description="Its private key, PEM.")
    client_ca: SecretType | None = Field(
        None, description="With it, clients must present a certificate it signed (mTLS)."
    )


class Cors(Strict):
    """Which web pages may call the gateway from a browser."""

    origins: list[Origin] = Field(min_length=1, description="Exact origins, such as https://app.example.com, or `*`.")
    headers: list[PageHeader] = Field(
        ["authorization", "content-type", "x-request-id", "x-api-key"],
        description="Request headers that pages may send.",
    )
    max_age: Duration = Field(600_000, description="How long browsers may remember the answer.")
    credentials: bool = Field(False, description="Whether pages may send cookies; not with the origin `*`.")


class Gateway(Strict):
    """Where the gateway listens and what it accepts."""

    listen: AddressType = Field(LISTEN, description="Where clients connect: an IP address and a port.")
    admin: Annotated[
        Admin,
        BeforeValidator(
            lambda v: {"listen": v} if isinstance(v, str) else v, json_schema_input_type=AddressType | Admin
        ),
    ] = Field(Admin(), description="The admin API.")
    messages: bool | None = Field(
        None,
        description="Whether clients may speak Anthropic's API, too, on /v1/messages. By default where a provider has "
        "an API other than OpenAI's.",
    )
    tokenize: bool | None = Field(
        None,
        description="Whether clients may ask how many tokens a request has, on /v1/tokenize. By default where the "
        "policy has rules or translates, so that workers run anyway.",
    )
    max_body: Size = Field(32 << 20, description="The largest request body; beyond it, 413.")
    tls: GatewayTls | None = Field(None, description="Serve HTTPS. Without it: HTTP.")
    cors: Cors | None = Field(None, description="Let browsers call the gateway from other origins.")
    drain: Duration = Field(30_000, description="How long requests in flight may take to finish at shutdown.")
    state: Folder = Field(".headgate", description="Folder of history and ledger, relative to the policy.")
    ledger: SecretType | None = Field(
        None, description="URL of the PostgreSQL database for usage records; a file in `state` by default."
    )
    trusted_proxies: list[Network] = Field(
        [], description="Proxies whose `x-forwarded-for` tells the client's address; none by default."
    )
    prices: Folder | None = Field(
        None, description="A file of prices, made by `ctl prices import`; they come before those of the catalog."
    )
    retention: Retention = Field(Retention(), description="How long usage records are kept.")
    budget: BudgetNames = Field([], description="Budgets that everyone shares.")
    limits: LimitNames = Field([], description="Limits on the requests of everyone.")
    redis: SecretType | None = Field(
        None, description="URL of the Redis for `scope: fleet` of limits and `store: redis` of caches."
    )
    listing: Refresh = Field(
        600_000,
        description="How often providers are asked which models they have, and what they know of them; or `off`.",
    )
    cache_memory: Size = Field(256 << 20, description="Room for answers that rules cache in memory; the oldest go.")
    workers: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="Envoy's worker threads; one per core by default."
    )
    rule_workers: Annotated[int, Field(ge=1, le=64)] = Field(
        2, description="Processes that rules, translation and counting run in, where the policy needs them."
    )
    rule_timeout: Clock = Field(
        5_000, description="How long rules or translation may take for one message of an exchange."
    )
    experimental: Annotated[list[Literal["native_translation"]], Field(max_length=1)] = Field(
        [],
        description="What is under trial. `native_translation`: Envoy's own filters translate where their results are "
        "the same; with this version of Envoy that is nowhere, so it is refused, with the reason.",
    )


class Timeouts(Strict):
    """Clocks of one attempt. There is no total timeout: it would cut long streams."""

    first_byte: Clock = Field(300_000, description="Until the answer begins.")
    idle: Clock = Field(600_000, description="Without any byte; it runs from the start, so not below first_byte.")


class TargetSpec(Strict):
    """One choice: a provider, and the model to ask it for."""

    provider: ProviderName = Field(description="A provider of this policy.")
    model: UpstreamModel | None = Field(
        None, description="Its name upstream; the name the client asked for by default."
    )
    weight: int = Field(1, ge=1, le=1_000_000, description="Share of the requests, relative to its group.")


def _choice(value: Any) -> str:
    return "<list>" if isinstance(value, list) else "<name>" if isinstance(value, str) else "<target>"


Reference: TypeAlias = Annotated[
    str, Field(min_length=1, description="A provider (same model name upstream), or another model of this policy.")
]
Choice: TypeAlias = Annotated[
    Annotated[Reference, Tag("<name>")] | Annotated[TargetSpec, Tag("<target>")], Discriminator(_choice)
]
Group: TypeAlias = Annotated[
    Annotated[Reference, Tag("<name>")]
    | Annotated[TargetSpec, Tag("<target>")]
    | Annotated[Annotated[list[Choice], Field(min_length=1, description="A weighted group.")], Tag("<list>")],
    Discriminator(_choice),
]


class SimpleSpec(Strict):
    """A model served by one provider."""

    provider: ProviderName = Field(description="A provider of this policy.")
    model: UpstreamModel | None = Field(None, description="Its name upstream; the same by default.")
    retries: Annotated[int, Field(ge=0, le=10)] | None = Field(
        None, description="Further attempts after a failure; 1 by default."
    )
    on: list[RETRY] = Field(list(DEFAULT_ON), description="Failures that lead to another attempt.")
    timeouts: Timeouts = Field(Timeouts(), description="Clocks of one attempt.")
    limits: LimitNames = Field([], description="Limits on the requests for it, and for its aliases.")
    about: About | None = Field(None, description="What clients are told about it.")


class TrySpec(Strict):
    """A model with several targets: groups are tried in order; inside a group, weights decide."""

    try_: list[Group] = Field(alias="try", min_length=1, description="The groups.")
    on: list[RETRY] = Field(list(DEFAULT_ON), description="Failures that lead to the next group.")
    timeouts: Timeouts = Field(Timeouts(), description="Clocks of one attempt.")
    limits: LimitNames = Field([], description="Limits on the requests for it, and for its aliases.")
    about: About | None = Field(None, description="What clients are told about it.")


def _model_form(value: Any) -> str:
    return "<name>" if isinstance(value, str) else "<try>" if isinstance(value, dict) and "try" in value else "<simple>"


ModelSpec: TypeAlias = Annotated[
    Annotated[Reference, Tag("<name>")] | Annotated[SimpleSpec, Tag("<simple>")] | Annotated[TrySpec, Tag("<try>")],
    Discriminator(_model_form),
]


class Key(Strict):
    """A client's credential."""

    secret: SecretType = Field(description="What the client sends as its API key.")
    models: list[Pattern] | None = Field(None, description="Models it may use, exact or ending in *; all by default.")
    limits: LimitNames = Field([], description="Limits of this policy that apply to it.")
    team: TeamName | None = Field(None, description="The team it belongs to.")
    budget: BudgetNames = Field([], description="Budgets of its own.")
    addresses: Annotated[list[Network], Field(min_length=1)] | None = Field(
        None, description="IP addresses and networks that it may be used from; all by default."
    )
    priority: Priority = Field(
        "normal", description="Whose requests are first when some wait for a model that runs here."
    )
    expires: Moment | None = Field(None, description="From when on it is refused; a date means its first moment, UTC.")


class Tokenizer(Strict):
    """A tokenizer.json, with which prompts of some models are counted exactly."""

    file: Folder = Field(description="Its path, relative to the policy. Edits of the file are followed.")
    models: Annotated[list[Pattern], Field(min_length=1)] = Field(
        description="The models that it is of, as their providers call them, exact or ending in *."
    )


class PolicySpec(Strict):
    """A Headgate policy."""

    version: Literal[1] = Field(description="The version of the policy language.")
    gateway: Gateway = Field(Gateway(), description="Where the gateway listens and what it accepts.")
    providers: dict[ProviderName, ProviderSpec] = Field(min_length=1, description="Upstream APIs, by name.")
    models: dict[Pattern, ModelSpec] = Field(
        min_length=1,
        description="What clients may ask for, by name; a name ending in * takes all that begin so.",
    )
    keys: dict[KeyName, Key] = Field({}, description="Client credentials, by name. Without any, the gateway is open.")
    issuers: dict[IssuerName, Issuer] = Field({}, description="Outside issuers whose tokens are keys, by name.")
    limits: dict[LimitName, Limit] = Field({}, description="Limits that keys, teams, models and others can name.")
    teams: dict[TeamName, Team] = Field({}, description="Teams that keys can belong to.")
    organizations: dict[OrganizationName, Organization] = Field({}, description="Organizations of teams.")
    budgets: dict[BudgetName, Budget] = Field({}, description="Budgets that keys, teams and others can name.")
    webhooks: dict[WebhookName, Webhook] = Field({}, description="Services that budgets tell, and that rules ask.")
    prices: dict[Pattern, Price] = Field(
        {}, description="Prices by upstream model, exact or ending in *; they come before those of the catalog."
    )
    tokenizers: dict[TokenizerName, Tokenizer] = Field({}, description="Files of tokenizers, by name.")
    rules: list[Rule] = Field([], description="What to do to requests and answers, in this order.")


# The models to check entries of a section with, one by one, so that unchanged entries need not be checked again.
SECTIONS: Mapping[str, Any] = {
    "providers": ProviderSpec, "models": ModelSpec, "keys": Key, "issuers": Issuer, "limits": Limit, "teams": Team,
    "organizations": Organization, "budgets": Budget, "webhooks": Webhook, "prices": Price, "tokenizers": Tokenizer,
}  # fmt: skip

# Tags of unions, as they appear in pydantic's error locations, and the mapping each stands for.
TAGS: Mapping[str, type[BaseModel]] = {
    "<target>": TargetSpec, "<simple>": SimpleSpec, "<try>": TrySpec, "<ejection>": Ejection, "<health>": HealthCheck,
    "<registered>": ByRegistration, "<file>": ByFile, "<dns>": ByName, "<bounds>": ParameterAbout,
    "<downgrade>": Downgrade, "<url>": JwksUrl, "<rule>": Rule, "<action>": Action,
    **{f"<{kind}>": form for kind, form in FORMS.items()},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """A provider of the policy and the model to ask it for; None: as the client wrote it."""

    provider: str
    model: str | None
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Model:
    """A model with every reference followed: groups to try in order.

    `alias_of`: the model that it is another name of, whose limits count its requests too. `about`: what the policy says
    of it, or of that model.
    """

    groups: tuple[tuple[Target, ...], ...]
    on: tuple[On, ...]
    timeouts: Timeouts
    retries: int | None
    limits: tuple[str, ...] = ()
    alias_of: str | None = None
    about: About | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """A checked policy. `written` is the document as its author wrote it, for differences."""

    gateway: Gateway
    providers: Mapping[str, Provider]
    models: Mapping[str, Model]
    keys: Mapping[str, Key]
    issuers: Mapping[str, Issuer]
    limits: Mapping[str, Limit]
    teams: Mapping[str, Team]
    organizations: Mapping[str, Organization]
    budgets: Mapping[str, Budget]
    webhooks: Mapping[str, Webhook]
    prices: Mapping[str, Price]
    tokenizers: Mapping[str, Tokenizer]
    rules: tuple[Rule, ...]
    written: Mapping[str, Any]

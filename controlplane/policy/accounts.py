"""What the language says about money and tokens: owners, budgets, prices."""

from decimal import Decimal
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag

from controlplane.policy.limits import Enforce, LimitNames, OnError, Scope
from controlplane.policy.types import (
    Amount,
    BudgetName,
    Count,
    Days,
    Fraction,
    ModelName,
    OrganizationName,
    RequestPrice,
    SecretType,
    Strict,
    TimeZone,
    TokenPrice,
    WebhookName,
    WebhookUrl,
)


def _several(value: Any) -> Any:
    """One name is a list of one."""
    return [value] if isinstance(value, str) else value


WebhookNames: TypeAlias = Annotated[
    list[WebhookName],
    BeforeValidator(_several, json_schema_input_type=WebhookName | list[WebhookName]),
]
BudgetNames: TypeAlias = Annotated[
    list[BudgetName],
    BeforeValidator(_several, json_schema_input_type=BudgetName | list[BudgetName]),
]


class Retention(Strict):
    """How long usage is kept, and how finely. Sums by day are kept for ever."""

    records: Days = Field(30, description="Single requests.")
    minutes: Days = Field(90, description="Sums by minute; budgets count by them, so not below 32d.")
    hours: Days = Field(400, description="Sums by hour.")


class Team(Strict):
    """Keys that belong together."""

    organization: OrganizationName | None = Field(None, description="The organization it is part of.")
    budget: BudgetNames = Field([], description="Budgets that its keys share.")
    limits: LimitNames = Field([], description="Limits on the requests of its keys.")


class Organization(Strict):
    """Teams that belong together."""

    budget: BudgetNames = Field([], description="Budgets that its teams share.")
    limits: LimitNames = Field([], description="Limits on the requests of its keys.")


class Downgrade(Strict):
    """Serve a cheaper model instead."""

    downgrade: ModelName = Field(description="The model of this policy to serve.")


def _on_spent(value: Any) -> str:
    return "<downgrade>" if isinstance(value, dict) else "<word>"


OnSpent: TypeAlias = Annotated[
    Annotated[Literal["block", "warn"], Tag("<word>")] | Annotated[Downgrade, Tag("<downgrade>")],
    Discriminator(_on_spent),
]


class Budget(Strict):
    """What may be spent in a period: exactly one of `usd`, `tokens` and `requests`."""

    usd: Amount | None = Field(None, description="US dollars, by the prices of the catalog and of this policy.")
    tokens: Count | None = Field(None, description="Tokens, input and output.")
    requests: Count | None = Field(None, description="Requests that reached a provider.")
    per: Literal["day", "week", "month"] = Field(description="The period.")
    window: Literal["calendar", "rolling"] = Field(
        "calendar", description="Calendar periods, or the last 24 hours, 7 or 30 days."
    )
    timezone: TimeZone = Field("UTC", description="Where calendar periods begin.")
    warn: list[Fraction] = Field([], description="Parts of the budget at which to warn, such as 0.8.")
    on_spent: OnSpent = Field(
        "block", description="What to do with requests when it is spent: 429, nothing, or a cheaper model."
    )
    enforce: Enforce = Field(
        "eventual",
        description="`eventual`: counted after, refused within a second. `strict`: reserved before, never over.",
    )
    scope: Scope = Field("node", description="Strict only: count on each node, or for the fleet, in `gateway.redis`.")
    on_error: OnError | None = Field(
        None, description="Strict only: what to do while nobody can count, or no price is known; `deny` by default."
    )
    webhooks: WebhookNames = Field([], description="Webhooks of this policy that hear of it.")


WebhookEvent: TypeAlias = Literal["warn", "spent", "reset"]


class Webhook(Strict):
    """A service that budgets tell what happens, or that rules ask: signed HTTP calls, see docs/webhooks.md."""

    url: WebhookUrl = Field(description="What to POST to; `{env: NAME}` or `{file: path}` where it holds a secret.")
    secret: SecretType = Field(description="What calls are signed with: `whsec_` and the base64 of 24 to 64 bytes.")
    events: list[WebhookEvent] = Field(
        ["warn", "spent", "reset"], description="What budgets tell: a warning, spent, and available again."
    )


class Price(Strict):
    """What a model costs: US dollars per 1,000,000 tokens, or for one of something."""

    input: TokenPrice | None = Field(None, description="Per 1,000,000 input tokens.")
    output: TokenPrice | None = Field(None, description="Per 1,000,000 output tokens.")
    cached_input: TokenPrice | None = Field(None, description="Per 1,000,000 input tokens read from a cache.")
    cache_write: TokenPrice | None = Field(None, description="Per 1,000,000 input tokens written to a cache.")
    reasoning: TokenPrice | None = Field(None, description="Per 1,000,000 reasoning tokens; as output by default.")
    request: RequestPrice | None = Field(
        None, description="For each request; without a price for tokens it includes them."
    )

    def stated(self) -> dict[str, Decimal]:
        """The rates that are set."""
        rates = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: rate for name, rate in rates.items() if rate is not None}

"""The accounting document: what the collector must know of the live policy. The control plane writes it as JSON.

It holds no secret: the ledger's URL and the webhooks' endpoints travel in the environment, as HEADGATE_LEDGER and
HEADGATE_WEBHOOKS.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from extproc.usage.budgets import Account, OwnerKind, Unit
from extproc.usage.price_book import Override, PriceBook
from extproc.usage.price_catalog import catalog_from_json, load_catalog
from extproc.usage.prices import price_from_json
from extproc.usage.windows import Window

VERSION = 1


@dataclass(frozen=True, slots=True)
class Provider:
    """Who answers behind a cluster: the provider's name in the policy, its kind and its API's host."""

    name: str
    kind: str
    host: str


@dataclass(frozen=True, slots=True)
class AccountSpec:
    """An account in JSON's terms; see `extproc.usage.budgets.Account`. `period` or rolling `seconds`.

    With the owner `ISSUER:*`, each client of that outside issuer has one for itself.
    """

    budget: str
    owner_kind: OwnerKind
    owner: str
    unit: Unit
    amount: int
    period: Literal["day", "week", "month"] | None = None
    zone: str = "UTC"
    seconds: int = 0
    warn: tuple[str, ...] = ()
    on_spent: str = "block"
    webhooks: tuple[str, ...] = ()

    def account(self) -> Account:
        window = Window.calendar(self.period, self.zone) if self.period else Window.rolling(self.seconds)
        warn = tuple(Decimal(part) for part in self.warn)
        return Account(
            self.budget, self.owner_kind, self.owner, self.unit, self.amount, window, warn, self.on_spent, self.webhooks
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Retention:
    """How many days records, and their sums by minute and by hour, are kept. Sums by day stay for ever."""

    records: int
    minutes: int
    hours: int


@dataclass(frozen=True)
class Accounting:
    """`asked`: model or pattern -> cluster -> the name the provider is asked for; "" and what is not there: the
    client's own. `prices`: provider ("" for all) -> pattern -> price as in schemas/models.json.
    """

    clusters: Mapping[str, Provider]
    asked: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    prices: Mapping[str, Mapping[str, dict[str, Any]]] = field(default_factory=dict)
    accounts: tuple[AccountSpec, ...] = ()
    retention: Retention | None = None  # None: all of it is kept
    imported: Mapping[str, Any] | None = None  # a catalog, as schemas/models.schema.json describes it
    version: Literal[1] = 1

    @cached_property
    def catalog_family(self) -> Mapping[str, str]:
        """Cluster -> who sells its models, as the price catalog calls it."""
        catalog = load_catalog()
        return {name: catalog.family(provider.kind, provider.host) for name, provider in self.clusters.items()}

    def upstream_name(self, model: str, cluster: str) -> str:
        """What the provider was asked for."""
        names = self.asked.get(model)
        if names is None:
            names = next((names for prefix, names in self._patterns if model.startswith(prefix)), None)
        return (names.get(cluster) if names else None) or model

    @cached_property
    def _patterns(self) -> list[tuple[str, Mapping[str, str]]]:
        """The longest first, as Envoy's tries look them up."""
        found = [(name[:-1], names) for name, names in self.asked.items() if name.endswith("*")]
        return sorted(found, key=lambda each: len(each[0]), reverse=True)

    def price_book(self) -> PriceBook:
        overrides = [
            Override(pattern, price_from_json(price), provider)
            for provider, prices in self.prices.items()
            for pattern, price in prices.items()
        ]
        imported = None if self.imported is None else catalog_from_json(self.imported)
        return PriceBook(load_catalog(), imported, overrides)


NOTHING = Accounting({})
_ADAPTER = TypeAdapter(Accounting)


def read(path: Path) -> Accounting:
    """Raises OSError, and ValueError where the document is not one of this version."""
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path}: not an accounting document of version {VERSION}: {error}") from error


def dump(accounting: Accounting) -> bytes:
    """The document of an accounting; `read` is its inverse."""
    return _ADAPTER.dump_json(accounting)

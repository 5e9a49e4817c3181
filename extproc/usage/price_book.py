"""Which price a request gets, and where that price came from."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from extproc.usage.price_catalog import Catalog, Model
from extproc.usage.prices import Price

# Stand-ins that charge nothing and know no models of their own: only the policy may say what they cost.
STAND_INS = frozenset({"mock"})

# A model's dated name is the undated one with a day at its end, or `latest`. Shorter numbers ("gpt-4-0613",
# "mistral-large-2411") are versions, which often have another price, so that those have to be in the catalog.
_DATED = re.compile(r"(.+?)(?:[-@]20\d{2}-?(?:0[1-9]|1[0-2])-?(?:0[1-9]|[12]\d|3[01])|-latest)")
_REMEMBERED = 10_000  # names that are looked up: providers say them, so that they are not without bound


class Layer(StrEnum):
    """The places a price may come from, in the order they are asked."""

    POLICY = "policy"
    IMPORTED = "imported"
    CATALOG = "catalog"


@dataclass(frozen=True, slots=True)
class Override:
    """A price that the policy sets: for a model name or, with a `*` at its end, for all names that begin so.

    `provider` is a provider of the policy that it holds for; "" for all of them.
    """

    pattern: str
    price: Price
    provider: str = ""

    def __post_init__(self) -> None:
        if not self.pattern or "*" in self.pattern[:-1]:
            raise ValueError(f"{self.pattern!r} is no pattern: a model's name is expected, `*` only at its end")


@dataclass(frozen=True, slots=True)
class Found:
    """A price and its origin. `entry` is what matched: the policy's pattern, or "FAMILY/NAME" in a file."""

    price: Price
    layer: Layer
    entry: str
    title: str  # of the file: "catalog of 2026-08-06"; "" for the policy
    undated: bool  # the entry is for the name without its date
    model: Model | None  # what else the file knows about the model; None for the policy

    @property
    def source(self) -> str:
        """For people: `policy: gpt-4o*`, `catalog of 2026-08-06: openai/gpt-4o, for the undated name`."""
        place = self.title or self.layer.value
        return f"{place}: {self.entry}{', for the undated name' if self.undated else ''}"


class PriceBook:
    """Layered prices: the policy's, then an imported file's, then the catalog's. The first that knows a price wins.

    Each is asked for the model's very name before it is asked for the name without its date. A file is asked for what
    the provider's family sells, then for the name alone: a maker's price before other sellers', and none where those
    do not agree. Remembers its answers; use it from one thread.
    """

    def __init__(
        self, catalog: Catalog | None = None, imported: Catalog | None = None, overrides: Iterable[Override] = ()
    ) -> None:
        self._overrides = _Overrides(overrides)
        self._files = [
            _File(layer, file) for layer, file in ((Layer.IMPORTED, imported), (Layer.CATALOG, catalog)) if file
        ]
        self._remembered: dict[tuple[str, str, str], Found | None] = {}

    def find(self, model: str, family: str = "", provider: str = "") -> Found | None:
        """The price of a model, as its provider names it. None: not known, which is never zero.

        `family` is the provider's (`Catalog.family`), "" where it is not known; `provider` its name in the policy.
        """
        key = (model, family, provider)
        try:
            return self._remembered[key]
        except KeyError:
            if len(self._remembered) >= _REMEMBERED:
                self._remembered.clear()
            found = self._remembered[key] = self._find(model, family, provider)
            return found

    def names(self) -> frozenset[str]:
        """Every name, and pattern with a `*` at its end, that has a price somewhere."""
        return self._overrides.names().union(*(file.names() for file in self._files))

    def _find(self, model: str, family: str, provider: str) -> Found | None:
        undated = undated_name(model)
        found = self._overrides.find(model, undated, provider)
        if found or family in STAND_INS:
            return found
        for file in self._files:
            found = file.find(model, family, undated=False) or (
                file.find(undated, family, undated=True) if undated else None
            )
            if found:
                return found
        return None


def undated_name(model: str) -> str | None:
    """`gpt-4o` for `gpt-4o-2024-08-06`, `gpt-4o-20240806` and `gpt-4o-latest`; None for a name without a date."""
    match = _DATED.fullmatch(model)
    return match.group(1) if match else None


class _Overrides:
    """The policy's prices. Those for one provider come before those for all."""

    def __init__(self, overrides: Iterable[Override]) -> None:
        self._exact: dict[tuple[str, str], Override] = {}
        self._prefixes: list[tuple[str, Override]] = []
        seen: set[tuple[str, str]] = set()
        for override in overrides:
            if (override.provider, override.pattern) in seen:
                raise ValueError(f"{override.pattern!r} has two prices: one is expected")
            seen.add((override.provider, override.pattern))
            if override.pattern.endswith("*"):
                self._prefixes.append((override.pattern[:-1], override))
            else:
                self._exact[override.provider, override.pattern] = override
        self._prefixes.sort(key=lambda item: len(item[0]), reverse=True)

    def names(self) -> frozenset[str]:
        return frozenset([name for _, name in self._exact] + [override.pattern for _, override in self._prefixes])

    def find(self, model: str, undated: str | None, provider: str) -> Found | None:
        for owner in (provider, "") if provider else ("",):
            exact = self._exact.get((owner, model))
            if exact:
                return _of_policy(exact)
            wildcard = next(
                (o for prefix, o in self._prefixes if o.provider == owner and model.startswith(prefix)), None
            )
            other = self._exact.get((owner, undated)) if undated else None
            # Both say what the name begins with; the one that says more of it wins.
            if other and not (wildcard and len(wildcard.pattern) - 1 > len(other.pattern)):
                return _of_policy(other, undated=True)
            if wildcard:
                return _of_policy(wildcard)
        return None


def _of_policy(override: Override, *, undated: bool = False) -> Found:
    return Found(override.price, Layer.POLICY, override.pattern, "", undated, None)


class _File:
    """A catalog with its indexes."""

    def __init__(self, layer: Layer, catalog: Catalog) -> None:
        self._layer, self._title = layer, catalog.title
        self._makers = frozenset(family.id for family in catalog.families if family.maker)
        self._sold: dict[tuple[str, str], Model] = {}
        self._named: dict[str, list[Model]] = {}
        for model in catalog.models:
            for name in model.names:
                self._sold[model.family, name] = model
                self._named.setdefault(name, []).append(model)

    def names(self) -> frozenset[str]:
        return frozenset(self._named)

    def find(self, name: str, family: str, *, undated: bool) -> Found | None:
        model = self._sold.get((family, name)) or self._alone(name)
        if model is None:
            return None
        return Found(model.price, self._layer, f"{model.family}/{model.name}", self._title, undated, model)

    def _alone(self, name: str) -> Model | None:
        models = self._named.get(name, [])
        sellers = [model for model in models if model.family in self._makers] or models
        return sellers[0] if len({model.price for model in sellers}) == 1 else None


def overrides_from(prices: Mapping[str, Price], provider: str = "") -> tuple[Override, ...]:
    """A policy's mapping of patterns to prices as overrides."""
    return tuple(Override(pattern, price, provider) for pattern, price in prices.items())

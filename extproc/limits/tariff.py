"""What a request may cost at most, before it runs, and what it did cost, after."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any, Self

from extproc.usage.prices import NO_UNITS, Price, Rate, Rates, cost, price_from_json
from extproc.usage.record import Tokens


@dataclass(frozen=True, slots=True)
class Tariff:
    """Prices by model name, and by prefix, longest first."""

    exact: Mapping[str, Price]
    prefixes: tuple[tuple[str, Price], ...]

    @classmethod
    def of(cls, prices: Mapping[str, Any]) -> Self:
        """Raises ValueError, which names the pattern whose price is none."""
        exact, prefixes = {}, {}
        for pattern, data in prices.items():
            try:
                price = price_from_json(data)
            except (ValueError, TypeError) as error:
                raise ValueError(f"the price of {pattern!r}: {error}") from None
            if pattern.endswith("*"):
                prefixes[pattern[:-1]] = price
            else:
                exact[pattern] = price
        return cls(exact, tuple(sorted(prefixes.items(), key=lambda item: -len(item[0]))))

    def find(self, model: str) -> Price | None:
        """The price of a model as the client asks for it. None: not known, which is never zero."""
        price = self.exact.get(model)
        if price is not None:
            return price
        return next((price for prefix, price in self.prefixes if model.startswith(prefix)), None)


def most(price: Price, prompt: int, output: int) -> int | None:
    """Picodollars that no request with at most that many tokens exceeds. None where its price cannot bound it.

    Prices per image, minute of audio or character are of things that nobody counts before the request. A price of
    input alone is that of a model whose answers have no tokens, as those for embeddings.
    """
    if (price.image, price.audio_minute, price.character) != (None, None, None):
        return None
    rates = [price.rates, *(tier.rates for tier in price.tiers)]
    if any(each.input is None for each in rates):
        return None
    dearest = _dearest(rates, "input", "cached", "cache_write"), _dearest(rates, "output", "reasoning")
    return ceil(prompt * dearest[0] + output * dearest[1] + (price.request or 0))


def spent(price: Price, total: int | None, prompt: int | None, output: int | None, cached: int | None) -> int | None:
    """Picodollars of what a provider reported. With a total alone, all of it at the dearest rate. None: not known."""
    if prompt is not None and output is not None:
        try:
            return cost(price, Tokens(prompt, output, min(cached or 0, prompt)), NO_UNITS)
        except ValueError:
            return None  # no answer has so many tokens
    if total is None:
        return None
    bounds = (most(price, total, 0), most(price, 0, total))
    return None if None in bounds else max(bound for bound in bounds if bound is not None)


def _dearest(rates: list[Rates], *kinds: str) -> Rate:
    """The highest of these, 0 where there is none."""
    return max(
        (Fraction(rate) for each in rates for kind in kinds if (rate := getattr(each, kind)) is not None), default=0
    )

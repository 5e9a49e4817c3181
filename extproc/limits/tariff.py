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


def spent(
    price: Price, total: int | None, prompt: int | None, output: int | None, cached: int = 0, written: int = 0
) -> int | None:
    """Picodollars of what a provider reported. With a total alone, all of it at the dearest rate. None: not known.

    Tokens that only the total holds are thinking, and charged as output. Which part of the output is thinking nobody
    tells in time: where it costs more, all of it does.
    """
    if prompt is not None and (output is not None or total is not None):
        hidden = 0 if total is None else max(total - prompt - (output or 0), 0)
        if output is None or hidden != cached + written:  # seen elsewhere: a total that counts these twice
            output = (output or 0) + hidden
        cached = min(cached, prompt)
        tokens = Tokens(prompt, output, cached, min(written, prompt - cached))
        try:
            bounds = cost(price, tokens, NO_UNITS), cost(price, tokens._replace(reasoning=output), NO_UNITS)
        except ValueError:
            return None  # no answer has so many tokens
    elif total is not None:
        bounds = most(price, total, 0), most(price, 0, total)
    else:
        return None
    return None if None in bounds else max(bound for bound in bounds if bound is not None)


def _dearest(rates: list[Rates], *kinds: str) -> Rate:
    """The highest of these, 0 where there is none."""
    return max(
        (Fraction(rate) for each in rates for kind in kinds if (rate := getattr(each, kind)) is not None), default=0
    )

"""What tokens cost: exact rates in, whole picodollars out. Nothing here is ever a float.

A price is written in USD per 1,000,000 tokens, so one with up to six decimals is a whole number of picodollars per
token ($1 per million is 1,000,000 of them). A finer one is kept as a fraction, and only a sum that is not whole is
rounded: once, at the end, half to even.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Context, Decimal, Inexact
from fractions import Fraction
from typing import Any

from extproc.usage.record import PICO, Tokens

Rate = int | Fraction  # picodollars for one of something

# No answer has more tokens than this, and no price is higher: a cost of tokens then stays below 2^63, which is what a
# database column holds. Whoever reads usage from a provider bounds it before; here it is a bug, and is an error.
MAX_TOKENS = 100_000_000
MAX_PER_MILLION = 10_000  # USD for 1,000,000 tokens or characters
MAX_PER_UNIT = 1_000  # USD for a request, an image, a minute of audio
MAX_IMAGES = 1_000
MAX_AUDIO_MS = 86_400_000
DECIMALS = 30  # of a price

_PER_MILLION = 10**6
_MINUTE_MS = 60_000
_NUMBER = re.compile(rf"(0|[1-9][0-9]{{0,4}})(\.[0-9]{{1,{DECIMALS}}})?")
_EXACT = Context(prec=80, traps=[Inexact])


@dataclass(frozen=True, slots=True)
class Rates:
    """Picodollars per token. None: this price does not say, see each field."""

    input: Rate | None = None  # None: tokens of this kind have no price
    cached: Rate | None = None  # None: charged as input
    cache_write: Rate | None = None  # None: charged as input
    output: Rate | None = None  # None: tokens of this kind have no price
    reasoning: Rate | None = None  # None: charged as output


NO_RATES = Rates()


@dataclass(frozen=True, slots=True)
class Tier:
    """A request with more than `above` input tokens, cached ones included, pays these rates for all its tokens."""

    above: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class Price:
    """One model's price. Units are priced besides tokens: picodollars per request, image, audio minute, character."""

    rates: Rates = NO_RATES
    tiers: tuple[Tier, ...] = ()  # by rising `above`
    request: Rate | None = None
    image: Rate | None = None
    audio_minute: Rate | None = None
    character: Rate | None = None

    @property
    def includes_tokens(self) -> bool:
        """Whether a request pays for itself, whatever tokens it has."""
        return self.request is not None and self.rates == NO_RATES and not self.tiers

    def at(self, input_tokens: int) -> Rates:
        """The rates of a request with that many input tokens."""
        for tier in reversed(self.tiers):
            if input_tokens > tier.above:
                return tier.rates
        return self.rates


@dataclass(frozen=True, slots=True)
class Units:
    """What a request used besides tokens; None where nobody counted."""

    images: int | None = None
    audio_ms: int | None = None
    characters: int | None = None


NO_UNITS = Units()


def cost(price: Price, tokens: Tokens, units: Units = NO_UNITS) -> int | None:
    """Picodollars for one request, exact; half to even where the sum is not whole.

    None when the request used something that the price has no rate for, or when the price charges a unit that was not
    counted: a cost that is not known is never zero. Only a price by the request that says nothing of tokens includes
    them all. ValueError for counts that cannot be (see `check`).
    """
    check(tokens, units)
    rates = price.at(tokens.input)
    cached = rates.input if rates.cached is None else rates.cached
    cache_write = rates.input if rates.cache_write is None else rates.cache_write
    reasoning = rates.output if rates.reasoning is None else rates.reasoning
    total: Rate = 0 if price.request is None else price.request
    for count, rate in (
        (tokens.input - tokens.cached - tokens.cache_write, rates.input),
        (tokens.cached, cached),
        (tokens.cache_write, cache_write),
        (tokens.output - tokens.reasoning, rates.output),
        (tokens.reasoning, reasoning),
    ):
        if count:
            if rate is None:
                if price.includes_tokens:
                    break
                return None
            total += count * rate
    for used, unit in ((units.images, price.image), (units.characters, price.character)):
        if unit is not None:
            if used is None:
                return None
            total += used * unit
    if price.audio_minute is not None:
        if units.audio_ms is None:
            return None
        total += Fraction(price.audio_minute) * units.audio_ms / _MINUTE_MS
    return total if isinstance(total, int) else round(total)


# Picodollars for one of each count in `Tokens`, in their order.
Weights = tuple[int, int, int, int, int]


def weights(price: Price) -> Weights | None:
    """A price as weights: `cost` is then the sum of counts times weights, for counts that can be (see `check`).

    None for a price that is more than a whole number of picodollars for a token of every kind.
    """
    rates = price.rates
    cached = rates.input if rates.cached is None else rates.cached
    cache_write = rates.input if rates.cache_write is None else rates.cache_write
    reasoning = rates.output if rates.reasoning is None else rates.reasoning
    match rates.input, rates.output, cached, cache_write, reasoning:
        case int(put_in), int(put_out), int(), int(), int() if price == Price(rates):
            # A part is counted in its whole as well: what it adds is the difference.
            return put_in, put_out, cached - put_in, cache_write - put_in, reasoning - put_out
    return None


def check(tokens: Tokens, units: Units = NO_UNITS) -> None:
    """ValueError when a count is negative or above its bound, or a part is more than the whole it is part of."""
    if not (
        0 <= tokens.input <= MAX_TOKENS
        and 0 <= tokens.output <= MAX_TOKENS
        and tokens.cached >= 0
        and tokens.cache_write >= 0
        and tokens.cached + tokens.cache_write <= tokens.input
        and 0 <= tokens.reasoning <= tokens.output
    ):
        raise ValueError(
            f"{tokens} cannot be: counts lie between 0 and {MAX_TOKENS}, cached + cache_write within input, "
            "reasoning within output"
        )
    for name, used, most in (
        ("images", units.images, MAX_IMAGES),
        ("audio_ms", units.audio_ms, MAX_AUDIO_MS),
        ("characters", units.characters, MAX_TOKENS),
    ):
        if used is not None and not 0 <= used <= most:
            raise ValueError(f"{used} {name} cannot be: between 0 and {most} are expected")


# A price as JSON: token kinds in USD per 1,000,000, units in USD for one (characters per 1,000,000 too).
_TOKENS = {
    "input": "input",
    "cached_input": "cached",
    "cache_write": "cache_write",
    "output": "output",
    "reasoning": "reasoning",
}
_UNITS = {
    "request": ("request", 1),
    "image": ("image", 1),
    "audio_minute": ("audio_minute", 1),
    "million_characters": ("character", _PER_MILLION),
}
PRICE_FIELDS = (*_TOKENS, *_UNITS, "tiers")


def price_from_json(data: Mapping[str, Any]) -> Price:
    """A price as the catalog and the policy write it; `price_to_json` is its inverse.

    `{"input": "2.50", "cached_input": "1.25", "output": "10", "tiers": [{"above": 200000, "input": "5"}]}`: decimal
    strings (or ints, or Decimals) in USD per 1,000,000 tokens; `request`, `image`, `audio_minute` in USD for one,
    `million_characters` in USD for 1,000,000. A tier states the kinds that differ from the price above it. ValueError
    names the field that is wrong.
    """
    for name in data:
        if name not in PRICE_FIELDS:
            raise ValueError(f"`{name}` is no field of a price: one of {', '.join(PRICE_FIELDS)} is expected")
    if not any(name in data for name in (*_TOKENS, *_UNITS)):
        raise ValueError(f"a price has at least one of {', '.join((*_TOKENS, *_UNITS))}")
    rates = Rates(**_token_rates(data))
    units = {
        field: _rate(data[name], name, MAX_PER_MILLION if per > 1 else MAX_PER_UNIT, per)
        for name, (field, per) in _UNITS.items()
        if name in data
    }
    return Price(rates=rates, tiers=_tiers(data.get("tiers", []), rates), **units)


def price_to_json(price: Price) -> dict[str, Any]:
    """The price as `price_from_json` reads it, in decimal strings."""
    data: dict[str, Any] = _token_strings(price.rates)
    for name, (field, per) in _UNITS.items():
        rate = getattr(price, field)
        if rate is not None:
            data[name] = _string(rate * per)
    if price.tiers:
        data["tiers"] = [{"above": tier.above} | _token_strings(tier.rates) for tier in price.tiers]
    return data


def rate_of(usd: Decimal, per: int, most: int | Decimal) -> Rate:
    """Picodollars for one, of a price in USD for `per` of them. ValueError when it is no price up to `most` USD."""
    if usd.is_zero():
        return 0
    # The exponent is looked at before anything is computed: 1e-999999999 is a short text and an endless fraction.
    if not usd.is_finite() or usd.adjusted() > 10 or int(usd.as_tuple().exponent) < -DECIMALS:
        raise ValueError(f"{usd} is no price in USD: at most {DECIMALS} decimals are expected")
    if usd < 0 or usd > most:
        raise ValueError(f"{usd} USD is no price: between 0 and {most} is expected")
    exact = Fraction(usd) * PICO / per
    return exact.numerator if exact.denominator == 1 else exact


def layered(base: Rates, over: Mapping[str, Rate]) -> Rates:
    """The base with some rates replaced: what a tier that states only the kinds that differ means."""
    return Rates(**({field.name: getattr(base, field.name) for field in fields(Rates)} | dict(over)))


def _token_rates(data: Mapping[str, Any]) -> dict[str, Rate]:
    return {
        field: _rate(data[name], name, MAX_PER_MILLION, _PER_MILLION) for name, field in _TOKENS.items() if name in data
    }


def _tiers(data: Any, rates: Rates) -> tuple[Tier, ...]:
    if not isinstance(data, list):
        raise ValueError("`tiers` is a list of objects with `above`")
    tiers: list[Tier] = []
    for item in data:
        if not isinstance(item, Mapping) or not {"above"} < set(item) <= {"above", *_TOKENS}:
            raise ValueError(f"a tier has `above` and at least one of {', '.join(_TOKENS)}")
        above = item["above"]
        if type(above) is not int or not (tiers[-1].above if tiers else 0) < above <= MAX_TOKENS:
            raise ValueError(f"`above` is {above!r}: a number of tokens is expected, higher with each tier")
        rates = layered(rates, _token_rates(item))
        tiers.append(Tier(above, rates))
    return tuple(tiers)


def _rate(value: Any, name: str, most: int, per: int) -> Rate:
    if (isinstance(value, str) and _NUMBER.fullmatch(value)) or type(value) is int:
        value = Decimal(value)
    elif not isinstance(value, Decimal):
        raise ValueError(f'`{name}` is {value!r}: a decimal such as "0.15" is expected, in USD')
    try:
        return rate_of(value, per, most)
    except ValueError as error:
        raise ValueError(f"`{name}`: {error}") from None


def _token_strings(rates: Rates) -> dict[str, str]:
    found = {name: getattr(rates, field) for name, field in _TOKENS.items()}
    return {name: _string(rate * _PER_MILLION) for name, rate in found.items() if rate is not None}


def _string(pico: Rate) -> str:
    """USD as a decimal string. Every rate came from a decimal, so that it ends."""
    exact = Fraction(pico) / PICO
    return f"{_EXACT.divide(Decimal(exact.numerator), Decimal(exact.denominator)):f}"

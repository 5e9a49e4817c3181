"""plan -> the settings of the rate limit service: its rules, and what models cost at most."""

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

from controlplane.plan.ir import Plan, Route, Target
from controlplane.xds import accounting, fleet, names
from extproc.limits.settings import Redis, Settings
from extproc.usage.price_book import PriceBook
from extproc.usage.prices import Price, Rate, Rates, price_to_json

REDIS_URL = "HEADGATE_REDIS_URL"  # of the service's environment
_PATIENCE_MS = 500  # with Redis; below Envoy's with the service, which then decides


def lower(plan: Plan) -> Settings | None:
    """None: nothing is to be counted by the service."""
    if not plan.counted:
        return None
    rules = {each.name: each.rule for each in plan.counted}
    prices = dict(_prices(plan)) if any(map(fleet.priced, plan.counted)) else {}
    return Settings(rules, prices, Redis(REDIS_URL, timeout_ms=_PATIENCE_MS) if plan.redis else None)


def _prices(plan: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    """Model or pattern -> the price of its dearest target. One whose price is not known is left out: never zero."""
    told = accounting.lower(plan)
    book = told.price_book()

    def price(target: Target, name: str) -> Price | None:
        cluster = names.target_cluster(target)
        found = book.find(target.model or name, told.catalog_family[cluster], target.provider)
        return found.price if found else None

    for route in plan.routes:
        for name, asked in _names(route, book, plan):
            known = [price(target, asked) for target in route.targets]
            dearest = _dearest([each for each in known if each is not None]) if None not in known else None
            if dearest is not None:
                yield name, price_to_json(dearest)


def _names(route: Route, book: PriceBook, plan: Plan) -> Iterator[tuple[str, str]]:
    """What a route's requests may ask for, as far as prices differ: a name or pattern, and the model to look up."""
    if route.prefix is None:
        yield route.name, route.name
        return
    if all(target.model is not None for target in route.targets):
        yield route.name, route.prefix
        return
    exact = {each.name for each in plan.routes if each.prefix is None}
    prefixes = {each.prefix for each in plan.routes if each.prefix} - {route.prefix}
    narrower = tuple(prefix for prefix in prefixes if prefix.startswith(route.prefix))
    for name in sorted(book.names()):
        start = name.removesuffix("*")
        if start.startswith(route.prefix) and start not in exact and not start.startswith(narrower):
            yield name, start
        elif name.endswith("*") and route.prefix.startswith(start):
            yield route.name, route.prefix


def _dearest(prices: list[Price]) -> Price | None:
    """A price that none of these exceeds, whatever a request uses."""
    if len(set(prices)) == 1:
        return prices[0]
    if any(price.rates.input is None for price in prices):
        return None
    if any((price.image, price.audio_minute, price.character) != (None, None, None) for price in prices):
        return None
    rates = [rates for price in prices for rates in (price.rates, *(tier.rates for tier in price.tiers))]
    highest = Rates(
        input=_highest(rate.input for rate in rates),
        cached=_highest(rate.input if rate.cached is None else rate.cached for rate in rates),
        cache_write=_highest(rate.input if rate.cache_write is None else rate.cache_write for rate in rates),
        output=_highest(rate.output for rate in rates),
        reasoning=_highest(rate.output if rate.reasoning is None else rate.reasoning for rate in rates),
    )
    return Price(rates=highest, request=_highest(price.request for price in prices))


def _highest(rates: Iterable[Rate | None]) -> Rate | None:
    return max((rate for rate in rates if rate is not None), key=Fraction, default=None)

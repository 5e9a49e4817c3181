"""Facts that are known without asking anybody: the embedded catalog's, and prices of the policy and its file."""

from collections.abc import Mapping
from functools import cache, lru_cache

from controlplane.metadata import facts
from controlplane.metadata.facts import NOTHING, Fact, Layer, Source, Told
from controlplane.plan.ir import Plan
from extproc.stages.parameters import Kind, parameters_of
from extproc.usage import price_book
from extproc.usage.price_book import Found, Override, PriceBook
from extproc.usage.price_catalog import CAPABILITIES, MODALITIES, Catalog, Model, load_catalog
from extproc.usage.prices import price_from_json, price_to_json

_LAYERS: Mapping[price_book.Layer, Layer] = {
    price_book.Layer.CATALOG: Layer.CATALOG,
    price_book.Layer.IMPORTED: Layer.FILE,
    price_book.Layer.POLICY: Layer.POLICY,
}
# Caps follow from the output that a model gives at most, whoever says that.
_CAPS = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens"})
_REMEMBERED = 20_000
_MOCK = Source(Layer.SIDECAR, "mock")
OF_MOCK = Told(
    (
        Fact(facts.INPUTS, ("text", "image", "audio"), _MOCK),
        Fact(facts.OUTPUTS, ("text",), _MOCK),
        Fact(facts.CAPABILITIES, ("streaming", "tools", "vision", "json_schema"), _MOCK),
    )
)


class Catalogs:
    """Looks models up as the collector does for their prices, and remembers what it found."""

    def __init__(self, prices: tuple[tuple[str, tuple[tuple[str, str], ...]], ...], imported: Catalog | None) -> None:
        overrides = [Override(pattern, price_from_json(dict(rates))) for pattern, rates in prices]
        self._told = PriceBook(_embedded(), imported)
        self._priced = PriceBook(_embedded(), imported, overrides)
        self._known: dict[tuple[str, str, str, str], tuple[Told, ...]] = {}

    def told(self, kind: str, host: str, provider: str, model: str) -> tuple[Told, ...]:
        """What is known of a model at a provider, as that names it."""
        key = (kind, host, provider, model)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            family = _family(kind, host)
            known = OF_MOCK if kind == "mock" else _facts(self._told.find(model, family))
            found = self._known[key] = (known, _price(self._priced.find(model, family, provider)))
        return found


_last: tuple[object, object, Catalogs] | None = None


def catalogs(plan: Plan) -> Catalogs:
    """Those of a plan; the same object while its prices stay as they are."""
    global _last  # noqa: PLW0603 - the last plan's: most edits leave prices alone
    last = _last
    if last is None or last[0] != plan.prices or last[1] is not plan.imported:
        last = _last = (plan.prices, plan.imported, Catalogs(plan.prices, plan.imported))
    return last[2]


@cache
def _embedded() -> Catalog:
    return load_catalog()


@lru_cache(maxsize=1024)
def _family(kind: str, host: str) -> str:
    return _embedded().family(kind, host)


@lru_cache(maxsize=4096)
def _price(found: Found | None) -> Told:
    if found is None:
        return NOTHING
    source = Source(_LAYERS[found.layer], found.source if found.title else f"policy: prices.{found.entry}")
    return Told((Fact(facts.PRICE, price_to_json(found.price), source),))


@lru_cache(maxsize=4096)
def _facts(found: Found | None) -> Told:
    if found is None or found.model is None:
        return NOTHING
    return Told(tuple(_of(found.model, Source(Layer.CATALOG, found.source))))


def _of(known: Model, source: Source) -> list[Fact]:
    words = {
        facts.INPUTS: tuple(sorted(known.inputs, key=MODALITIES.index)),
        facts.OUTPUTS: tuple(sorted(known.outputs, key=MODALITIES.index)),
        facts.CAPABILITIES: tuple(sorted(known.capabilities, key=CAPABILITIES.index)),
    }
    counts = {facts.CONTEXT: known.context_window, facts.OUTPUT: known.max_output}
    found = [Fact(name, value, source) for name, value in (counts | words).items() if value]
    if known.deprecation is not None:
        found.append(Fact(facts.DEPRECATION, known.deprecation.isoformat(), source))
    for name, parameter in parameters_of(known).items():
        if name not in _CAPS or parameter.kind is not Kind.MUTABLE:
            found.append(facts.parameter(name, parameter, source))
    return found

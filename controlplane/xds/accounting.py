"""plan -> the accounting document: what the collector must know to turn access log entries into usage records."""

from controlplane.plan.ir import Plan, Route
from controlplane.xds import names
from extproc.usage.accounting import Accounting, Provider
from extproc.usage.price_catalog import catalog_to_json


def lower(plan: Plan) -> Accounting:
    """Clusters' providers, what providers are asked for under another name than the client's, prices, accounts."""
    clusters = {
        names.cluster(upstream.name, lane, translated=translated): Provider(upstream.name, upstream.kind, upstream.host)
        for upstream in plan.upstreams.values()
        for lane, translated in names.lanes(upstream)
    }
    prices = {"": {name: dict(rates) for name, rates in plan.prices}}
    imported = catalog_to_json(plan.imported) if plan.imported else None
    return Accounting(clusters, _asked(plan.routes), prices, plan.accounts, plan.retention, imported)


def _asked(routes: tuple[Route, ...]) -> dict[str, dict[str, str]]:
    """Model or pattern -> cluster -> name. Where a pattern renames, those within it that do not must be told, too."""
    renaming = tuple(
        route.prefix for route in routes if route.prefix is not None and any(each.model for each in route.targets)
    )
    return {
        route.name: {names.target_cluster(target): target.model or "" for target in route.every_target}
        for route in routes
        if any(target.model not in (None, route.name) for target in route.targets) or route.name.startswith(renaming)
    }

"""plan -> the accounting document: what the collector must know to turn access log entries into usage records."""

from controlplane.plan.ir import Plan
from controlplane.xds import names
from extproc.usage.accounting import Accounting, Provider


def lower(plan: Plan) -> Accounting:
    """Clusters' providers, what providers are asked for under another name than the client's, prices, accounts."""
    asked: dict[str, dict[str, str]] = {}
    for route in plan.routes:
        for target in route.targets:
            if target.model is not None and target.model != route.name:
                asked.setdefault(route.name, {})[names.target_cluster(target)] = target.model
    clusters = {
        names.cluster(upstream.name, lane): Provider(upstream.name, upstream.kind, upstream.host)
        for upstream in plan.upstreams.values()
        for lane in range(upstream.lanes)
    }
    return Accounting(clusters, asked, {"": {name: dict(rates) for name, rates in plan.prices}}, plan.accounts)

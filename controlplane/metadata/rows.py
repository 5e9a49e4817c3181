"""The metadata of all models of a plan, in the few different texts that they are made of. Pure."""

import sys
from functools import lru_cache
from typing import Any

from controlplane.metadata.catalog import catalogs
from controlplane.metadata.models import Listed, Recipe, choices, make, recipe
from controlplane.metadata.shapes import Parts, parts, view
from controlplane.plan.ir import Plan
from controlplane.plan.request_explained import match

Row = tuple[str, Parts]  # a model, and what is known of it


def rows(plan: Plan, listed: Listed) -> tuple[Row, ...]:
    """Of every model that has a name; those of patterns are known only once they are asked for."""
    known = catalogs(plan)
    return tuple(
        [
            (route.name, _parts(recipe(plan, route, route.name, known, listed)))
            for route in plan.routes
            if route.prefix is None
        ]
    )


def show(plan: Plan, model: str, listed: Listed) -> dict[str, Any] | None:
    """All of one model, or of a name that a pattern takes; None where the plan has no such model."""
    route = match(plan, model)
    if route is None:
        return None
    return view(model, choices(route, model), make(recipe(plan, route, model, catalogs(plan), listed)))


@lru_cache(maxsize=8192)  # an edit leaves most models as they are, and a listing too
def _parts(of: Recipe) -> Parts:
    return Parts(*(tuple(map(sys.intern, pieces)) for pieces in parts(make(of))))

"""Endpoints as they are found while the gateway runs: what balancing needs to know of each."""

from dataclasses import dataclass

from controlplane.plan.ir import Endpoint


@dataclass(frozen=True, slots=True)
class Found:
    """An endpoint of a provider.

    `weight` is its share of the requests by all that is known of it, `full` by its size alone. `models` are those that
    it has, as it calls them; empty: any.
    """

    endpoint: Endpoint
    weight: int = 1
    full: int = 1
    models: tuple[str, ...] = ()

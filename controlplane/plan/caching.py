"""The response cache that a policy's rules need, if any do. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from controlplane.policy.check_caches import caches
from controlplane.policy.language import Gateway
from controlplane.policy.rules import Rule
from controlplane.policy.secrets import SecretRef


@dataclass(frozen=True, slots=True)
class Caching:
    """`memory`: bytes. `redis`: where a rule keeps answers there. `inside`: models of the policy compare texts."""

    memory: int
    redis: SecretRef | None
    inside: bool


def caching(gateway: Gateway, rules: Iterable[Rule]) -> Caching | None:
    """Of a checked policy."""
    found = [cache for rule in rules for _, cache in caches(rule)]
    if not found:
        return None
    shared = any(cache.store == "redis" for cache in found)
    inside = any(cache.semantic is not None and cache.semantic.address is None for cache in found)
    return Caching(gateway.cache_memory, gateway.redis if shared else None, inside)

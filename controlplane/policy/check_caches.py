"""How a rule that caches fits the rest of its policy."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from controlplane.policy.caching import Cache
from controlplane.policy.diagnostics import Diagnostic, Severity
from controlplane.policy.document import Document, Path
from controlplane.policy.limits import shared
from controlplane.policy.rules import FINDS, Rule
from controlplane.policy.structure import nearest

_PROTECT = (*FINDS, "injection", "validate")


def caches(rule: Rule) -> Iterator[tuple[int, Cache]]:
    """The caches of a rule, each with its place in `do`."""
    for number, action in enumerate(rule.do):
        for name, told in action.done():
            if name == "cache":
                yield number, Cache.model_validate(told)


def check_caches(
    document: Document, rules: Mapping[int, Rule], models: Mapping[str, Any], *, redis: bool, nobody: bool
) -> Iterator[Diagnostic]:
    """`rules` by their places. `redis`: the policy names one. `nobody`: it tells nobody from another."""
    for place, rule in rules.items():
        for at, (number, cache) in enumerate(caches(rule)):
            path: Path = ("rules", place, "do", number, "cache")
            if at:
                message = "a rule has one cache, and this is another"
                yield _problem(Severity.ERROR, "invalid-rule", document, message, path, "a rule of its own")
            yield from _fits(document, cache, path, models, redis=redis, nobody=nobody)
            guard = _guard(rule, number, (later for at, later in rules.items() if at > place))
            if cache.scope != "key" and guard is not None:
                message = f"what this answers does not meet `{guard}`, which comes later and may be for some only"
                hint = "put the cache behind it, or write scope: key"
                yield _problem(Severity.WARNING, "cache-before-guard", document, message, path, None, hint=hint)


def check_redis(
    document: Document, gateway: Any, sections: Mapping[str, Mapping[str, Any]], rules: Mapping[int, Rule]
) -> Iterator[Diagnostic]:
    """A Redis that nothing uses was meant for something."""
    cached = any(cache.store == "redis" for rule in rules.values() for _, cache in caches(rule))
    counted = shared(sections.get("limits", {}), sections.get("budgets", {}))
    if gateway.redis is not None and not cached and not counted:
        message = "nothing here has `scope: fleet` or `store: redis`, so nothing uses Redis"
        yield _problem(Severity.WARNING, "redis-unused", document, message, ("gateway", "redis"), None)


def _fits(
    document: Document, cache: Cache, path: Path, models: Mapping[str, Any], *, redis: bool, nobody: bool
) -> Iterator[Diagnostic]:
    if cache.store == "redis" and not redis:
        message, hint = "the policy names no Redis", "write gateway: {redis: {env: REDIS_URL}}, or store: memory"
        yield _problem(
            Severity.ERROR, "cache-without-redis", document, message, (*path, "store"), "`gateway.redis`", hint=hint
        )
    if nobody and cache.scope != "shared":
        message = f"without keys nobody is the {cache.scope} of a request, so nothing is cached"
        where, hint = (*path, "scope"), "write scope: shared"
        yield _problem(Severity.WARNING, "cache-for-nobody", document, message, where, None, hint=hint)
    semantic = cache.semantic
    if semantic is None or semantic.address is not None:
        return
    if not any(_serves(known, semantic.model) for known in models):
        message, near = f"there is no model `{semantic.model}`", nearest(semantic.model, tuple(models))
        where = (*path, "semantic", "model")
        yield _problem(Severity.ERROR, "unknown-name", document, message, where, "a model of this policy", near=near)


def _guard(rule: Rule, number: int, later: Iterable[Rule]) -> str | None:
    """The first action that protects, behind an entry of a rule."""
    actions = (*rule.do[number + 1 :], *(action for each in later for action in each.do))
    return next((name for action in actions for name, _ in action.done() if name in _PROTECT), None)


def _serves(known: str, model: str) -> bool:
    return model.startswith(known[:-1]) if known.endswith("*") else model == known


def _problem(
    severity: Severity, code: str, document: Document, message: str, path: Path, expected: str | None,
    *, near: str | None = None, hint: str | None = None,
) -> Diagnostic:  # fmt: skip
    return Diagnostic(severity, code, message, document.place(path), expected, near, hint)

"""plan -> what one request would get: route, targets, limits, rules, and what translation does to it."""

from collections.abc import Iterator
from dataclasses import dataclass

from controlplane.plan import translation_explained
from controlplane.plan.accounts import LIMIT
from controlplane.plan.dialects import Surface, surface_of
from controlplane.plan.ir import Key, Plan, Route
from controlplane.policy.limits import Place
from extproc import translate
from extproc.usage.identity import Owner

# For whoever is told what would be sent: names and times are made when it is.
_STAMP = translate.Stamp("", 0)


@dataclass(frozen=True, slots=True)
class Translated:
    """What a target that speaks another API would be sent: `path`, and what is not as it was asked for.

    `refused`: why the client would get a 400 instead.
    """

    provider: str
    model: str
    api: str
    path: str | None
    dropped: tuple[str, ...]
    warnings: tuple[str, ...]
    refused: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request would get: `status` 200 means it goes to `groups` (cluster, upstream model, weight)."""

    status: int
    code: str | None
    key: str | None
    model: str | None
    route: str | None
    groups: tuple[tuple[tuple[str, str, int], ...], ...]
    attempts: int
    limits: tuple[str, ...]
    rules: tuple[str, ...]  # for its model and key; path, stream, headers and modality may part them further
    translated: tuple[str, ...]  # which requests for its model are translated for whom
    translations: tuple[Translated, ...]  # for the targets that need it, of the request as it is before rules


def request(plan: Plan, model: str | None, key_name: str | None, path: str = Surface.CHAT, body: bytes = b"") -> Answer:
    """The way of a request for `model` to `path` with the key named `key_name` through the plan.

    `body`, if it is known, is translated for the targets that need that. Raises KeyError for a key that the plan does
    not have.
    """
    key = next((key for key in plan.keys if key.name == key_name), None)
    if key_name is not None and key is None:
        raise KeyError(key_name)
    found = None if model is None else match(plan, model)
    limits = tuple(dict.fromkeys(_limits(plan, key, found)))
    known = None if key is None else key.name
    taken = None if found is None else _taken(found, surface_of(path))

    def answer(status: int, code: str | None) -> Answer:
        goes = taken if status == 200 else None
        groups = _groups(goes, model) if goes and model else ()
        return Answer(
            status,
            code,
            known,
            model,
            found.name if found else None,
            groups,
            goes.retry.attempts if goes else 0,
            limits,
            _rules(plan, model, key) if groups and model else (),
            tuple(translation_explained.translated(found, plan.messages)) if groups and found else (),
            tuple(_translations(plan, goes, model, path, body)) if goes and model and body else (),
        )

    if key is None and not plan.open:
        return answer(401, "invalid_api_key")
    if surface_of(path) in (Surface.MESSAGES, Surface.COUNT_TOKENS) and not plan.messages:
        return answer(404, "unknown_url")
    if model is None:
        return answer(400, "model_required")
    if key is not None and not allowed(key, model):
        return answer(403, "model_not_allowed")
    if found is None:
        return answer(404, "model_not_found")
    return answer(400, "unsupported_endpoint") if taken is None else answer(200, None)


def _taken(route: Route, surface: Surface) -> Route | None:
    """The way that requests for a model take to an endpoint; None: no target serves it."""
    return next((way.route for way in route.ways if surface in way.surfaces), route)


def _translations(plan: Plan, route: Route, model: str, path: str, body: bytes) -> Iterator[Translated]:
    client = translate.CLIENT_APIS.get(path)
    if client is None:
        return
    asked = ((target.provider, target.model or model) for target in route.targets if target.translated)
    for provider, name in dict.fromkeys(asked):
        how = plan.upstreams[provider].translation
        if how is None:
            continue
        made = translate.request(client, how.provider, body, name, _STAMP, how.options)
        if isinstance(made, translate.Refused):
            yield Translated(provider, name, how.provider, None, (), (), made.message)
        else:
            yield Translated(provider, name, how.provider, made.path, made.dropped, made.warnings, None)


def _rules(plan: Plan, model: str, key: Key | None) -> tuple[str, ...]:
    if plan.inline is None:
        return ()
    owner = key.owner if key else None
    rules = plan.inline.rules.rules
    return tuple(rule.spec.name for rule in rules if rule.for_model(model) and rule.for_owner(owner))


def _limits(plan: Plan, key: Key | None, found: Route | None) -> Iterator[str]:
    """The limits that count a request, wherever they are named."""
    yield from key.limits if key else ()
    owner = key.owner if key else Owner("")
    for use in [limit.use for limit in plan.limits] + [each.use for each in plan.counted]:
        marked = {mark.partition("/")[0].removesuffix("*") for mark, _ in found.marks} if found else set()
        named = {Place.TEAMS: owner.team in use.owners, Place.ORGANIZATIONS: owner.organization in use.owners}
        if not use.budget and (use.id in marked or use.place is Place.GATEWAY or named.get(use.place)):
            yield use.name
    for account in plan.accounts:
        if account.budget.startswith(LIMIT):
            theirs = getattr(owner, account.owner_kind) if account.owner_kind else ""
            if theirs == account.owner:
                yield account.budget.removeprefix(LIMIT)


def match(plan: Plan, model: str) -> Route | None:
    """The route for a model: the exact name, else the longest prefix."""
    exact = next((route for route in plan.routes if route.prefix is None and route.name == model), None)
    wild = (route for route in plan.routes if route.prefix is not None and model.startswith(route.prefix))
    return exact or max(wild, key=lambda route: len(route.prefix or ""), default=None)


def allowed(key: Key, model: str) -> bool:
    if key.models is None:
        return True
    return any(model.startswith(name[:-1]) if name.endswith("*") else name == model for name in key.models)


def _groups(route: Route, model: str) -> tuple[tuple[tuple[str, str, int], ...], ...]:
    def upstream_model(own: str | None) -> str:
        return own or route.upstream_model or model

    return tuple(tuple((t.provider, upstream_model(t.model), t.weight) for t in group) for group in route.groups)

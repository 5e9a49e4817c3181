"""plan and listings -> what is known of each model: of every target, and what clients can rely on. Pure.

Made of one page of steps: facts of a target by layer, merged; targets together; what the policy says; its rules.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from controlplane.metadata import about, apis, facts, rules
from controlplane.metadata.catalog import Catalogs
from controlplane.metadata.facts import NOTHING, Fact, Facts, Told, merge
from controlplane.metadata.rely import rely, within
from controlplane.plan.dialects import Surface, translates
from controlplane.plan.ir import Plan, Route, Upstream
from extproc.stages.parameters import Kind

_TELLING = (facts.INPUTS, facts.OUTPUTS, facts.CAPABILITIES)
# Provider -> model, as the provider calls it -> what its listing, or the service that the gateway runs, says.
Listed: TypeAlias = Mapping[str, Mapping[str, Told]]


@dataclass(frozen=True, slots=True)
class Choice:
    """A target of a model: its provider, what that is asked for, the number of its group."""

    provider: str
    model: str
    group: int
    weight: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a model's metadata is made of. Equal recipes make the same, and are cheap to compare.

    What a model is called is not in it: many have the same.
    """

    providers: tuple[str, ...]  # of each target
    told: tuple[tuple[Told, ...], ...]  # of each target
    policy: tuple[Told, ...]
    chats: tuple[Told, ...]  # rules for chats
    embeds: tuple[Told, ...]  # rules for embeddings
    unseen: bool = False  # a target is a local model that its service has not described yet


@dataclass(frozen=True, slots=True)
class Metadata:
    """`facts` hold for all targets, whose own are `targets`."""

    providers: tuple[str, ...]
    facts: Facts
    targets: tuple[Facts, ...]


def choices(route: Route, model: str) -> tuple[Choice, ...]:
    """The targets of a model that a route serves; `model` is its name, or one that the route's pattern takes."""
    return tuple(
        Choice(target.provider, target.model or route.upstream_model or model, group, target.weight)
        for group, targets in enumerate(route.groups, 1)
        for target in targets
    )


def recipe(plan: Plan, route: Route, model: str, catalogs: Catalogs, listed: Listed) -> Recipe:
    """Of a model that a route serves, as for `choices`."""
    found = choices(route, model)
    said = plan.about.get(route.name)
    own = plan.inline.rules if plan.inline is not None else None
    return Recipe(
        tuple(choice.provider for choice in found),
        tuple(_told(plan.upstreams[choice.provider], choice.model, catalogs, listed) for choice in found),
        () if said is None else (about.told(said),),
        rules.told(own, model, Surface.CHAT),
        rules.told(own, model, Surface.EMBEDDINGS),
        any(_unseen(plan.upstreams[choice.provider], choice.model, listed) for choice in found),
    )


def _unseen(upstream: Upstream, model: str, listed: Listed) -> bool:
    return upstream.kind == "onnx" and not listed.get(upstream.name, {}).get(model, NOTHING).facts


def _told(upstream: Upstream, model: str, catalogs: Catalogs, listed: Listed) -> tuple[Told, ...]:
    """What is told of a target; the parameters that its API lacks, of chats and of embeddings, come last."""
    lost = (_lost(upstream, Surface.CHAT), _lost(upstream, Surface.EMBEDDINGS))
    known = catalogs.told(upstream.kind, upstream.host, upstream.name, model)
    return (*known, listed.get(upstream.name, {}).get(model, NOTHING), *lost)


def _lost(upstream: Upstream, surface: Surface) -> Told:
    if upstream.translation is None or not translates(upstream.kind, surface):
        return NOTHING
    return apis.untranslated(upstream.translation, embeddings=surface is Surface.EMBEDDINGS)


def make(of: Recipe) -> Metadata:
    """The metadata of a model."""
    surface = _surface(of)
    targets = tuple(_target(told, surface) for told in of.told)
    known = merge(rely(targets).values(), *(told.facts for told in of.policy))
    ruled = {Surface.CHAT: of.chats, Surface.EMBEDDINGS: of.embeds}.get(surface, ())
    return Metadata(of.providers, rules.held(_capped(known), ruled), targets)


def _surface(of: Recipe) -> Surface:
    """What its requests are, as far as is known: chats, unless it is said to embed, or to take or give no text.

    Most local models are not for chats, so of those nothing is taken for granted.
    """
    layers = [merge(*(told.facts for told in (*target, *of.policy))) for target in of.told]
    said = {name: [found[name].value for found in layers if name in found] for name in _TELLING}
    if any("embeddings" in value for value in said[facts.CAPABILITIES]):
        return Surface.EMBEDDINGS
    mute = (said[name] and not any("text" in value for value in said[name]) for name in (facts.INPUTS, facts.OUTPUTS))
    return Surface.OTHER if of.unseen or any(mute) else Surface.CHAT


def _target(told: tuple[Told, ...], surface: Surface) -> Facts:
    *known, chats, embeddings = told
    apart = {Surface.CHAT: (apis.OF_CHATS, chats), Surface.EMBEDDINGS: (apis.OF_EMBEDDINGS, embeddings)}
    api, lost = apart.get(surface, (apis.OF_OTHERS, NOTHING))
    return _capped(merge(*(each.facts for each in (api, *known, lost))))


def _capped(known: Facts) -> dict[str, Fact]:
    """The caps of the output go up to what the model gives at most."""
    found = dict(known)
    most = found.get(facts.OUTPUT)
    for name, fact in facts.parameters(known).items() if most else ():
        if most and name in apis.CAPS and fact.value.kind is Kind.MUTABLE:
            value = within(fact.value, None, most.value)
            if value != fact.value:
                found[fact.name] = fact._replace(value=value, source=most.source)
    return found

"""Rules -> the service's settings, and for each kind of request the rules it goes through. Pure.

What Envoy can tell by a lookup (model, key, team, path, stream) is decided there, so that a request which no rule
concerns never meets the service. Headers and what a body holds are the service's to see.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import NamedTuple, TypeAlias

from controlplane.plan import counting
from controlplane.policy import language
from controlplane.policy.check_rules import chosen, name_of
from controlplane.policy.endpoints import PATHS, paths_of
from controlplane.policy.rules import Rule as Written
from controlplane.policy.stages import built, stages
from controlplane.policy.tokenizers import TokenizerText
from extproc.server import settings
from extproc.server.chain import Rule as Ready
from extproc.server.chain import needs_of
from extproc.server.settings import RuleSpec, Settings, When
from extproc.stages.book import Counting
from extproc.stages.choice import Modality
from extproc.stages.protocol import Access
from extproc.usage.identity import Owner

# More lookups than these, models times keys, are left to the service: the route table would outgrow what it saves.
MOST_LOOKUPS = 20_000

Places: TypeAlias = tuple[int, ...]  # rules by their places, in the policy's order


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule with what Envoy decides: None stands for all. `paths` are of the endpoints."""

    spec: RuleSpec
    ready: Ready
    models: tuple[str, ...] | None
    keys: frozenset[str] | None
    teams: frozenset[str] | None
    paths: frozenset[str] | None
    stream: bool | None

    def for_model(self, pattern: str) -> bool:
        """Whether it is for every model of a pattern (a name, or a beginning with `*`)."""
        return self.models is None or any(_within(pattern, model) for model in self.models)

    def for_owner(self, owner: Owner | None) -> bool:
        """None: nobody knows whose request it is."""
        if self.keys is None and self.teams is None:
            return True
        if owner is None:
            return False
        return (self.keys is None or owner.key in self.keys) and (self.teams is None or owner.team in self.teams)


@dataclass(frozen=True, slots=True)
class Leaf:
    """What requests of one kind go through, and what Envoy shows the service of them. All False: nothing.

    `chooses`: another model, maybe, so that it shows the request's headers too. `streamed`: a stream is asked for; then
    `answer` shows it as it comes, else it is held until it is whole. `asks`, `tells`: headers that rules may set
    towards provider and client.
    """

    rules: Places
    request: bool
    answer: bool
    streamed: bool
    closed: bool
    chooses: bool
    asks: tuple[str, ...]
    tells: tuple[str, ...]

    @property
    def messages(self) -> int:
        """How many an exchange has; one more for each part of a stream."""
        return self.request + self.answer + self.chooses

    @property
    def chain(self) -> str:
        """One that has no rules counts tokens."""
        return settings.chain_name(self.rules) if self.rules else settings.COUNTS


@dataclass(frozen=True, slots=True)
class Fork:
    """Where kinds of requests part: `by` the client's identity, the path, or whether a stream is asked for ("1")."""

    by: str
    cases: tuple[tuple[str, "Branch"], ...]
    others: "Branch"


Branch: TypeAlias = Leaf | Fork


@dataclass(frozen=True)
class Rules:
    """The rules of a policy. `identities`: whose requests they tell apart, by lookups if `by_client`."""

    rules: tuple[Rule, ...]
    identities: tuple[tuple[str, Owner], ...]
    by_client: bool

    def branch(self, pattern: str) -> Branch:
        """What requests for a model go through, or for the models of a pattern."""
        return self._branch(tuple(place for place, rule in enumerate(self.rules) if rule.for_model(pattern)))

    @cached_property
    def patterns(self) -> tuple[str, ...]:
        """Models and patterns that rules name."""
        return tuple(dict.fromkeys(model for rule in self.rules for model in rule.models or ()))

    @cached_property
    def headers(self) -> tuple[str, ...]:
        """Request headers that the service has to be told."""
        return tuple(sorted({name for rule in self.rules for name in needs_of((rule.ready,)).headers}))

    @cached_property
    def _branch(self) -> Callable[[Places], Branch]:
        return lru_cache(maxsize=None)(self._of_client)

    def _of_client(self, places: Places) -> Branch:
        if not self.by_client:
            return self._of_path(places)
        others = self._of_path(self._of_owner(places, None))
        cases = {identity: self._of_path(self._of_owner(places, owner)) for identity, owner in self.identities}
        return _fork("client", cases, others)

    def _of_owner(self, places: Places, owner: Owner | None) -> Places:
        return tuple(place for place in places if self.rules[place].for_owner(owner))

    def _of_path(self, places: Places) -> Branch:
        named = {path for place in places for path in self.rules[place].paths or ()}
        cases = {path: self._of_stream(self._on_path(places, path)) for path in PATHS if path in named}
        return _fork("path", cases, self._of_stream(self._on_path(places, "")))

    def _on_path(self, places: Places, path: str) -> Places:
        rules = self.rules
        return tuple(place for place in places if rules[place].paths is None or path in (rules[place].paths or ()))

    def _of_stream(self, places: Places) -> Branch:
        whole, streamed = (
            self._leaf(tuple(place for place in places if self.rules[place].stream in (None, stream)), streamed=stream)
            for stream in (False, True)
        )
        return _fork("stream", {"1": streamed}, whole)

    def _leaf(self, places: Places, *, streamed: bool) -> Leaf:
        rules = [self.rules[place] for place in places]
        needs = needs_of(tuple(rule.ready for rule in rules))
        parts = [part for rule in rules for part in rule.ready.stages]
        answer = max(needs.answer, needs.stream) if streamed else needs.answer
        request, answers = needs.request > Access.NONE, answer > Access.NONE
        if not (request or answers):
            return NOTHING
        return Leaf(
            places, request, answers, streamed and answers, needs.closed,
            chooses=any(part.chooses for part in parts),
            asks=tuple(sorted({name for part in parts for name in part.asks})),
            tells=tuple(sorted({name for part in parts for name in part.tells})),
        )  # fmt: skip


NOTHING = Leaf((), False, False, False, False, False, (), ())
# What requests go through that ask for a count, and that the service answers itself.
COUNT = Leaf((), request=True, answer=False, streamed=False, closed=True, chooses=False, asks=(), tells=())


def rules(policy: language.Policy, identities: Iterable[tuple[str, Owner]]) -> Rules:
    """The rules of a checked policy. `identities` are those of its keys, issued ones included."""
    made = tuple(_rule(rule, place) for place, rule in enumerate(policy.rules))
    concerned = tuple(
        (identity, owner)
        for identity, owner in identities
        if any((rule.keys or rule.teams) and rule.for_owner(owner) for rule in made)
    )
    lookups = (len(policy.models) + sum(len(rule.models or ()) for rule in made)) * len(concerned)
    # Who outside issuers vouch for is known only once they come.
    return Rules(made, concerned, by_client=lookups <= MOST_LOOKUPS and not policy.issuers)


@dataclass(frozen=True, slots=True)
class Place:
    """Requests for a model, or for the models of a pattern, that no longer pattern names. `route`: who serves them."""

    pattern: str
    route: str
    branch: Branch


class Shown(NamedTuple):
    """Whether Envoy shows the service requests, and whether answers."""

    request: bool
    answer: bool


@dataclass(frozen=True, slots=True)
class Inline:
    """What requests go through inline. `document`: the service's settings; `version`: what requests call them.

    `counts`: clients may ask how many tokens a request has. `texts`: of tokenizers, by what the document calls them.
    `hooks`: what it calls the file that says where webhooks are.
    """

    rules: Rules
    places: tuple[Place, ...]
    document: bytes
    version: str
    workers: int
    timeout_ms: int
    counts: bool = False
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)
    hooks: str = ""

    @property
    def ruled(self) -> bool:
        """Whether there are rules, so that requests for models meet the filter."""
        return bool(self.rules.rules)

    def shown(self, path: str | None = None) -> Shown:
        """What of some request to an endpoint is shown, whatever its model and client; None: to any of them."""
        branches = {id(place.branch): place.branch for place in self.places}
        found = [leaf for branch in branches.values() for leaf in leaves(branch, path)]
        return Shown(any(leaf.request for leaf in found), any(leaf.answer for leaf in found))

    @property
    def told_after_choice(self) -> tuple[str, ...]:
        """Headers towards the client that rules may set on the way to another route than the one they leave from."""
        found = (leaf for place in self.places for leaf in leaves(place.branch) if leaf.chooses)
        return tuple(sorted({name for leaf in found for name in leaf.tells}))


def inline(
    policy: language.Policy,
    identities: Iterable[tuple[str, Owner]],
    names: Mapping[str, str | None],
    *,
    counts: bool = False,
    texts: Iterable[TokenizerText] = (),
    hooks: str = "",
) -> Inline | None:
    """The rules of a checked policy, placed; None where there is nothing to do. `identities` are those of all keys.

    `names`: what the edge calls a model towards its provider; None where that is its own name, or for attempts to say.
    `counts`: clients may ask for counts. `texts`: of the policy's tokenizers. `hooks`: the hash of what webhooks are.
    """
    if not policy.rules and not counts:
        return None
    made = rules(policy, identities)
    patterns = {name: name for name in policy.models}
    for pattern in made.patterns:
        route = _route_of(pattern, policy.models)
        if route is not None:
            patterns.setdefault(pattern, route)
    places = tuple(Place(pattern, route, made.branch(pattern)) for pattern, route in patterns.items())
    specs = tuple(rule.spec for rule in made.rules)
    called = {model: name for model in _chosen(policy.rules) if (name := names.get(model)) is not None}
    used = tuple(texts) if counts or any(map(counting.counts, specs)) else None
    how = Counting() if used is None else counting.counting(policy, used)
    document = settings.dump(Settings(settings.FORMAT, specs, called, how, hooks))
    return Inline(
        made,
        places,
        document,
        settings.version(document),
        policy.gateway.rule_workers,
        policy.gateway.rule_timeout,
        counts,
        {text.digest: text.text for text in used or ()},
        hooks,
    )


def _chosen(written: Iterable[Written]) -> list[str]:
    return sorted({model for rule in written for action in rule.do for _, model in chosen(action)})


def _route_of(pattern: str, models: Iterable[str]) -> str | None:
    """The model of the policy that serves all of a pattern that it does not name itself."""
    return max((name for name in models if name.endswith("*") and _within(pattern, name)), key=len, default=None)


def leaves(branch: Branch, path: str | None = None) -> Iterable[Leaf]:
    """The leaves of a branch; with a path, those that its requests come to."""
    if isinstance(branch, Leaf):
        return (branch,)
    cases = dict(branch.cases)
    if branch.by == "path" and path is not None:
        return leaves(cases.get(path, branch.others), path)
    parts = {id(case): case for case in (*cases.values(), branch.others)}  # most clients come to the same
    return (leaf for each in parts.values() for leaf in leaves(each, path))


def _fork(by: str, cases: Mapping[str, Branch], others: Branch) -> Branch:
    """Cases that are like the others are no cases."""
    kept = tuple((value, case) for value, case in cases.items() if case != others)
    return Fork(by, kept, others) if kept else others


def _rule(rule: Written, place: int) -> Rule:
    name, when = name_of(rule, place), rule.when
    specs = stages(rule)
    parts = tuple(built(spec, name) for spec in specs)
    closed = any(part.needs.closed for part in parts) if rule.on_error is None else rule.on_error == "deny"
    inner = When(
        keys=tuple(when.key or ()),
        teams=tuple(when.team or ()),
        headers={header: tuple(values) for header, values in when.header.items()},
        modality=tuple(Modality(word) for word in when.modality or ()),
    )
    spec = RuleSpec(name, specs, inner, closed)
    return Rule(
        spec,
        Ready(name, parts, inner, closed),
        tuple(when.model) if when.model is not None else None,
        frozenset(when.key) if when.key is not None else None,
        frozenset(when.team) if when.team is not None else None,
        frozenset().union(*map(paths_of, when.path)) if when.path is not None else None,
        when.stream,
    )


def _within(inner: str, outer: str) -> bool:
    return inner.startswith(outer[:-1]) if outer.endswith("*") else inner == outer

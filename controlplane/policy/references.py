"""Names followed to what they name: models to providers and other models, keys to limits and models."""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from controlplane.policy import language
from controlplane.policy.accounts import Downgrade
from controlplane.policy.diagnostics import Diagnostic, Severity
from controlplane.policy.document import Document, Path
from controlplane.policy.language import Model, SimpleSpec, Target, TargetSpec, TrySpec
from controlplane.policy.limits import Place, check, check_named
from controlplane.policy.structure import nearest

Groups = tuple[tuple[Target, ...], ...]

# References expand in place, so that a few lines could otherwise make any number of targets.
MAX_TARGETS = 64
# More slips than these are something else, and every look for the nearest name costs a millisecond.
_MAX_SUGGESTIONS = 50


@dataclass(slots=True)
class Models:
    """Follows every model of a policy. Each is followed once, after those it refers to; a cycle is told once.

    `written` are the names of all models, those with errors included: what exists is not told to be absent. `closed`
    are the providers that have no other models than these.
    """

    document: Document
    providers: Mapping[str, Any]
    written: Mapping[str, Any]
    specs: Mapping[str, Any]
    closed: Mapping[str, Collection[str]] = field(default_factory=dict)
    diagnostics: list[Diagnostic] = field(default_factory=list)
    _done: dict[str, Model | None] = field(default_factory=dict)
    _looked: dict[str, str | None] = field(default_factory=dict)

    def resolve(self) -> dict[str, Model]:
        for name in self._order():
            self._done[name] = self._followed(name, self.specs[name])
        found = {name: self._done[name] for name in self.specs}
        return {name: model for name, model in found.items() if model is not None}

    def _order(self) -> Iterator[str]:
        """Every model after those it refers to, but for references that close a circle. Chains may be long."""
        finished: dict[str, bool] = {}
        for start in self.specs:
            trail, pending = ([], []) if start in finished else ([start], [self._references(start)])
            finished.setdefault(start, False)
            while trail:
                name = next(pending[-1], None)
                if name is None:
                    pending.pop()
                    finished[trail[-1]] = True
                    yield trail.pop()
                elif name not in finished:
                    finished[name] = False
                    trail.append(name)
                    pending.append(self._references(name))
                elif not finished[name]:
                    self._cycle(trail[trail.index(name) :])

    def _references(self, name: str) -> Iterator[str]:
        """The models that a model names."""
        spec = self.specs[name]
        groups = spec.try_ if isinstance(spec, TrySpec) else [spec]
        for group in groups:
            for choice in group if isinstance(group, list) else [group]:
                if isinstance(choice, str) and choice in self.specs and choice not in self.providers:
                    yield choice

    def _cycle(self, names: list[str]) -> None:
        around = [*names, names[0]]
        shown = " -> ".join(around if len(around) <= 10 else [*around[:8], "…", names[0]])
        message = f"models refer to each other in a circle: {shown}"
        self._add("cycle", message, ("models", names[0]), "a provider at its end")

    def _followed(self, name: str, spec: Any) -> Model | None:
        path: Path = ("models", name)
        if isinstance(spec, str):
            return self._named(spec, path)
        if isinstance(spec, SimpleSpec):
            if not self._asked(spec, path):
                return None
            self._clocks(spec.timeouts, path)
            groups: Groups = ((Target(spec.provider, spec.model),),)
            return Model(groups, tuple(spec.on), spec.timeouts, spec.retries, tuple(spec.limits), about=spec.about)
        if not isinstance(spec, TrySpec):
            raise TypeError(f"a model of form {type(spec).__name__}")
        self._clocks(spec.timeouts, path)
        parts = [self._groups(group, (*path, "try", n)) for n, group in enumerate(spec.try_)]
        if any(part is None for part in parts):
            return None
        groups = tuple(group for part in parts if part for group in part)
        if sum(map(len, groups)) > MAX_TARGETS:
            message = f"this comes to {sum(map(len, groups))} targets, every reference followed"
            self._add("too-many-targets", message, (*path, "try"), f"at most {MAX_TARGETS}")
            return None
        return Model(groups, tuple(spec.on), spec.timeouts, None, tuple(spec.limits), about=spec.about)

    def _named(self, reference: str, path: Path) -> Model | None:
        """What a plain name stands for: a provider, else another model."""
        if reference in self.providers:
            if not self._has(reference, str(path[1]), path):
                return None
            timeouts = language.Timeouts()
            return Model(((Target(reference, None),),), language.DEFAULT_ON, timeouts, None)
        if reference in self.written and not reference.endswith("*"):
            return self._fixed(self._done.get(reference), reference)
        if reference.endswith("*"):
            self._add(
                "wildcard-reference",
                f"`{reference}` is a pattern, not one model",
                path,
                "the name of a provider or model",
            )
            return None
        known = [*self.providers, *(name for name in self.written if not name.endswith("*"))]
        self._add(
            "unknown-name",
            f"there is no provider or model `{reference}`",
            path,
            "a provider or a model of this policy",
            self._nearest(reference, known),
        )
        return None

    def _fixed(self, model: Model | None, name: str) -> Model | None:
        """Another model's targets under a new name: where they pass the client's name on, they pass theirs on now."""
        if model is None:
            return None
        groups = tuple(tuple(Target(t.provider, t.model or name, t.weight) for t in group) for group in model.groups)
        alias_of = model.alias_of or name
        return Model(groups, model.on, model.timeouts, model.retries, model.limits, alias_of, model.about)

    def _groups(self, group: Any, path: Path) -> Groups | None:
        if isinstance(group, str):
            model = self._named(group, path)
            return model.groups if model else None
        if isinstance(group, TargetSpec):
            target = self._target(group, path)
            return ((target,),) if target else None
        targets = [self._member(choice, (*path, n)) for n, choice in enumerate(group)]
        return None if any(t is None for t in targets) else (tuple(t for t in targets if t),)

    def _member(self, choice: Any, path: Path) -> Target | None:
        """One choice of a weighted group: it must come down to a single target."""
        if isinstance(choice, TargetSpec):
            return self._target(choice, path)
        model = self._named(choice, path)
        if model is None:
            return None
        if len(model.groups) > 1 or len(model.groups[0]) > 1:
            message = f"`{choice}` has several targets, and a weighted group takes single ones"
            self._add("nested-group", message, path, "a provider, or a model with one target")
            return None
        return model.groups[0][0]

    def _target(self, spec: TargetSpec, path: Path) -> Target | None:
        return Target(spec.provider, spec.model, spec.weight) if self._asked(spec, path) else None

    def _asked(self, spec: SimpleSpec | TargetSpec, path: Path) -> bool:
        """Whether there is the provider that is named, and the model that it is asked for."""
        if not self._provider(spec.provider, (*path, "provider")):
            return False
        place = path if spec.model is None else (*path, "model")
        return self._has(spec.provider, spec.model or str(path[1]), place)

    def _has(self, provider: str, model: str, path: Path) -> bool:
        """Whether a provider has a model, or one that a wildcard takes; only of some all models are known."""
        known = self.closed.get(provider)
        if known is None or model in known:
            return True
        if model.endswith("*"):
            if any(name.startswith(model[:-1]) for name in known):
                return True
            message = f"no model of the provider `{provider}` begins with `{model[:-1]}`"
        else:
            message = f"the provider `{provider}` has no model `{model}`"
        expected = f"one of its models: {', '.join(sorted(known)[:10])}" if known else None
        self._add("unknown-name", message, path, expected, nearest(model, tuple(known)))
        return False

    def _provider(self, name: str, path: Path) -> bool:
        if name in self.providers:
            return True
        message, near = f"there is no provider `{name}`", self._nearest(name, self.providers)
        self._add("unknown-name", message, path, "a provider of this policy", near)
        return False

    def _clocks(self, timeouts: language.Timeouts, path: Path) -> None:
        if timeouts.idle < timeouts.first_byte:
            message = "`idle` is shorter than `first_byte`, and its clock runs while the first byte is awaited"
            self._add("idle-too-short", message, (*path, "timeouts"), "idle of at least first_byte")

    def _nearest(self, name: str, names: Iterable[str]) -> str | None:
        return _suggestion(self._looked, name, names)

    def _add(self, code: str, message: str, path: Path, expected: str | None, suggestion: str | None = None) -> None:
        place = self.document.place(path)
        self.diagnostics.append(Diagnostic(Severity.ERROR, code, message, place, expected, suggestion))


def _suggestion(looked: dict[str, str | None], name: str, names: Iterable[str]) -> str | None:
    if name not in looked and len(looked) < _MAX_SUGGESTIONS:
        looked[name] = nearest(name, tuple(names))
    return looked.get(name)


def check_keys(document: Document, keys: Mapping[str, language.Key], models: Mapping[str, Any]) -> list[Diagnostic]:
    """Patterns that match nothing are worth a warning."""
    found: list[Diagnostic] = []
    matches, near_models = Matches(models), {}  # type: Matches, dict[str, str | None]

    def add(severity: Severity, code: str, message: str, path: Path, expected: str, near: str | None = None) -> None:
        found.append(Diagnostic(severity, code, message, document.place(path), expected, near))

    for name, key in keys.items():
        for number, pattern in enumerate(key.models or ()):
            if not matches(pattern):
                path = ("keys", name, "models", number)
                message, near = (
                    f"`{pattern}` matches no model of this policy",
                    _suggestion(near_models, pattern, models),
                )
                add(Severity.WARNING, "matches-nothing", message, path, "a model of this policy", near)
    return found


def check_accounts(
    document: Document, gateway: language.Gateway, sections: Mapping[str, Mapping[str, Any]], written: Mapping[str, Any]
) -> Iterator[Diagnostic]:
    """Teams, organizations, budgets and models that owners and budgets name must exist; budgets have one amount.

    `written`: section -> what it holds, right or wrong.
    """

    def error(code: str, message: str, path: Path, expected: str, near: str | None = None) -> Diagnostic:
        return Diagnostic(Severity.ERROR, code, message, document.place(path), expected, near)

    def named(kind: str, section: str, name: str, path: Path) -> Iterator[Diagnostic]:
        if name not in written[section]:
            near = nearest(name, tuple(written[section]))
            expected = f"{'an' if kind == 'organization' else 'a'} {kind} of this policy"
            yield error("unknown-name", f"there is no {kind} `{name}`", path, expected, near)

    owners: list[tuple[Path, Any]] = [(("gateway",), gateway)]
    owners += [
        ((section, name), owner)
        for section in ("keys", "teams", "organizations")
        for name, owner in sections.get(section, {}).items()
    ]
    for path, owner in owners:
        for number, budget in enumerate(owner.budget):
            yield from named("budget", "budgets", budget, (*path, "budget", number))
            if budget in owner.budget[:number]:
                yield error("duplicate-item", f"`{budget}` stands here twice", (*path, "budget", number), "each once")
    users = [(("gateway", "admin", "users", name), user) for name, user in gateway.admin.users.items()]
    members = [(path, "team", owner.team) for path, owner in owners if path[0] == "keys"]
    members += [(path, "organization", owner.organization) for path, owner in owners if path[0] == "teams"]
    members += [(path, kind, getattr(user, kind)) for path, user in users for kind in ("team", "organization")]
    for path, kind, name in members:
        if name is not None:
            yield from named(kind, f"{kind}s", name, (*path, kind))
    for name, budget in sections.get("budgets", {}).items():
        if sum(amount is not None for amount in (budget.usd, budget.tokens, budget.requests)) != 1:
            message = "a budget has exactly one amount"
            yield error("one-amount", message, ("budgets", name), "one of `usd`, `tokens` and `requests`")
        if isinstance(budget.on_spent, Downgrade):
            model, path = budget.on_spent.downgrade, ("budgets", name, "on_spent", "downgrade")
            yield from named("model", "models", model, path)
        for number, webhook in enumerate(budget.webhooks):
            yield from named("webhook", "webhooks", webhook, ("budgets", name, "webhooks", number))


def check_limits(
    document: Document, gateway: language.Gateway, sections: Mapping[str, Mapping[str, Any]], written: Mapping[str, Any]
) -> Iterator[Diagnostic]:
    """Limits must limit something that can be limited, where they are named. `written`: as for `check_accounts`."""
    looked: dict[str, str | None] = {}

    def error(
        code: str, message: str, path: Path, expected: str, near: str | None = None, hint: str | None = None
    ) -> Diagnostic:
        return Diagnostic(Severity.ERROR, code, message, document.place(path), expected, near, hint)

    right = sections.get("limits", {})
    named: list[tuple[Path, Sequence[str]]] = [(("gateway",), gateway.limits)]
    named += [
        ((section, name), of.limits)
        for section in Place
        for name, of in sections.get(section, {}).items()
        if not isinstance(of, str)  # a model that is a plain name
    ]
    budgets = sections.get("budgets", {})
    yield from check(right, budgets, gateway.redis is not None, error)
    yield from check_named(named, written["limits"], right, error, lambda name: _suggestion(looked, name, right))


def check_tokenizers(
    document: Document, tokenizers: Mapping[str, language.Tokenizer], models: Mapping[str, Model]
) -> Iterator[Diagnostic]:
    """A model has one tokenizer at most; what none of the providers is asked for needs none."""
    called = {target.model or name for name, model in models.items() for group in model.groups for target in group}
    matches, owners = Matches(called), {}  # type: Matches, dict[str, str]
    for name, tokenizer in tokenizers.items():
        for number, pattern in enumerate(tokenizer.models):
            place = document.place(("tokenizers", name, "models", number))
            other = owners.setdefault(pattern, name)
            if other != name or pattern in tokenizer.models[:number]:
                message = f"`{pattern}` has the tokenizer `{other}` already"
                yield Diagnostic(Severity.ERROR, "two-tokenizers", message, place, "each model once")
            elif not matches(pattern):
                message, near = f"no provider is asked for `{pattern}`", nearest(pattern, tuple(called))
                expected = "a model as its provider calls it"
                yield Diagnostic(Severity.WARNING, "matches-nothing", message, place, expected, near)


class Matches:
    """Whether a key's pattern and a model's name or pattern have names in common."""

    def __init__(self, models: Iterable[str]) -> None:
        self._sorted = sorted(models)
        self._known = dict.fromkeys(self._sorted, True)
        self._prefixes = frozenset(name[:-1] for name in self._sorted if name.endswith("*"))

    def __call__(self, pattern: str) -> bool:
        if pattern not in self._known:
            self._known[pattern] = self._look(pattern)
        return self._known[pattern]

    def _look(self, pattern: str) -> bool:
        start = pattern.removesuffix("*")
        after = bisect_left(self._sorted, start)
        if pattern.endswith("*") and after < len(self._sorted) and self._sorted[after].startswith(start):
            return True
        return any(start[:length] in self._prefixes for length in range(len(start) + 1))

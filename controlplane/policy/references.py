"""Names followed to what they name: models to providers and other models, keys to limits and models."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from controlplane.policy import language
from controlplane.policy.diagnostics import Diagnostic, Severity
from controlplane.policy.document import Document, Path
from controlplane.policy.language import Model, SimpleSpec, Target, TargetSpec, TrySpec
from controlplane.policy.structure import nearest

Groups = tuple[tuple[Target, ...], ...]


@dataclass(slots=True)
class Models:
    """Follows every model of a policy. Each is followed once; a cycle is told once."""

    document: Document
    providers: Mapping[str, Any]
    specs: Mapping[str, Any]
    diagnostics: list[Diagnostic] = field(default_factory=list)
    _done: dict[str, Model | None] = field(default_factory=dict)

    def resolve(self) -> dict[str, Model]:
        found = {name: self._model(name, ()) for name in self.specs}
        return {name: model for name, model in found.items() if model is not None}

    def _model(self, name: str, trail: tuple[str, ...]) -> Model | None:
        if name in self._done:
            return self._done[name]
        if name in trail:
            cycle = " -> ".join((*trail[trail.index(name) :], name))
            self._add(
                "cycle", f"models refer to each other in a circle: {cycle}", ("models", name), "a provider at its end"
            )
            return None
        self._done[name] = model = self._followed(name, self.specs[name], (*trail, name))
        return model

    def _followed(self, name: str, spec: Any, trail: tuple[str, ...]) -> Model | None:
        path: Path = ("models", name)
        if isinstance(spec, str):
            return self._named(spec, path, trail)
        if isinstance(spec, SimpleSpec):
            if not self._provider(spec.provider, (*path, "provider")):
                return None
            self._clocks(spec.timeouts, path)
            groups: Groups = ((Target(spec.provider, spec.model),),)
            return Model(groups, tuple(spec.on), spec.timeouts, spec.retries)
        if not isinstance(spec, TrySpec):
            raise TypeError(f"a model of form {type(spec).__name__}")
        self._clocks(spec.timeouts, path)
        parts = [self._groups(group, (*path, "try", n), trail) for n, group in enumerate(spec.try_)]
        if any(part is None for part in parts):
            return None
        groups = tuple(group for part in parts if part for group in part)
        return Model(groups, tuple(spec.on), spec.timeouts, None)

    def _named(self, reference: str, path: Path, trail: tuple[str, ...]) -> Model | None:
        """What a plain name stands for: a provider, else another model."""
        if reference in self.providers:
            timeouts = language.Timeouts()
            return Model(((Target(reference, None),),), language.DEFAULT_ON, timeouts, None)
        if reference in self.specs and not reference.endswith("*"):
            return self._fixed(self._model(reference, trail), reference)
        if reference.endswith("*"):
            self._add(
                "wildcard-reference",
                f"`{reference}` is a pattern, not one model",
                path,
                "the name of a provider or model",
            )
            return None
        known = [*self.providers, *(name for name in self.specs if not name.endswith("*"))]
        self._add(
            "unknown-name",
            f"there is no provider or model `{reference}`",
            path,
            "a provider or a model of this policy",
            nearest(reference, known),
        )
        return None

    def _fixed(self, model: Model | None, name: str) -> Model | None:
        """Another model's targets under a new name: where they pass the client's name on, they pass theirs on now."""
        if model is None:
            return None
        groups = tuple(tuple(Target(t.provider, t.model or name, t.weight) for t in group) for group in model.groups)
        return Model(groups, model.on, model.timeouts, model.retries)

    def _groups(self, group: Any, path: Path, trail: tuple[str, ...]) -> Groups | None:
        if isinstance(group, str):
            model = self._named(group, path, trail)
            return model.groups if model else None
        if isinstance(group, TargetSpec):
            target = self._target(group, path)
            return ((target,),) if target else None
        targets = [self._member(choice, (*path, n), trail) for n, choice in enumerate(group)]
        return None if any(t is None for t in targets) else (tuple(t for t in targets if t),)

    def _member(self, choice: Any, path: Path, trail: tuple[str, ...]) -> Target | None:
        """One choice of a weighted group: it must come down to a single target."""
        if isinstance(choice, TargetSpec):
            return self._target(choice, path)
        model = self._named(choice, path, trail)
        if model is None:
            return None
        if len(model.groups) > 1 or len(model.groups[0]) > 1:
            message = f"`{choice}` has several targets, and a weighted group takes single ones"
            self._add("nested-group", message, path, "a provider, or a model with one target")
            return None
        return model.groups[0][0]

    def _target(self, spec: TargetSpec, path: Path) -> Target | None:
        known = self._provider(spec.provider, (*path, "provider"))
        return Target(spec.provider, spec.model, spec.weight) if known else None

    def _provider(self, name: str, path: Path) -> bool:
        if name in self.providers:
            return True
        known = tuple(self.providers)
        self._add(
            "unknown-name", f"there is no provider `{name}`", path, "a provider of this policy", nearest(name, known)
        )
        return False

    def _clocks(self, timeouts: language.Timeouts, path: Path) -> None:
        if timeouts.idle < timeouts.first_byte:
            message = "`idle` is shorter than `first_byte`, and its clock runs while the first byte is awaited"
            self._add("idle-too-short", message, (*path, "timeouts"), "idle of at least first_byte")

    def _add(self, code: str, message: str, path: Path, expected: str, suggestion: str | None = None) -> None:
        place = self.document.place(path)
        self.diagnostics.append(Diagnostic(Severity.ERROR, code, message, place, expected, suggestion))


def check_keys(
    document: Document, keys: Mapping[str, language.Key], models: Mapping[str, Any], limits: Mapping[str, Any]
) -> list[Diagnostic]:
    """Limits that keys name must exist; patterns that match nothing are worth a warning."""
    found: list[Diagnostic] = []
    covered: dict[str, bool] = {}
    for name, key in keys.items():
        for number, limit in enumerate(key.limits):
            if limit not in limits:
                place = document.place(("keys", name, "limits", number))
                near = nearest(limit, tuple(limits))
                message = f"there is no limit `{limit}`"
                found.append(Diagnostic(Severity.ERROR, "unknown-name", message, place, "a limit of this policy", near))
        for number, pattern in enumerate(key.models or ()):
            if pattern not in covered:
                covered[pattern] = _matches(pattern, models)
            if not covered[pattern]:
                place = document.place(("keys", name, "models", number))
                message = f"`{pattern}` matches no model of this policy"
                near = nearest(pattern, tuple(models))
                found.append(
                    Diagnostic(Severity.WARNING, "matches-nothing", message, place, "a model of this policy", near)
                )
    return found


def _matches(pattern: str, models: Mapping[str, Any]) -> bool:
    if pattern in models:
        return True
    prefix = pattern.removesuffix("*")
    wild = pattern.endswith("*")
    return any(
        (wild and name.startswith(prefix))
        or (name.endswith("*") and (pattern if not wild else prefix).startswith(name[:-1]))
        for name in models
    )

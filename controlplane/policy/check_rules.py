"""What rules name, and whether their stages can be built."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from controlplane.policy.diagnostics import Diagnostic, Severity
from controlplane.policy.document import Document, Path
from controlplane.policy.endpoints import PATHS, paths_of
from controlplane.policy.rules import Action, Rule
from controlplane.policy.stages import built, stages
from controlplane.policy.structure import nearest
from extproc.stages.tokenizers import ENCODINGS


def check_rules(
    document: Document, rules: Mapping[int, Rule], names: Mapping[str, Mapping[str, Any]]
) -> Iterator[Diagnostic]:
    """`rules` by their places in the list, those with errors left out; `names` of each section."""
    seen: dict[str, int] = {}
    for place, rule in rules.items():
        path: Path = ("rules", place)
        name = name_of(rule, place)
        if name in seen:
            message = f"the rules {seen[name] + 1} and {place + 1} are both called `{name}`"
            yield _error(document, "duplicate-item", message, (*path, "name"), "a name of its own")
        seen.setdefault(name, place)
        yield from _named(document, rule, path, names)
        single = True
        for number, action in enumerate(rule.do):
            done = [each for each, _ in action.done()]
            if len(done) != 1:
                single = False
                message = f"an entry of `do` is one action, this is {len(done)}"
                yield _error(
                    document, "one-action", message, (*path, "do", number), "a list: - {set: ...}, - {redact: ...}"
                )
            for at, model in chosen(action):
                if not any(_within(model, known) for known in names["models"]):
                    where = (*path, "do", number, "choose", "rules", at, "model")
                    message, models = f"there is no model `{model}`", tuple(names["models"])
                    yield _error(document, "unknown-name", message, where, "a model", nearest(model, models))
            yield from _tokenizers(document, action, (*path, "do", number), tuple(names["tokenizers"]))
        if single:
            yield from _buildable(document, rule, name, path)


def name_of(rule: Rule, place: int) -> str:
    """What logs and errors call a rule."""
    return rule.name or f"rule-{place + 1}"


def chosen(action: Action) -> Iterator[tuple[int, str]]:
    """The models that an action may choose, each with the place of its rule."""
    for name, told in action.done():
        if name == "choose":
            yield from ((at, rule["model"]) for at, rule in enumerate(told["rules"]))


def _tokenizers(document: Document, action: Action, path: Path, known: Sequence[str]) -> Iterator[Diagnostic]:
    """Tokenizers that an action names are OpenAI's encodings, or files of the policy."""
    for name, told in action.done():
        models = told.get("models", {}) if name == "tokens" else {}
        for model, facts in models.items():
            named = facts.get("tokenizer")
            if named is not None and named not in (*known, *ENCODINGS):
                where, expected = (*path, "tokens", "models", model, "tokenizer"), ", ".join((*known, *ENCODINGS))
                near = nearest(named, (*known, *ENCODINGS))
                yield _error(document, "unknown-name", f"there is no tokenizer `{named}`", where, expected, near)


def _named(document: Document, rule: Rule, path: Path, names: Mapping[str, Mapping[str, Any]]) -> Iterator[Diagnostic]:
    when, at = rule.when, (*path, "when")
    for number, team in enumerate(when.team or ()):
        if team not in names["teams"]:
            message = f"there is no team `{team}`"
            suggestion = nearest(team, tuple(names["teams"]))
            yield _error(document, "unknown-name", message, (*at, "team", number), "a team of this policy", suggestion)
    for number, key in enumerate(when.key or ()):
        if key not in names["keys"]:
            message = f"the policy has no key `{key}`: the rule is for an issued key of this name, if there is one"
            yield _warning(document, message, (*at, "key", number), nearest(key, tuple(names["keys"])))
    for number, pattern in enumerate(when.model or ()):
        if not _meets(pattern, names["models"]):
            yield _warning(
                document,
                f"`{pattern}` matches no model",
                (*at, "model", number),
                nearest(pattern, tuple(names["models"])),
            )
    for number, pattern in enumerate(when.path or ()):
        if not paths_of(pattern):
            message = f"`{pattern}` is no endpoint with a model"
            yield _error(
                document, "unknown-value", message, (*at, "path", number), ", ".join(PATHS), nearest(pattern, PATHS)
            )


def _buildable(document: Document, rule: Rule, name: str, path: Path) -> Iterator[Diagnostic]:
    for spec in stages(rule):
        try:
            built(spec, name)
        except ValueError as error:
            yield _error(document, "invalid-rule", str(error), (*path, "do"), "actions that fit together")


def _meets(pattern: str, models: Mapping[str, Any]) -> bool:
    """Whether a pattern and a model's name or pattern have names in common."""
    return any(_within(pattern, model) or _within(model, pattern) for model in models)


def _within(inner: str, outer: str) -> bool:
    return inner.startswith(outer[:-1]) if outer.endswith("*") else inner == outer


def _error(
    document: Document, code: str, message: str, path: Sequence[str | int], expected: str, suggestion: str | None = None
) -> Diagnostic:
    return Diagnostic(Severity.ERROR, code, message, document.place(tuple(path)), expected, suggestion)


def _warning(document: Document, message: str, path: Sequence[str | int], suggestion: str | None) -> Diagnostic:
    return Diagnostic(Severity.WARNING, "matches-nothing", message, document.place(tuple(path)), None, suggestion)

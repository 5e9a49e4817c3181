"""document -> typed entries: what pydantic finds wrong, said in the words of the policy, with places."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from controlplane.policy import language, types
from controlplane.policy.diagnostics import Diagnostic, Severity
from controlplane.policy.document import Document, Path
from controlplane.policy.grammar import PATH
from controlplane.policy.load import LoadCache
from controlplane.policy.providers import KINDS
from controlplane.policy.rules import Action, Rule, told_fields
from controlplane.policy.types import shown

_ADAPTERS: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(of) for name, of in language.SECTIONS.items()}
_GATEWAY: TypeAdapter[Any] = TypeAdapter(language.Gateway)
_RULE: TypeAdapter[Any] = TypeAdapter(Rule)
_NAMES: dict[str, TypeAdapter[Any]] = {
    "providers": TypeAdapter(types.ProviderName),
    "models": TypeAdapter(types.Pattern),
    "keys": TypeAdapter(types.KeyName),
    "issuers": TypeAdapter(types.IssuerName),
    "limits": TypeAdapter(types.LimitName),
    "teams": TypeAdapter(types.TeamName),
    "organizations": TypeAdapter(types.OrganizationName),
    "budgets": TypeAdapter(types.BudgetName),
    "webhooks": TypeAdapter(types.WebhookName),
    "prices": TypeAdapter(types.Pattern),
    "tokenizers": TypeAdapter(types.TokenizerName),
}
_FORMS: dict[str, type[BaseModel]] = {
    name: form for name, form in language.SECTIONS.items() if isinstance(form, type) and issubclass(form, BaseModel)
}
# pydantic's kinds of error about a bound: the name of the bound in its context, and what was expected.
_BOUNDS = {
    "greater_than_equal": ("ge", "at least {}"),
    "less_than_equal": ("le", "at most {}"),
    "less_than": ("lt", "less than {}"),
    "string_too_short": ("min_length", "at least {} characters"),
    "string_too_long": ("max_length", "at most {} characters"),
    "too_long": ("max_length", "at most {} elements"),
}
_KEY = "[key]"  # how pydantic tells that a mapping's key is wrong, not its value
_FIELDS = tuple(language.PolicySpec.model_fields)
_REQUIRED = ("version", "providers", "models")


class Structure:
    """Checks every part of a document by itself, so that one error hides no other and unchanged parts are skipped."""

    def __init__(self, document: Document, cache: LoadCache | None) -> None:
        self._document, self._cache = document, cache
        self._derived: dict[tuple[str, int], tuple[Any, Any]] = {}
        self.diagnostics: list[Diagnostic] = []
        self.rules: dict[int, Rule] = {}  # those that are right, by their places

    def check(self) -> tuple[language.Gateway, dict[str, dict[str, Any]]]:
        """The gateway and the entries of each section, as far as they are right."""
        data = self._document.data
        for name in data:
            if name not in _FIELDS:
                self._unknown((name,), name, _FIELDS)
        for name in _REQUIRED:
            if name not in data:
                self._add("missing-field", f"`{name}` is missing", (), f"`{name}` at the top of the policy")
        if "version" in data:
            self._version(data["version"])
        gateway = self._gateway(data)
        sections = {name: self._section(name, data[name]) for name in _ADAPTERS if name in data}
        self._rules(data.get("rules", []))
        if self._cache is not None:
            self._cache.derived = self._derived
        return gateway, sections

    def _version(self, version: Any) -> None:
        if type(version) is not int:
            self._add("wrong-type", f"the version is {_kind(version)}", ("version",), "1")
        elif version != 1:
            self._add("unknown-value", f"version {version} is not known", ("version",), "1")

    def _gateway(self, data: dict[str, Any]) -> language.Gateway:
        if "gateway" not in data:
            return language.Gateway()
        return self.validated(_GATEWAY, data["gateway"], ("gateway",), language.Gateway) or language.Gateway()

    def _rules(self, rules: Any) -> None:
        if not isinstance(rules, list):
            self._add("wrong-type", f"`rules` is {_kind(rules)}", ("rules",), "a list of rules")
            return
        for place, value in enumerate(rules):
            if not isinstance(value, dict):
                path = ("rules", place)
                self._add("wrong-type", f"a rule must be a mapping, not {_kind(value)}", path, "`when` and `do`")
                continue
            rule = self.validated(_RULE, value, ("rules", place), Rule)
            if rule is not None:
                self.rules[place] = rule

    def _section(self, name: str, entries: Any) -> dict[str, Any]:
        if not isinstance(entries, dict):
            self._add("wrong-type", f"`{name}` is {_kind(entries)}", (name,), "a mapping of names")
            return {}
        if not entries and name in _REQUIRED:
            self._add("missing-field", f"`{name}` is empty", (name,), "at least one entry")
        found = {}
        for entry, value in entries.items():
            known = self._cache.derived.get((name, id(value))) if self._cache and isinstance(value, dict) else None
            if known is not None and known[0] is value:
                result: Any = known[1]
                right = True
            else:
                before = len(self.diagnostics)
                self._entry_name(name, entry)
                result = self._entry(name, entry, value)
                right = result is not None and len(self.diagnostics) == before
            if result is not None:
                found[entry] = result
            if right and isinstance(value, dict):
                self._derived[(name, id(value))] = (value, result)
        return found

    def _entry_name(self, section: str, entry: str) -> None:
        try:
            _NAMES[section].validate_python(entry)
        except ValidationError as error:
            expected = error.errors()[0].get("ctx", {}).get("expected")
            self._add("invalid-name", f"`{shown(entry)}` is no valid name", (section, entry), expected, key=True)

    def _entry(self, section: str, entry: str, value: Any) -> Any:
        path = (section, entry)
        if section == "providers" and not self._provider_kind(path, value):
            return None
        if section == "models" and not isinstance(value, str | dict | None):
            wanted = "the name of a provider or model, or a mapping such as {try: [...]}"
            self._add("wrong-type", f"this is {_kind(value)}", path, wanted)
            return None
        form = _FORMS.get(section)
        return self.validated(_ADAPTERS[section], value, path, form)

    def _provider_kind(self, path: Path, value: Any) -> bool:
        if not isinstance(value, dict):
            self._add("wrong-type", f"a provider must be a mapping, not {_kind(value)}", path, "such as {kind: openai}")
        elif "kind" not in value:
            self._add("missing-field", "`kind` is missing", path, " or ".join(KINDS))
        elif value["kind"] not in KINDS:
            found = shown(value["kind"])
            self._add(
                "unknown-value", f"`{found}` is no kind of provider", (*path, "kind"), " or ".join(KINDS),
                suggestion=nearest(found, KINDS),
            )  # fmt: skip
        else:
            return True
        return False

    def validated(self, adapter: TypeAdapter[Any], value: Any, path: Path, form: type[BaseModel] | None) -> Any:
        """The value as the adapter has it; None where `diagnostics` say what is wrong with it."""
        empty = set(_empty(value, path))
        for where in sorted(empty, key=str):
            self._add("empty-value", "this field has no value", where, "a value, or no such field", key=True)
        if path in empty:
            return None
        try:
            found = adapter.validate_python(_without_empty(value) if empty else value)
            return None if empty else found
        except ValidationError as error:
            for each in error.errors(include_url=False, include_input=True):
                self._tell(each, path, form, empty)
        return None

    def _tell(self, error: ErrorDetails, path: Path, form: type[BaseModel] | None, empty: set[Path]) -> None:
        steps = tuple(step for step in error["loc"] if not _is_tag(step) and step != _KEY)
        where, kind, context = (*path, *steps), error["type"], error.get("ctx", {})
        if where in empty or (kind == "invalid-secret" and any(each[:-1] == where for each in empty)):
            return  # told already: it has no value
        fields = _fields(error["loc"][:-1], form)
        if kind in ("extra_forbidden", "unexpected_keyword_argument"):
            # A misspelt `try` makes a model look like one of a single provider.
            others = ("try",) if where[0] == "models" and len(steps) == 1 and "try" not in fields else ()
            self._unknown(where, str(steps[-1]), fields, others)
        elif kind in ("missing", "missing_argument"):
            self._add("missing-field", f"`{steps[-1]}` is missing", where[:-1], f"the field `{steps[-1]}`", key=True)
        elif kind in ("literal_error", "enum"):
            expected, found = context["expected"].replace("'", ""), shown(error["input"])
            choices = expected.replace(" or ", ", ").split(", ")
            self._add(
                "unknown-value", f"`{found}` is not known here", where, expected, suggestion=nearest(found, choices)
            )
        elif kind == "value_error":
            self._add("invalid-value", str(context["error"]), where)  # which says what was expected
        elif "expected" in context and ("-" in kind):
            at_key = error["loc"][-1:] == (_KEY,)
            self._add(kind, error["msg"], where, context["expected"], hint=context.get("hint"), key=at_key)
        elif kind == "too_short":
            least, has = context["min_length"], context["actual_length"]
            self._add("out-of-range", f"this has {has or 'no'} elements", where, f"at least {least}")
        elif kind in _BOUNDS:
            name, words = _BOUNDS[kind]
            self._add("out-of-range", f"{shown(error['input'])} is not accepted", where, words.format(context[name]))
        elif kind == "string_pattern_mismatch":
            wanted = "a path" if context["pattern"] == PATH else f"text that matches {context['pattern']}"
            self._add("out-of-range", f"{shown(error['input'])} is not accepted", where, wanted)
        else:
            self._add("wrong-type", f"this is {_kind(error['input'])}", where, _wanted(kind, error["msg"]))

    def _unknown(self, where: Path, name: str, fields: Sequence[str], others: Sequence[str] = ()) -> None:
        """`others`: fields of another form, which may have been meant."""
        expected = f"one of {', '.join(fields)}" if fields else None
        self._add(
            "unknown-field",
            f"`{shown(name)}` is no field here",
            where,
            expected,
            suggestion=nearest(name, (*fields, *others)),
            key=True,
        )

    def _add(
        self, code: str, message: str, path: Path, expected: str | None = None, *,
        suggestion: str | None = None, hint: str | None = None, key: bool = False,
    ) -> None:  # fmt: skip
        place = self._document.place(path, key=key)
        self.diagnostics.append(Diagnostic(Severity.ERROR, code, message, place, expected, suggestion, hint))


def nearest(name: str, names: Sequence[str]) -> str | None:
    """The valid name that was probably meant."""
    lowered = {valid.lower(): valid for valid in names}
    found = difflib.get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    return lowered[found[0]] if found else None


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """What ends a sentence about an unknown name: the nearest one as a question, where there is one."""
    near = nearest(name, names)
    return f"; did you mean `{near}`?" if near else "."


def _is_tag(step: str | int) -> bool:
    return isinstance(step, str) and step.startswith("<") and step.endswith(">")


def _fields(loc: tuple[str | int, ...], form: type[BaseModel] | None) -> tuple[str, ...]:
    """The fields of the mapping at a pydantic error location."""
    for number, step in enumerate(loc):
        if form is Action and isinstance(step, str):
            return told_fields(step, loc[number + 1 :])
        if isinstance(step, str) and step in language.TAGS:
            form = language.TAGS[step]
        elif isinstance(step, str) and not _is_tag(step) and form is not None:
            named = {field.alias or name: field for name, field in form.model_fields.items()}
            form = _nested(named[step].annotation) or form if step in named else form
    return tuple(field.alias or name for name, field in form.model_fields.items()) if form else ()


def _nested(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _nested(arg))), None)


def _empty(value: Any, path: Path) -> Iterator[Path]:
    """The paths of fields without a value: `api_key:` followed by nothing is a slip, not a wish."""
    if value is None:
        yield path
    elif isinstance(value, dict):
        for name, each in value.items():
            if each is None or isinstance(each, dict | list):
                yield from _empty(each, (*path, name))
    elif isinstance(value, list):
        for number, each in enumerate(value):
            if isinstance(each, dict | list):
                yield from _empty(each, (*path, number))


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_empty(each) for name, each in value.items() if each is not None}
    return [_without_empty(each) for each in value] if isinstance(value, list) else value


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "nothing")


def _wanted(kind: str, message: str) -> str:
    names = {
        "string_type": "text", "int_type": "a whole number", "bool_type": "true or false", "list_type": "a list",
        "dict_type": "a mapping", "model_type": "a mapping", "model_attributes_type": "a mapping",
        "int_from_float": "a whole number", "dataclass_type": "a mapping",
    }  # fmt: skip
    return names.get(kind, message.removeprefix("Input should be "))

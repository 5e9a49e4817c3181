"""The stage `parameters`: what happens to parameters that the model does not support, or not with that value.

{"models": {"o3*": {"parameters": {"temperature": {"kind": "unsupported"}}}}, "action": "error"}
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import ConfigDict

from extproc.json_splice import Document
from extproc.stages.patterns import Patterns
from extproc.stages.protocol import NOTHING, Access, Needs, Outcome, Plain, Refusal, Request
from extproc.stages.settings import STRICT
from extproc.usage.price_catalog import Model as Known

WARNING = "x-headgate-warning"
_MOST_WARNINGS = 20
# Without these there is no request: another stage judges them.
_ESSENTIAL = frozenset(("model", "messages", "input", "prompt", "stream"))
_OUTPUT_CAPS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
# What needs a capability of the model, as the catalog names it.
_BY_CAPABILITY = {
    "tools": ("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"),
    "reasoning": ("reasoning_effort", "reasoning", "thinking"),
}
# OpenAI's reasoning models sample in their own way.
_SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
_NO_SAMPLING = ("logprobs", "top_logprobs", "logit_bias")


class Kind(StrEnum):
    """`mutable`: any value, within its range. `read_only`: one value. `opaque`: passed on unread."""

    MUTABLE = "mutable"
    READ_ONLY = "read_only"
    OPAQUE = "opaque"
    UNSUPPORTED = "unsupported"


class Action(StrEnum):
    """`warn`: passed on, the client is told. `ignore`: passed on. `drop`: taken out, the client is told."""

    WARN = "warn"
    ERROR = "error"
    IGNORE = "ignore"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a model does with a parameter. `value`: the one that a read-only parameter may have."""

    kind: Kind
    least: int | float | None = None
    most: int | float | None = None
    value: Any = None
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        if self.kind is not Kind.MUTABLE and (self.least is not None or self.most is not None):
            raise ValueError("least and most are for kind mutable")
        if self.kind is not Kind.READ_ONLY and self.value is not None:
            raise ValueError("value is for kind read_only")
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ValueError(f"least is {self.least}, above most, {self.most}")

    def problem(self, value: Any) -> str | None:
        """Why the model cannot take the value. null is as if the parameter were not there."""
        if value is None or self.kind is Kind.OPAQUE:
            return None
        if self.kind is Kind.UNSUPPORTED:
            return "is not supported by this model"
        if self.kind is Kind.READ_ONLY:
            same = value == self.value and isinstance(value, bool) is isinstance(self.value, bool)
            return None if same else f"is fixed at {self.value!r} for this model"
        return self._out_of_range(value) if self.least is not None or self.most is not None else None

    def _out_of_range(self, value: Any) -> str | None:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return "must be a number"
        if self.least is not None and value < self.least:
            return f"must be at least {self.least} for this model"
        return f"must be at most {self.most} for this model" if self.most is not None and value > self.most else None


@dataclass(frozen=True, slots=True)
class Model:
    """`others`: parameters that are not listed."""

    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    others: Literal[Kind.OPAQUE, Kind.UNSUPPORTED] = Kind.OPAQUE
    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    def __post_init__(self) -> None:
        judged = _ESSENTIAL & self.parameters.keys()
        if judged:
            raise ValueError(f"parameters: {min(judged)} cannot be judged, no request is without it")


@dataclass(frozen=True, slots=True)
class Settings:
    """`models`: by name or prefix with `*`. `actions`: for single parameters, `action`: for all others."""

    models: Mapping[str, Model]
    action: Action = Action.ERROR
    actions: Mapping[str, Action] = field(default_factory=dict)
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


class Finding(NamedTuple):
    name: str
    problem: str
    unsupported: bool
    action: Action


class Parameters(Plain):
    def __init__(self, settings: Settings) -> None:
        self._models = Patterns(settings.models)
        self._action = settings.action
        self._actions = settings.actions
        used = {settings.action, *settings.actions.values()}
        self.needs = Needs(Access.CHANGE if used & {Action.ERROR, Action.DROP} else Access.READ)

    def request(self, request: Request) -> Outcome:
        model = self._models.get(request.model)
        findings = self._findings(model, request.body) if model else []
        if not findings:
            return NOTHING
        for finding in findings:
            if finding.action is Action.ERROR:
                return Outcome(refusal=_refusal(finding), metadata=_log(findings))
        return self._changed(request, findings)

    def _findings(self, model: Model, body: dict[str, Any]) -> list[Finding]:
        found = []
        for name, value in body.items():
            rule = model.parameters.get(name)
            if rule is None:
                if model.others is Kind.OPAQUE or name in _ESSENTIAL:
                    continue
                rule = _UNSUPPORTED
            problem = rule.problem(value)
            if problem:
                action = self._actions.get(name, self._action)
                found.append(Finding(name, problem, rule.kind is Kind.UNSUPPORTED, action))
        return found

    def _changed(self, request: Request, findings: list[Finding]) -> Outcome:
        document = Document(request.raw)
        told: list[str] = []
        for finding in findings:
            if finding.action is Action.DROP:
                document.remove((finding.name,))
            if finding.action is not Action.IGNORE and len(told) < _MOST_WARNINGS:
                told.append(f"{finding.name} {finding.problem}{', dropped' if finding.action is Action.DROP else ''}")
        return Outcome(
            body=document.render() if document.changed else None,
            answer_headers={WARNING: _ascii("; ".join(told))} if told else {},
            metadata=_log(findings),
        )


def parameters_of(known: Known) -> dict[str, Parameter]:
    """What the catalog's entry of a model tells about its parameters; a base for `Model.parameters`."""
    found: dict[str, Parameter] = {}
    if known.capabilities:
        for capability, names in _BY_CAPABILITY.items():
            if capability not in known.capabilities:
                found |= dict.fromkeys(names, _UNSUPPORTED)
    if known.max_output:
        found |= dict.fromkeys(_OUTPUT_CAPS, Parameter(Kind.MUTABLE, least=1, most=known.max_output))
    if known.family == "openai" and "reasoning" in known.capabilities:
        # `max_tokens` is refused by these in favour of `max_completion_tokens`.
        found |= dict.fromkeys((*_NO_SAMPLING, "max_tokens"), _UNSUPPORTED)
        found |= {
            name: Parameter(Kind.READ_ONLY, value=1 if name in ("temperature", "top_p") else 0) for name in _SAMPLING
        }
    elif known.family in ("anthropic", "bedrock"):
        found["temperature"] = Parameter(Kind.MUTABLE, least=0, most=1)
    return found


def _refusal(finding: Finding) -> Refusal:
    code = "unsupported_parameter" if finding.unsupported else "unsupported_value"
    return Refusal(400, code, f"'{finding.name}' {finding.problem}.", finding.name)


def _log(findings: list[Finding]) -> dict[str, Any]:
    return {"parameters": {finding.name: finding.action.value for finding in findings[:_MOST_WARNINGS]}}


def _ascii(text: str) -> str:
    """A header's value: names of parameters come from the client."""
    return "".join([c if " " <= c <= "~" else "?" for c in text])[:1000]


_UNSUPPORTED = Parameter(Kind.UNSUPPORTED)

"""How rules that ask webhooks fit the rest of their policy."""

from collections.abc import Iterable, Iterator, Mapping

from controlplane.policy.diagnostics import Diagnostic, Severity
from controlplane.policy.document import Document, Path
from controlplane.policy.guarding import Guard, spelled_out
from controlplane.policy.rules import Rule
from controlplane.policy.structure import nearest


def guards(rule: Rule) -> Iterator[tuple[int, Guard]]:
    """What a rule asks webhooks, each with its place in `do`."""
    for number, action in enumerate(rule.do):
        for name, told in action.done():
            if name == "webhook":
                yield number, Guard.model_validate(spelled_out(told))


def asked(rules: Iterable[Rule]) -> tuple[str, ...]:
    """The webhooks that rules ask, each once."""
    return tuple(dict.fromkeys(guard.to for rule in rules for _, guard in guards(rule)))


def check_guards(
    document: Document, rules: Mapping[int, Rule], webhooks: Iterable[str], rule_timeout: int
) -> Iterator[Diagnostic]:
    """`rules` by their places. `rule_timeout`: how long one message may take, in milliseconds."""

    def error(code: str, message: str, path: Path, expected: str, near: str | None = None) -> Diagnostic:
        return Diagnostic(Severity.ERROR, code, message, document.place(path), expected, near)

    known = tuple(webhooks)
    for place, rule in rules.items():
        for number, guard in guards(rule):
            path: Path = ("rules", place, "do", number, "webhook")
            if guard.to not in known:
                message, near = f"there is no webhook `{guard.to}`", nearest(guard.to, known)
                yield error("unknown-name", message, (*path, "to"), "a webhook of this policy", near)
            if guard.timeout >= rule_timeout:
                message = f"a verdict may take {guard.timeout} ms, and all that rules do {rule_timeout} ms"
                yield error("unfit-webhook", message, (*path, "timeout"), "less than `gateway.rule_timeout`")

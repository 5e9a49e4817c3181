"""One type for everything the gateway has to say about a policy. Rendering is elsewhere (`render`)."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from controlplane.policy.place import Place


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """What is wrong, where, what was expected, and what to do next.

    `code` is a stable kebab-case identifier (``unknown-field``) that docs/diagnostics.md explains.
    `place` is None only for what belongs to no line of the file (a process, a port).
    """

    severity: Severity
    code: str
    message: str
    place: Place | None = None
    expected: str | None = None
    suggestion: str | None = None  # the nearest valid name
    hint: str | None = None  # the next step


class PolicyError(Exception):
    """A policy that cannot be used. Carries every diagnostic found, never just the first."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        number = len(self.errors)
        super().__init__(f"the policy has {number} error{'' if number == 1 else 's'}")

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """The diagnostics without the warnings."""
        return tuple(each for each in self.diagnostics if each.severity is Severity.ERROR)

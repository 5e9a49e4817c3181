"""Fixtures that mocks name: whether they can be used. Pure: what reads them is passed in."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

from controlplane.policy.check import Places
from controlplane.policy.diagnostics import Diagnostic, Severity
from controlplane.policy.language import Policy
from controlplane.policy.mock import MockProvider

# What is wrong with a file or folder, a line of text for each mistake.
FixtureReader: TypeAlias = Callable[[str], tuple[str, ...]]

_MOST = 20  # mistakes of one provider that are told


def check_fixtures(policy: Policy, problems: FixtureReader, places: Places) -> Iterator[Diagnostic]:
    """An error for each mistake in the fixtures of the policy's mocks."""
    for name, provider in policy.providers.items():
        if not isinstance(provider, MockProvider) or provider.fixtures is None:
            continue
        place = places(("providers", name, "fixtures"))
        for problem in problems(provider.fixtures)[:_MOST]:
            yield Diagnostic(
                Severity.ERROR, "invalid-fixtures", problem, place, "fixtures that can be used",
                hint="docs/mock.md has their format; the path is relative to the policy",
            )  # fmt: skip

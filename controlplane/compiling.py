"""The compiler on one page: policy text -> checked policy -> plan -> snapshot. Pure but for the reader of secrets.

text --check--> Policy --resolve--> Secrets
                  \\--plan--> Plan --lower--> Snapshot
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from controlplane.plan.build import plan
from controlplane.plan.ir import Plan
from controlplane.plan.tokens import Tokens, conflicts
from controlplane.policy.check import check, resolve, secret_refs
from controlplane.policy.databases import check_databases
from controlplane.policy.diagnostics import Diagnostic, PolicyError, Severity
from controlplane.policy.environments import Prober, check_environments
from controlplane.policy.fixtures import FixtureReader, check_fixtures
from controlplane.policy.folders import Lister, check_folders
from controlplane.policy.language import Policy
from controlplane.policy.load import LoadCache
from controlplane.policy.outside import check_key_sets
from controlplane.policy.prices import imported
from controlplane.policy.secrets import SecretRef, Secrets
from controlplane.policy.tokenizers import tokenizer_texts
from controlplane.policy.webhooks import check_webhooks, digest, hooks
from controlplane.xds.lower import lower
from controlplane.xds.resource import Snapshot
from controlplane.xds.surroundings import Surroundings


@dataclass(frozen=True, slots=True)
class Compiled:
    """A policy and all that was made of it. `warnings` are diagnostics that stop nothing."""

    policy: Policy
    secrets: Secrets
    plan: Plan
    snapshot: Snapshot
    warnings: tuple[Diagnostic, ...]


@dataclass(frozen=True, slots=True)
class Compiler:
    """What stays the same from one compile to the next. `read` gives a secret's value or raises LookupError/OSError;
    `files` lists the folder of a local model, `fixtures` tells what is wrong with those of a mock, `probe` what is
    wrong with an interpreter that is to have vLLM.
    """

    file: str
    read: Callable[[SecretRef], str]
    around: Surroundings
    cache: LoadCache
    tokens: Callable[[datetime], Tokens | None] = lambda _: None  # the issued keys, if any were ever issued
    files: Lister = lambda _: None
    fixtures: FixtureReader = lambda _: ()
    probe: Prober = lambda _: None

    def compile(self, text: str | bytes, now: datetime, known: Compiled | None = None) -> Compiled:
        """`known`, of the same text: its secrets and prices are taken, and no file is read.

        Raises PolicyError with every diagnostic if there is an error among them.
        """
        with _uncollected():
            return self._compile(text, now, known)

    def _compile(self, text: str | bytes, now: datetime, known: Compiled | None) -> Compiled:
        checked = check(text, self.file, self.cache)
        if checked.policy is None:
            raise PolicyError(checked.diagnostics)
        secrets, problems = resolve(secret_refs(checked.policy), self._reader(known), checked.places)
        problems += tuple(check_key_sets(checked.policy.issuers, secrets, checked.places))
        tokens = self.tokens(now)
        problems += (*conflicts(checked.policy, tokens), *check_webhooks(checked.policy, secrets, checked.places))
        prices, wrong = (
            imported(checked.policy, self.read, checked.places) if known is None else (known.plan.imported, ())
        )
        texts, unfit = (
            tokenizer_texts(checked.policy, self.read, checked.places) if known is None else (known.plan.tokenizers, ())
        )
        problems += (*wrong, *unfit)
        if known is None:
            problems += tuple(check_folders(checked.policy, self.files, checked.places))
            problems += tuple(check_fixtures(checked.policy, self.fixtures, checked.places))
            problems += tuple(check_environments(checked.policy, self.files, self.probe, checked.places))
        problems += tuple(check_databases(checked.policy, secrets, checked.places))
        diagnostics = (*checked.diagnostics, *problems)
        if any(diagnostic.severity is Severity.ERROR for diagnostic in problems):
            raise PolicyError(diagnostics)
        if tokens is not None:
            diagnostics = tuple(diagnostic for diagnostic in diagnostics if diagnostic.code != "open-gateway")
        asked = digest(hooks(checked.policy, secrets))
        made = plan(checked.policy, now=now, tokens=tokens, imported=prices, tokenizers=texts, hooks=asked)
        return Compiled(checked.policy, secrets, made, lower(made, secrets, self.around), diagnostics)

    def _reader(self, known: Compiled | None) -> Callable[[SecretRef], str]:
        return self.read if known is None else lambda ref: known.secrets[ref].reveal()


@contextmanager
def _uncollected() -> Iterator[None]:
    """A compile makes a hundred thousand values that stay; looking for garbage among them doubles its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # To the oldest generation, unseen: what a compile leaves is hardly ever garbage.
        gc.freeze()
        gc.unfreeze()
        if enabled:
            gc.enable()

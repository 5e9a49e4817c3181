"""How tokens are counted: what providers call the models of a policy, and which tokenizer is of which."""

from collections.abc import Iterable

from controlplane.policy import language
from controlplane.policy.tokenizers import TokenizerText
from extproc.server.settings import RuleSpec
from extproc.stages.book import Counting
from extproc.stages.registry import KINDS


def counting(policy: language.Policy, texts: Iterable[TokenizerText]) -> Counting:
    """For a checked policy. `texts`: of its tokenizers."""
    return Counting(
        {name: _called(model) for name, model in policy.models.items()},
        {pattern: name for name, tokenizer in policy.tokenizers.items() for pattern in tokenizer.models},
        {text.name: text.digest for text in texts},
    )


def counts(spec: RuleSpec) -> bool:
    """Whether a rule counts tokens."""
    return any(KINDS[stage.kind].counts for stage in spec.stages)


def _called(model: language.Model) -> tuple[str | None, ...]:
    return tuple(dict.fromkeys(target.model for group in model.groups for target in group))

"""Files of tokenizers that a policy names: read, and what is wrong with them. Pure: the reader is passed in."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from controlplane.policy.check import Places
from controlplane.policy.diagnostics import Diagnostic, Severity
from controlplane.policy.language import Policy
from controlplane.policy.secrets import SecretRef
from extproc.stages.tokenizers import Local

_HINT = "the file tokenizer.json of the model, as Hugging Face has it; its path is relative to the policy"


@dataclass(frozen=True, slots=True)
class TokenizerText:
    """A tokenizer's file. `digest`: of its text, by which it is known from then on."""

    name: str
    digest: str
    text: str = field(repr=False)


def tokenizer_texts(
    policy: Policy, read: Callable[[SecretRef], str], places: Places
) -> tuple[tuple[TokenizerText, ...], tuple[Diagnostic, ...]]:
    """The files of `tokenizers`, and a diagnostic for each that cannot be used."""
    found: list[TokenizerText] = []
    problems: list[Diagnostic] = []

    def error(code: str, name: str, message: str, expected: str) -> None:
        place = places(("tokenizers", name, "file"))
        problems.append(Diagnostic(Severity.ERROR, code, message, place, expected, hint=_HINT))

    for name, tokenizer in policy.tokenizers.items():
        try:
            text = read(SecretRef("file", tokenizer.file))
        except (OSError, LookupError) as problem:
            reason = getattr(problem, "strerror", None) or str(problem)
            error("absent-tokenizer", name, f"{tokenizer.file}: {reason}", "a file that can be read")
            continue
        except UnicodeError:
            error("invalid-tokenizer", name, f"{tokenizer.file} is not UTF-8 text", "a tokenizer.json")
            continue
        made = TokenizerText(name, hashlib.blake2b(text.encode(), digest_size=16).hexdigest(), text)
        try:
            _expect_right(made)
        except ValueError as wrong:
            error("invalid-tokenizer", name, f"{tokenizer.file}: {wrong}", "a tokenizer.json")
        found.append(made)
    return tuple(found), tuple(problems)


def _expect_right(tokenizer: TokenizerText) -> None:
    """Raises ValueError. To read one takes up to a second, and most edits leave them alone."""
    if tokenizer.digest not in _RIGHT:
        Local(tokenizer.name, tokenizer.text)
        _RIGHT.add(tokenizer.digest)


_RIGHT: set[str] = set()  # digests of texts that were read

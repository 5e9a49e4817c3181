"""Which tokenizer counts for a model: by what its providers call it, and by the tokenizer files of the policy."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import ConfigDict

from extproc.stages import tokenizers
from extproc.stages.patterns import Patterns
from extproc.stages.settings import STRICT
from extproc.stages.tokenizers import Local, Near, Tokenizer


@dataclass(frozen=True, slots=True)
class Counting:
    """What the policy says of it, as JSON.

    `models`: by name or prefix with `*`, what each provider calls it; None: as the client does. `tokenizers`: names of
    files by what providers call models, exact or with `*`. `files`: the hash of each file's text.
    """

    models: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    tokenizers: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    __pydantic_config__: ClassVar[ConfigDict] = STRICT


class Book:
    """`local`: the tokenizer of each file, by its name."""

    def __init__(self, counting: Counting, local: Mapping[str, Local]) -> None:
        self._models = Patterns(counting.models)
        self._files = Patterns(counting.tokenizers)
        self._local = local

    def has(self, model: str) -> bool:
        """Whether the policy has a model of this name."""
        return self._models.get(model) is not None

    def tokenizer(self, model: str) -> Tokenizer:
        """That of the first provider's model; an estimate where the others' count differently."""
        called = self._models.get(model) or (None,)
        first, *others = (self._of(name or model) for name in called)
        return first if not first.exact or all(other.name == first.name for other in others) else Near(first)

    def named(self, name: str) -> Tokenizer:
        """One of OpenAI's encodings, or a file of the policy. Raises ValueError."""
        if name in self._local:
            return self._local[name]
        if name in tokenizers.ENCODINGS:
            return tokenizers.known(name)
        raise ValueError(f"{name!r} is no tokenizer: one of {', '.join((*self._local, *tokenizers.ENCODINGS))}")

    def _of(self, upstream: str) -> Tokenizer:
        file = self._files.get(upstream)
        return tokenizers.of_model(upstream) if file is None else self._local[file]


NO_BOOK = Book(Counting(), {})

"""From texts to what a model is fed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Encoding, Tokenizer


class TokenizerError(Exception):
    """A tokenizer.json that cannot be used."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """One sequence, special tokens included, cut to what the model takes.

    `types`: to which text of a pair each token belongs; empty stands for zeros.
    """

    ids: list[int]
    types: list[int]

    def __len__(self) -> int:
        return len(self.ids)


class Encoder:
    """A model's tokenizer. May be used by several threads at once."""

    def __init__(self, path: Path, max_tokens: int) -> None:
        """Raises TokenizerError."""
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # what the library raises has no class of its own
            raise TokenizerError(f"{path.name} cannot be read: {error}") from None
        # The file may hold the padding and truncation of some training run.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self._max_tokens = max_tokens
        self.vocabulary = self._tokenizer.get_vocab_size(with_added_tokens=True)

    def texts(self, texts: Sequence[str]) -> list[Tokens]:
        """Texts, each alone."""
        return [Tokens(found.ids, []) for found in self._tokenizer.encode_batch_fast(list(texts))]

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> list[Tokens]:
        """Pairs of texts; where one is too long, the longer of the two is cut."""
        return [_tokens(found) for found in self._tokenizer.encode_batch_fast(list(pairs))]

    def ids(self, lists: Sequence[list[int]]) -> list[Tokens]:
        """Token ids as a client gives them: cut, otherwise unchanged."""
        return [Tokens(ids[: self._max_tokens], []) for ids in lists]


def _tokens(found: Encoding) -> Tokens:
    return Tokens(found.ids, found.type_ids)

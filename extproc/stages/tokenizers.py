"""Tokenizers: OpenAI's encodings, a tokenizer.json, and an estimate for all other models."""

from functools import cache, lru_cache
from typing import Any, Protocol

import tokenizers

ENCODINGS = ("o200k_base", "cl100k_base")
# OpenAI's models by the start of their names, the longest first, as its tokenizer library lists them.
_OF_OPENAI = (
    ("text-embedding-", "cl100k_base"),
    ("chatgpt-4o", "o200k_base"),
    ("codex-mini", "o200k_base"),
    ("gpt-3.5", "cl100k_base"),
    ("gpt-4.1", "o200k_base"),
    ("gpt-4.5", "o200k_base"),
    ("gpt-4o", "o200k_base"),
    ("gpt-oss", "o200k_base"),
    ("gpt-4", "cl100k_base"),
    ("gpt-5", "o200k_base"),
    ("o1", "o200k_base"),
    ("o3", "o200k_base"),
    ("o4", "o200k_base"),
)


class Tokenizer(Protocol):
    """`exact`: it is the model's own, not one that is near. `name` says which, in answers and logs."""

    @property
    def name(self) -> str: ...

    @property
    def exact(self) -> bool: ...

    def count(self, text: str) -> int: ...

    def encode(self, text: str) -> list[int]: ...


class Encoding:
    """One of OpenAI's encodings. Markup such as <|endoftext|> is text here, as it is in a message's content."""

    def __init__(self, name: str, exact: bool = True) -> None:
        self.name = name if exact else f"estimate by {name}"
        self.exact = exact
        self._encoding = name

    def count(self, text: str) -> int:
        return int(_encoding(self._encoding).count(text))

    def encode(self, text: str) -> list[int]:
        return list(_encoding(self._encoding).encode(text))


class Local:
    """A tokenizer.json, given as its text; special tokens are not added. Raises ValueError if it is none."""

    exact = True

    def __init__(self, name: str, document: str) -> None:
        self.name = name
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(document)
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"{name} is no tokenizer.json: {error}") from None
        self._tokenizer.no_truncation()

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


@lru_cache(maxsize=4096)  # names come from clients
def of_model(model: str) -> Tokenizer:
    """By its name, with or without "openai/" before it. Others are estimated with OpenAI's newest: most are near."""
    name = model.removeprefix("openai/").removeprefix("ft:")
    return next((known(encoding) for start, encoding in _OF_OPENAI if name.startswith(start)), ESTIMATE)


@cache
def known(encoding: str) -> Encoding:
    return Encoding(encoding)


@cache
def _encoding(name: str) -> Any:
    from rs_bpe import openai  # noqa: PLC0415 - 70 MiB, for those who count

    return {"o200k_base": openai.o200k_base, "cl100k_base": openai.cl100k_base}[name]()


ESTIMATE = Encoding("o200k_base", exact=False)

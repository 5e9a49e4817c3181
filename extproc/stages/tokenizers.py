"""Tokenizers: OpenAI's encodings, a tokenizer.json, and an estimate for all other models."""

from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any, Protocol

# Characters that are counted at once; of a longer text, tokens that a cut divides may be one more.
PART = 64 << 10
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
    """`exact`: it is the model's own, not one that is near. `name` says which, in answers and logs.

    `chats`: what a chat's messages cost beside their texts is known, too.
    `special`: with what a server puts around a prompt by itself, such as a token for its beginning.
    """

    @property
    def name(self) -> str: ...

    @property
    def exact(self) -> bool: ...

    @property
    def chats(self) -> bool: ...

    def count(self, text: str, *, special: bool = False) -> int: ...

    def encode(self, text: str, *, special: bool = False) -> list[int]: ...


class Encoding:
    """One of OpenAI's encodings. Markup such as <|endoftext|> is text here, as it is in a message's content.

    Nothing is put around a prompt.
    """

    exact = chats = True

    def __init__(self, name: str) -> None:
        self.name = name

    def count(self, text: str, *, special: bool = False) -> int:
        return int(_encoding(self.name).count(text))

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        return list(_encoding(self.name).encode(text))


class Local:
    """A tokenizer.json, given as its text. Raises ValueError if it is none.

    A chat's template is not part of it, so what stands around messages is not known.
    """

    exact = True
    chats = False

    def __init__(self, name: str, document: str) -> None:
        import tokenizers  # noqa: PLC0415 - 5 MiB, for those who have such a file

        self.name = name
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(document)
        except Exception as error:  # the library raises plain Exception
            raise ValueError(f"{name} is no tokenizer.json: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def count(self, text: str, *, special: bool = False) -> int:
        if len(text) <= PART:
            return len(self._tokenizer.encode(text, add_special_tokens=special))
        around = self._tokenizer.num_special_tokens_to_add(is_pair=False) if special else 0
        return around + sum([self.count(part) for part in _parts(text)])

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=special).ids)


class Near:
    """A tokenizer that stands for one that is not known."""

    exact = False

    def __init__(self, of: Tokenizer) -> None:
        self.name = f"estimate by {of.name}"
        self.chats = of.chats
        self.count, self.encode = of.count, of.encode


def _parts(text: str) -> Iterator[str]:
    """Pieces of a long text, cut at spaces where there are some. The library is deaf to other threads meanwhile."""
    at = 0
    while at < len(text):
        end = at + PART
        space = text.rfind(" ", at + 1, end) if end < len(text) else -1
        yield text[at : space if space > 0 else end]
        at = space if space > 0 else end


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


ESTIMATE = Near(known("o200k_base"))

"""A small tokenizer.json: a token for each word that it knows, and one around each prompt."""

from collections.abc import Iterable

import tokenizers
from tokenizers import models, pre_tokenizers, processors


def tokenizer_json(words: Iterable[str] = ("hello", "world"), begins: str = "<s>") -> str:
    """Its text. `begins`: the token that a server puts before each prompt; its id is 1, words follow from 2 on."""
    vocabulary = {"<unk>": 0, begins: 1} | {word: number for number, word in enumerate(words, 2)}
    made = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single=f"{begins} $A", special_tokens=[(begins, 1)])
    return made.to_str()

"""One answer, made step by step. Blocks; runs beside the event loop."""

from collections import Counter, deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sidecars.onnx.errors import ServiceError, failed, invalid, out_of_memory
from sidecars.onnx.generate.card import CHUNK, GeneratorCard
from sidecars.onnx.generate.choice import Choice, Scored, score
from sidecars.onnx.generate.native import Generator, Model, NativeError
from sidecars.onnx.generate.text import Stops, Vocabulary
from sidecars.onnx.session import lacks_memory, short


@dataclass(frozen=True, slots=True)
class Asked:
    """An answer that is wanted. `prompt`: token ids. `logprobs`: how many of the likeliest tokens are told beside each,
    None for none at all. `guidance`: the kind of a grammar, and itself."""

    prompt: list[int]
    max_tokens: int
    choice: Choice
    stops: tuple[str, ...] = ()
    logprobs: int | None = None
    guidance: tuple[str, str] | None = None

    @property
    def size(self) -> int:
        """How many tokens its cache may have to hold."""
        return len(self.prompt) + self.max_tokens


class Piece(NamedTuple):
    """What an answer has grown by. `tokens`: those whose text is out, where they are asked for. `generated`: tokens in
    all so far. `finish`: `stop` or `length` where it ends."""

    text: str
    tokens: tuple[Scored, ...]
    generated: int
    finish: str | None


class Step(NamedTuple):
    """`fed`: tokens that the model was run for. `piece`: None inside the prompt."""

    fed: int
    piece: Piece | None


class Generations:
    """A loaded model, and the answers that it makes."""

    def __init__(self, name: str, model: Model, card: GeneratorCard, vocabulary: Vocabulary) -> None:
        self._name = name
        self._model = model
        self._card = card
        self._vocabulary = vocabulary

    def begin(self, asked: Asked) -> "Generation":
        """Raises ServiceError."""
        return Generation(self._name, self._open(asked), self._card, self._vocabulary, asked)

    def close(self) -> None:
        """Gives the memory back."""
        self._model.close()

    def _open(self, asked: Asked) -> Generator:
        search = {**asked.choice.search(self._card.vocabulary), "max_length": asked.size}
        try:
            return self._model.generator(search, asked.guidance)
        except NativeError as error:
            if asked.guidance is not None and not lacks_memory(error):
                raise invalid("response_format", f"Invalid 'response_format': {short(error)}.") from None
            raise _told(self._name, error) from None


class Generation:
    """One sequence. Steps are not to overlap with those of others of the same model."""

    def __init__(
        self, name: str, generator: Generator, card: GeneratorCard, vocabulary: Vocabulary, asked: Asked
    ) -> None:
        self._name = name
        self._asked = asked
        self._ends = card.ends
        self._chunk = len(asked.prompt) if card.whole_prompts else CHUNK
        self._generator = generator
        self._left = deque(asked.prompt)
        self._counts: Counter[int] = Counter()
        self._generated = 0
        self._draft = _Draft(vocabulary, asked)

    def step(self) -> Step:
        """Feeds some of the prompt, or one token; generates one when the prompt is fed. Raises ServiceError."""
        try:
            fed = self._feed()
            return Step(fed, None if self._left else self._grow())
        except NativeError as error:
            raise _told(self._name, error) from None

    def close(self) -> None:
        """Gives the memory back."""
        self._generator.close()

    def _feed(self) -> int:
        if not self._left:
            return 1  # by `logits`, which runs the model for the token chosen last
        chunk = [self._left.popleft() for _ in range(min(self._chunk, len(self._left)))]
        self._generator.append(chunk)
        return len(chunk)

    def _grow(self) -> Piece:
        asked = self._asked
        logits = self._generator.logits()
        if not np.isfinite(logits.max()):
            raise failed(self._name, "its output is not a number (NaN or infinite).")
        if asked.choice.changes_logits:
            self._generator.set_logits(asked.choice.changed(logits, self._counts))
        token = self._generator.next()
        self._generated += 1
        if token in self._ends:
            return self._piece(*self._draft.end(), "stop")
        self._counts[token] += 1
        self._draft.add(token, score(logits, token, asked.logprobs) if asked.logprobs is not None else None)
        if self._draft.stopped:
            return self._piece(*self._draft.take(), "stop")
        if self._generated == asked.max_tokens:
            rest = self._draft.end()
            return self._piece(*rest, "stop" if self._draft.stopped else "length")
        return self._piece(*self._draft.take(), None)

    def _piece(self, text: str, tokens: tuple[Scored, ...], finish: str | None) -> Piece:
        return Piece(text, tokens, self._generated, finish)


def _told(name: str, error: NativeError) -> ServiceError:
    return out_of_memory(name) if lacks_memory(error) else failed(name, short(error))


class _Draft:
    """The text of an answer and its tokens: how much of both may go out."""

    def __init__(self, vocabulary: Vocabulary, asked: Asked) -> None:
        self._reader = vocabulary.reader()
        self._stops = Stops(asked.stops)
        self._read = 0  # characters, those that are held back included
        self._out = 0
        self._ready = ""
        self._tokens: deque[tuple[int, Scored]] = deque()  # and where the text of each begins

    @property
    def stopped(self) -> bool:
        return self._stops.found

    def add(self, token: int, scored: Scored | None) -> None:
        if scored is not None:
            self._tokens.append((self._read, scored))
        text = self._reader.feed(token)
        self._read += len(text)
        self._ready += self._stops.feed(text)

    def take(self) -> tuple[str, tuple[Scored, ...]]:
        """What is certain by now, and the tokens that it begins in."""
        text, self._ready = self._ready, ""
        self._out += len(text)
        tokens = []
        while self._tokens and self._tokens[0][0] < self._out:
            tokens.append(self._tokens.popleft()[1])
        return text, tuple(tokens)

    def end(self) -> tuple[str, tuple[Scored, ...]]:
        """All that is left; a stop can still be found in it."""
        self._ready += self._stops.feed(self._reader.end())
        self._ready += self._stops.end()
        text, tokens = self.take()
        if not self._stops.found:
            tokens += tuple(scored for _, scored in self._tokens)
        return text, tokens

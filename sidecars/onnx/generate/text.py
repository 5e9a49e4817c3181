"""From token ids to text, piece by piece: a piece never ends inside a character, nor inside what may be a stop."""

from collections.abc import Sequence
from pathlib import Path

import orjson
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from sidecars.onnx.tokens import TokenizerError

_BROKEN = "\N{REPLACEMENT CHARACTER}"
# A character has four bytes at most: what is longer incomplete will never be one.
_PENDING, _CHARACTER = 16, 3


class Vocabulary:
    """A model's tokenizer, for texts of any length. May be used by several threads at once."""

    def __init__(self, path: Path) -> None:
        """Raises TokenizerError."""
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # what the library raises has no class of its own
            raise TokenizerError(f"{path.name} cannot be read: {error}") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._bytewise = b'"ByteLevel"' in orjson.dumps(orjson.loads(self._tokenizer.to_str())["decoder"])
        self._special = {number for number, one in self._tokenizer.get_added_tokens_decoder().items() if one.special}

    def ids(self, text: str, *, special: bool) -> list[int]:
        """`special`: with what the tokenizer puts around a text."""
        # Of one: a batch gives the interpreter's lock away.
        (found,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=special)
        ids: list[int] = found.ids
        return ids

    def bytes(self, token: int) -> bytes:
        """What one token stands for by itself; of a special one, its name."""
        piece = self._tokenizer.id_to_token(token) or ""
        if token in self._special:
            return piece.encode()
        if self._bytewise:
            return b"".join(_BYTES.get(letter, letter.encode()) for letter in piece)
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:5], 16)])
        return piece.replace("▁", " ").encode()

    def reader(self) -> "Reader":
        return Reader(self._tokenizer)


def _byte_letters() -> dict[str, bytes]:
    """The letters by which byte-level vocabularies write bytes: themselves where they can be seen, else the letters
    from U+0100 on, in order."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in seen]
    found = {chr(byte): bytes([byte]) for byte in seen}
    return found | {chr(0x100 + i): bytes([byte]) for i, byte in enumerate(hidden)}


_BYTES = _byte_letters()


class Reader:
    """Makes text of tokens as they come: all of it together is what they are decoded to at once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._pending: list[int] = []

    def feed(self, token: int) -> str:
        """The text that is certain now; empty inside a character."""
        found = self._stream.step(self._tokenizer, token)
        if found is not None:
            self._pending.clear()
            return found
        self._pending.append(token)
        if len(self._pending) < _PENDING:
            return ""
        # No text comes of these: the last of them may still begin a character.
        kept = self._pending[-_CHARACTER:]
        text = self._tokenizer.decode(self._pending[:-_CHARACTER])
        self._stream, self._pending = DecodeStream(skip_special_tokens=True), []
        return text + "".join(map(self.feed, kept))

    def end(self) -> str:
        """What is left: a character that was never completed."""
        return self._tokenizer.decode(self._pending)


class Stops:
    """Holds back what may be the beginning of a stop, and ends the text in front of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """What is certain to be in the answer."""
        self._held += text
        places = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if places:
            self.found = True
            # The first that is complete, however the text was cut into pieces.
            return self._take(min(places)[1])
        return self._take(len(self._held) - self._beginning())

    def end(self) -> str:
        """What was held back, and no stop came of."""
        return "" if self.found else self._take(len(self._held))

    def _beginning(self) -> int:
        """How long the longest end of the text is that begins a stop."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0

    def _take(self, size: int) -> str:
        taken, self._held = self._held[:size], self._held[size:]
        return taken

"""A frame of a stream, and what reads bytes into frames."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol


class Frame(NamedTuple):
    """`name`: the event's type on the wire, empty where it has none. `error`: the transport marks it as a failure."""

    name: str
    data: bytes
    error: bool = False


class Framer(Protocol):
    """Cuts bytes into frames, however they come in pieces.

    Raises AnswerError after the frames that came before what is wrong; it is not to be used after that, or when not
    all frames of a chunk were taken.
    """

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """The frames that this chunk completes."""

    def end(self) -> Iterator[Frame]:
        """What the end of the stream completes."""

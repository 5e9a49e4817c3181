"""What both writers of answers share."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple, Protocol

from extproc.translate.failures import Failure
from extproc.translate.neutral import Counted, Event, Finished, Started, Unexpressed, Usage

# Of both dialects' streams.
STREAM_TYPE = "text/event-stream; charset=utf-8"


class Origin(NamedTuple):
    """What an answer takes from its request: a name and a time of its own, for providers that give none."""

    id: str
    created: int  # seconds since 1970
    model: str
    usage_asked: bool


# Chunks repeat them: a provider must not make streams grow by long names.
_LONGEST_NAME = 256


def named(head: Started, origin: Origin) -> tuple[str, str]:
    """The answer's id and model: the provider's, else the request's."""
    return head.id[:_LONGEST_NAME] or origin.id, head.model[:_LONGEST_NAME] or origin.model


class Writer(Protocol):
    """Writes one stream in a client's dialect."""

    def event(self, event: Event) -> bytes:
        """The bytes for one event; often none."""

    def finish(self) -> bytes:
        """The end of a whole answer."""

    def fail(self, failure: Failure) -> bytes:
        """The end of a broken one."""


class Frame(NamedTuple):
    """What an answer says of itself, beside its content."""

    head: Started
    finished: Finished
    usage: Usage | None


def frame_of(events: Iterable[Event], add: Callable[[Event], None]) -> Frame:
    """The frame of a whole answer; its content goes to `add`."""
    head, finished, usage = Started(), Finished("stop"), None
    for event in events:
        if isinstance(event, Started):
            head = event
        elif isinstance(event, Finished):
            finished = event
        elif isinstance(event, Counted):
            usage = event.usage
        else:
            add(event)
    return Frame(head, finished, usage)


class EventWriter:
    """Writes events by their types, as `BY_EVENT` says. Stop reason and usage wait for the end."""

    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._finished = Finished("stop")
        self._usage: Usage | None = None
        self._noted: set[str] = set()

    def event(self, event: Event) -> bytes:
        """The bytes for one event; often none."""
        write = self.BY_EVENT.get(type(event))
        return write(self, event) if write is not None else b""

    def _count(self, event: Counted) -> bytes:
        self._usage = event.usage
        return b""

    def _finish(self, event: Finished) -> bytes:
        self._finished = event
        return b""

    def _unexpressed(self, event: Unexpressed) -> bytes:
        """A comment in the stream, once for each thing that has no place in the client's dialect."""
        shown = "".join(char if char.isalnum() and char.isascii() else "_" for char in event.what[:40])
        if shown in self._noted or len(self._noted) >= 16:
            return b""
        self._noted.add(shown)
        return f": not translated: {shown}\n\n".encode()

    BY_EVENT: ClassVar[dict[type, Callable[[Any, Any], bytes]]] = {
        Counted: _count,
        Finished: _finish,
        Unexpressed: _unexpressed,
    }

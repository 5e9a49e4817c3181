"""What both writers of answers share."""

from typing import NamedTuple, Protocol

from extproc.translate.failures import Failure
from extproc.translate.neutral import Event, Started


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


def note(what: str, noted: set[str]) -> bytes:
    """A comment in the stream, once for each thing that has no place in the client's dialect."""
    shown = "".join(char if char.isalnum() and char.isascii() else "_" for char in what[:40])
    if shown in noted or len(noted) >= 16:
        return b""
    noted.add(shown)
    return f": not translated: {shown}\n\n".encode()

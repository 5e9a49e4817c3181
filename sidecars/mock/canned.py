"""An answer that was written beforehand, in a fixture or by a recording."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class Canned:
    """`place` is where it was written. `controls` are fields of `Controls` that it sets.

    `text`, `calls` (names and arguments of tool calls) and `reason` take the place of what a text model would say;
    `pieces` is how a stream cuts the text. `events` is a whole stream as it is. `waits`: seconds before each piece or
    event; None leaves that to `chunk_delay`.
    """

    place: str
    controls: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    text: str | None = None
    calls: tuple[tuple[str, str], ...] = ()
    reason: str | None = None
    pieces: tuple[str, ...] | None = None
    events: tuple[bytes, ...] | None = None
    waits: tuple[float, ...] | None = None

    @property
    def speaks(self) -> bool:
        """Whether it says what a text model would."""
        return self.text is not None or bool(self.calls)

"""What a worker counts, from its start on."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from extproc.server.chain import Answered, Asked

_MOST_NAMES = 10_000


@dataclass(slots=True)
class Counters:
    """`refused`, `replied`, `failed`: by rule. `chosen`: by model.
    `found`: sums of what stages log as numbers.

    `chunks`: parts of streamed answers. `broken`: messages out of order.
    `translated`: attempts; `untranslatable`: those that were refused.
    """

    requests: int = 0
    answers: int = 0
    chunks: int = 0
    broken: int = 0
    translated: int = 0
    untranslatable: int = 0
    chosen: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    replied: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    def asked(self, asked: Asked, failed: list[str]) -> None:
        self.requests += 1
        self.noted(asked.metadata)
        if asked.refusal is not None:
            self.refused[asked.by] += 1
        if asked.model is not None:
            self.chosen[asked.model] += 1
        if asked.reply is not None:
            self.replied[asked.by] += 1
        self.failures(failed)

    def answered(self, answered: Answered, failed: list[str]) -> None:
        self.answers += 1
        self.noted(answered.metadata)
        if answered.refusal is not None:
            self.refused[answered.by] += 1
        self.failures(failed)

    def noted(self, metadata: Mapping[str, Any]) -> None:
        """Sums the numbers that stages log, by rule and name: `private.safety.email`."""
        for name, value in metadata.items():
            self._sum(name, value)

    def _sum(self, name: str, value: Any) -> None:
        if isinstance(value, dict):
            for inner, each in value.items():
                self._sum(f"{name}.{inner}", each)
        elif isinstance(value, int) and not isinstance(value, bool) and self._has_room(name):
            self.found[name] += value

    def _has_room(self, name: str) -> bool:
        return name in self.found or len(self.found) < _MOST_NAMES

    def failures(self, failed: list[str]) -> None:
        """Counts rules that failed; each is told once."""
        self.failed.update(failed)
        failed.clear()

    def read(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "requests": self.requests, "answers": self.answers, "chunks": self.chunks, "broken": self.broken,
            "translated": self.translated, "untranslatable": self.untranslatable,
            "chosen": dict(self.chosen), "refused": dict(self.refused), "replied": dict(self.replied),
            "failed": dict(self.failed), "found": dict(self.found),
        }  # fmt: skip

"""What a worker counts, from its start on."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from extproc.server.chain import Answered, Asked


@dataclass(slots=True)
class Counters:
    """`refused`, `replied`, `failed`: by rule. `chunks`: parts of streamed answers. `broken`: messages out of order.

    `translated`: attempts; `untranslatable`: those that were refused.
    """

    requests: int = 0
    answers: int = 0
    chunks: int = 0
    broken: int = 0
    translated: int = 0
    untranslatable: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    replied: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)

    def asked(self, asked: Asked, failed: list[str]) -> None:
        self.requests += 1
        if asked.refusal is not None:
            self.refused[asked.by] += 1
        if asked.reply is not None:
            self.replied[asked.by] += 1
        self.failures(failed)

    def answered(self, answered: Answered, failed: list[str]) -> None:
        self.answers += 1
        if answered.refusal is not None:
            self.refused[answered.by] += 1
        self.failures(failed)

    def failures(self, failed: list[str]) -> None:
        """Counts rules that failed; each is told once."""
        self.failed.update(failed)
        failed.clear()

    def read(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "requests": self.requests, "answers": self.answers, "chunks": self.chunks, "broken": self.broken,
            "translated": self.translated, "untranslatable": self.untranslatable,
            "refused": dict(self.refused), "replied": dict(self.replied), "failed": dict(self.failed),
        }  # fmt: skip

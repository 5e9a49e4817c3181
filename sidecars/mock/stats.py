"""Exact counts of what was asked and how it ended."""

from dataclasses import asdict, dataclass
from typing import Any

from sidecars.mock.answer import Usage


@dataclass(slots=True)
class _Row:
    """Requests for one model that were answered with one status (0: never answered), and their tokens."""

    requests: int = 0
    streams: int = 0
    completed: int = 0
    aborts: int = 0
    cuts: int = 0
    prompt: int = 0
    completion: int = 0


class Stats:
    """Every request ends as one of: completed; abort (the client left first); cut (the mock closed, as asked).

    A request enters its row when its answer is decided, so that in each row, at any time,
    `requests == completed + aborts + cuts + those being answered`.
    """

    def __init__(self) -> None:
        self._rows: dict[tuple[str, int], _Row] = {}
        self._health_checks = 0
        self._open_requests = 0
        self._open_streams = 0

    def begin(self) -> "Meter":
        self._open_requests += 1
        return Meter(self)

    def health_check(self) -> None:
        self._health_checks += 1

    def report(self) -> dict[str, Any]:
        """The document of GET /mock/stats."""
        totals = {name: sum(getattr(row, name) for row in self._rows.values()) for name in _Row.__dataclass_fields__}
        return {
            **_view(_Row(**totals)),
            "open_requests": self._open_requests,
            "open_streams": self._open_streams,
            "health_checks": self._health_checks,
            "by": [{"model": model, "status": status, **_view(row)} for (model, status), row in self._rows.items()],
        }

    def enter(self, model: str, status: int, stream: bool) -> _Row:
        row = self._rows.get((model, status))
        if row is None:
            row = self._rows[model, status] = _Row()
        row.requests += 1
        row.streams += stream
        self._open_streams += stream
        return row

    def leave(self, stream: bool) -> None:
        self._open_requests -= 1
        self._open_streams -= stream


class Meter:
    """Follows one request. Unless told otherwise it ends as an abort."""

    __slots__ = ("_outcome", "_row", "_stats", "_stream")

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._row: _Row | None = None
        self._stream = False
        self._outcome = "aborts"

    def answering(self, model: str, status: int, *, stream: bool) -> None:
        self._row = self._stats.enter(model, status, stream)
        self._stream = stream

    def served(self, usage: Usage, sent: int, total: int) -> None:
        """Counts the prompt, and of the completion the share that the chunks sent are of all, rounded down."""
        row = self._entered()
        row.prompt += usage.prompt
        row.completion += usage.completion * sent // total if total else usage.completion

    def completed(self) -> None:
        self._outcome = "completed"

    def cut(self) -> None:
        self._outcome = "cuts"

    def end(self) -> None:
        row = self._entered()
        setattr(row, self._outcome, getattr(row, self._outcome) + 1)
        self._stats.leave(self._stream)

    def _entered(self) -> _Row:
        if self._row is None:
            self._row = self._stats.enter("", 0, False)
        return self._row


def _view(row: _Row) -> dict[str, Any]:
    view = asdict(row)
    return {**view, "tokens": {"prompt": view.pop("prompt"), "completion": view.pop("completion")}}

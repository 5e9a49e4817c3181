"""Reads entries of an audit log."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from controlplane.audit import files
from controlplane.audit.entry import DamagedLineError, Entry, parse
from controlplane.policy import grammar


@dataclass(frozen=True, slots=True)
class Page:
    """Entries in the order that was asked for, and how many lines among them are damaged: `verify` says more."""

    entries: tuple[Entry, ...]
    damaged: int


def read(
    folder: Path,
    *,
    since: datetime | None = None,
    action: str = "",
    limit: int = 100,
    newest: bool = True,
    before: int | None = None,
) -> Page:
    """At most `limit` entries, newest or oldest first.

    Args:
        since: only entries at this time or later, by their own times.
        action: only this action and those below it: `key` takes `key.issued`.
        before: only entries with smaller numbers: the next page, newest first.

    Raises:
        OSError: the log cannot be read.
    """
    found: list[Entry] = []
    damaged = 0
    for line in _lines(files.snapshot(folder), newest, before):
        if len(found) >= limit:
            break
        try:
            entry = parse(line)
        except DamagedLineError:
            damaged += 1
            continue
        if (since is None or entry.at >= since) and _below(entry.action, action) and _earlier(entry.seq, before):
            found.append(entry)
    return Page(tuple(found), damaged)


def _lines(segments: list[files.Segment], newest: bool, before: int | None) -> Iterator[bytes]:
    wanted = [segment for segment in segments if _earlier(segment.first, before)]
    for segment in reversed(wanted) if newest else wanted:
        try:
            yield from files.backward(segment) if newest else files.lines(segment)
        except FileNotFoundError:  # retention was faster
            continue


def _earlier(seq: int, before: int | None) -> bool:
    return before is None or seq < before


def _below(action: str, prefix: str) -> bool:
    return not prefix or action == prefix or action.startswith(f"{prefix}.")


def since_when(text: str, now: datetime) -> datetime | None:
    """The time that an age such as 24h, or a time, stands for; None for "". Raises ValueError."""
    if not text:
        return None
    try:
        return grammar.earlier(text, now)
    except ValueError as error:
        raise ValueError(f"expected {error}") from None

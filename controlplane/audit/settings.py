"""Sizes and times of an audit log."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    """Sizes and times of a log."""

    segment_bytes: int = 16 << 20  # a segment that would grow beyond it is followed by a new one
    keep_bytes: int = 1 << 30  # whole segments are removed, oldest first, while all take more than this,
    keep_days: int = 400  # or while all entries of the oldest are older than this
    waiting: int = 1000  # entries kept in memory while they cannot be written
    lock_s: float = 10  # how long to wait for another process that appends

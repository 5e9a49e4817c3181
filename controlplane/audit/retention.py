"""Which segments of an audit log are old enough to go."""

from datetime import datetime, timedelta

from controlplane.audit import files
from controlplane.audit.entry import DamagedLineError, parse
from controlplane.audit.settings import Settings


def split(
    segments: list[files.Segment], settings: Settings, now: datetime
) -> tuple[list[files.Segment], list[files.Segment]]:
    """The segments to remove and those to keep, in order; the newest is always kept.

    A segment is older than the first entry of the next one. Where that line is damaged, age removes nothing.
    """
    total = sum(segment.size for segment in segments)
    horizon = now - timedelta(days=settings.keep_days)
    for index, segment in enumerate(segments[:-1]):
        if total <= settings.keep_bytes and not _begins_before(segments[index + 1], horizon):
            return segments[:index], segments[index:]
        total -= segment.size
    return segments[:-1], segments[-1:]


def _begins_before(segment: files.Segment, horizon: datetime) -> bool:
    try:
        return parse(next(files.lines(segment), b"")).at < horizon
    except DamagedLineError:
        return False

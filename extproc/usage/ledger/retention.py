"""Old records and fine rollups out of the database, a few at a time."""

from collections.abc import Mapping

from sqlalchemy import Connection, delete, insert, select, tuple_, update

from extproc.usage.ledger.schema import TABLES, horizons
from extproc.usage.ledger.spans import DAY, Grain


def cutoffs(now_us: int, raw_days: int, minute_days: int, hour_days: int) -> Mapping[Grain, int]:
    """Before which UTC midnight each grain goes.

    Raises:
        ValueError: a finer grain is kept longer than a coarser one, or a number is below one.
    """
    if not 1 <= raw_days <= minute_days <= hour_days:
        raise ValueError(
            f"cannot keep records {raw_days}, minutes {minute_days} and hours {hour_days} days: "
            "expected 1 <= records <= minutes <= hours"
        )
    kept: Mapping[Grain, int] = {"record": raw_days, "minute": minute_days, "hour": hour_days}
    return {grain: max(0, (now_us // DAY - days) * DAY) for grain, days in kept.items()}


def move_horizons(connection: Connection, to: Mapping[Grain, int]) -> None:
    """From when this is committed, no answer relies on what is about to go. Horizons move forward only."""
    known = {row.grain: row.at_us for row in connection.execute(select(horizons))}
    for grain, at_us in to.items():
        if grain not in known:
            connection.execute(insert(horizons).values(grain=grain, at_us=at_us))
        elif known[grain] < at_us:
            connection.execute(update(horizons).where(horizons.c.grain == grain).values(at_us=at_us))


def remove(connection: Connection, grain: Grain, before_us: int, rows: int) -> int:
    """Removes at most `rows` of the oldest rows of a grain. Returns how many."""
    table = TABLES[grain]
    keys = list(table.primary_key.columns)
    oldest = select(*keys).where(table.c.at_us < before_us).order_by(table.c.at_us).limit(rows)
    return connection.execute(delete(table).where(tuple_(*keys).in_(oldest))).rowcount

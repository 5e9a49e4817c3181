"""Records into the database: once each, into the rollups with them, and all or nothing."""

import hashlib
from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, insert, select

from extproc.usage.ledger.bulk import Bulk, Row
from extproc.usage.ledger.histogram import add, decode, encode
from extproc.usage.ledger.rollup import Cell, Place, by_minute, coarser
from extproc.usage.ledger.schema import BOUNDED, ID_LIMIT, days, hours, minutes, series
from extproc.usage.ledger.schema import records as records_table
from extproc.usage.ledger.spans import DAY, HOUR
from extproc.usage.record import UsageRecord

# Key, team, organization, model, provider, served model: what a series is.
Names = tuple[str, ...]

DIMENSIONS = ("key", "team", "organization", "model", "provider", "served_model")

_NAME_LIMIT = 256  # characters; a client may send any text as a model's name


class KnownRecordError(Exception):
    """A record that was to be inserted is there already."""


class SeriesNumbers:
    """The numbers of the series met so far. Forgets all of them when they are too many."""

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._known: dict[Names, int] = {}

    def clear(self) -> None:
        self._known = {}

    def of(self, connection: Connection, records: Iterable[UsageRecord]) -> tuple[list[int], dict[Names, int]]:
        """The series of each record, and those of them that are to be remembered once the transaction is committed."""
        names: list[Names] = [record[2:8] for record in records]  # as DIMENSIONS
        unknown = set(names).difference(self._known)
        found = _numbers(connection, unknown) if unknown else {}
        known = self._known | found if found else self._known
        return [known[name] for name in names], found

    def remember(self, found: dict[Names, int]) -> None:
        if len(self._known) + len(found) > self._limit:
            self.clear()
        self._known.update(found)


def insert_all(connection: Connection, bulk: Bulk, records: Sequence[UsageRecord], series: Sequence[int]) -> None:
    """Inserts records, given with the number of the series of each, and adds them to the rollups.

    Raises:
        KnownRecordError: one is there already, or twice among these; nothing of the transaction may stay then.
    """
    if not records:
        return
    if bulk.add(connection, _rows(records, series)) < len(records):
        raise KnownRecordError
    _add(connection, bulk, by_minute(records, series))


def new_ones(connection: Connection, bulk: Bulk, records: Sequence[UsageRecord]) -> list[UsageRecord]:
    """Those that are not there already; of equal ones the first."""
    first = {_key(record): record for record in reversed(records)}
    known = bulk.find(connection, records_table, list(first))
    return [record for record in records if first.get(key := _key(record)) is record and key not in known]


def refusal(record: UsageRecord) -> str | None:
    """Why no database can hold this record."""
    values = dict(zip(BOUNDED, _numbers_of(record), strict=True))
    for name, value in values.items():
        if value is not None and not 0 <= value <= BOUNDED[name]:
            return f"{name} is {value}, expected 0 to {BOUNDED[name]}"
    for name in ("id", "surface"):
        text: str = getattr(record, name)
        if text != _storable(text):
            return f"{name} holds a character that no database takes"
    if len(record.id) > ID_LIMIT:
        return f"id has {len(record.id)} characters, expected at most {ID_LIMIT}"
    return None


def _add(connection: Connection, bulk: Bulk, cells: dict[Place, Cell]) -> None:
    by_hour = coarser(cells, HOUR)
    for table, sums in ((minutes, cells), (hours, by_hour), (days, coarser(by_hour, DAY))):
        places = sorted(sums)
        before = bulk.find(connection, table, places)
        bulk.put(connection, table, [_rollup_row(place, sums[place], before.get(place)) for place in places])


def _rollup_row(place: Place, cell: Cell, before: str | None) -> Row:
    histogram = cell.histogram
    if before is not None:
        histogram = decode(before)
        add(histogram, cell.histogram)
    return (*place, *cell.counts, encode(histogram))


def _key(record: UsageRecord) -> tuple[int, str]:
    return record.at_us, record.id


def _rows(records: Sequence[UsageRecord], series: Sequence[int]) -> list[Row]:
    """In the order of the table's columns: the records' fields, but for the names, which are the series."""
    # Truth as a number: sqlite3 asks every bool what it would like to be adapted to, at half a microsecond each.
    return [
        (r[1], r[0], number, *r[8:11], *r[11], +r[12], *r[13:18], +r[18], +r[19], +r[20])
        for r, number in zip(records, series, strict=True)
    ]


def _numbers_of(r: UsageRecord) -> tuple[int | None, ...]:
    t = r.tokens
    return (
        r.at_us, r.attempts, r.status, t.input, t.output, t.cached, t.cache_write, t.reasoning,
        r.cost_pico, r.first_byte_us, r.duration_us, r.bytes_in, r.bytes_out,
    )  # fmt: skip


def _storable(text: str) -> str:
    """What every database takes: no NUL, no half of a surrogate pair."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def _numbers(connection: Connection, unknown: set[Names]) -> dict[Names, int]:
    """Finds the series, and makes those that are absent. Under the write lock: nobody else makes them meanwhile."""
    cleaned = {names: tuple(_storable(name[:_NAME_LIMIT]) for name in names) for names in unknown}
    digests = {
        names: hashlib.blake2b("\0".join(clean).encode(), digest_size=16).hexdigest()
        for names, clean in cleaned.items()
    }
    found: dict[str, int] = {}
    wanted = sorted(set(digests.values()))
    for at in range(0, len(wanted), 1000):  # databases bound the parameters of a statement
        query = select(series.c.digest, series.c.id).where(series.c.digest.in_(wanted[at : at + 1000]))
        found.update((row.digest, row.id) for row in connection.execute(query))
    absent = {
        digests[names]: {"digest": digests[names], **dict(zip(DIMENSIONS, clean, strict=True))}
        for names, clean in cleaned.items()
        if digests[names] not in found
    }
    if absent:
        made = connection.execute(insert(series).returning(series.c.digest, series.c.id), list(absent.values()))
        found.update((row.digest, row.id) for row in made)
    return {names: found[digest] for names, digest in digests.items()}

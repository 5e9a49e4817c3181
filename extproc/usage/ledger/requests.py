"""Records of a request: found by the id that the client saw, in an index by hour and id."""

import re

from sqlalchemy import ColumnElement, Connection, func, literal_column, select

from extproc.usage.ledger.schema import records
from extproc.usage.ledger.spans import HOUR
from extproc.usage.record import REQUEST_ID_LIMIT

_HOURS = 500  # asked for at a time: databases bound the parameters of a statement
_SUFFIX = re.compile(r"[0-9a-f]{9,}")  # what the collector writes behind a request id: of the log, and where in it
_MOST = 1000  # records of one request id, which a client may send again and again


def keys_of_request(connection: Connection, request: str) -> list[tuple[int, str]]:
    """Time and id of the newest records of a request, or of the record with this very id."""
    if "\0" in request:  # which no database takes
        return []
    asked = request[:REQUEST_ID_LIMIT]
    found = [
        (at_us, name)
        for at_us, name in _between(connection, f"{asked}.", f"{asked}/")  # the character after the dot
        if _SUFFIX.fullmatch(name.removeprefix(f"{asked}."))
    ]
    return found or _between(connection, request, f"{request}\x01")


def _between(connection: Connection, first: str, end: str) -> list[tuple[int, str]]:
    """Records with ids in a range of bytes, newest first."""
    oldest, newest = connection.execute(select(func.min(records.c.at_us), func.max(records.c.at_us))).one()
    if oldest is None:
        return []
    # As the index has them, so that it is used.
    hour: ColumnElement[int] = literal_column(f"(usage_records.at_us / {HOUR})")
    name = records.c.id if _sqlite(connection) else records.c.id.collate("C")
    found: list[tuple[int, str]] = []
    for last in range(newest // HOUR, oldest // HOUR - 1, -_HOURS):
        hours = range(last, last - _HOURS, -1)
        query = select(records.c.at_us, records.c.id).where(hour.in_(hours), name >= first, name < end)
        rows = connection.execute(query.order_by(records.c.at_us.desc()).limit(_MOST))
        found.extend((row.at_us, row.id) for row in rows)
        if len(found) >= _MOST:
            break
    return found


def _sqlite(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite"

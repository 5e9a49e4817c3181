"""Records of a request: found by the id that the client saw."""

import re

from sqlalchemy import ColumnElement, Connection, func, literal_column, select

from extproc.usage.ledger.schema import RUN, RUNS, records
from extproc.usage.record import REQUEST_ID_LIMIT

_AT_ONCE = 500  # runs asked for at a time: databases bound the parameters of a statement
_SUFFIX = re.compile(r"[0-9a-f]{9,}")  # what the collector writes behind a request id: of the log, and where in it
_MOST = 1000  # records of one request id, which a client may send again and again


def numbers_of_request(connection: Connection, request: str) -> list[int]:
    """The numbers of the newest records of a request, or of the record with this very id."""
    if "\0" in request:  # which no database takes
        return []
    asked = request[:REQUEST_ID_LIMIT]
    found = [
        number
        for number, name in _between(connection, f"{asked}.", f"{asked}/")  # the character after the dot
        if _SUFFIX.fullmatch(name.removeprefix(f"{asked}."))
    ]
    return found or [number for number, _ in _between(connection, request, f"{request}\x01")]


def _between(connection: Connection, first: str, end: str) -> list[tuple[int, str]]:
    """Numbers and ids of records with ids in a range of bytes, those written last first."""
    oldest, newest = connection.execute(select(func.min(records.c.number), func.max(records.c.number))).one()
    if oldest is None:
        return []
    # As the index has them, so that it is used.
    run: ColumnElement[int] = literal_column(RUNS)
    name = records.c.id if _sqlite(connection) else records.c.id.collate("C")
    found: list[tuple[int, str]] = []
    for last in range(newest // RUN, oldest // RUN - 1, -_AT_ONCE):
        runs = range(last, last - _AT_ONCE, -1)
        query = select(records.c.number, records.c.id).where(run.in_(runs), name >= first, name < end)
        rows = connection.execute(query.order_by(records.c.number.desc()).limit(_MOST))
        found.extend((row.number, row.id) for row in rows)
        if len(found) >= _MOST:
            break
    return found


def _sqlite(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite"

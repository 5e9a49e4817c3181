"""The statements that run for every batch, in each database's fastest form.

SQLite binds rows one by one in C. For PostgreSQL a batch travels as one JSON document, encoded in C on this side and
decoded there: one round trip a statement.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import orjson
from sqlalchemy import BigInteger, Boolean, Connection, Integer, Table, Text

from extproc.usage.ledger.rollup import COUNTERS, Place
from extproc.usage.ledger.schema import TABLES, records

Row = tuple[Any, ...]


class Bulk(Protocol):
    """Statements on many rows; rows are in the order of the table's columns."""

    def insert_records(self, connection: Connection, rows: Sequence[Row]) -> set[str] | None:
        """Inserts the records whose id is new. Returns these ids; None when all were."""

    def histograms(self, connection: Connection, table: Table, places: Sequence[Place]) -> dict[Place, str]:
        """The encoded histograms of a rollup's rows that exist."""

    def add(self, connection: Connection, table: Table, rows: Sequence[Row]) -> None:
        """Inserts rows of a rollup; where one exists, its counters are added up and its histogram is replaced."""


class SqliteBulk:
    """Bulk for SQLite."""

    def insert_records(self, connection: Connection, rows: Sequence[Row]) -> set[str] | None:
        (last,) = connection.exec_driver_sql("SELECT coalesce(max(rowid), 0) FROM usage_records").one()
        result = connection.exec_driver_sql(_SQLITE_INSERT, rows)
        if result.rowcount == len(rows):
            return None
        added = connection.exec_driver_sql("SELECT id FROM usage_records WHERE rowid > ?", (last,))
        return set(added.scalars())

    def histograms(self, connection: Connection, table: Table, places: Sequence[Place]) -> dict[Place, str]:
        result = connection.exec_driver_sql(_SQLITE_HISTOGRAMS[table.name], (orjson.dumps(places).decode(),))
        return {(at, series): histogram for at, series, histogram in result}

    def add(self, connection: Connection, table: Table, rows: Sequence[Row]) -> None:
        connection.exec_driver_sql(_SQLITE_ADD[table.name], rows)


class PostgresBulk:
    """Bulk for PostgreSQL."""

    def insert_records(self, connection: Connection, rows: Sequence[Row]) -> set[str] | None:
        ids = set(connection.exec_driver_sql(_POSTGRES_INSERT, (_document(rows),)).scalars())
        return None if len(ids) == len(rows) else ids

    def histograms(self, connection: Connection, table: Table, places: Sequence[Place]) -> dict[Place, str]:
        result = connection.exec_driver_sql(_POSTGRES_HISTOGRAMS[table.name], (_document(places),))
        return {(at, series): histogram for at, series, histogram in result}

    def add(self, connection: Connection, table: Table, rows: Sequence[Row]) -> None:
        connection.exec_driver_sql(_POSTGRES_ADD[table.name], (_document(rows),))


BULK: dict[str, Bulk] = {"sqlite": SqliteBulk(), "postgresql": PostgresBulk()}


def _document(rows: Sequence[Row]) -> str:
    return orjson.dumps(rows).decode()


def _insert(table: Table) -> str:
    return f"INSERT INTO {table.name} ({', '.join(column.name for column in table.columns)})"


def _values(table: Table) -> str:
    return f"VALUES ({', '.join('?' * len(table.columns))})"


def _select(table: Table) -> str:
    """The rows of a table out of a JSON list of lists."""
    names = {Text: "text", BigInteger: "bigint", Integer: "integer", Boolean: "boolean"}
    columns = (f"(v ->> {at})::{names[type(column.type)]}" for at, column in enumerate(table.columns))
    return f"SELECT {', '.join(columns)} {_FROM_JSON}"


def _upsert(table: Table) -> str:
    added = ", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in COUNTERS)
    return f"ON CONFLICT (at_us, series) DO UPDATE SET {added}, histogram = excluded.histogram"


# All names in these statements are the schema's; values are bound.
_ROLLUPS = tuple(table for grain, table in TABLES.items() if grain != "record")
_FROM_JSON = "FROM jsonb_array_elements(%s::jsonb) AS v"

_SQLITE_INSERT = f"{_insert(records)} {_values(records)} ON CONFLICT (id) DO NOTHING"
_SQLITE_HISTOGRAMS = {
    table.name: f"SELECT at_us, series, histogram FROM json_each(?) AS place JOIN {table.name} "  # noqa: S608
    "ON at_us = json_extract(place.value, '$[0]') AND series = json_extract(place.value, '$[1]')"
    for table in _ROLLUPS
}
_SQLITE_ADD = {table.name: f"{_insert(table)} {_values(table)} {_upsert(table)}" for table in _ROLLUPS}

_POSTGRES_INSERT = f"{_insert(records)} {_select(records)} ON CONFLICT (id) DO NOTHING RETURNING id"
_POSTGRES_HISTOGRAMS = {
    table.name: f"SELECT at_us, series, histogram {_FROM_JSON} JOIN {table.name} "
    "ON at_us = (v ->> 0)::bigint AND series = (v ->> 1)::integer"
    for table in _ROLLUPS
}
_POSTGRES_ADD = {table.name: f"{_insert(table)} {_select(table)} {_upsert(table)}" for table in _ROLLUPS}

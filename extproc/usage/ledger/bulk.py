"""The statements that run for every batch, in each database's fastest form.

SQLite binds rows one by one in C. For PostgreSQL a batch travels as one JSON document, encoded in C on this side and
decoded there: one round trip a statement.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import orjson
from sqlalchemy import BigInteger, Boolean, Column, Connection, Integer, Table, Text

from extproc.usage.ledger.rollup import COUNTERS
from extproc.usage.ledger.schema import TABLES, key, records

Row = tuple[Any, ...]

# Of a record its time and id, of a rollup's row the start of the bucket and the series.
Key = tuple[int, str] | tuple[int, int]


class Bulk(Protocol):
    """Statements on many rows, under the write lock. Rows are in the order of the table's columns, a record's without
    its number.
    """

    def find(self, connection: Connection, table: Table, keys: Sequence[Key]) -> dict[Key, str]:
        """The keys that exist; for a rollup with the encoded histogram."""

    def add(self, connection: Connection, rows: Sequence[Row]) -> int:
        """Inserts records, but for those that are there already. How many were inserted."""

    def put(self, connection: Connection, table: Table, rows: Sequence[Row]) -> None:
        """Inserts rows of a rollup. Where it has one already, counters are added up and the histogram is replaced."""


class SqliteBulk:
    """Bulk for SQLite."""

    def find(self, connection: Connection, table: Table, keys: Sequence[Key]) -> dict[Key, str]:
        result = connection.exec_driver_sql(_SQLITE_FIND[table.name], (_document(keys),))
        return {(at, which): value for at, which, value in result}

    def add(self, connection: Connection, rows: Sequence[Row]) -> int:
        if "\0" in "".join([row[1] for row in rows]):
            raise ValueError(_NUL)
        return connection.exec_driver_sql(_SQLITE_PUT[records.name], rows).rowcount

    def put(self, connection: Connection, table: Table, rows: Sequence[Row]) -> None:
        connection.exec_driver_sql(_SQLITE_PUT[table.name], rows)


class PostgresBulk:
    """Bulk for PostgreSQL."""

    def find(self, connection: Connection, table: Table, keys: Sequence[Key]) -> dict[Key, str]:
        result = connection.exec_driver_sql(_POSTGRES_FIND[table.name], (_document(keys),))
        return {(at, which): value for at, which, value in result}

    def add(self, connection: Connection, rows: Sequence[Row]) -> int:
        return connection.exec_driver_sql(_POSTGRES_PUT[records.name], (_document(rows),)).rowcount

    def put(self, connection: Connection, table: Table, rows: Sequence[Row]) -> None:
        connection.exec_driver_sql(_POSTGRES_PUT[table.name], (_document(rows),))


BULK: dict[str, Bulk] = {"sqlite": SqliteBulk(), "postgresql": PostgresBulk()}


_NUL = "text with a NUL"  # PostgreSQL would refuse it, SQLite would cut it off there


def _document(rows: Sequence[Row]) -> str:
    document = orjson.dumps(rows).decode()
    if "\\u0000" in document:
        raise ValueError(_NUL)
    return document


def _found(table: Table) -> str:
    """The columns to find: both of the key, and the value."""
    at, which = (f"{table.name}.{name}" for name in key(table))
    return f"SELECT {at}, {which}, {table.name}.{'id' if table is records else 'histogram'}"


def _columns(table: Table) -> list[Column[Any]]:
    """Those that are given: a record's number is not."""
    return [column for column in table.columns if column.identity is None]


def _insert(table: Table) -> str:
    return f"INSERT INTO {table.name} ({', '.join(column.name for column in _columns(table))})"


def _upsert(table: Table) -> str:
    conflict = f"ON CONFLICT ({', '.join(key(table))}) DO"
    if table is records:
        return f"{conflict} NOTHING"
    added = ", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in COUNTERS)
    return f"{conflict} UPDATE SET {added}, histogram = excluded.histogram"


def _marks(table: Table) -> str:
    return f"VALUES ({', '.join('?' * len(_columns(table)))})"


def _unpacked(table: Table) -> str:
    """The rows of a table out of a JSON list of lists."""
    columns = (f"(v ->> {at})::{_POSTGRES_TYPES[type(column.type)]}" for at, column in enumerate(_columns(table)))
    return f"SELECT {', '.join(columns)} {_FROM_JSON}"


def _sqlite_match(table: Table) -> str:
    # Qualified: json_each has columns of its own, `id` among them.
    keys = (f"{table.name}.{name} = json_extract(v.value, '$[{at}]')" for at, name in enumerate(key(table)))
    return f"FROM json_each(?) AS v JOIN {table.name} ON {' AND '.join(keys)}"


def _postgres_match(table: Table) -> str:
    keys = (
        f"{table.name}.{name} = (v ->> {at})::{_POSTGRES_TYPES[type(table.c[name].type)]}"
        for at, name in enumerate(key(table))
    )
    return f"{_FROM_JSON} JOIN {table.name} ON {' AND '.join(keys)}"


# All names in these statements are the schema's; values are bound.
_POSTGRES_TYPES = {Text: "text", BigInteger: "bigint", Integer: "integer", Boolean: "boolean"}
_FROM_JSON = "FROM jsonb_array_elements(%s::jsonb) AS v"
_SQLITE_FIND = {table.name: f"{_found(table)} {_sqlite_match(table)}" for table in TABLES.values()}
_SQLITE_PUT = {table.name: f"{_insert(table)} {_marks(table)} {_upsert(table)}" for table in TABLES.values()}
_POSTGRES_FIND = {table.name: f"{_found(table)} {_postgres_match(table)}" for table in TABLES.values()}
_POSTGRES_PUT = {table.name: f"{_insert(table)} {_unpacked(table)} {_upsert(table)}" for table in TABLES.values()}

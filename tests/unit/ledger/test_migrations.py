"""A ledger that an older version wrote: nothing of it is lost, and it goes on."""

from collections.abc import Callable
from contextlib import closing

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, inspect

from extproc.usage.ledger import Ledger, migrate, schema
from tests.unit.ledger.usage_records import MAY_1, record

BATCH = [
    record(n, MAY_1 + 7_000_000 * (n % 13), key="ab"[n % 2], id=f"{n * 7919 % 50:02}.0123456789") for n in range(50)
]


def at_version(url: str, step: Callable[[Config], None]) -> None:
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            config = Config()
            config.set_main_option("script_location", str(migrate.SCRIPTS))
            config.set_main_option("path_separator", "os")
            config.attributes["connection"] = connection
            step(config)
    finally:
        engine.dispose()


def key_of(url: str) -> list[str]:
    engine = create_engine(url)
    try:
        found: list[str] = inspect(engine).get_pk_constraint("usage_records")["constrained_columns"]
        return found
    finally:
        engine.dispose()


def fill(connection: Connection) -> None:
    """As version 0002 wrote records."""
    columns = [column.name for column in schema.records.columns if column.name != "number"]
    table = schema.series
    names = {name: getattr(BATCH[0], name) for name in ("team", "organization", "model", "provider", "served_model")}
    numbers = {}
    for owner in "ab":
        made = connection.execute(table.insert().values(digest=owner, key=owner, **names).returning(table.c.id))
        numbers[owner] = made.scalar_one()
    for each in BATCH:
        values = {**each._asdict(), "series": numbers[each.key]}
        values |= {f"{name}_tokens": count for name, count in each.tokens._asdict().items()}
        connection.execute(schema.records.insert().inline().values({name: values[name] for name in columns}))


def expect_all(url: str) -> None:
    newest = sorted(BATCH, key=lambda each: (each.at_us, each.id), reverse=True)
    with closing(Ledger.open(url)) as ledger:
        assert list(ledger.records(limit=100)) == newest
        assert list(ledger.records({"key": "a"}, limit=100)) == [each for each in newest if each.key == "a"]
        assert {each.id for each in ledger.records({"id": "07"})} == {"07.0123456789"}


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
def test_records_are_numbered_once(url: str) -> None:
    at_version(url, lambda config: command.upgrade(config, "0002"))
    assert key_of(url) == ["at_us", "id"]
    at_version(url, lambda config: fill(config.attributes["connection"]))
    expect_all(url)
    assert key_of(url) == ["number"]
    at_version(url, lambda config: command.downgrade(config, "0002"))
    assert key_of(url) == ["at_us", "id"]
    expect_all(url)
    with closing(Ledger.open(url)) as ledger:  # which are known, and new ones
        assert ledger.write([*BATCH, record(99)], "log", 1) == (record(99),)
        assert len(ledger.records(limit=100)) == 51

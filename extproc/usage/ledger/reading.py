"""Sums over time ranges, from rollups where they fit and from records where they do not; and single records."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Select,
    and_,
    case,
    func,
    literal,
    not_,
    or_,
    select,
)

from extproc.usage.ledger.histogram import FIRST_BYTE, add, decode, slot
from extproc.usage.ledger.requests import numbers_of_request
from extproc.usage.ledger.rollup import COUNTERS
from extproc.usage.ledger.schema import TABLES, horizons, records, series
from extproc.usage.ledger.spans import DAY, HOUR, MINUTE, Grain, Span, spans
from extproc.usage.ledger.writing import DIMENSIONS
from extproc.usage.record import Tokens, UsageRecord

# What usage may be grouped by besides the dimensions: bucket, width and how its start is written.
_TIMES: Mapping[str, tuple[Grain, int, str]] = {
    "day": ("day", DAY, "%Y-%m-%d"),
    "hour": ("hour", HOUR, "%Y-%m-%dT%H:00Z"),
    "minute": ("minute", MINUTE, "%Y-%m-%dT%H:%MZ"),
}
GROUPS = (*DIMENSIONS, *_TIMES)

# What is summed up: what rollups count, and requests whose series has no provider, since the cache answered them.
SUMS = (*COUNTERS, "cache_hits")

# Values of the group, in the order asked for.
Group = tuple[str, ...]

# A sum of money may exceed what SQLite adds up: it is summed in two parts.
_PART = 10**9


@dataclass(slots=True)
class Totals:
    """The sums of one group, by the names of SUMS, and its histogram."""

    sums: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SUMS, 0))
    histogram: dict[int, int] = field(default_factory=dict)


def totals(
    connection: Connection,
    by: Sequence[str],
    since_us: int,
    until_us: int,
    where: Mapping[str, str],
    counters: Sequence[str] = SUMS,
    *,
    latencies: bool = False,
) -> dict[Group, Totals]:
    """The sums, of `counters`, of each group of a range; with the histograms when `latencies`.

    Raises:
        ValueError: a name in `by` or `where` is none to group or to choose by.
    """
    _expect(by, GROUPS, "group by")
    found: dict[Group, Totals] = {}
    for span in _spans(connection, by, since_us, until_us):
        for row in connection.execute(_sums(span, by, where, counters)):
            into = found.setdefault(_group(by, row), Totals()).sums
            for name, high, low in zip(counters, row[len(by) :: 2], row[len(by) + 1 :: 2], strict=True):
                into[name] += int(high) * _PART + int(low)
        if latencies:
            _add_latencies(connection, found, span, by, where)
    return found


def single_records(
    connection: Connection, where: Mapping[str, str], limit: int, before: tuple[int, str] | None
) -> tuple[UsageRecord, ...]:
    """Records, newest first, older than the one with time and id `before`.

    Raises:
        ValueError: a name in `where` is neither a dimension nor ``id``.
    """
    _expect(where, ("id", *DIMENSIONS), "choose records by")
    names = {name: value for name, value in where.items() if name != "id"}
    conditions = _chosen(names)
    if before is not None:
        conditions.append(_older(records, before))
    if "id" in where:
        conditions.append(records.c.number.in_(numbers_of_request(connection, where["id"])))
    elif names:
        conditions.append(records.c.number.in_(_newest_of_series(limit, before)))
    query = select(records, series).join(series, series.c.id == records.c.series).where(*conditions)
    rows = connection.execute(query.order_by(records.c.at_us.desc(), records.c.id.desc()).limit(limit))
    return tuple(_record(row) for row in rows)


def _spans(connection: Connection, by: Sequence[str], since_us: int, until_us: int) -> list[Span]:
    coarsest: Grain = next((_TIMES[name][0] for name in ("minute", "hour") if name in by), "day")
    known = {row.grain: row.at_us for row in connection.execute(select(horizons))}
    return spans(max(since_us, 0), until_us, coarsest, known)


def _sums(span: Span, by: Sequence[str], where: Mapping[str, str], counters: Sequence[str]) -> Select[Any]:
    """The group, then for each counter the high and the low part of its sum."""
    kept: Any = _RECORD_COUNTERS if span.grain == "record" else TABLES[span.grain].c
    values = {name: kept[name] for name in COUNTERS}
    values["cache_hits"] = case((series.c.provider == "", values["requests"]), else_=literal(0, BigInteger))
    parts = [
        func.coalesce(func.sum(part), 0) for name in counters for part in (values[name] // _PART, values[name] % _PART)
    ]
    groups = _group_columns(span, by)
    query = _rows(span, where, *groups, *parts)
    # Without a group a single row would come back even of nothing.
    return query.group_by(*groups) if groups else query.having(func.count() > 0)


def _add_latencies(
    connection: Connection, found: dict[Group, Totals], span: Span, by: Sequence[str], where: Mapping[str, str]
) -> None:
    groups = _group_columns(span, by)
    if span.grain != "record":
        for row in connection.execute(_rows(span, where, *groups, TABLES[span.grain].c.histogram)):
            add(found[_group(by, row)].histogram, decode(row[-1]))
        return
    for row in connection.execute(_rows(span, where, *groups, records.c.duration_us, records.c.first_byte_us)):
        histogram = found[_group(by, row)].histogram
        slots = [slot(row[-2])] if row[-1] is None else [slot(row[-2]), FIRST_BYTE + slot(row[-1])]
        for at in slots:
            histogram[at] = histogram.get(at, 0) + 1


def _rows(span: Span, where: Mapping[str, str], *columns: ColumnElement[Any]) -> Select[Any]:
    table = TABLES[span.grain]
    within = (table.c.at_us >= span.since_us, table.c.at_us < span.until_us)
    joined = table.join(series, series.c.id == table.c.series)
    return select(*columns).select_from(joined).where(*within, *_chosen(where))


def _chosen(where: Mapping[str, str]) -> list[ColumnElement[bool]]:
    _expect(where, DIMENSIONS, "choose by")
    return [series.c[name] == value for name, value in where.items()]


def _group_columns(span: Span, by: Sequence[str]) -> list[ColumnElement[Any]]:
    at = TABLES[span.grain].c.at_us
    return [at - at % _TIMES[name][1] if name in _TIMES else series.c[name] for name in by]


def _group(by: Sequence[str], row: Row[Any]) -> Group:
    return tuple(_time(value, _TIMES[name][2]) if name in _TIMES else value for name, value in zip(by, row))  # noqa: B905 - the row goes on


def _time(at_us: int, form: str) -> str:
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).strftime(form)


def _newest_of_series(limit: int, before: tuple[int, str] | None) -> Select[tuple[int]]:
    """The newest records of the series in the query around it, by their index: a rare key is found at once."""
    inner = records.alias("newest")
    query = select(inner.c.number).where(inner.c.series == series.c.id)
    if before is not None:
        query = query.where(_older(inner, before))
    return query.order_by(inner.c.at_us.desc(), inner.c.id.desc()).limit(limit).correlate(series)


def _older(table: FromClause, before: tuple[int, str]) -> ColumnElement[bool]:
    at_us, record = before
    return and_(table.c.at_us <= at_us, or_(table.c.at_us < at_us, table.c.id < record))


def _expect(names: Iterable[str], known: Sequence[str], what: str) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"cannot {what} {name!r}: expected one of {', '.join(known)}")


def _record(row: Row[Any]) -> UsageRecord:
    values = row._mapping
    tokens = Tokens(
        input=values["input_tokens"],
        output=values["output_tokens"],
        cached=values["cached_tokens"],
        cache_write=values["cache_write_tokens"],
        reasoning=values["reasoning_tokens"],
    )
    named = {name: values[series.c[name]] for name in DIMENSIONS}
    return UsageRecord(id=values[records.c.id], tokens=tokens, **named, **{name: values[name] for name in _PLAIN})


_PLAIN = tuple(name for name in UsageRecord._fields if name in records.c and name != "id")

_UNPRICED = records.c.cost_pico.is_(None)


def _if(condition: ColumnElement[bool], value: ColumnElement[int] | int = 1) -> ColumnElement[int]:
    return case((condition, value), else_=literal(0, BigInteger))


# What a rollup counts, of a single record; rollup.by_minute says the same in Python, and a test holds them together.
_RECORD_COUNTERS: Mapping[str, ColumnElement[int]] = {
    "requests": literal(1, BigInteger),
    "errors": _if(or_(records.c.status >= 400, records.c.status == 0)),
    **{name: records.c[name] for name in COUNTERS if name.endswith("_tokens")},
    "cost_pico": func.coalesce(records.c.cost_pico, 0),
    "unpriced": _if(_UNPRICED),
    "unpriced_input": _if(_UNPRICED, records.c.input_tokens),
    "unpriced_output": _if(_UNPRICED, records.c.output_tokens),
    "estimated": _if(records.c.estimated),
    "abandoned": _if(not_(records.c.complete)),
    "output_us": _if(records.c.output_tokens > 0, records.c.duration_us),
}

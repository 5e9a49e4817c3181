"""The history in SQLite: who applied which policy, when, why, and what became of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import URL, Connection, Engine, Row, and_, or_, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from controlplane.database import engine, writing
from controlplane.revisions.migrate import migrate
from controlplane.revisions.revision import Revision, RevisionsError, Source, State, policy_hash
from controlplane.revisions.schema import revisions
from extproc.migrating import NewerSchemaError

__all__ = ["Revision", "RevisionsError", "Source", "State", "Store"]

_INTERRUPTED = "interrupted: the control plane ended before the nodes had answered"

# Revisions that were live and are no more; one whose push was taken back has an error.
_WAS_LIVE = or_(
    revisions.c.state == "superseded", and_(revisions.c.state == "rolled-back", revisions.c.error.is_(None))
)


class Store:
    """The revisions of one gateway. Calls block (milliseconds) and may come from any thread."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self._engine = engine
        self._path = path

    @classmethod
    def open(cls, path: Path, *, recover: bool = True) -> "Store":
        """Opens the history at `path`, created when absent, brought up to date when old.

        `recover` marks what a killed process left pending as rejected; leave it out when a control plane may be
        at work on the same history.

        Raises:
            RevisionsError: it cannot be opened, is no history, or comes from a newer version.
        """
        with _saying(path):
            store = cls(engine(URL.create("sqlite", database=str(path))), path)
        try:
            with store._writing() as connection:
                migrate(connection)
                if recover:
                    left = update(revisions).where(revisions.c.state == "pending")
                    connection.execute(left.values(state="rejected", error=_INTERRUPTED))
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def begin(
        self, policy_text: str, snapshot_version: str, who: str, why: str, source: Source, at: datetime
    ) -> Revision:
        """Records a policy that is about to be pushed, as pending. `at` needs a time zone."""
        hashed = policy_hash(policy_text)
        with self._writing() as connection:
            values = {
                "policy_text": policy_text,
                "policy_hash": hashed,
                "snapshot_version": snapshot_version,
                "who": who,
                "why": why,
                "source": source,
                "at": at,
                "state": "pending",
                "parent": _parent(connection, hashed, source),
            }
            inserted = connection.execute(revisions.insert().values(values).returning(revisions)).one()
            return _revision(inserted)

    def finish(self, number: int, state: State, error: str | None = None) -> Revision:
        """Says what became of a pending revision: live, rejected or rolled-back; the last two with an error.

        Going live ends the revision that was live before.

        Raises:
            KeyError: there is no such revision.
            ValueError: it is not pending, or cannot become what is asked.
        """
        if state not in ("live", "rejected", "rolled-back") or (state == "live") != (error is None):
            raise ValueError(f"a pending revision cannot become {state} with error {error!r}")
        with self._writing() as connection:
            revision = _expected(connection, number)
            if revision.state != "pending":
                raise ValueError(f"revision {number} is {revision.state}, not pending")
            if state == "live":
                ended = "rolled-back" if revision.source == "rollback" else "superseded"
                connection.execute(update(revisions).where(revisions.c.state == "live").values(state=ended))
            changed = update(revisions).where(revisions.c.number == number)
            connection.execute(changed.values(state=state, error=error))
            return _expected(connection, number)

    def current(self) -> Revision | None:
        """The revision that went live last."""
        with self._reading() as connection:
            return _one(connection.execute(select(revisions).where(revisions.c.state == "live")).first())

    def get(self, number: int) -> Revision | None:
        with self._reading() as connection:
            return _one(connection.execute(select(revisions).where(revisions.c.number == number)).first())

    def list(self, limit: int = 20, before: int | None = None) -> tuple[Revision, ...]:
        """The newest revisions first, at most `limit`, of those numbered below `before`."""
        query = select(revisions).order_by(revisions.c.number.desc()).limit(limit)
        if before is not None:
            query = query.where(revisions.c.number < before)
        with self._reading() as connection:
            return tuple(_revision(row) for row in connection.execute(query))

    def previous(self, number: int) -> Revision | None:
        """Where one step back from a revision leads; None from the first policy and from an unknown revision."""
        revision = self.get(number)
        return None if revision is None or revision.parent is None else self.get(revision.parent)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with _saying(self._path), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with _saying(self._path), writing(self._engine) as connection:
            yield connection


def _parent(connection: Connection, hashed: str, source: Source) -> int | None:
    """Where one step back from a new revision is to lead."""
    if source == "rollback":
        same = select(revisions).where(revisions.c.policy_hash == hashed, _WAS_LIVE)
        restored = _one(connection.execute(same.order_by(revisions.c.number.desc()).limit(1)).first())
        if restored is not None:
            return restored.parent
    live = _one(connection.execute(select(revisions).where(revisions.c.state == "live")).first())
    if live is None:
        return None
    return live.parent if live.policy_hash == hashed else live.number


def _expected(connection: Connection, number: int) -> Revision:
    row = connection.execute(select(revisions).where(revisions.c.number == number)).first()
    if row is None:
        raise KeyError(number)
    return _revision(row)


def _one(row: Row[Any] | None) -> Revision | None:
    return None if row is None else _revision(row)


def _revision(row: Row[Any]) -> Revision:
    return Revision(**row._mapping)


@contextmanager
def _saying(path: Path) -> Iterator[None]:
    """Turns the system's and the database's refusals into an error that says what cannot be used, and why."""
    try:
        yield
    except NewerSchemaError as error:
        raise RevisionsError(
            f"the history {path} was written by a newer version (its schema is {error}). "
            f"Upgrade headgate, or choose another state folder."
        ) from error
    except PoolTimeoutError as error:
        raise RevisionsError(f"the history {path} is busy: too many calls at once. Try again.") from error
    except DBAPIError as error:  # its own text would hold the statement
        raise RevisionsError(f"cannot use the history {path}: {error.orig}. {_next_step(str(error.orig))}") from None
    except OSError as error:
        raise RevisionsError(
            f"cannot use the history {path}: {error.strerror}. {_next_step(error.strerror or '')}"
        ) from error


def _next_step(reason: str) -> str:
    if "full" in reason or "space" in reason:
        return "Free some space on its disk and try again; the revisions recorded so far are kept."
    if "not a database" in reason or "malformed" in reason:
        return "Move the file away to begin a new history, or restore it from a backup."
    if "locked" in reason:
        return "Another process holds it: wait for it to end and try again."
    return "Check that its folder exists and may be written, or choose another state folder."

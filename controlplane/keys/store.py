"""What is remembered of issued keys, in SQLite or PostgreSQL: whom they name, until when, and which are revoked.

The secret is not among it: it is shown once, and the edge needs public keys only.
"""

import builtins
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from sqlalchemy import ColumnElement, Connection, Engine, Row, and_, delete, func, or_, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from controlplane.database import engine, writing
from controlplane.keys.issue import ISSUER, LEEWAY_S, Issued, Request, issue
from controlplane.keys.migrate import migrate
from controlplane.keys.schema import generations, issued_keys
from controlplane.keys.signing import SigningKey
from extproc.migrating import NewerSchemaError

_LEEWAY = timedelta(seconds=LEEWAY_S)
_c = issued_keys.c


class KeysError(Exception):
    """The issued keys cannot be read or written. Its text says where, why, and what to do."""


class KeyExistsError(KeysError):
    """There is a live key of that name."""


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """An issued key as it is remembered. Times are in UTC.

    `created` is when the name was first issued, `issued` when this token was. `revoked_at` may lie in the future:
    the token that a rotation replaced is good until then. `current` is the newest token of a name that was not revoked.
    """

    jti: str
    name: str
    identity: str
    kid: str
    team: str | None
    models: tuple[str, ...] | None
    limits: tuple[str, ...]
    budget: str | None
    created: datetime
    created_by: str
    issued: datetime
    expires: datetime | None
    rotated: datetime | None
    revoked_at: datetime | None
    revoked_by: str | None
    current: bool
    addresses: tuple[str, ...] | None = None

    def live(self, now: datetime) -> bool:
        """Whether the edge accepts the token, as far as the store knows."""
        return (self.expires is None or now < self.expires) and (self.revoked_at is None or now < self.revoked_at)


@dataclass(frozen=True, slots=True)
class Revoked:
    """A token that the edge must refuse. `until` is when it expires anyway; None is never."""

    jti: str
    name: str
    until: datetime | None


class Store:
    """The issued keys of one gateway. Calls block (milliseconds) and may come from any thread."""

    def __init__(self, opened: Engine) -> None:
        self._engine = opened

    @classmethod
    def open(cls, url: str) -> "Store":
        """Opens the tables in the database at `url`, an SQLAlchemy URL; makes and updates them as needed.

        Raises:
            KeysError: they cannot be opened, or come from a newer version.
        """
        with _saying(make_url(url).render_as_string()):
            store = cls(engine(url))
        try:
            with store._writing() as connection:
                migrate(connection)
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

    def issue(self, signer: SigningKey, request: Request, now: datetime, who: str, issuer: str = ISSUER) -> Issued:
        """Issues a key. The secret is in the answer only.

        Raises:
            KeyExistsError: a live key has that name.
            ValueError: the request cannot be made into a token.
        """
        made = issue(signer, request, now, uuid4(), issuer)
        with self._changing() as connection:
            found = _current(connection, request.name)
            if found is not None and found.live(now):
                raise _exists(request.name)
            _end_current(connection, request.name)
            _insert(connection, made, request, created=made.issued, who=who, rotated=None)
        return made

    def rotate(
        self, signer: SigningKey, name: str, overlap: timedelta, now: datetime, who: str, issuer: str = ISSUER
    ) -> Issued:
        """A new token for a live key, with the same rights and end. The old one is good for `overlap` longer.

        Raises:
            KeyError: no live key has that name.
            ValueError: the overlap is negative.
        """
        if overlap < timedelta(0):
            raise ValueError("an overlap cannot be negative")
        with self._changing() as connection:
            old = _current(connection, name)
            if old is None or not old.live(now):
                raise KeyError(name)
            request = Request(
                name, old.identity, old.expires, old.team, old.models, old.limits, old.budget, old.addresses
            )  # fmt: skip
            made = issue(signer, request, now, uuid4(), issuer)
            replaced = update(issued_keys).where(_c.jti == old.jti)
            connection.execute(replaced.values(revoked_at=now + overlap, revoked_by=who, current=False))
            _insert(connection, made, request, created=old.created, who=who, rotated=made.issued)
        return made

    def revoke(self, name: str, now: datetime, who: str) -> tuple[str, ...]:
        """Ends every live token of a name at once, also one that a rotation left good for a while; their jtis.

        Raises:
            KeyError: no live key has that name.
        """
        with self._changing() as connection:
            live = update(issued_keys).where(_c.name == name, _live(now))
            ended = connection.execute(live.values(revoked_at=now, revoked_by=who, current=False).returning(_c.jti))
            jtis = tuple(ended.scalars())
            if not jtis:
                raise KeyError(name)
        return jtis

    def get(self, name: str) -> IssuedKey | None:
        """The current token of a name, live or expired."""
        with self._reading() as connection:
            return _current(connection, name)

    def list(self, *, now: datetime | None = None) -> tuple[IssuedKey, ...]:
        """Every token that is remembered, by name, newest first; with `now`, those that are live then."""
        query = select(issued_keys).order_by(_c.name, _c.issued.desc(), _c.jti)
        if now is not None:
            query = query.where(_live(now))
        with self._reading() as connection:
            return tuple(_key(row) for row in connection.execute(query))

    def revoked(self, now: datetime, accepted: Collection[str] | None = None) -> tuple[Revoked, ...]:
        """What the edge must refuse: tokens revoked by now that it would accept otherwise, by jti.

        With `accepted`, the ids of the signing keys that still count, tokens of others are left out too.
        """
        query = select(_c.jti, _c.name, _c.expires).order_by(_c.jti)
        query = query.where(_c.revoked_at <= now, or_(_c.expires.is_(None), _c.expires > now - _LEEWAY))
        if accepted is not None:
            query = query.where(_c.kid.in_(accepted))
        with self._reading() as connection:
            return tuple(Revoked(*row) for row in connection.execute(query))

    def next_change(self, now: datetime) -> datetime | None:
        """When `revoked` next grows by itself, because an overlap ends."""
        with self._reading() as connection:
            query = select(func.min(_c.revoked_at)).where(_c.revoked_at > now)
            found: datetime | None = connection.execute(query).scalar()
            return found

    def live_count(self, kid: str, now: datetime) -> int:
        """How many live tokens a signing key has: what retiring it would end."""
        with self._reading() as connection:
            query = select(func.count()).select_from(issued_keys).where(_c.kid == kid, _live(now))
            return int(connection.execute(query).scalar_one())

    def generation(self) -> int:
        """Grows with every change, whichever process made it: cheap to ask several times a second."""
        with self._reading() as connection:
            return int(connection.execute(select(generations.c.generation)).scalar_one())

    def prune(self, before: datetime, accepted: Collection[str]) -> int:
        """Forgets tokens that ended before a time: expired, or revoked and signed by a key that counts no more.

        A revoked token that the edge would accept again is never forgotten. Returns how many were forgotten.
        """
        expired = and_(_c.expires.is_not(None), _c.expires < before - _LEEWAY)
        dead = and_(_c.revoked_at < before, _c.kid.not_in(accepted))
        with self._changing() as connection:
            return connection.execute(delete(issued_keys).where(or_(expired, dead))).rowcount

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with _saying(self._engine.url.render_as_string()), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with _saying(self._engine.url.render_as_string()), writing(self._engine) as connection:
            yield connection

    @contextmanager
    def _changing(self) -> Iterator[Connection]:
        """A transaction that counts as a change. The counter's row is its lock: changes happen one after another."""
        with self._writing() as connection:
            connection.execute(update(generations).values(generation=generations.c.generation + 1))
            yield connection


def _live(now: datetime) -> ColumnElement[bool]:
    unexpired = or_(_c.expires.is_(None), _c.expires > now)
    return and_(unexpired, or_(_c.revoked_at.is_(None), _c.revoked_at > now))


def _current(connection: Connection, name: str) -> IssuedKey | None:
    row = connection.execute(select(issued_keys).where(_c.name == name, _c.current)).first()
    return None if row is None else _key(row)


def _end_current(connection: Connection, name: str) -> None:
    """An expired key gives its name free."""
    connection.execute(update(issued_keys).where(_c.name == name, _c.current).values(current=False))


def _insert(
    connection: Connection, made: Issued, request: Request, *, created: datetime, who: str, rotated: datetime | None
) -> None:
    values = {
        "jti": made.jti,
        "name": made.name,
        "identity": request.identity,
        "kid": made.kid,
        "team": request.team,
        "models": None if request.models is None else builtins.list(request.models),
        "limits": builtins.list(request.limits),
        "budget": request.budget,
        "addresses": None if request.addresses is None else builtins.list(request.addresses),
        "created": created,
        "created_by": who,
        "issued": made.issued,
        "expires": made.expires,
        "rotated": rotated,
        "current": True,
    }
    try:
        connection.execute(issued_keys.insert().values(values))
    except IntegrityError:
        raise _exists(made.name) from None


def _exists(name: str) -> KeyExistsError:
    return KeyExistsError(f"there is a live key named {name!r}. Choose another name, or rotate or revoke it.")


def _key(row: Row[Any]) -> IssuedKey:
    values = dict(row._mapping)
    for name in ("models", "limits", "addresses"):
        values[name] = None if values[name] is None else tuple(values[name])
    return IssuedKey(**values)


@contextmanager
def _saying(where: str) -> Iterator[None]:
    """Turns the database's refusals into an error that says what cannot be used, and why."""
    try:
        yield
    except NewerSchemaError as error:
        raise KeysError(
            f"the issued keys in {where} were written by a newer version (its schema is {error}). Upgrade headgate."
        ) from error
    except PoolTimeoutError as error:
        raise KeysError(f"the database {where} is busy: too many calls at once. Try again.") from error
    except DBAPIError as error:  # its own text would hold the statement
        raise KeysError(
            f"cannot use the issued keys in {where}: {error.orig}. "
            f"Check that the database can be reached, has space, and may be written; then try again."
        ) from None
    except OSError as error:
        raise KeysError(
            f"cannot use the issued keys in {where}: {error.strerror}. "
            f"Check that its folder exists and may be written, or choose another state folder."
        ) from error

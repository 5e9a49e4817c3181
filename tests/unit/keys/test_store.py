"""The store of issued keys, on real SQLite files and, where it matters, a real PostgreSQL."""

import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, make_url, text

from controlplane.keys import migrate, schema
from controlplane.keys.issue import LEEWAY_S, Issued, Request, verify
from controlplane.keys.signing import SigningKeys
from controlplane.keys.store import IssuedKey, KeyExistsError, KeysError, Revoked, Store
from tests.support.postgres import PostgresServer, postgres

__all__ = ["postgres"]  # a fixture

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.database()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store.open(url) as opened:
        yield opened


@pytest.fixture(scope="module")
def signing(tmp_path_factory: pytest.TempPathFactory) -> SigningKeys:
    return SigningKeys.open(tmp_path_factory.mktemp("signing") / "keys", NOW)


class Desk:
    """Who issues, for short tests."""

    def __init__(self, store: Store, signing: SigningKeys) -> None:
        self.store, self.signing = store, signing

    def issue(self, name: str = "alice", now: datetime = NOW, expires: datetime | None = None) -> Issued:
        request = Request(name, f"{name};std;", expires, "search", ("gpt-*",), ("std",), "monthly")
        return self.store.issue(self.signing.current, request, now, "root")

    def rotate(self, name: str = "alice", overlap: timedelta = HOUR, now: datetime = NOW) -> Issued:
        return self.store.rotate(self.signing.current, name, overlap, now, "ops")

    def revoked(self, now: datetime) -> list[str]:
        return [revoked.jti for revoked in self.store.revoked(now)]

    def get(self, name: str = "alice") -> IssuedKey:
        found = self.store.get(name)
        assert found is not None
        return found


@pytest.fixture
def desk(store: Store, signing: SigningKeys) -> Desk:
    return Desk(store, signing)


def test_an_issued_key_is_remembered_without_its_secret(desk: Desk, url: str) -> None:
    issued = desk.issue(expires=NOW + HOUR)
    assert desk.store.list() == (
        IssuedKey(
            jti=issued.jti, name="alice", identity="alice;std;", kid=desk.signing.current.kid, team="search",
            models=("gpt-*",), limits=("std",), budget="monthly", created=NOW, created_by="root", issued=NOW,
            expires=NOW + HOUR, rotated=None, revoked_at=None, revoked_by=None, current=True,
        ),
    )  # fmt: skip
    signature = issued.secret.rpartition(".")[2]
    engine = create_engine(url)
    with engine.connect() as connection:
        row = connection.execute(text("SELECT * FROM issued_keys")).one()
    engine.dispose()
    assert signature not in repr(row)


def test_every_model_is_not_no_model(desk: Desk) -> None:
    desk.store.issue(desk.signing.current, Request("all", "all"), NOW, "root")
    desk.store.issue(desk.signing.current, Request("none", "none", models=()), NOW, "root")
    assert (desk.get("all").models, desk.get("none").models) == (None, ())


def test_a_live_name_is_not_given_twice(desk: Desk) -> None:
    desk.issue(expires=NOW + HOUR)
    with pytest.raises(KeyExistsError, match="'alice'"):
        desk.issue(now=NOW + HOUR - timedelta(seconds=1))
    desk.issue(now=NOW + HOUR)
    assert [key.current for key in desk.store.list()] == [True, False]
    desk.store.revoke("alice", NOW + HOUR, "root")
    desk.issue(now=NOW + HOUR)


def test_a_refused_request_changes_nothing(desk: Desk) -> None:
    before = desk.store.generation()
    with pytest.raises(ValueError, match="would expire"):
        desk.issue(expires=NOW)
    assert (desk.store.list(), desk.store.generation()) == ((), before)


def test_a_revoked_key_is_listed_until_it_would_have_expired(desk: Desk) -> None:
    issued, forever = desk.issue(expires=NOW + 2 * HOUR), desk.issue("zoe")
    assert desk.store.revoked(NOW + HOUR) == ()
    assert desk.store.revoke("alice", NOW + HOUR, "ops") == (issued.jti,)
    desk.store.revoke("zoe", NOW + HOUR, "ops")
    end = NOW + 2 * HOUR + timedelta(seconds=LEEWAY_S)
    alice, zoe = Revoked(issued.jti, "alice", NOW + 2 * HOUR), Revoked(forever.jti, "zoe", None)
    assert set(desk.store.revoked(NOW + HOUR)) == {alice, zoe}
    assert set(desk.store.revoked(end - timedelta(microseconds=1))) == {alice, zoe}
    assert desk.store.revoked(end) == (zoe,)
    assert desk.store.revoked(end, accepted=(desk.signing.current.kid,)) == (zoe,)
    assert desk.store.revoked(end, accepted=("another",)) == desk.store.revoked(end, accepted=()) == ()
    assert desk.store.get("alice") is None
    (key, _) = desk.store.list()
    assert (key.revoked_at, key.revoked_by, key.current, key.live(NOW + HOUR)) == (NOW + HOUR, "ops", False, False)


def test_only_a_live_key_is_revoked_or_rotated(desk: Desk) -> None:
    desk.issue(expires=NOW + HOUR)
    for name, now in (("nobody", NOW), ("alice", NOW + HOUR)):
        with pytest.raises(KeyError):
            desk.store.revoke(name, now, "ops")
        with pytest.raises(KeyError):
            desk.rotate(name, now=now)
    desk.store.revoke("alice", NOW, "ops")
    with pytest.raises(KeyError):
        desk.store.revoke("alice", NOW, "ops")
    with pytest.raises(KeyError):
        desk.rotate()


def test_a_rotated_token_ends_when_the_overlap_does(desk: Desk) -> None:
    old = desk.issue(expires=NOW + 9 * HOUR)
    new = desk.rotate(overlap=2 * HOUR, now=NOW + HOUR)
    ends = NOW + 3 * HOUR
    was, now = (verify(made.secret, desk.signing.public_jwks(NOW), NOW + HOUR) for made in (old, new))
    assert (was.identity, was.models, was.limits, was.budget, was.team, was.expires) == (
        now.identity, now.models, now.limits, now.budget, now.team, now.expires,
    )  # fmt: skip
    assert new.jti != old.jti
    assert desk.revoked(ends - timedelta(seconds=1)) == []
    assert desk.store.next_change(NOW + HOUR) == ends
    assert desk.revoked(ends) == [old.jti]
    assert desk.store.next_change(ends) is None
    key = desk.get()
    assert (key.jti, key.created, key.issued, key.rotated) == (new.jti, NOW, NOW + HOUR, NOW + HOUR)


def test_revoking_ends_the_rotated_token_too(desk: Desk) -> None:
    old, new = desk.issue(), desk.rotate(overlap=9 * HOUR)
    assert set(desk.store.revoke("alice", NOW + HOUR, "ops")) == {old.jti, new.jti}
    assert set(desk.revoked(NOW + HOUR)) == {old.jti, new.jti}
    assert desk.store.list(now=NOW + HOUR) == ()


def test_a_negative_overlap_is_refused(desk: Desk) -> None:
    desk.issue()
    with pytest.raises(ValueError, match="negative"):
        desk.rotate(overlap=-HOUR)


def test_live_keys_are_listed_and_counted(desk: Desk) -> None:
    desk.issue(expires=NOW + HOUR)
    desk.issue("zoe")
    desk.rotate("zoe", overlap=2 * HOUR)
    kid = desk.signing.current.kid
    assert [key.name for key in desk.store.list(now=NOW)] == ["alice", "zoe", "zoe"]
    assert [desk.store.live_count(kid, NOW + n * HOUR) for n in range(3)] == [3, 2, 1]
    assert desk.store.live_count("another", NOW) == 0


def test_pruning_never_lets_a_token_live_again(desk: Desk) -> None:
    desk.issue("expired", expires=NOW + HOUR)
    desk.issue("forever")
    desk.issue("revoked")
    desk.store.revoke("revoked", NOW, "ops")
    kid = desk.signing.current.kid
    assert desk.store.prune(NOW + HOUR, (kid,)) == 0  # within the leeway
    assert desk.store.prune(NOW + 2 * HOUR, (kid,)) == 1
    assert [key.name for key in desk.store.list()] == ["forever", "revoked"]
    assert desk.store.prune(NOW + 2 * HOUR, ()) == 1
    assert [key.name for key in desk.store.list()] == ["forever"]


def test_changes_are_noticed_by_other_processes(desk: Desk, url: str) -> None:
    with Store.open(url) as other:
        seen = [other.generation()]
        desk.issue()
        seen.append(other.generation())
        desk.rotate()
        seen.append(other.generation())
        desk.store.revoke("alice", NOW, "ops")
        seen.append(other.generation())
        assert seen == sorted(set(seen))
        desk.store.list()
        desk.store.revoked(NOW)
        assert other.generation() == seen[-1]


def test_of_many_who_want_a_name_one_gets_it(desk: Desk, url: str) -> None:
    def take(number: int) -> bool:
        with Store.open(url) as own:
            try:
                own.issue(desk.signing.current, Request("alice", f"alice{number}"), NOW, "root")
            except KeyExistsError:
                return False
            return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(16))) == 1
    assert len(desk.store.list()) == 1


def test_of_many_who_rotate_all_but_the_last_end(desk: Desk) -> None:
    desk.issue()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: desk.rotate(overlap=HOUR), range(8)))
    assert len(desk.revoked(NOW + HOUR)) == 8
    assert [key.current for key in desk.store.list()].count(True) == 1


def test_many_who_open_it_first_agree(url: str) -> None:
    def generation(_: int) -> int:
        with Store.open(url) as own:
            return own.generation()

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(generation, range(6))) == {0}


def test_the_newest_migration_is_the_head_and_makes_the_tables(desk: Desk, url: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(migrate.SCRIPTS))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == schema.HEAD
    engine = create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": schema.VERSIONS})
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()


def test_a_newer_schema_is_refused(url: str) -> None:
    Store.open(url).close()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {schema.VERSIONS} SET version_num = 'keys_9999'"))
    engine.dispose()
    with pytest.raises(KeysError, match=r"newer version \(its schema is keys_9999\)"):
        Store.open(url)


def test_it_shares_a_database_with_the_history(tmp_path: Path, signing: SigningKeys) -> None:
    from controlplane.revisions.store import Store as History

    path = tmp_path / "state.db"
    with History.open(path) as history, Store.open(f"sqlite:///{path}") as keys:
        history.begin("version: 1\n", "v", "root", "", "file", NOW)
        keys.issue(signing.current, Request("alice", "alice"), NOW, "root")
    History.open(path).close()


def test_a_file_is_its_owner_s(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    Store.open(f"sqlite:///{path}").close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    broken.write_text("no database, whatever the name says" * 99)
    for path in (broken, tmp_path / "absent" / "state.db"):
        with pytest.raises(KeysError, match="cannot use the issued keys") as caught:
            Store.open(f"sqlite:///{path}")
        assert "SELECT" not in str(caught.value)
    secret = "postgresql+psycopg://u:s3cret@127.0.0.1:1/x?connect_timeout=1"
    with pytest.raises(KeysError) as caught:
        Store.open(secret)
    assert "s3cret" not in str(caught.value)
    assert make_url(secret).password == "s3cret"


def test_a_busy_database_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controlplane.database._BUSY_MS", 10)
    path = tmp_path / "state.db"
    with Store.open(f"sqlite:///{path}") as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(KeysError, match="locked"):
            store.revoke("alice", NOW, "ops")
        other.close()


def test_opening_what_is_up_to_date_does_not_import_alembic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'state.db'}"
    Store.open(url).close()
    code = f"from controlplane.keys.store import Store; Store.open({url!r}).close()"
    code = f"import sys; {code}; print('alembic' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ran.stdout.strip() == "False"

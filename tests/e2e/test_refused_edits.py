"""Edits that this machine, or a node that does not answer, keeps from going live: what was live before goes on."""

import json
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.gateway import Gateway, eventually
from tests.support.usage import ask, ctl

_POLICY = """
providers: {p: {kind: mock}}
models: {m: p}
budgets: {few: {requests: 2, per: month}}
keys: {alice: {secret: {env: ALICE}}, bob: {secret: {file: bob}}}
"""
_EDITED = _POLICY.replace("models: {m: p}", "models: {m: p, n: p}").replace("{env: ALICE}", "{env: ALICE}, budget: few")
_ENV = {"ALICE": "sk-alice-0123456789abcdef"}
_BOB = "sk-bob-0123456789abcdef"


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Gateway(_POLICY, env=_ENV, files={"bob": _BOB}, key=_ENV["ALICE"]) as running:
        yield running


def _accounting(gateway: Gateway) -> Path:
    (found,) = gateway.folder.glob("run/headgate-*/*/accounting.json")
    return found


def _issue(gateway: Gateway, name: str) -> str:
    secret: str = gateway.admin.post("/keys", json={"name": name}).raise_for_status().json()["secret"]
    return secret


@contextmanager
def _stopped(gateway: Gateway) -> Iterator[None]:
    """Envoy answers nobody meanwhile."""
    envoy = gateway.process("envoy")
    os.kill(envoy, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(envoy, signal.SIGCONT)


@contextmanager
def _locked_history(gateway: Gateway) -> Iterator[None]:
    holder = sqlite3.connect(gateway.folder / "state" / "revisions.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        holder.close()


@contextmanager
def _unwritable_documents(gateway: Gateway) -> Iterator[None]:
    """In the place of the file that becomes the accounting document lies a folder."""
    file = _accounting(gateway)
    obstacle = file.with_name(f".{file.name}.new")
    obstacle.mkdir()
    try:
        yield
    finally:
        obstacle.rmdir()


@pytest.mark.parametrize("fault", [_locked_history, _unwritable_documents])
def test_an_edit_that_the_machine_refuses_ends_nothing(gateway: Gateway, fault: Callable[[Gateway], object]) -> None:
    before = gateway.revision()
    with fault(gateway):  # type: ignore[attr-defined]
        gateway.edit(_EDITED)
        eventually(lambda: (gateway.status()["failure"] or {}).get("code") == "machine-refuses", "it is told", 20)
        assert gateway.chat("m").status_code == 200
        assert gateway.admin.post("/apply", json={"policy": gateway.text(_EDITED)}).status_code == 409
    gateway.apply_edit(_EDITED + "# again")
    gateway.apply_edit(_POLICY)
    assert gateway.revision() > before
    assert gateway.status()["failure"] is None


def test_budgets_of_an_edit_that_was_taken_back_do_not_count(gateway: Gateway) -> None:
    with _stopped(gateway):
        answer = gateway.admin.post("/apply", json={"policy": gateway.text(_EDITED), "timeout": 0.5})
    assert (answer.status_code, answer.json()["error"]) == (409, "not-acknowledged")
    assert json.loads(_accounting(gateway).read_bytes())["accounts"] == []
    assert gateway.chat("m").status_code == 200
    # Envoy had the edit waiting when it went on, and hears of its end a little later.
    eventually(
        lambda: all(t["in_sync"] for node in gateway.admin.get("/nodes").json() for t in node["types"]), "in sync"
    )
    eventually(lambda: gateway.chat("n").status_code == 404, "the edit is taken back")


def test_a_key_is_revoked_also_when_a_secret_of_the_policy_is_gone(gateway: Gateway) -> None:
    secret = _issue(gateway, "dora")
    assert ask(gateway, "m", key=secret).status_code == 200
    bob = gateway.folder / "bob"
    bob.unlink()
    try:
        eventually(lambda: (gateway.status()["failure"] or {}).get("source") == "secrets", "the file is missed")
        done = ctl(gateway, "keys", "revoke", "dora")
        assert (done.returncode, done.stderr) == (0, "")
        assert ask(gateway, "m", key=secret).status_code == 401
        assert ask(gateway, "m", key=_BOB).status_code == 200
    finally:
        gateway.write("bob", _BOB)
    eventually(lambda: gateway.status()["failure"] is None, "the file is there again")


def test_a_revocation_reaches_an_edge_that_did_not_answer(gateway: Gateway) -> None:
    secret = _issue(gateway, "eve")
    assert ask(gateway, "m", key=secret).status_code == 200
    with _stopped(gateway):
        done = ctl(gateway, "keys", "revoke", "eve")
    assert (done.returncode, "key eve is revoked" in done.stdout, "does not know it yet" in done.stderr) == (
        1,
        True,
        True,
    )
    eventually(lambda: ask(gateway, "m", key=secret).status_code == 401, "it is told when it answers again")


def test_a_key_is_shown_though_the_edge_did_not_answer(gateway: Gateway) -> None:
    with _stopped(gateway):
        done = ctl(gateway, "keys", "issue", "late", "--models", "m", "--models", "n,o", "--format", "json")
    issued = json.loads(done.stdout)
    assert (done.returncode, bool(issued["pending"])) == (0, True)
    eventually(lambda: ask(gateway, "m", key=issued["secret"]).status_code == 200, "the edge knows it")
    (row,) = [row for row in gateway.admin.get("/keys").json()["rows"] if row["name"] == "late"]
    assert row["models"] == ["m", "n", "o"]


def test_signing_keys_that_cannot_be_used_end_nothing(gateway: Gateway) -> None:
    _issue(gateway, "before")
    folder = gateway.folder / "state" / "keys"
    folder.chmod(0o755)
    try:
        gateway.edit(_EDITED)
        eventually(lambda: (gateway.status()["failure"] or {}).get("code") == "keys-unavailable", "it is told")
        assert gateway.chat("m").status_code == 200
    finally:
        folder.chmod(0o700)
    gateway.apply_edit(_POLICY + "# again")


def test_what_could_not_be_issued_closes_no_gateway() -> None:
    with Gateway("providers: {p: {kind: mock}}\nmodels: {m: p}\n") as gateway:
        answer = gateway.admin.post("/keys", json={"name": "long", "models": [f"model-{n:0100}" for n in range(40)]})
        assert (answer.status_code, "name fewer models" in answer.text) == (422, True)
        gateway.apply_edit("providers: {p: {kind: mock}}\nmodels: {m: p, n: p}\n")
        assert gateway.chat("n").status_code == 200


def test_an_address_of_the_admin_api_that_is_taken_is_told_before_anything_starts(gateway: Gateway) -> None:
    other = Gateway("providers: {p: {kind: mock}}\nmodels: {m: p}\n")
    other.admin_port = gateway.admin_port
    try:
        other.spawn()
        assert other.wait() == 1
        assert (
            f"cannot listen on 127.0.0.1:{gateway.admin_port} (gateway.admin): Address already in use" in other.output()
        )
        assert other.processes() == {}
    finally:
        other.close()

"""Issued keys through the real gateway: rights, revocation within a second, signing keys that rotate."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateway import Gateway, eventually
from tests.support.usage import ask, ctl, only_record

_POLICY = """
providers: {p: {kind: mock}}
models: {m: p, other: p}
organizations: {acme: {}}
teams: {search: {organization: acme}}
limits: {tight: {requests: 2/h}}
budgets: {few: {requests: 2, per: month}}
keys: {alice: {secret: {env: ALICE}}}
"""
_ENV = {"ALICE": "sk-alice-0123456789abcdef"}
_DEADLINE_S = 1.0  # from the order to the refusal at the edge, where nothing else keeps the machine busy
_MOST = 10  # orders, of which the fastest counts


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Gateway(_POLICY, env=_ENV, key=_ENV["ALICE"]) as running:
        yield running


def _issue(gateway: Gateway, name: str, *words: str) -> str:
    made = ctl(gateway, "keys", "issue", name, *words, "--format", "json")
    assert made.returncode == 0, made.stderr
    secret: str = json.loads(made.stdout)["secret"]
    return secret


def _row(gateway: Gateway, name: str) -> list[dict[str, Any]]:
    rows = json.loads(ctl(gateway, "keys", "list", "--format", "json").stdout)["rows"]
    return [row for row in rows if row["name"] == name]


def test_an_issued_key_has_what_it_was_given(gateway: Gateway) -> None:
    words = ("--team", "search", "--models", "m", "--limits", "tight", "--budget", "few", "--expires", "30d")
    secret = _issue(gateway, "dora", *words)
    assert ask(gateway, "other", key=secret).status_code == 403
    first = ask(gateway, "m", key=secret)
    assert (first.status_code, first.headers["x-ratelimit-limit-requests"][:1]) == (200, "2")
    record = only_record(gateway, first.headers["x-request-id"])
    assert (record["key"], record["team"], record["organization"]) == ("dora", "search", "acme")
    (row,) = _row(gateway, "dora")
    assert (row["team"], row["models"], row["limits"], row["budget"], row["state"]) == (
        "search", ["m"], ["tight"], "few", "live"
    )  # fmt: skip
    assert row["expires"]
    wrong = ctl(gateway, "keys", "issue", "eve", "--limits", "none")
    assert (wrong.returncode, "no limit `none`" in wrong.stderr) == (1, True)
    again = ctl(gateway, "keys", "issue", "dora")
    assert (again.returncode, "Choose another name" in again.stderr) == (1, True)


def test_a_key_ends_when_it_expires(gateway: Gateway) -> None:
    made = gateway.admin.post("/keys", json={"name": "brief", "expires": "5s"}).raise_for_status().json()
    secret = made["secret"]
    assert ask(gateway, "m", key=secret).status_code == 200
    eventually(lambda: ask(gateway, "m", key=secret).status_code == 401, "it has expired")
    eventually(lambda: _row(gateway, "brief")[0]["state"] == "expired", "the list says so")


def test_a_revoked_key_is_refused_within_a_second(gateway: Gateway) -> None:
    others = {name: _issue(gateway, name) for name in ("o1", "o2")}
    took: list[float] = []
    while len(took) < 3 or (len(took) < _MOST and min(took) >= _DEADLINE_S):
        name = f"r{len(took)}"
        secret = _issue(gateway, name)
        assert [ask(gateway, "m", key=secret).status_code for _ in range(3)] == [200] * 3
        start = time.monotonic()
        assert gateway.admin.delete(f"/keys/{name}").status_code == 200
        eventually(lambda s=secret: ask(gateway, "m", key=s).status_code == 401, "it is refused")
        took.append(time.monotonic() - start)
        answer = ask(gateway, "m", key=secret)
        assert (answer.json()["error"]["code"], "revoked" in answer.text) == ("invalid_api_key", True)
    assert min(took) < _DEADLINE_S
    assert all(ask(gateway, "m", key=secret).status_code == 200 for secret in others.values())
    gone = ctl(gateway, "keys", "revoke", "r0")
    assert (gone.returncode, "no issued key" in gone.stderr) == (1, True)


def _rotate(gateway: Gateway, path: str, overlap: str) -> dict[str, Any]:
    found: dict[str, Any] = gateway.admin.post(path, json={"overlap": overlap}).raise_for_status().json()
    return found


def test_a_rotated_key_ends_after_its_overlap(gateway: Gateway) -> None:
    old = _issue(gateway, "turning")
    fresh = _rotate(gateway, "/keys/turning/rotate", "4s")["secret"]
    assert [ask(gateway, "m", key=secret).status_code for secret in (fresh, old)] == [200, 200]
    rows = gateway.admin.get("/keys").json()["rows"]
    assert {row["state"] for row in rows if row["name"] == "turning"} == {"live", "replaced"}
    eventually(lambda: ask(gateway, "m", key=old).status_code == 401, "the overlap ends")
    assert ask(gateway, "m", key=fresh).status_code == 200
    words = ("keys", "rotate", "turning", "--overlap", "0s", "--format", "json")
    at_once = json.loads(ctl(gateway, *words).stdout)["secret"]
    assert [ask(gateway, "m", key=secret).status_code for secret in (at_once, fresh)] == [200, 401]


def test_signing_keys_rotate_with_overlap(gateway: Gateway) -> None:
    before = _issue(gateway, "before")
    turned = _rotate(gateway, "/signing-keys/rotate", "5s")
    assert turned["ends"] >= 1
    after = gateway.admin.post("/keys", json={"name": "after"}).json()["secret"]
    assert [ask(gateway, "m", key=secret).status_code for secret in (before, after)] == [200, 200]
    eventually(lambda: ask(gateway, "m", key=before).status_code == 401, "the old signing key ends")
    assert ask(gateway, "m", key=after).status_code == 200
    assert _row(gateway, "before")[0]["state"] == "ended"
    said = ctl(gateway, "keys", "rotate", "--signing")
    assert said.returncode == 0, said.stderr
    assert ask(gateway, "m", key=after).status_code == 200
    for words in ((), ("after", "--signing")):
        assert ctl(gateway, "keys", "rotate", *words).returncode == 2


def test_nothing_secret_is_stored_or_told(gateway: Gateway) -> None:
    secret = _issue(gateway, "quiet")
    ask(gateway, "m", key=secret)
    _, claims, signature = secret.removeprefix("hg-").split(".")
    files = gateway.files()
    assert any(path.name == "keys.db" for path in files)
    for file, content in files.items():
        assert signature.encode() not in content, file
        assert claims.encode() not in content, file
    for path in ("/keys", "/snapshot", "/audit", "/history"):
        assert signature not in gateway.admin.get(path).text

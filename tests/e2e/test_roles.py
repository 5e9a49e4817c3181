"""Users of the admin API through the real gateway: what each may do, and whose name it bears."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.gateway import Gateway, eventually
from tests.support.usage import ask, wait_records

_POLICY = """
providers: {p: {kind: mock}}
models: {m: p}
organizations: {acme: {}}
teams:
  search: {organization: acme, budget: shared}
  ads: {}
budgets: {shared: {requests: 1000, per: month}}
limits: {standard: {requests: 600/m}}
keys:
  alice: {secret: {env: ALICE}, team: search, budget: shared}
  bob: {secret: {env: BOB}, team: ads, budget: shared}
"""
_KEYS = {"ALICE": "sk-alice-0123456789abcdef", "BOB": "sk-bob-0123456789abcdef"}
_NAMES = ("root", "ana", "tom", "vic", "zoe")
_TOKENS = {name: f"admin-token-of-{name}" for name in _NAMES}
_USERS = """
    root: {token: {env: T_ROOT}, role: admin}
    ana: {token: {env: T_ANA}, role: admin, organization: acme}
    tom: {token: {env: T_TOM}, role: member, team: search}
    vic: {token: {file: vic.token}, role: viewer, team: search}
    zoe: {token: {env: T_ZOE}, role: member, team: ads}
"""
_ENV = {f"T_{name.upper()}": token for name, token in _TOKENS.items()} | _KEYS


class _Managed(Gateway):
    """A gateway whose admin API has users; the administrator's own client asks with the plain token."""

    def text(self, policy: str, settings: str | None = None) -> str:
        plain = super().text(policy, settings)
        address = f"  admin: 127.0.0.1:{self.admin_port}\n"
        assert address in plain
        users = f"  admin:\n   listen: 127.0.0.1:{self.admin_port}\n   token: {{env: T_PLAIN}}\n   users:{_USERS}"
        return plain.replace(address, users)


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    plain = "admin-token-of-nobody-else"
    made = _Managed(_POLICY, env={**_ENV, "T_PLAIN": plain}, files={"vic.token": _TOKENS["vic"] + "\n"})
    made.admin.headers["authorization"] = f"Bearer {plain}"
    with made as running:
        yield running


def _call(gateway: Gateway, user: str, method: str, path: str, **more: Any) -> httpx.Response:
    return gateway.admin.request(method, path, headers={"authorization": f"Bearer {_TOKENS[user]}"}, **more)


def _rows(gateway: Gateway, user: str, path: str, **params: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _call(gateway, user, "GET", path, params=params).raise_for_status().json()["rows"]
    return found


def _ctl(gateway: Gateway, token: str, *words: str, how: str = "env") -> subprocess.CompletedProcess[str]:
    before = ["--token", token] if how == "option" else []
    env = {"HEADGATE_TOKEN": token} if how == "env" else {}
    return gateway.ctl(*before, *words, **env)


def _keys(gateway: Gateway, user: str, path: str, **params: str) -> set[str]:
    """The keys of rows, but for the one that a member of the team may have issued by now."""
    return {row["key"] for row in _rows(gateway, user, path, **params)} - {"t1"}


def test_a_team_sees_its_own_usage_and_budgets(gateway: Gateway) -> None:
    for secret in _KEYS.values():
        assert ask(gateway, "m", key=secret).status_code == 200
    wait_records(gateway, 1, key="alice")
    wait_records(gateway, 1, key="bob")
    for user in ("vic", "tom", "ana"):
        assert _keys(gateway, user, "/usage", by="key") == {"alice"}
        assert _keys(gateway, user, "/usage/records") == {"alice"}
        assert {(row["owner_kind"], row["owner"]) for row in _rows(gateway, user, "/budgets")} == {
            ("team", "search"), ("key", "alice")
        }  # fmt: skip
    assert {row["key"] for row in _rows(gateway, "zoe", "/usage", by="key")} == {"bob"}
    assert _keys(gateway, "root", "/usage", by="key") == {"alice", "bob"}
    assert _call(gateway, "vic", "GET", "/usage", params={"team": "ads"}).status_code == 403
    assert _call(gateway, "ana", "GET", "/usage", params={"organization": "other"}).status_code == 403
    assert _rows(gateway, "ana", "/usage", team="ads") == []
    assert _call(gateway, "vic", "GET", "/usage/unpriced").status_code == 403


def test_a_member_issues_and_revokes_keys_of_the_team_only(gateway: Gateway) -> None:
    made = _call(gateway, "tom", "POST", "/keys", json={"name": "t1", "limits": ["standard"], "who": "somebody else"})
    assert made.status_code == 201, made.text
    secret = made.json()["secret"]
    assert ask(gateway, "m", key=secret).status_code == 200
    (row,) = [row for row in _rows(gateway, "vic", "/keys") if row["name"] == "t1"]
    assert (row["team"], row["issued_by"], row["state"]) == ("search", "tom", "live")
    assert "t1" not in {row["name"] for row in _rows(gateway, "zoe", "/keys")}
    for name, body in (("t2", {"team": "ads"}), ("t3", {"team": "nowhere"})):
        assert _call(gateway, "tom", "POST", "/keys", json={"name": name, **body}).status_code == 403
    assert _call(gateway, "ana", "POST", "/keys", json={"name": "t4"}).status_code == 403  # it would have no team
    assert _call(gateway, "vic", "POST", "/keys", json={"name": "t5"}).status_code == 403
    assert _call(gateway, "zoe", "DELETE", "/keys/t1").status_code == 404
    assert _call(gateway, "zoe", "POST", "/keys/t1/rotate", json={}).status_code == 404
    assert _call(gateway, "vic", "DELETE", "/keys/t1").status_code == 403
    assert ask(gateway, "m", key=secret).status_code == 200
    assert _call(gateway, "ana", "DELETE", "/keys/t1").status_code == 200
    assert ask(gateway, "m", key=secret).status_code == 401


def test_only_admins_of_the_gateway_change_it_and_their_name_is_kept(gateway: Gateway) -> None:
    text = gateway.path.read_text() + "# another line\n"
    for user in ("ana", "tom", "vic"):
        for method, path in (
            ("POST", "/apply"), ("POST", "/rollback"), ("GET", "/snapshot"), ("GET", "/audit"), ("GET", "/policy"),
            ("POST", "/signing-keys/rotate"), ("GET", "/history"), ("GET", "/status"),
        ):  # fmt: skip
            answer = _call(gateway, user, method, path, **({"json": {"policy": text}} if method == "POST" else {}))
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied"), path
    done = _call(gateway, "root", "POST", "/apply", json={"policy": text, "who": "somebody else"})
    assert done.status_code == 200, done.text
    number = done.json()["revision"]
    assert _call(gateway, "root", "GET", f"/revisions/{number}").json()["who"] == "root"
    entries = _rows(gateway, "root", "/audit", limit="1000")
    applied = next(each for each in entries if each["action"] == "policy.applied")
    assert (applied["actor"]["name"], applied["actor"]["from"]) == ("root", "127.0.0.1")
    refused = [each for each in entries if each["action"] == "admin.called" and each["details"]["status"] == 403]
    assert {("tom", "POST /apply"), ("vic", "POST /rollback")} <= {(e["actor"]["name"], e["target"]) for e in refused}
    issued = [each["actor"]["name"] for each in entries if each["action"] == "key.issued"]
    assert set(issued) <= {"tom"}
    assert not any(token in json.dumps(entries) for token in _TOKENS.values())


@pytest.mark.parametrize("how", ["env", "option"])
def test_ctl_takes_the_token(gateway: Gateway, how: str) -> None:
    listed = _ctl(gateway, _TOKENS["vic"], "usage", "--by", "key", "--format", "json", how=how)
    assert listed.returncode == 0, listed.stderr
    assert {row["key"] for row in json.loads(listed.stdout)["rows"]} <= {"alice", "t1"}
    refused = _ctl(gateway, _TOKENS["vic"], "snapshot", how=how)
    assert refused.returncode == 1
    assert "`vic` (viewer of team `search`) may not read snapshot here" in " ".join(refused.stderr.split())
    unknown = _ctl(gateway, "no-such-token", "status", how=how)
    assert unknown.returncode == 1
    assert "HEADGATE_TOKEN" in unknown.stderr
    assert "no-such-token" not in unknown.stderr
    assert _ctl(gateway, _TOKENS["vic"], "keys", "issue", "not-for-vic", how=how).returncode == 1
    audit = _ctl(gateway, _TOKENS["root"], "audit", "show", "--action", "admin", how=how)
    assert audit.returncode == 0, audit.stderr
    assert "admin.called" in audit.stdout
    assert "POST /keys" in audit.stdout


def test_a_token_in_a_file_is_read_again(gateway: Gateway) -> None:
    assert _call(gateway, "vic", "GET", "/usage").status_code == 200
    gateway.write("vic.token", "another-token-of-vic")
    eventually(lambda: _call(gateway, "vic", "GET", "/usage").status_code == 401, "the old token is refused")
    fresh = {"authorization": "Bearer another-token-of-vic"}
    assert gateway.admin.get("/usage", headers=fresh).status_code == 200
    gateway.write("vic.token", _TOKENS["vic"])
    eventually(lambda: _call(gateway, "vic", "GET", "/usage").status_code == 200, "the first one counts again")

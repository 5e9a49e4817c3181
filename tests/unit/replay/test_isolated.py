"""A policy of a replay's gateway touches nothing that others use, and stays a policy."""

import json
from typing import Any

import yaml

from controlplane.policy.check import check
from controlplane.replay.isolated import ADMIN_ENV, KEY_ENV, KEY_NAME, Place, isolated

POLICY = """
version: 1
gateway:
  listen: 0.0.0.0:8443
  admin: {listen: 0.0.0.0:9800, token: {env: ADMIN}}
  tls: {cert: {file: cert.pem}, key: {file: key.pem}}
  state: /var/lib/headgate
  ledger: {env: LEDGER}
  redis: {env: REDIS}
  max_body: 1MiB
providers: {p: {kind: openai, api_key: {env: KEY}}}
models: {m: p}
keys: {alice: {secret: {env: ALICE}, limits: [fast], budget: [month], expires: 2030-01-01}}
limits: {fast: {requests: 5/m, scope: fleet, on_error: deny}}
budgets: {month: {usd: 5, per: month, enforce: strict, scope: fleet, on_error: allow, webhooks: [ops]}}
webhooks: {ops: {url: "https://ops.example.com/hook", secret: {env: HOOK}}}
rules: [{do: [{cache: {store: redis, ttl: 5m}}]}]
"""


def made() -> tuple[str, dict[str, Any]]:
    checked = check(POLICY, "policy.yaml")
    assert checked.policy is not None, checked.diagnostics
    text = isolated(checked.policy.written, Place("/tmp/x/state", 1234, 1235))
    return text, json.loads(text)


def test_it_is_a_policy() -> None:
    text, _ = made()
    checked = check(text, "policy.yaml")
    assert checked.policy is not None, checked.diagnostics
    assert checked.policy.gateway.listen.port == 1234


def test_nothing_shared_is_left() -> None:
    text, document = made()
    assert document["gateway"]["state"] == "/tmp/x/state"
    assert document["gateway"]["admin"] == {"listen": "127.0.0.1:1235", "token": {"env": ADMIN_ENV}}
    assert document["gateway"]["max_body"] == "1MiB"
    assert not {"ledger", "redis", "tls"} & document["gateway"].keys()
    for word in ("fleet", "redis", "LEDGER"):
        assert word not in text
    assert "webhooks" not in document["budgets"]["month"]


def test_one_key_more_may_do_everything() -> None:
    _, document = made()
    assert document["keys"][KEY_NAME] == {"secret": {"env": KEY_ENV}}
    assert document["keys"]["alice"]["limits"] == ["fast"]


def test_the_document_that_it_is_made_of_stays_as_it_is() -> None:
    document = yaml.safe_load(POLICY)
    isolated(document, Place("s", 1, 2))
    assert document == yaml.safe_load(POLICY)

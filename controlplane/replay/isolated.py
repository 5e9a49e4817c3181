"""A policy, changed so that a gateway of it runs beside everything else and touches nothing that others use. Pure."""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

KEY_NAME = "headgate-replay"
KEY_ENV, ADMIN_ENV = "HEADGATE_REPLAY_KEY", "HEADGATE_REPLAY_ADMIN"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the gateway runs: its state folder and two free ports of this machine."""

    state: str
    port: int
    admin_port: int


def isolated(document: Mapping[str, Any], place: Place) -> str:
    """The text of the policy for a gateway in `place`. It counts in no shared database and tells no webhook of budgets;
    one more key, whose secret is in the environment, may use every model and has no limit of its own.
    """
    made = deepcopy(dict(document))
    gateway = made["gateway"] = dict(made.get("gateway") or {})
    for name in ("ledger", "redis", "tls", "cors", "trusted_proxies"):
        gateway.pop(name, None)
    gateway["state"] = place.state
    gateway["listen"] = f"127.0.0.1:{place.port}"
    gateway["admin"] = {"listen": f"127.0.0.1:{place.admin_port}", "token": {"env": ADMIN_ENV}}
    gateway["drain"] = "1s"
    made["keys"] = {**(made.get("keys") or {}), KEY_NAME: {"secret": {"env": KEY_ENV}}}
    for section in ("limits", "budgets"):
        for entry in (made.get(section) or {}).values():
            for name in ("scope", "on_error", "webhooks"):
                entry.pop(name, None)
    for rule in made.get("rules") or ():
        _forget_redis(rule)
    return json.dumps(made, default=str)


def _forget_redis(value: Any) -> None:
    """Caches that are kept in Redis are kept in memory."""
    if isinstance(value, dict):
        if value.get("store") == "redis":
            del value["store"]
        for each in value.values():
            _forget_redis(each)
    elif isinstance(value, list):
        for each in value:
            _forget_redis(each)

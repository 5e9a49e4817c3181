"""What endpoints are told of budgets, and how it is signed: Standard Webhooks 1.0.0.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md: a POST with `webhook-id`
(the same for every attempt: receivers drop what they have seen), `webhook-timestamp` (seconds, of the attempt) and
`webhook-signature`: "v1," and the base64 of HMAC-SHA256 over `id.timestamp.body`, with the bytes that the base64 after
`whsec_` stands for.

The body is JSON:

    {"id":        "evt_…",                      the same as webhook-id
     "type":      "budget.warn" | "budget.spent" | "budget.reset",
     "at":        "2026-03-01T12:00:00.000000Z",
     "account":   {"budget": "monthly", "owner_kind": "key" | "team" | "organization" | "", "owner": "alice",
                   "unit": "usd" | "tokens" | "requests", "on_spent": "block" | "warn" | "downgrade:MODEL"},
     "used":      "50.25",                      exact decimal in the unit, as a string
     "amount":    "50",
     "window":    {"start": "…Z", "end": "…Z"},
     "threshold": 0.8,                          budget.warn only
     "until":     "…Z"}                         budget.spent only: when it is free again if nothing more is spent
"""

import base64
import binascii
import hashlib
import hmac
from contextlib import suppress
from typing import Literal

import orjson

from extproc.usage.budgets import Account, Event, Restored, Spent, Warned
from extproc.usage.record import PICO
from extproc.usage.windows import utc

Kind = Literal["warn", "spent", "reset"]
_KINDS: dict[type[Event], Kind] = {Warned: "warn", Spent: "spent", Restored: "reset"}


def signing_key(secret: str, name: str = "") -> bytes:
    """The bytes that `whsec_…` stands for. Raises ValueError, without the secret in it."""
    key = b""
    if secret.startswith("whsec_"):
        with suppress(binascii.Error, ValueError):
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    if not 24 <= len(key) <= 64:
        raise ValueError(f"webhook {name!r}: expected a secret of whsec_ and the base64 of 24 to 64 random bytes")
    return key


def headers(secret: str, event_id: str, at_s: int, body: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks for one attempt."""
    signed = hmac.digest(signing_key(secret), f"{event_id}.{at_s}.".encode() + body, "sha256")
    return {
        "content-type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
    }


def kind(event: Event) -> Kind:
    return _KINDS[type(event)]


def event_type(event: Event) -> str:
    return f"budget.{kind(event)}"


def event_id(event: Event) -> str:
    """The same for the same event of a calendar window, also when it is sent again after a crash."""
    account = event.account
    once = account.window.period is not None and not isinstance(event, Restored)
    when = event.window if once else event.at_us
    part = str(event.threshold) if isinstance(event, Warned) else ""
    what = repr((event_type(event), account.identity, account.amount, when, part))
    return f"evt_{hashlib.sha256(what.encode()).hexdigest()[:32]}"


def payload(event: Event) -> bytes:
    """The body, as described above."""
    account = event.account
    document: dict[str, object] = {
        "id": event_id(event),
        "type": event_type(event),
        "at": _iso(event.at_us),
        "account": {
            "budget": account.budget,
            "owner_kind": account.owner_kind,
            "owner": account.owner,
            "unit": "usd" if account.unit == "pico" else account.unit,
            "on_spent": account.on_spent,
        },
        "used": _decimal(account, event.spent),
        "amount": _decimal(account, account.amount),
        "window": {"start": _iso(event.window[0]), "end": _iso(event.window[1])},
    }
    if isinstance(event, Warned):
        document["threshold"] = float(event.threshold)
    if isinstance(event, Spent):
        document["until"] = _iso(event.until_us)
    return orjson.dumps(document)


def _iso(at_us: int) -> str:
    return utc(at_us).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _decimal(account: Account, amount: int) -> str:
    if account.unit != "pico":
        return str(amount)
    whole, part = divmod(amount, PICO)
    return f"{whole}.{part:012d}".rstrip("0").rstrip(".")

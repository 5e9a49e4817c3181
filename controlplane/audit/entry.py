"""Entries of the audit log and the chain between them. Pure.

A line is the RFC 8785 form of one entry's JSON object (keys sorted, no spaces, UTF-8) and a newline. In it:

    hash = hex SHA-256 of the RFC 8785 form of the entry without its field `hash`
    prev = hex SHA-256 of the whole line before, newline included; 64 zeros in entry 1
"""

import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, Self

import orjson

from controlplane.audit import clean

ZEROS = "0" * 64
LONGEST_LINE = 64 * 1024  # bytes, newline included
_LONGEST_DETAILS = 32 * 1024

Kind = Literal["user", "system", "client"]

_KINDS = ("user", "system", "client")
_ACTION = re.compile(r"[a-z]+(?:[.-][a-z]+)+")
_AT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FIELDS = {"seq", "at", "actor", "action", "target", "details", "prev", "hash"}


class Action(StrEnum):
    """What the gateway logs. An event may have another action: dotted words."""

    KEY_ISSUED = "key.issued"
    KEY_REVOKED = "key.revoked"
    KEY_ROTATED = "key.rotated"
    SIGNING_ROTATED = "key.signing-rotated"
    POLICY_APPLIED = "policy.applied"
    POLICY_REJECTED = "policy.rejected"
    POLICY_ROLLED_BACK = "policy.rolled-back"
    MODEL_LOADED = "model.loaded"
    MODEL_UNLOADED = "model.unloaded"
    REQUEST_DENIED = "request.denied"
    ENDPOINT_JOINED = "endpoint.joined"
    ENDPOINT_LEFT = "endpoint.left"
    ENDPOINTS_LISTED = "endpoint.listed"
    ADMIN_CALLED = "admin.called"
    AUDIT_RECOVERED = "audit.recovered"
    AUDIT_LOST = "audit.lost"
    AUDIT_TRIMMED = "audit.trimmed"


class DamagedLineError(Exception):
    """A line is not one that this log writes. Its text says why."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who did something: a user of the admin API or of `ctl`, the gateway itself, or a client by its key's name."""

    kind: Kind
    name: str
    source: str  # `from` in the log: an address, or "cli"

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"audit actor of kind {self.kind!r}: expected one of {', '.join(_KINDS)}")
        object.__setattr__(self, "name", clean.text(self.name))
        object.__setattr__(self, "source", clean.text(self.source))


SYSTEM = Actor("system", "gateway", "gateway")


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, before it has a place in the chain.

    Texts that look like secrets become `[redacted]`, long ones are cut.

    Raises:
        ValueError: the action is not dotted words, a detail is named like a secret or not plain, or all are too long.
    """

    actor: Actor
    action: str
    target: str
    details: clean.Details = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _ACTION.fullmatch(self.action) or "." not in self.action:
            raise ValueError(f"audit action {clean.text(self.action)!r}: expected dotted words such as key.issued")
        object.__setattr__(self, "action", str(self.action))
        object.__setattr__(self, "target", clean.text(self.target))
        object.__setattr__(self, "details", clean.details(self.details))
        if len(canonical(self.details)) > _LONGEST_DETAILS:
            raise ValueError(f"audit details of {self.action} take more than {_LONGEST_DETAILS} bytes")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the log."""

    seq: int  # 1, 2, 3, …
    at: datetime  # UTC, whole milliseconds; may step back with the clock, while `seq` is the order
    actor: Actor
    action: str
    target: str
    details: dict[str, Any]
    prev: str
    hash: str


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the log, or the place before an entry: an entry's number, and the hex SHA-256 of its line.

    Written as `SEQ:DIGEST`. A log without entries ends at 0 and 64 zeros.
    """

    seq: int
    digest: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.digest}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads what `str` writes.

        Raises:
            ValueError: it is something else.
        """
        seq, _, digest = text.strip().partition(":")
        if not (seq.isascii() and seq.isdigit() and len(seq) < 16 and _DIGEST.fullmatch(digest)):
            raise ValueError(f"{clean.text(text)!r} is no head of an audit log: expected SEQ:DIGEST from `audit head`")
        return cls(int(seq), digest)


EMPTY = Head(0, ZEROS)


def canonical(value: Any) -> bytes:
    """RFC 8785 form, for what is logged: objects with ASCII names, texts, integers of 53 bits, lists, true, null."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def seal(event: Event, at: datetime, before: Head, *, delayed: bool = False) -> tuple[Entry, bytes]:
    """The event as the entry after `before`, and its line. One that was written late has `delayed: true` in details."""
    details = {**event.details, "delayed": True} if delayed else dict(event.details)
    at = at.astimezone(UTC)
    body = {
        "seq": before.seq + 1,
        "at": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "actor": {"kind": event.actor.kind, "name": event.actor.name, "from": event.actor.source},
        "action": event.action,
        "target": event.target,
        "details": details,
        "prev": before.digest,
    }
    own = digest(canonical(body))
    at = at.replace(microsecond=at.microsecond // 1000 * 1000)
    entry = Entry(before.seq + 1, at, event.actor, event.action, event.target, details, before.digest, own)
    return entry, canonical({**body, "hash": own}) + b"\n"


def parse(line: bytes) -> Entry:
    """The entry of a line that is whole, canonical and agrees with its own hash.

    Raises:
        DamagedLineError: it is not.
    """
    if not line.endswith(b"\n"):
        long = len(line) >= LONGEST_LINE
        raise DamagedLineError(f"longer than {LONGEST_LINE} bytes" if long else "torn: it does not end with a newline")
    try:
        data = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise DamagedLineError("not JSON") from None
    if not isinstance(data, dict) or set(data) != _FIELDS:
        raise DamagedLineError(f"not an entry: expected an object with the fields {', '.join(sorted(_FIELDS))}")
    if not _is_canonical(data, line):
        raise DamagedLineError("not in canonical form (RFC 8785: keys sorted, no spaces, UTF-8)")
    own = data.pop("hash")
    if own != digest(canonical(data)):
        raise DamagedLineError("changed: its content does not agree with its hash")
    return _entry(data, own)


def _is_canonical(data: dict[str, Any], line: bytes) -> bool:
    try:
        return canonical(data) + b"\n" == line
    except orjson.JSONEncodeError:  # nested deeper than it writes
        return False


def _entry(data: dict[str, Any], own: str) -> Entry:
    actor = data["actor"]
    good = (
        type(data["seq"]) is int
        and isinstance(actor, dict)
        and set(actor) == {"kind", "name", "from"}
        and actor["kind"] in _KINDS
        and all(isinstance(text, str) for text in (*actor.values(), data["at"], data["action"], data["target"]))
        and isinstance(data["details"], dict)
        and isinstance(data["prev"], str)
    )
    if not good or not _AT.fullmatch(data["at"]):
        raise DamagedLineError("not an entry: a field has another type than this log writes")
    try:
        at = datetime.fromisoformat(data["at"])
    except ValueError:
        raise DamagedLineError("not an entry: `at` is no time") from None
    who = Actor(actor["kind"], actor["name"], actor["from"])
    return Entry(data["seq"], at, who, data["action"], data["target"], data["details"], data["prev"], own)

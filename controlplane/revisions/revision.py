"""One applied policy, as the history knows it."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Source = Literal["file", "api", "rollback", "start"]
State = Literal["pending", "live", "superseded", "rejected", "rolled-back"]


@dataclass(frozen=True, slots=True)
class Revision:
    """A policy that was applied: what, by whom, when, why, and what became of it.

    `policy_text` holds no secret, only references. `at` is in UTC. `state` is ``pending`` until every node has
    answered; a revision that was live becomes ``superseded``, or ``rolled-back`` when a rollback took its place
    or a push of it was taken back. `parent` is where one step back leads: the revision with another policy that
    was live before; for a rollback, that of the revision it restored.
    """

    number: int
    policy_text: str
    policy_hash: str
    snapshot_version: str
    who: str
    why: str
    source: Source
    at: datetime
    state: State
    error: str | None
    parent: int | None


def policy_hash(text: str) -> str:
    """The SHA-256 of a policy's text, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


class RevisionsError(Exception):
    """The history cannot be read or written. Its text says where, why, and what to do."""

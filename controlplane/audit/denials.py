"""What the collector counted of refused requests -> entries of the audit log. Pure."""

from collections.abc import Mapping
from typing import Any

from controlplane.audit.clean import Value
from controlplane.audit.entry import SYSTEM, Action, Actor, Event


def events(told: Mapping[str, Any]) -> tuple[Event, ...]:
    """The entries of one interval. Raises KeyError, TypeError or ValueError for another document."""
    if told["version"] != 1:
        raise ValueError(f"denials of version {told['version']!r}, expected 1")
    made = []
    for each in told["counts"]:
        who = Actor("client", each["key"], each["address"])
        found: dict[str, Value] = {"reason": each["reason"], "count": each["count"], "seconds": told["seconds"]}
        made.append(Event(who, Action.REQUEST_DENIED, each["model"], found))
    if told["others"]:
        others = {"count": told["others"], "seconds": told["seconds"]}
        made.append(Event(SYSTEM, Action.REQUEST_DENIED, "others", others))
    return tuple(made)

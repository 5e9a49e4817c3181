"""Two snapshots -> what changes for Envoy, and what that does to traffic. Data only; rendering is elsewhere."""

from dataclasses import dataclass
from enum import StrEnum

from controlplane.xds import names
from controlplane.xds import resource as xds


class Effect(StrEnum):
    """What a change does to traffic, mildest first."""

    NONE = "none"
    NEW_REQUESTS = "new requests only"
    DRAINS_PROVIDER = "drains the provider's connections"
    DRAINS_CLIENTS = "drains client connections"


@dataclass(frozen=True, slots=True)
class Change:
    """One resource that is added, changed or removed. Versions are content hashes; None where there is none."""

    action: str  # "add" | "change" | "remove"
    kind: str  # short name of the resource type
    name: str
    before: str | None
    after: str | None
    effect: Effect


KINDS = {
    xds.CLUSTER: "cluster",
    xds.ENDPOINTS: "endpoints",
    xds.SECRET: "secret",
    xds.LISTENER: "listener",
    xds.EXTENSION: "extension",
    xds.ROUTES: "routes",
}

# Requests in flight finish in every case; drained connections close when they are idle.
_CHANGED = {
    xds.CLUSTER: Effect.DRAINS_PROVIDER,
    xds.LISTENER: Effect.DRAINS_CLIENTS,
}


def diff(before: xds.Snapshot, after: xds.Snapshot) -> tuple[Change, ...]:
    """The changes from one snapshot to the other, in the order in which Envoy learns of them."""
    changes = []
    for type_url in xds.TYPES:
        old, new = before.of_type(type_url), after.of_type(type_url)
        if before.versions.get(type_url) == after.versions.get(type_url):
            continue
        for name in sorted(old.keys() | new.keys()):
            was = old[name].version if name in old else None
            now = new[name].version if name in new else None
            if was != now:
                changes.append(_change(type_url, name, was, now))
    return tuple(changes)


def worst(changes: tuple[Change, ...]) -> Effect:
    """The strongest effect among changes."""
    order = list(Effect)
    return max((change.effect for change in changes), key=order.index, default=Effect.NONE)


def _change(type_url: str, name: str, was: str | None, now: str | None) -> Change:
    action = "add" if was is None else "remove" if now is None else "change"
    effect = Effect.NEW_REQUESTS
    if type_url == xds.LISTENER and name == names.LISTINGS:
        effect = Effect.NONE  # nobody's requests but the control plane's
    elif action != "add" and type_url in _CHANGED:
        effect = _CHANGED[type_url]
    elif action == "add" and type_url == xds.CLUSTER:
        effect = Effect.NONE
    return Change(action, KINDS[type_url], name, was, now, effect)

"""What of the gateway's own settings a running process cannot take over."""

from controlplane.policy.language import Gateway

_FIXED = ("state", "workers", "drain", "ledger")


def at_next_start(started: Gateway, live: Gateway) -> tuple[str, ...]:
    """Document paths of settings that were edited since the start and take effect at the next one."""
    names = [name for name in _FIXED if getattr(started, name) != getattr(live, name)]
    if started.admin.listen != live.admin.listen:
        names.insert(0, "admin.listen")
    return tuple(f"gateway.{name}" for name in names)

"""What of the gateway's own settings a running process cannot take over."""

from controlplane.policy.language import Gateway

_FIXED = ("admin", "state", "workers", "drain", "ledger")


def at_next_start(started: Gateway, live: Gateway) -> tuple[str, ...]:
    """Document paths of settings that were edited since the start and take effect at the next one."""
    return tuple(f"gateway.{name}" for name in _FIXED if getattr(started, name) != getattr(live, name))

"""A provider of kind mock -> the settings that its service follows (`sidecars.mock.settings` has the fields)."""

from pathlib import PurePath
from typing import Any

from controlplane.policy.mock import MockProvider


def lower(told: MockProvider, base: PurePath) -> dict[str, Any]:
    """The settings as plain data. What the policy leaves out is absent. `base`: the folder of the policy."""
    found = {
        "version": 1,
        "fixtures": None if told.fixtures is None else str(base / told.fixtures),
        "strict": told.strict,
        "speed": told.speed,
        "delay": told.delay,
        "chunk_delay": told.chunk_delay,
        "errors": [{"fault": error.fault or str(error.status), "rate": error.rate} for error in told.errors],
        "scripts": list(told.script.items()),
        "seed": told.seed,
    }
    return {name: value for name, value in found.items() if value not in (None, [])}

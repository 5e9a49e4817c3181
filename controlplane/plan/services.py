"""Providers that the gateway runs itself, as processes that listen on unix sockets of its own. Pure."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeAlias

from controlplane.policy.mock import MockProvider
from controlplane.policy.onnx import OnnxProvider

Told: TypeAlias = MockProvider | OnnxProvider

_LONGEST = 16  # characters of a socket's name: the run folder leaves no more


@dataclass(frozen=True, slots=True)
class Service:
    """A process to run. `name` is that of the process, its log and its record; `told` is what the policy says of it.

    `provider`: whom it serves, or one of them.
    """

    name: str
    provider: str
    told: Told

    @property
    def socket(self) -> str:
        """Its socket's name, without an ending: short, and another for every service."""
        if len(self.name) <= _LONGEST:
            return self.name
        return f"{self.told.kind}~{blake2b(self.name.encode(), digest_size=4).hexdigest()}"


def service(provider: str, told: Told) -> Service:
    """What serves a provider. One mock is enough for all those that are told nothing."""
    shared = isinstance(told, MockProvider) and told.plain
    name = told.kind if shared else f"{told.kind}-{provider}"
    return Service(name, provider, told)

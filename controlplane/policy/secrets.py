"""Secrets: what a policy says (a reference) and what the rim reads (a value that refuses to be printed)."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, order=True)
class SecretRef:
    """Where a secret's value is kept: an environment variable (`env`) or a file (`file`)."""

    kind: str  # "env" | "file"
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret's value. `repr` and `str` hide it; only `reveal` gives it away."""

    _value: str = field(repr=False)

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret([redacted])"

    __str__ = __repr__


Secrets = Mapping[SecretRef, Secret]

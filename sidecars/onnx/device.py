"""Where a model runs."""

from dataclasses import dataclass
from typing import Any

# Where more tokens at once make a run no faster by the token: measured on one core, and what GPUs are commonly given.
_BATCH_TOKENS = {"cpu": 1024, "cuda": 16_384}
# What the answers in work may have in their caches together.
_CACHE_TOKENS = {"cpu": 16_384, "cuda": 65_536}
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@dataclass(frozen=True, slots=True)
class Device:
    """`kind` is `cpu` or `cuda`; `number` is that of a GPU."""

    kind: str
    number: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.number}"

    @property
    def batch_tokens(self) -> int:
        """What is fed at once where the settings do not say."""
        return _BATCH_TOKENS[self.kind]

    @property
    def cache_tokens(self) -> int:
        """What answers in work may hold together where the settings do not say."""
        return _CACHE_TOKENS[self.kind]

    @property
    def provider(self) -> str:
        """onnxruntime's name of what runs here."""
        return CUDA if self.kind == "cuda" else CPU

    def providers(self) -> list[Any]:
        """What onnxruntime is to use, the preferred first."""
        if self.kind == "cpu":
            return [CPU]
        # Memory grows by what is asked for, not in powers of two: several models share the GPU.
        return [(CUDA, {"device_id": self.number, "arena_extend_strategy": "kSameAsRequested"}), CPU]


def parse_device(text: str) -> Device:
    """`cpu`, `cuda` or `cuda:N`. Raises ValueError for anything else."""
    kind, _, number = text.partition(":")
    if text == "cpu" or (kind == "cuda" and (text == "cuda" or (number.isascii() and number.isdigit()))):
        return Device(kind, int(number or 0))
    raise ValueError(f"the device '{text}' is not known; expected cpu, cuda or cuda:N")

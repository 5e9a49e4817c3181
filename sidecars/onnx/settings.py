"""The settings of the service: what the control plane writes for it, as JSON. It holds no secret.

{"version": 1,
 "models": {"minilm": {"path": "/models/all-minilm-l6-v2", "preload": true},
            "judge": {"path": "/models/nli", "task": "nli", "device": "cuda:0", "idle_unload_s": 600}},
 "memory_bytes": {"cpu": 2000000000},
 "threads": 4}

`docs/onnx.md` has every field. What is wrong with one model (its folder, its device) is told when it is loaded, so that
the others serve; what is wrong with the document is told at once.
"""

import os
from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from sidecars.onnx.device import parse_device

_CONFIG = ConfigDict(extra="forbid")
Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, le=86_400 * 365)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
DeviceName = Annotated[str, AfterValidator(lambda text: str(parse_device(text)))]


class SettingsError(Exception):
    """Settings that cannot be used; the text has a line for each mistake."""


class Task(StrEnum):
    """What a model is for."""

    EMBED = "embed"
    RERANK = "rerank"
    CLASSIFY = "classify"
    NLI = "nli"
    GENERATE = "generate"


class Pool(StrEnum):
    """How the vectors of tokens become one."""

    MEAN = "mean"
    MEAN_SQRT_LENGTH = "mean_sqrt_len_tokens"
    MAX = "max"
    CLS = "cls"
    LAST = "lasttoken"


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True, config=_CONFIG)
class ModelSettings:
    """One model. What is None is read from its folder, or is as for the whole service.

    `file`: the ONNX file inside the folder. `device`: `cpu`, `cuda` or `cuda:N`. `threads`: for one run.
    `max_tokens`: a sequence is cut there; it can only lower what the model allows. `labels`: in the order of logits.
    `batch_tokens`: what is fed at once, padding included; None is by the device. `queue_tokens`, `max_requests`: what
    may wait, what may be in work; beyond them requests are answered with 429. `memory_bytes`: instead of the estimate
    of what it takes.

    Of a model that generates: `max_tokens` bounds prompt and answer together, `max_output_tokens` the answer,
    `batch_tokens` all that is in work, and `generations` how many answers are.
    """

    path: Path
    file: str | None = None
    task: Task | None = None
    device: str = "cpu"
    threads: Positive | None = None
    max_tokens: Positive | None = None
    pooling: Pool | None = None
    normalize: bool | None = None
    labels: tuple[Name, ...] | None = None
    batch_tokens: Positive | None = None
    queue_tokens: Positive = 65_536
    max_requests: Positive = 1024
    memory_bytes: Positive | None = None
    max_output_tokens: Positive | None = None
    generations: Positive | None = None
    preload: bool = False
    idle_unload_s: Seconds | None = None


@dataclass(frozen=True, slots=True, config=_CONFIG)
class Settings:
    """The whole service. `memory_bytes`: by device, for all models together; what is not named has no bound.

    `threads`: of a run, by default as many as there are processors. `retry_failed_s`: for so long a model that could
    not be loaded is not tried again. `drain_s`: how long requests may take to end when the service is told to stop.
    `tag`: told again by `GET /models`, so that whoever wrote the document sees when it is in force.
    """

    version: Literal[1]
    models: Mapping[Name, ModelSettings]
    memory_bytes: Mapping[DeviceName, Positive] = field(default_factory=dict)
    threads: Positive = field(default_factory=cores)
    tokenizer_threads: Positive = field(default_factory=cores)
    max_body_bytes: Positive = 32 << 20
    max_inputs: Positive = 2048
    retry_failed_s: Seconds = 30.0
    drain_s: Seconds = 30.0
    tag: str | None = None


_ADAPTER: TypeAdapter[Settings] = TypeAdapter(Settings)


def parse(text: bytes | str) -> Settings:
    """Raises SettingsError."""
    try:
        return _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise SettingsError("\n".join(map(_line, error.errors()))) from None


def read(file: Path) -> Settings:
    """Raises SettingsError, OSError."""
    try:
        return parse(file.read_bytes())
    except SettingsError as error:
        raise SettingsError(f"{file}:\n{error}") from None


def _line(error: Any) -> str:
    place = ".".join(map(str, error["loc"])) or "the document"
    return f"  {place}: {error['msg']}"

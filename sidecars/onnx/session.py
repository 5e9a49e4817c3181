"""A loaded model: token ids in, vectors or logits out. Blocks; runs beside the event loop."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from sidecars.onnx.device import Device
from sidecars.onnx.folder import Card
from sidecars.onnx.pooling import Floats, Mask, normalize, pool
from sidecars.onnx.settings import Task
from sidecars.onnx.tokens import Tokens

_FEEDS = frozenset({"input_ids", "attention_mask", "token_type_ids", "position_ids"})
_INTEGERS: Mapping[str, Any] = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
# Preferred first: exports may hold several.
_STATES = ("last_hidden_state", "token_embeddings")
_OUT_OF_MEMORY = re.compile(r"fail\w* to allocate|bad_alloc|out of memory|CUDA_ERROR_OUT_OF_MEMORY", re.IGNORECASE)
_ERROR_CHARS = 300


class LoadError(Exception):
    """A model that cannot be loaded; the text says why."""


class RunError(Exception):
    """A run that gave nothing. `memory`: whether because there was not enough of it."""

    def __init__(self, reason: str, *, memory: bool) -> None:
        super().__init__(reason)
        self.memory = memory


class Session:
    """One model on one device. Runs are not to overlap: each uses all of its threads."""

    def __init__(self, card: Card, device: Device, threads: int) -> None:
        """Raises LoadError."""
        self._card = card
        self._session = _open(card.onnx, device, threads)
        inputs = {given.name: given.type for given in self._session.get_inputs()}
        unknown = [name for name in inputs if name not in _FEEDS]
        if unknown or "input_ids" not in inputs:
            raise LoadError(f"the graph takes {', '.join(inputs)}; expected input_ids and some of {_listed(_FEEDS)}")
        wrong = [f"{name} ({kind})" for name, kind in inputs.items() if kind not in _INTEGERS]
        if wrong:
            raise LoadError(f"the graph takes whole numbers in other widths than 32 and 64 bits: {', '.join(wrong)}")
        self._inputs = {name: _INTEGERS[kind] for name, kind in inputs.items()}
        self._output, self._rank = _output(self._session, card.task)

    def run(self, batch: Sequence[Tokens]) -> Floats:
        """(batch, dimensions) vectors, or (batch, labels) logits. A row may hold what is no number. Raises RunError."""
        ids, mask = _padded(batch, self._card.pad_id)
        (found,) = self._run([self._output], self._feeds(batch, ids, mask))
        rows = np.asarray(found, dtype=np.float32)
        if self._card.task is not Task.EMBED:
            return rows
        with np.errstate(invalid="ignore", over="ignore"):  # what is no number is told by who asked for it
            vectors = pool(rows, mask, self._card.pooling) if self._rank == 3 else rows
            return normalize(vectors) if self._card.normalize else vectors

    def tensors(self, names: Sequence[str], tokens: Tokens) -> list[Floats]:
        """What the graph gives under these names for one sequence, as it gives it. Raises RunError."""
        ids, mask = _padded([tokens], self._card.pad_id)
        return self._run(names, self._feeds([tokens], ids, mask))

    def _run(self, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
        try:
            found: list[Any] = self._session.run(list(names), feeds)
        except MemoryError as error:
            raise RunError(str(error), memory=True) from None
        except Exception as error:  # the runtime's exceptions have no base class
            raise RunError(short(error), memory=lacks_memory(error)) from None
        return found

    def _feeds(self, batch: Sequence[Tokens], ids: Mask, mask: Mask) -> dict[str, Any]:
        found = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self._inputs:
            found["token_type_ids"] = types = np.zeros_like(ids)
            for row, tokens in enumerate(batch):
                types[row, : len(tokens.types)] = tokens.types
        if "position_ids" in self._inputs:
            found["position_ids"] = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        return {name: np.ascontiguousarray(found[name], dtype) for name, dtype in self._inputs.items()}


def _open(path: Path, device: Device, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised
    # A thread that spins for work takes the processor from the proxy on the same machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted = device.provider
    if wanted not in ort.get_available_providers():
        raise LoadError(f"this build of onnxruntime has no {wanted}; install onnxruntime-gpu or choose the device cpu")
    try:
        session = ort.InferenceSession(str(path), options, providers=device.providers())
    except MemoryError:
        raise LoadError(f"there is not enough memory to load {path.name}") from None
    except Exception as error:  # the runtime's exceptions have no base class
        raise LoadError(f"{path.name} cannot be loaded: {short(error).replace(str(path), path.name)}") from None
    # Where a GPU cannot be used the runtime falls back in silence.
    if session.get_providers()[0] != wanted:
        raise LoadError(f"the device {device} cannot be used; onnxruntime's {wanted} did not start")
    return session


def _output(session: ort.InferenceSession, task: Task) -> tuple[str, int]:
    """The output to read, and its rank."""
    ranks = {output.name: len(output.shape or ()) for output in session.get_outputs()}
    if task is Task.EMBED:
        named = [name for name in _STATES if ranks.get(name) == 3]
        choices = named or [name for name, rank in ranks.items() if rank == 3]
        choices = choices or [name for name in ("sentence_embedding", *ranks) if ranks.get(name) == 2]
        expected = "hidden states of tokens (3 axes) or a vector of each text (2 axes)"
    else:
        choices = [name for name in ("logits", *ranks) if ranks.get(name) == 2]
        expected = "logits (2 axes)"
    if not choices:
        raise LoadError(f"the graph gives {', '.join(f'{name} ({rank} axes)' for name, rank in ranks.items())}; "
                        f"expected {expected}")  # fmt: skip
    return choices[0], ranks[choices[0]]


def _padded(batch: Sequence[Tokens], pad_id: int) -> tuple[Mask, Mask]:
    """Ids and mask, (batch, longest), padded on the right."""
    longest = max(map(len, batch))
    ids = np.full((len(batch), longest), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(batch):
        ids[row, : len(tokens)] = tokens.ids
        mask[row, : len(tokens)] = 1
    return ids, mask


def lacks_memory(error: Exception) -> bool:
    """Whether the runtime failed because there was not enough memory, as far as its text tells."""
    return _OUT_OF_MEMORY.search(str(error)) is not None


def short(error: Exception) -> str:
    """What the runtime says, in one line of bounded length."""
    text = " ".join(str(error).split())
    return text if len(text) <= _ERROR_CHARS else text[:_ERROR_CHARS] + "…"


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))

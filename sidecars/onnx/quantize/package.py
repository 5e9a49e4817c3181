"""A quantized folder: written whole or not at all, with a report of what it costs and gains."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import orjson

from sidecars.onnx.convert.package import INLINE_BYTES, MODEL, kept
from sidecars.onnx.device import Device
from sidecars.onnx.folder import Card, FolderError, read_card
from sidecars.onnx.generate.card import generates
from sidecars.onnx.pooling import Floats
from sidecars.onnx.quantize.calibrate import peaks
from sidecars.onnx.quantize.pace import Paces, measure
from sidecars.onnx.quantize.quality import ScoreQuality, VectorQuality, compare_scores, compare_vectors
from sidecars.onnx.quantize.rewrite import QuantizeError, activations, rewrite
from sidecars.onnx.quantize.samples import Samples, read_samples
from sidecars.onnx.session import LoadError, RunError, Session
from sidecars.onnx.settings import ModelSettings, Task
from sidecars.onnx.tokens import TokenizerError, Tokens

RECORD = "quantized.json"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What is too much of a loss: the least cosine of any text, for models that embed; the least agreement, for those
    that score.
    """

    min_cosine: float
    min_agreement: float


@dataclass(frozen=True, slots=True)
class Bytes:
    """Of the ONNX files."""

    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a model. `made_of`: the SHA-256 of its ONNX file. `products`, `tables`: how many were made int8;
    `left`: how many products with weights were not. `texts`: how many it was judged by, from `source`.
    """

    version: int
    made_of: str
    task: Task
    products: int
    tables: int
    left: int
    weight_bits: int
    bytes: Bytes
    texts: int
    source: str
    quality: VectorQuality | ScoreQuality
    threads: int
    speed: Paces

    def view(self) -> dict[str, Any]:
        """As it is written."""
        return asdict(self)


class PoorQualityError(Exception):
    """A model that lost more than is allowed; `report` says how much."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


def quantize(
    folder: Path,
    destination: Path,
    limits: Limits,
    *,
    file: str | None = None,
    texts: Path | None = None,
    reduce_range: bool = False,
    threads: int,
    say: Callable[[str], None] = lambda step: None,
    inline_bytes: int = INLINE_BYTES,
) -> Report:
    """Quantizes the model in `folder` to `destination`, which must not exist.

    `file`: the ONNX file in the folder, where there are several. `texts`: to calibrate with and to judge by, in place
    of those that come along. `say` is told what is being done. Raises QuantizeError, PoorQualityError, OSError.
    """
    if destination.exists():
        raise QuantizeError(f"{destination} exists: remove it or choose another place")
    settings = ModelSettings(path=folder, file=file)
    if generates(settings):
        raise QuantizeError(f"{folder} has a model that generates text; only those that embed or score are quantized")
    try:
        card = read_card(settings)
        samples = read_samples(card, texts)
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}-") as scratch:
            work = _Work(folder, Path(scratch), card, samples, threads, say)
            report = work.make(reduce_range, str(texts or "built in"), inline_bytes)
            _judge(report, limits)
            work.made.rename(destination)
    except (FolderError, TokenizerError, LoadError) as error:
        raise QuantizeError(f"{folder}: {error}") from None
    except RunError as error:
        raise QuantizeError(f"{folder}: the model failed: {error}") from None
    return report


class _Work:
    """One model on its way. Everything lies in a scratch folder."""

    def __init__(
        self, folder: Path, scratch: Path, card: Card, samples: Samples, threads: int, say: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._scratch = scratch
        self._card = card
        self._samples = samples
        self._threads = threads
        self._say = say
        self.made = scratch / "new"

    def make(self, reduce_range: bool, source: str, inline_bytes: int) -> Report:
        self._say("reading the model")
        model = _read(self._card.onnx)
        names = activations(model)
        self._say(f"calibrating with {len(self._samples.calibrate)} texts")
        found = peaks(model, self._card, names, self._samples.calibrate, self._scratch, self._threads)
        self._say("rewriting the graph")
        made = rewrite(model, found, reduce_range=reduce_range)
        self._write(made.model, inline_bytes)
        after = read_card(ModelSettings(path=self.made))
        self._say(f"comparing the two by {len(self._samples.judge)} other texts")
        quality, speed = self._compare(after)
        report = Report(
            version=_VERSION,
            made_of=_digest(self._card.onnx),
            task=self._card.task,
            products=made.products,
            tables=made.tables,
            left=made.left,
            weight_bits=7 if reduce_range else 8,
            bytes=Bytes(self._card.weight_bytes, after.weight_bytes),
            texts=len(self._samples.judge),
            source=source,
            quality=quality,
            threads=self._threads,
            speed=speed,
        )
        (self.made / RECORD).write_bytes(orjson.dumps(report.view(), option=orjson.OPT_INDENT_2))
        return report

    def _write(self, model: onnx.ModelProto, inline_bytes: int) -> None:
        self.made.mkdir()
        for file in kept(self._folder):
            copy = self.made / file.relative_to(self._folder)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)
        outside = model.ByteSize() > inline_bytes
        onnx.save_model(model, self.made / MODEL, save_as_external_data=outside, location=MODEL + "_data")

    def _compare(self, after: Card) -> tuple[VectorQuality | ScoreQuality, Paces]:
        before, texts = self._card, self._samples.judge
        old, new = (Session(card, Device("cpu"), self._threads) for card in (before, after))
        rows = _rows(old, texts), _rows(new, texts)
        if not np.isfinite(rows[0]).all():
            raise QuantizeError(f"{self._folder}: the model itself gives what is no number (NaN or infinite)")
        if before.task is Task.EMBED:
            quality: VectorQuality | ScoreQuality = compare_vectors(*rows)
        else:
            quality = compare_scores(*rows, before.task, before.activation)
        return quality, measure(old, new, texts)


def _judge(report: Report, limits: Limits) -> None:
    """Raises PoorQualityError, for what is no number too."""
    quality = report.quality
    if isinstance(quality, VectorQuality):
        if not quality.cosine_min >= limits.min_cosine:
            raise PoorQualityError(
                f"the least cosine is {quality.cosine_min:.4f}; {limits.min_cosine} is asked for", report
            )
    elif not quality.agreement >= limits.min_agreement:
        raise PoorQualityError(f"the agreement is {quality.agreement:.4f}; {limits.min_agreement} is asked for", report)


def _read(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path)
    except OSError:
        raise
    except Exception as error:  # protobuf's, whose class depends on how it was built
        raise QuantizeError(f"{path} cannot be read: {' '.join(str(error).split())[:300]}") from None


def _rows(session: Session, texts: Sequence[Tokens]) -> Floats:
    return np.concatenate([session.run([text]) for text in texts])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""A converted folder: the graph, and what goes with it, written whole or not at all."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import orjson

from sidecars.onnx.convert import weights as stored
from sidecars.onnx.convert.encoder import Encoder
from sidecars.onnx.convert.families import shape_of
from sidecars.onnx.convert.graph import Graph
from sidecars.onnx.convert.heads import classifies, classify, labels_of
from sidecars.onnx.convert.weights import ConvertError, Weights

MODEL = "model.onnx"
RECORD = "converted.json"
# Raised with every change of the graphs, so that what was converted before is converted again.
REVISION = 1
# A protobuf holds less than 2 GiB: beyond this the weights lie in a file beside it.
INLINE_BYTES = 1_500_000_000

_KEPT = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "README.md", "LICENSE"),
)


Check = Callable[[Path, Mapping[str, Any], Weights], object]


@dataclass(frozen=True, slots=True)
class Converted:
    """What became of a folder. `made_of`: the SHA-256 of its source. `unused`: tensors with no part in it."""

    folder: Path
    made_of: str
    parameters: int
    unused: tuple[str, ...]
    cached: bool


def convert(
    source: Path,
    destination: Path,
    *,
    inline_bytes: int = INLINE_BYTES,
    check: Check | None = None,
    say: Callable[[str], None] = lambda step: None,
) -> Converted:
    """Converts `source` to `destination`, unless that was made of the same files by the same revision.

    Replaces what an earlier conversion left, nothing else. `check` looks at the new folder before it takes its place,
    and raises ConvertError for one that is not to. `say` is told what is being done. Raises ConvertError, OSError.
    """
    config = _config(source)
    digest = _digest(source)
    known = _record(destination)
    if known is not None and known.get("made_of") == digest:
        return Converted(destination, digest, known["parameters"], tuple(known["unused"]), cached=True)
    if destination.exists() and known is None:
        raise ConvertError(f"{destination} exists and was not made by a conversion; remove it or choose another place")
    say("reading the weights")
    weights = stored.read(source)
    say("building the graph")
    model = build(config, weights)
    made = Converted(destination, digest, weights.parameters, tuple(weights.left()), cached=False)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=f".{destination.name}-") as scratch:
        folder = Path(scratch, "new")
        say("writing the folder")
        _write(model, source, folder, made, outside=model.ByteSize() > inline_bytes)
        if check is not None:
            say("checking the numbers")
            check(folder, config, weights)
        if destination.exists():
            destination.rename(Path(scratch, "old"))
        folder.rename(destination)
    return made


def build(config: Mapping[str, Any], weights: Weights) -> onnx.ModelProto:
    """The model of a config.json and its weights. Raises ConvertError."""
    shape = shape_of(config)
    graph = Graph()
    head = classifies(config)
    prefix = shape.family.prefix
    bare = prefix + shape.family.embeddings + "word_embeddings.weight" not in weights
    states = Encoder(graph, shape, weights, "" if bare else prefix).build()
    if head:
        return graph.model(classify(graph, states, shape, config, weights), "logits", ["batch", labels_of(config)])
    return graph.model(states, "last_hidden_state", ["batch", "sequence", shape.hidden])


def _write(model: onnx.ModelProto, source: Path, folder: Path, made: Converted, *, outside: bool) -> None:
    folder.mkdir()
    for file in kept(source):
        copy = folder / file.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, copy)
    onnx.save_model(model, folder / MODEL, save_as_external_data=outside, location=MODEL + "_data")
    onnx.checker.check_model(folder / MODEL)
    record = {key: value for key, value in asdict(made).items() if key in ("made_of", "parameters", "unused")}
    (folder / RECORD).write_bytes(orjson.dumps(record, option=orjson.OPT_INDENT_2))


def _config(source: Path) -> dict[str, Any]:
    try:
        config = orjson.loads((source / "config.json").read_bytes())
    except FileNotFoundError:
        raise ConvertError(f"{source} has no config.json; expected a Hugging Face model folder") from None
    except orjson.JSONDecodeError as error:
        raise ConvertError(f"{source / 'config.json'} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise ConvertError(f"{source / 'config.json'} is not a JSON object")
    return config


def kept(source: Path) -> list[Path]:
    """What goes along unchanged: the files that are read beside the graph, those of modules too."""
    modules = sorted(source.glob("[0-9]*_*/config.json"))
    return [source / name for name in _KEPT if (source / name).is_file()] + modules


def _digest(source: Path) -> str:
    """Of everything that the result is made of."""
    found = hashlib.sha256(str(REVISION).encode())
    for path in [*kept(source), *stored.files_of(source)]:
        with path.open("rb") as file:
            found.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def _record(destination: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = orjson.loads((destination / RECORD).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found

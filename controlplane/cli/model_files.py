"""`ctl models import` and `ctl models quantize`: model folders for the ONNX service.

What they need is large and no part of what a control plane runs, so it is imported when they are called.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.markup import escape

from controlplane.cli import console, local
from controlplane.cli.common import Format, FormatOption, show

_EXTRA = "headgate[onnx,onnx-convert]"
_POOR = 3  # the exit code of a model that lost too much

Say = Callable[[str], None]
Name = Annotated[
    str | None, typer.Option("--name", help="What the model is called in the policy; the folder's name by default.")
]
Texts = Annotated[
    Path | None,
    typer.Option(
        help="Texts like those that the model will see, one a line; for models of pairs two, with a tab between. "
        "Half of them calibrate, the others judge."
    ),
]


def import_model(
    source: Annotated[Path, typer.Argument(help="A folder with config.json, tokenizer.json and safetensors weights.")],
    dest: Annotated[Path, typer.Argument(help="The model folder to make.")],
    name: Name = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Makes a folder that the ONNX service serves of an encoder with safetensors weights, and checks its numbers."""
    with _needs(), _steps(output) as say:
        from sidecars.onnx.convert import ConvertError, convert  # noqa: PLC0415 - see above
        from sidecars.onnx.convert.verify import Verified, verify  # noqa: PLC0415

        seen: list[Verified] = []
        try:
            made = convert(source, dest, say=say, check=lambda *new: seen.append(verify(*new)))
        except ConvertError as error:
            raise local.UseError(str(error)) from None
    view = {
        "folder": str(dest),
        "state": "unchanged" if made.cached else "converted",
        "parameters": made.parameters,
        "bytes": _size(dest),
        "unused": list(made.unused),
        "check": _checked(seen[0]) if seen else None,
        "policy": _policy(name or dest.resolve().name, dest),
    }
    show(output, view, _imported)


def quantize_model(
    folder: Annotated[Path, typer.Argument(help="A model folder with an ONNX file in float32.")],
    dest: Annotated[Path, typer.Argument(help="The model folder to make; there is none yet.")],
    texts: Texts = None,
    file: Annotated[str | None, typer.Option(help="The ONNX file, where the folder has several.")] = None,
    name: Name = None,
    min_cosine: Annotated[
        float, typer.Option(min=0, max=1, help="For embeddings: the least cosine of any text that is accepted.")
    ] = 0.98,
    min_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="For labels and ranks: the least share that stays the same.")
    ] = 0.95,
    reduce_range: Annotated[
        bool, typer.Option("--reduce-range", help="Weights of 7 bits, for x86 CPUs without VNNI.")
    ] = False,
    output: FormatOption = Format.TEXT,
) -> None:
    """Makes an int8 folder of a float32 one, and measures what it costs and gains. Exits 3 when it costs too much."""
    options = {"file": file, "texts": texts, "reduce_range": reduce_range}
    with _needs(), _steps(output) as say:
        report, why = _quantize(folder, dest, min_cosine, min_agreement, say, options)
    view = {
        "folder": None if why else str(dest),
        "refused": why,
        **report,
        "policy": None if why else _policy(name or dest.resolve().name, dest),
    }
    show(output, view, _quantized)
    raise typer.Exit(_POOR if why else 0)


def _quantize(
    folder: Path, dest: Path, min_cosine: float, min_agreement: float, say: Say, options: dict[str, Any]
) -> tuple[dict[str, Any], str | None]:
    """The report, and why nothing was written."""
    from sidecars.onnx.quantize import Limits, PoorQualityError, QuantizeError, quantize  # noqa: PLC0415 - see above

    threads = len(os.sched_getaffinity(0))
    try:
        report = quantize(folder, dest, Limits(min_cosine, min_agreement), threads=threads, say=say, **options)
    except PoorQualityError as error:
        return error.report.view(), str(error)
    except QuantizeError as error:
        raise local.UseError(str(error)) from None
    return report.view(), None


@contextmanager
def _needs() -> Iterator[None]:
    """Turns the absence of an extra into an error that names it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in {"controlplane", "extproc", "sidecars"}:
            raise
        raise local.UseError(f"this needs the package {error.name}: pip install '{_EXTRA}'") from None


@contextmanager
def _steps(output: Format) -> Iterator[Say]:
    """Shows people what is being done. Told to end, it lets what is half done be taken away."""
    former = signal.signal(signal.SIGTERM, _end)
    try:
        if output is Format.JSON or not console.err.is_terminal:
            yield lambda step: None
        else:
            with console.err.status("starting") as status:
                yield status.update
    finally:
        signal.signal(signal.SIGTERM, former)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("model.onnx*"))


def _checked(seen: Any) -> dict[str, Any]:
    card = seen.card
    found = {"task": card.task, "max_tokens": card.max_tokens, "difference": seen.difference, "texts": seen.texts}
    return found | ({"dimensions": seen.width} if card.task == "embed" else {"labels": list(card.labels)})


def _policy(name: str, folder: Path) -> str:
    """The lines of a policy that serve a folder. JSON's strings are YAML's too."""
    model, path = json.dumps(name), json.dumps(str(folder.resolve()))
    return f"providers:\n  here: {{kind: onnx, models: {{{model}: {{path: {path}}}}}}}\nmodels:\n  {model}: here\n"


def _imported(view: dict[str, Any]) -> None:
    out = console.out
    if view["state"] == "unchanged":
        out.print(escape(f"{view['folder']} was made of the same files before: it is left as it is"))
    else:
        check = view["check"]
        gives = f"{check['dimensions']} numbers" if "dimensions" in check else f"labels {', '.join(check['labels'])}"
        out.print(f"[green]converted[/] to {escape(view['folder'])}: {view['parameters']:,} parameters, "
                  f"{_mib(view['bytes'])}")  # fmt: skip
        out.print(escape(f"task {check['task']}, {gives}, sequences of {check['max_tokens']} tokens at most"))
        out.print(
            f"checked by {check['texts']} texts against a plain computation from the weights: "
            f"apart by {check['difference']:.1e} of the largest number"
        )
    if view["unused"]:
        out.print(escape(f"not part of the graph: {', '.join(view['unused'])}"))
    _serve(view)


def _quantized(view: dict[str, Any]) -> None:
    out, quality, speed = console.out, view["quality"], view["speed"]
    if view["refused"]:
        console.failed(view["refused"], "nothing is written")
    else:
        out.print(f"[green]quantized[/] to {escape(view['folder'])}")
    size = view["bytes"]
    left = f", {view['left']} left as they are" if view["left"] else ""
    out.print(f"size      {_mib(size['before'])} -> {_mib(size['after'])}; {view['products']} products and "
              f"{view['tables']} {'table' if view['tables'] == 1 else 'tables'} in int8{left}")  # fmt: skip
    if "cosine_mean" in quality:
        out.print(f"quality   cosine mean {quality['cosine_mean']:.4f}, least {quality['cosine_min']:.4f}; "
                  f"{quality['nearest_kept']:.1%} of the 10 nearest kept; "
                  f"rank correlation {quality['rank_correlation']:.4f}")  # fmt: skip
    else:
        kept = "order" if view["task"] == "rerank" else "label"
        out.print(f"quality   {quality['agreement']:.1%} have the same {kept}; scores are apart by "
                  f"{quality['difference_mean']:.4f} in the mean, {quality['difference_max']:.4f} at most")  # fmt: skip
    out.print(f"          of {view['texts']} texts ({escape(view['source'])})")
    for words, pace in (("one text", speed["single"]), ("a batch", speed["batched"])):
        out.print(f"speed     {pace['ratio']:.2f} times as fast with {words}: {pace['before_ms']:.2f} -> "
                  f"{pace['after_ms']:.2f} ms a text, {view['threads']} threads")  # fmt: skip
    if not view["refused"]:
        _serve(view)


def _serve(view: dict[str, Any]) -> None:
    console.out.print("to serve it, in the policy:\n")
    console.out.print(escape(view["policy"]), end="")


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"

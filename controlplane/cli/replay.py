"""`ctl record` and `ctl replay`: traffic written down, and sent again to see what became different."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.cells import set_cell_size
from rich.markup import escape

from controlplane.cli import console
from controlplane.cli.common import Format, FormatOption, print_json
from controlplane.cli.tables import show, table
from controlplane.policy.diagnostics import PolicyError

_WORST = 10
_WIDTH = 80
_KEY = "HEADGATE_KEY"

_T = TypeVar("_T")
_View = dict[str, Any]


def record(
    log: Annotated[Path, typer.Argument(help="The file that exchanges are appended to.", metavar="LOG")],
    upstream: Annotated[str, typer.Option(help="Where requests go: a gateway, or a provider.", metavar="URL")],
    listen: Annotated[str, typer.Option(help="Where clients connect.", metavar="ADDRESS")] = "127.0.0.1:8081",
) -> None:
    """Records what passes: a proxy in front of a gateway or a provider. Secrets are removed. Ctrl-C ends it."""
    argv = [sys.executable, "-m", "sidecars.recording", "--upstream", upstream, "--listen", listen, "--to", str(log)]
    os.execv(argv[0], argv)  # noqa: S606 - ourselves, in place of this process


def replay(
    log: Annotated[Path, typer.Argument(help="A recording, as `ctl record` makes it.", metavar="LOG")],
    against: Annotated[
        str,
        typer.Option(
            help="The policy to send it to; or a gateway's URL, with its key in HEADGATE_KEY.", metavar="POLICY"
        ),
    ],
    baseline: Annotated[
        str | None,
        typer.Option(help="Compare with this policy or gateway, instead of the recording.", metavar="POLICY"),
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Send as this key of the policies, with its limits and permissions.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=4096, help="Requests in flight at most.")] = 8,
    speed: Annotated[
        str, typer.Option(help="How much faster than recorded: 1, 10, or max for as fast as it goes.")
    ] = "max",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many requests.")] = None,
    max_different: Annotated[
        float, typer.Option(min=0, max=100, help="Percent of the requests that may differ.")
    ] = 0.0,
    min_similarity: Annotated[
        float, typer.Option(min=0, max=1, help="Texts at least so similar count as equal.")
    ] = 1.0,
    max_latency: Annotated[
        float | None, typer.Option(min=0, help="How many times as long p95 may take.", metavar="X")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(min=0, help="How many times as much it may cost.", metavar="X")
    ] = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Sends recorded requests to a gateway of a policy, and compares. 0: equal, 1: different, 2: wrong use."""
    from controlplane.replay import run  # noqa: PLC0415 - the whole compiler and a client, for this command alone
    from controlplane.replay.report import Thresholds  # noqa: PLC0415
    from controlplane.replay.send import Pace  # noqa: PLC0415

    def target(text: str) -> run.Target:
        if re.match(r"https?://", text):
            return run.Address(text.rstrip("/").removesuffix("/v1"), os.environ.get(_KEY))
        return run.checked(Path(text), key)

    pace = Pace(concurrency, _speed(speed))
    limits = Thresholds(max_different, min_similarity, max_latency, max_cost)
    recording = _or_wrong_use(lambda: run.read(log, limit))
    to = _or_wrong_use(lambda: target(against))
    base = None if baseline is None else _or_wrong_use(lambda: target(baseline))
    try:
        view = _or_wrong_use(lambda: run.replay(recording, to, base, pace, limits))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if output is Format.JSON:
        print_json(view)
    else:
        _shown(view)
    raise typer.Exit(0 if view["equal"] else 1)


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not float(text):
        raise typer.BadParameter(f"{text!r} is neither a number above 0 nor `max`", param_hint="--speed")
    return float(text)


def _or_wrong_use(work: Callable[[], _T]) -> _T:
    """What keeps a replay from a verdict ends with 2: 1 says that there is a difference."""
    from controlplane.replay.gateway import ReplayError  # noqa: PLC0415 - as above

    try:
        return work()
    except PolicyError as error:
        file = next((each.place.file for each in error.diagnostics if each.place is not None), None)
        console.diagnostics(error.diagnostics, Path(file).read_text(encoding="utf-8", errors="replace") if file else "")
    except ReplayError as error:
        console.failed(str(error))
    except OSError as error:
        console.failed(f"{error.filename}: {error.strerror}")
    raise typer.Exit(2)


def _shown(view: _View) -> None:
    sides = view["before"], view["after"]
    made = table("", *(escape(_cut(Path(side["name"]).name, 30)) for side in sides))
    for name, of in _ROWS.items():
        made.add_row(name, *(of(side) for side in sides))
    show(console.out, made)
    for each in view["skipped"]:
        console.out.print(f"[yellow]skipped[/] line {each['line']}: {escape(each['reason'])}")
    worst = [result for result in view["results"] if result["differs"]]
    console.out.print()
    if worst:
        share = 100 * len(worst) / view["requests"]
        console.out.print(f"{len(worst)} of {view['requests']} requests differ ({share:.3g} %), the worst first:")
        for result in worst[:_WORST]:
            _difference(result)
        if len(worst) > _WORST:
            console.out.print(f"… and {len(worst) - _WORST} more; --format json has all")
    else:
        console.out.print(f"all {view['requests']} requests are answered alike")
    for text in view["exceeded"]:
        console.out.print(f"[red]different[/]: {escape(text)}")
    if view["equal"]:
        console.out.print("[green]equal[/] within the thresholds")


def _difference(result: _View) -> None:
    before, after = result["before"], result["after"]
    if "status" in result["differs"]:
        parts = [f"{before['status'] or 'none'} -> {after['status'] or 'none'}"]
    else:
        parts = [kind for kind in result["differs"] if kind != "text"]
        if "text" in result["differs"]:
            parts.append(f"{100 * result['similarity']:.3g} % alike")
    head = f"{result['id'] or 'no id'}  {_cut(result['asked'], 20)}  "
    console.out.print(f"[bold]{escape(_cut(head + ', '.join(parts), _WIDTH))}[/]")
    for sign, colour, side in (("-", "red", before), ("+", "green", after)):
        console.out.print(f"[{colour}]{escape(_cut(f'  {sign} {_said(side)}', _WIDTH))}[/]")


def _said(side: _View) -> str:
    """One line that tells an answer from the other."""
    calls = ", ".join(f"{call['name']}({call['arguments']})" for call in side["calls"])
    where = f"[{side['provider']}] " if side["provider"] else ""
    text = side["error"] or calls or side["text"] or (f"{side['embeddings']} embeddings" if side["embeddings"] else "")
    return where + " ".join(f"{text} ({', '.join(side['finish'])})".split() if side["finish"] else text.split())


def _cut(text: str, width: int) -> str:
    """At most so many columns of a terminal."""
    return text if len(text) <= width and text.isascii() else set_cell_size(text, width).rstrip()


def _statuses(side: _View) -> str:
    found = [f"{count}x {status if status != '0' else 'none'}" for status, count in side["statuses"].items()]
    return ", ".join(found)


def _clock(side: _View, clock: str, rank: str) -> str:
    value = side[clock][rank]
    return "-" if value is None else f"{value:.1f} ms"


def _cost(side: _View) -> str:
    if side["cost_usd"] is not None:
        return f"${side['cost_usd']}"
    return "not known" if side["known_cost_usd"] == "0" else f"${side['known_cost_usd']} + {side['unpriced']} unpriced"


_ROWS: dict[str, Callable[[_View], str]] = {
    "status": _statuses,
    "first byte p50": lambda side: _clock(side, "first_ms", "p50"),
    "first byte p95": lambda side: _clock(side, "first_ms", "p95"),
    "total p50": lambda side: _clock(side, "total_ms", "p50"),
    "total p95": lambda side: _clock(side, "total_ms", "p95"),
    "cost": _cost,
}

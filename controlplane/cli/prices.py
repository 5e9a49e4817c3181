"""`ctl prices`: what models cost, and where that was found."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import orjson
import typer
from rich.markup import escape

from controlplane.cli import console, local
from controlplane.cli.common import Format, FormatOption, show
from extproc.usage.files import replace
from extproc.usage.price_catalog import Model, catalog_to_json, load_catalog
from extproc.usage.price_import import Imported, PriceFileError, Problem, import_prices
from extproc.usage.prices import price_to_json

app = typer.Typer(no_args_is_help=True, help="What models cost.")

_FETCH_S = 60.0
_SHOWN = 10  # problems of a kind, for people


@app.command("import")
def import_file(
    file: Annotated[str, typer.Argument(help="A file or an http(s) URL.", metavar="FILE")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("prices.json"),
    format_: FormatOption = Format.TEXT,
) -> None:
    """Makes a file of prices for `gateway.prices` out of the community's `model_prices_and_context_window.json`."""
    try:
        found = import_prices(_content(file), updated=_day(file))
    except PriceFileError as error:
        raise local.UseError(f"{file}: {error}") from None
    if not found.catalog.models:
        raise local.UseError(f"{file} has no price that can be charged: {output} is left as it is")
    replace(output.absolute(), orjson.dumps(catalog_to_json(found.catalog), option=orjson.OPT_INDENT_2))
    show(format_, _report(found, output), _told)


@app.command("show")
def show_price(
    model: Annotated[str, typer.Argument(help="A model's name at its provider.")],
    policy: Annotated[
        Path | None, typer.Argument(help="A policy: what its providers cost; else who sells it in the catalog.")
    ] = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Shows what a model costs, and where its price is from."""
    if policy is not None:
        rows = local.prices(policy, model)
    else:
        catalog = load_catalog()
        rows = [_row(catalog.title, sold) for sold in catalog.models if model in sold.names]
    show(output, {"model": model, "rows": rows}, _prices)


def _content(file: str) -> bytes:
    if not file.startswith(("http://", "https://")):
        return Path(file).read_bytes()
    try:
        return httpx.get(file, timeout=_FETCH_S, follow_redirects=True).raise_for_status().content
    except httpx.HTTPError as error:
        raise local.UseError(f"{file} cannot be fetched: {error or type(error).__name__}") from None


def _day(file: str) -> date:
    """When the prices were fetched: the file's own time, or today."""
    if file.startswith(("http://", "https://")):
        return datetime.now(UTC).date()
    return datetime.fromtimestamp(Path(file).stat().st_mtime, UTC).date()


def _row(source: str, sold: Model) -> dict[str, Any]:
    return {
        "provider": sold.family,
        "price": price_to_json(sold.price),
        "source": f"{source}: {sold.family}/{sold.name}",
    }


def _report(found: Imported, output: Path) -> dict[str, Any]:
    return {
        "file": str(output),
        "title": found.catalog.title,
        "models": len(found.catalog.models),
        "skipped": _problems(found.rejected),
        "doubts": _problems(found.doubts),
        "unsupported": [{"name": name, "fields": list(fields)} for name, fields in found.unsupported.items()],
        "free": list(found.free),
    }


def _problems(problems: tuple[Problem, ...]) -> list[dict[str, str]]:
    return [{"name": problem.name, "reason": problem.reason} for problem in problems]


def _told(view: dict[str, Any]) -> None:
    out = console.out
    out.print(f"[green]{view['models']} models[/] with prices in {escape(view['file'])}", soft_wrap=True)
    kinds = (
        ("skipped", "entries were left out", lambda each: each["reason"]),
        ("doubts", "fields were left out or repeated", lambda each: each["reason"]),
        ("unsupported", "models have prices besides that are not charged", lambda each: ", ".join(each["fields"])),
    )
    for kind, words, why in kinds:
        if view[kind]:
            out.print(f"[yellow]{len(view[kind])} {words}[/]")
            for each in view[kind][:_SHOWN]:
                out.print(escape(f"  {each['name']}: {why(each)}"), soft_wrap=True)
            if len(view[kind]) > _SHOWN:
                out.print(f"  and {len(view[kind]) - _SHOWN} more: --format json lists them")
    if view["free"]:
        out.print(f"{len(view['free'])} models cost nothing, or their price is not known to the file's authors")
    out.print(escape(f"name it in the policy: gateway: {{prices: {view['file']}}}"), soft_wrap=True)


def _prices(view: dict[str, Any]) -> None:
    out = console.out
    if not view["rows"]:
        out.print(f"{escape(view['model'])}: no price is known: add it to `prices` in the policy")
    for row in view["rows"]:
        source = f"  [dim]{escape(row['source'])}[/]" if row["source"] else ""
        out.print(f"[bold]{escape(row['provider'])}[/]  {console.price(row['price'])}{source}", soft_wrap=True)

"""`ctl cache`: the response cache."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from controlplane.cli import console
from controlplane.cli.common import Format, FormatOption, Server, remote, show

app = typer.Typer(no_args_is_help=True, help="The answers that rules cache.")

Rule = Annotated[str | None, typer.Option(help="Of this rule only.")]


@app.command("show")
def show_cache(rule: Rule = None, server: Server = None, output: FormatOption = Format.TEXT) -> None:
    """Shows what the response cache holds and did, by rule, since its store was started."""
    view = remote(server).get("/cache")
    if rule is not None:
        view["rules"] = [each for each in view["rules"] if each["rule"] == rule]
    show(output, view, console.cached)


@app.command("clear")
def clear_cache(rule: Rule = None, server: Server = None, output: FormatOption = Format.TEXT) -> None:
    """Removes the answers that are cached: of one rule, or all. Those in Redis go for every gateway that uses it."""
    view = remote(server).delete("/cache", **({} if rule is None else {"rule": rule}))
    show(output, view, lambda view: _cleared(view, rule))


def _cleared(view: dict[str, Any], rule: str | None) -> None:
    of = f" of {escape(rule)}" if rule else ""
    console.out.print(f"{view['cleared']:,} answers{of} removed")
    if view["redis"] == "away":
        console.err.print("[red]Redis is away[/]: what it holds is still there; try again when it is back")

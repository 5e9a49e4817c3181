"""`ctl logs`: what a process of the gateway wrote."""

from typing import Annotated, Any
from urllib.parse import quote

import typer

from controlplane.cli import console
from controlplane.cli.common import Format, FormatOption, Server, remote, show
from controlplane.runtime.logfile import MOST_LINES

Name = Annotated[str, typer.Argument(help="The process, as `ctl status` names it.", metavar="NAME", show_default=False)]
Lines = Annotated[int, typer.Option("--lines", "-n", min=1, max=MOST_LINES, help="How many, from the end.")]


def logs(name: Name, lines: Lines = 100, server: Server = None, output: FormatOption = Format.TEXT) -> None:
    """Prints the end of the log of a process: Envoy, a worker, a service, a server that is launched."""
    view = remote(server).get(f"/processes/{quote(name, safe='')}/log", lines=str(lines))
    show(output, view, _lines)


def _lines(view: dict[str, Any]) -> None:
    for line in view["lines"]:
        console.out.print(line, markup=False, highlight=False, soft_wrap=True)

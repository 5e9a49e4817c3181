"""`ctl models`: what clients can ask for."""

import typer

from controlplane.cli import console, local
from controlplane.cli.common import Format, FormatOption, OptionalPolicy, Server, remote, show

app = typer.Typer(help="The models that clients can ask for. Without a command: `list`.")


@app.callback(invoke_without_command=True)
def models(context: typer.Context, server: Server = None, output: FormatOption = Format.TEXT) -> None:
    """The models that clients can ask for. Without a command: `list`."""
    if context.invoked_subcommand is None:
        show(output, remote(server).get("/models"), console.models)


@app.command("list")
def list_models(policy: OptionalPolicy = None, server: Server = None, output: FormatOption = Format.TEXT) -> None:
    """Lists the models that clients can ask for, and where each goes."""
    view = remote(server).get("/models") if policy is None else local.models(policy)
    show(output, view, console.models)

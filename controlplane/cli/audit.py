"""`ctl audit`: the audit log."""

from pathlib import Path
from typing import Annotated

import typer

from controlplane.cli import console, local
from controlplane.cli.common import Format, FormatOption, Server, remote, show

app = typer.Typer(no_args_is_help=True, help="The audit log.")

AUDIT = Path(".headgate/audit")
AuditFolder = Annotated[Path, typer.Argument(help="The log's folder: `audit` in the state folder.", metavar="FOLDER")]


@app.command("list")
def list_entries(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many entries.")] = 20,
    before: Annotated[int | None, typer.Option(help="Only entries with smaller numbers.")] = None,
    action: Annotated[str, typer.Option(help="Only this action and those below it, such as `key`.")] = "",
    server: Server = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Lists what the audit log of the running gateway holds, newest first."""
    view = remote(server).get("/audit", limit=limit, before=before, action=action)
    show(output, view, console.audit)


@app.command("verify")
def verify_audit(
    folder: AuditFolder = AUDIT,
    head: Annotated[str, typer.Option(help="What `ctl audit head` printed earlier: shows a cut end.")] = "",
    output: FormatOption = Format.TEXT,
) -> None:
    """Checks every entry of an audit log; exit code 1 when something was changed."""
    found = local.verify_audit(folder, head)
    show(output, found, console.verified)
    if found["problems"]:
        raise typer.Exit(1)


@app.command("head")
def audit_head(folder: AuditFolder = AUDIT) -> None:
    """Prints the end of an audit log, to be kept elsewhere: it proves later that nothing was cut off."""
    console.out.print(local.audit_head(folder), soft_wrap=True, highlight=False)

"""`ctl audit`: the audit log."""

from pathlib import Path
from typing import Annotated

import typer

from controlplane.cli import console, local
from controlplane.cli.common import Format, FormatOption, Server, remote, show

app = typer.Typer(no_args_is_help=True, help="The audit log.")

AUDIT = Path(".headgate/audit")
AuditFolderOrNone = Annotated[
    Path | None, typer.Argument(help="The log's folder, where it is to be read itself.", metavar="[FOLDER]")
]
AuditFolder = Annotated[Path, typer.Argument(help="The log's folder: `audit` in the state folder.", metavar="FOLDER")]


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


@app.command("show")
def show_audit(
    folder: AuditFolderOrNone = None,
    action: Annotated[str, typer.Option(help="Only these: key, policy, request.denied, admin …")] = "",
    since: Annotated[str, typer.Option(help="From when on: an age such as 24h, or a time.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many entries.")] = 50,
    server: Server = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Shows the newest entries of an audit log: who did what, when, from where; requests that were denied too.

    Without a folder the running gateway is asked.
    """
    if folder is None:
        view = remote(server).get("/audit", limit=limit, action=action, since=since)
    else:
        view = local.audit_entries(folder, action, since, limit)
    show(output, view, console.audited)


@app.command("head")
def audit_head(folder: AuditFolder = AUDIT) -> None:
    """Prints the end of an audit log, to be kept elsewhere: it proves later that nothing was cut off."""
    console.out.print(local.audit_head(folder), soft_wrap=True, highlight=False)

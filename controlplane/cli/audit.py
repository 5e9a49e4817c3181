"""`ctl audit`: the audit log, read where it lies."""

from pathlib import Path
from typing import Annotated

import typer

from controlplane.cli import console, local
from controlplane.cli.options import Format, FormatOption, show

audit_app = typer.Typer(no_args_is_help=True, help="The audit log.")
AUDIT = Path(".headgate/audit")
AuditFolder = Annotated[Path, typer.Argument(help="The log's folder: `audit` in the state folder.", metavar="FOLDER")]


@audit_app.command("verify")
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


@audit_app.command("show")
def show_audit(
    folder: AuditFolder = AUDIT,
    action: Annotated[str, typer.Option(help="Only these: key, policy, request.denied, admin …")] = "",
    since: Annotated[str, typer.Option(help="From when on: an age such as 24h, or a time.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many entries.")] = 50,
    output: FormatOption = Format.TEXT,
) -> None:
    """Shows the newest entries of an audit log: who did what, when, from where; requests that were denied too."""
    show(output, local.audit_entries(folder, action, since, limit), console.audited)


@audit_app.command("head")
def audit_head(folder: AuditFolder = AUDIT) -> None:
    """Prints the end of an audit log, to be kept elsewhere: it proves later that nothing was cut off."""
    console.out.print(local.audit_head(folder), soft_wrap=True, highlight=False)

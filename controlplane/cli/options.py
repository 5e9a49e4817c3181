"""What several commands have in common: arguments, options, and how answers are printed."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from controlplane.cli.remote import DEFAULT


class Format(StrEnum):
    TEXT = "text"
    JSON = "json"


class Rows(StrEnum):
    TEXT = "text"
    JSON = "json"
    CSV = "csv"


Policy = Annotated[Path, typer.Argument(help="The policy file.", metavar="POLICY", show_default=False)]
OptionalPolicy = Annotated[
    Path | None,
    typer.Argument(help="The policy file; without it, the running control plane is asked.", metavar="[POLICY]"),
]
FormatOption = Annotated[Format, typer.Option("--format", help="For people or for programs.")]
Server = Annotated[
    str | None,
    typer.Option(
        "--server", envvar="HEADGATE_SERVER", help=f"URL of the control plane's admin API [default: {DEFAULT}]"
    ),
]
Why = Annotated[str, typer.Option("--why", "-m", help="Why, for the history.")]


def show(output: Format, view: Any, human: Any) -> None:
    """Prints an answer: as JSON, or by `human`."""
    if output is Format.JSON:
        print_json(view)
    else:
        human(view)


def print_json(view: Any) -> None:
    sys.stdout.write(json.dumps(view, indent=2, ensure_ascii=False) + "\n")

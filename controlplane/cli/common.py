"""What the commands share: their options, the control plane they ask, how they answer."""

import getpass
import json
import sys
from contextvars import ContextVar
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from controlplane.cli.remote import DEFAULT, Remote


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
        "--server", envvar="HEADGATE_SERVER", help=f"URL of the control plane's admin API ({DEFAULT} by default)"
    ),
]
Why = Annotated[str, typer.Option("--why", "-m", help="Why, for the history.")]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="HEADGATE_TOKEN",
        help="Token for the admin API. Better in the environment: others on the machine see the command line.",
    ),
]


# What stood before the command. Typer hands it to its own callback only.
given_token: ContextVar[str | None] = ContextVar("given_token", default=None)


def remote(server: str | None) -> Remote:
    """The control plane at a URL, asked with the token that `ctl` was given."""
    return Remote(server or DEFAULT, given_token.get())


def show(output: Format, view: Any, human: Any) -> None:
    if output is Format.JSON:
        print_json(view)
    else:
        human(view)


def print_json(view: Any) -> None:
    sys.stdout.write(json.dumps(view, indent=2, ensure_ascii=False) + "\n")


def who() -> str:
    try:
        return getpass.getuser()
    except OSError:  # a user id without a name
        return "unknown"

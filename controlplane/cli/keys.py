"""`ctl keys`: keys that the gateway issues itself."""

from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import typer

from controlplane.cli import console
from controlplane.cli.common import Format, FormatOption, Server, remote, show, who

Names = list[str] | None


class Priority(StrEnum):
    """Whose requests are first at local models."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


app = typer.Typer(no_args_is_help=True, help="Keys that the gateway issues itself.")


@app.command("issue")
def issue_key(
    name: Annotated[str, typer.Argument(help="A name for the key.")],
    team: Annotated[str | None, typer.Option(help="A team of the live policy.")] = None,
    models: Annotated[Names, typer.Option(help="Models it may use, comma-separated, exact or ending in *.")] = None,
    limits: Annotated[Names, typer.Option(help="Limits of the live policy, comma-separated.")] = None,
    budget: Annotated[str | None, typer.Option(help="A budget of the live policy.")] = None,
    addresses: Annotated[
        Names, typer.Option(help="Networks it may be used from, comma-separated; all by default.")
    ] = None,
    priority: Annotated[
        Priority, typer.Option(help="Whose requests are first when some wait for a model that runs here.")
    ] = Priority.NORMAL,
    expires: Annotated[str | None, typer.Option(help="When it ends: a time, or how long it is good (30d).")] = None,
    server: Server = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Issues a key: a signed token that the edge verifies by itself. Its secret is shown this once."""
    body: dict[str, Any] = {"name": name, "team": team, "models": _listed(models) or None, "limits": _listed(limits)}
    body |= {"budget": budget, "addresses": _listed(addresses) or None, "priority": priority.value}
    body |= {"expires": expires, "who": who()}
    view = remote(server).post("/keys", body)
    show(output, view, console.issued)


@app.command("list")
def list_keys(server: Server = None, output: FormatOption = Format.TEXT) -> None:
    """Lists issued keys, without their secrets."""
    show(output, remote(server).get("/keys"), console.keys)


@app.command("revoke")
def revoke_key(
    name: Annotated[str, typer.Argument(help="The key's name.")],
    server: Server = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Revokes a key: the edge refuses it from now on."""
    view = remote(server).delete(f"/keys/{quote(name, safe='')}", who=who())
    show(output, view, console.revoked)
    if view["pending"]:
        raise typer.Exit(1)


@app.command("rotate")
def rotate_key(
    name: Annotated[str | None, typer.Argument(help="The key's name.", metavar="[NAME]", show_default=False)] = None,
    signing: Annotated[bool, typer.Option("--signing", help="The key that signs all issued keys, instead.")] = False,
    overlap: Annotated[
        str | None, typer.Option(help="How long the old one is still accepted (1h by default, 30d with --signing)")
    ] = None,
    server: Server = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Issues a key anew under its name, or signs with a new key; the old one ends after the overlap."""
    if (name is None) is not signing:
        raise typer.BadParameter("name a key, or give --signing")
    body = {"overlap": overlap or ("30d" if signing else "1h"), "who": who()}
    if name is None:
        show(output, remote(server).post("/signing-keys/rotate", body), console.signing_rotated)
    else:
        show(output, remote(server).post(f"/keys/{quote(name, safe='')}/rotate", body), console.issued)


def _listed(texts: Names) -> list[str]:
    """Names between commas, of an option that may be given several times."""
    return [name.strip() for text in texts or () for name in text.split(",") if name.strip()]

"""`ctl models`: what clients can ask for, and the life of the models that run here."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from controlplane.cli import console, local, model_files
from controlplane.cli.common import Format, FormatOption, OptionalPolicy, Server, remote, show, who
from controlplane.cli.tables import show as print_table
from controlplane.cli.tables import table

app = typer.Typer(help="The models that clients can ask for, and those that run here. Without a command: `list`.")

_COLOURS = {"ready": "green", "loading": "yellow", "failed": "red", "unknown": "red"}

Name = Annotated[
    str, typer.Argument(help="The model's name at its provider, or PROVIDER/NAME.", metavar="NAME", show_default=False)
]
Provider = Annotated[str | None, typer.Option(help="Its provider, where several have a model of this name.")]


@app.callback(invoke_without_command=True)
def models(context: typer.Context, server: Server = None, output: FormatOption = Format.TEXT) -> None:
    """The models that clients can ask for, and those that run here. Without a command: `list`."""
    if context.invoked_subcommand is None:
        list_models(None, server, output)


@app.command("list")
def list_models(policy: OptionalPolicy = None, server: Server = None, output: FormatOption = Format.TEXT) -> None:
    """Lists the models that clients can ask for and where each goes; of a running gateway also its local models."""
    view = remote(server).get("/models") if policy is None else {"models": local.models(policy), "local": []}
    show(output, view, _listed)


@app.command("load")
def load_model(
    name: Name, provider: Provider = None, server: Server = None, output: FormatOption = Format.TEXT
) -> None:
    """Loads a local model, and ends when it is ready; exits with 1 when it cannot be loaded."""
    show(output, _change("load", name, provider, server), _changed)


@app.command("unload")
def unload_model(
    name: Name, provider: Provider = None, server: Server = None, output: FormatOption = Format.TEXT
) -> None:
    """Unloads a local model once the requests that it has are answered. The next request loads it again."""
    show(output, _change("unload", name, provider, server), _changed)


app.command("import")(model_files.import_model)
app.command("quantize")(model_files.quantize_model)


def _change(verb: str, name: str, provider: str | None, server: str | None) -> dict[str, Any]:
    body = {"model": name, "provider": provider, "who": who()}
    found: dict[str, Any] = remote(server).post(f"/models/{verb}", body)
    return found


def _listed(view: dict[str, Any]) -> None:
    made = table("model", "goes to", "attempts", prose=["goes to"])
    for row in view["models"]:
        groups = [", ".join(console.target(target, len(group)) for target in group) for group in row["groups"]]
        made.add_row(escape(row["model"]), escape(" then ".join(groups)), str(row["attempts"]))
    print_table(console.out, made)
    if view["local"]:
        console.out.print()
        _local(view["local"])


def _local(rows: list[dict[str, Any]]) -> None:
    made = table("local model", "state", "task", "device", "memory", "open", "waiting", "why", prose=["why"])
    for row in rows:
        colour = _COLOURS.get(row["state"], "dim")
        memory = f"{row['memory_bytes'] / (1 << 20):,.0f} MiB" if row.get("memory_bytes") else ""
        counts = (str(row.get(name, "")) for name in ("open_requests", "waiting_sequences"))
        made.add_row(
            escape(f"{row['provider']}/{row['model']}"), f"[{colour}]{row['state']}[/]", row.get("task", ""),
            row.get("device", ""), memory, *counts, escape(row["why"] or ""),
        )  # fmt: skip
    print_table(console.out, made)


def _changed(view: dict[str, Any]) -> None:
    console.out.print(f"{escape(view['provider'])}/{escape(view['model'])} is {view['state']}")

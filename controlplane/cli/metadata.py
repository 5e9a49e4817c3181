"""`ctl models show`: what is known of a model, and where it was found."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from controlplane.cli import console, local
from controlplane.cli.common import Format, FormatOption, OptionalPolicy, Server, remote, show
from controlplane.cli.tables import show as print_table
from controlplane.cli.tables import table

_TITLES = {
    "context_window": "context window",
    "max_output": "most output",
    "inputs": "takes",
    "outputs": "gives",
    "capabilities": "can",
    "price": "price",
    "deprecation": "ends on",
}
_TOKENS = ("context_window", "max_output")


def show_model(
    name: Annotated[str, typer.Argument(help="The model, as clients name it.", metavar="NAME")],
    policy: OptionalPolicy = None,
    server: Server = None,
    output: FormatOption = Format.TEXT,
) -> None:
    """Shows what is known of a model: window, modalities, price, parameters; of each target, and where it was found."""
    view = remote(server).get(f"/models/{name}") if policy is None else local.model(policy, name)
    show(output, view, _shown)


def _shown(view: dict[str, Any]) -> None:
    console.out.print(f"[bold]{escape(view['model'])}[/]")
    made = table("fact", "value", "source", prose=["value", "source"])
    for name, fact in view["facts"].items():
        made.add_row(_TITLES[name], escape(_value(name, fact["value"])), escape(fact["source"]))
    if view["facts"]:
        print_table(console.out, made)
    else:
        console.out.print("nothing is known of it: say it in the policy, in the model's `about`")
    made = table("parameter", "kind", "values", "source", prose=["values", "source"])
    for name, parameter in view["parameters"].items():
        kind = parameter["kind"].replace("_", "-")
        made.add_row(escape("others" if name == "*" else name), kind, escape(_bounds(parameter)), parameter["source"])
    print_table(console.out, made)
    made = table("target", "group", "weight", "window", "output", "price", prose=["price"])
    for target in view["targets"]:
        known = {name: _value(name, fact["value"]) for name, fact in target["facts"].items()}
        cells = (str(target["group"]), str(target["weight"]), *(known.get(name, "") for name in (*_TOKENS, "price")))
        made.add_row(escape(f"{target['provider']}/{target['model']}"), *map(escape, cells))
    print_table(console.out, made)


def _value(name: str, value: Any) -> str:
    if name in _TOKENS:
        return f"{value:,}"
    if name == "price":
        return console.price(value)
    return ", ".join(value) if isinstance(value, list | tuple) else str(value)


def _bounds(parameter: dict[str, Any]) -> str:
    least, most = parameter.get("min"), parameter.get("max")
    words = [console.short(parameter["value"])] if "value" in parameter else []
    if least is not None and most is not None:
        words.append(f"{least:,} to {most:,}")
    elif least is not None or most is not None:
        words.append(f"from {least:,}" if least is not None else f"up to {most:,}")
    if "default" in parameter:
        words.append(f"{console.short(parameter['default'])} by default")
    return ", ".join(words)

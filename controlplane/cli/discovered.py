"""How `ctl endpoints` shows what was discovered."""

from typing import Any

from rich.markup import escape

from controlplane.cli.console import out
from controlplane.cli.tables import show, table

_FIGURES = ("capacity", "queue", "running", "weight")


def endpoints(view: dict[str, Any]) -> None:
    """One line per endpoint; what a file does not tell stays empty."""
    if not view["rows"]:
        out.print("no endpoint was discovered: no service is registered, and no file lists any")
        return
    made = table("provider", "id", "address", "from", "models", prose=["models"])
    for name in (*_FIGURES, "heard"):
        made.add_column(name, justify="right", no_wrap=True)
    for row in view["rows"]:
        models = ", ".join(row["models"]) or "all"
        texts = (row["provider"], row["id"], row["address"], row["source"], models)
        figures = ("" if row[name] is None else str(row[name]) for name in _FIGURES)
        heard = "" if row["heard_s"] is None else f"{row['heard_s']:.0f} s ago"
        made.add_row(*map(escape, texts), *figures, heard)
    show(out, made)

"""Tables of `ctl`, for terminals of any width and for pipes."""

from collections.abc import Collection

from rich.console import Console
from rich.table import Table

_NARROWEST = 16  # of a column of prose
_ENDLESS = 100_000


def table(*names: str, prose: Collection[str] = ()) -> Table:
    """A table without lines. Its columns stay whole, but for those of `prose`, which are folded where room is short."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        if name in prose:
            made.add_column(name, overflow="fold", min_width=len(name))
        else:
            made.add_column(name, no_wrap=True)
    return made


def show(out: Console, made: Table) -> None:
    """Prints a table: never folded into a pipe, where programs take a line for a row.

    A terminal too narrow for its whole columns wraps its lines by itself, which leaves names as they are.
    """
    natural = out.measure(made, options=out.options.update(max_width=_ENDLESS)).maximum
    least = natural
    for column in made.columns:
        if not column.no_wrap:
            widest = max((len(line) for cell in column.cells for line in str(cell).splitlines()), default=0)
            least -= max(0, widest - _NARROWEST)
    made.width = min(natural, max(out.width, least)) if out.is_terminal else natural
    out.print(made, crop=False, soft_wrap=True)

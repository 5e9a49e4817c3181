"""Tables at any width: names stay whole, prose is folded, pipes get a line for a row."""

import io

from rich.console import Console

from controlplane.cli.tables import show, table

WORDS = "one two three four five six seven eight nine ten"


def printed(width: int, *, terminal: bool, names: tuple[str, str] = ("alice", "standard")) -> list[str]:
    out = Console(file=io.StringIO(), force_terminal=terminal, width=width, soft_wrap=True, color_system=None)
    made = table("key", "why", "limit", prose=["why"])
    made.add_row(names[0], WORDS, names[1])
    show(out, made)
    assert isinstance(out.file, io.StringIO)
    return [line.rstrip() for line in out.file.getvalue().splitlines()]


def test_prose_is_folded_to_the_width_of_a_terminal() -> None:
    lines = printed(40, terminal=True)
    assert max(map(len, lines)) <= 40
    assert len(lines) > 2
    assert lines[1].startswith("alice ")
    assert lines[1].endswith(" standard")


def test_a_terminal_that_is_wide_enough_folds_nothing() -> None:
    assert len(printed(120, terminal=True)) == 2


def test_names_are_never_folded() -> None:
    names = ("a-key-with-a-long-name-of-its-own", "a-limit-with-a-long-name")
    lines = printed(40, terminal=True, names=names)
    assert all(name in lines[1] for name in names)


def test_a_pipe_gets_a_line_for_each_row() -> None:
    (_, row) = printed(40, terminal=False)
    assert WORDS in row

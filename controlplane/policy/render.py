"""Diagnostics for people: what, where, the line with a caret, what was expected, the next step. Plain text."""

import re

from controlplane.policy.diagnostics import Diagnostic
from controlplane.policy.place import Place, path_text

_SECRET_FIELD = re.compile(
    r"((?:secret|api_key|token|key|cert|client_ca|ca)\s*:\s*)(?!\s*\{\s*(?:env|file)\b)([^\s{,}#][^,}#\n]*)"
)
_WIDTH = 76


def render(found: Diagnostic, text: str) -> str:
    """Several lines; `text` is the policy that the places refer to."""
    lines = [f"{found.severity}: {found.message}  [{found.code}]"]
    if found.place is not None:
        path = path_text(found.place.path)
        lines.append(f"  --> {found.place}" + (f"  {path}" if found.place.path else ""))
        lines += _snippet(found.place, text)
    if found.expected:
        lines.append(f"  expected: {found.expected}")
    if found.suggestion:
        lines.append(f"  did you mean `{found.suggestion}`?")
    if found.hint:
        lines.append(f"  hint: {found.hint}")
    return "\n".join(lines)


def _snippet(place: Place, text: str) -> list[str]:
    source = text.splitlines()
    if not 0 < place.line <= len(source):
        return []
    whole = source[place.line - 1]
    line = _masked(whole)
    column = 1 + len(_masked(whole[: place.column - 1]))
    start = 0 if len(line) <= _WIDTH - 8 else max(0, column - 30)
    shown = line[start : start + _WIDTH - 8]
    number = str(place.line)
    return [f"  {number} | {shown}", f"  {' ' * len(number)} | {' ' * (column - 1 - start)}^"]


def _masked(line: str) -> str:
    """The line without literal secrets and control characters."""
    line = _SECRET_FIELD.sub(lambda found: found[1] + "*" * 8, line)
    return "".join(char if char.isprintable() else " " for char in line)

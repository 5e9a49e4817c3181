"""Diagnostics for people: what, where, the line with a caret, what was expected, the next step. Plain text."""

import difflib
import re

from controlplane.policy.diagnostics import Diagnostic
from controlplane.policy.parse import BREAK
from controlplane.policy.place import Place, path_text
from controlplane.policy.types import HIDDEN, LOOKS_SECRET

_SECRETS = ("secret", "api_key", "token", "admin_token", "password", "authorization")
_OTHERS = {"key", "cert", "client_ca", "ca"}
_PLAIN = {
    "tokens",
    "tokenize",
    "tokenizer",
    "tokenizers",
    "organization",
    "organizations",
}  # near those above, but counts and names
_FIELD = re.compile(r"""(?<![\w-])["']?(\w[\w-]*)["']?\s*:(?:\s+|$)""")
_REFERENCE = re.compile(r"\{\s*(?:env:\s*[A-Za-z_][A-Za-z0-9_]*|file:\s*[^\s{},]+)\s*\}")
_REFERENCE_LINE = re.compile(r"\s*(?:env|file):\s+\S+\s*$")
_WIDTH = 68


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
    source = BREAK.split(text.removeprefix("\ufeff"))
    if not 0 < place.line <= len(source):
        return []
    line = _masked(source, place)
    column = min(place.column, len(line) + 1)
    start = 0 if len(line) <= _WIDTH else max(0, column - 30)
    number, shown = str(place.line), line[start : start + _WIDTH].rstrip()
    return [f"  {number} | {shown}", f"  {' ' * len(number)} | {' ' * (column - 1 - start)}^"]


def _masked(source: list[str], place: Place) -> str:
    """A line without control characters and without anything that may be a secret: it ends where that begins."""
    line = source[place.line - 1]
    end = min((match.start() for match in LOOKS_SECRET.finditer(line)), default=len(line))
    literal = (field.end() for field in _FIELD.finditer(line) if _holds_secret(line, field))
    end = min(end, next(literal, end))
    if _continues_secret(source, place.line - 1):
        end = min(end, len(line) - len(line.lstrip(" ")))
    if len(place.path) <= 2 and place.path[:1] == ("keys",) and line[place.column - 1 : place.column] not in ("{", ""):
        end = min(end, _value_start(line, place))
    hidden = line[:end] + (HIDDEN if end < len(line) else "")
    return "".join(char if char.isprintable() else " " for char in hidden)


def _value_start(line: str, place: Place) -> int:
    """Where the value of a key begins that is written as plain text: the secret itself, most likely."""
    named = re.compile(r"\s*(?:[A-Za-z0-9._-]+|\"[^\"]*\"|'[^']*')\s*:\s+").match(line, place.column - 1)
    if named is None:
        return place.column - 1
    return named.end() if not line.startswith(("{", "#"), named.end()) else len(line)


def _continues_secret(source: list[str], number: int) -> bool:
    """Whether a line belongs to a secret's field that began above it."""
    line = source[number]
    indent = len(line) - len(line.lstrip(" "))
    if not line.strip() or _REFERENCE_LINE.match(line):
        return False
    for above in reversed(source[:number]):
        if above.strip() and len(above) - len(above.lstrip(" ")) < indent:
            return any(_secret_name(field[1]) for field in _FIELD.finditer(above))
    return False


def _holds_secret(line: str, field: re.Match[str]) -> bool:
    """Whether a literal follows a field that is there for a secret."""
    at = field.end()
    return _secret_name(field[1]) and at < len(line) and line[at] != "#" and not _REFERENCE.match(line, at)


def _secret_name(name: str) -> bool:
    """Whether a field holds a secret, or would if its name were not misspelt."""
    lower = name.lower()
    if lower in _PLAIN:
        return False
    return lower in _OTHERS or "secret" in lower or bool(difflib.get_close_matches(lower, _SECRETS, n=1, cutoff=0.7))

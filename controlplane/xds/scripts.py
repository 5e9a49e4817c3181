"""The Lua scripts that Envoy runs. They are constants, read once; see envoy/lua/."""

from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parents[2] / "envoy" / "lua"


@cache
def script(name: str) -> str:
    """The text of envoy/lua/NAME.lua."""
    return (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")


def quoted(text: str) -> str:
    """A Lua string literal of any text."""
    escaped = "".join(c if c.isprintable() and c not in '"\\' and c.isascii() else _escape(c) for c in text)
    return f'"{escaped}"'


def _escape(char: str) -> str:
    return "".join(f"\\{byte:03d}" for byte in char.encode())

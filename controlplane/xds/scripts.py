"""The Lua scripts that Envoy runs. They are constants, read once; see envoy/lua/."""

import re
from functools import cache
from pathlib import Path

_COMMON = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"})
_UNSAFE = re.compile(r"[^ -~]")
_FOLDER = Path(__file__).parents[2] / "envoy" / "lua"


@cache
def script(name: str) -> str:
    """The text of envoy/lua/NAME.lua."""
    return (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")


def quoted(text: str) -> str:
    """A Lua string literal of any text."""
    return f'"{_UNSAFE.sub(_escape, text.translate(_COMMON))}"'


def _escape(found: re.Match[str]) -> str:
    return "".join(f"\\{byte:03d}" for byte in found[0].encode())

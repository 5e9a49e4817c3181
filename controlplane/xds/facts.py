"""Models' metadata -> a small filter before the listing, pushed alone: it changes when a provider's listing does."""

from collections.abc import Iterable

from envoy.config.core.v3 import extension_pb2 as extension
from envoy.extensions.filters.http.lua.v3 import lua_pb2 as lua

from controlplane.metadata.rows import Row
from controlplane.xds import names
from controlplane.xds.protos import pack
from controlplane.xds.scripts import quoted, script

TYPE = "lua.v3.Lua"


def lower(rows: Iterable[Row]) -> extension.TypedExtensionConfig:
    """The filter that hands the listing what it adds to a model. Pieces, and lists of them, are in it once."""
    pieces: dict[str, int] = {}
    lists: dict[tuple[str, ...], int] = {}
    lines = []
    for model, parts in rows:
        numbers = [lists.setdefault(each, len(lists) + 1) for each in parts]
        lines.append(f"{model}\t{numbers[0]}\t{numbers[1]}\n")
    joined = [" ".join([str(pieces.setdefault(piece, len(pieces) + 1)) for piece in each]) for each in lists]
    tables = {"PIECES": pieces, "LISTS": joined}
    data = "".join(f"local {name} = {quoted(_lines(table))}\n" for name, table in tables.items())
    made = lua.Lua()
    made.default_source_code.inline_string = f"{data}local ROWS = {quoted(''.join(lines))}\n{script('facts')}"
    return extension.TypedExtensionConfig(name=names.FACTS, typed_config=pack(made))


def _lines(texts: Iterable[str]) -> str:
    return "".join(f"{text}\n" for text in texts)

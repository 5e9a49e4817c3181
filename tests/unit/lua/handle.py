"""A stand-in for the handle that Envoy gives its Lua scripts, for running them by themselves in LuaJIT.

Bytes are Latin-1 strings on both sides.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lupa.luajit21 as lua  # type: ignore[import-untyped]

SCRIPTS = Path(__file__).parents[3] / "envoy" / "lua"

_HANDLE = """
local function headers_of(store)
  return {
    get = function(_, name) return store[name] end,
    replace = function(_, name, value) store[name] = value end,
    add = function(_, name, value) store[name] = value end,
    remove = function(_, name) store[name] = nil end,
  }
end

dynamic = {}

function request(body, headers, metadata)
  local answer
  local buffer = {
    length = function() return #body end,
    getBytes = function(_, from, count) return body:sub(from + 1, from + count) end,
    setBytes = function(_, bytes) body = bytes return #bytes end,
  }
  envoy_on_request({
    headers = function() return headers_of(headers) end,
    body = function() return body ~= "" and buffer or nil end,
    metadata = function() return {get = function(_, key) return metadata[key] end} end,
    clearRouteCache = function() end,
    streamInfo = function()
      return {dynamicMetadata = function()
        return {
          get = function(_, name) return dynamic[name] end,
          set = function(_, name, key, value) dynamic[name] = {[key] = value} end,
        }
      end}
    end,
    respond = function(_, head, text) answer = {head[":status"], text} end,
  })
  return body, headers, answer
end
"""


@dataclass(frozen=True, slots=True)
class Request:
    """What became of a request."""

    body: bytes
    headers: dict[str, str]
    answer: tuple[str, str] | None


class Script:
    """One script, loaded once. `before` is what Headgate sets in front of it."""

    def __init__(self, name: str, before: str = "") -> None:
        self._lua = lua.LuaRuntime(encoding="latin-1")
        self._lua.execute(before + (SCRIPTS / f"{name}.lua").read_text() + _HANDLE)

    def request(self, body: bytes, headers: Mapping[str, str], metadata: Mapping[str, str] | None = None) -> Request:
        """`metadata` is the route's."""
        text, after, answer = self._lua.globals().request(
            body.decode("latin-1"), self._table(headers), self._table(metadata or {})
        )
        return Request(text.encode("latin-1"), dict(after), answer and tuple(answer.values()))

    def dynamic(self, name: str, key: str) -> Any:
        """What requests set as dynamic metadata."""
        found = self._lua.globals().dynamic[name]
        return found and found[key]

    def _table(self, items: Mapping[str, Any]) -> Any:
        return self._lua.table_from(dict(items))

"""A stand-in for the handle that Envoy gives its Lua scripts, for running them by themselves in LuaJIT.

Bytes are Latin-1 strings on both sides. Like Envoy's, a chunk may be used only until the next one is waited for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lupa.luajit21 as lua  # type: ignore[import-untyped]

SCRIPTS = Path(__file__).parents[3] / "envoy" / "lua"

# How Envoy learns that an answer is at its end: from its last bytes, from an empty chunk, or from trailers. A client
# that leaves ends the script where it waits.
Ending = Literal["last", "empty", "trailers", "left"]

_HANDLE = """
local function headers_of(store)
  return {
    get = function(_, name) return store[name] end,
    replace = function(_, name, value) store[name] = value end,
    add = function(_, name, value) store[name] = value end,
    remove = function(_, name) store[name] = nil end,
  }
end

local function stream_info(left)
  local metadata = {
    get = function(_, filter) return left[filter] end,
    set = function(_, filter, key, value)
      assert(type(value) == "string")
      left[filter] = left[filter] or {}
      left[filter][key] = value
    end,
  }
  return {dynamicMetadata = function() return metadata end}
end

function request(body, headers, metadata, left)
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
    streamInfo = function() return stream_info(left) end,
    clearRouteCache = function() end,
    respond = function(_, head, text) answer = {head[":status"], text} end,
  })
  return body, headers, left, answer
end

local function chunk_of(bytes, state)
  local chunk = {alive = true}
  local function use(index, count)
    if not chunk.alive then error("object used outside of proper scope") end
    if index and (index < 0 or count < 0 or index + count > #bytes) then error("index/length must be >= 0 and ...") end
  end
  chunk.length = function() use() return #bytes end
  chunk.getBytes = function(_, from, count) use(from, count) return bytes:sub(from + 1, from + count) end
  chunk.setBytes = function(_, new)
    use()
    assert(state.length == nil, "the answer says another content-length")
    bytes = new
    return #new
  end
  chunk.bytes = function() return bytes end
  return chunk
end

function answer(chunks, ending, headers, left)
  local sent, at, last = {}, 0, nil
  local function finish()
    if last then
      last.alive = false
      sent[#sent + 1] = last.bytes()
      last = nil
    end
  end
  local state = {}
  local function next_chunk()
    state.length = headers["content-length"]
    local said = ending == "last" or ending == "empty"
    if at == #chunks and said then return nil end -- the script goes on while its last chunk is here
    finish()
    if at == #chunks then
      if ending == "left" then coroutine.yield() end
      return nil
    end
    at = at + 1
    last = chunk_of(chunks[at], state)
    return last
  end
  local script = coroutine.create(function()
    envoy_on_response({
      headers = function() return headers_of(headers) end,
      bodyChunks = function() return next_chunk end,
      streamInfo = function() return stream_info(left) end,
    })
    return true
  end)
  local good, message = coroutine.resume(script)
  if not good then error(message, 0) end
  finish()
  for i = at + 1, #chunks do sent[#sent + 1] = chunks[i] end -- what follows a script that ended
  return table.concat(sent), headers, left
end
"""


@dataclass(frozen=True, slots=True)
class Request:
    """What became of a request. `note` is what its script left for the answer's script and the access log."""

    body: bytes
    headers: dict[str, str]
    note: str | None
    answer: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an answer. `model` and `usage` are what its script left for the access log."""

    body: bytes
    headers: dict[str, str]
    model: str
    usage: tuple[str, ...]


class Script:
    """One script, loaded once. `before` is what Headgate sets in front of it."""

    def __init__(self, name: str, before: str = "") -> None:
        self._lua = lua.LuaRuntime(encoding="latin-1")
        self._lua.execute(before + (SCRIPTS / f"{name}.lua").read_text() + _HANDLE)

    def request(self, body: bytes, headers: Mapping[str, str], metadata: Mapping[str, str] | None = None) -> Request:
        """`metadata` is the route's."""
        text, after, left, answer = self._lua.globals().request(
            body.decode("latin-1"), self._table(headers), self._table(metadata or {}), self._table({})
        )
        note = left["headgate"] and left["headgate"]["request"]
        return Request(text.encode("latin-1"), dict(after), note, answer and tuple(answer.values()))

    def answer(
        self, chunks: Sequence[bytes], headers: Mapping[str, str], *, ending: Ending = "empty", note: str | None = None
    ) -> Answer:
        """`note` is what the request's script left; None where it left nothing."""
        arriving = [chunk.decode("latin-1") for chunk in chunks] + ([""] if ending == "empty" else [])
        left = self._table({} if note is None else {"headgate": self._table({"request": note})})
        sent, after, left = self._lua.globals().answer(
            self._lua.table_from(arriving), ending, self._table(headers), left
        )
        model, *usage = ((left["headgate"] and left["headgate"]["answer"]) or "").split("\n")
        return Answer(sent.encode("latin-1"), dict(after), model, tuple(text for text in usage if text))

    def _table(self, items: Mapping[str, Any]) -> Any:
        return self._lua.table_from(dict(items))

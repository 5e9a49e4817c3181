-- Reads the model that a request asks for into the model header, so that routes and permissions can match on it,
-- and gives the body the name that the model's provider expects where the route names one.
-- Every byte that is not part of the name stays as it was. Only the route of POST requests to endpoints enables it.
-- RENAMES, set in front of this script, says whether any route names another model, or a budget may put one in place.
local find, byte, sub, lower, match = string.find, string.byte, string.sub, string.lower, string.match

local function closing_quote(s, from)
  local q = from
  repeat
    q = find(s, '"', q + 1, true)
    if not q then return nil end
    local slashes, b = 0, q - 1
    while byte(s, b) == 92 do slashes, b = slashes + 1, b - 1 end
  until slashes % 2 == 0
  return q
end

local ESCAPES = {b = "\b", f = "\f", n = "\n", r = "\r", t = "\t"}
local function unescape(s)
  if not find(s, "\\", 1, true) then return s end
  return (s:gsub("\\(.)(%x?%x?%x?%x?)", function(c, hex)
    if c ~= "u" or #hex < 4 then return (ESCAPES[c] or c) .. hex end
    local code = tonumber(hex, 16)
    return code < 128 and string.char(code) or "?" -- no model or endpoint has such a character
  end))
end

-- The end of the JSON text's next token that opens or closes something, strings taken whole: position after it,
-- change of depth; for a string also the places of its quotes. Nil at the end of the text.
local function step(s, i)
  local p = find(s, '["{}%[%]]', i)
  if not p then return nil end
  local c = byte(s, p)
  if c ~= 34 then return p + 1, (c == 123 or c == 91) and 1 or -1 end
  local q = closing_quote(s, p)
  if q then return q + 1, 0, p, q end
end

-- How much deeper than at `from` the text is at `to`.
local function depth_between(s, from, to)
  local i, depth, change = from, 0, nil
  while true do
    i, change = step(s, i)
    if not i or i > to + 1 then return depth end
    depth = depth + change
  end
end

-- The place of the one top-level "model" string. Parsers disagree on which of two "model" (or "Model") keys
-- counts, so a body with two has none: otherwise a client could show one name here and another to the provider.
local function careful_span(s)
  local i, depth, from, to, seen, change, p, q = 1, 0, nil, nil, false, nil, nil, nil
  while true do
    i, change, p, q = step(s, i)
    if not i then return from, to end
    depth = depth + change
    -- At most 30 bytes: five letters, each written as \uXXXX.
    if p and depth == 1 and q - p >= 6 and q - p <= 31 and lower(unescape(sub(s, p + 1, q - 1))) == "model"
      and find(s, "^%s*:", i) then
      if seen then return nil end
      seen = true
      local _, open = find(s, '^%s*:%s*"', i)
      if open then
        local close = closing_quote(s, open)
        if not close then return nil end
        from, to, i = open + 1, close - 1, close + 1
      end
    end
  end
end

-- The same without reading every token, where the body holds the word once, no escaped letters and a plain name: true
-- as the third value says that the name is what the bytes are.
local function json_span(s)
  local folded = lower(s)
  local p, _, from, close = find(folded, '"model"', 1, true), nil, nil, nil
  if p then _, close, from = find(s, '^%s*:%s*"()[^"\\%c]*"', p + 7) end
  if not close or byte(s, p - 1) == 92 or find(folded, '"model"', close, true) or find(s, "\\u00", 1, true) then
    return careful_span(s)
  end
  if find(s, "^%s*}%s*$", close + 1) then return from, close - 1, true end
  local size, top = #s, nil
  if p < size - close then top = depth_between(s, 1, p - 1) == 1 else top = depth_between(s, close + 1, size) == -1 end
  if top then return from, close - 1, true end
end

local function form_span(s, boundary)
  local at, from, to = 1, nil, nil
  while true do
    local _, mark = find(s, "--" .. boundary, at, true)
    if not mark then return from, to end
    local head_end, body_start = find(s, "\r\n\r\n", mark, true)
    local body_end = body_start and find(s, "\r\n--" .. boundary, body_start - 1, true)
    if not body_end then return from, to end
    local head = lower(sub(s, mark + 1, head_end)) .. "\n"
    if find(head, 'form%-data[^\r\n]*[; ]name="?model"?[;\r\n]') then
      if from then return nil end
      from, to = body_start + 1, body_end - 1
    end
    at = body_end + 2
  end
end

local function model_span(s, content_type)
  if content_type == "application/json" then return json_span(s) end
  if sub(content_type, 1, 10) == "multipart/" then
    local boundary = content_type:match('[Bb]oundary="([^"]+)"') or content_type:match("[Bb]oundary=([^;%s]+)")
    if boundary then return form_span(s, boundary) end
  elseif find(content_type, "json", 1, true) then
    return json_span(s)
  end
end

-- The place of the value of a top-level key, written in quotes; of the last one, as for JSON parsers. The depth is counted
-- from the nearest place where it is known (`known` is where the model's closing quote stands), then from key to key.
local function value_at(s, key, known)
  local p, e = find(s, key, 1, true)
  local at, depth, found = nil, 0, nil
  while p do
    local value = byte(s, p - 1) ~= 92 and match(s, "^%s*:%s*()", e + 1)
    if value then
      local left, right = p - 1, #s - e
      if at then
        depth = depth + depth_between(s, at, left)
      elseif p > known and p - known < right then
        depth = 1 + depth_between(s, known + 1, left)
      elseif left < right then
        depth = depth_between(s, 1, left)
      else
        depth = -depth_between(s, e + 1, #s)
      end
      at = e + 1
      if depth == 1 then found = value end
    end
    p, e = find(s, key, e + 1, true)
  end
  return found
end

local function streams(s, known)
  local value = value_at(s, '"stream"', known)
  return value and sub(s, value, value + 3) == "true"
end

-- What to write in place of which bytes so that the stream's usage is asked for: text, from, to. Nil where the client
-- asked itself, or wrote what the provider will refuse.
local function asking_for_usage(s, known)
  local options = value_at(s, '"stream_options"', known)
  if not options then return ',"stream_options":{"include_usage":true}', known + 1, known end
  if sub(s, options, options + 3) == "null" then return '{"include_usage":true}', options, options + 3 end
  if byte(s, options) ~= 123 then return nil end
  local i, depth, value, change, p, q = options + 1, 1, nil, nil, nil, nil
  while depth > 0 do
    i, change, p, q = step(s, i)
    if not i then return nil end
    depth = depth + change
    if p and depth == 1 and sub(s, p, q) == '"include_usage"' then value = match(s, "^%s*:%s*()", i) or value end
  end
  if not value then
    return '"include_usage":true' .. (find(s, "^%s*}", options + 1) and "" or ","), options + 1, options
  end
  local word = match(s, "^%a+", value)
  if word == "false" or word == "null" then return "true", value, value + #word - 1 end
end

-- What this request's access log entry and its answer's script must know: "!" if usage is to be hidden, else "-",
-- the client, the model, and what is served in its place if a budget is spent.
local function note(handle, headers, model, hide, instead)
  local client = headers:get("x-headgate-client") or ""
  local told = (hide and "!" or "-") .. client .. "\n" .. model
  if instead then told = told .. "\n" .. instead end
  handle:streamInfo():dynamicMetadata():set("headgate", "request", told)
end

-- Only these take `stream_options`. A query may follow.
local function is_completion(path)
  return sub(path, 1, 20) == "/v1/chat/completions" or sub(path, 1, 15) == "/v1/completions"
end

function envoy_on_request(handle)
  local body = handle:body()
  if not body then return end
  local s = body:getBytes(0, body:length())
  local headers = handle:headers()
  local content_type = headers:get("content-type") or ""
  local from, to, plain = model_span(s, content_type)
  if not from or to < from or to - from > 255 then return end
  local model = sub(s, from, to)
  if not plain then
    model = unescape(model)
    if find(model, "%c") then return end
  end
  local instead = RENAMES and headers:get("x-headgate-instead") -- a budget is spent: serve a cheaper model
  headers:replace("x-headgate-model", instead or model)
  handle:clearRouteCache()
  local upstream = RENAMES and (handle:metadata():get("model") or instead)
  local text, first, last
  if find(s, '"stream"', 1, true) and is_completion(headers:get(":path")) and sub(content_type, 1, 10) ~= "multipart/"
    and streams(s, to + 1) and handle:metadata():get("stream_usage") ~= "never" then
    text, first, last = asking_for_usage(s, to + 1)
  end
  note(handle, headers, model, text, instead)
  if not text then
    if not upstream then return end
    s = sub(s, 1, from - 1) .. upstream .. sub(s, to + 1)
  else
    upstream = upstream or sub(s, from, to)
    if first > to then
      s = sub(s, 1, from - 1) .. upstream .. sub(s, to + 1, first - 1) .. text .. sub(s, last + 1)
    else
      s = sub(s, 1, first - 1) .. text .. sub(s, last + 1, from - 1) .. upstream .. sub(s, to + 1)
    end
  end
  headers:replace("content-length", tostring(body:setBytes(s)))
end

-- Reads from an answer what it says about its model and its usage, and leaves the texts in dynamic metadata for the
-- access log: the model's name, then each usage object, one a line. Nothing is parsed here, and no answer is held
-- back; only where the gateway itself asked for a stream's usage, the event that holds it is taken out again.
local find, byte, sub, match, gsub = string.find, string.byte, string.sub, string.match, string.gsub
-- Bytes at either end of an answer in which its usage is looked for; also the longest usage, and the longest event
-- that may be one that holds nothing else.
local KEPT = 4096

-- The end of the next such name in quotes. A quote within a string has a backslash before it, so any other is a key
-- or a whole string, wherever it stands.
local function quoted(s, name, from)
  local p, e = find(s, name, from, true)
  while p and byte(s, p - 1) == 92 do p, e = find(s, name, e, true) end
  return e
end

-- The last and the first small object of that name, none within another. One that does not end is the last to be
-- looked at.
local function objects(s, name)
  local e, last, first = quoted(s, name, 1), nil, nil
  while e do
    local found = match(s, "^%s*:%s*(%b{})", e + 1)
    if found then
      if #found <= KEPT then last, first = found, first or found end
      e = e + #found -- not beyond its end
    elseif match(s, "^%s*:%s*{", e + 1) then
      break
    end
    e = quoted(s, name, e + 1)
  end
  return last, first
end

local function model_in(s)
  local e = quoted(s, '"model"', 1)
  return e and match(s, '^%s*:%s*"([^"\\%c]*)"', e + 1)
end

local function line(usage)
  return find(usage, "\n", 1, true) and gsub(usage, "[\r\n]%s*", "") or usage
end

local function leave(handle, model, usage, first)
  local text = (model or "") .. "\n"
  if first and first ~= usage then text = text .. line(first) .. "\n" end
  handle:streamInfo():dynamicMetadata():set("headgate", "answer", text .. line(usage))
end

local function read_json(handle)
  local head, tail = "", ""
  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    if size > 0 then
      if #head < KEPT then head = head .. chunk:getBytes(0, size < KEPT and size or KEPT) end
      if size < KEPT then
        tail = sub(tail, -KEPT) .. chunk:getBytes(0, size)
      else
        tail = chunk:getBytes(size - KEPT, KEPT)
      end
    end
  end
  -- Mistral states the usage first. Cohere's rerankings have a "meta" instead.
  local usage = objects(tail, '"usage"') or objects(head, '"usage"') or objects(tail, '"meta"')
  local model = model_in(head) or model_in(tail)
  if usage or model then leave(handle, model, usage or "") end
end

-- Where the event begins that the text ends within: past the end if there is none, 0 if it is longer than KEPT.
local function open_event(s)
  local size = #s
  if byte(s, size) == 10 then
    local before = byte(s, size - 1)
    if before == 10 or (before == 13 and byte(s, size - 2) == 10) then return size + 1 end
  end
  local past = match(sub(s, -KEPT), "^.*\n\r?\n()")
  if size <= KEPT then return past or 1 end
  return past and size - KEPT + past or 0
end

local function only_usage(event)
  return find(event, '"usage"%s*:%s*{') and find(event, '"choices"%s*:%s*%[%s*%]')
end

-- The text from `from` to `to` without the events that hold nothing but the usage; nil if there are none. An event of
-- which a part is before `from` stays, for that part has been sent.
local function without_usage(s, from, to)
  local plain = not find(s, "\r", 1, true)
  local blank = plain and "\n\n" or "\n\r?\n"
  local kept, start, copied = nil, 1, from
  local key = quoted(s, '"usage"', 1)
  while key and key <= to do
    local _, e = find(s, blank, start, plain)
    if not e or e > to then e = to end
    if key < e then
      if start >= from and only_usage(sub(s, start, e)) then
        kept = kept or {}
        kept[#kept + 1] = sub(s, copied, start - 1)
        copied = e + 1
      end
      key = quoted(s, '"usage"', e + 1)
    end
    start = e + 1
  end
  return kept and table.concat(kept) .. sub(s, copied, to)
end

-- An event may be split over chunks, so the last one waits in `rest` for its end: for being looked at always (no more
-- of it than KEPT), for being sent only where it may have to be taken out. `sent` counts what of `rest` has been sent.
local function read_events(handle, hide)
  local model, first, seen, rest, sent, last = nil, nil, false, "", 0, nil
  for chunk in handle:bodyChunks() do
    last = chunk
    local size = chunk:length()
    if size > 0 then
      local s = rest == "" and chunk:getBytes(0, size) or rest .. chunk:getBytes(0, size)
      model = model or model_in(s)
      local usage, earliest
      if find(s, '"usage"', 1, true) then usage, earliest = objects(s, '"usage"') end
      if usage then
        -- Anthropic says what went in at the start, and what came out at the end.
        if not seen and find(s, '"message_start"', 1, true) then first = earliest end
        seen = true
        leave(handle, model, usage, first)
      end
      local open = open_event(s)
      if hide then
        local to = open > 0 and open - 1 or #s
        local less = usage and without_usage(s, sent + 1, to)
        if less or sent < #rest or to < #s then chunk:setBytes(less or sub(s, sent + 1, to)) end
      end
      rest = open > #s and "" or sub(s, open > 0 and open or -KEPT)
      sent = (hide and open > 0) and 0 or #rest
    end
  end
  if sent < #rest and not only_usage(rest) then
    -- A chunk that is the last still lives here. Where trailers ended the stream it does not, and nothing can be sent.
    pcall(function() last:setBytes(last:getBytes(0, last:length()) .. rest) end)
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local content_type = headers:get("content-type") or ""
  if find(content_type, "json", 1, true) then return read_json(handle) end
  if not find(content_type, "event-stream", 1, true) then return end
  local left = handle:streamInfo():dynamicMetadata():get("headgate")
  local hide = left and left.request and byte(left.request, 1) == 33 and not headers:get("content-encoding")
  if hide then headers:remove("content-length") end
  read_events(handle, hide)
end

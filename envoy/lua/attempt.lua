-- Runs once per attempt in a provider's cluster. Gives the request the path and the model name that this provider
-- expects, leaving every other byte of the body as it was. CLUSTER and BASE_PATH are set in front of this script.
local find, byte, sub = string.find, string.byte, string.sub

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

-- The last top-level "model" string wins, as it does for JSON parsers.
local function json_span(s)
  local i, depth, from, to = 1, 0, nil, nil
  while true do
    local p = find(s, '["{}%[%]]', i)
    if not p then return from, to end
    local c = byte(s, p)
    if c == 34 then
      local q = closing_quote(s, p)
      if not q then return from, to end
      if depth == 1 and sub(s, p + 1, q - 1) == "model" then
        local _, open = find(s, '^%s*:%s*"', q + 1)
        if open then
          from, to = open + 1, closing_quote(s, open) - 1
          q = to + 1
        end
      end
      i = q + 1
    else
      depth = (c == 123 or c == 91) and depth + 1 or depth - 1
      i = p + 1
    end
  end
end

local function form_span(s, boundary)
  local at = 1
  while true do
    local from, to = find(s, "--" .. boundary, at, true)
    if not from then return nil end
    local head_end, body_start = find(s, "\r\n\r\n", to, true)
    local body_end = body_start and find(s, "\r\n--" .. boundary, body_start, true)
    if not body_end then return nil end
    local head = sub(s, to + 1, head_end):lower() .. "\r\n"
    if find(head, 'form%-data[^\r\n]*[; ]name="?model"?[;\r\n]') then return body_start + 1, body_end - 1 end
    at = body_end + 2
  end
end

local function span(s, headers)
  local type = headers:get("content-type") or ""
  if type:sub(1, 10):lower() ~= "multipart/" then return json_span(s) end
  local boundary = type:match('boundary="([^"]+)"') or type:match("boundary=([^;%s]+)")
  if boundary then return form_span(s, boundary) end
end

-- Request headers are shared by all attempts, so the client's path is kept where every attempt finds it.
local function set_path(headers)
  local path = headers:get("x-headgate-path")
  if not path then
    path = headers:get(":path")
    headers:add("x-headgate-path", path)
  end
  headers:replace(":path", BASE_PATH .. path:sub(4))
end

function envoy_on_request(handle)
  local headers = handle:headers()
  set_path(headers)
  local model = handle:metadata():get(CLUSTER)
  if not model then return end
  local body = handle:body()
  if not body then return end
  headers = handle:headers() -- waiting for the body ended the life of the object above
  local length = body:length()
  if model ~= "" then
    local s = body:getBytes(0, length)
    local from, to = span(s, headers)
    if from then length = body:setBytes(sub(s, 1, from - 1) .. model .. sub(s, to + 1)) end
  end
  -- Another attempt may have left the length of its own body.
  headers:replace("content-length", tostring(length))
end

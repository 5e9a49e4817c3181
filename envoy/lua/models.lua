-- Answers GET /v1/models and /v1/models/{id} with the models that the client's key may use; what is known of a single
-- one was found by facts.lua.
-- MODELS holds a line per model: id, tab, owner; an id ending in * is a prefix, which is not listed. ACCESS holds a line
-- per restricted identity: identity, then tab-separated names; a name ending in * is a prefix. An identity that has no
-- line may use every model. Clients of outside issuers bear a grant instead: the name of such a line, or names between
-- semicolons.
local models, owners, prefixes, access = {}, {}, {}, {}
for id, owner in MODELS:gmatch("([^\t\n]+)\t([^\n]*)\n") do
  if id:sub(-1) == "*" then
    prefixes[#prefixes + 1] = {id:sub(1, -2), owner}
  else
    models[#models + 1] = id
    owners[id] = owner
  end
end
table.sort(prefixes, function(a, b) return #a[1] > #b[1] end)
for identity, names in ACCESS:gmatch("([^\t\n]+)([^\n]*)\n") do access[identity] = names end

local function permission(names)
  if not names then return function() return true end end
  local exact, prefixes = {}, {}
  for name in names:gmatch("\t([^\t]+)") do
    if name:sub(-1) == "*" then prefixes[#prefixes + 1] = name:sub(1, -2) else exact[name] = true end
  end
  return function(id)
    if exact[id] then return true end
    for _, prefix in ipairs(prefixes) do
      if id:sub(1, #prefix) == prefix then return true end
    end
    return false
  end
end

-- Of several prefixes the longest is the one that requests go by.
local function owner_of(id)
  if owners[id] then return owners[id] end
  for _, each in ipairs(prefixes) do
    if id:sub(1, #each[1]) == each[1] then return each[2] end
  end
end

local function entry(id, owner, more)
  local members = more and "," .. more or ""
  return '{"id":"' .. id .. '","object":"model","created":0,"owned_by":"' .. owner .. '"' .. members .. "}"
end

local function unescape(text)
  return (text:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end))
end

-- The well-formed sequences of more than one byte: RFC 3629, section 4.
local UTF8 = {
  "[\194-\223][\128-\191]", "\224[\160-\191][\128-\191]", "[\225-\236\238\239][\128-\191][\128-\191]",
  "\237[\128-\159][\128-\191]", "\240[\144-\191][\128-\191][\128-\191]",
  "[\241-\243][\128-\191][\128-\191][\128-\191]", "\244[\128-\143][\128-\191][\128-\191]",
}

-- A client's text as part of a JSON string. What is no UTF-8 is told byte by byte.
local function quote(text)
  local rest = text
  for _, sequence in ipairs(UTF8) do rest = rest:gsub(sequence, "?") end
  local special = rest:find("[\128-\255]") and '[%c"\\\128-\255]' or '[%c"\\]'
  return (text:gsub(special, function(c) return string.format("\\u%04x", c:byte()) end))
end

local JSON = "application/json"

function envoy_on_request(handle)
  local headers = handle:headers()
  local grant = headers:get("x-headgate-grant")
  local names = grant and (access[grant] or grant:gsub(";", "\t")) or access[headers:get("x-headgate-client") or ""]
  local allowed = permission(names)
  local id = headers:get(":path"):match("^/v1/models/([^?]+)")
  if not id then
    local rows = {}
    for _, name in ipairs(models) do
      if allowed(name) then rows[#rows + 1] = entry(name, owners[name]) end
    end
    local body = '{"object":"list","data":[' .. table.concat(rows, ",") .. "]}"
    handle:respond({[":status"] = "200", ["content-type"] = JSON}, body)
    return
  end
  id = unescape(id)
  local owner = owner_of(id)
  if owner and allowed(id) then
    local told = handle:streamInfo():dynamicMetadata():get("headgate.facts")
    handle:respond({[":status"] = "200", ["content-type"] = JSON}, entry(quote(id), owner, told and told.members))
  else
    local body = '{"error":{"message":"The model \'' .. quote(id) .. '\' does not exist.",'
      .. '"type":"invalid_request_error","param":"model","code":"model_not_found"}}'
    handle:respond({[":status"] = "404", ["content-type"] = JSON}, body)
  end
end

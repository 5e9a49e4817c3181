-- Says who a client of an outside issuer is, out of what its verified token claims, or answers 401. ISSUERS is set in
-- front of this script: `iss` -> claims to read, teams in order {value, owner}, the owner of others, limits, budgets,
-- models, and a body for every refusal. An identity is OWNER .. NAME, then the limits and budgets that apply between semicolons.
local function claim(payload, path)
  if not path then return nil end
  if payload[path] ~= nil then return payload[path] end
  local found = payload
  for step in path:gmatch("[^.]+") do
    if type(found) ~= "table" then return nil end
    found = found[step]
  end
  return found
end

-- The texts that a claim says, one or a list of them; nil where it says anything else.
local function texts(found)
  if type(found) == "string" then return {found} end
  if type(found) ~= "table" then return nil end
  local list, count = {}, 0
  for index, each in pairs(found) do
    if type(index) ~= "number" or type(each) ~= "string" then return nil end
    count = count + 1
  end
  for index, each in ipairs(found) do list[index] = each end
  return #list == count and list or nil -- null between texts is a hole
end

local function owner(issuer, payload)
  local said = {}
  for _, value in ipairs(texts(claim(payload, issuer.team)) or {}) do said[value] = true end
  for _, team in ipairs(issuer.teams) do
    if said[team[1]] then return team[2] end
  end
  return issuer.others
end

local function limits(issuer, payload)
  local found = claim(payload, issuer.limits)
  if found == nil then return issuer.default_limits end
  local names, seen = {}, {}
  for _, name in ipairs(texts(found) or {""}) do
    if not issuer.known_limits[name] then return nil end
    if not seen[name] then names[#names + 1] = name end
    seen[name] = true
  end
  table.sort(names)
  return #names > 0 and ";" .. table.concat(names, ";") .. ";" or ""
end

-- Which models: "" for all, the name of the issuer's own list, or a list between semicolons.
local function grant(issuer, payload)
  local found = claim(payload, issuer.models)
  if found == nil then return issuer.default_models end
  local names = texts(found)
  if not names then return nil end
  for _, name in ipairs(names) do
    if not name:find("^[%w._:/@+=-]*%*?$") or name == "" or #name > 255 then return nil end
    if name:sub(-1) == "*" and name ~= "*" and not issuer.patterns[name] then return nil end
  end
  return ";" .. table.concat(names, ";") .. ";"
end

local function refuse(handle, body)
  -- Else the gateway's general words for 401 would take the place of these.
  handle:streamInfo():dynamicMetadata():set("headgate", "own_words", true)
  handle:respond({[":status"] = "401", ["content-type"] = "application/json"}, body)
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local issuer = ISSUERS[headers:get("x-headgate-issuer") or ""]
  local verified = handle:streamInfo():dynamicMetadata():get("envoy.filters.http.jwt_authn")
  local payload = verified and verified.payload
  headers:remove("x-headgate-client")
  headers:remove("x-headgate-grant")
  if not issuer or not payload then return end -- without a client header, the next filter refuses it
  local name = claim(payload, issuer.key)
  -- What means something in an identity, or in a list of header values, is in no name.
  if type(name) ~= "string" or not name:find("^[%w._@:|+=-]+$") or #name > 128 then
    return refuse(handle, issuer.refusals.key)
  end
  local of = owner(issuer, payload)
  if not of then return refuse(handle, issuer.refusals.team) end
  local tags = limits(issuer, payload)
  if not tags then return refuse(handle, issuer.refusals.limits) end
  local models = grant(issuer, payload)
  if not models then return refuse(handle, issuer.refusals.models) end
  if tags == "" and issuer.budgets ~= "" then tags = ";" end
  headers:replace("x-headgate-client", of .. name .. tags .. issuer.budgets)
  if models ~= "" then headers:replace("x-headgate-grant", models) end
end

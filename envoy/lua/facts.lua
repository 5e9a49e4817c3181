-- Hands the listing what it adds to the object of one model, as dynamic metadata.
-- PIECES holds members of JSON objects, a line each, LISTS numbers of pieces. ROWS holds a line per model: id, tab, the
-- number of the list of its members, tab, that of the members of its `parameters`.
local pieces, lists = {}, {}
for piece in PIECES:gmatch("([^\n]+)\n") do pieces[#pieces + 1] = piece end
for list in LISTS:gmatch("([^\n]*)\n") do lists[#lists + 1] = list end
ROWS = "\n" .. ROWS

local function joined(list)
  local found = {}
  for number in lists[tonumber(list)]:gmatch("%d+") do found[#found + 1] = pieces[tonumber(number)] end
  return table.concat(found, ",")
end

function envoy_on_request(handle)
  local id = handle:headers():get(":path"):match("^/v1/models/([^?]+)")
  if not id then return end
  id = id:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
  local _, last = ROWS:find("\n" .. id .. "\t", 1, true)
  if not last then return end
  local members, parameters = ROWS:match("^(%d+)\t(%d+)", last + 1)
  if not members then return end
  local told = joined(members) .. ',"parameters":{' .. joined(parameters) .. "}"
  handle:streamInfo():dynamicMetadata():set("headgate.facts", "members", told)
end

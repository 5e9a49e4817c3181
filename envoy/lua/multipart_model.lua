-- Reads the "model" field of a multipart form into the model header (audio and image uploads).
local find, sub = string.find, string.sub

local function field(s, boundary)
  local at = 1
  while true do
    local from, to = find(s, "--" .. boundary, at, true)
    if not from then return nil end
    local head_end, body_start = find(s, "\r\n\r\n", to, true)
    if not head_end then return nil end
    local body_end = find(s, "\r\n--" .. boundary, body_start, true)
    if not body_end then return nil end
    local head = sub(s, to + 1, head_end):lower()
    if find(head, 'form%-data[^\r\n]*[; ]name="?model"?[;\r\n]') or find(head, 'form%-data[^\r\n]*[; ]name="?model"?$') then
      return sub(s, body_start + 1, body_end - 1)
    end
    at = body_end + 2
  end
end

function envoy_on_request(handle)
  local type = handle:headers():get("content-type") or ""
  local boundary = type:match('boundary="([^"]+)"') or type:match("boundary=([^;%s]+)")
  local body = boundary and handle:body()
  if not body then return end
  local model = field(body:getBytes(0, body:length()), boundary)
  if model and #model <= 256 and not find(model, "[%c]") then handle:headers():replace("x-headgate-model", model) end
end

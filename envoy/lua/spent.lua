-- Answers requests whose budget or token limit is spent, or has them served by another model. DENIALS is set in front
-- of this script: identity -> {until_s, rate, body} or {downgrade}, and only those it names get here. OUTSIDE is the same
-- for clients of outside issuers, by the identity without limits: of all that begin so up to its colon, or of one.
local function found(client)
  if DENIALS[client] then return DENIALS[client] end
  local one, all = OUTSIDE[client:match("^[^;]*")], OUTSIDE[client:match("^[^:;]*:")]
  if one and not (one.downgrade and all) then return one end
  return all
end

-- Clients of Anthropic's API read errors in its shape.
local function shaped(path, body)
  if not path:find("^/v1/messages") then return body end
  return (body:gsub('^{"error":{(.*)"type":"[%w_]*"', '{"type":"error","error":{%1"type":"rate_limit_error"'))
end

function envoy_on_request(handle)
  local headers = handle:headers()
  local client = headers:get("x-headgate-client") or ""
  local denial = found(client)
  if not denial then return end
  if denial.downgrade then return headers:replace("x-headgate-instead", denial.downgrade) end
  local left = denial.until_s - tonumber(handle:timestampString()) / 1000
  if left <= 0 then return end -- whoever should have told the edge is late
  local answer = {[":status"] = "429", ["content-type"] = "application/json"}
  answer["retry-after"] = string.format("%d", math.max(1, math.ceil(left)))
  -- Trying again helps against a rate, soon; a budget is spent until its period ends.
  if not denial.rate then answer["x-should-retry"] = "false" end
  -- Else the gateway's general words for 429 would take the place of these.
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set("headgate", "own_words", true)
  -- For the access log, in the form of what is left for an answer (extproc/usage/entries.py): who it was, and the code.
  local code = denial.rate and "rate_limit_exceeded" or "insufficient_quota"
  metadata:set("headgate", "entry", client .. "\31\31\31" .. code)
  handle:respond(answer, shaped(headers:get(":path") or "", denial.body))
end

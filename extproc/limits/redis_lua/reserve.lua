-- KEYS: bucket and its leases, for each hold. ARGV: the time or "", the call's id, then for each hold: form, step_us,
-- amount, ask, need - amount, lease_us, ends. Returns 1 or 0 for taken or not, then for each hold: used (a string),
-- wait_us, reset_us, end, whether something is held.
local FIELDS = 7
local now, id = clock(ARGV[1]), ARGV[2]

-- The calendar window: the counters of it and of the one before are kept.
local function window(bucket, ends)
  local chosen
  for text in ends:gmatch("%d+") do
    chosen = text
    if tonumber(text) > now then break end
  end
  local current = call("HGET", bucket, "e")
  if current ~= chosen then
    local previous = call("HGET", bucket, "p")
    if previous and previous ~= chosen then call("HDEL", bucket, "u" .. previous) end
    if current then call("HSET", bucket, "p", current) end
    call("HSET", bucket, "e", chosen)
  end
  return chosen
end

local function read(i)
  local at = 3 + (i - 1) * FIELDS
  local hold = {
    bucket = KEYS[2 * i - 1], leases = KEYS[2 * i],
    form = ARGV[at], step_us = tonumber(ARGV[at + 1]), ask = ARGV[at + 3], beyond = ARGV[at + 4],
    lease_us = tonumber(ARGV[at + 5]), last = "0", field = "u",
  }
  hold.step = age(hold.bucket, hold.leases, hold.form, hold.step_us, hold.lease_us, now)
  if hold.form == "c" then
    hold.last = window(hold.bucket, ARGV[at + 6])
    hold.field = "u" .. hold.last
  end
  -- Only the sign of this sum is looked at, and a sign survives the conversion to a Lua number.
  hold.over = call("HINCRBY", hold.bucket, hold.field, hold.beyond)
  call("HINCRBY", hold.bucket, hold.field, minus(hold.beyond))
  return hold
end

local function take(hold)
  if hold.ask == "0" then return end
  call("HINCRBY", hold.bucket, hold.field, hold.ask)
  if hold.lease_us > 0 then
    call("ZADD", hold.leases, string.format("%.0f", now + hold.lease_us), id .. ":" .. hold.last .. ":" .. hold.ask)
  elseif hold.form == "r" then
    spend(hold.bucket, hold.step, hold.ask)
  end
end

-- When enough of a rolling window will be forgotten; nil when that is not enough.
local function wait(hold)
  local over = hold.over
  for step = hold.step - STEPS, hold.step do
    over = over - tonumber(call("HGET", hold.bucket, string.format("%.0f", step)) or 0)
    if over <= 0 then return (step + STEPS + 1) * hold.step_us - now end
  end
end

local function standing(hold)
  local used, held = call("HGET", hold.bucket, hold.field), call("ZCARD", hold.leases) > 0
  local waiting, reset = 0, 0
  if hold.over > 0 then
    waiting = 1000000
    if hold.form == "r" then waiting = wait(hold) or waiting end
    if hold.form == "c" and not held then waiting = tonumber(hold.last) - now end
  end
  if hold.form == "c" then
    reset = tonumber(hold.last) - now
  elseif hold.form == "r" and used ~= "0" then
    local last = held and hold.step or tonumber(call("HGET", hold.bucket, "l") or hold.step)
    reset = (last + STEPS + 1) * hold.step_us - now
  end
  return used, waiting, math.max(reset, 0), hold.last, held and 1 or 0
end

local holds, taken = {}, 1
for i = 1, #KEYS / 2 do
  holds[i] = read(i)
  if holds[i].over > 0 then taken = 0 end
end
local answer = {taken}
for _, hold in ipairs(holds) do
  if taken == 1 then take(hold) end
  local used, waiting, reset, last, held = standing(hold)
  for _, value in ipairs({used, waiting, reset, last, held}) do answer[#answer + 1] = value end
  keep(hold.bucket, hold.leases, hold.form, hold.step_us, hold.lease_us, tonumber(hold.last), now)
end
return answer

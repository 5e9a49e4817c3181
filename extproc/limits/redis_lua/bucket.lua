-- A bucket is a hash: "u" (or "u" and its calendar window's end) counts what is used, numbers are steps of a rolling
-- window and what was spent in them, "c" is the step in which it was last looked at, "l" the last one spent in.
-- Beside it, a sorted set holds what is held: "call:window's end:amount", by the time at which that ends.
-- Amounts are 64-bit and stay strings here: Lua's numbers are exact up to 2^53 only.
local STEPS = 64
local call, floor = redis.call, math.floor

local function minus(amount)
  if amount == "0" then return amount end
  return amount:sub(1, 1) == "-" and amount:sub(2) or "-" .. amount
end

local function clock(given)
  if given ~= "" then return tonumber(given) end
  local now = call("TIME")
  return now[1] * 1000000 + now[2]
end

local function add(bucket, field, amount)
  if amount ~= "0" then call("HINCRBY", bucket, field, amount) end
end

local function spend(bucket, step, amount)
  if amount == "0" then return end
  local field = string.format("%.0f", step)
  call("HINCRBY", bucket, field, amount)
  if step >= tonumber(call("HGET", bucket, "l") or -1) then call("HSET", bucket, "l", field) end
end

-- The clock went back: what lies in the future counts from now, and nothing is held longer than a lease from now.
local function rebase(bucket, leases, step, latest)
  for _, field in ipairs(call("HKEYS", bucket)) do
    if tonumber(field) and tonumber(field) > step then
      local amount = call("HGET", bucket, field)
      call("HDEL", bucket, field)
      call("HINCRBY", bucket, string.format("%.0f", step), amount)
    end
  end
  call("HSET", bucket, "l", string.format("%.0f", step))
  for _, member in ipairs(call("ZRANGEBYSCORE", leases, "(" .. string.format("%.0f", latest), "+inf")) do
    call("ZADD", leases, string.format("%.0f", latest), member)
  end
end

-- What a lease that ran out held counts from the time it ran out.
local function expire(bucket, leases, form, step_us, oldest, now)
  local gone = call("ZRANGEBYSCORE", leases, "-inf", string.format("%.0f", now), "WITHSCORES", "LIMIT", 0, 1000)
  for i = 1, #gone, 2 do
    local amount, step = gone[i]:match(":(%d+)$"), floor(tonumber(gone[i + 1]) / step_us)
    call("ZREM", leases, gone[i])
    if form == "r" and step >= oldest then
      spend(bucket, step, amount)
    elseif form ~= "c" then
      add(bucket, "u", minus(amount))
    end
  end
end

-- Brings a bucket up to now; returns the current step.
local function age(bucket, leases, form, step_us, lease_us, now)
  local step = floor(now / step_us)
  local seen = tonumber(call("HGET", bucket, "c") or step)
  if step < seen then rebase(bucket, leases, step, now + lease_us) end
  if form == "r" and step > seen then
    for old = seen - STEPS, math.min(step - STEPS - 1, seen) do
      local field = string.format("%.0f", old)
      local amount = call("HGET", bucket, field)
      if amount then
        call("HDEL", bucket, field)
        add(bucket, "u", minus(amount))
      end
    end
  end
  call("HSET", bucket, "c", string.format("%.0f", step))
  expire(bucket, leases, form, step_us, step - STEPS, now)
  return step
end

-- Nothing stays for ever: a bucket that nobody asks for goes when nothing in it can count any more.
local function keep(bucket, leases, form, step_us, lease_us, end_us, now)
  local us = lease_us + 1000000
  if form == "r" then us = us + step_us * (STEPS + 2) end
  if form == "c" then us = us + math.max(end_us - now, 0) + 86400000000 end
  local ms = math.ceil(us / 1000)
  for _, key in ipairs({bucket, leases}) do
    -- Never sooner than before: what is held already may have a longer lease.
    if call("PTTL", key) < ms then call("PEXPIRE", key, string.format("%.0f", ms)) end
  end
end

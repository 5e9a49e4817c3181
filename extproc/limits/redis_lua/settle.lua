-- KEYS: bucket and its leases, for each charge. ARGV: the time or "", the call's id, then for each charge: form,
-- step_us, held, actual, actual - held, lease_us, end, "1" to charge it anyway.
local FIELDS = 8
local now, id = clock(ARGV[1]), ARGV[2]

for i = 1, #KEYS / 2 do
  local bucket, leases, at = KEYS[2 * i - 1], KEYS[2 * i], 3 + (i - 1) * FIELDS
  local form, step_us, held, actual, change = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local lease_us, last, anyway = tonumber(ARGV[at + 5]), ARGV[at + 6], ARGV[at + 7] == "1"
  -- First what ran out: a request that ends after its lease has been counted.
  local step = age(bucket, leases, form, step_us, lease_us, now)
  local found = call("ZREM", leases, id .. ":" .. last .. ":" .. held) == 1
  if found or anyway then
    local field = form == "c" and "u" .. last or "u"
    -- A calendar window that is over and has no counter any more is long over.
    local counts = form ~= "c" or tonumber(last) > now or call("HEXISTS", bucket, field) == 1
    if counts then add(bucket, field, found and change or actual) end
    if form == "r" then spend(bucket, step, actual) end
  end
  keep(bucket, leases, form, step_us, lease_us, tonumber(last), now)
end
return 1

-- Counts an attempt, unless a limit is reached.
-- KEYS: the mark of a familiar network, the buckets; if there is an account, first that of the account on this
-- network, then that of the account
-- ARGV: the window in milliseconds, the number of attempts to count, from how many attempts on an account on each
-- unfamiliar network has only one (0 without an account), then the limit of each bucket
-- Returns the time to wait in milliseconds (0 if the attempt was counted), the number of buckets used, and whether
-- sign-ins to the account are slow now.
local window, weight, slow_from = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local last = #KEYS
if redis.call('EXISTS', KEYS[1]) == 1 then last = 2 end
local has_account = slow_from > 0 and last > 2
local function count_of(at) return tonumber(redis.call('GET', KEYS[at]) or '0') end
local function limit_of(at)
  if at == 2 and has_account and count_of(3) >= slow_from then return 1 end
  return tonumber(ARGV[at + 2])
end
local wait = 0
for at = 2, last do
  if count_of(at) >= limit_of(at) then
    wait = math.max(wait, redis.call('PTTL', KEYS[at]), 1)
  end
end
if wait > 0 then return {wait, 0, 0} end
for at = 2, last do
  local count = redis.call('INCRBY', KEYS[at], weight)
  if count == weight then redis.call('PEXPIRE', KEYS[at], window) end
end
local is_slow = 0
if has_account and count_of(3) >= slow_from then is_slow = 1 end
return {0, last - 1, is_slow}

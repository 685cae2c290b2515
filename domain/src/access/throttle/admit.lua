-- Counts an attempt, unless a limit is reached.
-- KEYS: the mark of a familiar network, the bucket of familiar networks, the other buckets
-- ARGV: the window in milliseconds, the number of attempts to count, then the limit of each bucket
-- Returns the time to wait in milliseconds (0 if the attempt was counted), the index of the first bucket used,
-- and whether this attempt reached the limit of the first bucket.
local window, weight = tonumber(ARGV[1]), tonumber(ARGV[2])
local first, last = 3, #KEYS
if redis.call('EXISTS', KEYS[1]) == 1 then first, last = 2, 2 end
local wait = 0
for at = first, last do
  if tonumber(redis.call('GET', KEYS[at]) or '0') >= tonumber(ARGV[at + 1]) then
    wait = math.max(wait, redis.call('PTTL', KEYS[at]), 1)
  end
end
if wait > 0 then return {wait, first, 0} end
local filled = 0
for at = first, last do
  local count = redis.call('INCRBY', KEYS[at], weight)
  if count == weight then redis.call('PEXPIRE', KEYS[at], window) end
  if at == 3 and count >= tonumber(ARGV[at + 1]) then filled = 1 end
end
return {0, first, filled}

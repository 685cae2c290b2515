-- Takes back an attempt that did not fail, and marks its network as familiar.
-- KEYS: the mark of a familiar network, the buckets
-- ARGV: how long the network stays familiar in milliseconds (0 to not mark it), the number of attempts
local weight = tonumber(ARGV[2])
for at = 2, #KEYS do
  local count = tonumber(redis.call('GET', KEYS[at]) or '0')
  if count > 0 then redis.call('DECRBY', KEYS[at], math.min(count, weight)) end
end
if tonumber(ARGV[1]) > 0 then redis.call('SET', KEYS[1], '1', 'PX', ARGV[1]) end
return 1
